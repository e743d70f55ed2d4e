"""Averages over stats_period, and the line that reports them (stats.md 3 and 4).

Counters live in the pools, in C; each pool keeps two snapshots of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bouncer.snapshot import StatsRow

SECOND = 1_000_000
COUNTERS = 12
NONE = (0,) * COUNTERS
ASSIGNMENTS, TRANSACTIONS, QUERIES, SERVER_BYTES = 0, 1, 2, 4
TRANSACTION_US, QUERY_US, WAIT_US = 5, 6, 7


class Stats:
    """When the last two ticks were, and what follows from them."""

    def __init__(self, now: int) -> None:
        self.last = now
        self.previous = now - SECOND

    def tick(self, pools: Iterable[Any], now: int) -> str:
        """Rotate the snapshots; returns the text of the periodic log line."""
        change = [0] * COUNTERS
        for pool in pools:
            current = pool.counters()
            if current == pool.newer:
                pool.older = pool.newer  # most of many thousands
                continue
            for i, value in enumerate(pool.newer or NONE):
                change[i] += current[i] - value
            pool.older, pool.newer = pool.newer, current
        rates = averages(change, max(now - self.last, 1))
        self.previous, self.last = self.last, now
        return (
            f"stats: {rates[1]} xacts/s, {rates[2]} queries/s, "
            f"{rates[8]} client parses/s, {rates[9]} server parses/s, "
            f"{rates[10]} binds/s, {rates[11]} client logins/s, "
            f"in {rates[3]} B/s, out {rates[4]} B/s, "
            f"xact {rates[5]} us, query {rates[6]} us, wait {rates[7]} us"
        )

    def row(
        self,
        name: str,
        pools: Iterable[Any],
        now: int,
        past: Iterable[tuple[int, ...]] = (),
    ) -> StatsRow:
        """Totals and averages of *pools* taken together; *past* adds to the totals."""
        totals = [0] * COUNTERS
        change = [0] * COUNTERS
        for pool in pools:
            current = pool.counters()
            older = pool.older or NONE
            for i in range(COUNTERS):
                totals[i] += current[i]
                change[i] += current[i] - older[i]
        for counted in past:
            for i, value in enumerate(counted):
                totals[i] += value
        return StatsRow._make(
            (name, *totals, *averages(change, max(now - self.previous, 1)))
        )


def averages(change: list[int], duration: int) -> list[int]:
    """Per second, or microseconds per transaction, query and assignment."""
    rates = [value * SECOND // duration for value in change]
    for time, count in (
        (TRANSACTION_US, TRANSACTIONS),
        (QUERY_US, QUERIES),
        (WAIT_US, ASSIGNMENTS),
    ):
        rates[time] = change[time] // change[count] if change[count] else 0
    return rates
