"""What a stranger can make health do at PostgreSQL, through a real pooler."""

import socket
from typing import Any

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
