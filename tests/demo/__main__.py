"""Show what a pooler is for: the same pgbench, direct and through pgbouncer.

Starts an embedded PostgreSQL, writes a pgbouncer.ini and a userlist.txt as anybody
would, starts our pgbouncer on them and runs pgbench with a new connection for each
transaction. Everything lives in one temporary directory and is stopped and removed at
the end, also on Ctrl-C. Needs nothing but the standard library and the extra `demo`.
"""

import argparse
import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.replay.lab import PORTS, Identity, Unusable, program_command
from tests.replay.pooler import program_environment, wait_for
from tests.support.embedded import readable_bindir
from tests.support.ports import free_ports

USER, PASSWORD, DATABASE = "shop", "a secret", "shop"
CLIENTS = 4
# The same on both sides. With SCRAM both times are mostly the client's own hashing.
AUTH = "trust"

INI = """\
[databases]
{database} = host=127.0.0.1 port={server_port} dbname={database}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = {auth_type}
auth_file = {directory}/userlist.txt
admin_users = {user}
pool_mode = transaction
default_pool_size = 20
logfile = {directory}/pgbouncer.log
pidfile = {directory}/pgbouncer.pid
{user_line}
"""


class Demo:
    """The stage: a directory, a PostgreSQL, a pooler."""

    def __init__(self, directory: Path, pooler: list[str], seconds: int) -> None:
        self.directory, self.pooler, self.seconds = directory, pooler, seconds
        self.identity = Identity()
        self.server_port, self.port = free_ports(2, PORTS)
        self.processes: list[tuple[str, subprocess.Popen[bytes], int]] = []
        self.begin = time.monotonic()
        directory.chmod(0o755)
        self.identity.own(directory)
        found = readable_bindir(self.identity, directory)
        if found is None:
            raise Unusable("no embedded PostgreSQL: pip install 'pybouncer[demo]'")
        self.bindir = found

    def say(self, text: str) -> None:
        """A line of progress, with the seconds since the start."""
        print(f"[{time.monotonic() - self.begin:4.1f} s] {text}", flush=True)

    def run(self, name: str, *arguments: str, user: bool = False) -> str:
        """Run one of PostgreSQL's programs; what it printed."""
        done = subprocess.run(
            [self.bindir / name, *arguments],
            cwd=self.directory,
            env={**program_environment(), "PGPASSWORD": PASSWORD},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            start_new_session=True,
            **(self.identity.process_options() if user else {}),
        )
        if done.returncode:
            raise Unusable(f"{name} failed:\n{done.stderr.strip()}")
        return done.stdout

    def spawn(
        self, name: str, command: list[str], stop: int, **options: object
    ) -> None:
        """Start a program that runs until the end; Ctrl-C does not reach it."""
        with open(self.directory / f"{name}.out", "wb") as out:
            process = subprocess.Popen(  # type: ignore[call-overload]
                command,
                cwd=self.directory,
                env=program_environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                **options,
            )
        self.processes.append((name, process, stop))

    def wait_until(self, what: str, condition: object) -> None:
        """Wait for *condition*; the end of a program meanwhile is an error."""

        def ended() -> list[str]:
            return [n for n, p, _ in self.processes if p.poll() is not None]

        wait_for(lambda: condition() or ended(), 30)  # type: ignore[operator]
        if ended() or not condition():  # type: ignore[operator]
            told = [
                path.read_text(errors="replace")[-2000:]
                for path in sorted(self.directory.glob("*.out"))
            ]
            raise Unusable(f"{what} did not come up:\n" + "\n".join(told))

    def start_postgresql(self) -> None:
        """An empty cluster with one user and one database."""
        version = self.run("postgres", "--version", user=True).strip()
        self.say(f"starting {version} on port {self.server_port}")
        (self.directory / "initdb.password").write_text(PASSWORD)
        data = str(self.directory / "data")
        self.run(
            "initdb",
            *("-D", data, "-U", USER, f"--auth={AUTH}", "--no-sync"),
            *("--pwfile", str(self.directory / "initdb.password")),
            *("--locale=C", "--encoding=UTF8"),
            user=True,
        )
        settings = {
            "port": self.server_port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
        }
        command = [str(self.bindir / "postgres"), "-D", data]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        self.spawn(
            "postgres", command, signal.SIGINT, **self.identity.process_options()
        )
        self.wait_until("PostgreSQL", lambda: self.is_ready(self.server_port))
        self.psql(self.server_port, "postgres", f"create database {DATABASE}")

    def is_ready(self, port: int) -> bool:
        """Whether a server accepts connections on *port*."""
        program = self.bindir / "pg_isready"
        command = [program, "-q", "-h", "127.0.0.1", "-p", str(port), "-d", DATABASE]
        return subprocess.run(command, stdin=subprocess.DEVNULL).returncode == 0

    def psql(self, port: int, database: str, sql: str) -> str:
        """What psql prints for *sql*."""
        where = f"host=127.0.0.1 port={port} dbname={database} user={USER}"
        return self.run("psql", "-X", "-v", "ON_ERROR_STOP=1", "-c", sql, where)

    def start_pooler(self) -> None:
        """Our pgbouncer, on an ini file and a userlist as PgBouncer reads them."""
        ini = INI.format(
            database=DATABASE,
            server_port=self.server_port,
            port=self.port,
            directory=self.directory,
            user=USER,
            auth_type=AUTH,
            user_line=f"user = {self.identity.name}" if os.getuid() == 0 else "",
        )
        (self.directory / "pgbouncer.ini").write_text(ini)
        # The plain password, since the pooler itself logs in to PostgreSQL with it.
        (self.directory / "userlist.txt").write_text(f'"{USER}" "{PASSWORD}"\n')
        self.identity.own(self.directory)
        command = [*self.pooler, str(self.directory / "pgbouncer.ini")]
        self.say(f"starting {shlex.join(command)}")
        self.spawn("pgbouncer", command, signal.SIGQUIT)
        self.wait_until("pgbouncer", lambda: self.is_ready(self.port))
        print(indented(ini))

    def pgbench(self, port: int) -> dict[str, float]:
        """Latency and rate of pgbench with a new connection per transaction."""
        script = self.directory / "select.sql"
        script.write_text("select 1;\n")
        where = f"host=127.0.0.1 port={port} dbname={DATABASE} user={USER}"
        told = self.run(
            "pgbench",
            *("-n", "-C", "-c", str(CLIENTS), "-T", str(self.seconds)),
            *("-f", str(script), where),
        )
        names = {
            "latency": r"latency average = ([\d.]+) ms",
            "connect": r"average connection time = ([\d.]+) ms",
            "tps": r"tps = ([\d.]+)",
        }
        found = {name: re.search(pattern, told) for name, pattern in names.items()}
        return {name: float(match[1]) for name, match in found.items() if match}

    def compare(self) -> None:
        """The same load, direct and through the pooler."""
        load = f"{CLIENTS} clients, a new connection for each `select 1`"
        self.say(f"pgbench direct, {self.seconds} s: {load}")
        direct = self.pgbench(self.server_port)
        self.say(f"pgbench through pgbouncer, {self.seconds} s: the same")
        self.pgbench_warm()
        pooled = self.pgbench(self.port)
        labels = {
            "connect": "to connect (ms)",
            "latency": "whole transaction (ms)",
            "tps": "transactions per second",
        }
        print(f"\n{'':26}{'direct':>12}{'pgbouncer':>12}{'':>4}")
        for name, label in labels.items():
            if name in direct and name in pooled:
                a, b = direct[name], pooled[name]
                factor = max(a, b) / max(min(a, b), 1e-9)
                word = "more" if name == "tps" else "less"
                print(f"  {label:24}{a:12.2f}{b:12.2f}   {factor:.1f} times {word}")
        print()

    def pgbench_warm(self) -> None:
        """Let the pool open its servers before the clock runs."""
        self.psql(self.port, DATABASE, "select 1")

    def show(self) -> None:
        """The console, as any operator would look at it."""
        for command in ("SHOW POOLS", "SHOW STATS"):
            self.say(f"psql -x pgbouncer -c '{command}'")
            where = f"host=127.0.0.1 port={self.port} dbname=pgbouncer user={USER}"
            told = self.run("psql", "-X", "-x", "-c", command, where)
            blocks = told.strip().split("-[ RECORD")
            ours = [
                b for b in blocks if re.search(rf"^database\s+\| {DATABASE}$", b, re.M)
            ]
            print(indented("\n".join(b.split("\n", 1)[1].rstrip() for b in ours)))

    def stop(self) -> None:
        """Stop what was started, the pooler first."""
        for name, process, how in reversed(self.processes):
            if process.poll() is None:
                self.say(f"stopping {name}")
                process.send_signal(how)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def indented(text: str) -> str:
    """*text*, moved to the right."""
    return "".join(f"    {line}\n" for line in text.strip().splitlines())


@contextlib.contextmanager
def stage(pooler: list[str], seconds: int) -> Iterator[Demo]:
    """A Demo; afterwards nothing of it runs and nothing lies about."""
    directory = Path(tempfile.mkdtemp(prefix="pybouncer-demo-"))
    demo = None
    try:
        demo = Demo(directory, pooler, seconds)
        yield demo
    finally:
        # A second Ctrl-C must not leave a PostgreSQL behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if demo is not None:
            demo.stop()
        shutil.rmtree(directory, ignore_errors=True)


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    beside = Path(sys.executable).with_name("pgbouncer")
    parser.add_argument("--pooler", default=str(beside), help="the pgbouncer to show")
    parser.add_argument("--seconds", type=int, default=5, help="per pgbench run")
    given = parser.parse_args()
    # SIGINT too: in the background of a script it is ignored, and who sends it by hand
    # still wants everything stopped.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        with stage(program_command(given.pooler), given.seconds) as demo:
            demo.start_postgresql()
            demo.start_pooler()
            demo.compare()
            demo.show()
        print("Done; nothing is left running.")
    except Unusable as problem:
        print(f"demo: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; nothing is left running.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
