"""The process: how it starts, goes to the background, is told things, and ends.

What also makes sense for PgBouncer passes against it: `make live POOLER=...`.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bouncer.options import HELP
from tests.replay.pooler import program_environment, wait_for
from tests.support.ground import Ground
from tests.support.pooler import RunningPooler
from tests.support.systemd import Manager

NO_SERVER = {"nowhere": "host=127.0.0.1 port=1"}
ALONE: dict[str, Any] = {"server_port": 1, "databases": NO_SERVER}


def run(lab: Ground, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run the pooler to its end."""
    return subprocess.run(
        [*lab.command, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        stdin=subprocess.DEVNULL,
        env=program_environment() | more.pop("env", {}),
        **more,
    )


def is_ours(lab: Ground) -> bool:
    """Whether the pooler under test is ours."""
    return "pybouncer" in run(lab, "--version").stdout


# The command line


def test_version_and_help_go_to_stdout(lab: Ground) -> None:
    version = run(lab, "-V", "--nonsense")
    assert (version.returncode, version.stderr) == (0, "")
    assert re.match(r"PgBouncer \d+\.\d+\.\d+\n", version.stdout)
    assert "\ntls: OpenSSL " in version.stdout
    shown = run(lab, "a", "b", "--hel")
    assert (shown.returncode, shown.stderr) == (0, "")
    # PgBouncer's own, to the byte; what is ours is listed by `pybouncer --help`.
    name = shown.stdout.split(" ", 1)[0]
    assert shown.stdout == HELP.format(argv0=name)
    assert "reboot" not in shown.stdout and "--check" not in shown.stdout


def test_usage_errors_go_to_stderr(lab: Ground) -> None:
    wrong = run(lab, "-qX", "a.ini")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    first, second = wrong.stderr.splitlines()
    assert first.endswith(": invalid option -- 'X'")
    assert second.startswith('Try "') and second.endswith(
        ' --help" for more information.'
    )


# Starts that fail

Broken = Callable[[RunningPooler], None]


def fails(pooler: RunningPooler, *options: str) -> list[str]:
    """Start it, see it end with 1; return what it says in the end."""
    pooler.start(*options, "pgbouncer.ini")
    assert pooler.wait_for_exit(10) == 1
    return [line for line in pooler.lines() if not line.startswith("LOG ")]


def test_start_with_a_broken_file_ends(pooler: Any) -> None:
    broken = pooler({"no_such": 1}, run=False, may_end=True, **ALONE)
    broken.log_file = None
    lines = fails(broken)
    assert lines[0] == "ERROR unknown parameter: pgbouncer/no_such"
    assert lines[-1] == "FATAL cannot load config file"


@pytest.mark.regression(126)
def test_start_beside_a_running_one_ends(pooler: Any) -> None:
    first = pooler({}, **ALONE)
    second = pooler({}, run=False, may_end=True, **ALONE)
    second.ini = {"unix_socket_dir": first.directory, "listen_port": first.port}
    second.write_configuration()
    assert fails(second) == ["FATAL unix socket is in use, cannot continue"]
    second.ini = {"pidfile": first.directory / "pid"}
    second.write_configuration()
    path = first.directory / "pid"
    assert fails(second)[1:] == [
        f"FATAL pidfile '{path}' exists, another instance running?"
    ]


def test_start_on_a_taken_port_ends(pooler: Any) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        one = pooler({"listen_port": port}, run=False, may_end=True, **ALONE)
        lines = fails(one)
    assert lines[0] == (
        f"WARNING cannot listen on 127.0.0.1:{port}: bind(): Address already in use"
    )
    assert lines[1].startswith(
        "FATAL failed to listen on any address in listen_addr list: 127.0.0.1"
    )


@pytest.mark.parametrize(
    ("settings", "options", "line"),
    [
        ({"listen_addr": "", "unix_socket_dir": ""}, (), "nowhere to listen on"),
        ({"pidfile": None}, ("-d",), "daemon needs pidfile configured"),
        (
            {"user": "no_such_user"},
            (),
            "could not find user 'no_such_user' to switch to",
        ),
        ({}, ("-u", "0"), "could not find user '0' to switch to"),
        (
            {"client_tls_sslmode": "require"},
            (),
            "TLS setup failed",
        ),
    ],
)
def test_start_that_cannot_be_says_why(
    pooler: Any, settings: dict[str, Any], options: tuple[str, ...], line: str
) -> None:
    one = pooler(settings, run=False, may_end=True, **ALONE)
    assert fails(one, *options)[-1] == f"FATAL {line}"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_is_refused(lab: Ground, pooler: Any) -> None:
    one = pooler({"logfile": None}, run=False, may_end=True, **ALONE)
    done = run(lab, "pgbouncer.ini", cwd=one.directory)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("FATAL PgBouncer should not run as root")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_user_is_switched_after_reading_what_only_root_may_read(
    lab: Ground, pooler: Any
) -> None:
    one = pooler(
        {"user": lab.identity.name, "auth_type": "md5"},
        run=False,
        users={"alice": "secret", "admin": "adminpass"},
        **ALONE,
    )
    os.chown(one.directory / "userlist.txt", 0, 0)
    os.chown(one.directory / "pgbouncer.ini", 0, 0)
    one.identity = RootIdentity()
    one.run()
    status = Path(f"/proc/{one.pid}/status").read_text()
    assert re.search(r"^Uid:\t(\d+)", status, re.M)[1] != "0"  # type: ignore[index]
    assert one.console("SHOW VERSION")


class RootIdentity:
    """Run the pooler as whoever runs the tests."""

    def process_options(self) -> dict[str, Any]:
        return {}

    def own(self, path: Path) -> None:
        return None


# Background


def daemon_pid(one: RunningPooler) -> int:
    """Return the pid of the pid file, once there is one."""
    path = one.directory / "pid"
    assert wait_for(lambda: path.exists() and path.read_text(), 10)
    return int(path.read_text())


@pytest.fixture
def daemon(pooler: Any) -> Iterator[RunningPooler]:
    """A pooler that was started with -d."""
    one: RunningPooler = pooler({}, run=False, may_end=True, **ALONE)
    one.start("-d", "pgbouncer.ini")
    assert one.wait_for_exit(10) == 0
    pid = daemon_pid(one)
    yield one
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def test_daemon_writes_its_own_pid_and_nothing_to_stderr(daemon: RunningPooler) -> None:
    pid = daemon_pid(daemon)
    assert pid != daemon.pid
    assert daemon.console("SHOW VERSION")
    assert daemon.stderr.read_text() == ""
    assert os.getsid(pid) != os.getsid(0)
    assert Path(f"/proc/{pid}/comm").read_text().startswith("pgbouncer")
    os.kill(pid, signal.SIGINT)
    assert wait_for(lambda: not Path(f"/proc/{pid}").exists(), 10)
    assert not (daemon.directory / "pid").exists()
    assert not list(daemon.directory.glob(".s.*"))


# Log


def test_logfile_is_opened_again_by_sighup_and_reload(pooler: Any) -> None:
    one = pooler({}, **ALONE)
    log = one.directory / "log"
    log.rename(one.directory / "log.1")
    one.interrupt("SIGHUP")
    assert wait_for(
        lambda: (
            "got SIGHUP, re-reading config" in (one.directory / "log.1").read_text()
        ),
        10,
    )
    one.console("SHOW VERSION")
    one.wait_for_log("login attempt: db=pgbouncer")
    log.rename(one.directory / "log.2")
    one.console("RELOAD")
    one.console("SHOW VERSION")
    one.wait_for_log("login attempt: db=pgbouncer")
    assert "RELOAD command issued" in (one.directory / "log.2").read_text()


def test_quiet_writes_only_the_logfile(pooler: Any) -> None:
    one = pooler({}, "-q", **ALONE)
    assert one.stderr.read_text() == ""
    assert one.log_matches("process up")


def test_stderr_and_logfile_both_get_every_line(pooler: Any) -> None:
    one = pooler({}, **ALONE)
    assert wait_for(
        lambda: one.stderr.read_text() == (one.directory / "log").read_text(), 5
    )


# Online restart without anybody to take over from


@pytest.mark.parametrize("directory", ["{dir}", "", "@pybouncer-tests"])
def test_reboot_without_an_old_process_is_a_start(pooler: Any, directory: str) -> None:
    one = pooler({"unix_socket_dir": directory}, "-R", **ALONE)
    one.wait_for_log("^LOG old process not found, try to continue normally$")


# Signals


def test_signals_with_their_repeated_forms(pooler: Any) -> None:
    one = pooler({}, may_end=True, **ALONE)
    with one.connect("pgbouncer", "admin"):
        for name, line in (
            ("SIGUSR2", "got SIGUSR2, but not paused"),
            ("SIGUSR1", "got SIGUSR1, pausing all activity"),
            ("SIGUSR1", "got SIGUSR1, but already paused"),
            ("SIGUSR2", "got SIGUSR2, continuing from PAUSE"),
            ("SIGHUP", "got SIGHUP, re-reading config"),
            (
                "SIGTERM",
                "got SIGTERM, shutting down, waiting for all clients disconnect",
            ),
            ("SIGUSR2", "got SIGUSR2 while shutting down, ignoring"),
            ("SIGINT", "got SIGINT while shutting down, fast exit"),
        ):
            one.interrupt(name)
            one.wait_for_log(f"^LOG {re.escape(line)}$")
        assert one.wait_for_exit(10) == 0
    assert not (one.directory / "pid").exists()
    assert not list(one.directory.glob(".s.*"))


def test_sigterm_closes_tcp_and_waits_for_the_last_client(pooler: Any) -> None:
    one = pooler({}, may_end=True, **ALONE)
    with one.connect("pgbouncer", "admin") as client:
        one.interrupt("SIGTERM")
        one.wait_for_log("got SIGTERM")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", one.port), timeout=5)
        assert one.is_running()
        # The Unix socket stays, for the console only.
        place = {"host": str(one.directory)}
        with pytest.raises(psycopg.OperationalError, match="pooler is shutting down"):
            one.connect("nowhere", **place)
        with one.connect("pgbouncer", "admin", **place):
            pass
        client.close()
    assert one.wait_for_exit(10) == 0
    assert one.log_matches("^LOG client connections dropped, exiting$")


def test_sigint_without_servers_ends_at_once(pooler: Any) -> None:
    one = pooler({}, may_end=True, **ALONE)
    one.interrupt("SIGINT")
    assert one.wait_for_exit(10) == 0
    assert one.log_matches("^LOG server connections dropped, exiting$")


def test_sigterm_while_suspended_goes_down_and_leaves_the_socket(pooler: Any) -> None:
    one = pooler({}, may_end=True, **ALONE)
    with one.connect("pgbouncer", "admin") as client:
        client.execute(b"SUSPEND")
        one.interrupt("SIGTERM")
        assert one.wait_for_exit(10) == 1
    assert one.log_matches("^FATAL suspend was in progress, going down immediately$")
    assert list(one.directory.glob(".s.*"))


def test_sigquit_ends_with_nothing_left(pooler: Any) -> None:
    one = pooler({}, may_end=True, **ALONE)
    with one.connect("pgbouncer", "admin"):
        one.interrupt("SIGQUIT")
        assert one.wait_for_exit(10) == 0
    assert not (one.directory / "pid").exists()


@pytest.mark.regression(126)
def test_next_start_copes_with_what_a_killed_one_left(pooler: Any) -> None:
    one = pooler({}, may_end=True, **ALONE)
    one.interrupt("SIGKILL")
    one.wait_for_exit(10)
    assert (one.directory / "pid").exists()
    one.start("pgbouncer.ini")
    one.wait_for_log("stale pidfile, removing")
    one.wait_for_log("process up", 2)


# systemd


@pytest.fixture
def manager() -> Iterator[Manager]:
    with Manager() as one:
        yield one


def test_notify_protocol(
    lab: Ground, pooler: Any, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = pooler({"stats_period": 1}, run=False, may_end=True, **ALONE)
    # The environment that the tests' poolers get has no such variable.
    one.command = ["env", f"NOTIFY_SOCKET={manager.path}", "WATCHDOG_USEC=400000",
                   *one.command]  # fmt: skip
    one.start("pgbouncer.ini")
    assert manager.next("READY") == "READY=1"
    if is_ours(lab):
        assert manager.next("WATCHDOG") == "WATCHDOG=1"
        assert manager.next("WATCHDOG") == "WATCHDOG=1"
    status = manager.next("STATUS")
    assert re.fullmatch(
        r"STATUS=stats: \d+ xacts/s, \d+ queries/s, \d+ client parses/s, \d+ server "
        r"parses/s, \d+ binds/s, \d+ client logins/s, in \d+ B/s, out \d+ B/s, "
        r"xact \d+ μs, query \d+ μs, wait \d+ μs",
        status,
    )
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    os.kill(one.pid, signal.SIGHUP)
    first, second = manager.next("RELOADING").split("\n")
    assert first == "RELOADING=1"
    assert int(second.removeprefix("MONOTONIC_USEC=")) >= before
    assert manager.next("READY") == "READY=1"
    os.kill(one.pid, signal.SIGTERM)
    assert manager.next("STOPPING") == "STOPPING=1"
    assert one.wait_for_exit(10) == 0


ACTIVATE = """
import os, sys
for place, fd in enumerate(map(int, sys.argv[1].split(",")), 3):
    os.dup2(fd, place)
os.environ["LISTEN_FDS"] = str(len(sys.argv[1].split(",")))
os.environ["LISTEN_PID"] = str(os.getpid())
os.execvp(sys.argv[2], sys.argv[2:])
"""


def test_socket_activation(pooler: Any) -> None:
    one = pooler({}, run=False, may_end=True, **ALONE)
    path = one.directory / "passed"
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        tcp.bind(("127.0.0.1", 0))
        unix.bind(str(path))
        path.chmod(0o777)
        # Away from 3 and 4, where they have to go.
        fds = [os.dup(os.dup(os.dup(sock.fileno()))) for sock in (tcp, unix)]
        for sock, fd in zip((tcp, unix), fds, strict=True):
            sock.listen()
            os.set_inheritable(fd, True)
        words = [*one.command, "pgbouncer.ini"]
        with open(one.stderr, "ab") as err:
            one.process = subprocess.Popen(
                [sys.executable, "-c", ACTIVATE, ",".join(map(str, fds)), *words],
                cwd=one.directory,
                env=program_environment() | pythonpath(),
                stdin=subprocess.DEVNULL,
                stderr=err,
                pass_fds=fds,
                start_new_session=True,
                **one.identity.process_options(),
            )
        assert one.wait_until_up(), one.last_words()
        own = one.port
        one.port = tcp.getsockname()[1]
        assert one.console("SHOW VERSION")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", own), timeout=5)
        assert [line for line in one.lines() if "passed" in line] == [
            "WARNING sockets passed from service manager, cf_listen_addr ignored",
            "WARNING sockets passed from service manager, cf_unix_socket_dir ignored",
            "LOG socket passed from service manager (fd 3)",
            "LOG socket passed from service manager (fd 4)",
        ]
        one.interrupt("SIGINT")
        assert one.wait_for_exit(10) == 0
        assert path.exists()


def pythonpath() -> dict[str, str]:
    """Return what `python -m bouncer` needs to find the sources."""
    path = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": path} if path else {}
