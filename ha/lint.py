"""`pybouncer ha check`: find the mistakes that turn a balancer into the outage.

A rule is a function that yields places; its decorator says what it costs and what to
do instead, once. Errors are what has been seen to kill sessions, lose clients or hang
them; warnings make an outage longer; notes are habits worth having.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TypeAlias

from ha.cfg import Config
from ha.errors import HAError
from ha.ini import Source
from ha.subject import PoolerIni, Subject

Place: TypeAlias = tuple[str, int]
# Where, and what is there.
Found: TypeAlias = Iterator[tuple[Place, str]]
RuleFunction: TypeAlias = Callable[[Subject], Found]

ERROR, WARNING, NOTE = "error", "warning", "note"
RANKS = {ERROR: 0, WARNING: 1, NOTE: 2}


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of mistake."""

    name: str
    severity: str
    why: str
    remedy: str
    look: RuleFunction


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake in one place."""

    file: str
    line: int
    severity: str
    rule: str
    what: str
    why: str
    remedy: str

    def place(self) -> str:
        """Where it is and what; the first line of it on a terminal."""
        return f"{self.file}:{self.line}: {self.severity}: {self.what} [{self.rule}]"


RULES: dict[str, Rule] = {}


def rule(
    name: str, severity: str, why: str, remedy: str
) -> Callable[[RuleFunction], RuleFunction]:
    """Register a rule."""

    def register(look: RuleFunction) -> RuleFunction:
        assert name not in RULES, name
        RULES[name] = Rule(name, severity, why, remedy, look)
        return look

    return register


def findings(subject: Subject) -> list[Finding]:
    """All mistakes, by file and line."""
    found = {
        Finding(file, line, one.severity, one.name, what, one.why, one.remedy): None
        for one in RULES.values()
        for (file, line), what in one.look(subject)
    }
    return sorted(found, key=lambda f: (f.file, f.line, RANKS[f.severity], f.rule))


def read(paths: list[str]) -> Subject:
    """Read haproxy.cfg and pgbouncer.ini files, told apart by what is in them."""
    subject = Subject()
    for path in paths:
        if is_ini(path):
            subject.poolers.append(PoolerIni(Source.read(path)))
        else:
            subject.configs.append(Config.read(path))
    return subject


def is_ini(path: str) -> bool:
    """Does the first line that is no comment open a section in brackets?"""
    try:
        with open(path, errors="replace") as file:
            for line in file:
                word = line.strip()
                if word and word[0] not in "#;":
                    return word[0] in "[%"
    except OSError as problem:
        raise HAError(f"{path}: {problem.strerror}") from None
    return path.endswith(".ini")


def as_text(found: list[Finding]) -> str:
    """For a terminal: a mistake made in many places is explained once, behind them."""
    lines = []
    for rank, one in enumerate(found, 1):
        lines.append(one.place())
        if rank == len(found) or found[rank].rule != one.rule:
            lines += [f"    why: {one.why}", f"    remedy: {one.remedy}"]
    counts = {name: sum(f.severity == name for f in found) for name in RANKS}
    words = [f"{n} {name}{'' if n == 1 else 's'}" for name, n in counts.items()]
    return "\n".join([*lines, ", ".join(words)])


def run(options: argparse.Namespace) -> int:
    """0 clean, 1 errors or warnings (with --strict also notes), 2 unreadable."""
    try:
        subject = read(options.files)
    except HAError as problem:
        print(f"ERROR {problem}", file=sys.stderr)
        return 2
    found = findings(subject)
    if options.json:
        print(json.dumps([asdict(one) for one in found], indent=1))
    else:
        print(as_text(found))
    worst = min((RANKS[one.severity] for one in found), default=len(RANKS))
    return int(worst <= (RANKS[NOTE] if options.strict else RANKS[WARNING]))
