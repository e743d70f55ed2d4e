"""Section 4: a cancel strikes the query that it is for, or nothing.

tests/relay/test_cancels.py shows the races one by one.
"""

import contextlib
import random
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.regressions.attacks import SSL_REQUEST, exchange, is_served, packet
from tests.replay.pooler import wait_for
from tests.support.ground import Ground
from tests.support.wire import FakeClient, FakeServer, ServerTalk, error, rows

INI = {"pool_mode": "transaction", "server_login_retry": "0.05"}
TEXT = "canceling statement due to user request"


@pytest.fixture(scope="module")
def one(shared_pooler: Any) -> Any:
    """A pool of one server, for most of these tests."""
    return shared_pooler({**INI, "default_pool_size": 1})


def cancel(port: int, key_hex: str, seconds: float = 10) -> None:
    """Ask for a cancel and wait until the pooler has dealt with it."""
    with FakeClient(port, seconds=seconds) as asker:
        asker.send({"type": "CancelRequest", "key_hex": key_hex})
        assert asker.next(seconds)["type"] == "<connection closed>"


def client(one: Any, database: str = "p0", **params: str) -> FakeClient:
    made = FakeClient(one.port, seconds=20)
    assert made.login(database, "u_trust", **params)[-1]["type"] == "ReadyForQuery"
    return made


# Not somebody else's query


class Asker(threading.Thread):
    """Asks short queries without a pause; counts what is cancelled of them."""

    def __init__(self, port: int, number: int) -> None:
        super().__init__(daemon=True)
        self.tag, self.port = f"a{number}", port
        self.asked = self.cancelled = 0
        self.problem = ""
        self.stopping = threading.Event()
        self.client = FakeClient(port, seconds=20)
        self.client.login("p0", "u_trust")

    def run(self) -> None:
        while not self.stopping.is_set() and not self.problem:
            self.asked += 1
            got = self.client.ask(f"select pg_sleep(0.001), '{self.tag}-{self.asked}'")
            if error(got).get("M") == TEXT:
                self.cancelled += 1
            elif [row[1] for row in rows(got)] != [f"{self.tag}-{self.asked}"]:
                self.problem = f"{self.tag}-{self.asked}: {got}"
        self.client.close(terminate=True)


def strike_at_random(one: Any, count: int, seconds: float) -> tuple[int, int]:
    """Cancel every second of *count* clients at random; the others must not be hit."""
    askers = [Asker(one.port, number) for number in range(count)]
    for asker in askers:
        asker.start()
    chance, begun = random.Random(1), time.monotonic()
    targets = askers[::2]

    def is_enough() -> bool:
        struck, asked = sum(a.cancelled for a in targets), sum(a.asked for a in askers)
        patience = seconds if struck > 5 and asked > 200 else 30
        return time.monotonic() - begun > patience

    while not is_enough() and not any(a.problem for a in askers):
        with contextlib.suppress(OSError), FakeClient(one.port) as request:
            key = chance.choice(targets).client.key_hex
            request.send({"type": "CancelRequest", "key_hex": key})
            if chance.random() < 0.7:
                request.next(5)
    for asker in askers:
        asker.stopping.set()
    for asker in askers:
        asker.join(20)
        assert not asker.is_alive()
        assert not asker.problem
    assert [a.tag for a in askers[1::2] if a.cancelled] == []
    return sum(a.cancelled for a in targets), sum(a.asked for a in askers)


@pytest.mark.regression(66)
def test_cancels_at_random_never_strike_who_was_not_meant(pooler: Any) -> None:
    one = pooler({**INI, "default_pool_size": 3, "log_disconnections": 0})
    cancelled, asked = strike_at_random(one, 10, 2.5)
    assert cancelled > 5
    assert asked > 200


@pytest.mark.slow
@pytest.mark.regression(66)
def test_cancels_at_random_for_long_never_strike_who_was_not_meant(
    pooler: Any,
) -> None:
    one = pooler({**INI, "default_pool_size": 20, "log_disconnections": 0})
    assert strike_at_random(one, 100, 600)[0] > 100


# Clients that wait or do nothing


BY_SIMPLE_QUERY = [{"type": "Query", "sql": "select 'struck'"}]
BY_UNIT = [
    {"type": "Parse", "name": "s", "sql": "select 'struck'"},
    {"type": "Bind", "statement": "s"},
    {"type": "Execute"},
    {"type": "Sync"},
]
BY_LARGE_QUERY = [{"type": "Query", "sql": f"select length('{'x' * 500_000}')"}]


