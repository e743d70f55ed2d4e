"""The new process's side of an online restart: ask the old one for its sockets.

The dialogue is the old process's console over its Unix socket: SHOW VERSION, SUSPEND,
SHOW FDS (each row carries its descriptor), SHUTDOWN. From SUSPEND on it is PgBouncer's
own, unchanged, so that the old process may be a real one, up to 1.25: from 1.26 on it
has nothing to hand over with, which its version says.

The one hard idea: until `shutdown` nothing has happened. Whoever finds a row that
cannot be served closes the connection and leaves; the old process then resumes.

Unlike the other talks this one is a plain blocking dialogue: it takes place before
there is an event loop, and nobody is being served meanwhile.
"""

import array
import fcntl
import json
import os
import re
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, Self

from bouncer import log
from bouncer.errors import ProtocolError, StartError
from bouncer.snapshot import FD_COLUMNS, FD_PARAMETERS, FdRow
from bouncer.wire.messages import (
    parse_data_row,
    parse_fields,
    query,
    startup_message,
)

# What one recvmsg may bring. A real PgBouncer sends each row with a sendmsg of its
# own; the kernel does not merge data across descriptors.
DATA_SIZE: Final = 65536
FDS_AT_ONCE: Final = 64

# Says to a process of ours that we understand its column "state"; a real PgBouncer
# takes it for any other name.
APPLICATION_NAME: Final = "pybouncer -R"
# The first PgBouncer that cannot, by the words of SHOW VERSION; ours adds its own name.
CANNOT: Final = (1, 26)
VERSION: Final = re.compile(
    rb"PgBouncer (?:version )?((\d+)\.(\d+)[\w.]*)( pybouncer )?"
)
AUTHENTICATION_OK: Final = b"\0\0\0\0"
# A whole answer is bounded by the descriptors that a process may have; one message is
# a row or an error.
MOST_MESSAGE: Final = 64 << 20
CREDENTIALS: Final = struct.Struct("3i")


class Row(NamedTuple):
    """One socket of the old process. *fd* is ours; *number* was the old one's.

    *link* is the old number of the partner, 0 if there is none. *cancel* is the
    cancel key as one big unsigned number. *state* is empty unless the old process is
    one of ours.
    """

    fd: int
    number: int
    task: str
    user: str | None
    database: str | None
    host: str
    port: int
    cancel: int
    link: int
    tracked: dict[str, str]
    password: str | None
    scram_keys: tuple[bytes, bytes] | None
    state: dict[str, Any]


