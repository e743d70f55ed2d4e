"""Texts that were meant for another program: variables that nobody replaces, secrets
that a shell has cut, quotes, lists with the wrong sign between their words.

The one hard idea: each of them is a value like any other, so nothing here is certain.
What is told is only what would be a strange coincidence.
"""

import re
from collections.abc import Iterator
from typing import Final

from bouncer.auth.secrets import MD5, SCRAM, kind_of

# What a shell, a template or a deployment tool would have put something for.
PLACEHOLDER: Final = re.compile(
    r"\$\{[^}]*\}|\$\([^)]*\)|\{\{.*?\}\}|<%.*?%>|\$\{\{.*?\}\}"
    r"|(?<![^\s=])(?:\$[A-Z_][A-Z0-9_]+|`[^`]+`|%[A-Z_][A-Z0-9_]+%)(?=$|\s)"
)
NOT_REPLACED: Final = "nothing is replaced in here"
HEX_BEHIND_MD5: Final = re.compile(r"md5[0-9a-f]{16}", re.I)
MD5_LENGTH: Final = 35
QUOTES: Final = "'\""
WRONG_SIGNS: Final = ";|"


def placeholder(text: str) -> str:
    """Return what stands in *text* for something that was to be filled in."""
    found = PLACEHOLDER.search(text)
    return found[0] if found else ""


def in_quotes(text: str) -> bool:
    """Whether *text* stands between two quotes, which are part of it."""
    return len(text) > 1 and text[0] == text[-1] and text[0] in QUOTES


def secret_doubt(secret: str, quoted: bool = False) -> str:
    """Say why *secret* is hardly what it was meant to be; "" if it may be.

    It is not shown: it may be the real one all the same. *quoted*: it stands in quotes
    of its own.
    """
    if placeholder(secret):
        return f"a variable stands in place of the secret, {NOT_REPLACED}"
    if in_quotes(secret) and not quoted:
        return "the quotes are part of the secret"
    plain = "it is taken as a password in plain text"
    kind = kind_of(secret)
    if secret.upper().startswith("SCRAM-SHA-") and kind != SCRAM:
        return f"a SCRAM secret that is cut or mangled, as a shell does at $: {plain}"
    if kind == MD5 or not secret.lower().startswith("md5"):
        return ""
    if HEX_BEHIND_MD5.match(secret) and len(secret) != MD5_LENGTH:
        return f"an MD5 secret of {len(secret)} instead of {MD5_LENGTH} signs: {plain}"
    if len(secret) == MD5_LENGTH and HEX_BEHIND_MD5.match(secret):
        return f"an MD5 secret has small letters a to f only: {plain}"
    return f"an MD5 secret without its hash: {plain}" if len(secret) == 3 else ""


def odd_words(text: str, separators: str) -> Iterator[tuple[str, str]]:
    """Yield the words of a list that are hardly one, and what was missed.

    *separators* are the signs between words; blanks around a word belong to none.
    """
    for word in re.split(f"[{separators}]", text):
        word = word.strip()
        if any(sign in word for sign in WRONG_SIGNS):
            yield word, "only commas separate"
        elif len(word.split()) > 1:
            yield word, "only commas separate, blanks do not"
        elif in_quotes(word):
            yield word, "no quotes"
