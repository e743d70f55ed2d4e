"""Clients that ask for something and leave while they wait for a server (case 4k).

Each kept its place among max_client_conn, so that a loop of clients that gave up filled
it with nobody there; and as many waited as had come.
"""

import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.wire import FakeClient, query, rows

TERMINATE = b"X\0\0\0\4"
TLS = {
    "client_tls_sslmode": "allow",
    "client_tls_key_file": "{certs}/bouncer.key",
    "client_tls_cert_file": "{certs}/bouncer.crt",
}
LEAVES: dict[str, Callable[[FakeClient], None]] = {
    "FIN": lambda client: client.close(),
    "half": lambda client: client.half_close(),
    "Terminate": lambda client: (client.send_bytes(TERMINATE), client.close())[0],
}


@pytest.fixture
def client_of() -> Iterator[Callable[..., FakeClient]]:
    made = []

    def login(one: Any, tls: bool = False) -> FakeClient:
        client = FakeClient(one.port)
        made.append(client)
        if tls:
            client.send_bytes(bytes.fromhex("0000000804d2162f"))
            assert client.sock.recv(1) == b"S"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            client.start_tls(context)
        assert client.login("p0", "u_trust")[-1]["type"] == "ReadyForQuery"
        return client

    yield login
    for client in made:
        client.close()


@pytest.fixture
def notes(postgres: Any) -> Iterator[Callable[[], list[int]]]:
    """A table that anybody may write to; what is in it, in order."""
    with postgres.connect() as direct:
        direct.execute("drop table if exists note")
        direct.execute("create table note (at serial, n int)")
        direct.execute("grant all on note, note_at_seq to public")
    yield lambda: [n for (n,) in direct_rows(postgres)]
    with postgres.connect() as direct:
        direct.execute("drop table note")


def direct_rows(postgres: Any) -> list[tuple[int]]:
    with postgres.connect() as direct:
        found: list[tuple[int]] = direct.execute("select n from note order by at")
        return list(found)


def is_full(one: Any) -> bool:
    with FakeClient(one.port) as client:
        return "max_client_conn" in str(client.login("p0", "u_trust"))


def leave(one: Any, client: FakeClient, number: int, how: str, waiting: int) -> None:
    client.send_bytes(query(f"insert into note (n) values ({number})"))
    one.wait_for_pool(lambda row: row["cl_waiting"] == waiting)
    LEAVES[how](client)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("how", LEAVES)
def test_who_leaves_is_served_in_turn_and_leaves_room_for_others(
    pooler: Any, client_of: Any, notes: Any, how: str, tls: bool
) -> None:
    one = pooler(
        {
            **(TLS if tls else {}),
            "pool_mode": "transaction",
            "default_pool_size": 1,
            "max_client_conn": 8,
        }
    )
    holder = client_of(one)
    holder.ask("begin")
    pid = rows(holder.ask("select pg_backend_pid()"))
    for number in range(1, 6):
        leave(one, client_of(one, tls), number, how, number)
    # Room for seven is left: the five have gone.
    stay = [client_of(one) for _ in range(7)]
    assert is_full(one)
    stay[0].send_bytes(query("insert into note (n) values (6)"))
    one.wait_for_pool(lambda row: row["cl_waiting"] == 6)
    holder.ask("commit")
    stay[0].until_ready()
    assert notes() == [1, 2, 3, 4, 5, 6]
    assert rows(stay[0].ask("select pg_backend_pid()")) == pid
    one.wait_for_pool(lambda row: row["cl_waiting"] == 0)
    # Nobody counts less than nothing afterwards.
    assert is_full(one)


def test_of_those_who_left_ten_wait_for_each_server_of_the_pool(
    pooler: Any, client_of: Any, notes: Any
) -> None:
    one = pooler({"pool_mode": "transaction", "default_pool_size": 1})
    holder = client_of(one)
    holder.ask("begin")
    for number in range(1, 11):
        leave(one, client_of(one), number, "FIN", number)
    for number in range(11, 15):
        client = client_of(one)
        client.send_bytes(query(f"insert into note (n) values ({number})"))
        one.wait_for_pool(lambda row: row["cl_waiting"] == 11)
        client.close()
        one.wait_for_pool(lambda row: row["cl_waiting"] == 10)
    holder.ask("commit")
    one.wait_for_pool(lambda row: row["cl_waiting"] == 0 and row["sv_active"] == 0)
    assert notes() == list(range(5, 15))


def test_query_wait_timeout_ends_those_who_left(
    pooler: Any, client_of: Any, notes: Any
) -> None:
    one = pooler(
        {
            "pool_mode": "transaction",
            "default_pool_size": 1,
            "query_wait_timeout": 3,
            "query_wait_notify": 1,
        }
    )
    holder = client_of(one)
    holder.ask("begin")
    leave(one, client_of(one), 1, "FIN", 1)
    one.wait_for_pool(lambda row: row["cl_waiting"] == 0)
    one.wait_for_log("closing because: query_wait_timeout")
    holder.ask("commit")
    assert notes() == []
