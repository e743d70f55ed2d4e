"""A proxy that cuts, delays or half-closes a connection at a given byte.

Stands between client and pooler or between pooler and server. Cuts are counted in
bytes of one direction of one connection, so that a test can walk through a
dialogue and break it at each byte of it.
"""

import contextlib
import select
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


class Passage(threading.Thread):
    """One connection through the proxy, with both directions' byte counts.

    One thread serves both directions, so that nobody is inside recv() when a socket
    is closed: then close() would neither end it nor send a reset. It is meant for
    dialogues; two ends that both flood without reading would stop each other.
    """

    def __init__(self, number: int, near: socket.socket, far: socket.socket) -> None:
        super().__init__(daemon=True)
        self.number, self.near, self.far = number, near, far
        self.passed = {UP: 0, DOWN: 0}
        self.cut: Cut | None = None
        self._open = {UP, DOWN}
        self._command: str | None = None
        self._woken, self._waker = socket.socketpair()

    def run(self) -> None:
        """Pass on bytes both ways until both ways have ended or a cut ends them."""
        try:
            while self._open and self._command is None:
                sources = {self._ends(way)[0]: way for way in self._open}
                held = self._held()
                readable, _, _ = select.select(
                    [s for s, way in sources.items() if way != held] + [self._woken],
                    [],
                    [],
                    0.01 if held else None,
                )
                for source in readable:
                    if source in sources and self._command is None:
                        self._pass_on(sources[source])
        except OSError:
            pass
        finally:
            self._close(self._command or "close")
            self.forget()

    def _ends(self, way: str) -> tuple[socket.socket, socket.socket]:
        return (self.near, self.far) if way == UP else (self.far, self.near)

    def _held(self) -> str | None:
        """The direction in which nothing may pass for now."""
        cut = self.cut
        is_holding = cut and cut.how == "hold" and cut.happened.is_set()
        return (
            cut.direction if cut and is_holding and not cut.released.is_set() else None
        )

    def _pass_on(self, way: str) -> None:
        source, sink = self._ends(way)
        room, cut = CHUNK, self.cut
        applies = cut is not None and cut.direction == way and not cut.happened.is_set()
        if cut is not None and applies:
            room = max(0, cut.at - self.passed[way])
        data = source.recv(min(room, CHUNK)) if room else b""
        if data:
            sink.sendall(data)
            self.passed[way] += len(data)
        if cut is not None and applies and self.passed[way] >= cut.at:
            cut.happened.set()
            if cut.how == "half":
                self._end_way(way, sink)
            elif cut.how != "hold":
                self._command = cut.how
        elif not data:
            self._end_way(way, sink)

    def _end_way(self, way: str, sink: socket.socket) -> None:
        self._open.discard(way)
        sink.shutdown(socket.SHUT_WR)

    def _close(self, how: str) -> None:
        for sock in (self.near, self.far):
            with contextlib.suppress(OSError):
                if how == "reset":
                    linger = struct.pack("ii", 1, 0)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                sock.close()
        self._woken.close()

    def forget(self) -> None:
        """Give back what waking the thread needed."""
        self._waker.close()

    def end(self, how: str = "close") -> None:
        """Close both sockets, in order or with a reset."""
        if self._command is None:
            self._command = how
        with contextlib.suppress(OSError):
            self._waker.send(b"x")


class CuttingProxy:
    """Listens on *port* and passes everything to *target_port*; cuts where told.

    *cuts* maps the number of a connection (from 1) to its Cut; 0 stands for every
    connection that has none of its own.
    """

    def __init__(
        self,
        port: int,
        target_port: int,
        cuts: dict[int, Cut] | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.port, self.target_port = port, target_port
        self.cuts = cuts or {}
        self.passages: list[Passage] = []
        self._listener = socket.create_server((host, port), backlog=128)
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
            passage.start()

    def close(self) -> None:
        """Stop listening and end every connection."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for passage in self.passages:
            passage.end()
            passage.join(10)
            passage.forget()

    def __enter__(self) -> "CuttingProxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
