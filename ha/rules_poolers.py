"""Rules that hold HAProxy and the poolers' ini files against each other."""

from __future__ import annotations

from collections.abc import Iterator

from ha.cfg import Config, ServerLine
from ha.lint import ERROR, NOTE, WARNING, Found, Place, rule
from ha.rules_checks import at
from ha.subject import PoolerIni, Proxy, Subject

PROXY_FLAGS = (
    "send-proxy",
    "send-proxy-v2",
    "send-proxy-v2-ssl",
    "send-proxy-v2-ssl-cn",
)
# server_login_retry above this is felt in every failover.
LONG_RETRY = 5.0


def item(pooler: PoolerIni, key: str, section: str = "pgbouncer") -> Place:
    """Where a setting stands in an ini file, else the file's head."""
    file, line = pooler.source.where(section, key)
    return (file, line) if line else (pooler.path, 1)


def met(subject: Subject) -> Iterator[tuple[Proxy, ServerLine, PoolerIni]]:
    """Each server line with each pooler it may lead to."""
    for proxy, server in subject.pairs():
        for pooler in subject.behind(server):
            yield proxy, server, pooler


@rule(
    "maxconn-above-pooler",
    ERROR,
    "HAProxy fills the pooler to max_client_conn: checks, consoles and monitoring are "
    "refused then, and a login check marks it DOWN",
    "server maxconn some ten below max_client_conn, over all balancers together",
)
def maxconn_above_pooler(subject: Subject) -> Found:
    """A server line lets more sessions through than the pooler takes."""
    for proxy, server, pooler in met(subject):
        limit = pooler.source.settings.max_client_conn
        given = server.number("maxconn", 0)
        if 0 < limit <= given:
            yield (
                at(server),
                f"{proxy.name}/{server.name}: maxconn {given}, max_client_conn {limit} "
                f"in {pooler.path}",
            )


@rule(
    "balancers-above-pooler",
    WARNING,
    "each balancer counts for itself: together they fill the pooler",
    "divide the pooler's max_client_conn by the number of balancers",
)
def balancers_above_pooler(subject: Subject) -> Found:
    """The balancers together let more sessions through than the pooler takes."""
    for pooler in subject.poolers:
        highest: dict[str, ServerLine] = {}
        for proxy, server in subject.pairs():
            # Listens of one balancer that differ by role exclude each other.
            if pooler in subject.behind(server):
                key = own_addresses(proxy.config) or proxy.config.file
                best = highest.setdefault(key, server)
                if server.number("maxconn", 0) > best.number("maxconn", 0):
                    highest[key] = server
        limit = pooler.source.settings.max_client_conn
        total = sum(server.number("maxconn", 0) for server in highest.values())
        if len(highest) > 1 and 0 < limit <= total:
            yield (
                item(pooler, "max_client_conn"),
                f"max_client_conn {limit}, {len(highest)} balancers send {total}",
            )


def own_addresses(config: Config) -> str:
    """The addresses a HAProxy binds, if all are specific; "" otherwise.

    Two that bind the same ones are a pair with a shared address: one is at work.
    """
    places = [
        one.words[1].rpartition("@")[2]
        for section in config.of("frontend", "listen")
        for one in section.all("bind")
        if one.words[1:]
    ]
    hosts = {place.rpartition(":")[0].strip("[]") for place in places}
    if hosts & {"", "*", "0.0.0.0", "::"}:
        return ""
    return " ".join(place for place in places if not place.startswith("127."))


@rule(
    "timer-below-pooler",
    WARNING,
    "HAProxy cuts the session first, with a bare end of stream instead of the pooler's "
    "message",
    "timeout client and timeout server above every timeout of the pooler",
)
def timer_below_pooler(subject: Subject) -> Found:
    """An idle timer of HAProxy is shorter than what the pooler allows."""
    names = (
        "client_idle_timeout",
        "query_timeout",
        "query_wait_timeout",
        "transaction_timeout",
        "idle_transaction_timeout",
    )
    for proxy, _, pooler in met(subject):
        for side in ("client", "server"):
            found = proxy.section.timeout(side)
            for name in names:
                inner = float(getattr(pooler.source.settings, name))
                if found and inner >= found[0]:
                    yield (
                        (found[1].file, found[1].line),
                        f"timeout {side} {found[0]:g} s, {name} {inner:g} s in "
                        f"{pooler.path}",
                    )


