"""Whose value of a limit counts, and how many get in: tables, without sockets."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from bouncer.config.own import OwnSettings
from bouncer.config.settings import Database, Settings, UserOptions
from bouncer.errors import Disconnect
from bouncer.pool.limits import Limits, listed
from bouncer.pool.registry import CONSOLE, DatabaseState, UserState

MODES = ("session", "transaction", "statement")


class House:
    """An application with settings, a database and a user."""

    def __init__(
        self,
        user: dict[str, Any] | None = None,
        database: dict[str, Any] | None = None,
        name: str = "db",
        **settings: Any,
    ) -> None:
        self.woken: list[DatabaseState] = []
        self.app = SimpleNamespace(
            settings=replace(Settings.defaults(), **settings),
            config=SimpleNamespace(own=OwnSettings()),
            door=SimpleNamespace(sockets=0, departed=0, most_fd=100),
            registry=SimpleNamespace(wake=self.woken.append),
        )
        self.limits = Limits(self.app)
        self.database = DatabaseState(Database(name, name, **(database or {})))
        self.user = UserState("ann")
        if user is not None:
            self.user.options = UserOptions("ann", **user)
        self.pool = SimpleNamespace(database=self.database, user=self.user)
        self.client = SimpleNamespace(user_state=self.user, database=self.database)

    def admit(self, is_admin: bool = False, **known: Any) -> Any:
        """Let a client in, whose database and user are known unless *known* says so."""
        client = SimpleNamespace(counted_database=None, counted_user=None)
        whom = {"database": self.database, "user": self.user} | known
        self.limits.admit_client(client, whom["database"], whom["user"], is_admin)
        return client


def called(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """Of a table's values that of `x`, under its name."""
    return {name: values["x"]} if "x" in values else {}


# Whose value counts


@pytest.mark.parametrize("name", ["pool_size", "reserve_pool_size"])
@pytest.mark.parametrize(
    ("user", "database", "counts"),
    [
        ({}, {}, 7),
        (None, {}, 7),
        ({}, {"x": 5}, 5),
        (None, {"x": 5}, 5),
        ({"x": 3}, {"x": 5}, 3),
        # 0 is set: it means no limit, or no reserve.
        ({"x": 0}, {"x": 5}, 0),
        ({}, {"x": 0}, 0),
    ],
)
def test_size_of_a_pool_is_the_users_else_the_databases_else_the_general_one(
    name: str, user: dict[str, Any] | None, database: dict[str, Any], counts: int
) -> None:
    general = "default_pool_size" if name == "pool_size" else name
    house = House(
        None if user is None else called(name, user),
        called(name, database),
        **{general: 7},
    )
    assert getattr(house.limits, name)(house.pool) == counts


@pytest.mark.parametrize(("own", "counts"), [(None, 7), (5, 5), (0, 0)])
def test_min_pool_size_is_the_databases_else_the_general_one(
    own: int | None, counts: int
) -> None:
    house = House(database={"min_pool_size": own}, min_pool_size=7)
    assert house.limits.min_pool_size(house.pool) == counts


def test_console_has_a_pool_of_its_own_size_and_nothing_kept() -> None:
    sizes = dict.fromkeys(
        ("default_pool_size", "min_pool_size", "reserve_pool_size"), 7
    )
    house = House(name=CONSOLE, pool_mode="session", **sizes)
    limits, pool = house.limits, house.pool
    assert (limits.pool_size(pool), limits.min_pool_size(pool)) == (2, 0)
    assert limits.reserve_pool_size(pool) == 0
    assert limits.pool_mode(pool) == "statement"


@pytest.mark.parametrize("user", [None, *MODES])
@pytest.mark.parametrize("database", [None, *MODES])
def test_pool_mode_is_the_users_else_the_databases_else_the_general_one(
    user: str | None, database: str | None
) -> None:
    for general in MODES:
        house = House({"pool_mode": user}, {"pool_mode": database}, pool_mode=general)
        assert house.limits.pool_mode(house.pool) == (user or database or general)


