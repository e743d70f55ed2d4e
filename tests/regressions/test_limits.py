"""Pool accounting, limits and fairness: scenarios 83 to 92."""

import contextlib
import random
import re
import time
from typing import Any

import psycopg
import pytest

from tests.bench.load import startup_packet
from tests.regressions.load import Load
from tests.regressions.steps import (
    a_few_rounds,
    backend,
    clients,
    counts,
    settle_to_zero,
    show,
    told,
)
from tests.replay.pooler import wait_for
from tests.support.wire import FakeClient, FakeServer, ServerTalk, query, rows

MEGABYTE = 1 << 20
TRANSACTION = {"pool_mode": "transaction", "query_wait_notify": 0}


# Every end of a connection is counted once


def unreliable(talk: ServerTalk) -> None:
    """A server that ends its connections in every way there is, in turn."""
    how = talk.number % 8
    if how == 0:
        return
    if how == 1:
        talk.read()
        return
    refusal = {"type": "ErrorResponse", "fields": [["S", "FATAL"], ["M", "full"]]}
    if how == 2:
        talk.read()
        talk.read()
        talk.send(refusal)
        return
    if how == 3:
        talk.send_bytes(b"?" * 40)
        return
    if not talk.login():
        return
    for answered in range(1, 100):
        message = talk.read()
        if message is None or message["type"] == "Terminate":
            return
        if message["type"] != "Query":
            continue
        if how == 4 and answered > 3:
            return
        if how == 5 and answered > 3:
            talk.send_bytes(b"\0\0\0\0\0\0\0\0\0\0")
            return
        if how == 6 and answered > 3:
            talk.send(refusal)
            return
        talk.answer(message["sql"])


def one_life(one: Any, chance: random.Random) -> None:
    """A client that comes, does something, and ends in one of many ways."""
    database = chance.choice(["p0", "p0", "p0", "p1", "missing"])
    user = chance.choice(["u_trust", "u_trust", "u_plain", "nobody"])
    with contextlib.suppress(OSError), FakeClient(one.port, seconds=5) as client:
        end = chance.randrange(6)
        if end == 0:
            client.send_bytes(startup_packet(database, user)[: chance.randrange(30)])
            return
        if client.login(database, user)[-1]["type"] != "ReadyForQuery":
            return
        for _ in range(chance.randrange(4)):
            client.ask("select 1")
        if end == 1:
            client.reset()
        elif end == 2:
            client.send_bytes(query("select 1"))
            client.reset()
        elif end == 3:
            client.send_bytes(query("select 1")[: chance.randrange(12)])
        elif end == 4:
            client.send_bytes(query("select 1"))
            with FakeClient(one.port) as other:
                other.send({"type": "CancelRequest", "key_hex": client.key_hex})
        else:
            client.close(terminate=True)


def disturb(one: Any, chance: random.Random) -> None:
    """What an operator may do meanwhile."""
    what = chance.randrange(5)
    if what == 0:
        one.console("RECONNECT")
    elif what == 1:
        one.console("RELOAD")
    elif what == 2:
        one.console("KILL p1")
        one.console("RESUME p1")
    else:
        ids = [r["id"] for r in one.console("SHOW CLIENTS") if r["user"] != "admin"]
        if ids:
            with contextlib.suppress(psycopg.Error):
                one.console(f"KILL_CLIENT {chance.choice(ids)}")


def is_served(one: Any, user: str) -> bool:
    """Whether a client gets in and has an answer."""
    with FakeClient(one.port) as client:
        got = client.login("p0", user, one.users.get(user, ""))[-1]
        return got["type"] == "ReadyForQuery" and rows(client.ask("a")) == [["a"]]


LIVES = [
    pytest.param(120, id="short"),
    pytest.param(
        20_000, id="long", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]
    ),
]