@rule(
    "proxy-refused",
    ERROR,
    "a PROXY header that the pooler does not expect is refused by ours, and hangs the "
    "original in silence until client_login_timeout",
    "`proxy_protocol_networks = BALANCER'S ADDRESS` in [pybouncer], or no send-proxy",
)
def proxy_refused(subject: Subject) -> Found:
    """send-proxy towards a pooler that trusts nobody."""
    for proxy, server, pooler in met(subject):
        trusted = pooler.source.settings.proxy_protocol_networks.strip()
        if server.has(*PROXY_FLAGS) and not trusted:
            yield (
                at(server),
                f"{proxy.name}/{server.name}: send-proxy, but {pooler.path} trusts no "
                "network",
            )


@rule(
    "proxy-untold",
    WARNING,
    "the pooler waits for addresses that nobody sends: HBA, logs and SHOW CLIENTS show "
    "the balancer",
    "`send-proxy-v2` on the server lines",
)
def proxy_untold(subject: Subject) -> Found:
    """The pooler would believe a header, and none is sent."""
    for proxy, server, pooler in met(subject):
        trusted = pooler.source.settings.proxy_protocol_networks.strip()
        if trusted and not server.has(*PROXY_FLAGS):
            yield (
                at(server),
                f"{proxy.name}/{server.name}: no send-proxy-v2; {pooler.path} waits "
                "for it",
            )


def shared(subject: Subject) -> Iterator[tuple[Proxy, list[PoolerIni]]]:
    """Proxies that spread clients over several poolers whose ini files are given."""
    for proxy in subject.proxies:
        group: dict[str, PoolerIni] = {}
        for server in proxy.servers:
            for pooler in subject.behind(server):
                group[pooler.path] = pooler
        if len(group) > 1:
            yield proxy, list(group.values())


@rule(
    "cancel-lost",
    ERROR,
    "a cancel request is a new connection, and the balancer sends it anywhere: without "
    "peers the pooler that gets it knows nothing of the query (0 of 12 worked)",
    "a peer_id for each pooler and the same [peers] in all of them; `pybouncer ha "
    "render` writes both",
)
def cancel_lost(subject: Subject) -> Found:
    """Poolers behind one balancer that are not each other's peers."""
    for proxy, group in shared(subject):
        taken: dict[int, PoolerIni] = {}
        for pooler in group:
            number = pooler.source.settings.peer_id
            if not number:
                yield (
                    item(pooler, "peer_id"),
                    f"no peer_id, but {proxy.name} spreads clients over "
                    f"{len(group)} poolers",
                )
            elif number in taken:
                yield (
                    item(pooler, "peer_id"),
                    f"peer_id {number} is also that of {taken[number].path}",
                )
            else:
                taken[number] = pooler
        for pooler in group:
            lacking = sorted(set(taken) - set(pooler.peers))
            if pooler.source.settings.peer_id and lacking:
                yield (
                    item(pooler, "", "peers"),
                    f"[peers] lacks {', '.join(map(str, lacking))}",
                )


@rule(
    "peers-differ",
    ERROR,
    "a cancel is handed to the wrong process, which knows nothing of the query",
    "the same [peers] in all files",
)
def peers_differ(subject: Subject) -> Found:
    """Two files give one peer different addresses."""
    for _, group in shared(subject):
        first = group[0]
        for pooler in group[1:]:
            for number, place in pooler.peers.items():
                if first.peers.get(number, place) != place:
                    yield (
                        item(pooler, str(number), "peers"),
                        f"peer {number} is {place[0]}:{place[1]} here, "
                        f"{first.peers[number][0]}:{first.peers[number][1]} in "
                        f"{first.path}",
                    )


@rule(
    "login-retry",
    WARNING,
    "after a failed login the pooler waits this long for the next: 15 s, the default, "
    "doubled the outage of a failover (30 s instead of 16)",
    "`server_login_retry = 1`",
)
def login_retry(subject: Subject) -> Found:
    """A pooler in front of HAProxy with a long pause between logins."""
    for pooler in subject.poolers:
        retry = pooler.source.settings.server_login_retry
        if retry > LONG_RETRY and leads_to_balancer(subject, pooler):
            yield (
                item(pooler, "server_login_retry"),
                f"server_login_retry {retry:g} s in front of HAProxy",
            )


def leads_to_balancer(subject: Subject, pooler: PoolerIni) -> bool:
    """Does a database of the pooler lead to a port that HAProxy binds?"""
    return any(
        proxy_port == port
        for _, port in pooler.targets
        for proxy_port in bound_ports(subject)
    )


def bound_ports(subject: Subject) -> set[int]:
    """Ports on which the HAProxies listen."""
    ports = set()
    for config in subject.configs:
        for section in config.of("frontend", "listen"):
            for one in section.all("bind"):
                for place in one.words[1].split(",") if one.words[1:] else ():
                    port = place.rpartition(":")[2]
                    if port.isascii() and port.isdigit():
                        ports.add(int(port))
    return ports


