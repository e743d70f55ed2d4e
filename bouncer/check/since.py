"""What has changed since the PgBouncer that a configuration was written for.

The one hard idea: a default that has changed matters only to who relies on it, and
there only where it is used. So each change says for which files it matters, and
docs/migration.md has the same table; a test holds both together.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeAlias

from bouncer.auth.tls import LIBRARY_CIPHERS
from bouncer.check.advice import is_set
from bouncer.check.findings import ERROR, WARNING, Finding, at
from bouncer.check.reading import Reading, source_of
from bouncer.config.params import PARAMS
from bouncer.config.settings import Database

Version: TypeAlias = tuple[int, int]
# The lines of which there is something to say: source and name; "" is the whole file.
Places: TypeAlias = Iterator[tuple[str, str]]

OLDEST, NEWEST = 12, 26
VERSION: Final = re.compile(r"1\.([0-9]{1,3})(?:\.([0-9]{1,3}))?")
# Since then servers are asked for TLS where a file says nothing of it.
TLS_BY_DEFAULT: Final = (20, 0)
LOOPBACK: Final = ("127.", "::1", "localhost")
# Followed before 1.20, since then, and since 1.26.
LONG_TRACKED: Final = frozenset(
    (
        "client_encoding",
        "datestyle",
        "timezone",
        "standard_conforming_strings",
        "application_name",
    )
)
NEWLY_TRACKED: Final = frozenset(
    (
        "intervalstyle",
        "default_transaction_read_only",
        "search_path",
        "scram_iterations",
        "session_authorization",
    )
)


class Change(NamedTuple):
    """What came with the version *since*, and which lines it matters for.

    *keep* is what has it as it was.
    """

    since: Version
    name: str
    before: str
    now: str
    matters: Callable[[Reading], Places]
    keep: str = ""


class UnknownVersion(ValueError):
    """The text names no version that is known here."""


def version(text: str) -> Version:
    """Return the version in `1.N` or `1.N.P`; raises `UnknownVersion`."""
    found = VERSION.fullmatch(text)
    if found is None or not OLDEST <= int(found[1]) <= NEWEST:
        raise UnknownVersion(f"{text} is no version from 1.{OLDEST} to 1.{NEWEST}")
    return int(found[1]), int(found[2] or 0)


def shown(when: Version) -> str:
    """Return a version as people write it."""
    return f"1.{when[0]}.{when[1]}" if when[1] else f"1.{when[0]}"


def changed(reading: Reading, since: Version) -> Iterator[Finding]:
    """Yield what matters for this file to who comes from the version *since*."""
    main = reading.config.settings.conffile or ""
    for change in CHANGES:
        if change.since <= since or is_hidden(reading, change, since):
            continue
        text = f"before {shown(change.since)}: {change.before}; now: {change.now}"
        hint = f"{change.keep} keeps it" if change.keep else ""
        told = set()
        for source, name in change.matters(reading):
            file, line = at(source) if source else (main, 0)
            name = name or change.name
            if (file, line, name) not in told:
                told.add((file, line, name))
                said = text if name == change.name else f"{change.name}: {text}"
                yield Finding(WARNING, said, file, line, name, hint)


def is_hidden(reading: Reading, change: Change, since: Version) -> bool:
    """Whether TLS to servers, which *change* is about, was off by default then."""
    is_about_it = change.name in ("server_tls_protocols", "server_tls_ciphers")
    return (
        is_about_it
        and since < TLS_BY_DEFAULT
        and not is_set(reading, "server_tls_sslmode")
    )


# Where something matters


def place_of(reading: Reading, name: str) -> tuple[str, str]:
    """Return where *name* is set, or the whole file."""
    file, line = source_of(reading.config, name)
    return f"{file}:{line}" if file else "", name


def everywhere(reading: Reading) -> Places:
    """For every file."""
    yield "", ""


def unseen(reading: Reading) -> Places:
    """A file does not show whom it matters to."""
    yield from ()


def left_out(*names: str) -> Callable[[Reading], Places]:
    """For files that set none of *names*."""

    def matters(reading: Reading) -> Places:
        if not any(is_set(reading, name) for name in names):
            yield "", names[0]

    return matters


def databases(reading: Reading) -> Iterator[Database]:
    """Yield the databases with a line of their own."""
    yield from reading.config.databases.values()


def is_remote(host: str | None) -> bool:
    """Whether *host* is reached by TCP."""
    return any(
        part and not part.startswith(("/", "@")) for part in (host or "").split(",")
    )


def has_tcp(reading: Reading) -> bool:
    """Whether a server is reached by TCP."""
    star = reading.config.autodb
    return any(is_remote(one.host) for one in databases(reading)) or (
        star is not None and re.search(r"\bhost *= *'?[^/@' ]", star.text) is not None
    )


def shares_servers(reading: Reading) -> bool:
    """Whether a pool is in transaction or statement mode."""
    config = reading.config
    modes = [one.pool_mode for one in databases(reading)]
    modes += [one.pool_mode for one in config.users.values()]
    star = config.autodb.text if config.autodb else ""
    return (
        config.settings.pool_mode != "session"
        or any(mode not in (None, "session") for mode in modes)
        or re.search(r"\bpool_mode *= *'?[ts]\w*(?<!session)\b", star) is not None
    )


def on_side(side: str, kind: str) -> Callable[[Reading], Places]:
    """For files that leave `{side}_tls_{kind}` to its default and use TLS there.

    Names of lists of ciphers that have changed their meaning count as left out.
    """
    name = f"{side}_tls_{kind}"

    def matters(reading: Reading) -> Places:
        settings = reading.config.settings
        off = getattr(settings, f"{side}_tls_sslmode") == "disable"
        if off or (side == "server" and not has_tcp(reading)):
            return
        named = getattr(settings, name).lower() in LIBRARY_CIPHERS
        if not is_set(reading, name) or (kind == "ciphers" and named):
            yield place_of(reading, name)

    return matters


def tls_to_servers(reading: Reading) -> Places:
    """For files whose servers are reached by TCP, without a word about TLS."""
    if has_tcp(reading):
        yield from left_out("server_tls_sslmode")(reading)


def mistakes(reading: Reading) -> Places:
    """For files with mistakes."""
    if any(found.level == ERROR for found in reading.findings):
        yield "", ""


def user_file(reading: Reading) -> Places:
    """For files with an auth_file."""
    if reading.userlist is not None:
        yield place_of(reading, "auth_file")


def other_addresses(reading: Reading) -> Places:
    """For files that listen on addresses which a machine may not have yet."""
    parts = [one.strip() for one in reading.config.settings.listen_addr.split(",")]
    if any(one and one != "*" and not one.startswith(LOOPBACK) for one in parts):
        yield place_of(reading, "listen_addr")


def ignored(reading: Reading) -> set[str]:
    """Return the names in ignore_startup_parameters."""
    text = reading.config.settings.ignore_startup_parameters
    return set(re.split(r"[, \t]+", text)) - {""}


def ignores_options(reading: Reading) -> Places:
    """For files that ignore `options`."""
    if "options" in ignored(reading):
        yield place_of(reading, "ignore_startup_parameters")


def ignores_tracked(reading: Reading) -> Places:
    """For files that ignore what was tracked all the same."""
    tracked = LONG_TRACKED | {"intervalstyle"}
    if any(name.lower() in tracked for name in ignored(reading)):
        yield place_of(reading, "ignore_startup_parameters")


def shared_and(*names: str) -> Callable[[Reading], Places]:
    """For files with shared servers that set none of *names*."""

    def matters(reading: Reading) -> Places:
        if shares_servers(reading):
            yield from left_out(*names)(reading)

    return matters


def tracks_known(reading: Reading) -> Places:
    """For files that name what is tracked by itself now."""
    text = reading.config.settings.track_extra_parameters.lower()
    if {name.strip() for name in text.split(",")} & NEWLY_TRACKED:
        yield place_of(reading, "track_extra_parameters")


def warm_and_forced(reading: Reading) -> Places:
    """For databases with a forced user whose pool is kept warm."""
    default = reading.config.settings.min_pool_size
    for one in databases(reading):
        size = default if one.min_pool_size is None else one.min_pool_size
        if one.user is not None and size > 0:
            yield one.source, one.name


def has_peers(reading: Reading) -> Places:
    """For files with peers."""
    for peer in reading.config.peers.values():
        yield peer.source, str(peer.id)
        return


def size_of_none(reading: Reading) -> Places:
    """For sizes of 0."""
    if reading.config.settings.default_pool_size == 0:
        yield place_of(reading, "default_pool_size")
    for one in databases(reading):
        if one.pool_size == 0:
            yield one.source, one.name


def default_lookup(reading: Reading) -> Places:
    """For files that look users up with the query that nobody has written."""
    config = reading.config
    if is_set(reading, "auth_query"):
        return
    if config.settings.auth_user:
        yield "", ""
        return
    for one in databases(reading):
        if one.auth_user and not one.auth_query:
            yield one.source, one.name


def waits_long(reading: Reading) -> Places:
    """For files whose clients may wait for longer than a notice takes."""
    limit = reading.config.settings.query_wait_timeout
    if not limit or limit > float(PARAMS["query_wait_notify"].default or 0):
        yield from left_out("query_wait_notify")(reading)


def query_limits(reading: Reading) -> Places:
    """For limits of queries where nothing limits idle transactions."""
    settings = reading.config.settings
    if settings.query_timeout and not settings.idle_transaction_timeout:
        yield place_of(reading, "query_timeout")
    for one in reading.config.users.values():
        if one.query_timeout and not one.idle_transaction_timeout:
            yield one.source, one.name


CHANGES: Final = (
    Change(
        (13, 0),
        "client_tls_protocols",
        "TLS 1.0 and 1.1 as well",
        "TLS 1.2 and 1.3 only",
        on_side("client", "protocols"),
        "client_tls_protocols = all",
    ),
    Change(
        (13, 0),
        "server_tls_protocols",
        "TLS 1.0 and 1.1 as well",
        "TLS 1.2 and 1.3 only",
        on_side("server", "protocols"),
        "server_tls_protocols = all",
    ),
    Change(
        (15, 0),
        "login errors",
        "clients read why, and whether the user exists",
        "clients read that the login failed, the log has the reason",
        unseen,
    ),
    Change(
        (16, 0),
        "mistakes",
        "some were logged, and the start went on",
        "each ends the start",
        mistakes,
    ),
    Change(
        (17, 0),
        "auth_file",
        "read again when it changed",
        "read again at RELOAD only",
        user_file,
    ),
    Change(
        (19, 0),
        "listen_addr",
        "a start went on without any of its addresses",
        "a start fails if none can be had",
        other_addresses,
    ),
    Change(
        (19, 0),
        "cancel_wait_timeout",
        "there was none",
        "cancel requests that find no server are given up after 10 s",
        unseen,
    ),
    Change(
        (20, 0),
        "server_tls_sslmode",
        "disable",
        "prefer: TLS with every server that offers it, which costs CPU",
        tls_to_servers,
        "server_tls_sslmode = disable",
    ),
    Change(
        (20, 0),
        "options in startup packets",
        "refused, or dropped if ignore_startup_parameters had the word",
        "taken apart: tracked parameters are set, the word drops only the others",
        ignores_options,
    ),
    Change(
        (21, 0),
        "client_tls_ciphers",
        "fast",
        "default: what the TLS library allows; fast, secure, normal mean the same",
        on_side("client", "ciphers"),
    ),
    Change(
        (21, 0),
        "server_tls_ciphers",
        "fast",
        "default: what the TLS library allows; fast, secure, normal mean the same",
        on_side("server", "ciphers"),
    ),
    Change(
        (21, 0),
        "min_pool_size",
        "kept while clients were there",
        "kept for a forced user also before the first client",
        warm_and_forced,
    ),
    Change(
        (21, 0),
        "peers",
        "cancel keys of an older form",
        "peers of both forms do not understand each other",
        has_peers,
    ),
    Change(
        (23, 0),
        "SIGTERM",
        "ended the process at once",
        "waits until all clients have left; SIGQUIT, or a second one, ends it at once",
        everywhere,
    ),
    Change(
        (24, 0),
        "max_prepared_statements",
        "0",
        "200: named prepared statements work in transaction mode, at some memory",
        shared_and("max_prepared_statements"),
        "max_prepared_statements = 0",
    ),
    Change(
        (24, 0),
        "default_pool_size",
        "with 0 clients waited, and hardly anybody got a server",
        "0 is no limit",
        size_of_none,
    ),
    Change(
        (24, 1),
        "auth_query",
        "pg_shadow, whatever VALID UNTIL said",
        "pg_authid: passwords that have expired are refused",
        default_lookup,
    ),
    Change(
        (25, 0),
        "server_check_query",
        "select 1",
        "<empty>: an empty query, which a proxy before the server may not know",
        left_out("server_check_query"),
        "server_check_query = select 1",
    ),
    Change(
        (25, 0),
        "query_wait_notify",
        "there was none",
        "5: who waits so long for a server is sent a NOTICE",
        waits_long,
        "query_wait_notify = 0",
    ),
    Change(
        (26, 0),
        "tracked parameters",
        "IntervalStyle by default, the others leaked to the next client",
        "search_path (PostgreSQL 18), default_transaction_read_only, "
        "session_authorization, scram_iterations follow their client",
        shared_and("track_extra_parameters"),
    ),
    Change(
        (26, 0),
        "track_extra_parameters",
        "IntervalStyle",
        "empty: ten parameters are tracked without being named",
        tracks_known,
    ),
    Change(
        (26, 0),
        "query_timeout",
        "ended clients that idled in a transaction, too",
        "counts while a query runs; idle_transaction_timeout is for the rest",
        query_limits,
    ),
    Change(
        (26, 0),
        "what clients are told",
        "nothing of PgBouncer",
        "pgbouncer.version, .pool_mode, .max_prepared_statements at login",
        unseen,
    ),
    Change(
        (26, 0),
        "log lines",
        "evicted; stats: without logins",
        "evicted for max_db_connections and the like; client logins/s in stats:",
        unseen,
    ),
    Change(
        (26, 1),
        "ignore_startup_parameters",
        "names that are tracked were set all the same",
        "names that it has are dropped, tracked or not",
        ignores_tracked,
    ),
)
