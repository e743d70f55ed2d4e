"""systemd, as far as a service sees it."""

import os
import shutil
import socket
import tempfile
from pathlib import Path
from types import TracebackType


class Manager:
    """The end of $NOTIFY_SOCKET that is systemd's."""

    def __init__(self) -> None:
        # Short and open to the service's user: tmp_path is neither.
        self.directory = Path(tempfile.mkdtemp(prefix="manager-"))
        self.directory.chmod(0o755)
        self.path = self.directory / "notify"
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(os.fspath(self.path))
        self.path.chmod(0o666)
        self.sock.settimeout(10)

    def next(self, start: str) -> str:
        """Return the next message that begins with *start*."""
        while True:
            message = self.sock.recv(4096).decode()
            if message.startswith(start):
                return message

    def __enter__(self) -> "Manager":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.sock.close()
        shutil.rmtree(self.directory)


def unit_settings(path: Path) -> dict[str, str]:
    """The [Service] section of a unit file."""
    found, section = {}, ""
    for line in path.read_text().splitlines():
        line = line.strip()
        if line.startswith("["):
            section = line
        elif section == "[Service]" and line and line[0] not in "#;":
            name, _, value = line.partition("=")
            found[name] = value
    return found
