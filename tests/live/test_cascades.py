"""Two poolers in a row, in every combination of modes, ours and PgBouncer's.

Each combination is a database of its own, so that one process of each kind does
for all: `transaction_session` is transaction mode in front, session mode behind.
"""

import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import psycopg
import pytest

from tests.conftest import missing
from tests.replay.lab import Unusable
from tests.replay.pooler import wait_for
from tests.support.checker import Crew, Worker
from tests.support.ground import Ground, Postgres
from tests.support.pooler import RunningPooler
from tests.support.real import Real, find_real
from tests.support.wire import FakeClient

from .conftest import MODES

COMBINATIONS = [(front, back) for front in MODES for back in MODES]
ENOUGH = 120  # verified rows per combination
ZONES = ["Etc/GMT+3", "Etc/GMT-5", "Etc/UTC", "Europe/Berlin"]


def real_pgbouncer(lab: Ground) -> Real:
    """The real PgBouncer to compare with; skips without one."""
    try:
        return find_real(lab.identity)
    except Unusable as problem:
        missing(str(problem))
        raise


class Cascade(NamedTuple):
    """The pooler that clients see and the one behind it."""

    front: RunningPooler
    back: RunningPooler
    has_statements: bool


@pytest.fixture(params=["ours/ours", "ours/real", "real/ours"], scope="module")
def cascade(
    lab: Ground, postgres: Postgres, request: pytest.FixtureRequest
) -> Iterator[Cascade]:
    """Both poolers, started once for all combinations of modes."""
    kinds = request.param.split("/")
    real = real_pgbouncer(lab) if "real" in kinds else None
    has_statements = real is None or real.has_statements
    settings: dict[str, Any] = {"default_pool_size": 2}
    if has_statements:
        settings["max_prepared_statements"] = 5

    def start(kind: str, port: int, databases: dict[str, str]) -> RunningPooler:
        command = [real.path] if real and kind == "real" else None
        one = RunningPooler(lab, port, settings, databases, command=command)
        started.append(one)
        return one.run()

    started: list[RunningPooler] = []
    behind = {
        f"{front}_{back}": f"{{pg}} dbname=p0 pool_mode={back}"
        for front, back in COMBINATIONS
    }
    before = {
        f"{front}_{back}": f"{{pg}} dbname={front}_{back} pool_mode={front}"
        for front, back in COMBINATIONS
    }
    try:
        back = start(kinds[1], postgres.port, behind)
        front = start(kinds[0], back.port, before)
        yield Cascade(front, back, has_statements)
        for one in started:
            assert one.is_running()
    finally:
        problems = []
        for one in reversed(started):
            one.stop()
            problems += one.complaints()
            lab.done_with(one.directory)
    assert problems == []


@pytest.fixture(params=COMBINATIONS, ids="-".join)
def modes(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The mode in front and the mode behind."""
    found: tuple[str, str] = request.param
    return found


def narrow(worker: Worker, modes: tuple[str, str], has_statements: bool) -> None:
    """Let *worker* ask what the combination can answer."""
    zone = ZONES[int(worker.name[1:]) % len(ZONES)]

    def copy_out(client: FakeClient) -> None:
        tag = worker.next_tag()
        sql = f"copy (select '{tag}' from generate_series(1, 7)) to stdout"
        worker.verify(client.ask(sql), [tag] * 7)

    def keep_time_zone(client: FakeClient) -> None:
        """A tracked parameter is the client's own wherever its queries go."""
        if getattr(client, "zone", None) != zone:
            worker.verify(client.ask(f"set timezone to '{zone}'"), [])
            client.zone = zone  # type: ignore[attr-defined]
        tag = worker.next_tag()
        sql = f"select '{tag}-' || current_setting('timezone')"
        worker.verify(client.ask(sql), [f"{tag}-{zone}"])

    worker.kinds += [copy_out, keep_time_zone]
    if "statement" in modes:
        worker.kinds.remove(worker.ask_in_transaction)
    if not has_statements and modes != ("session", "session"):
        worker.kinds.remove(worker.ask_prepared)


def test_everybody_gets_the_own_rows_through_two_poolers(cascade, modes):
    database = "_".join(modes)
    crew = Crew(cascade.front.port, 5, seed=7, database=database)
    for worker in crew.workers:
        narrow(worker, modes, cascade.has_statements)
    with crew:
        wait_for(lambda: crew.answered >= ENOUGH or crew.wrong, 20)
    assert crew.wrong == []
    assert crew.hanging == []
    assert crew.answered >= ENOUGH
    # Nothing was killed, so nothing broke.
    assert [w.cut_off for w in crew.workers] == [0] * 5


class Sleeper(threading.Thread):
    """A client whose query only a cancel ends."""

    def __init__(self, client: psycopg.Connection[Any]) -> None:
        super().__init__(daemon=True)
        self.client = client
        self.ended: psycopg.Error | None = None
        self.start()

    def run(self) -> None:
        try:
            self.client.execute("select pg_sleep(60)")
        except psycopg.Error as problem:
            self.ended = problem


def test_cancel_goes_through_both_poolers_to_the_right_query(cascade, modes, postgres):
    database = "_".join(modes)
    with cascade.front.connect(database) as one, cascade.front.connect(database) as two:
        sleepers = [Sleeper(one), Sleeper(two)]
        # PostgreSQL ignores a cancel that comes before it has begun.
        asleep = "select pid from pg_stat_activity where wait_event = 'PgSleep'"
        assert wait_for(lambda: len(postgres.rows(asleep)) == 2, 10)
        for sleeper in sleepers:
            # The second one has not been hit by the cancel of the first.
            assert sleeper.is_alive()
            sleeper.client.cancel()
            sleeper.join(20)
            assert isinstance(sleeper.ended, psycopg.errors.QueryCanceled)
        for client in (one, two):
            assert client.execute("select 'usable'").fetchone() == ("usable",)


def test_copy_goes_in_and_comes_out_again(cascade, modes, postgres):
    database = "_".join(modes)
    table = f"copied_{database}"
    postgres.rows(f"drop table if exists {table}; create table {table} (n int, t text)")
    postgres.rows(f"grant all on {table} to public")
    rows = [(n, f"{database} {n}" * 20) for n in range(2000)]
    with cascade.front.connect(database) as client:
        client.prepare_threshold = None
        with client.cursor().copy(f"copy {table} from stdin".encode()) as copy:
            for row in rows:
                copy.write_row(row)
        sql = f"copy (select * from {table} order by n) to stdout".encode()
        with client.cursor().copy(sql) as copy:
            copy.set_types(["int4", "text"])
            assert list(copy.rows()) == rows
    postgres.rows(f"drop table {table}")


def test_driver_prepares_through_two_poolers(cascade, modes):
    if not cascade.has_statements and modes != ("session", "session"):
        pytest.skip("this PgBouncer knows no prepared statements")
    database = "_".join(modes)
    with cascade.front.connect(database) as one, cascade.front.connect(database) as two:
        for client in (one, two):
            client.prepare_threshold = 0
        # More texts than max_prepared_statements, so that both poolers evict.
        for round in range(3):
            for number in range(8):
                for name, client in (("one", one), ("two", two)):
                    sql = f"select %s::text || '-{number}'".encode()
                    row = client.execute(sql, (f"{name}{round}",)).fetchone()
                    assert row == (f"{name}{round}-{number}",)
