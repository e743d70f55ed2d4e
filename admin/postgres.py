"""What a driver says to any PostgreSQL: transactions, SET, RESET, DISCARD and others.

The one hard idea: there is nothing here that a transaction could undo, but drivers
go by the status that ReadyForQuery tells (nested blocks, savepoints, whether COMMIT
is worth a message). So the status is kept as PostgreSQL does, a failed block
included, and nothing else follows from it.

What is not understood to its last word is no statement of this kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from admin.grammar import Command
from admin.parameters import ALL, may_be_set
from admin.sqlwords import Token, tokens_of
from bouncer.errors import CommandError
from bouncer.wire.messages import READY_IDLE

# Words of the longest statement; a list of values may be as long as it likes.
MOST_WORDS: Final = 200
# A client that leaks savepoints is stopped before it eats the pooler's memory.
MOST_SAVEPOINTS: Final = 1000
LONGEST_NAME: Final = 1024

IDLE, OPEN, FAILED = "I", "T", "E"
_READY: Final = {
    status: READY_IDLE[:-1] + status.encode() for status in (IDLE, OPEN, FAILED)
}


class Plain(NamedTuple):
    """A statement of PostgreSQL's: what it does, its tag, and a name it has."""

    act: str
    tag: str
    name: str = ""


class Words:
    """The words of a statement, taken one by one from the front."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = tokens
        self.at = 0

    def take(self, *words: str) -> str:
        """Take the next word if it is one of *words*; it, or nothing."""
        token = self.next
        if token is not None and token.is_word(*words):
            self.at += 1
            return token.text.upper()
        return ""

    def all(self, words: str) -> bool:
        """Take *words*, all or none of them."""
        begin = self.at
        if all(self.take(word) for word in words.split()):
            return True
        self.at = begin
        return False

    def sign(self, *signs: str) -> bool:
        """Take the next sign if it is one of *signs*."""
        token = self.next
        found = token is not None and token.kind == "sign" and token.text in signs
        self.at += found
        return found

    def name(self) -> str:
        """Take a name, as PostgreSQL folds it; nothing when there is none."""
        token = self.next
        if token is None or token.kind != "name" or token.text[0] in "`[":
            return ""
        self.at += 1
        quoted = token.text[0] == '"'
        return token.text[1:-1].replace('""', '"') if quoted else token.text.lower()

    def value(self) -> bool:
        """Take one value of a SET."""
        self.sign("-", "+")
        token = self.next
        found = token is not None and token.kind in ("text", "name", "number")
        self.at += found
        return found

    @property
    def next(self) -> Token | None:
        """The word that comes next."""
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    @property
    def over(self) -> bool:
        """Whether all words have been taken."""
        return self.at == len(self.tokens)


def parse_plain(text: bytes) -> Plain | Command | None:
    """Read a statement without comments; None when it is none of PostgreSQL's."""
    first = text.split(None, 1)[0].upper() if text.strip() else b""
    reader = _READERS.get(first)
    if reader is None:
        return None
    try:
        tokens = tokens_of(text.decode(), MOST_WORDS + 1)
    except UnicodeDecodeError:
        return None
    if len(tokens) > MOST_WORDS or tokens[-1].kind == "open":
        return None
    words = Words(tokens)
    found = reader(words.take(first.decode("ascii")), words)
    return found if words.over else None


def _begin(first: str, words: Words) -> Plain | None:
    if not words.take("TRANSACTION") and (first == "START" or words.take("WORK")):
        if first == "START":
            return None
    _modes(words)
    return Plain("begin", "BEGIN" if first == "BEGIN" else "START TRANSACTION")


def _modes(words: Words) -> bool:
    """Take the modes of a transaction; whether there was one."""
    at = words.at
    while (
        any(map(words.all, _LEVELS))
        or any(map(words.all, ("READ ONLY", "READ WRITE", "NOT DEFERRABLE")))
        or words.take("DEFERRABLE")
    ):
        words.sign(",")
    return words.at > at


_LEVELS: Final = [
    f"ISOLATION LEVEL {level}"
    for level in (
        "READ COMMITTED",
        "READ UNCOMMITTED",
        "REPEATABLE READ",
        "SERIALIZABLE",
    )
]


def _commit(first: str, words: Words) -> Plain | None:
    words.take("WORK", "TRANSACTION")
    words.all("AND NO CHAIN")
    return Plain("commit", "COMMIT")


def _rollback(first: str, words: Words) -> Plain | None:
    words.take("WORK", "TRANSACTION")
    if first == "ROLLBACK" and words.take("TO"):
        words.take("SAVEPOINT")
        name = words.name()
        return Plain("rollback to", "ROLLBACK", name) if name else None
    words.all("AND NO CHAIN")
    return Plain("rollback", "ROLLBACK")


def _savepoint(first: str, words: Words) -> Plain | None:
    name = words.name()
    return Plain("savepoint", "SAVEPOINT", name) if name else None


def _release(first: str, words: Words) -> Plain | None:
    words.take("SAVEPOINT")
    name = words.name()
    return Plain("release", "RELEASE", name) if name else None


