"""What happens to those whom an HBA line does not meet, though it was written for them.

The one hard idea: a line that is not understood is skipped, and one whose words mean
something else than its author thought meets nobody. Whoever it was for goes on to the
lines behind it, and may well be let in there. So what can be told of the line's
columns is read, however little it is, and looked for further down.
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from bouncer.auth.ldap import LdapError, Options
from bouncer.config.hba import (
    HOST,
    HOSTNOSSL,
    HOSTSSL,
    LOCAL,
    METHODS,
    TYPES,
    Address,
    BadLine,
    HbaLine,
    HbaRules,
    Names,
)
from bouncer.config.ident import IdentMaps, Problem
from bouncer.config.masking import holds_secret
from bouncer.config.tokens import Kind, Tokens

KEYWORDS: Final = ("all", "sameuser", "samerole", "samegroup", "replication")
INCLUDES: Final = ("include", "include_if_exists", "include_dir")
# Lines that are told; behind them nobody reads on.
MOST: Final = 3
SHOWN_NAMES: Final = 3


@dataclass(slots=True)
class Column:
    """Who a column is for: *names*, or perhaps anybody."""

    names: set[str]
    anybody: bool = False
    replication: bool = False

    def meets(self, other: Names) -> bool:
        """Is *other* for some of them?"""
        if self.replication and not self.anybody and not self.names:
            return other.replication
        wide = other.all or other.same_user
        return self.anybody or wide or not self.names.isdisjoint(other.names)

    def is_within(self, other: Names) -> bool:
        """Is *other* for all of them?"""
        if self.replication and not other.replication:
            return False
        if other.all:
            return True
        return not self.anybody and self.names <= other.names


@dataclass(slots=True)
class Meant:
    """Whom a line was written for, as far as it can be told."""

    type: str
    databases: Column
    users: Column
    address: Address

    def meets(self, line: HbaLine) -> bool:
        """Is *line* for some of them?"""
        return (
            (self.type == LOCAL) == (line.type == LOCAL)
            and {self.type, line.type} != {HOSTSSL, HOSTNOSSL}
            and (self.type == LOCAL or overlap(self.address, line.address))
            and self.users.meets(line.users)
            and self.databases.meets(line.databases)
        )

    def is_within(self, line: HbaLine) -> bool:
        """Is *line* for all of them?"""
        return (
            self.meets(line)
            and line.type in (self.type, HOST)
            and (self.type == LOCAL or within(self.address, line.address))
            and self.users.is_within(line.users)
            and self.databases.is_within(line.databases)
        )

    def who(self) -> str:
        """Name them."""
        if self.users.anybody or not self.users.names:
            return "its clients"
        names = sorted(self.users.names)
        some = ", ".join(f'"{name}"' for name in names[:SHOWN_NAMES])
        return some + (" and others" if len(names) > SHOWN_NAMES else "")


def overlap(one: Address, other: Address) -> bool:
    """Have two networks an address in common?"""
    if one.family is None or other.family is None:
        return True
    both = one.mask & other.mask
    same = one.network & both == other.network & both
    return one.family == other.family and same


def within(inner: Address, outer: Address) -> bool:
    """Is every address of *inner* in *outer*?"""
    if outer.family is None:
        return True
    return (
        inner.family == outer.family
        and inner.mask & outer.mask == outer.mask
        and inner.network & outer.mask == outer.network
    )


# Reading what can be read


def meant_by(line: str) -> Meant | None:
    """Read the columns of *line*; None when it is for nobody that comes here."""
    tokens = Tokens(line)
    kind = tokens.text.removeprefix("hostno") if tokens.is_word() else ""
    if kind == "gssenc" or tokens.text in TYPES:
        found = HOST if kind == "gssenc" else tokens.text
    elif tokens.text in ("hostgssenc", *INCLUDES):
        return None
    else:
        # Not even this is known: it may be about any connection.
        return Meant(HOST, anybody(), anybody(), Address())
    tokens.next()
    databases, users = column(tokens), column(tokens)
    address = Address()
    if found != LOCAL:
        try:
            address = HbaRules("", "", IdentMaps()).address(0, tokens)
        except BadLine:
            address = Address()
    return Meant(found, databases, users, address)


def anybody() -> Column:
    """A column of which nothing is known."""
    return Column(set(), anybody=True)


def column(tokens: Tokens) -> Column:
    """Read a list of names; what stands for names that are not known is anybody."""
    found = Column(set())
    while True:
        if not tokens.is_word():
            found.anybody = True
            return found
        word = tokens.text
        if tokens.is_bare("replication"):
            found.replication = True
        elif word.lower() in KEYWORDS or word[:1] in ("+", "@", "/") or "*" in word:
            # In quotes, too: what is asked is whom it was written for.
            found.anybody = True
        else:
            found.names.add(word)
        tokens.next()
        if tokens.kind is not Kind.COMMA:
            return found
        tokens.next()


# What becomes of them


def fate(meant: Meant | None, number: int, lines: list[HbaLine]) -> str:
    """Tell where those go on whom line *number* was written for."""
    if meant is None:
        return ""
    for line in lines:
        if line.line < number and meant.is_within(line):
            return f"which changes nothing: line {line.line} comes first"
    there: list[HbaLine] = []
    for line in lines:
        if line.line > number and meant.meets(line):
            there.append(line)
            if meant.is_within(line):
                break
    who = meant.who()
    if not there:
        return f"{who}: refused, no line behind it fits"
    places = " or ".join(f"line {line.line} ({line.method})" for line in there[:MOST])
    one = len(meant.users.names) == 1 and not meant.users.anybody
    falls = "falls" if one else "fall"
    text = f"{who} {falls} to {places}"
    if any(line.method == "trust" for line in there[:MOST]):
        return f"{text}: let in without a password"
    return text


def further(number: int, line: str) -> list[str]:
    """Return all that is wrong with a line that is skipped: nobody has read on there.

    Its type may be misspelt; what has no type at all is no line.
    """
    tokens, found = Tokens(line), []
    kind = tokens.text if tokens.is_bare(*TYPES) else near_type(tokens.text)
    if not kind:
        return []
    tokens.next()
    for _ in ("database", "user"):
        column(tokens)
        if not tokens.is_word():
            return []
    if kind != LOCAL:
        try:
            HbaRules("", "", IdentMaps()).address(number, tokens)
        except BadLine as bad:
            found.append(str(bad))
            tokens.next()
    if tokens.is_word() and not tokens.is_bare(*METHODS):
        found.append(f"hba line {number}: unsupported method: buf={tokens.text}")
    return [] if holds_secret(line) else found


def every(text: str, problems: list[Problem]) -> list[Problem]:
    """Return *problems*, and behind the first of each line all others that it has."""
    texts, found = text.split("\n"), []
    told = {problem.text for problem in problems}
    for problem in problems:
        if problem.text == f"could not parse hba config line {problem.line}":
            more = further(problem.line, texts[problem.line - 1])
            found += [Problem(problem.line, one) for one in more if one not in told]
        found.append(problem)
    return found


def types_meant(text: str, problems: list[Problem]) -> dict[int, str]:
    """Say which types were meant by the lines whose type is not known."""
    texts, found = text.split("\n"), {}
    for number in {problem.line for problem in problems}:
        word = Tokens(texts[number - 1]).text
        if word not in TYPES and (near := near_type(word)):
            found[number] = f"did you mean {near}?"
    return found


def near_type(word: str) -> str:
    """Return the type of line that *word* was probably meant to be, or nothing."""
    near = get_close_matches(word.lower(), TYPES, 1, 0.75)
    return near[0] if near else ""


def fates(text: str, rules: HbaRules) -> dict[int, str]:
    """Tell, for each line that is complained about, what becomes of its people."""
    texts = text.split("\n")
    found = {}
    for number in {problem.line for problem in rules.problems}:
        first = Tokens(texts[number - 1]).text
        if first in INCLUDES:
            found[number] = "the file is not read, its lines count for nothing"
        elif first == "hostgssenc":
            found[number] = "nobody comes with GSS encryption, so it is for nobody"
        else:
            meant = meant_by(texts[number - 1])
            found[number] = fate(meant, number, rules.lines)
    return found


# Lines that are understood, but perhaps not as they were meant


def doubts(
    text: str, rules: HbaRules, known: tuple[Container[str], Container[str]]
) -> list[tuple[int, str, str]]:
    """Give line, what is odd about it, and what follows.

    *known* are the databases and users that there are: their names are meant.
    """
    texts = text.split("\n")
    found = []
    for line in rules.lines:
        written = texts[line.line - 1]
        others = [other for other in rules.lines if other is not line]
        for what in odd_names(written, known):
            follows = fate(meant_by(written), line.line, others)
            found.append((line.line, what, follows))
        if line.method == "ldap":
            try:
                Options(line.options or "")
            except LdapError as error:
                what = "; ".join(error.lines)
                found.append((line.line, what, "it refuses everybody whom it is for"))
    return found


def odd_names(
    written: str, known: tuple[Container[str], Container[str]]
) -> Iterator[str]:
    """Say which names of a line look like something else."""
    tokens = Tokens(written)
    tokens.next()
    for what, names in zip(("database", "user"), known, strict=True):
        while True:
            if tokens.text not in names and (oddity := odd(tokens)):
                yield f"{oddity}, so it is for a {what} that is called so"
            tokens.next()
            if tokens.kind is not Kind.COMMA:
                break
            tokens.next()


def odd(tokens: Tokens) -> str:
    """Say why the current name is hardly one, or nothing."""
    word = tokens.text
    if not tokens.is_word():
        return ""
    if tokens.kind is Kind.QUOTED:
        if word in KEYWORDS:
            return f'"{word}" in quotes is no keyword'
        if word[:1] in ("+", "@") and len(word) > 1:
            return f'"{word}" in quotes is a plain name'
    elif word.lower() in KEYWORDS and word not in KEYWORDS:
        return f"{word} is no keyword, which are written small"
    if word.startswith("/"):
        return f"{word} is no regular expression here"
    return f"{word} is no pattern" if "*" in word else ""
