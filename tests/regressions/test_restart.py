"""Restart and shutdown: scenarios 122 to 127."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.live.test_takeover import SETTINGS, Successor
from tests.regressions.steps import backend, clients, show, told
from tests.replay.pooler import wait_for
from tests.support.ground import Ground
from tests.support.wire import FakeClient, query, rows

TRANSACTION = {"pool_mode": "transaction", "query_wait_notify": 0}


class Busy:
    """One client for each thing that a shutdown may meet."""

    def __init__(self, one: Any) -> None:
        self.one = one
        self.copying, self.pipelining, self.waiting, self.streaming, self.idle = (
            FakeClient(one.port, seconds=10) for _ in range(5)
        )
        for client in (self.copying, self.pipelining, self.idle):
            client.login("p0", "u_trust")
        self.waiting.login("p1", "u_trust")
        self.streaming.login("p0", "u_repl", replication="database")
        self.streaming.ask("IDENTIFY_SYSTEM")
        self.copying.ask("create temp table lines (a text)")
        self.copying.ask("begin")
        self.copying.send_bytes(query("copy pg_temp.lines from stdin"))
        assert self.copying.next(5)["type"] == "CopyInResponse"
        self.holder = FakeClient(one.port)
        self.holder.login("p1", "u_trust")
        self.holder.ask("begin")
        self.waiting.send_bytes(query("select 'waited'"))
        one.wait_for_pool(lambda row: row["cl_waiting"] == 1, database="p1")
        # Asked for its answers in three parts; the last takes a while.
        for seconds in (0, 0, 1):
            self.pipelining.send(
                {"type": "Parse", "sql": f"select pg_sleep({seconds})"},
                {"type": "Bind"},
                {"type": "Execute"},
                {"type": "Sync"},
            )
        one.wait_for_pool(lambda row: row["sv_active"] == 2)

    def all(self) -> list[FakeClient]:
        return [
            self.copying, self.pipelining, self.waiting, self.streaming, self.idle,
            self.holder,
        ]  # fmt: skip

    def close(self) -> None:
        for client in self.all():
            client.close()


@pytest.fixture
def busy(pooler: Any) -> Iterator[Busy]:
    one = pooler(
        TRANSACTION,
        may_end=True,
        databases={"p0": "{pg} dbname=p0", "p1": "{pg} dbname=p1 pool_size=1"},
        users={"u_trust": "", "u_repl": "", "admin": "adminpass"},
    )
    made = Busy(one)
    yield made
    made.close()


@pytest.mark.regression(122)
@pytest.mark.parametrize("how", ["SHUTDOWN", "SIGQUIT"])
def test_shutdown_at_once_ends_everybody_and_exits_with_zero(
    busy: Busy, how: str
) -> None:
    """Nothing is told, as 1.25.2 was recorded; nobody hangs."""
    one = busy.one
    if how == "SHUTDOWN":
        console = FakeClient(one.port)
        console.login("pgbouncer", "admin", "adminpass")
        console.send_bytes(query("SHUTDOWN"))
    else:
        one.interrupt(how)
    assert one.wait_for_exit(5) == 0
    for client in busy.all():
        assert client.until_ready(9)[-1]["type"] == "<connection closed>"
    if how == "SHUTDOWN":
        console.close()


@pytest.mark.regression(122)
def test_shutdown_that_waits_for_servers_lets_those_finish_who_have_one(
    busy: Busy,
) -> None:
    one = busy.one
    one.interrupt("SIGINT")
    assert told(busy.waiting.until_ready()) == "server shutting down"
    # Who has no server gets none any more.
    assert told(busy.idle.ask("select 1")) == "server shutting down"
    assert told(busy.pipelining.until_ready(3)) is None
    assert told(busy.pipelining.ask("select 1")) == "server shutting down"
    busy.copying.send({"type": "CopyData", "data": "a\n"}, {"type": "CopyDone"})
    assert told(busy.copying.until_ready()) is None
    assert rows(busy.copying.ask("select a from pg_temp.lines")) == [["a"]]
    assert told(busy.copying.ask("commit")) is None
    assert rows(busy.streaming.ask("IDENTIFY_SYSTEM"))
    assert one.is_running()
    busy.streaming.close(terminate=True)
    assert told(busy.holder.ask("commit")) is None
    assert one.wait_for_exit(5) == 0


@pytest.mark.regression(122)
def test_shutdown_that_waits_for_clients_serves_them_to_the_end(busy: Busy) -> None:
    one = busy.one
    one.interrupt("SIGTERM")
    one.wait_for_log("got SIGTERM")
    assert told(busy.holder.ask("commit")) is None
    assert rows(busy.waiting.until_ready()) == [["waited"]]
    assert rows(busy.idle.ask("select 'mine'")) == [["mine"]]
    assert rows(busy.streaming.ask("IDENTIFY_SYSTEM"))
    busy.copying.send({"type": "CopyFail", "message": "no"})
    busy.copying.until_ready()
    assert told(busy.copying.ask("rollback")) is None
    assert told(busy.pipelining.until_ready(3)) is None
    assert one.is_running()
    for client in busy.all():
        client.close(terminate=True)
    assert one.wait_for_exit(5) == 0


@pytest.mark.regression(127)
@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM"])
def test_terminate_inside_a_transaction_during_shutdown(
    pooler: Any, postgres: Any, how: str
) -> None:
    one = pooler(TRANSACTION, may_end=True)
    postgres.rows("drop table if exists never")
    postgres.rows("create table never (a int)")
    postgres.rows("grant all on never to public")
    with FakeClient(one.port) as client:
        client.login("p0", "u_trust")
        client.ask("begin")
        client.ask("insert into never values (1)")
        pid = backend(client)
        one.interrupt(how)
        one.wait_for_log(f"got {how}")
        client.close(terminate=True)
    assert one.wait_for_exit(5) == 0
    gone = f"select 1 from pg_stat_activity where pid = {pid}"
    assert wait_for(lambda: not postgres.rows(gone), 5)
    assert postgres.rows("select * from never") == []
    postgres.rows("drop table never")


# Online restart


@pytest.fixture
def chain(lab: Ground, pooler: Any) -> Iterator[Callable[[int], Any]]:
    """The first process, and the next ones: ``chain(n)`` takes over from n - 1."""
    settings = {**SETTINGS, "default_pool_size": 2}
    first = pooler(settings, may_end=True, run=False)
    first.log_file = first.directory / "old.log"
    first.run()
    made = [first]

    def follow(number: int) -> Any:
        if number >= len(made):
            made.append(Successor(first, lab.command, f"new{number}"))
            made[-1].take_over()
            assert made[-2].wait_for_exit(10) == 0
        return made[number]

    yield follow
    for one in made[1:]:
        one.stop()


@pytest.mark.regression(123)
@pytest.mark.regression(124)
def test_takeovers_in_a_row_keep_descriptors_keys_and_ids_apart(
    chain: Callable[[int], Any],
) -> None:
    first = chain(0)
    with clients(first, 3) as (busy, named, idle):
        named.send({"type": "Parse", "name": "s", "sql": "select 'named'"})
        named.send({"type": "Sync"})
        named.until_ready()
        busy.ask("begin")
        pid = backend(busy)
        most = 0
        for number in range(1, 11):
            one = chain(number)
            assert backend(busy) == pid
            named.send({"type": "Bind", "statement": "s"}, {"type": "Execute"})
            named.send({"type": "Sync"})
            assert rows(named.until_ready()) == [["named"]]
            with clients(one, 2) as fresh:
                for client in (*fresh, idle):
                    assert rows(client.ask("select 'mine'")) == [["mine"]]
                ids = [row["id"] for row in one.console("SHOW CLIENTS")]
                assert len(ids) == len(set(ids))
            one.wait_for_pool(lambda row: row["cl_active"] == 3)
            if number == 1:
                most = one.descriptors()
            assert wait_for(lambda o=one, m=most: o.descriptors() <= m, 5)
        # The key that the first process gave away still cancels.
        busy.send_bytes(query("select pg_sleep(20)"))
        assert wait_for(lambda: show(one, "SERVERS", state="active"), 5)
        with FakeClient(one.port) as canceling:
            canceling.send({"type": "CancelRequest", "key_hex": busy.key_hex})
            canceling.next(5)
        assert told(busy.until_ready()) == "canceling statement due to user request"


@pytest.mark.regression(125)
@pytest.mark.parametrize("broken", ["configuration", "missing file", "program"])
def test_new_process_that_is_broken_leaves_the_old_one_serving(
    lab: Ground, pooler: Any, broken: str
) -> None:
    first = pooler(SETTINGS, run=False)
    first.log_file = first.directory / "old.log"
    first.run()
    command = ["/bin/false"] if broken == "program" else lab.command
    second = Successor(first, command, "new")
    file = first.directory / "new.ini"
    if broken == "configuration":
        file.write_text(file.read_text() + "\n[pgbouncer]\npool_mode = never\n")
    elif broken == "missing file":
        file.unlink()
    with clients(first, 1) as (client,):
        client.ask("begin")
        second.start("-R", "new.ini")
        assert second.wait_for_exit(10) == 1
        assert rows(client.ask("select 'mine'")) == [["mine"]]
        with clients(first, 1) as (other,):
            assert rows(other.ask("select 'mine'")) == [["mine"]]
    assert (first.directory / "pid").read_text() == f"{first.pid}\n"


@pytest.mark.regression(126)
def test_empty_pidfile_is_not_taken_for_a_dead_process(pooler: Any) -> None:
    one = pooler(run=False, may_end=True)
    (one.directory / "pid").write_text("")
    one.identity.own(one.directory)
    one.start("pgbouncer.ini")
    assert one.wait_for_exit(10) == 1
    assert any("pidfile" in line for line in one.last_words() + one.lines())


@pytest.mark.regression(126)
def test_second_process_on_the_same_socket_leaves_the_first_alone(
    lab: Ground, pooler: Any
) -> None:
    first = pooler(TRANSACTION)
    second = Successor(first, lab.command, "second")
    text = (first.directory / second.file).read_text()
    text = text.replace(f"{first.directory}/pid", f"{first.directory}/pid2")
    (first.directory / second.file).write_text(text)
    with clients(first, 1) as (client,):
        second.start(second.file)
        assert second.wait_for_exit(10) == 1
        assert rows(client.ask("select 'mine'")) == [["mine"]]
        with first.connect(host=str(first.directory)) as other:
            assert other.execute("select 1").fetchone() == (1,)
