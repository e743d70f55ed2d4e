"""Rules about health checks: what they see, what they cannot see, whom they kill."""

from __future__ import annotations

from ha.cfg import ServerLine
from ha.lint import ERROR, NOTE, WARNING, Found, Place, rule
from ha.subject import FALL, INTER, RISE, Proxy, Subject, cuts

# A hung server should be found within this time.
SLOW = 5.0


def at(server: ServerLine) -> Place:
    """Where a server line stands."""
    return server.at.file, server.at.line


def check_place(proxy: Proxy) -> Place:
    """Where the check is configured."""
    directive = proxy.check.at
    return (directive.file, directive.line) if directive else proxy.place


@rule(
    "check-kills-full",
    ERROR,
    "a pooler at max_client_conn answers a login with FATAL, so pgsql-check marks it "
    "DOWN and every session is cut; they pile on the next pooler, which fills up too",
    "check with an SSLRequest (tcp-check) or the pooler's /ready, and keep server "
    "maxconn below max_client_conn",
)
def check_kills_full(subject: Subject) -> Found:
    """pgsql-check together with shutdown-sessions."""
    for proxy in subject.proxies:
        if proxy.check.kind == "pgsql" and proxy.cuts:
            yield (
                check_place(proxy),
                f"{proxy.name}: pgsql-check with on-marked-down shutdown-sessions",
            )


@rule(
    "check-kills-held",
    ERROR,
    "a check that runs a query waits behind PAUSE and behind a busy pool, times out, "
    "and HAProxy then cuts exactly the clients that were being held",
    "end the check before the query (an SSLRequest), or ask the pooler's /ready, which "
    "answers 404 while it holds clients",
)
def check_kills_held(subject: Subject) -> Found:
    """A query in the check, together with shutdown-sessions."""
    for proxy in subject.proxies:
        if proxy.check.kind == "query" and proxy.cuts:
            yield (
                check_place(proxy),
                f"{proxy.name}: the check runs a query, with shutdown-sessions",
            )


@rule(
    "check-kills-login",
    ERROR,
    "a login by the check takes a client slot and needs the database: a full or "
    "paused pooler, or one that refuses logins, is marked DOWN and its sessions cut",
    "add `tcp-check expect ! rstring C57P0 error-status L7OKC` before the last expect, "
    "or check with an SSLRequest",
)
def check_kills_login(subject: Subject) -> Found:
    """A login in the check without a soft state, together with shutdown-sessions."""
    for proxy in subject.proxies:
        if proxy.check.kind == "login" and proxy.cuts and not proxy.check.soft:
            yield check_place(proxy), f"{proxy.name}: the check logs in"


@rule(
    "no-soft-state",
    ERROR,
    "the pooler answers 404 while it is paused, full or draining; without "
    "disable-on-404 that is DOWN, and the clients it holds are cut",
    "add `http-check disable-on-404`",
)
def no_soft_state(subject: Subject) -> Found:
    """Our health endpoint, asked without disable-on-404."""
    for proxy in subject.proxies:
        check = proxy.check
        if check.kind != "http" or check.soft or not proxy.cuts:
            continue
        if any(subject.is_ours(proxy, server) for server in proxy.servers):
            yield check_place(proxy), f"{proxy.name}: {check.path} without a soft state"


@rule(
    "no-check",
    ERROR,
    "a server without a check gets clients for as long as the line stands, dead or not",
    "add `check` to the server line and a check to the proxy",
)
def no_check(subject: Subject) -> Found:
    """Neither check nor track."""
    for proxy, server in subject.pairs():
        if not server.has("check") and "track" not in server.values:
            yield at(server), f"{proxy.name}/{server.name}: no check"


@rule(
    "agent-alone",
    ERROR,
    "an agent that is gone changes nothing: a dead pooler keeps its last state",
    "add `check` beside `agent-check`",
)
def agent_alone(subject: Subject) -> Found:
    """An agent without a health check."""
    for proxy, server in subject.pairs():
        if server.has("agent-check") and not server.has("check"):
            yield at(server), f"{proxy.name}/{server.name}: agent-check without check"


