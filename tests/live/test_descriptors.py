"""Descriptors run out: health ports, the console and the log still have some.

With all of them in use nobody could look at what had happened, and balancers took the
pooler for dead.
"""

import json
import socket
import urllib.request
from typing import Any

import psycopg
import pytest

from tests.replay.pooler import wait_for
from tests.support.ground import Ground, Postgres

LIMIT = 60
DEAD_END = {"server_port": 1, "databases": {"p0": "host=127.0.0.1 port=1"}}
NO_MORE = "no more connections allowed (file descriptors)"


@pytest.fixture
def short(pooler: Any, lab: Ground) -> Any:
    """A pooler with 60 descriptors, and its health port."""
    health = lab.free_port()

    def start(settings: Any = None, **more: Any) -> Any:
        one = pooler(
            {"max_client_conn": 1000, "client_login_timeout": 0, **(settings or {})},
            run=False,
            more=f"[pybouncer]\nhealth_listen = 127.0.0.1:{health}\n",
            **more,
        )
        one.command = ["prlimit", f"--nofile={LIMIT}:{LIMIT}", *one.command]
        one.health = health
        return one.run()

    return start


def fetched(one: Any, path: str) -> tuple[int, str]:
    """What a health port answers."""
    with urllib.request.urlopen(
        f"http://127.0.0.1:{one.health}{path}", timeout=10
    ) as answer:
        return answer.status, answer.read().decode()


def fill(one: Any) -> list[socket.socket]:
    """Clients who say nothing, until nobody is accepted any more."""
    clients = []
    for _ in range(2 * LIMIT):
        clients.append(socket.create_connection(("127.0.0.1", one.port), timeout=10))
    one.wait_for_log(r"ERROR accept\(\) failed: Too many open files")
    return clients


def test_live_answers_when_descriptors_have_run_out(short: Any) -> None:
    one = short({"tcp_defer_accept": 0}, **DEAD_END)
    clients = fill(one)
    for path in ("/live", "/status", "/metrics"):
        assert fetched(one, path)[0] == 200
    assert json.loads(fetched(one, "/status")[1])["live"] is True
    assert one.descriptors() < LIMIT
    # The log can be rotated, too.
    (one.directory / "log").rename(one.directory / "log.1")
    one.interrupt("SIGHUP")
    assert wait_for(lambda: (one.directory / "log.1").stat().st_size > 0, 10)
    for client in clients:
        client.close()
    assert wait_for(lambda: can_log_in(one), 20)
    assert "Cannot open logfile" not in "".join(one.last_words())


def can_log_in(one: Any) -> bool:
    """Whether the console lets somebody in."""
    try:
        return bool(one.console("SHOW VERSION"))
    except psycopg.OperationalError:
        return False


def test_console_lets_in_whom_databases_do_not(short: Any, postgres: Postgres) -> None:
    """Clients who are in keep their servers; the next reads why it is not."""
    one = short({"pool_mode": "transaction"})
    clients: list[Any] = []
    with pytest.raises(psycopg.OperationalError, match="file descriptors") as error:
        for _ in range(LIMIT):
            clients.append(one.connect())
            clients[0].execute("select 1")
    assert NO_MORE in str(error.value)
    with pytest.raises(psycopg.OperationalError, match="file descriptors"):
        one.connect()  # nor by the short way of who was here before
    assert one.console("SHOW VERSION")
    unix = psycopg.connect(
        host=str(one.directory), port=one.port, dbname="pgbouncer", user="admin",
        password="adminpass", autocommit=True,
    )  # fmt: skip
    unix.close()
    assert clients[0].execute("select 1").fetchone() == (1,)
    assert fetched(one, "/live")[0] == 200
    for client in clients:
        client.close()
    one.connect().close()


def test_servers_leave_the_last_descriptors(short: Any, postgres: Postgres) -> None:
    """A pool that wants more servers than there are descriptors waits."""
    one = short(
        {"pool_mode": "session", "default_pool_size": 100, "query_wait_timeout": 1}
    )
    clients = []
    try:
        for _ in range(LIMIT):
            clients.append(one.connect())
            clients[-1].execute("select 1")
    except psycopg.OperationalError:
        pass
    assert one.descriptors() <= LIMIT - LIMIT // 6 + 3
    assert one.console("SHOW VERSION") and fetched(one, "/live")[0] == 200
    for client in clients:
        client.close()
