"""What a configuration says, once it has been read.

The one hard idea: `Settings` is frozen. Whoever changes a setting (RELOAD, SET)
makes a new object, and whoever holds one sees values that belong together.

Durations are seconds. A name that a file leaves out is None in `Database` and
`UserOptions`: what then counts is asked of `bouncer.pool.limits`, nowhere else.
"""

from collections.abc import Container
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeAlias

from bouncer.config.masking import without_secrets
from bouncer.config.own import OwnSettings
from bouncer.config.params import MAIN, PARAMS, ROWS, Param
from bouncer.config.values import BadValue
from bouncer.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One attribute per setting; the defaults stand in `PARAMS`, nowhere else."""

    admin_users: str
    application_name_add_host: int
    auth_dbname: str | None
    auth_file: str | None
    auth_hba_file: str
    auth_ident_file: str | None
    auth_ldap_options: str | None
    auth_query: str
    auth_type: str
    auth_user: str | None
    autodb_idle_timeout: float
    cancel_wait_timeout: float
    client_idle_timeout: float
    client_login_timeout: float
    client_tls13_ciphers: str | None
    client_tls_ca_file: str
    client_tls_cert_file: str
    client_tls_ciphers: str
    client_tls_dheparams: str
    client_tls_ecdhcurve: str
    client_tls_key_file: str
    client_tls_protocols: str
    client_tls_sslmode: str
    conffile: str | None
    default_pool_size: int
    disable_pqexec: int
    dns_max_ttl: float
    dns_nxdomain_ttl: float
    dns_zone_check_period: float
    idle_transaction_timeout: float
    ignore_startup_parameters: str
    job_name: str
    listen_addr: str
    listen_backlog: int
    listen_port: int
    log_connections: int
    log_disconnections: int
    log_pooler_errors: int
    log_stats: int
    logfile: str
    login_notify_message: str
    max_client_conn: int
    max_db_client_connections: int
    max_db_connections: int
    max_packet_size: int
    max_prepared_statements: int
    max_user_client_connections: int
    max_user_connections: int
    min_pool_size: int
    peer_id: int
    pidfile: str
    pkt_buf: int
    pool_idle_timeout: float
    pool_mode: str
    query_timeout: float
    query_wait_notify: int
    query_wait_timeout: float
    reserve_pool_size: int
    reserve_pool_timeout: float
    resolv_conf: str
    sbuf_loopcnt: int
    scram_iterations: int
    server_check_delay: float
    server_check_query: str
    server_connect_timeout: float
    server_fast_close: int
    server_idle_timeout: float
    server_lifetime: float
    server_login_retry: float
    server_reset_query: str
    server_reset_query_always: int
    server_round_robin: int
    server_tls13_ciphers: str | None
    server_tls_ca_file: str
    server_tls_cert_file: str
    server_tls_ciphers: str
    server_tls_key_file: str
    server_tls_protocols: str
    server_tls_sslmode: str
    so_reuseport: int
    stats_period: int
    stats_users: str
    suspend_timeout: float
    syslog: int
    syslog_facility: str
    syslog_ident: str
    tcp_defer_accept: int
    tcp_keepalive: int
    tcp_keepcnt: int
    tcp_keepidle: int
    tcp_keepintvl: int
    tcp_socket_buffer: int
    tcp_user_timeout: int
    track_extra_parameters: str
    transaction_timeout: float
    unix_socket_dir: str
    unix_socket_group: str
    unix_socket_mode: int
    user: str | None
    verbose: int

    # Section [pybouncer]
    agent_listen: str
    fair_wait: float
    haproxy_sockets: str
    health_check_user: str
    health_databases: str
    health_down_after: float
    health_listen: str
    health_user: str
    health_wrong_role: str
    log_details: int
    log_format: str
    parallel_logins: int
    proxy_protocol_networks: str
    proxy_protocol_send: int
    show_columns: str
    workers: int

    @classmethod
    def defaults(cls) -> Self:
        """Return the settings of an empty `[pgbouncer]` section."""
        return cls.of({param.name: param.initial() for param in ROWS})

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """Return settings with *values*, which must name every setting."""
        return cls(**values)

    def values(self) -> dict[str, Any]:
        """Return every setting's value by name, for a loader to change."""
        return {param.name: getattr(self, param.name) for param in ROWS}

    def with_value(self, key: str, text: str) -> Self:
        """Return settings as the console's `SET key = 'text'` leaves them.

        Raises `ConfigError`; its text is the line to log, empty where PgBouncer logs
        nothing but `SET failed`. A setting that only a restart can change is left as
        it is, without a look at *text*, as in PgBouncer.
        """
        param = PARAMS.get(key)
        if param is None or param.section != MAIN:
            raise ConfigError(f"unknown parameter: {MAIN}/{key}")
        if not param.reload:
            return self
        try:
            value: Any = param.parse(text)
        except BadValue as error:
            raise ConfigError(str(error)) from error
        return replace(self, **{key: value})

    def show(self, name: str) -> str | None:
        """Return the setting *name* as SHOW CONFIG writes it; None is NULL."""
        return PARAMS[name].show(getattr(self, name))


