"""The small programs of the bench, two of them in C: run until the end."""

import contextlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tests.replay.lab import Unusable
from tests.replay.pooler import wait_for

HERE = Path(__file__).parent


def compiled(name: str, directory: Path, *options: str) -> Path:
    """Compile *name*.c into *directory*; the program, or library."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise Unusable("needs a C compiler: apt-get install gcc")
    program = directory / name
    source = HERE / f"{name}.c"
    done = subprocess.run(
        [compiler, "-O2", "-Wall", *options, "-o", program, source],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise Unusable(f"{name}.c does not compile: {done.stderr}")
    return program


def listens(port: int) -> bool:
    """Whether somebody accepts connections on *port*."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def far_away(
    port: int, target: int, milliseconds: float
) -> AbstractContextManager[Any]:
    """Let *port* lead to *target*, so much later in each direction."""
    python = [sys.executable, "-m", "tests.bench.far"]
    return running(python, port, target, milliseconds)


@contextlib.contextmanager
def running(
    program: Path | list[str], *arguments: object
) -> Iterator[subprocess.Popen[bytes]]:
    """Run *program*; its first argument is the port that it listens on."""
    command = program if isinstance(program, list) else [str(program)]
    process = subprocess.Popen(
        [*command, *map(str, arguments)],
        cwd=HERE.parents[1],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        if not wait_for(lambda: listens(int(str(arguments[0]))), 5):
            raise Unusable(f"{command[-1]} does not listen")
        yield process
    finally:
        process.kill()
        process.wait()
