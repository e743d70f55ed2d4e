"""The console's grammar: admin.md section 5."""

import pytest

from admin.grammar import Assignment, Command, parse, parse_prepared
from bouncer.errors import CommandError


@pytest.mark.parametrize(
    ("text", "statement"),
    [
        (b"SHOW STATE", Command("SHOW", "STATE")),
        (b"show state", Command("SHOW", "state")),
        (b"\n\tSHOW\r\nSTATE\n;\n", Command("SHOW", "STATE")),
        (b"ShOw StAtE ; ", Command("SHOW", "StAtE")),
        (b'"show" "pools";', Command("SHOW", "pools")),
        (b"RELOAD", Command("RELOAD")),
        (b'PAUSE ""', Command("PAUSE", "")),
        (b'PAUSE "a""b"', Command("PAUSE", 'a"b')),
        (b'PAUSE "weird-db"', Command("PAUSE", "weird-db")),
        (b'PAUSE "\xff"', Command("PAUSE", "\udcff")),
        (b"42", Command("42")),
        (b"_", Command("_")),
        (b"SET", Command("SET")),
        (b"SET a", Command("SET", "a")),
        (b"SET a=1", Assignment("a", "1")),
        (b" set a = 1 ;", Assignment("a", "1")),
        (b"SET a TO 1", Assignment("a", "1")),
        (b"set a to'0'", Assignment("a", "0")),
        (b"SET a='it''s'", Assignment("a", "it's")),
        (b"SET a=''", Assignment("a", "")),
        (b'SET "a"="1"', Assignment("a", "1")),
        (b"SET A=1", Assignment("A", "1")),
    ],
)
def test_statements_are_read(text: bytes, statement: object) -> None:
    assert parse(text) == statement


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b";",
        b"SHOW STATE;;",
        b"SHOW\fSTATE",
        b"\vSHOW STATE",
        b"SHOW\xc2\xa0STATE",
        b"SHOW STATE; SHOW VERSION",
        b"SHOW STATE -- c",
        b"-- c\nSHOW STATE",
        b"SHOW /* x */ STATE",
        b"SHOW 'STATE'",
        b"SHOW STATE now",
        b"PAUSE weird-db",
        b"SHOW a.b",
        b"SHOW %s",
        b"SHOW $1",
        b'PAUSE "a',
        b"SELECT version()",
        b"SET a=",
        b"SET a=-1",
        b"SET a=1.5",
        b"SET TIME ZONE 'UTC'",
        b"SET SESSION a=1",
        b"SETa=1",
        b'"SET" a=1',
        b"SET a=1 b",
        b"SET a='x",
    ],
)
def test_everything_else_is_no_command(text: bytes) -> None:
    assert parse(text) is None


@pytest.mark.parametrize(
    ("fits", "too_long"),
    [
        (b"a" * 15, b"a" * 16),
        (b"SHOW " + b"a" * 63, b"SHOW " + b"a" * 64),
        (b'SHOW "' + b"a" * 61 + b'"', b'SHOW "' + b"a" * 62 + b'"'),
        (b"SET " + b"a" * 63 + b"=1", b"SET " + b"a" * 64 + b"=1"),
        (b"SET a='" + b"v" * 253 + b"'", b"SET a='" + b"v" * 254 + b"'"),
        (b"SET a=1", b"SET \"\"='x'"),
    ],
)
def test_lengths_count_bytes_with_the_quotes(fits: bytes, too_long: bytes) -> None:
    assert parse(fits) is not None
    with pytest.raises(CommandError) as caught:
        parse(too_long)
    assert caught.value.text == "bad arguments"


@pytest.mark.parametrize(
    ("text", "statement"),
    [
        (b"PAUSE $1", Command("PAUSE", "", 1)),
        (b"kill_client $12;", Command("KILL_CLIENT", "", 12)),
        (b"SET a = $1", Assignment("a", "", 1)),
        (b"set a to $2", Assignment("a", "", 2)),
        (b"SHOW STATE", Command("SHOW", "STATE")),
        (b"RELOAD", Command("RELOAD")),
    ],
)
def test_prepared_statements_may_have_a_placeholder(
    text: bytes, statement: object
) -> None:
    assert parse_prepared(text) == statement


@pytest.mark.parametrize("text", [b"PAUSE $0", b"PAUSE '$1'", b"$1", b"SHOW $1 $2"])
def test_placeholders_stand_for_whole_arguments_only(text: bytes) -> None:
    assert parse_prepared(text) is None
