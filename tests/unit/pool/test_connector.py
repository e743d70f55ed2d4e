"""What a new connection says, and what becomes of it; without sockets."""

import errno
from types import SimpleNamespace
from typing import Any

import pytest

from bouncer.config.settings import Database
from bouncer.errors import Disconnect, LoginFailed
from bouncer.pool import connector as module
from bouncer.pool.connector import Connector
from bouncer.relay.tracked import from_dict
from tests.unit.pool.upkeep import One

VERSION_1, VERSION_2 = 1, 2


class Proxy:
    """What of the PROXY protocol is written."""

    UNKNOWN_V1 = b"v1 unknown"

    def build_v1(self, *ends: Any) -> bytes:
        return f"v1 {ends}".encode()

    def build_v2(self, *ends: Any) -> bytes:
        return f"v2 {ends}".encode()

    def build_v2_local(self) -> bytes:
        return b"v2 local"


class World:
    """The app, the keeper and one connection."""

    def __init__(self, **entry: Any) -> None:
        self.did: list[Any] = []
        self.config = Database("db", **{"dbname": "real", **entry})
        self.keeper: Any = SimpleNamespace(
            attempts={},
            is_surplus=lambda server: self.surplus,
            not_needed=lambda server, why: self.did.append(("not needed", why)),
            attempt_failed=self.failed,
            out_of_means=lambda server, number: self.did.append(("means", number)),
            login_failed=lambda server, problem: self.did.append(("login", problem)),
            connected=lambda server: self.did.append("connected"),
        )
        self.surplus = self.carries = False
        self.version = 0
        self.app = SimpleNamespace(
            settings=SimpleNamespace(log_connections=False, unix_socket_dir="/run"),
            cancels=SimpleNamespace(use_connection=lambda server: self.carries),
            limits=SimpleNamespace(own=self.own),
            global_mode="none",
            proxy=None,
        )
        self.pool = SimpleNamespace(
            database=SimpleNamespace(config=self.config), database_name="db",
            user_name="ann", blocked=False, mode=0,
            waiting=SimpleNamespace(first=None), welcome=None, welcomes=[],
        )  # fmt: skip
        self.pool.take_welcome = self.pool.welcomes.append
        self.server = One(
            pool=self.pool, closed=False, is_unix=False, replication=0, client=None,
            close_needed=False, prefix="S-1", ended=None, written=b"",
        )  # fmt: skip
        self.server.disconnect = self.disconnect
        self.server.write = self.write
        self.server.begin_talk = lambda talk: self.did.append("login talk")
        self.connector = Connector(self.app, self.keeper)

    def own(self, setting: str, pool: Any) -> int:
        assert (setting, pool) == ("proxy_protocol_send", self.pool)
        return self.version

    def failed(self, server: Any, reason: str, error: str = "", code: str = "") -> None:
        self.did.append((reason, error, code))

    def disconnect(self, *told: Any) -> None:
        self.server.ended = told

    def write(self, data: bytes) -> None:
        self.server.written += data


@pytest.fixture(autouse=True)
def no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "server_login", lambda server, app: None)


# The startup packet


def test_startup_packet_says_what_the_entry_says_in_order() -> None:
    """Without a zone of the entry, sessions had that of the server."""
    values = {
        "client_encoding": "LATIN1", "datestyle": "SQL", "timezone": "Asia/Tokyo",
        "application_name": "app",
    }  # fmt: skip
    world = World(**values)
    assert world.connector.startup_params(world.server) == [
        ("database", "real"), *values.items(), ("user", "ann")
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name", ["client_encoding", "datestyle", "timezone", "application_name"]
)
def test_startup_packet_says_nothing_that_the_entry_does_not(name: str) -> None:
    for value, said in ((None, []), ("", []), ("x", [(name, "x")])):
        world = World(**{name: value})
        params = world.connector.startup_params(world.server)
        assert params == [("database", "real"), *said, ("user", "ann")]


@pytest.mark.parametrize(("replication", "word"), [(1, "database"), (2, "yes")])
def test_startup_packet_of_a_replication_client_says_what_it_said(
    replication: int, word: str
) -> None:
    """Logical replication names a database; physical does not."""
    world = World()
    world.server.replication = replication
    tracked = from_dict({"application_name": "standby"})
    world.server.client = SimpleNamespace(
        tracked=tracked, startup_params=None, startup_options=""
    )
    said = [("application_name", "standby")]
    head = [("database", "real"), ("replication", word)]
    params = world.connector.startup_params(world.server)
    assert params == [*head, *said, ("user", "ann")]
    world.server.client.tracked = None
    world.server.client.startup_params = dict(said)
    world.server.client.startup_options = "-c x=y"
    params = world.connector.startup_params(world.server)
    assert params == [*head, *said, ("options", "-c x=y"), ("user", "ann")]


# A connection is there


def test_new_connection_logs_in() -> None:
    world = World()
    world.connector.connected(world.server, 0)
    assert world.did == ["login talk"] and world.server.written == b""


@pytest.mark.parametrize(
    ("state", "did"),
    [
        ({"carries": True}, []),
        ({"surplus": True}, [("not needed", "cancel connection was not needed")]),
        ({"blocked": True}, [("not needed", "pause mode")]),
        # Those who wait are served before a suspend is complete.
        ({"blocked": True, "global_mode": "suspend"}, ["login talk"]),
        ({"closed": True}, []),
    ],
)
def test_connection_that_need_not_log_in_does_not(
    state: dict[str, Any], did: list[Any]
) -> None:
    world = World()
    for where in (world, world.pool, world.app, world.server):
        vars(where).update({k: v for k, v in state.items() if k in vars(where)})
    world.connector.connected(world.server, 0)
    assert world.did == did


