"""auth_query: on which database, as whom, with which query; without sockets."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from bouncer import lookup as module
from bouncer.config.settings import Database, Settings
from bouncer.errors import Disconnect
from bouncer.lookup import CONFIG_ERROR, Lookups
from bouncer.pool.keeper import WAIT_AUTH
from bouncer.pool.registry import CONSOLE, DatabaseState
from bouncer.relay.talk import Waiter
from tests.unit.pool.upkeep import One

GENERAL = {"auth_user": "general", "auth_query": "of all", "auth_dbname": "other"}
OWN = {"auth_user": "own", "auth_query": "of db", "auth_dbname": "third"}


class Pool:
    """Who queues for a server."""

    def __init__(self, database: DatabaseState, user: str) -> None:
        self.database, self.user_name = database, user
        self.defaults = None
        self.queued: list[tuple[Any, int]] = []
        self.released: list[Any] = []
        self.release_server = self.released.append

    def queue(self, client: Any, kind: int) -> None:
        self.queued.append((client, kind))


class World:
    """The app and the keeper, as much of them as look-ups need."""

    def __init__(self, entry: dict[str, Any] | None = None, **settings: Any) -> None:
        self.databases = {
            name: DatabaseState(Database(name, name))
            for name in ("other", "third", CONSOLE)
        }
        self.database = DatabaseState(Database("db", "db", **(entry or {})))
        self.databases["db"] = self.database
        self.may_wait = True
        self.later: list[Any] = []
        self.wanted: list[Any] = []
        keeper: Any = SimpleNamespace(
            may_wait=lambda pool, client: self.may_wait,
            wants_server=self.wanted.append,
        )
        self.app = SimpleNamespace(
            settings=replace(Settings.defaults(), **settings),
            consoles={CONSOLE: object()},
            registry=SimpleNamespace(
                pool=Pool, find_database=lambda name, client: self.databases.get(name)
            ),
            poller=SimpleNamespace(put_off=self.later.append),
        )
        self.client = SimpleNamespace(prefix="C-1", pool=None, ends_with=None)
        self.lookups = Lookups(self.app, keeper)

    def begin(self) -> Waiter:
        return self.lookups.begin(self.client, self.database, "ann")

    def server(self) -> Any:
        """A server for the client that waits; its talk is what it was asked."""
        server = One(
            tracked=None, pool=self.client.pool, closed=False, ended=None, did=[]
        )

        def disconnect(*told: Any) -> None:
            server.ended, server.closed = told, True

        server.disconnect = disconnect
        server.begin_talk = lambda talk: server.did.append(talk)
        server.relay_phase = lambda: server.did.append("relay_phase")
        server.mark_ready = lambda: server.did.append("mark_ready")
        self.client.wait_note(server)
        return server


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Queries and whom they are about, instead of being asked."""
    found: list[tuple[str, str]] = []
    monkeypatch.setattr(
        module, "auth_query", lambda server, query, name: found.append((query, name))
    )
    return found


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(module.log, "error", found.append)
    return found


@pytest.mark.parametrize(
    ("entry", "settings", "expected"),
    [
        ({}, GENERAL, ("other", "general", "of all")),
        # What the entry says goes before what all have.
        (OWN, GENERAL, ("third", "own", "of db")),
        (OWN, {}, ("third", "own", "of db")),
        ({"auth_user": "own"}, GENERAL, ("other", "own", "of all")),
        ({"auth_query": "of db"}, GENERAL, ("other", "general", "of db")),
        ({"auth_dbname": "third"}, GENERAL, ("third", "general", "of all")),
        # Without auth_dbname it is the database itself.
        ({}, {"auth_user": "general", "auth_query": "of all"},
         ("db", "general", "of all")),
    ],
)  # fmt: skip
def test_entry_of_a_database_goes_before_what_all_have(
    entry: dict[str, str],
    settings: dict[str, str],
    expected: tuple[str, str, str],
    asked: list[tuple[str, str]],
) -> None:
    """With auth_dbname or auth_query the other way about no test noticed."""
    world = World(entry, **settings)
    waiter = world.begin()
    database, user, query = expected
    pool = world.client.pool
    assert (pool.database.name, pool.user_name) == (database, user)
    assert pool.queued == [(world.client, WAIT_AUTH)]
    for late in world.later:
        late()
    assert world.wanted == [pool] and not waiter.ready
    world.server()
    assert asked == [(query, "ann")]


