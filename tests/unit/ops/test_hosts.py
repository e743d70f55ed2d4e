"""Host lists and DNS, against a DNS server of our own on the loopback."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bouncer import log
from bouncer.config.settings import Settings
from bouncer.pool.hosts import (
    Address,
    Hosts,
    LookupFailed,
    NoSocketDirectory,
    order,
)
from tests.unit.ops.dns_server import AAAA, SERVFAIL, SOA, A, DnsServer

Scenario = Callable[["World"], Awaitable[None]]


class World:
    """The hosts under test, their DNS server and what was logged."""

    def __init__(self, server: DnsServer, resolv_conf: str, lines: list[str]) -> None:
        self.server = server
        self.lines = lines
        self.changes: list[tuple[str, set[str]]] = []
        self.settings = replace(
            Settings.defaults(), resolv_conf=resolv_conf, unix_socket_dir="/run/pg"
        )
        self.hosts: Hosts

    def run(self, scenario: Scenario, **settings: Any) -> None:
        """Play *scenario* in a fresh event loop."""

        async def play() -> None:
            self.hosts = Hosts(
                replace(self.settings, **settings),
                asyncio.get_running_loop(),
                lambda name, gone: self.changes.append((name, set(gone))),
            )
            try:
                await asyncio.wait_for(scenario(self), 20)
            finally:
                self.hosts.close()

        asyncio.run(play())

    async def ask(self, name: str, port: int = 5432) -> str:
        """Resolve *name*, whatever that takes; return the address."""
        found = self.hosts.resolve(name, port)
        if not isinstance(found, Address):
            found = await found
        return found.host


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    lines: list[str] = []
    monkeypatch.setattr(log, "info", lines.append)
    monkeypatch.setattr(log, "warning", lines.append)
    with DnsServer() as server:
        path = tmp_path / "resolv.conf"
        path.write_text(f"nameserver {server.address}\noptions timeout:1 attempts:1\n")
        yield World(server, str(path), lines)


async def until(condition: Callable[[], object]) -> None:
    """Wait until *condition* holds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


# No question


@pytest.mark.parametrize(
    ("host", "expected", "sockaddr", "text"),
    [
        (
            "127.0.0.1",
            Address(socket.AF_INET, "127.0.0.1", 5432),
            ("127.0.0.1", 5432),
            "127.0.0.1:5432",
        ),
        (
            "::1",
            Address(socket.AF_INET6, "::1", 5432),
            ("::1", 5432, 0, 0),
            "[::1]:5432",
        ),
        (
            "/tmp",
            Address(socket.AF_UNIX, "unix", 5432, "/tmp/.s.PGSQL.5432"),
            "/tmp/.s.PGSQL.5432",
            "unix:5432",
        ),
        (
            "@name",
            Address(socket.AF_UNIX, "unix", 5432, "@name/.s.PGSQL.5432"),
            "\0name/.s.PGSQL.5432",
            "unix:5432",
        ),
        (
            "",
            Address(socket.AF_UNIX, "unix", 5432, "/run/pg/.s.PGSQL.5432"),
            "/run/pg/.s.PGSQL.5432",
            "unix:5432",
        ),
    ],
)
def test_paths_and_numbers_ask_nobody(
    world: World, host: str, expected: Address, sockaddr: object, text: str
) -> None:
    async def scenario(world: World) -> None:
        found = world.hosts.resolve(host, 5432)
        assert found == expected
        assert isinstance(found, Address)
        assert (found.sockaddr, found.text) == (sockaddr, text)

    world.run(scenario)
    assert world.server.asked == []


def test_scope_of_a_link_local_address() -> None:
    address = Address(socket.AF_INET6, "fe80::1%lo", 5432)
    assert address.sockaddr == ("fe80::1", 5432, 0, socket.if_nametoindex("lo"))


def test_broken_ipv6_address_is_no_name(world: World) -> None:
    async def scenario(world: World) -> None:
        with pytest.raises(LookupFailed):
            world.hosts.resolve("fe80::zz", 5432)

    world.run(scenario)


def test_no_host_and_no_unix_socket_dir(world: World) -> None:
    async def scenario(world: World) -> None:
        with pytest.raises(NoSocketDirectory):
            world.hosts.resolve("", 5432)

    world.run(scenario, unix_socket_dir="")


# Names


