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
KNOWN: dict[str, Difference] = {
    "ini 180-reload-syntax-error": Difference(
        "a RELOAD that fails changes nothing", "a RELOAD that fails"
    ),
    "ini 181-reload-file-gone": Difference(
        "a RELOAD that fails keeps the peers", "a RELOAD that fails"
    ),
    "ini 183-reload-no-reload-keys": Difference(
        "a RELOAD that fails keeps all settings", "a RELOAD that fails"
    ),
    "ini 184-reload-auth-file": Difference(
        "who left auth_file is unknown, and the log says so",
        "users taken out of `auth_file`",
    ),
    "ini 185-reload-auth-file-trust": Difference(
        "who left auth_file does not get in", "users taken out of `auth_file`"
    ),
    "ini 186-reload-forced-user": Difference(
        "a new forced user is a user", "another forced user"
    ),
    "ini 190-reload-twice-same-error": Difference(
        "a RELOAD that fails adds no databases", "a RELOAD that fails"
    ),
}
