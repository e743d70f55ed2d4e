"""`--check --from 1.N`: what has changed since, where it matters; docs say the same."""

import json
import re
from pathlib import Path

import pytest

from bouncer.check.findings import WARNING
from bouncer.check.main import FINE, MISUSED, WARNS, check, check_main
from bouncer.check.since import (
    CHANGES,
    NEWEST,
    UnknownVersion,
    shown,
    version,
)
from bouncer.config.params import PARAMS
from bouncer.pybouncer import check as pybouncer_check
from tests.unit.config.test_check import write  # noqa: F401  (a fixture)

DOCS = Path(__file__).resolve().parents[3] / "docs" / "migration.md"
# What SHOW CONFIG of Debian's 1.18.0 and 1.24.1 has as another default than 1.26.1.
OLD_DEFAULTS = {
    (18, 0): {
        "client_tls_ciphers": "fast",
        "server_check_query": "select 1",
        "server_tls_ciphers": "fast",
        "server_tls_sslmode": "disable",
    },
    (24, 1): {
        "server_check_query": "select 1",
        "track_extra_parameters": "IntervalStyle",
    },
}
# Of 1.26.1, and not off by default; what 1.18.0 does not know.
NEW_DEFAULTS = {
    "cancel_wait_timeout": "10",
    "max_prepared_statements": "200",
    "query_wait_notify": "5",
}
LOCAL = "[databases]\na = host=/run/postgresql\n"
REMOTE = "[databases]\na = host=10.0.0.1\n"
SHARED = "pool_mode = transaction\n"


def told(path, since):
    """The names of the changes that are told, with the lines."""
    before, _ = check(path, online=False)
    findings, _ = check(path, online=False, since=version(since))
    new = findings[len(before) :]
    assert findings[: len(before)] == before
    assert all(one.level == WARNING for one in new)
    names = {change.name for change in CHANGES}
    found = {}
    for one in new:
        first = one.text.partition(": before")[0]
        found[first if first in names else one.setting] = one.line
    return found


# The table


def test_defaults_that_have_changed_are_in_the_table():
    """As the real ones show them; a default without a row would surprise somebody."""
    for since, defaults in OLD_DEFAULTS.items():
        for name, value in defaults.items():
            [change] = [one for one in CHANGES if one.name == name]
            assert change.since > since
            assert change.before == value
            default = PARAMS[name].default or "empty"
            assert change.now.partition(":")[0] == default
    for name, value in NEW_DEFAULTS.items():
        [change] = [one for one in CHANGES if one.name == name]
        assert PARAMS[name].default == value
        assert change.since > (18, 0) and value in change.now


def test_table_is_in_order_and_of_versions_that_are_known():
    assert [change.since for change in CHANGES] == sorted(one.since for one in CHANGES)
    assert all(12 < change.since[0] <= NEWEST for change in CHANGES)
    for change in CHANGES:
        name, _, value = change.keep.partition(" = ")
        if change.keep:
            PARAMS[name].parse(value)


def test_docs_have_the_same_table():
    text = DOCS.read_text().partition("## What has changed since your version")[2]
    rows = []
    for part in text.split("\n## ")[0].split("\n### ")[1:]:
        title, _, table = part.partition("\n")
        numbers = [int(number) for number in re.findall(r"1\.(\d+)", title)]
        for line in table.split("\n"):
            cells = [cell.strip().replace("`", "") for cell in line.split("|")[1:-1]]
            if cells and re.match(r"1\.", cells[0]):
                rows.append(tuple(cells))
                since = version(cells[0])
                # The newest that it can matter to is one of the table's.
                last = since[0] if since[1] else since[0] - 1
                low = 0 if "older" in title else numbers[0]
                assert low <= last <= numbers[-1], cells
    assert rows == [
        (shown(one.since), one.name, one.before, one.now, one.keep) for one in CHANGES
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [("1.18", (18, 0)), ("1.24.1", (24, 1)), ("1.12", (12, 0)), ("1.26.1", (26, 1))],
)
def test_versions(text, found):
    assert version(text) == found


@pytest.mark.parametrize(
    "text", ["", "1", "18", "1.11", "1.27", "2.18", "1.18.0.1", "1.18 ", "1.x", "v1.18"]
)
def test_texts_that_are_no_version(text):
    with pytest.raises(UnknownVersion):
        version(text)


# Where it matters


def test_nothing_is_told_without_a_version(write, capsys):  # noqa: F811
    path = write(REMOTE)
    assert check_main(["--offline", path]) == FINE
    assert "before 1." not in capsys.readouterr().out


def test_who_comes_from_debian_12(write, capsys):  # noqa: F811
    path = write(SHARED + REMOTE)
    assert set(told(path, "1.18")) == {
        "server_tls_sslmode",
        "SIGTERM",
        "max_prepared_statements",
        "server_check_query",
        "query_wait_notify",
        "tracked parameters",
    }
    assert check_main(["--offline", "--from", "1.18", path]) == WARNS
    assert (
        "pgbouncer.ini: warning: server_tls_sslmode: before 1.20: disable; now: "
        "prefer: TLS with every server that offers it, which costs CPU "
        "(server_tls_sslmode = disable keeps it)\n"
    ) in capsys.readouterr().out


