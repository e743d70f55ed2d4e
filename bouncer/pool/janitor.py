"""Periodic upkeep: every timeout and limit that time brings about (design D10).

Runs three times a second over all pools, as the original does. Lists are in
order of age, so most walks stop at their first member.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from bouncer import log
from bouncer.pool.keeper import WAIT_AUTH, WAIT_QUERY, Keeper
from bouncer.wire.messages import notice_response

SECOND = 1_000_000
# So many unused databases are dropped in a round.
MOST_DROPPED = 200
QUEUED_NOTICE = (
    "No server connection available in postgres backend, client being queued"
)


class Janitor:
    """Looks after ages; closes what is too old."""

    def __init__(self, app: Any, keeper: Keeper) -> None:
        self.app = app
        self.keeper = keeper

    def run(self, now: int) -> None:
        """One round; *now* in monotonic microseconds."""
        app = self.app
        if app.global_mode == "suspend":
            return
        for database in list(app.registry.awake.values()):
            if database.name not in app.consoles:
                self.database(database, now)
        for peer in list(app.registry.peers.values()):
            if peer.pool is not None:
                self.connecting(peer.pool, now)
                self.cancels(peer.pool, now)
        self.sleepers(now)
        self.logins(now)
        app.shutdown_progress()

    def database(self, database: Any, now: int) -> None:
        """Look after one database; one that nobody uses is left alone from now on."""
        pool_limit = self.app.settings.pool_idle_timeout * SECOND
        in_use = not database.auto or bool(
            self.app.limits.database_min_pool_size(database)
            and any(self.is_kept_warm(pool) for pool in database.pools.values())
        )
        for pool in list(database.pools.values()):
            busy = pool.client_count or pool.server_count
            if busy or database.config.user:
                self.servers(pool, now)
                self.clients(pool, now)
                if len(pool.waiting) or pool.cancels:
                    self.keeper.wants_server(pool)
            in_use = in_use or bool(pool.client_count or pool.server_count)
            if pool_limit:
                self.idle_pool(pool, now, pool_limit)
        if not (in_use or database.client_count or database.server_count):
            self.app.registry.put_to_sleep(database, now)

    # Servers

    def servers(self, pool: Any, now: int) -> None:
        if len(pool.used):
            self.aged(pool, pool.used, "SV_USED server got dirty", now)
        if len(pool.tested):
            self.aged(pool, pool.tested, "", now)
        if len(pool.idle):
            self.aged(pool, pool.idle, "SV_IDLE server got dirty", now)
            self.park(pool, now)
        if len(pool.active):
            self.active(pool, now)
        self.connecting(pool, now)
        self.sizes(pool, now)

    def aged(self, pool: Any, servers: Any, dirty: str, now: int) -> None:
        """Close what is flagged, dirty, idle for too long, or too old."""
        settings = self.app.settings
        idle_limit = settings.server_idle_timeout * SECOND
        lifetime = pool.lifetime_us
        for server in servers:
            idle = now - server.idle_since
            if dirty and not server.clean:
                self.close(server, dirty)
            elif server.close_needed and dirty:
                self.close(server, "database configuration changed")
            elif (
                idle_limit
                and idle > idle_limit
                and (pool.server_count > self.app.limits.min_pool_size(pool))
            ):
                self.close(server, "server idle timeout")
            elif (
                dirty
                and now - server.connected_at >= lifetime
                and self.keeper.lifetime_over(pool, server)
            ):
                self.close(server, "server lifetime over")
            elif pool.blocked and dirty:
                self.close(server, "pause mode")

    def close(self, server: Any, reason: str) -> None:
        server.disconnect(reason, True, False)

    def park(self, pool: Any, now: int) -> None:
        """Idle for longer than server_check_delay: checked before its next use."""
        if not self.app.checks_servers:
            return
        delay = self.app.settings.server_check_delay * SECOND
        for server in pool.idle:
            if now - server.idle_since > delay:
                pool.park_used(server)

    def active(self, pool: Any, now: int) -> None:
        settings, limits = self.app.settings, self.app.limits
        query = limits.of_pool_user(pool, "query_timeout") * SECOND
        idle = limits.of_pool_user(pool, "idle_transaction_timeout") * SECOND
        transaction = limits.of_pool_user(pool, "transaction_timeout") * SECOND
        fast = settings.server_fast_close
        if not (query or idle or transaction or fast or pool.flagged):
            return
        flagged = False
        for server in pool.active:
            client = server.client
            if client is None:
                continue
            if server.close_needed:
                flagged = True
                if server.replication or (fast and server.is_ready):
                    server.disconnect("database configuration changed", True, True)
                    continue
            if server.is_ready:
                continue
            # A unit without its Sync is under way, too, with all of it answered.
            in_flight = server.owed_count or client.query_start
            if query and in_flight and now - client.received_at > query:
                server.disconnect("query timeout", True, True)
            elif (
                idle
                and server.in_transaction
                and not server.owed_count
                and now - server.received_at > idle
            ):
                server.disconnect("idle transaction timeout", True, True)
            elif (
                transaction
                and client.transaction_start
                and now - client.transaction_start > transaction
            ):
                server.disconnect("transaction timeout", True, True)
        pool.flagged = flagged

    def connecting(self, pool: Any, now: int) -> None:
        limit = self.app.settings.server_connect_timeout * SECOND
        if not limit:
            return
        for server in pool.login:
            if now - server.connected_at <= limit:
                break
            is_mute = server.received_at == server.connected_at
            said = "no answer" if is_mute else "login not finished"
            self.keeper.attempt_failed(
                server,
                "connect timeout",
                error=f"{said} within server_connect_timeout",
            )
            server.disconnect("connect timeout", True, False)

    def sizes(self, pool: Any, now: int) -> None:
        """Keep the pool within its size, and above min_pool_size."""
        limits = self.app.limits
        size = limits.pool_size(pool)
        if size:
            most = size + limits.reserve_pool_size(pool)
            if pool.server_count > most and len(pool.login) and not len(pool.waiting):
                self.keeper.drop_extra(pool)
            over = pool.server_count - most
            if over > 0 and not pool.cancels:
                spare = [*reversed(list(pool.used)), *reversed(list(pool.idle))]
                for server in spare[:over]:
                    self.close(server, "too many servers in the pool")
        if pool.blocked:
            return
        least = limits.min_pool_size(pool)
        if (
            least
            and pool.server_count < (min(least, size) if size else least)
            and (pool.client_count or pool.database.config.user)
            and self.is_known(pool)
        ):
            self.keeper.open_if_allowed(pool, evict=False)

    def is_kept_warm(self, pool: Any) -> bool:
        """Whether a pool has its min_pool_size with nobody there to use it."""
        return bool(pool.database.config.user) and self.is_known(pool)

    def is_known(self, pool: Any) -> bool:
        """Whether there is such a database, as far as a pool knows.

        What an automatic one is called, anybody can make up: where no server has
        logged in, or PostgreSQL says that there is none, nothing is kept warm.
        """
        return not pool.database.auto or pool.reached or pool.live_count > 0

    # Clients

    def clients(self, pool: Any, now: int) -> None:
        if self.app.any_client_idle_timeout and len(pool.clients):
            self.idle_clients(pool, now)
        if len(pool.waiting):
            self.keeper.look_at_queue(pool)
            self.waiting(pool, now)
        self.cancels(pool, now)

    def idle_clients(self, pool: Any, now: int) -> None:
        for client in pool.clients:
            if client.server is not None or client.on_console:
                continue
            limit = self.app.limits.client_idle_timeout(client.user_state) * SECOND
            if limit and now - client.received_at > limit:
                client.disconnect("client_idle_timeout")

    def waiting(self, pool: Any, now: int) -> None:
        app, limits = self.app, self.app.limits
        query = limits.of_pool_user(pool, "query_timeout") * SECOND
        login = app.settings.client_login_timeout * SECOND
        notify = app.settings.query_wait_notify
        shutting = app.shutdown_mode == "wait_for_servers"
        for client in pool.waiting:
            if shutting:
                client.disconnect("server shutting down")
                continue
            begun = client.query_start or client.wait_start
            waited = now - begun
            limit = limits.query_wait_timeout(client) * SECOND
            if query and waited > query:
                client.disconnect("query_timeout")
            elif limit and waited > limit:
                client.disconnect("query_wait_timeout")
            elif (
                client.wait_kind not in (WAIT_QUERY, WAIT_AUTH)
                and login
                and now - client.connected_at > login
            ):
                client.disconnect("client_login_timeout (server down)")
            elif (
                notify > 0
                and not client.departed
                and client.wait_kind == WAIT_QUERY
                and not client.notified
                and waited // SECOND > notify
            ):
                client.notified = True
                client.write(notice_response(QUEUED_NOTICE))

    def cancels(self, pool: Any, now: int) -> None:
        limit = self.app.settings.cancel_wait_timeout * SECOND
        if not limit:
            return
        for client in pool.cancel_waiting:
            if now - client.wait_start <= limit:
                break
            client.disconnect("cancel_wait_timeout", False)

    def logins(self, now: int) -> None:
        """Clients that do not finish their login; oldest first."""
        limit = self.app.settings.client_login_timeout * SECOND
        if not limit:
            return
        for client in list(self.app.logging_in):
            if now - client.connected_at <= limit:
                break
            if client.state == 2:  # waiting: its pool looks after it
                continue
            client.disconnect("client_login_timeout", not client.in_handshake)

    # Databases and pools nobody uses

    def sleepers(self, now: int) -> None:
        """Drop what nobody has used for long enough: only the first are looked at."""
        app = self.app
        registry = app.registry
        auto_limit = app.settings.autodb_idle_timeout * SECOND
        pool_limit = app.settings.pool_idle_timeout * SECOND
        if pool_limit:
            for database in first(registry.resting, now - pool_limit):
                for pool in list(database.pools.values()):
                    self.idle_pool(pool, now, pool_limit)
                # One of its pools may stay, for min_pool_size.
                del registry.resting[database.name]
        if auto_limit:
            for database in first(registry.asleep, now - auto_limit):
                app.drop_database(database)

    def idle_pool(self, pool: Any, now: int, limit: float) -> None:
        database = pool.database
        if pool.client_count or pool.server_count:
            pool.idle_since = now
        elif self.is_kept_warm(pool) and self.app.limits.min_pool_size(pool) > 0:
            return
        elif now - pool.idle_since > limit:
            age = (now - pool.idle_since) // SECOND
            log.info(
                f"cleaning up idle pool for user {pool.user_name} on db "
                f"{database.name} because: pool idle timeout (age= {age}s)"
            )
            self.app.registry.drop_pool(pool)


def first(sleeping: dict[str, Any], before: float) -> list[Any]:
    """The first of *sleeping* that sleep since *before*; a few at a time."""
    found = []
    for database in islice(sleeping.values(), MOST_DROPPED):
        if database.idle_since >= before:
            break
        found.append(database)
    return found
