"""The form of a secret decides what it is."""

import ast
import hmac
from base64 import b64encode
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bouncer.auth import secrets
from bouncer.auth.secrets import (
    MD5,
    PLAIN,
    SCRAM,
    Signer,
    kind_of,
    parse_scram,
    same,
)

KEY = b64encode(bytes(range(32))).decode()
SALT = b64encode(b"0123456789abcdef").decode()


@pytest.mark.parametrize(
    ("secret", "kind"),
    [
        ("", PLAIN),
        ("secret", PLAIN),
        ("md5", PLAIN),
        ("md5zzz", PLAIN),
        ("md5" + "0123456789abcdef" * 2, MD5),
        ("md5" + "0123456789ABCDEF" * 2, PLAIN),
        ("MD5" + "0123456789abcdef" * 2, PLAIN),
        ("md5" + "0" * 31, PLAIN),
        ("md5" + "0" * 33, PLAIN),
        (f"SCRAM-SHA-256$4096:{SALT}${KEY}:{KEY}", SCRAM),
        (f"SCRAM-SHA-256$1:{SALT}${KEY}:{KEY}", SCRAM),
        (f"scram-sha-256$4096:{SALT}${KEY}:{KEY}", PLAIN),
        (f"SCRAM-SHA-256$0:{SALT}${KEY}:{KEY}", PLAIN),
        (f"SCRAM-SHA-256$x:{SALT}${KEY}:{KEY}", PLAIN),
        (f"SCRAM-SHA-256$-1:{SALT}${KEY}:{KEY}", PLAIN),
        (f"SCRAM-SHA-256$:{SALT}${KEY}:{KEY}", PLAIN),
        (f"SCRAM-SHA-256$4096:${KEY}:{KEY}", PLAIN),
        (f"SCRAM-SHA-256$4096:###${KEY}:{KEY}", PLAIN),
        (f"SCRAM-SHA-256$4096:{SALT}${KEY}", PLAIN),
        (f"SCRAM-SHA-256$4096:{SALT}${KEY}:", PLAIN),
        (f"SCRAM-SHA-256$4096:{SALT}$QUJD:{KEY}", PLAIN),
        (f"SCRAM-SHA-256$4096:{SALT}${KEY}:QUJD", PLAIN),
        (f"SCRAM-SHA-256$4096:{SALT}${KEY}:{KEY}$", PLAIN),
        (f"SCRAM-SHA-256$4096:{SALT}${KEY}:{KEY} ", PLAIN),
        ("SCRAM-SHA-256$", PLAIN),
    ],
)
def test_kind_of(secret: str, kind: int) -> None:
    assert kind_of(secret) == kind


def test_parse_scram_gives_the_parts() -> None:
    found = parse_scram(f"SCRAM-SHA-256$4096:{SALT}${KEY}:{KEY}")
    assert found is not None
    assert found.iterations == 4096
    assert found.salt == b"0123456789abcdef"
    assert found.stored_key == found.server_key == bytes(range(32))
    assert found.tail == b",s=" + SALT.encode() + b",i=4096"


@given(st.binary(max_size=64), st.binary(max_size=300))
def test_signer_is_hmac_sha_256(key: bytes, data: bytes) -> None:
    signer = Signer(key)
    assert signer.sign(data) == hmac.digest(key, data, "sha256")
    assert signer.sign(b"") == hmac.digest(key, b"", "sha256")


def test_same_compares_whole_secrets() -> None:
    assert same(b"abc", b"abc")
    assert not same(b"abc", b"abd")
    assert not same(b"abc", b"ab")
    assert not same(b"", b"abc")


SOURCES = sorted(
    path
    for folder in ("bouncer/auth", "bouncer/talks")
    for path in (Path(__file__).resolve().parents[3] / folder).glob("*.py")
)
# Names that hold, or are made of, somebody's secret.
SECRETS = ("secret", "password", "proof", "stored_key", "server_key", "client_key",
           "signature", "hashed", "answer", "keys")  # fmt: skip


@pytest.mark.regression(18)
@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_cve_like_18_secrets_are_compared_in_one_place(path: Path) -> None:
    """No `==` on anything that is named like a secret, outside `same`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Compare):
            continue
        if not any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
            continue
        for side in (node.left, *node.comparators):
            name = getattr(side, "attr", getattr(side, "id", ""))
            assert name not in SECRETS, f"{path.name}:{node.lineno}: {name} compared"


@pytest.mark.regression(18)
def test_there_is_one_constant_time_comparison() -> None:
    users = [path.name for path in SOURCES if "compare_digest" in path.read_text()]
    assert users == [Path(secrets.__file__).name]
