"""Take secrets out of a text that a log, an error or SHOW CONFIG quotes.

The one hard idea: what is quoted is often what could not be understood, so nothing
is parsed. Whatever stands behind a word that looks like the name of a secret, also a
misspelt one, is hidden up to its end; where the end is not clear, up to the end of
the text.
"""

from __future__ import annotations

import re
from typing import Final

HIDDEN: Final = "***"
EMPTY: Final = ("''", '""')

# Enough of `password`, `passwd`, `ldapbindpasswd`, `secret`, and of their misspellings;
# connect_query may hold anything.
_NAME: Final = re.compile(
    r"pass|pasw|pswd|psswd|paswd|pwd|secret|bindpw|connect_query", re.IGNORECASE
)
# Words are taken whole, and never again from their middle: the text may be anybody's.
_SECRET: Final = re.compile(
    r"""
    (?P<name>(?<![\w-])[\w-]++)
    (?P<sign>["']?\s*+(?:=|:=|\bTO\b)\s*+|[ \t]++(?=['"\w]))
    (?P<value>
        '(?:[^'\\]|''|\\.)*+'(?=[\s,;&]|$)
      | "(?:[^"\\]|""|\\.)*+"(?=[\s,;&]|$)
      | ['"].*                              # not closed, or something behind it
      | [^\s,;&'"]++(?=[\s,;&]|$)
      | .++
    )
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
# Blanks in it, and no quotes: words that are no `name=value`.
_REST: Final = re.compile(r"(?:[ \t]++(?![\w-]++\s*+=)[^\s=]++(?=\s|$))*+")
_NAMED: Final = re.compile(r"(?<![\w-])[\w-]++")
# A URL's user and password.
_USERINFO: Final = re.compile(
    r"((?<![\w+.-])[a-z][\w+.-]*+://)[^\s/?#]*@", re.IGNORECASE
)
# Secrets as PostgreSQL stores them.
_STORED: Final = re.compile(r"SCRAM-SHA-256\$[^\s\"']++|\bmd5[0-9a-f]{32}\b")


def is_secret(name: str) -> bool:
    """Whether *name* looks like that of a secret."""
    return _NAME.search(name) is not None


def without_secrets(text: str, bare: bool = False) -> str:
    """Return *text* with `***` where a secret stands, or might.

    *bare*: also behind a name without `=`, as in a line that lacks it.
    """
    text = _USERINFO.sub(rf"\1{HIDDEN}@", text)
    done: list[str] = []
    at = 0
    for word in _NAMED.finditer(text):
        if word.start() < at or not is_secret(word[0]):
            continue
        found = _SECRET.match(text, word.start())
        if found is None or not (bare or found["sign"].strip()):
            continue
        if found["value"] in EMPTY:
            continue  # there is nothing to hide
        done += [text[at : found.start("value")], HIDDEN]
        at = found.end()
        if found["sign"].strip() and text[at - 1] not in "'\"":
            rest = _REST.match(text, at)
            at = at if rest is None else rest.end()
    done.append(text[at:])
    return _STORED.sub(HIDDEN, "".join(done))


def holds_secret(text: str) -> bool:
    """Whether something in *text* would be hidden."""
    return without_secrets(text, bare=True) != text
