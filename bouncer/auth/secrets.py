"""Say what kind a stored secret is, and compare secrets.

A secret has no type of its own: its form decides (PostgreSQL does the same). What
is not exactly an md5 hash or a SCRAM secret is a password in plain text, and an
empty one matches nothing, whatever the method. `same` is the only place where
secrets are compared.
"""

from __future__ import annotations

from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable
from hmac import compare_digest
from itertools import islice

from bouncer.wire.digest import Signer

PLAIN = 0
MD5 = 1
SCRAM = 2

# PostgreSQL accepts no longer password message; a longer secret could never match.
MAX_SECRET = 65530

# Secrets that are looked at to say of which kinds they are.
SAMPLE = 1000

_MD5_LENGTH = 35
_SCRAM_PREFIX = "SCRAM-SHA-256$"
_KEY_LENGTH = 32
_HEX = frozenset("0123456789abcdef")
_DIGITS = frozenset("0123456789")


class ScramSecret:
    """What a server knows of a password: enough to check it, not to use it."""

    __slots__ = (
        "_signers",
        "iterations",
        "salt",
        "server_key",
        "stored_key",
        "tail",
    )

    def __init__(
        self, iterations: int, salt: bytes, stored_key: bytes, server_key: bytes
    ) -> None:
        self.iterations = iterations
        self.salt = salt
        self.stored_key = stored_key
        self.server_key = server_key
        self._signers: tuple[Signer, Signer] | None = None
        # The end of each server-first message.
        self.tail = b",s=%s,i=%d" % (b2a_base64(salt, newline=False), iterations)

    def signers(self) -> tuple[Signer, Signer]:
        """Give signers for StoredKey and ServerKey; made at the first login."""
        found = self._signers
        if found is None:
            found = self._signers = Signer(self.stored_key), Signer(self.server_key)
        return found


def same(given: bytes, expected: bytes) -> bool:
    """Compare two secrets in a time that does not depend on where they differ."""
    return compare_digest(given, expected)


def decode_base64(text: str | bytes) -> bytes | None:
    """Decode canonical base64; None for anything else."""
    try:
        return a2b_base64(text, strict_mode=True)
    except (Base64Error, ValueError):
        return None


def parse_scram(secret: str) -> ScramSecret | None:
    """Take a SCRAM secret apart; None when *secret* is none.

    The form is PostgreSQL's (pg_authid.rolpassword):
    SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey, the last three in base64.
    """
    if not secret.startswith(_SCRAM_PREFIX):
        return None
    parts = secret[len(_SCRAM_PREFIX) :].split("$", 2)
    if len(parts) != 2:
        return None
    count, colon, salt_text = parts[0].partition(":")
    stored_text, second_colon, server_text = parts[1].partition(":")
    if not colon or not second_colon or not salt_text:
        return None
    if not 0 < len(count) <= 10 or not _DIGITS.issuperset(count):
        return None
    iterations = int(count)
    salt = decode_base64(salt_text)
    stored_key = decode_base64(stored_text)
    server_key = decode_base64(server_text)
    if salt is None or stored_key is None or server_key is None or not iterations:
        return None
    if len(stored_key) != _KEY_LENGTH or len(server_key) != _KEY_LENGTH:
        return None
    return ScramSecret(iterations, salt, stored_key, server_key)


def kinds_of(secrets: Iterable[str]) -> tuple[int, ...]:
    """Give, of a sample of *secrets*, the iterations of each; 0 where it is no SCRAM's.

    Whoever asks for a name that does not exist is answered like one of these, so each
    kind is as frequent among nobodies as among those who exist, and tells nothing.
    """
    sample = map(parse_scram, islice(filter(None, secrets), SAMPLE))
    return tuple(0 if scram is None else scram.iterations for scram in sample)


def kind_of(secret: str) -> int:
    """Classify *secret*: `PLAIN`, `MD5` or `SCRAM`."""
    if secret.startswith("md5"):
        if len(secret) == _MD5_LENGTH and _HEX.issuperset(secret[3:]):
            return MD5
        return PLAIN
    if secret.startswith(_SCRAM_PREFIX) and parse_scram(secret) is not None:
        return SCRAM
    return PLAIN
