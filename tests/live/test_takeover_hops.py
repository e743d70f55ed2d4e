"""Several online restarts in a row: what was true before the first is after the last.

A field that one process takes into one place and hands on from another survives one
restart and not two. So each chain here has two at least, in any order of a real
PgBouncer and ours, with clients that log in by SCRAM, one of them in a transaction.
"""

import threading
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
from tests.live.test_takeover_roles import renewed
from tests.replay.pooler import wait_for
from tests.support.ground import Ground, Postgres
from tests.support.pooler import RunningPooler

__all__ = ["successor"]

CHAINS = [
    (DEBIAN, OURS, OURS),
    (DEBIAN, OURS, DEBIAN),
    (DEBIAN, DEBIAN, OURS),
    (OURS, DEBIAN, OURS),
    (OURS, OURS, DEBIAN),
    (OURS, OURS, OURS, OURS),
    (DEBIAN, OURS, DEBIAN, OURS),
]
SETTINGS: dict[str, object] = {
    "pool_mode": "transaction",
    "server_tls_sslmode": "disable",
    "logfile": "{dir}/old.log",
    "auth_type": "scram-sha-256",
    "auth_query": "select rolname, rolpassword from pg_authid where rolname = $1",
}
# A real one looks for auth_user here, when it takes a learnt user over.
DATABASES = {
    "plain": "{pg} dbname=p0 auth_user=postgres",
    "forced": "{pg} dbname=p0 auth_user=postgres user=u_scram",
    "with_password": "{pg} dbname=p0 auth_user=postgres user=u_md5 password=md5pass",
}
# Who comes, and as whom the servers know him: of the table, learnt, forced.
ROLES = {
    ("plain", "u_scram"): "u_scram",
    ("plain", "u_scram2"): "u_scram2",
    ("forced", "u_scram"): "u_scram",
    ("with_password", "u_scram2"): "u_md5",
}
# Fields that a real PgBouncer hands over, too; the others only between two of ours.
ALWAYS: dict[str, tuple[str, ...]] = {
    "CLIENTS": ("user", "database", "addr", "port", "local_addr", "local_port"),
    "SERVERS": (
        *("user", "database", "state", "addr", "port", "local_addr", "local_port"),
        "remote_pid",
    ),
    "POOLS": (
        *("database", "user", "cl_active", "cl_waiting", "sv_active", "sv_idle"),
        "pool_mode",
    ),
}
# An old PgBouncer calls clients active that have no server.
OF_OURS: dict[str, tuple[str, ...]] = {
    "CLIENTS": ("state", "replication", "connect_time", "application_name", "id"),
    "SERVERS": (
        "replication",
        "connect_time",
        "application_name",
        "id",
        "close_needed",
    ),
    "POOLS": (),
}


