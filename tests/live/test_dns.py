"""Server names that move: the whole program with a DNS server of our own.

The servers are fakes that answer each query with the address they listen on, so a
client sees where it has landed. All listen on one port of different loopback addresses.
A PgBouncer built with an old c-ares reads no port in resolv.conf and finds nobody here.
"""

import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.replay.pooler import wait_for
from tests.support.wire import FakeClient, FakeServer, ServerTalk, rows
from tests.unit.ops.dns_server import SOA, DnsServer

A, B, C = "127.0.0.1", "127.0.0.2", "127.0.0.3"
NAME, ZONE = "db.example.test", "example.test"


class Place(FakeServer):
    """A server at one address, which is all it ever says."""

    def __init__(self, address: str, port: int) -> None:
        self.address = address
        super().__init__(port, self.say_where)

    def listen(self) -> None:
        """Listen on its own address."""
        if self._listener is None:
            self._listener = socket.create_server((self.address, self.port))
            threading.Thread(
                target=self._accept, args=(self._listener,), daemon=True
            ).start()

    def say_where(self, talk: ServerTalk) -> None:
        """Answer each query with the address."""
        if talk.login():
            while message := talk.read():
                if message["type"] == "Query":
                    talk.answer(self.address)


@pytest.fixture
def dns() -> Iterator[DnsServer]:
    """The DNS server that the pooler asks."""
    with DnsServer() as server:
        yield server


