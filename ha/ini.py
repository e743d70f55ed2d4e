"""Take a pgbouncer.ini apart and put a changed one together.

The one hard idea: what a file says is kept as text. Settings pass from the source to
the rendered files word for word, so that none is lost or respelt; only what must
differ between hosts is replaced, each time with the reason beside it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from bouncer.auth.secrets import SCRAM, kind_of
from bouncer.config.connstr import BadConnstr, pairs
from bouncer.config.ini import IniError, Place, read_file, read_ini
from bouncer.config.load import BESIDE, Loader
from bouncer.config.settings import Settings
from bouncer.config.userlist import UserList
from bouncer.errors import ConfigError
from ha.errors import HAError

MAIN = "pgbouncer"
BARE_KEY = re.compile(r"[A-Za-z0-9_.*-]+")


@dataclass(slots=True)
class Source:
    """The items of an ini file as they were written, and its settings as they count.

    Those of `FILE.pybouncer` beside it are among them, as they are for the pooler.
    """

    path: str
    sections: dict[str, dict[str, str]] = field(default_factory=dict)
    places: dict[tuple[str, str], Place] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings.defaults)
    current: str = ""

    # Called by the reader of ini files

    def section(self, name: str, place: Place) -> None:
        """Enter a section; a repeated [pgbouncer] forgets the first."""
        self.current = name
        if name == MAIN:
            self.sections[name] = {}
        self.sections.setdefault(name, {})
        self.places[name, ""] = place

    def item(self, key: str, value: str, place: Place) -> None:
        """Keep an item."""
        self.sections[self.current][key] = value
        self.places[self.current, key] = place

    def debug(self, text: str) -> None:
        """Nothing is logged here."""

    # Called by whoever renders or checks

    @classmethod
    def read(cls, path: str) -> Source:
        """Read *path*; raises `HAError` when the pooler would not load it."""
        source = cls(path)
        try:
            # Not load(), which tells a log what is told here.
            source.settings = Loader(path, None, 0).read().settings
            read_ini(path, source)
            if os.path.lexists(path + BESIDE):
                read_ini(path + BESIDE, source)
        except IniError as problem:
            at = f"{problem.place}: " if problem.place.line else ""
            raise HAError(f"{at}{problem}") from None
        except ConfigError as problem:
            raise HAError(f"{path}: {problem}") from None
        return source

    def of(self, section: str) -> dict[str, str]:
        """The items of one section."""
        return self.sections.get(section, {})

    def cannot_log_in(self, user: str) -> str:
        """Why *user* of auth_file cannot log in by himself; "" if nothing says so.

        The poolers' file may lie on another machine, or be closed to us.
        """
        try:
            secrets = UserList(read_file(self.settings.auth_file or "")).secrets
        except OSError:
            return ""
        if kind_of(secrets.get(user, "")) == SCRAM:
            return f'the SCRAM secret of "{user}" cannot log it in'
        return ""

    @property
    def databases(self) -> list[str]:
        """Names of the databases, without `*`."""
        return [name for name in self.of("databases") if name != "*"]

    def where(self, section: str, key: str) -> tuple[str, int]:
        """File and line of an item; line 0 when it is not set."""
        place = self.places.get((section, key))
        return (place.file, place.line) if place else (self.path, 0)


def replaced(connstr: str, changes: dict[str, str | None]) -> str:
    """A line of [databases] with other values; None takes a key away.

    What stays keeps its order; what is new comes first, as `host=` usually does.
    """
    try:
        kept = [(key, value) for key, value in pairs(connstr) if key not in changes]
    except BadConnstr:
        raise HAError(f"not a list of key=value: {connstr!r}") from None
    new = [(key, value) for key, value in changes.items() if value is not None]
    return " ".join(f"{key}={quoted(value)}" for key, value in (*new, *kept))


def values(connstr: str) -> dict[str, str]:
    """A line of [databases] as a mapping; the last of equal keys counts."""
    try:
        return dict(pairs(connstr))
    except BadConnstr:
        return {}


def quoted(value: str) -> str:
    """A value of a connection string."""
    if value and " " not in value and not value.startswith("'"):
        return value
    return "'" + value.replace("'", "''") + "'"


def item_key(key: str) -> str:
    """A key as it may be written."""
    return key if BARE_KEY.fullmatch(key) else f"'{key}'"


@dataclass(frozen=True, slots=True)
class Item:
    """One line of a rendered section; *why* becomes a comment above it."""

    key: str
    value: str
    why: str = ""


def merged(kept: dict[str, str], changes: Iterable[Item]) -> list[Item]:
    """The items of a section: what was there, with the changes in place or behind."""
    changed = {change.key: change for change in changes}
    items = [changed.pop(key, Item(key, value)) for key, value in kept.items()]
    return [*items, *changed.values()]
