"""MD5 passwords: PostgreSQL's stored hash and its answer to a challenge.

The stored form is `md5` + md5(password + user name); an answer hashes its digits
once more, with the salt of the challenge, so a stored hash is as good as the
password itself. Kept because servers and clients still ask for it; where the machine
forbids it (FIPS), nobody gets in by it.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

try:
    # Python's own: no trip through OpenSSL's provider look-up for each hash.
    from _md5 import md5  # type: ignore[import-not-found]
except ImportError:
    from hashlib import md5

FORBIDDEN = "md5 is forbidden on this machine (FIPS)"


@cache
def is_allowed() -> bool:
    """Say whether this machine's OpenSSL lets md5 protect anything.

    Python's own would work all the same, which is not what whoever forbade it wants.
    """
    try:
        hashlib.md5(b"")
    except ValueError:
        return False
    return True


def hash_password(user: bytes, password: bytes) -> bytes:
    """Give the stored form of *password*."""
    return b"md5" + _digest(password + user)


def answer(stored: bytes, salt: bytes) -> bytes:
    """Give the answer to a challenge by *salt* for a *stored* hash."""
    return b"md5" + _digest(stored[3:] + salt)


def begun_with(stored: bytes) -> Any:
    """Give the hash object of an answer for a *stored* hash; the salt is to follow."""
    return md5(stored[3:])


def _digest(data: bytes) -> bytes:
    digits: str = md5(data).hexdigest()
    return digits.encode()
