"""Section 5: what a session has set stays its own, and nothing of it is left behind.

tests/relay/test_parameters.py shows the SET batch message by message.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.regressions.attacks import packet
from tests.relay import frames as f
from tests.replay.backends import Recorder
from tests.replay.pooler import wait_for
from tests.support.ground import Postgres
from tests.support.wire import FakeClient, FakeServer, ServerTalk, error, rows

INI = {"pool_mode": "transaction", "default_pool_size": 1, "server_login_retry": "0.05"}


class Recorded:
    """A pooler with one server connection at a time, and what it sends there."""

    def __init__(self, start: Callable[..., Any], port: int, server_port: int) -> None:
        self.recorder = Recorder(port, server_port)
        self.start = start

    def queries(self) -> list[str]:
        """Simple queries so far, of all server connections."""
        return [
            message["sql"]
            for connection in list(self.recorder.connections)
            for message in list(connection.messages)
            if message["type"] == "Query"
        ]

    def pooler(self, **ini: Any) -> Any:
        settings = {**INI, "server_tls_sslmode": "disable", **ini}
        return self.start(settings, server_port=self.recorder.port)


@pytest.fixture
def recorded(
    pooler: Any, postgres: Postgres, free_port: Callable[[], int]
) -> Iterator[Recorded]:
    one = Recorded(pooler, free_port(), postgres.port)
    yield one
    one.recorder.close()


def client(one: Any, **params: str) -> FakeClient:
    made = FakeClient(one.port, seconds=20)
    got = made.login("p0", "u_trust", **params)
    assert got[-1]["type"] == "ReadyForQuery", error(got)
    return made


def value(made: FakeClient, sql: str) -> str:
    """The one value that *sql* gives."""
    got = made.ask(sql)
    assert not error(got), error(got)
    [[found]] = rows(got)
    return str(found)


# Tracked parameters


GIVEN = {
    "DateStyle": "German, DMY",
    "TimeZone": "Asia/Tokyo",
    "client_encoding": "LATIN1",
    "standard_conforming_strings": "off",
    "IntervalStyle": "sql_standard",
    "application_name": "mine",
}


@pytest.mark.regression(74)
@pytest.mark.parametrize("way", ["startup packet", "SET"])
def test_each_client_sees_its_own_values_on_the_same_server(
    pooler: Any, way: str
) -> None:
    one = pooler(INI)
    names = {name: name for name in GIVEN}
    with client(one) as plain:
        own = {name: value(plain, f"show {name}") for name in names}
        with client(one, **(GIVEN if way == "startup packet" else {})) as other:
            if way == "SET":
                for name, wanted in GIVEN.items():
                    other.ask(f"set {name} = '{wanted}'")
            pids = set()
            for _ in range(2):
                for name, wanted in GIVEN.items():
                    assert value(other, f"show {name}") == wanted
                    assert value(plain, f"show {name}") == own[name]
                    pids.add(value(other, "select pg_backend_pid()"))
                    pids.add(value(plain, "select pg_backend_pid()"))
            assert len(pids) == 1
            # The empty string is a value, too (1.5.1 took it for none).
            other.ask("set application_name = ''")
            plain.ask("set application_name = 'plain'")
            assert value(other, "show application_name") == ""
            assert value(plain, "show application_name") == "plain"


@pytest.mark.regression(75)
def test_nothing_is_set_where_nothing_differs(recorded: Recorded) -> None:
    """PostgreSQL 14 reports "ISO, MDY" for ISO: it was set before every transaction."""
    one = recorded.pooler()
    with client(one, DateStyle="ISO") as first, client(one) as second:
        for _ in range(10):
            for each in (first, second):
                each.ask("select 1")
        sets = [sql for sql in recorded.queries() if sql.startswith("SET")]
        assert len(sets) <= 1, sets
        with client(one, DateStyle="iso, mdy", TimeZone="Asia/Tokyo") as third:
            for _ in range(5):
                third.ask("begin")
                third.ask("commit")
        more = [sql for sql in recorded.queries() if sql.startswith("SET")]
        assert len(more) == len(sets) + 1, more


# What is not tracked


SETTINGS = [
    ("default_transaction_read_only", "on", 14),
    ("search_path", "pg_catalog", 18),
]


@pytest.mark.regression(76)
@pytest.mark.parametrize(("name", "wanted", "since"), SETTINGS)
@pytest.mark.parametrize("major", [15, 18])
def test_setting_of_one_client_does_not_reach_the_next(
    pooler: Any,
    request: pytest.FixtureRequest,
    name: str,
    wanted: str,
    since: int,
    major: int,
) -> None:
    """Where PostgreSQL reports it. 1.25.2 leaves it to whoever comes next."""
    server = request.getfixturevalue("postgres" if major == 15 else "postgres18")
    one = pooler(INI, server_port=server.port)
    with client(one) as first, client(one) as second:
        own = value(first, f"show {name}")
        first.ask(f"set {name} = {wanted}")
        if server.major >= since:
            assert value(second, f"show {name}") == own
    # Where it does not, the documented clean-up helps.
    one = pooler({**INI, "server_reset_query_always": 1}, server_port=server.port)
    with client(one) as first, client(one) as second:
        first.ask(f"set {name} = {wanted}")
        assert value(second, f"show {name}") == own


@pytest.mark.regression(77)
@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_tracked_parameter_that_no_server_reports_does_not_stick(
    recorded: Recorded, postgres: Postgres, mode: str
) -> None:
    """The first client's value went to the server, for good, with its login."""
    one = recorded.pooler(
        pool_mode=mode, track_extra_parameters="IntervalStyle, search_path, geqo"
    )
    with client(one, search_path="pg_catalog", geqo="off") as first:
        first.ask("select 1")
    with client(one) as second:
        assert value(second, "show geqo") == "on"
        if postgres.major < 18:
            assert value(second, "show search_path") == '"$user", public'
    assert len(recorded.recorder.connections) == 1


