"""Tests, and what they start, do not depend on who started them."""

import os
import re
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

# Everything that a starter can leave behind, in one: what `make test &` in a script,
# nohup, cron, a service or somebody's profile would.
STRANGE = """
trap '' HUP INT QUIT TERM USR1 USR2 ALRM TSTP
umask 077
ulimit -S -n 256
export PGHOST=/nowhere PGUSER=nobody PGSSLMODE=verify-full PGSERVICE=none
export NOTIFY_SOCKET=/nowhere LISTEN_FDS=3 LISTEN_PID=$$ TZ=Asia/Kolkata
export LC_ALL=C LANG=tr_TR.UTF-8
exec "$@" <&-
"""
BLOCKING = (
    "import os, signal, sys; "
    "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD}); "
    "os.execvp(sys.argv[1], sys.argv[1:])"
)
# A child that Popen starts says what it has been given.
TELLS = "import os; print(open('/proc/self/status').read()); print(os.environ)"


# The C library keeps these for its threads: nobody can change what is done with them.
KEPT = {32, 33}


def signals_of(status: str, name: str) -> set[int]:
    """The signals in one of the masks of /proc/PID/status."""
    mask = int(re.search(rf"^{name}:\s*(\w+)", status, re.M)[1], 16)  # type: ignore[index]
    return {number for number in range(1, 65) if mask >> number - 1 & 1} - KEPT


def test_what_tests_start_is_given_nothing_strange() -> None:
    # Without site: Python itself ignores SIGPIPE and SIGXFSZ.
    command = [sys.executable, "-ISc", TELLS]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert signals_of(told, "SigIgn") <= {signal.SIGPIPE, signal.SIGXFSZ}
    assert signals_of(told, "SigBlk") == set()
    assert re.search(r"^Umask:\s*0022$", told, re.M)
    assert not re.search(r"'(PG(?!BOUNCER)|NOTIFY_|LISTEN_|TZ)\w*'", told)


def test_tests_themselves_run_in_ordinary_ways(tmp_path: Path) -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    for fd in range(3):
        os.fstat(fd)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft >= min(hard, 4096)
    (tmp_path / "file").touch()
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


def strangely(*command: str) -> subprocess.CompletedProcess[str]:
    """Run *command* as somebody with odd habits would."""
    return subprocess.run(
        [sys.executable, "-c", BLOCKING, "sh", "-c", STRANGE, "sh", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        start_new_session=True,
    )


@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["alone", "worker"])
def test_a_strange_starter_changes_nothing(workers: tuple[str, ...]) -> None:
    """`make test` in the background of a script made children deaf for SIGINT."""
    module = str(Path(__file__).relative_to(ROOT))
    command = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v")
    names = [
        test_what_tests_start_is_given_nothing_strange.__name__,
        test_tests_themselves_run_in_ordinary_ways.__name__,
    ]
    done = strangely(*command, *workers, *(f"{module}::{name}" for name in names))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