def hops(subject: Subject) -> Iterator[tuple[PoolerIni, PoolerIni]]:
    """Pairs of poolers of which the first leads to the second, also by a balancer."""
    for outer in subject.poolers:
        ports = {port for _, port in outer.targets}
        through = set(ports)
        for proxy in subject.proxies:
            binds = proxy_ports(subject, proxy)
            if binds & ports:
                through |= {server.port for server in proxy.servers}
        for inner in subject.poolers:
            if (
                inner is not outer
                and inner.port in through
                and not looped(outer, inner)
            ):
                yield outer, inner


def proxy_ports(subject: Subject, proxy: Proxy) -> set[int]:
    """Ports that lead to a proxy: its own, or those of frontends that use it."""
    ports = set()
    for section in proxy.config.of("frontend", "listen"):
        uses = section is proxy.section or any(
            proxy.name in one.words[1:2]
            for key in ("default_backend", "use_backend")
            for one in section.all(key)
        )
        for one in section.all("bind") if uses else ():
            port = one.words[1].rpartition(":")[2] if one.words[1:] else ""
            if port.isascii() and port.isdigit():
                ports.add(int(port))
    return ports


def looped(outer: PoolerIni, inner: PoolerIni) -> bool:
    """Poolers of one tier listen on the same port and lead to the same place."""
    return outer.targets == inner.targets


@rule(
    "statements-lost",
    ERROR,
    "a hop in transaction mode must track prepared statements, and so must every such "
    "hop after it: otherwise names collide or vanish (42P05, 26000)",
    "`max_prepared_statements` above 0 at both",
)
def statements_lost(subject: Subject) -> Found:
    """A cascade in which one hop does not track prepared statements."""
    for outer, inner in hops(subject):
        for pooler in (outer, inner):
            settings = pooler.source.settings
            if settings.pool_mode != "session" and not settings.max_prepared_statements:
                yield (
                    item(pooler, "max_prepared_statements"),
                    f"max_prepared_statements 0 in the cascade {outer.path} -> "
                    f"{inner.path}",
                )


@rule(
    "inner-session-pool",
    WARNING,
    "the inner pooler multiplexes nothing then: once its pool is taken, further "
    "clients of the outer one hang until query_wait_timeout",
    "pool_mode transaction at the inner pooler, or pools as large as all outer ones",
)
def inner_session_pool(subject: Subject) -> Found:
    """The inner hop of a cascade pools sessions, with a smaller pool."""
    for outer, inner in hops(subject):
        there, here = inner.source.settings, outer.source.settings
        if there.pool_mode == "session" and here.pool_mode != "session":
            if there.default_pool_size < here.default_pool_size:
                yield (
                    item(inner, "pool_mode"),
                    f"session pools of {there.default_pool_size} behind pools of "
                    f"{here.default_pool_size}",
                )


@rule(
    "waits-add-up",
    NOTE,
    "once the outer pooler has lent a connection its own timer no longer runs: a "
    "client may wait for both",
    "make the sum of both query_wait_timeouts what a user should wait",
)
def waits_add_up(subject: Subject) -> Found:
    """Both hops of a cascade let clients wait."""
    for outer, inner in hops(subject):
        waits = [p.source.settings.query_wait_timeout for p in (outer, inner)]
        if all(waits):
            yield (
                item(outer, "query_wait_timeout"),
                f"query_wait_timeout {waits[0]:g} s here and {waits[1]:g} s in "
                f"{inner.path}",
            )


@rule(
    "health-login",
    WARNING,
    "health checks ask a database before its first client; who cannot log in learns "
    "nothing, not even whether it is the primary",
    "a user whose password itself stands in auth_file",
)
def health_login(subject: Subject) -> Found:
    """health_user cannot log in by itself."""
    for pooler in subject.poolers:
        user = pooler.source.settings.health_user
        if pooler.health_ports and user and (why := pooler.source.cannot_log_in(user)):
            yield item(pooler, "health_user", "pybouncer"), f"health_user: {why}"


@rule(
    "health-unasked",
    NOTE,
    "the pooler says whether it is paused, full or draining, and nobody listens",
    "`option httpchk` with `http-check send meth GET uri /ready` and `check port`",
)
def health_unasked(subject: Subject) -> Found:
    """health_listen is set, and HAProxy checks by other means."""
    for proxy, server, pooler in met(subject):
        if pooler.health_ports and proxy.check.kind != "http":
            yield (
                at(server),
                f"{proxy.name}/{server.name}: {pooler.path} has health_listen",
            )
