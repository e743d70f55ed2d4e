"""Keep pools: open servers, close them, tell waiting clients what became of it.

The relay asks here when it cannot decide by itself (design D4). What may be
opened is decided in `plan`; this module carries it out.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from bouncer import log
from bouncer.errors import LoginFailed, cut
from bouncer.pool import plan
from bouncer.pool.pools import ServerPool
from bouncer.pool.sharing import Sharing, waited
from bouncer.relay.server import Server
from bouncer.relay.tracked import from_dict, index_of

WAIT_QUERY, WAIT_WELCOME, WAIT_AUTH = range(3)  # client.pxd, WaitKind
CACHED_ERROR = 99  # bytes of a login error that later clients are told
SHOWN_REASON = 127  # bytes of a relayed text in a closing reason
CANNOT_CONNECT_NOW = "57P03"
NO_SUCH_DATABASE = "3D000"
RECOVERY = 300_000  # us without attempts after we had nothing to connect with


class Keeper:
    """Policy for all pools of one process."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.nothing_before = 0  # monotonic us; we had nothing to connect with
        self.spared: set[Any] = set()  # servers whose end says nothing of their host
        self.sharing = Sharing(self)

    # Asked by the relay

    def may_wait(self, pool: ServerPool, client: Any) -> bool:
        """May *client* queue? If not, it has been told and closed."""
        if self.app.shutdown_mode == "wait_for_servers":
            client.disconnect("server shutting down")
            return False
        if pool.failed and pool.live_count == 0 and not pool.blocked:
            self.open_if_allowed(pool)
            reason = (
                "server login has been failing, cached error: "
                f"{cut(pool.last_error, CACHED_ERROR)} (server_login_retry)"
            )
            client.disconnect(cut(reason, SHOWN_REASON))
            return False
        return True

    def wants_server(self, pool: ServerPool) -> None:
        """Somebody waits: check a used server, open a new one, or leave it."""
        if pool.blocked and not pool.cancels:
            return
        if not pool.blocked:
            pool.activate()
        first = pool.waiting.first
        if first is not None and not pool.blocked:
            if first.replication and first.wait_kind != WAIT_AUTH:
                self.serve_replication(pool, first)
                return
            coming = len(pool.tested) + len(pool.login)
            while len(pool.waiting) > coming and len(pool.used):
                self.use_parked(pool)
                coming += 1
            first = pool.waiting.first
            if first is None or len(pool.waiting) <= coming - len(pool.login):
                return
        elif not pool.cancels:
            return
        self.open_if_allowed(pool)

    def lifetime_over(self, pool: ServerPool, server: Any) -> bool:
        """May a server that is over its age be closed now? Spaced per pool."""
        limits, now = self.app.limits, pool.poller.now
        lifetime = limits.server_lifetime(pool.database)
        if lifetime == 0:
            return True
        size = limits.pool_size(pool) or 1
        if now - pool.last_lifetime_close < lifetime * 1_000_000 / size:
            return False
        pool.last_lifetime_close = now
        return True

    def idle_while_blocked(self, pool: ServerPool, server: Any) -> None:
        """A server came free during a pause: it is closed; a suspend keeps it."""
        if self.app.global_mode != "suspend":
            server.disconnect("pause mode", True, False)
        self.app.drain_progress()

    def must_yield(self, pool: ServerPool) -> bool:
        """Another pool at the same limit has waited too long for what *pool* has."""
        return self.sharing.must_yield(pool)

    def idle_while_contested(self, pool: ServerPool) -> None:
        """A server is idle that another pool may want to evict."""
        pool.poller.put_off(lambda: self.sharing.freed(pool))

    def special_waiter(self, pool: ServerPool, client: Any, server: Any) -> None:
        """The first waiter wants no ordinary link: *server* is idle again."""
        if client.wait_kind == WAIT_WELCOME:
            if pool.welcome is not None:
                pool.welcome_waiting()
                pool.activate()
            return
        if client.wait_kind == WAIT_AUTH:
            note, client.wait_note = client.wait_note, None
            pool.leave_queue(client)
            pool.back_to_login(client)
            pool.occupy(server)
            note(server)
            return
        self.serve_replication(pool, client)

    # Opening

    def use_parked(self, pool: ServerPool) -> None:
        """A used server: check it first, unless the delay has become longer."""
        server = pool.used.first
        delay = self.app.settings.server_check_delay
        age = (pool.poller.now - server.idle_since) / 1_000_000
        if server.close_needed:
            server.disconnect("obsolete connection", True, False)
        elif not server.clean:
            server.disconnect("SV_USED server got dirty", True, False)
        elif not self.app.checks_servers or (delay > 0 and age < delay):
            pool.unpark(server)
            pool.activate()
        else:
            pool.check(server)

    def view(self, pool: ServerPool) -> plan.PoolView:
        app, now = self.app, pool.poller.now
        limits, settings = app.limits, app.settings
        return plan.PoolView(
            connections=pool.server_count,
            logins=len(pool.login),
            parallel_logins=settings.parallel_logins,
            pool_size=limits.pool_size(pool),
            reserve_size=limits.reserve_pool_size(pool),
            reserve_timeout=settings.reserve_pool_timeout,
            welcome_known=pool.welcome is not None,
            failed=pool.failed,
            since_attempt=(now - pool.last_attempt) / 1_000_000,
            login_retry=settings.server_login_retry,
            longest_wait=waited(pool, now),
            cancels=len(pool.cancels),
            database_connections=pool.database.server_count,
            max_database=limits.max_db_connections(pool.database),
            user_connections=pool.user.account.server_count,
            max_user=limits.max_user_connections(pool.user.account),
        )

    def open_if_allowed(
        self, pool: ServerPool, evict: bool = True, replication: Any = None
    ) -> bool:
        """Open one server connection if the plan says so; more if many may log in."""
        opened = False
        if pool.poller.now < self.nothing_before:
            return opened
        while True:
            verdict = plan.may_open(self.view(pool))
            if not verdict.open:
                pool.queue_only = (
                    verdict.why == plan.NO_ROOM
                    and not (pool.failed or pool.blocked or pool.cancels)
                    and not len(pool.used)
                    and self.app.shutdown_mode is None
                )
                if log.verbosity:
                    log.debug(f"{pool}: not opening a connection: {verdict.why}")
                return opened
            if not self.make_room(pool, verdict, evict):
                return opened
            if verdict.from_reserve and pool.waiting.first is not None:
                log.warning(
                    f"{pool.waiting.first.prefix} taking connection from reserve_pool"
                )
            self.open(pool, replication)
            opened = True
            wanted = len(pool.waiting) + len(pool.cancels)
            if replication is not None or len(pool.login) >= wanted:
                return opened

    def make_room(self, pool: ServerPool, verdict: plan.Verdict, evict: bool) -> bool:
        """Evict what the shared limits ask for; else the pool has a claim."""
        for wanted, make in (
            (verdict.evict_database, self.evict_database),
            (verdict.evict_user, self.evict_user),
        ):
            if wanted and not (evict and make(pool)):
                if evict:
                    self.sharing.refused(pool, verdict)
                return False
        return True

    def is_surplus(self, server: Any) -> bool:
        """Say whether a connection, made for a cancel, is one too many for a login."""
        return server.replication == 0 and plan.is_over(self.view(server.pool))

    def evict_database(self, pool: ServerPool) -> bool:
        """Close the longest unused connection of the same database."""
        return self.evict(list(pool.database.pools.values()))

    def evict_user(self, pool: ServerPool) -> bool:
        """Close the longest unused connection of the same server user."""
        return self.evict(self.pools_of_user(pool))

    def pools_of_user(self, pool: ServerPool) -> list[ServerPool]:
        """The pools whose servers count for the same max_user_connections."""
        account = pool.user.account
        every = self.app.registry.all_pools()
        return [one for one in every if one.user.account is account]

    def evict(self, pools: list[ServerPool]) -> bool:
        candidates = [server for pool in pools for server in pool.idle]
        candidates += [
            server
            for pool in pools
            if not len(pool.waiting)
            for server in (*pool.used, *pool.tested)
        ]
        if not candidates:
            return False
        oldest = min(candidates, key=lambda server: server.idle_since)
        oldest.disconnect("evicted", True, False)
        return True

    def open(self, pool: ServerPool, replication: Any = None) -> None:
        """Begin one server connection."""
        pool.last_attempt = pool.poller.now
        server = Server(pool.poller, -1, self.app, pool)
        server.login = pool.user
        pool.push_login(server)
        self.app.registry.wake(pool.database)
        pool.database.server_count += 1
        pool.user.account.server_count += 1
        if replication is not None:
            server.replication = replication.replication
            server.take_client(replication)
        self.app.connect(server)

    def serve_replication(self, pool: ServerPool, client: Any) -> None:
        """A replication client gets a connection of its own (server sheet 11)."""
        if any(server.client is client for server in pool.login):
            return
        size = self.app.limits.pool_size(pool)
        if size and pool.server_count >= size and len(pool.idle):
            self.evict([pool])
        self.open_if_allowed(pool, True, client)

    # What became of it

    def connected(self, server: Any) -> None:
        """The login went through: the pool has a server more."""
        pool = server.pool
        pool.failed = False
        pool.last_error = ""
        pool.reached = True
        client = server.client
        if server.replication:
            self.replication_ready(pool, server, client)
            return
        pool.login_done(server)
        if len(pool.waiting) or pool.cancels:
            self.wants_server(pool)
        elif pool.contested:
            self.idle_while_contested(pool)
        self.app.drain_progress()

    def replication_ready(self, pool: ServerPool, server: Any, client: Any) -> None:
        if client is None or client.closed:
            server.disconnect("replication client disconnected", True, False)
            return
        server.relay_phase()
        waiting, client.wait_note = client.wait_note, None
        server.mark_ready()
        pool.link_pair(client, server)
        if waiting is not None:
            waiting.set(None)
        client.go_on_now()

    def login_failed(self, server: Any, problem: LoginFailed) -> None:
        """Class B and C of server sheet 3."""
        pool = server.pool
        client = server.client
        if server.replication and client is not None:
            if problem.kind == "refused":
                log.error(f"S: login failed: {problem.severity}: {problem.text}")
            server.disconnect("login failed", problem.notify, True)
            return
        if problem.kind == "refused":
            shown = f"{problem.severity} {problem.text}".strip()
            log.warning(
                f"server login failed: {shown}" if shown else "server login failed"
            )
        self.note_failure(pool, problem.text)
        if problem.sqlstate == NO_SUCH_DATABASE:
            pool.reached = False
        if (
            pool.live_count == 0 or pool.welcome is None
        ) and problem.sqlstate != CANNOT_CONNECT_NOW:
            for waiter in pool.waiting:
                waiter.disconnect(problem.text, True, problem.sqlstate)
        server.disconnect(cut(problem.reason, SHOWN_REASON), problem.notify, False)

    def note_failure(self, pool: ServerPool, reason: str) -> None:
        if not pool.failed:
            pool.failing_since = pool.poller.now
        pool.failed = True
        pool.last_error = cut(reason, CACHED_ERROR)

    def not_needed(self, server: Any, reason: str) -> None:
        """Close a new connection that nobody wants any more: no failure of the host."""
        self.spared.add(server)
        server.disconnect(reason, False, False)

    def out_of_means(self, server: Any) -> None:
        """No descriptor or port of ours was left: that is no fault of the host."""
        self.spared.add(server)
        self.nothing_before = server.pool.poller.now + RECOVERY
        server.disconnect("connect failed", False, False)

    def gone(self, server: Any, reason: str) -> None:
        """A server connection has been closed, for whatever reason."""
        pool = server.pool
        pool.database.server_count -= 1
        pool.user.account.server_count -= 1
        if server in self.spared:
            self.spared.discard(server)
        elif server.state == 0 and server.cancel_for is None and not pool.failed:
            self.note_failure(pool, reason)
        if len(pool.waiting) or pool.cancels or pool.contested:
            pool.poller.put_off(lambda: self.sharing.freed(pool))
        self.app.drain_progress()


def connect_nonblocking(
    family: int, address: Any, tune: Callable[[int], None] | None = None
) -> tuple[socket.socket, bool]:
    """Begin a connection; (socket, already connected). Raises OSError.

    *tune* sets its options, before connect() announces how much we can receive: a
    buffer that shrinks behind that leaves windows that the other side cannot use.
    """
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if tune is not None:
            tune(sock.fileno())
        try:
            sock.connect(address)
        except BlockingIOError:
            return sock, False
    except BaseException:
        sock.close()
        raise
    return sock, True


def known_parameters(parameters: list[tuple[str, str]]) -> Any:
    """TrackedParams of a server from what its login told."""
    return from_dict({n: v for n, v in parameters if index_of(n) is not None})
