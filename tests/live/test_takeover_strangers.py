"""Whom -R believes: the directory of the socket may be open to everybody.

The stranger is `nobody`, who listens at the pooler's socket before anybody else does;
only root can start somebody like that.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import missing
from tests.live.test_takeover import Successor, successor
from tests.replay.pooler import wait_for
from tests.support.ground import Ground, Postgres

__all__ = ["successor"]

NOBODY = 65534

# Says that it listens; whatever it is told goes to its standard output.
LISTEN = """
import os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o777)
server.listen()
print("listening", flush=True)
while True:
    peer, _ = server.accept()
    while data := peer.recv(65536):
        print(data, flush=True)
        if b"application_name" in data:
            peer.sendall(b"R\\0\\0\\0\\x08\\0\\0\\0\\0Z\\0\\0\\0\\5I")
"""


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """Return a directory like /tmp."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o1777)
    yield path
    shutil.rmtree(path)


def stranger(path: Path, output: Path) -> subprocess.Popen[bytes]:
    """Start nobody, who listens at *path*."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    if not shutil.which("setpriv"):
        missing("needs setpriv: apt-get install util-linux")
    become = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    program = [shutil.which("python3", path="/usr/bin:/bin") or sys.executable]
    with open(output, "wb") as file:
        process = subprocess.Popen(
            [*become, *program, "-c", LISTEN, str(path)], stdout=file
        )
    assert wait_for(lambda: output.read_bytes().startswith(b"listening"), 10)
    return process


def test_takeover_believes_nobody_else_who_listens_on_the_socket(
    open_directory: Path, tmp_path: Path, pooler: Any
) -> None:
    """It sent SUSPEND and took whatever sockets and users a stranger told of."""
    one = pooler({"unix_socket_dir": open_directory}, may_end=True, run=False)
    if one.identity.entry.pw_uid == NOBODY:
        pytest.skip("the pooler itself is nobody here")
    output = tmp_path / "told"
    listener = stranger(open_directory / f".s.PGSQL.{one.port}", output)
    try:
        one.start("-R", "pgbouncer.ini")
        assert one.wait_for_exit(20) == 1, one.text()
        assert "FATAL takeover: unix:" in one.text()
        assert f"is a socket of uid {NOBODY}, neither ours" in one.text()
        assert output.read_bytes() == b"listening\n"
    finally:
        listener.kill()
        listener.wait()


def test_takeover_waits_for_nobody_elses_pidfile(
    open_directory: Path,
    lab: Ground,
    postgres: Postgres,
    pooler: Any,
    successor: Callable[..., Successor],
) -> None:
    """The clients would have stood still until the stranger removed it."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make somebody else's file")
    first = pooler({"logfile": "{dir}/old.log"}, run=False)
    if first.identity.entry.pw_uid == NOBODY:
        pytest.skip("the pooler itself is nobody here")
    first.log_file = first.directory / "old.log"
    first.run()
    foreign = open_directory / "pid"
    foreign.write_text("1\n")
    os.chown(foreign, NOBODY, NOBODY)
    second = successor(first, lab.command)
    path = first.directory / second.file
    path.write_text(
        path.read_text().replace(str(first.directory / "pid"), str(foreign))
    )
    with first.connect() as client:
        second.start("-R", second.file)
        assert second.wait_for_exit(20) == 1
        assert f"FATAL takeover: pidfile '{foreign}' is uid {NOBODY}'s" in second.text()
        assert client.execute("select 1").fetchone() == (1,)