COUNTED = [
    ("max_db_connections", "max_db_connections", "database"),
    ("max_user_connections", "max_user_connections", "user"),
    ("max_db_clients", "max_db_client_connections", "database"),
    ("max_user_clients", "max_user_client_connections", "user"),
]


@pytest.mark.parametrize(("ask", "name", "of"), COUNTED)
@pytest.mark.parametrize(
    ("own", "general", "counts"),
    [(None, 7, 7), (None, 0, 0), (5, 7, 5), (9, 7, 9), (5, 0, 5)],
)
def test_most_connections_of_one_are_its_own_else_the_general_ones(
    ask: str, name: str, of: str, own: int | None, general: int, counts: int
) -> None:
    house = House(**{of: {name: own}}, **{name: general})
    assert getattr(house.limits, ask)(getattr(house, of)) == counts
    if of == "user":
        house.user.options = None
        assert getattr(house.limits, ask)(house.user) == general


TIMES = ("query_timeout", "idle_transaction_timeout", "transaction_timeout")


@pytest.mark.parametrize("name", [*TIMES, "client_idle_timeout"])
@pytest.mark.parametrize(
    ("user", "counts"), [(None, 7), ({}, 7), ({"x": 0.5}, 0.5), ({"x": 9}, 9)]
)
def test_timeout_of_a_user_is_his_own_else_the_general_one(
    name: str, user: dict[str, Any] | None, counts: float
) -> None:
    options = None if user is None else called(name, user)
    house = House(options, **{name: 7})
    if name == "client_idle_timeout":
        assert house.limits.client_idle_timeout(house.user) == counts
        assert house.limits.client_idle_timeout(None) == 7
    else:
        assert house.limits.of_pool_user(house.pool, name) == counts


def test_each_timeout_of_a_pool_is_the_one_that_was_asked_for() -> None:
    house = House({name: rank for rank, name in enumerate(TIMES, 1)})
    asked = [house.limits.of_pool_user(house.pool, name) for name in TIMES]
    assert asked == [1, 2, 3]


@pytest.mark.parametrize(
    ("user", "database", "counts"),
    [
        (None, None, 7),
        ({}, None, 7),
        ({}, 5, 5),
        (None, 5, 5),
        ({"query_wait_timeout": 3}, 5, 3),
        # It is set once it is there: 0 waits for ever.
        ({"query_wait_timeout": 0}, 5, 0),
        ({}, 0, 0),
    ],
)
def test_query_wait_timeout_is_whoevers_has_one_even_nothing(
    user: dict[str, Any] | None, database: float | None, counts: float
) -> None:
    house = House(user, {"query_wait_timeout": database}, query_wait_timeout=7)
    assert house.limits.query_wait_timeout(house.client) == counts


def test_query_wait_timeout_of_who_is_not_known_yet_is_the_general_one() -> None:
    house = House({"query_wait_timeout": 3}, query_wait_timeout=7)
    house.client.user_state = house.client.database = None
    assert house.limits.query_wait_timeout(house.client) == 7


@pytest.mark.parametrize(("own", "counts"), [(None, 7), (5.0, 5), (0.0, 7)])
def test_server_lifetime_is_the_databases_else_the_general_one(
    own: float | None, counts: float
) -> None:
    house = House(database={"server_lifetime": own}, server_lifetime=7)
    assert house.limits.server_lifetime(house.database) == counts


@pytest.mark.parametrize(
    ("names", "is_there"),
    [("ann", True), ("bob,ann", True), ("bob ann", True), ("bob\tann , x", True),
     ("annie", False), ("joann", False), ("", False), (",", False)],
)  # fmt: skip
def test_name_is_found_among_names_as_a_whole(names: str, is_there: bool) -> None:
    assert listed("ann", names) == is_there


def test_nobody_is_among_names() -> None:
    assert not listed("", "ann,,bob")


# How many get in


