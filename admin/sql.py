"""SELECT over what SHOW shows: sqlite in memory, one snapshot per query.

The one hard idea: compiling and running are apart. A query is compiled against
empty tables, on the loop, in microseconds: that says which tables it reads, so that
only those are copied, and which columns it gives. It runs in a thread, on a copy,
with a deadline, so that no query holds up the loop.

Read-only by an authorizer that allows reading and functions and nothing else.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from admin.encode import (
    OID_FLOAT8,
    OID_INT8,
    OID_TEXT,
    Column,
    Value,
    whole_number,
)
from admin.show import TOPICS, USERS_TABLE, Row, Topic
from admin.sqlwords import (
    Types,
    parameter_types,
    tokens_of,
    with_casts,
    without_parameters,
)
from bouncer.errors import CommandError
from bouncer.wire.messages import encode_text

TABLES: Final[dict[str, Topic]] = {
    name.lower(): topic for name, topic in TOPICS.items() if topic.table
} | {"users": USERS_TABLE}

# A query that has not ended by then never will, or asks for a product of tables.
STATEMENT_SECONDS: Final = 2.0
# SQLite instructions between two looks at the clock: well under a millisecond.
STEPS_BETWEEN_LOOKS: Final = 2000
# Values in an answer: a bound on memory, not on sense.
MOST_VALUES: Final = 1_000_000
LONGEST_QUERY: Final = 65536
LONGEST_VALUE: Final = 1_000_000
LONGEST_ERROR: Final = 300

_ALLOWED: Final = frozenset(
    {
        sqlite3.SQLITE_SELECT,
        sqlite3.SQLITE_READ,
        sqlite3.SQLITE_FUNCTION,
        sqlite3.SQLITE_RECURSIVE,
    }
)
# Makes big values out of nothing, or reaches out of the database.
_FORBIDDEN: Final = frozenset({"load_extension", "randomblob", "zeroblob"})

# What SQLite calls the type of a plain column, by the type SHOW announces.
_DECLARED: Final = {20: "INT8", 23: "INT4", 25: "TEXT", 1700: "NUMERIC"}
_OIDS: Final = {name: oid for oid, name in _DECLARED.items()}
_LENGTHS: Final = {OID_INT8: 8, 23: 4, OID_FLOAT8: 8}


def reads_a_table(text: str) -> bool:
    """Whether *text* is a SELECT from one of our tables.

    Anything else that begins with SELECT is a command of the old kind, or nothing.
    """
    if len(text) > LONGEST_QUERY or "SELECT" not in text[:4096].upper():
        return False
    tokens = tokens_of(text)
    if not tokens or not tokens[0].is_word("SELECT"):
        return False
    return any(
        before.is_word("FROM", "JOIN") and name.kind == "name" and name.plain in TABLES
        for before, name in pairwise(tokens)
    )


class Select(NamedTuple):
    """A query that SQLite accepts: its columns, its tables, its parameters."""

    text: str
    shape: tuple[Column, ...]
    tables: tuple[str, ...]
    parameters: tuple[int, ...]  # a type for each, from what it is compared with


class Schema:
    """Empty tables, to compile queries against."""

    def __init__(self) -> None:
        # One client compiles at a time, on the loop's thread.
        self.database = _open(check_same_thread=True)
        self.read: set[str] = set()
        self.guarded = False
        for name in TABLES:
            self.database.execute(_create(name))
        self.database.set_authorizer(self.allow)

    def allow(
        self, action: int, first: str | None, second: str | None, *rest: str | None
    ) -> int:
        """Answer SQLite's question whether a query may do *action*."""
        if action == sqlite3.SQLITE_READ and first:
            self.read.add(first)
        if not self.guarded:
            return sqlite3.SQLITE_OK
        return _allow(action, first, second)

    def compile(self, text: str) -> Select:
        """Check a query and find out what it needs and gives."""
        text = with_casts(text)
        tokens = tokens_of(text)
        count = max(
            (int(each.text[1:]) for each in tokens if each.kind == "parameter"),
            default=0,
        )
        self.read.clear()
        self.guarded = True
        try:
            nothing: dict[str, Value] = {str(n): None for n in range(1, count + 1)}
            self.database.execute(f"EXPLAIN {text}", nothing).close()
        except sqlite3.Error as error:
            raise refused(error) from None
        finally:
            self.guarded = False
        tables = tuple(sorted(self.read & TABLES.keys()))
        columns = {
            column.name: OID_TEXT if column.oid == OID_TEXT else OID_INT8
            for name in tables
            for column in TABLES[name].shape
        }
        shape = self.shape_of(text, Types(tokens, columns))
        return Select(text, shape, tables, parameter_types(tokens, columns, count))

    def shape_of(self, text: str, types: Types) -> tuple[Column, ...]:
        """Name the columns of a query and their types."""
        # A view may have no parameters; NULL has the same (lack of) type.
        bare = without_parameters(text).rstrip().rstrip(";")
        try:
            self.database.execute(f"CREATE TEMP VIEW shape AS {bare}")
            try:
                found = self.database.execute("PRAGMA table_info(shape)").fetchall()
                names = [
                    column[0]
                    for column in self.database.execute(
                        "SELECT * FROM shape LIMIT 0"
                    ).description
                ]
            finally:
                self.database.execute("DROP VIEW shape")
        except sqlite3.Error as error:
            raise refused(error) from None
        kinds = types.of(len(found))
        shape: list[Column] = []
        for row, name, guess in zip(found, names, kinds, strict=True):
            oid = _OIDS.get(row[2], guess)
            shape.append(Column(_title(name), oid, _LENGTHS.get(oid, -1)))
        return tuple(shape)


