"""The talk of the console: what the recordings do not show."""

import array
import os
import socket
from typing import Any

import pytest

from admin import console as module
from admin.console import AdminConsole
from bouncer.config.settings import Settings
from bouncer.snapshot import FdRow
from tests.unit.admin.talking import (
    TERMINATE,
    Conversation,
    FakeApp,
    FakeClient,
    console,
    decode,
    packet,
    query,
    socket_row,
)


def kinds(messages: list[dict[str, Any]]) -> list[str]:
    return [message["msg"] for message in messages]


def rows(messages: list[dict[str, Any]]) -> list[list[Any]]:
    return [m["values"] for m in messages if m["msg"] == "DataRow"]


def tags(messages: list[dict[str, Any]]) -> list[str]:
    return [m["tag"] for m in messages if m["msg"] == "CommandComplete"]


def text_of(messages: list[dict[str, Any]]) -> str:
    (found,) = [dict(m["fields"])["M"] for m in messages if m["msg"] == "ErrorResponse"]
    return str(found)


# Rights


@pytest.mark.parametrize(
    ("user", "rights"),
    [
        ("admin", "admin"),
        ("both", "admin"),
        ("stats", "stats"),
        ("x", "stats"),
        ("Admin", None),
        ("adm", None),
        ("", None),
    ],
)
def test_users_are_listed_with_commas_or_blanks(user: str, rights: str | None) -> None:
    app = FakeApp()
    for key, value in (
        ("admin_users", "admin , both"),
        ("stats_users", "stats x,both"),
    ):
        app.settings = app.settings.with_value(key, value)
    assert AdminConsole(app).rights(user, FakeClient()) == rights


def test_auth_type_any_makes_everybody_a_stats_user() -> None:
    app = FakeApp()
    app.settings = app.settings.with_value("auth_type", "any")
    app.settings = app.settings.with_value("admin_users", "root")
    assert AdminConsole(app).rights("root", FakeClient()) == "admin"
    assert AdminConsole(app).rights("whoever", FakeClient()) == "stats"


def test_welcome_has_the_eight_parameters() -> None:
    data = AdminConsole(FakeApp()).welcome()
    assert data.count(b"S\0\0\0") == 8
    assert b"server_version\x001.26.1/bouncer\0" in data


# Deferred replies


def test_pause_is_answered_when_the_application_says_so() -> None:
    app = FakeApp()
    app.busy = True
    talk = Conversation(app)
    assert talk.ask("PAUSE") == []
    # Other commands are carried out meanwhile.
    assert tags(talk.ask("SHOW STATE")) == ["SHOW"]
    app.owed[0].done()
    assert kinds(talk.answers()) == ["CommandComplete", "ReadyForQuery"]
    app.owed[0].done()
    assert talk.answers() == []


@pytest.mark.regression(119)
def test_two_deferred_commands_have_two_replies_with_their_own_tags() -> None:
    app = FakeApp()
    app.busy = True
    talk = Conversation(app)
    talk.ask("WAIT_CLOSE")
    talk.ask("PAUSE")
    for owed in reversed(app.owed):
        owed.done()
    assert tags(talk.answers()) == ["PAUSE", "WAIT_CLOSE"]


def refusal(messages: list[dict[str, Any]]) -> tuple[str, str]:
    (found,) = [dict(m["fields"]) for m in messages if m["msg"] == "ErrorResponse"]
    return found["C"], found["M"]


def test_lifted_pause_is_an_error() -> None:
    """In PgBouncer the next completed pause of anybody answers it."""
    app = FakeApp()
    app.busy = True
    talk = Conversation(app)
    talk.ask("PAUSE")
    app.resume(None)
    lifted = "PAUSE was lifted before it was complete"
    assert refusal(talk.answers()) == ("57014", lifted)
    app.owed[0].done()
    assert talk.answers() == []


