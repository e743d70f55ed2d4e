"""Many times the same: no descriptor, no memory, no object stays behind.

The short forms are part of `make test`; `make soak` runs the long ones.
"""

import contextlib
import resource
import socket

import pytest

from tests.bench.load import read_ready, startup_packet
from tests.replay.pooler import wait_for
from tests.support.wire import FakeClient, query, rows

MEGABYTE = 1_000_000
LONG = pytest.param(
    True, marks=[pytest.mark.slow, pytest.mark.timeout(3600)], id="long"
)
SHORT = pytest.param(False, id="short")
POOL_SIZE = 2


def one_cycle(port: int) -> None:
    """Connect, log in, ask, leave."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(startup_packet("p0", "u_trust"))
        read_ready(sock)
        sock.sendall(query("select 1"))
        read_ready(sock)
        sock.sendall(b"X\0\0\0\4")


def settle(one, descriptors: int) -> None:
    """Wait until all that was opened is closed again, the pool's servers aside."""
    assert wait_for(lambda: one.descriptors() <= descriptors + POOL_SIZE, 10), (
        f"{one.descriptors()} descriptors, {descriptors} before"
    )


@pytest.mark.regression(83)
@pytest.mark.parametrize("is_long", [SHORT, LONG])
def test_connections_that_came_and_went_leave_nothing(pooler, is_long):
    one = pooler({"pool_mode": "transaction", "default_pool_size": POOL_SIZE})
    warm, cycles = (20_000, 100_000) if is_long else (500, 2_000)
    for _ in range(warm):
        one_cycle(one.port)
    one.wait_for_pool(lambda row: row["cl_active"] == 0)
    memory, descriptors = one.memory(), one.descriptors()
    for _ in range(cycles):
        one_cycle(one.port)
    one.wait_for_pool(lambda row: row["cl_active"] == 0)
    settle(one, descriptors)
    assert one.memory() - memory < 2 * MEGABYTE
    assert [r for r in one.console("SHOW CLIENTS") if r["database"] == "p0"] == []


@pytest.mark.parametrize("is_long", [SHORT, LONG])
def test_broken_connections_leave_nothing(pooler, is_long):
    """Reset in the middle of a login, of a message, of a transaction."""
    one = pooler({"pool_mode": "transaction", "default_pool_size": POOL_SIZE})
    packet = startup_packet("p0", "u_trust")

    def break_one(number: int) -> None:
        with contextlib.suppress(OSError), FakeClient(one.port) as client:
            kind = number % 4
            if kind == 0:
                client.send_bytes(packet[: number % len(packet)])
            elif kind == 1:
                client.send_bytes(packet)
            else:
                client.login("p0", "u_trust")
                client.send_bytes(query("select 1")[: number % 9])
            client.reset()

    for number in range(400):
        break_one(number)
    one.wait_for_pool(lambda row: row["cl_active"] == 0)
    memory, descriptors = one.memory(), one.descriptors()
    for number in range(50_000 if is_long else 800):
        break_one(number)
    one.wait_for_pool(lambda row: row["cl_active"] == 0)
    settle(one, descriptors)
    assert one.memory() - memory < 2 * MEGABYTE


@pytest.mark.regression(106)
@pytest.mark.parametrize("is_long", [SHORT, LONG])
def test_reload_again_and_again_leaves_nothing(pooler, is_long):
    one = pooler({"pool_mode": "transaction"})
    with one.connect() as client, one.connect("pgbouncer", "admin") as console:
        console.prepare_threshold = None
        for number in range(1_000 if is_long else 60):
            if number == 30:
                memory, descriptors = one.memory(), one.descriptors()
            # Some of them with a change that matters.
            if number % 10 == 0:
                one.ini = {**one.ini, "default_pool_size": 5 + number % 3}
                one.write_configuration()
            console.execute("RELOAD")
            assert client.execute("select 1").fetchone() == (1,)
        settle(one, descriptors)
        assert one.memory() - memory < 2 * MEGABYTE


@pytest.mark.regression(117)
@pytest.mark.timeout(300)
def test_ten_thousand_clients_are_shown_while_queries_pass(pooler, postgres):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(10_000, hard - 500)
    one = pooler({"pool_mode": "transaction", "max_client_conn": count + 100})
    packet = startup_packet("p0", "u_trust")
    clients: list[socket.socket] = []
    try:
        before = one.memory()
        while len(clients) < count:
            group = []
            for _ in range(min(50, count - len(clients))):
                sock = socket.create_connection(("127.0.0.1", one.port))
                sock.sendall(packet)
                group.append(sock)
            for sock in group:
                read_ready(sock)
            clients += group
        assert (one.memory() - before) / count < 4_000
        with FakeClient(one.port, seconds=30) as console, one.connect() as busy:
            console.login("pgbouncer", "admin")
            shown = rows(console.ask("SHOW CLIENTS"))
            assert len(shown) == count + 2
            assert busy.execute("select 'served'").fetchone() == ("served",)
    finally:
        for sock in clients:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    one.wait_for_pool(lambda row: row["cl_active"] == 0)
