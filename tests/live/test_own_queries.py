"""server_reset_query, server_check_query and connect_query of several statements."""

import subprocess
from collections.abc import Callable
from typing import Any

import pytest

SEVERAL = "DISCARD ALL; SET lock_timeout TO '5s' ; /* and ; */ SET \"work_mem\" = '7MB'"


def what_is_set(connection: Any) -> tuple[str, str, int]:
    sql = (
        "select current_setting('lock_timeout'), current_setting('work_mem'),"
        " pg_backend_pid()"
    )
    return connection.execute(sql).fetchone()


def test_reset_query_of_several_statements_works(pooler: Callable[..., Any]) -> None:
    """PostgreSQL refused it: 30 clients, 30 backends, and not a word in the log."""
    one = pooler({"server_reset_query": SEVERAL, "default_pool_size": 1})
    pids = set()
    for number in range(3):
        with one.connect() as client:
            lock, work, pid = what_is_set(client)
            pids.add(pid)
            if number:
                assert (lock, work) == ("5s", "7MB")
            client.execute("set work_mem = '99MB'")
            client.execute("create temp table mine (a int)")
        one.wait_for_pool(lambda row: row["sv_idle"] == 1)
    assert len(pids) == 1
    assert not one.log_matches("reset query failed")


def test_reset_query_that_is_refused_is_told_with_its_reason(
    pooler: Callable[..., Any],
) -> None:
    one = pooler({"server_reset_query": "DISCARD ALL; SET nonsense_of_mine = 1"})
    with one.connect() as client:
        client.execute("select 1")
    one.wait_for_log(
        "server_reset_query was refused: ERROR: 42704: "
        'unrecognized configuration parameter "nonsense_of_mine"'
    )
    one.wait_for_log("closing because: reset query failed")


def test_connect_query_of_several_statements_works(pooler: Callable[..., Any]) -> None:
    one = pooler(
        {"pool_mode": "transaction", "default_pool_size": 1},
        databases={
            "p0": "{pg} dbname=p0 connect_query='discard all;"
            " set work_mem = ''7MB''; vacuum; set lock_timeout = 5000'"
        },
    )
    with one.connect() as client:
        assert what_is_set(client)[:2] == ("5s", "7MB")
    assert not one.log_matches("exec_on_query")


def test_check_query_of_several_statements_works(pooler: Callable[..., Any]) -> None:
    one = pooler(
        {
            "pool_mode": "transaction",
            "server_check_query": "discard all; set work_mem = '7MB'",
            "server_check_delay": 0,
            "default_pool_size": 1,
        }
    )
    with one.connect() as client:
        client.execute("set work_mem = '99MB'")
        assert what_is_set(client)[1] == "7MB"
    assert not one.log_matches("was refused")


DOUBTS = {
    "server_reset_query": ('"DISCARD ALL"', "the quotes are part of it"),
    "server_check_query": ("none", "that is no SQL command"),
    "auth_query": ("select 1; select 2", "more than one statement"),
}


@pytest.mark.parametrize("setting", DOUBTS)
@pytest.mark.parametrize("when", ["start", "reload", "--check"])
def test_query_that_cannot_work_is_warned_of(
    pooler: Callable[..., Any], setting: str, when: str
) -> None:
    """Found in real files, and nobody said a word."""
    text, why = DOUBTS[setting]
    given = {} if when == "reload" else {setting: text}
    one = pooler(given, run=when != "--check")
    line = f"{setting}: {why}"
    if when == "start":
        one.wait_for_log(f"WARNING {line}")
    elif when == "reload":
        assert not one.log_matches(f"WARNING {setting}")
        one.reload(**{setting: text})
        one.wait_for_log(f"WARNING {line}")
    else:
        done = subprocess.run(
            [*one.command, "--check", one.directory / "pgbouncer.ini"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert f"warning: {line}" in done.stdout + done.stderr


def test_connect_query_in_quotes_is_warned_of(pooler: Callable[..., Any]) -> None:
    line = "{pg} connect_query='\"set work_mem = 1000\"'"
    one = pooler({}, databases={"p0": line, "*": line})
    why = "the quotes are part of it, PostgreSQL will refuse it"
    one.wait_for_log(f"WARNING connect_query of database p0: {why}")
    one.wait_for_log(rf"WARNING connect_query of database \*: {why}")