@pytest.mark.regression(83)
@pytest.mark.parametrize("lives", LIVES)
def test_every_end_of_a_client_or_server_is_counted_once(
    pooler: Any, free_port: Any, lives: int
) -> None:
    chance = random.Random(83)
    port = free_port()
    server = FakeServer(port, unreliable)
    settings = {
        **TRANSACTION,
        "default_pool_size": 2,
        "max_db_connections": 3,
        "max_user_connections": 3,
        "max_db_client_connections": 20,
        "max_user_client_connections": 20,
        "server_login_retry": "0.01",
        "server_connect_timeout": "0.3",
        "query_wait_timeout": "0.2",
        "cancel_wait_timeout": "0.2",
        "log_connections": 0,
        "log_disconnections": 0,
        "log_pooler_errors": 0,
    }
    one = pooler(settings, server_port=port)
    waiting: list[FakeClient] = []
    try:
        for number in range(lives):
            if number % 10 == 0 and len(waiting) < 4:
                # Somebody who keeps others waiting until it is closed.
                waiting.append(FakeClient(one.port))
                waiting[-1].send_bytes(startup_packet("p0", "u_trust"))
                waiting[-1].send_bytes(query("select 1"))
            elif number % 10 == 5 and waiting:
                waiting.pop(0).reset()
            one_life(one, chance)
            if number % 40 == 39:
                disturb(one, chance)
        for client in waiting:
            client.close()
        one.reload(server_idle_timeout="0.01", server_check_query="select 1")
        assert settle_to_zero(one) == {}
    finally:
        server.close()
    # The limits are whole again: nothing was lost of them.
    server = FakeServer(port)
    try:
        one.reload(query_wait_timeout=10, server_idle_timeout=10)
        for user in ("u_trust", "u_plain"):  # until then a failure is still told
            assert wait_for(lambda user=user: is_served(one, user), 10)
        with clients(one, 2) as pair, clients(one, 1, "p0", "u_plain") as third:
            for client in (*pair, *third):
                assert rows(client.ask("a")) == [["a"]]
            assert counts(one)["p0 clients"] == 3
    finally:
        server.close()


@pytest.mark.regression(84)
def test_server_freed_when_its_waiter_leaves_goes_to_the_next(pooler: Any) -> None:
    """The release and the end of the first waiter arrive in one round, either first."""
    one = pooler({**TRANSACTION, "default_pool_size": 1})
    with clients(one, 2) as (holder, last):
        for number in range(15):
            holder.ask("begin")
            with clients(one, 1) as (leaver,):
                leaver.send_bytes(query("select 1"))
                one.wait_for_pool(lambda row: row["cl_waiting"] == 1)
                last.send_bytes(query("select 'mine'"))
                one.wait_for_pool(lambda row: row["cl_waiting"] == 2)
                if number % 2:
                    leaver.reset()
                    holder.ask("commit")
                else:
                    holder.send_bytes(query("commit"))
                    leaver.reset()
                    holder.until_ready()
                assert rows(last.until_ready()) == [["mine"]]
        assert one.pool()["sv_idle"] == 1


@pytest.mark.regression(84)
def test_server_freed_when_its_waiter_times_out_is_not_lost(pooler: Any) -> None:
    ini = {**TRANSACTION, "default_pool_size": 1, "query_wait_timeout": "0.1"}
    one = pooler(ini)
    chance = random.Random(84)
    with clients(one, 1) as (holder,):
        for _ in range(6):
            holder.ask("begin")
            with clients(one, 1) as (waiter,):
                waiter.send_bytes(query("select 'mine'"))
                # The janitor looks three times a second: around its next round.
                holder.ask(f"select pg_sleep({0.1 + chance.random() / 3})")
                holder.ask("commit")
                got = waiter.until_ready()
                assert rows(got) == [["mine"]] or told(got) == "query_wait_timeout"
            assert rows(holder.ask("select 'served'")) == [["served"]]
        row = one.pool()
        assert (row["sv_idle"], row["sv_active"], row["cl_waiting"]) == (1, 0, 0)


# Throughput and turns


