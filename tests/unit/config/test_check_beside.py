"""`--check` of what is ours: FILE.pybouncer, and sections for single names."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bouncer.check.findings import NOTE
from bouncer.check.main import FINE, check, status_of

INI = "[databases]\nx = host=127.0.0.1\n[pgbouncer]\nauth_type = any\n"


@pytest.fixture
def write(here: Path) -> Callable[..., str]:
    """Write the ini with something behind it, and the file beside; its name."""

    def to_disk(rest: str = "", beside: str | None = None) -> str:
        start = f"{INI}unix_socket_dir = {here}\nlisten_addr = 127.0.0.1\n"
        (here / "pgbouncer.ini").write_text(start + rest)
        if beside is not None:
            (here / "pgbouncer.ini.pybouncer").write_text(beside)
        return "pgbouncer.ini"

    return to_disk


def told(path: str) -> list[str]:
    """The findings in one line each, but for those that have nothing to do with us."""
    return [str(one) for one in check(path, online=False)[0] if one.file != ""]


def about_ours(path: str) -> list[str]:
    """Those of the file beside, or of a section of ours."""
    return [one for one in told(path) if "pybouncer" in one]


def test_section_in_the_ini_is_noted_and_costs_no_exit_status(
    write: Callable[..., str],
) -> None:
    path = write("[pybouncer]\nparallel_logins = 2\n")
    assert about_ours(path) == [
        "pgbouncer.ini:7: note: PgBouncer itself would not start with a section "
        "[pybouncer] (pgbouncer.ini.pybouncer may have it, which PgBouncer never reads)"
    ]
    findings, _ = check(path, online=False)
    assert status_of(findings) == status_of(check(write(), online=False)[0])
    notes = [one for one in findings if one.level == NOTE]
    assert status_of(notes) == FINE


def test_file_beside_is_fine(write: Callable[..., str]) -> None:
    beside = (
        "[pybouncer]\nfair_wait = 250ms\n[pybouncer.databases]\nx = parallel_logins=2\n"
        "[pybouncer.users]\nuser = parallel_logins=2\n"
    )
    assert about_ours(write("", beside)) == []


def test_line_for_a_database_that_is_nowhere_is_told(write: Callable[..., str]) -> None:
    """Unless `*` may make it."""
    beside = "[pybouncer.databases]\nsohp = parallel_logins=2\n* = parallel_logins=3\n"
    told_of = "[databases]\nshop = host=127.0.0.1\n"
    assert about_ours(write(told_of, beside)) == [
        'pgbouncer.ini.pybouncer:2: warning: sohp: there is no database "sohp", '
        "so this line does nothing (did you mean shop?)"
    ]
    assert about_ours(write(told_of + "* = host=127.0.0.1\n", beside)) == []


@pytest.mark.parametrize(
    ("beside", "text"),
    [
        (
            "[pgbouncer]\nx = 1\n",
            ":1: error: [pgbouncer]: only sections of pybouncer may stand in",
        ),
        ("fair_wait = 1\n", ":1: error: fair_wait: stands before the first section"),
        (
            "[pybouncer]\nfair_wait = 3 days\n",
            ':2: error: fair_wait: "3 days" is not a number of seconds '
            "(seconds, or a number with ms, s, min or h)",
        ),
        (
            "[pybouncer.databases]\nx = parallel_login=2\n",
            ":2: error: x: unrecognized database parameter: parallel_login "
            "(did you mean parallel_logins?)",
        ),
        (
            "[pybouncer.users]\nx = parallel_logins=0\n",
            ":2: error: x: invalid parallel_logins: 0",
        ),
        (
            "[pybouncer.database]\n",
            ":1: error: unknown section [pybouncer.database] "
            "(did you mean [pybouncer.databases]?)",
        ),
    ],
)
def test_mistake_in_the_file_beside_is_named(
    write: Callable[..., str], beside: str, text: str
) -> None:
    found = about_ours(write("", beside))
    assert len(found) == 1
    assert found[0].startswith(f"pgbouncer.ini.pybouncer{text}")
