"""Read a configuration to its end, whatever is wrong with it.

The one hard idea: a start stops at the first mistake, a check wants all of them. So
the same reader and the same loader work here, but what they refuse is written down
and left out, and reading goes on with the next line.
"""

import os
from dataclasses import dataclass, field
from typing import Any

from bouncer.check import lines, suggest
from bouncer.check.fallen import doubts, every, fates, types_meant
from bouncer.check.findings import ERROR, NOTE, WARNING, Finding
from bouncer.check.spelling import NOT_REPLACED, placeholder
from bouncer.check.strays import Junk, Strays, home_of, skipped
from bouncer.config.entries import SECTIONS as LINES
from bouncer.config.hba import HbaRules
from bouncer.config.ident import IdentMaps
from bouncer.config.ini import (
    REST_OF_LINE,
    IniError,
    IniFile,
    Place,
    Refused,
    read_file,
    reason_of,
    why,
)
from bouncer.config.load import BESIDE, DATABASES, OUR_SECTIONS, SECTIONS, Loader
from bouncer.config.masking import without_secrets
from bouncer.config.own import OWN_SECTIONS, settings_of
from bouncer.config.params import MAIN, OURS, PARAMS
from bouncer.config.settings import Configuration, Database, Settings
from bouncer.config.userlist import UserList


@dataclass(slots=True)
class Reading:
    """All files together; *config* holds what could be read."""

    config: Configuration
    findings: list[Finding] = field(default_factory=list)
    userlist: UserList | None = None
    hba: HbaRules | None = None
    ident: IdentMaps = field(default_factory=IdentMaps)
    # The texts of `[pgbouncer]`'s values as they stand in the file.
    texts: dict[str, str] = field(default_factory=dict)


class PatientFile(IniFile):
    """Goes on with the next line after a mistake."""

    sink: "PatientLoader"

    def read(self) -> None:
        """Read to the end of the text."""
        going = True
        while going:
            try:
                going = self.step()
            except IniError as error:
                start = self.text.rfind("\n", 0, self.position) + 1
                self.skip(REST_OF_LINE)
                self.sink.broken(error, self.text[start : self.position])

    def nested(self, name: str, place: Place) -> None:
        """Read an included file."""
        read_patiently(name, self.sink, self.level + 1, place)


def read_patiently(
    name: str, sink: "PatientLoader", level: int = 0, at: Place | None = None
) -> None:
    """Read the file *name* to its end."""
    try:
        text = read_file(name)
    except OSError as error:
        place = at or Place(name, 0, 0)
        line = f'could not load file "{name}": {reason_of(error)}'
        sink.find(ERROR, line, place)
        return
    PatientFile(name, text, sink, level).read()


