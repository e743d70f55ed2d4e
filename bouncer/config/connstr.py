"""Connection strings, the `key=value key=value` of `[databases]` and its neighbours.

The one hard idea: only the blank separates, and a quoted value ends at the first
quote that is not doubled; the byte behind that quote is swallowed whatever it is.
Pairs come one at a time, because PgBouncer complains about what it meets first.
"""

import re
from collections.abc import Iterator
from typing import Final

BLANKS: Final = re.compile(r" *")
KEY: Final = re.compile(r"([^= ]+) *= *")
QUOTED: Final = re.compile(r"'((?:[^']|'')*+)'")
BARE: Final = re.compile(r"[^ ]+")


class BadConnstr(ValueError):
    """The text is not a list of pairs."""


def pairs(text: str) -> Iterator[tuple[str, str]]:
    """Yield the pairs of *text*; raises `BadConnstr` where the next one is broken."""
    position = skip_blanks(text, 0)
    while position < len(text):
        key = KEY.match(text, position)
        if key is None:
            raise BadConnstr
        position = key.end()
        if text.startswith("'", position):
            value = QUOTED.match(text, position)
            if value is None:
                raise BadConnstr
            found = value[1].replace("''", "'")
            position = value.end() + 1
        else:
            value = BARE.match(text, position)
            if value is None:
                raise BadConnstr
            found = value[0]
            position = value.end()
        if not found:
            raise BadConnstr
        yield key[1], found
        position = skip_blanks(text, position)


def skip_blanks(text: str, position: int) -> int:
    """Return where the blanks from *position* on end."""
    found = BLANKS.match(text, position)
    return found.end() if found else position
