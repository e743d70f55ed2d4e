"""The console's grammar: one command or one SET per query, nothing else.

The one hard idea: what looks like SQL is three patterns and a table of lengths.
They work on bytes, because the limits count bytes and a name may be any bytes.
Whatever does not match is `None`: the caller says `invalid command`.

A prepared statement may have `$1` where an argument or a SET value stands, which
PgBouncer, having no prepared statements here, does not know.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from bouncer.errors import CommandError
from bouncer.wire.messages import decode_text

# Lengths of PgBouncer's buffers less the zero byte: they count the quotes too.
LONGEST_WORD: Final = 15
LONGEST_ARGUMENT: Final = 63
LONGEST_KEY: Final = 63
LONGEST_VALUE: Final = 255

_BLANK: Final = rb"[ \t\n\r]"
_WORD: Final = rb'(?:[0-9A-Za-z_]+|"(?:[^"]|"")*")'
_STRING: Final = rb"'(?:[^']|'')*'"
_PARAMETER: Final = rb"\$[1-9][0-9]?"
_END: Final = _BLANK + rb"*(?:;" + _BLANK + rb"*)?"


def _command(argument: bytes) -> re.Pattern[bytes]:
    return re.compile(
        _BLANK + rb"*(" + _WORD + rb")(?:" + _BLANK + rb"+(" + argument + rb"))?" + _END
    )


def _assignment(value: bytes) -> re.Pattern[bytes]:
    return re.compile(
        _BLANK
        + rb"*SET"
        + _BLANK
        + rb"+("
        + _WORD
        + rb")"
        + _BLANK
        + rb"*(?:=|TO)"
        + _BLANK
        + rb"*("
        + value
        + rb")"
        + _END,
        re.IGNORECASE,
    )


_COMMAND: Final = _command(_WORD)
_SET: Final = _assignment(_STRING + rb"|" + _WORD)
_COMMAND_WITH_PARAMETER: Final = _command(_PARAMETER)
_SET_WITH_PARAMETER: Final = _assignment(_PARAMETER)


# The one command of three words, which no rule of PgBouncer's would take.
HELP_ASKED: Final = "PYBOUNCER HELP"
_HELP_ASKED: Final = re.compile(
    _BLANK + rb"*SHOW" + _BLANK + rb"+PYBOUNCER" + _BLANK + rb"+HELP" + _END,
    re.IGNORECASE,
)


class Command(NamedTuple):
    """A command word in upper case and its argument, "" when there is none.

    *parameter* is the number of the placeholder that stands for the argument,
    0 when it is written out.
    """

    word: str
    argument: str = ""
    parameter: int = 0


class Assignment(NamedTuple):
    """A SET; *parameter* as in `Command`, for the value."""

    key: str
    value: str = ""
    parameter: int = 0


Statement = Command | Assignment


def parse(text: bytes) -> Statement | None:
    """Read one command; None when *text* is none.

    Raises `CommandError` when it would be one but for the length of its words.
    """
    match = _COMMAND.fullmatch(text)
    if match is not None:
        word, argument = match.groups(b"")
        if len(word) > LONGEST_WORD or len(argument) > LONGEST_ARGUMENT:
            raise CommandError("bad arguments")
        return Command(_plain(word).upper(), _plain(argument))
    match = _SET.fullmatch(text)
    if match is not None:
        key, value = match.groups()
        if len(value) > LONGEST_VALUE:
            raise CommandError("bad arguments")
        return Assignment(_key(key), _plain(value))
    if _HELP_ASKED.fullmatch(text):
        return Command("SHOW", HELP_ASKED)
    return None


def parse_prepared(text: bytes) -> Statement | None:
    """Read one command in which a placeholder may stand for the argument."""
    match = _COMMAND_WITH_PARAMETER.fullmatch(text)
    if match is not None and match[2] is not None:
        if len(match[1]) > LONGEST_WORD:
            raise CommandError("bad arguments")
        return Command(_plain(match[1]).upper(), "", int(match[2][1:]))
    match = _SET_WITH_PARAMETER.fullmatch(text)
    if match is not None:
        return Assignment(_key(match[1]), "", int(match[2][1:]))
    return parse(text)


def _key(word: bytes) -> str:
    key = _plain(word)
    if not key or len(word) > LONGEST_KEY:
        raise CommandError("bad arguments")
    return key


def _plain(word: bytes) -> str:
    """Return *word* without its quotes."""
    quote = word[:1]
    if quote == b'"' or quote == b"'":
        word = word[1:-1].replace(quote * 2, quote)
    return decode_text(word)
