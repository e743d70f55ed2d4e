"""What a SELECT may ask of a PostgreSQL: its functions, and some of its tables.

The one hard idea: graphical tools and drivers ask who they talk to before a user can
ask anything, and give up when nobody answers. So the console has the functions and
the few tables that these questions need, made of what it knows: its databases are
the pooler's. What needs more of a catalog is refused as before.
"""

from __future__ import annotations

import time
from calendar import timegm
from collections.abc import Callable, Iterable
from typing import Any, Final

from admin import parameters
from admin.encode import Value, columns
from admin.parameters import SERVER_VERSION
from admin.show import CONSOLE, App, Row, Topic, client_of
from bouncer import COMPATIBLE_VERSION

VERSION: Final = f"PostgreSQL {SERVER_VERSION} (PgBouncer {COMPATIBLE_VERSION})"

# Numbers that PostgreSQL gives what is always there.
_FIRST_USER: Final = 10
_FIRST_OF_OURS: Final = 16384
_UTF8: Final = 6
_SCHEMAS: Final = ((11, "pg_catalog"), (2200, "public"))
# oid, name, length, category: the types that the console's own columns have.
_TYPE_ROWS: Final = (
    (16, "bool", 1, "B"),
    (17, "bytea", -1, "U"),
    (19, "name", 64, "S"),
    (20, "int8", 8, "N"),
    (21, "int2", 2, "N"),
    (23, "int4", 4, "N"),
    (25, "text", -1, "S"),
    (26, "oid", 4, "N"),
    (700, "float4", 4, "N"),
    (701, "float8", 8, "N"),
    (1043, "varchar", -1, "S"),
    (1700, "numeric", -1, "N"),
)

_TYPE_NAMES: Final = {oid: name for oid, name, *_ in _TYPE_ROWS}


def _databases(app: App, asking: int) -> Iterable[Row]:
    for at, row in enumerate(app.database_rows()):
        yield (
            *(_FIRST_OF_OURS + at, row.name, _FIRST_USER, _UTF8, "c", 0),
            *(int(not row.disabled), -1, 1663, "C", "C", None),
        )


def _roles(app: App, asking: int) -> Iterable[Row]:
    for at, row in enumerate(app.user_rows()):
        yield (
            *(_FIRST_USER + at, row.name, 0, 1, 0, 0, 1, 0, -1),
            *("********", None, 0, None),
        )


def _users(app: App, asking: int) -> Iterable[Row]:
    for at, row in enumerate(app.user_rows()):
        yield (row.name, _FIRST_USER + at, 0, 0, 0, 0, "********", None, None)


def _namespaces(app: App, asking: int) -> Iterable[Row]:
    return [(oid, name, _FIRST_USER, None) for oid, name in _SCHEMAS]


def _types(app: App, asking: int) -> Iterable[Row]:
    for oid, name, length, category in _TYPE_ROWS:
        yield (oid, name, 11, _FIRST_USER, length, "b", category, ",", *[0] * 6)


def _nothing(app: App, asking: int) -> Iterable[Row]:
    """There are no tables and no functions of anybody's here."""
    return ()


def _settings(app: App, asking: int) -> Iterable[Row]:
    client = client_of(app, asking)
    for name in sorted(parameters.ALL):
        value = parameters.value_of(name, client)
        context = "internal" if name in parameters.FIXED else "user"
        default = parameters.ALL[name]
        yield (name, value, None, "", "", context, "string", "default", default, value)


# `o` and `l` are oid and bool; see `columns`.
TABLES: Final[dict[str, Topic]] = {
    "pg_database": Topic(
        columns(
            "o: oid t: datname o: datdba i: encoding t: datlocprovider "
            "l: datistemplate datallowconn i: datconnlimit o: dattablespace "
            "t: datcollate datctype datacl"
        ),
        _databases,
    ),
    "pg_roles": Topic(
        columns(
            "o: oid t: rolname l: rolsuper rolinherit rolcreaterole rolcreatedb "
            "rolcanlogin rolreplication i: rolconnlimit t: rolpassword rolvaliduntil "
            "l: rolbypassrls t: rolconfig"
        ),
        _roles,
    ),
    "pg_user": Topic(
        columns(
            "t: usename o: usesysid l: usecreatedb usesuper userepl usebypassrls "
            "t: passwd valuntil useconfig"
        ),
        _users,
    ),
    "pg_namespace": Topic(
        columns("o: oid t: nspname o: nspowner t: nspacl"), _namespaces
    ),
    "pg_type": Topic(
        columns(
            "o: oid t: typname o: typnamespace typowner i: typlen t: typtype "
            "typcategory typdelim o: typrelid typelem typarray typbasetype "
            "i: typtypmod o: typcollation"
        ),
        _types,
    ),
    "pg_settings": Topic(
        columns(
            "t: name setting unit category short_desc context vartype source "
            "boot_val reset_val"
        ),
        _settings,
    ),
    "pg_class": Topic(
        columns("o: oid t: relname o: relnamespace relowner t: relkind"), _nothing
    ),
    "pg_attribute": Topic(
        columns(
            "o: attrelid t: attname o: atttypid i: attnum l: attnotnull atthasdef "
            "attisdropped"
        ),
        _nothing,
    ),
    "pg_proc": Topic(
        columns(
            "o: oid t: proname o: pronamespace prorettype t: proargnames "
            "l: proisagg proiswindow proretset"
        ),
        _nothing,
    ),
    "pg_depend": Topic(columns("o: classid objid refobjid t: deptype"), _nothing),
}

