"""Health of real poolers: one user's trouble is no outage, and an outage has an end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from ha.readiness import ROLE_AGE
from tests.ha.balancer import wait_for
from tests.ha.test_front_live import get, ours_only  # noqa: F401  (a fixture)

DOWN_AFTER = 0.5


@pytest.fixture
def start(pooler: Any, free_port: Callable[[], int]) -> Callable[..., Any]:
    """Start a pooler with a health port: ``start(health_user="x", ini={...})``."""

    def begin(
        health_user: str = "u_trust", down_after: float = DOWN_AFTER, **arguments: Any
    ) -> Any:
        port = free_port()
        arguments["more"] = (
            f"[pybouncer]\nhealth_listen = 127.0.0.1:{port}\n"
            f"health_down_after = {down_after}\nhealth_user = {health_user}\n"
        )
        arguments["ini"] = {
            "pool_mode": "transaction",
            "server_login_retry": 1,
            **arguments.get("ini", {}),
        }
        running = pooler(**arguments)
        running.health = port
        return running

    return begin


def code(running: Any, path: str = "/ready?db=p0") -> int:
    return get(running.health, path)[0]


def status(running: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(get(running.health, "/status")[1])
    return found["databases"]["p0"]


def codes_for_a_while(running: Any, meanwhile: Callable[[], Any]) -> set[int]:
    """What /ready says while *meanwhile* is done again and again."""
    seen, ends = set(), time.monotonic() + 4 * DOWN_AFTER
    while time.monotonic() < ends:
        meanwhile()
        seen.add(code(running))
    return seen


def fails(running: Any, **user: str) -> str:
    """How a login and a query end."""
    with pytest.raises(psycopg.Error) as refused, running.connect(**user) as client:
        client.execute("select 1")
    return str(refused.value)


def test_stale_password_of_one_user_is_no_outage(start: Any) -> None:
    """One client that retried took the database away from all, for ever."""
    running = start(users={"u_trust": "", "admin": "adminpass", "u_md5": "stale"})
    assert wait_for(lambda: code(running) == 200)
    user = {"user": "u_md5", "password": "stale"}
    assert codes_for_a_while(running, lambda: fails(running, **user)) == {200}
    assert code(running, "/primary?db=p0") == 200


def test_unknown_user_is_no_outage_even_when_nobody_else_can_ask(start: Any) -> None:
    """auth_file knows him, PostgreSQL does not, and there is no user for health."""
    running = start("", users={"nobody_there": "", "admin": "adminpass"})
    user = {"user": "nobody_there"}
    assert codes_for_a_while(running, lambda: fails(running, **user)) == {200}
    assert codes_for_a_while(running, lambda: None) == {200}


def test_connection_limit_of_a_role_is_no_outage(start: Any, postgres: Any) -> None:
    """912 queries without an error, and /ready said 503."""
    postgres.query("create role u_few login connection limit 2")
    stop = threading.Event()
    errors: list[Exception] = []

    def work() -> None:
        try:
            with running.connect(user="u_few") as client:
                while not stop.is_set():
                    client.execute("select pg_sleep(0.01)")
        except Exception as error:
            errors.append(error)

    try:
        running = start(
            may_end=True, users={"u_trust": "", "admin": "adminpass", "u_few": ""}
        )
        with running.connect(user="u_few") as client:
            client.execute("select 1")
        assert wait_for(lambda: code(running) == 200)
        workers = [threading.Thread(target=work) for _ in range(6)]
        for one in workers:
            one.start()
        assert wait_for(lambda: running.log_matches("too many connections for role"))
        seen = codes_for_a_while(running, lambda: None)
        assert wait_for(lambda: code(running, "/primary?db=p0") == 200)
        stop.set()
        for one in workers:
            one.join()
        assert not errors
        assert seen == {200}
        assert codes_for_a_while(running, lambda: None) == {200}
    finally:
        stop.set()
        running.stop()
        assert wait_for(
            lambda: (
                not postgres.query(
                    "select 1 from pg_stat_activity where usename = 'u_few'"
                )
            )
        )
        postgres.query("drop role u_few")


@pytest.mark.parametrize("heals", ["another user", "his password"])
def test_health_user_that_cannot_log_in_is_told_and_mended_by_reload(
    start: Any, postgres: Any, heals: str
) -> None:
    """With a SCRAM secret all was down from the start, silently, until a restart."""
    secret = postgres.query(
        "select rolpassword from pg_authid where rolname = 'u_scram2'"
    )[0][0]
    running = start(
        "u_scram2", users={"admin": "adminpass", "u_trust": "", "u_scram2": secret}
    )
    assert wait_for(lambda: status(running)["health_login"])
    assert status(running)["health_login"] == {
        "user": "u_scram2",
        "error": "server login failed: wrong password type",
    }
    assert codes_for_a_while(running, lambda: None) == {200}
    line = 'health checks cannot log in to database "p0" as user "u_scram2"'
    assert len(running.log_matches(line)) == 1
    if heals == "another user":
        running.more = running.more.replace("u_scram2", "u_trust")
    else:
        running.users["u_scram2"] = "scrampass2"
    running.reload()
    assert wait_for(lambda: code(running, "/primary?db=p0") == 200)
    assert status(running)["health_login"] is None
    assert running.log_matches('health checks can log in to database "p0" again')


def test_primary_whose_servers_are_all_at_work_stays_primary(start: Any) -> None:
    """No server is free for a probe for longer than a role is known without one."""
    running = start(
        databases={"p0": "{pg} dbname=p0 user=u_trust"}, ini={"default_pool_size": 1}
    )
    assert wait_for(lambda: code(running, "/primary?db=p0") == 200)
    stop = threading.Event()

    def work() -> None:
        with running.connect() as client:
            while not stop.is_set():
                client.execute("select pg_sleep(0.02)")

    workers = [threading.Thread(target=work) for _ in range(4)]
    for one in workers:
        one.start()
    try:
        seen, ends = set(), time.monotonic() + 2 * ROLE_AGE
        while time.monotonic() < ends:
            seen.add(code(running, "/primary?db=p0"))
            time.sleep(0.1)  # as a checker would
    finally:
        stop.set()
        for one in workers:
            one.join()
    assert seen == {200}


@contextlib.contextmanager
def own_server(lab: Any, name: str) -> Iterator[Any]:
    server = lab.another_postgresql(name)
    try:
        yield server
    finally:
        server.stop()


def test_outage_ends_with_the_first_probe_that_gets_through(
    start: Any, lab: Any
) -> None:
    """The application's last failure counted for ever: HAProxy kept all away who could
    have lifted it."""
    with own_server(lab, "pg-outage") as server:
        running = start(server_port=server.port)
        who = {"user": "u_md5", "password": "md5pass"}
        with running.connect(**who) as idle, running.connect(**who) as client:
            client.execute("select 1")
            assert wait_for(lambda: code(running) == 200)
            server.stop()
            client.pgconn.send_query(b"select 1")
            assert wait_for(lambda: code(running) == 503)
            assert status(running)["error"] or status(running)["failing_for"]
            client.close()
            server.start_again()
            # Nobody comes while it says 503.
            assert wait_for(lambda: code(running) == 200)
            assert idle.execute("select 1").fetchone() == (1,)


@contextlib.contextmanager
def frozen(server: Any) -> Iterator[None]:
    """Nothing of the server moves, as if its host had been cut off."""
    pids = server.backends()  # of process groups of their own
    server.freeze()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        server.thaw()


@pytest.mark.parametrize("busy", [False, True])
def test_frozen_server_is_no_primary_after_three_probes(
    start: Any, lab: Any, busy: bool
) -> None:
    """/primary said 200 for 20 s; where all servers were at work, without an end."""
    with own_server(lab, f"pg-frozen-{busy}") as server:
        ini = {"default_pool_size": 1}
        running = start(server_port=server.port, down_after=8, ini=ini)
        with running.connect(user="u_md5", password="md5pass") as client:
            client.execute("begin")
            assert wait_for(lambda: code(running, "/primary?db=p0") == 200)
            if not busy:
                client.execute("commit")
            with frozen(server):
                assert wait_for(lambda: code(running, "/primary?db=p0") == 404)
                assert wait_for(lambda: code(running, "/primary?db=p0") == 503, 20)
            assert wait_for(lambda: code(running, "/primary?db=p0") == 200, 20)


FRONT = """\
global
    stats socket {{dir}}/admin.sock level admin
