"""What PostgreSQL said beside what came through us, message by message.

Every byte counts, but for what the table `MUST_DIFFER` names, each with its reason.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.relay.frames import Message


@dataclass
class Heard:
    """All that one client was told."""

    login: dict[str, str] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)  # messages at the end of each wait
    end: str = "open"  # "closed", "silent", or what went wrong


def without_pid(body: bytes) -> bytes:
    return bytes(4) + body[4:]


def without_line(body: bytes) -> bytes:
    """25P02 without the line of PostgreSQL's source that it comes from."""
    if b"\0C25P02\0" not in body:
        return body
    parts = body.split(b"\0")
    return b"\0".join(part for part in parts if part[:1] not in (b"L", b"R"))


def without_default(body: bytes) -> bytes:
    """A row that begins so, without its second column: a value."""
    told = values(body)
    return told[0].encode() if told[:1] == ["was reset to"] else body


@dataclass(frozen=True)
class Allowance:
    """A difference that must be."""

    code: bytes
    why: str
    normal: Callable[[bytes], bytes]


MUST_DIFFER = [
    Allowance(b"A", "the notifying backend is another process", without_pid),
    Allowance(
        b"E", "a Bind or Describe is refused by the Parse before it", without_line
    ),
    Allowance(
        b"D",
        "a row with set_config(x, NULL) tells the server's default: no SQL changes what"
        " a session goes back to, and the row comes before we know of the reset",
        without_default,
    ),
]
# At login: AuthenticationOk and the cancel key are left out, for the key is ours and a
# pooler may ask for a password where PostgreSQL does not; the order of parameters is
# nobody's promise, and these are not the client's:
LOGIN_MAY_DIFFER = {
    "is_superuser": "of the server's user, whom we may be told to log in as",
    "session_authorization": "the same",
    "pgbouncer.version": "a pooler says that it is one",
    "pgbouncer.pool_mode": "the same",
    "pgbouncer.max_prepared_statements": "the same",
}


def normal(message: Message) -> Message:
    """*message* without what must differ."""
    code, body = message
    for allowance in MUST_DIFFER:
        if allowance.code == code:
            body = allowance.normal(body)
    return code, body


def shown(message: Message) -> str:
    """A message as the cases write it: D[5], E[42601 text], Z[I]."""
    code, body = message
    sign = code.decode()
    if code in (b"E", b"N"):
        fields = {part[:1]: part[1:].decode() for part in body.split(b"\0") if part}
        return f"{sign}[{fields.get(b'C')} {fields.get(b'M')}]"
    if code in (b"Z", b"d"):
        return f"{sign}[{body.decode(errors='replace').strip()}]"
    if code == b"C":
        return f"{sign}[{body[:-1].decode()}]"
    if code == b"D":
        return f"{sign}[{','.join(values(body))[:60]}]"
    if code == b"S":
        name, value = body.split(b"\0")[:2]
        return f"{sign}[{name.decode()}={value.decode()}]"
    return sign


def values(body: bytes) -> list[str]:
    """The columns of a data row."""
    found, place = [], 2
    for _ in range(int.from_bytes(body[:2], "big")):
        size = int.from_bytes(body[place : place + 4], "big", signed=True)
        place += 4
        found.append("null" if size < 0 else body[place : place + size].decode())
        place += max(size, 0)
    return found


def first_difference(right: list[Message], got: list[Message]) -> int | None:
    """Where *got* leaves *right*; None where it is as far as both go the same."""
    for number, (one, other) in enumerate(zip(right, got, strict=False)):
        if one != other and normal(one) != normal(other):
            return number
    return None


def difference(right: Heard, got: Heard, open_end: bool = False) -> str | None:
    """What is wrong with *got*, in one line; None for nothing.

    *open_end*: the client left in the middle of a unit. What PostgreSQL had not yet
    flushed is lost, and we may have passed it on, or less of it.
    """
    for name in sorted(right.login.keys() | got.login.keys()):
        one, other = got.login.get(name), right.login.get(name)
        if one != other and name not in LOGIN_MAY_DIFFER:
            return f"{name}={one} instead of {name}={other} (at login)"
    place = first_difference(right.messages, got.messages)
    shorter = min(len(right.messages), len(got.messages))
    if place is None and len(right.messages) != len(got.messages):
        if not open_end or got.end == "silent":
            place = shorter
    if place is None and right.end == got.end:
        return None
    if place is None:
        place = shorter
    first, other = sign_at(got, place), sign_at(right, place)
    there = f"message {place + 1} of: {around(got, place)}; of: {around(right, place)}"
    return f"{first} instead of {other} ({there})"


def kind(told: str) -> str:
    """What differences of one kind have in common."""
    return re.sub(r"^((?:next )?client) \d+", r"\1", told.partition(" (")[0])


def sign_at(heard: Heard, place: int) -> str:
    """The kind of the message at *place*, or how it ended there."""
    if place >= len(heard.messages):
        return heard.end
    sign = shown(heard.messages[place])
    return sign.partition(" ")[0] + "]" if sign[0] == "E" else sign[0]


def around(heard: Heard, place: int) -> str:
    """What was heard just before *place*, there and behind it."""
    start, end = max(0, place - 3), place + 3
    words = [shown(message) for message in heard.messages[start:end]]
    if place >= len(heard.messages):
        words.append(heard.end)
    return " ".join(words)
