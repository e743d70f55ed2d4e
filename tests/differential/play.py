"""Plays one client of a conversation on a socket and collects what it is told.

The hard idea: how long is one to wait? On PostgreSQL, until its backend has read all
and waits for more (`Quiet`); that gives how many messages are due at each place.
Through us, until so many have come, or a wrong one, or patience ends.
"""

import contextlib
import fcntl
import select
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg

from tests.differential.compare import Heard, difference, first_difference
from tests.differential.speech import HALF, MEET, WAIT, Speaker, Word
from tests.relay import frames
from tests.replay.client import Client, Patience
from tests.support.wire import FakeClient

BETWEEN_PIECES = 0.0005  # seconds: so that they are read one by one
DIRECT_PATIENCE = 30.0
DATABASE, USER = "talk", "u_trust"


class SocketClient(FakeClient):
    """A client over a Unix socket, of which the kernel tells what has been read."""

    def __init__(self, directory: Path, port: int) -> None:
        self.seconds = DIRECT_PATIENCE
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(f"{directory}/.s.PGSQL.{port}")
        Client.__init__(self, sock, Patience())


class Quiet:
    """Tells whether a backend has read all that was sent and waits for more.

    What is sent through a Unix socket counts as unsent until the other end has read
    it. A backend that has, and is seen waiting for its client after that, has run it.
    """

    def __init__(self, conninfo: str) -> None:
        self.connection = psycopg.connect(conninfo, autocommit=True)

    def is_quiet(self, sock: socket.socket, pid: int) -> bool:
        if struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0]:
            return False
        row = self.connection.execute(
            "select wait_event from pg_stat_get_activity(%s)", (pid,)
        ).fetchone()
        return row is None or row[0] == "ClientRead"


class Ear:
    """Reads messages from a socket."""

    def __init__(self, sock: socket.socket, heard: Heard) -> None:
        self.sock, self.heard, self.rest = sock, heard, b""
        sock.setblocking(False)
        self.poll = select.poll()
        self.poll.register(sock, select.POLLIN)

    def listen(self, seconds: float) -> bool:
        """Take what comes within so many seconds; whether anything came."""
        if self.heard.end == "closed" or not self.poll.poll(seconds * 1000):
            return False
        try:
            raw = self.sock.recv(1 << 18)
        except BlockingIOError:
            return False
        except OSError:
            raw = b""
        if not raw:
            self.heard.end = "closed"
        found, self.rest = frames.split(self.rest + raw)
        self.heard.messages += found
        return True


class Player:
    """One client that says its words; what differs between the two ways is `wait`."""

    def __init__(
        self, speaker: Speaker, database: str, meet: threading.Barrier | None = None
    ) -> None:
        self.speaker, self.database = speaker, database
        self.heard, self.meet = Heard(), meet

    def connect(self) -> FakeClient:
        raise NotImplementedError

    def wait(self) -> None:
        """Listen until all that is due has come."""
        raise NotImplementedError

    def hang_up(self) -> None:
        """Listen until the end of the connection."""
        raise NotImplementedError

    def play(self) -> Heard:
        """Say everything; what was heard."""
        try:
            client = self.connect()
        except OSError as problem:
            self.heard.end = f"no connection: {problem}"
            return self.heard
        try:
            if self.login(client):
                self.ear = Ear(client.sock, self.heard)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self.say_all(client)
                    if not self.speaker.leaves and self.heard.end == "open":
                        self.leave(client)
                self.hang_up()
        finally:
            client.close()
        return self.heard

    def login(self, client: FakeClient) -> bool:
        """Log in; whether that went well."""
        told = client.login(self.database, USER, **self.speaker.startup)
        for message in told:
            if message["type"] == "ParameterStatus":
                self.heard.login[message["name"]] = message["value"]
            elif message["type"] == "BackendKeyData":
                self.pid = int(message["key_hex"][:8], 16)
        if told[-1]["type"] != "ReadyForQuery":
            self.heard.end = f"no login: {told[-1]}"
            return False
        return True

    def say_all(self, client: FakeClient) -> None:
        for part in self.speaker.writes():
            if not isinstance(part, Word):
                self.write(client, part)
            elif part.code == WAIT:
                self.wait()
                self.heard.marks.append(len(self.heard.messages))
            elif part.code == HALF:
                client.half_close()
            elif part.code == MEET and self.meet is not None:
                with contextlib.suppress(threading.BrokenBarrierError):
                    self.meet.wait()
            if self.heard.end != "open":
                return

    def leave(self, client: FakeClient) -> None:
        """Say goodbye when all is answered and nobody wants us to stay."""
        self.wait()
        self.heard.marks.append(len(self.heard.messages))
        if self.heard.end == "open":
            self.stay()
            self.write(client, [frames.TERMINATE])

    def stay(self) -> None:
        """Stay until others have had their turn."""

    def write(self, client: FakeClient, pieces: list[bytes]) -> None:
        client.sock.setblocking(True)
        for number, piece in enumerate(pieces):
            if number:
                time.sleep(BETWEEN_PIECES)
            client.send_bytes(piece)
        client.sock.setblocking(False)