def test_reply_that_becomes_due_during_an_answer_comes_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SLICE", 0.0)
    app = FakeApp()
    app.busy = True
    talk = Conversation(app)
    talk.ask("PAUSE")
    app.clients = [socket_row(id=number) for number in range(100)]

    class Clients(list[Any]):
        def __iter__(self) -> Any:
            for number, row in enumerate(list.__iter__(self)):
                if number == 40:
                    app.owed[0].done()
                yield row

    app.clients = Clients(app.clients)
    got = talk.ask("SHOW CLIENTS")
    assert kinds(got) == [
        "RowDescription",
        *["DataRow"] * 100,
        "CommandComplete",
        "ReadyForQuery",
        "CommandComplete",
        "ReadyForQuery",
    ]
    assert tags(got) == ["SHOW", "PAUSE"]


def test_debt_of_a_console_that_left_is_gone() -> None:
    app = FakeApp()
    app.busy = True
    talk = Conversation(app)
    talk.ask("PAUSE")
    talk.close()
    assert app.owed[0].gone
    app.owed[0].done()
    assert talk.client.data == b""
    assert app.global_mode == "pause"


# Suspend and cancel


def test_last_console_that_leaves_while_suspended_resumes(logged: Any) -> None:
    app = FakeApp()
    first, second = Conversation(app), Conversation(app, "stats", FakeClient(2))
    first.ask("SUSPEND")
    logged.take()
    first.close()
    assert app.global_mode == "suspend"
    second.close()
    assert app.global_mode == "none"
    assert logged.take() == ["LOG admin disappeared when suspended, doing RESUME"]


def test_last_console_that_leaves_while_paused_changes_nothing() -> None:
    app = FakeApp()
    talk = Conversation(app)
    talk.ask("PAUSE")
    talk.close()
    assert app.global_mode == "pause"


def test_cancel_lifts_a_pause(logged: Any) -> None:
    app = FakeApp()
    app.busy = True
    talk = Conversation(app)
    talk.ask("PAUSE")
    logged.take()
    talk.console.cancel_requested(talk.client)
    assert app.global_mode == "none"
    text = "canceling statement due to user request"
    assert refusal(talk.answers()) == ("57014", text)
    assert logged.take() == [
        f"ERROR {text}",
        f"WARNING {talk.client.prefix} pooler error: {text}",
    ]


def test_cancel_of_a_console_that_does_not_wait_is_worth_a_warning(
    logged: Any,
) -> None:
    app = FakeApp()
    talk = Conversation(app)
    talk.ask("PAUSE bench")
    talk.ask("PAUSE")
    logged.take()
    talk.console.cancel_requested(talk.client)
    assert app.global_mode == "none"
    assert app.registry.databases["bench"].paused
    assert logged.take() == [
        f"WARNING {talk.client.prefix} admin cancel request for non-waiting client?"
    ]


def test_cancel_during_shutdown_resumes_nothing() -> None:
    app = FakeApp()
    talk = Conversation(app)
    talk.ask("SHUTDOWN WAIT_FOR_SERVERS")
    talk.console.cancel_requested(talk.client)
    assert app.global_mode == "pause"


# Ends


def test_kill_client_with_the_own_id_closes_only_this_console() -> None:
    """PgBouncer dies of it."""
    app = FakeApp()
    talk = Conversation(app)
    got = talk.ask("KILL_CLIENT 1")
    assert text_of(got) == "admin forced disconnect"
    assert app.acts == []


def test_shutdown_is_not_answered(logged: Any) -> None:
    app = FakeApp()
    talk = Conversation(app)
    assert talk.ask("SHUTDOWN") == []
    assert app.acts == ["immediate"]
    assert logged.take() == ["LOG SHUTDOWN command issued"]


def test_process_that_hands_over_and_ends_does_not_resume(logged: Any) -> None:
    """After an online restart the sockets are the new process's."""
    app = FakeApp()
    talk = Conversation(app)
    talk.ask("SUSPEND;")
    talk.ask("SHUTDOWN;")
    logged.take()
    talk.close()
    assert app.global_mode == "suspend"
    assert logged.take() == []


def test_shutdown_that_waits_is_answered() -> None:
    app = FakeApp()
    talk = Conversation(app)
    assert tags(talk.ask('shutdown "wait_for_clients"')) == ["SHUTDOWN"]
    assert app.acts == ["wait_for_clients"]


