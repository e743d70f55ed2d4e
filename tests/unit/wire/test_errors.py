"""Reasons are cut where PgBouncer's buffers end."""

from bouncer.errors import Disconnect, LoginFailed, cut


def test_a_reason_is_cut_at_127_bytes() -> None:
    assert Disconnect("x" * 128).reason == "x" * 127
    assert Disconnect("x" * 127).reason == "x" * 127


def test_a_reason_is_cut_by_bytes_not_characters() -> None:
    assert len(Disconnect("é" * 100).reason.encode("utf-8", "surrogateescape")) == 127


def test_a_whole_reason_is_not_cut() -> None:
    assert Disconnect("x" * 600, whole=True).reason == "x" * 600


def test_what_clients_are_told_of_a_refused_login_is_not_cut() -> None:
    failed = LoginFailed("FATAL", "3D000", "x" * 600, "refused")
    assert failed.text == "x" * 600
    assert failed.reason == "x" * 127


def test_cut_leaves_short_texts_alone() -> None:
    text = "é" * 31
    assert cut(text) is text
    assert cut(text, 62) is text
    assert cut("abcdef", 3) == "abc"
