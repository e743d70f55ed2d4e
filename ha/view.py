"""What health needs to see of the pooler, and the adapter that sees it.

`PoolerView` is all that the rest of ha knows of a running pooler, so that health can
be tested without one. `AppView` fills it from the rows the console shows.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Protocol

Rows = list[tuple[str | None, ...]]


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """One database, at one moment.

    *finished* counts finished transactions: when it moves, a server has answered.
    *failing_for* is the seconds since which every attempt to reach the server has
    failed, None when the last one succeeded or none was made. *busiest* is the
    largest share of its pools' servers that is in use, *waiting* the clients that
    want a server, *servers* those that could serve them, *waited* the longest wait.
    """

    name: str
    paused: bool = False
    disabled: bool = False
    finished: int = 0
    failing_for: float | None = None
    servers: int = 0
    busiest: float = 0.0
    waiting: int = 0
    waited: float = 0.0


class PoolerView(Protocol):
    """A running pooler, as health sees it. Nothing here may block."""

    def phase(self) -> str:
        """`running`, `paused` (PAUSE, SUSPEND) or `draining` (a graceful end)."""

    def clients(self) -> tuple[int, int]:
        """Clients connected now, and max_client_conn (0: no limit)."""

    def databases(self) -> dict[str, DatabaseFacts]:
        """Every database but the consoles, in the order of the configuration."""

    async def probe(self, database: str, sql: str) -> Rows:
        """Run *sql* on a server of *database* and return its rows as text.

        Raises LookupError when there is no way to ask (no pool yet, and no user to
        make one for), anything else when asking failed. It may wait for a server:
        the caller sets the deadline by cancelling.
        """


class AppView:
    """`PoolerView` of `bouncer.app.Bouncer`."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def phase(self) -> str:
        """Where the whole process stands."""
        if self.app.shutdown_mode is not None:
            return "draining"
        return "running" if self.app.global_mode == "none" else "paused"

    def clients(self) -> tuple[int, int]:
        """As `limits` counts them for max_client_conn."""
        used = dict(self.app.lists())["used_clients"]
        return int(used), int(self.app.settings.max_client_conn)

    def databases(self) -> dict[str, DatabaseFacts]:
        """One entry for each row of SHOW DATABASES."""
        finished = {row.database: row.total_xact_count for row in self.app.stats()}
        pools = defaultdict(list)
        for pool in self.app.pool_rows():
            pools[pool.database].append(pool)
        facts: dict[str, DatabaseFacts] = {}
        for row in self.app.database_rows():
            if row.name in self.app.consoles:
                continue
            size = max(row.pool_size, 1)
            mine = pools[row.name]
            facts[row.name] = DatabaseFacts(
                name=row.name,
                paused=bool(row.paused),
                disabled=bool(row.disabled),
                finished=finished.get(row.name, 0),
                failing_for=self.app.failing_for(row.name),
                servers=size * len(mine),
                busiest=max((pool.sv_active / size for pool in mine), default=0.0),
                waiting=sum(pool.cl_waiting for pool in mine),
                waited=max((pool.maxwait for pool in mine), default=0) / 1e6,
            )
        return facts

    async def probe(self, database: str, sql: str) -> Rows:
        """Through a connection of the database's own pool."""
        rows: Rows = await self.app.probe(database, sql)
        return rows
