"""Lists of identifiers, as the value of search_path is one.

PostgreSQL takes such a value apart by rules of its own, which are not those of SQL:
any bytes but blanks and commas may stand in it unquoted. In a SET, where SQL's rules
hold, each identifier is therefore quoted anew, unless it is plain there, too.
"""

import re
from functools import lru_cache

_BLANK = rb"[ \t\n\r\f\v]*"
_ONE = re.compile(_BLANK + rb'(?:"((?:[^"]|"")*)"|([^ \t\n\r\f\v,"][^ \t\n\r\f\v,]*))')
_BEHIND = re.compile(_BLANK + rb"(,|\Z)")
# What means the same without quotes, in any encoding.
_PLAIN = re.compile(rb"[a-z_][a-z0-9_$]*\Z")
# What SQL reads as one identifier, too; how it is folded depends on the encoding.
_FOREIGN = re.compile(rb"[A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*\Z")
# Words that PostgreSQL 12 to 18 take for no name (SQL Key Words, "reserved").
_RESERVED = frozenset(
    b"all analyse analyze and any array as asc asymmetric both case cast check collate"
    b" column constraint create current_catalog current_date current_role current_time"
    b" current_timestamp current_user default deferrable desc distinct do else end"
    b" except false fetch for foreign from grant group having in initially intersect"
    b" into lateral leading limit localtime localtimestamp not null offset on only or"
    b" order placing primary references returning select session_user some symmetric"
    b" system_user table then to trailing true union unique user using variadic when"
    b" where window with".split()
)


def _parts(value: bytes) -> list[tuple[bool, bytes]] | None:
    """Take a list apart into (was it quoted?, what stands there)."""
    if not value.strip(b" \t\n\r\f\v"):
        return []
    found = []
    at = 0
    while True:
        one = _ONE.match(value, at)
        behind = _BEHIND.match(value, one.end()) if one else None
        if one is None or behind is None:
            return None
        quoted, bare = one.groups()
        if quoted is None:
            found.append((False, bare))
        else:
            found.append((True, quoted.replace(b'""', b'"')))
        if not behind.group(1):
            return found
        at = behind.end()


def is_list(value: bytes) -> bool:
    """Would PostgreSQL take *value* for a list of identifiers?"""
    return b"\0" not in value and _parts(value) is not None


def quote_identifier(name: bytes) -> bytes:
    """Write an identifier as a value in a SET; quoted only where it needs it."""
    if _PLAIN.match(name) and name not in _RESERVED:
        return name
    if not name:
        return b"''"  # SQL has no identifier without a character
    return b'"' + name.replace(b'"', b'""') + b'"'


def _rewritten(quoted: bool, text: bytes) -> bytes:
    if not quoted and text.isascii():
        text = text.lower()
    elif not quoted and _FOREIGN.match(text):
        return text  # PostgreSQL folds it, as it would have in the list
    return quote_identifier(text)


@lru_cache(maxsize=64)
def quoted_list(value: bytes) -> bytes | None:
    """Write a list of identifiers as the value in a SET; None when it is none."""
    found = _parts(value)
    if found is None or b"\0" in value:
        return None
    return b", ".join(_rewritten(*part) for part in found) or b"''"
