"""Whatever comes before a login costs little: lengths are bounded before work is."""

import asyncio
import threading
import unicodedata
from typing import Any

import pytest

from bouncer.auth import derive as module
from bouncer.auth import pam, saslprep, scram, secrets
from bouncer.auth.derive import KeyDeriver, derive
from bouncer.auth.scram import ClientSide, ScramError, ServerSide
from bouncer.auth.secrets import parse_scram

SALT = b"0123456789abcdef"
MARKS = "\u0315\u0300"


@pytest.fixture
def normalised(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many characters were put in order, each time."""
    sizes: list[int] = []

    def normalize(form: str, text: str) -> str:
        sizes.append(len(text))
        return unicodedata.normalize(form, text)

    monkeypatch.setattr(saslprep, "normalize", normalize)
    return sizes


@pytest.mark.parametrize("size", [4097, 8192, 65530])
@pytest.mark.parametrize("unit", [MARKS, "\u0300", "\ufdfa", "\u00e9"])
def test_long_password_is_not_normalised(
    normalised: list[int], size: int, unit: str
) -> None:
    """64 kB of combining marks took 5 s, and nobody else was served meanwhile."""
    text = ("a" + unit * size).encode()[:size]
    password = text.decode(errors="ignore").encode().ljust(size, b"x")
    assert saslprep.saslprep(password) == password
    assert normalised == []


# U+0F73 is no mark, but stands for two; U+00AD is left out before anything is ordered.
@pytest.mark.parametrize("unit", [MARKS, "\u0300", "\u0f73", "\u00ad\u0300", "\u0344"])
def test_marks_are_put_in_order_only_where_there_are_few_in_a_row(
    normalised: list[int], unit: str
) -> None:
    """2 000 of them in 4 kB took 20 ms; whoever guesses sends more than one."""
    password = ("a" + unit * 700).encode()
    assert len(password) <= saslprep.LONGEST_PREPARED
    assert saslprep.saslprep(password) == password
    assert max(normalised) == 1


def test_marks_of_many_characters_are_put_in_order() -> None:
    """A password in letters and marks, as some systems type them."""
    password = "\u1ea5\u1ed9\u01d6" * 100
    apart = unicodedata.normalize("NFD", password).encode()
    assert saslprep.saslprep(apart) == password.encode()
    assert saslprep.saslprep(b"a" + b"\xcc\x80" * 30) != b"a" + b"\xcc\x80" * 30


@pytest.mark.parametrize("letter", ["\uff21", "\u00aa", "\U0001d400"])
def test_password_of_a_thousand_characters_is_normalised(letter: str) -> None:
    """From 1 kB on it was taken as it is; libpq proved another password to us."""
    password = (letter * 1000).encode()
    assert len(password) <= saslprep.LONGEST_PREPARED
    assert saslprep.saslprep(password).lower() == b"a" * 1000


def test_each_character_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of three bytes may stand for eighteen characters."""
    looked_at = []
    real = saslprep._is_prohibited

    def prohibited(char: str) -> bool:
        looked_at.append(char)
        return real(char)

    monkeypatch.setattr(saslprep, "_is_prohibited", prohibited)
    saslprep.saslprep(("\ufdfa" * 341).encode())
    assert len(looked_at) == len(set(looked_at))


def test_long_password_serves_at_both_ends() -> None:
    password = ("x" + MARKS * 16000).encode()
    assert derive(password, SALT, 1) == derive(password, SALT, 1)
    assert derive(password, SALT, 1) != derive(password[:-2], SALT, 1)


@pytest.mark.parametrize("size", [2049, 65000])
def test_scram_message_of_many_attributes_is_not_read(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """20 000 attributes of a client's took 15 ms of everybody's time."""
    read = []
    real = scram._any_attribute
    monkeypatch.setattr(
        scram, "_any_attribute", lambda *given: read.append(1) or real(*given)
    )
    many = (b"n,,n=,r=abc" + b",a=" * size)[:size]
    secret = secrets.ScramSecret(4096, SALT, bytes(32), bytes(32))
    with pytest.raises(ScramError) as error:
        ServerSide(secret).first(many)
    assert error.value.lines == ("malformed SCRAM message (longer than 2048 bytes)",)
    with pytest.raises(ScramError):
        ServerSide(secret).final((b"c=biws,r=abc" + b",a=" * size)[:size])
    assert read == []


def test_scram_with_a_long_name_and_nonce_works() -> None:
    keys = derive(b"pw", SALT, 1)
    secret = secrets.ScramSecret(1, SALT, bytes(32), keys[1])
    first = ServerSide(secret).first(b"n,,n=" + b"u" * 500 + b",r=" + b"r" * 1000)
    assert first.startswith(b"r=" + b"r" * 1000)


def test_scram_secret_of_many_parts_is_no_scram_secret() -> None:
    for text in ("$" * 65000, "9" * 65000 + ":a$b:c", "1:" + "$:" * 30000):
        assert parse_scram("SCRAM-SHA-256$" + text) is None


def test_server_first_with_many_digits_is_refused() -> None:
    side = ClientSide()
    nonce = side.first()[5:]
    with pytest.raises(ScramError):
        side.server_first(b"r=" + nonce + b"x,s=AAAA,i=" + b"9" * 5000)


def test_pam_is_not_asked_about_huge_passwords(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A module that hashes 64 kB some thousand times keeps all others waiting."""
    asked: list[Any] = []
    monkeypatch.setattr(
        pam, "check", lambda *given: (asked.append(given), (True, []))[1]
    )
    for size, fine in ((pam.LONGEST_PASSWORD, True), (pam.LONGEST_PASSWORD + 1, False)):
        assert asyncio.run(pam.authenticate("ann", b"x" * size, "")) is fine
    assert len(asked) == 1


def test_claimed_passwords_do_not_hold_up_those_that_are_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thousand guesses stood before the pooler's own login at its server."""
    go_on = threading.Event()

    def slow(password: bytes, salt: bytes, iterations: int) -> Any:
        if password == b"guess":
            assert go_on.wait(30)
        return password, salt

    monkeypatch.setattr(module, "derive", slow)
    deriver = KeyDeriver()

    async def both() -> None:
        claimed = deriver.wanted(b"guess", SALT, 1, False)
        assert await deriver.wanted(b"own", SALT, 1) == (b"own", SALT)
        go_on.set()
        assert await claimed == (b"guess", SALT)

    asyncio.run(both())
