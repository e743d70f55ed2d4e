"""psycopg 3: see README.md. Arguments: prepare_threshold (or none), text or binary."""

import os
import sys
import threading

import psycopg

ID, SESSION = os.environ["APP_ID"], os.environ["APP_SESSION"] == "1"
TABLE = f"app_{ID}"
SERVERS = int(os.environ["APP_SERVERS"])
THRESHOLD = None if sys.argv[1] == "none" else int(sys.argv[1])
BINARY = sys.argv[2] == "binary"


def connect(**more):
    connection = psycopg.connect("", autocommit=True, **more)
    connection.prepare_threshold = THRESHOLD
    return connection


def one(connection, sql, *arguments):
    row = connection.execute(sql, arguments, binary=BINARY).fetchone()
    return row[0] if len(row) == 1 else row


def state(call):
    try:
        call()
    except psycopg.Error as error:
        return error.sqlstate
    return "fine"


def basics(c):
    c.execute(f"drop table if exists {TABLE}")
    c.execute(f"create table {TABLE} (n int primary key, t text)")
    print("autocommit:", sum(one(c, "select %s::int + 1", n) for n in range(20)))
    with c.transaction():
        c.execute(f"insert into {TABLE} values (%s, %s)", (1, "one"))
        failed = state(lambda: in_savepoint(c))
        c.execute(f"insert into {TABLE} values (%s, %s)", (2, "two"))
    print("transaction:", failed, one(c, f"select count(*) from {TABLE}"))
    sql = f"select t, %s::int from {TABLE} where n = %s"
    found = [c.execute(sql, (n, n % 3)).fetchone() for n in range(120)]
    print("prepared:", sum(row[1] for row in found if row), found[1])


def in_savepoint(c):
    with c.transaction():
        c.execute(f"insert into {TABLE} values (1, 'again')")


def changed(c):
    sql = f"select * from {TABLE} where n = %s"
    for _ in range(8):
        c.execute(sql, (1,)).fetchone()
    with connect() as other:
        # Prepared it would be followed by DEALLOCATE ALL, which reaches shared servers.
        other.execute(f"alter table {TABLE} add more int default 3", prepare=False)
    told = state(lambda: c.execute(sql, (1,)))
    shared = SERVERS > 1 and told in ("fine", "0A000")
    print("changed:", "as servers are shared" if shared else told)
    c.execute("deallocate all")
    with connect() as other:
        refused = [state(lambda: other.execute(sql, (1,))) for _ in range(SERVERS + 8)]
        few = len(refused) - refused.count("fine") <= SERVERS
        print("changed, after:", few or refused, other.execute(sql, (1,)).fetchone())


def resets(c):
    for sql in ("discard all", "reset all", "rollback", "deallocate all"):
        c.execute(sql)
        c._prepared.clear()
    print("reset:", [one(c, "select %s::int", n) for n in range(7)])


def cursors(c):
    with c.transaction(), c.cursor("zoo") as cursor:
        cursor.itersize = 7
        cursor.execute("select generate_series(1, %s)", (50,))
        print("cursor:", sum(row[0] for row in cursor))
    with c.cursor() as cursor:
        rows = cursor.stream("select generate_series(1, %s)", (40,))
        print("cursor streamed:", sum(row[0] for row in rows))


def copies(c):
    with c.cursor().copy(f"copy {TABLE} (n, t) from stdin") as copy:
        for n in range(100, 300):
            copy.write_row((n, "x" * n))
    with c.cursor().copy(f"copy (select n from {TABLE}) to stdout") as copy:
        told = sum(int(row[0]) for row in copy.rows())

    def fails():
        with c.cursor().copy(f"copy {TABLE} (n, t) from stdin") as copy:
            copy.write_row((100, "taken"))

    print("copy:", told, state(fails), one(c, f"select count(*) from {TABLE}"))


def batches(c):
    cursors = []

    def fails():
        with c.pipeline():
            cursors.extend(c.execute("select %s::int", (n,)) for n in range(30))
            c.execute("select 1 / %s", (0,))
            c.execute("select 2")

    failed = state(fails)
    print("batch:", failed, sum(cursor.fetchone()[0] for cursor in cursors))
    with c.pipeline(), c.transaction():
        c.execute(f"update {TABLE} set t = %s where n = 1", ("new",))
        told = c.execute(f"select t from {TABLE} where n = 1")
    print("batch of a transaction:", told.fetchone())
    with c.cursor() as cursor:
        sql = f"insert into {TABLE} values (%s, %s)"
        cursor.executemany(sql, [(n, "many") for n in range(400, 450)])
        print("batch of many:", cursor.rowcount)


def cancels(c):
    timer = threading.Timer(0.5, c.cancel)
    timer.start()
    print("cancel:", state(lambda: c.execute("select pg_sleep(60)")))
    timer.join()
    print("cancel, after:", one(c, "select %s::int", 8))


def listens(c):
    c.execute(f"listen {TABLE}")
    with connect() as other:
        other.execute("select pg_notify(%s, %s)", (TABLE, "hello"))
    told = next(c.notifies(timeout=20))
    print("listen:", told.channel, told.payload)


def main():
    with connect(application_name=f"app {ID}") as c:
        for step in (basics, changed, resets, cursors, copies, batches, cancels):
            step(c)
        if SESSION:
            listens(c)
    gone = connect()
    gone.pgconn.send_query_params(b"select repeat('x', 1000000), 1", [])
    gone.close()
    with connect() as c:
        print("left:", one(c, "select %s::int", 9))


main()
