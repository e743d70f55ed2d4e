"""What loads but cannot be meant: sizes, time-outs, modes and names that contradict.

The one hard idea: a warning must be worth reading. So each rule here is about a
setting that has no effect, or an effect that nobody wants, and none is about taste.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

from bouncer.check.findings import ERROR, WARNING, Finding, at
from bouncer.check.reading import Reading, source_of
from bouncer.check.spelling import NOT_REPLACED, in_quotes, odd_words, placeholder
from bouncer.check.suggest import COMMENT_BEHIND, word_of
from bouncer.config.entries import read_database
from bouncer.config.ini import Refused
from bouncer.config.masking import without_secrets
from bouncer.config.params import PARAMS, ROWS, Kind
from bouncer.config.queries import (
    Unfinished,
    doubts,
    runs_alone,
    statements,
    why_not,
)
from bouncer.config.settings import Database, UserOptions

PORTS: Final = range(1, 65536)
PEER_IDS: Final = range(1, 65536)
FACILITIES: Final = (
    "auth",
    "authpriv",
    "daemon",
    "user",
    *(f"local{number}" for number in range(8)),
)

# Settings that are lists, and what separates their words.
LISTS: Final = (
    ("admin_users", ", \t"),
    ("stats_users", ", \t"),
    ("ignore_startup_parameters", ", \t"),
    ("track_extra_parameters", ","),
    ("listen_addr", ","),
    ("health_listen", ","),
    ("agent_listen", ","),
    ("health_databases", ", \t"),
    ("haproxy_sockets", ","),
)

Rule = Callable[[Reading], Iterator[Finding]]


def about(reading: Reading, name: str, text: str, hint: str = "") -> Finding:
    """Return a warning about the setting *name*."""
    file, line = source_of(reading.config, name)
    return Finding(WARNING, text, file, line, name, hint)


def about_line(source: str, name: str, text: str, hint: str = "") -> Finding:
    """Return a warning about the line *name* of another section."""
    return Finding(WARNING, text, *at(source), name, hint)


def advise(reading: Reading) -> list[Finding]:
    """Return what every rule has to say."""
    return [finding for rule in RULES for finding in rule(reading)]


def entries(reading: Reading) -> list[Database | UserOptions]:
    """Return the lines of `[databases]` and `[users]`."""
    config = reading.config
    return [*config.databases.values(), *config.users.values()]


def is_set(reading: Reading, name: str) -> bool:
    """Whether a file sets *name*."""
    return name in reading.config.sources


def is_changed(reading: Reading, name: str) -> bool:
    """Whether *name* differs from its default: generated files spell defaults out."""
    value: object = getattr(reading.config.settings, name)
    return value != PARAMS[name].initial()


# Values


def texts(reading: Reading) -> Iterator[Finding]:
    """Texts that carry what other formats would take off."""
    for param in ROWS:
        if param.kind is not Kind.STRING:
            continue
        text = reading.texts.get(param.name, "")
        if "query" in param.name:
            continue
        if in_quotes(text):
            yield about(
                reading, param.name, "the quotes are part of the value", "no quotes"
            )
        elif found := placeholder(text):
            yield about(reading, param.name, f'"{found}" stands there', NOT_REPLACED)
        elif COMMENT_BEHIND.match(text):
            yield about(
                reading,
                param.name,
                "the comment is part of the value",
                "a comment needs a line of its own",
            )


def lists(reading: Reading) -> Iterator[Finding]:
    """Lists with the wrong sign between their words, which are one word then."""
    for name, separators in LISTS:
        text = reading.texts.get(name, "")
        if in_quotes(text) or COMMENT_BEHIND.match(text) or placeholder(text):
            continue
        for word, hint in odd_words(text, separators):
            yield about(reading, name, f'"{word}" counts as one name', hint)


def numbers(reading: Reading) -> Iterator[Finding]:
    """Numbers that are out of any range."""
    s = reading.config.settings
    if s.listen_port not in PORTS and s.listen_addr:
        yield about(reading, "listen_port", f"{s.listen_port} is not a port")
    if s.unix_socket_mode & ~0o777 or s.unix_socket_mode < 0:
        mode = f"{s.unix_socket_mode} is mode {s.unix_socket_mode & 0xFFFFFFFF:04o}"
        yield about(reading, "unix_socket_mode", mode, "write it with a leading 0")
    if s.pkt_buf < 512:
        yield about(reading, "pkt_buf", f"{s.pkt_buf} bytes are too few", "4096")
    if s.max_packet_size < 65536:
        text = f"messages over {s.max_packet_size} bytes will be refused"
        yield about(reading, "max_packet_size", text)
    if s.stats_period == 0:
        yield about(reading, "stats_period", "0: averages are made once only")
    if s.max_client_conn <= 0:
        text = f"{s.max_client_conn}: nobody is admitted"
        yield about(reading, "max_client_conn", text)
    if s.default_pool_size < 0:
        text = "a negative size is half no limit, half full"
        yield about(reading, "default_pool_size", text, "0 is no limit")
    if s.max_user_client_connections < 0:
        yield about(
            reading,
            "max_user_client_connections",
            "a negative number locks everybody out",
            "0 is no limit",
        )
    if s.syslog_facility not in FACILITIES:
        text = f'"{s.syslog_facility}" is not known, daemon is used'
        hint = word_of(s.syslog_facility, FACILITIES)
        yield about(reading, "syslog_facility", text, hint)


# Time-outs

# The first of two is longer than the second (both not 0), and why that is no use.
OVERTAKEN: Final = (
    ("query_wait_timeout", "query_timeout", "a waiting query ends by query_timeout"),
    ("query_timeout", "transaction_timeout", "transaction_timeout ends it before"),
    (
        "idle_transaction_timeout",
        "transaction_timeout",
        "transaction_timeout ends it before",
    ),
    ("query_wait_notify", "query_wait_timeout", "the client is disconnected before"),
    ("server_idle_timeout", "server_lifetime", "no server gets so old"),
    ("server_check_delay", "server_idle_timeout", "no server is idle for so long"),
    (
        "server_connect_timeout",
        "client_login_timeout",
        "clients give up before a server that is slow to answer counts as gone",
    ),
    (
        "server_login_retry",
        "query_wait_timeout",
        "waiting clients are disconnected before the next attempt",
    ),
)


def timeouts(reading: Reading) -> Iterator[Finding]:
    """Time-outs that another one overtakes."""
    s = reading.config.settings
    for slow, fast, why in OVERTAKEN:
        late, early = getattr(s, slow), getattr(s, fast)
        if 0 < early < late and (is_set(reading, slow) or is_set(reading, fast)):
            named = slow if is_set(reading, slow) else fast
            text = f"{slow} = {late:g} is longer than {fast} = {early:g}: {why}"
            yield about(reading, named, text)
    if s.query_wait_timeout == 0:
        text = "0: clients of a database that is away wait for ever"
        yield about(reading, "query_wait_timeout", text)
    if s.server_lifetime == 0:
        yield about(
            reading, "server_lifetime", "0: every server is closed after its first use"
        )


def reserve(reading: Reading) -> Iterator[Finding]:
    """A reserve that is never used."""
    s = reading.config.settings
    sizes = [("reserve_pool_size", s.reserve_pool_size, "")]
    for entry in entries(reading):
        sizes.append((entry.name, entry.reserve_pool_size or 0, entry.source))
    for name, size, source in sizes:
        if size <= 0:
            continue
        if s.reserve_pool_timeout == 0:
            text = "the reserve is off, because reserve_pool_timeout is 0"
        elif 0 < s.query_wait_timeout <= s.reserve_pool_timeout:
            text = (
                f"the reserve is never used: query_wait_timeout "
                f"({s.query_wait_timeout:g}) comes before reserve_pool_timeout "
                f"({s.reserve_pool_timeout:g})"
            )
        else:
            continue
        if source:
            yield about_line(source, name, text)
        else:
            yield about(reading, name, text)


# Sizes


def sizes(reading: Reading) -> Iterator[Finding]:
    """Pools that cannot be as large, or as warm, as they say."""
    config, s = reading.config, reading.config.settings
    if 0 < s.max_db_connections < s.default_pool_size:
        text = (
            f"max_db_connections = {s.max_db_connections} keeps pools below "
            f"default_pool_size = {s.default_pool_size}"
        )
        yield about(reading, "max_db_connections", text)
    for name in ("max_db_client_connections", "max_user_client_connections"):
        limit = getattr(s, name)
        if limit > s.max_client_conn > 0:
            text = f"never reached with max_client_conn = {s.max_client_conn}"
            yield about(reading, name, text)
    for database in config.databases.values():
        yield from database_sizes(database, s)
    if 0 < s.default_pool_size < s.min_pool_size:
        text = f"more than default_pool_size = {s.default_pool_size}"
        yield about(reading, "min_pool_size", text)
    if s.min_pool_size > 0 and s.default_pool_size == 0:
        text = "no effect while default_pool_size is 0 (no limit)"
        yield about(reading, "min_pool_size", text)


def database_sizes(database: Database, settings: Any) -> Iterator[Finding]:
    """The same for one database."""
    size, source = database.pool_size, database.source
    limit = database.max_db_connections or settings.max_db_connections
    if size and 0 < limit < size:
        text = f"pool_size = {size} is more than max_db_connections = {limit}"
        yield about_line(source, database.name, text)
    warm = database.min_pool_size or 0
    room = settings.default_pool_size if size is None else size
    if warm > room > 0:
        text = f"min_pool_size = {warm} is more than the pool's size, {room}"
        yield about_line(source, database.name, text)


# Modes


def modes(reading: Reading) -> Iterator[Finding]:
    """Settings without effect in the pool modes that are used."""
    config, s = reading.config, reading.config.settings
    own = {entry.pool_mode for entry in entries(reading) if entry.pool_mode}
    used = {s.pool_mode, *own}
    if config.autodb is not None and "pool_mode=" in config.autodb.text:
        return
    if "session" not in used and not s.server_reset_query_always:
        if is_changed(reading, "server_reset_query") and s.server_reset_query:
            yield about(
                reading,
                "server_reset_query",
                "no effect: no pool is in session mode",
                "server_reset_query_always = 1 uses it in all modes",
            )
    if used == {"session"}:
        name = "max_prepared_statements"
        if is_changed(reading, name) and s.max_prepared_statements:
            yield about(
                reading, "max_prepared_statements", "no effect in session pooling"
            )
        if s.server_reset_query_always:
            yield about(
                reading,
                "server_reset_query_always",
                "no effect: session pooling always resets",
            )


def together(reading: Reading) -> Iterator[Finding]:
    """Queries of several statements that PgBouncer sends as one."""
    for name in ("server_reset_query", "server_check_query"):
        text = getattr(reading.config.settings, name)
        if why_not(name, text):
            continue
        try:
            parts = statements(text)
        except Unfinished:
            continue
        alone = [one for one in parts if runs_alone(one)]
        if len(parts) > 1 and alone:
            words = " ".join(alone[0].words).upper()
            said = f"{len(parts)} statements, sent one by one; PgBouncer sends them as "
            said += f"one query, in which PostgreSQL refuses {words}"
            yield about(reading, name, said)


def own_queries(reading: Reading) -> Iterator[Finding]:
    """Queries of our own that PostgreSQL will refuse."""
    for doubt in doubts(reading.config):
        hint = "no quotes" if "quotes" in doubt.text else ""
        if doubt.database:
            config = reading.config
            entry = config.databases.get(doubt.database) or config.autodb
            assert entry is not None
            text = f"{doubt.setting}: {doubt.text}"
            yield about_line(entry.source, doubt.database, text, hint)
        else:
            yield about(reading, doubt.setting, doubt.text, hint)


# Names


def names(reading: Reading) -> Iterator[Finding]:
    """Names of databases and peers that lead nowhere."""
    config, s = reading.config, reading.config.settings
    known = config.databases.keys()
    if s.auth_dbname and s.auth_dbname not in known and config.autodb is None:
        yield about(reading, "auth_dbname", f'there is no database "{s.auth_dbname}"')
    failed = any(found.level == ERROR for found in reading.findings)
    if not config.databases and config.autodb is None and not failed:
        file = reading.config.settings.conffile or ""
        yield Finding(WARNING, "there are no databases", file)
    for database in all_databases(reading):
        yield from addresses(database)
        dbname = database.auth_dbname
        if dbname == "pgbouncer" or (
            dbname and dbname not in known and config.autodb is None
        ):
            text = f'auth_dbname: there is no database "{dbname}"'
            yield about_line(database.source, database.name, text)


def all_databases(reading: Reading) -> Iterator[Database]:
    """Yield the databases, and what `*` makes of a name, if it can be read."""
    config = reading.config
    yield from config.databases.values()
    star = config.autodb
    if star is not None:
        try:
            yield read_database("*", star.text, star.source, None, lambda text: None)
        except Refused:
            pass  # that is told with its line


def addresses(database: Database) -> Iterator[Finding]:
    """What stands in a connection string and cannot lead to a server."""
    name, source, host = database.name, database.source, database.host or ""
    if database.port not in PORTS:
        yield about_line(source, name, f"{database.port} is not a port")
    if "\t" in host or "\t" in database.dbname:
        text = "the tab is part of the value"
        yield about_line(source, name, text, "only blanks separate")
    elif any(mark in host for mark in ";#"):
        shown = without_secrets(host, bare=True)
        yield about_line(
            source, name, f'"{shown}" is not a host', "only blanks separate"
        )
    parts = host.split(",")
    if len(parts) > 1 and not all(parts):
        text = "an empty host in the list is the Unix socket"
        yield about_line(source, name, text)
    if any(part != part.strip() for part in parts):
        yield about_line(source, name, "blanks around a comma are part of the host")
    if database.password is not None and database.user is None:
        text = "password= has no effect without user="
        yield about_line(source, name, text)


def peers(reading: Reading) -> Iterator[Finding]:
    """Cancel requests that will not find their way."""
    config, s = reading.config, reading.config.settings
    if s.peer_id and s.peer_id not in PEER_IDS:
        yield about(reading, "peer_id", f"{s.peer_id} is not within 1 to 65535")
    if config.peers and not s.peer_id:
        source = next(iter(config.peers.values())).source
        text = "there are peers, but this process has no peer_id"
        yield about_line(source, "peers", text, "set peer_id")
    for peer in config.peers.values():
        if peer.port not in PORTS:
            yield about_line(peer.source, str(peer.id), f"{peer.port} is not a port")
    if s.peer_id and not config.peers:
        yield about(reading, "peer_id", "there are no [peers] to pass cancels on to")
    if s.so_reuseport and not s.peer_id:
        text = "with several processes cancel requests reach the wrong one"
        yield about(reading, "so_reuseport", text, "set peer_id and [peers]")


RULES: Final[tuple[Rule, ...]] = (
    texts,
    lists,
    numbers,
    timeouts,
    reserve,
    sizes,
    modes,
    own_queries,
    together,
    names,
    peers,
)
