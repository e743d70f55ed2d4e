"""Whose role the servers of a pool have: found in one place, whoever asks."""

from dataclasses import replace
from typing import Any

import pytest

from bouncer.config.settings import Configuration, Database, Settings
from bouncer.pool.pools import ServerPool
from bouncer.pool.registry import DatabaseState, Registry, UserState


class Pool:
    """As much of a pool as roles need; the rules for secrets are the real ones."""

    def __init__(self, database: DatabaseState, user: UserState) -> None:
        self.database, self.user, self.user_name = database, user, user.name
        self.scram_keys: Any = None

    credentials = ServerPool.credentials
    own_password = ServerPool.own_password
    learn_keys = ServerPool.learn_keys

    def counters(self) -> tuple[int, ...]:
        """Nothing was counted."""
        return ()


def configuration(**entry: Any) -> Configuration:
    database = Database(name="db", dbname="db", **entry)
    return Configuration(
        settings=replace(Settings.defaults()),
        databases={"db": database},
        autodb=None,
        users={},
        peers={},
    )


def registry_of(**entry: Any) -> Registry:
    registry = Registry(configuration(**entry), Pool)  # type: ignore[arg-type]
    registry.set_auth_file({"ann": "anns", "app": "apps", "boss": "bosss"})
    return registry


def user_of(registry: Registry, name: str) -> str:
    """Return whose secret opens a server of the pool *name*, and which."""
    pool = registry.pool(registry.databases["db"], name)
    assert pool.user.name == pool.user_name == pool.credentials.user == name
    return pool.credentials.secret


def test_forced_user_of_the_table_logs_in_whoever_came() -> None:
    """After a takeover the client's own user state stood in the forced pool."""
    registry = registry_of(user="app")
    database = registry.databases["db"]
    for client in (registry.user("ann"), registry.learn_user(database, "boss", "x")):
        pool = registry.login_pool(database, client)
        assert (pool.user_name, pool.user) == ("app", registry.user("app"))
        assert pool.credentials.secret == "apps"


def test_client_with_the_name_of_the_forced_user_does_not_change_its_secret() -> None:
    """auth_query tells of a client `app`; the table says how we log in as `app`."""
    registry = registry_of(user="app")
    learnt = registry.learn_user(registry.databases["db"], "app", "told by auth_query")
    assert user_of(registry, "app") == "apps"
    assert registry.user("app").secret == "apps"
    assert learnt.secret == "told by auth_query"


def test_learnt_user_logs_in_with_what_was_learnt_for_this_database() -> None:
    registry = registry_of()
    registry.databases["other"] = DatabaseState(Database(name="other", dbname="other"))
    registry.learn_user(registry.databases["db"], "carl", "of db")
    registry.learn_user(registry.databases["other"], "carl", "of other")
    assert user_of(registry, "carl") == "of db"
    pool = registry.pool(registry.databases["other"], "carl")
    assert pool.credentials.secret == "of other"


def test_table_user_logs_in_with_the_tables_secret() -> None:
    assert user_of(registry_of(), "ann") == "anns"


def test_user_learnt_again_is_the_pools_at_once() -> None:
    registry = registry_of()
    database = registry.databases["db"]
    pool = registry.pool(database, "carl")
    learnt = registry.learn_user(database, "carl", "new")
    assert pool.user is learnt
    registry.forget_learnt("db", "carl")


def test_auth_file_that_comes_to_know_a_learnt_user_is_believed() -> None:
    """The secret that was learnt before would have gone on opening servers."""
    registry = registry_of()
    database = registry.databases["db"]
    registry.learn_user(database, "carl", "learnt")
    pool = registry.pool(database, "carl")
    registry.set_auth_file({"carl": "of the file"})
    assert pool.user is registry.user("carl")
    assert user_of(registry, "carl") == "of the file"
    # Told by PAM since: the file is the same, and that was told last.
    registry.learn_user(database, "carl", "of PAM")
    registry.set_auth_file({"carl": "of the file"})
    assert user_of(registry, "carl") == "of PAM"
    registry.set_auth_file({"carl": "newer"})
    assert user_of(registry, "carl") == "newer"


CHANGES = [
    ({}, {"user": "app"}),
    ({"user": "app"}, {}),
    ({"user": "app"}, {"user": "boss"}),
    ({"user": "app", "password": "p"}, {"user": "boss", "password": "q"}),
    ({}, {"user": "ann", "password": "p"}),
]


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_reload_of_the_forced_user_leaves_no_pool_with_another_role(
    before: dict[str, str], after: dict[str, str]
) -> None:
    registry = registry_of(**before)
    database = registry.databases["db"]
    for name in ("ann", "app", "boss", "carl"):
        registry.pool(database, name)
        registry.learn_user(database, name, f"learnt {name}")
    registry.apply(configuration(**after))
    forced, password = after.get("user"), after.get("password")
    for name, pool in database.pools.items():
        # Without another look: what a server that is opened now would log in with.
        assert pool.user.name == pool.credentials.user == name
        told = f"learnt {name}" if name != forced else f"{name}s"
        if name == forced and password:
            told = password
        assert pool.credentials.secret == told
    for name in ("ann", "carl"):
        pool = registry.login_pool(database, registry.user(name))
        assert pool.user_name == (forced or name)


def test_password_of_the_entry_is_not_the_auth_users() -> None:
    """auth_user has a pool in a database with another `user=`, too."""
    registry = registry_of(user="app", password="secret of app")
    assert user_of(registry, "app") == "secret of app"
    assert user_of(registry, "boss") == "bosss"
