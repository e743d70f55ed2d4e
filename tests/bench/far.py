"""Put a network between the pooler and PostgreSQL: each byte arrives a little later.

Run as ``python -m tests.bench.far PORT TARGET_PORT MILLISECONDS``: what is said to PORT
on loopback reaches TARGET_PORT that much later, and so does what is answered.
"""

import asyncio
import sys
from typing import Any

import uvloop


class Half(asyncio.Protocol):
    """One side of a connection; *other* is the side that hears of it, later."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.other: Half | None = None
        self.transport: Any = None
        self.early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """What came before goes out now."""
        self.transport = transport
        transport.writelines(self.early)

    def deliver(self, data: bytes) -> None:
        """The delay is over."""
        if self.transport is None:
            self.early.append(data)
        elif not self.transport.is_closing():
            self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        """Pass it on, later; calls with the same delay keep their order."""
        assert self.other is not None
        asyncio.get_running_loop().call_later(self.delay, self.other.deliver, data)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the other side, too, behind what is still on its way."""
        other = self.other
        if other is not None and other.transport is not None:
            asyncio.get_running_loop().call_later(self.delay, other.transport.close)


async def serve(port: int, target: int, delay: float) -> None:
    """Relay until killed."""
    loop = asyncio.get_running_loop()
    begun: set[asyncio.Task[object]] = set()

    def accept() -> Half:
        near, far = Half(delay), Half(delay)
        near.other, far.other = far, near
        task = loop.create_task(
            loop.create_connection(lambda: far, "127.0.0.1", target)
        )
        begun.add(task)  # type: ignore[arg-type]
        task.add_done_callback(begun.discard)  # type: ignore[arg-type]
        return near

    server = await loop.create_server(accept, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 1000))
