"""Write a query as SQLite understands it.

The one hard idea: drivers write the same few things in PostgreSQL's way, by habit:
`pg_catalog.` in front of a name, `current_user` without parentheses, `value::type`.
Each is replaced word by word; whatever else SQLite does not know stays, and is
refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from admin.sqlwords import Piece, pieces_of, with_casts

# Functions that are called without parentheses.
_BARE: Final = frozenset(
    "current_catalog current_role current_schema current_user session_user".split()
)


def as_sqlite(text: str) -> str:
    """Write *text* for SQLite."""
    pieces = pieces_of(text)
    words = [at for at, piece in enumerate(pieces) if piece.kind != "skip"]
    if _rewrite(pieces, words):
        text = "".join(piece.text for piece in pieces)
    return with_casts(text)


def _rewrite(pieces: list[Piece], words: Sequence[int]) -> bool:
    """Replace words of *pieces* where *words* stand; whether any were."""
    done = False
    for place, at in enumerate(words):
        if _rewrite_any(pieces, words, place):
            done = True
            continue
        for length, replacement in _found(pieces, words, place):
            for gone in words[place : place + length]:
                pieces[gone] = Piece("skip", "")
            pieces[at] = Piece("skip", replacement)
            done = True
    return done


def _found(
    pieces: Sequence[Piece], words: Sequence[int], place: int
) -> list[tuple[int, str]]:
    """Say how many words from *place* on are to be replaced, and by what."""
    here = pieces[words[place]]
    if here.text == "!" and _texts(pieces, words[place + 1 : place + 2]) == ["~"]:
        return [(2, " NOT REGEXP ")]
    if here.kind != "name" or here.text[0] in '"`[':
        return []
    behind = _texts(pieces, words[place + 1 : place + 4])
    before = pieces[words[place - 1]] if place else here
    word = here.text.lower()
    if word == "pg_catalog" and behind[:1] == ["."]:
        return [(2, "")]
    if word == "pg_show_all_settings" and behind[:2] == ["(", ")"]:
        return [(3, "pg_settings")]
    if word == "extract" and behind == ["(", "epoch", "from"]:
        return [(4, "date_part('epoch', ")]
    if word == "at" and behind[:2] == ["time", "zone"] and len(behind) == 3:
        return [(4, "")]
    if word == "default" and before.text.upper() == "AS":
        return [(1, '"default"')]
    if (
        word in _BARE
        and behind[:1] not in (["("], ["."])
        and before.text != "."
        and before.text.upper() != "AS"
    ):
        return [(1, f"{word}()")]
    return []


def _rewrite_any(pieces: list[Piece], words: Sequence[int], place: int) -> bool:
    """Write `column = ANY(array)` as a call; whether it stands at *place*."""
    if _texts(pieces, words[place : place + 3]) != ["=", "any", "("] or not place:
        return False
    first = place - 1
    if first > 1 and pieces[words[first - 1]].text == ".":
        first -= 2
    column = pieces[words[first]]
    if column.kind != "name":
        return False
    pieces[words[first]] = Piece("name", f"any_of({column.text}")
    pieces[words[place]] = Piece("sign", ",")
    for gone in words[place + 1 : place + 3]:
        pieces[gone] = Piece("skip", "")
    return True


def _texts(pieces: Sequence[Piece], places: Sequence[int]) -> list[str]:
    return [pieces[at].text.lower() for at in places]