@pytest.mark.regression(85)
def test_throughput_stays_when_clients_exceed_the_pool(pooler: Any) -> None:
    """What takes longer on a busy machine takes that with few clients, too; the best of
    three, for it may be busy for a moment only. Who collapses does so each time."""
    one = pooler({**TRANSACTION, "default_pool_size": 3, "max_client_conn": 1000})
    took = {4: [0.0], 300: [0.0]}

    def served(count: int, answers: int) -> float:
        # 2 ms in the server: what counts is that all three are kept busy.
        load = Load(one.port, count, "select pg_sleep(0.002)")
        try:
            seconds = load.run(answers)
        finally:
            load.close()
        assert not load.failed
        assert len(load.served) == count
        # Oldest first: nobody is served much more often than another.
        assert max(load.served.values()) <= 1.3 * min(load.served.values()) + 3
        return seconds

    served(6, 60)  # opens all three
    for _ in range(3):
        for count in took:
            took[count].append(served(count, 900))
        if took[300][-1] < 2 * took[4][-1]:
            return
    pytest.fail(f"900 answers took {took} seconds")


@pytest.mark.regression(86)
def test_max_db_connections_is_shared_by_users_who_are_all_busy(pooler: Any) -> None:
    """In 1.25.2 whoever has the connections keeps them while it has clients."""
    one = pooler(
        {**TRANSACTION, "max_db_connections": 3, "query_wait_timeout": 3},
        more="[pybouncer]\nfair_wait = 0.1",
        users={"u_trust": "", "u_repl": "", "postgres": "", "admin": "adminpass"},
    )
    loads = []
    try:
        for user in ("u_trust", "u_repl", "postgres"):
            one.console("SHOW POOLS")
            load = Load(one.port, 5, "select pg_sleep(0.005)", user)
            loads.append(load)
            for number in range(5):
                load.ask(number)
            for each in loads:
                each.round(0.05)

        def until(count: int) -> list[int]:
            """Go on until somebody has so many answers more; those of each."""
            before = [load.served.total() for load in loads]
            while True:
                for load in loads:
                    load.round(0.005)
                found = [
                    load.served.total() - b
                    for load, b in zip(loads, before, strict=True)
                ]
                if max(found) >= count or any(load.failed for load in loads):
                    return found

        end = time.monotonic() + 30
        while any(len(load.served) < 5 for load in loads) and time.monotonic() < end:
            until(10)
        assert [load.failed for load in loads] == [0, 0, 0]
        assert [len(load.served) for load in loads] == [5, 5, 5]
        served = until(400)
        assert min(served) * 5 > max(served), served
        assert show(one, "DATABASES", name="p0")["current_connections"] == 3
    finally:
        for load in loads:
            load.close()


# Evictions and sizes


@pytest.mark.regression(87)
def test_max_db_connections_evicts_the_one_idle_server_that_is_oldest(
    pooler: Any, postgres: Any
) -> None:
    one = pooler({**TRANSACTION, "max_db_connections": 4})
    with clients(one, 4) as four:
        for client in four:
            client.ask("begin")
        pids = [backend(client) for client in four]
        for client in four:
            client.ask("commit")
        with clients(one, 1, "p0", "postgres") as (other,):
            fresh = backend(other)
            left = {str(pid) for pid in postgres.backends()}
            assert wait_for(lambda: len(postgres.backends()) == 4, 5)
            left = {str(pid) for pid in postgres.backends()}
            assert left == {*pids[1:], fresh}
        assert len(one.log_matches("closing because: evicted")) == 1


@pytest.mark.regression(87)
@pytest.mark.regression(110)
def test_replication_client_at_a_full_pool_evicts_one_server(pooler: Any) -> None:
    """In 1.25.2 every idle server of the pool is closed for it."""
    one = pooler({**TRANSACTION, "default_pool_size": 4})
    with clients(one, 4, user="postgres") as four:
        for client in four:
            client.ask("begin")
        pids = [backend(client) for client in four]
        for client in four:
            client.ask("commit")
        with clients(one, 1, user="postgres", replication="database") as (stream,):
            assert rows(stream.ask("IDENTIFY_SYSTEM"))
            assert len(one.log_matches("closing because: evicted")) == 1
            for client in four[:3]:
                client.ask("begin")
            assert {backend(client) for client in four[:3]} < set(pids)
            # The pool is full, and may not grow for the fourth.
            four[3].send_bytes(query("select 'mine'"))
            one.wait_for_pool(lambda row: row["cl_waiting"] == 1, user="postgres")
            four[0].ask("commit")
            assert rows(four[3].until_ready()) == [["mine"]]