@pytest.mark.regression(67)
@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize(
    "messages",
    [BY_SIMPLE_QUERY, BY_UNIT, BY_LARGE_QUERY],
    ids=["query", "unit", "large"],
)
def test_cancel_ends_the_wait_for_a_server_with_an_error(
    one: Any, messages: list[dict[str, Any]], paused: bool
) -> None:
    """1.25.2 ignores it: psql hangs until query_wait_timeout."""
    with client(one) as holder, client(one) as waiter:
        if paused:
            one.console("PAUSE p0")
        else:
            holder.ask("begin")
        threading.Thread(target=waiter.send, args=messages, daemon=True).start()
        one.wait_for_pool(lambda row: row["cl_waiting"] == 1)
        cancel(one.port, waiter.key_hex)
        got = waiter.until_ready()
        assert [m["type"] for m in got] == ["ErrorResponse", "ReadyForQuery"]
        fields = error(got)
        assert (fields["S"], fields["C"], fields["M"]) == ("ERROR", "57014", TEXT)
        one.wait_for_pool(lambda row: row["cl_waiting"] == 0)
        if paused:
            one.console("RESUME p0")
        else:
            holder.ask("commit")
        # It is the same session, in step, and what was refused never runs.
        assert rows(waiter.ask("select 'next'")) == [["next"]]
        assert rows(holder.ask("select 'other'")) == [["other"]]


@pytest.mark.regression(67)
def test_cancel_of_a_waiting_pipeline_refuses_its_first_unit_only(one: Any) -> None:
    with client(one) as holder, client(one) as waiter:
        holder.ask("begin")
        waiter.send(*BY_UNIT, *BY_SIMPLE_QUERY)
        one.wait_for_pool(lambda row: row["cl_waiting"] == 1)
        cancel(one.port, waiter.key_hex)
        assert error(waiter.until_ready())["M"] == TEXT
        holder.ask("commit")
        assert rows(waiter.until_ready()) == [["struck"]]


@pytest.mark.regression(67)
def test_cancel_of_a_waiting_psycopg_is_a_cancelled_query(one: Any) -> None:
    with one.connect() as holder, one.connect() as waiter:
        with holder.transaction():
            holder.execute("select 1")
            problems: list[BaseException] = []

            def ask() -> None:
                try:
                    waiter.execute("select %s::int", (1,))
                except psycopg.Error as problem:
                    problems.append(problem)

            thread = threading.Thread(target=ask)
            thread.start()
            one.wait_for_pool(lambda row: row["cl_waiting"] == 1)
            waiter.cancel()
            thread.join(10)
        assert [type(p) for p in problems] == [psycopg.errors.QueryCanceled]
        assert waiter.execute("select %s::int", (2,)).fetchone() == (2,)


@pytest.mark.regression(68)
def test_cancel_for_an_idle_client_is_nothing_at_all(one: Any) -> None:
    """One ReadyForQuery too many shifted all later answers."""
    with client(one) as idle:
        for number in range(5):
            before = len(one.log_matches("cancel request for idle client"))
            cancel(one.port, idle.key_hex)
            one.wait_for_log("cancel request for idle client", before + 1)
            assert idle.next(0.05)["type"] == "<timeout>"
            assert rows(idle.ask(f"select {number}")) == [[str(number)]]
        idle.ask("begin")  # in a transaction, between two queries
        cancel(one.port, idle.key_hex)
        assert idle.next(0.05)["type"] == "<timeout>"
        assert rows(idle.ask("select 'same'")) == [["same"]]
        idle.ask("commit")


# A server that does not answer


class Deaf:
    """A FakeServer whose queries, and whose cancels, take as long as the test likes."""

    def __init__(self, port: int) -> None:
        self.queries: list[str] = []
        self.cancels = 0
        self.early = 0  # cancels that came before let_go
        self.open_cancels = self.most_open_cancels = 0
        self.let_go = threading.Event()
        self.lock = threading.Lock()
        self.server = FakeServer(port, self.script)

    def script(self, talk: ServerTalk) -> None:
        if not talk.login():
            return self.cancelled(talk)
        while message := talk.read():
            if message["type"] != "Query":
                continue
            self.queries.append(message["sql"])
            if message["sql"].startswith(("slow", "SET")):
                self.let_go.wait(20)
            if message["sql"].startswith("SET"):
                talk.send({"type": "CommandComplete", "tag": "SET"})
                talk.ready()
            else:
                talk.answer(message["sql"])
        return None

    def cancelled(self, talk: ServerTalk) -> None:
        with self.lock:
            self.early += not self.let_go.is_set()
            self.cancels += 1
            self.open_cancels += 1
            self.most_open_cancels = max(self.open_cancels, self.most_open_cancels)
        talk.connection.sock.settimeout(0.05)
        gone = False
        while not (gone or self.let_go.is_set()):
            with contextlib.suppress(TimeoutError):
                gone = not talk.connection.sock.recv(100)
        with self.lock:
            self.open_cancels -= 1


