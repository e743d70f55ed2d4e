"""What a text resets, read from its words."""

import time

import pytest

from bouncer.wire.resets import ALL, ANY, Change, changes, verdict

NOTHING: list[Change] = []
ZONE = Change(b"timezone", True, False)
SET = Change(b"timezone", False, False)
LOCAL = Change(b"timezone", True, True)
STYLE = Change(b"datestyle", True, False)
EVERYTHING = Change(ALL, True, False)
WHO = Change(b"session_authorization", True, False)


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
        (b"reset timezone; commit; reset datestyle; abort", [ZONE]),
        (b"reset timezone; end; begin; reset datestyle; abort; abort", [ZONE]),
        (b"begin; reset timezone; end", [ZONE]),
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
    assert changes([text]) == found


def test_last_word_on_a_parameter_counts() -> None:
    assert verdict(changes([b"reset all; set timezone = 'x'"]), b"timezone") == SET
    assert verdict(changes([b"set timezone = 'x'", b"reset all"]), b"timezone") == (
        EVERYTHING
    )
    assert verdict(changes([b"set timezone = 'x'"]), b"datestyle") is None
    done = changes([b"do $$begin reset timezone; end$$; reset datestyle"])
    assert verdict(done, b"datestyle") == STYLE
    unsure = verdict(done, b"timezone")
    assert unsure is not None and unsure.name == ANY


def test_reset_all_leaves_who_one_is_alone() -> None:
    """PostgreSQL: session_authorization goes back by DISCARD ALL, not by RESET ALL."""
    name = b"session_authorization"
    assert verdict(changes([b"reset all"]), name) is None
    assert verdict(changes([b"discard all"]), name) == WHO


@pytest.mark.parametrize(
    "piece", [b"'", b"'';", b"/*", b'"', b"$a$", b"reset x;", b"(", b"begin;", b"e'\\"]
)
def test_hostile_text_costs_as_much_as_it_is_long(piece: bytes) -> None:
    """Each text is looked at once: ten times as long is no hundred times the work."""

    def cost(count: int) -> float:
        begun = time.process_time()
        for _ in range(5):
            changes([piece * count])
        return time.process_time() - begun

    assert (
        min(cost(4000) for _ in range(3)) < 40 * min(cost(400) for _ in range(3)) + 0.1
    )
