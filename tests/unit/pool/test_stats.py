"""Totals, averages and the line of each period; pools whose counters tests set."""

from types import SimpleNamespace
from typing import Any

import pytest

from bouncer.config.settings import Database
from bouncer.pool.pools import ServerPool
from bouncer.pool.registry import DatabaseState, UserState
from bouncer.relay.poller import Poller
from bouncer.snapshot import StatsRow
from bouncer.stats import COUNTERS, SECOND, Stats, averages

ASSIGNED, TRANSACTIONS, QUERIES, RECEIVED, SENT = range(5)
TRANSACTION_US, QUERY_US, WAIT_US, LOGINS = 5, 6, 7, 11


class Pool:
    """A pool that has counted what a test says."""

    def __init__(self, **counted: int) -> None:
        self.newer: tuple[int, ...] = ()
        self.older: tuple[int, ...] = ()
        self.counts = [0] * COUNTERS
        self.count(**counted)

    def count(self, **more: int) -> None:
        """Add to counters, named as SHOW STATS has them."""
        names = StatsRow._fields[1 : COUNTERS + 1]
        for name, value in more.items():
            self.counts[names.index(f"total_{name}")] += value

    def counters(self) -> tuple[int, ...]:
        return tuple(self.counts)


def rates(row: StatsRow) -> dict[str, int]:
    """The averages of a row that are not 0."""
    return {
        name.removeprefix("avg_"): value
        for name, value in row._asdict().items()
        if name.startswith("avg_") and value
    }


def totals(row: StatsRow) -> dict[str, int]:
    """The totals of a row that are not 0."""
    return {
        name.removeprefix("total_"): value
        for name, value in row._asdict().items()
        if name.startswith("total_") and value
    }


# What there is to count


def real_pool() -> ServerPool:
    """A pool of the relay, with nobody in it."""
    keeper = SimpleNamespace(app=SimpleNamespace(door=SimpleNamespace()))
    database = DatabaseState(Database("db", "db"))
    return ServerPool(Poller(), keeper, database, UserState("ann"))


def test_every_counter_of_a_pool_has_a_total_and_an_average() -> None:
    """One more than a pool has was an IndexError in its first period."""
    pool = real_pool()
    assert len(pool.counters()) == COUNTERS
    assert len(StatsRow._fields) == 1 + 2 * COUNTERS
    told = [name.partition("_")[2] for name in StatsRow._fields[1:]]
    told[told.index("recv")] = "received"
    assert told[:COUNTERS] == told[COUNTERS:]
    pool.assignments = pool.logins = 3
    stats = Stats(0)
    assert stats.tick([pool], SECOND).startswith("stats: 0 xacts/s")
    assert pool.newer == pool.counters()
    row = stats.row("db", [pool], 2 * SECOND)
    assert row[0] == "db" and row[1] == row[COUNTERS] == 3
    assert len(row) == len(StatsRow._fields)


COUNTED = (
    "assignments", "transactions", "queries", "client_bytes", "server_bytes",
    "transaction_us", "query_us", "wait_us", "client_parses", "server_parses",
    "binds", "logins",
)  # fmt: skip


@pytest.mark.parametrize(("place", "name"), list(enumerate(COUNTED)))
def test_counters_stand_in_the_order_of_show_stats(place: int, name: str) -> None:
    pool = real_pool()
    setattr(pool, name, 7)
    assert pool.counters() == (0,) * place + (7,) + (0,) * (COUNTERS - place - 1)


# Averages


def test_averages_are_per_second_and_times_per_what_took_them() -> None:
    change = [0] * COUNTERS
    change[ASSIGNED], change[TRANSACTIONS], change[QUERIES] = 3, 4, 5
    change[RECEIVED], change[SENT], change[LOGINS] = 600, 700, 20
    change[TRANSACTION_US], change[QUERY_US], change[WAIT_US] = 4000, 10_000, 900
    found = averages(change, 2 * SECOND)
    assert found[:5] == [1, 2, 2, 300, 350]
    assert found[TRANSACTION_US : WAIT_US + 1] == [1000, 2000, 300]
    assert found[LOGINS] == 10


