"""auth_hba_file: which connection logs in by which method.

The one hard idea: each line stands alone. One that cannot be read is skipped with a
WARNING, the others stay in force, and the first that fits decides. So a mistake can
open a door as well as close one, and the texts have to be exact.
"""

import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from bouncer import log
from bouncer.config.ident import IdentMap, IdentMaps, Problem
from bouncer.config.ini import read_file, reason_of
from bouncer.config.masking import holds_secret
from bouncer.config.tokens import Kind, Tokens

LOCAL: Final = "local"
HOST: Final = "host"
HOSTSSL: Final = "hostssl"
HOSTNOSSL: Final = "hostnossl"
TYPES: Final = (LOCAL, HOST, HOSTSSL, HOSTNOSSL)
METHODS: Final = (
    "trust",
    "reject",
    "md5",
    "password",
    "peer",
    "cert",
    "scram-sha-256",
    "ldap",
)
PHYSICAL: Final = 2

# What stands before an IPv4 address that is written as IPv6.
IPV4_MAPPED: Final = 0xFFFF

BITS: Final = re.compile(r"[ \t-\r]*([+-]?[0-9]+)?")


class BadLine(ValueError):
    """The line is skipped; the text, if any, is a WARNING of its own."""


@dataclass(slots=True)
class Names:
    """One of the columns DATABASE and USER."""

    all: bool = False
    same_user: bool = False
    replication: bool = False
    names: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Address:
    """A network; *family* None is every address."""

    family: int | None = None
    network: int = 0
    mask: int = 0
    text: str = "all"

    def contains(self, family: int, number: int) -> bool:
        """Whether the address *number* is in the network."""
        if self.family is None:
            return True
        return family == self.family and number & self.mask == self.network

    def is_possible(self) -> bool:
        """Whether any address can be in it: none of its own bits is masked out."""
        return self.network & ~self.mask == 0


@dataclass(slots=True)
class HbaLine:
    """One line that could be read."""

    type: str
    databases: Names
    users: Names
    address: Address
    method: str
    options: str | None
    map: IdentMap | None
    line: int

    def fits(
        self, database: str, user: str, where: tuple[tuple[int, int], ...], tls: bool
    ) -> bool:
        """Whether this line is for the connection, but for its database.

        *where* is every form of its address, none of a Unix socket.
        """
        if (not where) != (self.type == LOCAL):
            return False
        if where and not any(self.address.contains(*form) for form in where):
            return False
        if self.type in (HOSTSSL, HOSTNOSSL) and tls != (self.type == HOSTSSL):
            return False
        column = self.users
        if column.all or user in column.names:
            return True
        return column.same_user and database == user

    def is_for_database(self, database: str, user: str, replication: int) -> bool:
        """Whether this line is for the database that the client asked for."""
        column = self.databases
        if replication == PHYSICAL:
            return column.replication
        if column.all or database in column.names:
            return True
        return column.same_user and database == user


