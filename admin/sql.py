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
from typing import Final, NamedTuple

from admin import catalog
from admin.dialect import as_sqlite
from admin.encode import (
    OID_BOOL,
    OID_FLOAT8,
    OID_INT8,
    OID_OID,
    OID_TEXT,
    Column,
    Value,
)
from admin.show import FAILURES_TABLE, TOPICS, USERS_TABLE, Topic
from admin.sqlbounds import (
    LONGEST_QUERY,
    LONGEST_WHEN_COMPILED,
    MOST_TOKENS,
    Guard,
    check_bounds,
    install,
    open_bounded,
    too_complex,
    with_names,
)
from admin.sqlwords import (
    Types,
    parameter_types,
    tokens_of,
    without_parameters,
)
from bouncer.errors import CommandError

TABLES: Final[dict[str, Topic]] = {
    name.lower(): topic for name, topic in TOPICS.items() if topic.table
} | {"users": USERS_TABLE, "failures": FAILURES_TABLE}

# All that a query may read: those, and a little of PostgreSQL's catalog.
SOURCES: Final[dict[str, Topic]] = TABLES | catalog.TABLES

LONGEST_ERROR: Final = 300

# What SQLite calls the type of a plain column, by the type SHOW announces.
_DECLARED: Final = {
    OID_BOOL: "BOOL",
    OID_INT8: "INT8",
    23: "INT4",
    OID_TEXT: "TEXT",
    OID_OID: "OID",
    OID_FLOAT8: "FLOAT8",
    1700: "NUMERIC",
}
_OIDS: Final = {name: oid for oid, name in _DECLARED.items()}
_LENGTHS: Final = {OID_INT8: 8, 23: 4, OID_FLOAT8: 8, OID_BOOL: 1, OID_OID: 4}


def answerable(text: bytes) -> bool:
    """Whether *text* is a SELECT that reads nothing, or what we have.

    Anything else that begins with SELECT is a command of the old kind, or nothing.
    """
    try:
        names = _sources(text.decode())
    except UnicodeDecodeError:
        return False
    return names is not None and (
        any(name in TABLES for name in names)
        or all(name in SOURCES or name in FUNCTIONS_OF_ROWS for name in names)
    )


def reads_a_table(text: str) -> bool:
    """Whether *text* is a SELECT from one of the tables of SHOW."""
    return any(name in TABLES for name in _sources(text) or ())


# In place of a table.
FUNCTIONS_OF_ROWS: Final = frozenset({"pg_show_all_settings"})


def _sources(text: str) -> list[str] | None:
    """Name what a SELECT reads from, as far as a glance tells; None: it is none."""
    if "SELECT" not in text[:4096].upper():
        return None
    tokens = tokens_of(text[: LONGEST_QUERY + 1], MOST_TOKENS + 1)
    if len(tokens) < 2 or not tokens[0].is_word("SELECT"):
        return None
    found: list[str] = []
    for at, token in enumerate(tokens[:-1]):
        if not token.is_word("FROM", "JOIN") or tokens[at - 1].is_word("EPOCH"):
            continue
        name = tokens[at + 1]
        if name.plain == "pg_catalog" and at + 3 < len(tokens):
            name = tokens[at + 3]
        if name.kind == "name":
            found.append(name.plain)
    return found


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
            install(database, catalog.functions(None, 0))
            for name in SOURCES:
                database.execute(create(name)).close()
            self._database = database
        return self._database

    def compile(self, text: str) -> Select:
        """Check a query and find out what it needs and gives."""
        check_bounds(text, tokens_of(text, MOST_TOKENS + 1))
        text = as_sqlite(text)
        tokens = tokens_of(text)
        guard = Guard(frozenset(SOURCES), with_names(tokens))
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
                for column in SOURCES[name].shape
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
        for at, (row, name) in enumerate(zip(found, names, strict=True)):
            oid = _OIDS.get(row[2], kinds[at])
            title = "?column?" if types.is_constant(at) else _title(name)
            shape.append(Column(title, oid, _LENGTHS.get(oid, -1)))
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
        f'"{column.name}" {_DECLARED[column.oid]}' for column in SOURCES[name].shape
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
    ("user-defined function raised exception", "0A000"),
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
