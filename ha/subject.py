"""What lint rules look at: proxies with their checks, poolers with their addresses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from ha.cfg import PROXIES, Config, Directive, Section, ServerLine, server_lines
from ha.health import ALIASES
from ha.ini import Source, values

PATRONI_PORT = 8008
HEALTH_PORT = 6480
WRITE_PATHS = ("/primary", "/read-write", "/leader", "/master")
READ_PATHS = ("/replica", "/read-only", "/standby-leader", "/synchronous", "/sync",
              "/asynchronous", "/async", "/read-only-sync")  # fmt: skip
READY_PATHS = ("/ready", "/readiness", "/health", "/")

# Bytes of checks, as hexadecimal digits in `tcp-check send-binary`.
SSL_REQUEST = "04d2162f"
PROTOCOL_3 = "00030000"
# HAProxy's defaults, in seconds and counts.
INTER = 2.0
RISE, FALL = 2, 3


@dataclass(frozen=True, slots=True)
class Check:
    """How servers of a proxy are judged.

    *kind*: `none` (no option), `http`, `pgsql`, `ssl` (an SSLRequest), `login`,
    `query` (a login with a statement), `other`.
    """

    kind: str
    at: Directive | None = None
    path: str = ""
    soft: bool = False
    expects: bool = False
    connects: tuple[Directive, ...] = ()


@dataclass(eq=False)
class Proxy:
    """A proxy that has servers."""

    section: Section
    config: Config

    @property
    def name(self) -> str:
        """Its name."""
        return self.section.name

    @cached_property
    def servers(self) -> list[ServerLine]:
        """Its server lines, inheritance applied."""
        return server_lines(self.section)

    @cached_property
    def check(self) -> Check:
        """Its check."""
        return check_of(self.section)

    @property
    def cuts(self) -> bool:
        """Does any server cut its sessions when it is marked down?"""
        return any(cuts(server) for server in self.servers)

    @property
    def place(self) -> tuple[str, int]:
        """File and line of its head."""
        return self.section.file, self.section.line

    @property
    def mode(self) -> str:
        """`tcp` unless it says otherwise."""
        found = self.section.find("mode")
        return found.words[1] if found and len(found.words) > 1 else "tcp"

    @property
    def role(self) -> str:
        """`write`, `read` or "" when the check asks for no role."""
        path = ALIASES.get(self.check.path, self.check.path)
        if path in WRITE_PATHS or self.check.path in WRITE_PATHS:
            return "write"
        return "read" if path in READ_PATHS else ""

    def asks_patroni(self, server: ServerLine) -> bool:
        """Is the check answered by Patroni's REST port?"""
        own = server.number("port", 0)
        if self.check.kind == "http":
            return own == PATRONI_PORT
        return any((port_of(one) or own) == PATRONI_PORT for one in self.check.connects)


def cuts(server: ServerLine) -> bool:
    """Does it carry `on-marked-down shutdown-sessions`?"""
    return server.values.get("on-marked-down") == "shutdown-sessions"


def port_of(directive: Directive) -> int:
    """The `port` of a `tcp-check connect`, 0 without one."""
    words = directive.words
    for key, value in zip(words, words[1:], strict=False):
        if key == "port" and value.isdigit():
            return int(value)
    return 0


def check_of(section: Section) -> Check:
    """Find out how a proxy checks; the last option that names a check counts."""
    found = [
        (option, at)
        for option in ("httpchk", "pgsql-check", "tcp-check", "external-check")
        if (at := section.option(option)) is not None
    ]
    if not found:
        return Check("none")
    own = [pair for pair in found if pair[1] in section.directives]
    option, at = max(own or found, key=lambda pair: pair[1].line)
    if option == "httpchk":
        return http_check(section, at)
    if option == "pgsql-check":
        return Check("pgsql", at)
    if option == "tcp-check":
        return tcp_check(section, at)
    return Check("other", at)


def http_check(section: Section, at: Directive) -> Check:
    """`option httpchk` with the `http-check` lines beside it."""
    target = at.words[3] if len(at.words) > 3 else at.words[2] if at.words[2:] else "/"
    if not target.startswith("/"):
        target = "/"
    for one in section.all("http-check", "send"):
        words = one.words
        for key, value in zip(words, words[1:], strict=False):
            if key == "uri":
                target = value
    return Check(
        "http",
        at,
        path=target.partition("?")[0],
        soft=section.find("http-check", "disable-on-404") is not None,
        expects=section.find("http-check", "expect") is not None,
    )


