"""Steps that several scenarios take: log in, ask, count what is there."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.replay.pooler import wait_for
from tests.support.wire import FakeClient, error, rows


@contextmanager
def clients(
    one: Any, count: int, database: str = "p0", user: str = "u_trust", **params: str
) -> Iterator[list[FakeClient]]:
    """*count* clients that have logged in; closed at the end."""
    made: list[FakeClient] = []
    try:
        for _ in range(count):
            client = FakeClient(one.port, seconds=20)
            made.append(client)
            got = client.login(database, user, one.users.get(user, ""), **params)
            assert got[-1]["type"] == "ReadyForQuery", got
        yield made
    finally:
        for client in made:
            client.close(terminate=True)


def told(messages: list[dict[str, Any]]) -> str | None:
    """The text of the first error among *messages*."""
    return error(messages).get("M")


def backend(client: FakeClient) -> str:
    """The process id of the server that *client* is given."""
    pid: str = rows(client.ask("select pg_backend_pid()"))[0][0]
    return pid


def show(one: Any, what: str, **which: Any) -> dict[str, Any]:
    """The first row of SHOW *what* whose columns are as *which* says; else empty."""
    for row in one.console(f"SHOW {what}"):
        if all(row[name] == value for name, value in which.items()):
            return dict(row)
    return {}


def counts(one: Any) -> dict[str, int]:
    """Every count of clients and servers that stands for a limit, but the console's."""
    found: dict[str, int] = {}
    for row in one.console("SHOW DATABASES"):
        if row["name"] != "pgbouncer":
            found[f"{row['name']} servers"] = row["current_connections"]
            found[f"{row['name']} clients"] = row["current_client_connections"]
    for row in one.console("SHOW USERS"):
        found[f"{row['name']} servers"] = row["current_connections"]
        if row["name"] != "admin":
            found[f"{row['name']} clients"] = row["current_client_connections"]
    for row in one.console("SHOW POOLS"):
        if row["database"] != "pgbouncer":
            name = f"{row['database']}/{row['user']}"
            found |= {
                f"{name} {column}": value
                for column, value in row.items()
                if column.startswith(("cl_", "sv_"))
            }
    lists = {row["list"]: row["items"] for row in one.console("SHOW LISTS")}
    # The console that asks is a client, too.
    found["used_clients"] = lists["used_clients"] - 1
    found["used_servers"] = lists["used_servers"]
    found["login_clients"] = lists["login_clients"]
    return found


def settle_to_zero(one: Any, seconds: float = 10) -> dict[str, int]:
    """Wait until nothing counts as being there; what still does."""
    left: dict[str, int] = {}

    def nothing_left() -> bool:
        nonlocal left
        left = {name: count for name, count in counts(one).items() if count}
        return not left

    wait_for(nothing_left, seconds)
    return left


def a_few_rounds(one: Any, rounds: int = 4) -> None:
    """Let the janitor run: a client without a login is found by it."""
    end = time.monotonic() + rounds / 3
    wait_for(lambda: time.monotonic() > end, 10)