class PatientLoader(Loader):
    """Writes down what it refuses."""

    def __init__(self, path: str) -> None:
        super().__init__(path, None, 0)
        self.findings: list[Finding] = []
        self.strays = Strays()
        self.junk = Junk(self.findings)
        self.headers: set[str] = set()
        self.texts: dict[str, str] = {}
        # What a second `[pgbouncer]` header took back: the value, where it stood, where
        # the header stands.
        self.wiped: dict[str, tuple[Any, str, Place]] = {}
        self.given: dict[tuple[str, str], Place] = {}
        self.at = Place(path, 0, 0)

    def read(self) -> Configuration:
        """Read everything; raises nothing."""
        read_patiently(self.path, self)
        self.junk.end()
        self.findings[:0] = self.strays.findings(self.headers)
        if not self.main_seen and not self.unreadable():
            if not self.strays.belong_to(MAIN):
                line = "there is no section [pgbouncer]"
                self.find(ERROR, line, Place(self.path, 0, 0))
        for name, (value, source, header) in self.wiped.items():
            if name not in self.sources and value != self.values[name]:
                self.find(
                    WARNING,
                    f"set at {source}, but this header sets everything back to "
                    "its default",
                    header,
                    name,
                    "keep one [pgbouncer]",
                )
        self.read_beside()
        return Configuration(
            settings=Settings.of(self.values),
            databases=self.databases,
            autodb=self.autodb,
            users=self.users,
            peers=self.peers,
            sources=self.sources,
            own=self.own,
        )

    def read_beside(self) -> None:
        """Read `FILE.pybouncer`, if there is one."""
        path = f"{self.path}{BESIDE}"
        if os.path.lexists(path):
            self.current, self.beside = None, True
            read_patiently(path, self)
            self.junk.end()

    def unreadable(self) -> bool:
        """Whether the main file could not be read at all."""
        return any(f.file == self.path and f.line == 0 for f in self.findings)

    def find(
        self, level: str, text: str, place: Place, setting: str = "", hint: str = ""
    ) -> None:
        """Write a mistake down."""
        finding = Finding(level, text, place.file, place.line, setting, hint)
        self.findings.append(finding)

    def broken(self, error: IniError, line: str) -> None:
        """Take a mistake of the grammar, which is in *line*."""
        text = error.lines[0].replace(f" in configuration ({error.place})", "")
        text = text.replace(f" ({error.place})", "").removesuffix(", stopping loading")
        if "syntax" not in text:
            self.find(ERROR, text, error.place)
            return
        hint = "an item is key = value; keys may stand in '...', not in \"...\""
        if error.place.line == 1 and has_mark(error.place.file):
            hint = "the file begins with a byte order mark: save it without"
        elif found := placeholder(line.partition("=")[0]):
            hint = f"{found}: {NOT_REPLACED}"
        self.find(ERROR, text, error.place, hint=hint)
        self.junk.begin()

    # Called by the reader

    def section(self, name: str, place: Place) -> None:
        """Enter a section, also an unknown one, whose items are then skipped."""
        if name in SECTIONS:
            self.junk.end()
        self.headers.add(name)
        if name == MAIN:
            for setting, source in self.sources.items():
                param = PARAMS[setting]
                if self.strays.has(setting):
                    continue
                if param.section == MAIN and param.default is not None:
                    self.wiped[setting] = (self.values[setting], source, place)
            self.forget(MAIN)
        if name in OUR_SECTIONS and not self.beside:
            text = f"PgBouncer itself would not start with a section [{name}]"
            hint = f"{self.path}{BESIDE} may have it, which PgBouncer never reads"
            self.find(NOTE, text, place, hint=hint)
        try:
            super().section(name, place)
        except Refused as refused:
            self.current = name
            if self.beside and name in SECTIONS:
                self.find(ERROR, refused.line, place, f"[{name}]")
                return
            hint = suggest.section(name)
            self.find(ERROR, f"unknown section [{name}]", place, hint=hint)

    def forget(self, section: str) -> None:
        """Forget what was given in *section*: it counts no more."""
        self.given = {key: at for key, at in self.given.items() if key[0] != section}

    def item(self, key: str, value: str, place: Place) -> None:
        """Take one item, or write down why not; also one of another section."""
        section = self.current
        allowed = OUR_SECTIONS if self.beside else SECTIONS
        if section is not None and section not in allowed:
            return
        if self.beside and section is None:
            text = "stands before the first section"
            self.find(ERROR, text, place, key, "begin with [pybouncer]")
            return
        if self.beside or section in OWN_SECTIONS:
            self.item_here(key, value, place)
            return
        home = home_of(section, key, value, self.strays.among(section))
        if home or section is None:
            self.strays.add(section, home, key, place)
        if not (home or section):
            return
        self.current = home or section
        try:
            self.item_here(key, value, place)
        finally:
            self.current = section

    def item_here(self, key: str, value: str, place: Place) -> None:
        """Take one item of the current section, or write down why not."""
        self.repeated(key, place)
        self.at = place
        before = len(self.findings)
        told = self.line(key, value, place)
        try:
            self.take(key, value, place)
        except Refused as refused:
            if refused.line not in told:
                self.refused(key, value, place, refused.line)
            if any(one.suggestion for one in self.findings[before:]):
                self.junk.end_before(before)
        else:
            self.junk.end_before(before)
            if self.current in (MAIN, OURS):
                self.texts[key] = value
            elif self.current == DATABASES and key in self.databases:
                hide_secret(self.databases[key])

    def line(self, key: str, value: str, place: Place) -> set[str]:
        """Write down all that is wrong with a line of pairs; return the errors."""
        if self.current not in LINES:
            return set()
        errors = set()
        shown = without_secrets(value, bare=True)
        for level, text, hint in lines.mistakes(self.current, value):
            if level == ERROR:
                errors.add(text)
                text = why(text, value, shown)
                if key == "*" and self.current == DATABASES:
                    # It is read when somebody comes, and then refused.
                    level = WARNING
            self.find(level, text, place, key, hint)
        return errors

    def repeated(self, key: str, place: Place) -> None:
        """Warn of what is given twice."""
        where = (self.current or "", key)
        before = self.given.get(where)
        if before is not None:
            text = f"given twice, the line before ({before}) counts for nothing"
            self.find(WARNING, text, place, key)
        self.given[where] = place

    def refused(self, key: str, value: str, place: Place, line: str) -> None:
        """Write down a refused item."""
        section = self.current or ""
        secret, value = value, without_secrets(value, bare=True)
        line = why(line, secret, value)
        if section in OWN_SECTIONS:
            known = settings_of(OWN_SECTIONS[section])
            hint = suggest.pair_key(known, line.partition(": ")[2])
            self.find(ERROR, line, place, key, hint)
        elif section not in (MAIN, OURS):
            self.find(ERROR, line, place, key)
        elif line.startswith("unknown parameter"):
            hint = suggest.setting(section, key)
            self.find(ERROR, f"unknown setting in [{section}]", place, key, hint)
        else:
            param = PARAMS[key]
            text = line or f'"{value}" is not {suggest.kind(param)}'
            self.find(ERROR, text, place, key, suggest.value(param, value))

    def warn(self, text: str) -> None:
        """Take a WARNING of the loader."""
        self.find(WARNING, text, self.at)


