"""Keys are derived as PostgreSQL derives them, once, off the loop."""

import asyncio
from base64 import b64decode
from typing import Any

import pytest

from bouncer.auth import derive as module
from bouncer.auth.derive import KeyDeriver, derive, secret_of
from bouncer.auth.saslprep import saslprep
from bouncer.auth.secrets import parse_scram

# select rolpassword from pg_authid, PostgreSQL 15, for these passwords.
MADE_BY_POSTGRESQL = {
    "scrampass": "knlZQaXb3XIZ9Xzhz+8R1Q==$"
    "p4heNXBaz1UZqglxp0mI/1Ohjcl657pbR6XA6/tYSMU=:"
    "+lkk/XMqbrni9Su93DWuA0m9O3dL1+DY3TEq46vaWRo=",
    "I\u00adX": "s27X4QjBqKLXbs1fdzAomQ==$ikuxzWG5OIDQfDY4H816ZmFs5t4X9SvEJyozwwsj6lw=:"
    "AVaLe2gF5BC5E5SzDz+INJIqLMVMD/6ILD7q/wwQs88=",
    "\u2168": "I9xFxBmbHBFgJmk8k/+jig==$"
    "JOQnxb22uyF8RXCA7rSrHjNed2LA62zPSagLfQEz4tA=:"
    "juYf9UGvRTiM2GV/x3MM/dL3ylIKFgfv3Lucdd4q3Ks=",
    "pa\u00a0ss": "bmU6N7sXJ9Z/q5KkPcYFfA==$"
    "FfVdy72bbcVBcwoqY8xjadcaUCyZUbZSC45NxZsjW8s=:"
    "5keV3LMrmrnLAFhuMwo/+fm/rqMlNxm3u36BiIbSprg=",
    "\u0627\u0031": "GSCMMafDhvSKtgGylM+tzg==$"
    "2Ebh6/cvNt4y+IiQzxDmFjvLRzyFKh5IMxrUpOjnLj0=:"
    "Do7lIoxb5Yev8KvOzMzLhF4dTsDow7i4UeXOCGIUYnQ=",
    "caf\u00e9 \ufb01": "6NTjuTlxVp/SI/r6TZgWzA==$"
    "G/48Ii+tFH7w5DPkaMuzID/lt2jCH95maSjti1q1PkU=:"
    "RhjiZhTtQow9eVVXsbY3vfl8TzRkc/UISxfIcyKRBxY=",
    "\u00aa": "DczwFBogWX2hIX34Fqmzdw==$sPLSjb0q3LSO//n8FQx1Qo2yjqSCXSONNfrGBGLcOz0=:"
    "X67JhEJ2FRE2P9P3E6BZ/HPpLB8iAqIbmrqhciMyvRI=",
    "a\u0007b\u00e9": "SQXv8zxPjS7gMMZb2GaxvQ==$"
    "t8ADG7li1FpprLa8FWaDPq/K23Tw19kT1KQvdgICk18=:"
    "5Z5Lg8LzoCNMRIKIE8N5GyfzzFG/LOpcfqdRGRXI6QY=",
    "\u0221x": "Uaz8tiePKBIzO1HCqVaz/w==$"
    "RtqO5rsvm795JEAv2H29poWgBnt/GQtqJsYDxjeYO8g=:"
    "boLOwQQe1R7GcPUJ3toRRd8Kv/zFaeMv2VM0S7Dt0Dw=",
    "\U0001f600": "zyrJlxQDFrgFx1tSO4KJKA==$"
    "XRA57qZ35fFBkEVX0jJ5hvHVxF8whAMPfZsQEe2wg4A=:"
    "A45avVEvR2qX+AxfwJeS2n3+jK7s+Ue5IvX1agAKTeQ=",
    "\u0061\u00ad\u200b": "S8FdQRkk89DcHf/GcRBt4A==$"
    "OwIa/EvCdlo9ofQcvcHXee2wWVi1cKtJMSIR//m7EJ4=:"
    "A1l2cBb66stgNqnqydukfdoVNnp7Nr7DXORBZwyyJG8=",
}


@pytest.mark.parametrize("password", MADE_BY_POSTGRESQL, ids=ascii)
def test_secrets_are_those_that_postgresql_makes(password: str) -> None:
    text = f"SCRAM-SHA-256$4096:{MADE_BY_POSTGRESQL[password]}"
    made = parse_scram(text)
    assert made is not None
    keys = derive(password.encode(), made.salt, made.iterations)
    own = secret_of(keys, made.salt, made.iterations)
    assert own.stored_key == made.stored_key
    assert own.server_key == made.server_key


@pytest.mark.parametrize(
    ("password", "prepared"),
    [
        # RFC 4013, section 3
        ("I\u00adX".encode(), b"IX"),
        (b"user", b"user"),
        (b"USER", b"USER"),
        ("\u00aa".encode(), b"a"),
        ("\u2168".encode(), b"IX"),
        # Prohibited or broken: the raw bytes
        (b"\x07", b"\x07"),
        ("\u0627\u0031".encode(), "\u0627\u0031".encode()),
        (b"\xff\xfe", b"\xff\xfe"),
        ("\u00ad".encode(), "\u00ad".encode()),
        ("\u0627x\u0628".encode(), "\u0627x\u0628".encode()),
    ],
)
def test_saslprep(password: bytes, prepared: bytes) -> None:
    assert saslprep(password) == prepared


def counting(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Count the derivations."""
    calls: list[Any] = []

    def fake(*wish: Any) -> tuple[bytes, bytes]:
        calls.append(wish)
        return b"client", b"server"

    monkeypatch.setattr(module, "derive", fake)
    return calls


def test_many_who_want_the_same_keys_cost_one_derivation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = counting(monkeypatch)
    deriver = KeyDeriver()

    async def storm() -> None:
        wanted = [deriver.wanted(b"pw", b"salt", 4096) for _ in range(1000)]
        assert set(await asyncio.gather(*wanted)) == {(b"client", b"server")}
        assert deriver.known(b"pw", b"salt", 4096) == (b"client", b"server")

    asyncio.run(storm())
    assert calls == [(b"pw", b"salt", 4096)]


def test_who_leaves_early_does_not_end_it_for_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = counting(monkeypatch)
    deriver = KeyDeriver()

    async def two() -> None:
        leaves = asyncio.ensure_future(deriver.wanted(b"pw", b"salt", 1))
        stays = asyncio.ensure_future(deriver.wanted(b"pw", b"salt", 1))
        leaves.cancel()
        assert await stays == (b"client", b"server")

    asyncio.run(two())
    assert len(calls) == 1


def test_claimed_passwords_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    counting(monkeypatch)
    deriver = KeyDeriver()

    async def once() -> None:
        await deriver.wanted(b"guess", b"salt", 1, False)

    asyncio.run(once())
    assert deriver.known(b"guess", b"salt", 1) is None


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    counting(monkeypatch)
    monkeypatch.setattr(module, "_KEPT", 3)
    deriver = KeyDeriver()

    async def fill() -> None:
        for number in range(5):
            await deriver.wanted(b"%d" % number, b"salt", 1)

    asyncio.run(fill())
    known = [n for n in range(5) if deriver.known(b"%d" % n, b"salt", 1)]
    assert known == [2, 3, 4]


def test_rfc_7677_keys() -> None:
    salt = b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    _, server_key = derive(b"pencil", salt, 4096)
    assert len(server_key) == 32