def test_what_the_file_sets_has_not_changed(write):  # noqa: F811
    path = write(
        f"{SHARED}server_tls_sslmode = disable\nmax_prepared_statements = 0\n"
        f"server_check_query = select 1\nquery_wait_notify = 0\n"
        f"track_extra_parameters = work_mem\n{REMOTE}"
    )
    assert set(told(path, "1.18")) == {"SIGTERM"}
    assert set(told(path, "1.23")) == set()


def test_later_versions_have_less_to_learn(write):  # noqa: F811
    path = write(SHARED + REMOTE)
    sizes = [len(told(path, f"1.{number}")) for number in range(12, NEWEST + 1)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 5 and sizes[-1] == 0
    assert "auth_query" not in told(path, "1.24.1")


@pytest.mark.parametrize(
    ("since", "rest", "name", "line"),
    [
        ("1.12", "server_tls_sslmode = require\n" + REMOTE, "server_tls_protocols", 0),
        ("1.15", "foo = 1\n" + LOCAL, "mistakes", 0),
        ("1.16", LOCAL, "auth_file", 3),
        ("1.18", "listen_addr = 10.0.0.9\n" + LOCAL, "listen_addr", 4),
        ("1.19", "[databases]\n* = host=h\n", "server_tls_sslmode", 0),
        ("1.20", REMOTE, "server_tls_ciphers", 0),
        (
            "1.19",
            "server_tls_sslmode = prefer\nserver_tls_ciphers = fast\n" + REMOTE,
            "server_tls_ciphers",
            5,
        ),
        (
            "1.19",
            "ignore_startup_parameters = x, options\n" + LOCAL,
            "options in startup packets",
            4,
        ),
        (
            "1.20",
            LOCAL[:-1] + " user=u password=x min_pool_size=2\n",
            "min_pool_size",
            5,
        ),
        ("1.20", "peer_id = 1\n" + LOCAL + "[peers]\n2 = host=h\n", "peers", 8),
        ("1.22", LOCAL, "SIGTERM", 0),
        ("1.23", LOCAL[:-1] + " pool_mode=statement\n", "max_prepared_statements", 0),
        ("1.23", LOCAL[:-1] + " pool_size=0\n", "default_pool_size", 5),
        ("1.24", "auth_user = alice\n" + LOCAL, "auth_query", 0),
        ("1.24", LOCAL[:-1] + " auth_user=alice\n", "auth_query", 5),
        ("1.24", LOCAL, "server_check_query", 0),
        ("1.25", SHARED + LOCAL, "tracked parameters", 0),
        (
            "1.25",
            "track_extra_parameters = IntervalStyle\n" + LOCAL,
            "track_extra_parameters",
            4,
        ),
        ("1.25", "query_timeout = 500\n" + LOCAL, "query_timeout", 4),
        ("1.25", "[users]\nu = query_timeout=5\n" + LOCAL, "query_timeout", 5),
        (
            "1.26",
            "ignore_startup_parameters = TimeZone x\n" + LOCAL,
            "ignore_startup_parameters",
            4,
        ),
    ],
)
def test_change_is_told_where_it_matters(write, since, rest, name, line):  # noqa: F811
    assert told(write(rest), since)[name] == line


@pytest.mark.parametrize(
    ("since", "rest", "name"),
    [
        ("1.12", LOCAL, "client_tls_protocols"),
        ("1.12", REMOTE, "server_tls_protocols"),
        ("1.12", "server_tls_sslmode = require\n" + LOCAL, "server_tls_protocols"),
        ("1.15", LOCAL, "mistakes"),
        ("1.16", "auth_type = any\n" + LOCAL, "auth_file"),
        ("1.18", "listen_addr = *\n" + LOCAL, "listen_addr"),
        ("1.18", "listen_addr = 127.0.0.1\n" + LOCAL, "listen_addr"),
        ("1.18", LOCAL, "server_tls_sslmode"),
        ("1.18", "[databases]\n* = host=/run/x\n", "server_tls_sslmode"),
        ("1.18", REMOTE, "server_tls_ciphers"),
        ("1.20", "min_pool_size = 2\n" + LOCAL, "min_pool_size"),
        ("1.20", LOCAL, "peers"),
        ("1.23", LOCAL, "max_prepared_statements"),
        ("1.23", LOCAL, "default_pool_size"),
        ("1.24", "auth_user = a\nauth_query = select $1\n" + LOCAL, "auth_query"),
        ("1.24", LOCAL, "auth_query"),
        ("1.24", "query_wait_timeout = 4\n" + LOCAL, "query_wait_notify"),
        ("1.25", LOCAL, "tracked parameters"),
        (
            "1.25",
            "query_timeout = 500\nidle_transaction_timeout = 9\n" + LOCAL,
            "query_timeout",
        ),
    ],
)
def test_change_is_not_told_where_it_does_not(write, since, rest, name):  # noqa: F811
    assert name not in told(write(rest), since)


# The command line


def test_both_commands_know_the_option(write, capsys):  # noqa: F811
    path = write(REMOTE)
    assert pybouncer_check(["--offline", "--from", "1.18", path]) == 1
    assert "before 1.20" in capsys.readouterr().out
    assert check_main(["--json", "--offline", "--from=1.18", path]) == WARNS
    settings = [
        one["setting"] for one in json.loads(capsys.readouterr().out)["findings"]
    ]
    assert "server_tls_sslmode" in settings


def test_unknown_version_is_a_bad_command_line(write, capsys):  # noqa: F811
    assert check_main(["--from", "1.5", write(REMOTE)]) == MISUSED
    assert "no version from 1.12 to 1.26" in capsys.readouterr().err
