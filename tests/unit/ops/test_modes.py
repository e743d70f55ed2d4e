"""PAUSE, RESUME, WAIT_CLOSE, KILL, shutdown: whom they end, whom they owe an answer.

Without sockets; `tests/live/test_console_debts.py` has the consoles.
"""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from bouncer import commands as module
from bouncer.commands import Commands, server_tls
from bouncer.config.settings import Database, Settings
from bouncer.errors import CommandError, ConfigError
from bouncer.pool.registry import CONSOLE, DatabaseState

LINES = ("idle", "used", "tested", "active", "login")
CLIENTS = ("clients", "waiting", "cancel_waiting", "cancel_active")


class Stream:
    """A client or a server in one of its pool's lines."""

    def __init__(self, line: list[Any], **state: Any) -> None:
        self.line = line
        self.ended: tuple[Any, ...] | None = None
        self.close_needed = self.is_unix = False
        self.talk: Any = None
        self.id = 0
        vars(self).update(state)
        line.append(self)

    def disconnect(self, *told: Any) -> None:
        self.ended = told
        self.line.remove(self)


class Line(list[Any]):
    """Walked over as it was."""

    def __iter__(self) -> Any:
        return iter(self[:])


class Pool:
    """A pool whose lines a test fills."""

    def __init__(self, database: DatabaseState) -> None:
        self.database = database
        for name in (*LINES, *CLIENTS):
            setattr(self, name, Line())
        self.cancels: list[Any] = []
        self.blocked = self.queue_only = self.flagged = False
        self.forgot: list[str] = []
        self.evidence: Any = None
        database.pools["ann"] = self  # type: ignore[assignment]

    def servers(self) -> list[Any]:
        return [one for name in LINES for one in getattr(self, name)]

    @property
    def server_count(self) -> int:
        return len(self.servers())

    def add(self, line: str, **state: Any) -> Stream:
        return Stream(getattr(self, line), **state)

    def forget_welcome(self) -> None:
        self.forgot.append("welcome")

    def forget_failures(self) -> None:
        self.forgot.append("failures")


class Owed:
    """A console that waits for its answer."""

    def __init__(self) -> None:
        self.gone = False
        self.told: list[str] = []

    def done(self) -> None:
        self.told.append("done")
        self.gone = True

    def lifted(self) -> None:
        self.told.append("lifted")
        self.gone = True

    def cancelled(self) -> None:
        self.told.append("cancelled")
        self.gone = True


class World:
    """The app, as much of it as commands need: two databases and the console's."""

    def __init__(self, **settings: Any) -> None:
        self.wanted: list[Any] = []
        self.exits: list[int] = []
        self.did: list[str] = []
        databases = {
            name: DatabaseState(Database(name, name)) for name in ("a", "b", CONSOLE)
        }
        self.a, self.b, self.console = databases.values()
        self.pool_a, self.pool_b, self.pool_console = map(Pool, databases.values())
        pools = [self.pool_a, self.pool_b, self.pool_console]
        self.app = SimpleNamespace(
            settings=replace(Settings.defaults(), **settings),
            registry=SimpleNamespace(
                databases=databases, all_pools=lambda: iter(pools)
            ),
            keeper=SimpleNamespace(wants_server=self.wanted.append),
            door=SimpleNamespace(
                forget=lambda: None, close=lambda: self.did.append("door closed")
            ),
            listeners=SimpleNamespace(close_tcp=lambda: self.did.append("tcp closed")),
            limits=SimpleNamespace(socket_count=1),
            poller=SimpleNamespace(put_off=lambda act: act()),
            exited=SimpleNamespace(done=lambda: bool(self.exits)),
            exit=self.exits.append,
            global_mode="none",
            shutdown_mode=None,
            is_blocked=self.is_blocked,
        )
        self.commands = Commands(self.app)

    def is_blocked(self, pool: Pool) -> bool:
        return self.app.global_mode != "none" or bool(pool.database.paused)

    def pause(self, database: DatabaseState | None = None) -> Owed:
        """PAUSE by a console: *told* is `at once` where nothing is owed."""
        owed = Owed()
        if self.commands.pause(database, owed):
            owed.told.append("at once")
        return owed


@pytest.fixture(autouse=True)
def no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    for level in ("info", "warning", "error"):
        monkeypatch.setattr(module.log, level, lambda text: None)


# Pause


@pytest.mark.parametrize(
    ("line", "waits"), [("active", True), ("tested", True), ("idle", False),
                        ("used", False), ("login", False)],
)  # fmt: skip
@pytest.mark.parametrize("everything", [True, False])
def test_pause_waits_for_servers_in_use_and_closes_the_others(
    line: str, waits: bool, everything: bool
) -> None:
    world = World()
    server = world.pool_a.add(line)
    other, console = world.pool_b.add("idle"), world.pool_console.add("idle")
    owed = world.pause(None if everything else world.a)
    assert owed.told == ([] if waits else ["at once"])
    assert server.ended == (None if waits else ("pause mode", True, False))
    assert world.pool_a.blocked and world.pool_b.blocked == everything
    assert other.ended == (("pause mode", True, False) if everything else None)
    assert console.ended is None and not world.pool_console.blocked
    # It is answered when the last one comes back.
    world.commands.progress()
    assert owed.told == ([] if waits else ["at once"])
    if waits:
        server.line.clear()
        world.commands.progress()
        assert owed.told == ["done"] and world.commands.owed == []
    # The pause outlives its answer.
    assert world.pool_a.blocked


