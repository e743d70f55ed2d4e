"""Automatic databases that nobody uses cost nothing per round."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bouncer.config.load import load
from bouncer.pool import janitor as module
from bouncer.pool.janitor import Janitor
from bouncer.pool.registry import Registry

SECOND = 1_000_000
NAMES = 5000


class Clients:
    """A pool that counts what a test says."""

    def __init__(self, database: Any, user: Any) -> None:
        self.database, self.user = database, user
        self.user_name = user.name
        self.client_count = self.server_count = 0
        self.idle_since = 0
        self.waiting: list[Any] = []
        self.cancels: list[Any] = []

    def counters(self) -> tuple[int, ...]:
        return (0,) * 11


class Watching(Janitor):
    """A janitor that says which databases and pools it has looked at."""

    def __init__(self, app: Any) -> None:
        super().__init__(app, SimpleNamespace(wants_server=lambda pool: None))
        self.looked: list[str] = []

    def database(self, database: Any, now: int) -> None:
        self.looked.append(database.name)
        super().database(database, now)

    def servers(self, pool: Any, now: int) -> None:
        pass

    def clients(self, pool: Any, now: int) -> None:
        pass


class House:
    """A registry with `*`, and its janitor."""

    def __init__(self, tmp_path: Path, **settings: Any) -> None:
        ini = tmp_path / "p.ini"
        ini.write_text("[databases]\nreal = host=h\n* = host=h\n[pgbouncer]\n")
        self.registry = Registry(load(str(ini)), Clients)  # type: ignore[arg-type]
        self.dropped: list[str] = []
        self.app = SimpleNamespace(
            registry=self.registry,
            global_mode="none",
            consoles={},
            logging_in={},
            limits=SimpleNamespace(
                min_pool_size=lambda pool: 0,
                database_min_pool_size=lambda database: 0,
            ),
            settings=SimpleNamespace(
                autodb_idle_timeout=3600, pool_idle_timeout=0, client_login_timeout=60
            ),
            shutdown_progress=lambda: None,
            drop_database=self.drop,
        )
        vars(self.app.settings).update(settings)
        self.janitor = Watching(self.app)

    def drop(self, database: Any) -> None:
        self.dropped.append(database.name)
        self.registry.remove_database(database)

    def round(self, second: float) -> list[str]:
        """One round of the janitor: which databases it looked at."""
        self.janitor.looked.clear()
        self.janitor.run(int(second * SECOND))
        return list(self.janitor.looked)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_made_up_databases_are_looked_at_once(house: House) -> None:
    """50 000 of them took 7 % of a processor: each was looked at in each round."""
    for n in range(NAMES):
        house.registry.find_database(f"made{n}")
    assert len(house.round(1)) == NAMES + 1
    assert house.round(2) == ["real"]
    assert len(house.registry.databases) == NAMES + 1


def test_made_up_databases_with_pools_are_looked_at_once(house: House) -> None:
    """Whoever knows the name of a user had a pool made for each."""
    registry = house.registry
    for n in range(NAMES):
        database = registry.find_database(f"made{n}")
        assert database is not None
        registry.pool(database, "joe")
    house.round(1)
    assert house.round(2) == ["real"]


def test_a_database_that_is_used_again_is_looked_after(house: House) -> None:
    database = house.registry.find_database("made")
    assert database is not None
    house.round(1)
    assert house.round(2) == ["real"]
    house.registry.wake(database)
    database.client_count = 1
    assert house.round(3) == ["real", "made"]
    assert house.round(4) == ["real", "made"]
    database.client_count = 0
    house.round(5)
    assert house.round(6) == ["real"]
    # Idle from then on, not from the first time.
    house.round(3603)
    assert not house.dropped
    house.round(3606)
    assert house.dropped == ["made"]


def test_a_client_that_waits_in_a_pool_keeps_its_database_awake(house: House) -> None:
    """auth_query waits in the pool of another database, which counts no client."""
    registry = house.registry
    database = registry.find_database("made")
    assert database is not None
    pool = registry.pool(database, "joe")
    pool.client_count = 1  # type: ignore[misc]
    house.round(1)
    assert house.round(2) == ["real", "made"]


def test_autodb_idle_timeout_drops_the_oldest_first_and_few_at_once(
    house: House,
) -> None:
    for n in range(NAMES):
        house.registry.find_database(f"made{n}")
        if n == 9:
            house.round(1)
    house.round(2)
    house.round(3601.5)
    assert house.dropped == [f"made{n}" for n in range(10)]
    house.round(3603)
    assert len(house.dropped) == 10 + module.MOST_DROPPED
    for _ in range(NAMES // module.MOST_DROPPED):
        house.round(3604)
    assert len(house.dropped) == NAMES
    assert set(house.registry.databases) == {"real"}
    for known in (house.registry.asleep, house.registry.resting):
        assert not known


def test_pool_idle_timeout_drops_pools_of_sleepers(tmp_path: Path) -> None:
    house = House(tmp_path, pool_idle_timeout=10)
    registry = house.registry
    database = registry.find_database("made")
    assert database is not None
    registry.pool(database, "joe")
    house.round(1)
    house.round(10.5)
    assert database.pools
    house.round(12)
    assert not database.pools
    assert database.past
    assert not registry.resting
