"""One line each of `[databases]`, `[users]` and `[peers]`.

The one hard idea: numbers in here are read leniently, and which of them mean "not
set" depends on the key. That is settled here: what is not set is None afterwards,
and everything else counts as it stands.
"""

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias

from bouncer.config.connstr import BadConnstr, pairs
from bouncer.config.ini import Refused
from bouncer.config.params import LOAD_BALANCE_HOSTS, POOL_MODES
from bouncer.config.settings import Database, Peer, UserOptions
from bouncer.config.values import lenient_int
from bouncer.errors import cut

# In bytes. PostgreSQL cuts identifiers there.
LONGEST_DATABASE_NAME: Final = 63
LONGEST_USER_NAME: Final = 127
LARGEST_PEER_ID: Final = 65535

RESERVED: Final = "pgbouncer"
PEER_ID: Final = re.compile(r"[ \t-\r]*\+?0*([0-9]{1,5})")

Warn: TypeAlias = Callable[[str], None]
Readers: TypeAlias = dict[str, Callable[[str], Any]]


def size(text: str) -> int | None:
    """Read a pool size: a negative one is not set."""
    number = lenient_int(text)
    return number if number >= 0 else None


def limit(text: str) -> int | None:
    """Read a limit: 0 or less is not set."""
    number = lenient_int(text)
    return number if number > 0 else None


def duration(text: str) -> float | None:
    """Read whole seconds: 0 or less is not set.

    PgBouncer turns a negative number into an enormous time.
    """
    number = lenient_int(text)
    return float(number) if number > 0 else None


def wait(text: str) -> float:
    """Read a query_wait_timeout: it is set once it is there, and 0 means never.

    Upstream turns a negative number into an enormous time, which is never, too.
    """
    return float(max(lenient_int(text), 0))


def port(text: str) -> int:
    """Read a port. Only 0 is refused; what is out of range fails when it is used."""
    number = lenient_int(text)
    if number == 0:
        raise Refused(f"invalid port: {text}")
    return number


def pool_mode(text: str) -> str:
    """Read a pool mode, in any case."""
    if text.lower() not in POOL_MODES:
        raise Refused(f"invalid pool mode: {text}")
    return text.lower()


def load_balance_hosts(text: str) -> str:
    """Read a way to choose among hosts, in any case."""
    if text.lower() not in LOAD_BALANCE_HOSTS:
        raise Refused(f"invalid load_balance_hosts: {text}")
    return text.lower()


DATABASE_KEYS: Final[Readers] = {
    "dbname": str,
    "host": str,
    "port": port,
    "user": str,
    "password": str,
    "auth_user": str,
    "auth_dbname": str,
    "auth_query": str,
    "client_encoding": str,
    "datestyle": str,
    "timezone": str,
    "application_name": str,
    "pool_size": size,
    "min_pool_size": size,
    "reserve_pool_size": size,
    "reserve_pool": size,
    "max_db_connections": limit,
    "max_db_client_connections": limit,
    "server_lifetime": duration,
    "pool_mode": pool_mode,
    "connect_query": str,
    "load_balance_hosts": load_balance_hosts,
    "query_wait_timeout": wait,
}
ALIASES: Final = {"reserve_pool": "reserve_pool_size"}

USER_KEYS: Final[Readers] = {
    "pool_mode": pool_mode,
    "pool_size": size,
    "reserve_pool_size": size,
    "max_user_connections": limit,
    "max_user_client_connections": limit,
    "query_timeout": duration,
    "idle_transaction_timeout": duration,
    "transaction_timeout": duration,
    "client_idle_timeout": duration,
    "query_wait_timeout": wait,
}

PEER_KEYS: Final[Readers] = {"host": str, "port": port, "pool_size": size}


class Section(NamedTuple):
    """What the lines of a section may have, and how complaints call it."""

    readers: Readers
    what: str
    kind: str

    def read(self, key: str, value: str) -> Any:
        """Return what *value* means for *key*; raises `Refused`."""
        reader = self.readers.get(key)
        if reader is None:
            raise Refused(f"unrecognized {self.kind} parameter: {key}")
        return reader(value)

    def broken(self) -> str:
        """Say that a line is no list of pairs."""
        return f"syntax error in {self.what}"


SECTIONS: Final = {
    "databases": Section(DATABASE_KEYS, "connection string", "connection"),
    "users": Section(USER_KEYS, "user settings", "user"),
    "peers": Section(PEER_KEYS, "connection string", "connection"),
}


def read_pairs(text: str, section: Section) -> dict[str, Any]:
    """Return the values in *text* by attribute; raises `Refused`."""
    found: dict[str, Any] = {}
    try:
        for key, value in pairs(text):
            found[ALIASES.get(key, key)] = section.read(key, value)
    except BadConnstr:
        raise Refused(section.broken()) from None
    return found


def byte_length(text: str) -> int:
    """Return how many bytes *text* had in the file."""
    return len(text.encode("utf-8", "surrogateescape"))


def user_name(name: str, warn: Warn) -> str:
    """Return *name*, cut to what PgBouncer keeps of a user's name."""
    if byte_length(name) <= LONGEST_USER_NAME:
        return name
    warn(f"user name too long, cut to {LONGEST_USER_NAME} bytes: {name}")
    return cut(name, LONGEST_USER_NAME)


def read_database(
    name: str, text: str, source: str, previous: Database | None, warn: Warn
) -> Database:
    """Return the database of the line `name = text`; raises `Refused`.

    *previous* is what *name* was so far: its forced user cannot be lost, because
    pools and limits hang on it.
    """
    if name == RESERVED:
        raise Refused(f'database name "{RESERVED}" is reserved')
    found = read_pairs(text, SECTIONS["databases"])
    if byte_length(name) > LONGEST_DATABASE_NAME:
        warn(f"too long db name: {name}")
        raise Refused("cannot create database, no memory?")
    found.setdefault("dbname", name)
    if "user" in found:
        found["user"] = user_name(found["user"], warn)
    elif previous is not None and previous.user is not None:
        warn("losing forced user not supported, keeping old setting")
        found["user"], found["password"] = previous.user, previous.password
    return Database(name=name, source=source, **found)


def read_user(name: str, text: str, source: str, warn: Warn) -> UserOptions:
    """Return the user of the line `name = text`; raises `Refused`."""
    found = read_pairs(text, SECTIONS["users"])
    return UserOptions(name=user_name(name, warn), source=source, **found)


def read_peer(name: str, text: str, source: str) -> Peer:
    """Return the peer of the line `name = text`; raises `Refused`."""
    found = PEER_ID.fullmatch(name)
    number = int(found[1]) if found else 0
    if not 0 < number <= LARGEST_PEER_ID:
        raise Refused("ids of peers must be a number larger than 0 and at most 65536")
    values = read_pairs(text, SECTIONS["peers"])
    if "host" not in values:
        raise Refused(f"host was not provided for peer {number}")
    return Peer(id=number, source=source, **values)


# What, when it differs, means that a server connection goes to the wrong place or
# was set up the wrong way. Passwords, sizes and time-outs do not.
RECYCLING: Final = (
    "dbname",
    "host",
    "port",
    "user",
    "connect_query",
    "auth_dbname",
    "auth_query",
    "load_balance_hosts",
)


def needs_recycling(old: Database, new: Database) -> bool:
    """Whether the server connections of *old* must be closed for *new*."""
    return any(getattr(old, name) != getattr(new, name) for name in RECYCLING)
