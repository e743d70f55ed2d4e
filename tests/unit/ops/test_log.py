"""The log: shape of a line, where lines go, rotation, JSON."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from bouncer import log


def settings(**values: object) -> SimpleNamespace:
    """Return log settings with PgBouncer's defaults."""
    known = {
        "logfile": None,
        "syslog": 0,
        "syslog_ident": "pgbouncer",
        "syslog_facility": "daemon",
        "verbose": 0,
        "log_format": "text",
        "log_details": 0,
    }
    return SimpleNamespace(**(known | values))


@pytest.fixture(autouse=True)
def fresh_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give each test a log that is as at the start of a process."""
    monkeypatch.setattr(log, "_log", log.Log())
    monkeypatch.setattr(log, "verbosity", 0)
    yield
    for kept in (log._log.file, log._log.syslog):
        if kept is not None:
            kept.close()


def quiet_into(path: Path, **values: object) -> None:
    log.configure(settings(logfile=str(path), **values), quiet=True, daemon=False)


def test_line_has_time_zone_pid_and_level(tmp_path: Path) -> None:
    quiet_into(tmp_path / "log")
    before = time.time()
    log.info("listening on 127.0.0.1:6432")
    after = time.time()
    line = (tmp_path / "log").read_text()
    date, clock, zone, pid, level, text = line.split(" ", 5)
    seen = time.mktime(time.strptime(f"{date} {clock[:8]}", "%Y-%m-%d %H:%M:%S"))
    assert int(before) <= seen <= after
    assert clock[8] == "." and len(clock) == 12 and clock[9:].isdigit()
    assert zone == time.strftime("%Z")
    assert pid == f"[{os.getpid()}]"
    assert level == "LOG"
    assert text == "listening on 127.0.0.1:6432\n"


def test_each_level_has_its_word(tmp_path: Path) -> None:
    quiet_into(tmp_path / "log", verbose=2)
    for function in (log.fatal, log.error, log.warning, log.info, log.debug, log.noise):
        function("x")
    words = [line.split()[4] for line in (tmp_path / "log").read_text().splitlines()]
    assert words == ["FATAL", "ERROR", "WARNING", "LOG", "DEBUG", "NOISE"]


@pytest.mark.parametrize(("level", "words"), [(0, []), (1, ["DEBUG"])])
def test_verbose_chooses_debug_and_noise(
    tmp_path: Path, level: int, words: list[str]
) -> None:
    quiet_into(tmp_path / "log", verbose=level)
    log.debug("x")
    log.noise("x")
    log.info("end")
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split()[4] for line in lines] == [*words, "LOG"]


@pytest.mark.regression(120)
def test_later_lines_are_indented_and_trailing_blanks_cut(tmp_path: Path) -> None:
    quiet_into(tmp_path / "log")
    log.error("one\ntwo\n  ")
    assert (tmp_path / "log").read_text().endswith("ERROR one\n\ttwo\n")


def test_text_is_cut_at_2047_bytes(tmp_path: Path) -> None:
    quiet_into(tmp_path / "log")
    log.info("é" * 3000)
    text = (tmp_path / "log").read_bytes().split(b"LOG ", 1)[1]
    assert text == "é".encode() * 1023 + b"\n"


def test_names_that_are_no_utf8_come_out_as_they_came_in(tmp_path: Path) -> None:
    quiet_into(tmp_path / "log")
    log.info(b"user=\xff".decode("utf-8", "surrogateescape"))
    log.info("odd \ud800")
    raw = (tmp_path / "log").read_bytes()
    assert b"user=\xff\n" in raw and b"odd \\ud800\n" in raw


def test_logfile_is_opened_by_the_first_line_and_again_after_reopen(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log"
    quiet_into(path)
    assert not path.exists()
    log.info("first")
    path.rename(tmp_path / "log.1")
    log.info("still the old one")
    log.reopen()
    assert not path.exists()
    log.info("new")
    assert path.read_text().endswith("LOG new\n")
    assert "still the old one" in (tmp_path / "log.1").read_text()


def test_logfile_survives_copytruncate(tmp_path: Path) -> None:
    path = tmp_path / "log"
    quiet_into(path)
    log.info("before")
    os.truncate(path, 0)
    log.info("after")
    assert path.read_bytes()[:1].isdigit() and path.read_text().count("\n") == 1


def test_changed_logfile_is_honoured(tmp_path: Path) -> None:
    quiet_into(tmp_path / "a")
    log.info("one")
    quiet_into(tmp_path / "b")
    log.info("two")
    assert (tmp_path / "a").read_text().endswith("LOG one\n")
    assert (tmp_path / "b").read_text().endswith("LOG two\n")


def test_lines_from_before_the_configuration_reach_the_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log.start(quiet=False, level=0)
    log.warning("hba line 1: unknown type")
    log.configure(settings(logfile=str(tmp_path / "log")), quiet=False, daemon=False)
    log.info("later")
    assert (tmp_path / "log").read_text() == capfd.readouterr().err
    assert (tmp_path / "log").read_text().count("\n") == 2


def test_quiet_and_daemon_silence_stderr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log.start(quiet=True, level=0)
    log.error("early")
    quiet_into(tmp_path / "log")
    log.info("quiet")
    log.configure(settings(logfile=str(tmp_path / "log")), quiet=False, daemon=True)
    log.info("daemon")
    assert capfd.readouterr().err == ""
    assert (tmp_path / "log").read_text().count("\n") == 3


def test_logfile_that_cannot_be_opened_ends_a_start(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "none" / "log"
    quiet_into(path)
    with pytest.raises(SystemExit) as ended:
        log.info("x")
    assert ended.value.code == 1
    said = capfd.readouterr().err
    assert f" {os.getpid()} FATAL Cannot open logfile: '{path}': No such" in said


def test_logfile_lost_while_running_is_complained_about_once_a_second(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    quiet_into(tmp_path / "none" / "log")
    log.attach(lambda function: None)
    for _ in range(3):
        log.info("x")
        log.flush()
    assert capfd.readouterr().err.count("Cannot open logfile") == 1
    (tmp_path / "none").mkdir()
    log.reopen()
    log.info("y")
    log.flush()
    assert "LOG y" in (tmp_path / "none" / "log").read_text()


def test_lines_of_a_turn_are_written_together(tmp_path: Path) -> None:
    quiet_into(tmp_path / "log")
    soon = []
    log.attach(soon.append)
    log.info("one")
    log.info("two")
    assert not (tmp_path / "log").exists()
    assert len(soon) == 1
    soon.pop()()
    assert (tmp_path / "log").read_text().count("\n") == 2
    log.info("three")
    assert len(soon) == 1
    log.detach()
    assert (tmp_path / "log").read_text().count("\n") == 3


def test_child_has_its_own_pid_and_no_doubled_lines(tmp_path: Path) -> None:
    quiet_into(tmp_path / "log")
    log.attach(lambda function: None)
    log.info("parent")
    pid = os.fork()
    if pid == 0:
        log.info("child")
        log.flush()
        os._exit(0)
    os.waitpid(pid, 0)
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split()[3] for line in lines] == [f"[{os.getpid()}]", f"[{pid}]"]


def receive(sock: socket.socket) -> bytes:
    sock.settimeout(5)
    return sock.recv(65536)


def test_syslog_gets_priority_time_ident_and_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "log")
    monkeypatch.setattr(log, "SYSLOG_SOCKET", path)
    conf = settings(syslog=1, syslog_ident="pool", syslog_facility="LOCAL3", verbose=1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(path)
        log.configure(conf, quiet=True, daemon=False)
        log.debug("never sent")
        log.warning("pooler error: x")
        said = receive(daemon)
    stamp = time.strftime("%b %e %H:%M:%S")
    head, text = said.decode().split(">", 1)
    assert head == f"<{19 * 8 + 4}"
    assert text[15:] == f" pool[{os.getpid()}]: pooler error: x"
    assert text[:12] == stamp[:12]
    # The daemon is restarted.
    os.unlink(path)
    log.error("lost")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(path)
        log.error("found again")
        assert receive(daemon).endswith(b": log: 1 lines could not be sent")
        assert receive(daemon).endswith(b": found again")


def test_syslog_that_does_not_read_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "log")
    monkeypatch.setattr(log, "SYSLOG_SOCKET", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(path)
        log.configure(settings(syslog=1), quiet=True, daemon=False)
        for _ in range(2000):
            log.info("x" * 500)


def test_unknown_syslog_facility_means_daemon() -> None:
    log.configure(settings(syslog_facility="nope"), quiet=True, daemon=False)
    assert log._log.facility == 3


JOURNAL_CHILD = """
import os, sys
from bouncer import log
log.JOURNAL_SOCKET = sys.argv[1]
stat = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{stat.st_dev}:{stat.st_ino}"
log.start(quiet=False, level=0)
log.info("plain")
log.error("two\\nlines")
"""


def test_journal_gets_fields_instead_of_stderr(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(path)
        child = subprocess.run(
            [sys.executable, "-c", JOURNAL_CHILD, path], capture_output=True, check=True
        )
        plain, lines = receive(journal), receive(journal)
    assert child.stderr == b""
    assert plain == b"MESSAGE=plain\nPRIORITY=6\nSYSLOG_IDENTIFIER=pgbouncer\n"
    size = (10).to_bytes(8, "little")
    assert lines.startswith(b"MESSAGE\n" + size + b"two\n\tlines\nPRIORITY=3\n")


def as_json(tmp_path: Path, text: str) -> dict[str, object]:
    path = tmp_path / "json"
    quiet_into(path, log_format="json")
    log.info(text)
    record = json.loads(path.read_text().splitlines()[-1])
    assert isinstance(record, dict)
    return record


def test_json_line_carries_the_facts_as_fields(tmp_path: Path) -> None:
    record = as_json(
        tmp_path,
        "C-0x5578aaf81490: p0/postgres@127.0.0.1:46930 "
        "closing because: client close request (age=12s)",
    )
    stamp = record.pop("time")
    assert isinstance(stamp, str) and stamp[10] == "T" and stamp[19] == "."
    assert record == {
        "pid": os.getpid(),
        "level": "LOG",
        "connection": "C-0x5578aaf81490",
        "side": "client",
        "database": "p0",
        "user": "postgres",
        "address": "127.0.0.1:46930",
        "message": "closing because: client close request (age=12s)",
        "event": "disconnect",
        "reason": "client close request",
        "age": 12,
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "C-0x1: (nodb)/(nouser)@unix(7110):6432 login attempt: db=a user=b "
            "tls=TLSv1.3/TLS_AES_256_GCM_SHA384 replication=no",
            {
                "database": None,
                "user": None,
                "address": "unix(7110):6432",
                "event": "login",
                "tls": "TLSv1.3/TLS_AES_256_GCM_SHA384",
                "replication": "no",
            },
        ),
        (
            "S-0x2: p0/alice@corp@[::1]:5432 new connection to server",
            {"side": "server", "user": "alice@corp", "address": "[::1]:5432"},
        ),
        ("S-0x2: peer-1@unix:6432 x", {"peer": "1", "address": "unix:6432"}),
        (
            "C-0x1: a/b@1.2.3.4:5 pooler error: bad packet",
            {"event": "error", "reason": "bad packet"},
        ),
        (
            "stats: 1 xacts/s, 2 queries/s, 3 client parses/s, 4 server parses/s, "
            "5 binds/s, in 14 B/s, out 66 B/s, xact 482 us, query 481 us, wait 7 us",
            {
                "xacts_per_s": 1,
                "queries_per_s": 2,
                "client_parses_per_s": 3,
                "server_parses_per_s": 4,
                "binds_per_s": 5,
                "in_bytes_per_s": 14,
                "out_bytes_per_s": 66,
                "xact_us": 482,
                "query_us": 481,
                "wait_us": 7,
            },
        ),
        ("two\nlines", {"message": "two\nlines"}),
    ],
)
def test_json_fields(tmp_path: Path, text: str, expected: dict[str, object]) -> None:
    record = as_json(tmp_path, text)
    assert {name: record.get(name) for name in expected} == expected


def test_control_characters_of_a_client_are_shown_not_written(tmp_path: Path) -> None:
    """A name could clear the screen of whoever reads the log, or look like a line."""
    quiet_into(tmp_path / "log")
    log.error("user=\x1b[2J\r2026 LOG fine\x85\u2028\x7f é\tx\nsecond")
    text = (tmp_path / "log").read_text()
    assert text.endswith(
        "user=\\x1b[2J\\x0d2026 LOG fine\\x85\\x2028\\x7f é\tx\n\tsecond\n"
    )
    assert len(text.splitlines()) == 2


def test_lines_wait_while_the_log_is_held(tmp_path: Path) -> None:
    """Root must not open what belongs to the user that it becomes."""
    path = tmp_path / "log"
    log.configure(settings(logfile=str(path)), quiet=True, daemon=False, hold=True)
    log.warning("early")
    log.flush()
    assert not path.exists()
    quiet_into(path)
    log.open_file()
    log.info("late")
    words = [line.split(" ", 5)[4:] for line in path.read_text().splitlines()]
    assert words == [["WARNING", "early"], ["LOG", "late"]]


def test_file_that_cannot_be_opened_ends_a_start_before_any_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    quiet_into(tmp_path / "none" / "log")
    log.attach(lambda function: None)
    with pytest.raises(SystemExit):
        log.open_file()
    assert "FATAL Cannot open logfile" in capfd.readouterr().err


def test_open_file_without_a_file_does_nothing() -> None:
    log.configure(settings(), quiet=True, daemon=False)
    log.open_file()
