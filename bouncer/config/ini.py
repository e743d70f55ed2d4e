"""Cut an ini file into sections and items, with PgBouncer's idea of line numbers.

The one hard idea: an item is handed on only after the white space behind it has been
skipped, and its complaint names the line reached by then. So the reported line is
not the item's own, and a `Place` carries both: `shown` for PgBouncer's messages,
`line` for those of our own that should point at the mistake.

Nothing is known here about what sections and items mean; a `Sink` says that.
"""

import os
import re
from typing import Final, NamedTuple, Protocol

from bouncer.config.masking import HIDDEN, is_secret, without_secrets
from bouncer.errors import ConfigError

# The main file is level 0.
DEEPEST: Final = 10

SPACE: Final = re.compile(r"[ \t-\r]*")
BLANKS: Final = re.compile(r"[ \t]*")
REST_OF_LINE: Final = re.compile(r"[^\n]*")
BARE_KEY: Final = re.compile(r"[A-Za-z0-9_.*-]*")
SECTION: Final = re.compile(r"\[([^]\n]*)\]")
INCLUDE: Final = re.compile(r"%include[ \t]+")


class Place(NamedTuple):
    """Where something stands: the file as it was named, the line, and the line that
    PgBouncer would report."""

    file: str
    line: int
    shown: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class IniError(ConfigError):
    """Reading stops here. *lines* are the log's ERROR lines, in order."""

    def __init__(self, lines: list[str], place: Place, key: str | None = None) -> None:
        super().__init__(lines[0])
        self.lines = lines
        self.place = place
        self.key = key


class Refused(ConfigError):
    """What a sink raises; *line* is logged before the complaint about the item."""

    def __init__(self, line: str = "") -> None:
        super().__init__(line)
        self.line = line


class Sink(Protocol):
    """Takes what a file says, in order; raises `Refused`."""

    def section(self, name: str, place: Place) -> None: ...
    def item(self, key: str, value: str, place: Place) -> None: ...
    def debug(self, text: str) -> None: ...


def read_file(name: str) -> str:
    """Return the text of a file up to its first NUL; bytes that are no UTF-8 survive.

    A directory reads as empty, as it does in PgBouncer. Raises `OSError`.
    """
    try:
        with open(name, "rb") as file:
            data = file.read()
    except IsADirectoryError:
        return ""
    end = data.find(b"\0")
    if end >= 0:
        data = data[:end]
    return data.decode("utf-8", "surrogateescape")


def reason_of(error: OSError) -> str:
    """Return the C library's text for *error*."""
    return os.strerror(error.errno) if error.errno else str(error)


def read_ini(name: str, sink: Sink, level: int = 0, at: Place | None = None) -> None:
    """Hand the sections and items of the file *name* to *sink*.

    *at* is the `%include` that asked for it. Raises `IniError`.
    """
    try:
        text = read_file(name)
    except OSError as error:
        line = f'could not load file "{name}": {reason_of(error)}'
        raise IniError([line], at or Place(name, 0, 0)) from error
    IniFile(name, text, sink, level).read()


def why(line: str, value: str, shown: str) -> str:
    """Return *line* without what it quotes of *value*, if that is not *shown*."""
    what, colon, quoted = line.partition(": ")
    if quoted and quoted in value and quoted not in shown:
        return f"{what}{colon}{HIDDEN}"
    return line


