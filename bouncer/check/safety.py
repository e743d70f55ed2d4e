"""What a check says about files, secrets and ways in.

The one hard idea: a check runs as whoever types it, a pooler as `user` says. What
the one may read the other may not, so only modes and owners are judged here, and
what the check itself cannot see is not called missing.
"""

import grp
import os
import pwd
import re
import resource
import stat
from collections.abc import Iterator
from typing import Final

from bouncer.auth.ldap import LdapError
from bouncer.auth.ldap import Options as LdapOptions
from bouncer.auth.secrets import MD5, SCRAM, kind_of
from bouncer.auth.tls import PROTOCOLS, VERIFYING, client_context, connect_context
from bouncer.check.advice import about, about_line, is_changed
from bouncer.check.certificates import certificates
from bouncer.check.findings import ERROR, WARNING, Finding, at
from bouncer.check.front import front
from bouncer.check.machine import machine
from bouncer.check.reading import Reading, source_of
from bouncer.check.suggest import word_of
from bouncer.check.users import a_few, users
from bouncer.config.hba import HOSTSSL, LOCAL, HbaLine
from bouncer.config.params import AUTH_QUERY, PARAMS
from bouncer.config.settings import Settings
from bouncer.errors import ConfigError

# What PgBouncer counts for itself: sockets, log, DNS, the console's two servers.
OWN_DESCRIPTORS: Final = 12
LOOPBACK: Final = ("127.", "::1", "localhost")
TLS_FILES: Final = (
    "client_tls_key_file",
    "client_tls_cert_file",
    "client_tls_ca_file",
    "server_tls_key_file",
    "server_tls_cert_file",
    "server_tls_ca_file",
)
# Ways to log in that need an entry in auth_file, or auth_query.
FROM_FILE: Final = ("md5", "plain", "trust", "scram-sha-256", "cert")
# What a query reads and calls, where the name has no schema before it.
LITERALS: Final = re.compile(r"'[^']*'")
NAME: Final = r'("[^"]+"|[A-Za-z_][\w$]*)'
SOURCES: Final = re.compile(
    rf"\b(?:from|join)\s+(?:only\s+|lateral\s+)?{NAME}(?![\w$\"]|\s*\.)", re.I
)
CALLS: Final = re.compile(rf"(?<![\w$.\"]){NAME}\s*\(")
SQL_WORDS: Final = frozenset(
    "and any as case cast coalesce else exists from greatest if in join lateral least "
    "not nullif on only or select then union values when where with".split()
)


def examine(reading: Reading) -> list[Finding]:
    """Return what every rule has to say."""
    return [finding for rule in RULES for finding in rule(reading)]


# Files


def mode_of(path: str | None) -> int | None:
    """Return the permissions of a file, None if it cannot be seen."""
    try:
        return stat.S_IMODE(os.stat(path).st_mode) if path else None
    except OSError:
        return None


def secrecy(reading: Reading) -> Iterator[Finding]:
    """Secrets that others can read."""
    config, s = reading.config, reading.config.settings
    for name in ("auth_file", "client_tls_key_file", "server_tls_key_file"):
        mode = mode_of(getattr(s, name))
        if mode is not None and mode & 0o004:
            text = f"everybody on this machine can read it (mode {mode:04o})"
            yield about(reading, name, text, "chmod o-rwx")
        if mode is not None and mode & 0o002:
            yield about(reading, name, "everybody on this machine can write it")
    files = {at(db.source)[0] for db in config.databases.values() if db.password}
    if config.autodb is not None and "password=" in config.autodb.text:
        files.add(at(config.autodb.source)[0])
    for file in sorted(files):
        mode = mode_of(file)
        if mode is not None and mode & 0o004:
            text = f"holds passwords, and everybody can read it (mode {mode:04o})"
            yield Finding(WARNING, text, file, suggestion="chmod o-rwx")


