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
    names = [p.name for p in ROWS if p.section == MAIN]
    assert names == sorted(names)
    assert len(set(PARAMS)) == len(ROWS)


def test_overrides_exist_where_the_table_says():
    places = ((Where.DATABASE, Database), (Where.USER, UserOptions))
    for where, place in places:
        known = {item.name for item in fields(place)}
        said = {
            p.override or p.name for p in ROWS if p.also & where and p.section == MAIN
        }
        assert said <= known


def test_settings_cannot_be_changed(settings):
    with pytest.raises(FrozenInstanceError):
        settings.pool_mode = "statement"


def test_show_config_has_the_rows_of_the_release(settings):
    rows = config_rows(settings)
    assert len(rows) == 99
    shown = {key: (value, default, change) for key, value, default, change in rows}
    assert shown["unix_socket_mode"] == ("511", "0777", "no")
    assert shown["verbose"] == ("0", None, "yes")
    assert shown["auth_file"] == (None, None, "yes")
    assert shown["admin_users"] == ("", "", "yes")
    assert shown["query_wait_timeout"] == ("120", "120", "yes")
    assert not {p.name for p in ROWS if p.section != MAIN} & shown.keys()


def test_show_config_has_what_came_with_1_26_where_it_stands_there(settings):
    order = [row[0] for row in config_rows(settings)]
    assert order[order.index("logfile") + 1] == "login_notify_message"
    assert order[order.index("pkt_buf") + 1] == "pool_idle_timeout"
    assert ("track_extra_parameters", "", "", "no") in config_rows(settings)


def test_show_config_has_suspend_timeout_only_where_the_file_sets_it(settings):
    """PgBouncer has it no longer; a file of before sets it, maybe to its default."""
    names = [row[0] for row in config_rows(settings)]
    assert "suspend_timeout" not in names
    rows = config_rows(settings, {"suspend_timeout": "pgbouncer.ini:7"})
    assert [row[0] for row in rows if row[0] not in names] == ["suspend_timeout"]
    assert ("suspend_timeout", "10", "10", "yes") in rows


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
