"""The whole pooler in one process: logins of every kind, console, PROXY headers,
cancel requests, hostile servers, auth_query.

Each input gets an app of its own, so that a find is found again. Sockets are pairs,
threads are none (their work is done where it is ordered), time passes when a step says
so. Clients can also log in as they should (LOGIN), and `@cancel@` in what they say is
somebody's cancel key. At the end somebody new must be served by an honest server.
"""

import asyncio
import base64
import contextlib
import gc
import hashlib
import hmac
import os
import pickle
import socket
import struct
import tempfile
from pathlib import Path
from typing import Any

import bouncer.pool.connector as connector
from admin.console import AdminConsole
from bouncer import log
from bouncer.app import Bouncer
from bouncer.auth.scram import ClientSide, ScramError
from bouncer.config.load import load
from bouncer.front import Front
from bouncer.listener import Listeners
from bouncer.relay import stream as relay_stream
from bouncer.relay.client import Client
from bouncer.relay.statements import known_statements
from tests.fuzz.steps import Step
from tests.fuzz.targets import Found
from tests.relay import frames as f

CLIENT, SERVER, CONNECT, LEAVE, DIE, TIME, HALF, STALL, LOGIN = range(9)
CANCEL = b"@cancel@"
MOST_CLIENTS = 5
MOST_UNSENT = 1 << 20
ROUNDS = 40
PASSWORD = "pw"
SALT = b"0123456789abcdef"
USERS = (b"u_trust", b"u_md5", b"u_scram", b"u_plain", b"admin", b"stats", b"nobody",
         b"nob5", b"u_cert", b"u_peer", b"u_rej", b"checker")  # fmt: skip
PLACES = (b"p0", b"forced", b"asked", b"pgbouncer", b"nowhere", b"cq", b"sess")
HBA = """
local all u_md5 md5
host all u_md5 all md5
host all u_plain all password
host all u_scram all scram-sha-256
host all u_cert all cert
host all u_peer all peer
host all u_rej all reject
host all nobody all scram-sha-256
host all nob5 all md5
host all all all trust
local all all trust
"""
INI = """
[databases]
p0 = host=127.0.0.1 port=1 dbname=p0
forced = host=127.0.0.1 port=1 user=u password=pw
asked = host=127.0.0.1 port=1 auth_user=u_trust
cq = host=127.0.0.1 port=1 connect_query='select 1'
sess = host=127.0.0.1 port=1 pool_mode=session
* = host=127.0.0.1 port=1
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = 23499
unix_socket_dir =
auth_type = hba
auth_hba_file = {dir}/hba
auth_file = {dir}/users
admin_users = admin
stats_users = stats
pool_mode = {mode}
scram_iterations = 1
max_prepared_statements = {prepared}
server_tls_sslmode = disable
default_pool_size = 2
query_wait_timeout = 5
{more}
[pybouncer]
proxy_protocol_networks = 127.0.0.0/8, unix
health_check_user = checker
"""
MODES = ("transaction", "session", "statement")
MORE = (
    "",
    "server_check_delay = 0\nserver_login_retry = 0",
    "disable_pqexec = 1\nserver_fast_close = 1",
    "max_client_conn = 3\nreserve_pool_size = 1\nmin_pool_size = 1",
)


def scram_secret() -> str:
    salted = hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), SALT, 1)
    client = hmac.digest(salted, b"Client Key", "sha256")
    server = hmac.digest(salted, b"Server Key", "sha256")
    stored = hashlib.sha256(client).digest()
    shown = [base64.b64encode(part).decode() for part in (SALT, stored, server)]
    return f"SCRAM-SHA-256$1:{shown[0]}${shown[1]}:{shown[2]}"


def write_files(place: Path) -> None:
    """All configurations that a setup may choose."""
    plain = ("u_md5", "u_plain", "admin", "stats")
    lines = [f'"{user}" "{PASSWORD}"' for user in plain]
    lines += ['"u_trust" ""', f'"u_scram" "{scram_secret()}"']
    (place / "users").write_text("\n".join(lines) + "\n")
    (place / "hba").write_text(HBA)
    for m, mode in enumerate(MODES):
        for p, prepared in enumerate((0, 3)):
            for e, more in enumerate(MORE):
                text = INI.format(dir=place, mode=mode, prepared=prepared, more=more)
                (place / f"{m}{p}{e}.ini").write_text(text)


