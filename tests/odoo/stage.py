"""What `make odoo` stands on: PostgreSQL 18, Odoo 19 and the pooler, started and ended.

The programs are Debian's, unpacked by tests/support/peers. Everything lives in one
directory and runs as the unprivileged user of the tests. The pooler's configuration and
Odoo's are those of compat-configs/odoo, so that docs/odoo.md tells what was tried; only
ports and paths are replaced, and for md5 the lines that differ.
"""

import contextlib
import http.client
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from tests.replay.pooler import Pooler, program_environment
from tests.support.examples import Example, examples
from tests.support.ground import Ground, Postgres, Unusable, wait_for

START = Path(__file__).with_name("start.py")
PEERS = Path(__file__).parents[1] / "support" / "peers"
PACKAGES = ("odoo-19", "postgresql-18")
EXAMPLE = "odoo"
ROLE, DATABASE, TEMPLATE = "odoo", "erp", "erp_template"
MODULES = "base,web,bus,mail,contacts,crm"
MINUTES = 60.0
LONGEST_INIT, LONGEST_START, LONGEST_STOP = 20 * MINUTES, 5 * MINUTES, MINUTES
BEGUN = time.monotonic()


def say(text: str) -> None:
    """A line of progress, with the seconds since the start."""
    print(f"[{time.monotonic() - BEGUN:4.0f} s] {text}", flush=True)


def unpacked(directory: Path, ground: Ground) -> Path:
    """The programs below *directory*, put there if need be; where Odoo can run them.

    A cache below /root is closed to the user that PostgreSQL and Odoo run as: then hard
    links lead to the same files from the directory of this run.
    """
    if any(not (directory / "bin" / name).exists() for name in ("odoo", "postgres")):
        print(f"unpacking {', '.join(PACKAGES)} into {directory} (1.7 GB)", flush=True)
    directory.mkdir(parents=True, exist_ok=True)
    command = ["/usr/bin/python3", PEERS, directory, *PACKAGES]
    if subprocess.run(command, stdin=subprocess.DEVNULL).returncode:
        raise Unusable(f"{' and '.join(PACKAGES)} could not be unpacked")
    if not ground.identity.first_closed([(directory / "bin" / "postgres").resolve()]):
        return directory
    linked: Path = ground.root / "peers"
    near = directory.stat().st_dev == ground.root.stat().st_dev
    copy = os.link if near else shutil.copy2
    state = shutil.ignore_patterns("state")
    shutil.copytree(directory, linked, symlinks=True, ignore=state, copy_function=copy)
    return linked


class Cluster(Postgres):
    """PostgreSQL with Odoo's role, who logs in by md5 or SCRAM, as his secret is."""

    HBA = [
        "local all all trust",
        "host all postgres 127.0.0.1/32 trust",
        "host all all 127.0.0.1/32 md5",
    ]
    SETTINGS = {
        "listen_addresses": "127.0.0.1",
        "timezone": "Etc/UTC",
        "lc_messages": "C",
        "fsync": "off",
        "full_page_writes": "off",
        "shared_buffers": "128MB",
        "max_connections": "200",
    }

    def _prepare(self) -> None:
        if not wait_for(self._accepts, 60):
            told = (self.directory / "log").read_text()[-2000:]
            raise Unusable(f"PostgreSQL did not start: {told}")
        self.version = self.query("show server_version")[0][0]
        self.query(f"create role {ROLE} login createdb")

    def secret(self, method: str, password: str) -> str:
        """Give Odoo's role its password, stored by *method*; what PostgreSQL keeps."""
        self.query(
            f"set password_encryption = '{method}';"
            f" alter role {ROLE} password '{password}'"
        )
        wanted = f"select rolpassword from pg_authid where rolname = '{ROLE}'"
        return str(self.query(wanted)[0][0])

    def databases(self) -> list[str]:
        """What Odoo's role owns, its template excepted."""
        rows = self.query(
            "select datname from pg_database where not datistemplate and"
            f" datdba = '{ROLE}'::regrole"
        )
        return [name for (name,) in rows]


class Process:
    """A program in a process group of its own, and its output in a file."""

    def __init__(
        self, name: str, command: list[Any], out: Path, **options: Any
    ) -> None:
        self.name, self.out = name, out
        with open(out, "ab") as file:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
                **options,
            )

    @property
    def pid(self) -> int:
        """Its process id, which is its group's as well."""
        return self.process.pid

    def text(self) -> str:
        """What it has written so far."""
        return self.out.read_text(errors="replace")

    def wait(self, seconds: float) -> int | None:
        """Its exit status, or None if it has not ended by then."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def members(self) -> set[int]:
        """The living processes of its group."""
        found = set()
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _, group, *_ = path.read_text().rpartition(")")[2].split()
                if int(group) == self.pid and state not in "ZX":
                    found.add(int(path.parent.name))
        return found

    def stop(self, seconds: float = LONGEST_STOP) -> None:
        """SIGTERM to it, then SIGKILL to whatever is left of its group."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.wait(seconds)
        for pid in self.members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


