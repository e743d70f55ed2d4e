"""After a crash: what is left of it, and what the next start finds."""

import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.live.test_process_life import RootIdentity
from tests.replay.pooler import wait_for
from tests.support.ground import Ground

DEAD_END = {"server_port": 1, "databases": {"p0": "host=127.0.0.1 port=1"}}


@pytest.mark.parametrize("place", ["logfile", "stderr"])
def test_fatal_signal_tells_where_each_thread_was(pooler: Any, place: str) -> None:
    """A segmentation fault left no trace of where it was."""
    more = {} if place == "logfile" else {"logfile": None}
    one = pooler(more, may_end=True, **DEAD_END)
    one.interrupt("SIGSEGV")
    assert wait_for(lambda: not one.is_running(), 10)
    assert one.exit_status() == -signal.SIGSEGV
    file = one.directory / "log" if place == "logfile" else one.stderr
    text = file.read_text()
    assert "Fatal Python error: Segmentation fault" in text
    assert "most recent call first" in text and 'cli.py", line' in text
    file.write_text("")


def test_rotated_log_gets_the_traces(pooler: Any) -> None:
    one = pooler(may_end=True, **DEAD_END)
    (one.directory / "log").rename(one.directory / "log.1")
    one.console("RELOAD")
    one.console("SHOW VERSION")
    one.wait_for_log("login attempt")
    one.interrupt("SIGABRT")  # what systemd's watchdog sends
    assert wait_for(lambda: not one.is_running(), 10)
    text = (one.directory / "log").read_text()
    assert "Fatal Python error: Aborted" in text
    assert "Fatal" not in (one.directory / "log.1").read_text()
    (one.directory / "log").write_text("")


def test_start_after_a_crash_takes_the_place_of_the_dead(pooler: Any) -> None:
    """Its socket and pid file are still there."""
    one = pooler(may_end=True, **DEAD_END)
    one.interrupt("SIGKILL")
    assert wait_for(lambda: not one.is_running(), 10)
    assert (one.directory / "pid").exists()
    one.run()
    one.wait_for_log("process up", 2)
    assert one.console("SHOW VERSION")
    assert one.log_matches("stale pidfile, removing")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("limit", [0, resource.RLIM_INFINITY])
def test_core_is_possible_after_a_switch_of_user_where_it_is_asked_for(
    lab: Ground, pooler: Any, limit: int
) -> None:
    """The kernel forbids it to whoever was root; whose /proc shows that."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if limit and hard != resource.RLIM_INFINITY:
        limit = hard
    one = pooler(run=False, **DEAD_END)
    one.command = ["prlimit", f"--core={limit}:{hard}", *one.command]
    one.identity = RootIdentity()
    one.run("-u", lab.identity.name)
    owner = Path(f"/proc/{one.pid}/environ").stat().st_uid
    assert bool(owner) == bool(limit)
