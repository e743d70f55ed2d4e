"""The pooler: owns the relay, the pools, the modes; begins and ends everything.

Other parts reach each other only through this object. What takes long is asked
of the event loop; what a query needs is in the relay.
"""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Callable
from typing import Any

from bouncer import descriptors, log
from bouncer.auth import needed, tls
from bouncer.commands import Commands
from bouncer.config import queries
from bouncer.config.hba import HbaRules
from bouncer.config.load import load
from bouncer.config.settings import Configuration, Database, Settings
from bouncer.config.userlist import UserListFile
from bouncer.errors import ConfigError, Disconnect, LibraryMissing, TlsKept
from bouncer.listener import Listener, Listeners, tune_server
from bouncer.lookup import Lookups
from bouncer.pool.cancels import Cancels, new_key
from bouncer.pool.connector import Connector
from bouncer.pool.hosts import Hosts
from bouncer.pool.janitor import Janitor
from bouncer.pool.keeper import Keeper
from bouncer.pool.limits import MODES, Limits
from bouncer.pool.pools import ServerPool
from bouncer.pool.registry import CONSOLE, DatabaseState, Registry, UserState
from bouncer.probe import Probes
from bouncer.relay import client as relay_client
from bouncer.relay import server as relay_server
from bouncer.relay import tracked as relay_tracked
from bouncer.relay.acceptor import Acceptor
from bouncer.relay.door import Door
from bouncer.relay.poller import Poller
from bouncer.relay.texts import changes_of
from bouncer.relay.tracked import from_dict
from bouncer.rows import Rows
from bouncer.stats import Stats
from bouncer.talks.client_login import (
    CancelAsked,
    client_login,
    come_in,
    known_login,
)
from bouncer.talks.login_packets import introduce

JANITOR_PERIOD = 1 / 3  # seconds
MAX_BUFFER = 16 << 20  # bytes; nobody means more by pkt_buf
RANDOM_KEYS = 64  # cancel keys made from one read of randomness
TLS_FIRST_BYTE = 0x16  # a TLS handshake record


