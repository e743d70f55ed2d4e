"""psql: see README.md. It prepares in SQL, so that stays in one transaction."""

import os
import signal
import subprocess
import sys

PSQL = [os.environ["ZOO_PSQL"], "-XAtq", "-v", "ON_ERROR_STOP=1", "-d"]


def psql(database: str, *commands: str, **options: str) -> str:
    words = [word for command in commands for word in ("-c", command)]
    done = subprocess.run(
        [*PSQL, database, *words], capture_output=True, text=True, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def use(database: str) -> None:
    assert psql(database, "select 1") == "1\n"
    print(database, "login", flush=True)
    told = psql(
        database,
        "begin",
        "create temp table zoo (n int) on commit drop",
        "insert into zoo values (7)",
        "select n from zoo",
        "commit",
    )
    assert told == "7\n"
    print(database, "transaction", flush=True)
    told = psql(
        database,
        "begin",
        "prepare zoo (int) as select $1 + 1",
        "execute zoo(1)",
        "execute zoo(2)",
        "deallocate zoo",
        "commit",
    )
    assert told == "2\n3\n"
    print(database, "prepared", flush=True)
    told = psql(
        database,
        "begin",
        "create temp table zoo (n int) on commit drop",
        r"\copy zoo from stdin",
        r"\copy zoo to stdout",
        "commit",
        input="".join(f"{number}\n" for number in range(1000)),
    )
    assert sum(map(int, told.split())) == 499500
    print(database, "copy", flush=True)
    words = [*PSQL, database, "-c", "select pg_sleep(60)"]
    print(database, "sleeping", flush=True)
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as sleeper:
        sys.stdin.readline()
        sleeper.send_signal(signal.SIGINT)
        _, told = sleeper.communicate()
    assert "canceling statement due to user request" in told, told
    print(database, "cancel", flush=True)
    print(database, "done", flush=True)


for name in sys.argv[1:]:
    use(name)
