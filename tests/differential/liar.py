"""A proxy before the pooler that lies on purpose: the tester must notice.

It changes one message of what one connection is told, or a word of what is asked.
"""

import contextlib
import select
import socket
import threading
from dataclasses import dataclass

from tests.relay import frames


@dataclass(frozen=True)
class Lie:
    """What happens to message *place* behind the login: "drop", "repeat", "change"."""

    how: str
    place: int
    connection: int = 1

    def told(self, message: frames.Message) -> bytes:
        """What is sent instead of *message*."""
        code, body = message
        whole = frames.message(code, body)
        if self.how == "drop":
            return b""
        if self.how == "repeat":
            return whole * 2
        return frames.message(code, body[:-1] + b"?") if body else frames.SUSPENDED


class Liar:
    """Listens on a port of its own; *rewrite* is (asked, passed on) of equal length."""

    def __init__(
        self, lie: Lie | None = None, rewrite: tuple[bytes, bytes] | None = None
    ) -> None:
        self.lie, self.rewrite = lie, rewrite
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.target = 0
        self.passages: list[threading.Thread] = []
        self.thread = threading.Thread(target=self._accept, daemon=True)

    def before(self, target: int) -> int:
        """Stand before the port *target*; the port to connect to."""
        self.target = target
        return int(self.listener.getsockname()[1])

    def __enter__(self) -> "Liar":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in (self.thread, *self.passages):
            thread.join(10)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                number = len(self.passages) + 1
                passage = threading.Thread(
                    target=self._pass_on, args=(near, number), daemon=True
                )
                self.passages.append(passage)
                passage.start()

    def _pass_on(self, near: socket.socket, number: int) -> None:
        lie = self.lie if self.lie and self.lie.connection == number else None
        tongue = Tongue(lie)
        with near, socket.create_connection(("127.0.0.1", self.target)) as far:
            with contextlib.suppress(OSError):
                while True:
                    ready, _, _ = select.select([near, far], [], [])
                    if near in ready:
                        raw = near.recv(1 << 16)
                        if not raw:
                            far.shutdown(socket.SHUT_WR)
                            return
                        far.sendall(raw.replace(*self.rewrite) if self.rewrite else raw)
                    if far in ready:
                        raw = far.recv(1 << 16)
                        if not raw:
                            return
                        near.sendall(tongue.told(raw))


class Tongue:
    """Says what the pooler says, but for one lie."""

    def __init__(self, lie: Lie | None) -> None:
        self.lie, self.rest = lie, b""
        self.count: int | None = None  # None until the login is over

    def told(self, raw: bytes) -> bytes:
        """What comes of the bytes *raw*."""
        found, self.rest = frames.split(self.rest + raw)
        return b"".join(map(self._message, found))

    def _message(self, message: frames.Message) -> bytes:
        if self.count is None:
            if message[0] == b"Z":
                self.count = 0
        else:
            self.count += 1
            if self.lie and self.count == self.lie.place + 1:
                return self.lie.told(message)
        return frames.message(*message)
