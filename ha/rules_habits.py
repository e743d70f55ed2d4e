"""Rules about timers, limits, logs and the stats socket."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from ha.cfg import Directive, seconds
from ha.lint import ERROR, NOTE, WARNING, Found, Place, rule
from ha.rules_checks import at
from ha.subject import Proxy, Subject

HALF_HOUR = 1800.0
LONG_CONNECT = 5.0
LONG_QUEUE = 30.0
SHORT_STOP = 1800.0
# What may stand before the @ of an address on TCP; nothing is an address or a path.
ON_TCP = ("", "ipv4", "ipv6", "tcp", "tcp4", "tcp6")


def place_of(directive: Directive) -> Place:
    """Where a line stands."""
    return directive.file, directive.line


def sides(subject: Subject) -> Iterator[Proxy]:
    """Proxies; the client side of a backend is its frontend's."""
    yield from subject.proxies


@rule(
    "no-timers",
    ERROR,
    "without timers a session whose client vanished stays for ever",
    "`timeout client 8h` and `timeout server 8h`, equal",
)
def no_timers(subject: Subject) -> Found:
    """timeout client or server is missing."""
    for proxy in sides(subject):
        wanted = {"listen": ("client", "server"), "backend": ("server",)}
        for name in wanted.get(proxy.section.kind, ()):
            if proxy.section.timeout(name) is None:
                yield proxy.place, f"{proxy.name}: no timeout {name}"


@rule(
    "unequal-timers",
    WARNING,
    "the shorter one cuts the session, whatever the longer one says; a running query "
    "counts as idle",
    "make `timeout client` and `timeout server` equal",
)
def unequal_timers(subject: Subject) -> Found:
    """timeout client differs from timeout server."""
    seen = set()
    for proxy in sides(subject):
        client, server = (proxy.section.timeout(n) for n in ("client", "server"))
        if client and server and client[0] != server[0]:
            where = place_of(server[1])
            if where not in seen:
                seen.add(where)
                yield (
                    where,
                    f"timeout client {client[0]:g} s, timeout server {server[0]:g} s",
                )


@rule(
    "short-timers",
    WARNING,
    "keepalives do not refresh these timers: a query or an idle pool connection that "
    "lasts longer is cut, and the client reads a bare end of stream",
    "hours, above every timeout of application and pooler",
)
def short_timers(subject: Subject) -> Found:
    """A session may be idle for less than half an hour."""
    seen = set()
    for proxy in sides(subject):
        for name in ("client", "server"):
            found = proxy.section.timeout(name)
            if found and found[0] < HALF_HOUR and place_of(found[1]) not in seen:
                seen.add(place_of(found[1]))
                yield place_of(found[1]), f"timeout {name} {found[0]:g} s"


@rule(
    "connect-timeout",
    WARNING,
    "a host that is gone answers nothing: each client waits this long for the next "
    "server",
    "`timeout connect 2s`",
)
def connect_timeout(subject: Subject) -> Found:
    """timeout connect is missing or long."""
    seen = set()
    for proxy in subject.proxies:
        found = proxy.section.timeout("connect")
        if found is None:
            yield proxy.place, f"{proxy.name}: no timeout connect"
        elif found[0] > LONG_CONNECT and place_of(found[1]) not in seen:
            seen.add(place_of(found[1]))
            yield place_of(found[1]), f"timeout connect {found[0]:g} s"


@rule(
    "queue-timeout",
    WARNING,
    "HAProxy's queue ends without a PostgreSQL message; unset, timeout queue is "
    "timeout connect",
    "queue in the pooler; `timeout queue` of a few seconds, since it means overloaded",
)
def queue_timeout(subject: Subject) -> Found:
    """Sessions may wait in HAProxy for an unset or a long time."""
    seen = set()
    for proxy in subject.proxies:
        if not any("maxconn" in server.values for server in proxy.servers):
            continue
        found = proxy.section.timeout("queue")
        if found is None:
            yield proxy.place, f"{proxy.name}: maxconn without timeout queue"
        elif found[0] > LONG_QUEUE and place_of(found[1]) not in seen:
            seen.add(place_of(found[1]))
            yield place_of(found[1]), f"timeout queue {found[0]:g} s"


@rule(
    "no-redispatch",
    WARNING,
    "a refused connection is tried again on the same dead server, a second apart: "
    "clients saw failures for 3 to 5 s",
    "`option redispatch 1`",
)
def no_redispatch(subject: Subject) -> Found:
    """Several servers, and no way from one to the next."""
    for proxy in subject.proxies:
        if len(proxy.servers) > 1 and proxy.section.option("redispatch") is None:
            yield proxy.place, f"{proxy.name}: no option redispatch"


@rule(
    "no-maxconn",
    WARNING,
    "nothing keeps a server from its own limit, at which logins fail and checks with "
    "them",
    "`maxconn` on the server line, a bit below the pooler's max_client_conn",
)
def no_maxconn(subject: Subject) -> Found:
    """A server line without maxconn."""
    for proxy in subject.proxies:
        for server in proxy.servers:
            if "maxconn" not in server.values:
                yield at(server), f"{proxy.name}/{server.name}: no maxconn"
                break


@rule(
    "global-maxconn",
    WARNING,
    "the process stops accepting before its servers are full, and the kernel's queue "
    "holds the rest in silence",
    "global maxconn above the sum of the servers' maxconn",
)
def global_maxconn(subject: Subject) -> Found:
    """The process takes fewer sessions than its servers."""
    for config in subject.configs:
        limit = config.global_section.find("maxconn")
        if limit is None or not limit.words[1:2] or not limit.words[1].isdigit():
            continue
        total = sum(
            server.number("maxconn", 0)
            for proxy in subject.proxies
            if proxy.config is config
            for server in proxy.servers
        )
        if total > int(limit.words[1]):
            yield place_of(limit), f"maxconn {limit.words[1]}, servers take {total}"


