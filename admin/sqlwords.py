"""Read the words of a SELECT: what it gives and what it wants, before it runs.

The one hard idea: a driver asks for types before it has seen a row, and SQLite
knows none for an expression. So they are read from the select list (`Types`) and
from what stands beside a parameter, never from the data: Describe and Execute
cannot disagree. What is not understood is text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from admin.encode import OID_BOOL, OID_FLOAT8, OID_INT4, OID_INT8, OID_TEXT

_TOKEN: Final = re.compile(
    r"""
    (?P<skip>\s+|--[^\n]*|/\*.*?\*/)
  | (?P<text>[xX]?'(?:[^']|'')*')
  | (?P<name>[^\W\d]\w*|"(?:[^"]|"")*"|`[^`]*`|\[[^\]]*\])
  | (?P<parameter>\$[1-9][0-9]?)
  | (?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)
  | (?P<open>['"`\[]|/\*)
  | (?P<sign>::|\|\||<=|>=|<>|!=|==|.)
    """,
    re.VERBOSE | re.DOTALL,
)

_INT_FUNCTIONS: Final = frozenset(
    "count sum length unicode instr row_number rank dense_rank ntile sign "
    "pg_backend_pid pg_my_temp_schema".split()
)
_FLOAT_FUNCTIONS: Final = frozenset(
    "avg total round julianday percent_rank cume_dist date_part".split()
)
_BOOL_FUNCTIONS: Final = frozenset(
    "pg_is_in_recovery has_database_privilege has_schema_privilege".split()
)
# Functions that give one of their arguments, by which of them that may be.
_SAME_FUNCTIONS: Final = {
    "abs": slice(0, 1),
    "coalesce": slice(None),
    "first_value": slice(0, 1),
    "ifnull": slice(None),
    "iif": slice(1, 3),
    "lag": slice(0, None, 2),
    "last_value": slice(0, 1),
    "lead": slice(0, None, 2),
    "max": slice(None),
    "min": slice(None),
    "nth_value": slice(0, 1),
    "nullif": slice(0, 1),
}


class Token(NamedTuple):
    """One word of a query: what kind, and its text as written."""

    kind: str
    text: str

    def is_word(self, *words: str) -> bool:
        """Whether this is one of the unquoted *words* (given in upper case)."""
        return self.kind == "name" and self.text.upper() in words

    @property
    def plain(self) -> str:
        """The name without its quotes, in lower case."""
        return self.text.strip('"`[]').lower()


def tokens_of(text: str, most: int | None = None) -> list[Token]:
    """Cut a query into words, at most *most*; blanks and comments are dropped.

    A quote or a comment that nothing closes is the last one, of kind `open`: each
    further one would be looked for up to the end of the text, too.
    """
    found: list[Token] = []
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or ""
        if kind == "skip":
            continue
        found.append(Token(kind, match[0]))
        if kind == "open" or len(found) == most:
            break
    return found


class Piece(NamedTuple):
    """A word of a query, or what stands between two of them (`skip`)."""

    kind: str
    text: str


def pieces_of(text: str) -> list[Piece]:
    """Cut a query into words and what stands between them, losing nothing."""
    return [Piece(match.lastgroup or "", match[0]) for match in _TOKEN.finditer(text)]


# Types whose name tells SQLite nothing, or the wrong thing (it would make a number).
_TEXT_TYPES: Final = frozenset(
    "name regclass regproc regtype date inet interval json jsonb timestamp timestamptz "
    "uuid".split()
)


def with_casts(text: str) -> str:
    """Write PostgreSQL's `value::type` as SQLite understands it.

    Drivers that put values into the text themselves (JDBC's simple mode) write
    every number like this.
    """
    if "::" not in text:
        return text
    pieces = pieces_of(text)
    done: list[str] = []
    at = 0
    while at < len(pieces):
        kind, word = pieces[at]
        at += 1
        if word != "::" or kind != "sign":
            done.append(word)
            continue
        while at < len(pieces) and pieces[at].kind == "skip":
            at += 1
        name = pieces[at].text if at < len(pieces) else ""
        at += 1
        begin = _operand(done)
        operand = "".join(done[begin:])
        kind = "text" if name.lower() in _TEXT_TYPES else name
        done[begin:] = [f"CAST({operand} AS {kind})"]
    return "".join(done)


def _operand(words: Sequence[str]) -> int:
    """Find where the value in front of a cast begins."""
    at = len(words) - 1
    while at > 0 and words[at].isspace():
        at -= 1
    if at >= 0 and words[at] == ")":
        depth = 0
        while at >= 0:
            depth += {")": 1, "(": -1}.get(words[at], 0)
            if depth == 0:
                break
            at -= 1
        # The name of the function that the parentheses belong to.
        at -= at > 0 and words[at - 1].isidentifier()
    while at > 1 and words[at - 1] == ".":
        at -= 2
    return max(at, 0)


def without_parameters(text: str) -> str:
    """Write NULL where a query has a placeholder."""
    return _TOKEN.sub(
        lambda match: "NULL" if match.lastgroup == "parameter" else match[0], text
    )


class Types:
    """Types of a query's select list, read from its words."""

    def __init__(self, tokens: Sequence[Token], columns: Mapping[str, int]) -> None:
        self.columns = columns  # type by name: text or int8
        self.tokens = tokens
        self.items = list(_select_list(tokens))

    def of(self, width: int) -> list[int]:
        """Give a type for each of *width* columns."""
        kinds = [
            None if item and item[-1].text == "*" else self.item(item)
            for item in self.items
        ]
        if self.reads_nothing:
            # As in PostgreSQL: drivers give a longer integer as a text.
            for at, item in enumerate(self.items):
                if item and item[0].kind == "number" and _is_small(item):
                    kinds[at] = OID_INT4
        if kinds.count(None) == 1:
            star = kinds.index(None)
            gap: list[int | None] = [OID_TEXT] * (width - len(kinds) + 1)
            kinds[star : star + 1] = gap
        if len(kinds) != width:
            return [OID_TEXT] * width
        return [OID_TEXT if kind is None else kind for kind in kinds]

    @property
    def reads_nothing(self) -> bool:
        """Whether it is one row of expressions: `SELECT 1`."""
        return not any(
            token.is_word("FROM", "UNION", "INTERSECT", "EXCEPT")
            for token in self.tokens
        )

    def is_constant(self, at: int) -> bool:
        """Whether column *at* is a constant without a name."""
        if any(item and item[-1].text == "*" for item in self.items[: at + 1]):
            return False
        item = self.items[at] if at < len(self.items) else ()
        return len(item) == 1 and (
            item[0].kind in ("number", "text", "parameter")
            or item[0].is_word("NULL", "TRUE", "FALSE")
        )

    def item(self, item: Sequence[Token]) -> int:
        """Give the type of one expression, its alias left out."""
        for at, token in enumerate(item):
            if token.is_word("AS") and not _depth(item[:at]):
                item = item[:at]
                break
        else:
            item = _without_alias(item)
        if not item:
            return OID_TEXT
        first = item[0]
        if len(item) == 1 and first.is_word("TRUE", "FALSE"):
            return OID_BOOL
        if first.kind == "name" and len(item) > 1 and item[1].text == "(":
            close = _closing(item, 1)
            if close == len(item) - 1 or item[close + 1].is_word("FILTER", "OVER"):
                return self.call(first.plain, item[2:close])
        return self.arithmetic(item)

    def call(self, function: str, inside: Sequence[Token]) -> int:
        """Give the type of a function's result."""
        if function in _INT_FUNCTIONS:
            # The sum of averages is the one that is no integer.
            return OID_FLOAT8 if self.has_float(inside) else OID_INT8
        if function in _FLOAT_FUNCTIONS:
            return OID_FLOAT8
        if function in _BOOL_FUNCTIONS:
            return OID_BOOL
        if function in _SAME_FUNCTIONS:
            return self.one_of(_split(inside)[_SAME_FUNCTIONS[function]])
        if function == "cast":
            kind = inside[-1].text.upper() if inside else ""
            if "INT" in kind:
                return OID_INT8
            if "BOOL" in kind:
                return OID_BOOL
            return OID_FLOAT8 if kind in ("REAL", "FLOAT", "DOUBLE") else OID_TEXT
        return OID_TEXT

    def one_of(self, items: Sequence[Sequence[Token]]) -> int:
        """Give the type of whichever of *items* it will be; text when they differ."""
        kinds = {
            self.item(item)
            for item in items
            if not (len(item) == 1 and item[0].is_word("NULL"))
        }
        if kinds == {OID_INT8, OID_FLOAT8}:
            return OID_FLOAT8
        return kinds.pop() if len(kinds) == 1 else OID_TEXT

    def has_float(self, tokens: Sequence[Token]) -> bool:
        """Whether something in an expression makes it a float."""
        return any(
            token.plain in _FLOAT_FUNCTIONS
            if token.kind == "name"
            else token.kind == "number" and not token.text.isdigit()
            for token in tokens
        )

    def arithmetic(self, item: Sequence[Token]) -> int:
        """Give the type of columns, numbers and signs; text when in doubt."""
        for at, token in enumerate(item):
            if token.kind == "number" or token.text in "+-*/%().":
                continue
            if token.kind != "name":
                return OID_TEXT
            known = self.columns.get(token.plain)
            is_call = at + 1 < len(item) and item[at + 1].text == "("
            is_table = at + 1 < len(item) and item[at + 1].text == "."
            if is_call and token.plain in _INT_FUNCTIONS | _FLOAT_FUNCTIONS:
                continue
            if is_call and token.plain in _SAME_FUNCTIONS:
                continue
            if known != OID_INT8 and not is_table:
                return OID_TEXT
        return OID_FLOAT8 if self.has_float(item) else OID_INT8


def _select_list(tokens: Sequence[Token]) -> Sequence[Sequence[Token]]:
    """Cut out the expressions between SELECT and its FROM."""
    start = 2 if len(tokens) > 1 and tokens[1].is_word("DISTINCT", "ALL") else 1
    depth = 0
    for at in range(start, len(tokens)):
        depth += _step(tokens[at])
        if depth == 0 and tokens[at].is_word("FROM"):
            return list(_split(tokens[start:at]))
    return list(_split(tokens[start:]))


def _split(tokens: Sequence[Token]) -> Sequence[Sequence[Token]]:
    """Cut at the commas outside of parentheses."""
    items: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += _step(token)
        if depth == 0 and token.text == ",":
            items.append([])
        else:
            items[-1].append(token)
    return items


def _without_alias(item: Sequence[Token]) -> Sequence[Token]:
    """Drop a name that stands behind an expression without AS."""
    if len(item) < 2 or item[-1].kind != "name" or item[-1].is_word("END", "NULL"):
        return item
    before = item[-2]
    if before.text == ")" or before.kind in ("name", "number", "text"):
        return item[:-1]
    return item


def _is_small(item: Sequence[Token]) -> bool:
    """Whether an expression is one integer of four bytes, perhaps with a name."""
    number, behind = item[0].text, item[1:]
    named = not behind or (behind[-1].kind == "name" and len(behind) <= 2)
    return named and number.isdigit() and int(number[:20]) < 1 << 31


def _step(token: Token) -> int:
    return {"(": 1, ")": -1}.get(token.text, 0)


def _depth(tokens: Sequence[Token]) -> int:
    return sum(map(_step, tokens))


def _closing(tokens: Sequence[Token], opening: int) -> int:
    """Find the parenthesis that closes the one at *opening*."""
    depth = 0
    for at in range(opening, len(tokens)):
        depth += _step(tokens[at])
        if depth == 0:
            return at
    return len(tokens) - 1


_COMPARISONS: Final = frozenset({"=", "==", "<", ">", "<=", ">=", "<>", "!="})


def parameter_types(
    tokens: Sequence[Token], columns: Mapping[str, int], count: int
) -> tuple[int, ...]:
    """Type each parameter after the column it is compared with, or as text.

    Drivers that send what the server asks for (asyncpg, JDBC) need an integer
    to be announced where an integer is meant.
    """
    kinds = [OID_TEXT] * count
    for at, token in enumerate(tokens):
        if token.kind != "parameter":
            continue
        before = tokens[at - 1]
        other: Token | None = None
        if before.is_word("LIMIT", "OFFSET"):
            kinds[int(token.text[1:]) - 1] = OID_INT8
        elif before.text in _COMPARISONS:
            other = tokens[at - 2]
        elif at + 2 < len(tokens) and tokens[at + 1].text in _COMPARISONS:
            other = tokens[at + 2]
        elif before.is_word("BETWEEN") or before.text in ("(", ","):
            other = _column_before(tokens[:at])
        if other is not None and other.kind == "name":
            kinds[int(token.text[1:]) - 1] = columns.get(other.plain, OID_TEXT)
    return tuple(kinds)


def _column_before(tokens: Sequence[Token]) -> Token | None:
    """Find the name in front of `IN (` or `BETWEEN`."""
    for at in range(len(tokens) - 1, 0, -1):
        if tokens[at].is_word("IN", "BETWEEN"):
            before = tokens[at - 1]
            return tokens[at - 2] if before.is_word("NOT") else before
        if tokens[at].kind == "name":
            return None
    return None