# PostgreSQL calls the column of a function by the function's name.
_CALL: Final = re.compile(r"(\w+)\s*\(.*\)", re.DOTALL)
# What SQLite hangs on the second column of the same name in a view.
_AGAIN: Final = re.compile(r":\d+$")


def _title(name: str) -> str:
    name = _AGAIN.sub("", name)
    match = _CALL.fullmatch(name)
    return match[1].lower() if match else name


# Running


def _create(name: str) -> str:
    fields = ", ".join(
        f'"{column.name}" {_DECLARED[column.oid]}' for column in TABLES[name].shape
    )
    return f"CREATE TABLE {name} ({fields})"


def _open(check_same_thread: bool) -> sqlite3.Connection:
    database = sqlite3.connect(
        ":memory:", isolation_level=None, check_same_thread=check_same_thread
    )
    database.execute("PRAGMA temp_store = MEMORY")
    database.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, LONGEST_QUERY + 64)
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
    database.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    return database


def _allow(action: int, first: str | None, second: str | None) -> int:
    if action not in _ALLOWED:
        return sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_READ and (first or "").startswith("sqlite_"):
        return sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _FORBIDDEN:
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


def _fill(database: sqlite3.Connection, name: str, rows: list[Row]) -> None:
    marks = ", ".join("?" * len(TABLES[name].shape))
    insert = f"INSERT INTO {name} VALUES ({marks})"
    database.execute(_create(name))
    database.execute("BEGIN")
    try:
        database.executemany(insert, rows)
    except UnicodeEncodeError:
        # A name that is no UTF-8, which SQLite cannot hold.
        database.execute(f"DELETE FROM {name}")
        database.executemany(insert, [list(map(_readable, row)) for row in rows])
    database.execute("COMMIT")


def _readable(value: Value) -> Value:
    if isinstance(value, str):
        return encode_text(value).decode("utf-8", "replace")
    return value


class Run:
    """One execution: a snapshot, the values, and a way to break it off."""

    def __init__(
        self,
        select: Select,
        snapshot: dict[str, list[Row]],
        values: Sequence[Value],
        seconds: float = STATEMENT_SECONDS,
    ) -> None:
        self.select = select
        self.snapshot = snapshot
        self.values = {str(at): value for at, value in enumerate(values, 1)}
        self.seconds = seconds
        self.canceled = False

    def cancel(self) -> None:
        """Break the query off (called from the loop's thread)."""
        self.canceled = True

    def rows(self) -> list[Row]:
        """Load the snapshot, run the query, give its rows (in a thread)."""
        deadline = time.monotonic() + self.seconds
        database = _open(check_same_thread=False)
        try:
            for name, rows in self.snapshot.items():
                _fill(database, name, rows)
            database.set_authorizer(lambda action, *what: _allow(action, *what[:2]))
            database.set_progress_handler(
                lambda: self.canceled or time.monotonic() > deadline,
                STEPS_BETWEEN_LOOKS,
            )
            cursor = database.execute(self.select.text, self.values)
            most = MOST_VALUES // max(1, len(self.select.shape))
            found: list[Row] = cursor.fetchmany(most + 1)
            if len(found) > most:
                raise CommandError(f"more than {most} rows, use LIMIT", "54000")
        except sqlite3.Error as error:
            if self.canceled:
                text = "canceling statement due to user request"
                raise CommandError(text, "57014") from None
            raise refused(error) from None
        except OverflowError:
            raise CommandError("integer out of range", "22003") from None
        finally:
            database.close()
        return [self.promised(row) for row in found]

    def promised(self, row: Row) -> Row:
        """Give each value the type that its column announced."""
        fixed = list(row)
        for at, (value, column) in enumerate(zip(row, self.select.shape, strict=True)):
            if value is None:
                continue
            if column.oid == OID_TEXT:
                if not isinstance(value, (str, bytes)):
                    fixed[at] = str(value)
            elif column.oid == OID_FLOAT8:
                fixed[at] = float(value)
            elif not isinstance(value, int):
                fixed[at] = whole_number(value)
        return fixed


# Beginnings of SQLite's messages and what PostgreSQL would call them.
_STATES: Final = (
    ("no such table", "42P01"),
    ("no such column", "42703"),
    ("no such function", "42883"),
    ("interrupted", "57014"),
    ("not authorized", "42501"),
    ("access to ", "42501"),
    ("string or blob too big", "54000"),
    ("ambiguous column name", "42702"),
    ("misuse of aggregate", "42803"),
)


def refused(error: sqlite3.Error) -> CommandError:
    """Say to a client what SQLite has against its query."""
    text = str(error)[:LONGEST_ERROR]
    for beginning, sqlstate in _STATES:
        if text.startswith(beginning):
            if sqlstate == "57014":
                text = "canceling statement due to statement timeout"
            return CommandError(text, sqlstate)
    return CommandError(text, "42601")
