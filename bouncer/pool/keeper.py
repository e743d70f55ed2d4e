"""Keep pools: open servers, close them, tell waiting clients what became of it.

The relay asks here when it cannot decide by itself (design D4). What may be
opened is decided in `plan`; this module carries it out.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from bouncer import log
from bouncer.errors import REFUSED, LoginFailed, cut
from bouncer.pool import failures, plan
from bouncer.pool.pools import ServerPool
from bouncer.pool.sharing import Sharing, waited
from bouncer.pool.targets import Attempt, Ranks, is_gone
from bouncer.relay.server import Server
from bouncer.relay.tracked import from_dict, index_of

WAIT_QUERY, WAIT_WELCOME, WAIT_AUTH = range(3)  # client.pxd, WaitKind
WAITING = 2  # client.pxd, ClientState
LOGIN = 0  # server.pxd, ServerState
SESSION = 0  # pool.pxd, Mode
CACHED_ERROR = 99  # bytes of a login error that later clients are told
SHOWN_REASON = 127  # bytes of a relayed text in a closing reason
CANNOT_CONNECT_NOW = "57P03"
NO_SUCH_DATABASE = "3D000"
MOST_DEPARTED = 10  # clients that have closed and wait on, for each server of a pool
# What an ErrorResponse of a login says of the server, not of who logs in: classes
# insufficient resources, operator intervention, system error, internal error.
OF_THE_SERVER = ("53", "57", "58", "XX")
# Ends of a connection that the relay has seen by itself. All other ends are ours:
# whoever has seen a failure has noted it, and what we close is none.
SEEN_BY_RELAY = frozenset({"server conn crashed?", "bad pkt header", "internal error"})
NOT_THERE = frozenset({"connect failed", "connect timeout"})
RECOVERY = 300_000  # us without attempts after we had nothing to connect with
MICROSECONDS = 1_000_000


class Keeper:
    """Policy for all pools of one process."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.nothing_before = 0  # monotonic us; we had nothing to connect with
        self.attempts: dict[Any, Attempt] = {}  # of the servers that log in
        self.rounds = 0  # of the janitor
        self.ended: set[Any] = set()  # servers that PostgreSQL has told to go
        self.sharing = Sharing(self)

    # Asked by the relay

    def may_wait(self, pool: ServerPool, client: Any) -> bool:
        """May *client* queue? If not, it has been told and closed."""
        if self.app.shutdown_mode == "wait_for_servers":
            client.disconnect("server shutting down")
            return False
        if pool.failed and pool.live_count == 0 and not pool.blocked:
            self.open_if_allowed(pool)
            if len(pool.login):
                return True  # what comes of it is not known yet
            reason = (
                "server login has been failing, cached error: "
                f"{cut(pool.last_error, CACHED_ERROR)} (server_login_retry)"
            )
            client.disconnect(cut(reason, SHOWN_REASON))
            return False
        return True

    def departed(self, pool: ServerPool) -> None:
        """One more waits who has closed: of too many the longest gone is given up.

        All together are bounded, too: each keeps a descriptor.
        """
        most = MOST_DEPARTED * self.app.limits.pool_size(pool)
        door = self.app.door
        if not 0 < most < len(pool.departed) and door.departed <= door.most_sockets:
            return
        for client in pool.departed:
            if client.state == WAITING:  # else it is being served
                client.disconnect("client unexpected eof", False)
                return

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

    def told_to_go(self, server: Any) -> None:
        """PostgreSQL has ended the session (57P01); its end follows."""
        self.ended.add(server)

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

    def look_at_queue(self, pool: ServerPool) -> None:
        """Say so, once an hour, when all servers of a pool are held by sessions."""
        now = pool.poller.now
        servers, long = pool.server_count, waited(pool, now)
        if not plan.is_held(pool.mode == SESSION, long, servers, len(pool.active)):
            return
        if pool.held_told and now - pool.held_told < plan.HELD_AGAIN * MICROSECONDS:
            return
        pool.held_told = now
        log.warning(
            f"{pool}: clients have waited for {long:.0f} s ({len(pool.waiting)} wait), "
            f"all servers ({servers}) are held by sessions: pool_mode=session keeps "
            "one for each client until it leaves"
        )

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

    def pause(self) -> float:
        """`server_login_retry` in microseconds."""
        retry = self.app.settings.server_login_retry
        return plan.pause_after_failure(retry) * MICROSECONDS

    def silent(self, pool: ServerPool) -> list[Any]:
        """The logins of *pool* that have said nothing for too long, oldest first."""
        before = pool.poller.now - plan.SILENCE * MICROSECONDS
        round, attempts = self.rounds - plan.SILENT_ROUNDS, self.attempts
        return [
            server
            for server in pool.login
            if server.received_at <= before
            and server in attempts
            and attempts[server].round <= round
        ]

    def ranks(self, pool: ServerPool) -> Ranks:
        """Where the next attempt is better not made: others have failed, or hang."""
        hanging = [self.attempts[server].target for server in self.silent(pool)]
        return pool.targets.ranks(pool.poller.now, self.pause(), hanging)

    def view(self, pool: ServerPool) -> plan.PoolView:
        app, now = self.app, pool.poller.now
        limits, settings = app.limits, app.settings
        targets, pause = pool.targets, self.pause()
        return plan.PoolView(
            connections=pool.server_count,
            logins=len(pool.login),
            parallel_logins=limits.own("parallel_logins", pool),
            pool_size=limits.pool_size(pool),
            reserve_size=limits.reserve_pool_size(pool),
            reserve_timeout=settings.reserve_pool_timeout,
            welcome_known=pool.welcome is not None,
            silent=len(self.silent(pool)) if len(pool.login) else 0,
            targets=len(targets.every()),
            resting=targets.is_resting(now, pause),
            refused=bool(pool.refused_at and now - pool.refused_at < pause),
            live=pool.live_count,
            waiting=len(pool.waiting),
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
            self.open(pool, replication, verdict.is_extra)
            opened = True
            wanted = len(pool.waiting) + len(pool.cancels)
            coming = len(pool.login) - len(self.silent(pool))
            if replication is not None or coming >= wanted:
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
        view = self.view(server.pool)
        return server.replication == 0 and plan.is_over(view, plan.extra_room(view))

    def evict_database(self, pool: ServerPool) -> bool:
        """Close the longest unused connection of the same database."""
        return self.evict(list(pool.database.pools.values()), "max_db_connections")

    def evict_user(self, pool: ServerPool) -> bool:
        """Close the longest unused connection of the same server user."""
        return self.evict(self.pools_of_user(pool), "max_user_connections")

    def pools_of_user(self, pool: ServerPool) -> list[ServerPool]:
        """The pools whose servers count for the same max_user_connections."""
        account = pool.user.account
        every = self.app.registry.all_pools()
        return [one for one in every if one.user.account is account]

    def evict(self, pools: list[ServerPool], limit: str) -> bool:
        """Close the longest unused connection of *pools*, which are at *limit*."""
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
        oldest.disconnect(f"evicted for {limit}", True, False)
        return True

    def open(
        self, pool: ServerPool, replication: Any = None, is_extra: bool = False
    ) -> None:
        """Begin one server connection."""
        now, ranks = pool.poller.now, self.ranks(pool)
        server = Server(pool.poller, -1, self.app, pool)
        attempt = self.attempts[server] = pool.targets.begin(now, ranks)
        attempt.is_extra, attempt.round = is_extra, self.rounds
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
        while size and pool.server_count >= size and len(pool.idle):
            if not self.evict([pool], "pool_size"):
                break
        self.open_if_allowed(pool, True, client)

    # What became of it

    def connected(self, server: Any) -> None:
        """The login went through: the pool has a server more."""
        pool = server.pool
        attempt = self.attempts.get(server)
        self.reached(server)
        pool.last_error = pool.last_sqlstate = ""
        pool.refused_at = 0
        pool.reached = True
        pool.evidence.succeeded(pool.poller.now)
        client = server.client
        if server.replication:
            self.replication_ready(pool, server, client)
            return
        self.drop_extra(pool)
        if attempt is not None and attempt.is_extra and plan.is_over(self.view(pool)):
            self.not_needed(server, "login was not needed")
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
        pool.evidence.failed(pool.poller.now, problem)
        attempt = self.attempts.get(server)
        if attempt is not None:
            why, code = failures.LOGIN_FAILED, problem.sqlstate
            failures.connect_failed(server, attempt.began, why, problem.text, code)
        if server.replication and client is not None:
            if problem.kind == "refused":
                log.error(f"S: login failed: {problem.severity}: {problem.text}")
            self.reached(server)
            server.disconnect("login failed", problem.notify, True)
            return
        if problem.kind == "refused":
            shown = f"{problem.severity} {problem.text}".strip()
            log.warning(
                f"server login failed: {shown}" if shown else "server login failed"
            )
        if problem.sqlstate == NO_SUCH_DATABASE:
            pool.reached = False
        if is_of_server(problem):
            self.attempt_failed(server, problem.text, problem.sqlstate, is_told=True)
        else:
            self.refused(server, problem)
        if self.is_final(pool, problem):
            for waiter in pool.waiting:
                waiter.disconnect(problem.text, True, problem.sqlstate)
        server.disconnect(cut(problem.reason, SHOWN_REASON), problem.notify, False)

    def is_final(self, pool: ServerPool, problem: LoginFailed) -> bool:
        """Say whether those who wait for a login have to be told of its failure."""
        if pool.live_count and pool.welcome is not None:
            return False
        if is_of_server(problem):
            # Another target may be well, another login get through.
            is_last = pool.failed and len(pool.login) <= 1
            return problem.sqlstate != CANNOT_CONNECT_NOW and is_last
        return True

    def reached(self, server: Any) -> None:
        """Its target has answered, whatever it said."""
        attempt = self.attempts.pop(server, None)
        if attempt is not None:
            attempt.targets.note_success(attempt, server.pool.poller.now)

    def refused(self, server: Any, problem: LoginFailed) -> None:
        """PostgreSQL is there and lets this login not in, or we cannot answer it.

        That says nothing of other users and databases, nor of the next try. What was
        let in before may be gone: the next client waits for a login again.
        """
        pool = server.pool
        attempt = self.attempts.get(server)
        self.reached(server)
        if attempt is None or attempt.targets is not pool.targets:
            return
        pool.refused_at = attempt.began
        pool.last_error = cut(problem.text, CACHED_ERROR)
        pool.last_sqlstate = problem.sqlstate
        self.forget_dead(pool)

    def attempt_failed(
        self,
        server: Any,
        reason: str,
        sqlstate: str = "",
        error: str = "",
        code: str = "",
        is_told: bool = False,
    ) -> None:
        """Somebody has seen that there is no server for us at its target now.

        *error* and *code* say more than *reason*, PgBouncer's word; *is_told*: people
        have been told.
        """
        pool = server.pool
        attempt = self.attempts.pop(server, None)
        if attempt is not None and not is_told:
            code = code or sqlstate
            failures.connect_failed(server, attempt.began, reason, error, code)
        if attempt is None or attempt.targets is not pool.targets:
            return
        if reason in NOT_THERE and server.address is not None:
            self.app.hosts.connect_failed(server.address)
        if not attempt.targets.note_failure(attempt):
            return
        pool.evidence.failed(pool.poller.now)
        pool.last_error = cut(reason, CACHED_ERROR)
        pool.last_sqlstate = sqlstate

    def drop_extra(self, pool: ServerPool) -> None:
        """Logins that are too many now that another one got through are ended."""
        silent = self.silent(pool)
        for server in reversed(list(pool.login)):
            if not plan.is_over(self.view(pool)):
                return
            attempt = self.attempts.get(server)
            if attempt is None or server.replication:
                continue
            if server in silent or attempt.is_extra:
                if server in silent:
                    attempt.targets.note_silence(attempt)
                self.not_needed(server, "login was not needed")

    def forget_dead(self, pool: ServerPool) -> None:
        """What the last server of *pool* has told may be about nothing any more."""
        if not pool.live_count and pool.welcome is not None:
            pool.forget_welcome()

    # The entry or DNS says something else

    def follow_hosts(self, pool: ServerPool) -> None:
        """Other hosts than before: who is connected to one that is gone is renewed."""
        hosts = pool.targets.hosts  # the new ones, nothing known of them
        for server in pool.servers():
            address = server.address
            if is_gone(
                hosts,
                server.host,
                address.host if address is not None else "",
                address.name if address is not None else "",
            ):
                self.outdate(pool, server)
        pool.refused_at = 0
        if len(pool.waiting) or pool.cancels:
            pool.poller.put_off(lambda: self.wants_server(pool))

    def follow_name(self, pool: ServerPool, name: str, lost: frozenset[str]) -> None:
        """The addresses of *name* have changed, *lost* are those that it had."""
        if name not in pool.targets.hosts:
            return
        pool.targets.forget_failures(name)
        for server in pool.servers():
            address = server.address
            # One that was taken over does not know the name.
            if address is not None and address.host in lost:
                if address.name in (name, ""):
                    self.outdate(pool, server)
        if len(pool.waiting) or pool.cancels:
            pool.poller.put_off(lambda: self.wants_server(pool))

    def outdate(self, pool: ServerPool, server: Any) -> None:
        """*server* is at the wrong place: it goes as soon as nobody uses it."""
        if server.state == LOGIN:
            server.disconnect("connect string changed", True, False)
        else:
            server.close_needed = pool.flagged = True

    def not_needed(self, server: Any, reason: str) -> None:
        """Close a new connection that nobody wants any more."""
        server.disconnect(reason, False, False)

    def out_of_means(self, server: Any, number: int) -> None:
        """No descriptor or port of ours was left: that is no fault of the host."""
        attempt = self.attempts.pop(server, None)
        if attempt is not None:
            error, code = os.strerror(number), failures.named(number)
            failures.connect_failed(
                server, attempt.began, "connect failed", error, code
            )
        self.nothing_before = server.pool.poller.now + RECOVERY
        server.disconnect("connect failed", False, False)

    def gone(self, server: Any, reason: str) -> None:
        """A server connection has been closed, for whatever reason."""
        pool = server.pool
        pool.database.server_count -= 1
        pool.user.account.server_count -= 1
        if reason in SEEN_BY_RELAY:
            self.attempt_failed(server, reason)
        self.attempts.pop(server, None)
        if server in self.ended:
            self.ended.discard(server)
            self.forget_dead(pool)
        if len(pool.waiting) or pool.cancels or pool.contested:
            pool.poller.put_off(lambda: self.sharing.freed(pool))
        self.app.drain_progress()


def is_of_server(problem: LoginFailed) -> bool:
    """Say whether a failed login tells of its server, and not of who logs in."""
    return problem.kind == REFUSED and problem.sqlstate.startswith(OF_THE_SERVER)


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