class Odoo(Process):
    """A running Odoo: master, HTTP workers, cron worker, gevent."""

    def __init__(self, stage: "Stage", name: str, server_port: int) -> None:
        self.http, self.gevent = stage.ground.free_port(), stage.ground.free_port()
        conf = stage.directory / f"{name}.conf"
        conf.write_text(stage.odoo_conf(server_port, self.http, self.gevent))
        conf.chmod(0o600)
        stage.ground.identity.own(conf)
        self.master = setting(conf.read_text(), "admin_passwd")
        self.cron_processes = int(setting(conf.read_text(), "max_cron_threads"))
        command = [*stage.odoo, "-c", conf]
        super().__init__(
            name, command, stage.directory / f"{name}.log", **stage.as_user
        )

    def is_up(self) -> bool:
        """Whether its workers and its gevent process answer."""
        return answers(self.http, "/web/health") and answers(
            self.gevent, "/websocket/health"
        )

    def wait_until_up(self) -> "Odoo":
        """Wait until it can be used."""
        ended = self.process.poll
        wait_for(lambda: ended() is not None or self.is_up(), LONGEST_START)
        if ended() is not None or not self.is_up():
            raise Unusable(f"Odoo did not come up:\n{self.text()[-3000:]}")
        return self

    def renew(self) -> None:
        """SIGHUP: new workers, and a new gevent process, instead of the old ones."""
        old = self.members() - {self.pid}
        self.process.send_signal(signal.SIGHUP)
        if not wait_for(lambda: not old & self.members(), LONGEST_START):
            raise Unusable(f"Odoo's old workers stay:\n{self.text()[-3000:]}")
        self.wait_until_up()

    def warnings(self) -> list[str]:
        """What it has logged as an error, the first lines."""
        return re.findall(r"^\S+ \S+ \d+ (?:ERROR|CRITICAL) .*$", self.text(), re.M)


def answers(port: int, path: str) -> bool:
    """Whether an HTTP server answers with 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class Middle(Pooler):  # type: ignore[misc]
    """The pooler, with the configuration of compat-configs/odoo."""

    def __init__(self, stage: "Stage", secret: str, auth_type: str) -> None:
        ground, example = stage.ground, stage.example
        super().__init__(ground.command, ground.directory(), ground.identity)
        self.port = ground.free_port()
        self.config = example.install(
            self.directory, self.port, stage.cluster.port, None
        )
        text = replaced(self.config.read_text(), "auth_type", auth_type)
        for old, new in stage.changes:
            if old not in text:
                raise Unusable(f"no {old!r} in the example's pgbouncer.ini")
            text = text.replace(old, new)
        self.config.write_text(text)
        (self.directory / "userlist.txt").write_text(f'"{ROLE}" "{secret}"\n')
        ground.identity.own(self.directory)

    def run(self) -> "Middle":
        """Start it and wait until it is up."""
        self.start(str(self.config))
        if not self.wait_until_up():
            raise Unusable(f"the pooler did not come up:\n{self.text()}")
        return self

    def _says_up(self) -> bool:
        return "process up: PgBouncer" in self.text()

    def console(self, command: str) -> list[dict[str, Any]]:
        """Rows of a console command, as the pooler's own OS user by the Unix socket."""
        where = {"host": str(self.directory), "port": self.port, "dbname": "pgbouncer"}
        with self.identity.acting():
            connection = psycopg.connect(**where, user="pgbouncer", autocommit=True)
        with connection:
            connection.prepare_threshold = None
            cursor = connection.cursor(row_factory=psycopg.rows.dict_row)
            return cursor.execute(command.encode()).fetchall()

    def problems(self, listeners: int) -> list[str]:
        """What is wrong with it: an end, a traceback, clients that wait for ever.

        When Odoo is quiet, *listeners* of its processes keep a server each.
        """
        if self.exit_status() is not None:
            return [f"the pooler has ended: {self.exit_status()}", *self.last_words()]
        found = [line for line in self.text().splitlines() if "Traceback" in line]
        for row in self.console("SHOW POOLS"):
            if row["cl_waiting"]:
                found.append(f"{row['cl_waiting']} clients wait for {row['database']}")
            if row["database"] == "postgres" and row["sv_active"] != listeners:
                found.append(f"{row['sv_active']} sessions on postgres")
        return found


