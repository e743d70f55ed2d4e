"""A real HAProxy of one test: its file, process and socket."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ha.errors import HAProxyError
from ha.haproxy import HAProxy, Row

HAPROXY = shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin")
INSTALL = "apt-get install haproxy"


def wait_for(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Wait until *condition* is true; returns its last value."""
    ends = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < ends:
        time.sleep(0.02)
    return value


def accepts(text: str, directory: Path) -> str:
    """What `haproxy -c` has against *text*; empty when it accepts it."""
    path = directory / "checked.cfg"
    path.write_text(text)
    assert HAPROXY
    done = subprocess.run(
        [HAPROXY, "-c", "-f", path], capture_output=True, text=True, cwd=directory
    )
    problems = [
        line
        for line in (done.stdout + done.stderr).splitlines()
        if "[WARNING]" in line or "[ALERT]" in line
    ]
    return "\n".join(problems) or ("" if done.returncode == 0 else "refused")


class Balancer:
    """One HAProxy process, master-worker when *master* is given."""

    def __init__(self, directory: Path, text: str, master: bool = False) -> None:
        self.directory = directory
        self.file = directory / "haproxy.cfg"
        self.file.write_text(text)
        self.master = directory / "master.sock" if master else None
        self.log = directory / "haproxy.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> str:
        """The admin socket, which the file must name."""
        return str(self.directory / "admin.sock")

    @property
    def haproxy(self) -> HAProxy:
        """A client of it."""
        return HAProxy(self.socket, 2.0, str(self.master) if self.master else None)

    def start(self) -> Balancer:
        """Start it and wait for its socket."""
        assert HAPROXY
        command = [HAPROXY, "-f", str(self.file)]
        if self.master:
            command += ["-W", "-S", f"{self.master},level,admin"]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.directory,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        if not wait_for(self.answers, 10):
            raise RuntimeError(self.log.read_text())
        return self

    def answers(self) -> bool:
        """Does the process of this object answer?"""
        try:
            info = self.haproxy.info()
        except HAProxyError:
            return False
        return bool(self.master) or info["Pid"] == str(
            self.process and self.process.pid
        )

    def stop(self) -> None:
        """Stop it, workers included."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def row(self, backend: str, server: str) -> Row:
        """One server's row."""
        row = self.haproxy.picture().server(backend, server)
        assert row is not None
        return row

    def status(self, backend: str, server: str) -> str:
        """One server's status as HAProxy writes it."""
        return self.row(backend, server).status.text

    def wait_status(self, backend: str, server: str, *texts: str) -> str:
        """Wait until the status is one of *texts*; fails with what it is instead."""
        wait_for(lambda: self.status(backend, server) in texts)
        found = self.status(backend, server)
        assert found in texts, f"{found}: {self.row(backend, server)}"
        return found


@contextlib.contextmanager
def running(directory: Path, text: str, master: bool = False) -> Iterator[Balancer]:
    """A started balancer that is stopped at the end."""
    balancer = Balancer(directory, text, master)
    try:
        yield balancer.start()
    finally:
        balancer.stop()
