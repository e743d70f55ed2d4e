"""Cutting a Query into statements: comments, quotes, semicolons."""

from contextlib import suppress
from time import thread_time

import pytest

from admin.script import MOST_STATEMENTS, cut
from bouncer.errors import CommandError


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        (b"", []),
        (b" \t\r\n\f", []),
        (b";; ;", []),
        (b"-- ping", []),
        (b"-- ping\n;", []),
        (b"/* x */", []),
        (b"/* a /* b */ c */", []),
        (b"/*;*/ ; -- ;", []),
        (b"SHOW VERSION", [b"SHOW VERSION"]),
        (b"SHOW VERSION -- x", [b"SHOW VERSION  "]),
        (b"SHOW /* * / /- */--\n/**/ VERSION", [b"SHOW  \n  VERSION"]),
        (b"/* a /* b */ c */ SHOW /*/**/*/ VERSION", [b"  SHOW   VERSION"]),
        (b"-- x\rSHOW VERSION", [b" \rSHOW VERSION"]),
        (b"/* x */ SHOW VERSION;", [b"  SHOW VERSION"]),
        (b"SHOW/**/VERSION", [b"SHOW VERSION"]),
        (b"SHOW STATE;;", [b"SHOW STATE"]),
        (b"a;b ; c", [b"a", b"b ", b"c"]),
        (b"SET x = 'a;--b/*'", [b"SET x = 'a;--b/*'"]),
        (b"SET x = 'it''s;'; y", [b"SET x = 'it''s;'", b"y"]),
        (b'PAUSE "a;--b""c"', [b'PAUSE "a;--b""c"']),
        (rb"SET x = E'a\';b'", [rb"SET x = E'a\';b'"]),
        (rb"SET x = 'a\'; b", [rb"SET x = 'a\'", b"b"]),
        (b"SELECT 2 - 1 / 3", [b"SELECT 2 - 1 / 3"]),
        (b"SHOW $1", [b"SHOW $1"]),
        (b"SHOW \xff\xfe;", [b"SHOW \xff\xfe"]),
    ],
)
def test_statements_have_no_comments_and_no_semicolons(
    text: bytes, statements: list[bytes]
) -> None:
    assert cut(text) == statements


@pytest.mark.parametrize(
    "text",
    [b"'", b"a 'b''", b'"', b"/*", b"/* /* */", b"$$ PAUSE; $$", b"DO $a$ x $a$"],
)
def test_what_is_not_closed_is_no_script(text: bytes) -> None:
    """No part of it may be carried out."""
    assert cut(b"SHOW VERSION; " + text) is None


def test_statements_of_one_query_are_bounded() -> None:
    assert len(cut(b"x;" * MOST_STATEMENTS) or ()) == MOST_STATEMENTS
    for too_many in (b"x;", b"/*/**/*/", b"a--\n"):
        with pytest.raises(CommandError, match="too complex"):
            cut(too_many * 4 * (MOST_STATEMENTS + 1))


@pytest.mark.parametrize(
    "piece",
    [b"'", b"''", b'"', b"/*", b"--\n", b"-", b"/", b"$", b"a$", b"E'", b"e'\\"],
)
def test_any_text_is_cut_in_time_that_grows_with_its_length(piece: bytes) -> None:
    """Each quote that nothing closes must not be looked for to the end again."""

    def spent(length: int) -> float:
        text = piece * (length // len(piece))
        begun = thread_time()
        with suppress(CommandError):
            cut(text)
        return thread_time() - begun

    # 32 times the text: 32 times the work, or 1024 times.
    short = min(spent(8_000) for _ in range(5))
    assert min(spent(256_000) for _ in range(3)) < 200 * short + 0.05