ConfigRow: TypeAlias = tuple[str, str | None, str | None, str]


def has_row(param: Param, sources: Container[str]) -> bool:
    """Whether SHOW CONFIG has a row for *param*.

    What PgBouncer has no longer shows only where the file sets it: with every file that
    PgBouncer can load the output is exactly its own.
    """
    if param.section != MAIN:
        return False
    return not param.dropped or param.name in sources


def config_rows(settings: Settings, sources: Container[str] = ()) -> list[ConfigRow]:
    """Return the rows of SHOW CONFIG: key, value, default, changeable.

    *sources* has the names of the settings that a file sets.
    """
    return [
        (
            param.name,
            shown(param, getattr(settings, param.name)),
            param.default,
            "yes" if param.reload else "no",
        )
        for param in ROWS
        if has_row(param, sources)
    ]


def shown(param: Param, value: Any) -> str | None:
    """Return *value* as everybody may see it who may ask for SHOW CONFIG."""
    text = param.show(value)
    if param.name != "auth_ldap_options" or text is None:
        return text
    return without_secrets(text, bare=True)


@dataclass(slots=True)
class Database:
    """One line of `[databases]`; *dbname* is the name itself if the line has none.

    *user* is the forced user. *source* is `file:line`.
    """

    name: str
    dbname: str
    host: str | None = None
    port: int = 5432
    user: str | None = None
    password: str | None = None
    auth_user: str | None = None
    auth_dbname: str | None = None
    auth_query: str | None = None
    connect_query: str | None = None
    pool_size: int | None = None
    min_pool_size: int | None = None
    reserve_pool_size: int | None = None
    max_db_connections: int | None = None
    max_db_client_connections: int | None = None
    server_lifetime: float | None = None
    pool_mode: str | None = None
    load_balance_hosts: str = "round-robin"
    client_encoding: str | None = None
    datestyle: str | None = None
    timezone: str | None = None
    application_name: str | None = None
    query_wait_timeout: float | None = None
    source: str = ""


@dataclass(slots=True)
class UserOptions:
    """One line of `[users]`."""

    name: str
    pool_size: int | None = None
    reserve_pool_size: int | None = None
    pool_mode: str | None = None
    max_user_connections: int | None = None
    max_user_client_connections: int | None = None
    query_timeout: float | None = None
    idle_transaction_timeout: float | None = None
    transaction_timeout: float | None = None
    client_idle_timeout: float | None = None
    query_wait_timeout: float | None = None
    source: str = ""


@dataclass(slots=True)
class Peer:
    """One line of `[peers]`; *pool_size* None means default_pool_size."""

    id: int
    host: str
    port: int = 6432
    pool_size: int | None = None
    source: str = ""


@dataclass(slots=True)
class AutoDatabase:
    """The `*` entry, kept unparsed: its errors show only when it is used."""

    text: str
    source: str = ""


@dataclass(slots=True)
class Configuration:
    """Everything that the ini files say.

    *autodb* becomes a database through `bouncer.config.load.make_autodb`. *sources*
    tells where each setting that a file sets was last set, as `file:line`; *own* has
    ours for single databases and users.
    """

    settings: Settings
    databases: dict[str, Database] = field(default_factory=dict)
    autodb: AutoDatabase | None = None
    users: dict[str, UserOptions] = field(default_factory=dict)
    peers: dict[int, Peer] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    own: OwnSettings = field(default_factory=OwnSettings)
