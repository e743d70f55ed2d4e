"""What pause, suspend, reconnect, kill and shutdown do (admin.md 8 to 10).

A command that must wait leaves a `Debt`; `progress` looks after each turn whether
its condition holds. A pause outlives the console that asked for it, but not its
RESUME: that ends the debt, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bouncer import log
from bouncer.auth import tls
from bouncer.config.settings import Database
from bouncer.errors import CommandError, ConfigError
from bouncer.pool.evidence import Evidence
from bouncer.pool.registry import CONSOLE, DatabaseState, needs_renewal
from bouncer.succession import step_aside

SUSPEND_TICK = 0.05  # seconds between two looks while sockets are flushed
# Seconds for which a suspend lets clients finish what they do on a TLS server.
TLS_PATIENCE = 1.0
SESSION = 0  # pool.pxd, Mode


@dataclass(slots=True, eq=False)
class Debt:
    """A reply that is owed: to which command, and about which database (None: all).

    *made*: this command has put the pause in force, so that giving it up lifts it.
    """

    owed: Any
    tag: str
    database: DatabaseState | None
    made: bool = True

    def is_of(self, database: DatabaseState | None) -> bool:
        """Whether this waits for a pause of *database* (None: of everything)."""
        return self.tag in ("PAUSE", "SUSPEND") and self.database is database


def server_tls(settings: Any) -> tuple[str, ...]:
    """What is said about TLS on connections to servers."""
    mode: str = settings.server_tls_sslmode
    if mode == "disable":
        return (mode,)
    return (
        mode,
        settings.server_tls_protocols,
        settings.server_tls_ciphers,
        settings.server_tls13_ciphers,
        settings.server_tls_ca_file,
        settings.server_tls_cert_file,
        settings.server_tls_key_file,
    )


class Commands:
    """Changes the mode of the whole pooler or of one database."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.owed: list[Debt] = []
        self.tls_source = server_tls(app.settings)
        self.suspend_done = False
        self.suspend_began = 0
        self.handed_over = False  # SHOW FDS has given all descriptors away
        self.to_ours = False  # ... to a process of ours

    def pools(self, database: DatabaseState | None = None) -> list[Any]:
        """The pools that a command is about; never the console's."""
        found: Iterable[Any] = (
            database.pools.values()
            if database is not None
            else self.app.registry.all_pools()
        )
        return [pool for pool in found if pool.database.name != CONSOLE]

    def block(self) -> None:
        for pool in self.pools():
            pool.blocked = self.app.is_blocked(pool)
            pool.queue_only = False

    # Pause

    def pause(self, database: DatabaseState | None, owed: Any) -> bool:
        """Hand out no server; true when no server is in use any more."""
        made = True
        if database is None:
            self.app.global_mode = "pause"
        else:
            made = not database.paused
            database.paused = True
            if not any(pool.server_count for pool in database.pools.values()):
                self.block()
                return True
        self.block()
        self.close_unused()
        if self.drained(database):
            return True
        if owed is not None:
            self.owed.append(Debt(owed, "PAUSE", database, made))
        return False

    def close_unused(self) -> None:
        """Servers that nobody uses are closed at once in a pause."""
        if self.app.global_mode == "suspend":
            return
        for pool in self.pools():
            if pool.blocked:
                for server in (*pool.idle, *pool.used):
                    server.disconnect("pause mode", True, False)
                self.close_logins(pool)

    def close_logins(self, pool: Any) -> None:
        """Nobody logs in during a pause; but cancels go on to those who are busy.

        A connection can carry one until its login has begun.
        """
        wanted = len(pool.cancels)
        for server in pool.login:
            if wanted and server.talk is None:
                wanted -= 1
            else:
                server.disconnect("pause mode", True, False)

    def drained(self, database: DatabaseState | None) -> bool:
        pools = self.pools(database)
        return not any(len(pool.active) or len(pool.tested) for pool in pools)

    def resume(self, database: DatabaseState | None) -> None:
        if database is not None:
            database.paused = False
        else:
            if self.app.global_mode == "suspend":
                self.unsuspend()
            self.app.global_mode = "none"
        lifted = [debt for debt in self.owed if debt.is_of(database)]
        self.owed = [debt for debt in self.owed if not debt.is_of(database)]
        self.block()
        for pool in self.pools(database):
            if not pool.blocked:
                self.app.keeper.wants_server(pool)
        # Last: a console that is told goes on at once, with another PAUSE perhaps.
        for debt in lifted:
            debt.owed.lifted()

    def give_up(self, owed: Any) -> None:
        """Who asked waits no more: end the debt, and lift the pause that it made.

        When others wait for the same pause, it is theirs from now on.
        """
        debt = next((one for one in self.owed if one.owed is owed), None)
        if debt is not None:
            self.owed.remove(debt)
            if debt.made and debt.tag != "WAIT_CLOSE":
                self.leave_pause(debt.database)
        owed.cancelled()

    def leave_pause(self, database: DatabaseState | None) -> None:
        """Lift a pause, unless somebody else needs it."""
        for other in self.owed:
            if other.is_of(database) and not other.owed.gone:
                other.made = True
                return
        if database is not None or self.app.shutdown_mode != "wait_for_servers":
            self.resume(database)

    def progress(self) -> None:
        """Answer the consoles whose condition holds by now."""
        app = self.app
        if app.global_mode == "pause" or any(
            database.paused for database in app.registry.databases.values()
        ):
            self.close_unused()
        if app.global_mode == "suspend" and not self.suspend_done:
            self.suspend_progress()
        for debt in self.owed[:]:
            # Whoever was told before may have lifted it.
            if not debt.owed.gone and self.holds(debt):
                debt.owed.done()
        self.owed = [debt for debt in self.owed if not debt.owed.gone]

    def holds(self, debt: Debt) -> bool:
        if debt.tag == "WAIT_CLOSE":
            return not self.closing(debt.database)
        if debt.tag == "SUSPEND":
            return self.app.global_mode == "suspend" and self.suspend_done
        return self.drained(debt.database)

    # Suspend

    def suspend(self, owed: Any) -> bool:
        """Stop reading everywhere once what is buffered has gone out."""
        self.app.global_mode = "suspend"
        self.suspend_done = self.handed_over = False
        self.suspend_began = self.app.poller.tick()
        self.app.listeners.suspend()
        if owed is not None:
            self.owed.append(Debt(owed, "SUSPEND", None))
        self.suspend_progress()
        if self.suspend_done and owed is not None:
            self.owed = [debt for debt in self.owed if debt.owed is not owed]
            return True
        return False

    def suspend_progress(self) -> None:
        """Let everything come to rest, in an order that never locks itself.

        Who waits for a server has sent something that cannot be unsaid. It is
        served first, by those that have a server and go on until they give it back;
        from then on they are not read. Last come those in the middle of something.
        """
        app = self.app
        now = app.poller.tick()
        timeout = app.settings.suspend_timeout
        late = bool(timeout and now - self.suspend_began > timeout * 1_000_000)
        patient = now - self.suspend_began < TLS_PATIENCE * 1_000_000
        # A login that has begun must end: it is not known how far it is.
        busy = [
            one
            for one in app.logging_in
            if one.state == 0
            and (one.talk is not None or one.is_asked or one.held_bytes)
        ]
        for pool in self.pools():
            pool.draining = True
            busy += self.pool_at_rest(pool, late, patient)
        if late:
            for stream in busy:
                if not stream.closed:
                    stream.disconnect("suspend_timeout")
            busy = []
        self.suspend_done = not busy
        if busy:
            app.loop.call_later(SUSPEND_TICK, self.suspend_again)
        else:
            self.block()

    def pool_at_rest(self, pool: Any, late: bool, patient: bool) -> list[Any]:
        """Quiet what can be quiet; return what cannot yet.

        TLS connections are never handed over: they only have to keep still. A plain
        client on a TLS server can be, as soon as it has given that back.
        """
        if late:
            for stream in (*pool.waiting, *pool.login):
                stream.disconnect("suspend_timeout")
        busy = [*pool.waiting, *pool.login]
        waited_for = bool(busy)
        if not waited_for:
            for server in (*pool.used, *pool.tested):
                server.disconnect(
                    "close unsafe file descriptors on suspend", True, False
                )
        for client in pool.clients:
            if waited_for and client.server is not None:
                continue
            if (
                patient
                and pool.mode != SESSION
                and client.tls_object is None
                and client.server is not None
                and client.server.tls_object is not None
            ):
                busy.append(client)
                continue
            if not client.quiesce() and client.tls_object is None:
                busy.append(client)
        if not waited_for:
            for server in pool.servers():
                if not server.quiesce() and server.tls_object is None:
                    busy.append(server)
        return busy

    def suspend_again(self) -> None:
        if self.app.global_mode == "suspend":
            self.progress()
            self.app.poller.settle()

    def unsuspend(self) -> None:
        self.app.listeners.resume()
        for pool in self.pools():
            pool.draining = False
            for stream in (*pool.clients, *pool.waiting, *pool.servers()):
                stream.rouse()

    # Reconnect, kill

    def reconnect(self, database: DatabaseState | None) -> None:
        for pool in self.pools(database):
            self.renew_pool(pool)
        self.app.poller.put_off(self.progress)

    def renew(self, database: DatabaseState, old: Database) -> None:
        """The entry of *database* was *old*: what that made wrong is renewed."""
        for pool in list(database.pools.values()):
            if needs_renewal(old, database.config):
                self.renew_pool(pool)
            else:
                self.app.keeper.follow_hosts(pool)

    def renew_tls(self) -> None:
        """`server_tls_*` may have changed: nobody stays on the old terms.

        Not while they allow no connection at all: then what there is must do.
        """
        settings = self.app.settings
        source = server_tls(settings)
        if source == self.tls_source:
            return
        if settings.server_tls_sslmode != "disable":
            try:
                tls.connect_context(settings)
            except ConfigError as error:
                log.error(str(error))
                return
        self.tls_source = source
        for pool in self.pools():
            if not all(server.is_unix for server in pool.servers()):
                self.renew_pool(pool)

    def renew_pool(self, pool: Any) -> None:
        pool.forget_welcome()
        pool.forget_failures()
        pool.flagged = True
        for server in pool.login:
            server.disconnect("connect string changed", True, False)
        for server in pool.servers():
            server.close_needed = True
        pool.evidence = Evidence()  # what there is was of another server

    def kill(self, database: DatabaseState | None) -> None:
        databases = (
            [database]
            if database is not None
            else [
                one
                for one in self.app.registry.databases.values()
                if one.pools and one.name != CONSOLE
            ]
        )
        for one in databases:
            one.paused = True
            self.remove_pools(one)

    def remove_pools(self, database: DatabaseState) -> None:
        """Close everything of *database*; its pools and counters are gone."""
        for pool in list(database.pools.values()):
            pool.blocked = True
            for client in (*pool.clients, *pool.waiting):
                client.disconnect("database removed")
            for client in (*pool.cancel_waiting, *pool.cancel_active):
                client.disconnect("database removed", False)
            for server in pool.servers():
                server.disconnect("database removed", True, False)
        database.pools.clear()
        self.app.door.forget()

    def drop(self, database: DatabaseState) -> None:
        """*database* is not configured any more."""
        log.warning(
            f"dropping database '{database.name}' as it does not exist anymore or "
            "inactive auto-database"
        )
        names = list(database.pools)
        self.remove_pools(database)
        for name in names:
            self.app.registry.forget_learnt(database.name, name)

    def kill_client(self, number: int) -> None:
        for pool in self.app.registry.all_pools():
            for client in (
                *pool.clients,
                *pool.waiting,
                *pool.cancel_waiting,
                *pool.cancel_active,
            ):
                if client.id == number:
                    client.disconnect("admin forced disconnect")
                    return
        raise CommandError("client not found")

    # WAIT_CLOSE

    def wait_close(self, database: DatabaseState | None, owed: Any) -> bool:
        """True when no server of *database* (None: any) is to be closed."""
        if not self.closing(database):
            return True
        self.owed.append(Debt(owed, "WAIT_CLOSE", database))
        return False

    def closing(self, database: DatabaseState | None) -> bool:
        return any(
            server.close_needed
            for pool in self.pools(database)
            for server in pool.servers()
        )

    # Shutdown

    def shutdown(self, mode: str) -> None:
        app = self.app
        if mode == "immediate":
            if app.global_mode == "suspend" and self.handed_over:
                # Not now: it is a console that asks, and it is closed, too.
                app.poller.put_off(self.succeeded)
            else:
                app.exit(0)
            return
        # Who is in the kernel's queue still comes in as if nothing were.
        app.listeners.close_tcp()
        app.shutdown_mode = mode
        app.door.close()
        if mode == "wait_for_servers":
            app.global_mode = "pause"
            self.block()
            self.close_unused()
        app.poller.put_off(self.shutdown_progress)

    def succeeded(self) -> None:
        """A successor has our sockets: serve what could not be handed over, if any."""
        app = self.app
        kept = step_aside(app, self.to_ours)
        if app.stepped_aside is not None:
            app.stepped_aside()
        if not kept:
            app.exit(0)
            return
        app.shutdown_mode = "wait_for_clients"
        app.door.close()
        app.global_mode = "none"
        self.handed_over = False
        self.unsuspend()
        self.block()

    def shutdown_progress(self) -> None:
        """Exit when nothing is left of what we wait for."""
        app = self.app
        if app.exited.done():
            return
        if app.shutdown_mode == "wait_for_servers":
            if not any(pool.server_count for pool in app.registry.all_pools()):
                log.info("server connections dropped, exiting")
                app.exit(0)
        elif app.shutdown_mode == "wait_for_clients" and not app.limits.socket_count:
            log.info("client connections dropped, exiting")
            app.exit(0)