@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize(("name", "of"), [(n, of) for _, n, of in COUNTED[2:]])
def test_as_many_clients_get_in_as_the_limit_says(
    limit: int, name: str, of: str
) -> None:
    """Each was counted twice, and a limit of 1 was all that was tried."""
    house = House(**{of: {name: limit}})
    one = getattr(house, of)
    for number in range(1, limit + 1):
        client = house.admit()
        assert one.client_count == number
        assert (client.counted_database, client.counted_user) == (
            house.database, house.user
        )  # fmt: skip
    with pytest.raises(Disconnect, match=name):
        house.admit()
    assert one.client_count == limit
    # An admin always gets in, and counts.
    house.admit(is_admin=True)
    assert one.client_count == limit + 1
    # Who has said goodbye does not count any more.
    one.departed = 2
    house.admit()
    with pytest.raises(Disconnect, match=name):
        house.admit()


def test_client_is_counted_once_with_each_as_it_becomes_known() -> None:
    house = House()
    client = house.admit(user=None)
    assert (house.database.client_count, house.user.client_count) == (1, 0)
    assert house.woken == [house.database]
    for _ in range(2):
        house.limits.admit_client(client, house.database, house.user)
    assert (house.database.client_count, house.user.client_count) == (1, 1)
    house.admit(database=None)
    assert (house.database.client_count, house.user.client_count) == (1, 2)
    # Only the first wakes it.
    house.admit()
    assert house.woken == [house.database]


def test_client_that_is_refused_for_its_user_stays_counted_with_its_database() -> None:
    """It is until it is closed, and that takes away what was counted."""
    house = House({"max_user_client_connections": 1})
    house.admit()
    client = SimpleNamespace(counted_database=None, counted_user=None)
    with pytest.raises(Disconnect, match="max_user_client_connections"):
        house.limits.admit_client(client, house.database, house.user)
    assert client.counted_database is house.database and client.counted_user is None
    assert (house.database.client_count, house.user.client_count) == (2, 1)


def test_clients_of_a_learnt_user_count_with_the_account() -> None:
    house = House({"max_user_client_connections": 2})
    learnt = UserState("ann")
    learnt.account = house.user
    assert house.admit(user=learnt).counted_user is house.user
    house.admit()
    with pytest.raises(Disconnect):
        house.admit(user=learnt)
    assert (house.user.client_count, learnt.client_count) == (2, 0)


@pytest.mark.parametrize(
    ("sockets", "departed", "fd", "refusal"),
    [
        (3, 0, 99, None),
        (4, 0, 99, "max_client_conn"),
        (4, 1, 99, None),
        (5, 1, 99, "max_client_conn"),
        (1, 0, 100, "file descriptors"),
    ],
)
def test_max_client_conn_counts_this_socket_but_not_who_said_goodbye(
    sockets: int, departed: int, fd: int, refusal: str | None
) -> None:
    house = House(max_client_conn=3)
    house.app.door.sockets, house.app.door.departed = sockets, departed
    client = SimpleNamespace(fd=fd)
    house.limits.admit_socket(client, CONSOLE)
    if refusal is None:
        house.limits.admit_socket(client, "db")
        return
    with pytest.raises(Disconnect, match=refusal):
        house.limits.admit_socket(client, "db")


def test_own_setting_is_the_users_before_the_databases_before_the_general_one() -> None:
    house = House(parallel_logins=7)
    asked: list[tuple[str, str, str]] = []
    answer: list[int | None] = [None]

    def value(setting: str, database: str, user: str) -> int | None:
        asked.append((setting, database, user))
        return answer[0]

    own = SimpleNamespace(databases={}, users={}, value=value)
    house.app.config.own = own
    assert house.limits.own("parallel_logins", house.pool) == 7
    assert asked == []
    for lines in (own.databases, own.users):
        lines["x"] = object()
        answer[0] = 0
        assert house.limits.own("parallel_logins", house.pool) == 0
        answer[0] = None
        assert house.limits.own("parallel_logins", house.pool) == 7
        lines.clear()
    assert asked == [("parallel_logins", "db", "ann")] * 4
