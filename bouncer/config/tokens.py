"""The tokens of HBA and ident files.

The one hard idea: quoting takes a word's special meaning away, so a token carries
whether it was quoted, and keywords are looked for in bare ones only.
"""

import re
from enum import IntEnum
from typing import Final

SPACE: Final = " \t\n\v\f\r"
WHITESPACE: Final = re.compile(r"[ \t-\r]*")
BARE: Final = re.compile(r'[^ \t-\r,#"]+')
QUOTED: Final = re.compile(r'"((?:[^"]|"")*+)"')


class Kind(IntEnum):
    """Kinds of tokens; one of PgBouncer's messages shows the number."""

    QUOTED = 0
    BARE = 1
    COMMA = 2
    BROKEN = 3
    END = 4


class Tokens:
    """One line, cut into tokens on demand; `kind` and `text` are the current one.

    At a comma, at the end of a line and where a token is broken, `text` is still that
    of the last word: PgBouncer shows it in its messages.
    """

    def __init__(self, line: str) -> None:
        self.line = line
        self.position = 0
        self.kind = Kind.END
        self.text = ""
        self.next()

    def next(self) -> None:
        """Go to the next token."""
        if self.kind is Kind.BROKEN:
            return
        found = WHITESPACE.match(self.line, self.position)
        self.position = found.end() if found else self.position
        if self.position >= len(self.line) or self.line[self.position] == "#":
            self.kind = Kind.END
            return
        if self.line[self.position] == ",":
            self.kind = Kind.COMMA
            self.position += 1
            return
        quoted = self.line[self.position] == '"'
        found = (QUOTED if quoted else BARE).match(self.line, self.position)
        if found is None:
            self.kind = Kind.BROKEN
            return
        self.position = found.end()
        if quoted:
            self.kind, self.text = Kind.QUOTED, found[1].replace('""', '"')
        else:
            self.kind, self.text = Kind.BARE, found[0]

    def rest(self) -> str:
        """Return the rest of the line behind the current token, as it stands."""
        return self.line[self.position :].strip(SPACE)

    def at_end(self) -> bool:
        """Whether nothing follows."""
        return self.kind is Kind.END

    def is_word(self) -> bool:
        """Whether the current token is a bare or a quoted word."""
        return self.kind in (Kind.BARE, Kind.QUOTED)

    def is_bare(self, *words: str) -> bool:
        """Whether the current token is one of these keywords, unquoted."""
        return self.kind is Kind.BARE and self.text in words
