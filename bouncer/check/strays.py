"""Lines that stand in the wrong section, or are no configuration at all.

The one hard idea: one forgotten header makes every line behind it wrong, and pasted
text is wrong from its first line to its last. What has one cause is told once, at the
place where it begins, and before all else.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

from bouncer.check import suggest
from bouncer.check.findings import ERROR, WARNING, Finding
from bouncer.config.connstr import BadConnstr, walk
from bouncer.config.entries import SECTIONS
from bouncer.config.hba import METHODS
from bouncer.config.ident import Problem
from bouncer.config.ini import Place
from bouncer.config.params import MAIN, OURS, PARAMS

DATABASES: Final = "databases"
# Lines with broken grammar that are no longer mistakes of a configuration.
JUNK: Final = 3


def home_of(section: str | None, key: str, value: str, among: bool = False) -> str:
    """Return the section that an item was written for, "" if it stands there.

    Also "" where that cannot be told. *among* others that stand in the wrong section an
    empty setting is no database without settings.
    """
    param = PARAMS.get(key)
    if section in (MAIN, OURS):
        return DATABASES if param is None and is_line(value, strictly=True) else ""
    if param is None:
        is_database = section is None and is_line(value, strictly=True)
        return DATABASES if is_database else ""
    if section is not None and (is_line(value, section) or not (value or among)):
        return ""
    return param.section


def is_line(text: str, section: str = DATABASES, strictly: bool = False) -> bool:
    """Whether *text* is a list of pairs: the first of them, or *strictly* all."""
    readers, first = SECTIONS[section].readers, True
    try:
        for pair in walk(text):
            near = not strictly and suggest.pair_key(readers, pair.key)
            if pair.key not in readers and not near:
                return False
            first = False
            if not strictly:
                return True
    except BadConnstr:
        return False
    return not first


@dataclass(slots=True)
class Strays:
    """What stands elsewhere than where it belongs; tells it in the end."""

    # Where they stand, where they belong: their names, in order, and the first place.
    names: dict[tuple[str | None, str], list[str]] = field(default_factory=dict)
    places: dict[tuple[str | None, str], Place] = field(default_factory=dict)

    def add(self, section: str | None, home: str, key: str, place: Place) -> None:
        """Note one; *home* is "" where nobody knows."""
        self.names.setdefault((section, home), []).append(key)
        self.places.setdefault((section, home), place)

    def has(self, key: str) -> bool:
        """Whether *key* is one of them."""
        return any(key in names for names in self.names.values())

    def among(self, section: str | None) -> bool:
        """Whether settings stand in *section*."""
        return any(where == section for where, home in self.names if home != DATABASES)

    def belong_to(self, home: str) -> bool:
        """Whether any of them belong to *home*."""
        return any(where == home for _, where in self.names)

    def findings(self, headers: set[str]) -> list[Finding]:
        """Return one finding for each cause; *headers* are those that there are."""
        return [
            self.finding(section, home, names, home in headers)
            for (section, home), names in self.names.items()
        ]

    def finding(
        self, section: str | None, home: str, names: list[str], is_there: bool
    ) -> Finding:
        """Tell of all that stand in *section* and belong to *home*."""
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        stand = "stand" if more else "stands"
        where = "before the first section" if section is None else f"in [{section}]"
        hint = f"[{home}] belongs before this line"
        if not home:
            text = f"{stand} {where}"
            hint = "begin with [pgbouncer] or [databases]"
        elif is_there:
            text = f"{stand} {where}"
            hint = f"below [{home}]"
        else:
            text = f"{stand} {where}, because the header [{home}] is missing"
        place = self.places[section, home]
        key = names[0]
        if more:
            text, key = f"{key}{more} {text}", ""
        return Finding(ERROR, text, place.file, place.line, key, hint)


def skipped(
    problems: list[Problem], path: str, fates: dict[int, str], types: dict[int, str]
) -> Iterator[Finding]:
    """Tell of the lines of an HBA or ident file that are skipped, equal ones once.

    *fates* is what becomes of those whom a line was written for, *types* are the types
    that were meant.
    """
    lines: dict[int, list[str]] = {}
    for problem in problems:
        lines.setdefault(problem.line, []).append(problem.text)
    shapes = {
        number: (
            [re.sub(rf"\b{number}\b", "", one) for one in texts],
            fates.get(number),
            types.get(number),
        )
        for number, texts in lines.items()
    }
    for _, group in groupby(lines, key=lambda number: shapes[number]):
        run = list(group)
        if len(run) >= JUNK:
            what = f"{len(run)} lines from here to line {run[-1]} are skipped"
            reason = lines[run[0]][0].partition(": ")[2]
            text = f"{what}: {reason}" if reason else what
            fate = fates.get(run[0], "")
            yield Finding(WARNING, text, path, run[0], suggestion=fate)
            continue
        for number in run:
            *first, last = lines[number]
            for text in first:
                hint = types.get(number, "") if "type" in text else meant(text)
                yield Finding(WARNING, text, path, number, suggestion=hint)
            hint = fates.get(number) or meant(last)
            yield Finding(WARNING, last, path, number, suggestion=hint)


def meant(text: str) -> str:
    """Say which method a skipped HBA line was to have, if that can be told."""
    word = text.partition("unsupported method: buf=")[2]
    if word in METHODS:
        return "no quotes"
    near = suggest.word_of(word, METHODS) if word else ""
    return near if near.startswith("did") else ""


@dataclass(slots=True)
class Junk:
    """Mistakes that follow each other, and may be one pasted text.

    *findings* is the list that they stand in, from *start* on.
    """

    findings: list[Finding]
    start: int = 0
    broken: int = 0

    def begin(self) -> None:
        """A line with broken grammar has been written down."""
        if not self.broken:
            self.start = len(self.findings) - 1
        self.broken += 1

    def end(self) -> None:
        """Nothing that follows belongs to it."""
        self.end_before(len(self.findings))

    def end_before(self, end: int) -> None:
        """A line is understood, whose own findings begin at *end*."""
        if self.broken >= JUNK:
            run = self.findings[self.start : end]
            first, last = run[0], run[-1]
            count = len({one.line for one in run})
            text = f"{count} lines from here to line {last.line} are no configuration"
            one = Finding(ERROR, text, first.file, first.line)
            self.findings[self.start : end] = [one]
        self.broken = 0
