"""Ask a database something on the pooler's own account, for health checks.

A probe uses a server of one of the database's pools as a client would, but is
no client: it takes an idle one or has one opened, and never waits in the queue.
"""

from __future__ import annotations

import asyncio
from typing import Any

from bouncer.errors import ServerError
from bouncer.pool.keeper import Keeper
from bouncer.talks.probe import Row, probe

LOOK_AGAIN = 0.05  # seconds between two looks for an idle server
# Pools that keep a server which nobody but a probe has ever wanted.
MOST_KEPT = 16


class Probes:
    """The probes that are under way."""

    def __init__(self, app: Any, keeper: Keeper) -> None:
        self.app = app
        self.keeper = keeper
        self.running: dict[Any, asyncio.Future[Any]] = {}  # server -> its answer
        # Pools that were empty before a probe -> how many clients had logged in then.
        self.opened: dict[Any, int] = {}
        self.kept: set[Any] = set()  # of these, those that keep what it opened

    async def ask(self, name: str, sql: str) -> list[Row]:
        """Rows of *sql* on the database *name*.

        Raises LookupError when there is no pool and nobody to log in as,
        `ServerError` when the server refuses, ConnectionError when it goes away.
        Cancelling closes the server if the query has been sent.
        """
        pool = self.pool_of(name)
        while True:
            self.app.poller.tick()
            server = pool.idle.first if not pool.blocked else None
            if server is not None and server.clean and not server.close_needed:
                return await self.run(pool, server, sql)
            if not pool.blocked and not len(pool.login):
                was_empty = not pool.server_count
                if self.keeper.open_if_allowed(pool, evict=False) and was_empty:
                    self.opened[pool] = pool.logins
                self.app.poller.settle()
            await asyncio.sleep(LOOK_AGAIN)

    def pool_of(self, name: str) -> Any:
        registry, settings = self.app.registry, self.app.settings
        database = registry.databases.get(name)
        if database is None:
            raise LookupError(name)
        for pool in database.pools.values():
            # One that somebody has only named himself for is no way to ask: we would
            # log in for him before he has shown who he is.
            if pool.server_count or pool.welcome is not None or len(pool.clients):
                return pool
        user = (
            database.config.user
            or settings.health_user
            or database.config.auth_user
            or settings.auth_user
        )
        if not user:
            raise LookupError(name)
        return registry.pool(database, user)

    async def run(self, pool: Any, server: Any, sql: str) -> list[Row]:
        answer: asyncio.Future[Any] = self.app.loop.create_future()
        self.running[server] = answer
        pool.occupy(server)
        server.begin_talk(probe(server, sql))
        self.app.poller.settle()
        try:
            outcome = await answer
        except asyncio.CancelledError:
            if self.running.pop(server, None) is not None:
                server.disconnect("client disconnect while server was not ready")
            raise
        if isinstance(outcome, ServerError):
            raise outcome
        rows: list[Row] = outcome
        return rows

    def answered(self, server: Any, outcome: Any) -> None:
        answer = self.running.pop(server)
        server.relay_phase()
        server.mark_ready()
        if not self.may_stay(server.pool):
            server.close_needed = True
        server.pool.release_server(server)
        if not answer.done():
            answer.set_result(outcome)

    def may_stay(self, pool: Any) -> bool:
        """Say whether the server of a probe that is over is kept."""
        if pool not in self.opened:
            return True
        settings = self.app.settings
        self.opened = {
            one: logins for one, logins in self.opened.items() if is_lonely(one, logins)
        }
        self.kept &= self.opened.keys()
        if pool not in self.opened or pool in self.kept:
            return True
        wanted = settings.health_databases.replace(",", " ").split()
        if (
            pool.database.name in wanted
            or self.app.limits.min_pool_size(pool)
            or len(self.kept) < MOST_KEPT
        ):
            self.kept.add(pool)
            return True
        return False

    def gone(self, server: Any) -> None:
        """*server* has been closed."""
        answer = self.running.pop(server, None)
        if answer is not None and not answer.done():
            answer.set_exception(ConnectionError("the server went away"))


def is_lonely(pool: Any, logins: int) -> bool:
    """Say whether a probe's server is all that *pool* has had since *logins*."""
    return bool(
        pool.server_count == 1 and not pool.client_count and pool.logins == logins
    )
