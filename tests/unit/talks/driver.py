"""Talks without sockets: fake ends, a fake application, a driver.

The driver resumes a talk as bouncer.relay.talk does: messages one after the other,
coroutines on a loop, waiters when they are ready. A message may be a function of
the stream, for answers that depend on what was sent.
"""

import asyncio
import struct
from collections.abc import Callable, Generator
from dataclasses import replace
from hashlib import md5
from typing import Any

from bouncer import log
from bouncer.auth.derive import derive
from bouncer.auth.scram import ClientSide
from bouncer.config.hba import HbaRules
from bouncer.config.ident import IdentMaps
from bouncer.config.settings import Configuration, Database, Settings
from bouncer.errors import Disconnect
from bouncer.pool.limits import Limits
from bouncer.pool.pools import ServerPool
from bouncer.pool.registry import DatabaseState, Registry, UserState
from bouncer.relay.talk import READ, READ_BYTE, StartTls, Waiter
from bouncer.wire import messages
from bouncer.wire.framer import split

Message = tuple[int, bytes]
KEY = b"\x01\x02\x03\x04\x05\x06\x07\x08"


class Stopped(Exception):
    """The talk waits for something that the test has not prepared."""

    def __init__(self, want: Any) -> None:
        super().__init__(repr(want))
        self.want = want


class Stream:
    """What client and server have in common."""

    def __init__(self) -> None:
        self.sent = b""
        self.taken = 0
        self.behind = 0
        self.is_unix = False
        self.tls_object: Any = None
        self.started_tls: list[StartTls] = []

    def write(self, data: bytes) -> None:
        """Keep what the talk sends."""
        self.sent += data

    def buffered(self) -> int:
        """Bytes behind the message just read."""
        return self.behind

    def take(self) -> list[tuple[str, bytes]]:
        """The messages sent since the last call: type and body."""
        packets, rest = split(self.sent[self.taken :])
        assert not rest, rest
        self.taken = len(self.sent)
        return [(chr(code), body) for code, body in packets]

    @property
    def tls_info(self) -> str:
        """As the log shows it."""
        return "TLSv1.3/TLS_AES_256_GCM_SHA384" if self.tls_object else ""


class FakeClient(Stream):
    """A client at the beginning of its login."""

    def __init__(self) -> None:
        super().__init__()
        self.first_byte_is_tls = False
        self.talk_limit = 0
        self.peer_address = "127.0.0.1"
        self.peer_port = 4711
        self.peer_pid = 0
        self.peer_uid = -1
        self.fd = -1
        self.user: str | None = None
        self.user_state: Any = None
        self.database: Any = None
        self.pool: Any = None
        self.replication = 0
        self.startup_options: str | None = None
        self.startup_params: dict[str, str] = {}
        self.cancel_key: bytes | None = None
        self.counted_database: Any = None
        self.counted_user: Any = None

    @property
    def prefix(self) -> str:
        """As in the log."""
        database = "(nodb)" if self.pool is None else self.pool.database.name
        return f"C: {database}/{self.user or '(nouser)'}"


class FakeServer(Stream):
    """A server connection that has just been made."""

    def __init__(self, app: "FakeApp", pool: "FakePool") -> None:
        super().__init__()
        self.app = app
        self.pool = pool
        self.host = "db.example"
        self.prefix = f"S: {pool.database.name}/{pool.user.name}"
        self.learnt: list[bytes] = []
        self.fresh = True

    def forget_session(self) -> None:
        """DISCARD ALL has been answered."""
        self.fresh = True

    def learn_parameter(self, body: bytes) -> None:
        """Keep what a ParameterStatus said."""
        self.learnt.append(body)

    def startup_params(self) -> list[tuple[str, str]]:
        """As the pool says."""
        config = self.pool.database.config
        return [("database", config.dbname), ("user", self.pool.user.name)]


class FakePool:
    """A pool whose welcome is known, unless a test says otherwise."""

    def __init__(self, database: Any, user: UserState) -> None:
        self.database = database
        self.user = user
        self.user_name = user.name
        self.scram_keys: tuple[bytes, bytes] | None = None
        self.waiter: Waiter | None = None
        self.logins = 0

    credentials = ServerPool.credentials
    own_password = ServerPool.own_password
    learn_keys = ServerPool.learn_keys

    def welcome_waiter(self, client: Any) -> Waiter | None:
        """None: nothing to wait for."""
        return self.waiter

    def welcome_for(self, client: Any) -> bytes:
        """One parameter, then those that the client gave."""
        lines = [messages.parameter_status("server_version", "15.99")]
        for name, value in client.startup_params.items():
            lines.append(messages.parameter_status(name, value))
        return b"".join(lines)


class FakeConsole:
    """A console that lets `admin` and `stats` in."""

    def __init__(self) -> None:
        self.sessions: list[tuple[str, bool]] = []

    def rights(self, user: str, client: Any) -> str | None:
        """Who may come in."""
        return user if user in ("admin", "stats") else None

    def welcome(self) -> bytes:
        """Fixed parameters."""
        return messages.parameter_status("server_version", "1.25.2/bouncer")

    def converse(self, client: Any, rights: str, own_user: bool) -> Any:
        """Stand for the console's talk."""
        self.sessions.append((rights, own_user))
        return "console"


class FakeDoor:
    """Counts nobody, remembers whom it is told to."""

    def __init__(self) -> None:
        self.sockets = self.departed = self.epoch = 0
        self.most_fd = 1 << 30
        self.remembered: list[bytes] = []

    def new_key(self) -> bytes:
        """Always the same."""
        return KEY

    def remember(self, client: Any, body: bytes, *_: Any) -> None:
        """Note the packet."""
        self.remembered.append(body)


