"""What exists at run time: databases, users, peers, pools.

Configuration objects come and go with RELOAD; the states here live on, with
their counts, flags and pools. Names map to exactly one state each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from bouncer import log
from bouncer.auth.scram import fits
from bouncer.auth.secrets import kinds_of, parse_scram
from bouncer.config import queries
from bouncer.config.load import make_autodb
from bouncer.config.settings import Configuration, Database, Peer, UserOptions
from bouncer.pool.pools import CONSOLE_NAME, ServerPool
from bouncer.pool.targets import hosts_of
from bouncer.relay.door import Counts

CONSOLE = CONSOLE_NAME


def bytes_of(name: str) -> bytes:
    """The bytes of a name, which need not be UTF-8: the console sorts by them."""
    return name.encode("utf-8", "surrogateescape")


class DatabaseState(Counts):
    """One database that clients may name."""

    __slots__ = (
        "auto",
        "config",
        "disabled",
        "idle_since",
        "name",
        "past",
        "paused",
        "pools",
        "wait_close",
    )

    def __init__(self, config: Database, auto: bool = False) -> None:
        self.name = config.name
        self.config = config
        self.auto = auto
        self.paused = False
        self.disabled = False
        self.wait_close = False
        self.idle_since = 0  # monotonic us; an auto-database that is asleep
        self.pools: dict[str, ServerPool] = {}
        self.past: tuple[int, ...] = ()  # counters of pools that were dropped

    def __repr__(self) -> str:
        return f"DatabaseState({self.name})"


class UserState(Counts):
    """One user name: a secret, options, counts.

    *dynamic* users were learnt from auth_query, PAM or LDAP; *account* is the
    state whose counts limits look at (itself, but for users learnt per database).
    """

    __slots__ = (
        "account",
        "adhoc_scram",
        "aliases",
        "dynamic",
        "in_auth_file",
        "name",
        "named",
        "options",
        "scram_keys",
        "secret",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.secret = ""
        self.in_auth_file = False
        self.dynamic = False
        self.options: UserOptions | None = None
        self.scram_keys: tuple[bytes, bytes] | None = None
        self.adhoc_scram: Any = None
        self.account: UserState = self
        self.aliases = 0  # users learnt per database whose account this is
        self.named = False  # some database has had it as `user` or `auth_user`

    def set_secret(self, secret: str) -> None:
        """Take a new secret; what was derived from the old one is void."""
        if secret != self.secret:
            self.secret = secret
            self.scram_keys = None
            self.adhoc_scram = None

    def learn_keys(self, keys: tuple[bytes, bytes]) -> None:
        """Keep SCRAM keys if they open our secret."""
        secret = parse_scram(self.secret)
        if secret is not None and fits(secret, keys):
            self.scram_keys = keys

    def __repr__(self) -> str:
        return f"UserState({self.name})"


class PeerState:
    """One other process that cancel requests may be for."""

    __slots__ = ("config", "id", "pool")

    def __init__(self, config: Peer) -> None:
        self.id = config.id
        self.config = config
        self.pool: ServerPool | None = None


class Registry:
    """Databases, users, peers and pools by name."""

    def __init__(
        self,
        configuration: Configuration,
        make_pool: Callable[[DatabaseState, UserState], ServerPool],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """*changed* is called when something is not any more what it was."""
        self.databases: dict[str, DatabaseState] = {}
        # Automatic databases that nobody uses, those for longest first: there may be
        # tens of thousands, and nothing is due at them until they have been idle for
        # long enough. Those that have pools stand in `resting`, too.
        self.asleep: dict[str, DatabaseState] = {}
        self.resting: dict[str, DatabaseState] = {}
        # All the others, and all that have or had a pool.
        self.awake: dict[str, DatabaseState] = {}
        self.populated: dict[str, DatabaseState] = {}
        self.users: dict[str, UserState] = {}
        self.peers: dict[int, PeerState] = {}
        self.make_pool = make_pool
        self.changed = changed
        self.learnt: dict[tuple[str, str], UserState] = {}
        #: Of auth_file: iterations of most SCRAM secrets; 0: most secrets are others.
        self.kinds: tuple[int, ...] = ()  # of the secrets in auth_file
        self.configuration = configuration
        self.user(CONSOLE).named = True
        self.apply(configuration)

    # Databases

    def find_database(self, name: str, client: Any = None) -> DatabaseState | None:
        """The database *name*; one made from the `*` entry if there is that.

        *client* is who asked: its prefix stands before the log line.
        """
        found = self.databases.get(name)
        if found is not None:
            return found
        if self.configuration.autodb is None:
            return None
        prefix = "" if client is None else f"{client.prefix} "
        config = make_autodb(self.configuration, name)
        if config is None:
            return None
        log.info(f"{prefix}registered new auto-database: {name}")
        state = DatabaseState(config, auto=True)
        self.add_database(state)
        self.note_forced_user(state)
        return state

    def add_database(self, database: DatabaseState) -> None:
        """Take in a database that is new."""
        self.databases[database.name] = self.awake[database.name] = database

    def remove_database(self, database: DatabaseState) -> None:
        """Forget a database."""
        for known in (
            self.databases,
            self.awake,
            self.asleep,
            self.resting,
            self.populated,
        ):
            if known.get(database.name) is database:
                del known[database.name]

    def wake(self, database: DatabaseState) -> None:
        """Somebody wants *database*: from now on it is looked after."""
        if self.asleep.pop(database.name, None) is not None:
            self.resting.pop(database.name, None)
            database.idle_since = 0
            self.awake[database.name] = database

    def put_to_sleep(self, database: DatabaseState, now: int) -> None:
        """Nobody uses *database*, which is automatic."""
        if self.awake.pop(database.name, None) is not database:
            return  # it was dropped meanwhile
        database.idle_since = now
        self.asleep[database.name] = database
        if database.pools:
            self.resting[database.name] = database

    def all_pools(self) -> Iterator[ServerPool]:
        """Every pool of a database, the console's included; not peers'."""
        for database in list(self.populated.values()):
            yield from list(database.pools.values())

    def sorted_pools(self) -> list[ServerPool]:
        return [
            pool
            for database in in_order(self.populated.values())
            for _, pool in sorted(
                database.pools.items(), key=lambda item: bytes_of(item[0])
            )
        ]

    # Users

    def user(self, name: str) -> UserState:
        """The state of *name*, made if it is new."""
        found = self.users.get(name)
        if found is None:
            found = self.users[name] = UserState(name)
        return found

    def learn_user(self, database: DatabaseState, name: str, secret: str) -> UserState:
        """A user that auth_query has found (or PAM, LDAP): kept per database."""
        key = (database.name, name)
        state = self.learnt.get(key)
        if state is None:
            state = self.learnt[key] = UserState(name)
            state.dynamic = True
            state.account = self.user(name)
            state.account.aliases += 1
        state.set_secret(secret)
        state.options = state.account.options
        self.settle_pool(database, name)
        return state

    def set_auth_file(self, secrets: dict[str, str]) -> None:
        """Take the users of auth_file; those who left it are unknown again."""
        self.changed()
        for name, state in self.users.items():
            if state.in_auth_file and name not in secrets:
                state.in_auth_file = False
                state.set_secret("")
        told = set()
        for name, secret in secrets.items():
            state = self.user(name)
            if not state.in_auth_file or state.secret != secret:
                told.add(name)
            state.in_auth_file = True
            state.set_secret(secret)
        # The file was told last: what was learnt of them before is void.
        for database_name, name in [key for key in self.learnt if key[1] in told]:
            database = self.databases.get(database_name)
            self.forget_learnt(database_name, name)
            if database is not None:
                self.settle_pool(database, name)
        self.kinds = kinds_of(secrets.values())

    def note_forced_user(self, database: DatabaseState) -> None:
        """Names that a configuration mentions are users, too (SHOW USERS)."""
        for name in (database.config.user, database.config.auth_user):
            if name:
                self.user(name).named = True

    # Pools

    def server_user(self, database: DatabaseState, name: str) -> UserState:
        """Who it is that logs in at servers of *database* as *name*.

        A forced user is the one of the table, whatever a client of that name has
        shown. Anybody else is who was learnt for this database, if it was anybody.
        """
        if name != database.config.user:
            learnt = self.learnt.get((database.name, name))
            if learnt is not None:
                return learnt
        return self.user(name)

    def pool(self, database: DatabaseState, name: str) -> ServerPool:
        """The pool of *database* for the server user *name*."""
        self.wake(database)
        if name not in database.pools:
            self.populated[database.name] = database
            user = self.server_user(database, name)
            database.pools[name] = self.make_pool(database, user)
        else:
            self.settle_pool(database, name)
        found = database.pools[name]
        # The role that its servers have: nobody else's secret may open one.
        assert found.user.name == name
        return found

    def login_pool(self, database: DatabaseState, user: UserState) -> ServerPool:
        """The pool for clients that have come in as *user*: maybe a forced user's."""
        return self.pool(database, database.config.user or user.name)

    def settle_pool(self, database: DatabaseState, name: str) -> None:
        """Let the pool *name*, if there is one, log in as whoever that is now."""
        found = database.pools.get(name)
        if found is not None:
            found.user = self.server_user(database, name)

    def drop_pool(self, pool: ServerPool) -> None:
        """Forget a pool that nobody uses; the totals keep what it has counted."""
        self.changed()
        database = pool.database
        del database.pools[pool.user_name]
        counted = pool.counters()
        past = database.past or (0,) * len(counted)
        database.past = tuple(a + b for a, b in zip(past, counted, strict=True))
        self.forget_learnt(database.name, pool.user_name)

    def forget_learnt(self, database_name: str, name: str) -> None:
        """A user learnt for a pool that is gone: whoever it is, it is asked again."""
        learnt = self.learnt.pop((database_name, name), None)
        if learnt is None:
            return
        account = learnt.account
        account.aliases -= 1
        if not (
            account.in_auth_file
            or account.named
            or account.options
            or account.aliases
            or account.client_count
            or account.server_count
        ):
            self.users.pop(account.name, None)

    # Configuration

    def apply(
        self, configuration: Configuration
    ) -> tuple[list[tuple[DatabaseState, Database]], list[Any]]:
        """Take a new configuration.

        Returns the databases whose connections must be looked at, with their old
        entries, and what was dropped: databases and peers that the configuration no
        longer has.
        """
        self.changed()
        queries.warn(configuration)
        self.configuration = configuration
        changed: list[tuple[DatabaseState, Database]] = []
        dropped: list[Any] = []
        for name, config in configuration.databases.items():
            state = self.databases.get(name)
            if state is None:
                state = DatabaseState(config)
                self.add_database(state)
            else:
                self.wake(state)
                if differs(state.config, config):
                    changed.append((state, state.config))
                state.config = config
                state.auto = False
            self.note_forced_user(state)
        for name, state in list(self.databases.items()):
            if name in configuration.databases or name == CONSOLE:
                continue
            again = (
                make_autodb(configuration, name, state.config) if state.auto else None
            )
            if again is None:
                self.remove_database(state)
                dropped.append(state)
            else:
                if differs(state.config, again):
                    changed.append((state, state.config))
                state.config = again
        for name, options in configuration.users.items():
            self.user(name).options = options
        for learnt in self.learnt.values():
            learnt.options = learnt.account.options
        for state in self.databases.values():
            for name in state.pools:
                self.settle_pool(state, name)
        for number, peer in configuration.peers.items():
            known = self.peers.get(number)
            if known is None:
                self.peers[number] = PeerState(peer)
            else:
                known.config = peer
        for number in [n for n in self.peers if n not in configuration.peers]:
            dropped.append(self.peers.pop(number))
        return changed, dropped


def in_order(databases: Iterable[DatabaseState]) -> list[DatabaseState]:
    """In the console's order: byte order of the names."""
    return sorted(databases, key=lambda one: bytes_of(one.name))


def differs(old: Database, new: Database) -> bool:
    """Is there anything new that connections made for *old* should know?"""
    return (
        needs_renewal(old, new)
        or old.host != new.host
        or old.load_balance_hosts != new.load_balance_hosts
    )


def needs_renewal(old: Database, new: Database) -> bool:
    """Must all connections made for *old* be closed (server sheet 15)?

    Not for hosts that still have a place in the list, nor for another balance.
    """
    return (
        old.dbname != new.dbname
        or old.port != new.port
        or old.user != new.user
        or old.connect_query != new.connect_query
        or old.auth_dbname != new.auth_dbname
        or old.auth_query != new.auth_query
        or not set(hosts_of(old.host)) & set(hosts_of(new.host))
    )
