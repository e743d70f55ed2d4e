"""What a session of the console makes us keep: statements, portals, waiting rows.

The one hard idea: all of it is counted in bytes against one bound, so that it does
not matter which of them a client piles up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

from admin.commands import Statement as Parsed
from admin.encode import Column, Value, mixed_rows, text_rows
from admin.show import Row
from admin.sql import Select
from admin.sqlrun import PACKET_OVERHEAD
from bouncer.errors import CommandError

# What an object with its parts costs beside its bytes, rounded up.
OVERHEAD: Final = 1000
# Statements, portals and the rows that wait in them, of one session.
MOST_HELD: Final = 16 << 20


def weight(value: Value) -> int:
    """Count the bytes of a parameter."""
    return len(value) if isinstance(value, (str, bytes)) else 0


class Held:
    """What one session makes us keep, in bytes."""

    def __init__(self) -> None:
        self.bytes = 0

    def room(self) -> int:
        """So much more may be kept."""
        return MOST_HELD - self.bytes

    def take(self, size: int) -> None:
        """Count *size* bytes; refuse them when they are too many."""
        if size > self.room():
            raise CommandError(
                f"statements and portals hold more than {MOST_HELD >> 20} MB, "
                "close some",
                "54000",
            )
        self.bytes += size

    def give(self, size: int) -> None:
        """Bytes that are not kept any more."""
        self.bytes -= size


class Statement:
    """What Parse made: a command, a query, or nothing at all."""

    __slots__ = ("command", "oids", "select", "size", "text")

    def __init__(
        self,
        text: bytes,
        command: Parsed | None,
        select: Select | None,
        oids: tuple[int, ...],
    ) -> None:
        self.text = text
        self.command = command
        self.select = select
        self.oids = oids
        # The text is there again in what was made of it.
        self.size = OVERHEAD + 3 * len(text)


class Portal:
    """What Bind made: a statement with its values, and how far it has got."""

    __slots__ = (
        "command",
        "formats",
        "over",
        "packets",
        "shape",
        "size",
        "statement",
        "values",
    )

    def __init__(
        self,
        statement: Statement,
        command: Parsed | None,
        values: list[Value],
        shape: tuple[Column, ...],
        formats: list[int],
    ) -> None:
        self.statement = statement
        self.command = command
        self.values = values
        self.shape = shape
        self.formats = formats
        self.packets: Iterator[bytes] | None = None
        self.over = False
        # Its statement stays as long as it does.
        self.size = OVERHEAD + statement.size + sum(map(weight, values))

    def encode(self, rows: Iterable[Row]) -> Iterable[bytes]:
        """Make packets of *rows* in the formats that were asked for."""
        if any(self.formats):
            return mixed_rows(rows, self.shape, self.formats)
        return text_rows(rows, len(self.shape))


class Kept(Iterator[bytes]):
    """The rows of a suspended portal; each is forgotten when it is taken."""

    def __init__(self, rows: deque[bytes], portal: Portal, held: Held) -> None:
        self.rows = rows
        self.portal = portal
        self.held = held

    def __next__(self) -> bytes:
        if not self.rows:
            raise StopIteration
        row = self.rows.popleft()
        size = len(row) + PACKET_OVERHEAD
        self.portal.size -= size
        self.held.give(size)
        return row
