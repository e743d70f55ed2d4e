"""SCRAM-SHA-256 (RFC 5802, RFC 7677), both ends, without channel binding.

`ServerSide` checks a client, `ClientSide` logs in to PostgreSQL. Neither waits for
anything: each step takes one message and gives the next, or raises `ScramError`,
whose lines are ERRORs for the log (a peer is never told why).

The hard idea is pass-through: whoever checks a client's proof learns its ClientKey,
and with it can log in to any server that stores the same secret. `ServerSide.keys`
holds that pair after success.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Sequence
from hashlib import sha256
from os import urandom

from bouncer.auth.secrets import ScramSecret, decode_base64, same
from bouncer.errors import BouncerError
from bouncer.wire.digest import Signer

# 18 bytes of randomness are 24 characters of base64, like PostgreSQL's.
_NONCE_BYTES = 18
_KEY_LENGTH = 32
# Bytes of a message; PostgreSQL takes 1024. Attributes are read one by one.
_LONGEST_MESSAGE = 2048
# Iterations that a server may ask for: each costs time before anybody is known.
MOST_ROUNDS = 1_000_000
_WRONG_SIGNATURE = "invalid server signature"

_PRINTABLE = bytes(range(0x21, 0x7F))
_COMMA = 0x2C
_EQUALS = 0x3D

# Base64 of the gs2 headers "n,," and "y,,".
_BINDINGS = {0x6E: b"biws", 0x79: b"eSws"}


class ScramError(BouncerError):
    """The exchange failed; *lines* say why, for the log."""

    def __init__(self, *lines: str) -> None:
        super().__init__(lines[0])
        self.lines = lines

    @property
    def is_wrong_signature(self) -> bool:
        """Whether the server did not know the password, the rest being in order."""
        return self.lines[0] == _WRONG_SIGNATURE


def _nonce() -> bytes:
    return _base64(urandom(_NONCE_BYTES))


def _base64(data: bytes) -> bytes:
    return b2a_base64(data, newline=False)


def _xor(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).to_bytes(
        len(left), "big"
    )


def _show(data: bytes, at: int) -> str:
    """Print the character at *at* for the log, in hex when it has no shape."""
    char = data[at] if at < len(data) else 0
    return f"'{chr(char)}'" if 0x21 <= char <= 0x7E else f"0x{char:02x}"


def _expect_short(message: bytes) -> None:
    if len(message) > _LONGEST_MESSAGE:
        raise _malformed(f"longer than {_LONGEST_MESSAGE} bytes")


def _malformed(detail: str) -> ScramError:
    return ScramError(f"malformed SCRAM message ({detail})")


def _attribute(data: bytes, at: int, name: int) -> tuple[bytes, int]:
    """Read the value of attribute *name* at *at*; give it and where to go on."""
    if at >= len(data) or data[at] != name:
        raise _malformed(f'attribute "{chr(name)}" expected')
    if at + 1 >= len(data) or data[at + 1] != _EQUALS:
        raise _malformed(f'expected "=" after attribute "{chr(name)}"')
    return _value(data, at + 2)


def _any_attribute(data: bytes, at: int) -> tuple[int, bytes, int]:
    """Read whatever attribute stands at *at*; give name, value, where to go on."""
    name = data[at] if at < len(data) else 0
    if not (0x41 <= name <= 0x5A or 0x61 <= name <= 0x7A):
        raise _malformed(
            f'attribute expected, but found invalid character "{_show(data, at)}"'
        )
    if at + 1 >= len(data) or data[at + 1] != _EQUALS:
        raise _malformed(f'expected character "=" after attribute "{chr(name)}"')
    value, after = _value(data, at + 2)
    return name, value, after


def _value(data: bytes, at: int) -> tuple[bytes, int]:
    end = data.find(b",", at)
    if end < 0:
        return data[at:], len(data)
    return data[at:end], end + 1


class ServerSide:
    """Checks a client that claims to know the password behind *secret*."""

    __slots__ = (
        "_binding",
        "_client_bare",
        "_nonce",
        "_secret",
        "_server_first",
        "keys",
    )

    def __init__(self, secret: ScramSecret) -> None:
        self._secret = secret
        self._binding = b""
        self._client_bare = b""
        self._nonce = b""
        self._server_first = b""
        #: ClientKey and ServerKey, once the proof was right.
        self.keys: tuple[bytes, bytes] | None = None

    def first(self, message: bytes) -> bytes:
        """Take client-first, give server-first."""
        _expect_short(message)
        client_nonce = self._read_first(message)
        self._nonce = client_nonce + _nonce()
        self._server_first = b"r=" + self._nonce + self._secret.tail
        return self._server_first

    def go_on_from(
        self, binding: bytes, client_bare: bytes, nonce: bytes, server_first: bytes
    ) -> None:
        """Go on behind a server-first that somebody else has made."""
        self._binding, self._client_bare = binding, client_bare
        self._nonce, self._server_first = nonce, server_first

    def _read_first(self, message: bytes) -> bytes:
        flag = message[0] if message else 0
        if flag == 0x70:  # 'p'
            raise ScramError(
                "client requires SCRAM channel binding, but it is not supported"
            )
        if flag not in _BINDINGS:
            raise _malformed(f'unexpected channel-binding flag "{_show(message, 0)}"')
        self._binding = _BINDINGS[flag]
        if len(message) < 2 or message[1] != _COMMA:
            raise _malformed(
                f'comma expected, but found character "{_show(message, 1)}"'
            )
        if len(message) > 2 and message[2] == 0x61:  # 'a'
            raise ScramError(
                "client uses authorization identity, but it is not supported"
            )
        if len(message) < 3 or message[2] != _COMMA:
            raise _malformed(
                f'unexpected attribute "{_show(message, 2)}" in client-first-message'
            )
        if len(message) > 3 and message[3] == 0x6D:  # 'm'
            raise ScramError("client requires an unsupported SCRAM extension")
        self._client_bare = message[3:]
        # The user name counts in the startup packet only.
        _, at = _attribute(message, 3, 0x6E)
        nonce, at = _attribute(message, at, 0x72)
        if nonce.translate(None, _PRINTABLE):
            raise ScramError("non-printable characters in SCRAM nonce")
        while at < len(message):
            _, _, at = _any_attribute(message, at)
        return nonce

    def final(self, message: bytes) -> bytes:
        """Take client-final, give server-final; raise when the proof is wrong."""
        _expect_short(message)
        binding, at = _attribute(message, 0, 0x63)
        if binding != self._binding:
            raise ScramError(
                "unexpected SCRAM channel-binding attribute in client-final-message"
            )
        nonce, at = _attribute(message, at, 0x72)
        while True:
            start = at
            try:
                name, value, at = _any_attribute(message, at)
            except ScramError as error:
                raise ScramError(*error.lines, "could not read proof") from None
            if name == 0x70:
                break
        proof = decode_base64(value)
        if proof is None or len(proof) != _KEY_LENGTH:
            raise _malformed("malformed proof in client-final-message")
        if at < len(message):
            raise _malformed("garbage at the end of client-final-message")
        if nonce != self._nonce:
            raise ScramError("invalid SCRAM response (nonce does not match)")

        signed = b",".join(
            (self._client_bare, self._server_first, message[: start - 1])
        )
        secret = self._secret
        stored, server = secret.signers()
        client_key = _xor(proof, stored.sign(signed))
        if not same(sha256(client_key).digest(), secret.stored_key):
            raise ScramError("password authentication failed")
        self.keys = client_key, secret.server_key
        return b"v=" + _base64(server.sign(signed))


class ClientSide:
    """Logs in to a server; the keys are handed in when salt and count are known."""

    __slots__ = (
        "_client_bare",
        "_nonce",
        "_server_first",
        "_signature",
        "iterations",
        "salt",
    )

    def __init__(self) -> None:
        # PostgreSQL ignores the name here: the startup packet has it.
        self._nonce = _nonce()
        self._client_bare = b"n=,r=" + self._nonce
        self._server_first = b""
        self._signature = b""
        self.salt = b""
        self.iterations = 0

    def first(self) -> bytes:
        """Give client-first."""
        return b"n,," + self._client_bare

    def server_first(self, message: bytes) -> None:
        """Take server-first: afterwards `salt` and `iterations` are known."""
        nonce, at = _attribute(message, 0, 0x72)
        if not nonce.startswith(self._nonce):
            raise ScramError("invalid SCRAM response (nonce mismatch)")
        salt_text, at = _attribute(message, at, 0x73)
        salt = decode_base64(salt_text)
        if not salt:
            raise _malformed("invalid salt")
        count, at = _attribute(message, at, 0x69)
        if not count.isdigit() or len(count) > 10 or not 0 < int(count) <= MOST_ROUNDS:
            raise _malformed("invalid iteration count")
        if at < len(message):
            raise _malformed("garbage at end of server-first-message")
        self.salt = salt
        self.iterations = int(count)
        self._nonce = nonce
        self._server_first = message

    def final(self, keys: tuple[bytes, bytes]) -> bytes:
        """Give client-final, proving that we hold *keys*."""
        client_key, server_key = keys
        plain = b"c=biws,r=" + self._nonce
        signed = b",".join((self._client_bare, self._server_first, plain))
        stored_key = sha256(client_key).digest()
        proof = _xor(client_key, Signer(stored_key).sign(signed))
        self._signature = Signer(server_key).sign(signed)
        return plain + b",p=" + _base64(proof)

    def server_final(self, message: bytes) -> None:
        """Take server-final; raise unless the server knows our secret too."""
        if message.startswith(b"e="):
            reason, _ = _value(message, 2)
            text = reason.decode("utf-8", "replace")
            raise ScramError(f"error received from server in SCRAM exchange: {text}")
        value, at = _attribute(message, 0, 0x76)
        if at < len(message):
            raise _malformed("garbage at end of server-final-message")
        signature = decode_base64(value)
        if signature is None or len(signature) != _KEY_LENGTH:
            raise _malformed("malformed server signature")
        if not same(signature, self._signature):
            raise ScramError(_WRONG_SIGNATURE)


def fits(secret: ScramSecret, keys: tuple[bytes, bytes]) -> bool:
    """Say whether *keys* (ClientKey, ServerKey) prove to know *secret*."""
    client_key, server_key = keys
    return same(sha256(client_key).digest(), secret.stored_key) and same(
        server_key, secret.server_key
    )


class MockSecrets:
    """Secrets for users who do not exist, the same for a name each time.

    The salt must not change between two attempts, or it would tell that nobody is
    there; it cannot be computed without the bytes drawn at start. No proof fits.
    """

    def __init__(self) -> None:
        self._seed = urandom(32)
        self._stored_key = urandom(_KEY_LENGTH)
        self._server_key = urandom(_KEY_LENGTH)

    def iterations(self, user: bytes, kinds: Sequence[int]) -> int:
        """Choose the one of *kinds* that *user* would have; 0 where there is none."""
        if not kinds:
            return 0
        drawn = sha256(self._seed + user).digest()[:8]
        return kinds[int.from_bytes(drawn, "big") % len(kinds)]

    def secret(self, user: bytes, iterations: int) -> ScramSecret:
        """Make the secret that *user* would have."""
        salt = sha256(user + self._seed).digest()[:16]
        return ScramSecret(iterations, salt, self._stored_key, self._server_key)


mock_secrets = MockSecrets()
