"""What a text resets, read from its words."""

import time

import pytest

from bouncer.wire.resets import ALL, ANY, Change, Text, changes, verdict

NOTHING: list[Change] = []
ZONE = Change(b"timezone", True, False)
KEPT = ZONE._replace(is_committed=True)
SET = Change(b"timezone", False, False)
LOCAL = Change(b"timezone", True, True)
STYLE = Change(b"datestyle", True, False)
EVERYTHING = Change(ALL, True, False)
WHO = Change(b"session_authorization", True, False)


def of(*texts: bytes) -> list[Change]:
    """What *texts* do that are run by portals."""
    return changes([Text(text, False) for text in texts])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"reset timezone", [ZONE]),
        (b'RESET "TimeZone" ;', [ZONE]),
        (b"reset time zone", [ZONE]),
        (b"Reset all", [EVERYTHING]),
        (b"discard all", [EVERYTHING, WHO]),
        (b"discard plans", NOTHING),
        (b"reset session authorization", [WHO]),
        (b"set session authorization default", [WHO]),
        (b"/* a /* b */ ' */ reset -- x\n timezone", [ZONE]),
        (b"-- reset datestyle\nreset timezone", [ZONE]),
        (b"set timezone to default", [ZONE]),
        (b"set timezone=DEFAULT;", [ZONE]),
        (b"set session timezone to default", [ZONE]),
        (b"set local timezone to default", [LOCAL]),
        (b"set time zone local", [ZONE]),
        (b"set time zone default", [ZONE]),
        (b"set session time zone local", [ZONE]),
        (b"set local time zone local", [LOCAL]),
        (b"set time zone 'local'", [SET]),
        (b"set timezone to 'default'", [SET]),
        (b"set names", [Change(b"client_encoding", True, False)]),
        (b"set names default", [Change(b"client_encoding", True, False)]),
        (b"set names 'utf8'", [Change(b"client_encoding", False, False)]),
        (b"reset my.tenant", [Change(b"my.tenant", True, False)]),
        (b"select 'reset timezone'; select $x$; reset timezone;$x$", NOTHING),
        (b"select E'\\'; reset timezone'", NOTHING),
        (b'select "a;reset timezone"', NOTHING),
        (b"create rule r as on insert to t do (reset timezone; x)", NOTHING),
        (b"select 1; reset timezone; select 2", [ZONE]),
        (b"reset timezone; set timezone = 'UTC'", [ZONE, SET]),
        (b"begin; reset timezone; rollback", NOTHING),
        (b"reset timezone; begin; reset datestyle; abort", NOTHING),
        (b"reset timezone; commit; reset datestyle; abort", [KEPT]),
        (b"reset timezone; end; begin; reset datestyle; abort; abort", [KEPT]),
        (b"begin; reset timezone; end", [KEPT]),
        (b"begin; set local timezone to default; commit", NOTHING),
        (b"begin; reset timezone; savepoint a; reset datestyle; rollback to a", [ZONE]),
        (b"savepoint a; reset timezone; rollback work to savepoint a", NOTHING),
        (b"savepoint a; reset timezone; release a", [ZONE]),
        (b"reset timezone; rollback prepared 'x'", [ZONE]),
        (b"select set_config('TimeZone', null, false)", [ZONE]),
        (b"select pg_catalog.set_config('timezone', NULL::text, false)", [ZONE]),
        (b"select set_config('timezone', null, true)", [LOCAL]),
        (b"select set_config('timezone', 'x', false)", [SET]),
        (b"select set_config($1, null, false)", [Change(ANY, True, False)]),
        (b"select set_config", NOTHING),
        (b"select set_config(", [Change(ANY, True, False)]),
        (b"do $$begin reset timezone; end$$", [Change(ANY, True, False)]),
        (b"do 'begin perform 1; end'", NOTHING),
        (b"reset", NOTHING),
        (b"set", NOTHING),
        (b"set timezone", NOTHING),
        (b"'", NOTHING),
        (b"/*", NOTHING),
        (b"$$", NOTHING),
        (b"", NOTHING),
    ],
)
def test_text_says_what_it_resets(text: bytes, found: list[Change]) -> None:
    assert of(text) == found


def test_last_word_on_a_parameter_counts() -> None:
    assert verdict(of(b"reset all; set timezone = 'x'"), b"timezone") == SET
    assert verdict(of(b"set timezone = 'x'", b"reset all"), b"timezone") == (EVERYTHING)
    assert verdict(of(b"set timezone = 'x'"), b"datestyle") is None
    done = of(b"do $$begin reset timezone; end$$; reset datestyle")
    assert verdict(done, b"datestyle") == STYLE
    unsure = verdict(done, b"timezone")
    assert unsure is not None and unsure.name == ANY


def test_reset_all_leaves_who_one_is_alone() -> None:
    """PostgreSQL: session_authorization goes back by DISCARD ALL, not by RESET ALL."""
    name = b"session_authorization"
    assert verdict(of(b"reset all"), name) is None
    assert verdict(of(b"discard all"), name) == WHO


@pytest.mark.parametrize(
    "piece", [b"'", b"'';", b"/*", b'"', b"$a$", b"reset x;", b"(", b"begin;", b"e'\\"]
)
def test_hostile_text_costs_as_much_as_it_is_long(piece: bytes) -> None:
    """Each text is looked at once: ten times as long is no hundred times the work."""

    def cost(count: int) -> float:
        begun = time.process_time()
        for _ in range(5):
            of(piece * count)
        return time.process_time() - begun

    assert (
        min(cost(4000) for _ in range(3)) < 40 * min(cost(400) for _ in range(3)) + 0.1
    )


@pytest.mark.parametrize(
    ("texts", "in_block", "is_committed"),
    [
        ((b"reset timezone",), False, True),
        ((b"reset timezone",), True, False),
        ((b"reset timezone; begin",), False, False),
        ((b"reset timezone", b"begin"), False, True),
        ((b"begin", b"reset timezone"), False, False),
        ((b"begin; reset timezone; commit; begin",), False, True),
        ((b"reset timezone; commit and chain",), True, True),
        ((b"begin; commit and no chain; reset timezone",), True, True),
        ((b"rollback to a; reset timezone",), True, False),
        ((b"rollback; reset timezone",), True, True),
    ],
)
def test_query_outside_of_a_block_is_committed_at_its_end(
    texts: tuple[bytes, ...], in_block: bool, is_committed: bool
) -> None:
    """What a ROLLBACK behind it undoes, and what not."""
    done = changes([Text(text, True) for text in texts], in_block)
    word = verdict(done, b"timezone")
    assert word is not None and word.is_reset
    assert word.is_committed == is_committed