defaults
    mode tcp
    timeout connect 1s
    timeout client 1h
    timeout server 1h
    timeout check 500ms
listen pool
    bind 127.0.0.1:{front}
    option httpchk
    http-check send meth GET uri /ready?db=p0 ver HTTP/1.1 hdr Host pooler
    http-check disable-on-404
    http-check expect status 200
    default-server inter 100ms fall 2 rise 1 on-marked-down shutdown-sessions
    server p1 127.0.0.1:{port} check port {health}
"""


def test_haproxy_cuts_nobody_for_a_stale_password(
    start: Any, balancer: Any, free_port: Callable[[], int]
) -> None:
    """1 172 errors in 14 s, and both poolers stayed DOWN with nobody connected."""
    running = start(users={"u_trust": "", "admin": "adminpass", "u_md5": "stale"})
    assert wait_for(lambda: code(running) == 200)
    front = free_port()
    text = FRONT.format(front=front, port=running.port, health=running.health)
    lb = balancer(text)
    lb.wait_status("pool", "p1", "UP")
    with psycopg.connect(
        host="127.0.0.1", port=front, user="u_trust", dbname="p0", autocommit=True
    ) as good:
        user = {"user": "u_md5", "password": "stale"}
        codes_for_a_while(running, lambda: fails(running, **user))
        assert good.execute("select 1").fetchone() == (1,)
        row = lb.row("pool", "p1")
        assert (row.status.text, row.times_down) == ("UP", 0)
