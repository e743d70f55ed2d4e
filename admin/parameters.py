"""The parameters of a PostgreSQL that drivers set and ask for by themselves.

The one hard idea: nothing of it changes what the console answers, so a SET is taken
and ignored, saying so, and SHOW gives what always holds. Names that are settings of
PgBouncer's (`transaction_timeout`) are not here: those are the pooler's own.
"""

from __future__ import annotations

from typing import Any, Final

from bouncer import COMPATIBLE_VERSION

SERVER_VERSION: Final = f"{COMPATIBLE_VERSION}/bouncer"
# As libpq reckons it from server_version.
_MAJOR, _MINOR, _PATCH = map(int, COMPATIBLE_VERSION.split("."))
SERVER_VERSION_NUM: Final = str((_MAJOR * 100 + _MINOR) * 100 + _PATCH)

# Those of PgBouncer, by the names that the columns of their SHOW have.
FAKES: Final = {
    "client_encoding": "UTF-8",
    "default_transaction_isolation": "read committed",
    "standard_conforming_strings": "on",
    "datestyle": "ISO",
    "timezone": "GMT",
    "extra_float_digits": "2",
}

# What can be shown and not be set, in PostgreSQL neither.
FIXED: Final = {
    "in_hot_standby": "off",
    "integer_datetimes": "on",
    "is_superuser": "on",
    "lc_collate": "C",
    "lc_ctype": "C",
    "max_identifier_length": "63",
    "max_index_keys": "32",
    "server_encoding": "UTF8",
    "server_version": SERVER_VERSION,
    "server_version_num": SERVER_VERSION_NUM,
}
# What can be set, to no effect.
IGNORED: Final = {
    "application_name": "",
    "array_nulls": "on",
    "backslash_quote": "safe_encoding",
    "bytea_output": "hex",
    "check_function_bodies": "on",
    "client_min_messages": "notice",
    "constraint_exclusion": "partition",
    "cursor_tuple_fraction": "0.1",
    "default_table_access_method": "heap",
    "default_tablespace": "",
    "default_transaction_deferrable": "off",
    "default_transaction_read_only": "off",
    "enable_hashjoin": "on",
    "enable_mergejoin": "on",
    "enable_nestloop": "on",
    "enable_seqscan": "on",
    "escape_string_warning": "on",
    "geqo": "on",
    "gin_fuzzy_search_limit": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "intervalstyle": "postgres",
    "jit": "off",
    "lc_messages": "C",
    "lc_monetary": "C",
    "lc_numeric": "C",
    "lc_time": "C",
    "lock_timeout": "0",
    "maintenance_work_mem": "64MB",
    "plan_cache_mode": "auto",
    "quote_all_identifiers": "off",
    "role": "none",
    "row_security": "on",
    "search_path": '"$user", public',
    "session_authorization": "",
    "session_replication_role": "origin",
    "statement_timeout": "0",
    "synchronize_seqscans": "on",
    "synchronous_commit": "on",
    "temp_tablespaces": "",
    "transaction_deferrable": "off",
    "transaction_isolation": "read committed",
    "transaction_read_only": "off",
    "work_mem": "4MB",
    "xmlbinary": "base64",
    "xmloption": "content",
}
ALL: Final = FAKES | FIXED | IGNORED


def may_be_set(name: str) -> bool:
    """Whether a SET of *name*, in any case, is taken and ignored."""
    return name.lower() in FAKES or name.lower() in IGNORED


def value_of(name: str, client: Any) -> str:
    """Give what *client* is shown of a parameter of `ALL`."""
    if client is not None and name == "session_authorization":
        return client.user or ""
    if client is not None and name == "application_name":
        tracked = client.tracked
        return (tracked.application_name if tracked else "") or ""
    return ALL[name]
