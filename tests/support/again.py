"""Run a command that runs pytest once; what failed is run once more, each test alone.

    python -m tests.support.again make test

On a busy machine a test can fail by chance. One that passes when it runs alone is
*unsteady*: the log names it (``UNSTEADY: tests/...``), so that somebody mends it, and
the run goes on. The hard part is not to turn green what is red: only single tests of
a session that ran to its end are tried again, a few at most, and each must then pass,
not be skipped. A crashed worker, a file that cannot be collected, an interrupted run,
no tests at all fail as they did. Needs nothing but the standard library.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TESTS_FAILED = 1  # pytest's exit status
# More than chance would have: something is broken.
MOST = 10
# Of a test that runs alone, its fixtures included.
LONGEST_SECONDS = 600


def say(text: str) -> None:
    """A line for whoever reads the log of CI."""
    print(text, flush=True)


def environment(outcomes: Path) -> dict[str, str]:
    """That of a command in which pytest writes *outcomes*."""
    options = os.environ.get("PYTEST_ADDOPTS", "")
    return {
        **os.environ,
        "PYTEST_ADDOPTS": f"{options} -p tests.support.outcomes".strip(),
        "OUTCOMES": str(outcomes),
    }


def sessions(outcomes: Path) -> list[dict[str, Any]]:
    """What the sessions of a command have written."""
    if not outcomes.exists():
        return []
    return [json.loads(line) for line in outcomes.read_text().splitlines()]


def final(written: list[dict[str, Any]]) -> str:
    """Why a failed command may not be tried again; empty when its tests may."""
    if len(written) != 1:
        # Of several the last has failed, and what came behind it was not run.
        return f"{len(written)} sessions of pytest came to an end, not one"
    session = written[0]
    if session["exit"] != TESTS_FAILED or not session["failed"]:
        return f"pytest ended with status {session['exit']}"
    if session["doubts"]:
        return "; ".join(session["doubts"])
    if len(session["failed"]) > MOST:
        return f"{len(session['failed'])} tests failed, which is no chance"
    return ""


def passes_alone(python: str, test: str, outcomes: Path) -> bool:
    """Whether *test* passes, and nothing else happens, in a session of its own."""
    command = [python, "-m", "pytest", "-p", "no:cacheprovider", test]
    try:
        done = subprocess.run(
            command, env=environment(outcomes), timeout=LONGEST_SECONDS
        )
    except subprocess.TimeoutExpired:
        return False
    written = sessions(outcomes)
    return done.returncode == 0 and [
        (session["passed"], session["failed"], session["doubts"]) for session in written
    ] == [([test], [], [])]


def main(command: list[str]) -> int:
    """Run *command*; its exit status, or 0 when all that failed was unsteady."""
    with tempfile.TemporaryDirectory(prefix="outcomes-") as directory:
        place = Path(directory)
        status = subprocess.run(command, env=environment(place / "all")).returncode
        if status == 0:
            return 0
        written = sessions(place / "all")
        if why := final(written):
            say(f"again: nothing is run once more: {why}")
            return status
        session, steady = written[0], []
        for number, test in enumerate(session["failed"]):
            say(f"again: {test}, alone")
            if not passes_alone(session["python"], test, place / str(number)):
                steady.append(test)
        for test in session["failed"]:
            say(f"{'FAILED TWICE' if test in steady else 'UNSTEADY'}: {test}")
        return status if steady else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
