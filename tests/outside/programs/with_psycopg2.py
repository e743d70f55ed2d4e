"""psycopg2: see README.md."""

import io
import os
import select
import threading

import psycopg2
import psycopg2.extras

ID, SESSION = os.environ["APP_ID"], os.environ["APP_SESSION"] == "1"
TABLE = f"app_{ID}"


def connect():
    connection = psycopg2.connect("")
    connection.autocommit = True
    return connection


def one(cursor, sql, *arguments):
    cursor.execute(sql, arguments)
    return cursor.fetchone()[0]


def state(call):
    try:
        call()
    except psycopg2.Error as error:
        return error.pgcode
    return "fine"


def basics(c, cursor):
    cursor.execute(f"drop table if exists {TABLE}")
    cursor.execute(f"create table {TABLE} (n int primary key, t text)")
    print("autocommit:", sum(one(cursor, "select %s + 1", n) for n in range(20)))
    c.autocommit = False
    cursor.execute(f"insert into {TABLE} values (%s, %s)", (1, "one"))
    cursor.execute("savepoint here")
    failed = state(lambda: cursor.execute(f"insert into {TABLE} values (1, 'x')"))
    cursor.execute("rollback to savepoint here")
    cursor.execute(f"insert into {TABLE} values (2, 'two')")
    c.commit()
    print("transaction:", failed, one(cursor, f"select count(*) from {TABLE}"))
    c.rollback()
    with c, c.cursor("named", scrollable=True) as named:
        named.itersize = 7
        named.execute("select generate_series(1, 50)")
        print("cursor:", sum(row[0] for row in named))
    c.set_session(isolation_level="SERIALIZABLE", readonly=True)
    failed = state(lambda: cursor.execute(f"insert into {TABLE} values (3, 'x')"))
    c.rollback()
    level = one(cursor, "show transaction_isolation")
    c.rollback()
    c.set_session(isolation_level="DEFAULT", readonly="DEFAULT")
    c.autocommit = True
    print("session:", failed, level, one(cursor, "show transaction_isolation"))


def copies(c, cursor):
    rows = "".join(f"{n}\t{'x' * n}\n" for n in range(100, 300))
    cursor.copy_from(io.StringIO(rows), TABLE)
    out = io.StringIO()
    cursor.copy_expert(f"copy (select n from {TABLE}) to stdout", out)
    failed = state(lambda: cursor.copy_from(io.StringIO(rows), TABLE))
    print("copy:", sum(map(int, out.getvalue().split())), failed)


def batches(c, cursor):
    sql = f"insert into {TABLE} values %s"
    psycopg2.extras.execute_values(cursor, sql, [(n, "m") for n in range(400, 450)])
    cursor.execute("select 1; select 2; select 3")
    print("batch:", cursor.fetchone(), state(lambda: cursor.execute("select 1; x")))
    print("batch, after:", one(cursor, f"select count(*) from {TABLE}"))


def main():
    c = connect()
    cursor = c.cursor()
    basics(c, cursor)
    c.reset()
    c.autocommit = True
    cursor = c.cursor()
    print("reset:", one(cursor, "select 7"), one(cursor, "show timezone"))
    copies(c, cursor)
    batches(c, cursor)
    timer = threading.Timer(0.5, c.cancel)
    timer.start()
    print("cancel:", state(lambda: cursor.execute("select pg_sleep(60)")))
    timer.join()
    print("cancel, after:", one(cursor, "select 8"))
    if SESSION:
        cursor.execute(f"listen {TABLE}")
        other = connect()
        other.cursor().execute(f"notify {TABLE}, 'hello'")
        while not c.notifies:
            select.select([c], [], [], 20)
            c.poll()
        print("listen:", c.notifies[0].channel, c.notifies[0].payload)
        other.close()
    c.close()
    gone = connect()
    gone.cursor().execute("begin")
    os.close(gone.fileno())
    c = connect()
    print("left:", one(c.cursor(), "select 9"))
    c.close()


main()