def places(reading: Reading) -> Iterator[Finding]:
    """Files and sockets that cannot be made."""
    s = reading.config.settings
    if not s.listen_addr.strip(", ") and not s.unix_socket_dir:
        text = "there is neither an address nor a Unix socket to listen on"
        hint = "systemd may pass sockets; else set listen_addr or unix_socket_dir"
        yield about(reading, "listen_addr", text, hint)
    directory = s.unix_socket_dir
    if directory and not directory.startswith("@") and not os.path.isdir(directory):
        text = f"{directory} is not a directory"
        yield must(reading, "unix_socket_dir", text)
    path = f"{directory.rstrip('/')}/.s.PGSQL.{s.listen_port}"
    if directory and len(os.fsencode(path)) > 107:
        text = "the path of the socket is cut after 107 bytes"
        yield about(reading, "unix_socket_dir", text)
    for name in ("pidfile", "logfile"):
        value = getattr(s, name)
        if value and not os.path.isdir(os.path.dirname(value) or "."):
            text = f"{os.path.dirname(value)} is not a directory"
            yield must(reading, name, text)
    if s.user and not exists(pwd.getpwnam, s.user):
        yield must(reading, "user", f'there is no user "{s.user}"')
    group = s.unix_socket_group
    if group and not group.isdigit() and not exists(grp.getgrnam, group):
        yield must(reading, "unix_socket_group", f'there is no group "{group}"')


def must(reading: Reading, name: str, text: str, hint: str = "") -> Finding:
    """Return an error about the setting *name*: a start would fail."""
    file, line = source_of(reading.config, name)
    return Finding(ERROR, text, file, line, name, hint)


def exists(look_up: object, name: str) -> bool:
    """Whether a user or group exists."""
    try:
        look_up(name)  # type: ignore[operator]
    except KeyError:
        return False
    return True


def expected_descriptors(reading: Reading) -> int:
    """Return how many descriptors are needed if every pool is full for one user.

    The figure in the log at start is larger: it has each pool for each known user.
    """
    config, s = reading.config, reading.config.settings
    total = s.max_client_conn + OWN_DESCRIPTORS
    for database in config.databases.values():
        size = database.pool_size
        total += s.default_pool_size if size is None else size
    return total


def descriptors(reading: Reading) -> Iterator[Finding]:
    """More connections than the process may have descriptors."""
    need = expected_descriptors(reading)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and need > soft:
        yield about(
            reading,
            "max_client_conn",
            f"{need} descriptors may be needed, the limit here is {soft}",
            "ulimit -n, or LimitNOFILE= in the unit",
        )


# Ways in


def is_open(settings: Settings) -> bool:
    """Whether others than this machine can connect."""
    places = [part.strip() for part in settings.listen_addr.split(",")]
    return any(part and not part.startswith(LOOPBACK) for part in places)


def methods(reading: Reading) -> Iterator[Finding]:
    """Ways of logging in that let in too many, or nobody."""
    s = reading.config.settings
    if s.auth_type in ("any", "trust") and is_open(s):
        yield about(
            reading,
            "auth_type",
            f"{s.auth_type} asks for no password, and listen_addr = {s.listen_addr} "
            "lets others connect",
        )
    if s.auth_type in ("plain", "ldap", "pam") and is_open(s):
        if s.client_tls_sslmode in ("disable", "allow", "prefer"):
            yield about(
                reading,
                "auth_type",
                "passwords cross the network in clear text",
                "client_tls_sslmode = require",
            )
    if s.auth_type == "hba" and not s.auth_hba_file:
        text = "no auth_hba_file: nobody can log in"
        yield about(reading, "auth_type", text)
    if s.auth_type != "hba":
        for name in ("auth_hba_file", "auth_ident_file"):
            if getattr(s, name):
                yield about(
                    reading, name, f"not read with auth_type = {s.auth_type}", "hba"
                )
    if s.auth_type == "ldap" and not s.auth_ldap_options:
        text = "no auth_ldap_options: nobody can log in"
        yield about(reading, "auth_type", text)
    if s.auth_type == "ldap" and s.auth_ldap_options:
        try:
            LdapOptions(s.auth_ldap_options)
        except LdapError as error:
            text = f"{'; '.join(error.lines)}: nobody can log in"
            yield about(reading, "auth_ldap_options", text)
    if s.auth_type != "ldap" and s.auth_ldap_options:
        text = f"not used with auth_type = {s.auth_type}"
        yield about(reading, "auth_ldap_options", text)
    if is_changed(reading, "auth_query") and not s.auth_user:
        if not any(db.auth_user for db in reading.config.databases.values()):
            if "auth_user=" not in (
                reading.config.autodb.text if reading.config.autodb else ""
            ):
                text = "no effect without auth_user"
                yield about(reading, "auth_query", text)
    if s.auth_type in FROM_FILE:
        yield from somebody(reading)
    if s.auth_type in ("pam", "ldap"):
        for database in reading.config.databases.values():
            if database.auth_user:
                text = f"auth_user cannot be used with auth_type = {s.auth_type}"
                yield about_line(database.source, database.name, text)


