"""Restarts that nobody notices: two processes on one port, shutdowns that wait."""

import threading
import time
from typing import Any

import psycopg
import pytest

from tests.replay.pooler import wait_for
from tests.support.ground import Postgres
from tests.support.pooler import RunningPooler

CLIENTS = 10


def siblings(pooler: Any) -> list[RunningPooler]:
    """Return two poolers on the same port, who know each other as peers."""
    first = pooler({}, run=False, may_end=True)
    second = pooler({}, run=False, may_end=True)
    second.port = first.port
    places = {1: first.directory, 2: second.directory}
    peers = "".join(
        f"{number} = host={place} port={first.port}\n"
        for number, place in places.items()
    )
    for number, one in enumerate((first, second), 1):
        one.ini = {
            "pool_mode": "transaction",
            "so_reuseport": 1,
            "peer_id": number,
            "listen_backlog": 1024,
        }
        one.more = f"[peers]\n{peers}"
        one.write_configuration()
        one.run()
    return [first, second]


class Visitors:
    """Clients that connect, do something in a transaction, and leave; again and again.

    *served* counts how often each was; who is turned away at the door (the kernel
    resets what a closing listener has not handed out yet) knocks again, as an
    application does. A word from the pooler at the door is an error.
    """

    def __init__(self, pooler: RunningPooler) -> None:
        self.pooler = pooler
        self.stop = threading.Event()
        self.served = [0] * CLIENTS
        self.errors: list[str] = []
        self.turned_away = 0
        self.threads = [
            threading.Thread(target=self.visit, args=(number,), daemon=True)
            for number in range(CLIENTS)
        ]
        for thread in self.threads:
            thread.start()

    def visit(self, number: int) -> None:
        while not self.stop.is_set():
            try:
                connection = self.pooler.connect()
            except psycopg.OperationalError as err:
                if "FATAL" not in str(err):
                    self.turned_away += 1
                    continue
                self.errors.append(str(err))
                return
            try:
                with connection, connection.transaction():
                    connection.execute("select 1")
                    connection.execute("select pg_sleep(0.002)")
            except psycopg.Error as err:
                self.errors.append(str(err))
                return
            self.served[number] += 1

    def go_on(self) -> bool:
        """Wait until each has been served three times more; false after an error."""
        goal = [count + 3 for count in self.served]
        return bool(
            wait_for(
                lambda: (
                    self.errors
                    or all(a >= b for a, b in zip(self.served, goal, strict=True))
                ),
                30,
            )
            and not self.errors
        )

    def leave(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(20)
        assert self.errors == []


def test_so_reuseport_rolling_restart_under_load(
    pooler: Any, postgres: Postgres
) -> None:
    both = siblings(pooler)
    visitors = Visitors(both[0])
    assert visitors.go_on(), visitors.errors
    for one in both:
        one.interrupt("SIGTERM")
        assert one.wait_for_exit(15) == 0, one.lines()[-5:]
        assert visitors.go_on(), visitors.errors
        before = len(one.log_matches("process up"))
        one.start("pgbouncer.ini")
        one.wait_for_log("process up", before + 1)
        assert visitors.go_on(), visitors.errors
    visitors.leave()
    assert visitors.turned_away <= 3


def test_cancel_finds_its_way_to_the_peer_that_has_the_query(
    pooler: Any, postgres: Postgres
) -> None:
    """The kernel picks a process for the CancelRequest's connection at random."""
    first, _ = siblings(pooler)
    for _ in range(6):
        with first.connect() as client:
            canceled: list[bool] = []

            def long(client: Any = client, canceled: list[bool] = canceled) -> None:
                try:
                    client.execute("select pg_sleep(20)")
                except psycopg.errors.QueryCanceled:
                    canceled.append(True)

            query = threading.Thread(target=long)
            query.start()
            assert wait_for(
                lambda: postgres.rows(
                    "select 1 as one from pg_stat_activity where state = 'active'"
                    " and query like '%pg_sleep(20)%' and pid <> pg_backend_pid()"
                ),
                10,
            )
            client.cancel()
            query.join(10)
            assert canceled == [True]


@pytest.mark.parametrize(
    ("command", "mode"),
    [("WAIT_FOR_SERVERS", "transaction"), ("WAIT_FOR_CLIENTS", "session")],
)
def test_shutdown_that_waits_breaks_no_transaction(
    pooler: Any, postgres: Postgres, command: str, mode: str
) -> None:
    one = pooler({"pool_mode": mode}, may_end=True)
    postgres.rows("drop table if exists kept")
    postgres.rows("create table kept (client int, half int)")
    postgres.rows("grant all on kept to public")
    begun, broken = threading.Barrier(CLIENTS + 1), []

    def work(number: int) -> None:
        with one.connect() as client:
            client.execute("begin")
            client.execute("insert into kept values (%s, 1)", (number,))
            begun.wait(20)
            time.sleep(0.3)
            try:
                client.execute("insert into kept values (%s, 2)", (number,))
                client.execute("commit")
            except psycopg.Error as err:
                broken.append(str(err))

    threads = [
        threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    begun.wait(20)
    one.console(f"SHUTDOWN {command}")
    for thread in threads:
        thread.join(20)
    assert broken == []
    assert one.wait_for_exit(10) == 0
    rows = postgres.rows("select client, count(*) as halves from kept group by client")
    assert {row["client"]: row["halves"] for row in rows} == dict.fromkeys(
        range(CLIENTS), 2
    )
