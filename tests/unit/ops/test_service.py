"""systemd: notifications, watchdog, passed sockets."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bouncer.service import Service, passed_fds

Receive = Callable[[], str]


# Names of tests must not change from run to run.
PIDS = {"own": str(os.getpid()), "other": str(os.getpid() + 1)}


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Receive]:
    """Play systemd on a NOTIFY_SOCKET; return what reads one datagram."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        if request.param == "path":
            name = address = str(tmp_path / "notify")
        else:
            name = f"@ops-notify-{os.getpid()}"
            address = "\0" + name[1:]
        sock.bind(address)
        sock.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield lambda: sock.recv(4096).decode()


def test_messages(manager: Receive) -> None:
    service = Service()
    service.ready()
    assert manager() == "READY=1"
    service.stopping()
    assert manager() == "STOPPING=1"
    service.status("stats: wait 1 us")
    assert manager() == "STATUS=stats: wait 1 μs"
    service.alive()
    assert manager() == "WATCHDOG=1"


def test_reloading_says_when(manager: Receive) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    Service().reloading()
    first, second = manager().split("\n")
    assert first == "RELOADING=1"
    name, value = second.split("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(value) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_process_that_took_over_resets_a_watchdog_that_nobody_told_of(
    manager: Receive,
) -> None:
    """systemd tells WATCHDOG_USEC to what it started; it killed the next one by it."""
    service = Service()
    assert service.watchdog == 0
    service.main_process()
    assert manager() == f"MAINPID={os.getpid()}"
    assert service.watchdog == 1


def test_process_that_took_over_without_systemd_resets_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    service = Service()
    service.main_process()
    assert service.watchdog == 0


def test_without_notify_socket_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    service = Service()
    service.ready()
    assert service.watchdog == 0


def test_manager_that_is_gone_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nonexistent/notify")
    Service().ready()


@pytest.mark.parametrize(
    ("pid", "limit", "expected"),
    [
        ("", "3000000", 1.5),
        ("own", "3000000", 1.5),
        ("1", "3000000", 0.0),
        ("", "x", 0.0),
        ("", "", 0.0),
    ],
)
def test_watchdog_is_reset_twice_as_often_as_asked(
    monkeypatch: pytest.MonkeyPatch, pid: str, limit: str, expected: float
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nonexistent/notify")
    monkeypatch.setenv("WATCHDOG_PID", PIDS.get(pid, pid))
    monkeypatch.setenv("WATCHDOG_USEC", limit)
    assert Service().watchdog == expected


@pytest.mark.parametrize(
    ("pid", "count", "expected"),
    [
        ("own", "2", [3, 4]),
        ("other", "2", []),
        ("", "2", []),
        ("own", "x", []),
        ("own", "-1", []),
    ],
)
def test_listen_fds_are_for_the_process_of_listen_pid(
    monkeypatch: pytest.MonkeyPatch, pid: str, count: str, expected: list[int]
) -> None:
    monkeypatch.setenv("LISTEN_PID", PIDS.get(pid, pid))
    monkeypatch.setenv("LISTEN_FDS", count)
    assert passed_fds() == expected