def setting(text: str, name: str) -> str:
    """The value of a setting in a file of `name = value`."""
    found = re.search(rf"^{name}[ \t]*=[ \t]*(.*?)[ \t]*$", text, re.M)
    if found is None:
        raise Unusable(f"no {name} in the example's configuration")
    return found[1]


def replaced(text: str, name: str, value: object) -> str:
    """*text* with another value of the setting *name*, which must be there."""
    setting(text, name)
    return re.sub(rf"^{name}[ \t]*=.*$", f"{name} = {value}", text, flags=re.M)


class Stage:
    """The cluster, Odoo's programs and the template database."""

    def __init__(self, ground: Ground, peers: Path, pgbin: Path | None) -> None:
        self.ground = ground
        # Texts of the pooler's configuration to replace, for trials.
        self.changes: list[tuple[str, str]] = []
        self.directory = ground.directory()
        self.as_user: dict[str, Any] = {
            **ground.identity.process_options(),
            "cwd": self.directory,
            "env": {**program_environment(), "HOME": str(self.directory)},
        }
        # A checkout may be closed to the user who runs it.
        start = shutil.copy(START, self.directory / START.name)
        self.odoo = [peers / "sid" / "usr" / "bin" / "python3", start]
        self.example: Example = examples()[EXAMPLE]
        question = self.example.question
        assert question is not None and question.password is not None
        assert (question.user, question.database) == (ROLE, DATABASE)
        self.password = question.password
        place = ground.root / "cluster"
        place.mkdir()
        self.bindir = pgbin or (peers / "bin" / "postgres").resolve().parent
        port = ground.free_port()
        self.cluster = Cluster(self.bindir, place, port, ground.identity, None)

    def odoo_conf(self, server_port: int, http_port: int, gevent_port: int) -> str:
        """The example's odoo.conf with other places."""
        text = (self.example.directory / "odoo.conf").read_text()
        places = {
            "db_port": server_port,
            "http_port": http_port,
            "gevent_port": gevent_port,
            "data_dir": self.directory / "data",
            "pg_path": self.bindir,
        }
        for name, value in places.items():
            text = replaced(text, name, value)
        return text

    def filestore(self, database: str) -> Path:
        """Where Odoo keeps the attachments of *database*."""
        return self.directory / "data" / "filestore" / database

    def make_template(self) -> None:
        """Initialise a database once, without a pooler; set-ups begin with a copy."""
        say(f"making a database with {MODULES} (a minute or more)")
        self.cluster.secret("scram-sha-256", self.password)
        conf = self.directory / "template.conf"
        ports = (self.ground.free_port(), self.ground.free_port())
        conf.write_text(self.odoo_conf(self.cluster.port, *ports))
        self.ground.identity.own(conf)
        options = ["-d", TEMPLATE, "-i", MODULES, "--workers=0", "--max-cron-threads=0"]
        command = [*self.odoo, "-c", conf, *options, "--stop-after-init", "--no-http"]
        out = self.directory / "template.log"
        process = Process("template", command, out, **self.as_user)
        try:
            if process.wait(LONGEST_INIT) != 0:
                raise Unusable(f"Odoo could not begin:\n{process.text()[-3000:]}")
        finally:
            process.stop()
        self.cluster.query(f"alter database {TEMPLATE} is_template true")

    def begin(self) -> None:
        """A fresh copy of the template, and nothing of an earlier set-up."""
        for name in self.cluster.databases():
            self.cluster.query(f'drop database "{name}" with (force)')
        for path in self.filestore("").glob("*"):
            if path.name != TEMPLATE:
                shutil.rmtree(path)
        self.cluster.query(
            f"create database {DATABASE} template {TEMPLATE} owner {ROLE}"
        )
        if self.filestore(TEMPLATE).exists():
            shutil.copytree(self.filestore(TEMPLATE), self.filestore(DATABASE))
        self.ground.identity.own(self.directory / "data")

    @contextlib.contextmanager
    def running(self, setup: str) -> Iterator[tuple[Odoo, Middle | None]]:
        """Odoo, `direct`, or behind the pooler with `scram` or `md5`; then ended."""
        self.begin()
        method = "md5" if setup == "md5" else "scram-sha-256"
        secret = self.cluster.secret(method, self.password)
        with contextlib.ExitStack() as ends:
            pooler, port = None, self.cluster.port
            if setup != "direct":
                pooler = Middle(self, secret, method)
                ends.callback(pooler.stop)
                port = pooler.run().port
            begun = time.monotonic()
            odoo = Odoo(self, setup, port)
            ends.callback(odoo.stop)
            odoo.wait_until_up()
            say(f"{setup}: Odoo is up after {time.monotonic() - begun:.0f} s")
            yield odoo, pooler

    def close(self) -> None:
        """Stop PostgreSQL."""
        self.cluster.stop()