@pytest.mark.regression(87)
def test_pool_over_its_size_after_reload_shrinks(pooler: Any, postgres: Any) -> None:
    one = pooler({**TRANSACTION, "default_pool_size": 5})
    with clients(one, 5) as five:
        for client in five:
            client.ask("begin")
        for client in five:
            client.ask("commit")
        one.reload(default_pool_size=2)
        one.wait_for_pool(lambda row: row["sv_idle"] + row["sv_used"] == 2)
        assert len(one.log_matches("too many servers in the pool")) == 3


def new_connections(one: Any) -> int:
    """How many connections to servers the log has seen begin."""
    return len(one.log_matches("new connection to server"))


@pytest.mark.regression(88)
@pytest.mark.parametrize("limit", ["max_db_connections", "max_user_connections"])
def test_min_pool_size_above_a_limit_fills_up_to_it_and_rests(
    pooler: Any, limit: str
) -> None:
    one = pooler(
        {**TRANSACTION, "min_pool_size": 5, limit: 2},
        databases={"p0": "{pg} dbname=p0 user=u_trust", "p1": "{pg} user=u_trust"},
    )
    most = 2 if limit == "max_user_connections" else 4
    assert wait_for(lambda: counts(one)["used_servers"] == most, 5)
    a_few_rounds(one)
    assert new_connections(one) == counts(one)["used_servers"] == most
    assert not one.log_matches("evicted")


@pytest.mark.regression(89)
@pytest.mark.regression(91)
def test_min_pool_size_is_not_closed_by_idle_timeout_and_reopened(pooler: Any) -> None:
    one = pooler(
        {**TRANSACTION, "min_pool_size": 2, "server_idle_timeout": "0.1"},
        databases={"p0": "{pg} dbname=p0 user=u_trust"},
    )
    one.wait_for_pool(lambda row: row["sv_idle"] + row["sv_used"] == 2)
    with clients(one, 3) as three:
        for client in three:
            client.ask("begin")
        for client in three:
            client.ask("commit")
    one.wait_for_log("server idle timeout")
    a_few_rounds(one)
    assert new_connections(one) == 3
    assert len(one.log_matches("server idle timeout")) == 1


@pytest.mark.regression(90)
def test_servers_opened_together_do_not_all_end_together(pooler: Any) -> None:
    one = pooler({**TRANSACTION, "default_pool_size": 8, "server_lifetime": 1})
    with clients(one, 8) as many:
        for client in many:
            client.ask("begin")
        for client in many:
            client.ask("commit")
        assert wait_for(lambda: len(one.log_matches("lifetime over")) >= 3, 5)
    times = [
        float(m[1]) * 3600 + float(m[2]) * 60 + float(m[3])
        for line in one.text().splitlines()
        if "server lifetime over" in line
        and (m := re.search(r" (\d\d):(\d\d):(\d\d\.\d+) ", line))
    ]
    gaps = [b - a for a, b in zip(times, times[1:], strict=False)]
    assert min(gaps) >= 1 / 8 - 0.01


# What settings mean


@pytest.mark.regression(91)
def test_zero_means_what_the_manual_says(pooler: Any) -> None:
    zeros = dict.fromkeys(
        (
            "default_pool_size",
            "server_idle_timeout",
            "server_connect_timeout",
            "query_timeout",
            "query_wait_timeout",
            "idle_transaction_timeout",
            "transaction_timeout",
            "client_idle_timeout",
            "client_login_timeout",
            "max_db_connections",
            "max_user_connections",
            "max_db_client_connections",
            "max_user_client_connections",
        ),
        0,
    )
    one = pooler({**TRANSACTION, **zeros})
    with clients(one, 25) as many:
        for client in many:
            client.ask("begin")
        assert len({backend(client) for client in many}) == 25
        many[0].send_bytes(query("select pg_sleep(1.1)"))
        a_few_rounds(one)
        many[0].until_ready()
        for client in many:
            assert client.ask("commit")[-1]["type"] == "ReadyForQuery"
        assert one.pool()["sv_idle"] == 25
    with clients(one, 1) as (client,):
        one.reload(server_lifetime=0)
        one.wait_for_pool(lambda row: row["sv_idle"] == 0)
        # Every connection serves once.
        assert len({backend(client) for _ in range(3)}) == 3


