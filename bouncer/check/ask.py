"""Ask the servers of a configuration how many connections they take.

The one hard idea: a check must neither hang nor do harm. So each server gets one
login with a deadline, at the same time as the others, with the secrets that the
pooler itself would use and the same care about TLS; whoever does not answer is left
out, with the reason.
"""

import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import monotonic
from typing import Final, NamedTuple

from bouncer.auth.derive import MAX_ITERATIONS, derive
from bouncer.auth.md5 import answer, hash_password
from bouncer.auth.scram import ClientSide, ScramError
from bouncer.auth.secrets import MD5, PLAIN, kind_of
from bouncer.auth.tls import VERIFYING, connect_context, failure_of, server_name
from bouncer.check.advice import about
from bouncer.check.certificates import doubt, term_of
from bouncer.check.findings import WARNING, Finding, at
from bouncer.check.front import is_watched
from bouncer.check.reading import Reading
from bouncer.config.settings import Database, Settings
from bouncer.errors import BouncerError
from bouncer.wire import messages

# Seconds for one server, from the connect to its answer.
DEADLINE: Final = 3.0
# Servers asked at once, and at all.
AT_ONCE: Final = 8
MOST: Final = 64
LONGEST_MESSAGE: Final = 1 << 20
QUESTION: Final = (
    "SELECT current_setting('max_connections'), "
    "current_setting('superuser_reserved_connections')"
)

AUTH_OK, AUTH_CLEAR, AUTH_MD5 = 0, 3, 5
AUTH_SASL, AUTH_SASL_CONTINUE, AUTH_SASL_FINAL = 10, 11, 12


class CannotAsk(BouncerError):
    """No answer; the text says why."""


class NoTls(CannotAsk):
    """The server does not speak TLS as it must."""


class Target(NamedTuple):
    """One server, and how to log in to it."""

    host: str
    port: int
    user: str
    dbname: str
    secret: str


@dataclass(slots=True)
class Asked:
    """What a server said, and the databases that go there."""

    target: Target
    databases: list[Database] = field(default_factory=list)
    max_connections: int = 0
    reserved: int = 0
    problem: str = ""
    refused: bool = False  # the problem is the login's, not the network's
    insecure: bool = False  # the problem is TLS's
    certificate: bytes | None = None  # the server's, if it has been verified

    @property
    def place(self) -> str:
        """The server, for a text."""
        return f"{self.target.host or 'the Unix socket'} port {self.target.port}"


class Session:
    """A blocking connection that can log in and ask one question."""

    def __init__(self, target: Target, settings: Settings) -> None:
        self.target = target
        self.settings = settings
        self.until = monotonic() + DEADLINE
        self.buffer = b""
        self.scram: ClientSide | None = None
        self.certificate: bytes | None = None
        self.socket = self.connect()

    def connect(self) -> socket.socket:
        """Connect, with TLS if the pooler would use it."""
        host, port = self.target.host, self.target.port
        directory = host or self.settings.unix_socket_dir
        if host and not host.startswith(("/", "@")):
            plain = socket.create_connection((host, port), DEADLINE)
            return self.secure(plain)
        plain = socket.socket(socket.AF_UNIX)
        plain.settimeout(DEADLINE)
        name = f"{directory}/.s.PGSQL.{port}"
        plain.connect("\0" + name[1:] if name.startswith("@") else name)
        return plain

    def secure(self, plain: socket.socket) -> socket.socket:
        """Ask for TLS as server_tls_sslmode says."""
        mode = self.settings.server_tls_sslmode
        if mode == "disable":
            return plain
        plain.sendall(messages.SSL_REQUEST)
        if plain.recv(1) != b"S":
            if mode in ("allow", "prefer"):
                return plain
            plain.close()
            raise NoTls("server refused SSL")
        context, host = connect_context(self.settings), self.target.host
        try:
            link = context.wrap_socket(plain, server_hostname=server_name(host))
        except ssl.SSLError as error:
            plain.close()
            raise NoTls(failure_of(error, host)) from error
        if mode in VERIFYING:
            self.certificate = link.getpeercert(binary_form=True)
        return link

    def receive(self, count: int) -> bytes:
        """Return *count* bytes."""
        while len(self.buffer) < count:
            left = self.until - monotonic()
            if left <= 0:
                raise CannotAsk("no answer in time")
            self.socket.settimeout(left)
            data = self.socket.recv(65536)
            if not data:
                raise CannotAsk("the server closed the connection")
            self.buffer += data
        found, self.buffer = self.buffer[:count], self.buffer[count:]
        return found

    def message(self) -> tuple[str, bytes]:
        """Return the next message that is no notice: its letter, its body."""
        while True:
            head = self.receive(5)
            length = int.from_bytes(head[1:], "big") - 4
            if not 0 <= length <= LONGEST_MESSAGE:
                raise CannotAsk("this is no PostgreSQL server")
            code, body = chr(head[0]), self.receive(length)
            if code == "E":
                raise CannotAsk(messages.parse_fields(body).get("M", "an error"))
            if code not in "NSA":
                return code, body

    def login(self) -> None:
        """Log in."""
        params = [("user", self.target.user), ("database", self.target.dbname)]
        self.socket.sendall(messages.startup_message(params))
        while True:
            code, body = self.message()
            if code == "Z":
                return
            if code == "R":
                self.authenticate(*messages.parse_authentication(body))

    def authenticate(self, code: int, rest: bytes) -> None:
        """Answer what the server wants to know."""
        secret = self.target.secret
        password = secret.encode("utf-8", "surrogateescape")
        kind = kind_of(secret)
        if code in (AUTH_OK, AUTH_SASL_FINAL):
            if code == AUTH_SASL_FINAL and self.scram is not None:
                self.scram.server_final(rest)
            return
        if not secret:
            raise CannotAsk("there is no password for it")
        if code == AUTH_MD5 and kind in (PLAIN, MD5):
            user = self.target.user.encode("utf-8", "surrogateescape")
            stored = password if kind == MD5 else hash_password(user, password)
            reply = messages.password_message(answer(stored, rest[:4]))
        elif kind != PLAIN:
            raise CannotAsk("its secret does not fit the method of the server")
        elif code == AUTH_CLEAR:
            reply = messages.password_message(password)
        elif code == AUTH_SASL:
            self.scram = ClientSide()
            first = self.scram.first()
            reply = messages.sasl_initial_response(b"SCRAM-SHA-256", first)
        elif code == AUTH_SASL_CONTINUE and self.scram is not None:
            self.scram.server_first(rest)
            if self.scram.iterations > MAX_ITERATIONS:
                raise CannotAsk("the server wants too many iterations")
            keys = derive(password, self.scram.salt, self.scram.iterations)
            reply = messages.sasl_response(self.scram.final(keys))
        else:
            raise CannotAsk(f"authentication method {code} is not known")
        self.socket.sendall(reply)

    def ask(self) -> tuple[int, int]:
        """Return max_connections, and how many of them are for superusers."""
        self.socket.sendall(messages.query(QUESTION))
        found: list[bytes | None] = []
        while True:
            code, body = self.message()
            if code == "D":
                found = messages.parse_data_row(body)
            elif code == "Z":
                break
        try:
            most, reserved = (int(text or b"") for text in found)
        except ValueError:
            raise CannotAsk("the answer is not understood") from None
        return most, reserved

    def close(self) -> None:
        """Leave politely."""
        try:
            self.socket.sendall(messages.TERMINATE)
        except OSError:
            pass
        self.socket.close()


