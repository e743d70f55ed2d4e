"""What RELOAD makes of states that live on: the registry's part, without sockets."""

from collections.abc import Callable
from typing import Any

import pytest

from bouncer.config.settings import (
    AutoDatabase,
    Configuration,
    Database,
    Peer,
    Settings,
    UserOptions,
)
from bouncer.pool.pools import ServerPool
from bouncer.pool.registry import (
    CONSOLE,
    DatabaseState,
    Registry,
    UserState,
)

SECOND = 1_000_000


class Pool:
    """As much of a pool as the registry looks at."""

    def __init__(self, database: DatabaseState, user: UserState) -> None:
        self.database, self.user, self.user_name = database, user, user.name
        self.counted: tuple[int, ...] = (1, 2)

    credentials = ServerPool.credentials
    own_password = ServerPool.own_password
    scram_keys = None

    def counters(self) -> tuple[int, ...]:
        """What a test says."""
        return self.counted


def told(
    databases: dict[str, dict[str, Any]] | None = None,
    auto: str | None = None,
    users: dict[str, dict[str, Any]] | None = None,
    peers: dict[int, str] | None = None,
) -> Configuration:
    """A configuration: databases and users with their values, `*`, hosts of peers."""
    return Configuration(
        settings=Settings.defaults(),
        databases={
            name: Database(**{"name": name, "dbname": name, **values})
            for name, values in (databases or {}).items()
        },
        autodb=None if auto is None else AutoDatabase(auto),
        users={
            name: UserOptions(name, **values) for name, values in (users or {}).items()
        },
        peers={number: Peer(number, host) for number, host in (peers or {}).items()},
    )


def registry_of(
    configuration: Configuration, changed: Callable[[], None] = lambda: None
) -> Registry:
    return Registry(configuration, Pool, changed)  # type: ignore[arg-type]


def found(registry: Registry, name: str) -> DatabaseState:
    """The database *name*, which must be there or be made."""
    database = registry.find_database(name)
    assert database is not None
    return database


# Users


def test_reload_renews_the_options_of_a_learnt_user() -> None:
    """A user of auth_query, PAM or LDAP kept the limits of before for ever."""
    registry = registry_of(told({"db": {}}, users={"ann": {"query_timeout": 5}}))
    learnt = registry.learn_user(found(registry, "db"), "ann", "secret")
    new = registry.learn_user(found(registry, "db"), "bob", "secret")
    assert learnt.options is not None and learnt.options.query_timeout == 5
    assert new.options is None
    users = {"ann": {"query_timeout": 7, "pool_size": 2}, "bob": {"pool_size": 3}}
    registry.apply(told({"db": {}}, users=users))
    assert (learnt.options.query_timeout, learnt.options.pool_size) == (7, 2)
    assert new.options is not None and new.options.pool_size == 3


def test_reload_renews_the_options_of_a_user_of_the_table() -> None:
    registry = registry_of(told({"db": {}}, users={"ann": {"query_timeout": 5}}))
    pool = registry.pool(found(registry, "db"), "ann")
    registry.apply(told({"db": {}}, users={"ann": {"query_timeout": 7}}))
    assert pool.user.options.query_timeout == 7


def test_user_that_a_reload_names_is_known_from_then_on() -> None:
    """SHOW USERS has forced users and auth_users, also of automatic databases."""
    registry = registry_of(told({"db": {}}, auto=""))
    assert not registry.users.keys() & {"app", "asks", "auto"}
    registry.apply(told({"db": {"user": "app", "auth_user": "asks"}}, "user=auto"))
    found(registry, "made")
    assert [registry.users[name].named for name in ("app", "asks", "auto")] == [
        True
    ] * 3


@pytest.mark.parametrize(
    "kept_by",
    ["nothing", "in_auth_file", "named", "options", "client_count", "server_count",
     "another database"],
)  # fmt: skip
def test_account_of_a_learnt_user_goes_with_him_unless_it_is_of_use(
    kept_by: str,
) -> None:
    registry = registry_of(told({"db": {}, "other": {}}))
    account = registry.learn_user(found(registry, "db"), "ann", "x").account
    if kept_by == "another database":
        registry.learn_user(found(registry, "other"), "ann", "y")
    elif kept_by == "options":
        account.options = UserOptions("ann")
    elif kept_by != "nothing":
        setattr(account, kept_by, 1)
    registry.forget_learnt("db", "ann")
    assert ("db", "ann") not in registry.learnt
    assert ("ann" in registry.users) == (kept_by != "nothing")
    # Twice is once.
    registry.forget_learnt("db", "ann")
    assert account.aliases == (kept_by == "another database")


def test_user_that_leaves_auth_file_has_no_secret_any_more() -> None:
    registry = registry_of(told({"db": {}}))
    registry.set_auth_file({"ann": "a", "bob": "b"})
    ann = registry.user("ann")
    registry.set_auth_file({"bob": "b"})
    assert (ann.secret, ann.in_auth_file) == ("", False)
    assert (registry.user("bob").secret, registry.user("bob").in_auth_file) == (
        "b",
        True,
    )


