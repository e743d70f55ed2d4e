"""Ports that several runs of the tests on one machine hand out."""

import subprocess
import sys
from pathlib import Path

# Takes the first that is free, the same as the other one if that were not seen.
TAKE = """
import random, sys
random.sample = lambda numbers, count: list(numbers)
from tests.replay.lab import own_ports
print(own_ports(1).start, flush=True)
sys.stdin.read()
"""
ROOT = Path(__file__).resolve().parents[3]


def test_runs_with_a_tmpdir_each_have_ports_of_their_own(tmp_path: Path) -> None:
    """Locks below TMPDIR were not seen by a run with another one; with so_reuseport
    both poolers of a port started, and each had half of the other's clients."""
    runs = []
    try:
        for name in ("one", "two"):
            place = tmp_path / name
            place.mkdir()
            run = subprocess.Popen(
                [sys.executable, "-c", TAKE],
                cwd=ROOT,
                env={"TMPDIR": str(place), "PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            runs.append(run)
        first, second = (int(run.stdout.readline()) for run in runs if run.stdout)
        assert first != second
    finally:
        for run in runs:
            run.communicate()