def ask(asked: Asked, settings: Settings) -> None:
    """Fill in what the server of *asked* says."""
    try:
        session = Session(asked.target, settings)
        asked.certificate = session.certificate
        try:
            session.login()
            asked.max_connections, asked.reserved = session.ask()
        finally:
            session.close()
    except ScramError as error:
        asked.problem = " ".join(error.lines)
    except (OSError, BouncerError, ValueError) as error:
        asked.problem = str(error) or type(error).__name__
        asked.insecure = isinstance(error, NoTls)
        asked.refused = isinstance(error, CannotAsk) and not asked.insecure


def health_user(settings: Settings) -> str:
    """Return whom health checks log in as, if there are any."""
    return settings.health_user if is_watched(settings) else ""


def targets(reading: Reading) -> list[Asked]:
    """Return the servers that can be asked, each once."""
    config, found = reading.config, dict[tuple[str, int], Asked]()
    known = reading.userlist.secrets if reading.userlist else {}
    for database in config.databases.values():
        # As `bouncer.probe` chooses, so that its login is tried as well.
        s = config.settings
        user = database.user or health_user(s) or database.auth_user or s.auth_user
        if not user:
            continue
        secret = known.get(user, "")
        if database.user is not None and database.password is not None:
            secret = database.password
        for host in (database.host or "").split(","):
            target = Target(host, database.port, user, database.dbname, secret)
            place = (host, database.port)
            found.setdefault(place, Asked(target)).databases.append(database)
    return list(found.values())[:MOST]


def ask_all(reading: Reading) -> list[Asked]:
    """Ask every server that there are credentials for."""
    found = targets(reading)
    if found:
        with ThreadPoolExecutor(min(AT_ONCE, len(found))) as threads:
            for _ in threads.map(lambda one: ask(one, reading.config.settings), found):
                pass
    return found


def over_tls(reading: Reading, asked: Asked) -> Iterator[Finding]:
    """Warn of servers that TLS does not reach, or soon will not."""
    if asked.insecure:
        text = f"{asked.place} cannot be reached: {asked.problem}"
        yield about(reading, "server_tls_sslmode", text)
    if asked.certificate is not None:
        said = doubt(term_of(asked.certificate))
        if said:
            text = f"the certificate of {asked.place} {said}"
            yield about(reading, "server_tls_sslmode", text)


def compare(reading: Reading, found: list[Asked]) -> Iterator[Finding]:
    """Warn of pools that are larger than their servers."""
    s = reading.config.settings
    for asked in found:
        if asked.refused and asked.target.user == health_user(s):
            text = f'cannot log in to {asked.place} as "{asked.target.user}"'
            yield about(reading, "health_user", f"{text}: {asked.problem}")
        yield from over_tls(reading, asked)
        if not asked.max_connections:
            continue
        room = asked.max_connections - asked.reserved
        total = 0
        for database in asked.databases:
            size = database.pool_size
            size = s.default_pool_size if size is None else size
            limit = database.max_db_connections or max(s.max_db_connections, 0)
            size = min(size, limit) if size and limit else size or limit
            total += size
            if size > room or not size:
                text = f"a pool of {size or 'any number of'} connections, but"
                yield Finding(
                    WARNING,
                    f"{text} {asked.place} takes {room}",
                    *at(database.source),
                    database.name,
                )
        if total > room and len(asked.databases) > 1:
            yield Finding(
                WARNING,
                f"the pools of {len(asked.databases)} databases take up to {total} "
                f"connections per user, but {asked.place} takes {room}",
                s.conffile or "",
            )
