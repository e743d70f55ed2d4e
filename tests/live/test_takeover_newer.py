"""-R where a PgBouncer from 1.26 on is running: it cannot hand over, and goes on."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import missing
from tests.live.test_takeover import Successor, successor
from tests.replay.lab import Unusable
from tests.support.ground import Ground
from tests.support.real import find_real

__all__ = ["successor"]

FIRST_THAT_CANNOT = (1, 26, 0)


def test_a_running_1_26_is_not_taken_over_and_goes_on(
    lab: Ground, pooler: Any, successor: Callable[..., Successor]
) -> None:
    """It was told to SUSPEND, which it logs as an invalid command."""
    try:
        real = find_real(lab.identity)
    except Unusable as problem:
        missing(str(problem))
    if real.version < FIRST_THAT_CANNOT:
        pytest.skip(f"needs PgBouncer 1.26 or newer, not {real}")
    first = pooler(
        {"logfile": "{dir}/old.log", "server_tls_sslmode": "disable"},
        command=[real.path],
        run=False,
    )
    first.log_file = first.directory / "old.log"
    first.run()
    with first.connect() as client:
        client.execute("begin")
        pid = (first.directory / "pid").read_text()
        second = successor(first, lab.command)
        second.start("-R", second.file)
        assert second.wait_for_exit(20) == 1, second.text()
        version = ".".join(map(str, real.version))
        text = f"FATAL the running PgBouncer {version} cannot hand over its sockets"
        assert text in second.text()
        assert client.execute("select 1").fetchone() == (1,)
        client.execute("commit")
    with first.connect() as another:
        assert another.execute("select 2").fetchone() == (2,)
    assert first.is_running()
    assert (first.directory / "pid").read_text() == pid
    for word in ("SUSPEND", "invalid command", "ERROR", "WARNING"):
        assert word not in first.log_file.read_text()


def test_one_of_ours_is_taken_over_though_it_stands_in_for_1_26(
    lab: Ground, postgres: Any, pooler: Any, successor: Callable[..., Successor]
) -> None:
    """SHOW VERSION is PgBouncer's to everybody but a process of ours."""
    first = pooler({"logfile": "{dir}/old.log"}, may_end=True, run=False)
    first.log_file = first.directory / "old.log"
    first.run()
    assert first.console("SHOW VERSION")[0]["version"].startswith("PgBouncer 1.26")
    assert "pybouncer" not in first.console("SHOW VERSION")[0]["version"]
    second = successor(first, lab.command)
    with first.connect() as client:
        second.take_over()
        assert client.execute("select 1").fetchone() == (1,)
