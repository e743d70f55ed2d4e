"""Write pgbouncer.ini from the environment, then become the pooler.

Understands the variables of edoburu/pgbouncer (DATABASE_URL, DB_HOST, POOL_MODE, ...),
of bitnami/pgbouncer (POSTGRESQL_HOST, PGBOUNCER_POOL_MODE, PGBOUNCER_DSN_0, ...) and of
the older pgbouncer/pgbouncer (DATABASES_HOST, ...). A configuration file that is there
already is left alone. A variable NAME_FILE names a file that holds the value of NAME.

Where the images differ, the variables in use decide which one is meant: bitnami's
have the prefix PGBOUNCER_ or POSTGRESQL_.
"""

import os
import socket
import sys
import time
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from bouncer.config.load import BESIDE
from bouncer.config.params import OURS, ROWS

CONFIG = "/etc/pgbouncer/pgbouncer.ini"

# What edoburu's image takes without a prefix. Other settings want PGBOUNCER_NAME:
# names such as USER or SYSLOG may stand in any environment for other reasons.
PLAIN = """
    listen_addr listen_port unix_socket_dir auth_file auth_hba_file auth_type auth_user
    auth_query auth_dbname pool_mode max_client_conn default_pool_size min_pool_size
    reserve_pool_size reserve_pool_timeout max_db_connections max_user_connections
    server_round_robin disable_pqexec application_name_add_host max_prepared_statements
    log_connections log_disconnections log_pooler_errors log_stats stats_period verbose
    admin_users stats_users logfile server_reset_query server_reset_query_always
    server_check_delay server_check_query server_lifetime server_idle_timeout
    server_connect_timeout server_login_retry client_login_timeout autodb_idle_timeout
    dns_max_ttl dns_nxdomain_ttl client_tls_sslmode client_tls_key_file
    client_tls_cert_file client_tls_ca_file client_tls_protocols client_tls_ciphers
    client_tls_ecdhcurve client_tls_dheparams server_tls_sslmode server_tls_ca_file
    server_tls_key_file server_tls_cert_file server_tls_protocols server_tls_ciphers
    query_timeout query_wait_timeout client_idle_timeout idle_transaction_timeout
    pkt_buf max_packet_size listen_backlog sbuf_loopcnt suspend_timeout tcp_defer_accept
    tcp_keepalive tcp_keepcnt tcp_keepidle tcp_keepintvl tcp_user_timeout
    ignore_startup_parameters
""".split()

# Names of bitnami's image for settings that are called otherwise.
RENAMED = {"PGBOUNCER_PORT": "listen_port", "PGBOUNCER_LISTEN_ADDRESS": "listen_addr"}

# What the images put into the entry of the database.
OF_DATABASE = {
    "POOL_SIZE": "pool_size",
    "TIMEZONE": "timezone",
    "CLIENT_ENCODING": "client_encoding",
    "PGBOUNCER_CONNECT_QUERY": "connect_query",
}


class Environment:
    """The variables, those that name a file with the value included."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.variables = variables

    def get(self, *names: str, default: str = "") -> str:
        """Return the first of *names* that is set and not empty."""
        for name in names:
            value = self.variables.get(name)
            if value:
                return value
            path = self.variables.get(name + "_FILE")
            if path and os.path.isfile(path):
                with open(path) as file:
                    return file.read().rstrip("\n")
        return default

    def yes(self, name: str) -> bool:
        """Say whether *name* is switched on."""
        return self.get(name).lower() in ("yes", "true", "1")

    @property
    def is_bitnami(self) -> bool:
        """Whether the variables are those of bitnami's image."""
        return any(name.startswith("POSTGRESQL_") for name in self.variables) or any(
            name.startswith("PGBOUNCER_DSN_") for name in self.variables
        )


def quoted(value: str) -> str:
    """Return *value* as the connection strings of [databases] want it."""
    if value and not any(char in " \t'\\" for char in value):
        return value
    return "'" + value.replace("'", "''") + "'"


def entry(name: str, parts: Mapping[str, str]) -> str:
    """Return one line of [databases]."""
    key = (
        name
        if name.replace("_", "").replace("-", "").isalnum() or name == "*"
        else (f"'{name}'")
    )
    text = " ".join(f"{part}={quoted(value)}" for part, value in parts.items() if value)
    return f"{key} = {text}"


