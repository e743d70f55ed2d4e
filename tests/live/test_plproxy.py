"""PL/Proxy calls functions of its partitions through statement pooling.

The application talks to a database whose functions are written in PL/Proxy; they run
on two partitions, whose connections come from the pooler. One call is one statement.
"""

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.conftest import missing
from tests.replay.pooler import wait_for
from tests.support.ground import Postgres

PARTITIONS = ("plproxy_part0", "plproxy_part1")
FRONT = "plproxy_front"
CALLERS = 8
CALLS = 40

ON_PARTITIONS = """
    create table kept (k int primary key, v text);
    create function put(a_k int, a_v text) returns int language sql as $$
        insert into kept values (a_k, a_v) returning k $$;
    create function look_up(a_k int) returns text language sql as $$
        select v from kept where k = a_k $$;
    create function everything() returns table (k int, v text, place text)
        language sql as $$ select k, v, current_database()::text from kept $$;
    create function busy(a_k int, tag text, size int) returns setof text
        language sql as $$ select tag || repeat('x', 100) from generate_series(1, size)
        $$;
    create function hold(a_k int) returns int language sql as $$
        select 1 from pg_sleep(60) $$;
    create function fail(a_k int) returns int language plpgsql as $$
        begin raise exception 'partition % says no', a_k; end $$;
    grant all on kept to public;
"""
IN_FRONT = """
    create extension plproxy;
    create function put(a_k int, a_v text) returns int language plproxy as $$
        cluster 'site'; run on a_k; $$;
    create function look_up(a_k int) returns text language plproxy as $$
        cluster 'site'; run on a_k; $$;
    create function everything(out k int, out v text, out place text)
        returns setof record language plproxy as $$
        cluster 'site'; run on all; $$;
    create function busy(a_k int, tag text, size int) returns setof text
        language plproxy as $$ cluster 'site'; run on a_k; $$;
    create function fail(a_k int) returns int language plproxy as $$
        cluster 'site'; run on a_k; $$;
    create function hold(a_k int) returns int language plproxy as $$
        cluster 'site'; run on a_k; $$;
"""


@pytest.fixture(scope="module")
def site(postgres: Postgres) -> Iterator[Postgres]:
    """A front database and two partitions; nobody says yet where the pooler is."""
    known = "select name from pg_available_extensions where name = 'plproxy'"
    if not postgres.rows(known):
        missing("needs PL/Proxy: apt-get install postgresql-15-plproxy")
    for database in (FRONT, *PARTITIONS):
        postgres.query(f"create database {database}")
        postgres.rows(IN_FRONT if database == FRONT else ON_PARTITIONS, database)
    yield postgres
    for database in (FRONT, *PARTITIONS):
        postgres.query(f"drop database {database} with (force)")


@pytest.fixture
def through(pooler, site: Postgres):
    """Start a pooler, tell the front where it is, and empty the partitions."""

    def start(**settings: Any):
        ini = {"pool_mode": "statement", "default_pool_size": 2, **settings}
        databases = {name: f"{{pg}} dbname={name}" for name in PARTITIONS}
        one = pooler(ini, databases=databases)
        places = ", ".join(
            f"p{number} 'host=127.0.0.1 port={one.port} dbname={name}'"
            for number, name in enumerate(PARTITIONS)
        )
        site.rows(
            "drop server if exists site cascade;"
            f" create server site foreign data wrapper plproxy options ({places});"
            " create user mapping for public server site options (user 'u_trust');"
            " grant usage on foreign server site to public",
            FRONT,
        )
        for name in PARTITIONS:
            site.rows("truncate kept", name)
        return one

    return start


def test_plproxy_runs_on_the_right_partition(through, site):
    one = through()
    with site.connect(FRONT, user="u_trust") as client:
        for number in range(20):
            text = f"value {number} ü"
            row = client.execute("select put(%s, %s)", (number, text)).fetchone()
            assert row == (number,)
            row = client.execute("select look_up(%s)", (number,)).fetchone()
            assert row == (text,)
        rows = client.execute("select * from everything() order by k").fetchall()
        assert rows == [(n, f"value {n} ü", PARTITIONS[n % 2]) for n in range(20)]
    for name in PARTITIONS:
        assert one.pool(name)["pool_mode"] == "statement"


def test_plproxy_gives_every_caller_its_own_rows(through, site):
    one = through()
    wrong: list[Any] = []
    done: list[int] = []

    def call(name: str) -> None:
        with site.connect(FRONT, user="u_trust") as client:
            for number in range(CALLS):
                tag, size = f"{name}-{number}-", 1 + number * 7 % 200
                sql = "select * from busy(%s, %s, %s)"
                rows = client.execute(sql, (number, tag, size)).fetchall()
                if rows != [(tag + "x" * 100,)] * size:
                    wrong.append((name, number, rows))
                done.append(size)

    callers = [
        threading.Thread(target=call, args=(f"caller{number}",))
        for number in range(CALLERS)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(50)
    assert wrong == []
    assert len(done) == CALLERS * CALLS
    # Fewer connections than callers: they really shared them.
    for name in PARTITIONS:
        assert len(site.backends(name)) <= 2
    assert one.is_running()


def test_plproxy_survives_errors_and_lost_servers(through, site):
    one = through()
    with site.connect(FRONT, user="u_trust") as client:
        for number in range(4):
            with pytest.raises(psycopg.Error, match=f"partition {number} says no"):
                client.execute("select fail(%s)", (number,))
            row = client.execute("select put(%s, 'after')", (number,)).fetchone()
            assert row == (number,)
        for name in PARTITIONS:
            site.rows(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                f" where datname = '{name}' and pid <> pg_backend_pid()"
            )
        one.wait_for_log("server conn crashed|terminating connection", 2)
        rows = client.execute("select k, v from everything() order by k").fetchall()
        assert rows == [(number, "after") for number in range(4)]


def test_plproxy_call_that_is_canceled_ends_on_the_partition(through, site):
    """The front passes its client's cancel on, through the pooler."""
    through()
    asleep = (
        "select pid from pg_stat_activity"
        f" where wait_event = 'PgSleep' and datname = '{PARTITIONS[1]}'"
    )
    with site.connect(FRONT, user="u_trust") as client:
        ended: list[psycopg.Error] = []

        def hold() -> None:
            try:
                client.execute("select hold(1)")
            except psycopg.Error as problem:
                ended.append(problem)

        holder = threading.Thread(target=hold)
        holder.start()
        assert wait_for(lambda: site.rows(asleep), 10)
        client.cancel()
        holder.join(20)
        assert isinstance(ended[0], psycopg.errors.QueryCanceled)
        assert wait_for(lambda: not site.rows(asleep), 10)
        assert client.execute("select put(1, 'after')").fetchone() == (1,)
