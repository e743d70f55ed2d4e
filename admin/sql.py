"""SELECT over what SHOW shows: what a query is, before it runs (`admin/sqlrun.py`).

The one hard idea: compiling and running are apart. A query is compiled against
empty tables: that says which tables it reads, so that only those are copied, and
which columns it gives. Both happen in a thread, one query at a time
(`admin/turn.py`), within bounds (`admin/sqlbounds.py`), so that no query holds up
the loop.

Read-only by an authorizer that allows reading and functions and nothing else.
"""

from __future__ import annotations

import re
import sqlite3
from itertools import pairwise
from typing import Final, NamedTuple

from admin.encode import (
    OID_FLOAT8,
    OID_INT8,
    OID_TEXT,
    Column,
    Value,
)
from admin.show import TOPICS, USERS_TABLE, Topic
from admin.sqlbounds import (
    LONGEST_QUERY,
    LONGEST_WHEN_COMPILED,
    MOST_TOKENS,
    Guard,
    check_bounds,
    open_bounded,
    too_complex,
    with_names,
)
from admin.sqlwords import (
    Types,
    parameter_types,
    tokens_of,
    with_casts,
    without_parameters,
)
from bouncer.errors import CommandError

TABLES: Final[dict[str, Topic]] = {
    name.lower(): topic for name, topic in TOPICS.items() if topic.table
} | {"users": USERS_TABLE}

LONGEST_ERROR: Final = 300

# What SQLite calls the type of a plain column, by the type SHOW announces.
_DECLARED: Final = {20: "INT8", 23: "INT4", 25: "TEXT", 1700: "NUMERIC"}
_OIDS: Final = {name: oid for oid, name in _DECLARED.items()}
_LENGTHS: Final = {OID_INT8: 8, 23: 4, OID_FLOAT8: 8}


def reads_a_table(text: str) -> bool:
    """Whether *text* is a SELECT from one of our tables.

    Anything else that begins with SELECT is a command of the old kind, or nothing.
    """
    if "SELECT" not in text[:4096].upper():
        return False
    tokens = tokens_of(text[: LONGEST_QUERY + 1], MOST_TOKENS + 1)
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
    names: frozenset[str] = frozenset()  # what WITH calls its parts


class Schema:
    """Empty tables, to compile queries against (in a thread)."""

    def __init__(self) -> None:
        self._database: sqlite3.Connection | None = None

    @property
    def database(self) -> sqlite3.Connection:
        """The tables, made when they are first needed, and after a failure."""
        if self._database is None:
            database = open_bounded(LONGEST_WHEN_COMPILED)
            for name in TABLES:
                database.execute(create(name)).close()
            self._database = database
        return self._database

    def compile(self, text: str) -> Select:
        """Check a query and find out what it needs and gives."""
        check_bounds(text, tokens_of(text, MOST_TOKENS + 1))
        text = with_casts(text)
        tokens = tokens_of(text)
        guard = Guard(frozenset(TABLES), with_names(tokens))
        count = max(
            (int(each.text[1:]) for each in tokens if each.kind == "parameter"),
            default=0,
        )
        nothing: dict[str, Value] = {str(n): None for n in range(1, count + 1)}
        try:
            self.database.set_authorizer(guard)
            self.database.execute(f"EXPLAIN {text}", nothing).close()
            self.database.set_authorizer(None)
            tables = tuple(sorted(guard.read))
            columns = {
                column.name: OID_TEXT if column.oid == OID_TEXT else OID_INT8
                for name in tables
                for column in TABLES[name].shape
            }
            shape = self.shape_of(text, Types(tokens, columns))
        except FAILURES as error:
            # What an error has left behind (a view, a full memory) goes with it.
            self.close()
            raise refused(error, too_complex("fewer or smaller parts")) from None
        types = parameter_types(tokens, columns, count)
        return Select(text, shape, tables, types, guard.names)

    def close(self) -> None:
        """Forget the tables."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def shape_of(self, text: str, types: Types) -> tuple[Column, ...]:
        """Name the columns of a query and their types."""
        # A view may have no parameters; NULL has the same (lack of) type.
        bare = without_parameters(text).rstrip().rstrip(";")
        self.database.execute(f"CREATE TEMP VIEW shape AS {bare}").close()
        found = self.database.execute("PRAGMA table_info(shape)").fetchall()
        asked = self.database.execute("SELECT * FROM shape LIMIT 0")
        names = [column[0] for column in asked.description]
        asked.close()
        self.database.execute("DROP VIEW shape").close()
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


def create(name: str) -> str:
    """Say how a table is made."""
    fields = ", ".join(
        f'"{column.name}" {_DECLARED[column.oid]}' for column in TABLES[name].shape
    )
    return f"CREATE TABLE {name} ({fields})"


# All that SQLite and its module raise over a query; MemoryError is a bound of ours.
FAILURES: Final = (sqlite3.Error, sqlite3.Warning, MemoryError, ValueError)

# Beginnings of SQLite's messages and what PostgreSQL would call them.
_STATES: Final = (
    ("no such table", "42P01"),
    ("no such column", "42703"),
    ("no such function", "42883"),
    ("interrupted", "57014"),
    ("not authorized", "42501"),
    ("access to ", "42501"),
    ("vtable constructor failed", "42501"),
    ("string or blob too big", "54000"),
    ("parser stack overflow", "54001"),
    ("Expression tree is too large", "54001"),
    ("too many ", "54001"),
    ("integer overflow", "22003"),
    ("at most ", "54001"),
    ("ambiguous column name", "42702"),
    ("misuse of aggregate", "42803"),
)


def refused(error: Exception, no_room: CommandError) -> CommandError:
    """Say to a client what SQLite has against its query.

    *no_room* is said when memory has reached its bound.
    """
    if isinstance(error, MemoryError):
        return no_room
    text = str(error)[:LONGEST_ERROR]
    for beginning, sqlstate in _STATES:
        if text.startswith(beginning):
            if sqlstate == "57014":
                text = "canceling statement due to statement timeout"
            return CommandError(text, sqlstate)
    return CommandError(text, "42601")
