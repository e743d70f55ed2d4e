"""A keeper with a pool on a clock that tests turn, without sockets."""

from types import SimpleNamespace
from typing import Any

from bouncer.config.settings import Database, Settings
from bouncer.errors import REFUSED, LoginFailed
from bouncer.pool.evidence import Evidence
from bouncer.pool.keeper import Keeper
from bouncer.pool.pools import ServerPool
from bouncer.pool.registry import DatabaseState, UserState

SECOND = 1_000_000
PAUSE = 15 * SECOND


class Line(list):  # type: ignore[type-arg]
    """A list of streams, as the relay has them."""

    @property
    def first(self) -> Any:
        """Who is there for longest."""
        return self[0] if self else None


class Login:
    """A server that logs in: as much of it as policy looks at."""

    prefix, address_text = "S-1: db/user@host", "host:5432"

    def __init__(self, poller: Any, fd: int, app: Any, pool: Any) -> None:
        self.app, self.pool = app, pool
        self.state = self.replication = 0
        self.connected_at = self.received_at = poller.now
        self.address: Any = None
        self.host: str | None = None
        self.peer = self.client = self.cancel_for = self.login = None
        self.close_needed = False
        self.reason: str | None = None

    def disconnect(
        self, reason: str, terminate: bool = True, notify: bool = True
    ) -> None:
        self.reason = reason
        for line in (self.pool.login, self.pool.idle, self.pool.active):
            if self in line:
                line.remove(self)
        self.app.keeper.gone(self, reason)


class Waiting:
    """A client in the queue."""

    prefix = "C-1: db/user@host"
    wait_kind = replication = query_start = 0

    def __init__(self, pool: Any, now: int) -> None:
        self.pool, self.wait_start = pool, now
        self.told: tuple[str, str] | None = None

    def disconnect(
        self, reason: str, notify: bool = True, sqlstate: str = "08P01"
    ) -> None:
        self.told = (sqlstate, reason)
        if self in self.pool.waiting:
            self.pool.waiting.remove(self)


class Pool:
    """A pool without a relay; what is remembered of attempts is the real one's."""

    targets = ServerPool.targets
    failed = ServerPool.failed
    forget_failures = ServerPool.forget_failures

    def __init__(self, app: Any, **entry: Any) -> None:
        self.poller, self.peer = app.poller, None
        self.database = DatabaseState(Database("db", "db", **entry))
        self.user, self.user_name, self.database_name = UserState("user"), "user", "db"
        self.idle, self.used, self.tested, self.active = Line(), Line(), Line(), Line()
        self.login, self.waiting = Line(), Line()
        self.cancels: list[Any] = []
        self.mode = 1
        self.blocked = self.contested = self.queue_only = False
        self.hosts = self.host_key = None
        self.last_error = self.last_sqlstate = ""
        self.refused_at = self.held_told = 0
        self.evidence = Evidence()
        self.reached = False
        self.flagged = False
        self.welcome: bytes | None = b""

    @property
    def live_count(self) -> int:
        return len(self.idle) + len(self.active)

    @property
    def server_count(self) -> int:
        return self.live_count + len(self.login)

    def servers(self) -> list[Any]:
        return [*self.active, *self.idle, *self.login]

    def push_login(self, server: Login) -> None:
        self.login.append(server)

    def activate(self) -> None:
        """Nobody is idle while somebody waits."""

    def login_done(self, server: Login) -> None:
        self.login.remove(server)
        server.state = 2
        if self.waiting:
            self.waiting.pop(0)
            self.active.append(server)
        else:
            self.idle.append(server)

    def forget_welcome(self) -> None:
        self.welcome = None

    def __repr__(self) -> str:
        return "db/user"


class World:
    """The app, as much of it as the keeper needs."""

    def __init__(self, size: int = 1, **entry: Any) -> None:
        self.settings = Settings.defaults()
        self.later: list[Any] = []
        self.poller = SimpleNamespace(now=100 * SECOND, put_off=self.later.append)
        self.size, self.shutdown_mode, self.checks_servers = size, None, False
        self.flipped: list[Any] = []
        self.hosts = SimpleNamespace(connect_failed=self.flipped.append)
        self.registry = SimpleNamespace(wake=lambda database: None)
        self.limits = SimpleNamespace(
            pool_size=lambda pool: self.size,
            reserve_pool_size=lambda pool: 0,
            max_db_connections=lambda database: 0,
            max_user_connections=lambda user: 0,
            own=lambda setting, pool: getattr(self.settings, setting),
        )
        self.keeper = Keeper(self)
        self.pool = Pool(self, **entry)

    def connect(self, server: Any) -> None:
        """Note where the attempt goes."""
        server.host = self.keeper.attempts[server].target.host

    def drain_progress(self) -> None:
        """Nobody waits for it."""

    def turn(self, seconds: float = 0) -> None:
        """Time passes; then what was put off, and those who wait are looked at."""
        self.poller.now += int(seconds * SECOND)
        self.keeper.rounds += int(seconds * 3)
        while self.later:
            self.later.pop(0)()
        if self.pool.waiting:
            self.keeper.wants_server(self.pool)

    def wait(self) -> Waiting:
        """A client that wants a server."""
        client = Waiting(self.pool, self.poller.now)
        self.pool.waiting.append(client)
        self.keeper.wants_server(self.pool)
        return client

    @property
    def logins(self) -> str:
        """The hosts at which logins are under way, oldest first."""
        return "".join(server.host for server in self.pool.login)

    def serve(self) -> Any:
        """The oldest login gets through."""
        server = self.pool.login[0]
        self.keeper.connected(server)
        return server

    def refuse(self, sqlstate: str, kind: str = REFUSED) -> None:
        """The oldest login is refused."""
        problem = LoginFailed("FATAL", sqlstate, "no", kind)
        self.keeper.login_failed(self.pool.login[0], problem)

    def fail(self) -> None:
        """The oldest login gets no answer."""
        server = self.pool.login[0]
        self.keeper.attempt_failed(server, "connect failed")
        server.disconnect("connect failed")


def world_of(hosts: str = "a", size: int = 1, **entry: Any) -> World:
    return World(size, host=hosts, **entry)
