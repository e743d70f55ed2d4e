"""md5 as PostgreSQL computes it."""

from bouncer.auth.md5 import answer, hash_password


def test_stored_form_is_postgresqls() -> None:
    # select 'md5' || md5('md5pass' || 'u_md5')
    assert hash_password(b"u_md5", b"md5pass") == b"md54797850f7e2e1c9707a6199e3154dc91"


def test_answer_hashes_the_digits_with_the_salt() -> None:
    stored = b"md5" + b"0" * 32
    # select 'md5' || md5(repeat('0', 32) || 'abcd')
    assert answer(stored, b"abcd") == b"md52fc1f0460d3fdf70e6c3f2ccfedff4de"