class Bouncer:
    """One pooler process."""

    def __init__(
        self,
        configuration: Configuration,
        config_path: str,
        loop: asyncio.AbstractEventLoop | None,
        options: Any = None,
    ) -> None:
        """Read the configuration's files: as root, before the fork and any loop."""
        self.config = configuration
        # The settings that count now; RELOAD and SET put another object here.
        self.settings: Settings = configuration.settings
        self.config_path = config_path
        self.options = options
        self.poller = Poller()
        self.poller.use_buffers(min(configuration.settings.pkt_buf, MAX_BUFFER))
        self.poller.unwritten = log.unwritten()
        self.poller.after = log.flush
        self.poller.crashed = self.crashed
        self.started_at = self.poller.wall_clock()
        self.consoles: dict[str, Any] = {}
        self.haproxy: Any = None
        self.proxy: Any = None
        self.on_settings: Any = None  # called with settings that have changed
        self.service: Any = None
        self.stepped_aside: Callable[[], None] | None = None  # a successor has it all
        self.listeners: Any = Listeners()
        self.acceptors: dict[Listener, Acceptor] = {}
        self.door = Door(self)
        self.logging_in: dict[Any, None] = self.door.logging_in
        self.global_mode = "none"
        self.shutdown_mode: str | None = None
        self.keeper = Keeper(self)
        self.connector = Connector(self, self.keeper)
        self.cancels = Cancels(self, self.keeper)
        self.lookups = Lookups(self, self.keeper)
        self.probes = Probes(self, self.keeper)
        self.janitor = Janitor(self, self.keeper)
        self.limits = Limits(self)
        self.commands = Commands(self)
        self.rows = Rows(self)
        for reader in READERS:
            setattr(self, reader, getattr(self.rows, reader))
        self.stats_clock = Stats(self.poller.clock())
        relay_tracked.configure(
            name.strip() for name in self.settings.track_extra_parameters.split(",")
        )
        self.registry = Registry(configuration, self.make_pool, self.door.forget)
        self.stats_period = max(self.settings.stats_period, 1)
        self.apply_settings()
        self.add_console_database()
        self.client_tls: Any = None
        self.auth_file: UserListFile | None = None
        self.read_users()
        self.hba: HbaRules | None = needed.rules_for(self.settings)
        self.client_tls = tls.client_context(self.settings)
        tls.server_context(self.settings)
        if loop is not None:
            self.attach(loop)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the loop that everything will run in."""
        self.loop = loop
        self.poller.loop = loop
        self.exited: asyncio.Future[int] = loop.create_future()
        self.hosts = Hosts(self.settings, loop, self.addresses_changed)

    @property
    def listen_port(self) -> int:
        return self.settings.listen_port

    # Begin and end

    def start(self, listeners: Listeners) -> None:
        """Begin to serve on *listeners*."""
        self.listeners = listeners
        listeners.attach(
            self.watch, self.unwatch, lambda one: self.acceptors[one].last_call()
        )
        self.loop.add_reader(self.poller.fd, self.poller.dispatch)
        self.loop.call_later(JANITOR_PERIOD, self.upkeep)
        self.loop.call_later(max(self.settings.stats_period, 1), self.report)
        self.fill_forced_pools()

    async def run_until_exit(self) -> int:
        """Wait for the end; returns the exit status."""
        return await self.exited

    def exit(self, status: int = 0) -> None:
        """End the process: everybody just gets EOF."""
        if not self.exited.done():
            self.exited.set_result(status)

    def watch(self, listener: Listener) -> None:
        acceptor = Acceptor(self.poller, listener.fd, self, listener)
        self.acceptors[listener] = acceptor
        acceptor.watch()

    def unwatch(self, listener: Listener) -> None:
        acceptor = self.acceptors.pop(listener, None)
        if acceptor is not None:
            acceptor.unwatch()

    def accept_failed(self, error: OSError) -> None:
        self.listeners.accept_failed(error, self.loop)

    def crashed(self, stream: Any, problem: Exception) -> None:
        """A bug of ours: it costs one connection, never the process."""
        log.error(
            "internal error: " + "".join(traceback.format_exception(problem)).rstrip()
        )
        if stream is not None and not stream.closed:
            try:
                stream.disconnect("internal error")
            except Exception as worse:
                log.error(f"internal error while disconnecting: {worse!r}")
                stream.abandon()

    # Timers

    def upkeep(self) -> None:
        self.loop.call_later(JANITOR_PERIOD, self.upkeep)
        self.keeper.rounds += 1
        try:
            self.janitor.run(self.poller.tick())
            self.drain_progress()
        except Exception as problem:
            self.crashed(None, problem)
        self.poller.settle()

    def report(self) -> None:
        """The end of a stats period; its length is that of the start, as in 1.25.2."""
        self.loop.call_later(self.stats_period, self.report)
        line = self.stats_clock.tick(self.registry.all_pools(), self.poller.clock())
        if self.settings.log_stats:
            log.info(line)
        if self.service is not None:
            self.service.status(line)
        log.flush()

    # Settings

    def apply_settings(self) -> None:
        """Copy what the relay and the pools look at."""
        settings = self.settings
        self.door.forget()
        self.door.forget_keys()  # peer_id is in them
        self.door.most_sockets = settings.max_client_conn
        self.door.most_fd, self.door.last_fd = descriptors.bounds()
        self.poller.max_packet_size = settings.max_packet_size & 0xFFFFFFFF
        self.poller.loop_count = max(settings.sbuf_loopcnt, 0)
        self.checks_servers = bool(settings.server_check_query)
        self.reset_query, self.check_query = queries.own(settings)
        relay_client.configure(
            bool(settings.disable_pqexec),
            bool(settings.log_disconnections),
            bool(settings.log_pooler_errors),
        )
        relay_server.configure(bool(settings.log_disconnections))
        self.any_client_idle_timeout = settings.client_idle_timeout > 0 or any(
            user.options is not None and user.options.client_idle_timeout
            for user in self.registry.users.values()
        )
        for pool in self.registry.all_pools():
            self.configure_pool(pool)
        if self.proxy is not None:
            self.trust_proxies()

    def trust_proxies(self) -> None:
        """Who may tell us a client's address; a mistake trusts nobody."""
        try:
            self.proxy_networks = self.proxy.TrustedNetworks(
                self.settings.proxy_protocol_networks
            )
        except ValueError as problem:
            log.error(f"proxy_protocol_networks: {problem}")
            self.proxy_networks = self.proxy.TrustedNetworks("")

    def configure_pool(self, pool: ServerPool) -> None:
        settings = self.settings
        pool.mode = MODES[self.limits.pool_mode(pool)]
        pool.max_prepared = max(settings.max_prepared_statements, 0)
        pool.changes = changes_of(pool.database.config.dbname)
        pool.round_robin = bool(settings.server_round_robin)
        pool.reset_query = self.reset_query
        pool.reset_on_release = bool(pool.reset_query) and (
            pool.mode == 0 or bool(settings.server_reset_query_always)
        )
        pool.check_query = self.check_query
        pool.check_on_release = self.checks_servers and settings.server_check_delay == 0
        pool.lifetime_us = int(self.limits.server_lifetime(pool.database) * 1_000_000)
        pool.blocked = self.is_blocked(pool)
        pool.queue_only = False

    def is_blocked(self, pool: ServerPool) -> bool:
        if pool.database.name == CONSOLE:
            return False
        if self.global_mode == "suspend" and not self.commands.suspend_done:
            return bool(pool.database.paused)  # first those who wait are served
        return self.global_mode != "none" or bool(pool.database.paused)

    def make_pool(self, database: DatabaseState, user: UserState) -> ServerPool:
        pool = ServerPool(self.poller, self.keeper, database, user)
        self.configure_pool(pool)
        if database.name == CONSOLE:
            pool.welcome = b""
            pool.defaults = from_dict({})
        return pool

    def add_console_database(self) -> None:
        config = Database(CONSOLE, CONSOLE, user=CONSOLE, pool_mode="statement")
        console = DatabaseState(config)
        self.registry.add_database(console)
        self.registry.pool(console, CONSOLE)

    def fill_forced_pools(self) -> None:
        """Databases that want servers for their forced user have a pool at once."""
        for database in self.registry.databases.values():
            name = database.config.user
            wanted = self.limits.database_min_pool_size(database) > 0
            if name and wanted and database.name != CONSOLE:
                self.registry.pool(database, name)

    def read_users(self) -> None:
        """Read auth_file if it is used and has changed."""
        settings = self.settings
        if settings.auth_type in ("any", "pam") or settings.auth_file is None:
            return
        if self.auth_file is None or self.auth_file.path != settings.auth_file:
            self.auth_file = UserListFile(settings.auth_file)
        secrets = self.auth_file.reread_if_changed()
        if secrets is not None:
            self.registry.set_auth_file(secrets)

    def reload(self) -> bool:
        """Read all configuration files again; raises ConfigError when that fails."""
        failure = self.read_again()
        self.door.forget()
        log.reopen()
        if not self.reload_tls():
            failure = failure or TlsKept("TLS configuration could not be reloaded")
        self.poller.settle()
        if failure is not None:
            raise failure
        return True

    def read_again(self) -> ConfigError | None:
        """Read and take the configuration, or say why not.

        HBA lines are read again even if the rest cannot be.
        """
        failure: ConfigError | None = None
        fresh = self.config
        try:
            fresh = load(self.settings.conffile or self.config_path, self.config)
        except ConfigError as error:
            log.warning("config file loading failed")
            failure = error
        try:
            rules = needed.rules_for(fresh.settings)
        except LibraryMissing as error:
            log.error(str(error))
            return failure or error
        if failure is None:
            self.take(fresh)
        self.hba = rules
        return failure

    def take(self, fresh: Configuration) -> None:
        """Use a configuration that has been read completely."""
        self.config = fresh
        self.settings = fresh.settings
        changed, dropped = self.registry.apply(fresh)
        self.read_users()
        self.settings_changed()
        for database, old in changed:
            self.commands.renew(database, old)
        for gone in dropped:
            if isinstance(gone, DatabaseState):
                self.commands.drop(gone)
            else:
                self.cancels.drop_peer(gone)
        self.fill_forced_pools()

    def settings_changed(self) -> None:
        self.apply_settings()
        if self.on_settings is not None:
            self.on_settings(self.settings)
        self.hosts.configure(self.settings)
        if isinstance(self.listeners, Listeners):
            self.listeners.retune(self.settings)
        log.configure(
            self.settings,
            getattr(self.options, "quiet", False),
            getattr(self.options, "daemon", False),
        )

    def reload_tls(self) -> bool:
        """Build the TLS contexts anew; the old ones stay when that fails."""
        try:
            fresh = tls.client_context(self.settings)
            tls.server_context(self.settings)
        except ConfigError as error:
            log.error(str(error))
            text = "TLS configuration could not be reloaded, keeping old configuration"
            log.error(text)
            return False
        self.client_tls = fresh
        self.commands.renew_tls()
        return True

    def set(self, key: str, value: str) -> list[str]:
        """The console's SET; returns notices."""
        settings = self.settings.with_value(key, value)
        needed.require(settings, self.hba)
        self.settings = self.config.settings = settings
        self.settings_changed()
        if "_tls_" in key or "_tls13_" in key:
            try:
                fresh = tls.client_context(self.settings)
                tls.server_context(self.settings)
            except ConfigError as error:
                log.error(str(error))
                return [
                    "TLS settings could not be applied, still using old configuration"
                ]
            self.client_tls = fresh
            self.commands.renew_tls()
        return []

    # Clients

    def begin_login(self, client: Any, first_byte: int) -> None:
        """The first bytes of *client* are there."""
        client.first_byte_is_tls = (
            first_byte == TLS_FIRST_BYTE
            and self.client_tls is not None
            and not client.is_unix
        )
        client.begin_talk(client_login(client, self))

    def begin_proof(self, client: Any, known: Any, begun: Any) -> None:
        """One like *client* got in before; see `known_login` for *begun*."""
        client.begin_talk(known_login(client, self, known, begun))

    def begin_welcome(self, client: Any, login: Any) -> None:
        """*client* has proved who it is, but things have changed meanwhile."""
        client.begin_talk(come_in(client, self, login))

    def proxy_header(self, client: Any, data: bytes) -> int:
        """The first bytes of *client* may be a PROXY protocol header.

        Returns its length, 0 while more of it must come (or the client was closed),
        -1 when it is none.
        """
        proxy = self.proxy
        if proxy is None or not proxy.looks_like_header(data):
            return -1
        if client.peer_address not in self.proxy_networks:
            log.warning(
                f"{client.prefix} PROXY protocol header from {client.peer_address}, "
                "which is not in proxy_protocol_networks"
            )
            client.disconnect("PROXY protocol header not allowed from this address")
            return 0
        try:
            header = proxy.parse(data)
        except proxy.BadHeader as problem:
            log.warning(f"{client.prefix} bad PROXY protocol header: {problem}")
            client.disconnect("bad PROXY protocol header", False)
            return 0
        if header is None:
            return 0
        if not header.local:
            introduce(client, header)
        length: int = header.length
        return length

    def login_over(self, client: Any, outcome: Any) -> None:
        """A talk of *client* has ended: a login, or a console session."""
        if client.closed:
            return
        if outcome is not None and isinstance(outcome, CancelAsked):
            self.logging_in.pop(client, None)
            self.cancels.request(client, outcome.key)
            return
        if client.on_console:
            return
        self.door.take_in(client)
        if outcome is not None:
            client.on_console = True
            client.begin_talk(outcome)

    def make_keys(self) -> list[bytes]:
        """Cancel keys for the next clients."""
        random, peer_id = os.urandom(8 * RANDOM_KEYS), self.settings.peer_id
        return [
            new_key(random[at : at + 8], peer_id) for at in range(0, len(random), 8)
        ]

    def client_gone(self, client: Any) -> None:
        """A client is closed that the door cannot see out alone."""
        self.cancels.client_gone(client)
        if client.pool is not None and client.replication:
            self.poller.put_off(lambda: self.drop_replication(client))
        if self.shutdown_mode is not None:
            self.poller.put_off(self.shutdown_progress)

    def drop_replication(self, client: Any) -> None:
        """Its server connection may still be logging in for it."""
        for server in client.pool.login:
            if server.client is client:
                server.disconnect("replication client disconnected", True, False)

    def tls_info(self, tls_object: Any) -> str:
        return tls.describe(tls_object)

    def auth_query(self, client: Any, database: DatabaseState, user: str) -> Any:
        return self.lookups.begin(client, database, user)

    # Servers

    def connect(self, server: Any) -> None:
        server.peer = server.pool.peer
        self.connector.connect(server)

    def server_connected(self, server: Any, error: int) -> None:
        self.connector.connected(server, error)

    def tune_server(self, fd: int) -> None:
        tune_server(fd, self.settings)

    def startup_params(self, server: Any) -> list[tuple[str, str]]:
        return self.connector.startup_params(server)

    def server_talk_over(self, server: Any, outcome: Any) -> None:
        if server in self.lookups.running:
            self.lookups.answered(server, outcome)
        elif server in self.probes.running:
            self.probes.answered(server, outcome)
        else:
            self.connector.logged_in(server, outcome)

    def server_talk_failed(self, server: Any, problem: Exception) -> None:
        if server in self.lookups.running:
            self.lookups.failed(
                server,
                problem
                if isinstance(problem, Disconnect)
                else Disconnect(str(problem), notify=True),
            )
        elif server in self.probes.running:
            server.disconnect(str(problem), True, False)
        else:
            self.connector.login_failed(server, problem)

    def server_gone(self, server: Any, reason: str) -> None:
        if server.state_name == "active_cancel":
            self.cancels.connection_gone(server)
        if self.lookups.running:
            self.lookups.server_gone(server)
        if self.probes.running:
            self.probes.gone(server)
        self.keeper.gone(server, reason)
        if self.shutdown_mode is not None:
            self.poller.put_off(self.shutdown_progress)

    async def probe(self, database: str, sql: str) -> list[Any]:
        """Rows of a query on the pooler's own account; see `Probes.ask`."""
        return await self.probes.ask(database, sql)

    def addresses_changed(self, name: str, lost: frozenset[str]) -> None:
        """DNS no longer knows some addresses: their connections are flagged."""
        for pool in self.registry.all_pools():
            self.keeper.follow_name(pool, name, lost)

    # Modes: what the console and the signals ask for (commands.py)

    def pause(self, database: DatabaseState | None = None, owed: Any = None) -> bool:
        return self.commands.pause(database, owed)

    def resume(self, database: DatabaseState | None = None) -> None:
        self.commands.resume(database)

    def suspend(self, owed: Any = None) -> bool:
        return self.commands.suspend(owed)

    def disable(self, database: DatabaseState) -> None:
        database.disabled = True
        self.door.forget()

    def enable(self, database: DatabaseState) -> None:
        database.disabled = False
        self.door.forget()

    def reconnect(self, database: DatabaseState | None = None) -> None:
        self.commands.reconnect(database)

    def kill(self, database: DatabaseState | None = None) -> None:
        self.commands.kill(database)

    def kill_client(self, number: int) -> None:
        self.commands.kill_client(number)

    def wait_close(self, database: DatabaseState | None, owed: Any) -> bool:
        return self.commands.wait_close(database, owed)

    def shutdown(self, mode: str) -> None:
        self.commands.shutdown(mode)

    def drop_database(self, database: DatabaseState) -> None:
        self.registry.remove_database(database)
        self.commands.drop(database)

    def drain_progress(self) -> None:
        if self.commands.owed or self.global_mode != "none":
            self.poller.put_off(self.commands.progress)

    def shutdown_progress(self) -> None:
        self.commands.shutdown_progress()

    def console_command(self, client: Any) -> None:
        """A console's first command counts as a query that never ends."""
        if not client.query_start:
            client.query_start = client.transaction_start = self.poller.now
            client.pool.count_console_command()


# What readers may ask the app for; `Rows` makes it.
READERS = (
    "client_rows", "server_rows", "socket_rows", "pool_rows", "database_rows",
    "user_rows", "peer_rows", "peer_pool_rows", "lists", "stats", "stats_total",
    "failure_rows", "health_rows", "fds", "mem", "dns_hosts", "dns_zones",
)  # fmt: skip