def databases(env: Environment) -> tuple[list[str], dict[str, str]]:
    """Return the lines of [databases], and name and password of each user."""
    lines: list[str] = []
    users: dict[str, str] = {}
    more = {part: env.get(name) for name, part in OF_DATABASE.items()}
    urls = [url.strip() for url in env.get("DATABASE_URLS").split(",") if url.strip()]
    for url in urls or [env.get("DATABASE_URL")]:
        if url:
            parts = urlsplit(url)
            user, password = (
                unquote(parts.username or ""),
                unquote(parts.password or ""),
            )
            add_user(users, user, password)
            name = unquote(parts.path[1:]) or "*"
            place = {
                "host": unquote(parts.hostname or ""),
                "port": str(parts.port or 5432),
                role(env, name, urls): user,
            }
            lines.append(entry(name, place | more))
    for name, value in sorted(env.variables.items()):
        if name.startswith("PGBOUNCER_DSN_") and value:
            alias, _, text = value.partition("=")
            lines.append(f"{alias.strip()} = {text.strip()}")
    host = env.get("DB_HOST", "POSTGRESQL_HOST", "DATABASES_HOST")
    if env.is_bitnami and not lines:
        host = host or "postgresql"
    if host:
        lines.append(single_database(env, host, users, more))
    return lines, users


def single_database(
    env: Environment, host: str, users: dict[str, str], more: Mapping[str, str]
) -> str:
    """Return the entry of the database that DB_*, POSTGRESQL_*, DATABASES_* name."""
    user = env.get(
        "DB_USER", "POSTGRESQL_USERNAME", "DATABASES_USER", default="postgres"
    )
    password = env.get("DB_PASSWORD", "POSTGRESQL_PASSWORD", "DATABASES_PASSWORD")
    add_user(users, user, password)
    port = env.get("DB_PORT", "POSTGRESQL_PORT", "DATABASES_PORT", default="5432")
    place = {"host": host, "port": port}
    if not env.is_bitnami:
        name = env.get("DB_NAME", "DATABASES_DBNAME", default="*")
        return entry(name, place | {role(env, name, []): user} | more)
    real = env.get("POSTGRESQL_DATABASE", default="postgres")
    name = env.get("PGBOUNCER_DATABASE", default=real)
    if name != "*":
        place["dbname"] = real
    if env.yes("PGBOUNCER_SET_DATABASE_USER"):
        place["user"] = user
    if env.yes("PGBOUNCER_SET_DATABASE_PASSWORD"):
        place["password"] = password
    return entry(name, place | more)


# What lets others in than the user whose password we are given.
OTHERS = """
    AUTH_FILE AUTH_HBA_FILE AUTH_QUERY AUTH_TYPE=hba AUTH_TYPE=any AUTH_TYPE=trust
    AUTH_TYPE=pam AUTH_TYPE=ldap AUTH_TYPE=cert AUTH_USER USERLIST
""".split()


def role(env: Environment, name: str, urls: list[str]) -> str:
    """Say what the user of a database is to it: `auth_user`, or `user`.

    min_pool_size keeps servers ready before anybody has come, only where the user
    is forced. But who else logs in would have that user's
    rights; so it is forced only where there is one database and nobody else gets in.
    """
    wanted = env.get("MIN_POOL_SIZE", "PGBOUNCER_MIN_POOL_SIZE", default="0")
    if wanted == "0":
        return "auth_user"
    open_to = [word for word in OTHERS if is_set(env, word)]
    if name != "*" and len(urls) < 2 and not open_to:
        return "user"
    why = ", ".join(open_to) or ("several databases" if len(urls) > 1 else "DB_NAME=*")
    print(
        f"pgbouncer: MIN_POOL_SIZE counts only while a client is there ({why})",
        file=sys.stderr,
    )
    return "auth_user"


def is_set(env: Environment, word: str) -> bool:
    """Say whether a variable is set, or NAME=VALUE has that value; with any prefix."""
    name, sign, wanted = word.partition("=")
    value = env.get(name, f"PGBOUNCER_{name}")
    return value == wanted if sign else bool(value)


def add_user(users: dict[str, str], user: str, password: str) -> None:
    """Note a user that has a password."""
    if user and password:
        users[user] = password


