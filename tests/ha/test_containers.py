"""Several hosts for real: containers that freeze, vanish and share an address.

Runs where a Docker engine answers. The scenarios that need no hosts are in
test_scenarios.py and run everywhere.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.ha.balancer import wait_for
from tests.ha.containers import Hosts, engine, need_containers
from tests.ha.test_scenarios import SLACK, tell
from tests.ha.workload import Workload

pytestmark = [
    pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow"),
    pytest.mark.timeout(180),
]
NAMES = ("p1", "p2", "p3")


BALANCERS = ("lb1", "lb2")


@pytest.fixture(scope="module")
def farm(lab) -> Iterator[Hosts]:
    """Three poolers behind two balancers with keepalived, which share an address."""
    need_containers()
    directory = Path(lab.directory())
    directory.chmod(0o755)
    hosts = Hosts(engine(), directory)
    try:
        hosts.add("db", *NAMES, *BALANCERS)
        hosts.start_postgres()
        net = hosts["db"].address.rpartition(".")[0]
        hosts.render(
            "vip", NAMES, BALANCERS,
            vip={"address": f"{net}.250/24", "interface": "eth0"},
        )  # fmt: skip
        with ThreadPoolExecutor() as pool:
            list(pool.map(hosts.start_pooler, NAMES))
        for name in BALANCERS:
            hosts.start_haproxy(name)
            hosts.start_keepalived(name)
        yield hosts
    finally:
        hosts.stop()


@pytest.fixture(autouse=True)
def all_well(farm: Hosts) -> None:
    """Every pooler is in use at both balancers, and one of these has the address."""
    for name in BALANCERS:
        farm.wait_usable(*NAMES, balancer=name)
    assert eventually_usable(farm), [farm[name].output() for name in BALANCERS]


def workload(farm: Hosts) -> Workload:
    """Clients of the shared address."""
    return Workload(lambda: farm.connect(farm.address), farm.database)


def test_killed_pooler_in_a_container(farm):
    with workload(farm) as load:
        farm["p1"].kill("bouncer /")
        farm.wait_usable("p2", "p3")
        load.settle()
        farm.start_pooler("p1")
        farm.wait_usable(*NAMES)
    figures = load.figures()
    tell("containers: kill -9 of one pooler", figures)
    assert figures.lost == figures.after_reconnect == 0
    assert figures.longest_gap < 3 * SLACK


def test_frozen_host(farm):
    with workload(farm) as load:
        with farm["p1"].frozen():
            found = farm.wait_usable("p2", "p3")
            load.settle()
        farm.wait_usable(*NAMES)
        load.settle()
    figures = load.figures()
    tell("containers: host frozen", figures, found_after=found)
    assert figures.lost == figures.after_reconnect == 0
    assert figures.longest_gap < 4 * SLACK


def test_host_that_vanishes_from_the_network(farm):
    """Nothing is refused and nothing is closed: only time tells."""
    with workload(farm) as load:
        with farm["p1"].unplugged():
            found = farm.wait_usable("p2", "p3")
            load.settle()
        farm.wait_usable(*NAMES)
        load.settle()
    figures = load.figures()
    tell("containers: host unplugged", figures, found_after=found)
    assert figures.lost == 0
    assert figures.longest_gap < 5 * SLACK


@pytest.mark.regression(103)
def test_database_host_that_vanishes_is_waited_out(farm):
    with workload(farm) as load:
        with farm["db"].unplugged():
            time.sleep(5)
        load.settle()
    figures = load.figures()
    tell("containers: database host unplugged for 5 s", figures)
    assert figures.lost == 0
    assert figures.longest_gap < 5 + 4 * SLACK


def test_shared_address_moves_when_its_haproxy_dies(farm):
    holder = holder_of(farm)
    other = {"lb1": "lb2", "lb2": "lb1"}[holder]
    with workload(farm) as load:
        farm[holder].kill("haproxy -db")
        load.settle()
        assert holder_of(farm) == other
        # The first one comes back and does not take the address again.
        backups = farm[holder].output().count("Entering BACKUP STATE")
        farm.start_haproxy(holder)
        farm.wait_usable(*NAMES, balancer=holder)
        assert wait_for(
            lambda: farm[holder].output().count("Entering BACKUP STATE") > backups, 10
        ), farm[holder].output()[-1000:]
        load.settle()
        assert holder_of(farm) == other
    figures = load.figures()
    tell("containers: HAProxy of the address's holder killed", figures)
    assert figures.lost == 0
    assert figures.longest_gap < 8 * SLACK


def test_shared_address_moves_when_its_host_freezes(farm):
    holder = holder_of(farm)
    with workload(farm) as load:
        with farm[holder].frozen():
            load.settle(60)
    figures = load.figures()
    tell("containers: host of the address's holder frozen", figures)
    assert figures.lost == 0
    assert figures.longest_gap < 8 * SLACK


def eventually_usable(farm: Hosts) -> bool:
    return bool(wait_for(lambda: farm.can_use(farm.address, 6432), 30))


def holder_of(farm: Hosts) -> str:
    """The balancer that has the address; the other may not have noticed yet."""
    holders: list[str] = []

    def one() -> bool:
        holders[:] = [
            name
            for name in BALANCERS
            if f"{farm.address}/" in farm[name].run("ip -4 addr show dev eth0")
        ]
        return len(holders) == 1

    assert wait_for(one, 15), holders
    return holders[0]
