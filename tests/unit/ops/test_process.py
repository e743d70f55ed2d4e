"""The process: pid file, users, background, descriptor limit."""

import os
import pwd
import resource
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bouncer import log, process
from bouncer.config.settings import Settings
from bouncer.errors import StartError


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect what is logged at level LOG."""
    seen: list[str] = []
    monkeypatch.setattr(log, "info", seen.append)
    return seen


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_pidfile_absent_is_fine(tmp_path: Path, lines: list[str]) -> None:
    process.check_pidfile(str(tmp_path / "pid"))
    assert lines == []


@pytest.mark.regression(126)
@pytest.mark.parametrize("text", ["{live}\n", "", "abc\n", "0\n", "-1\n", "9" * 30])
def test_pidfile_that_is_not_surely_dead_refuses(
    tmp_path: Path, lines: list[str], text: str
) -> None:
    path = tmp_path / "pid"
    path.write_text(text.format(live=os.getpid()))
    with pytest.raises(StartError) as refused:
        process.check_pidfile(str(path))
    assert str(refused.value) == f"pidfile '{path}' exists, another instance running?"
    assert path.exists()


@pytest.mark.regression(126)
@pytest.mark.parametrize("form", ["{}\n", "{}", " {} and more\n"])
def test_pidfile_of_a_dead_process_is_removed(
    tmp_path: Path, lines: list[str], form: str
) -> None:
    path = tmp_path / "pid"
    path.write_text(form.format(dead_pid()))
    process.check_pidfile(str(path))
    assert lines == ["stale pidfile, removing"]
    assert not path.exists()


def test_pidfile_is_a_directory(tmp_path: Path) -> None:
    with pytest.raises(StartError) as refused:
        process.check_pidfile(str(tmp_path))
    assert str(refused.value) == f"could not read pidfile '{tmp_path}': Is a directory"


def test_pidfile_holds_the_pid_and_is_created_exclusively(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    process.write_pidfile(str(path))
    assert path.read_text() == f"{os.getpid()}\n"
    with pytest.raises(StartError) as refused:
        process.write_pidfile(str(path))
    assert str(refused.value) == f"could not open pidfile '{path}': File exists"
    process.remove_pidfile(str(path))
    process.remove_pidfile(str(path))
    assert not path.exists()


def test_takeover_waits_until_the_old_pidfile_is_gone(
    tmp_path: Path, lines: list[str]
) -> None:
    path = tmp_path / "pid"
    path.write_text(f"{os.getpid()}\n")
    threading.Timer(0.25, path.unlink).start()
    begin = time.monotonic()
    process.await_no_pidfile(str(path))
    assert time.monotonic() - begin >= 0.2
    assert lines == ["waiting for old pidfile to go away"]


def test_takeover_does_not_wait_for_ever_for_a_dead_process(
    tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "PIDFILE_PATIENCE", 0.2)
    path = tmp_path / "pid"
    path.write_text(f"{dead_pid()}\n")
    process.await_no_pidfile(str(path))
    assert not path.exists()
    assert lines[1:] == ["stale pidfile, removing"]


def test_somebody_answers_on_the_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "sock")
    assert not process.somebody_answers(path)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        assert not process.somebody_answers(path)
        sock.listen()
        assert process.somebody_answers(path)
    assert not process.somebody_answers(path)


def test_full_queue_is_somebody(tmp_path: Path) -> None:
    path = str(tmp_path / "sock")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(path)
            begin = time.monotonic()
            assert process.somebody_answers(path)
            assert time.monotonic() - begin < 10


# Users


def test_user_unknown() -> None:
    for name in ("no such user", "0"):
        with pytest.raises(StartError) as refused:
            process.become(name)
        assert str(refused.value) == f"could not find user '{name}' to switch to"


AS_OTHER = """
import os, sys
from bouncer import process
from bouncer.errors import StartError
if sys.argv[2]:
    os.setgid(65534); os.setuid(65534)
try:
    process.switch_user(sys.argv[1] or None)
    print(os.getuid(), os.getgid(), os.getgroups())
except StartError as err:
    print(err)
"""


def switched(user: str, first: str = "") -> str:
    child = subprocess.run(
        [sys.executable, "-c", AS_OTHER, user, first],
        capture_output=True,
        text=True,
        check=True,
    )
    return child.stdout.strip()


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to drop it")


@needs_root
def test_root_is_refused() -> None:
    assert switched("") == "PgBouncer should not run as root"
    assert switched("root") == "PgBouncer should not run as root"


@needs_root
def test_user_is_switched_without_supplementary_groups() -> None:
    nobody = pwd.getpwnam("nobody")
    gid = nobody.pw_gid
    assert switched("nobody") == f"{nobody.pw_uid} {gid} [{gid}]"


@needs_root
def test_user_cannot_be_switched_by_an_ordinary_user() -> None:
    assert switched("root", "nobody") == (
        "failed to assume identity of user 'root': Operation not permitted"
    )


@needs_root
def test_user_that_it_already_is_is_fine() -> None:
    assert switched("nobody", "nobody").startswith("65534 ")


# Background

DAEMON = """
import os, sys
from bouncer import process
process.daemonise(sys.argv[1])
with open(sys.argv[1] + ".new", "w") as file:
    out = os.readlink("/proc/self/fd/2")
    print(os.getpid(), os.getsid(0), os.getcwd(), out, file=file)
os.rename(sys.argv[1] + ".new", sys.argv[1])
"""


def test_daemon_leaves_its_parent_terminal_and_session(tmp_path: Path) -> None:
    path = tmp_path / "said"
    child = subprocess.run([sys.executable, "-c", DAEMON, str(path)], timeout=30)
    assert child.returncode == 0
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    pid, session, directory, stderr = path.read_text().split()
    assert int(session) not in (os.getsid(0), int(pid))
    assert directory == os.getcwd()
    assert stderr == "/dev/null"


def test_daemon_needs_a_pidfile() -> None:
    with pytest.raises(StartError, match=r"^daemon needs pidfile configured$"):
        process.daemonise("")


def test_name_is_the_kernels_name_of_the_process() -> None:
    script = (
        "from bouncer import process; process.name_process('pgbouncer');"
        "print(open('/proc/self/comm').read())"
    )
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert child.stdout.strip() == "pgbouncer"


# Descriptors


@pytest.mark.parametrize(
    ("databases", "users", "expected"),
    [
        ([], 1, 112),
        ([(None, True)], 1, 132),
        ([(None, False), (5, True), (7, False)], 3, 112 + 60 + 5 + 21),
    ],
)
def test_descriptor_line(
    lines: list[str],
    databases: list[tuple[int | None, bool]],
    users: int,
    expected: int,
) -> None:
    conf = replace(Settings.defaults(), max_client_conn=100, default_pool_size=20)
    process.log_descriptor_limit(conf, databases, users)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert lines == [
        f"kernel file descriptor limit: {soft} (hard: {hard}); "
        f"max_client_conn: 100, max expected fd use: {expected}"
    ]
