"""Several hosts for real: containers that freeze, vanish and share an address.

Runs where a Docker engine answers. The scenarios that need no hosts are in
test_scenarios.py and run everywhere.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ha.containers import HOST_DIRECTORY, Hosts, engine, reason_without_containers
from tests.ha.test_scenarios import SLACK, tell
from tests.ha.workload import Workload

WITHOUT = reason_without_containers()
pytestmark = [
    pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow"),
    # Making the image takes minutes, once.
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(WITHOUT), reason=WITHOUT or "runs in containers"),
]
NAMES = ("p1", "p2", "p3")


@pytest.fixture
def hosts(lab) -> Iterator[Hosts]:
    print("hosts are containers, started by testcontainers")
    directory = Path(lab.directory())
    directory.chmod(0o755)
    running = Hosts(engine(), directory)
    try:
        running.start_postgres()
        yield running
    finally:
        running.stop()


@pytest.fixture
def farm(hosts: Hosts) -> Hosts:
    hosts.render("farm", poolers=3, balancers=1)
    for name in NAMES:
        hosts.start_pooler(name)
    hosts.start_haproxy("lb1")
    hosts.wait_usable(*NAMES)
    return hosts


def workload(hosts: Hosts, address: str) -> Workload:
    return Workload(lambda: hosts.connect(address), hosts.database)


def test_killed_pooler_in_a_container(farm):
    with workload(farm, farm["lb1"].address) as load:
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
    with workload(farm, farm["lb1"].address) as load:
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
    with workload(farm, farm["lb1"].address) as load:
        with farm["p1"].unplugged():
            found = farm.wait_usable("p2", "p3")
            load.settle()
        farm.wait_usable(*NAMES)
        load.settle()
    figures = load.figures()
    tell("containers: host unplugged", figures, found_after=found)
    assert figures.lost == 0
    assert figures.longest_gap < 5 * SLACK


def test_database_host_that_vanishes_is_waited_out(farm):
    with workload(farm, farm["lb1"].address) as load:
        with farm["db"].unplugged():
            time.sleep(5)
        load.settle()
    figures = load.figures()
    tell("containers: database host unplugged for 5 s", figures)
    assert figures.lost == 0
    assert figures.longest_gap < 5 + 4 * SLACK


@pytest.fixture
def pair(hosts: Hosts) -> Hosts:
    """Two balancers with keepalived, which share an address."""
    net = hosts["db"].address.rpartition(".")[0]
    hosts.render(
        "vip", poolers=2, balancers=2,
        vip={"address": f"{net}.250/24", "interface": "eth0"},
    )  # fmt: skip
    for name in ("p1", "p2"):
        hosts.start_pooler(name)
    for name in ("lb1", "lb2"):
        hosts.start_haproxy(name)
        hosts.wait_usable("p1", "p2", balancer=name)
        hosts[name].run(
            f"cp -r {HOST_DIRECTORY}/etc/keepalived /etc/ && "
            "chown -R root:root /etc/keepalived"
        )
        hosts[name].start("keepalived -n -l -D")
    return hosts


def test_shared_address_moves_when_its_haproxy_dies(pair):
    address = pair.inventory.vip.bare
    assert eventually_usable(pair, address)
    holder = holder_of(pair, address)
    other = {"lb1": "lb2", "lb2": "lb1"}[holder]
    with workload(pair, address) as load:
        pair[holder].kill("haproxy -db")
        load.settle()
        assert holder_of(pair, address) == other
        # The first one comes back and does not take the address again.
        pair.start_haproxy(holder)
        pair.wait_usable("p1", "p2", balancer=holder)
        time.sleep(4)
        assert holder_of(pair, address) == other
    figures = load.figures()
    tell("containers: HAProxy of the address's holder killed", figures)
    assert figures.lost == 0
    assert figures.longest_gap < 8 * SLACK


def test_shared_address_moves_when_its_host_freezes(pair):
    address = pair.inventory.vip.bare
    assert eventually_usable(pair, address)
    holder = holder_of(pair, address)
    with workload(pair, address) as load:
        with pair[holder].frozen():
            load.settle(120)
    figures = load.figures()
    tell("containers: host of the address's holder frozen", figures)
    assert figures.lost == 0


def eventually_usable(hosts: Hosts, address: str) -> bool:
    from tests.ha.balancer import wait_for

    return bool(wait_for(lambda: hosts.can_use(address, 6432), 30))


def holder_of(hosts: Hosts, address: str) -> str:
    for name in ("lb1", "lb2"):
        if f"{address}/" in hosts[name].run("ip -4 addr show dev eth0"):
            return name
    raise AssertionError("nobody holds the address")
