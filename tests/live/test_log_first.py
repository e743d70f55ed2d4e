"""Whoever reads the log because of an error finds what it says about that."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.wire import FakeClient, error

INI = {"auth_type": "md5", "server_login_retry": 0.1, "default_pool_size": 1}
LOGINS = {
    "wrong password": (("p0", "u_md5", "wrong"), "password authentication failed"),
    "unknown user": (("p0", "nobody_here", "x"), "password authentication failed"),
    "unknown database": (("nowhere", "u_md5", "x"), "pooler error: "),
    "refused by the server": (("missing", "u_md5", ""), 'FATAL database "missing_db"'),
    "nobody there": (("dead", "u_md5", ""), "closing because: .*timeout"),
}


@pytest.mark.parametrize("kind", LOGINS)
def test_line_about_a_failed_login_is_in_the_file_when_the_client_knows(
    pooler: Callable[..., Any], free_port: Callable[[], int], kind: str
) -> None:
    """The client had its error before the line was written."""
    (database, user, password), line = LOGINS[kind]
    one = pooler(
        {**INI, "client_login_timeout": 2, "query_wait_timeout": 1},
        databases={
            "p0": "{pg} dbname=p0",
            "missing": "{pg} dbname=missing_db",
            "dead": f"host=127.0.0.1 port={free_port()}",
        },
    )
    with FakeClient(one.port) as client:
        password = password or one.users[user]
        told = client.login(database, user, password)
        assert error(told)
        assert one.log_matches(line)


@pytest.mark.parametrize("how", ["KILL_CLIENT", "KILL p0", "query_wait_timeout"])
def test_line_about_a_client_that_is_cut_is_in_the_file_when_it_knows(
    pooler: Callable[..., Any], how: str
) -> None:
    one = pooler(
        {"pool_mode": "transaction", "default_pool_size": 1, "query_wait_timeout": 2}
    )
    with FakeClient(one.port) as holder, FakeClient(one.port) as client:
        holder.login("p0", "u_trust")
        client.login("p0", "u_trust")
        holder.ask("begin")
        reason = "query_wait_timeout"
        if how == "KILL_CLIENT":
            rows = one.console("SHOW CLIENTS")
            number = max(row["id"] for row in rows if row["database"] == "p0")
            one.console(f"KILL_CLIENT {number}")
            reason = "admin forced disconnect"
        elif how == "KILL p0":
            one.console("KILL p0")
            reason = "database removed"
        else:
            client.send({"type": "Query", "sql": "select 1"})
        assert error([client.next(10)])["M"] == reason
        assert one.log_matches(f"pooler error: {reason}")