class FakeApp:
    """The application as talks see it, over the real registry and limits."""

    def __init__(
        self,
        databases: dict[str, dict[str, Any]] | None = None,
        users: dict[str, str] | None = None,
        hba: str | None = None,
        ident: str = "",
        **settings: Any,
    ) -> None:
        found = replace(Settings.defaults(), **settings)
        entries = {
            name: Database(**{"name": name, "dbname": name, **values})
            for name, values in (databases or {"p0": {}}).items()
        }
        self.config = Configuration(
            settings=found, databases=entries, autodb=None, users={}, peers={}
        )
        self.door = FakeDoor()
        self.registry = Registry(self.config, FakePool)
        self.limits = Limits(self)
        self.consoles = {"pgbouncer": FakeConsole()}
        self.registry.databases["pgbouncer"] = self.console_database()
        self.registry.set_auth_file(users or {})
        self.hba = HbaRules(hba, "hba", IdentMaps(ident)) if hba is not None else None
        self.client_tls: Any = None
        self.shutdown_mode: str | None = None
        self.rows: dict[str, Any] = {}
        self.asked: list[tuple[str, str]] = []

    @staticmethod
    def console_database() -> Any:
        """The virtual database's state."""
        return DatabaseState(Database("pgbouncer", "pgbouncer", user="pgbouncer"))

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.config.settings

    def auth_query(self, client: Any, database: Any, user: str) -> Waiter:
        """Answer from `rows`: name -> (name, secret), an exception, or no row."""
        self.asked.append((database.name, user))
        auth_user = database.config.auth_user or self.settings.auth_user
        client.pool = self.registry.pool(database, auth_user)
        waiter = Waiter()
        row = self.rows.get(user)
        if isinstance(row, Exception):
            waiter.fail(row)
        else:
            waiter.set(row)
        return waiter


# The driver


async def drive(
    talk: Generator[Any, Any, Any], stream: Stream, inputs: list[Any]
) -> Any:
    """Run *talk* on *inputs*; gives its outcome, or raises `Stopped`."""
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            if error is not None:
                raised, error = error, None
                want = talk.throw(raised)
            else:
                want = talk.send(value)
        except StopIteration as stop:
            return stop.value
        value = None
        if want is READ or want is READ_BYTE:
            if not inputs:
                raise Stopped(want)
            value = inputs.pop(0)
            if callable(value):
                value = value(stream)
        elif isinstance(want, StartTls):
            stream.started_tls.append(want)
            found = inputs.pop(0)
            if isinstance(found, Exception):
                error = found
            else:
                stream.tls_object = found
        elif isinstance(want, Waiter):
            if not want.ready:
                raise Stopped(want)
            value, error = want.value, want.error
        else:
            try:
                value = await want
            except Exception as problem:
                error = problem


def run(talk: Generator[Any, Any, Any], stream: Stream, *inputs: Any) -> Any:
    """Run *talk* to its end."""
    return asyncio.run(drive(talk, stream, list(inputs)))


def refused(talk: Generator[Any, Any, Any], stream: Stream, *inputs: Any) -> Disconnect:
    """Run *talk*, which must end with a `Disconnect`."""
    try:
        outcome = run(talk, stream, *inputs)
    except Disconnect as reason:
        return reason
    raise AssertionError(f"not refused: {outcome!r}")


class Lines:
    """What was logged: level and text."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def take(self) -> list[str]:
        """What was logged since the last call."""
        found, self.lines = self.lines, []
        return found


def catch_log(monkeypatch: Any) -> Lines:
    """Keep what is logged."""
    found = Lines()
    for level, word in (("info", "LOG"), ("warning", "WARNING"), ("error", "ERROR")):

        def keep(text: str, word: str = word) -> None:
            found.lines.append(f"{word} {text}")

        monkeypatch.setattr(log, level, keep)
    return found


# Packets of clients


def startup(
    user: str = "ann", database: str | None = "p0", version: int = 0x30000, **more: str
) -> Message:
    """A StartupMessage as the relay hands it over."""
    params = [("user", user)]
    if database is not None:
        params.append(("database", database))
    params += list(more.items())
    return 0, messages.startup_message(params, version)[4:]


def special(code: int, rest: bytes = b"") -> Message:
    """A packet without a type byte."""
    return 0, struct.pack("!I", code) + rest


SSL_REQUEST = special(80877103)
GSSENC_REQUEST = special(80877104)


def password(text: bytes) -> Message:
    """A PasswordMessage."""
    return ord("p"), text + b"\0"


def md5_answer(user: bytes, secret: bytes) -> Callable[[Stream], Message]:
    """Answer the last md5 challenge."""

    def answer(stream: Stream) -> Message:
        salt = stream.sent[-4:]
        inner = md5(secret + user).hexdigest().encode()
        return password(b"md5" + md5(inner + salt).hexdigest().encode())

    return answer


class ScramUser:
    """A client that speaks SCRAM."""

    def __init__(self, secret: bytes) -> None:
        self.side = ClientSide()
        self.secret = secret

    def first(self, stream: Stream) -> Message:
        """SASLInitialResponse."""
        packet = messages.sasl_initial_response(b"SCRAM-SHA-256", self.side.first())
        return packet[0], packet[5:]

    def final(self, stream: Stream) -> Message:
        """SASLResponse to the last AuthenticationSASLContinue."""
        kind, body = stream.take()[-1]
        assert kind == "R" and body[:4] == b"\0\0\0\x0b", (kind, body)
        self.side.server_first(body[4:])
        keys = derive(self.secret, self.side.salt, self.side.iterations)
        return ord("p"), self.side.final(keys)
