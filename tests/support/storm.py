"""A storm of logins, and a marker who feels it: programs of their own.

The clients are in another process than the test, so that their own work is nobody's
stall. Both print one line of JSON.

    python -m tests.support.storm logins PORT DATABASE USER PASSWORD COUNT
    python -m tests.support.storm marker PORT DATABASE USER

All connections are opened before the first login begins, then all logins go on at
once, and stay until the last has got in. The marker repeats `select 1` on one
connection until its standard input ends, and tells the longest times that an answer
took.
"""

import json
import os
import resource
import select
import socket
import struct
import sys
import time
from typing import Any

from bouncer.auth.derive import derive
from bouncer.auth.scram import ClientSide

PATIENCE = 60  # seconds
SELECT = b"Q" + struct.pack("!I", 13) + b"select 1\0"


def startup(database: str, user: str) -> bytes:
    """A StartupMessage."""
    words = ("user", user, "database", database)
    body = b"".join(word.encode() + b"\0" for word in words) + b"\0"
    return struct.pack("!II", len(body) + 8, 196608) + body


def message(code: bytes, body: bytes) -> bytes:
    """A message with its header."""
    return code + struct.pack("!I", len(body) + 4) + body


class Login:
    """One client of the storm."""

    keys: dict[tuple[bytes, int], tuple[bytes, bytes]] = {}

    def __init__(self, port: int, password: bytes) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.sock.setblocking(False)
        self.password, self.seen, self.scram = password, b"", ClientSide()
        self.begun = self.took = 0.0
        self.error = ""

    @property
    def is_over(self) -> bool:
        """Whether it is in, or will not be."""
        return bool(self.took or self.error)

    def begin(self, packet: bytes) -> None:
        """Send the startup packet."""
        self.begun = time.monotonic()
        self.sock.send(packet)

    def on_readable(self) -> None:
        """Answer what has come."""
        try:
            part = self.sock.recv(65536)
        except OSError as problem:
            self.error = str(problem)
            return
        self.seen += part
        if not part:
            self.error = self.error or "closed"
        while len(self.seen) >= 5 and not self.error:
            size = 1 + struct.unpack_from("!I", self.seen, 1)[0]
            if len(self.seen) < size:
                return
            code, body = self.seen[:1], self.seen[5:size]
            self.seen = self.seen[size:]
            self.on_message(code, body)

    def on_message(self, code: bytes, body: bytes) -> None:
        """Answer one message."""
        if code == b"E":
            self.error = body.decode(errors="replace").replace("\0", " ")
        elif code == b"Z":
            self.took = time.monotonic() - self.begun
        elif code == b"R":
            kind = struct.unpack_from("!I", body)[0]
            if kind == 10:
                first = self.scram.first()
                size = struct.pack("!I", len(first))
                self.sock.send(message(b"p", b"SCRAM-SHA-256\0" + size + first))
            elif kind == 11:
                self.scram.server_first(body[4:])
                self.sock.send(message(b"p", self.scram.final(self.derived())))

    def derived(self) -> tuple[bytes, bytes]:
        """The keys, which cost a client more than the rest of a login: once for all."""
        wish = self.scram.salt, self.scram.iterations
        if wish not in self.keys:
            self.keys[wish] = derive(self.password, *wish)
        return self.keys[wish]


def storm(port: int, database: str, user: str, password: str, count: int) -> Any:
    """Let *count* clients log in at once."""
    packet = startup(database, user)
    logins = [Login(port, password.encode()) for _ in range(count)]
    poll = select.epoll()
    by_fd = {login.sock.fileno(): login for login in logins}
    for fd in by_fd:
        poll.register(fd, select.EPOLLIN)
    begun = time.monotonic()
    for login in logins:
        login.begin(packet)
    left = len(logins)
    while left and time.monotonic() < begun + PATIENCE:
        for fd, _ in poll.poll(1):
            login = by_fd[fd]
            login.on_readable()
            if login.is_over:
                poll.unregister(fd)
                left -= 1
    took = time.monotonic() - begun
    errors = [login.error or "late" for login in logins if not login.took]
    return {
        "in": count - len(errors),
        "errors": sorted(set(errors)),
        "seconds": round(took, 3),
    }


def marker(port: int, database: str, user: str) -> Any:
    """Repeat a query; the longest answers in milliseconds."""
    times = []
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(startup(database, user))
        until_ready(sock)
        print("ready", flush=True)
        while not select.select([0], [], [], 0.0005)[0]:
            begun = time.monotonic()
            sock.sendall(SELECT)
            until_ready(sock)
            times.append(time.monotonic() - begun)
    times.sort()
    return {
        "count": len(times),
        "median": round(1000 * times[len(times) // 2], 2),
        "longest": [round(1000 * took, 2) for took in times[-5:]],
    }


def until_ready(sock: socket.socket) -> None:
    """Read up to ReadyForQuery."""
    seen = b""
    while seen[-6:-1] != b"Z\0\0\0\5":
        part = sock.recv(65536)
        if not part:
            raise EOFError(seen)
        seen += part


def main(what: str, port: str, database: str, user: str, *more: str) -> None:
    """Run one of the two."""
    if what == "logins":
        password, count = more
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
        # The pooler goes first when both want the processor.
        os.nice(10)
        told = storm(int(port), database, user, password, int(count))
    else:
        told = marker(int(port), database, user)
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