def test_other_secret_voids_what_was_made_of_the_old_one() -> None:
    user = UserState("ann")
    user.set_secret("old")
    user.scram_keys, user.adhoc_scram = (b"c", b"s"), object()
    user.set_secret("old")
    assert user.scram_keys and user.adhoc_scram
    user.set_secret("new")
    assert (user.scram_keys, user.adhoc_scram) == (None, None)


# Databases


def test_reload_renews_the_entry_of_an_automatic_database() -> None:
    """Its pools went on connecting where `*` had led before."""
    registry = registry_of(told(auto="host=one"))
    made = found(registry, "made")
    pool = registry.pool(made, "ann")
    old = made.config
    changed, dropped = registry.apply(told(auto="host=two pool_size=3"))
    assert (changed, dropped) == ([(made, old)], [])
    assert registry.databases["made"] is made and made.auto
    assert (made.config.host, made.config.pool_size) == ("two", 3)
    assert made.config.dbname == "made"
    assert pool.database is made


def test_reload_that_changes_only_sizes_closes_nothing_and_is_taken() -> None:
    """Of named and of automatic databases alike."""
    registry = registry_of(told({"db": {}}, auto="host=h"))
    states = [found(registry, "made"), found(registry, "db")]
    changed, _ = registry.apply(
        told({"db": {"pool_size": 3}}, auto="host=h pool_size=3")
    )
    assert changed == []
    assert [state.config.pool_size for state in states] == [3, 3]


def test_reload_without_an_entry_for_any_drops_automatic_databases() -> None:
    registry = registry_of(told({"db": {}}, auto="host=h"))
    used, idle = found(registry, "used"), found(registry, "idle")
    registry.pool(used, "ann")
    registry.put_to_sleep(idle, SECOND)
    _, dropped = registry.apply(told({"db": {}}))
    assert dropped == [used, idle]
    for known in (registry.databases, registry.awake, registry.asleep,
                  registry.resting, registry.populated):  # fmt: skip
        assert not known.keys() & {"used", "idle"}
    assert registry.find_database("used") is None


def test_automatic_database_that_a_reload_names_is_automatic_no_longer() -> None:
    registry = registry_of(told(auto="host=h"))
    made = found(registry, "made")
    registry.put_to_sleep(made, SECOND)
    changed, dropped = registry.apply(told({"made": {"host": "h"}}, auto="host=h"))
    assert (changed, dropped) == ([], [])
    assert registry.databases["made"] is made and not made.auto
    assert "made" in registry.awake and "made" not in registry.asleep
    # Named no more, it is not made anew of `*` by itself.
    _, dropped = registry.apply(told(auto="host=h"))
    assert dropped == [made]


def test_reload_reports_a_changed_entry_with_the_old_one() -> None:
    registry = registry_of(told({"a": {"host": "one"}, "b": {"host": "one"}}))
    state = registry.databases["a"]
    old = state.config
    fresh = told({"a": {"host": "two"}, "b": {"host": "one"}, "c": {}})
    changed, dropped = registry.apply(fresh)
    assert (changed, dropped) == ([(state, old)], [])
    assert state.config is fresh.databases["a"]
    assert "c" in registry.awake and not registry.databases["c"].auto


def test_reload_spares_the_console() -> None:
    registry = registry_of(told({"db": {}}))
    console = DatabaseState(Database(CONSOLE, CONSOLE))
    registry.add_database(console)
    _, dropped = registry.apply(told({"db": {}}))
    assert dropped == []
    assert registry.databases[CONSOLE] is console


# Peers


def test_reload_renews_the_address_of_a_peer_and_keeps_its_pool() -> None:
    registry = registry_of(told(peers={1: "one", 2: "gone"}))
    kept, gone = registry.peers[1], registry.peers[2]
    pool = kept.pool = Pool(found_console(), UserState("x"))  # type: ignore[assignment]
    changed, dropped = registry.apply(told(peers={1: "other", 3: "new"}))
    assert (changed, dropped) == ([], [gone])
    assert registry.peers[1] is kept
    assert (kept.config.host, kept.pool) == ("other", pool)
    assert {n: peer.config.host for n, peer in registry.peers.items()} == {
        1: "other", 3: "new"
    }  # fmt: skip
    assert registry.peers[3].id == 3


def found_console() -> DatabaseState:
    return DatabaseState(Database(CONSOLE, CONSOLE))


# What others remember


def test_whoever_remembers_logins_is_told_of_every_change() -> None:
    """The door lets in who came before by what it remembers of him."""
    told_of: list[str] = []
    registry = registry_of(told({"db": {}}), lambda: told_of.append("changed"))
    told_of.clear()
    registry.apply(told({"db": {}}))
    assert len(told_of) == 1
    registry.set_auth_file({})
    assert len(told_of) == 2
    registry.drop_pool(registry.pool(found(registry, "db"), "ann"))
    assert len(told_of) == 3


def test_totals_of_a_database_keep_what_dropped_pools_have_counted() -> None:
    registry = registry_of(told({"db": {}}))
    database = found(registry, "db")
    registry.learn_user(database, "ann", "secret")
    for expected in ((1, 2), (2, 4)):
        registry.drop_pool(registry.pool(database, "ann"))
        assert database.past == expected
        assert not database.pools
    # Whoever he is, he is asked again.
    assert not registry.learnt
