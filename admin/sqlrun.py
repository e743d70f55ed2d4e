"""One execution of a SELECT: copies of its tables, its rows as finished packets.

The one hard idea: rows become packets where they are found, so that what an answer
costs is known while it grows and ends at a bound; and every value gets the type that
its column has announced, or is refused, before anything is sent.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from admin.catalog import Function
from admin.encode import (
    OID_BOOL,
    OID_FLOAT8,
    OID_NUMERIC,
    OID_OID,
    OID_TEXT,
    Column,
    Value,
    whole_number,
)
from admin.show import Row
from admin.sql import FAILURES, SOURCES, Select, create, refused
from admin.sqlbounds import LONGEST_VALUE, MOST_MEMORY, Guard, install, open_bounded
from bouncer.errors import CommandError
from bouncer.wire.messages import encode_text

Encode = Callable[[Iterable[Row]], Iterable[bytes]]

# SQLite instructions between two looks at whether the time is over; an interrupt
# ends it sooner, except when it comes just before SQLite begins.
STEPS_BETWEEN_LOOKS: Final = 20_000
# What a list and an object of Python add to each packet.
PACKET_OVERHEAD: Final = 48


class Run:
    """One execution: copies of tables, the values, and a way to break it off."""

    def __init__(self, select: Select, values: Sequence[Value]) -> None:
        self.select = select
        self.values = {str(at): value for at, value in enumerate(values, 1)}
        self.functions: Mapping[str, Function] = {}  # what this client may ask
        self.over = ""  # why it has to end
        self.database: sqlite3.Connection | None = None
        self.loaded: set[str] = set()

    # Called from the loop's thread

    def cancel(self) -> None:
        """Somebody wants it to end."""
        self.stop("canceling statement due to user request")

    def expire(self) -> None:
        """Its time is over."""
        self.stop("canceling statement due to statement timeout")

    def stop(self, why: str) -> None:
        """Break it off."""
        self.over = self.over or why
        database = self.database
        if database is not None:
            try:
                database.interrupt()
            except sqlite3.ProgrammingError:
                pass  # it has just been closed

    # Called in a thread, one after the other

    def load(self, name: str, rows: Sequence[Row]) -> None:
        """Copy *rows* into a table."""
        database = self.opened()
        try:
            if name not in self.loaded:
                self.loaded.add(name)
                database.execute(create(name)).close()
            self.insert(database, name, rows)
        except FAILURES as error:
            raise self.failed(error) from None

    def insert(
        self, database: sqlite3.Connection, name: str, rows: Sequence[Row]
    ) -> None:
        """Insert *rows*; values that SQLite cannot hold are made to fit."""
        marks = ", ".join("?" * len(SOURCES[name].shape))
        insert = f"INSERT INTO {name} VALUES ({marks})"
        try:
            database.execute("BEGIN").close()
            database.executemany(insert, rows).close()
        except (UnicodeEncodeError, OverflowError, sqlite3.DataError):
            database.execute("ROLLBACK").close()
            database.execute("BEGIN").close()
            fitting = [list(map(_fitting, row)) for row in rows]
            database.executemany(insert, fitting).close()
        database.execute("COMMIT").close()

    def packets(self, encode: Encode, room: int) -> list[bytes]:
        """Run the query; its rows as *encode* writes them, at most *room* bytes."""
        database = self.opened()
        select = self.select
        database.set_authorizer(Guard(frozenset(SOURCES), select.names))
        database.set_progress_handler(lambda: bool(self.over), STEPS_BETWEEN_LOOKS)
        found: list[bytes] = []
        held = 0
        try:
            cursor = database.execute(select.text, self.values)
            for packet in encode(promised(row, select.shape) for row in cursor):
                held += len(packet) + PACKET_OVERHEAD
                if held > room:
                    raise CommandError(
                        f"result is larger than {room >> 10} kB, use LIMIT", "54000"
                    )
                found.append(packet)
        except FAILURES as error:
            raise self.failed(error) from None
        except OverflowError:
            raise CommandError("integer out of range", "22003") from None
        if self.over:
            raise CommandError(self.over, "57014")
        return found

    def close(self) -> None:
        """Give the copies' memory back."""
        database, self.database = self.database, None
        if database is not None:
            database.close()

    def opened(self) -> sqlite3.Connection:
        """The database of this execution; raises when it has to end."""
        if self.over:
            raise CommandError(self.over, "57014")
        if self.database is None:
            try:
                self.database = open_bounded(LONGEST_VALUE)
                install(self.database, self.functions)
            except FAILURES as error:
                raise self.failed(error) from None
        return self.database

    def failed(self, error: Exception) -> CommandError:
        """Say what went wrong."""
        if self.over:
            return CommandError(self.over, "57014")
        allowed = f"query needs more than {MOST_MEMORY >> 20} MB of memory"
        return refused(error, CommandError(allowed, "54000"))


def _fitting(value: Value) -> Value:
    if isinstance(value, str):
        data = encode_text(value)[: LONGEST_VALUE // 4]
        return data.decode("utf-8", "replace")
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        return float(value)
    return value


def promised(row: Row, shape: Sequence[Column]) -> Row:
    """Give each value the type that its column has announced."""
    fixed = list(row)
    for at, (value, column) in enumerate(zip(row, shape, strict=True)):
        if value is None:
            continue
        if column.oid == OID_TEXT:
            if not isinstance(value, (str, bytes)):
                fixed[at] = str(value)
        elif column.oid == OID_BOOL:
            # Binary writers know these, too.
            fixed[at] = value if value in ("t", "f") else "ft"[bool(value)]
        elif column.oid == OID_FLOAT8:
            fixed[at] = _number(value)
        elif not isinstance(value, int):
            fixed[at] = _whole(value, column)
    return fixed


def _number(value: Value) -> float:
    try:
        return float(value or 0)
    except ValueError:
        raise CommandError(f"value is no number: {_shown(value)}", "22P02") from None


def _whole(value: Value, column: Column) -> int:
    number = whole_number(value)
    bits = 63 if column.oid == OID_NUMERIC else 8 * column.length - 1
    low, high = -(1 << bits), 1 << bits
    if column.oid == OID_OID:
        low, high = 0, 1 << 32
    if not low <= number < high:
        raise CommandError("integer out of range", "22003")
    return number


def _shown(value: Value) -> str:
    return repr(value)[:100]