class OldProcess:
    """The control connection to the process that runs."""

    def __init__(self, address: str, port: int) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.began = time.monotonic()
        self.prefix = f"S-0x{id(self):x}: pgbouncer/pgbouncer@unix:{port}"
        self.buffer = b""
        self.fds: list[int] = []
        try:
            self.sock.connect(address)
        except OSError as err:
            self.sock.close()
            raise StartError(f"takeover: connect: {err.strerror}") from None
        try:
            self.refuse_strangers(address)
        except StartError:
            self.sock.close()
            raise
        log.info(f"{self.prefix} new connection to server")

    def refuse_strangers(self, address: str) -> None:
        """Believe nobody but our own user, and root.

        The directory may be open to everybody, like /tmp: then anybody can be the
        first to listen there. What the kernel tells is who began to listen.
        """
        level, name = socket.SOL_SOCKET, socket.SO_PEERCRED
        raw = self.sock.getsockopt(level, name, CREDENTIALS.size)
        _, uid, _ = CREDENTIALS.unpack(raw)
        own = os.geteuid()
        if uid not in (own, 0):
            raise StartError(
                f"takeover: unix:{address} is a socket of uid {uid}, "
                f"neither ours (uid {own}) nor root's, nothing taken over"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave; without `shutdown` the old process resumes its work."""
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()
        self.sock.close()

    # The dialogue

    def login(self) -> None:
        """Be let in as the user that the old process runs as."""
        parameters = [
            ("database", "pgbouncer"),
            ("user", "pgbouncer"),
            ("application_name", APPLICATION_NAME),
        ]
        self.send(startup_message(parameters))
        for code, body in self.messages():
            if code == b"R" and body != AUTHENTICATION_OK:
                raise StartError("takeover: the old process asks for a password")
            if code == b"E":
                raise StartError(f"takeover: {shown_error(body)}")
            if code == b"Z":
                return

    def refuse_unable(self) -> None:
        """Leave a process alone that cannot hand over, before it is asked to.

        What says nothing that we know is asked: it will refuse by itself.
        """
        self.query("SHOW VERSION;")
        found = None
        for code, body in self.messages():
            if code in (b"D", b"N"):  # a notice, before 1.12
                found = found or VERSION.search(body)
            elif code in (b"C", b"E", b"Z"):
                break
        if found is None or found[4]:
            return
        if (int(found[2]), int(found[3])) >= CANNOT:
            version = found[1].decode("ascii", "replace")
            text = f"the running PgBouncer {version} cannot hand over its sockets"
            raise StartError(text)

    def suspend(self) -> None:
        """Make the old process stand still."""
        log.info(f"{self.prefix} login OK, sending SUSPEND")
        self.query("SUSPEND;")
        for code, body in self.messages():
            self.check(code, body)
            if code == b"C" and body == b"SUSPEND\0":
                return

    def fetch(self) -> list[Row]:
        """Return all its sockets."""
        log.info("SUSPEND finished, sending SHOW FDS")
        self.query("SHOW FDS;")
        rows: list[Row] = []
        for code, body in self.messages():
            self.check(code, body)
            if code == b"D":
                rows.append(self.row(body))
            elif code == b"C":
                if body != b"SHOW\0":
                    raise StartError(f"takeover: answer to SHOW FDS: {body!r}")
                if self.fds:
                    raise StartError("takeover: a descriptor without its row")
                return rows
        raise AssertionError

    def shutdown(self) -> None:
        """Let the old process end; from here on there is no way back."""
        log.info("sending SHUTDOWN;")
        self.query("SHUTDOWN;")
        try:
            while self.sock.recv(DATA_SIZE):
                continue
        except ConnectionError:
            # Killed at last: the sockets are ours all the same.
            pass
        self.sock.close()
        age = int(time.monotonic() - self.began)
        log.info(f"{self.prefix} closing because: disko over (age={age}s)")

    # Messages

    def query(self, text: str) -> None:
        """Send a simple query."""
        self.send(query(text))

    def send(self, data: bytes) -> None:
        """Send all of *data*."""
        try:
            self.sock.sendall(data)
        except OSError as err:
            raise StartError(f"takeover: send: {err.strerror}") from None

    def messages(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield (type, body) of the messages that come; descriptors pile up."""
        while True:
            while len(self.buffer) >= 5:
                size = int.from_bytes(self.buffer[1:5], "big") + 1
                if not 5 <= size <= MOST_MESSAGE:
                    raise StartError("takeover: broken message from the old process")
                if len(self.buffer) < size:
                    break
                message, self.buffer = self.buffer[:size], self.buffer[size:]
                yield message[:1], message[5:]
            self.receive()

    def receive(self) -> None:
        """Wait for bytes, and for the descriptors that come with them."""
        space = socket.CMSG_SPACE(FDS_AT_ONCE * array.array("i").itemsize)
        try:
            data, ancillary, flags, _ = self.sock.recvmsg(
                DATA_SIZE, space, socket.MSG_CMSG_CLOEXEC
            )
        except OSError as err:
            raise StartError(f"takeover: receive: {err.strerror}") from None
        for level, kind, raw in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(raw[: len(raw) - len(raw) % numbers.itemsize])
                self.fds += numbers
        if flags & socket.MSG_CTRUNC:
            raise StartError("takeover: descriptors were lost on the way")
        if not data:
            raise StartError("takeover: the old process has closed the connection")
        self.buffer += data

    def check(self, code: bytes, body: bytes) -> None:
        """Refuse what the old process may not say."""
        if code == b"E":
            log.error(f"old bouncer sent: {shown_error(body)}")
            raise StartError("socket takeover failed")
        if code not in (b"T", b"D", b"C", b"Z"):
            raise StartError(f"takeover: unexpected message {code!r}")

    def row(self, body: bytes) -> Row:
        """Read one DataRow, and take the descriptor that belongs to it."""
        try:
            values = [
                None if value is None else value.decode("utf-8", "surrogateescape")
                for value in parse_data_row(body)
            ]
        except ProtocolError as err:
            raise StartError(f"takeover: {err}") from None
        # Columns came over the years; what an older process does not know is NULL.
        values += [None] * (len(FD_COLUMNS) + 1 - len(values))
        if not self.fds:
            # Not the same user: the rows come, but not the sockets.
            raise StartError("takeover: a row without its descriptor")
        try:
            row = row_of(self.fds[0], values)
        except ValueError as err:
            raise not_understood(err) from None
        make_private(self.fds.pop(0))
        return row


def row_of(fd: int, values: list[str | None]) -> Row:
    """Return what the columns of SHOW FDS, and ours behind them, tell of *fd*."""
    told = FdRow(
        *(one.value(text) for one, text in zip(FD_COLUMNS, values, strict=False))
    )
    parameters = (
        (name, getattr(told, column)) for column, name in FD_PARAMETERS.items()
    )
    keys = told.scram_client_key, told.scram_server_key
    try:
        state = json.loads(values[len(FD_COLUMNS)] or "{}")
    except RecursionError:
        raise ValueError("state: too deep") from None
    if not isinstance(state, dict):
        raise ValueError("state: not an object")
    return Row(
        fd=fd,
        number=told.fd,
        task=told.task,
        user=told.user,
        database=told.database,
        host=told.addr,
        port=told.port,
        cancel=told.cancel,
        link=told.link,
        tracked={name: value for name, value in parameters if value is not None},
        password=told.password,
        scram_keys=None if keys[0] is None or keys[1] is None else (keys[0], keys[1]),
        state=state,
    )


def not_understood(err: Exception) -> StartError:
    """Return what ends a takeover whose rows make no sense."""
    return StartError(f"takeover: row not understood: {err}")


def shown_error(body: bytes) -> str:
    """Return severity and text of an ErrorResponse."""
    fields = parse_fields(body)
    return f"{fields.get('S', 'ERROR')}: {fields.get('M', '')}"


def make_private(fd: int) -> None:
    """Set what a descriptor needs that comes from another process."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFD)
    fcntl.fcntl(fd, fcntl.F_SETFD, flags | fcntl.FD_CLOEXEC)
    os.set_blocking(fd, False)
