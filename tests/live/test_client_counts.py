"""Limits on clients count who is there, whatever the clients have sent."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.replay.pooler import wait_for
from tests.support.wire import FakeClient, error

AGAIN = "client re-sent startup pkt"
METHODS = ("trust", "plain", "md5", "scram-sha-256")


@pytest.fixture
def start(pooler: Callable[..., Any]) -> Callable[[str], Any]:
    """Start a pooler whose p1 takes two clients, and u_md5 three."""

    def begin(method: str) -> Any:
        return pooler(
            {"auth_type": method, "pool_mode": "transaction", "log_connections": 0},
            databases={
                "p0": "{pg} user=u_trust",
                "p1": "{pg} user=u_trust max_db_client_connections=2",
            },
            users={"u_md5": "me", "other": "it", "admin": "adminpass", "u_trust": ""},
            more="[users]\nu_md5 = max_user_client_connections=3\n",
        )

    return begin


def counts(one: Any) -> dict[str, int]:
    """How many clients each database has, as the limits count them."""
    return {
        row["name"]: row["current_client_connections"]
        for row in one.console("SHOW DATABASES")
    }


@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize(
    ("user", "database"), [("ghost", "p0"), ("other", "nowhere"), ("ghost", "nowhere")]
)
def test_max_db_client_connections_is_not_evaded_by_a_first_startup_packet(
    start: Callable[[str], Any], method: str, user: str, database: str
) -> None:
    """A startup packet of nobody, then one's own: eight of eight got in at two."""
    one = start(method)
    clients = [FakeClient(one.port) for _ in range(4)]
    try:
        for client in clients:
            client.start([["database", database], ["user", user]])
            client.next(10)  # the challenge
            seen = client.login("p1", "u_md5", "me")
            assert error(seen)["M"] == AGAIN, seen
            assert error(seen)["C"] == "08P01"
    finally:
        for client in clients:
            client.close()
    wait_for(lambda: counts(one)["p1"] == counts(one)["p0"] == 0, 10)


def test_second_startup_packet_after_the_login_is_an_unknown_packet(
    start: Callable[[str], Any],
) -> None:
    one = start("trust")
    names = [["database", "p0"], ["user", "u_md5"]]
    for _ in range(2):  # by a talk, and by the door
        with FakeClient(one.port) as client:
            assert client.login("p0", "u_md5")[-1]["type"] == "ReadyForQuery"
            client.start(names)
            assert error(client.until_ready())["M"] == "unknown pkt"
    with FakeClient(one.port) as client:
        assert client.login("pgbouncer", "admin")[-1]["type"] == "ReadyForQuery"
        client.start([["database", "pgbouncer"], ["user", "admin"]])
        assert error(client.until_ready())["S"] == "FATAL"


@pytest.mark.parametrize("method", METHODS)
def test_counts_are_exact_after_any_sequence_of_packets(
    start: Callable[[str], Any], method: str
) -> None:
    """Each client is charged once, for its first packet, and released once."""
    one = start(method)
    dice = random.Random(method)
    users = {"u_md5": "me", "other": "it", "ghost": "boo", "admin": "adminpass"}

    def begin(client: FakeClient) -> None:
        user = dice.choice(list(users))
        database = dice.choice(["p0", "p1", "nowhere", "pgbouncer"])
        secret = users[user] if dice.random() < 0.8 else "wrong"
        client.login(database, user, secret)

    def send(client: FakeClient) -> None:
        client.send(
            dice.choice(
                [
                    {"type": "SSLRequest"},
                    {"type": "GSSENCRequest"},
                    {"type": "CancelRequest", "key_hex": "0102030405060708"},
                    {"type": "PasswordMessage", "password": "x"},
                    {"type": "Query", "sql": "select 1"},
                    {"type": "Sync"},
                ]
            )
        )

    def start_only(client: FakeClient) -> None:
        user, database = dice.choice(list(users)), dice.choice(["p0", "p1", "nowhere"])
        client.start([["database", database], ["user", user]])

    for _ in range(40):
        clients = [FakeClient(one.port) for _ in range(5)]
        for client in clients:
            for _ in range(dice.randrange(1, 4)):
                try:
                    dice.choice([begin, send, start_only, start_only])(client)
                except OSError:
                    break
        now = counts(one)
        assert 0 <= now["p1"] <= 2 and 0 <= now["p0"] <= 5
        for client in clients:
            client.close()
        wait_for(lambda: counts(one)["p1"] == counts(one)["p0"] == 0, 10)
        assert counts(one)["p1"] == counts(one)["p0"] == 0
    # The limits are whole again: two get in at p1, a third does not.
    three = [FakeClient(one.port) for _ in range(3)]
    ends = [client.login("p1", "u_md5", "me")[-1]["type"] for client in three]
    assert ends[:2] == ["ReadyForQuery"] * 2 and ends[2] != "ReadyForQuery"
    for client in three:
        client.close()