def test_pause_of_one_database_waits_for_no_other() -> None:
    world = World()
    world.pool_b.add("active")
    assert world.pause(world.a).told == ["at once"]
    world.pool_a.add("idle")
    assert world.pause(world.a).told == ["at once"]


@pytest.mark.parametrize(("cancels", "kept"), [(0, 0), (1, 1), (2, 2), (5, 2)])
def test_pause_keeps_as_many_connections_as_there_are_cancel_requests(
    cancels: int, kept: int
) -> None:
    """Those whose login has begun carry none."""
    world = World()
    world.pool_a.add("active")
    world.pool_a.cancels = [object()] * cancels
    begun = world.pool_a.add("login", talk=object())
    fresh = [world.pool_a.add("login") for _ in range(2)]
    world.pause()
    assert begun.ended == ("pause mode", True, False)
    assert [server.ended is None for server in fresh] == [at < kept for at in range(2)]


@pytest.mark.parametrize("everything", [True, False])
def test_resume_lifts_what_waits_for_that_pause_alone(everything: bool) -> None:
    world = World()
    for pool in (world.pool_a, world.pool_b):
        pool.add("active")
    of_a, of_all = world.pause(world.a), world.pause()
    world.commands.resume(None if everything else world.a)
    assert of_all.told == (["lifted"] if everything else [])
    assert of_a.told == ([] if everything else ["lifted"])
    assert world.a.paused == everything
    # Only where nothing holds them up any more servers are wanted.
    assert world.pool_a.blocked
    assert world.pool_b.blocked == (not everything)
    assert world.wanted == ([world.pool_b] if everything else [])


def test_who_waits_for_a_pause_no_more_lifts_it_if_he_has_made_it() -> None:
    world = World()
    world.pool_a.add("active")
    first, second = world.pause(world.a), world.pause(world.a)
    world.commands.give_up(second)
    assert world.a.paused and second.told == ["cancelled"]
    world.commands.give_up(first)
    assert not world.a.paused and not world.pool_a.blocked
    assert world.commands.owed == []


def test_pause_is_another_consoles_when_the_one_that_made_it_gives_up() -> None:
    world = World()
    world.pool_a.add("active")
    first, second = world.pause(world.a), world.pause(world.a)
    world.commands.give_up(first)
    assert world.a.paused and second.told == []
    world.commands.give_up(second)
    assert not world.a.paused


def test_pause_that_was_there_before_is_not_given_up() -> None:
    """That of a KILL, or of a console whose PAUSE was answered."""
    world = World()
    world.a.paused = True
    world.pool_a.add("tested")
    owed = world.pause(world.a)
    world.commands.give_up(owed)
    assert world.a.paused and owed.told == ["cancelled"]


def test_giving_up_a_wait_for_servers_lifts_no_pause() -> None:
    world = World()
    world.pool_a.add("active", close_needed=True)
    world.a.paused = True
    owed = Owed()
    assert not world.commands.wait_close(world.a, owed)
    world.commands.give_up(owed)
    assert world.a.paused and owed.told == ["cancelled"]


@pytest.mark.parametrize(
    ("mode", "everything", "lifted"),
    [(None, True, True), ("wait_for_servers", True, False),
     ("wait_for_servers", False, True), ("wait_for_clients", True, True)],
)  # fmt: skip
def test_pause_that_a_shutdown_needs_is_not_given_up(
    mode: str | None, everything: bool, lifted: bool
) -> None:
    world = World()
    world.pool_a.add("active")
    owed = world.pause(None if everything else world.a)
    world.app.shutdown_mode = mode
    world.commands.give_up(owed)
    assert world.pool_a.blocked == (not lifted)


# WAIT_CLOSE, RECONNECT, KILL


def test_wait_close_waits_for_servers_that_are_to_be_closed() -> None:
    world = World()
    flagged = world.pool_a.add("active", close_needed=True)
    world.pool_console.add("active", close_needed=True)
    of_a, of_b, of_all = Owed(), Owed(), Owed()
    assert not world.commands.wait_close(world.a, of_a)
    assert world.commands.wait_close(world.b, of_b)
    assert not world.commands.wait_close(None, of_all)
    world.commands.progress()
    assert (of_a.told, of_all.told) == ([], [])
    flagged.line.clear()
    world.commands.progress()
    assert (of_a.told, of_all.told) == (["done"], ["done"])