@rule(
    "connect-check",
    WARNING,
    "the kernel completes the handshake for a process that is stopped or hung: a TCP "
    "connect never notices, and clients keep being sent there",
    "use an SSLRequest check (tcp-check), pgsql-check before PostgreSQL itself, or the "
    "pooler's /ready",
)
def connect_check(subject: Subject) -> Found:
    """`check` without anything that reads an answer."""
    for proxy in subject.proxies:
        kind = proxy.check.kind
        blind = kind == "none" or (kind == "other" and not proxy.check.expects)
        if blind and any(server.has("check") for server in proxy.servers):
            external = proxy.check.at and "external-check" in proxy.check.at.words
            if not external:
                yield check_place(proxy), f"{proxy.name}: only connects"


@rule(
    "role-without-pooler",
    ERROR,
    "Patroni's port tells the role of the node; a dead pooler beside a healthy primary "
    "stays UP and swallows every connection",
    "ask the pooler itself (/primary on its health port), or connect twice in one "
    "tcp-check: Patroni's port, then an SSLRequest to the pooler",
)
def role_without_pooler(subject: Subject) -> Found:
    """Patroni is asked, clients go to a pooler, and nobody asks the pooler."""
    for proxy in subject.proxies:
        if not subject.leads_to_pooler(proxy):
            continue
        for server in proxy.servers:
            if proxy.asks_patroni(server) and proxy.check.kind != "ssl":
                yield (
                    check_place(proxy),
                    f"{proxy.name}: the check asks Patroni only, not the pooler",
                )
                break


@rule(
    "redirect-is-success",
    WARNING,
    "without an expectation every 2xx and 3xx answer means UP",
    "add `http-check expect status 200`",
)
def redirect_is_success(subject: Subject) -> Found:
    """httpchk that takes any answer."""
    for proxy in subject.proxies:
        if proxy.check.kind == "http" and not proxy.check.expects:
            yield check_place(proxy), f"{proxy.name}: httpchk without http-check expect"


@rule(
    "no-linger",
    WARNING,
    "HAProxy resets the connection after the answer, and PostgreSQL logs `could not "
    "receive data from client` for every check",
    "write `tcp-check connect linger`",
)
def no_linger(subject: Subject) -> Found:
    """An in-band check that ends in a reset."""
    for proxy in subject.proxies:
        if proxy.check.kind not in ("ssl", "login", "query"):
            continue
        last = proxy.check.connects[-1] if proxy.check.connects else None
        if last is None:
            yield check_place(proxy), f"{proxy.name}: no `tcp-check connect linger`"
        elif "linger" not in last.words:
            yield (last.file, last.line), f"{proxy.name}: the check ends in a reset"


@rule(
    "pgsql-user",
    ERROR,
    "pgsql-check sends no database, so the name of the user is taken for one; without "
    "a user HAProxy refuses the line",
    "name a user for which there is a database of that name, or check with an "
    "SSLRequest",
)
def pgsql_user(subject: Subject) -> Found:
    """pgsql-check with a user that is no database of the pooler."""
    for proxy in subject.proxies:
        check = proxy.check
        if check.kind != "pgsql" or check.at is None:
            continue
        words = check.at.words
        user = words[3] if len(words) > 3 and words[2] == "user" else ""
        if not user:
            yield check_place(proxy), f"{proxy.name}: pgsql-check without a user"
            continue
        for server in proxy.servers:
            for pooler in subject.behind(server):
                listed = pooler.source.of("databases")
                if user not in listed and "*" not in listed and user != "pgbouncer":
                    yield (
                        check_place(proxy),
                        f"{proxy.name}: {pooler.path} has no database {user!r}",
                    )


@rule(
    "keeps-dead-sessions",
    WARNING,
    "sessions of a server that hangs, or of a primary that is one no longer, stay for "
    "the whole idle timer",
    "add `on-marked-down shutdown-sessions`, together with a check that knows a soft "
    "state",
)
def keeps_dead_sessions(subject: Subject) -> Found:
    """No shutdown-sessions."""
    for proxy in subject.proxies:
        for server in proxy.servers:
            if server.has("check") and not cuts(server):
                yield (
                    at(server),
                    f"{proxy.name}/{server.name}: no on-marked-down shutdown-sessions",
                )
                break


