"""The configurations of compat-configs/, moved to where a test can run them.

Replaced is what would reach out of the test: absolute paths, the port, the addresses
to listen on and those of servers, the OS user. Everything else stays as it is.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DIRECTORY = Path(__file__).resolve().parents[2] / "compat-configs"

SETTING = re.compile(r"^(\s*(?:\[pgbouncer\])?)([a-z_0-9]+)(\s*=\s*)(.*?)(\s*)$")
INCLUDE = re.compile(r"^(\s*%include\s+)(\S+)(\s*)$")
ASKS = re.compile(r"(?P<database>.+) as (?P<user>\S+)(?: with (?P<password>.+))?")
HERE = {"logfile", "pidfile"}
# What PostgreSQL and the application of such an installation have.
BESIDE = {"setup.sql", "odoo.conf"}
CERTIFICATES = {
    "client_tls_key_file": "bouncer.key",
    "client_tls_cert_file": "bouncer.crt",
    "client_tls_ca_file": "ca.crt",
    "server_tls_key_file": "certuser.key",
    "server_tls_cert_file": "certuser.crt",
    "server_tls_ca_file": "ca.crt",
}


@dataclass(frozen=True)
class Question:
    """What the second line of a configuration says to ask, and how to get in."""

    database: str
    user: str
    password: str | None = None
    by: str = "tcp"


class Example:
    """One folder."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.name = directory.name
        first, second, *_ = self.lines()
        self.proves = first.removeprefix("; Proves: ")
        self.asks = second.removeprefix("; Asks: ")

    def lines(self) -> list[str]:
        """The lines of pgbouncer.ini."""
        text = (self.directory / "pgbouncer.ini").read_bytes().decode()
        return text.replace("\r\n", "\n").split("\n")

    @property
    def question(self) -> Question | None:
        """What to ask; None if the machine lacks what a login would need."""
        text, by = self.asks, "tcp"
        for ending, way in ((" by socket", "socket"), (" by certificate", "cert")):
            if text.endswith(ending):
                text, by = text.removesuffix(ending), way
        found = ASKS.fullmatch(text)
        if found is None:
            assert text.startswith("nothing, "), self.asks
            return None
        return Question(found["database"], found["user"], found["password"], by)

    @property
    def has_socket(self) -> bool:
        """Whether it has a Unix socket, and so a console without a password."""
        return not any(re.match(r"\s*unix_socket_dir\s*=\s*$", x) for x in self.lines())

    @property
    def setup(self) -> str:
        """SQL that the installation has run in its database."""
        path = self.directory / "setup.sql"
        return path.read_text() if path.exists() else ""

    def install(
        self,
        target: Path,
        port: int = 6432,
        server_port: int = 5432,
        certificates: Path | None = None,
    ) -> Path:
        """Write all files to *target*; the new pgbouncer.ini."""
        moved = Move(target, port, server_port, certificates, self.names())
        for name in self.names():
            text = (self.directory / name).read_bytes().decode()
            if name.endswith(".ini"):
                text = moved.ini(text, name)
            if name == "pgbouncer.ini" and "unix_socket_dir" not in text:
                # The default is a place that all poolers of a machine share.
                start, header, rest = text.rpartition("[pgbouncer]")
                text = f"{start}{header}unix_socket_dir = {target}\n{rest}"
            path = target / name
            path.write_bytes(text.encode())
            path.chmod(0o600)
        return target / "pgbouncer.ini"

    def names(self) -> list[str]:
        """The files of the folder that a pooler reads."""
        found = {path.name for path in self.directory.iterdir() if path.is_file()}
        return sorted(found - BESIDE)


@dataclass
class Move:
    """Replaces places in the text of an ini file."""

    target: Path
    port: int
    server_port: int
    certificates: Path | None
    names: list[str]

    def ini(self, text: str, name: str) -> str:
        """The text of the ini file *name* in its new place."""
        # An included file starts in the section that it was included in.
        section = "databases" if name == "databases.ini" else ""
        lines = []
        for line in text.split("\n"):
            ending = "\r" if line.endswith("\r") else ""
            bare = line.removesuffix("\r")
            if header := re.match(r"\s*\[(\w+)\]", bare):
                section = header[1]
            lines.append(self.line(bare, section) + ending)
        return "\n".join(lines)

    def line(self, line: str, section: str) -> str:
        """One line in its new place."""
        if line.lstrip().startswith((";", "#")):
            return line
        if include := INCLUDE.match(line):
            return f"{include[1]}{self.path(include[2])}{include[3]}"
        if section == "databases" and "=" in line:
            return self.database(line)
        setting = SETTING.match(line)
        if setting is None or section in ("peers", "users", "pybouncer"):
            return line
        start, name, equals, value, end = setting.groups()
        return f"{start}{name}{equals}{self.value(name, value)}{end}"

    def path(self, path: str) -> str:
        """The new place of a file that the folder has."""
        name = path.rsplit("/", 1)[-1]
        return str(self.target / name) if name in self.names else path

    def value(self, name: str, value: str) -> str:
        """The new value of a setting."""
        if name == "listen_port":
            return str(self.port)
        if name == "listen_addr":
            return "127.0.0.1" if value else ""
        if name == "user":
            return ""
        if name == "unix_socket_dir":
            return str(self.target) if value else ""
        if name in HERE:
            return str(self.target / name) if value else ""
        if name in CERTIFICATES and value and self.certificates:
            return str(self.certificates / CERTIFICATES[name])
        return self.path(value) if value else ""

    def database(self, line: str) -> str:
        """A line of [databases] whose servers are the test's."""
        header, sep, rest = line.partition("]") if "[" in line else ("", "", line)
        name, _, text = rest.partition("=")
        several = "," in (found[1] if (found := re.search(HOST, text)) else "")
        text = re.sub(HOST, "", f" {text} ")
        text = re.sub(r" port\s*=\s*\S+", "", text).strip()
        host = "127.0.0.1,127.0.0.1" if several else "127.0.0.1"
        return f"{header}{sep}{name}= host={host} port={self.server_port} {text}"


HOST = re.compile(r" host\s*=\s*(\S+)")


def examples() -> Mapping[str, Example]:
    """All configurations by the name of their folder."""
    found = sorted(path.parent for path in DIRECTORY.glob("*/pgbouncer.ini"))
    return {directory.name: Example(directory) for directory in found}
