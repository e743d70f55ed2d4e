"""What was probably meant: names close by, and mistakes that many make.

The one hard idea: the usual mistakes come from habits of other files (units, `yes`,
comments behind a value, libpq's keys), so they are known by heart here, and only
what is left is guessed from the spelling.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

from bouncer.config.entries import DATABASE_KEYS, PEER_KEYS, USER_KEYS
from bouncer.config.params import MAIN, OURS, PARAMS, ROWS, Kind, Param

SECTION_NAMES: Final = (MAIN, "databases", "users", "peers", OURS)

# Names that other programs, older versions or one's fingers use.
KNOWN_BY_HEART: Final = {
    "pool_size": "default_pool_size, or pool_size in a line of [databases]",
    "timezone": "timezone belongs into a line of [databases]",
    "service_name": "job_name; service_name exists on Windows only",
    "max_connections": "max_client_conn, max_db_connections or default_pool_size",
    "max_client_connections": "max_client_conn",
    "port": "listen_port",
    "host": "listen_addr",
    "listen_address": "listen_addr",
    "listen_addresses": "listen_addr",
    "userlist": "auth_file",
    "user_list": "auth_file",
    "hba_file": "auth_hba_file",
    "ssl_mode": "client_tls_sslmode or server_tls_sslmode",
    "sslmode": "client_tls_sslmode or server_tls_sslmode",
    "mode": "pool_mode",
    "pooling_mode": "pool_mode",
    "reserve_pool": "reserve_pool_size",
}
PAIRS_BY_HEART: Final = {
    "database": "dbname",
    "db": "dbname",
    "hostname": "host",
    "hostaddr": "host",
    "server": "host",
    "username": "user",
    "pass": "password",
    "passwd": "password",
    "sslmode": "server_tls_sslmode in [pgbouncer], for all servers",
    "sslrootcert": "server_tls_ca_file in [pgbouncer], for all servers",
    "connect_timeout": "server_connect_timeout in [pgbouncer], for all servers",
    "default_pool_size": "pool_size",
    "max_client_conn": "max_db_client_connections",
    "auth_type": "auth_type in [pgbouncer], or an HBA file, for all databases",
}
VALUES_BY_HEART: Final = {
    "password": "plain",
    "scram": "scram-sha-256",
    "scram-sha256": "scram-sha-256",
    "sha256": "scram-sha-256",
    "none": "trust",
    "tx": "transaction",
    "verify_ca": "verify-ca",
    "verify_full": "verify-full",
    "required": "require",
    "on": "require",
    "off": "disable",
}
SWITCHES: Final = {"yes": 1, "on": 1, "true": 1, "no": 0, "off": 0, "false": 0}
UNITS: Final = {
    "us": 1e-6,
    "ms": 1e-3,
    "s": 1,
    "sec": 1,
    "secs": 1,
    "m": 60,
    "min": 60,
    "mins": 60,
    "h": 3600,
    "hour": 3600,
    "hours": 3600,
    "d": 86400,
    "day": 86400,
    "days": 86400,
}
WITH_UNIT: Final = re.compile(r"([0-9.]+)\s*([a-z]+)", re.I)
COMMENT_BEHIND: Final = re.compile(r"\S.*?[ \t]+[;#]")


def close(word: str, words: Iterable[str]) -> str:
    """Return the one of *words* that *word* was probably meant to be, or nothing."""
    found = get_close_matches(word.lower().replace("-", "_"), list(words), 1, 0.7)
    return f"did you mean {found[0]}?" if found else ""


def section(name: str) -> str:
    """What to say about an unknown section."""
    found = get_close_matches(name.strip().lower(), SECTION_NAMES, 1, 0.6)
    return f"did you mean [{found[0]}]?" if found else ""


def setting(where: str, key: str) -> str:
    """What to say about an unknown setting in the section *where*."""
    lower = key.lower()
    param = PARAMS.get(lower)
    if param is not None and param.section != where:
        return f"it belongs into [{param.section}]"
    if param is not None:
        return f"did you mean {param.name}? Names are in lower case"
    if where == MAIN and lower in KNOWN_BY_HEART:
        return f"did you mean {KNOWN_BY_HEART[lower]}?"
    return close(key, [row.name for row in ROWS if row.section == where])


def pair(where: str, text: str) -> str:
    """What to say about a bad line of another section: *text* is the complaint."""
    what, _, word = text.partition(": ")
    if what.startswith("syntax error"):
        return "values with blanks stand in '...'; a comment needs a line of its own"
    if "parameter" in what:
        keys = {"users": USER_KEYS, "peers": PEER_KEYS}.get(where, DATABASE_KEYS)
        known = PAIRS_BY_HEART.get(word.lower(), "") if where != "peers" else ""
        return f"did you mean {known}?" if known else close(word, keys)
    return ""


def value(param: Param, text: str) -> str:
    """What to say about a value that *param* does not take."""
    if COMMENT_BEHIND.match(text):
        return "a comment needs a line of its own"
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return "no quotes"
    lower = text.lower()
    if param.kind is Kind.ENUM:
        known = VALUES_BY_HEART.get(lower)
        if known in param.choices:
            return f"did you mean {known}?"
        guess = close(lower, param.choices)
        return guess or f"one of {', '.join(param.choices)}"
    if lower in SWITCHES:
        return f"did you mean {SWITCHES[lower]}?"
    unit = WITH_UNIT.fullmatch(text)
    if param.kind is Kind.TIME and unit and unit[2].lower() in UNITS:
        try:
            seconds = float(unit[1]) * UNITS[unit[2].lower()]
        except ValueError:
            return "seconds, without a unit"
        return f"did you mean {seconds:g}? Seconds, without a unit"
    if re.fullmatch(r"0[0-9]+", text):
        return "a leading 0 makes an octal number"
    if param.minimum is not None:
        return f"not below {param.minimum}"
    return ""


def kind(param: Param) -> str:
    """What *param* takes, in words."""
    return {
        Kind.INT: "a whole number",
        Kind.UINT: "a whole number",
        Kind.TIME: "a number of seconds",
        Kind.ENUM: "one of its words",
        Kind.STRING: "allowed",
    }[param.kind]
