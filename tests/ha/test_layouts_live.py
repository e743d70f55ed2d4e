"""Each rendered layout, started for real in front of PostgreSQL with a standby."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest

from tests.ha.balancer import wait_for

pytestmark = [
    pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow"),
    pytest.mark.timeout(120),
]

# Hosts of each layout, and the places where a client may write and read. The layout
# rolling is the farm with a script; test_scenarios.py restarts its poolers.
SHAPES: dict[str, dict[str, Any]] = {
    "farm": {"poolers": 3, "balancers": 2},
    "patroni": {"poolers": 2, "balancers": 1},
    "db-hosts": {},
    "cascade": {"poolers": 2, "central": 2},
    "split": {"poolers": 2},
    "vip": {"poolers": 2, "balancers": 2},
    "regions": {"poolers": 2, "balancers": 1},
}
# Whose servers must have passed their checks before clients come: balancer, backend,
# servers.
SERVING: dict[str, list[tuple[str, ...]]] = {
    "farm": [("lb1", "site", "p1", "p2", "p3")],
    "patroni": [
        ("lb1", "site", "p1", "p2"),
        ("p1", "pg_rw", "n1"), ("p1", "pg_ro", "n2"),
        ("p2", "pg_rw", "n1"), ("p2", "pg_ro", "n2"),
    ],
    "db-hosts": [("lb1", "rw", "n1"), ("lb1", "ro", "n2")],
    "cascade": [("lb1", "central", "c1", "c2")],
    "split": [("lb1", "rw", "p1", "p2"), ("lb1", "ro", "p1-ro", "p2-ro")],
    "vip": [("lb1", "site", "p1", "p2")],
    "regions": [("lb1", "rw", "p1", "p2")],
}  # fmt: skip
READ_PORT = ("db-hosts", "split")


def is_standby(link) -> bool:
    return link.execute("select pg_is_in_recovery()").fetchone()[0]


@pytest.mark.parametrize("layout", SHAPES)
def test_layout_starts_and_serves_clients(site, layout):
    running = site(layout, **SHAPES[layout])
    entry = running.inventory.vip.bare if layout == "vip" else "lb1"
    if layout == "vip":
        # Both would hold the address here; one is at work.
        running.balancers["lb2"].stop()
    if layout == "cascade":
        entry = "p1"
    for balancer, backend, *servers in SERVING[layout]:
        running.wait_usable(balancer, backend, *servers)
    ports = running.inventory.ports
    with running.connect(entry, 6432 if layout == "cascade" else ports.write) as link:
        assert not is_standby(link)
        link.execute("create temp table t as select 1 as a")
    if layout in READ_PORT:
        with running.connect(entry, ports.read) as link:
            assert is_standby(link)
    if layout == "patroni":
        with running.connect(entry, ports.write, dbname="app_ro") as link:
            assert is_standby(link)


def cancel_when_it_runs(running, link) -> None:
    """Cancel the only query that waits, once PostgreSQL has it."""
    sql = "select count(*) from pg_stat_activity where query like '%pg_sleep(60)%'"
    busy = f"{sql} and pid <> pg_backend_pid() and state = 'active'"
    assert wait_for(lambda: running.cluster.primary.query(busy) == [["1"]], 30)
    link.cancel_safe()


def test_twelve_cancels_of_twelve_reach_their_pooler(site):
    running = site("farm", poolers=3, balancers=1)
    running.wait_usable("lb1", "site", "p1", "p2", "p3")
    cancelled = 0
    for _ in range(12):
        with running.connect() as link:
            words = (running, link)
            striker = threading.Thread(target=cancel_when_it_runs, args=words)
            striker.start()
            try:
                link.execute("select pg_sleep(60)")
            except psycopg.errors.QueryCanceled:
                cancelled += 1
            striker.join()
    assert cancelled == 12
    used = running.haproxy().picture()
    totals = [used.server("site", name).sessions_total for name in ("p1", "p2", "p3")]
    # Cancels went to other poolers than their queries did.
    assert all(totals)
