"""A janitor with a pool on a clock that tests turn, without sockets."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from bouncer.config.own import OwnSettings
from bouncer.config.settings import Database, Settings, UserOptions
from bouncer.pool.janitor import Janitor
from bouncer.pool.keeper import WAIT_QUERY
from bouncer.pool.limits import Limits
from bouncer.pool.registry import DatabaseState, UserState
from tests.unit.pool.keeping import SECOND, Line

NEVER = 1000 * 3600 * SECOND
A_MOMENT = 0.000_001
# When a world begins: not at 0.
BEGUN = 1000 * SECOND


class One(SimpleNamespace):
    """Somebody with some fields, who is a key, and equal to nobody else."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


class Server:
    """As much of a server as upkeep looks at: idle and well, since *now*."""

    def __init__(self, pool: Any, line: Line, now: int, **state: Any) -> None:
        self.pool, self.line = pool, line
        self.idle_since = self.connected_at = self.received_at = now
        self.clean, self.close_needed, self.replication = True, False, 0
        self.client: Any = None
        self.is_ready = self.in_transaction = False
        self.owed_count = 0
        self.ended: tuple[str, bool, bool] | None = None  # why; Terminate; told
        vars(self).update(state)
        line.append(self)

    def disconnect(
        self, reason: str, terminate: bool = True, notify: bool = True
    ) -> None:
        self.ended = (reason, terminate, notify)
        self.line.remove(self)

    @property
    def reason(self) -> str:
        """Why it was closed; nothing while it was not."""
        return self.ended[0] if self.ended else ""


class Client:
    """As much of a client as upkeep looks at: idle, since *now*."""

    def __init__(self, pool: Any, line: Any, now: int, **state: Any) -> None:
        self.pool, self.line = pool, line
        self.connected_at = self.received_at = self.wait_start = now
        self.query_start = self.transaction_start = 0
        self.server: Any = None
        self.user_state, self.database = pool.user, pool.database
        self.on_console = self.departed = self.notified = self.in_handshake = False
        self.wait_kind, self.state = WAIT_QUERY, 1
        self.written = b""
        self.ended: tuple[str, bool] | None = None  # why; told
        vars(self).update(state)
        line.append(self)

    def write(self, data: bytes) -> None:
        self.written += data

    def disconnect(self, reason: str, notify: bool = True) -> None:
        self.ended = (reason, notify)
        self.line.remove(self)

    @property
    def reason(self) -> str:
        """Why it was closed; nothing while it was not."""
        return self.ended[0] if self.ended else ""


class Copied(Line):
    """Walked over as it was: members leave on the way, as the relay's lists allow."""

    def __iter__(self) -> Any:
        return iter(list(super().__iter__()))


class Newcomers(dict[Any, None]):
    """Clients that log in, oldest first: the app has them as keys."""

    def append(self, client: Client) -> None:
        self[client] = None

    def remove(self, client: Client) -> None:
        del self[client]


class Pool:
    """A pool without a relay."""

    def __init__(self, database: Any, user: Any) -> None:
        self.database, self.user, self.user_name = database, user, user.name
        self.idle, self.used, self.tested = Copied(), Copied(), Copied()
        self.active, self.login = Copied(), Copied()
        self.clients, self.waiting, self.cancel_waiting = Copied(), Copied(), Copied()
        self.cancels: list[Any] = []
        self.blocked = self.flagged = self.reached = False
        self.lifetime_us = NEVER
        self.idle_since = 0

    @property
    def live_count(self) -> int:
        lines = (self.idle, self.used, self.tested, self.active)
        return sum(map(len, lines))

    @property
    def server_count(self) -> int:
        return self.live_count + len(self.login)

    @property
    def client_count(self) -> int:
        return len(self.clients) + len(self.waiting) + len(self.cancel_waiting)

    def park_used(self, server: Server) -> None:
        self.idle.remove(server)
        self.used.append(server)
        server.line = self.used


