"""Play inputs of a target through whatever build of ours is imported; no fuzzer here.

    python -m tests.fuzz.play TARGET FILE...

is how a find is looked at. `batch` plays many in a child process that tells how far it
got, so that an input that kills the process is named, and the rest is played too.
"""

import gc
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence

from tests.fuzz.steps import unpack
from tests.fuzz.targets import settle, target

PATIENCE = 60  # seconds that one input may take
OUTPUT_KEPT = 4000  # characters of what a child said


def play(name: str, raw: bytes) -> None:
    """Play one input; raises what was wrong."""
    setup, steps = unpack(raw)
    target(name).run(setup, steps)


def child(name: str, inputs: Sequence[tuple[str, bytes]], out: int) -> None:
    """Play them all, a byte to *out* for each; says and stops at the first problem."""
    # Whoever forked us may keep warnings, and with them what would have been freed.
    sys.unraisablehook = sys.__unraisablehook__
    warnings.simplefilter("ignore")
    target(name)
    settle()
    gc.collect()
    gc.freeze()
    for _, raw in inputs:
        signal.alarm(PATIENCE)
        play(name, raw)
        os.write(out, b".")


def some(name: str, inputs: Sequence[tuple[str, bytes]]) -> tuple[int, str]:
    """Fork, play; how many went well, and what the next one died of ("" if none)."""
    ours, theirs = os.pipe()
    said, says = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.dup2(says, 1)
            os.dup2(says, 2)
            child(name, inputs, theirs)
            status = 0
        except BaseException:
            os.write(2, traceback.format_exc().encode("utf-8", "replace"))
        finally:
            os._exit(status)
    os.close(theirs)
    os.close(says)
    words = b""
    with open(said, "rb") as file:
        words = file.read()
    with open(ours, "rb") as file:
        played = len(file.read())
    _, status = os.waitpid(pid, 0)
    if status == 0:
        return played, ""
    ended = os.waitstatus_to_exitcode(status)
    how = f"signal {-ended}" if ended < 0 else "an exception"
    return played, f"{how}\n{words.decode('utf-8', 'replace')[-OUTPUT_KEPT:]}"


def batch(name: str, inputs: Sequence[tuple[str, bytes]]) -> dict[str, str]:
    """Play all *inputs* (name, bytes); what went wrong, by name."""
    wrong = {}
    left = list(inputs)
    while left:
        played, problem = some(name, left)
        if problem:
            wrong[left[min(played, len(left) - 1)][0]] = problem
            played += 1
        left = left[played:] if problem else []
    return wrong


def main(arguments: list[str]) -> None:
    """Play files, in this process: a debugger can look."""
    if len(arguments) < 2:
        raise SystemExit(__doc__)
    name, *files = arguments
    settle()
    for file in files:
        with open(file, "rb") as opened:
            raw = opened.read()
        setup, steps = unpack(raw)
        print(f"{file}: setup {setup.hex()}")
        for step in steps:
            print(f"  {step.what} by {step.who}: {step.data!r}")
        sys.stdout.flush()
        play(name, raw)
        print("  nothing wrong")


if __name__ == "__main__":
    main(sys.argv[1:])