_kept = tempfile.TemporaryDirectory(prefix="fuzz-")
PLACE = Path(_kept.name)
write_files(PLACE)
configurations: dict[str, bytes] = {}  # read once, as that takes the most time


def startup(*pairs: bytes, version: int = 0x30000) -> bytes:
    body = struct.pack("!I", version) + b"".join(p + b"\0" for p in pairs) + b"\0"
    return struct.pack("!I", len(body) + 4) + body


def login(user: bytes, place: bytes, *more: bytes) -> bytes:
    return startup(b"user", user, b"database", place, *more)


def proxy_v2(command: int, family: int, body: bytes) -> bytes:
    head = b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", command, family, len(body))
    return head + body


SQL = (
    b"SHOW CLIENTS", b"SHOW POOLS", b"SHOW FDS", b"RELOAD", b"PAUSE", b"RESUME",
    b"PAUSE p0", b"RESUME p0", b"DISABLE p0", b"ENABLE p0", b"KILL p0", b"SUSPEND",
    b"RECONNECT", b"SET verbose=0", b"SET x='y'", b"SHOW HELP", b"KILL_CLIENT 1",
    b"WAIT_CLOSE", b"select 1", b"SELECT * FROM clients", b"SHOW CONFIG", b"SHOW $1",
    b"SELECT user, count(*) FROM clients GROUP BY 1", b'SHOW "x', b"", b";", b"KILL",
    b"SHOW STATS", b"SHOW TOTALS", b"SELECT $1 FROM pools WHERE database=$2",
    b"DISCARD ALL", b"begin", b"SHUTDOWN WAIT_FOR_CLIENTS", b"SHUTDOWN", b"SHOW LISTS",
    b"SHOW DATABASES", b"SHOW USERS", b"SHOW SERVERS", b"SHOW SOCKETS", b"SHOW MEM",
    b"SHOW DNS_HOSTS", b"SHOW DNS_ZONES", b"SHOW PEERS", b"SHOW STATE", b"SHOW VERSION",
    b"SET max_client_conn=1", b"SET pool_mode='session'", b"SET default_pool_size=0",
    b"SELECT * FROM pools, databases LIMIT 3", b"SHOW HAPROXY", b"SHOW STATS_TOTALS",
)  # fmt: skip
FIRST = b"n,,n=,r=abcd"
FROM_CLIENT = [
    *(login(user, place) for user in USERS for place in PLACES[:4]),
    *(login(b"u_trust", place) for place in PLACES),
    startup(b"user", b"u_trust", version=0x30002), startup(b"user", b"",
    version=0x20000),
    startup(), login(b"u_trust", b"p0", b"options", b"-c TimeZone=x"),
    login(b"u_trust", b"p0", b"replication", b"database"),
    login(b"u_trust", b"p0", b"replication", b"yes", b"options", b"-c"),
    login(b"u_trust", b"p0", b"search_path", b"a;b", b"_pq_.x", b"1"),
    login(b"\xff\xfe", b"pgbouncer\n", b"application_name", b"x" * 200),
    *(struct.pack("!II", 8, code) for code in (80877103, 80877104, 80877105)),
    struct.pack("!II", 16, 80877102) + CANCEL, struct.pack("!II", 16,
    80877102) + b"\0" * 8,
    struct.pack("!II", 44, 80877102) + CANCEL + b"x" * 28,
    *(f.message(b"p", body) for body in (
        b"pw\0", b"\0", b"", b"md5" + b"0" * 32 + b"\0", b"c=biws,r=abcd,p=eA==",
        b"c=biws",
        b"SCRAM-SHA-256\0" + struct.pack("!I", len(FIRST)) + FIRST,
        b"SCRAM-SHA-256-PLUS\0\xff\xff\xff\xff", b"SCRAM-SHA-256\0\0\0\0\0")),
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", b"PROXY UNKNOWN\r\n", b"PROXY ", b"P",
    b"PROXY TCP6 ::1 ::2 1 2\r\n", proxy_v2(0x21, 0x11, b"\1" * 12),
    proxy_v2(0x20, 0, b""), proxy_v2(0x21, 0x21, b"\1" * 36 + b"\4\0\1x"),
    proxy_v2(0x21, 0x31, b"\1" * 216), proxy_v2(0x2F, 0x12, b"x"),
    *(f.message(b"Q", sql + b"\0") for sql in SQL),
    *(f.parse(name, sql.decode()) for name in ("", "s") for sql in SQL[16:30]),
    f.bind("s"), f.bind("", "p", "p0"), f.bind("s", "", "p0", "x"), f.bind(""),
    f.describe("s"), f.describe("p", b"P"), f.execute(), f.execute("p", 1),
    f.execute("", 1),
    f.close("s"), *[f.SYNC] * 5, f.FLUSH, f.TERMINATE,
    b"\x16\x03\x01\2\0\1\0\1\xfc\3\3",
    f.copy_data(b"row\n"), f.COPY_DONE, f.copy_fail(), f.function_call(1),
    f.parse("", "SHOW POOLS") + f.bind("") + f.describe("",
    b"P") + f.execute() + f.SYNC,
]  # fmt: skip
WELCOME = (
    f.message(b"R", b"\0\0\0\0") + f.parameter_status("TimeZone", "UTC")
    + f.parameter_status("server_version", "18") + f.message(b"K", b"\0\0\0\1\0\0\0\2")
    + f.ready()
)  # fmt: skip
FROM_SERVER = [
    *[WELCOME] * 6,
    *(f.message(b"R", body) for body in (
        b"\0\0\0\0", b"\0\0\0\3", b"\0\0\0\5abcd", b"\0\0\0\5ab", b"\0\0\0\x07", b"",
        b"\0\0\0\x0aSCRAM-SHA-256\0\0", b"\0\0\0\x0aX\0\0", b"\0\0\0\x0cv=abcd",
        b"\0\0\0\x0br=abcd,s=QUJD,i=1")),
    *(f.message(b"S", body) for body in (
        b"TimeZone\0UTC\0", b"search_path\0a;b\0", b"x\0y\0", b"x", b"",
        b"\xff\0\xff\0",
        b"client_encoding\0SJIS\0", b"in_hot_standby\0on\0")),
    *(f.message(b"K", body) for body in (b"\0" * 8, b"\0" * 4, b"\xff" * 300)),
    *(f.message(b"Z", body) for body in (b"I", b"T", b"E", b"", b"II")),
    *(f.message(b"E", body) for body in (
        b"SFATAL\0C28P01\0Mno\0\0", b"SFATAL\0C57P03\0Mno\0\0", b"", b"\0",
        b"M\xff\0\0",
        b"SERROR\0C42601\0Msyntax\0\0")),
    f.notice("hm"), f.notification("n"), f.row_description("user", "passwd"),
    *(f.message(b"D", body) for body in (
        b"\0\2\0\0\0\4user\0\0\0\2pw", b"\0\2\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\0\2\0\0\0\4user\xff\xff\xff\xff", b"\0\1\0\0\0\1x", b"\0\2\0\0\0\xff")),
    *(f.complete(tag) for tag in ("SELECT 1", "SET", "DISCARD ALL", "")),
    f.PARSE_COMPLETE, f.BIND_COMPLETE, f.CLOSE_COMPLETE, f.NO_DATA, f.EMPTY_QUERY,
    f.PARSE_COMPLETE + f.BIND_COMPLETE + f.row_description("u", "p")
    + f.data_row(b"user", b"pw") + f.complete("SELECT 1") + f.ready(),
    b"N", b"S", b"E",
]  # fmt: skip
words = {
    CLIENT: FROM_CLIENT, SERVER: FROM_SERVER, CONNECT: [b""], LEAVE: [b""], DIE: [b""],
    TIME: [b"\0", b"\1", b"\x3c"], HALF: [b""], STALL: [b""],
    LOGIN: [bytes([user, place]) for user in range(6) for place in range(7)],
}  # fmt: skip


