"""Where the servers are: Unix sockets, numbers, DNS with a cache of its own.

The one hard idea: what needs no question gets no question. `Hosts.resolve` returns
an `Address` at once for a path, a number or a name that is cached, and a future
only when DNS must be asked; one question is under way per name, whoever waits.

PgBouncer counts the life of an answer by its own settings, never by the TTL of
the record, and so do we. Where it takes only the IPv6 addresses of a name that
has both kinds, we take the kind that the system prefers and can reach, and
change over when a connection fails.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import Any, Final, NamedTuple

from bouncer import log
from bouncer.config.settings import Settings
from bouncer.pool.dns import RESOLVER_DOWN, Resolver, reason_of
from bouncer.snapshot import DnsHostRow, DnsZoneRow

# Serial numbers wrap around: what is less than half the range ahead is newer.
SERIAL_RANGE: Final = 1 << 32


class LookupFailed(OSError):
    """A host name has no address; the log line has been written."""


class NoSocketDirectory(LookupFailed):
    """A database without a host, and no unix_socket_dir."""


class Address(NamedTuple):
    """One place to connect to.

    *host* is the IP address, or "unix"; *path* the Unix socket's path as it was
    configured (a leading @ is an abstract one), "" for TCP. *name* is the host
    name that it came from, "" if it did not come from DNS.
    """

    family: int
    host: str
    port: int
    path: str = ""
    name: str = ""

    @property
    def sockaddr(self) -> Any:
        """What connect() wants."""
        if self.path:
            return "\0" + self.path[1:] if self.path[0] == "@" else self.path
        if self.family == socket.AF_INET6:
            host, _, zone = self.host.partition("%")
            return host, self.port, 0, scope_of(zone)
        return self.host, self.port

    @property
    def text(self) -> str:
        """How the log's prefix shows it."""
        if self.family == socket.AF_INET6:
            return f"[{self.host}]:{self.port}"
        return f"{self.host}:{self.port}"


def scope_of(zone: str) -> int:
    """Return the number of the interface behind the % of a link-local address."""
    if zone.isdigit():
        return int(zone)
    return socket.if_nametoindex(zone) if zone else 0


def numeric(host: str) -> int:
    """Return the family if *host* is an IP address, else 0."""
    try:
        version = ip_address(host).version
    except ValueError:
        return 0
    return socket.AF_INET if version == 4 else socket.AF_INET6


# Takes the addresses of the usual kind and the others, best first; returns one.
Choice = Callable[[tuple[str, ...], tuple[str, ...]], str]


class Entry:
    """What is known about one name."""

    __slots__ = ("addresses", "asking", "expires", "name", "turn", "waiting", "why")

    def __init__(self, name: str) -> None:
        self.name = name
        # All usable addresses of the last answer, best first; empty: no such name.
        self.addresses: tuple[str, ...] = ()
        self.expires = 0.0
        self.turn = 0
        self.asking = False
        self.why = ""  # the last question was not answered
        self.waiting: list[tuple[asyncio.Future[Address], int, Choice | None]] = []

    @property
    def zone(self) -> str:
        """The name after its first dot, "" if it has none."""
        return self.name.partition(".")[2]

    @property
    def usable(self) -> tuple[str, ...]:
        """The addresses that are rotated: those of the first one's kind."""
        if not self.addresses:
            return ()
        six = ":" in self.addresses[0]
        return tuple(text for text in self.addresses if (":" in text) is six)

    def next(self, port: int, choose: Choice | None = None) -> Address:
        """Return the next address in turn, or the one that *choose* takes."""
        usable = self.usable
        if not usable:
            raise LookupFailed(self.why or f"no address of {self.name}")
        if choose is not None:
            others = tuple(text for text in self.addresses if text not in usable)
            host = choose(usable, others)
        else:
            host = usable[self.turn % len(usable)]
            self.turn += 1
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return Address(family, host, port, name=self.name)