def test_answer_is_cached_and_its_addresses_take_turns(world: World) -> None:
    world.server.hosts["db.test"] = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]

    async def scenario(world: World) -> None:
        first = world.hosts.resolve("db.test", 5432)
        assert not isinstance(first, Address)
        seen = [(await first).host]
        for _ in range(3):
            found = world.hosts.resolve("db.test", 5433)
            assert isinstance(found, Address)
            assert found.port == 5433 and found.name == "db.test"
            seen.append(found.host)
        assert sorted(seen[:3]) == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
        assert seen[3] == seen[0]
        ((name, ttl, addresses),) = world.hosts.host_rows()
        assert (name, len(addresses)) == ("db.test", 3)
        assert 13 <= ttl <= 15

    world.run(scenario)
    assert world.server.count("db.test") == 1


@pytest.mark.regression(113)
def test_many_who_wait_ask_once(world: World) -> None:
    world.server.hosts["db.test"] = ["127.0.0.1"]

    async def scenario(world: World) -> None:
        assert (
            await asyncio.gather(*[world.ask("db.test") for _ in range(50)])
            == ["127.0.0.1"] * 50
        )
        assert world.hosts.pending == 0

    world.run(scenario)
    assert world.server.count("db.test", A) == 1
    assert world.server.count("db.test", AAAA) == 1


@pytest.mark.regression(113)
def test_dns_max_ttl_counts_and_not_the_records(world: World) -> None:
    world.server.hosts["db.test"] = ["127.0.0.1"]
    world.server.ttl = 3600

    async def scenario(world: World) -> None:
        await world.ask("db.test")
        world.server.hosts["db.test"] = ["127.0.0.2"]
        assert await world.ask("db.test") == "127.0.0.1"
        await asyncio.sleep(0.25)
        assert await world.ask("db.test") == "127.0.0.2"

    world.run(scenario, dns_max_ttl=0.2)
    assert world.changes == [("db.test", {"127.0.0.1"})]


@pytest.mark.regression(113)
def test_dns_max_ttl_zero_asks_every_time(world: World) -> None:
    world.server.hosts["db.test"] = ["127.0.0.1"]

    async def scenario(world: World) -> None:
        for _ in range(3):
            assert await world.ask("db.test") == "127.0.0.1"
        assert world.hosts.host_rows()[0].ttl == 0

    world.run(scenario, dns_max_ttl=0)
    assert world.server.count("db.test") == 3


def test_address_that_comes_or_moves_is_no_change(world: World) -> None:
    world.server.hosts["db.test"] = ["127.0.0.1"]

    async def scenario(world: World) -> None:
        await world.ask("db.test")
        world.server.hosts["db.test"] = ["127.0.0.2", "127.0.0.1"]
        await world.ask("db.test")
        world.server.hosts["db.test"] = ["127.0.0.1", "127.0.0.2"]
        await world.ask("db.test")

    world.run(scenario, dns_max_ttl=0)
    assert world.changes == []


@pytest.mark.parametrize("case", ["unknown", "empty"])
def test_dns_nxdomain_ttl_keeps_a_failure(world: World, case: str) -> None:
    if case == "empty":
        world.server.hosts["db.test"] = []

    async def scenario(world: World) -> None:
        for _ in range(3):
            with pytest.raises(LookupFailed):
                await world.ask("db.test")
        assert world.hosts.host_rows()[0].addrs == ()
        assert world.lines == ["DNS lookup failed: db.test: result=0"]
        world.server.hosts["db.test"] = ["127.0.0.1"]
        await asyncio.sleep(0.35)
        assert await world.ask("db.test") == "127.0.0.1"

    world.run(scenario, dns_nxdomain_ttl=0.3)
    assert world.server.count("db.test") == 2


@pytest.mark.regression(113)
def test_name_that_is_gone_has_no_address(world: World) -> None:
    world.server.hosts["db.test"] = ["127.0.0.1"]

    async def scenario(world: World) -> None:
        await world.ask("db.test")
        del world.server.hosts["db.test"]
        with pytest.raises(LookupFailed):
            await world.ask("db.test")

    world.run(scenario, dns_max_ttl=0)
    assert world.changes == []


@pytest.mark.regression(113)
def test_resolver_that_fails_leaves_the_old_answer_in_force(world: World) -> None:
    world.server.hosts["db.test"] = ["127.0.0.1"]

    async def scenario(world: World) -> None:
        await world.ask("db.test")
        world.server.failures["db.test"] = SERVFAIL
        assert await world.ask("db.test") == "127.0.0.1"
        assert world.lines == ["DNS lookup failed: db.test: result=0"]
        world.server.failures.clear()
        world.server.silent.add("db.test")
        world.hosts.configure(replace(world.hosts.settings, dns_nxdomain_ttl=0))

    world.run(scenario, dns_max_ttl=0)


def test_resolver_that_is_silent_ends_in_a_failure(world: World) -> None:
    world.server.silent.add("db.test")

    async def scenario(world: World) -> None:
        with pytest.raises(LookupFailed):
            await world.ask("db.test")

    world.run(scenario)
    assert world.lines == ["DNS lookup failed: db.test: result=0"]