@pytest.mark.regression(78)
def test_tracked_values_follow_what_postgresql_thinks(pooler: Any) -> None:
    one = pooler(INI)
    with client(one, TimeZone="Asia/Tokyo") as first, client(one) as second:
        own = value(second, "show timezone")

        def others_turn() -> None:
            assert value(second, "show timezone") == own

        def mine(wanted: str) -> None:
            others_turn()
            assert value(first, "show timezone") == wanted
            others_turn()

        mine("Asia/Tokyo")
        first.ask("begin; set local timezone to 'Europe/Paris'; commit")
        mine("Asia/Tokyo")
        first.ask("begin; set timezone to 'Europe/Paris'; rollback")
        mine("Asia/Tokyo")
        first.ask("begin")
        first.ask("set timezone to 'Europe/Paris'")
        first.ask("select 1/0")
        first.ask("rollback")
        mine("Asia/Tokyo")
        first.ask("select set_config('timezone', 'Europe/Paris', false)")
        mine("Europe/Paris")
        first.ask("savepoint_that_fails")
        mine("Europe/Paris")
        first.ask("reset all")
        mine("Asia/Tokyo")
        first.ask("set timezone to 'Europe/Paris'")
        mine("Europe/Paris")
        first.ask("discard all")
        mine("Asia/Tokyo")


@pytest.mark.regression(79)
def test_invalid_tracked_value_is_an_error_for_its_client_only(pooler: Any) -> None:
    one = pooler(INI)
    with client(one) as other:
        other.ask("select 1")
        for _ in range(3):
            with FakeClient(one.port) as wrong:
                got = wrong.login("p0", "u_trust", TimeZone="Nowhere")
                got += wrong.ask("select 1")
                assert error(got)["M"] == "invalid server parameter"
                assert got[-1]["type"] == "<connection closed>"
            assert value(other, "select 'still'") == "still"
    one.wait_for_pool(lambda row: row["sv_idle"] == 1)
    assert not one.log_matches("server login failed")


# Sessions


class Slow:
    """A server whose answer to the reset query is the test's; one query each."""

    def __init__(self, port: int) -> None:
        self.seen: list[tuple[int, str]] = []
        self.reset: Callable[[ServerTalk], None] = lambda talk: talk.answer("reset")
        self.server = FakeServer(port, self.script)

    def script(self, talk: ServerTalk) -> None:
        if not talk.login():
            return
        while message := talk.read():
            if message["type"] != "Query":
                continue
            self.seen.append((talk.number, message["sql"]))
            if message["sql"] == "reset":
                self.reset(talk)
            elif message["sql"] == "begin":
                talk.send({"type": "CommandComplete", "tag": "BEGIN"})
                talk.ready("T")
            else:
                talk.answer(message["sql"])


def fails(talk: ServerTalk) -> None:
    talk.send_bytes(packet(b"E", b"SERROR\0CXX000\0Mno reset\0\0"))
    talk.ready()


def stays_in_a_transaction(talk: ServerTalk) -> None:
    talk.send({"type": "CommandComplete", "tag": "OK"})
    talk.ready("T")


def answered(text: str) -> bytes:
    """One row, in the same write as what comes behind it: else who has the server?"""
    return (
        f.row_description("x")
        + f.data_row(text.encode())
        + f.complete("SELECT 1")
        + f.ready()
    )


RESETS: dict[str, Callable[[ServerTalk], None]] = {
    "is refused": fails,
    "leaves a transaction": stays_in_a_transaction,
    "hangs": lambda talk: None,
    "ends the server": lambda talk: talk.close(),
    "answers garbage": lambda talk: talk.send_bytes(b"\xff" * 9),
    "answers twice": lambda talk: talk.send_bytes(
        answered("reset") + answered("foreign")
    ),
}


