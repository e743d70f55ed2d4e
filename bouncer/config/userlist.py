"""auth_file: user names and their secrets.

The one hard idea: a name and a password are two quoted strings, and anything at all
may stand between them. A forgotten password therefore swallows the next line, and
reading stops for good at the first thing that is not a quoted string: what came
before is in force, what comes after does not exist.
"""

import os
import re
from typing import Final, TypeAlias

from bouncer import log
from bouncer.config.ini import read_file, reason_of

# Bytes between the quotes, doubled quotes counting two.
LONGEST_NAME: Final = 127
# PostgreSQL takes no longer password.
LONGEST_PASSWORD: Final = 65530

BETWEEN: Final = re.compile(r"[ \t-\r]*(?:;[^\n]*[ \t-\r]*)*+")
QUOTED: Final = re.compile(r'"((?:[^"]|"")*+)"')
GAP: Final = re.compile(r'[^"]*')
REST_OF_LINE: Final = re.compile(r"[^\n]*")

Secrets: TypeAlias = dict[str, str]


class Broken(ValueError):
    """Reading must stop here."""

    def __init__(self, text: str, line: int) -> None:
        super().__init__(text)
        self.line = line


class UserList:
    """What an auth_file says; *problem* is why reading stopped early, and where."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.secrets: Secrets = {}
        self.lines: dict[str, int] = {}
        # Names that stand there again, and where.
        self.repeated: dict[str, int] = {}
        self.problem: Broken | None = None
        self.position = 0
        self.line, self.counted = 1, 0
        try:
            self.parse()
        except Broken as broken:
            self.problem = broken

    @classmethod
    def read(cls, path: str) -> Secrets:
        """Return name -> secret. Logs what is wrong; raises `OSError`."""
        found = cls(read_file(path))
        if found.problem is not None:
            log.error(str(found.problem))
        return found.secrets

    def parse(self) -> None:
        """Take entry after entry; the last one for a name wins."""
        text, end = self.text, len(self.text)
        self.step(BETWEEN)
        while self.position < end:
            line = self.line_here()
            name = self.quoted(LONGEST_NAME, "username")
            self.step(GAP)
            secret = self.quoted(LONGEST_PASSWORD, "password")
            if name in self.secrets:
                self.repeated[name] = line
            self.secrets[name] = secret
            self.lines[name] = line
            found = REST_OF_LINE.match(text, self.position)
            self.position = found.end() if found else end
            self.step(BETWEEN)

    def step(self, pattern: re.Pattern[str]) -> None:
        """Step over what *pattern* matches."""
        found = pattern.match(self.text, self.position)
        if found is not None:
            self.position = found.end()

    def quoted(self, longest: int, what: str) -> str:
        """Take a quoted string; raises `Broken`."""
        found = QUOTED.match(self.text, self.position)
        if found is None:
            raise Broken("broken auth file", self.line_here())
        raw = found[1]
        if len(raw) * 4 > longest:
            if len(raw.encode("utf-8", "surrogateescape")) > longest:
                raise Broken(f"{what} too long in auth file", self.line_here())
        self.position = found.end()
        return raw.replace('""', '"')

    def line_here(self) -> int:
        """Return the number of the current line."""
        self.line += self.text.count("\n", self.counted, self.position)
        self.counted = self.position
        return self.line


Identity: TypeAlias = tuple[int, int, int, int, int, int, int]


def identity(state: os.stat_result) -> Identity:
    """Return what must be equal for a file to count as unchanged.

    PgBouncer compares whole seconds and misses a second change within one.
    """
    return (
        state.st_dev,
        state.st_ino,
        state.st_mode,
        state.st_uid,
        state.st_gid,
        state.st_size,
        state.st_mtime_ns,
    )


class UserListFile:
    """An auth_file that is read again only when it has changed.

    A new path wants a new object.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.identity: Identity | None = None
        self.missing = False

    def reread_if_changed(self) -> Secrets | None:
        """Return name -> secret, or None if what was read before still counts.

        A file that cannot be opened leaves the old list in force, and is complained
        about once, until it can be opened again.
        """
        try:
            with open(self.path, "rb") as file:
                found = identity(os.fstat(file.fileno()))
        except OSError as error:
            self.gone(error)
            return None
        self.missing = False
        if found == self.identity:
            return None
        try:
            secrets = UserList.read(self.path)
        except OSError as error:
            self.gone(error)
            return None
        self.identity = found
        return secrets

    def gone(self, error: OSError) -> None:
        """Note that the file cannot be read."""
        if not self.missing:
            log.error(f"could not open auth_file {self.path}: {reason_of(error)}")
        self.missing = True
        self.identity = None
