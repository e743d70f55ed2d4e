"""Cuts, half-closes, resets and kills, on either side, at any byte.

After each of them the next client of the pool must get its own answers, whether the
server is used again or was closed.
"""

import contextlib
import random
import time

import psycopg
import pytest

from tests.support.checker import Crew
from tests.support.cutting import DOWN, UP, Cut, CuttingProxy
from tests.support.wire import FakeClient, FakeServer, error, rows

pytestmark = pytest.mark.adversity

DIALOGUE = [
    {"type": "Parse", "name": "s", "sql": "select 'cut-' || $1::text"},
    {"type": "Bind", "statement": "s", "params": ["one"]},
    {"type": "Describe", "kind": "P"},
    {"type": "Execute"},
    {"type": "Sync"},
    {"type": "Query", "sql": "begin"},
    {"type": "Query", "sql": "select 'cut-two'"},
    {"type": "Query", "sql": "commit"},
]
ANSWERS = [["cut-one"], ["cut-two"]]
INI = {"pool_mode": "transaction", "default_pool_size": 1, "server_login_retry": "0.05"}


def dialogue(port: int) -> list:
    """Log in and hold the dialogue, as far as it goes."""
    with contextlib.suppress(OSError), FakeClient(port) as client:
        if client.login("p0", "u_trust")[-1]["type"] != "ReadyForQuery":
            return []
        client.send(*DIALOGUE)
        return client.until_ready(4)
    return []


def next_client_is_served(port: int, number: int) -> None:
    """Whoever comes next gets its own answer and nothing else."""
    with FakeClient(port) as client:
        assert client.login("p0", "u_trust")[-1]["type"] == "ReadyForQuery"
        got = client.ask(f"select 'next-{number}'")
        assert rows(got) == [[f"next-{number}"]], f"after a cut at byte {number}"


def measured(port: int, free_port, direction: str) -> int:
    """How many bytes the undisturbed dialogue has in *direction*."""
    with CuttingProxy(free_port(), port) as proxy:
        assert rows(dialogue(proxy.port)) == ANSWERS
        return proxy.passages[0].passed[direction]