def settings(env: Environment, auth_file: str) -> dict[str, str]:
    """Return what goes into [pgbouncer]."""
    bitnami = env.is_bitnami
    chosen = {
        "listen_addr": "0.0.0.0",
        "listen_port": "6432" if bitnami else "5432",
        "unix_socket_dir": "/tmp" if bitnami else "",
        "auth_type": "scram-sha-256" if bitnami else "md5",
        "auth_file": auth_file,
        "ignore_startup_parameters": "extra_float_digits",
        "admin_users": env.get("POSTGRESQL_USERNAME", default="postgres"),
    }
    known = [row.name for row in ROWS if row.section != OURS]
    for name in known:
        value = env.get(f"PGBOUNCER_{name.upper()}")
        if not value and name in PLAIN:
            value = env.get(name.upper())
        if value:
            chosen[name] = value
    for variable, name in RENAMED.items():
        value = env.get(variable)
        if value:
            chosen[name] = value
    if os.geteuid() == 0:
        chosen.setdefault("user", "postgres")
    return chosen


def our_settings(env: Environment) -> dict[str, str]:
    """Return what goes into [pybouncer]: of PYBOUNCER_HEALTH_LISTEN and so on."""
    names = [row.name for row in ROWS if row.section == OURS]
    told = {
        name: env.get(f"PYBOUNCER_{name.upper()}", f"PGBOUNCER_{name.upper()}")
        for name in names
    }
    return {name: value for name, value in told.items() if value}


def userlist(env: Environment, users: Mapping[str, str]) -> str:
    """Return the text of the file with the secrets, as they were given.

    A password stays one: what the other images make of it, an md5 hash, opens no server
    that wants SCRAM, which is what PostgreSQL does since 14. Clients may log in by md5
    with it as well.
    """
    given = env.get("PGBOUNCER_USERLIST")
    lines = [given.rstrip("\n")] if given else []
    for user, password in users.items():
        pair = [text.replace('"', '""') for text in (user, password)]
        lines.append(f'"{pair[0]}" "{pair[1]}"')
    return "".join(f"{line}\n" for line in lines)


def section(name: str, values: Mapping[str, str]) -> str:
    """Return a section of the ini file."""
    return f"\n[{name}]\n" + "".join(f"{key} = {values[key]}\n" for key in values)


def write(path: str, text: str) -> None:
    """Write a file that only we may read."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(fd, "w") as file:
        file.write(text)


def configure(env: Environment, path: str) -> None:
    """Write the configuration, unless there is one."""
    if os.path.exists(path):
        return
    lines, users = databases(env)
    if not lines:
        sys.exit(
            "pgbouncer: no database: set DATABASE_URL, DB_HOST, POSTGRESQL_HOST or "
            f"PGBOUNCER_DSN_0, or mount {path}"
        )
    auth_file = env.get("AUTH_FILE", "PGBOUNCER_AUTH_FILE")
    own = not auth_file
    auth_file = auth_file or os.path.join(os.path.dirname(path), "userlist.txt")
    chosen = settings(env, auth_file)
    if own and not os.path.exists(auth_file):
        write(auth_file, userlist(env, users))
    text = "[databases]\n" + "".join(f"{line}\n" for line in lines)
    text += section("pgbouncer", chosen)
    write(path, text)
    # Beside it, so that PgBouncer could start on the file itself.
    if ours := our_settings(env):
        write(path + BESIDE, section("pybouncer", ours))


def wait_for(env: Environment) -> None:
    """With bitnami's variables: wait until PostgreSQL accepts connections."""
    if not env.is_bitnami or not env.get("POSTGRESQL_HOST"):
        return
    place = (
        env.get("POSTGRESQL_HOST"),
        int(env.get("POSTGRESQL_PORT", default="5432")),
    )
    deadline = time.monotonic() + float(
        env.get("PGBOUNCER_INIT_MAX_RETRIES", default="10")
    ) * float(env.get("PGBOUNCER_INIT_SLEEP_TIME", default="10"))
    while time.monotonic() < deadline:
        try:
            socket.create_connection(place, timeout=5).close()
        except OSError:
            time.sleep(1)
        else:
            return


def main() -> None:
    """Configure and run; arguments replace the command, as in the other images."""
    env = Environment(os.environ)
    arguments = sys.argv[1:] or ["pgbouncer", CONFIG]
    if os.path.basename(arguments[0]) in ("pgbouncer", "pybouncer"):
        configure(env, CONFIG)
        wait_for(env)
        arguments += env.get("PGBOUNCER_EXTRA_FLAGS").split()
    os.execvp(arguments[0], arguments)


if __name__ == "__main__":
    main()