def lookups(reading: Reading) -> Iterator[Finding]:
    """Clients that could say what auth_query means."""
    s = reading.config.settings
    for database in reading.config.databases.values():
        user = database.auth_user or s.auth_user
        sql = database.auth_query or s.auth_query
        where = database.auth_dbname or s.auth_dbname or database.name
        asked = reading.config.databases.get(where)
        if not user or asked is None or asked.user != user:
            continue
        names = [] if sql == AUTH_QUERY else without_schema(sql)
        if names:
            yield about_line(
                database.source,
                database.name,
                f"clients of {where} are auth_user, too, and may say by search_path "
                f"what auth_query means by {a_few(names)}",
                "name the schema, or another user",
            )


def without_schema(sql: str) -> list[str]:
    """Return what a query takes rows from or calls without naming a schema."""
    bare = LITERALS.sub("''", sql)
    found = [*SOURCES.findall(bare), *CALLS.findall(bare)]
    return sorted({name for name in found if name.lower() not in SQL_WORDS})


def somebody(reading: Reading) -> Iterator[Finding]:
    """Nobody that could log in."""
    config, s = reading.config, reading.config.settings
    lookups = [s.auth_user, *(db.auth_user for db in config.databases.values())]
    star = config.autodb.text if config.autodb else ""
    if s.auth_file is None and not any(lookups) and "auth_user=" not in star:
        text = f"auth_type = {s.auth_type} without auth_file or auth_user: nobody can"
        yield about(reading, "auth_type", f"{text} log in", "set auth_file")


def secrets(reading: Reading) -> Iterator[Finding]:
    """Secrets that do not fit the ways they are used."""
    config, s = reading.config, reading.config.settings
    if reading.userlist is None:
        return
    known = reading.userlist.secrets
    if s.auth_type == "scram-sha-256":
        hashed = [name for name, secret in known.items() if kind_of(secret) == MD5]
        if hashed:
            yield about(
                reading,
                "auth_file",
                f"users with an MD5 secret cannot log in by SCRAM: {a_few(hashed)}",
            )
    for database in config.databases.values():
        secret = known.get(database.user or "", "")
        if database.user is None or database.password is not None:
            continue
        if not secret:
            text = f'no password for the forced user "{database.user}"'
            hint = "fine if the server asks for none; else password=, or auth_file"
            yield about_line(database.source, database.name, text, hint)
        elif kind_of(secret) == SCRAM:
            text = (
                f'a SCRAM secret cannot log the forced user "{database.user}" in to '
                "the server"
            )
            hint = "it takes a plain-text password"
            yield about_line(database.source, database.name, text, hint)
    for name in admins(s) - known.keys() - {"pgbouncer"}:
        if (
            s.auth_type in ("md5", "plain", "scram-sha-256", "trust")
            and not s.auth_user
        ):
            text = f'"{name}" is not in auth_file and cannot log in'
            yield about(reading, "admin_users", text)
    if s.auth_user and kind_of(known.get(s.auth_user, "")) == SCRAM:
        text = "its SCRAM secret cannot log it in to the server"
        yield about(reading, "auth_user", text, "it takes a plain-text password")


def admins(settings: Settings) -> list[str]:
    """Return the names in admin_users, but for the one that needs no entry."""
    names = settings.admin_users.replace(",", " ").split()
    return [name for name in names if name != "pgbouncer"]


# TLS and HBA


