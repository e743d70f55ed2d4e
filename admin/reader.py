"""Read the fields of the extended protocol's messages.

The one hard idea: whatever a message counts is bounded before it is read, since two
bytes can announce 65 535 of it.
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError
from typing import Final

from bouncer.errors import CommandError

# Higher numbers of a placeholder are not understood.
MOST_PARAMETERS: Final = 99
# A result has at most so many columns.
MOST_COLUMNS: Final = 200
# Longer names than PostgreSQL's 63 are taken, but not any.
LONGEST_NAME: Final = 1024

INT2: Final = Struct("!H")
INT4: Final = Struct("!i")
OID: Final = Struct("!I")


class Reader:
    """Reads the fields of a message; a message that is cut is refused."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.at = 0

    def text(self) -> bytes:
        """Read up to the next zero byte."""
        end = self.body.find(b"\0", self.at)
        if end < 0:
            raise malformed()
        found = self.body[self.at : end]
        self.at = end + 1
        return found

    def number(self, form: Struct) -> int:
        """Read one number."""
        try:
            value: int = form.unpack_from(self.body, self.at)[0]
        except StructError:
            raise malformed() from None
        self.at += form.size
        return value

    def name(self) -> bytes:
        """Read the name of a statement or a portal."""
        found = self.text()
        if len(found) > LONGEST_NAME:
            raise CommandError(f"name is longer than {LONGEST_NAME} bytes", "42622")
        return found

    def count(self, most: int, what: str) -> int:
        """Read how many there are; more than *most* are refused unread."""
        number = self.number(INT2)
        if number > most:
            raise CommandError(f"cannot have more than {most} {what}", "54000")
        return number

    def numbers(self, form: Struct, most: int, what: str) -> list[int]:
        """Read a count and so many numbers."""
        return [self.number(form) for _ in range(self.count(most, what))]

    def values(self) -> list[bytes | None]:
        """Read a count and so many values with their lengths."""
        found: list[bytes | None] = []
        for _ in range(self.count(MOST_PARAMETERS, "parameters")):
            length = self.number(INT4)
            if length < 0:
                found.append(None)
                continue
            if self.at + length > len(self.body):
                raise malformed()
            found.append(self.body[self.at : self.at + length])
            self.at += length
        return found

    def kind(self) -> bytes:
        """Read one byte that is S or P."""
        self.at += 1
        found = self.body[self.at - 1 : self.at]
        if found not in (b"S", b"P"):
            raise malformed()
        return found


def malformed() -> CommandError:
    """Refuse a message whose lengths do not fit."""
    return CommandError("invalid message format")