class Keeper:
    """Writes down what it is asked for; opens what it is asked for."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.failed: list[tuple[Any, str, str]] = []
        self.asked: list[str] = []
        self.lifetimes_over = True

    def lifetime_over(self, pool: Pool, server: Server) -> bool:
        return self.lifetimes_over

    def attempt_failed(self, server: Server, reason: str, error: str) -> None:
        self.failed.append((server, reason, error))

    def wants_server(self, pool: Pool) -> None:
        self.asked.append("wants_server")

    def look_at_queue(self, pool: Pool) -> None:
        self.asked.append("look_at_queue")

    def drop_extra(self, pool: Pool) -> None:
        self.asked.append("drop_extra")

    def open_if_allowed(self, pool: Pool, evict: bool = True) -> bool:
        self.asked.append(f"open_if_allowed {evict=}")
        return True


class World:
    """The app, as much of it as the janitor needs; no timeout is set."""

    def __init__(
        self,
        entry: dict[str, Any] | None = None,
        user: dict[str, Any] | None = None,
        auto: bool = False,
        **settings: Any,
    ) -> None:
        self.now = BEGUN
        none = dict.fromkeys(
            ("server_idle_timeout", "server_connect_timeout", "client_login_timeout",
             "query_wait_timeout", "cancel_wait_timeout", "query_wait_notify",
             "pool_idle_timeout", "autodb_idle_timeout"), 0
        )  # fmt: skip
        chosen = replace(Settings.defaults(), **none | settings)
        self.database = DatabaseState(Database("db", "db", **(entry or {})), auto)
        self.user = UserState("ann")
        if user is not None:
            self.user.options = UserOptions("ann", **user)
        self.pool = Pool(self.database, self.user)
        self.database.pools["ann"] = self.pool  # type: ignore[assignment]
        self.slept: list[Any] = []
        self.dropped: list[Any] = []
        self.logging_in = Newcomers()
        self.keeper = Keeper(self)
        self.app = SimpleNamespace(
            settings=chosen,
            config=SimpleNamespace(own=OwnSettings()),
            registry=SimpleNamespace(
                awake={"db": self.database}, peers={}, resting={}, asleep={},
                put_to_sleep=lambda database, now: self.slept.append(database),
                drop_pool=self.dropped.append,
            ),
            global_mode="none", shutdown_mode=None, consoles={},
            checks_servers=True, any_client_idle_timeout=True,
            logging_in=self.logging_in,
            shutdown_progress=lambda: None,
        )  # fmt: skip
        self.app.limits = Limits(self.app)
        self.janitor = Janitor(self.app, self.keeper)  # type: ignore[arg-type]

    def server(self, line: str = "idle", **state: Any) -> Server:
        """A server in one of the pool's lines."""
        return Server(self.pool, getattr(self.pool, line), self.now, **state)

    def client(self, line: str = "clients", **state: Any) -> Client:
        """A client in one of the pool's lines."""
        return Client(self.pool, getattr(self.pool, line), self.now, **state)

    def pair(self, **state: Any) -> tuple[Client, Server]:
        """A client in the middle of something, and its server."""
        of_client = ("query_start", "transaction_start")
        client = self.client(**{k: v for k, v in state.items() if k in of_client})
        rest = {k: v for k, v in state.items() if k not in of_client}
        client.server = server = self.server("active", client=client, **rest)
        return client, server

    def newcomer(self, **state: Any) -> Client:
        """A client that logs in."""
        return Client(self.pool, self.logging_in, self.now, **state)

    def round(self, seconds: float = 0) -> None:
        """Time passes; then everything is looked after."""
        self.now += round(seconds * SECOND)
        self.janitor.run(self.now)


def ends_at(world: World, one: Server | Client, seconds: float) -> str:
    """Look just before and just after *seconds*; the reason of the end then."""
    world.round(seconds)
    assert one.ended is None
    world.round(A_MOMENT)
    return one.reason


def stays(world: World, one: Server | Client) -> bool:
    """Whether it is still there after a long time."""
    world.round(100_000)
    return one.ended is None
