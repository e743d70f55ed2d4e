"""Online restart (-R) under load: from us to us, from a real PgBouncer, and back.

A ledger proves it: every client writes numbered transactions of two rows, and in the
end each number that it saw committed is there exactly once, and nothing else is.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.replay.pooler import wait_for
from tests.support.ground import Ground, Postgres
from tests.support.pooler import RunningPooler
from tests.support.real import DEBIAN, peers_place

CLIENTS = 50
OURS = "ours"
# Debian 13's, 1.24.1: the last release line that hands over is 1.25.
TRIXIE = str(peers_place() / "bin-trixie" / "pgbouncer")

DIRECTIONS = [
    (OURS, OURS),
    (DEBIAN, OURS),
    (TRIXIE, OURS),
    (OURS, DEBIAN),
    (OURS, TRIXIE),
]
# A pool smaller than the number of clients: at any moment some of them wait.
SETTINGS = {
    "pool_mode": "transaction",
    "default_pool_size": 20,
    "max_client_conn": 200,
    "server_tls_sslmode": "disable",
    "logfile": "{dir}/old.log",
}


def name_of(program: str) -> str:
    """Return how a program is called in the names of tests."""
    return {OURS: "ours", DEBIAN: "debian", TRIXIE: "trixie"}[program]


class Ledger:
    """Clients that write, and what they believe they have written."""

    def __init__(
        self, pooler: RunningPooler, postgres: Postgres, prepared: bool
    ) -> None:
        self.pooler, self.postgres = pooler, postgres
        # Named statements survive between two of ours only.
        self.prepare_threshold = 1 if prepared else None
        self.stop = threading.Event()
        self.committed = [0] * CLIENTS
        self.errors: list[str] = []
        postgres.rows("drop table if exists ledger")
        postgres.rows("create table ledger (client int, number int, half int)")
        postgres.rows("grant all on ledger to public")
        self.threads = [
            threading.Thread(target=self.write, args=(number,), daemon=True)
            for number in range(CLIENTS)
        ]
        for thread in self.threads:
            thread.start()

    def write(self, client: int) -> None:
        """Write transactions until told to stop; one client in five is slow in them."""
        try:
            with self.pooler.connect() as connection:
                connection.prepare_threshold = self.prepare_threshold
                while not self.stop.is_set():
                    number = self.committed[client] + 1
                    with connection.transaction():
                        connection.execute(
                            "insert into ledger values (%s, %s, 1)", (client, number)
                        )
                        if client % 5 == 0:
                            time.sleep(0.05)
                        connection.execute(
                            "insert into ledger values (%s, %s, 2)", (client, number)
                        )
                        if client % 10 == 0:
                            connection.execute("select pg_sleep(0.05)")
                    self.committed[client] = number
                    time.sleep(0.002)
        except psycopg.Error as err:
            self.errors.append(f"client {client}: {err}")

    def progress(self) -> bool:
        """Wait until each client has committed three more; false if one has failed."""
        goal = [number + 3 for number in self.committed]
        return not self.errors and bool(
            wait_for(
                lambda: (
                    self.errors
                    or all(
                        have >= want
                        for have, want in zip(self.committed, goal, strict=True)
                    )
                ),
                30,
            )
            and not self.errors
        )

    def finish(self) -> None:
        """Stop the clients and balance the books."""
        self.stop.set()
        for thread in self.threads:
            thread.join(30)
        assert self.errors == []
        assert not any(thread.is_alive() for thread in self.threads)
        expected = {
            (client, number): 2
            for client, last in enumerate(self.committed)
            for number in range(1, last + 1)
        }
        rows = self.postgres.rows(
            "select client, number, count(*) as halves, count(distinct half) as kinds"
            " from ledger group by client, number"
        )
        assert {(row["client"], row["number"]): row["halves"] for row in rows} == (
            expected
        )
        assert all(row["kinds"] == 2 for row in rows)


class Successor(RunningPooler):
    """The process that takes over: same directory, same port, another log."""

    def __init__(self, old: RunningPooler, command: list[str], name: str) -> None:
        self.ground, self.server_port = old.ground, old.server_port
        self.directory, self.identity = old.directory, old.identity
        self.command, self.port, self.users = command, old.port, old.users
        self.stderr = self.directory / f"{name}.stderr"
        self.stdout = self.directory / f"{name}.stdout"
        self.log_file = self.directory / f"{name}.log"
        self.file = f"{name}.ini"
        self.process, self._lines_taken = None, 0
        text = (self.directory / "pgbouncer.ini").read_text()
        text = text.replace("old.log", f"{name}.log")
        (self.directory / self.file).write_text(text)
        self.identity.own(self.directory)

    def take_over(self) -> None:
        """Start with -R and wait until it is up."""
        self.start("-R", self.file)
        assert self.wait_until_up(), self.text()


@pytest.fixture
def successor() -> Iterator[Callable[..., Successor]]:
    """Make a successor; all are stopped after the test."""
    made: list[Successor] = []

    def make(old: RunningPooler, command: list[str], name: str = "new") -> Successor:
        one = Successor(old, command, name)
        made.append(one)
        return one

    yield make
    for one in made:
        one.stop()


def command_of(program: str, lab: Ground) -> list[str]:
    """Return the command line of one of the two processes."""
    if program == OURS:
        command: list[str] = lab.command
        return command
    if not os.path.exists(program):
        pytest.skip(f"needs a real PgBouncer at {program} (tests/support/peers)")
    return [program]


@pytest.mark.regression(123)
@pytest.mark.parametrize(("old", "new"), DIRECTIONS, ids=name_of)
def test_takeover_under_load_loses_and_doubles_nothing(
    old: str,
    new: str,
    lab: Ground,
    postgres: Postgres,
    pooler: Any,
    successor: Callable[..., Successor],
) -> None:
    settings: dict[str, object] = dict(SETTINGS)
    if old != OURS:
        # A real one stops those who hold servers, and cuts off those who wait.
        settings["default_pool_size"] = CLIENTS + 10
    first = pooler(settings, command=command_of(old, lab), may_end=True, run=False)
    first.log_file = first.directory / "old.log"
    first.run()
    second = successor(first, command_of(new, lab))
    ledger = Ledger(first, postgres, prepared=old == new == OURS)
    assert ledger.progress(), ledger.errors
    second.take_over()
    assert first.wait_for_exit(10) == 0, first.text()
    if not ledger.progress():
        pytest.fail(f"{ledger.errors[:3]}\n{first.text()}\n{second.text()}")
    ledger.finish()
    # New clients come in on the listener that was taken over.
    with second.connect() as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    assert (first.directory / "pid").read_text() == f"{second.pid}\n"


def test_takeovers_in_a_row_from_a_real_one_to_us_and_back(
    lab: Ground,
    postgres: Postgres,
    pooler: Any,
    successor: Callable[..., Successor],
) -> None:
    real = command_of(TRIXIE, lab)
    settings = dict(SETTINGS) | {"default_pool_size": CLIENTS + 10}
    first = pooler(settings, command=real, may_end=True, run=False)
    first.log_file = first.directory / "old.log"
    first.run()
    chain = [first]
    ledger = Ledger(first, postgres, prepared=False)
    for number, command in enumerate((lab.command, lab.command, real)):
        assert ledger.progress(), (
            ledger.errors,
            [one.log_matches("unknown pkt") for one in chain],
        )
        chain.append(successor(first, command, f"new{number}"))
        chain[-1].take_over()
        assert chain[-2].wait_for_exit(10) == 0
    assert ledger.progress(), ledger.errors
    ledger.finish()


@pytest.mark.regression(123)
def test_takeover_keeps_cancel_keys_transactions_and_parameters(
    lab: Ground,
    postgres: Postgres,
    pooler: Any,
    successor: Callable[..., Successor],
) -> None:
    """What a client has been told before is true after."""
    first = pooler(SETTINGS, may_end=True, run=False)
    first.log_file = first.directory / "old.log"
    first.run()
    second = successor(first, lab.command)
    first.users["u_scram"] = ""
    with (
        first.connect(application_name="before") as client,
        first.connect() as busy,
    ):
        client.execute("set statement_timeout to 0")
        client.prepare_threshold = 0
        client.execute("select %s::int", (1,))
        client.execute("begin")
        client.execute("set local work_mem to '77MB'")
        query = threading.Thread(target=busy.execute, args=("select pg_sleep(1)",))
        query.start()
        second.take_over()
        assert client.execute("show work_mem").fetchone() == ("77MB",)
        assert client.execute("select %s::int", (1,)).fetchone() == (1,)
        client.execute("commit")
        shown = client.execute("show application_name").fetchone()
        assert shown == ("before",)
        query.join(10)
        assert not query.is_alive()
        assert busy.execute("select 2").fetchone() == (2,)
        canceled: list[type] = []

        def long() -> None:
            try:
                busy.execute("select pg_sleep(30)")
            except psycopg.Error as err:
                canceled.append(type(err))

        query = threading.Thread(target=long)
        query.start()
        second.wait_for_pool(lambda row: row["cl_active"] >= 1)
        assert wait_for(
            lambda: postgres.rows(
                "select 1 as one from pg_stat_activity where state = 'active'"
                " and query like '%pg_sleep(30)%' and pid <> pg_backend_pid()"
            ),
            10,
        )
        busy.cancel()
        query.join(10)
        assert canceled == [psycopg.errors.QueryCanceled]


@pytest.mark.regression(125)
def test_takeover_that_cannot_serve_a_client_leaves_everything_as_it_was(
    lab: Ground, postgres: Postgres, pooler: Any, successor: Callable[..., Successor]
) -> None:
    """The new configuration lacks a database that is in use: nothing is taken."""
    first = pooler(SETTINGS)
    second = successor(first, lab.command)
    path = first.directory / "new.ini"
    path.write_text(path.read_text().replace("p1 = ", "other = "))
    with first.connect("p1") as client:
        second.start("-R", "new.ini")
        assert second.wait_for_exit(10) == 1
        assert "FATAL takeover: no such database" in second.text()
        assert client.execute("select 1").fetchone() == (1,)
    first.wait_for_log("admin disappeared when suspended, doing RESUME")


@pytest.mark.parametrize("new", [OURS, DEBIAN, TRIXIE], ids=name_of)
def test_takeover_leaves_tls_clients_with_the_old_process_until_they_go(
    new: str,
    lab: Ground,
    postgres: Postgres,
    pooler: Any,
    successor: Callable[..., Successor],
) -> None:
    settings = SETTINGS | {
        "client_tls_sslmode": "allow",
        "client_tls_key_file": "{certs}/pg.key",
        "client_tls_cert_file": "{certs}/pg.crt",
    }
    first = pooler(settings, may_end=True, run=False)
    first.log_file = first.directory / "old.log"
    first.run()
    second = successor(first, command_of(new, lab))
    with first.connect(sslmode="require") as secret:
        assert secret.pgconn.ssl_in_use
        with first.connect(sslmode="disable") as plain:
            secret.execute("begin")
            secret.execute("set local work_mem to '66MB'")
            plain.execute("select 1")
            second.take_over()
            assert plain.execute("select 2").fetchone() == (2,)
            assert secret.execute("show work_mem").fetchone() == ("66MB",)
            secret.execute("commit")
            for _ in range(5):
                assert secret.execute("select 3").fetchone() == (3,)
            assert first.exit_status() is None
            first.wait_for_log("1 clients over TLS stay here until they leave")
            assert (first.directory / "pid").read_text() == f"{second.pid}\n"
    assert first.wait_for_exit(10) == 0
    first.wait_for_log("client connections dropped, exiting")
    with second.connect() as client:
        assert client.execute("select 4").fetchone() == (4,)


def test_takeover_with_tls_to_the_server_waits_for_transactions(
    lab: Ground,
    postgres: Postgres,
    pooler: Any,
    successor: Callable[..., Successor],
) -> None:
    """A plain client in a short transaction on a TLS server is handed over after it."""
    settings = SETTINGS | {"server_tls_sslmode": "prefer"}
    first = pooler(settings, may_end=True, run=False)
    first.log_file = first.directory / "old.log"
    first.run()
    if not first.wait_for_pool or postgres.rows("show ssl")[0]["ssl"] != "on":
        pytest.skip("the server has no TLS")
    second = successor(first, lab.command)
    ledger = Ledger(first, postgres, prepared=True)
    assert ledger.progress(), ledger.errors
    second.take_over()
    assert ledger.progress(), ledger.errors
    ledger.finish()
    assert first.wait_for_exit(10) == 0