class IniFile:
    """One file while it is being read."""

    def __init__(self, name: str, text: str, sink: Sink, level: int) -> None:
        self.name = name
        self.text = text
        self.sink = sink
        self.level = level
        self.position = 0
        # The number of the line that `counted` is on; lines are counted once.
        self.line = 1
        self.counted = 0

    def read(self) -> None:
        """Read to the end of the text."""
        while self.step():
            pass

    def step(self) -> bool:
        """Read what comes next; False at the end of the text."""
        self.skip(SPACE)
        if self.position >= len(self.text):
            return False
        first = self.text[self.position]
        if first in "#;":
            self.skip(REST_OF_LINE)
        elif first == "[":
            self.section()
        elif first == "%" and (found := INCLUDE.match(self.text, self.position)):
            self.include(found.end())
        else:
            self.item()
        return True

    def skip(self, pattern: re.Pattern[str]) -> None:
        """Step over what *pattern* matches, which may be nothing."""
        found = pattern.match(self.text, self.position)
        if found is not None:
            self.position = found.end()

    def line_at(self, position: int) -> int:
        """Return the number of the line that *position* is on."""
        self.line += self.text.count("\n", self.counted, position)
        self.counted = position
        return self.line

    def place(self, shown: int = 0) -> Place:
        """Return where the reader stands."""
        line = self.line_at(self.position)
        return Place(self.name, line, shown or line)

    def syntax_error(self) -> IniError:
        """Return the complaint about what stands here."""
        place = self.place()
        line = f"syntax error in configuration ({place}), stopping loading"
        return IniError([line], place)

    def section(self) -> None:
        """Read `[name]`; what follows on the line is read on its own."""
        found = SECTION.match(self.text, self.position)
        if found is None:
            raise self.syntax_error()
        place = self.place()
        name = found[1]
        self.sink.debug(f"parse_ini_file: [{name}]")
        try:
            self.sink.section(name, place)
        except Refused as refused:
            lines = [
                refused.line,
                f'invalid section "{name}" in configuration ({place})',
            ]
            raise IniError(lines, place, name) from refused
        self.position = found.end()

    def include(self, start: int) -> None:
        """Read the file named from *start* on, as if its text stood here."""
        place = self.place()
        if self.level >= DEEPEST:
            line = f"include nesting level too deep ({place}), stopping loading"
            raise IniError([line], place)
        self.position = start
        self.skip(REST_OF_LINE)
        name = self.text[start : self.position].rstrip(" \t\n\v\f\r")
        self.sink.debug(f"processing include: {name}")
        try:
            self.nested(name, place)
        except IniError as error:
            error.lines.append(
                "error processing include file in configuration "
                f"({place}), stopping loading"
            )
            raise
        self.sink.debug(f"returned to processing file {self.name}")

    def nested(self, name: str, place: Place) -> None:
        """Read an included file."""
        read_ini(name, self.sink, self.level + 1, place)

    def item(self) -> None:
        """Read `key = value`."""
        line = self.line_at(self.position)
        key = self.key()
        self.skip(BLANKS)
        if not self.text.startswith("=", self.position):
            raise self.syntax_error()
        self.position += 1
        self.skip(BLANKS)
        start = self.position
        self.skip(REST_OF_LINE)
        value = self.text[start : self.position].rstrip(" \t\n\v\f\r")
        line += key.count("\n")
        place = Place(self.name, line, self.shown_line(start + len(value)))
        try:
            self.sink.item(key, value, place)
        except Refused as refused:
            shown = HIDDEN if is_secret(key) else without_secrets(value, bare=True)
            lines = [why(refused.line, value, shown)] if refused.line else []
            lines.append(
                f'invalid value "{shown}" for parameter {key} in configuration '
                f"({self.name}:{place.shown})"
            )
            raise IniError(lines, place, key) from refused

    def key(self) -> str:
        """Read the name of an item: bare, or in single quotes without any escape."""
        if self.text.startswith("'", self.position):
            end = self.text.find("'", self.position + 1)
            if end < 0:
                self.position = len(self.text)
                raise self.syntax_error()
            key = self.text[self.position + 1 : end]
            if not key:
                raise self.syntax_error()
            self.position = end + 1
            return key
        found = BARE_KEY.match(self.text, self.position)
        start, self.position = self.position, found.end() if found else self.position
        return self.text[start : self.position]

    def shown_line(self, end: int) -> int:
        """Return the line that a complaint about the value ending at *end* names.

        PgBouncer puts a terminator over the byte at *end*, skips it unseen and then
        counts the lines of the white space behind it.
        """
        self.position = min(end + 1, len(self.text))
        self.skip(SPACE)
        unseen = 1 if self.text.startswith("\n", end) else 0
        return self.line_at(self.position) - unseen
