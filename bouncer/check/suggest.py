"""What was probably meant: names close by, and mistakes that many make.

The one hard idea: the usual mistakes come from habits of other files (units, `yes`,
comments behind a value, libpq's keys), so they are known by heart here, and only
what is left is guessed from the spelling.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

from bouncer.check.spelling import NOT_REPLACED, in_quotes, placeholder
from bouncer.config.entries import SECTIONS
from bouncer.config.own import OWN_SECTIONS
from bouncer.config.params import (
    LOAD_BALANCE_HOSTS,
    MAIN,
    OURS,
    PARAMS,
    POOL_MODES,
    ROWS,
    Kind,
    Param,
)

SECTION_NAMES: Final = (MAIN, "databases", "users", "peers", OURS, *OWN_SECTIONS)

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
    "passwd": "password",
    "password": "plain",
    "scram": "scram-sha-256",
    "scram-sha256": "scram-sha-256",
    "sha256": "scram-sha-256",
    "none": "trust",
    "tx": "transaction",
    "txn": "transaction",
    "ssl": "require",
    "tls": "require",
    "yes": "require",
    "true": "require",
    "enable": "require",
    "enabled": "require",
    "no": "disable",
    "false": "disable",
    "verify_ca": "verify-ca",
    "verify_full": "verify-full",
    "required": "require",
    "on": "require",
    "off": "disable",
}
SWITCHES: Final = {"yes": 1, "on": 1, "true": 1, "no": 0, "off": 0, "false": 0}
# Words of a line's values: how the complaint begins, and what may stand there.
WORDS_OF_LINES: Final = {
    "invalid pool mode": POOL_MODES,
    "invalid load_balance_hosts": LOAD_BALANCE_HOSTS,
}
# Letters that a word must share with the beginning of another to be meant by it.
FEWEST: Final = 3
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


def word_of(text: str, words: tuple[str, ...]) -> str:
    """Say which of *words* was meant by *text*, or what there are."""
    lower = text.lower()
    known = VALUES_BY_HEART.get(lower)
    if known in words:
        return f"did you mean {known}?"
    begun = [word for word in words if word.startswith(lower)]
    if len(lower) >= FEWEST and len(begun) == 1:
        return f"did you mean {begun[0]}?"
    near = get_close_matches(lower.replace("_", "-"), words, 1, 0.6)
    return f"did you mean {near[0]}?" if near else f"one of {', '.join(words)}"


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
        return pair_key(SECTIONS[where].readers, word)
    if found := placeholder(word):
        return f"{found}: {NOT_REPLACED}"
    if what in WORDS_OF_LINES:
        return word_of(word.strip("'\","), WORDS_OF_LINES[what])
    return ""


def pair_key(keys: Iterable[str], word: str) -> str:
    """What to say about a key of a line that is none of *keys*."""
    known = PAIRS_BY_HEART.get(word.lower(), "") if "pool_mode" in keys else ""
    return f"did you mean {known}?" if known else close(word, keys)


def broken_pair(text: str, rest: str) -> str:
    """What to say about a line *text* that is no list of pairs from *rest* on."""
    if found := placeholder(text):
        return f"{found}: {NOT_REPLACED}"
    if "://" in rest:
        return "no URL: host=NAME port=NUMBER dbname=NAME"
    if "='" in rest and rest.count("'") % 2:
        return "a quote has no end; values with blanks stand in '...'"
    return "values with blanks stand in '...'; a comment needs a line of its own"


def number(text: str, is_time: bool) -> str:
    """What to say about a number in a line that is more than one."""
    if found := placeholder(text):
        return f"{found}: {NOT_REPLACED}"
    if is_time and (meant := seconds(text)):
        return meant
    if text[-1] in ",;":
        return "only blanks separate"
    return "no quotes" if in_quotes(text) else "a whole number"


def seconds(text: str) -> str:
    """What to say about a time with a unit, or nothing."""
    unit = WITH_UNIT.fullmatch(text)
    if unit is None or unit[2].lower() not in UNITS:
        return ""
    try:
        meant = float(unit[1]) * UNITS[unit[2].lower()]
    except ValueError:
        return "seconds, without a unit"
    return f"did you mean {meant:g}? Seconds, without a unit"


def value(param: Param, text: str) -> str:
    """What to say about a value that *param* does not take."""
    if COMMENT_BEHIND.match(text):
        return "a comment needs a line of its own"
    if in_quotes(text):
        return "no quotes"
    if found := placeholder(text):
        return f"{found}: {NOT_REPLACED}"
    lower = text.lower()
    if param.kind is Kind.ENUM:
        return word_of(text, param.choices)
    if lower in SWITCHES:
        return f"did you mean {SWITCHES[lower]}?"
    if param.kind is Kind.TIME and param.section != MAIN:
        return "seconds, or a number with ms, s, min or h"
    if param.kind is Kind.TIME and (meant := seconds(text)):
        return meant
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
