"""What a SELECT may cost: bounds on its text, on SQLite, and on what it may call.

The one hard idea: nothing can break off SQLite while it compiles, and a few hundred
bytes can expand without end (a WITH name stands for its whole query wherever it is
used). So the text is bounded before SQLite sees it, and the memory of all of SQLite
while it works: what would grow runs out of memory within a fraction of a second, is
told so, and the process goes on. Only one query at a time works under that bound.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from admin.catalog import NAMES as ASKED
from admin.encode import Value
from admin.sqlwords import Token
from bouncer.errors import CommandError

LONGEST_QUERY: Final = 65536
# Names, numbers and strings; with the signs between them it is four times as many.
MOST_WORDS: Final = 500
MOST_TOKENS: Final = 4 * MOST_WORDS
DEEPEST: Final = 20
MOST_WITH: Final = 8
# Of the whole process: copies of the tables, sorting, and compiled queries.
MOST_MEMORY: Final = 32 << 20
# One value or row; functions on longer ones take too long to be broken off.
LONGEST_VALUE: Final = 32768
# The text becomes a view, which is a row.
LONGEST_WHEN_COMPILED: Final = LONGEST_QUERY + 8192

_LIMITS: Final = {
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: LONGEST_WHEN_COMPILED,
    sqlite3.SQLITE_LIMIT_COLUMN: 200,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 50,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 25_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 100,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1000,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 99,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}

# All that a query may call. What is not here reads files, tells of SQLite's insides,
# works for as long as a number in it says (printf), or is of no use in these tables.
FUNCTIONS: Final = frozenset(
    """
    abs avg char coalesce count cume_dist current_date current_time
    current_timestamp date datetime dense_rank first_value
    glob group_concat hex ifnull iif instr julianday lag last_value lead length like
    likelihood likely lower ltrim max min nth_value ntile nullif percent_rank
    quote random rank replace round row_number rtrim sign sqlite_version strftime
    substr substring sum time total trim typeof unicode unixepoch unlikely upper
    acos acosh asin asinh atan atan2 atanh ceil ceiling cos cosh degrees exp floor ln
    log log10 log2 mod pi pow power radians sin sinh sqrt tan tanh trunc
    """.split()
)

_CALLED: Final = FUNCTIONS | ASKED

_ACTIONS: Final = frozenset(
    {
        sqlite3.SQLITE_SELECT,
        sqlite3.SQLITE_READ,
        sqlite3.SQLITE_FUNCTION,
        sqlite3.SQLITE_RECURSIVE,
    }
)


def open_bounded(longest: int) -> sqlite3.Connection:
    """Open a database in memory whose values are at most *longest* bytes."""
    # One thread at a time works with it, though not always the same.
    database = sqlite3.connect(
        ":memory:", isolation_level=None, check_same_thread=False
    )
    database.execute(f"PRAGMA hard_heap_limit = {MOST_MEMORY}").close()
    database.execute("PRAGMA temp_store = MEMORY").close()
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, longest)
    for limit, value in _LIMITS.items():
        database.setlimit(limit, value)
    return database


def install(
    database: sqlite3.Connection, functions: Mapping[str, Callable[..., Value]]
) -> None:
    """Let queries call *functions*, with whatever arguments."""
    for name, function in functions.items():
        database.create_function(name, -1, function)


class Guard:
    """Answers SQLite's question whether a query may do something.

    *tables* are those that may be read; *names* those that the query itself has
    given to its parts.
    """

    def __init__(self, tables: frozenset[str], names: frozenset[str]) -> None:
        self.tables = tables
        self.names = names
        self.read: set[str] = set()

    def __call__(
        self, action: int, first: str | None, second: str | None, *rest: str | None
    ) -> int:
        """Allow reading our tables and calling what is on the list."""
        if action not in _ACTIONS:
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_READ:
            table = (first or "").lower()
            if table in self.tables:
                self.read.add(table)
            elif second or table not in self.names:
                # SQLite asks about a part of the query when none of its columns
                # is wanted, with an empty second name.
                return sqlite3.SQLITE_DENY
        elif (
            action == sqlite3.SQLITE_FUNCTION and (second or "").lower() not in _CALLED
        ):
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK


def check_bounds(text: str, tokens: Sequence[Token]) -> None:
    """Refuse a query that might take long to compile.

    *tokens* are its words, or the first `MOST_TOKENS` and one more.
    """
    if len(text.encode()) > LONGEST_QUERY:
        raise too_long()
    if any(token.kind == "open" for token in tokens):
        raise CommandError("unterminated quoted string or comment", "42601")
    words = sum(token.kind != "sign" for token in tokens)
    if words > MOST_WORDS or len(tokens) > MOST_TOKENS:
        raise too_complex(f"{MOST_WORDS} words")
    depth = 0
    for token in tokens:
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if depth > DEEPEST:
            raise too_complex(f"parentheses {DEEPEST} deep")


def too_long() -> CommandError:
    """Refuse a text for its length."""
    return CommandError(
        f"query is too long: {LONGEST_QUERY} bytes are allowed", "54000"
    )


def too_complex(allowed: str) -> CommandError:
    """Refuse a query for its size."""
    return CommandError(f"query is too complex: {allowed} are allowed", "54001")


def with_names(tokens: Sequence[Token]) -> frozenset[str]:
    """Names that WITH gives; refuses too many of them."""
    found: list[str] = []
    for at, token in enumerate(tokens):
        if not token.is_word("AS"):
            continue
        after = at + 1
        while after < len(tokens) and tokens[after].is_word("NOT", "MATERIALIZED"):
            after += 1
        if after < len(tokens) and tokens[after].text == "(":
            found.append(_named(tokens, at - 1))
    if len(found) > MOST_WITH:
        raise too_complex(f"{MOST_WITH} names of WITH and WINDOW")
    return frozenset(found)


def _named(tokens: Sequence[Token], at: int) -> str:
    """Read the name that ends at *at*, perhaps with its columns."""
    if at > 0 and tokens[at].text == ")":
        while at > 0 and tokens[at].text != "(":
            at -= 1
        at -= 1
    return tokens[at].plain if at >= 0 else ""
