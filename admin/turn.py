"""Whose SELECT it is: one of the whole process at a time, beside the loop.

The one hard idea: the bound on SQLite's memory is the process's, so two queries must
not share it. Who comes later waits, in order, for a bounded time; who leaves makes
room. Work goes to a single thread, so that what a client that left had begun there
ends before the next one's begins.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter
from typing import Final, TypeVar

from admin.catalog import functions
from admin.show import App, Row
from admin.sql import SOURCES, Schema, Select
from admin.sqlrun import Encode, Run
from bouncer.errors import CommandError

T = TypeVar("T")

# A query that has not ended by then never will, or asks for a product of tables.
STATEMENT_SECONDS: Final = 2.0
# So long a query waits for those before it.
WAIT_SECONDS: Final = 10.0
# Seconds for which the thread may keep the interpreter from the loop.
SWITCH_INTERVAL: Final = 0.0005
# The loop breathes after so many seconds, or rows, of copying.
SLICE: Final = 0.001
ROWS_AT_ONCE: Final = 500
ROWS_BETWEEN_LOOKS: Final = 32


class Turn:
    """Lets one SELECT after the other work."""

    def __init__(self) -> None:
        self.schema = Schema()
        self.lock = asyncio.Lock()
        self.thread: ThreadPoolExecutor | None = None

    async def compile(self, text: str) -> Select:
        """Check a query and find out what it needs and gives."""
        async with self.mine():
            return await self.beside(partial(self.schema.compile, text))

    async def run(
        self, app: App, asking: int, work: Run, encode: Encode, room: int
    ) -> list[bytes]:
        """Copy what a query reads and run it: its rows, at most *room* bytes."""
        async with self.mine():
            work.functions = functions(app, asking)
            end = asyncio.get_running_loop().call_later(STATEMENT_SECONDS, work.expire)
            try:
                for name in work.select.tables:
                    rows = SOURCES[name].rows(app, asking)
                    await self.beside(partial(work.load, name, ()))
                    for batch in batches(rows):
                        await self.beside(partial(work.load, name, batch))
                return await self.beside(partial(work.packets, encode, room))
            finally:
                end.cancel()
                work.cancel()  # the client may have left
                self.executor.submit(work.close)

    @asynccontextmanager
    async def mine(self) -> AsyncIterator[None]:
        """Wait for the turn, and hold it."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self.lock.acquire()
        except TimeoutError:
            raise CommandError(
                "canceling statement due to lock timeout: other queries on this "
                "console have not ended",
                "55P03",
            ) from None
        try:
            yield
        finally:
            self.lock.release()

    async def beside(self, work: Callable[[], T]) -> T:
        """Run *work* beside the loop."""
        return await asyncio.get_running_loop().run_in_executor(self.executor, work)

    @property
    def executor(self) -> ThreadPoolExecutor:
        """The thread, started by the first query."""
        if self.thread is None:
            # The loop would wait up to 5 ms for the interpreter each time.
            sys.setswitchinterval(SWITCH_INTERVAL)
            self.thread = ThreadPoolExecutor(1, "console-select")
        return self.thread


def batches(rows: Iterable[Row]) -> Iterable[list[Row]]:
    """Cut *rows* into lists, each made within a slice of time."""
    batch: list[Row] = []
    begun = perf_counter()
    for row in rows:
        batch.append(row)
        if len(batch) % ROWS_BETWEEN_LOOKS == 0 and (
            len(batch) >= ROWS_AT_ONCE or perf_counter() - begun > SLICE
        ):
            yield batch
            batch = []
            begun = perf_counter()
    if batch:
        yield batch