@pytest.fixture
def deaf(free_port: Callable[[], int]) -> Any:
    one = Deaf(free_port())
    yield one
    one.let_go.set()
    one.server.close()


WAITING = ("cl_waiting", "cl_waiting_cancel_req", "cl_active_cancel_req",
           "sv_active_cancel", "sv_being_canceled", "sv_login")  # fmt: skip


def counts_are_right(one: Any, database: str = "p0") -> None:
    """Nobody waits, nothing is in flight."""
    one.wait_for_pool(
        lambda row: not any(row[name] for name in WAITING), database=database
    )


@pytest.mark.regression(69)
def test_flood_of_cancels_is_bounded_and_timed_out(
    pooler: Any, deaf: Any, postgres: Any
) -> None:
    one = pooler(
        {
            **INI,
            "default_pool_size": 2,
            "cancel_wait_timeout": 1,
            "max_client_conn": 500,
        },
        databases={
            "slow": f"host=127.0.0.1 port={deaf.server.port}",
            "p0": "{pg} dbname=p0",
        },
    )
    with client(one, "slow") as first, client(one, "slow") as second:
        for busy in (first, second):
            busy.send({"type": "Query", "sql": "slow"})
        assert wait_for(lambda: len(deaf.queries) == 2, 5)
        with contextlib.ExitStack() as stack:
            askers = [stack.enter_context(FakeClient(one.port)) for _ in range(200)]
            for number, asker in enumerate(askers):
                target = (first, second)[number % 2]
                asker.send({"type": "CancelRequest", "key_hex": target.key_hex})
            with client(one) as other:
                for number in range(50):
                    assert rows(other.ask(f"select {number}")) == [[str(number)]]
            # All but those on their way, which PostgreSQL has: any of them.
            closed = sum(
                a.next(0.5 if number else 5)["type"] == "<connection closed>"
                for number, a in enumerate(askers)
            )
            assert closed >= len(askers) - 10
            assert deaf.most_open_cancels <= 4  # the pool may grow to twice its size
        deaf.let_go.set()
        for busy in (first, second):
            assert rows(busy.until_ready()) == [["slow"]]
    counts_are_right(one, "slow")


@pytest.mark.regression(70)
def test_cancel_while_parameters_are_set_strikes_nothing(
    pooler: Any, deaf: Any
) -> None:
    one = pooler(
        {**INI, "default_pool_size": 1},
        server_port=deaf.server.port,
        databases={"p0": "{pg}"},
    )
    with client(one, TimeZone="Asia/Tokyo") as busy:
        busy.send({"type": "Query", "sql": "mine"})
        assert wait_for(lambda: deaf.queries, 5)
        assert deaf.queries[0].startswith("SET")
        with FakeClient(one.port, seconds=20) as asker:
            asker.send({"type": "CancelRequest", "key_hex": busy.key_hex})
            one.wait_for_pool(lambda row: row["cl_waiting_cancel_req"] == 1)
            deaf.let_go.set()
            assert rows(busy.until_ready()) == [["mine"]]
            assert asker.next(20)["type"] == "<connection closed>"
    assert deaf.early == 0  # it may have come behind the SET, for what was behind that


@pytest.mark.regression(71)
@pytest.mark.parametrize("end", ["asker", "server", "client", "database", "all"])
def test_whoever_goes_while_a_cancel_is_under_way_takes_nobody_along(
    pooler: Any, deaf: Any, end: str
) -> None:
    """Nine crashes came from this corner."""
    here = {"gone": "{pg}"}
    one = pooler(
        {**INI, "default_pool_size": 2, "admin_users": "admin"},
        server_port=deaf.server.port,
        databases={"p0": "{pg}", **here},
    )
    busy = client(one, "gone")
    busy.send({"type": "Query", "sql": "slow"})
    assert wait_for(lambda: deaf.queries, 5)
    askers = [FakeClient(one.port) for _ in range(3)]
    for asker in askers:
        asker.send({"type": "CancelRequest", "key_hex": busy.key_hex})
    assert wait_for(lambda: deaf.cancels, 5)
    if end in ("asker", "all"):
        for number, asker in enumerate(askers):
            asker.reset() if number % 2 else asker.close()
    if end in ("server", "all"):
        for number in range(len(deaf.server.connections)):
            deaf.server.close_connection(number + 1)
    if end in ("client", "all"):
        busy.reset()
    if end in ("database", "all"):
        one.databases = {"p0": "{pg}"}
        one.reload()
    deaf.let_go.set()
    with client(one) as other:
        assert rows(other.ask("fine")) == [["fine"]]
    counts_are_right(one)
    if end not in ("database", "all"):
        counts_are_right(one, "gone")
        with client(one, "gone") as other:
            assert rows(other.ask("fine")) == [["fine"]]
    for each in (busy, *askers):
        each.close()


