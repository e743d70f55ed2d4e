"""Effective limits: what counts for a pool, a user, a client.

User, database and global values are weighed here and nowhere else, and every
count that a limit needs is asked for here, so that several processes can share
limits later by giving this one object another source of counts (design D13).
"""

from __future__ import annotations

from typing import Any

from bouncer.config.settings import Settings, UserOptions
from bouncer.errors import Disconnect
from bouncer.pool.registry import CONSOLE, DatabaseState, UserState

MODES = {"session": 0, "transaction": 1, "statement": 2}
CONSOLE_POOL_SIZE = 2


def listed(name: str, names: str) -> bool:
    """Is *name* among *names*, separated by commas or white space?"""
    return bool(names) and name in names.replace(",", " ").split()


class Limits:
    """Answers "how many" and "how long"."""

    def __init__(self, app: Any) -> None:
        self.app = app

    @property
    def socket_count(self) -> int:
        """Every client socket, logins and cancels included."""
        count: int = self.app.door.sockets
        return count

    @property
    def settings(self) -> Settings:
        """The settings that count now; RELOAD and SET change the object."""
        found: Settings = self.app.settings
        return found

    # Pools

    def pool_size(self, pool: Any) -> int:
        """Server connections of one pool; 0 is no limit."""
        user: UserOptions | None = pool.user.options
        if user is not None and user.pool_size is not None:
            return user.pool_size
        return self.database_pool_size(pool.database)

    def database_pool_size(self, database: DatabaseState) -> int:
        if database.name == CONSOLE:
            return CONSOLE_POOL_SIZE
        size = database.config.pool_size
        return self.settings.default_pool_size if size is None else size

    def min_pool_size(self, pool: Any) -> int:
        return self.database_min_pool_size(pool.database)

    def database_min_pool_size(self, database: DatabaseState) -> int:
        if database.name == CONSOLE:
            return 0
        size = database.config.min_pool_size
        return self.settings.min_pool_size if size is None else size

    def reserve_pool_size(self, pool: Any) -> int:
        user: UserOptions | None = pool.user.options
        if user is not None and user.reserve_pool_size is not None:
            return user.reserve_pool_size
        return self.database_reserve_pool_size(pool.database)

    def database_reserve_pool_size(self, database: DatabaseState) -> int:
        if database.name == CONSOLE:
            return 0
        size = database.config.reserve_pool_size
        return self.settings.reserve_pool_size if size is None else size

    def max_db_connections(self, database: DatabaseState) -> int:
        own = database.config.max_db_connections
        return own if own and own > 0 else max(self.settings.max_db_connections, 0)

    def max_user_connections(self, user: UserState) -> int:
        own = user.options.max_user_connections if user.options else None
        return own if own and own > 0 else max(self.settings.max_user_connections, 0)

    def max_db_clients(self, database: DatabaseState) -> int:
        own = database.config.max_db_client_connections
        if own and own > 0:
            return own
        limit: int = self.app.settings.max_db_client_connections
        return limit if limit > 0 else 0

    def max_user_clients(self, user: UserState) -> int:
        own = user.options.max_user_client_connections if user.options else None
        if own and own > 0:
            return own
        limit: int = self.app.settings.max_user_client_connections
        return limit

    def pool_mode(self, pool: Any) -> str:
        """The effective pool_mode: user, else database, else global."""
        if pool.database.name == CONSOLE:
            return "statement"
        user: UserOptions | None = pool.user.options
        if user is not None and user.pool_mode is not None:
            return user.pool_mode
        own: str | None = pool.database.config.pool_mode
        return own or self.settings.pool_mode

    def server_lifetime(self, database: DatabaseState) -> float:
        """Seconds; 0 means one use."""
        own = database.config.server_lifetime
        if own is not None and own > 0:
            return own
        return self.settings.server_lifetime

    def own(self, setting: str, pool: Any) -> Any:
        """A setting of `[pybouncer]` that a database or a user may have otherwise."""
        own = self.app.config.own
        if own.databases or own.users:
            found = own.value(setting, pool.database.name, pool.user.name)
            if found is not None:
                return found
        return getattr(self.settings, setting)

    # Timeouts, in seconds; 0 is off

    def of_pool_user(self, pool: Any, name: str) -> float:
        """query_timeout, idle_transaction_timeout or transaction_timeout."""
        own = getattr(pool.user.options, name) if pool.user.options else None
        if own is not None and own > 0:
            return float(own)
        return float(getattr(self.settings, name))

    def client_idle_timeout(self, user: UserState | None) -> float:
        own = user.options.client_idle_timeout if user and user.options else None
        if own is not None and own > 0:
            return own
        return self.settings.client_idle_timeout

    def query_wait_timeout(self, client: Any) -> float:
        """Presence counts, not the value: user, else database, else global."""
        user: UserState | None = client.user_state
        if user is not None and user.options is not None:
            own = user.options.query_wait_timeout
            if own is not None:
                return own
        database: DatabaseState | None = client.database
        if database is not None and database.config.query_wait_timeout is not None:
            return database.config.query_wait_timeout
        return self.settings.query_wait_timeout

    # Admission (client sheet 5, steps 3 and 8)

    def admit_socket(self, client: Any, database_name: str) -> None:
        """Raise when max_client_conn is exceeded; the console is exempt.

        And when no descriptors are left but those that are kept for it.
        """
        if database_name == CONSOLE:
            return
        if client.fd >= self.app.door.most_fd:
            raise Disconnect("no more connections allowed (file descriptors)")
        if (
            self.socket_count - self.app.door.departed
            > self.app.settings.max_client_conn
        ):
            raise Disconnect("no more connections allowed (max_client_conn)")

    def admit_client(
        self,
        client: Any,
        database: DatabaseState | None,
        user: UserState | None,
        is_admin: bool = False,
    ) -> None:
        """Count the client with its database and user, or raise.

        A client is counted from here until it is closed, authenticated or not.
        Either may be None when it is not known (yet); a second call with the
        other one counts that.
        """
        if database is not None and client.counted_database is None:
            limit = self.max_db_clients(database)
            count = database.client_count - database.departed
            if limit and count >= limit and not is_admin:
                raise Disconnect(
                    "client connections exceeded (max_db_client_connections)"
                )
            if not database.client_count:
                self.app.registry.wake(database)
            database.client_count += 1
            client.counted_database = database
        if user is not None and client.counted_user is None:
            account = user.account
            limit = self.max_user_clients(account)
            count = account.client_count - account.departed
            if limit and count >= limit and not is_admin:
                raise Disconnect(
                    "client connections exceeded (max_user_client_connections)"
                )
            account.client_count += 1
            client.counted_user = account