@pytest.mark.parametrize("name", ["a..b", "x" * 70, "exämple.test", "with blank.test"])
def test_name_that_cannot_be_asked_for_is_a_failure(world: World, name: str) -> None:
    async def scenario(world: World) -> None:
        with pytest.raises(LookupFailed):
            await world.ask(name)

    world.run(scenario)
    assert world.lines == [f"DNS lookup failed: {name}: result=0"]


def test_only_one_kind_of_address_until_it_fails(world: World) -> None:
    world.server.hosts["db.test"] = ["127.0.0.1", "::1", "127.0.0.2"]

    async def scenario(world: World) -> None:
        seen = {await world.ask("db.test") for _ in range(4)}
        assert seen == {"127.0.0.1", "127.0.0.2"}
        failed = world.hosts.resolve("db.test", 1)
        assert isinstance(failed, Address)
        world.hosts.connect_failed(failed)
        # Said again by a connection that began before: changes nothing back.
        world.hosts.connect_failed(failed)
        assert {await world.ask("db.test") for _ in range(3)} == {"::1"}

    world.run(scenario)


def test_kind_of_address_that_has_failed_has_its_turn_when_the_other_fails(
    world: World,
) -> None:
    """It was lost until the name was asked for again."""
    world.server.hosts["db.test"] = ["127.0.0.1", "::1", "127.0.0.2"]

    async def scenario(world: World) -> None:
        for kind in ({"127.0.0.1", "127.0.0.2"}, {"::1"}) * 2:
            assert {await world.ask("db.test") for _ in range(4)} == kind
            (row,) = world.hosts.host_rows()
            assert set(row.addrs) == kind
            failed = world.hosts.resolve("db.test", 1)
            assert isinstance(failed, Address)
            world.hosts.connect_failed(failed)

    world.run(scenario)
    assert world.server.count("db.test") == 1


def test_order_prefers_what_has_a_route() -> None:
    assert order(["::1", "127.0.0.1"]) == ("127.0.0.1", "::1")
    assert order([]) == ()


# Zones


def test_zone_serial_that_grows_makes_its_names_be_asked_again(world: World) -> None:
    world.server.hosts["db.z.test"] = ["127.0.0.1"]
    world.server.zones["z.test"] = 7

    async def scenario(world: World) -> None:
        await world.ask("db.z.test")
        await until(lambda: world.server.count("db.z.test") == 2)
        world.server.hosts["db.z.test"] = ["127.0.0.2"]
        world.server.zones["z.test"] = 5
        asked = world.server.count("z.test", SOA)
        await until(lambda: world.server.count("z.test", SOA) > asked + 1)
        assert await world.ask("db.z.test") == "127.0.0.1"
        world.server.zones["z.test"] = 8
        await until(lambda: world.changes)
        assert await world.ask("db.z.test") == "127.0.0.2"
        assert world.hosts.zone_rows() == [("z.test", 8, 1)]

    world.run(scenario, dns_zone_check_period=0.05)
    assert world.lines == [
        "zone 'z.test' serial changed: old=0 new=7",
        "zone 'z.test' serial changed: old=7 new=8",
    ]
    assert world.changes == [("db.z.test", {"127.0.0.1"})]


def test_zone_serial_wraps_around(world: World) -> None:
    world.server.hosts["db.z.test"] = ["127.0.0.1"]
    world.server.zones["z.test"] = 0x7FFFFFFF

    async def scenario(world: World) -> None:
        await world.ask("db.z.test")
        await until(lambda: len(world.lines) == 1)
        world.server.zones["z.test"] = 0xFFFFFFF0
        await until(lambda: len(world.lines) == 2)
        world.server.zones["z.test"] = 3
        await until(lambda: len(world.lines) == 3)

    world.run(scenario, dns_zone_check_period=0.05)
    assert world.lines[2] == "zone 'z.test' serial changed: old=4294967280 new=3"


def test_zones_are_not_asked_without_dns_zone_check_period(world: World) -> None:
    world.server.hosts |= {"a.z.test": ["127.0.0.1"], "b.z.test": ["127.0.0.1"]}
    world.server.hosts["single"] = ["127.0.0.1"]

    async def scenario(world: World) -> None:
        for name in ("a.z.test", "b.z.test", "single"):
            await world.ask(name)
        assert world.hosts.zone_rows() == [("z.test", 0, 2)]
        await asyncio.sleep(0.1)
        assert world.server.count("z.test", SOA) == 0
        world.hosts.configure(replace(world.hosts.settings, dns_zone_check_period=0.02))
        await until(lambda: world.server.count("z.test", SOA))

    world.run(scenario)
