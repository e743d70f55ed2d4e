"""A pause lets those go on who are busy, and whoever cancels them get through."""

import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.replay.client import Client, Patience
from tests.replay.pooler import wait_for
from tests.support.wire import FakeClient, error

CANCELLED = "canceling statement due to user request"
BUSY = 4


class Local(Client):  # type: ignore[misc]
    """A client of the Unix socket, which a shutdown leaves open."""

    def __init__(self, one: Any) -> None:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(20)
        sock.connect(str(one.directory / f".s.PGSQL.{one.port}"))
        super().__init__(sock, Patience())


def console(one: Any, command: str) -> FakeClient:
    """Ask for it from a console that waits for the answer until the end."""
    made = FakeClient(one.port)
    made.login("pgbouncer", "admin", one.users["admin"])
    made.send({"type": "Query", "sql": command})
    one.wait_for_log(f"{command.split()[0]} .*command issued")
    return made


@pytest.mark.parametrize("way", ["PAUSE", "PAUSE p0", "SIGINT"])
def test_every_cancel_arrives_in_a_pause(
    pooler: Callable[..., Any], postgres: Any, way: str
) -> None:
    """One of four did; the others' connections were closed: `pause mode`, a failure.

    The queries ran on, with nobody who could end them.
    """
    one = pooler(
        {"pool_mode": "transaction", "default_pool_size": BUSY, "max_client_conn": 50},
        may_end=True,
    )
    clients = [FakeClient(one.port, seconds=20) for _ in range(BUSY)]
    for client in clients:
        client.login("p0", "u_trust")
        client.send({"type": "Query", "sql": "select pg_sleep(60)"})
    asleep = "select 1 from pg_stat_activity where query like 'select pg_sleep(60)%'"
    asleep += " and state = 'active'"
    assert wait_for(lambda: len(postgres.rows(asleep)) == BUSY, 10)
    waiting = None
    if way == "SIGINT":
        one.interrupt("SIGINT")
        one.wait_for_log("got SIGINT")
    else:
        waiting = console(one, way)
    # All of them first, so that all wait for a connection at once.
    askers = [Local(one) for _ in clients]
    for asker, client in zip(askers, clients, strict=True):
        asker.send({"type": "CancelRequest", "key_hex": client.key_hex})
    answers: list[Any] = []

    def collect(client: FakeClient) -> None:
        answers.append(error(client.until_ready()).get("M"))

    readers = [threading.Thread(target=collect, args=[one]) for one in clients]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(25)
    assert answers == [CANCELLED] * BUSY
    assert not one.log_matches("login has been failing|failed to send cancel")
    for each in (*askers, *clients, waiting):
        if each is not None:
            each.sock.close()


def test_clients_that_cancel_in_a_pause_leave_no_failure_behind(
    pooler: Callable[..., Any], postgres: Any
) -> None:
    """`pause mode` counted as a failed login: behind RESUME everybody was refused."""
    one = pooler({"pool_mode": "transaction", "default_pool_size": 2})
    with FakeClient(one.port, seconds=20) as client:
        client.login("p0", "u_trust")
        client.send({"type": "Query", "sql": "select pg_sleep(60)"})
        one.wait_for_pool(lambda row: row["sv_active"] == 1)
        waiting = console(one, "PAUSE")
        askers = [Local(one) for _ in range(4)]
        for asker in askers:
            asker.send({"type": "CancelRequest", "key_hex": client.key_hex})
        assert error(client.until_ready())["M"] == CANCELLED
        waiting.sock.close()
        one.console("RESUME")
        assert client.ask("select 1")[-1]["type"] == "ReadyForQuery"
    assert not one.log_matches("login has been failing")
    for asker in askers:
        asker.sock.close()
