"""What health needs to see of the pooler, and the adapter that sees it.

`PoolerView` is all that the rest of ha knows of a running pooler, so that health can
be tested without one. `AppView` fills it from the rows the console shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


def names(text: str) -> tuple[str, ...]:
    """The words of a comma-separated list."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


Rows = list[tuple[str | None, ...]]


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """One database, at one moment.

    *finished* grows with finished transactions and with what servers send: when it
    moves, a server has answered. *answered_ago* is the age in seconds of the newest
    login that a server answered, be it by a refusal; *failing_for* tells since when
    nobody has answered those who tried, *failed_ago* when the last of them did; None
    when the newest attempt was answered. *busiest* is the largest share of its pools'
    servers that is in use, *waiting* the clients that want a server, *servers* those
    that could serve them, *waited* the longest wait, *live* the servers that have
    logged in. *failure* is the newest attempt at a server that failed, as /status
    shows it.
    """

    name: str
    paused: bool = False
    disabled: bool = False
    finished: int = 0
    answered_ago: float | None = None
    failing_for: float | None = None
    failed_ago: float | None = None
    servers: int = 0
    busiest: float = 0.0
    waiting: int = 0
    waited: float = 0.0
    live: int = 0
    failure: dict[str, Any] | None = None


class PoolerView(Protocol):
    """A running pooler, as health sees it. Nothing here may block."""

    def phase(self) -> str:
        """`running`, `paused` (PAUSE, SUSPEND) or `draining` (a graceful end)."""

    def clients(self) -> tuple[int, int]:
        """Clients connected now, and max_client_conn (0: no limit)."""

    def databases(self) -> dict[str, DatabaseFacts]:
        """Every configured database but the consoles, in order of their names.

        Those made from `*` only as far as `health_databases` names them: everybody
        can have such a database made.
        """

    async def probe(self, database: str, sql: str) -> Rows:
        """Run *sql* on a server of *database* and return its rows as text.

        Raises LookupError when there is no way to ask (no pool yet, and no user to
        make one for), `Busy` and `StillFailing` when nothing could be tried,
        `LoginRefused` when a live server refused whoever was to ask, `ServerError`
        when it refused the question, anything else when nobody answered. It may wait
        for a server: the caller sets the deadline by cancelling.
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
        used = self.app.limits.socket_count
        return int(used), int(self.app.settings.max_client_conn)

    def databases(self) -> dict[str, DatabaseFacts]:
        """One entry for each database that health is about."""
        named = names(self.app.settings.health_databases)
        return {
            row.name: DatabaseFacts(**row._asdict())
            for row in self.app.health_rows(named)
        }

    async def probe(self, database: str, sql: str) -> Rows:
        """Through a connection of the database's own pool."""
        rows: Rows = await self.app.probe(database, sql)
        return rows