def test_first_message_starts_the_clock_of_a_console_once() -> None:
    app = FakeApp()
    talk = Conversation(app)
    talk.ask("SHOW STATE")
    talk.ask("SHOW STATE")
    assert app.spoken == [1]
    silent = Conversation(app, client=FakeClient(2))
    silent.send(TERMINATE)
    assert app.spoken == [1]
    assert silent.ended is not None
    assert not silent.ended.notify


def test_pqexec_may_be_forbidden(logged: Any) -> None:
    app = FakeApp()
    app.settings = with_fixed(app.settings, disable_pqexec=1)
    talk = Conversation(app)
    assert text_of(talk.ask("SHOW STATE")) == "PQexec disallowed"
    prefix = talk.client.prefix
    assert logged.take() == [f'ERROR {prefix} client used "Query" packet type']


def with_fixed(settings: Settings, **values: Any) -> Settings:
    """Change settings that only the file can change."""
    return Settings.of(settings.values() | values)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("SHOW POOL", "SHOW POOLS"),
        ("shwo pools;", "SHOW POOLS"),
        ("SHOW PYBOUNCER HLEP", "SHOW PYBOUNCER HELP"),
        ("RELAOD", "RELOAD"),
        ("KIL shop", "KILL"),
        ("foo", ""),
        ("SHOW foo", ""),
        ("\fSHOW VERSION", ""),
        ("PAUSE shop now", ""),
    ],
)
def test_mistyped_command_gets_a_hint(typed: str, meant: str) -> None:
    got = Conversation(FakeApp()).ask(typed)
    told = dict(got[0]["fields"])
    assert told["M"] == f"invalid command '{typed}', use SHOW HELP;"
    assert told.get("H", "") == (f"Did you mean {meant}?" if meant else "")


def test_quiet_log_leaves_the_error_line(logged: Any) -> None:
    app = FakeApp()
    app.settings = app.settings.with_value("log_pooler_errors", "0")
    Conversation(app).ask("foo")
    assert logged.take() == ["ERROR invalid command 'foo', use SHOW HELP;"]


def test_failed_reload_has_its_own_line(logged: Any) -> None:
    app = FakeApp()
    app.reload_error = "whatever"
    got = Conversation(app).ask("RELOAD")
    assert got[0]["fields"] == [
        ["S", "ERROR"],
        ["C", "F0000"],
        ["M", "RELOAD failed, see logs for additional details"],
    ]
    assert logged.take() == [
        "LOG RELOAD command issued",
        "ERROR RELOAD Failed, see logs for more details",
        "WARNING C-0x1: pgbouncer/admin@127.0.0.1:50001 pooler error: "
        "RELOAD failed, see logs for additional details",
    ]


def test_reload_may_take_its_time() -> None:
    app = FakeApp()
    steps: list[str] = []

    async def read_files() -> None:
        steps.append("read")

    app.reload = read_files  # type: ignore[method-assign,assignment]
    talk = Conversation(app)
    assert tags(talk.ask("RELOAD")) == ["RELOAD"]
    assert steps == ["read"]
    assert talk.breaths == 1


def test_session_lets_go_of_everything_when_it_ends() -> None:
    """A console that comes and goes every second must not leave cycles behind."""
    import gc
    import weakref

    talk = console()
    talk.ask("SHOW STATE")
    session = weakref.ref(talk.console.sessions[1])
    gc.disable()
    try:
        talk.close()
        talk.talk = None  # type: ignore[assignment]
        assert session() is None
    finally:
        gc.enable()


# Many rows


def test_many_rows_are_made_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE", 0.0)
    app = FakeApp()
    app.clients = [socket_row(id=number) for number in range(1000)]
    talk = Conversation(app)
    got = talk.ask("SHOW CLIENTS")
    assert [row[20] for row in rows(got)] == [str(number) for number in range(1000)]
    assert talk.breaths == 1000 // module.ROWS_BETWEEN_LOOKS