def tls(reading: Reading) -> Iterator[Finding]:
    """TLS settings that protect less than they seem to, or nothing."""
    s = reading.config.settings
    if s.server_tls_ca_file and s.server_tls_sslmode not in ("disable", *VERIFYING):
        yield about(
            reading,
            "server_tls_ca_file",
            f"server_tls_sslmode = {s.server_tls_sslmode} does not verify servers",
            "verify-ca or verify-full",
        )
    if s.server_tls_sslmode in VERIFYING:
        if not s.server_tls_ca_file:
            text = "no server_tls_ca_file: only the system's authorities are known"
            yield about(reading, "server_tls_sslmode", text)


def tls_setup(reading: Reading) -> Iterator[Finding]:
    """What a start, or a connection to a server, would fail with."""
    s = reading.config.settings
    hidden = [name for name in TLS_FILES if is_hidden(getattr(s, name))]
    for name in hidden:
        text = "cannot be read by who asks, so TLS was not checked"
        yield about(reading, name, text, f"run this as {s.user or 'the pooler runs'}")
    if hidden:
        return
    try:
        client_context(s)
    except ConfigError as error:
        name = setting_in(str(error), "client")
        yield must(reading, name, str(error), tls_hint(name, error))
        return
    if s.server_tls_sslmode != "disable":
        try:
            connect_context(s)
        except ConfigError as error:
            text = f"servers that use TLS cannot be reached: {error}"
            name = setting_in(str(error), "server")
            yield about(reading, name, text, tls_hint(name, error))


def tls_hint(name: str, error: ConfigError) -> str:
    """Return what was probably meant where TLS cannot be set up."""
    if "mismatch" in str(error).lower():
        return "the key belongs to another certificate"
    if not name.endswith("_protocols"):
        return ""
    for word in re.split("[,:]", str(error).rpartition(": ")[2]):
        if (bare := word.strip().lower().removeprefix("!")) not in PROTOCOLS:
            return word_of(bare, PROTOCOLS)
    return ""


def is_hidden(path: str) -> bool:
    """Whether the file exists but may not be read by this process."""
    return bool(path) and os.path.exists(path) and not os.access(path, os.R_OK)


def setting_in(text: str, side: str) -> str:
    """Return the setting that a complaint about TLS on one *side* is about."""
    found = [name for name in PARAMS if name in text]
    if found:
        return min(found, key=lambda name: (text.index(name), -len(name)))
    for word, kind in (("key", "key"), ("certificate", "cert"), ("CA", "ca")):
        if word in text:
            return f"{side}_tls_{kind}_file"
    return ""


def rules(reading: Reading) -> Iterator[Finding]:
    """HBA lines that no connection can match."""
    s = reading.config.settings
    if reading.hba is None:
        return
    for line in reading.hba.lines:
        reason = cannot_match(line, s)
        if reason:
            yield Finding(WARNING, reason, reading.hba.path, line.line)
        elif lets_anybody_in(line) and is_open(s):
            text = f"trust asks for no password, from {line.address.text}"
            yield Finding(WARNING, text, reading.hba.path, line.line)


def lets_anybody_in(line: HbaLine) -> bool:
    """Whether *line* is trust for a network that is the world's."""
    if line.method != "trust" or line.type == LOCAL:
        return False
    address = line.address
    return address.family is None or address.mask == 0


def cannot_match(line: HbaLine, settings: Settings) -> str:
    """Return why *line* is for nobody, or nothing."""
    if line.type == HOSTSSL and settings.client_tls_sslmode == "disable":
        return "no connection uses TLS while client_tls_sslmode is disable"
    if line.method == "cert" and settings.client_tls_sslmode not in (
        "verify-ca",
        "verify-full",
    ):
        return "cert needs client certificates: client_tls_sslmode = verify-full"
    if line.method == "peer" and line.type != "local":
        return "peer works on Unix sockets only: this line refuses everybody"
    if line.type == "local" and not settings.unix_socket_dir:
        return "there is no Unix socket"
    return ""


RULES: Final = (
    places,
    descriptors,
    secrecy,
    methods,
    lookups,
    secrets,
    users,
    tls,
    tls_setup,
    certificates,
    rules,
    front,
    machine,
)
