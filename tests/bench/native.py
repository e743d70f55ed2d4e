"""The two small C programs of the bench: compiled on the spot, run until the end."""

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.replay.lab import Unusable
from tests.replay.pooler import wait_for

HERE = Path(__file__).parent


def compiled(name: str, directory: Path) -> Path:
    """Compile *name*.c into *directory*; the program."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise Unusable("needs a C compiler: apt-get install gcc")
    program = directory / name
    source = HERE / f"{name}.c"
    done = subprocess.run(
        [compiler, "-O2", "-Wall", "-o", program, source],
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


@contextlib.contextmanager
def running(program: Path, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run *program*; its first argument is the port that it listens on."""
    process = subprocess.Popen(
        [program, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        if not wait_for(lambda: listens(int(str(arguments[0]))), 5):
            raise Unusable(f"{program.name} does not listen")
        yield process
    finally:
        process.kill()
        process.wait()