Function = Callable[..., Value]


def functions(app: App, asking: int) -> dict[str, Function]:
    """Give the functions that a SELECT of client *asking* may call."""
    client: Any = client_of(app, asking) if app is not None else None
    # Looked up now: what runs beside the loop keeps no client that has gone.
    name = CONSOLE if client is None else client.user or CONSOLE
    key = b"" if client is None else client.cancel_key or b""
    settings = {known: parameters.value_of(known, client) for known in parameters.ALL}
    started = 0 if app is None else app.started_at

    def user(*what: Value) -> Value:
        return name

    def number() -> Value:
        return int.from_bytes(key[:4], "big")

    def begun() -> Value:
        return _stamp(started)

    def setting(name: Value, missing_ok: Value = 0) -> Value:
        return settings.get(str(name).lower())

    return _FIXED_ANSWERS | {
        "current_role": user,
        "current_setting": setting,
        "current_user": user,
        "pg_backend_pid": number,
        "pg_conf_load_time": begun,
        "pg_get_userbyid": user,
        "pg_postmaster_start_time": begun,
        "session_user": user,
    }


def _stamp(microseconds: int) -> str:
    second = time.gmtime(microseconds // 1_000_000)
    return time.strftime("%Y-%m-%d %H:%M:%S+00", second)


def _date_part(what: Value, stamp: Value) -> Value:
    """Tell the seconds since 1970, which is all that is asked for."""
    if what != "epoch" or not isinstance(stamp, str):
        return None
    try:
        read = time.strptime(stamp[:19], "%Y-%m-%d %H:%M:%S")
    except ValueError:
        return None
    return float(timegm(read))


def _any_of(value: Value, array: Value) -> Value:
    """Whether *value* is in an array of plain words."""
    inside = str(array or "").strip("{}").split(",")
    return int(str(value) in [each.strip('"') for each in inside])


def _regexp(pattern: Value, text: Value) -> Value:
    """Whether *text* begins as *pattern* says; no other pattern is understood.

    An expression of a client's could keep the interpreter busy for as long as it likes.
    """
    begin = str(pattern)
    if begin[:1] != "^" or not (begin[1:] + "_").isidentifier():
        raise ValueError(begin)
    return int(str(text).startswith(begin[1:]))


_FIXED_ANSWERS: Final[dict[str, Function]] = {
    "any_of": _any_of,
    "array_to_string": lambda array, *more: None,
    "current_catalog": lambda: CONSOLE,
    "current_database": lambda: CONSOLE,
    "current_schema": lambda: "public",
    "current_schemas": lambda implicit: (
        "{pg_catalog,public}" if implicit else "{public}"
    ),
    "date_part": _date_part,
    "format_type": lambda oid, modifier: _TYPE_NAMES.get(oid, "???"),
    "has_database_privilege": lambda *what: int("connect" in str(what[-1]).lower()),
    "has_schema_privilege": lambda *what: int("usage" in str(what[-1]).lower()),
    "now": lambda: _stamp(int(time.time() * 1_000_000)),
    "obj_description": lambda *what: None,
    "pg_advisory_unlock_all": lambda: "",
    "pg_client_encoding": lambda: "UTF8",
    "pg_encoding_to_char": lambda number: "UTF8" if number == _UTF8 else "",
    "pg_is_in_recovery": lambda: 0,
    "pg_my_temp_schema": lambda: 0,
    "pg_type_is_visible": lambda oid: 1,
    "regexp": _regexp,
    "set_config": lambda name, value, local: value,
    "shobj_description": lambda *what: None,
    "to_regclass": lambda name: None,
    "to_regtype": lambda name: None,
    "version": lambda: VERSION,
}
NAMES: Final = frozenset(functions(None, 0))
