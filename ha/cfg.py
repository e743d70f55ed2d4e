"""Read a haproxy.cfg as far as a linter must: sections, inheritance, server lines.

Nothing is validated here (`haproxy -c` does that); what is not understood is kept as
words. Each thing remembers its line, and a value that a section inherits is found
where it was written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ha.errors import HAError

SECTIONS = frozenset(
    "global defaults frontend backend listen resolvers peers mailers userlist program"
    " cache ring http-errors fcgi-app log-forward crt-store traces".split()
)
PROXIES = ("frontend", "backend", "listen")
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

# Keywords of a server line that take one value; all others are flags.
VALUED = frozenset(
    "addr agent-addr agent-inter agent-port agent-send alpn ca-file check-alpn"
    " check-proto check-sni check-via-socks4 ciphers ciphersuites cookie crl-file crt"
    " downinter error-limit fall fastinter id init-addr init-state inter log-proto"
    " maxconn maxqueue max-reuse minconn namespace npn observe on-error on-marked-down"
    " on-marked-up pool-conn-name pool-low-conn pool-max-conn pool-purge-delay port"
    " proto proxy-v2-options redir resolve-net resolve-opts resolve-prefer resolvers"
    " rise set-proxy-v2-tlv-fmt shard slowstart sni socks4 source ssl-max-ver"
    " ssl-min-ver tcp-ut track usesrc verify verifyhost weight ws".split()
)


@dataclass(frozen=True, slots=True)
class Directive:
    """One line: its words, without comment and quotes."""

    file: str
    line: int
    words: tuple[str, ...]

    def starts(self, *words: str) -> bool:
        """Does it begin with *words*?"""
        return self.words[: len(words)] == words


@dataclass(slots=True)
class Section:
    """A section with its lines; *inherits* is its `defaults`."""

    kind: str
    name: str
    file: str
    line: int
    directives: list[Directive] = field(default_factory=list)
    inherits: Section | None = None

    def all(self, *words: str) -> list[Directive]:
        """Its own lines that begin with *words*."""
        return [one for one in self.directives if one.starts(*words)]

    def find(self, *words: str) -> Directive | None:
        """The line that counts: its own last one, else the inherited one."""
        own = self.all(*words)
        if own:
            return own[-1]
        return self.inherits.find(*words) if self.inherits else None

    def option(self, name: str) -> Directive | None:
        """`option NAME`, unless a later `no option NAME` took it back."""
        for one in reversed(self.directives):
            if one.starts("no", "option", name):
                return None
            if one.starts("option", name):
                return one
        return self.inherits.option(name) if self.inherits else None

    def timeout(self, name: str) -> tuple[float, Directive] | None:
        """`timeout NAME` in seconds, and where it stands."""
        found = self.find("timeout", name)
        if found is None or len(found.words) < 3:
            return None
        value = seconds(found.words[2])
        return None if value is None else (value, found)


@dataclass(frozen=True, slots=True)
class ServerLine:
    """A `server` or `server-template` with the `default-server`s before it."""

    name: str
    address: str
    values: dict[str, str]
    flags: frozenset[str]
    at: Directive

    @property
    def port(self) -> int:
        """The port of its address, 0 when it has none."""
        tail = self.address.rpartition(":")[2]
        return int(tail) if tail.isascii() and tail.isdigit() else 0

    @property
    def host(self) -> str:
        """The host of its address, which may have its family before it: `ipv4@`."""
        return self.address.rpartition("@")[2].rpartition(":")[0].strip("[]")

    def number(self, key: str, default: int) -> int:
        """A value as a number."""
        text = self.values.get(key, "")
        return int(text) if text.isascii() and text.isdigit() else default

    def time(self, key: str, default: float) -> float:
        """A value as seconds."""
        value = seconds(self.values.get(key, ""))
        return default if value is None else value

    def has(self, *flags: str) -> bool:
        """Does it carry any of *flags*?"""
        return not self.flags.isdisjoint(flags)


def seconds(text: str) -> float | None:
    """`1s`, `500ms`, `8h`; a bare number is milliseconds."""
    found = re.fullmatch(r"(\d+)(us|ms|s|m|h|d)?", text)
    return None if found is None else int(found[1]) * UNITS[found[2] or "ms"]


ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def words_of(text: str) -> list[str]:
    """Split a line as HAProxy does: quotes, backslashes, comment."""
    words: list[str] = []
    word: list[str] = []
    quote, inside, place = "", False, 0
    while place < len(text):
        char = text[place]
        place += 1
        if char == quote:
            quote = ""
        elif char == "\\" and quote != "'" and place < len(text):
            word.append(ESCAPES.get(text[place], text[place]))
            inside, place = True, place + 1
        elif quote:
            word.append(char)
        elif char in "\"'":
            quote, inside = char, True
        elif char == "#":
            break
        elif char.isspace():
            if inside:
                words.append("".join(word))
            word, inside = [], False
        else:
            word.append(char)
            inside = True
    if inside:
        words.append("".join(word))
    return words


@dataclass(slots=True)
class Config:
    """All sections of one file, in order."""

    file: str
    sections: list[Section]

    @classmethod
    def read(cls, path: str) -> Config:
        """Read a file; raises `HAError` when that cannot be done."""
        try:
            return cls.parse(Path(path).read_text(errors="replace"), path)
        except OSError as problem:
            raise HAError(f"{path}: {problem.strerror}") from None

    @classmethod
    def parse(cls, text: str, file: str) -> Config:
        """Read a text."""
        sections: list[Section] = []
        named: dict[str, Section] = {}
        latest: Section | None = None
        for number, line in enumerate(text.splitlines(), 1):
            words = words_of(line)
            if not words:
                continue
            if words[0] in SECTIONS:
                section = Section(words[0], " ".join(words[1:2]), file, number)
                if section.kind == "defaults":
                    latest = section
                    named[section.name] = section
                elif section.kind in PROXIES:
                    parent = words[3] if words[2:3] == ["from"] else None
                    section.inherits = named.get(parent) if parent else latest
                sections.append(section)
            elif sections:
                sections[-1].directives.append(Directive(file, number, tuple(words)))
        if not any(section.kind in PROXIES for section in sections):
            raise HAError(f"{file}: no frontend, backend or listen in it")
        return cls(file, sections)

    def of(self, *kinds: str) -> Iterator[Section]:
        """The sections of these kinds."""
        return (section for section in self.sections if section.kind in kinds)

    @property
    def global_section(self) -> Section:
        """All `global` lines together; an empty section when there are none."""
        found = list(self.of("global"))
        if not found:
            return Section("global", "", self.file, 1)
        whole = Section("global", "", self.file, found[0].line)
        for section in found:
            whole.directives += section.directives
        return whole


def server_lines(section: Section) -> list[ServerLine]:
    """The servers of a proxy."""
    values, flags = defaults_of(section.inherits)
    servers: list[ServerLine] = []
    for one in section.directives:
        if one.words[0] == "default-server":
            values, flags = merged(values, flags, one.words[1:])
        elif one.words[0] == "server" and len(one.words) > 2:
            mine, marks = merged(values, flags, one.words[3:])
            servers.append(ServerLine(one.words[1], one.words[2], mine, marks, one))
        elif one.words[0] == "server-template" and len(one.words) > 3:
            mine, marks = merged(values, flags, one.words[4:])
            servers.append(ServerLine(one.words[1], one.words[3], mine, marks, one))
    return servers


def defaults_of(section: Section | None) -> tuple[dict[str, str], frozenset[str]]:
    """What `default-server` lines of a `defaults` section say."""
    values: dict[str, str] = {}
    flags: frozenset[str] = frozenset()
    for one in section.all("default-server") if section else ():
        values, flags = merged(values, flags, one.words[1:])
    return values, flags


def merged(
    values: dict[str, str], flags: frozenset[str], words: tuple[str, ...]
) -> tuple[dict[str, str], frozenset[str]]:
    """Add the keywords of a line to those inherited."""
    mine, marks = dict(values), set(flags)
    rest = iter(words)
    for word in rest:
        if word in VALUED:
            mine[word] = next(rest, "")
        elif word.startswith("no-"):
            marks.discard(word[3:])
        else:
            marks.add(word)
    return mine, frozenset(marks)
