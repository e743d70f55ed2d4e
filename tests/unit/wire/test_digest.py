"""SHA-256 and its HMAC: by the interpreter's libcrypto, and by Python without it."""

import hashlib
import hmac
import os
from collections.abc import Iterator

import pytest

from bouncer.wire import digest

# Around the sizes at which SHA-256 begins another block.
SIZES = (0, 1, 55, 56, 63, 64, 65, 119, 120, 1000)


@pytest.fixture(params=["libcrypto", "Python"])
def provider(request: pytest.FixtureRequest) -> Iterator[str]:
    """Who hashes; afterwards it is who it was."""
    library = digest.own_library()
    if request.param == "Python":
        assert not digest.load(None)
    elif not digest.load(library):
        pytest.skip("this interpreter's libcrypto is out of reach")
    yield request.param
    digest.load(library)


def test_signatures_are_those_of_rfc_2104(provider: str) -> None:
    assert digest.provider() == provider
    for key in (b"", b"k", os.urandom(32), os.urandom(64)):
        signer = digest.Signer(key)
        for size in SIZES:
            text = os.urandom(size)
            expected = hmac.new(key, text, hashlib.sha256).digest()
            assert signer.sign(text) == expected
            # The key's part is not used up.
            assert signer.sign(text) == expected


def test_vector_of_rfc_4231(provider: str) -> None:
    signed = digest.Signer(b"\x0b" * 20).sign(b"Hi There")
    assert signed.hex() == (
        "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
    )


def test_a_key_is_not_cut_short(provider: str) -> None:
    """One that is longer than a block would have to be hashed first: nobody has one."""
    with pytest.raises(ValueError, match="64 bytes"):
        digest.Signer(bytes(65))


def test_a_signer_outlives_a_change_of_the_library(provider: str) -> None:
    signer = digest.Signer(b"key")
    expected = hmac.new(b"key", b"text", hashlib.sha256).digest()
    digest.load(None)
    assert signer.sign(b"text") == expected
    assert digest.Signer(b"key").sign(b"text") == expected


@pytest.mark.parametrize("path", [None, "/no/such/library.so", "libc.so.6"])
def test_a_library_without_the_functions_is_none(
    path: str | None, provider: str
) -> None:
    assert not digest.load(path)
    assert digest.provider() == "Python"
