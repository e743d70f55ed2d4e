"""High availability: scenarios 128 to 131; 130 stands in test_memory.py, too."""

import errno
import threading
import time
import urllib.error
import urllib.request
from typing import Any

import pytest

from bouncer.pool.connector import OUT_OF_MEANS
from tests.regressions.steps import clients, told
from tests.replay.pooler import wait_for
from tests.support.wire import FakeClient, FakeServer, ServerTalk, rows

TRANSACTION = {"pool_mode": "transaction", "query_wait_notify": 0}


class Host:
    """A server that knows its role, and refuses writes while it recovers."""

    def __init__(self, port: int) -> None:
        self.recovers, self.hangs = False, False
        self.written_by_standby = 0
        self.server = FakeServer(port, self.script)

    def script(self, talk: ServerTalk) -> None:
        if not talk.login():
            return
        while (message := talk.read()) and message["type"] != "Terminate":
            sql = message.get("sql", "")
            while self.hangs:
                time.sleep(0.01)
            if "pg_is_in_recovery" in sql:
                primary, standby = ["f", "off", None, "0"], ["t", "off", "0", "1"]
                role = standby if self.recovers else primary
                columns = [{"name": str(n), "oid": 25} for n in range(4)]
                talk.send(
                    {"type": "RowDescription", "columns": columns},
                    {"type": "DataRow", "values": role},
                    {"type": "CommandComplete", "tag": "SELECT 1"},
                )
                talk.ready()
            elif message["type"] == "Query":
                self.written_by_standby += sql == "write" and self.recovers
                talk.answer(sql)

    def fail_over(self, recovers: bool) -> None:
        """Every connection is lost, and another role comes back at once."""
        self.recovers = recovers
        for connection in list(self.server.connections):
            self.server.close_connection(connection.number)


def status(port: int, path: str) -> int:
    """The HTTP status of a health check."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as got:
            return int(got.status)
    except urllib.error.HTTPError as refused:
        return refused.code


@pytest.fixture
def fronted(pooler: Any, free_port: Any) -> Any:
    """A pooler with a health port before a host whose role can change."""
    port, health = free_port(), free_port()
    host = Host(port)
    one = pooler(
        {**TRANSACTION, "server_login_retry": "0.2"},
        server_port=port,
        databases={"p0": "{pg}"},
        more=f"[pybouncer]\nhealth_listen = 127.0.0.1:{health}\n"
        "health_user = u_trust\nhealth_down_after = 1\n",
    )
    yield one, host, health
    host.hangs = False
    host.server.close()


@pytest.mark.regression(128)
@pytest.mark.parametrize("how", ["connections fail", "role changes"])
def test_no_write_goes_to_a_host_that_was_demoted(fronted: Any, how: str) -> None:
    """A balancer asks before each write, as HAProxy does; under load."""
    one, host, health = fronted
    assert wait_for(lambda: status(health, "/primary?db=p0") == 200, 5)
    with clients(one, 1) as (client,):

        def write() -> bool:
            """Write if this is the primary; whether it was."""
            if status(health, "/primary?db=p0") != 200:
                return False
            return told(client.ask("write")) is None

        assert write()
        for demoted in (True, False):
            if how == "role changes":
                host.recovers = demoted
            else:
                with FakeClient(one.port) as passing:
                    passing.login("p0", "u_trust")
                    passing.ask("x")
                host.fail_over(demoted)
            wanted = 200 if not demoted else None
            assert wait_for(
                lambda w=wanted: (status(health, "/primary?db=p0") == 200) == bool(w),
                30,
            )
            before = host.written_by_standby
            for _ in range(10):
                if not demoted:
                    break
                assert not write()
            assert host.written_by_standby == before


@pytest.mark.regression(129)
@pytest.mark.parametrize("balance", ["round-robin", "disable"])
def test_first_host_that_returns_is_found_and_not_overrun(
    pooler: Any, free_port: Any, balance: str
) -> None:
    at_once, most, lock = 0, 0, threading.Lock()

    def slow_login(talk: ServerTalk) -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.02)  # a login that takes its time
        with lock:
            at_once -= 1
        if not talk.login():
            return
        while (message := talk.read()) and message["type"] != "Terminate":
            if message["type"] == "Query":
                talk.answer(message["sql"])

    port = free_port()
    server = FakeServer(port, slow_login, listening=False)
    one = pooler(
        {**TRANSACTION, "server_login_retry": "0.3", "default_pool_size": 3},
        databases={
            "p0": f"host=127.0.0.1,127.0.0.2,127.0.0.3 port={port} "
            f"load_balance_hosts={balance}"
        },
    )
    waiting = [FakeClient(one.port, seconds=20) for _ in range(20)]
    try:
        for client in waiting:
            client.start([["database", "p0"], ["user", "u_trust"]])
        one.wait_for_pool(lambda row: row["cl_waiting"] == 20)
        one.wait_for_log("closing because: connect failed", 2)
        server.listen()
        failed = len(one.log_matches("closing because: connect failed"))
        for client in waiting:
            assert told(client.until_ready()) is None
        # One interval for each host that is asked before, and one that was under way.
        later = len(one.log_matches("closing because: connect failed")) - failed
        assert later <= 3
        for client in waiting:
            assert rows(client.ask("mine")) == [["mine"]]
        assert most == 1
        assert len(server.connections) <= 3
    finally:
        for client in waiting:
            client.close()
        server.close()


@pytest.mark.regression(130)
def test_what_we_lack_ourselves_is_no_failure_of_a_server() -> None:
    """How it goes with descriptors stands in test_memory.py."""
    ours = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
    assert ours | {errno.EADDRNOTAVAIL} == OUT_OF_MEANS
    theirs = {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENOENT}
    assert not theirs & OUT_OF_MEANS


@pytest.mark.slow
@pytest.mark.regression(131)
def test_health_is_a_login_and_a_query_and_not_an_open_port(fronted: Any) -> None:
    one, host, health = fronted
    assert wait_for(lambda: status(health, "/ready?db=p0") == 200, 5)
    # It accepts, but answers nothing: nobody could use it.
    host.hangs = True
    with FakeClient(one.port) as client:
        client.login("p0", "u_trust")
        assert wait_for(lambda: status(health, "/ready?db=p0") != 200, 20)
    host.hangs = False
    assert wait_for(lambda: status(health, "/ready?db=p0") == 200, 20)


@pytest.mark.regression(131)
def test_paused_pooler_says_so_and_is_ready_when_resumed(fronted: Any) -> None:
    one, _, health = fronted
    assert wait_for(lambda: status(health, "/ready?db=p0") == 200, 5)
    for command, undo in (("PAUSE", "RESUME"), ("PAUSE p0", "RESUME p0")):
        one.console(command)
        assert wait_for(lambda: status(health, "/ready?db=p0") == 404, 5)
        one.console(undo)
        assert wait_for(lambda: status(health, "/ready?db=p0") == 200, 5)
    assert status(health, "/live") == 200
