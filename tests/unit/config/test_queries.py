"""Queries of our own: where they are cut, and which cannot work."""

import pytest

from bouncer.config.queries import NO_CHECK, own, packed, split, why_not

ONE = (
    "DISCARD ALL",
    "DISCARD ALL;",
    "  select 1 ; ; -- and that is all",
    "select ';'",
    "select 'it''s;'",
    "select e'it\\'s;', E'\\\\'",
    "select some'x;'",  # no E string: the E ends a word
    'select 1 as "a;b""c;"',
    "select $$;$$",
    "select $a$; $b$;$b$ $$;$$ $a$",
    "select a$b$c;",
    "/* a; /* b; */ c; */ select 1 /*;*/",
    "select 1 -- ; 2",
    "create rule r as on insert to t do (select 1; select 2)",
    "create function f() returns int begin atomic select 1; select 2; end",
    "",
    "-- nothing; at all",
    "select 'no end; here",
    'select "no end; here',
    "select $a$ no end; $b$",
    "select 1 /* no end; ",
    "select (1; select 2",
)
MANY = {
    "DISCARD ALL; SET lock_timeout TO '5s'": [
        "DISCARD ALL",
        "SET lock_timeout TO '5s'",
    ],
    "a;b;;c;": ["a", "b", "c"],
    "a -- x;\n; b": ["a -- x;", "b"],
    "select ');'; b": ["select ');'", "b"],
    "select 1); b": ["select 1)", "b"],
    "select '\\'; b --'": ["select '\\'", "b --'"],
    "select $1; $x$a;$x$": ["select $1", "$x$a;$x$"],
    "a /* ; /* */ ; */ ; b": ["a /* ; /* */ ; */", "b"],
}


@pytest.mark.parametrize("text", ONE)
def test_one_statement_is_sent_as_it_stands(text: str) -> None:
    assert split(text) == [text]


@pytest.mark.parametrize("text", MANY)
def test_several_statements_are_cut_at_semicolons_of_the_top(text: str) -> None:
    assert split(text) == MANY[text]
    assert packed(text).split(b"\0") == [part.encode() for part in MANY[text]]


@pytest.mark.parametrize(
    "piece", ["(", "'", '"', "$a$", "/*", "$", "e'", "--", ";", "'\\"]
)
def test_cutting_takes_a_time_that_grows_with_the_text(piece: str) -> None:
    split(piece * 20_000)
    split("a" + piece * 20_000 + "b")


def test_empty_check_query_is_an_empty_query() -> None:
    class Given:
        server_reset_query = "DISCARD ALL; RESET ALL"
        server_check_query = NO_CHECK

    assert own(Given()) == (b"DISCARD ALL\0RESET ALL", b"")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('"DISCARD ALL"', "the quotes are part of it"),
        ("'select 1'", "the quotes are part of it"),
        ("none", "no SQL command"),
        ("0", "no SQL command"),
        ("DISCARD ALL; reset", ""),
        ("DISCARD ALL; rest", "no SQL command"),
        ("DISCARD ALL; SET lock_timeout TO '5s'", ""),
        ("/* all */ discard all", ""),
        ("( select 1 )", ""),
        ("select 'no end", "a string in it has no end"),
        ("select 1 /* no end", "a comment in it has no end"),
        ("select (1", "a parenthesis in it has no end"),
        ("begin; discard all; commit", "DISCARD ALL cannot run inside a transaction"),
        ("begin; set a = 1", "leaves a transaction open"),
        ("begin; set a = 1; end; discard all", ""),
        ("select '" + "x" * 600 + "'", "longer than 506 bytes"),
        ("", ""),
    ],
)
@pytest.mark.parametrize(
    "setting", ["server_reset_query", "server_check_query", "connect_query"]
)
def test_query_that_cannot_work_is_told(setting: str, text: str, why: str) -> None:
    assert (why in why_not(setting, text)) if why else why_not(setting, text) == ""


def test_auth_query_is_one_statement_of_any_length() -> None:
    assert why_not("auth_query", "select $1; select 2").startswith("more than one")
    assert why_not("auth_query", "select '" + "x" * 600 + "', $1") == ""
    assert why_not("auth_query", '"select 1"').startswith("the quotes")


def test_empty_word_is_a_check_without_a_query() -> None:
    assert why_not("server_check_query", NO_CHECK) == ""
