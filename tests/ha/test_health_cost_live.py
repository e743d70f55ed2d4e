"""What a stranger can make health do at PostgreSQL, through a real pooler."""

import socket
from typing import Any

from bouncer.probe import MOST_KEPT
from tests.ha.balancer import wait_for
from tests.ha.test_front_live import front, get, startup  # noqa: F401  (a fixture)


def test_made_up_databases_get_no_probe(front: Any) -> None:  # noqa: F811
    """50 clients that named them and a known user made 50 logins, and never proved
    who they were."""
    one = front(
        {"auth_type": "md5"}, databases={"p0": "{pg} dbname=p0", "*": "{pg} dbname=p0"}
    )
    strangers = [
        socket.create_connection(("127.0.0.1", one.port), 5) for _ in range(50)
    ]
    try:
        for n, stranger in enumerate(strangers):
            stranger.sendall(startup("u_trust", f"made{n}"))
        for n in range(50):
            one.wait_for_log(f"registered new auto-database: made{n}$")
        # A probe of ours that begins after them has its answer.
        assert wait_for(lambda: get(one.health, "/primary?db=p0")[0] == 200)
        assert wait_for(lambda: get(one.health, "/ready")[0] == 200)
        assert get(one.health, "/ready?db=made1")[0] == 503
        assert "made1" not in get(one.health, "/status")[1]
        databases = {row["database"] for row in one.console("SHOW SERVERS")}
        assert databases <= {"p0"}
        assert not one.log_matches("made.*new connection to server")
    finally:
        for stranger in strangers:
            stranger.close()


def test_databases_asked_about_by_name_keep_few_servers(front: Any) -> None:  # noqa: F811
    """Whoever asked about each of 300 databases held 300 connections: all there are."""
    names = [f"app{number}" for number in range(MOST_KEPT + 8)]
    one = front({}, databases=dict.fromkeys(names, "{pg} dbname=p0 user=u_trust"))

    def servers() -> int:
        rows = one.console("SHOW SERVERS")
        return sum(row["database"] in names for row in rows)

    for name in names:
        assert wait_for(lambda: get(one.health, f"/ready?db={name}")[0] == 200)  # noqa: B023
    assert wait_for(lambda: servers() <= MOST_KEPT)
    # Nor does a client's server end with a probe.
    with one.connect(names[-1]) as client:
        client.execute("select 1")
        assert wait_for(lambda: get(one.health, f"/primary?db={names[-1]}")[0] == 200)
        rows = one.console("SHOW SERVERS")
        assert any(row["database"] == names[-1] for row in rows)


def test_probe_leaves_servers_that_clients_have_had(front: Any) -> None:  # noqa: F811
    """Only what a probe has had opened goes with it."""
    names = [f"app{number}" for number in range(MOST_KEPT + 1)]
    one = front({}, databases=dict.fromkeys(names, "{pg} dbname=p0 user=u_trust"))
    with one.connect("app0") as client:
        pid = client.execute("select pg_backend_pid()").fetchone()[0]
    for name in [*names[1:], "app0"]:
        assert wait_for(lambda: get(one.health, f"/primary?db={name}")[0] == 200)  # noqa: B023
    # It is there; who comes next may get another, had for it while a probe ran.
    assert str(pid) in {str(row["remote_pid"]) for row in one.console("SHOW SERVERS")}
