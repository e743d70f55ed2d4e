"""The one table of settings: name, type, default, whether a reload changes it.

The one hard idea: everything that must agree about settings (parsing, the reset by
a `[pgbouncer]` header, SET, RELOAD, SHOW CONFIG, `--check`, docs/config.md) reads
`PARAMS`, and the order of the table is the order of SHOW CONFIG.

A default is kept as SHOW CONFIG writes it. None means that there is none: such a
setting is NULL (0 for `verbose`) until something sets it, and neither a header nor
its removal from the file takes it back.
"""

from dataclasses import dataclass
from enum import Enum, Flag
from typing import Final, TypeAlias

from bouncer.config.values import (
    BadValue,
    parse_int,
    parse_span,
    parse_time,
    parse_uint,
    show_time,
)

Value: TypeAlias = int | float | str | None


class Kind(Enum):
    """What a setting's text may be."""

    INT = "int"
    UINT = "uint"
    TIME = "time"
    ENUM = "enum"
    STRING = "string"


class Where(Flag):
    """Where else, besides `[pgbouncer]`, the same thing may be set."""

    NOWHERE = 0
    DATABASE = 1
    USER = 2


MAIN: Final = "pgbouncer"
OURS: Final = "pybouncer"


@dataclass(frozen=True, slots=True)
class Param:
    """One setting of `[pgbouncer]`, or of our own section `[pybouncer]`.

    *also* says who can override it, under *override* if that has another name: a line
    of `[databases]` or `[users]`, for ours of `[pybouncer.databases]` or
    `[pybouncer.users]`.
    *dropped* marks what PgBouncer has no longer: SHOW CONFIG has it only where the file
    sets it.
    """

    name: str
    kind: Kind
    default: str | None
    reload: bool = True
    choices: tuple[str, ...] = ()
    also: Where = Where.NOWHERE
    override: str = ""
    minimum: int | None = None
    forbidden: str | None = None
    dropped: bool = False
    # Accepted, but nothing does what it says yet: the log tells whoever sets it.
    reserved: bool = False
    section: str = MAIN

    def parse(self, text: str) -> Value:
        """Return the value that *text* means, or raise `BadValue`."""
        if self.kind is Kind.STRING:
            return self.parse_string(text)
        if self.kind is Kind.ENUM:
            word = text.lower()
            if word not in self.choices:
                raise BadValue
            return word
        if self.kind is Kind.TIME:
            return parse_time(text) if self.section == MAIN else parse_span(text)
        number = parse_uint(text) if self.kind is Kind.UINT else parse_int(text)
        if self.minimum is not None and number < self.minimum:
            raise BadValue
        return number

    def parse_string(self, text: str) -> str:
        """Any text will do, but for the one that is *forbidden*."""
        if text == self.forbidden:
            raise BadValue(
                f'cannot use the reserved "{text}" database as an {self.name}'
            )
        return text

    def initial(self) -> Value:
        """Return the value that the setting has before anything sets it."""
        if self.default is None:
            return 0 if self.kind is Kind.INT else None
        return self.parse(self.default)

    def show(self, value: Value) -> str | None:
        """Return *value* as SHOW CONFIG writes it; None is NULL."""
        if value is None:
            return None
        if self.kind is Kind.TIME:
            return show_time(float(value))
        return str(value)


INT, UINT, TIME = Kind.INT, Kind.UINT, Kind.TIME
ENUM, STRING = Kind.ENUM, Kind.STRING
NOWHERE, DATABASE, USER = Where.NOWHERE, Where.DATABASE, Where.USER

AUTH_TYPES: Final = (
    "any",
    "trust",
    "plain",
    "md5",
    "cert",
    "hba",
    "ldap",
    "pam",
    "scram-sha-256",
)
SSLMODES: Final = (
    "disable",
    "allow",
    "prefer",
    "require",
    "verify-ca",
    "verify-full",
)
POOL_MODES: Final = ("session", "transaction", "statement")
LOAD_BALANCE_HOSTS: Final = ("round-robin", "disable")

AUTH_QUERY: Final = (
    "SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END "
    "FROM pg_authid WHERE rolname=$1 AND rolcanlogin"
)

