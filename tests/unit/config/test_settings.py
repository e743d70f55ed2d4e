"""The table of settings, SET and the rows of SHOW CONFIG."""

from dataclasses import FrozenInstanceError, fields

import pytest

from bouncer.config.params import MAIN, PARAMS, ROWS, Kind, Where
from bouncer.config.settings import (
    Database,
    Settings,
    UserOptions,
    config_rows,
)
from bouncer.errors import ConfigError

TYPES = {Kind.INT: int, Kind.UINT: int, Kind.TIME: float, Kind.ENUM: str}


@pytest.fixture
def settings():
    return Settings.defaults()


def test_settings_declares_every_param_with_its_type():
    declared = {item.name: item.type for item in fields(Settings)}
    wanted = {
        param.name: TYPES.get(param.kind, str | None if param.default is None else str)
        for param in ROWS
    }
    assert declared == wanted
    assert list(declared) == list(wanted)


def test_params_stand_in_the_order_of_show_config():
    """Alphabetical, but for pool_idle_timeout, which upstream put behind pool_mode."""
    names = [
        p.name for p in ROWS if p.section == MAIN and p.name != "pool_idle_timeout"
    ]
    assert names == sorted(names)
    assert len(set(PARAMS)) == len(ROWS)


def test_overrides_exist_where_the_table_says():
    places = ((Where.DATABASE, Database), (Where.USER, UserOptions))
    for where, place in places:
        known = {item.name for item in fields(place)}
        said = {p.override or p.name for p in ROWS if p.also & where}
        assert said <= known


def test_settings_cannot_be_changed(settings):
    with pytest.raises(FrozenInstanceError):
        settings.pool_mode = "statement"


def test_show_config_has_the_rows_of_the_release(settings):
    rows = config_rows(settings)
    assert len(rows) == 98
    shown = {key: (value, default, change) for key, value, default, change in rows}
    assert shown["unix_socket_mode"] == ("511", "0777", "no")
    assert shown["verbose"] == ("0", None, "yes")
    assert shown["auth_file"] == (None, None, "yes")
    assert shown["admin_users"] == ("", "", "yes")
    assert shown["query_wait_timeout"] == ("120", "120", "yes")
    assert not {p.name for p in ROWS if p.section != MAIN} & shown.keys()


def test_show_config_shows_later_settings_only_while_they_are_used(settings):
    names = [row[0] for row in config_rows(settings)]
    used = settings.with_value("login_notify_message", "hello")
    used = used.with_value("pool_idle_timeout", "1.5")
    rows = config_rows(used)
    assert ("login_notify_message", "hello", "", "yes") in rows
    assert ("pool_idle_timeout", "1.5", "0", "yes") in rows
    order = [row[0] for row in rows]
    assert order[order.index("logfile") + 1] == "login_notify_message"
    assert order[order.index("pool_mode") + 1] == "pool_idle_timeout"
    back = used.with_value("login_notify_message", "")
    back = back.with_value("pool_idle_timeout", "0")
    assert [row[0] for row in config_rows(back)] == names


def test_set_changes_a_copy(settings):
    changed = settings.with_value("pool_mode", "TRANSACTION")
    assert (changed.pool_mode, settings.pool_mode) == ("transaction", "session")
    assert changed.show("pool_mode") == "transaction"


def test_set_leaves_what_only_a_restart_changes(settings):
    assert settings.with_value("listen_port", "abc") is settings


@pytest.mark.parametrize(
    ("key", "text", "line"),
    [
        ("nosuch", "1", "unknown parameter: pgbouncer/nosuch"),
        ("LOG_STATS", "1", "unknown parameter: pgbouncer/LOG_STATS"),
        ("log_format", "json", "unknown parameter: pgbouncer/log_format"),
        ("pool_mode", "foo", ""),
        ("query_timeout", "-1", ""),
        ("stats_period", "-1", ""),
        (
            "auth_dbname",
            "pgbouncer",
            'cannot use the reserved "pgbouncer" database as an auth_dbname',
        ),
    ],
)
def test_set_refuses(settings, key, text, line):
    with pytest.raises(ConfigError) as refused:
        settings.with_value(key, text)
    assert str(refused.value) == line


def test_show_writes_times_with_six_digits(settings):
    for text, shown in [
        ("1234567.89", "1.23457e+06"),
        ("1e12", "1e+12"),
        ("1e-7", "0"),
        ("0x10", "16"),
        (".5", "0.5"),
        ("5.", "5"),
    ]:
        assert settings.with_value("query_timeout", text).show("query_timeout") == shown
