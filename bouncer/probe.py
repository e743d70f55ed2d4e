"""Ask a database something on the pooler's own account, for health checks.

A probe uses a server of one of the database's pools as a client would, but is
no client: it takes an idle one or has one opened, and never waits in the queue.

Which pool does not matter, so a busy one, or one whose user may not log in, is no
reason to know nothing: the next is tried. What comes of it tells apart what was
tried in vain from what could not be tried at all.
"""

from __future__ import annotations

import asyncio
from typing import Any

from bouncer.errors import LoginFailed, ServerError
from bouncer.pool.evidence import SECOND, weight_of
from bouncer.pool.keeper import Keeper
from bouncer.talks.probe import Row, probe

LOOK_AGAIN = 0.05  # seconds between two looks for an idle server
# So long a probe waits for servers that others have before it wants one of its own
# user's, and before it gives up. Shorter than the deadline of those who ask.
PATIENCE = 0.5
GIVES_UP = 1.0
# Pools that keep a server which nobody but a probe has ever wanted.
MOST_KEPT = 16


class Busy(Exception):
    """Every server is at work, and no more may be opened: that proves nothing."""


class StillFailing(Exception):
    """Whoever could ask has failed, and waits before he tries again."""


class LoginRefused(ServerError):
    """A server answered, but does not let *user* in; *weight* is what that proves."""

    def __init__(self, user: str, problem: LoginFailed) -> None:
        super().__init__(problem.text, problem.sqlstate)
        self.user = user
        self.weight = weight_of(problem)


class Attempts:
    """The pools that one probe has had a login begun in, and what came of it."""

    def __init__(self) -> None:
        self.begun: dict[Any, int] = {}  # pool -> attempts that had ended before

    def begin(self, pool: Any) -> None:
        """A login begins."""
        self.begun[pool] = pool.evidence.noted

    def over(self, pool: Any) -> bool:
        """Did the login that was begun in *pool* come to nothing?"""
        evidence = pool.evidence
        ended = self.begun.get(pool, evidence.noted) != evidence.noted
        return bool(ended and evidence.is_bad)

    def problem(self) -> Exception | None:
        """What they came to; an answer, even a refusal, says more than silence."""
        ended = [pool for pool in self.begun if self.over(pool)]
        for pool in ended:
            if pool.evidence.refusal is not None:
                return LoginRefused(pool.user_name, pool.evidence.refusal)
        return ConnectionError(ended[-1].last_error) if ended else None


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

        Raises LookupError when there is no pool and nobody to log in as, `Busy` or
        `StillFailing` when nothing could be tried, `LoginRefused` or ConnectionError
        when all that was tried failed, `ServerError` when the server refuses *sql*,
        ConnectionError when it goes away. Cancelling closes the server if the query
        has been sent.
        """
        attempts = Attempts()
        began = self.app.loop.time()
        while True:
            self.app.poller.tick()
            database = self.app.registry.databases.get(name)
            used = used_pools(database)
            for pool in used:
                server = pool.idle.first if not pool.blocked else None
                if server is not None and server.clean and not server.close_needed:
                    return await self.run(pool, server, sql)
            waited, problem = self.app.loop.time() - began, attempts.problem()
            ways = self.ways(database, used, problem is not None or waited >= PATIENCE)
            if not ways:
                raise LookupError(name)
            under_way = self.begin_login(ways, attempts)
            self.app.poller.settle()
            if not under_way:
                if problem is not None:
                    raise problem
                if all(is_stuck(pool) for pool in ways):
                    raise StillFailing(name)
                if waited >= GIVES_UP:
                    raise Busy(name)
            await asyncio.sleep(LOOK_AGAIN)

    def ways(self, database: Any, used: list[Any], more: bool) -> list[Any]:
        """The pools that might ask, the most promising first.

        A pool of our own user is made only if *more* are wanted, or all else failed.
        """
        well = [pool for pool in used if not is_stuck(pool)]
        if well and not more:
            return well
        own = self.own_pool(database)
        rest = [pool for pool in used if pool not in well and pool is not own]
        return [*well, *([own] if own and own not in well else []), *rest]

    def own_pool(self, database: Any) -> Any:
        """The pool of the user whom health checks log in as, None without one."""
        if database is None:
            return None
        settings = self.app.settings
        user = (
            database.config.user
            or settings.health_user
            or database.config.auth_user
            or settings.auth_user
        )
        return self.app.registry.pool(database, user) if user else None

    def begin_login(self, ways: list[Any], attempts: Attempts) -> bool:
        """Have a server opened where one may be; is any login under way now?"""
        for pool in ways:
            if len(pool.login):
                return True
            if pool.blocked or attempts.over(pool) or self.must_rest(pool):
                continue
            was_empty = not pool.server_count
            if self.keeper.open_if_allowed(pool, evict=False):
                attempts.begin(pool)
                if was_empty:
                    self.opened[pool] = pool.logins
                return True
        return False

    def must_rest(self, pool: Any) -> bool:
        """Has *pool* failed so lately that asking anew would only fill the logs?"""
        rest = self.app.settings.server_login_retry * SECOND
        return is_stuck(pool) and bool(
            self.app.poller.now - pool.evidence.ended_at < rest
        )

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


def used_pools(database: Any) -> list[Any]:
    """The pools of *database* that may ask.

    One that somebody has only named himself for is no way to ask: we would log in
    for him before he has shown who he is.
    """
    if database is None:
        return []
    return [
        pool
        for pool in database.pools.values()
        if pool.server_count or pool.welcome is not None or len(pool.clients)
    ]


def is_stuck(pool: Any) -> bool:
    """Has *pool* no server, and did its last attempt come to nothing?"""
    return bool(pool.evidence.is_bad and not pool.server_count)
