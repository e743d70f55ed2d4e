"""Make the rows that readers see (design D12); nothing else walks live lists.

Rows of connections are lazy: who reads 10 000 of them may let queries pass in
between. A connection that was closed meanwhile is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bouncer.pool.evidence import of_pools
from bouncer.pool.limits import CONSOLE_POOL_SIZE
from bouncer.pool.registry import CONSOLE, bytes_of, in_order
from bouncer.relay.statements import known_statements
from bouncer.snapshot import (
    FD_COLUMNS,
    FD_PARAMETERS,
    DatabaseRow,
    DnsHostRow,
    DnsZoneRow,
    FailureRow,
    FdRow,
    HealthRow,
    MemRow,
    PeerPoolRow,
    PeerRow,
    PoolRow,
    SocketRow,
    StatsRow,
    UserRow,
)
from bouncer.stats import SERVER_BYTES, TRANSACTIONS
from bouncer.succession import is_carried

REPLICATION = ("none", "logical", "physical")


class Rows:
    """Snapshots of one app."""

    def __init__(self, app: Any) -> None:
        self.app = app

    # Connections

    def client_rows(self) -> Iterator[SocketRow]:
        app = self.app
        clients = []
        for pool in app.registry.sorted_pools():
            clients += [*pool.clients, *pool.waiting]
            clients += [*pool.cancel_active, *pool.cancel_waiting]
        for pool in self.peer_pools():
            clients += [*pool.cancel_active, *pool.cancel_waiting]
        offset = app.poller.wall_clock() - app.poller.clock()
        for client in clients:
            if not client.closed:
                yield self.client_row(client, client.state_name, offset)

    def server_rows(self) -> Iterator[SocketRow]:
        app = self.app
        servers = []
        for pool in app.registry.sorted_pools():
            servers += pool.servers()
        for pool in self.peer_pools():
            servers += [*pool.login, *pool.active_cancel]
        offset = app.poller.wall_clock() - app.poller.clock()
        for server in servers:
            if not server.closed:
                yield self.server_row(server, server.state_name, offset)

    def socket_rows(self) -> Iterator[SocketRow]:
        app = self.app
        found: list[tuple[bool, Any, str]] = []
        for pool in app.registry.sorted_pools():
            found += [(True, one, "cl_active") for one in pool.clients]
            found += [(True, one, "cl_waiting") for one in pool.waiting]
            for servers, name in (
                (pool.active, "sv_active"),
                (pool.idle, "sv_idle"),
                (pool.used, "sv_used"),
                (pool.tested, "sv_tested"),
                (pool.login, "sv_login"),
            ):
                found += [(False, one, name) for one in servers]
        found += [(True, one, "cl_login") for one in app.logging_in if one.state == 0]
        offset = app.poller.wall_clock() - app.poller.clock()
        for is_client, stream, state in found:
            if stream.closed:
                continue
            row = self.client_row if is_client else self.server_row
            yield row(stream, state, offset)

    def client_row(self, client: Any, state: str, offset: int) -> SocketRow:
        pool, server = client.pool, client.server
        if state == "active_cancel_req":
            carriers = (one for one in pool.active_cancel if one.cancel_for is client)
            server = next(carriers, None)
        started = client.query_start
        if not started and state == "waiting":
            started = client.wait_start
        wait = max(self.app.poller.clock() - started, 0) if started else 0
        unix = client.is_unix
        local = client.local_name()
        port = self.app.settings.listen_port
        tracked = client.tracked
        return SocketRow(
            "C",
            client.user or "(nouser)",
            "(nodb)" if pool is None or pool.peer else pool.database_name,
            REPLICATION[client.replication],
            state,
            client.peer_address,
            port if unix else client.peer_port,
            local[0],
            port if unix else local[1],
            client.connected_at + offset,
            client.received_at + offset,
            wait,
            0,
            int(client.pointer, 16),
            0 if server is None else int(server.pointer, 16),
            client.peer_pid,
            client.tls_info,
            tracked.application_name if tracked else client.given_application_name,
            client.prepared_count,
            client.id,
            pkt_avail=client.held_bytes,
        )

    def server_row(self, server: Any, state: str, offset: int) -> SocketRow:
        pool, client = server.pool, server.client or server.cancel_for
        unix = server.is_unix
        local = server.local_name() if server.fd >= 0 else ("unix", 0)
        peer = pool.peer is not None
        return SocketRow(
            "S",
            "(nouser)" if peer else pool.user_name,
            "(nodb)" if peer else pool.database_name,
            REPLICATION[server.replication],
            state,
            server.peer_address,
            server.peer_port,
            local[0],
            self.app.settings.listen_port if unix else local[1],
            server.connected_at + offset,
            server.received_at + offset,
            0,
            int(server.close_needed),
            int(server.pointer, 16),
            0 if client is None else int(client.pointer, 16),
            server.backend_pid,
            server.tls_info,
            server.tracked.application_name if server.tracked else "",
            server.prepared_count,
            server.id,
        )

    def peer_pools(self) -> list[Any]:
        peers = self.app.registry.peers
        return [peers[n].pool for n in sorted(peers) if peers[n].pool is not None]

    # Pools, databases, users, peers

    def pool_rows(self) -> Iterator[PoolRow]:
        return (self.pool_row(pool) for pool in self.app.registry.sorted_pools())

    def pool_row(self, pool: Any) -> PoolRow:
        first = pool.waiting.first
        longest = 0
        if first is not None:
            # Who logs in waits, too: for the first server, or for auth_query.
            began = first.query_start or first.wait_start
            longest = max(self.app.poller.clock() - began, 0)
        return PoolRow(
            pool.database_name,
            pool.user_name,
            len(pool.clients),
            len(pool.waiting),
            len(pool.cancel_active),
            len(pool.cancel_waiting),
            len(pool.active),
            len(pool.active_cancel),
            len(pool.being_canceled),
            len(pool.idle),
            len(pool.used),
            len(pool.tested),
            len(pool.login),
            longest,
            self.app.limits.pool_mode(pool),
            balance(pool.database.config),
        )

    def database_rows(self) -> Iterator[DatabaseRow]:
        # An automatic database leaves the list when the janitor finds it idle.
        awake = in_order(self.app.registry.awake.values())
        return (self.database_row(database) for database in awake)

    def database_row(self, database: Any) -> DatabaseRow:
        limits, settings = self.app.limits, self.app.settings
        config = database.config
        console = database.name == CONSOLE
        return DatabaseRow(
            database.name,
            config.host,
            settings.listen_port if console else config.port,
            config.dbname,
            config.user,
            CONSOLE_POOL_SIZE if console else limits.database_pool_size(database),
            limits.database_min_pool_size(database),
            limits.database_reserve_pool_size(database),
            limits.server_lifetime(database),
            config.pool_mode,
            balance(config),
            config.max_db_connections or settings.max_db_connections,
            database.server_count,
            limits.max_db_clients(database),
            database.client_count,
            int(database.paused),
            int(database.disabled),
        )

    def user_rows(self) -> list[UserRow]:
        limits = self.app.limits
        rows = []
        users = self.app.registry.users
        for name in sorted(users, key=bytes_of):
            user = users[name]
            options = user.options
            rows.append(
                UserRow(
                    name,
                    options.pool_size if options else None,
                    options.reserve_pool_size if options else None,
                    options.pool_mode if options else None,
                    limits.max_user_connections(user),
                    user.server_count,
                    limits.max_user_clients(user),
                    user.client_count,
                )
            )
        return rows

    def peer_rows(self) -> list[PeerRow]:
        default = self.app.settings.default_pool_size
        peers = self.app.registry.peers
        return [
            PeerRow(
                number,
                peers[number].config.host,
                peers[number].config.port,
                default
                if peers[number].config.pool_size is None
                else peers[number].config.pool_size,
            )
            for number in sorted(peers)
        ]

    def peer_pool_rows(self) -> list[PeerPoolRow]:
        return [
            PeerPoolRow(
                pool.peer.id,
                len(pool.cancel_active),
                len(pool.cancel_waiting),
                len(pool.active_cancel),
                len(pool.login),
            )
            for pool in self.peer_pools()
        ]

    # Health

    def health_rows(self, named: Sequence[str]) -> Iterator[HealthRow]:
        """Configured databases, and those made from `*` that are among *named*."""
        for database in in_order(self.app.registry.awake.values()):
            if database.name == CONSOLE:
                continue
            if not database.auto or database.name in named:
                yield self.health_row(database)

    def health_row(self, database: Any) -> HealthRow:
        pools = list(database.pools.values())
        now = self.app.poller.clock()
        size = max(self.app.limits.database_pool_size(database), 1) if pools else 1
        waits = [
            now - (pool.waiting.first.query_start or pool.waiting.first.wait_start)
            for pool in pools
            if pool.waiting.first is not None
        ]
        finished = sum(pool.transactions + pool.server_bytes for pool in pools)
        if database.past:
            finished += database.past[TRANSACTIONS] + database.past[SERVER_BYTES]
        return HealthRow(
            database.name,
            bool(database.paused),
            bool(database.disabled),
            finished,
            *of_pools(pools, now),
            size * len(pools),
            max((len(pool.active) / size for pool in pools), default=0.0),
            sum(len(pool.waiting) for pool in pools),
            max(0, *waits, 0) / 1_000_000,
            sum(pool.live_count for pool in pools),
            self.newest_failure(pools),
        )

    def newest_failure(self, pools: list[Any]) -> dict[str, Any] | None:
        """What /status tells of the newest attempt that came to nothing."""
        failed = [pool for pool in pools if pool.evidence.last_failure is not None]
        if not failed:
            return None
        newest = max(failed, key=lambda pool: pool.evidence.last_failure.at)
        row = self.failure_row(newest)._asdict()
        del row["database"]
        return row

    def failure_rows(self) -> Iterator[FailureRow]:
        """Of each pool the newest attempt that came to nothing."""
        return (
            self.failure_row(pool)
            for pool in self.app.registry.sorted_pools()
            if pool.evidence.last_failure is not None
        )

    def failure_row(self, pool: Any) -> FailureRow:
        failure = pool.evidence.last_failure
        age = max(self.app.poller.clock() - failure.at, 0)
        return FailureRow(
            pool.database_name,
            pool.user_name,
            failure.host,
            failure.address or None,
            failure.reason,
            failure.error,
            failure.code or None,
            failure.duration / 1000,
            round(age / 1_000_000, 3),
        )

    # Counts

    def stats(self) -> Iterator[StatsRow]:
        now = self.app.poller.clock()
        return (
            self.app.stats_clock.row(
                database.name, database.pools.values(), now, [database.past]
            )
            for database in in_order(self.app.registry.populated.values())
            if database.pools or database.past
        )

    def stats_total(self) -> StatsRow:
        pools = list(self.app.registry.all_pools())
        past = [one.past for one in self.app.registry.populated.values()]
        now = self.app.poller.clock()
        row: StatsRow = self.app.stats_clock.row("", pools, now, past)
        return row

    def lists(self) -> list[tuple[str, int]]:
        app = self.app
        registry = app.registry
        pools = list(registry.all_pools())
        servers = sum(pool.server_count for pool in pools)
        servers += sum(pool.server_count for pool in self.peer_pools())
        return [
            ("databases", len(registry.databases)),
            ("users", len(registry.users)),
            ("peers", len(registry.peers)),
            ("pools", len(pools)),
            ("peer_pools", len(self.peer_pools())),
            ("free_clients", 0),
            ("used_clients", app.limits.socket_count),
            ("login_clients", sum(one.state == 0 for one in app.logging_in)),
            ("free_servers", 0),
            ("used_servers", servers),
            ("dns_names", len(app.hosts.host_rows())),
            ("dns_zones", len(app.hosts.zone_rows())),
            ("dns_queries", app.hosts.pending),
            ("dns_pending", 0),
        ]

    def mem(self) -> list[MemRow]:
        """Objects in use; sizes are those of our own structures."""
        registry = self.app.registry
        pools = list(registry.all_pools())
        servers = sum(pool.server_count for pool in pools)
        counts = (
            ("user_cache", 400, len(registry.users)),
            ("credentials_cache", 200, len(registry.users) + len(registry.learnt)),
            ("db_cache", 400, len(registry.databases)),
            ("peer_cache", 200, len(registry.peers)),
            ("peer_pool_cache", 1000, len(self.peer_pools())),
            ("pool_cache", 1000, len(pools)),
            ("outstanding_request_cache", 16, 0),
            ("server_cache", 700, servers),
            ("client_cache", 600, self.app.limits.socket_count),
            ("iobuf_cache", 65536, 2),
            ("var_list_cache", 100, 0),
            ("server_prepared_statement_cache", 300, known_statements()),
        )
        return [MemRow(name, size, used, 0) for name, size, used in counts]

    def dns_hosts(self) -> list[DnsHostRow]:
        rows: list[DnsHostRow] = self.app.hosts.host_rows()
        return rows

    def dns_zones(self) -> list[DnsZoneRow]:
        rows: list[DnsZoneRow] = self.app.hosts.zone_rows()
        return rows

    # Online restart

    def fds(self, to_ours: bool = True) -> Iterable[FdRow]:
        """What SHOW FDS hands over; TLS connections cannot be carried."""
        app = self.app
        absent = {column.name: column.absent for column in FD_COLUMNS}
        rows = [
            FdRow(
                **absent
                | {"fd": one.fd, "task": "pooler", "addr": one.host, "port": one.port}
            )
            for one in app.listeners
        ]
        for client in app.logging_in:
            if client.state == 0 and client.tls_object is None:
                rows.append(self.fd_row(client, "client", None, None))
        for pool in app.registry.sorted_pools():
            if pool.database.name == CONSOLE:
                continue
            for client in (*pool.clients, *pool.waiting):
                if is_carried(client, to_ours):
                    rows.append(self.client_fd(client))
            for server in (
                *pool.active, *pool.idle, *pool.used, *pool.tested, *pool.login,
            ):  # fmt: skip
                if is_carried(server, to_ours):
                    rows.append(
                        self.fd_row(
                            server, "server", pool.user_name, pool.database_name
                        )
                    )
        return rows

    def client_fd(self, client: Any) -> FdRow:
        return self.fd_row(client, "client", client.user, client.pool.database_name)

    def fd_row(
        self, stream: Any, task: str, user: str | None, database: str | None
    ) -> FdRow:
        client = task == "client"
        partner = stream.server if client else stream.client
        state = stream.user_state if client else stream.pool.user
        values = stream.tracked.as_dict() if stream.tracked else {}
        # Of the pool's secret in both rows: a real PgBouncer takes them for that, and
        # refuses the restart if they are a forced user's.
        keys = None
        if user is not None and not stream.pool.database.config.user:
            keys = stream.pool.user.scram_keys
        port = stream.peer_port
        if client and stream.is_unix:
            port = self.app.settings.listen_port
        return FdRow(
            fd=stream.fd,
            task=task,
            user=user,
            database=database,
            addr=stream.peer_address,
            port=port,
            cancel=int.from_bytes(stream.cancel_key or b"", "big"),
            link=0 if partner is None else partner.fd,
            password=state.secret if state is not None and state.dynamic else None,
            scram_client_key=keys[0] if keys else None,
            scram_server_key=keys[1] if keys else None,
            **{column: values.get(name) for column, name in FD_PARAMETERS.items()},
        )


def balance(config: Any) -> str | None:
    """load_balance_hosts, shown only where there are several hosts."""
    return config.load_balance_hosts if config.host and "," in config.host else None
