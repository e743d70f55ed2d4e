"""Whose role clients have after an online restart: the one that they had before.

Old processes are a real PgBouncer and one of ours; each pool has to open a new server
in the new process, which is where a mistake shows.
"""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.live.test_takeover import (
    DEBIAN,
    OURS,
    Successor,
    command_of,
    name_of,
    successor,
)
from tests.replay.pooler import wait_for
from tests.support.ground import Ground, Postgres
from tests.support.pooler import RunningPooler

__all__ = ["successor"]

Succeed = Callable[..., Successor]
SETTINGS: dict[str, object] = {
    "pool_mode": "transaction",
    "server_tls_sslmode": "disable",
    "logfile": "{dir}/old.log",
    "auth_user": "postgres",
    "auth_query": "select rolname, rolpassword from pg_authid where rolname = $1",
}
DATABASES = {
    "plain": "{pg} dbname=p0",
    "forced": "{pg} dbname=p0 user=u_trust",
    "with_password": "{pg} dbname=p0 user=u_plain password=plainpass",
}


def roles(client: psycopg.Connection[Any]) -> tuple[str, str]:
    """Return who the server takes *client* for."""
    found = client.execute("select current_user::text, session_user::text").fetchone()
    assert found is not None
    return found[0], found[1]


def renewed(pooler: RunningPooler, postgres: Postgres) -> None:
    """Close all servers: whoever wants one now has a new one opened."""
    before = set(postgres.backends("p0"))
    pooler.console("RECONNECT")
    assert wait_for(lambda: not before & set(postgres.backends("p0")), 10)


@pytest.mark.parametrize("old", [DEBIAN, OURS], ids=name_of)
def test_clients_of_a_forced_user_keep_its_role_after_a_takeover(
    old: str, lab: Ground, postgres: Postgres, pooler: Any, successor: Succeed
) -> None:
    """A new server logged in as the client: here as a superuser."""
    first = pooler(
        SETTINGS | {"auth_type": "trust"},
        databases=DATABASES,
        command=command_of(old, lab),
        may_end=True,
        run=False,
    )
    first.log_file = first.directory / "old.log"
    first.run()
    second = successor(first, lab.command)
    expected = {
        ("plain", "postgres"): "postgres",
        ("plain", "u_trust"): "u_trust",
        ("forced", "postgres"): "u_trust",
        ("forced", "u_trust"): "u_trust",
        ("with_password", "postgres"): "u_plain",
    }
    clients = {who: first.connect(*who) for who in expected}
    try:
        for who, client in clients.items():
            assert roles(client) == (expected[who],) * 2
        clients["forced", "postgres"].execute("begin")
        clients["forced", "postgres"].execute("select 1")
        second.take_over()
        clients["forced", "postgres"].execute("commit")
        for _ in range(2):
            for who, client in clients.items():
                assert roles(client) == (expected[who],) * 2, who
            renewed(second, postgres)
        # The table's own user, and whoever comes now, are who they were.
        for who in expected:
            with second.connect(*who) as client:
                assert roles(client) == (expected[who],) * 2, who
    finally:
        for client in clients.values():
            client.close()


@pytest.mark.parametrize("old", [DEBIAN, OURS], ids=name_of)
def test_users_of_auth_query_keep_their_role_after_a_takeover(
    old: str, lab: Ground, postgres: Postgres, pooler: Any, successor: Succeed
) -> None:
    """Also a client that has the forced user's name, and another secret here."""
    settings = SETTINGS | {"auth_type": "md5"}
    databases = DATABASES | {"own": "{pg} dbname=p0 user=u_md5 password=md5pass"}
    first = pooler(
        settings,
        databases=databases,
        users={"postgres": "", "u_trust": "", "admin": "adminpass"},
        command=command_of(old, lab),
        may_end=True,
        run=False,
    )
    first.log_file = first.directory / "old.log"
    first.run()
    second = successor(first, lab.command)
    for one in (first, second):
        one.users = one.users | {"u_md5": "md5pass", "u_scram": "scrampass"}
    expected = {
        ("plain", "u_md5"): "u_md5",
        ("plain", "u_scram"): "u_scram",
        ("forced", "u_md5"): "u_trust",
        ("own", "u_scram"): "u_md5",
        ("own", "u_md5"): "u_md5",
    }
    clients = {who: first.connect(*who) for who in expected}
    try:
        for who, client in clients.items():
            assert roles(client) == (expected[who],) * 2
        second.take_over()
        for _ in range(2):
            for who, client in clients.items():
                assert roles(client) == (expected[who],) * 2, who
            renewed(second, postgres)
    finally:
        for client in clients.values():
            client.close()


def test_reload_that_changes_the_forced_user_is_kept_by_a_takeover(
    lab: Ground, postgres: Postgres, pooler: Any, successor: Succeed
) -> None:
    """A transaction that runs as the role of before must not end in the new pool."""
    first = pooler(
        SETTINGS | {"auth_type": "trust"},
        databases={"plain": "{pg} dbname=p0"},
        may_end=True,
        run=False,
    )
    first.log_file = first.directory / "old.log"
    first.run()
    second = successor(first, lab.command)
    path = second.directory / second.file
    path.write_text(path.read_text().replace("dbname=p0", "dbname=p0 user=u_trust"))
    with (
        first.connect("plain", "postgres") as client,
        first.connect("plain", "postgres") as idle,
    ):
        client.execute("begin")
        assert roles(client) == ("postgres", "postgres")
        assert roles(idle) == ("postgres", "postgres")
        second.take_over()
        assert roles(client) == ("postgres", "postgres")
        client.execute("commit")
        # From here on both are who a login would make them.
        for one in (client, idle, client):
            assert roles(one) == ("u_trust", "u_trust")
        with second.connect("plain", "postgres") as fresh:
            assert roles(fresh) == ("u_trust", "u_trust")