class Hosts:
    """Turns host names into addresses; owns the DNS cache.

    *on_change* is called with a name and the addresses that its new answer lacks.
    """

    def __init__(
        self,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        on_change: Callable[[str, frozenset[str]], None],
    ) -> None:
        self.settings = settings
        self._loop = loop
        self._on_change = on_change
        self._entries: dict[str, Entry] = {}
        self._serials: dict[str, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._asked: set[str] = set()
        # The file is read only once, as in PgBouncer.
        self._resolver = Resolver(loop, settings.resolv_conf)

    # Called by the pools

    def resolve(
        self, host: str, port: int, choose: Choice | None = None
    ) -> Address | asyncio.Future[Address]:
        """Return the address of *host*, or a future of it when DNS must be asked.

        The future fails with `LookupFailed`, and so does the call, when the name is
        known to have no address. `""` is the directory of unix_socket_dir. Of several
        addresses *choose* takes one: whose turn it is, each pool knows for itself.
        """
        host = host or self.settings.unix_socket_dir
        if not host or host[0] in "/@":
            if not host:
                raise NoSocketDirectory("unix socket dir not configured")
            path = f"{host}/.s.PGSQL.{port}"
            return Address(socket.AF_UNIX, "unix", port, path)
        family = numeric(host)
        if family:
            return Address(family, host, port)
        if ":" in host:
            raise LookupFailed(f"no IPv6 address: {host}")
        entry = self._entries.get(host)
        if entry is None:
            entry = self._entries[host] = Entry(host)
            self._follow_period()
        if not entry.asking and entry.expires > time.monotonic():
            return entry.next(port, choose)
        future: asyncio.Future[Address] = self._loop.create_future()
        entry.waiting.append((future, port, choose))
        self._ask(entry)
        return future

    def connect_failed(self, address: Address) -> None:
        """Let other addresses of the name come first: this one did not answer.

        Only the kind changes (IPv4, IPv6): addresses of one kind are rotated anyway.
        """
        entry = self._entries.get(address.name)
        if entry is None or address.host not in entry.usable:
            return
        six = ":" in address.host
        others = [text for text in entry.addresses if (":" in text) is not six]
        same = [text for text in entry.addresses if (":" in text) is six]
        entry.addresses = tuple(others + same)

    # Called by the app

    def configure(self, settings: Settings) -> None:
        """Take changed settings; what is cached keeps the life it was given."""
        changed = settings.dns_zone_check_period != self.settings.dns_zone_check_period
        self.settings = settings
        if changed:
            self._stop_timer()
            self._follow_period()

    def close(self) -> None:
        """End: nothing is asked any more, nobody waits any longer."""
        self._stop_timer()
        self._resolver.close()
        for entry in self._entries.values():
            for future, _, _ in entry.waiting:
                future.cancel()
            entry.waiting.clear()

    def host_rows(self) -> list[DnsHostRow]:
        """Return the rows of SHOW DNS_HOSTS."""
        now = time.monotonic()
        return [
            DnsHostRow(name, max(0, int(entry.expires - now)), entry.usable)
            for name, entry in sorted(self._entries.items())
        ]

    def zone_rows(self) -> list[DnsZoneRow]:
        """Return the rows of SHOW DNS_ZONES."""
        counts = self._zones()
        return [
            DnsZoneRow(zone, self._serials.get(zone, 0), len(counts[zone]))
            for zone in sorted(counts)
        ]

    @property
    def pending(self) -> int:
        """Questions that are under way."""
        return sum(entry.asking for entry in self._entries.values())

    # Names

    def _ask(self, entry: Entry) -> None:
        if not entry.asking:
            entry.asking = True
            self._resolver.addresses(
                entry.name, lambda found, code: self._answered(entry, found, code)
            )

    def _answered(self, entry: Entry, texts: list[str] | None, code: int) -> None:
        found = order(texts or ())
        if code or not found:
            self._failed(entry, code)
            return
        gone = frozenset(entry.addresses) - frozenset(found)
        if set(found) != set(entry.addresses):
            entry.addresses = found
        self._settle(entry, self.settings.dns_max_ttl)
        if gone:
            self._on_change(entry.name, gone)

    def _failed(self, entry: Entry, code: int) -> None:
        # The number is always 0 in PgBouncer's line.
        log.warning(f"DNS lookup failed: {entry.name}: result=0")
        log.debug(f"DNS: {entry.name}: c-ares says {code}")
        entry.why = f"DNS: {reason_of(code)}"
        if code not in RESOLVER_DOWN:
            entry.addresses = ()
        # An older answer is still the best one while nobody can be asked.
        self._settle(entry, self.settings.dns_nxdomain_ttl)

    def _settle(self, entry: Entry, life: float) -> None:
        """Give the answer to those who wait and keep it for *life* seconds."""
        entry.asking = False
        entry.expires = time.monotonic() + life
        waiting, entry.waiting = entry.waiting, []
        for future, port, choose in waiting:
            if future.done():
                continue
            try:
                future.set_result(entry.next(port, choose))
            except LookupFailed as err:
                future.set_exception(err)

    # Zones

    def _zones(self) -> dict[str, list[Entry]]:
        zones: dict[str, list[Entry]] = {}
        for entry in self._entries.values():
            if entry.zone:
                zones.setdefault(entry.zone, []).append(entry)
        return zones

    def _follow_period(self) -> None:
        period = self.settings.dns_zone_check_period
        if period > 0 and self._timer is None and self._entries:
            self._timer = self._loop.call_later(period, self._check_zones)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check_zones(self) -> None:
        self._timer = None
        self._follow_period()
        for zone in self._zones():
            if zone not in self._asked:
                self._ask_serial(zone)

    def _ask_serial(self, zone: str) -> None:
        self._asked.add(zone)
        self._resolver.serial(
            zone, lambda new, code: self._serial_answered(zone, new, code)
        )

    def _serial_answered(self, zone: str, new: int | None, code: int) -> None:
        self._asked.discard(zone)
        if new is None:
            log.debug(f"DNS: zone {zone}: no serial, c-ares says {code}")
            return
        old = self._serials.get(zone, 0)
        if 0 < (new - old) % SERIAL_RANGE < SERIAL_RANGE // 2:
            log.info(f"zone '{zone}' serial changed: old={old} new={new}")
            self._serials[zone] = new
            for entry in self._zones().get(zone, ()):
                self._ask(entry)


def order(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the addresses that can be reached, the best kind first.

    c-ares has sorted them (RFC 6724). Loopback is the exception: a PostgreSQL that
    listens on one of the two loopback addresses only does so on 127.0.0.1.
    """
    known = list(texts)
    found = [text for text in known if has_route(text)] or known
    if all(ip_address(text).is_loopback for text in found):
        found.sort(key=lambda text: ":" in text)
    return tuple(found)


def has_route(text: str) -> bool:
    """Say whether the system knows a way to *text*; sends nothing."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((text, 9))
    except OSError:
        return False
    return True