@pytest.mark.regression(91)
def test_times_are_seconds(pooler: Any) -> None:
    one = pooler({})
    shown = {row["key"]: row["value"] for row in one.console("SHOW CONFIG")}
    wanted = {
        "server_idle_timeout": "600",
        "server_lifetime": "3600",
        "query_wait_timeout": "120",
        "server_connect_timeout": "15",
        "client_login_timeout": "60",
        "autodb_idle_timeout": "3600",
    }
    assert {name: shown[name] for name in wanted} == wanted


OVERRIDES = """
[users]
u_trust = pool_size=1 pool_mode=transaction reserve_pool_size=0
u_plain = max_user_connections=1
postgres = pool_size=3 max_user_client_connections=2
"""


@pytest.fixture
def overriding(pooler: Any) -> Any:
    return pooler(
        {
            "pool_mode": "session",
            "default_pool_size": 2,
            "query_wait_timeout": 0,
            "query_wait_notify": 0,
        },
        databases={
            "p0": "{pg} dbname=p0",
            "p1": "{pg} dbname=p1 pool_size=4 pool_mode=statement "
            "reserve_pool_size=1 min_pool_size=0 max_db_connections=7 "
            "max_db_client_connections=9 server_lifetime=77",
        },
        more=OVERRIDES,
    )


def busy_servers(one: Any, count: int, database: str, user: str, most: int) -> None:
    """*count* clients that ask at once get *most* servers."""
    with clients(one, count, database, user) as many:
        for client in many:
            client.send_bytes(query("select pg_sleep(0.3)"))
        row = one.wait_for_pool(
            lambda row: row["sv_active"] == most and row["sv_login"] == 0,
            database=database,
            user=user,
        )
        assert row["cl_waiting"] == count - most
        for client in many:
            if row["pool_mode"] == "session":
                break
            client.until_ready()


@pytest.mark.regression(92)
def test_overrides_count_where_the_value_is_used(overriding: Any) -> None:
    one = overriding
    busy_servers(one, 3, "p0", "u_trust", 1)  # the user's
    busy_servers(one, 6, "p1", "u_md5", 4)  # the database's
    busy_servers(one, 3, "p0", "u_plain", 1)  # max_user_connections
    with clients(one, 2, user="postgres"), FakeClient(one.port) as third:
        got = third.login("p0", "postgres")
        assert told(got) == "client connections exceeded (max_user_client_connections)"


@pytest.mark.regression(92)
def test_show_prints_the_effective_values(overriding: Any) -> None:
    """1.25.2 repeats the sizes of the row above for users without sizes of theirs."""
    one = overriding
    users = {row["name"]: row for row in one.console("SHOW USERS")}
    sizes = {
        name: (row["pool_size"].strip(), row["reserve_pool_size"].strip())
        for name, row in users.items()
        if row["pool_size"] or row["reserve_pool_size"]
    }
    assert sizes == {"u_trust": ("1", "0"), "postgres": ("3", "")}
    assert users["u_trust"]["pool_mode"] == "transaction"
    assert users["u_plain"]["max_user_connections"] == 1
    assert users["postgres"]["max_user_client_connections"] == 2
    row = show(one, "DATABASES", name="p1")
    assert {
        "pool_size": 4,
        "reserve_pool_size": 1,
        "server_lifetime": 77,
        "pool_mode": "statement",
        "max_connections": 7,
        "max_client_connections": 9,
    }.items() <= row.items()
    assert show(one, "DATABASES", name="p0")["pool_size"] == 2
    with clients(one, 1, "p1"), clients(one, 1, "p1", "u_md5"):
        assert one.pool("p1", "u_trust")["pool_mode"] == "transaction"
        assert one.pool("p1", "u_md5")["pool_mode"] == "statement"
