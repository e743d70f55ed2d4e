"""Lines that a log has no room for: counted, and told when there is room again.

They were lost without a word, and the line behind them was glued to half of another.
"""

import errno
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from bouncer import log
from tests.unit.ops.test_log import (  # noqa: F401  (a fixture)
    fresh_log,
    quiet_into,
    settings,
)


class Disk:
    """A disk that has room for so many bytes more."""

    def __init__(self, room: int | None = None) -> None:
        self.room = room
        self.write = os.write

    def __call__(self, fd: int, data: memoryview) -> int:
        """Take the place of os.write."""
        if self.room is None:
            return self.write(fd, data)
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = self.write(fd, data[: self.room])
        self.room -= done
        return done


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """A disk with room, until the test says otherwise."""
    found = Disk()
    monkeypatch.setattr(os, "write", found)
    return found


def texts(path: Path) -> list[str]:
    """What the lines of the file say, from their level on."""
    return [line.split("] ", 1)[-1] for line in path.read_text().splitlines()]


LOST = "WARNING log: {} could not be written: No space left on device"


def test_lines_lost_to_a_full_disk_are_counted_and_told(
    tmp_path: Path, disk: Disk
) -> None:
    path = tmp_path / "log"
    quiet_into(path)
    log.info("before")
    size = path.stat().st_size
    disk.room = 0
    for _ in range(3):
        log.info("before")
    assert path.stat().st_size == size
    disk.room = None
    log.info("after")
    lost = LOST.format(f"3 lines ({3 * size} bytes)")
    assert texts(path) == ["LOG before", lost, "LOG after"]
    log.info("later")
    assert texts(path)[3:] == ["LOG later"]


def test_half_a_line_gets_its_end(tmp_path: Path, disk: Disk) -> None:
    path = tmp_path / "log"
    quiet_into(path)
    log.info("first")
    disk.room = 10
    log.info("second")
    disk.room = None
    log.info("third")
    lines = path.read_text().splitlines()
    assert len(lines) == 4 and len(lines[1]) == 10
    assert LOST.format("1 lines (")[:22] in lines[2]
    assert lines[3].endswith("LOG third")


def test_lines_that_come_while_the_notice_has_no_room_are_counted(
    tmp_path: Path, disk: Disk
) -> None:
    path = tmp_path / "log"
    quiet_into(path)
    log.info("x")
    disk.room = 0
    log.info("x")
    disk.room = 20  # not enough for the notice
    log.info("x")
    log.info("x")
    disk.room = None
    log.info("x")
    assert "log: 3 lines (" in texts(path)[-2]


def test_lost_lines_are_an_event_in_json(tmp_path: Path, disk: Disk) -> None:
    path = tmp_path / "log"
    quiet_into(path, log_format="json")
    log.info("x")
    disk.room = 0
    log.info("x")
    disk.room = None
    log.info("x")
    told = json.loads(path.read_text().splitlines()[1])
    assert told["event"] == "log_lost" and told["lines"] == 1
    assert told["level"] == "WARNING" and told["error"] == "No space left on device"


def test_stderr_counts_what_it_loses(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], disk: Disk
) -> None:
    """A file behind `2>` is full as soon as a log file."""
    log.configure(settings(), quiet=False, daemon=False)
    disk.room = 0
    log.info("x")
    disk.room = None
    log.info("y")
    lines = capfd.readouterr().err.splitlines()
    assert "log: 1 lines" in lines[0] and lines[1].endswith("LOG y")


def test_file_that_cannot_be_opened_counts_what_it_misses(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gone" / "log"
    path.parent.mkdir()
    quiet_into(path)
    log.attach(lambda _: None)
    log.info("x")
    log.flush()
    path.unlink()
    path.parent.rmdir()
    log.reopen()
    for _ in range(2):
        log.info("x")
        log.flush()
    path.parent.mkdir()
    log.reopen()
    log.info("y")
    log.detach()
    assert "log: 2 lines" in texts(path)[0] and "No such file" in texts(path)[0]
    assert "Cannot open logfile" in capfd.readouterr().err


def test_syslog_is_told_how_many_lines_it_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "dev-log"
    monkeypatch.setattr(log, "SYSLOG_SOCKET", str(path))
    log.configure(settings(syslog=1), quiet=True, daemon=False)
    log.info("a")
    log.info("b")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(str(path))
        daemon.settimeout(10)
        log.info("c")
        got = [daemon.recv(1000).decode().rpartition("]: ")[2] for _ in range(2)]
    assert got == ["log: 2 lines could not be sent", "c"]


# Details


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ({}, 0),
        ({"log_details": 1}, 1),
        ({"log_format": "json"}, 1),
        ({"log_format": "json", "log_details": 1}, 1),
    ],
)
def test_details_are_written_where_they_are_asked_for(
    tmp_path: Path, values: dict[str, object], count: int
) -> None:
    path = tmp_path / "log"
    quiet_into(path, **values)
    log.detail(log.LOG, "text", "event", {"error": "e" * 5000, "number": 1})
    lines = path.read_text().splitlines() if path.exists() else []
    assert len(lines) == count
    if lines and "log_format" in values:
        told = json.loads(lines[0])
        assert (told["message"], told["event"], told["number"]) == ("text", "event", 1)
        assert len(told["error"]) < 2048


def test_details_of_json_do_not_reach_syslog_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []

    def keep(_self: object, data: bytes, _tell: Callable[[str], bytes]) -> None:
        sent.append(data)

    monkeypatch.setattr(log.Datagrams, "put", keep)
    for values, count in (({}, 0), ({"log_details": 1}, 1)):
        quiet_into(tmp_path / "log", syslog=1, log_format="json", **values)
        log.detail(log.LOG, "text", "event", {})
        assert len(sent) == count
