"""Cut the text of a Query into its statements, as PostgreSQL does.

The one hard idea: comments are no words and semicolons in quotes are no ends, in
whatever protocol the text came. So it is cut before anybody asks what it means, and
whoever reads a statement never sees either. A statement that has neither is left as
it was written, byte by byte.
"""

from __future__ import annotations

import re
from typing import Final

from bouncer.errors import CommandError

# Statements of one Query; each of them may take its time.
MOST_STATEMENTS: Final = 500
_BLANK: Final = b" \t\n\r\f\v"

# Pieces of one text: comments, statements, and what stands between them.
MOST_PIECES: Final = 4 * MOST_STATEMENTS

# Each takes as much as it can, so that they are few. (Only single characters are
# repeated possessively: some Python 3.11 take half of a group then.)
_PIECE: Final = re.compile(
    rb"""
    (?P<comment> (?: --[^\n\r]*+
                   | /\* (?: [^*/]++ | \*(?!/) | /(?!\*) )* \*/
                 )+ )
  | (?P<end> ; [; \t\n\r\f\v]*+ )
  | (?P<text> (?:
        [eE]' (?: [^'\\]++ | \\. | '' )* ' (?!')
      | ' (?: [^']++ | '' )* ' (?!')
      | " (?: [^"]++ | "" )* " (?!")
      | (?![eE]') [0-9A-Za-z_\x80-\xff][0-9A-Za-z_\x80-\xff$]*+
      | [^-/;$'"0-9A-Za-z_\x80-\xff]++
      | -(?!-) | /(?!\*)
      | \$ (?! (?:[A-Za-z_\x80-\xff][0-9A-Za-z_\x80-\xff]*+)? \$ )
    )+ )
  | (?P<block> /\* )
    """,
    re.VERBOSE | re.DOTALL,
)
_BLOCK_EDGE: Final = re.compile(rb"/\*|\*/")


def cut(text: bytes) -> list[bytes] | None:
    """Give the statements of *text*, without comments and the empty ones.

    None when a quote or a comment is not closed, or a dollar quote begins, which no
    command has: then no part of it is to be carried out.
    """
    found: list[bytes] = []
    parts: list[bytes] = []
    at = 0
    for _ in range(MOST_PIECES):
        if at == len(text):
            _keep(found, parts)
            return found
        match = _PIECE.match(text, at)
        if match is None:
            return None
        kind, at = match.lastgroup, match.end()
        if kind == "text":
            parts.append(match[0])
        elif kind == "end":
            _keep(found, parts)
        else:
            if kind == "block":  # others stand in it
                at = _after_block(text, at)
                if at < 0:
                    return None
            parts.append(b" ")
    raise _too_complex(f"{MOST_PIECES} comments and statements")


def _keep(found: list[bytes], parts: list[bytes]) -> None:
    statement = b"".join(parts)
    parts.clear()
    if statement.strip(_BLANK):
        if len(found) == MOST_STATEMENTS:
            raise _too_complex(f"{MOST_STATEMENTS} statements in one query")
        found.append(statement)


def _after_block(text: bytes, at: int) -> int:
    """Find the end of the comment whose begin ends at *at*; they nest. -1: none."""
    depth = 1
    for edge in _BLOCK_EDGE.finditer(text, at):
        depth += 1 if edge[0] == b"/*" else -1
        if depth == 0:
            return edge.end()
    return -1


def _too_complex(allowed: str) -> CommandError:
    return CommandError(f"query is too complex: {allowed} are allowed", "54001")