@rule(
    "hard-stop",
    WARNING,
    "after a reload the old worker keeps its sessions; this cuts them, once for each "
    "reload",
    "hours, as long as sessions live",
)
def hard_stop(subject: Subject) -> Found:
    """hard-stop-after is a matter of minutes."""
    for config in subject.configs:
        found = config.global_section.find("hard-stop-after")
        value = seconds_of(found)
        if found is not None and value is not None and value < SHORT_STOP:
            yield place_of(found), f"hard-stop-after {value:g} s"


def seconds_of(directive: Directive | None) -> float | None:
    """The time behind a keyword."""
    words = directive.words[1:2] if directive else ()
    return seconds(words[0]) if words else None


@rule(
    "http-mode",
    ERROR,
    "PostgreSQL's protocol is no HTTP: every session fails",
    "`mode tcp`",
)
def http_mode(subject: Subject) -> Found:
    """mode http in front of PostgreSQL."""
    for proxy in subject.proxies:
        if proxy.mode == "http":
            found = proxy.section.find("mode")
            yield (
                (place_of(found) if found else proxy.place),
                f"{proxy.name}: mode http",
            )


@rule(
    "open-socket",
    ERROR,
    "the stats socket has no password: whoever reaches it can drain, cut and redirect",
    "level user for everybody; for admin a unix socket with mode 660, or 127.0.0.1",
)
def open_socket(subject: Subject) -> Found:
    """A stats socket at admin level that strangers can reach."""
    for config in subject.configs:
        for one in config.global_section.all("stats", "socket"):
            words = one.words[2:]
            if not words or "admin" not in words:
                continue
            place, open_to = words[0], ""
            kind, _, address = place.rpartition("@")
            if kind in ON_TCP and "/" not in address:
                host = address.rpartition(":")[0].strip("[]")
                open_to = "" if is_loopback(host) else "the network"
            elif "mode" in words[:-1]:
                mode = words[words.index("mode") + 1]
                if mode[-1:] in "2367":
                    open_to = "every user of the host"
            if open_to:
                yield place_of(one), f"stats socket {place} is open to {open_to}"


def is_loopback(host: str) -> bool:
    """An address of this host only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@rule(
    "no-socket",
    NOTE,
    "without a stats socket nothing can be drained or seen from outside",
    "`stats socket /run/haproxy/admin.sock mode 660 level admin expose-fd listeners`",
)
def no_socket(subject: Subject) -> Found:
    """There is no stats socket."""
    for config in subject.configs:
        found = config.global_section
        if not found.all("stats", "socket"):
            yield (config.file, found.line), "no stats socket"


@rule(
    "forgets-drains",
    NOTE,
    "a reload brings drained servers back and resets weights; at a start every server "
    "counts as UP until its first check",
    "`server-state-file` with `load-server-state-from-file global`, and `pybouncer ha "
    "save-state` before each reload",
)
def forgets_drains(subject: Subject) -> Found:
    """No state file, or nobody who loads it."""
    for config in subject.configs:
        there = config.global_section.find("server-state-file")
        loaded = any(
            proxy.section.find("load-server-state-from-file") is not None
            for proxy in subject.proxies
            if proxy.config is config
        )
        if there is None or not loaded:
            line = there.line if there else config.global_section.line
            yield (config.file, line), "server states are lost by a reload"


def missing(name: str, why: str, remedy: str, *options: str) -> None:
    """A rule for options that are simply good to have."""

    @rule(name, NOTE, why, remedy)
    def look(subject: Subject) -> Found:
        """One finding for each defaults section, or proxy, that lacks them."""
        seen = set()
        for proxy in subject.proxies:
            lacking = [o for o in options if proxy.section.option(o) is None]
            base = proxy.section.inherits or proxy.section
            if lacking and (base.file, base.line) not in seen:
                seen.add((base.file, base.line))
                yield (base.file, base.line), f"no option {', '.join(lacking)}"


missing(
    "no-keepalive",
    "with timers of hours only keepalives find dead peers and keep firewalls awake",
    "`option clitcpka` and `option srvtcpka` with -idle 30s -intvl 10s -cnt 3",
    "clitcpka",
    "srvtcpka",
)
missing(
    "no-log",
    "the termination code in the log is the only way to tell afterwards who cut a "
    "session",
    "`option tcplog` and `option dontlognull`",
    "tcplog",
    "dontlognull",
)


@rule(
    "no-tcp-ut",
    NOTE,
    "keepalives do not fire while data is unacknowledged: a query to a host that is "
    "gone hangs for the kernel's 15 minutes",
    "`tcp-ut 30s` on server lines and bind",
)
def no_tcp_ut(subject: Subject) -> Found:
    """Server lines without tcp-ut."""
    for proxy in subject.proxies:
        for server in proxy.servers:
            if "tcp-ut" not in server.values:
                yield at(server), f"{proxy.name}/{server.name}: no tcp-ut"
                break


@rule(
    "no-fin-timers",
    NOTE,
    "half-closed sessions inherit timers of hours",
    "`timeout client-fin 30s` and `timeout server-fin 30s`",
)
def no_fin_timers(subject: Subject) -> Found:
    """client-fin or server-fin is missing."""
    seen = set()
    for proxy in subject.proxies:
        base = proxy.section.inherits or proxy.section
        lacking = [
            name
            for name in ("client-fin", "server-fin")
            if proxy.section.timeout(name) is None
        ]
        if lacking and (base.file, base.line) not in seen:
            seen.add((base.file, base.line))
            yield (base.file, base.line), f"no timeout {', '.join(lacking)}"