def test_connection_that_the_kernel_refused_is_a_failed_attempt() -> None:
    world = World()
    world.connector.connected(world.server, errno.ECONNREFUSED)
    ((reason, error, code),) = world.did
    assert (reason, error) == ("connect failed", "Connection refused") and code
    assert world.server.ended == ("connect failed", False, False)


# PROXY headers


def first(is_unix: bool = False) -> Any:
    """A client that waits."""
    return SimpleNamespace(
        is_unix=is_unix, peer_address="192.0.2.7", peer_port=7,
        local_name=lambda: ("192.0.2.1", 6432),
    )  # fmt: skip


ENDS = b"('192.0.2.7', 7, '192.0.2.1', 6432)"
SESSION, TRANSACTION, STATEMENT = 0, 1, 2


@pytest.mark.parametrize(
    ("version", "mode", "client", "header"),
    [
        (VERSION_1, SESSION, first(), b"v1 " + ENDS),
        (VERSION_2, SESSION, first(), b"v2 " + ENDS),
        (VERSION_1, SESSION, None, b"v1 unknown"),
        (VERSION_2, SESSION, None, b"v2 local"),
        (VERSION_2, SESSION, first(is_unix=True), b"v2 local"),
        # Others will use it, too.
        (VERSION_1, TRANSACTION, first(), b"v1 unknown"),
        (VERSION_2, TRANSACTION, first(), b"v2 local"),
        (VERSION_2, STATEMENT, first(), b"v2 local"),
        (0, SESSION, first(), b""),
    ],
)
def test_proxy_protocol_send_names_the_client_only_in_session_pooling(
    version: int, mode: int, client: Any, header: bytes
) -> None:
    """Anywhere else the connection is for others, too."""
    world = World()
    world.version, world.app.proxy = version, Proxy()
    world.pool.mode, world.pool.waiting.first = mode, client
    world.connector.connected(world.server, 0)
    assert world.server.written == header
    # It is for that client alone.
    assert world.server.close_needed == (b"192.0.2.7" in header)
    assert world.did == ["login talk"]


# The login


def login(**parameters: str) -> Any:
    return SimpleNamespace(
        cancel_key=b"\0\0\x12\x34secr", parameters=list(parameters.items())
    )


@pytest.mark.parametrize(
    ("replication", "welcome", "taken"),
    [(0, None, True), (0, b"", True), (1, None, True), (1, b"", False)],
)
def test_login_tells_who_the_server_is_and_what_clients_are_told(
    replication: int, welcome: bytes | None, taken: bool
) -> None:
    """A walsender has other parameters: they are told only to the first client."""
    world = World()
    world.server.replication, world.pool.welcome = replication, welcome
    told = login(server_version="15", TimeZone="UTC")
    world.connector.logged_in(world.server, told)
    assert world.server.backend_pid == 0x1234
    assert world.server.cancel_key == told.cancel_key
    assert world.server.tracked is world.server.at_login
    assert world.server.tracked.as_dict() == {"TimeZone": "UTC"}
    assert world.pool.welcomes == ([told.parameters] if taken else [])
    assert world.did == ["connected"]


def test_login_that_fails_is_judged_by_who_ended_it() -> None:
    world = World()
    refused = LoginFailed("FATAL", "28P01", "no", "refused")
    world.connector.login_failed(world.server, refused)
    assert (world.did, world.server.ended) == ([("login", refused)], None)
    world.did.clear()
    world.connector.login_failed(world.server, Disconnect("why", notify=True))
    assert world.did[0][0] == "why" and world.server.ended == ("why", True, False)
    world.connector.login_failed(
        world.server, Disconnect("why", notify=False, silent=True)
    )
    assert world.server.ended == (None, False, False)


# Names that have no address


@pytest.mark.parametrize(
    ("host", "directory", "reason"),
    [
        ("h", "/run", "server DNS lookup failed"),
        ("h", "", "server DNS lookup failed"),
        ("", "/run", "server DNS lookup failed"),
        ("", "", "cannot connect"),
    ],
)
def test_name_without_an_address_is_a_failed_attempt(
    host: str, directory: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(module.log, "error", lines.append)
    world = World()
    world.app.settings.unix_socket_dir = directory
    lost: list[Any] = []
    attempt = SimpleNamespace(targets=SimpleNamespace(has_no_address=lost.append))
    world.keeper.attempts[world.server] = attempt
    world.connector.no_address(world.server, host, "no such name")
    assert lost == [attempt]
    assert world.did == [("server DNS lookup failed", "no such name", "")]
    assert world.server.ended == (reason, False, False)
    assert bool(lines) == (reason == "cannot connect")


def test_address_of_a_server_that_was_closed_meanwhile_is_any() -> None:
    world = World()
    assert world.connector.choose(object(), ("10.0.0.1", "10.0.0.2"), ()) == "10.0.0.1"


@pytest.mark.parametrize(
    ("host", "text"), [("10.0.0.1", "10.0.0.1:7"), ("::1", "[::1]:7")]
)
def test_address_in_a_log_line_has_brackets_where_it_has_colons(
    host: str, text: str
) -> None:
    assert module.shown(host, 7) == text