ROWS: Final = (
    Param("admin_users", STRING, ""),
    Param("application_name_add_host", INT, "0"),
    Param("auth_dbname", STRING, None, also=DATABASE, forbidden="pgbouncer"),
    Param("auth_file", STRING, None),
    Param("auth_hba_file", STRING, ""),
    Param("auth_ident_file", STRING, None),
    Param("auth_ldap_options", STRING, None),
    Param("auth_query", STRING, AUTH_QUERY, also=DATABASE),
    Param("auth_type", ENUM, "md5", choices=AUTH_TYPES),
    Param("auth_user", STRING, None, also=DATABASE),
    Param("autodb_idle_timeout", TIME, "3600"),
    Param("cancel_wait_timeout", TIME, "10"),
    Param("client_idle_timeout", TIME, "0", also=USER),
    Param("client_login_timeout", TIME, "60"),
    Param("client_tls13_ciphers", STRING, None),
    Param("client_tls_ca_file", STRING, ""),
    Param("client_tls_cert_file", STRING, ""),
    Param("client_tls_ciphers", STRING, "default"),
    Param("client_tls_dheparams", STRING, "auto"),
    Param("client_tls_ecdhcurve", STRING, "auto"),
    Param("client_tls_key_file", STRING, ""),
    Param("client_tls_protocols", STRING, "secure"),
    Param("client_tls_sslmode", ENUM, "disable", choices=SSLMODES),
    Param("conffile", STRING, None),
    Param(
        "default_pool_size",
        INT,
        "20",
        also=DATABASE | USER,
        override="pool_size",
    ),
    Param("disable_pqexec", INT, "0", reload=False),
    Param("dns_max_ttl", TIME, "15"),
    Param("dns_nxdomain_ttl", TIME, "15"),
    Param("dns_zone_check_period", TIME, "0"),
    Param("idle_transaction_timeout", TIME, "0", also=USER),
    Param("ignore_startup_parameters", STRING, ""),
    Param("job_name", STRING, "pgbouncer", reload=False),
    Param("listen_addr", STRING, "", reload=False),
    Param("listen_backlog", INT, "128", reload=False),
    Param("listen_port", INT, "6432", reload=False),
    Param("log_connections", INT, "1"),
    Param("log_disconnections", INT, "1"),
    Param("log_pooler_errors", INT, "1"),
    Param("log_stats", INT, "1"),
    Param("logfile", STRING, ""),
    Param("login_notify_message", STRING, ""),
    Param("max_client_conn", INT, "100"),
    Param("max_db_client_connections", INT, "0", also=DATABASE),
    Param("max_db_connections", INT, "0", also=DATABASE),
    Param("max_packet_size", UINT, "2147483647"),
    Param("max_prepared_statements", INT, "200"),
    Param("max_user_client_connections", INT, "0", also=USER),
    Param("max_user_connections", INT, "0", also=USER),
    Param("min_pool_size", INT, "0", also=DATABASE),
    Param("peer_id", INT, "0"),
    Param("pidfile", STRING, "", reload=False),
    Param("pkt_buf", INT, "4096", reload=False),
    Param("pool_idle_timeout", TIME, "0"),
    Param("pool_mode", ENUM, "session", choices=POOL_MODES, also=DATABASE | USER),
    Param("query_timeout", TIME, "0", also=USER),
    Param("query_wait_notify", INT, "5"),
    Param("query_wait_timeout", TIME, "120", also=DATABASE | USER),
    Param("reserve_pool_size", INT, "0", also=DATABASE | USER),
    Param("reserve_pool_timeout", TIME, "5"),
    Param("resolv_conf", STRING, "", reload=False),
    Param("sbuf_loopcnt", INT, "5"),
    Param("scram_iterations", INT, "4096"),
    Param("server_check_delay", TIME, "30"),
    Param("server_check_query", STRING, "<empty>"),
    Param("server_connect_timeout", TIME, "15"),
    Param("server_fast_close", INT, "0"),
    Param("server_idle_timeout", TIME, "600"),
    Param("server_lifetime", TIME, "3600", also=DATABASE),
    Param("server_login_retry", TIME, "15"),
    Param("server_reset_query", STRING, "DISCARD ALL"),
    Param("server_reset_query_always", INT, "0"),
    Param("server_round_robin", INT, "0"),
    Param("server_tls13_ciphers", STRING, None),
    Param("server_tls_ca_file", STRING, ""),
    Param("server_tls_cert_file", STRING, ""),
    Param("server_tls_ciphers", STRING, "default"),
    Param("server_tls_key_file", STRING, ""),
    Param("server_tls_protocols", STRING, "secure"),
    Param("server_tls_sslmode", ENUM, "prefer", choices=SSLMODES),
    Param("so_reuseport", INT, "0", reload=False),
    # PgBouncer takes a negative period and then spins, flooding its log.
    Param("stats_period", INT, "60", minimum=0),
    Param("stats_users", STRING, ""),
    Param("suspend_timeout", TIME, "10", dropped=True),
    Param("syslog", INT, "0"),
    Param("syslog_facility", STRING, "daemon"),
    Param("syslog_ident", STRING, "pgbouncer"),
    Param("tcp_defer_accept", INT, "1"),
    Param("tcp_keepalive", INT, "1"),
    Param("tcp_keepcnt", INT, "0"),
    Param("tcp_keepidle", INT, "0"),
    Param("tcp_keepintvl", INT, "0"),
    Param("tcp_socket_buffer", INT, "0"),
    Param("tcp_user_timeout", INT, "0"),
    Param("track_extra_parameters", STRING, "", reload=False),
    Param("transaction_timeout", TIME, "0", also=USER),
    Param("unix_socket_dir", STRING, "/tmp", reload=False),
    Param("unix_socket_group", STRING, "", reload=False),
    Param("unix_socket_mode", INT, "0777", reload=False),
    Param("user", STRING, None, reload=False),
    Param("verbose", INT, None),
    # Our own section. Not in SHOW CONFIG, so that tools see what PgBouncer shows.
    Param("agent_listen", STRING, "", reload=False, section=OURS),
    Param("fair_wait", TIME, "0", section=OURS),
    Param("haproxy_sockets", STRING, "", section=OURS),
    Param("health_check_user", STRING, "", section=OURS),
    Param("health_databases", STRING, "", section=OURS),
    Param("health_down_after", TIME, "10", section=OURS),
    Param("health_listen", STRING, "", reload=False, section=OURS),
    Param("health_user", STRING, "", section=OURS),
    Param(
        "health_wrong_role",
        ENUM,
        "auto",
        choices=("auto", "404", "503"),
        section=OURS,
    ),
    Param("log_details", INT, "0", minimum=0, section=OURS),
    Param("log_format", ENUM, "text", choices=("text", "json"), section=OURS),
    Param("parallel_logins", INT, "1", minimum=1, also=DATABASE | USER, section=OURS),
    Param("proxy_protocol_networks", STRING, "", section=OURS),
    Param("proxy_protocol_send", INT, "0", minimum=0, also=DATABASE, section=OURS),
    Param("show_columns", ENUM, "1.26", choices=("1.25", "1.26"), section=OURS),
    Param("workers", INT, "1", reload=False, minimum=1, reserved=True, section=OURS),
)

PARAMS: Final = {param.name: param for param in ROWS}