class Loop(asyncio.SelectorEventLoop):
    """Does a thread's work at once: an input means the same each time."""

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as problem:
            future.set_exception(problem)
        return future


class Far:
    """The far end of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.got = b""
        self.reading = True
        self.key = b"\0" * 8
        self.begun = False

    @property
    def open(self) -> bool:
        return self.sock.fileno() >= 0

    def send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            while data:
                data = data[self.sock.send(data) :]

    def pull(self) -> None:
        if not self.reading or not self.open:
            return
        with contextlib.suppress(OSError):
            while data := self.sock.recv(1 << 18):
                self.got += data

    def take(self) -> bytes:
        self.pull()
        found, self.got = self.got, b""
        return found


class Play:
    """One input, with a pooler of its own."""

    def __init__(self, setup: bytes) -> None:
        mode, prepared, more = setup[0] % 3, setup[1] & 1, setup[2] & 3
        path = str(PLACE / f"{mode}{prepared}{more}.ini")
        if path not in configurations:
            configurations[path] = pickle.dumps(load(path, None, 0))
        self.problems: list[str] = []
        self.found = log.error, log.fatal, connector.connect_nonblocking
        log.error = log.fatal = self.logged
        connector.connect_nonblocking = self.connection  # type: ignore[assignment]
        self.loop = Loop()
        self.loop.set_exception_handler(self.loop_failed)
        asyncio.set_event_loop(self.loop)
        self.app: Any = Bouncer(pickle.loads(configurations[path]), path, None, None)
        self.settings = self.app.settings
        self.app.poller.after = None
        self.app.tune_server = lambda fd: None
        self.app.consoles["pgbouncer"] = AdminConsole(self.app)
        Front(self.app)
        self.app.attach(self.loop)
        self.app.listeners = Listeners()
        self.clients: list[Far] = []
        self.ours: list[Any] = []
        self.servers: list[Far] = []
        self.turn()

    # What the pooler calls

    def logged(self, text: str, *_: Any) -> None:
        if "internal error" in text or "Traceback" in text:
            self.problems.append(text)

    def loop_failed(self, loop: Any, context: dict[str, Any]) -> None:
        self.problems.append(repr(context))

    def connection(self, *_: Any) -> tuple[socket.socket, bool]:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.servers.append(Far(theirs))
        return ours, True

    # Steps

    def turn(self) -> None:
        poller = self.app.poller
        for _ in range(ROUNDS):
            before = poller.rounds
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
            poller.tick()
            poller.dispatch()
            poller.settle()
            if poller.rounds == before:
                break
        if self.problems:
            raise Found(self.problems[0][-3000:])
        for client in self.ours:
            if not client.closed and client.unsent > MOST_UNSENT:
                raise Found(f"{client.unsent} bytes wait for a client")

    def connect(self, who: int) -> Far:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        client = Client(self.app.poller, ours.detach(), self.app, None)
        if who & 1:
            client.note_unix(23499)
            client.peer_uid = os.geteuid() if who & 2 else -1
        else:
            client.set_peer("10.1.1.1" if who & 2 else "127.0.0.1", 4711)
        self.app.door.accepted(client)
        client.watch()
        far = Far(theirs)
        self.clients.append(far)
        self.ours.append(client)
        return far

    def step(self, step: Step) -> None:
        what, who, data = step
        what %= 9
        if what in (SERVER, DIE):
            some = [far for far in self.servers if far.open][-4:]
            if some and what == SERVER:
                some[who % len(some)].send(data)
            elif some:
                some[who % len(some)].sock.close()
        elif what == TIME:
            self.app.janitor.run(self.app.poller.tick())
            self.app.drain_progress()
        elif what in (CONNECT, LOGIN) or not self.clients:
            if len(self.clients) >= MOST_CLIENTS:
                return
            far = self.connect(who)
            if what == LOGIN:
                user, place = data[:1] or b"\0", data[1:2] or b"\0"
                self.log_in(
                    far, USERS[user[0] % len(USERS)], PLACES[place[0] % len(PLACES)]
                )
        else:
            self.client_does(what, self.clients[who % len(self.clients)], data)
        self.turn()
        for far in (*self.clients, *self.servers):
            far.take()

    def client_does(self, what: int, far: Far, data: bytes) -> None:
        if not far.open:
            return
        if what == CLIENT:
            far.send(data.replace(CANCEL, self.clients[0].key))
        elif what == LEAVE:
            far.sock.close()
        elif what == HALF:
            with contextlib.suppress(OSError):
                far.sock.shutdown(socket.SHUT_WR)
        else:
            far.reading = not far.reading

    def log_in(self, far: Far, user: bytes, place: bytes) -> None:
        """As a client does that knows the password; servers say welcome meanwhile."""
        far.send(login(user, place))
        scram = ClientSide()
        for _ in range(6):
            self.turn()
            self.welcome_servers()
            for code, body in f.split(far.take())[0]:
                if code == b"R":
                    self.prove(far, user, body, scram)
                elif code == b"K":
                    far.key = body
                    return

    def welcome_servers(self) -> None:
        for server in self.servers:
            if server.open and not server.begun and server.take():
                server.begun = True
                server.send(WELCOME)

    def prove(self, far: Far, user: bytes, body: bytes, scram: Any) -> None:
        kind = int.from_bytes(body[:4], "big")
        if kind == 3:
            far.send(f.message(b"p", PASSWORD.encode() + b"\0"))
        elif kind == 5:
            inner = hashlib.md5(PASSWORD.encode() + user).hexdigest().encode()
            outer = hashlib.md5(inner + body[4:]).hexdigest().encode()
            far.send(f.message(b"p", b"md5" + outer + b"\0"))
        elif kind == 10:
            first = scram.first()
            head = b"SCRAM-SHA-256\0" + struct.pack("!I", len(first))
            far.send(f.message(b"p", head + first))
        elif kind == 11:
            with contextlib.suppress(ScramError):
                scram.server_first(body[4:])
                salted = hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), SALT, 1)
                keys = [
                    hmac.digest(salted, word, "sha256")
                    for word in (b"Client Key", b"Server Key")
                ]
                far.send(f.message(b"p", scram.final(tuple(keys))))

    # The end

    def leave(self) -> None:
        for far in (*self.clients, *self.servers):
            far.sock.close()
        self.turn()
        for client in self.ours:
            if not client.closed:
                client.disconnect("end", False)
        self.turn()
        self.servers.clear()

    @property
    def is_as_before(self) -> bool:
        """Nobody with the right to do so has told the pooler not to serve."""
        app = self.app
        return (
            app.settings is self.settings
            and not self.settings.disable_pqexec
            and app.shutdown_mode is None
            and app.global_mode == "none"
            and not app.exited.done()
            and "fresh" not in app.registry.databases
        )

    def somebody_is_served(self) -> None:
        far = self.connect(0)
        far.send(login(b"u_trust", b"fresh") + f.query("select mine"))
        heard = b""
        for _ in range(12):
            self.turn()
            for server in self.servers:
                self.serve(server)
            heard += far.take()
        if f.rows(heard) != [b"select mine"]:
            raise Found(f"nobody new is served: {heard!r}")
        far.sock.close()
        for server in self.servers:
            server.sock.close()
        self.turn()

    def serve(self, server: Far) -> None:
        """An honest PostgreSQL, whose every row is the text of the query."""
        asked = server.take()
        if asked and not server.begun:
            server.begun = True
            server.send(WELCOME)
            return
        for code, body in f.split(asked)[0]:
            if code == b"Q" and body.startswith(b"SET "):
                server.send(f.complete("SET") + f.ready())
            elif code == b"Q":
                row = f.row_description("x") + f.data_row(body[:-1])
                server.send(row + f.complete("SELECT 1") + f.ready())

    def close(self) -> None:
        for pool in list(self.app.registry.all_pools()):
            for server in list(pool.servers()):
                server.disconnect("end", False, False)
        self.turn()
        if self.app.hba is not None:
            self.app.hba = None
        self.loop.close()
        asyncio.set_event_loop(None)
        self.app.poller.crashed = self.app.poller.after = None
        log.error, log.fatal, connector.connect_nonblocking = self.found


def run(setup: bytes, steps: list[Step]) -> None:
    """Play one input."""
    streams, statements = relay_stream.alive(), known_statements()
    play = Play(setup)
    for step in steps:
        play.step(step)
    play.leave()
    if play.is_as_before:
        play.somebody_is_served()
    play.close()
    del play
    gc.collect()
    if relay_stream.alive() != streams:
        raise Found(f"{relay_stream.alive() - streams} streams made and not freed")
    if known_statements() != statements:
        raise Found("statements outlived their users")
