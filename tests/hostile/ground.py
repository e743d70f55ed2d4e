"""What an attack stands on: sockets that pour bytes, and logins to begin from.

An attack is a function of an `Attack`. It runs in a process of its own, at a lower
priority than the pooler's, until its time is over; whatever the pooler does to its
connections (closes, refuses, stops reading) is no failure of the attack.
"""

import contextlib
import os
import resource
import select
import socket
import struct
import time
from collections.abc import Callable, Mapping

ATTEMPT = 5.0  # seconds that one step of a login may take


def message(code: bytes, body: bytes = b"") -> bytes:
    """A message with its header."""
    return code + struct.pack("!I", len(body) + 4) + body


def startup(database: str, user: str, *more: str) -> bytes:
    """A StartupMessage; *more* are names and values in turn."""
    words = ("user", user, "database", database, *more)
    body = b"".join(word.encode() + b"\0" for word in words) + b"\0"
    return struct.pack("!II", len(body) + 8, 196608) + body


def query(sql: str) -> bytes:
    """A simple query."""
    return message(b"Q", sql.encode() + b"\0")


def until_ready(sock: socket.socket) -> None:
    """Read up to ReadyForQuery, whatever its status."""
    seen = b""
    while seen[-6:-1] != b"Z\0\0\0\5":
        part = sock.recv(65536)
        if not part:
            raise ConnectionError
        seen = seen[-6:] + part


class Attack:
    """One attack under way: where to, until when, on how many connections."""

    def __init__(self, port: int, seconds: float, count: int) -> None:
        self.port, self.until, self.count = port, time.monotonic() + seconds, count
        self.sent = self.opened = 0

    @property
    def goes_on(self) -> bool:
        """Whether its time is not over."""
        return time.monotonic() < self.until

    def connect(self) -> socket.socket:
        """A new connection."""
        sock = socket.create_connection(("127.0.0.1", self.port), ATTEMPT)
        self.opened += 1
        return sock

    def login(self, database: str, user: str) -> socket.socket:
        """A connection that has got in, without a password."""
        sock = self.connect()
        sock.sendall(startup(database, user))
        until_ready(sock)
        return sock

    def pour(
        self,
        renew: Callable[[], socket.socket],
        data: bytes,
        first: bytes = b"",
        reads: bool = False,
    ) -> None:
        """Send *data* over and over on connections made by *renew*.

        *first* goes before, once on each. Answers are thrown away if *reads*, else
        left in the kernel. A connection that ends is replaced.
        """
        left: dict[socket.socket, memoryview] = {}
        view = memoryview(data)
        while self.goes_on:
            while len(left) < self.count and self.goes_on:
                with contextlib.suppress(OSError):
                    sock = renew()
                    if first:
                        sock.sendall(first)
                    sock.setblocking(False)
                    left[sock] = view
            watched = list(left)
            readable = watched if reads else []
            to_read, to_write, _ = select.select(readable, watched, [], 0.05)
            for sock in to_read:
                with contextlib.suppress(BlockingIOError, OSError):
                    while sock.recv(1 << 16):
                        pass
            for sock in to_write:
                try:
                    done = sock.send(left[sock])
                except BlockingIOError:
                    continue
                except OSError:
                    del left[sock]
                    sock.close()
                    continue
                self.sent += done
                left[sock] = left[sock][done:] or view
        for sock in left:
            sock.close()

    def again(self, once: Callable[[], None]) -> None:
        """Do *once* over and over."""
        while self.goes_on:
            with contextlib.suppress(OSError):
                once()

    def hold(self, renew: Callable[[], socket.socket], data: bytes) -> None:
        """Send *data* once on each connection, and keep all of them open."""
        held = []
        for _ in range(self.count):
            if not self.goes_on:
                break
            with contextlib.suppress(OSError):
                sock = renew()
                sock.setblocking(False)
                self.sent += sock.send(data)
                held.append(sock)
        while self.goes_on:
            select.select([], [], [], 0.05)


def run(
    attacks: Mapping[str, tuple[Callable[[Attack], None], int]],
    name: str,
    port: str,
    seconds: str,
) -> None:
    """Run the attack that the command line names."""
    os.nice(10)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    function, count = attacks[name]
    attack = Attack(int(port), float(seconds), count)
    print("begun", flush=True)
    function(attack)
    print(attack.opened, attack.sent, flush=True)
