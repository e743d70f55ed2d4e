"""Lines of `[databases]`, `[users]` and `[peers]`: everything that is wrong with one.

The one hard idea: a start ends at the first pair that it cannot read, and takes much
that nobody can have meant, because it reads numbers up to the first sign that is no
digit and words up to the next blank. So a line is read again here, pair by pair, and
behind a broken one at the next word.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from bouncer.check import suggest
from bouncer.check.findings import ERROR, WARNING
from bouncer.check.spelling import NOT_REPLACED, in_quotes, placeholder, secret_doubt
from bouncer.config.connstr import BadConnstr, Pair, walk
from bouncer.config.entries import (
    ALIASES,
    SECTIONS,
    Section,
    duration,
    limit,
    port,
    size,
    wait,
)
from bouncer.config.ini import Refused
from bouncer.config.masking import without_secrets
from bouncer.config.values import lenient_int

NUMBERS: Final = (size, limit, duration, wait, port)
TIMES: Final = (duration, wait)
WHOLE: Final = re.compile(r"[ \t-\r]*[+-]?[0-9]{1,20}")
WORD: Final = re.compile(r"[^ ]+")
WITH_PORT: Final = re.compile(r"[^:/@]+:[0-9]+")
COMMENTS: Final = ("#", ";", "--", "//")
SEPARATORS: Final = ",;"


class Mistake(NamedTuple):
    """What is wrong with one pair, and what was probably meant."""

    level: str
    text: str
    hint: str = ""


def mistakes(name: str, text: str) -> Iterator[Mistake]:
    """Yield what is wrong with a line *text* of the section *name*."""
    section = SECTIONS[name]
    seen: dict[str, None] = {}
    for found in parts(section, text):
        if isinstance(found, Mistake):
            yield found
            continue
        key = ALIASES.get(found.key, found.key)
        if key in seen:
            yield Mistake(WARNING, f"{found.key} is given twice, the last one counts")
        seen[key] = None
        try:
            section.read(found.key, found.value)
        except Refused as refused:
            yield Mistake(ERROR, refused.line, suggest.pair(name, refused.line))
            continue
        yield from oddities(section, found)


def parts(section: Section, text: str) -> Iterator[Pair | Mistake]:
    """Yield the pairs of *text*, and a mistake for what is none.

    Behind it only what is known: free text is no further mistake.
    """
    position, broken = 0, False
    while True:
        try:
            for pair in walk(text, position):
                if not broken or pair.key in section.readers:
                    yield pair
                elif hint := suggest.pair_key(section.readers, pair.key):
                    what = f"unrecognized {section.kind} parameter: {pair.key}"
                    yield Mistake(ERROR, what, hint)
            return
        except BadConnstr as bad:
            rest = text[bad.position :]
        if not broken:
            yield Mistake(ERROR, section.broken(), suggest.broken_pair(text, rest))
        broken = True
        word = WORD.match(rest)
        is_open = rest.partition("=")[2].lstrip(" ").startswith("'")
        if word is None or rest.startswith(COMMENTS) or is_open:
            return
        position = len(text) - len(rest) + word.end()


def oddities(section: Section, pair: Pair) -> Iterator[Mistake]:
    """Yield what is read, but hardly as it was meant."""
    key, value = pair.key, pair.value
    reader = section.readers[key]
    if reader in NUMBERS:
        if not WHOLE.fullmatch(value) or lenient_int(value) != int(value):
            text = f"{key}={value} is read as {lenient_int(value)}"
            yield Mistake(WARNING, text, suggest.number(value, reader in TIMES))
        return
    if "query" in key:
        return
    if key == "password":
        if doubt := secret_doubt(value, pair.quoted):
            yield Mistake(WARNING, f"password: {doubt}")
        return
    if found := placeholder(value):
        yield Mistake(WARNING, f'{key} has "{found}" in it', NOT_REPLACED)
    elif in_quotes(value) and not pair.quoted:
        text = f"{key}: the quotes are part of the value"
        yield Mistake(WARNING, text, "'...', or no quotes")
    elif not pair.quoted:
        yield from swallowed(section, key, value)
    if key == "host":
        yield from no_hosts(value)


def swallowed(section: Section, key: str, value: str) -> Iterator[Mistake]:
    """Yield what the bare *value* has taken that was to stand behind it."""
    shown = without_secrets(value, bare=True)
    for at, sign in enumerate(value):
        if sign == "=" and (word := re.search(r"\w+$", value[:at])):
            before = value[: word.start()]
            if word[0] not in section.readers or before[-1:] not in ("", *SEPARATORS):
                continue
            hint = "only blanks separate" if before else f"leave {key}= out"
            yield Mistake(WARNING, f'{key} is "{shown}"', hint)
            return
    if value[-1] in SEPARATORS and key != "host":
        yield Mistake(WARNING, f'{key} is "{shown}"', "only blanks separate")


def no_hosts(value: str) -> Iterator[Mistake]:
    """Yield hosts that carry more than a name."""
    for part in value.split(","):
        if "://" in part:
            yield Mistake(WARNING, "host is a URL", "host=NAME port=NUMBER dbname=NAME")
        elif WITH_PORT.fullmatch(part):
            name, _, number = part.partition(":")
            yield Mistake(
                WARNING, f'"{part}" is not a host', f"host={name} port={number}"
            )