@pytest.fixture
def slow(free_port: Callable[[], int]) -> Iterator[Slow]:
    one = Slow(free_port())
    yield one
    one.server.close()


def session_pooler(pooler: Any, slow: Slow) -> Any:
    return pooler(
        {
            **INI,
            "pool_mode": "session",
            "server_reset_query": "reset",
            "server_idle_timeout": 1,  # what ends a reset that hangs
            "query_wait_timeout": 10,
        },
        server_port=slow.server.port,
        databases={"p0": "{pg}"},
    )


@pytest.mark.regression(80)
def test_server_is_handed_on_when_its_reset_has_finished(
    pooler: Any, slow: Slow
) -> None:
    one = session_pooler(pooler, slow)
    talks: list[ServerTalk] = []
    slow.reset = talks.append
    with client(one) as second:
        with client(one) as first:
            first.ask("mine")
            second.send({"type": "Query", "sql": "next"})
            one.wait_for_pool(lambda row: row["cl_waiting"] == 1)
            first.close(terminate=True)
        assert wait_for(lambda: talks, 5)
        assert slow.seen == [(1, "mine"), (1, "reset")]
        talks[0].answer("reset")
        assert rows(second.until_ready()) == [["next"]]
    assert slow.seen[2] == (1, "next")


@pytest.mark.regression(80)
@pytest.mark.parametrize("what", RESETS)
def test_server_whose_reset_fails_is_closed(pooler: Any, slow: Slow, what: str) -> None:
    one = session_pooler(pooler, slow)
    slow.reset = RESETS[what]
    with client(one) as first:
        first.ask("mine")
        first.close(terminate=True)
    with client(one) as second:
        assert rows(second.ask("next")) == [["next"]]
    assert [number for number, sql in slow.seen if sql == "next"] == [2]


@pytest.mark.regression(80)
@pytest.mark.parametrize("how", ["terminate", "close", "reset"])
@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_open_transaction_is_never_handed_on(
    pooler: Any, postgres: Postgres, mode: str, how: str
) -> None:
    one = pooler({**INI, "pool_mode": mode})
    with client(one) as first:
        first.ask("begin")
        first.ask("create table left_behind (n int)")
        if how == "reset":
            first.reset()
        else:
            first.close(terminate=how == "terminate")
    with client(one) as second:
        assert (
            value(second, "select count(*) from pg_class where relname='left_behind'")
            == "0"
        )
        assert second.ask("select 1")[-1]["status"] == "I"


@pytest.mark.regression(81)
def test_error_in_a_session_keeps_its_server(pooler: Any) -> None:
    one = pooler({**INI, "pool_mode": "session"})
    with client(one) as made:
        pid = value(made, "select pg_backend_pid()")
        for sql in ("select 1/0", "select nothing", "begin; select 1/0; commit"):
            assert error(made.ask(sql))
            made.ask("rollback")
            assert value(made, "select pg_backend_pid()") == pid
        made.send(
            {"type": "Parse", "sql": "select 1/0"},
            {"type": "Bind"},
            {"type": "Execute"},
            {"type": "Sync"},
        )
        assert error(made.until_ready())
        assert value(made, "select pg_backend_pid()") == pid


# The welcome


@pytest.mark.regression(82)
@pytest.mark.parametrize("command", ["RECONNECT p0", "RELOAD"])
def test_new_clients_are_told_of_the_new_server_version(
    pooler: Any, free_port: Callable[[], int], command: str
) -> None:
    version = ["15.1"]

    def script(talk: ServerTalk) -> None:
        if talk.read() is None:
            return
        talk.send(
            {"type": "AuthenticationOk"},
            {"type": "ParameterStatus", "name": "server_version", "value": version[0]},
            {"type": "BackendKeyData", "key_hex": "0102030405060708"},
            {"type": "ReadyForQuery", "status": "I"},
        )
        while message := talk.read():
            if message["type"] == "Query":
                talk.answer(message["sql"])

    def told(one: Any) -> str:
        with FakeClient(one.port) as new:
            got = new.login("p0", "u_trust")
            assert rows(new.ask("q")) == [["q"]]
        [found] = [m["value"] for m in got if m.get("name") == "server_version"]
        return str(found)

    port = free_port()
    server = FakeServer(port, script)
    try:
        ini = {**INI, "server_tls_sslmode": "disable"}
        one = pooler(ini, server_port=port, databases={"p0": "{pg}"})
        assert told(one) == "15.1"
        version[0] = "18.0"
        if command == "RELOAD":
            one.databases = {"p0": "{pg} dbname=p0_upgraded"}
            one.write_configuration()
        one.console(command)
        assert wait_for(lambda: told(one) == "18.0", 5)
    finally:
        server.close()
