"""Who waits for a server gets one in order; which server they get."""

import threading

import pytest

from tests.support.wire import FakeClient, query, rows


@pytest.fixture
def client_of():
    """Log in raw clients; all are closed after the test."""
    made = []

    def login(one):
        client = FakeClient(one.port)
        client.login("p0", "u_trust")
        made.append(client)
        return client

    yield login
    for client in made:
        client.close()


@pytest.mark.regression(85)
def test_waiting_clients_are_served_first_come_first_served(
    pooler, client_of, postgres
):
    one = pooler({"pool_mode": "transaction", "default_pool_size": 1})
    with postgres.connect() as direct:
        direct.execute("drop sequence if exists turn")
        direct.execute("create sequence turn")
        direct.execute("grant all on turn to public")
    holder = client_of(one)
    holder.ask("begin")
    waiting = [client_of(one) for _ in range(12)]
    for number, client in enumerate(waiting, 1):
        client.send_bytes(query("select nextval('turn')"))
        one.wait_for_pool(lambda row, n=number: row["cl_waiting"] == n)
    holder.ask("commit")
    turns = [rows(client.until_ready())[0][0] for client in waiting]
    assert turns == [str(n) for n in range(1, 13)]


@pytest.mark.regression(84)
def test_client_that_leaves_the_queue_does_not_stop_it(pooler, client_of):
    one = pooler({"pool_mode": "transaction", "default_pool_size": 1})
    holder, leaver, stayer = client_of(one), client_of(one), client_of(one)
    holder.ask("begin")
    for number, client in enumerate((leaver, stayer), 1):
        client.send_bytes(query("select 'mine'"))
        one.wait_for_pool(lambda row, n=number: row["cl_waiting"] == n)
    leaver.reset()
    holder.ask("commit")
    assert rows(stayer.until_ready()) == [["mine"]]


def server_pid(client: FakeClient) -> str:
    """Which server a client is given."""
    return rows(client.ask("select pg_backend_pid()"))[0][0]


def three_servers(one, client_of) -> list[str]:
    """Open three servers and release them one after the other; their pids in order."""
    clients = [client_of(one) for _ in range(3)]
    for client in clients:
        client.ask("begin")
    pids = [server_pid(client) for client in clients]
    for client in clients:
        client.ask("commit")
    assert len(set(pids)) == 3
    return pids


def test_newest_idle_server_is_handed_out_first(pooler, client_of):
    one = pooler({"pool_mode": "transaction", "default_pool_size": 3})
    pids = three_servers(one, client_of)
    client = client_of(one)
    assert [server_pid(client) for _ in range(6)] == [pids[-1]] * 6


def test_server_round_robin_hands_out_the_oldest(pooler, client_of):
    ini = {"pool_mode": "transaction", "default_pool_size": 3, "server_round_robin": 1}
    one = pooler(ini)
    pids = three_servers(one, client_of)
    client = client_of(one)
    assert [server_pid(client) for _ in range(6)] == pids * 2


def test_pool_size_is_never_exceeded(pooler, postgres):
    one = pooler({"pool_mode": "transaction", "default_pool_size": 3})
    most = 0
    stop = threading.Event()

    def watch():
        nonlocal most
        with postgres.connect("postgres") as direct:
            while not stop.is_set():
                row = direct.execute(
                    "select count(*) from pg_stat_activity where datname = 'p0'"
                ).fetchone()
                most = max(most, row[0])

    def work():
        with one.connect() as connection:
            for _ in range(100):
                connection.execute("select pg_sleep(0.001)")

    watcher = threading.Thread(target=watch)
    workers = [threading.Thread(target=work) for _ in range(12)]
    watcher.start()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    stop.set()
    watcher.join()
    assert most == 3


def test_query_wait_timeout_ends_only_those_who_wait(pooler, client_of):
    ini = {"pool_mode": "transaction", "default_pool_size": 1, "query_wait_timeout": 1}
    one = pooler(ini)
    holder, waiter = client_of(one), client_of(one)
    holder.ask("begin")
    got = waiter.ask("select 1")
    texts = [dict(m["fields"])["M"] for m in got if m["type"] == "ErrorResponse"]
    assert texts == ["query_wait_timeout"]
    assert rows(holder.ask("select 'mine'")) == [["mine"]]