def test_slow_reader_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows for a client that does not read must not pile up."""
    monkeypatch.setattr(module, "SLICE", 0.0)
    monkeypatch.setattr(module, "DRAIN_PAUSE", 0.0)

    class Slow(FakeClient):
        looks = 0

        @property
        def unsent(self) -> int:
            self.looks += 1
            return module.HIGH_WATER + 1 if self.looks < 5 else 0

        @unsent.setter
        def unsent(self, value: int) -> None:
            pass

    app = FakeApp()
    app.clients = [socket_row(id=number) for number in range(64)]
    client = Slow()
    assert len(rows(Conversation(app, client=client).ask("SHOW CLIENTS"))) == 64
    assert client.looks > 5


# HAProxy


def test_show_haproxy_needs_its_setting() -> None:
    got = console().ask("SHOW HAPROXY")
    assert text_of(got) == "haproxy_sockets is not set in [pybouncer]"


def test_show_haproxy_asks_who_knows() -> None:
    class Watch:
        columns = (("proxy", "text"), ("sessions", "int4"), ("bytes", "int8"))

        async def rows(self) -> list[tuple[Any, ...]]:
            return [("pg", 3, 1 << 40), ("pg", None, None)]

    got = console(haproxy=Watch()).ask("show haproxy")
    assert [field["type_oid"] for field in got[0]["fields"]] == [25, 23, 20]
    assert rows(got) == [["pg", "3", "1099511627776"], ["pg", None, None]]


# Online restart


def fd_row(fd: int) -> FdRow:
    return FdRow(
        fd, "pooler", None, None, "127.0.0.1", 6432, 0, 0, *[None] * 5, None, b"\1"
    )


def receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    data, ancillary, _, _ = sock.recvmsg(65536, 4096)
    fds = array.array("i")
    for _, _, content in ancillary:
        fds.frombytes(content)
    return data, list(fds)


def test_own_user_gets_a_descriptor_with_every_row() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    reading, writing = os.pipe()

    class OnSocket(FakeClient):
        def flush(self) -> None:
            ours.sendall(self.data)
            self.data = b""

    app = FakeApp()
    app.descriptors = [fd_row(reading), fd_row(writing)]
    client = OnSocket()
    client.fd, client.is_unix = ours.fileno(), True
    with ours, theirs:
        talk = Conversation(app, client=client, own_user=True)
        got = talk.ask("SHOW FDS;")
        assert kinds(got) == ["CommandComplete", "ReadyForQuery"]
        first, fds = receive(theirs)
        assert kinds(decode(first)) == ["RowDescription", "DataRow"]
        second, more = receive(theirs)
        assert kinds(decode(second)) == ["DataRow"]
        assert len(fds) == len(more) == 1
        assert app.commands.handed_over
        os.write(more[0], b"x")
        assert os.read(fds[0], 1) == b"x"
        for fd in (*fds, *more, reading, writing):
            os.close(fd)


@pytest.mark.parametrize(
    "changes", [{"is_unix": False}, {"tls_info": "TLSv1.3/X"}, {"own_user": False}]
)
def test_other_consoles_get_rows_only(changes: dict[str, Any]) -> None:
    app = FakeApp()
    app.descriptors = [fd_row(3)]
    client = FakeClient()
    client.is_unix = changes.get("is_unix", True)
    client.tls_info = changes.get("tls_info", "")
    own = changes.get("own_user", True)
    got = Conversation(app, client=client, own_user=own).ask("SHOW FDS")
    assert rows(got) == [
        ["3", "pooler", None, None, "127.0.0.1", "6432", "0", "0"]
        + [None] * 6
        + ["\\x01"]
    ]


# Sheer nonsense


@pytest.mark.parametrize("failed", [False, True])
@pytest.mark.parametrize("kind", ["d", "c", "f"])
def test_messages_of_a_copy_are_dropped_where_there_is_none(
    kind: str, failed: bool
) -> None:
    """They ended the session, and drivers that give a COPY up send them late."""
    talk = console()
    if failed:
        talk.send(packet("P", b"\0SHOW NOTHING\0\0\0"))
    got = talk.send(packet(kind, b"abc\0"), packet("S", b""), query("SHOW VERSION"))
    assert kinds(got)[-2:] == ["CommandComplete", "ReadyForQuery"]
    assert "EOF" not in kinds(got)


def test_unsupported_messages_drop_the_connection_with_both_errors() -> None:
    got = console().send(packet("F", b"abc"), query("SHOW STATE"))
    assert kinds(got) == ["ErrorResponse", "ReadyForQuery", "ErrorResponse", "EOF"]
    assert dict(got[2]["fields"])["M"] == "bad packet"
