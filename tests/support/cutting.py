"""A proxy that cuts, delays or half-closes a connection at a given byte.

Stands between client and pooler or between pooler and server. Cuts are counted in
bytes of one direction of one connection, so that a test can walk through a
dialogue and break it at each byte of it.
"""

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass, field

UP, DOWN = "up", "down"  # from the one who connected; back to them
CHUNK = 1 << 16


@dataclass
class Cut:
    """What happens once *at* bytes have passed in *direction*.

    *how*: "close" (both ends, in order), "reset" (TCP reset to both), "half" (no
    more is passed on this way, the other way stays open), "hold" (nothing passes
    until `release`).
    """

    direction: str
    at: int
    how: str = "close"
    happened: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        """Let a held connection go on."""
        self.released.set()


class Passage:
    """One connection through the proxy, with both directions' byte counts."""

    def __init__(self, number: int, near: socket.socket, far: socket.socket) -> None:
        self.number, self.near, self.far = number, near, far
        self.passed = {UP: 0, DOWN: 0}
        self.cut: Cut | None = None

    def end(self, how: str) -> None:
        """Close both sockets, in order or with a reset."""
        for sock in (self.near, self.far):
            with contextlib.suppress(OSError):
                if how == "reset":
                    linger = struct.pack("ii", 1, 0)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    sock.close()
                else:
                    sock.shutdown(socket.SHUT_RDWR)

    def pump(self, direction: str) -> None:
        """Pass on bytes of one direction until it ends or is cut."""
        source, sink = (
            (self.near, self.far) if direction == UP else (self.far, self.near)
        )
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                data = self._before_cut(direction, data, sink)
                if data is None:
                    return
                sink.sendall(data)
                self.passed[direction] += len(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def _before_cut(
        self, direction: str, data: bytes, sink: socket.socket
    ) -> bytes | None:
        """What of *data* may still pass; None when the cut has ended this direction."""
        cut = self.cut
        if cut is None or cut.direction != direction or cut.happened.is_set():
            return data
        room = cut.at - self.passed[direction]
        if len(data) < room or (len(data) == room and cut.how == "hold" and room == 0):
            return data
        if room > 0:
            sink.sendall(data[:room])
            self.passed[direction] += room
        cut.happened.set()
        if cut.how == "hold":
            cut.released.wait()
            return data[max(room, 0) :]
        if cut.how == "half":
            sink.shutdown(socket.SHUT_WR)
        else:
            self.end(cut.how)
        return None


class CuttingProxy:
    """Listens on *port* and passes everything to *target_port*; cuts where told.

    *cuts* maps the number of a connection (from 1) to its Cut; 0 stands for every
    connection that has none of its own.
    """

    def __init__(
        self, port: int, target_port: int, cuts: dict[int, Cut] | None = None
    ) -> None:
        self.port, self.target_port = port, target_port
        self.cuts = cuts or {}
        self.passages: list[Passage] = []
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.target_port))
            except OSError:
                near.close()
                continue
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            passage = Passage(len(self.passages) + 1, near, far)
            passage.cut = self.cuts.get(passage.number, self.cuts.get(0))
            self.passages.append(passage)
            for direction in (UP, DOWN):
                threading.Thread(
                    target=passage.pump, args=(direction,), daemon=True
                ).start()

    def close(self) -> None:
        """Stop listening and end every connection."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for passage in self.passages:
            if passage.cut:
                passage.cut.release()
            passage.end("close")
            for sock in (passage.near, passage.far):
                sock.close()

    def __enter__(self) -> "CuttingProxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