@pytest.mark.parametrize("everything", [True, False])
def test_reconnect_renews_all_servers_and_ends_logins(everything: bool) -> None:
    world = World()
    servers = [world.pool_a.add(line) for line in LINES]
    other, console = world.pool_b.add("idle"), world.pool_console.add("idle")
    world.commands.reconnect(None if everything else world.a)
    assert [server.close_needed for server in servers] == [True] * 4 + [False]
    assert servers[-1].ended == ("connect string changed", True, False)
    assert [server.ended for server in servers[:-1]] == [None] * 4
    assert world.pool_a.flagged and world.pool_a.forgot == ["welcome", "failures"]
    assert other.close_needed == world.pool_b.flagged == everything
    assert not console.close_needed


@pytest.mark.parametrize("everything", [True, False])
def test_kill_ends_everybody_and_pauses(everything: bool) -> None:
    world = World()
    clients = [world.pool_a.add(line) for line in CLIENTS]
    server, other = world.pool_a.add("active"), world.pool_b.add("clients")
    console = world.pool_console.add("clients")
    world.commands.kill(None if everything else world.a)
    # Who brought a cancel request is told nothing.
    assert [client.ended for client in clients] == [
        *[("database removed",)] * 2, *[("database removed", False)] * 2
    ]  # fmt: skip
    assert server.ended == ("database removed", True, False)
    assert world.a.paused and not world.a.pools
    assert bool(other.ended) == world.b.paused == everything
    assert console.ended is None and not world.console.paused


@pytest.mark.parametrize("line", CLIENTS)
def test_kill_client_finds_it_wherever_it_is(line: str) -> None:
    world = World()
    world.pool_a.add(line, id=6)
    client = world.pool_b.add(line, id=7)
    world.pool_b.add(line, id=8)
    world.commands.kill_client(7)
    assert client.ended == ("admin forced disconnect",)
    assert len(getattr(world.pool_b, line)) == len(getattr(world.pool_a, line)) == 1
    with pytest.raises(CommandError, match="client not found"):
        world.commands.kill_client(7)


# TLS to servers

TLS = (
    "server_tls_protocols", "server_tls_ciphers", "server_tls13_ciphers",
    "server_tls_ca_file", "server_tls_cert_file", "server_tls_key_file",
)  # fmt: skip


@pytest.mark.parametrize("name", TLS)
def test_each_setting_of_server_tls_renews_servers_on_tcp(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key of another name alone would have been used by new servers only."""
    monkeypatch.setattr(module.tls, "connect_context", lambda settings: None)
    world = World(server_tls_sslmode="prefer")
    on_tcp = world.pool_a.add("idle")
    on_unix = world.pool_b.add("idle", is_unix=True)
    mixed = world.pool_b.add("active")
    world.commands.renew_tls()
    assert not (on_tcp.close_needed or world.pool_b.flagged)
    world.pool_b.active.clear()
    world.app.settings = replace(world.app.settings, **{name: "other"})
    world.commands.renew_tls()
    assert on_tcp.close_needed and world.pool_a.flagged
    assert not (on_unix.close_needed or world.pool_b.flagged or mixed.close_needed)
    # Once.
    on_tcp.close_needed = False
    world.commands.renew_tls()
    assert not on_tcp.close_needed


@pytest.mark.parametrize("name", TLS)
def test_settings_of_server_tls_count_for_nothing_without_it(name: str) -> None:
    settings = replace(Settings.defaults(), server_tls_sslmode="disable")
    assert server_tls(settings) == server_tls(replace(settings, **{name: "other"}))


def test_servers_stay_while_tls_allows_no_new_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refuses = [True]

    def context(settings: Settings) -> None:
        if refuses[0]:
            raise ConfigError("no such file")

    monkeypatch.setattr(module.tls, "connect_context", context)
    world = World(server_tls_sslmode="prefer")
    server = world.pool_a.add("idle")
    world.app.settings = replace(world.app.settings, server_tls_ca_file="none")
    world.commands.renew_tls()
    assert not server.close_needed
    # The file is there now: it is as if the setting had changed then.
    refuses[0] = False
    world.commands.renew_tls()
    assert server.close_needed


# Shutdown


def test_shutdown_for_servers_ends_when_the_last_has_gone() -> None:
    world = World()
    busy, idle = world.pool_a.add("active"), world.pool_b.add("idle")
    world.commands.shutdown("wait_for_servers")
    assert world.did == ["tcp closed", "door closed"]
    assert idle.ended == ("pause mode", True, False) and busy.ended is None
    assert (world.app.global_mode, world.exits) == ("pause", [])
    busy.line.clear()
    world.commands.shutdown_progress()
    world.commands.shutdown_progress()
    assert world.exits == [0]


def test_shutdown_for_clients_ends_when_the_last_has_gone() -> None:
    world = World()
    world.pool_a.add("idle")
    world.commands.shutdown("wait_for_clients")
    assert (world.app.global_mode, world.exits) == ("none", [])
    assert not world.pool_a.blocked
    world.app.limits.socket_count = 0
    world.commands.shutdown_progress()
    assert world.exits == [0]


def test_shutdown_at_once_waits_for_nobody() -> None:
    world = World()
    world.pool_a.add("active")
    world.commands.shutdown("immediate")
    assert world.exits == [0]