@pytest.mark.parametrize("place", [TRANSACTION_US, QUERY_US, WAIT_US])
def test_time_of_nothing_is_nothing(place: int) -> None:
    change = [0] * COUNTERS
    change[place] = 5
    assert averages(change, SECOND) == [0] * COUNTERS


# Periods


def test_periodic_line_tells_the_rates_of_the_last_period_of_all_pools() -> None:
    stats = Stats(0)
    one, two = Pool(xact_count=10), Pool(xact_count=30)
    assert stats.tick([one, two], 10 * SECOND).startswith("stats: 4 xacts/s, 0 queries")
    one.count(
        xact_count=4, query_count=6, received=8, sent=10, xact_time=40, query_time=60,
        wait_time=70, server_assignment_count=7, client_parse_count=12,
        server_parse_count=14, bind_count=16, client_login_count=18,
    )  # fmt: skip
    assert stats.tick([one, two], 12 * SECOND) == (
        "stats: 2 xacts/s, 3 queries/s, 6 client parses/s, 7 server parses/s, "
        "8 binds/s, 9 client logins/s, in 4 B/s, out 5 B/s, "
        "xact 10 us, query 10 us, wait 10 us"
    )
    # Nothing since.
    assert stats.tick([one, two], 14 * SECOND).startswith("stats: 0 xacts/s, 0 queries")


def test_averages_of_a_row_are_of_the_last_whole_period_until_now() -> None:
    stats = Stats(0)
    pool = Pool(xact_count=100)
    stats.tick([pool], 10 * SECOND)
    pool.count(xact_count=40)
    stats.tick([pool], 20 * SECOND)
    # 40 of the last period and none yet of this one, in 10 and 10 seconds.
    assert rates(stats.row("db", [pool], 30 * SECOND)) == {"xact_count": 2}
    pool.count(xact_count=20)
    row = stats.row("db", [pool], 30 * SECOND)
    assert rates(row) == {"xact_count": 3}
    assert totals(row) == {"xact_count": 160}
    # Two periods later nothing is left of them.
    stats.tick([pool], 40 * SECOND)
    stats.tick([pool], 50 * SECOND)
    assert rates(stats.row("db", [pool], 50 * SECOND)) == {}


def test_pool_that_was_idle_for_a_period_has_no_old_rates() -> None:
    """Its snapshots are turned as well, though there is nothing to add."""
    stats = Stats(0)
    pool = Pool(query_count=50)
    stats.tick([pool], 10 * SECOND)
    assert rates(stats.row("db", [pool], 10 * SECOND)) == {"query_count": 5}
    stats.tick([pool], 20 * SECOND)
    assert pool.older == pool.newer == pool.counters()
    assert rates(stats.row("db", [pool], 20 * SECOND)) == {}


def test_dropped_pools_count_in_totals_and_not_in_averages() -> None:
    stats = Stats(0)
    past = tuple(range(1, COUNTERS + 1))
    pools = [Pool(query_count=5), Pool(query_count=6, xact_count=1)]
    row = stats.row("db", pools, SECOND, [past, past])
    counted = totals(row)
    assert counted["server_assignment_count"] == 2
    assert counted["xact_count"] == 5 and counted["query_count"] == 17
    assert rates(row)["query_count"] == 11 // 2
    assert "received" not in rates(row)


def test_rows_before_the_first_period_and_within_its_first_moment() -> None:
    stats: Any = Stats(5 * SECOND)
    pool = Pool(query_count=6)
    # As if a second had passed before the start.
    assert rates(stats.row("db", [pool], 5 * SECOND)) == {"query_count": 6}
    stats.tick([pool], 5 * SECOND)
    assert (stats.previous, stats.last) == (5 * SECOND, 5 * SECOND)
    # No time at all is no division by it.
    assert stats.row("db", [pool], 5 * SECOND).avg_query_count == 6 * SECOND