@pytest.fixture
def places(free_port: Callable[[], int]) -> Iterator[dict[str, Place]]:
    """A server at each address."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        found = {}
        for address in (A, B, C):
            found[address] = Place(address, port)
            stack.callback(found[address].close)
        yield found


@pytest.fixture
def make_pooler(pooler, dns: DnsServer, places: dict[str, Place]):
    """A pooler that asks *dns*, with a database `d` at *host*."""

    def start(host: str = NAME, entry: str = "", **settings: Any):
        ini = {
            "pool_mode": "transaction",
            "resolv_conf": "{dir}/resolv.conf",
            "server_login_retry": 0.1,
            **settings,
        }
        place = f"host='{host}' port={places[A].port} {entry}"
        databases = {"d": place}
        one = pooler(ini, databases=databases, server_port=places[A].port, run=False)
        path = one.directory / "resolv.conf"
        path.write_text(f"nameserver {dns.address}\noptions timeout:1 attempts:1\n")
        one.identity.own(one.directory)
        return one.run()

    return start


def ask(one) -> str:
    """Where a client of *one* lands now."""
    with FakeClient(one.port) as client:
        client.login("d", "u_trust")
        return where(client)


def where(client: FakeClient) -> str:
    """Where the next transaction of *client* lands."""
    found = rows(client.ask("where am I"))
    return found[0][0] if found else "nowhere"


def dns_row(one, view: str) -> dict[str, Any]:
    """The only row of SHOW DNS_HOSTS or DNS_ZONES."""
    found = one.console(f"SHOW {view}")
    assert len(found) == 1
    return dict(found[0])


def test_answer_that_changes_moves_clients_after_dns_max_ttl(make_pooler, dns):
    """Idle servers at the old address are closed once a new answer lacks it."""
    dns.hosts[NAME] = [A]
    # Each connection is used once, so that names are asked for again.
    one = make_pooler(dns_max_ttl=1, server_lifetime=0)
    with FakeClient(one.port) as client:
        client.login("d", "u_trust")
        assert where(client) == A
        assert dns_row(one, "DNS_HOSTS")["hostname"] == NAME
        dns.hosts[NAME] = [B]
        assert wait_for(lambda: where(client) == B, 10)
    # Within its life the answer was not asked for again: twice or thrice in all.
    assert dns.count(NAME) <= 6


def test_new_answer_closes_servers_at_addresses_it_lacks(make_pooler, dns):
    dns.hosts[NAME] = [A]
    one = make_pooler(dns_max_ttl=0.2, default_pool_size=100, pool_mode="session")
    with contextlib.ExitStack() as stack:

        def another() -> str:
            client = stack.enter_context(FakeClient(one.port))
            client.login("d", "u_trust")
            return where(client)

        holder = stack.enter_context(FakeClient(one.port))
        holder.login("d", "u_trust")
        assert where(holder) == A
        dns.hosts[NAME] = [B]
        assert wait_for(lambda: another() == B, 10)
        # Who holds a server keeps it to its end.
        assert where(holder) == A

    def addresses() -> set[str]:
        return {row["addr"] for row in one.console("SHOW SERVERS")}

    # All clients have left: those servers are closed, the new one stays.
    assert wait_for(lambda: addresses() == {B}, 10)


def test_zone_serial_that_grows_moves_clients_without_waiting_for_the_ttl(
    make_pooler, dns, places
):
    dns.hosts[NAME] = [A]
    dns.zones[ZONE] = 2024010100
    one = make_pooler(dns_max_ttl=3600, dns_zone_check_period=0.3)
    with FakeClient(one.port) as client:
        client.login("d", "u_trust")
        assert where(client) == A
        one.wait_for_log(f"zone '{ZONE}' serial changed: old=0 new=2024010100")
        # The answer changes, but as long as the serial stays nobody looks.
        dns.hosts[NAME] = [B]
        asked = dns.count(ZONE, SOA)
        assert wait_for(lambda: dns.count(ZONE, SOA) >= asked + 3, 10)
        assert where(client) == A
        dns.zones[ZONE] += 1
        one.wait_for_log(f"zone '{ZONE}' serial changed: old=2024010100 new=2024010101")
        assert wait_for(lambda: where(client) == B, 10)
        one.wait_for_log("closing because: database configuration changed|obsolete")
        row = dns_row(one, "DNS_ZONES")
        assert (row["zonename"], int(row["serial"])) == (ZONE, 2024010101)


def landings(one, count):
    """How many of *count* clients at once are served by which address."""
    with contextlib.ExitStack() as stack:
        landed = Counter()
        for _ in range(count):
            client = stack.enter_context(FakeClient(one.port))
            client.login("d", "u_trust")
            landed[where(client)] += 1
    return landed


def test_addresses_of_one_name_take_turns(make_pooler, dns):
    dns.hosts[NAME] = [A, B, C]
    one = make_pooler(pool_mode="session", default_pool_size=9)
    assert landings(one, 9) == {A: 3, B: 3, C: 3}
    assert dns.count(NAME) == 1


def test_name_that_does_not_exist_yet_is_found_after_dns_nxdomain_ttl(make_pooler, dns):
    one = make_pooler(dns_nxdomain_ttl=0.5)
    landed: list[str] = []
    early = threading.Thread(target=lambda: landed.append(ask(one)))
    early.start()
    one.wait_for_log(f"DNS lookup failed: {NAME}: result=0")
    one.wait_for_log("closing because: server DNS lookup failed")
    dns.hosts[NAME] = [B]
    # Who has waited since then is served, too.
    early.join(10)
    assert landed == [B]
    assert ask(one) == B


def test_dns_server_that_is_silent_leaves_the_last_answer_in_force(make_pooler, dns):
    dns.hosts[NAME] = [A]
    one = make_pooler(dns_max_ttl=0.01, dns_nxdomain_ttl=60, server_lifetime=0)
    assert ask(one) == A
    dns.silent.add(NAME)
    with FakeClient(one.port) as client:
        client.login("d", "u_trust")
        assert wait_for(lambda: where(client) and one.log_matches("DNS lookup"), 10)
        assert where(client) == A


@pytest.mark.parametrize("balance", ["round-robin", "disable"])
def test_load_balance_hosts_over_names(make_pooler, dns, balance):
    dns.hosts |= {"a.test": [A], "b.test": [B]}
    one = make_pooler(
        "a.test,b.test", f"load_balance_hosts={balance}", pool_mode="session"
    )
    assert landings(one, 6) == ({A: 6} if balance == "disable" else {A: 3, B: 3})


def test_load_balance_hosts_disable_goes_on_to_the_next_when_one_is_down(
    make_pooler, dns, places
):
    dns.hosts |= {"a.test": [A], "b.test": [B]}
    one = make_pooler("a.test,b.test", "load_balance_hosts=disable")
    assert ask(one) == A
    places[A].close()
    assert wait_for(lambda: attempt(one) == B, 10)
    assert {ask(one) for _ in range(3)} == {B}


def attempt(one) -> str:
    """Like `ask`, but a refused login is no answer rather than a failure."""
    with contextlib.suppress(OSError):
        return ask(one)
    return "nowhere"