def tcp_check(section: Section, at: Directive) -> Check:
    """What the bytes of a `tcp-check` amount to."""
    rules = [one for one in section.directives if one.words[0] == "tcp-check"]
    sent = [
        one.words[2].lower()
        for one in rules
        if one.words[1:2] == ("send-binary",) and len(one.words) > 2
    ]
    texts = [" ".join(one.words[2:]) for one in rules if one.words[1:2] == ("send",)]
    path = ""
    for text in texts:
        request = re.match(r"(?:GET|HEAD|OPTIONS) (\S+)", text)
        if request:
            path = request[1].partition("?")[0]
    kind = "other"
    if any(SSL_REQUEST in data for data in sent):
        kind = "ssl"
    if any(data[8:16] == PROTOCOL_3 for data in sent):
        kind = "login"
        # A Query message is 'Q', a length below 64 kB, a text.
        if any(re.match(r"510000", data) for data in sent):
            kind = "query"
    return Check(
        kind,
        at,
        path=path,
        soft=any("L7OKC" in one.words for one in rules),
        expects=any(one.words[1:2] == ("expect",) for one in rules),
        connects=tuple(one for one in rules if one.words[1:2] == ("connect",)),
    )


@dataclass(eq=False)
class PoolerIni:
    """One pgbouncer.ini, and where balancers find its pooler."""

    source: Source

    @property
    def path(self) -> str:
        """Its file."""
        return self.source.path

    @property
    def port(self) -> int:
        """listen_port."""
        return self.source.settings.listen_port

    @cached_property
    def address(self) -> str:
        """Its address as far as the file tells it, else ""."""
        mine = self.peers.get(self.source.settings.peer_id)
        if mine is not None:
            return mine[0]
        for listed in (
            self.source.settings.health_listen.rpartition(":")[0],
            self.source.settings.listen_addr,
        ):
            if listed and "," not in listed and listed not in ("*", "0.0.0.0", "::"):
                return listed.strip("[] ")
        return ""

    @cached_property
    def peers(self) -> dict[int, tuple[str, int]]:
        """[peers]: id to host and port."""
        found = {}
        for key, text in self.source.of("peers").items():
            pairs = values(text)
            if key.isascii() and key.isdigit():
                port = pairs.get("port", "6432")
                number = int(port) if port.isascii() and port.isdigit() else 6432
                found[int(key)] = (pairs.get("host", ""), number)
        return found

    @property
    def health_ports(self) -> set[int]:
        """Ports on which it answers HTTP."""
        found = set()
        for place in self.source.settings.health_listen.split(","):
            port = place.strip().rpartition(":")[2]
            if port.isascii() and port.isdigit():
                found.add(int(port))
        return found

    @property
    def targets(self) -> set[tuple[str, int]]:
        """Hosts and ports that its databases lead to."""
        found = set()
        for text in self.source.of("databases").values():
            pairs = values(text)
            port = pairs.get("port", "5432")
            for host in pairs.get("host", "").split(","):
                found.add((host, int(port) if port.isdigit() else 5432))
        return found

    def serves(self, server: ServerLine) -> bool:
        """Does this server line lead to it, as far as one can tell?"""
        if server.port != self.port:
            return False
        return not self.address or self.address == server.host


@dataclass
class Subject:
    """Everything that is checked together."""

    configs: list[Config] = field(default_factory=list)
    poolers: list[PoolerIni] = field(default_factory=list)

    @cached_property
    def proxies(self) -> list[Proxy]:
        """Proxies with servers that are no web sites."""
        return [
            proxy
            for config in self.configs
            for section in config.of(*PROXIES)
            if (proxy := Proxy(section, config)).servers and self.is_postgres(proxy)
        ]

    def is_postgres(self, proxy: Proxy) -> bool:
        """Do its servers look like PostgreSQL or a pooler?"""
        if proxy.mode == "tcp":
            return True
        known = {5432, 5433, 6432, *(pooler.port for pooler in self.poolers)}
        return any(server.port in known for server in proxy.servers)

    def behind(self, server: ServerLine) -> list[PoolerIni]:
        """The poolers that a server line may lead to; if one fits exactly, only it."""
        found = [pooler for pooler in self.poolers if pooler.serves(server)]
        return [pooler for pooler in found if pooler.address] or found

    def leads_to_pooler(self, proxy: Proxy) -> bool:
        """Are its servers poolers? By the ini files, else by the usual port."""
        return any(
            self.behind(server) or server.port in (6432, 6433)
            for server in proxy.servers
        )

    def is_ours(self, proxy: Proxy, server: ServerLine) -> bool:
        """Is its check answered by our pooler's health port?"""
        port = server.number("port", server.port)
        ports = {p for pooler in self.behind(server) for p in pooler.health_ports}
        if port in ports or port == HEALTH_PORT:
            return True
        return proxy.check.path in READY_PATHS[:2] and port != PATRONI_PORT

    def pairs(self) -> Iterator[tuple[Proxy, ServerLine]]:
        """Each server with its proxy."""
        for proxy in self.proxies:
            for server in proxy.servers:
                yield proxy, server
