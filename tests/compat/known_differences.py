"""Recordings that we differ from on purpose, each with its reason.

Every entry names a word that stands in docs/compatibility.md, so that no difference
is kept from the reader. A case that starts to match must leave this list.
"""

from typing import NamedTuple


class Difference(NamedTuple):
    """Why a recorded case does not match, and where the docs say so."""

    reason: str
    word: str


# "suite id" -> Difference
KNOWN: dict[str, Difference] = {}