def places(total: int, most: int = 60) -> list[int]:
    """Bytes to cut at: all of a short dialogue, spread evenly over a longer one."""
    step = max(1, total // most)
    return [*range(1, total, step), total - 1]


@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_client_cut_at_any_byte_it_sends(pooler, free_port, how):
    one = pooler(INI)
    total = measured(one.port, free_port, UP)
    for at in places(total):
        with CuttingProxy(free_port(), one.port, {1: Cut(UP, at, how)}) as proxy:
            got = rows(dialogue(proxy.port))
            assert got == ANSWERS[: len(got)]
        next_client_is_served(one.port, at)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_client_cut_at_any_byte_it_receives(pooler, free_port, how):
    one = pooler(INI)
    total = measured(one.port, free_port, DOWN)
    for at in places(total):
        with CuttingProxy(free_port(), one.port, {1: Cut(DOWN, at, how)}) as proxy:
            dialogue(proxy.port)
        next_client_is_served(one.port, at)


@pytest.mark.parametrize("direction", [UP, DOWN])
@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_server_cut_at_any_byte(pooler, postgres, free_port, direction, how):
    """A server connection is cut; the next client gets a new one."""
    port = free_port()
    with CuttingProxy(port, postgres.port) as proxy:
        one = pooler(INI, server_port=port)
        assert rows(dialogue(one.port)) == ANSWERS
        total = proxy.passages[0].passed[direction]
        for at in places(total, 12):
            proxy.passages[-1].end()
            one.wait_for_pool(lambda row: row["sv_idle"] == 0)
            number = len(proxy.passages) + 1
            proxy.cuts = {number: Cut(direction, at, how)}
            got = rows(dialogue(one.port))
            assert got == ANSWERS[: len(got)]
            next_client_is_served(one.port, at)


def test_client_held_in_the_middle_of_a_message_holds_up_nobody(pooler, free_port):
    """Half a Bind has come: no server is spent on it, or that one alone."""
    one = pooler({**INI, "default_pool_size": 2})
    total = measured(one.port, free_port, UP)
    for at in places(total, 20):
        cut = Cut(UP, at, "hold")
        with CuttingProxy(free_port(), one.port, {1: cut}) as proxy:
            client = FakeClient(proxy.port)
            client.start([["database", "p0"], ["user", "u_trust"]])
            client.send(*DIALOGUE)
            assert cut.happened.wait(5)
            next_client_is_served(one.port, at)
            cut.release()
            got = client.until_ready(5)
            assert rows(got) == ANSWERS
            client.close(terminate=True)


def test_client_that_half_closes_after_its_query_hurts_nobody(pooler):
    one = pooler(INI)
    for number in range(20):
        client = FakeClient(one.port)
        client.login("p0", "u_trust")
        client.send({"type": "Query", "sql": "select pg_sleep(0.01), 'mine'"})
        client.half_close()
        got = client.until_ready()
        assert rows(got) in ([], [["", "mine"]])
        client.close()
        next_client_is_served(one.port, number)


def test_killed_backend_gives_its_client_an_error_and_others_nothing(pooler, postgres):
    one = pooler({"pool_mode": "transaction", "default_pool_size": 2})
    with one.connect() as victim, one.connect() as other:
        victim.execute("begin")
        pid = victim.execute("select pg_backend_pid()").fetchone()[0]
        postgres.rows(f"select pg_terminate_backend({pid})")
        with pytest.raises(psycopg.OperationalError):
            victim.execute("select 1")
        assert other.execute("select 'fine'").fetchone() == ("fine",)


def test_server_that_answers_garbage_is_closed(pooler, free_port):
    def script(talk):
        if not talk.login():
            return
        while message := talk.read():
            if message["type"] == "Query" and message["sql"] == "garbage":
                talk.send_bytes(b"\xff\xff\xff\xff\xff\xff\xff\xff")
            elif message["type"] == "Query":
                talk.answer(message["sql"])

    port = free_port()
    server = FakeServer(port, script)
    try:
        one = pooler(INI, server_port=port, databases={"p0": "{pg}"})
        with FakeClient(one.port) as client:
            client.login("p0", "u_trust")
            got = client.ask("garbage")
            assert got[-1]["type"] == "<connection closed>"
        with FakeClient(one.port) as client:
            client.login("p0", "u_trust")
            assert rows(client.ask("good")) == [["good"]]
    finally:
        server.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\0\0\0\x03",
        b"\xff" * 64,
        b"\0\0\0\x08\x04\xd2\x16",
        b"\0\1\0\0\0\3\0\0" + b"x" * 5000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_garbage_instead_of_a_startup_packet_hurts_nobody(pooler, raw):
    one = pooler({**INI, "client_login_timeout": 1})
    with FakeClient(one.port) as client:
        with contextlib.suppress(OSError):
            client.send_bytes(raw)
            client.next(5)
    next_client_is_served(one.port, 0)


def test_unknown_database_and_wrong_password_are_told(pooler):
    one = pooler({"auth_type": "scram-sha-256"})
    with FakeClient(one.port) as client:
        got = client.login("nowhere", "u_scram", "scrampass")
        assert "nowhere" in error(got)["M"] or error(got)["C"] == "08P01"
    with FakeClient(one.port) as client:
        got = client.login("p0", "u_scram", "wrong")
        assert error(got)["M"] == "SASL authentication failed"
    with FakeClient(one.port) as client:
        got = client.login("p0", "u_scram", "scrampass")
        assert got[-1]["type"] == "ReadyForQuery"


def test_server_that_is_down_is_told_and_found_when_it_is_back(pooler, free_port):
    port = free_port()
    ini = {**INI, "query_wait_timeout": 1}
    one = pooler(ini, server_port=port, databases={"p0": "{pg}"})
    with FakeClient(one.port) as client:
        got = client.login("p0", "u_trust")
        told = error(got)["M"]
        assert told == "query_wait_timeout" or "server login has been failing" in told
    server = FakeServer(port)
    try:
        end = time.monotonic() + 10
        while time.monotonic() < end:
            with FakeClient(one.port) as client:
                if client.login("p0", "u_trust")[-1]["type"] == "ReadyForQuery":
                    assert rows(client.ask("back")) == [["back"]]
                    break
        else:
            pytest.fail("the server is back, and the pooler does not know")
    finally:
        server.close()


KILL_ONE = (
    "select pg_{}_backend(pid) from pg_stat_activity"
    " where datname = 'p0' order by random() limit 1"
)


LEAST = 500  # answers


def chaos(mode: str, one, postgres, seconds: float, seed: int) -> Crew:
    """Kill clients, servers and queries at random while a crew verifies its rows."""
    chance = random.Random(seed)
    crew = Crew(one.port, 8, seed)
    if mode == "statement":  # which forbids transactions
        for worker in crew.workers:
            worker.kinds.remove(worker.ask_in_transaction)
    begun = time.monotonic()

    def is_enough() -> bool:
        """A busy machine may need longer for what shall be seen at least."""
        return time.monotonic() - begun > (seconds if crew.answered > LEAST else 50)

    with crew, postgres.connect("postgres") as direct:
        while not is_enough() and not crew.wrong:
            # A server that ends costs the pool a third of a second: seldom.
            what = chance.random()
            if what < 0.03:
                direct.execute(KILL_ONE.format("terminate"))
            elif what < 0.1:
                direct.execute(KILL_ONE.format("cancel"))
            elif what < 0.4:
                cancel_one(crew, one.port, chance)
            else:
                crew.kill_one(chance)
            time.sleep(chance.random() * 0.05)  # so that something happens in between
    return crew


def cancel_one(crew: Crew, port: int, chance: random.Random) -> None:
    """Cancel whatever a random client is doing, or has just done."""
    client = chance.choice(crew.workers).client
    if client is None or client.key_hex is None:
        return
    with contextlib.suppress(OSError), FakeClient(port) as other:
        other.send({"type": "CancelRequest", "key_hex": client.key_hex})
        other.next(5)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("mode", ["session", "transaction", "statement"])
def test_every_row_is_the_right_one_under_random_kills(pooler, postgres, mode):
    size = 8 if mode == "session" else 3
    one = pooler({**INI, "pool_mode": mode, "default_pool_size": size})
    crew = chaos(mode, one, postgres, seconds=4, seed=1)
    assert not crew.wrong
    assert not crew.hanging
    assert crew.answered > LEAST


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("mode", ["session", "transaction", "statement"])
def test_every_row_is_the_right_one_under_many_kills(pooler, postgres, mode, seed):
    size = 8 if mode == "session" else 3
    one = pooler({**INI, "pool_mode": mode, "default_pool_size": size})
    crew = chaos(mode, one, postgres, seconds=60, seed=seed)
    assert not crew.wrong
    assert not crew.hanging
