"""The pooler under test: its configuration, process, log, console and vital signs."""

import os
import re
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from bouncer.relay import checked
from tests.replay.pooler import LINE, Pooler, wait_for

from .ground import PASSWORDS, Ground

# What the userlist holds unless a test says otherwise.
USERS = {
    "postgres": "",
    "u_trust": "",
    "admin": "adminpass",
    "stats": "statspass",
    **PASSWORDS,
}
TICKS = os.sysconf("SC_CLK_TCK")


def userlist(users: Mapping[str, str]) -> str:
    """The text of a userlist.txt."""

    def quoted(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    return "".join(f"{quoted(n)} {quoted(secret)}\n" for n, secret in users.items())


class RunningPooler(Pooler):  # type: ignore[misc]
    """One pooler of a test, in a directory of its own.

    *ini* is either a whole file or the settings that differ from the ones below.
    In both, and in *databases* and *more*, ``{port}``, ``{dir}``, ``{pg}`` (the
    server's address for a database line) and ``{certs}`` are replaced.
    """

    def __init__(
        self,
        ground: Ground,
        server_port: int,
        ini: Mapping[str, object] | str = "",
        databases: Mapping[str, str] | None = None,
        users: Mapping[str, str] | None = None,
        more: str = "",
        command: list[str] | None = None,
    ) -> None:
        super().__init__(
            command or ground.command, ground.directory(), ground.identity, "log"
        )
        self.ground, self.server_port = ground, server_port
        self.port = ground.free_port()
        self.ini, self.databases, self.more = ini, databases, more
        self.users = dict(USERS if users is None else users)
        self.write_configuration()

    # Configuration

    def _settings(self, given: Mapping[str, object]) -> dict[str, object]:
        return {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": self.directory,
            "auth_type": "trust",
            "auth_file": self.directory / "userlist.txt",
            "logfile": self.directory / "log",
            "pidfile": self.directory / "pid",
            "admin_users": "admin",
            "stats_users": "stats",
            "ignore_startup_parameters": "extra_float_digits",
            **given,
        }

    def filled(self, text: str) -> str:
        """*text* with the names of this test's places and ports put in."""
        values = {
            "port": self.port,
            "dir": self.directory,
            "pg": f"host=127.0.0.1 port={self.server_port}",
            "certs": self.ground.certificates,
        }
        return re.sub(r"\{(port|dir|pg|certs)\}", lambda m: str(values[m[1]]), text)

    def ini_text(self) -> str:
        """The configuration as it goes into the file."""
        if isinstance(self.ini, str) and self.ini:
            return self.filled(self.ini)
        databases = self.databases or {"p0": "{pg} dbname=p0", "p1": "{pg} dbname=p1"}
        lines = ["[databases]", *(f"{n} = {where}" for n, where in databases.items())]
        lines += ["[pgbouncer]"]
        settings = self._settings(self.ini or {})  # type: ignore[arg-type]
        lines += [
            f"{n} = {value}" for n, value in settings.items() if value is not None
        ]
        return self.filled("\n".join([*lines, self.more, ""]))

    def write_configuration(self) -> None:
        """Write the ini file and the userlist as they are now."""
        files = {"pgbouncer.ini": self.ini_text(), "userlist.txt": userlist(self.users)}
        for name, text in files.items():
            path = self.directory / name
            path.write_text(text)
            path.chmod(0o600)
        self.identity.own(self.directory)

    def reload(self, **settings: object) -> None:
        """Change settings in the file and let the pooler read it again."""
        assert not isinstance(self.ini, str) or not self.ini
        self.ini = {**(self.ini or {}), **settings}
        self.write_configuration()
        self.console("RELOAD")

    # Process

    def run(self, *options: str) -> "RunningPooler":
        """Start it and wait until it is up."""
        self.start(*options, "pgbouncer.ini")
        if not self.wait_until_up():
            raise RuntimeError(
                f"the pooler did not come up (exit status {self.exit_status()}):\n"
                + self.text()
                + "\n".join(self.last_words())
            )
        return self

    @property
    def pid(self) -> int:
        """Its process id."""
        return int(self.process.pid)

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.exit_status() is None

    def interrupt(self, name: str = "SIGINT") -> None:
        """Send it a signal by name."""
        os.kill(self.pid, getattr(signal, name))

    def memory(self) -> int:
        """Resident memory in bytes."""
        return 1024 * int(self._status("VmRSS").split()[0])

    def _status(self, name: str) -> str:
        text = Path(f"/proc/{self.pid}/status").read_text()
        return re.search(rf"^{name}:\s*(.*)$", text, re.M)[1]  # type: ignore[index]

    def cpu(self) -> float:
        """Seconds of processor time, user and system, used so far."""
        return cpu_seconds(self.pid)

    def descriptors(self) -> int:
        """How many descriptors it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    # Log

    def log_matches(self, pattern: str) -> list[str]:
        """Log lines so far, without time and pid, in which *pattern* is found."""
        return [line for line in self.lines() if re.search(pattern, line)]

    def wait_for_log(self, pattern: str, count: int = 1, seconds: float = 10) -> str:
        """Wait until *count* lines match; the last of them."""
        wait_for(
            lambda: len(self.log_matches(pattern)) >= count or not self.is_running(),
            seconds,
        )
        found = self.log_matches(pattern)
        if len(found) < count:
            tail = "\n".join(self.lines()[-15:])
            raise AssertionError(f"no {pattern!r} in the log, which ends:\n{tail}")
        return found[-1]

    def complaints(self) -> list[str]:
        """What a healthy pooler does not write: anything besides log lines."""
        logged, quoting = [], False
        for line in self.text().splitlines():
            if LINE.match(line):
                # Somebody's command may have any number of lines.
                quoting = "invalid command '" in line
            elif not (quoting and line.startswith("\t")):
                logged.append(line)
        return [*logged, *self.last_words(), *self.failed_checks()]

    def failed_checks(self) -> list[str]:
        """What a debug build of ours found wrong with itself, also at its end."""
        failed = self.log_matches("check failed: ")
        counts = checked.is_debug() and self.command == self.ground.command
        if counts and self.exit_status() == 0 and not failed:
            if not self.log_matches("^LOG debug build: "):
                failed.append("a debug build ended without having counted")
        return failed

    # Clients

    def conninfo(self, database: str = "p0", user: str = "u_trust", **more: Any) -> str:
        """A connection string for libpq."""
        given = {"password": self.users.get(user) or None, **more}
        return psycopg.conninfo.make_conninfo(
            **{"host": "127.0.0.1", "port": self.port, **given},
            dbname=database,
            user=user,
        )

    def connect(
        self, database: str = "p0", user: str = "u_trust", **more: Any
    ) -> psycopg.Connection[Any]:
        """A client that commits each statement."""
        return psycopg.connect(self.conninfo(database, user, **more), autocommit=True)

    def console(self, sql: str, user: str = "admin") -> list[dict[str, Any]]:
        """Run a command of the admin console; its rows by column name."""
        with self.connect("pgbouncer", user) as connection:
            connection.prepare_threshold = None
            cursor = connection.cursor(row_factory=dict_row)
            cursor.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def pool(self, database: str = "p0", user: str = "u_trust") -> dict[str, Any]:
        """The row of SHOW POOLS for one pool; empty when it does not exist yet."""
        for row in self.console("SHOW POOLS"):
            if (row["database"], row["user"]) == (database, user):
                return row
        return {}

    def wait_for_pool(
        self,
        condition: Callable[[dict[str, Any]], Any],
        seconds: float = 10,
        **which: str,
    ) -> dict[str, Any]:
        """Wait until SHOW POOLS has a row for which *condition* holds; the row."""
        row: dict[str, Any] = {}

        def holds() -> bool:
            nonlocal row
            row = self.pool(**which)
            return bool(row and condition(row))

        if not wait_for(holds, seconds):
            raise AssertionError(f"SHOW POOLS still has {row}")
        return row


def cpu_seconds(pid: int) -> float:
    """Seconds of processor time, user and system, that process *pid* has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
