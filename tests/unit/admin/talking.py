"""A console without sockets: a fake application, a fake client, a driver.

The driver resumes the talk as bouncer.relay.talk does: messages one after the
other, coroutines on a loop, waiters when somebody sets them. Answers are decoded
into the form of the recordings.
"""

import asyncio
import struct
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from admin.console import AdminConsole
from admin.owed import Owed
from bouncer.config.load import load
from bouncer.config.settings import Configuration, Settings
from bouncer.errors import CommandError, ConfigError, Disconnect
from bouncer.relay.talk import READ, Waiter
from bouncer.snapshot import (
    DatabaseRow,
    DnsHostRow,
    DnsZoneRow,
    FdRow,
    MemRow,
    PeerPoolRow,
    PeerRow,
    PoolRow,
    SocketRow,
    StatsRow,
    UserRow,
)

Message = dict[str, Any]

MICROSECONDS = 1_000_000


def socket_row(**values: Any) -> SocketRow:
    """A console's row; *values* change it."""
    row = SocketRow(
        type="C",
        user="admin",
        database="pgbouncer",
        replication="none",
        state="idle",
        addr="127.0.0.1",
        port=50001,
        local_addr="127.0.0.1",
        local_port=6432,
        connect_time=1_700_000_000 * MICROSECONDS,
        request_time=0,
        wait=0,
        close_needed=0,
        ptr=0x55AA,
        link=0,
        remote_pid=0,
        tls="",
        application_name="",
        prepared_statements=0,
        id=1,
    )
    return row._replace(**values)


def stats_row(database: str) -> StatsRow:
    """Counters 1 to 12, averages 101 to 112."""
    return StatsRow(database, *range(1, 13), *range(101, 113))


