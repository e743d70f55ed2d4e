"""Connection strings, the `key=value key=value` of `[databases]` and its neighbours.

The one hard idea: only the blank separates, and a quoted value ends at the first
quote that is not doubled; the byte behind that quote is swallowed whatever it is.
Pairs come one at a time, because PgBouncer complains about what it meets first.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

BLANKS: Final = re.compile(r" *")
KEY: Final = re.compile(r"([^= ]+) *= *")
QUOTED: Final = re.compile(r"'((?:[^']|'')*+)'")
BARE: Final = re.compile(r"[^ ]+")


class BadConnstr(ValueError):
    """The text is not a list of pairs: the one that begins at *position* is none."""

    def __init__(self, position: int = 0) -> None:
        super().__init__(position)
        self.position = position


class Pair(NamedTuple):
    """One pair, and whether its value stands in quotes."""

    key: str
    value: str
    quoted: bool


def pairs(text: str) -> Iterator[tuple[str, str]]:
    """Yield the pairs of *text*; raises `BadConnstr` where the next one is broken."""
    for pair in walk(text):
        yield pair.key, pair.value


def walk(text: str, position: int = 0) -> Iterator[Pair]:
    """As `pairs`, from *position* on, and tell of quotes."""
    position = skip_blanks(text, position)
    while position < len(text):
        start = position
        key = KEY.match(text, position)
        if key is None:
            raise BadConnstr(start)
        position = key.end()
        quoted = text.startswith("'", position)
        value = (QUOTED if quoted else BARE).match(text, position)
        if value is None:
            raise BadConnstr(start)
        found = value[1].replace("''", "'") if quoted else value[0]
        position = value.end() + quoted
        if not found:
            raise BadConnstr(start)
        yield Pair(key[1], found, quoted)
        position = skip_blanks(text, position)


def skip_blanks(text: str, position: int) -> int:
    """Return where the blanks from *position* on end."""
    found = BLANKS.match(text, position)
    return found.end() if found else position
