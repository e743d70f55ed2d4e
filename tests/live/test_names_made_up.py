"""A name that a client made up is no database that anybody uses."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.replay.pooler import wait_for
from tests.support.wire import FakeClient, error

INI = {
    "pool_mode": "transaction",
    "server_login_retry": 0.3,
    "autodb_idle_timeout": 2,
    "min_pool_size": 2,
}
LINES = {
    "forced user": "{pg} user=u_trust min_pool_size=5",
    "nobody forced": "{pg} min_pool_size=5",
}
REFUSED = 'server login failed: FATAL database "made_up" does not exist'


def databases(one: Any) -> set[str]:
    return {row["name"] for row in one.console("SHOW DATABASES")}


@pytest.mark.parametrize("line", LINES)
def test_name_that_does_not_exist_is_not_kept_warm(
    pooler: Callable[..., Any], line: str
) -> None:
    """It was dialled for min_pool_size each second, and never dropped."""
    one = pooler(INI, databases={"*": LINES[line]})
    with FakeClient(one.port) as client:
        assert error(client.login("made_up", "u_trust"))["C"] == "3D000"
    one.wait_for_log("dropping database 'made_up' as it does not exist anymore")
    assert databases(one) == {"pgbouncer"}
    # Two seconds have gone by since, several times server_login_retry.
    assert len(one.log_matches(REFUSED)) == 1


def test_database_that_is_dropped_is_kept_warm_no_longer(
    pooler: Callable[..., Any], postgres: Any
) -> None:
    """What PostgreSQL says is not there is not there, though it was."""
    one = pooler(INI, databases={"*": LINES["forced user"]})
    with postgres.connect("postgres") as admin:
        admin.execute("create database made_up")
        with FakeClient(one.port) as client:
            client.login("made_up", "u_trust")
            which = {"database": "made_up", "user": "u_trust"}
            one.wait_for_pool(lambda row: row["sv_idle"] == 5, **which)
        # Longer than the time-out: its connections are a use of it.
        assert wait_for(lambda: one.pool(**which)["cl_active"] == 0, 10)
        admin.execute("drop database made_up with (force)")
    one.wait_for_log("dropping database 'made_up' as it does not exist anymore")
    assert len(one.log_matches(REFUSED)) <= 2


def test_configured_database_is_warmed_until_it_exists(
    pooler: Callable[..., Any], postgres: Any
) -> None:
    """An entry of its own is somebody's word: it is tried until it is there."""
    one = pooler(INI, databases={"made_up": LINES["forced user"]})
    one.wait_for_log(REFUSED, count=2)
    with postgres.connect("postgres") as admin:
        admin.execute("create database made_up")
        try:
            one.wait_for_pool(
                lambda row: row["sv_idle"] == 5, database="made_up", user="u_trust"
            )
        finally:
            one.console("KILL made_up")
            admin.execute("drop database made_up with (force)")