def _set(first: str, words: Words) -> Plain | None:
    ignored = Plain("set", "SET")
    if words.all("SESSION CHARACTERISTICS AS TRANSACTION"):
        return ignored if _modes(words) else None
    if words.all("SESSION AUTHORIZATION"):
        return ignored if words.take("DEFAULT") else None
    if words.take("SESSION", "LOCAL") != "SESSION" and words.take("TRANSACTION"):
        return ignored if _modes(words) else None
    if words.all("TIME ZONE") or words.take("NAMES"):
        return ignored if words.value() else None
    if words.take("ROLE"):
        return ignored if words.take("NONE") else None
    if not may_be_set(words.name()) or not (words.take("TO") or words.sign("=")):
        return None
    while words.value():
        if not words.sign(","):
            return ignored
    return None


def _reset(first: str, words: Words) -> Plain | None:
    known = (
        words.take("ALL")
        or any(map(words.all, _LONG_NAMES))
        or may_be_set(words.name())
    )
    return Plain("set", "RESET") if known else None


_LONG_NAMES: Final = {
    "TRANSACTION ISOLATION LEVEL": "transaction_isolation",
    "SESSION AUTHORIZATION": "session_authorization",
    "TIME ZONE": "timezone",
}


def _show(first: str, words: Words) -> Command | None:
    for long, name in _LONG_NAMES.items():
        if words.all(long):
            return Command("SHOW", name)
    name = words.name()
    return Command("SHOW", name) if name in ALL else None


def _discard(first: str, words: Words) -> Plain | None:
    what = words.take("ALL", "PLANS", "SEQUENCES", "TEMP", "TEMPORARY")
    what = "TEMP" if what == "TEMPORARY" else what
    act = "discard" if what == "ALL" else "nothing"
    return Plain(act, f"DISCARD {what}") if what else None


def _deallocate(first: str, words: Words) -> Plain | None:
    words.take("PREPARE")
    if words.take("ALL"):
        return Plain("deallocate", "DEALLOCATE ALL")
    name = words.name()
    return Plain("deallocate", "DEALLOCATE", name) if name else None


def _close(first: str, words: Words) -> Plain | None:
    if words.take("ALL"):
        return Plain("close", "CLOSE CURSOR ALL")
    name = words.name()
    return Plain("close", "CLOSE CURSOR", name) if name else None


def _unlisten(first: str, words: Words) -> Plain | None:
    known = words.sign("*") or words.name()
    return Plain("nothing", "UNLISTEN") if known else None


_READERS: Final[dict[bytes, Callable[[str, Words], Plain | Command | None]]] = {
    b"ABORT": _rollback,
    b"BEGIN": _begin,
    b"CLOSE": _close,
    b"COMMIT": _commit,
    b"DEALLOCATE": _deallocate,
    b"DISCARD": _discard,
    b"END": _commit,
    b"RELEASE": _release,
    b"RESET": _reset,
    b"ROLLBACK": _rollback,
    b"SAVEPOINT": _savepoint,
    b"SET": _set,
    b"SHOW": _show,
    b"START": _begin,
    b"UNLISTEN": _unlisten,
}


class Block:
    """The transaction block of one session: a status, and names of savepoints."""

    def __init__(self) -> None:
        self.status = IDLE
        self.savepoints: list[str] = []

    @property
    def ready(self) -> bytes:
        """ReadyForQuery, as it is now."""
        return _READY[self.status]

    def fail(self) -> None:
        """Something was refused."""
        if self.status == OPEN:
            self.status = FAILED

    def check(self, statement: object) -> None:
        """Refuse, in a failed block, all but its end."""
        if self.status == FAILED and not (
            isinstance(statement, Plain)
            and statement.act in ("commit", "rollback", "rollback to")
        ):
            raise CommandError(
                "current transaction is aborted, commands ignored until end of "
                "transaction block",
                "25P02",
            )

    def carry_out(self, plain: Plain) -> tuple[str, tuple[str, str] | None]:
        """Do what *plain* says; its tag, and a warning with its SQLSTATE."""
        tag, warning = plain.tag, None
        if plain.act == "begin":
            if self.status == OPEN:
                warning = ("there is already a transaction in progress", "25001")
            self.status = OPEN
        elif plain.act in ("commit", "rollback"):
            if self.status == IDLE:
                warning = ("there is no transaction in progress", "25P01")
            elif self.status == FAILED:
                tag = "ROLLBACK"
            self.status = IDLE
            self.savepoints.clear()
        elif plain.act in ("savepoint", "release", "rollback to"):
            self.savepoint(plain)
        elif plain.act == "discard" and self.status == OPEN:
            text = "DISCARD ALL cannot run inside a transaction block"
            raise CommandError(text, "25001")
        return tag, warning

    def savepoint(self, plain: Plain) -> None:
        """Make a savepoint, or go back to one, or forget one."""
        name = plain.name
        if self.status == IDLE:
            text = f"{_WORDS[plain.act]} can only be used in transaction blocks"
            raise CommandError(text, "25P01")
        if plain.act == "savepoint":
            if len(self.savepoints) == MOST_SAVEPOINTS or len(name) > LONGEST_NAME:
                raise CommandError("too many savepoints", "54000")
            self.savepoints.append(name)
            return
        if name not in self.savepoints:
            raise CommandError(f'savepoint "{name}" does not exist', "3B001")
        # The last one of that name; those behind it go with it.
        at = len(self.savepoints) - 1 - self.savepoints[::-1].index(name)
        if plain.act == "release":
            del self.savepoints[at:]
        else:
            del self.savepoints[at + 1 :]
            self.status = OPEN


_WORDS: Final = {
    "savepoint": "SAVEPOINT",
    "release": "RELEASE SAVEPOINT",
    "rollback to": "ROLLBACK TO SAVEPOINT",
}