def parse_address(text: str) -> tuple[int, int]:
    """Return family and number of an address literal; raises `ValueError`."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        return family, int.from_bytes(socket.inet_pton(family, text), "big")
    except (OSError, UnicodeError) as error:
        raise ValueError(text) from error


def forms_of(family: int, number: int) -> tuple[tuple[int, int], ...]:
    """Return the address, and the IPv4 address that it stands for, if it does.

    A listener for both families and many balancers write 10.1.2.3 as
    ::ffff:10.1.2.3 (RFC 4291, section 2.5.5.2): a line against the one must not be
    passed over by the other.
    """
    if family == socket.AF_INET6 and number >> 32 == IPV4_MAPPED:
        return (family, number), (socket.AF_INET, number & 0xFFFFFFFF)
    return ((family, number),)


def width(family: int) -> int:
    """Return how many bits an address has."""
    return 128 if family == socket.AF_INET6 else 32


def show_address(family: int, number: int) -> str:
    """Return the literal of an address."""
    return socket.inet_ntop(family, number.to_bytes(width(family) // 8, "big"))


class HbaRules:
    """The lines of a file in order, and what was wrong with the others."""

    def __init__(self, text: str, path: str, ident: IdentMaps) -> None:
        self.path = path
        self.ident = ident
        self.lines: list[HbaLine] = []
        self.problems: list[Problem] = []
        for number, line in enumerate(text.split("\n"), 1):
            self.take(number, line)

    @classmethod
    def read(cls, path: str, ident: IdentMaps) -> "HbaRules":
        """Return the rules of the file, none if it cannot be read; logs why."""
        try:
            text = read_file(path)
        except OSError as error:
            log.error(f"could not open hba config file {path}: {reason_of(error)}")
            text = ""
        found = cls(text, path, ident)
        for problem in found.problems:
            log.warning(problem.text)
        return found

    def match(
        self, database: str, user: str, address: str | None, tls: bool, replication: int
    ) -> HbaLine | None:
        """Return the line for such a connection; *address* None is a Unix socket."""
        where: tuple[tuple[int, int], ...] = ()
        if address is not None:
            try:
                where = forms_of(*parse_address(address.partition("%")[0]))
            except ValueError:
                return None
        for line in self.lines:
            if line.fits(database, user, where, tls):
                if line.is_for_database(database, user, replication):
                    return line
        return None

    def complain(self, number: int, text: str) -> None:
        """Note a WARNING about a line."""
        self.problems.append(Problem(number, text))

    def take(self, number: int, line: str) -> None:
        """Take one line of the file."""
        tokens = Tokens(line)
        if tokens.at_end():
            return
        try:
            self.lines.append(self.rule(number, tokens))
        except BadLine as bad:
            # What a broken line is said to quote may be its password.
            if holds_secret(line):
                self.complain(number, f"hba line {number}: broken, and has a password")
            elif str(bad):
                self.complain(number, str(bad))
            self.complain(number, f"could not parse hba config line {number}")

    def rule(self, number: int, tokens: Tokens) -> HbaLine:
        """Return the rule that a line states; raises `BadLine`."""
        if not tokens.is_bare(*TYPES):
            raise BadLine(f"hba line {number}: unknown type")
        kind = tokens.text
        tokens.next()
        databases = self.column(tokens)
        users = self.column(tokens)
        address = Address()
        if kind != LOCAL:
            address = self.address(number, tokens)
        if not tokens.is_bare(*METHODS):
            raise BadLine(f"hba line {number}: unsupported method: buf={tokens.text}")
        method = tokens.text
        options, ident = None, None
        if method == "ldap":
            options = tokens.rest()
        else:
            tokens.next()
            ident = self.ident_map(number, tokens)
        return HbaLine(
            type=kind,
            databases=databases,
            users=users,
            address=address,
            method=method,
            options=options,
            map=ident,
            line=number,
        )

    def column(self, tokens: Tokens) -> Names:
        """Read a list of names and step behind it."""
        names = Names()
        read_names(names, tokens, self.path, set())
        return names

    def address(self, number: int, tokens: Tokens) -> Address:
        """Read the address, and the mask if that is a column of its own."""
        if tokens.kind is not Kind.BARE:
            kind = int(tokens.kind)
            raise BadLine(
                f"hba line {number}: did not find address - {kind} - '{tokens.text}'"
            )
        text = tokens.text
        if text == "all":
            tokens.next()
            return Address()
        literal, slash, bits = text.partition("/")
        try:
            family, network = parse_address(literal)
        except ValueError:
            line = f"hba line {number}: failed to parse address - {literal}"
            raise BadLine(line) from None
        if slash:
            # A later complaint about a missing method shows it so.
            tokens.text = literal
            mask = self.mask_of_bits(number, family, bits)
        else:
            tokens.next()
            mask = self.mask(number, family, tokens)
        tokens.next()
        address = Address(family, network, mask, text)
        if not address.is_possible():
            self.complain(
                number,
                f"address does not match mask in {self.path} line #{number}: "
                f"{show_address(family, network)} / {show_address(family, mask)}",
            )
        return address

    def mask_of_bits(self, number: int, family: int, text: str) -> int:
        """Return the mask that the text behind the slash means."""
        found = BITS.fullmatch(text)
        bits = int(found[1] or 0) if found else -1
        if not 0 <= bits <= width(family):
            raise BadLine(f"hba line {number}: invalid mask")
        return ((1 << bits) - 1) << (width(family) - bits)

    def mask(self, number: int, family: int, tokens: Tokens) -> int:
        """Return the mask that stands in a column of its own."""
        if tokens.kind is not Kind.BARE:
            raise BadLine(f"hba line {number}: did not find mask")
        try:
            mask_family, mask = parse_address(tokens.text)
        except ValueError:
            mask_family, mask = -1, 0
        if mask_family != family:
            raise BadLine(f"hba line {number}: failed to parse mask: {tokens.text}")
        return mask

    def ident_map(self, number: int, tokens: Tokens) -> IdentMap | None:
        """Return the map that the rest of the line names, if any."""
        found = None
        if tokens.kind is Kind.BARE:
            name = tokens.text.removeprefix("map=")
            if name == tokens.text:
                raise BadLine(
                    f"hba line {number}: Ident map {tokens.text} is malformed. "
                    "It is not in map=value format."
                )
            found = self.ident.get(name)
            if found is None:
                raise BadLine(
                    f"hba line {number}: Ident map {name} is not found "
                    "in ident config file"
                )
            tokens.next()
        if not tokens.at_end():
            raise BadLine(f"hba line {number}: unsupported parameters")
        return found


def read_names(names: Names, tokens: Tokens, path: str, seen: set[str]) -> None:
    """Add a comma-separated list to *names* and step behind it; raises `BadLine`.

    *path* is the file that the list stands in, *seen* the files that the column has
    named so far.
    """
    while True:
        if not tokens.is_word():
            raise BadLine
        add_name(names, tokens, path, seen)
        tokens.next()
        if tokens.kind is not Kind.COMMA:
            return
        tokens.next()


def add_name(names: Names, tokens: Tokens, path: str, seen: set[str]) -> None:
    """Add the current token to *names*."""
    word = tokens.text
    if tokens.kind is Kind.QUOTED:
        names.names.add(word)
    elif word.startswith("@"):
        inner = os.path.join(os.path.dirname(path), word[1:])
        read_names_file(names, inner, seen)
    elif word == "all":
        names.all = True
    elif word == "sameuser":
        names.same_user = True
    elif word == "replication":
        names.replication = True
    elif word in ("samerole", "samegroup"):
        raise BadLine(f"{word} is not supported")
    elif word.startswith("+"):
        raise BadLine
    else:
        names.names.add(word)


def read_names_file(names: Names, path: str, seen: set[str]) -> None:
    """Add the lists of a file, one a line, to *names*; raises `BadLine`.

    A file that names itself, directly or not, would never end: each is read once.
    """
    if path in seen:
        return
    seen.add(path)
    try:
        text = read_file(path)
    except OSError:
        raise BadLine from None
    for line in lines_of(text):
        read_names(names, Tokens(line), path, seen)


def lines_of(text: str) -> Iterator[str]:
    """Yield the lines of *text*; there is none behind the last line feed."""
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    yield from lines