@rule(
    "both-up",
    WARNING,
    "during a switchover the new primary is UP before the old one is DOWN: for a "
    "moment both get writes",
    "make fall x fastinter <= (rise - 1) x fastinter + inter: `fall 2 rise 2`",
)
def both_up(subject: Subject) -> Found:
    """On a write listen the old server leaves after the new one is in."""
    for proxy in subject.proxies:
        if proxy.role != "write":
            continue
        for server in proxy.servers:
            inter = server.time("inter", INTER)
            fast = server.time("fastinter", inter)
            leaves = server.number("fall", FALL) * fast
            enters = (server.number("rise", RISE) - 1) * fast + inter
            if leaves > enters + 1e-9:
                yield (
                    at(server),
                    f"{proxy.name}/{server.name}: leaves after {leaves:g} s, the next "
                    f"enters after {enters:g} s",
                )
                break


@rule(
    "slow-detection",
    WARNING,
    "until a hung server is found, its clients hang and new ones are sent to it",
    "`inter 1s fastinter 300ms fall 2` and `timeout check 500ms` find it in 2.3 s",
)
def slow_detection(subject: Subject) -> Found:
    """The formula for a hung process gives more than 5 s."""
    for proxy in subject.proxies:
        timeout = proxy.section.timeout("check")
        for server in proxy.servers:
            if not server.has("check"):
                continue
            inter = server.time("inter", INTER)
            fast = server.time("fastinter", inter)
            fall = server.number("fall", FALL)
            patience = timeout[0] if timeout else inter
            total = inter + fall * patience + (fall - 1) * fast
            if total > SLOW:
                yield (
                    at(server),
                    f"{proxy.name}/{server.name}: a hung process is found after up to "
                    f"{total:.1f} s",
                )
                break


@rule(
    "weight-one",
    WARNING,
    "an agent's percentage is of the configured weight and rounds down: 50% of 1 is 0, "
    "and a server with weight 0 gets no clients",
    "add `weight 100` to the server lines",
)
def weight_one(subject: Subject) -> Found:
    """Percentages of weight 1."""
    for proxy, server in subject.pairs():
        graded = server.has("agent-check") or "slowstart" in server.values
        if graded and server.number("weight", 1) < 20:
            yield (
                at(server),
                f"{proxy.name}/{server.name}: weight {server.number('weight', 1)} with "
                + ("agent-check" if server.has("agent-check") else "slowstart"),
            )


@rule(
    "read-empty",
    WARNING,
    "with two nodes there is no standby during a switchover, and readers are refused",
    "`use_backend ... if { nbsrv(NAME) lt 1 }` with a backend that checks /primary",
)
def read_empty(subject: Subject) -> Found:
    """A backend for reads without anything to fall back on."""
    for proxy in subject.proxies:
        if proxy.role != "read" or proxy.check.path == "/read-only":
            continue
        used = f"nbsrv({proxy.name})"
        watched = any(
            used in " ".join(one.words)
            for config in subject.configs
            for section in config.sections
            for one in section.directives
        )
        if not watched and not any(one.has("backup") for one in proxy.servers):
            yield proxy.place, f"{proxy.name}: nothing is used when no standby is left"


@rule(
    "one-backup",
    WARNING,
    "without allbackups the first backup server takes all the load of the others",
    "add `option allbackups`",
)
def one_backup(subject: Subject) -> Found:
    """Several backup servers, of which one would be used."""
    for proxy in subject.proxies:
        count = sum(server.has("backup") for server in proxy.servers)
        if count > 1 and proxy.section.option("allbackups") is None:
            yield proxy.place, f"{proxy.name}: {count} backup servers, one is used"


@rule(
    "static-balance",
    NOTE,
    "sessions live long: counting connections in turn leaves a server that came back "
    "empty until clients reconnect",
    "`balance leastconn`",
)
def static_balance(subject: Subject) -> Found:
    """Several servers, balanced by turn or by address."""
    for proxy in subject.proxies:
        found = proxy.section.find("balance")
        word = found.words[1] if found and len(found.words) > 1 else "roundrobin"
        active = [server for server in proxy.servers if not server.has("backup")]
        # The role leaves one server anyway.
        if len(active) > 1 and proxy.role != "write":
            if word not in ("leastconn", "first"):
                place = (found.file, found.line) if found else proxy.place
                yield place, f"{proxy.name}: balance {word}"