@pytest.mark.parametrize(
    ("entry", "disabled", "shown"),
    [
        ({"auth_dbname": "third"}, "third", "third"),
        ({}, "other", "other"),
        ({"auth_dbname": "third"}, "other", None),
        # The client's own may be disabled: that is another refusal's business.
        ({}, "db", None),
    ],
)
def test_database_that_is_disabled_is_not_asked(
    entry: dict[str, str], disabled: str, shown: str | None
) -> None:
    world = World(entry, **GENERAL)
    world.databases[disabled].disabled = True
    if shown is None:
        world.begin()
        assert world.client.pool is not None
        return
    why = f'^authentication database "{shown}" is disabled$'
    with pytest.raises(Disconnect, match=why):
        world.begin()
    assert world.client.pool is None


def test_own_database_that_is_disabled_has_no_name_of_an_auth_dbname() -> None:
    world = World(auth_user="general")
    world.database.disabled = True
    with pytest.raises(Disconnect, match=r'database "\(null\)" is disabled'):
        world.begin()


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (CONSOLE, f'cannot use the reserved "{CONSOLE}" database as an auth_dbname'),
        ("none", 'authentication database "none" is not configured.'),
    ],
)
def test_database_that_cannot_be_asked_is_told_to_the_log_alone(
    name: str, line: str, lines: list[str]
) -> None:
    world = World({"auth_dbname": name}, **GENERAL)
    with pytest.raises(Disconnect, match=CONFIG_ERROR):
        world.begin()
    assert lines == [f"C-1 {line}"]


def test_client_that_may_not_wait_is_not_queued() -> None:
    world = World(**GENERAL)
    world.may_wait = False
    world.begin()
    assert (world.client.pool.queued, world.later) == ([], [])


def test_answer_gives_the_server_back_and_lets_the_login_go_on(
    asked: list[tuple[str, str]],
) -> None:
    world = World(**GENERAL)
    waiter = world.begin()
    server = world.server()
    world.lookups.answered(server, ("ann", "secret"))
    assert server.did[1:] == ["relay_phase", "mark_ready"]
    assert world.client.pool.released == [server]
    assert waiter.value == ("ann", "secret")
    assert not (world.lookups.running or world.lookups.askers)
    # Nobody is told twice.
    world.lookups.server_gone(server)
    assert waiter.error is None


@pytest.mark.parametrize("closed", [True, False])
def test_connection_that_has_found_nobody_goes_with_its_client(
    closed: bool, asked: list[tuple[str, str]]
) -> None:
    """It stays when the client does: another way of logging in may have let it in."""
    world = World(**GENERAL)
    waiter = world.begin()
    server = world.server()
    seen: list[Any] = []

    def go_on(waiter: Waiter) -> None:
        seen.append((waiter.value, world.client.ends_with))
        server.closed = closed

    waiter.talk = SimpleNamespace(resume_from=go_on)  # type: ignore[assignment]
    world.lookups.answered(server, None)
    assert seen == [(None, server)]
    assert world.client.pool.released == ([] if closed else [server])
    assert world.client.ends_with is (server if closed else None)


@pytest.mark.parametrize("end", ["failed", "server_gone"])
def test_look_up_that_comes_to_nothing_is_a_mistake_of_the_configuration(
    end: str, asked: list[tuple[str, str]]
) -> None:
    """Why exactly is no stranger's business."""
    world = World(**GENERAL)
    waiter = world.begin()
    server = world.server()
    if end == "failed":
        world.lookups.failed(server, Disconnect("why", notify=True))
        assert server.ended == ("why", True, False)
    else:
        world.lookups.server_gone(server)
    assert isinstance(waiter.error, Disconnect)
    assert waiter.error.reason == CONFIG_ERROR
    assert not (world.lookups.running or world.lookups.askers)


def test_client_that_goes_takes_the_server_that_is_asked_along(
    asked: list[tuple[str, str]],
) -> None:
    world = World(**GENERAL)
    world.begin()
    server = world.server()
    world.lookups.given_up(server)
    assert server.ended == ("client disconnect while server was not ready", True, False)
    server.ended = None
    world.lookups.given_up(server)
    assert server.ended is None