def hide_secret(database: Database) -> None:
    """Hide the password that `user= password=...` makes a part of the name."""
    if database.user is not None and "=" in database.user:
        database.user = without_secrets(database.user)


def has_mark(path: str) -> bool:
    """Whether a file begins with what some editors put before UTF-8."""
    try:
        return read_file(path).startswith("\ufeff")
    except OSError:
        return False


def read_all(path: str) -> Reading:
    """Read the ini file and the files that it names."""
    loader = PatientLoader(path)
    config = loader.read()
    reading = Reading(config, loader.findings, texts=loader.texts)
    settings = config.settings
    if settings.auth_file is not None and settings.auth_type not in ("any", "pam"):
        read_userlist(reading, settings.auth_file)
    if settings.auth_type == "hba":
        read_hba(reading, settings)
    return reading


def source_of(config: Configuration, name: str) -> tuple[str, int]:
    """Return where *name* is set."""
    file, _, line = config.sources.get(name, ":0").rpartition(":")
    return file, int(line)


def complain(reading: Reading, name: str, text: str, hint: str = "") -> None:
    """Warn of the setting *name*, at the place where it is set."""
    file, line = source_of(reading.config, name)
    reading.findings.append(Finding(WARNING, text, file, line, name, hint))


def read_or_complain(reading: Reading, name: str, path: str, what: str) -> str | None:
    """Return the text of the file that the setting *name* names."""
    try:
        return read_file(path)
    except OSError as error:
        text = f"could not open {path or 'the file with the empty name'}"
        complain(reading, name, f"{text}: {reason_of(error)}", what)
        return None


def read_userlist(reading: Reading, path: str) -> None:
    """Read auth_file."""
    text = read_or_complain(
        reading, "auth_file", path, "nobody can log in with a password"
    )
    if text is None:
        return
    reading.userlist = UserList(text)
    problem = reading.userlist.problem
    if problem is not None:
        reading.findings.append(
            Finding(
                WARNING,
                f"{problem}: reading stops here, the users behind it do not exist",
                path,
                problem.line,
                suggestion='an entry is "name" "secret"',
            )
        )


def read_hba(reading: Reading, settings: Any) -> None:
    """Read the ident file, then the HBA file."""
    path = settings.auth_ident_file
    if path is not None:
        text = read_or_complain(reading, "auth_ident_file", path, "there are no maps")
        reading.ident = IdentMaps(text or "")
        reading.findings += skipped(reading.ident.problems, path, {}, {})
    path = settings.auth_hba_file
    text = read_or_complain(reading, "auth_hba_file", path, "nobody can log in")
    reading.hba = HbaRules(text or "", path, reading.ident)
    what_follows = fates(text or "", reading.hba)
    problems = every(text or "", reading.hba.problems)
    meant = types_meant(text or "", problems)
    reading.findings += skipped(problems, path, what_follows, meant)
    users = reading.userlist.secrets if reading.userlist is not None else {}
    known = reading.config.databases, users
    for line, what, hint in doubts(text or "", reading.hba, known):
        reading.findings.append(Finding(WARNING, what, path, line, suggestion=hint))
