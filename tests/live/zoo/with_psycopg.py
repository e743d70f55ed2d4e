"""psycopg 3: see README.md."""

import sys
import threading

import psycopg


def use(database: str) -> None:
    with psycopg.connect(dbname=database, autocommit=True) as connection:
        print(database, "login", flush=True)
        with connection.transaction():
            connection.execute("create temp table zoo (n int) on commit drop")
            connection.execute("insert into zoo values (%s)", (7,))
            assert connection.execute("select n from zoo").fetchone() == (7,)
        print(database, "transaction", flush=True)
        for number in (1, 2):
            row = connection.execute("select %s::int + 1", (number,), prepare=True)
            assert row.fetchone() == (number + 1,)
        print(database, "prepared", flush=True)
        with connection.transaction():
            connection.execute("create temp table zoo (n int) on commit drop")
            with connection.cursor().copy("copy zoo from stdin") as copy:
                for number in range(1000):
                    copy.write_row((number,))
            with connection.cursor().copy("copy zoo to stdout") as copy:
                assert sum(int(row[0]) for row in copy.rows()) == 499500
        print(database, "copy", flush=True)
        canceller = threading.Thread(
            target=lambda: sys.stdin.readline() and connection.cancel()
        )
        canceller.start()
        print(database, "sleeping", flush=True)
        try:
            connection.execute("select pg_sleep(60)")
        except psycopg.errors.QueryCanceled:
            print(database, "cancel", flush=True)
        canceller.join()
        assert connection.execute("select 8").fetchone() == (8,)
    print(database, "done", flush=True)


for name in sys.argv[1:]:
    use(name)
