"""Prepare a password for SCRAM (SASLprep, RFC 4013).

As PostgreSQL does it: a password that SASLprep refuses, or that is not UTF-8, is
used as its raw bytes instead of being rejected.

The one hard idea: to put combining marks in order takes a time that grows with the
square of their number in a row, and nothing else runs meanwhile. So a password with
more of them than any language has (Unicode's Stream-Safe Text) is taken as it is, and
so is one that is longer than anybody's, since all of this is done before a login.
"""

from __future__ import annotations

import stringprep
from unicodedata import combining, normalize

# Bytes of a password with other characters than ASCII's: a thousand characters of any
# kind. A longer one that is normal already needs no preparing.
LONGEST_PREPARED = 4096
MOST_MARKS = 30  # in a row, as UAX 15 bounds them


def saslprep(password: bytes) -> bytes:
    """Normalise *password*; raw bytes where RFC 4013 has no answer."""
    if password.isascii() or len(password) > LONGEST_PREPARED:
        return password
    try:
        text = password.decode()
    except UnicodeDecodeError:
        return password
    prepared = _prepare(text)
    return password if prepared is None else prepared.encode()


def has_long_row_of_marks(text: str) -> bool:
    """Say whether putting the combining marks of *text* in order might take long."""
    # Some characters that are no marks are made of nothing but marks.
    parts = {char: normalize("NFKD", char) for char in set(text)}
    row = 0
    for char in text:
        for part in parts[char]:
            row = row + 1 if combining(part) else 0
            if row > MOST_MARKS:
                return True
    return False


def _prepare(text: str) -> str | None:
    mapped: list[str] = []
    for char in text:
        # U+200B stands in both tables; PostgreSQL takes it for a space.
        if stringprep.in_table_c12(char):
            mapped.append(" ")
        elif not stringprep.in_table_b1(char):
            mapped.append(char)
    plain = "".join(mapped)
    if has_long_row_of_marks(plain):
        return None
    prepared = normalize("NFKC", plain)
    if not prepared:
        return None
    distinct = set(prepared)
    for char in distinct:
        if _is_prohibited(char) or stringprep.in_table_a1(char):
            return None
    if any(stringprep.in_table_d1(char) for char in distinct):
        # RFC 3454, section 6: right-to-left text stands alone and at both ends.
        if any(stringprep.in_table_d2(char) for char in distinct):
            return None
        if not stringprep.in_table_d1(prepared[0]):
            return None
        if not stringprep.in_table_d1(prepared[-1]):
            return None
    return prepared


def _is_prohibited(char: str) -> bool:
    return (
        stringprep.in_table_c12(char)
        or stringprep.in_table_c21_c22(char)
        or stringprep.in_table_c3(char)
        or stringprep.in_table_c4(char)
        or stringprep.in_table_c5(char)
        or stringprep.in_table_c6(char)
        or stringprep.in_table_c7(char)
        or stringprep.in_table_c8(char)
        or stringprep.in_table_c9(char)
    )
