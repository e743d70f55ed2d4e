"""auth_ident_file: which user names a system user may log in under.

The one hard idea: a map is looked up by name while the HBA file is read, and the HBA
line keeps it. A map that changes later counts only once the HBA file is read again,
which happens on every reload.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from bouncer import log
from bouncer.config.ini import read_file, reason_of
from bouncer.config.tokens import Kind, Tokens


class Entry(NamedTuple):
    """One line: *user* None stands for every user."""

    system: str
    user: str | None


@dataclass(slots=True)
class IdentMap:
    """All lines with the same map name."""

    name: str
    entries: list[Entry] = field(default_factory=list)

    def allows(self, system: str, user: str) -> bool:
        """Whether *system* (an OS user, a certificate's name) may be *user*."""
        return any(
            entry.system == system and entry.user in (None, user)
            for entry in self.entries
        )


class Problem(NamedTuple):
    """A WARNING about a line."""

    line: int
    text: str


class IdentMaps:
    """The maps of a file, and what was wrong with its other lines."""

    def __init__(self, text: str = "") -> None:
        self.maps: dict[str, IdentMap] = {}
        self.problems: list[Problem] = []
        for number, line in enumerate(text.split("\n"), 1):
            self.take(number, line)

    @classmethod
    def read(cls, path: str | None) -> "IdentMaps":
        """Return the maps of the file; logs what is wrong with it."""
        if path is None:
            return cls()
        try:
            found = cls(read_file(path))
        except OSError as error:
            log.error(f"could not open ident config file {path}: {reason_of(error)}")
            return cls()
        for problem in found.problems:
            log.warning(problem.text)
        return found

    def get(self, name: str) -> IdentMap | None:
        """Return the map *name*."""
        return self.maps.get(name)

    def take(self, number: int, line: str) -> None:
        """Take one line."""
        tokens = Tokens(line)
        if tokens.at_end():
            return
        name = tokens.text
        fine = tokens.kind is Kind.BARE
        tokens.next()
        system = tokens.text
        fine = fine and tokens.is_word()
        tokens.next()
        user = None if tokens.is_bare("all") else tokens.text
        fine = fine and tokens.is_word()
        tokens.next()
        if fine and not tokens.at_end() and user is None:
            # One surplus token behind `all` goes unnoticed.
            tokens.next()
        if fine and not tokens.at_end():
            fine = False
            text = f"ident line {number}: unsupported parameters"
            self.problems.append(Problem(number, text))
        if not fine:
            text = f"could not parse ident config line {number}"
            self.problems.append(Problem(number, text))
            return
        self.maps.setdefault(name, IdentMap(name)).entries.append(Entry(system, user))
