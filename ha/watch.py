"""Rows of SHOW HAPROXY and of `pybouncer ha status`: several HAProxies, one table.

A balancer that does not answer costs a row with an error in it, never a failure: its
last picture is shown again with its age, because silence says nothing about HAProxy's
servers. The console asks from the event loop, so the sockets are read in threads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass

from ha.errors import HAProxyError
from ha.haproxy import HAProxy, Picture, Row

Cell = str | int | None

# name and type of each column; the types are those of the console's tables.
COLUMNS: tuple[tuple[str, str], ...] = (
    ("haproxy", "text"),
    ("proxy", "text"),
    ("name", "text"),
    ("type", "text"),
    ("status", "text"),
    ("usable", "int4"),
    ("weight", "int4"),
    ("active", "int4"),
    ("backup", "int4"),
    ("sessions", "int8"),
    ("max_sessions", "int8"),
    ("session_limit", "int8"),
    ("total_sessions", "int8"),
    ("queued", "int8"),
    ("connect_errors", "int8"),
    ("redispatches", "int8"),
    ("check_status", "text"),
    ("check_code", "int4"),
    ("last_check", "text"),
    ("last_agent", "text"),
    ("address", "text"),
    ("last_change", "int8"),
    ("age_ms", "int8"),
    ("error", "text"),
)

# A picture this young is served again: ten consoles cost HAProxy one question.
FRESH = 0.2


@dataclass(slots=True)
class Seen:
    """The last good picture of one HAProxy, and what went wrong since."""

    picture: Picture | None = None
    error: str | None = None


def cells(row: Row, endpoint: str, age_ms: int, error: str | None) -> tuple[Cell, ...]:
    """One row of the table, in the order of `COLUMNS`."""
    return (
        endpoint,
        row.proxy,
        row.name,
        row.kind,
        row.status.text,
        int(row.usable),
        row.weight,
        row.active,
        row.backup,
        row.sessions,
        row.sessions_max,
        row.session_limit,
        row.sessions_total,
        row.queued,
        row.connect_errors,
        row.redispatches,
        row.check_status or None,
        row.check_code,
        row.last_check or None,
        row.last_agent or None,
        row.address or None,
        row.since_change,
        age_ms,
        error,
    )


class HAProxyWatch:
    """Asks a fixed set of HAProxies and remembers what each last said."""

    columns = COLUMNS

    def __init__(self, haproxies: Iterable[HAProxy]) -> None:
        self.haproxies = tuple(haproxies)
        self.seen = {haproxy: Seen() for haproxy in self.haproxies}
        self.asking: asyncio.Lock | None = None

    @classmethod
    def from_setting(cls, text: str) -> HAProxyWatch | None:
        """The watch for a comma-separated list of stats sockets; None if empty."""
        places = [part.strip() for part in text.split(",") if part.strip()]
        return cls(HAProxy(place) for place in places) if places else None

    # Called by the console

    async def rows(self) -> list[tuple[Cell, ...]]:
        """All rows; takes at most one deadline, raises nothing about HAProxy."""
        if self.asking is None:
            self.asking = asyncio.Lock()
        async with self.asking:
            await asyncio.gather(
                *(asyncio.to_thread(self.look, one) for one in self.haproxies)
            )
        return self.table()

    # Called by the command line

    def rows_now(self) -> list[tuple[Cell, ...]]:
        """The same, for those who may block."""
        for haproxy in self.haproxies:
            self.look(haproxy)
        return self.table()

    def look(self, haproxy: HAProxy) -> None:
        """Take a new picture of one HAProxy unless the last one is fresh."""
        seen = self.seen[haproxy]
        picture = seen.picture
        if picture and not seen.error and time.monotonic() - picture.taken < FRESH:
            return
        try:
            seen.picture, seen.error = haproxy.picture(), None
        except HAProxyError as problem:
            seen.error = problem.text

    def table(self) -> list[tuple[Cell, ...]]:
        """What is known now."""
        lines: list[tuple[Cell, ...]] = []
        for haproxy, seen in self.seen.items():
            where = haproxy.endpoint.text
            if seen.picture is None:
                blank: tuple[Cell, ...] = (None,) * (len(COLUMNS) - 2)
                lines.append((where, *blank, seen.error))
                continue
            age = int((time.monotonic() - seen.picture.taken) * 1000)
            lines += [cells(row, where, age, seen.error) for row in seen.picture.rows]
        return lines