class Direct(Player):
    """A client of PostgreSQL itself."""

    def __init__(self, speaker: Speaker, where: tuple[Path, int], quiet: Quiet) -> None:
        super().__init__(speaker, DATABASE)
        self.where, self.quiet = where, quiet

    def connect(self) -> FakeClient:
        return SocketClient(*self.where)

    def wait(self) -> None:
        ends = time.monotonic() + DIRECT_PATIENCE
        while time.monotonic() < ends and self.heard.end == "open":
            # What it had said before it fell silent is here when it is seen silent.
            if self.quiet.is_quiet(self.ear.sock, self.pid):
                while self.ear.listen(0):
                    pass
                return
            self.ear.listen(0.001)
        if self.heard.end == "open":
            raise RuntimeError(f"PostgreSQL is not done with {self.speaker}")

    def hang_up(self) -> None:
        ends = time.monotonic() + DIRECT_PATIENCE
        while self.heard.end == "open":
            self.ear.listen(0.1)
            if time.monotonic() > ends:
                raise RuntimeError(f"PostgreSQL does not let go of {self.speaker}")


class Pooled(Player):
    """A client of ours, who knows what is *right*."""

    def __init__(
        self,
        speaker: Speaker,
        port: int,
        database: str,
        right: Heard,
        patience: float,
        meet: threading.Barrier | None = None,
    ) -> None:
        super().__init__(speaker, database, meet)
        self.port, self.right, self.patience = port, right, patience
        self.compared = 0
        self.settled = threading.Event()  # it has been told all, or has gone
        self.may_leave: threading.Event | None = None

    def play(self) -> Heard:
        try:
            return super().play()
        finally:
            self.settled.set()
            if self.meet is not None and self.heard.end != "closed":
                self.meet.abort()  # nobody need wait for it

    def stay(self) -> None:
        """Stay, if its server is free for others meanwhile."""
        last = self.right.messages[-1:]
        if self.may_leave is not None and last == [(b"Z", b"I")]:
            if not self.speaker.is_open:
                self.settled.set()
                self.may_leave.wait()

    def difference(self) -> str | None:
        """What it was told wrong."""
        return difference(self.right, self.heard, self.speaker.is_open)

    def connect(self) -> FakeClient:
        return FakeClient(self.port, seconds=self.patience)

    def is_wrong(self) -> bool:
        """Whether a message has come that PostgreSQL did not send."""
        new = slice(self.compared, len(self.heard.messages))
        self.compared = len(self.heard.messages)
        return (
            first_difference(self.right.messages[new], self.heard.messages[new])
            is not None
        )

    def until(self, condition: Callable[[], bool]) -> None:
        ends = time.monotonic() + self.patience
        while self.heard.end == "open" and not condition():
            if self.ear.listen(0.1):
                ends = time.monotonic() + self.patience
            if self.is_wrong():
                self.heard.end = "wrong"
            elif time.monotonic() > ends and self.heard.end == "open":
                self.heard.end = "silent"

    def wait(self) -> None:
        number = len(self.heard.marks)
        if number < len(self.right.marks):
            due = self.right.marks[number]
            self.until(lambda: len(self.heard.messages) >= due)
        else:  # PostgreSQL ended the connection before
            self.hang_up()

    def hang_up(self) -> None:
        self.until(lambda: False)