# By which way


@pytest.fixture(scope="module")
def encrypted(shared_pooler: Any, lab: Ground) -> Any:
    if not lab.certificates:
        pytest.skip("needs openssl (apt-get install openssl)")
    return shared_pooler(
        {
            **INI,
            "client_tls_sslmode": "require",
            "client_tls_key_file": "{certs}/bouncer.key",
            "client_tls_cert_file": "{certs}/bouncer.crt",
        }
    )


def in_tls(port: int) -> FakeClient:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    made = FakeClient(port)
    made.send_bytes(SSL_REQUEST)
    assert made.one_byte() == "S"
    assert made.start_tls(context)
    return made


def is_struck(postgres: Any, busy: FakeClient, strike: Callable[[], None]) -> bool:
    """Whether a long query that PostgreSQL runs ends when *strike* is called."""
    sleeps = "wait_event = 'PgSleep' and query = 'select pg_sleep(59)'"
    sql = f"select 1 from pg_stat_activity where {sleeps}"
    busy.send({"type": "Query", "sql": "select pg_sleep(59)"})
    assert wait_for(lambda: postgres.rows(sql), 10)
    strike()
    return error(busy.until_ready()).get("M") == TEXT


@pytest.mark.regression(72)
@pytest.mark.parametrize("encrypts", [False, True])
def test_cancel_of_a_tls_session_in_clear_and_in_tls(
    encrypted: Any, postgres: Any, encrypts: bool
) -> None:
    """Drivers send both."""

    def strike() -> None:
        with (
            in_tls(encrypted.port) if encrypts else FakeClient(encrypted.port) as asker
        ):
            asker.send({"type": "CancelRequest", "key_hex": busy.key_hex})
            assert asker.next(10)["type"] == "<connection closed>"

    with in_tls(encrypted.port) as busy:
        busy.login("p0", "u_trust")
        assert is_struck(postgres, busy, strike)
        assert rows(busy.ask("select 'same session'")) == [["same session"]]


@pytest.mark.regression(73)
def test_cancel_through_two_poolers_in_a_row(pooler: Any, postgres: Any) -> None:
    inner = pooler({**INI, "default_pool_size": 2})
    outer = pooler({**INI, "default_pool_size": 2}, server_port=inner.port)
    with client(outer) as busy, client(outer) as other:
        other.ask("select 1")
        assert is_struck(postgres, busy, lambda: cancel(outer.port, busy.key_hex))
        assert rows(busy.ask("select 1")) == [["1"]]
        assert rows(other.ask("select 2")) == [["2"]]


@pytest.mark.regression(73)
def test_cancel_for_a_dead_peer_or_in_a_ring_of_peers_ends(
    pooler: Any, free_port: Callable[[], int]
) -> None:
    """Peers 1 and 2 both believe that the other is peer 3; peer 9 is down."""
    ini = {**INI, "cancel_wait_timeout": 1}
    both = [pooler(ini, run=False), pooler(ini, run=False)]
    for number, one in enumerate(both, 1):
        one.ini = {**one.ini, "peer_id": number}
        one.more = (
            f"[peers]\n3 = host=127.0.0.1 port={both[2 - number].port}\n"
            f"9 = host=127.0.0.1 port={free_port()}\n"
        )
        one.write_configuration()
        one.run()
    first = both[0]
    for peer, said in ((3, "TTL was exhausted"), (9, "cancel_wait|closing because")):
        key = bytes([1, peer, 0, 4, 5, 6, 7, 3])
        cancel(first.port, key.hex(), seconds=30)
        assert wait_for(lambda said=said: any(o.log_matches(said) for o in both), 5)
    # A TTL of three: from the first to the second, back, and there once more.
    received = sum(
        len(o.log_matches("closing because: .*(TTL|sent cancel)")) for o in both
    )
    assert 0 < received <= 10
    for one in both:
        is_served(one.port)


@pytest.mark.regression(73)
def test_cancel_cut_short_is_no_cancel(one: Any) -> None:
    with client(one) as busy:
        whole = packet(b"", b"\x04\xd2\x16\x2e" + bytes.fromhex(busy.key_hex))
        for size in range(1, len(whole)):
            with FakeClient(one.port) as asker:
                asker.send_bytes(whole[:size])
                asker.half_close()
                assert asker.next(5)["type"] == "<connection closed>"
        assert exchange(one.port, whole) == b""
        assert rows(busy.ask("select 1")) == [["1"]]