def comers(programs: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return who can live through the chain.

    PgBouncer 1.18 refuses a restart in which SCRAM keys of a forced user are told,
    though it tells them itself.
    """
    told_to_a_real_one = DEBIAN in programs[1:]
    return [
        who
        for who in ROLES
        if not (who[0] == "forced" and told_to_a_real_one)
        and not (who[0] != "plain" and tells_itself(programs))
    ]


def tells_itself(programs: tuple[str, ...]) -> bool:
    """Say whether a real one follows upon a real one."""
    return (DEBIAN, DEBIAN) in zip(programs, programs[1:], strict=False)


def one_with_a_key(
    pooler: RunningPooler, programs: tuple[str, ...]
) -> psycopg.Connection[Any]:
    """Return a client whose cancel key has its highest bit set, if keys here can.

    PgBouncer 1.18 gives such keys, and spoils them when it is told of them without a
    sign, as it tells itself.
    """
    wanted = programs[0] == DEBIAN and not tells_itself(programs)
    while True:
        client = pooler.connect("plain", "u_scram2")
        if (client.pgconn.backend_pid < 0) == wanted:
            return client
        client.close()


class Chain:
    """One process after the other, and the clients that live through it."""

    def __init__(self, first: RunningPooler, programs: tuple[str, ...]) -> None:
        self.now = first
        self.is_ours = all(one == OURS for one in programs)
        self.clients: dict[Any, psycopg.Connection[Any]] = {}

    def shown(self, topic: str, fields: tuple[str, ...]) -> list[tuple[Any, ...]]:
        """Return those fields of SHOW, of all rows but the console's.

        And but those of auth_user where another user is forced: a real one takes his
        servers for that user's, and is not given them.
        """
        return sorted(
            tuple(str(row[field]) for field in fields)
            for row in self.now.console(f"SHOW {topic}")
            if row["database"] != "pgbouncer"
            and (row["database"] == "plain" or row["user"] != "postgres")
        )

    def facts(self) -> dict[str, Any]:
        """Return what no restart may change."""
        return {
            topic: self.shown(topic, fields + (OF_OURS[topic] if self.is_ours else ()))
            for topic, fields in ALWAYS.items()
        }

    def links(self) -> list[tuple[Any, Any]]:
        """Return the client's port and the server's process of each linked pair."""
        servers = {
            row["ptr"]: row["remote_pid"] for row in self.now.console("SHOW SERVERS")
        }
        return sorted(
            (row["port"], servers[row["link"]])
            for row in self.now.console("SHOW CLIENTS")
            if row["link"] and row["database"] != "pgbouncer"
        )


@pytest.mark.parametrize(
    "programs", CHAINS, ids=lambda chain: "-".join(name_of(one) for one in chain)
)
def test_restarts_in_a_row_lose_no_field(
    programs: tuple[str, ...],
    lab: Ground,
    postgres: Postgres,
    pooler: Any,
    successor: Callable[..., Successor],
) -> None:
    """`wrong password type` was what clients got after the second restart."""
    secret = postgres.rows(
        "select rolpassword from pg_authid where rolname = 'u_scram'"
    )[0]["rolpassword"]
    first = pooler(
        SETTINGS,
        databases=DATABASES,
        users={"postgres": "", "admin": "adminpass", "u_scram": secret},
        command=command_of(programs[0], lab),
        may_end=True,
        run=False,
    )
    first.log_file = first.directory / "old.log"
    first.run()
    passwords = {"u_scram": "scrampass", "u_scram2": "scrampass2"}
    first.users = first.users | passwords
    chain = Chain(first, programs)
    try:
        for who in comers(programs):
            chain.clients[who] = first.connect(*who, client_encoding="LATIN1")
        busy = chain.clients["busy"] = one_with_a_key(first, programs)
        for client in chain.clients.values():
            client.execute("set timezone to 'Asia/Tokyo'")
            client.execute("set datestyle to 'German, DMY'")
        if chain.is_ours:
            named = chain.clients["plain", "u_scram"]
            named.execute("set application_name to 'kept'")
            named.prepare_threshold = 0
            named.execute("select %s::int + 1", (1,))
        busy.execute("begin")
        busy.execute("set local work_mem to '77MB'")
        for number, program in enumerate(programs[1:]):
            before, links = chain.facts(), chain.links()
            old = chain.now
            chain.now = successor(first, command_of(program, lab), f"new{number}")
            chain.now.take_over()
            assert old.wait_for_exit(10) == 0, old.text()
            assert chain.facts() == before
            assert chain.links() == links and len(links) == 1
            assert busy.execute("show work_mem").fetchone() == ("77MB",)
        check_after(chain, postgres)
    finally:
        for client in chain.clients.values():
            client.close()


def check_after(chain: Chain, postgres: Postgres) -> None:
    """Ask each client for what it was told, on the old server and on a new one."""
    busy = chain.clients["busy"]
    check_cancel(chain, postgres)
    busy.execute("rollback")
    for _ in range(2):
        for who, client in chain.clients.items():
            role = ROLES.get(who, "u_scram2")
            found = client.execute(
                "select current_user::text, session_user::text,"
                " current_setting('TimeZone'), current_setting('DateStyle'),"
                " current_setting('client_encoding')"
            ).fetchone()
            encoding = "UTF8" if who == "busy" else "LATIN1"
            assert found == (role, role, "Asia/Tokyo", "German, DMY", encoding), who
        if chain.is_ours:
            named = chain.clients["plain", "u_scram"]
            assert named.execute("select %s::int + 1", (2,)).fetchone() == (3,)
            shown = named.execute("show application_name").fetchone()
            assert shown == ("kept",)
        renewed(chain.now, postgres)


def check_cancel(chain: Chain, postgres: Postgres) -> None:
    """The key that the first process gave reaches the query under way."""
    client = chain.clients["busy"]
    ended: list[type] = []

    def long() -> None:
        try:
            client.execute("select pg_sleep(60)")
        except psycopg.Error as err:
            ended.append(type(err))

    thread = threading.Thread(target=long)
    thread.start()
    assert wait_for(
        lambda: postgres.rows(
            "select 1 from pg_stat_activity where state = 'active'"
            " and query = 'select pg_sleep(60)'"
        ),
        10,
    )
    client.cancel()
    thread.join(20)
    assert ended == [psycopg.errors.QueryCanceled], chain.now.text()