class FakeDatabase:
    """What the registry knows of a database."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.paused = self.disabled = False


class FakeRegistry:
    """The databases of a configuration, and automatic ones."""

    def __init__(self, names: Iterable[str], automatic: bool) -> None:
        self.databases = {name: FakeDatabase(name) for name in names}
        self.automatic = automatic

    def find_database(self, name: str, client: Any = None) -> FakeDatabase | None:
        """As the original: an unknown name may make an automatic database."""
        if name not in self.databases and self.automatic:
            self.databases[name] = FakeDatabase(name)
        return self.databases.get(name)


class FakeApp:
    """An idle pooler: acts change flags and are written down in *acts*."""

    def __init__(
        self, config: Configuration | None = None, path: Path | None = None
    ) -> None:
        self.settings = Settings.defaults() if config is None else config.settings
        names = ["bench", "Mixed", "weird-db"] if config is None else config.databases
        automatic = config is not None and config.autodb is not None
        self.registry = FakeRegistry(names, automatic)
        self.config = config or Configuration(self.settings)
        self.path = path
        self.global_mode = "none"
        self.shutdown_mode: str | None = None
        self.consoles: dict[str, Any] = {}
        self.acts: list[Any] = []
        self.spoken: list[int] = []
        self.started_at = 1_700_000_000 * MICROSECONDS
        self.busy = False  # a client holds a server: drains are not complete
        self.owed: list[Owed] = []
        self.reload_error = ""
        self.clients = [socket_row()]
        self.descriptors: list[FdRow] = []
        self.commands = SimpleNamespace(handed_over=False, give_up=self.give_up)

    # Acts

    def console_command(self, client: Any) -> None:
        self.spoken.append(client.id)

    def defer(self, owed: Owed) -> bool:
        if self.busy:
            self.owed.append(owed)
        return not self.busy

    def pause(self, database: FakeDatabase | None, owed: Owed) -> bool:
        if database is None:
            self.global_mode = "pause"
        else:
            database.paused = True
        return self.defer(owed)

    def give_up(self, owed: Owed) -> None:
        """As `bouncer.commands` does for the only debt of a pause."""
        self.owed.remove(owed)
        if owed.tag == "PAUSE":
            self.resume(None)
        owed.cancelled()

    def suspend(self, owed: Owed) -> bool:
        self.global_mode = "suspend"
        return self.defer(owed)

    def wait_close(self, database: FakeDatabase | None, owed: Owed) -> bool:
        return self.defer(owed)

    def resume(self, database: FakeDatabase | None) -> None:
        self.acts.append("resume")
        if database is None:
            self.global_mode = "none"
        else:
            database.paused = False
        for owed in self.owed:
            owed.lifted()

    def disable(self, database: FakeDatabase) -> None:
        database.disabled = True

    def enable(self, database: FakeDatabase) -> None:
        database.disabled = False

    def reconnect(self, database: FakeDatabase | None) -> None:
        self.acts.append(("reconnect", database and database.name))

    def kill(self, database: FakeDatabase | None) -> None:
        if database is not None:
            database.paused = True

    def kill_client(self, number: int) -> None:
        self.acts.append(("kill_client", number))
        if number > 1000:
            raise CommandError("client not found")

    def shutdown(self, mode: str) -> None:
        self.acts.append(mode)
        if mode != "immediate":
            self.shutdown_mode = mode
        if mode == "wait_for_servers":
            self.global_mode = "pause"

    def reload(self) -> None:
        if self.reload_error:
            raise ConfigError(self.reload_error)
        before = replace(self.config, settings=self.settings)
        self.settings = load(str(self.path), before).settings

    def set(self, key: str, value: str) -> list[str]:
        if (key, value) == ("auth_dbname", "pgbouncer"):
            raise ConfigError(
                'cannot use the reserved "pgbouncer" database as an auth_dbname'
            )
        self.settings = self.settings.with_value(key, value)
        if (key, value) == ("client_tls_sslmode", "require"):
            return ["TLS settings could not be applied, still using old configuration"]
        return []

    # Rows

    def client_rows(self) -> list[SocketRow]:
        return self.clients

    def server_rows(self) -> list[SocketRow]:
        return [socket_row(type="S", user="u", database="bench", link=0x55AA, ptr=0x77)]

    def socket_rows(self) -> list[SocketRow]:
        mine = socket_row(state="cl_active")
        return [mine, socket_row(id=2, state="cl_active"), *self.server_rows()]

    def pool_rows(self) -> list[PoolRow]:
        counts = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
        return [
            PoolRow("bench", "u", *counts, 12_000_013, "session", None),
            PoolRow("pgbouncer", "pgbouncer", 1, *[0] * 10, 0, "statement", None),
        ]

    def database_rows(self) -> list[DatabaseRow]:
        rows = []
        for name, one in sorted(self.registry.databases.items()):
            own = self.config.databases.get(name) if self.config else None
            several = own is not None and "," in (own.host or "")
            rows.append(
                DatabaseRow(
                    name=name,
                    host=own.host if own else "127.0.0.1",
                    port=own.port if own else 5432,
                    database=own.dbname if own else name,
                    force_user=own.user if own else None,
                    pool_size=(own and own.pool_size) or 20,
                    min_pool_size=0,
                    reserve_pool_size=(own and own.reserve_pool_size) or 0,
                    server_lifetime=(own and own.server_lifetime) or 3600.0,
                    pool_mode=own.pool_mode if own else None,
                    load_balance_hosts=own.load_balance_hosts if several else None,
                    max_connections=(own and own.max_db_connections) or 0,
                    current_connections=0,
                    max_client_connections=(own and own.max_db_client_connections) or 0,
                    current_client_connections=0,
                    paused=one.paused,
                    disabled=one.disabled,
                )
            )
        place = sum(row.name < "pgbouncer" for row in rows)
        port = self.settings.listen_port
        console = ("pgbouncer", None, port, "pgbouncer", "pgbouncer", 2, 0, 0, 3600)
        rows.insert(place, DatabaseRow(*console, "statement", None, 0, 0, 0, 1, 0, 0))
        return rows

    def user_rows(self) -> list[UserRow]:
        return [
            UserRow("admin", None, None, None, 0, 0, 0, 1),
            UserRow("apps", 3, 1, "transaction", 9, 0, 50, 0),
            UserRow("zoe", None, 7, None, 0, 0, 0, 0),
            UserRow("zz", None, None, None, 0, 0, 0, 0),
        ]

    def peer_rows(self) -> list[PeerRow]:
        return [PeerRow(1, "127.0.0.1", 7000, 20)]

    def peer_pool_rows(self) -> list[PeerPoolRow]:
        return []

    def lists(self) -> list[tuple[str, int]]:
        return [("databases", 8), ("users", 6)]

    def stats(self) -> list[StatsRow]:
        return [stats_row("bench"), stats_row("pgbouncer")]

    def stats_total(self) -> StatsRow:
        return stats_row("")

    def fds(self, to_ours: bool = True) -> list[FdRow]:
        return self.descriptors

    def mem(self) -> list[MemRow]:
        return [MemRow("user_cache", 100, 3, 47)]

    def dns_hosts(self) -> list[DnsHostRow]:
        return [
            DnsHostRow("db.example", 7, ("10.0.0.1", "::1")),
            DnsHostRow("x", 0, ()),
        ]

    def dns_zones(self) -> list[DnsZoneRow]:
        return [DnsZoneRow("example", 0, 1)]


class FakeClient:
    """Keeps what is written to it."""

    def __init__(self, number: int = 1, user: str = "admin") -> None:
        self.id = number
        self.prefix = f"C-0x{number:x}: pgbouncer/{user}@127.0.0.1:50001"
        self.is_unix = False
        self.tls_info = ""
        self.fd = -1
        self.unsent = 0
        self.user = user
        self.cancel_key = b"\0\0\x10\x01secr"
        self.tracked = None
        self.data = b""
        self.writes = 0

    def write(self, data: bytes) -> None:
        self.data += data
        self.writes += 1

    def flush(self) -> None:
        pass

    def read(self) -> list[Message]:
        """Take what was written, decoded."""
        data, self.data = self.data, b""
        return decode(data)


class Conversation:
    """One session of a console: send messages, look at the answers."""

    def __init__(
        self,
        app: FakeApp,
        rights: str = "admin",
        client: FakeClient | None = None,
        own_user: bool = False,
    ) -> None:
        self.app = app
        self.console: AdminConsole = app.consoles.setdefault(
            "pgbouncer", AdminConsole(app)
        )
        self.client = client or FakeClient(user=rights)
        self.talk = self.console.converse(self.client, rights, own_user)
        self.waiting: Any = None
        self.ended: Disconnect | None = None
        self.breaths = 0
        self.step(None)

    def step(self, value: Any, error: BaseException | None = None) -> None:
        """Resume the talk until it waits for a message, a waiter, or has ended."""
        while True:
            try:
                want = self.talk.throw(error) if error else self.talk.send(value)
            except Disconnect as reason:
                self.ended = reason
                return
            error = None
            if want is READ:
                self.waiting = READ
                return
            if isinstance(want, Waiter):
                if not want.ready:
                    self.waiting = want
                    want.talk = self  # type: ignore[assignment]
                    return
                value, error = want.value, want.error
                continue
            self.breaths += 1
            value = None
            try:
                value = asyncio.run(_awaited(want))
            except Exception as problem:
                error = problem

    def resume_from(self, waiter: Waiter) -> None:
        """Called by a waiter that was set."""
        self.step(waiter.value, waiter.error)

    def send(self, *packets: bytes) -> list[Message]:
        """Send whole messages; the answers."""
        for packet in packets:
            if self.ended is not None:
                break
            assert self.waiting is READ, "the talk does not read"
            self.step((packet[0], packet[5:]))
        return self.answers()

    def ask(self, sql: str) -> list[Message]:
        """Send one Query; the answers."""
        return self.send(query(sql))

    def answers(self) -> list[Message]:
        """Take what was answered; an end is told as the relay tells it."""
        found = self.client.read()
        if self.ended is not None:
            if self.ended.notify:
                fields = [["S", "FATAL"], ["C", self.ended.sqlstate]]
                fields.append(["M", self.ended.reason])
                found.append({"msg": "ErrorResponse", "fields": fields})
            found.append({"msg": "EOF"})
        return found

    def close(self) -> None:
        """The client has gone."""
        self.talk.close()


async def _awaited(want: Any) -> Any:
    return await want


def console(**changes: Any) -> Conversation:
    """A console of an idle pooler."""
    app = FakeApp()
    for key, value in changes.items():
        setattr(app, key, value)
    return Conversation(app)


def configured(text: str, directory: Path) -> FakeApp:
    """An application with a configuration, loaded as the program does."""
    path = directory / "pgbouncer.ini"
    path.write_text(text)
    return FakeApp(load(str(path)), path)


# Messages


def packet(code: str, body: bytes) -> bytes:
    return code.encode() + struct.pack("!I", len(body) + 4) + body


def query(sql: str) -> bytes:
    return packet("Q", sql.encode("utf-8", "surrogateescape") + b"\0")


def parse(sql: str, name: str = "", oids: Iterable[int] = ()) -> bytes:
    types = list(oids)
    head = f"{name}\0{sql}\0".encode() + struct.pack("!H", len(types))
    return packet("P", head + b"".join(struct.pack("!I", oid) for oid in types))


def bind(
    values: Iterable[bytes | None] = (),
    results: Iterable[int] = (),
    formats: Iterable[int] = (),
    name: str = "",
    portal: str = "",
) -> bytes:
    body = f"{portal}\0{name}\0".encode() + shorts(formats)
    given = list(values)
    body += struct.pack("!H", len(given))
    for value in given:
        if value is None:
            body += struct.pack("!i", -1)
        else:
            body += struct.pack("!i", len(value)) + value
    return packet("B", body + shorts(results))


def shorts(values: Iterable[int]) -> bytes:
    listed = list(values)
    return struct.pack(f"!{len(listed) + 1}H", len(listed), *listed)


def describe(kind: str = "P", name: str = "") -> bytes:
    return packet("D", f"{kind}{name}\0".encode())


def execute(most: int = 0, portal: str = "") -> bytes:
    return packet("E", f"{portal}\0".encode() + struct.pack("!i", most))


def close(kind: str, name: str = "") -> bytes:
    return packet("C", f"{kind}{name}\0".encode())


SYNC = packet("S", b"")
FLUSH = packet("H", b"")
TERMINATE = packet("X", b"")

NAMES = {
    "1": "ParseComplete",
    "2": "BindComplete",
    "3": "CloseComplete",
    "n": "NoData",
    "s": "PortalSuspended",
    "I": "EmptyQueryResponse",
}


def decode(data: bytes) -> list[Message]:
    """Read backend messages into the form of the recordings."""
    found = []
    while data:
        code, size = chr(data[0]), struct.unpack_from("!I", data, 1)[0]
        found.append(_decode(code, data[5 : size + 1]))
        data = data[size + 1 :]
    return found


def _decode(code: str, body: bytes) -> Message:
    if code in NAMES:
        assert not body
        return {"msg": NAMES[code]}
    if code == "Z":
        return {"msg": "ReadyForQuery", "status": body.decode()}
    if code == "C":
        return {"msg": "CommandComplete", "tag": _text(body[:-1])}
    if code in "EN":
        parts = body[:-2].split(b"\0")
        fields = [[chr(part[0]), _text(part[1:])] for part in parts]
        name = "ErrorResponse" if code == "E" else "NoticeResponse"
        return {"msg": name, "fields": fields}
    if code == "D":
        return {"msg": "DataRow", "values": _values(body)}
    if code == "T":
        return {"msg": "RowDescription", "fields": _columns(body)}
    if code == "t":
        oids = struct.unpack(f"!{(len(body) - 2) // 4}I", body[2:])
        return {"msg": "ParameterDescription", "oids": list(oids)}
    raise AssertionError(f"unexpected message {code}")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _values(body: bytes) -> list[Any]:
    found: list[Any] = []
    at = 2
    for _ in range(struct.unpack_from("!H", body)[0]):
        size = struct.unpack_from("!i", body, at)[0]
        at += 4
        if size < 0:
            found.append(None)
            continue
        raw = body[at : at + size]
        at += size
        try:
            found.append(raw.decode())
        except UnicodeDecodeError:
            found.append(raw)
    assert at == len(body)
    return found


def _columns(body: bytes) -> list[Message]:
    found = []
    at = 2
    for _ in range(struct.unpack_from("!H", body)[0]):
        end = body.index(b"\0", at)
        names = ("table_oid", "attnum", "type_oid", "typlen", "typmod", "format")
        rest = struct.unpack_from("!IHIhih", body, end + 1)
        found.append(
            {"name": _text(body[at:end]), **dict(zip(names, rest, strict=True))}
        )
        at = end + 19
    assert at == len(body)
    return found
