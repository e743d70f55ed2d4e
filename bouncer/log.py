"""The log: stderr or the journal, a file, syslog; as text or as JSON.

The one hard idea: a line costs about a microsecond. The part of the time stamp
that changes once a second is kept, lines of one event loop turn are written
with one write(2) (`flush` ends the turn), and nothing here looks into a text
unless log_format = json asks for it.

Lines that come before `configure` (from reading the configuration) go to stderr
and are repeated into the log file and syslog once those are known, as they are
in PgBouncer, which opens its file in the middle of the configuration.

Only the thread of the event loop may log.
"""

import faulthandler
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Protocol

from bouncer.log_json import json_line

# A text longer than this (bytes) is cut; PgBouncer formats into 2048 bytes.
TEXT_LIMIT: Final = 2047
# No text of so many characters can be longer than TEXT_LIMIT in UTF-8.
SURELY_SHORT: Final = TEXT_LIMIT // 4
NEWLINE: Final = 10
STDERR: Final = 2
# After a log file could not be opened while running: seconds until the next try.
REOPEN_PAUSE: Final = 1.0

JOURNAL_SOCKET: Final = "/run/systemd/journal/socket"
SYSLOG_SOCKET: Final = "/dev/log"


class Level(NamedTuple):
    """A level: its word in a line, its syslog priority."""

    word: str
    priority: int


FATAL: Final = Level("FATAL", 2)
ERROR: Final = Level("ERROR", 3)
WARNING: Final = Level("WARNING", 4)
LOG: Final = Level("LOG", 6)
DEBUG: Final = Level("DEBUG", 7)
NOISE: Final = Level("NOISE", 7)

FACILITIES: Final = {
    "user": 1,
    "daemon": 3,
    "auth": 4,
    "authpriv": 10,
    **{f"local{n}": 16 + n for n in range(8)},
}


class LogSettings(Protocol):
    """The settings that say where lines go."""

    @property
    def logfile(self) -> str | None: ...
    @property
    def syslog(self) -> int: ...
    @property
    def syslog_ident(self) -> str | None: ...
    @property
    def syslog_facility(self) -> str | None: ...
    @property
    def verbose(self) -> int: ...
    @property
    def log_format(self) -> str: ...
    @property
    def log_details(self) -> int: ...


# Read before a debug text is built: 0 nothing, 1 DEBUG, 2 NOISE, 3 system calls.
verbosity: int = 0


def encode(text: str) -> bytes:
    """Return the bytes of *text*; names that are no UTF-8 come out as they came in."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")


# What could move the cursor or end a line where somebody reads the log. A newline is
# followed by a tab.
CONTROL: Final = {
    code: f"\\x{code:02x}"
    for code in (*range(32), *range(127, 160), 0x2028, 0x2029)
    if chr(code) not in "\n\t"
}


def tidy(text: str) -> str:
    """Return *text* without empty lines at its end, cut, and with later lines indented.

    Clients choose names and parameters that stand in it.
    """
    # No character is shorter than a byte: what is cut here would be cut below.
    text = (text.rstrip() if "\n" in text else text)[:TEXT_LIMIT]
    if not text.isprintable():
        text = text.translate(CONTROL)
    if len(text) > SURELY_SHORT:
        raw = encode(text)
        if len(raw) > TEXT_LIMIT:
            text = raw[:TEXT_LIMIT].decode("utf-8", "ignore")
    if "\n" in text:
        text = text.replace("\n", "\n\t")
    return text


class Output:
    """A place that bytes go to; what it does not take is counted, and told to it later.

    A full disk, a pipe that nobody reads: logging goes on, and nobody waits.
    """

    __slots__ = ("bytes_lost", "is_torn", "lines_lost", "reason")

    def __init__(self) -> None:
        self.lines_lost = self.bytes_lost = 0
        self.reason = ""
        self.is_torn = False  # the last line there lacks its end

    def put(self, fd: int, data: bytes) -> None:
        """Write *data* to *fd*, behind a line about what was lost before it."""
        if self.lines_lost:
            if self.attempt(fd, encode(self.notice())):
                self.lost(data)
                return
            self.lines_lost = self.bytes_lost = 0
        self.lost(self.attempt(fd, data))

    def attempt(self, fd: int, data: bytes) -> bytes:
        """Write *data*, on a line of its own; gives what was not written."""
        whole = b"\n" + data if self.is_torn else data
        done = 0
        while done < len(whole):
            try:
                done += os.write(fd, memoryview(whole)[done:])
            except OSError as err:
                self.reason = err.strerror or str(err)
                break
        if done:
            self.is_torn = whole[done - 1] != NEWLINE
        return whole[done:] if done else data

    def lost(self, data: bytes) -> None:
        """Count what could not be written."""
        self.lines_lost += data.count(b"\n")
        self.bytes_lost += len(data)

    def notice(self) -> str:
        """Give the line about it."""
        text = (
            f"log: {self.lines_lost} lines ({self.bytes_lost} bytes) "
            f"could not be written: {self.reason}"
        )
        facts: dict[str, object] = {
            "lines": self.lines_lost,
            "bytes": self.bytes_lost,
            "error": self.reason,
        }
        return _log.shaped(WARNING, text, "log_lost", facts)


class Clock:
    """Writes time stamps; the slow part is made once a second."""

    __slots__ = ("date", "iso_zone", "pid", "second", "syslog_date", "zone")

    def __init__(self) -> None:
        self.second = -1
        self.pid = os.getpid()
        self.date = self.zone = self.syslog_date = self.iso_zone = ""

    def tick(self, second: int) -> None:
        """Make the parts that stay the same during *second*."""
        local = time.localtime(second)
        self.second = second
        self.date = time.strftime("%Y-%m-%d %H:%M:%S", local)
        self.zone = f"{time.strftime('%Z', local)} [{self.pid}] "
        self.syslog_date = time.strftime("%b %e %H:%M:%S", local)
        offset = time.strftime("%z", local)
        self.iso_zone = f"{offset[:3]}:{offset[3:]}"

    def forked(self) -> None:
        """Take the new process's id."""
        self.pid = os.getpid()
        self.second = -1


class Datagrams:
    """A datagram socket of the system's log; never waits, reconnects after errors."""

    __slots__ = ("lost", "path", "sock")

    def __init__(self, path: str) -> None:
        self.path = path
        self.sock: socket.socket | None = None
        self.lost = 0  # lines, since it was last told how many

    def put(self, data: bytes, tell: Callable[[str], bytes]) -> None:
        """Send *data*, behind a line about those that were lost (*tell* shapes it)."""
        text = f"log: {self.lost} lines could not be sent"
        if self.lost and self.send(tell(text)):
            self.lost = 0
        if self.lost or not self.send(data):
            self.lost += 1

    def send(self, data: bytes) -> bool:
        """Send *data*, or drop it: a stuck log daemon must not stop the pooler."""
        for _ in range(2):
            if self.sock is None and not self.connect():
                return False
            assert self.sock is not None
            try:
                self.sock.send(data)
                return True
            except BlockingIOError:
                return False
            except OSError:
                # The daemon was restarted: one fresh try.
                self.close()
        return False

    def connect(self) -> bool:
        """Connect and say whether that worked."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.connect(self.path)
        except OSError:
            sock.close()
            return False
        self.sock = sock
        return True

    def close(self) -> None:
        """Forget the connection; the next line connects again."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None


class File(Output):
    """The log file: opened by the first line after a start or a reopening."""

    __slots__ = ("fd", "not_before", "path")

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.fd = -1
        self.not_before = 0.0

    def write(self, data: bytes, running: bool) -> None:
        """Append *data*. Before the pooler runs, a failed open ends the process."""
        if self.fd < 0:
            now = time.monotonic()
            if now < self.not_before:
                self.lost(data)
                return
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            try:
                self.fd = os.open(self.path, flags, 0o666)
            except OSError as err:
                self.not_before = now + REOPEN_PAUSE
                self.reason = err.strerror or str(err)
                self.lost(data)
                self.complain(err, running)
                return
            self.is_torn = self.is_torn and os.fstat(self.fd).st_size > 0
            if _log.reports_crashes:
                faulthandler.enable(self.fd)
        if data:
            self.put(self.fd, data)

    def complain(self, err: OSError, running: bool) -> None:
        """Tell stderr, quiet or not; end a process that has not begun to work."""
        stamp = f"{_clock.date}.000 {_clock.zone.split(' ')[0]} {_clock.pid}"
        text = f"{stamp} FATAL Cannot open logfile: '{self.path}': {err.strerror}\n"
        Output().attempt(2, encode(text))
        if not running:
            raise SystemExit(1)

    def close(self) -> None:
        """Close the file; the next line opens the path again."""
        if self.fd >= 0:
            if _log.reports_crashes:
                faulthandler.enable(STDERR)
            os.close(self.fd)
            self.fd = -1
        self.not_before = 0.0


class Log:
    """Everything that is known about where lines go."""

    __slots__ = (
        "call_soon",
        "details",
        "early",
        "facility",
        "file",
        "journal",
        "json",
        "output",
        "pending",
        "reports_crashes",
        "scheduled",
        "stderr",
        "syslog",
        "syslog_ident",
    )

    def __init__(self) -> None:
        self.stderr = True
        self.output = Output()  # of stderr
        self.reports_crashes = False
        self.file: File | None = None
        self.syslog: Datagrams | None = None
        self.syslog_ident = "pgbouncer"
        self.facility = FACILITIES["daemon"]
        self.journal: Datagrams | None = None
        self.json = False
        self.details = False
        self.pending: list[str] = []
        # Lines from before `configure`; None once it has been called.
        self.early: list[tuple[Level, str, str]] | None = []
        self.call_soon: Callable[[Callable[[], None]], object] | None = None
        self.scheduled = False

    def line(
        self,
        level: Level,
        text: str,
        event: str = "",
        facts: Mapping[str, object] | None = None,
    ) -> None:
        """Write one line, or queue it for the end of the loop's turn.

        Of details, which have *facts*, text is shown only where it is asked for.
        """
        text = tidy(text)
        line = self.shaped(level, text, event, facts)
        self.pending.append(line)
        if facts is None or self.details:
            if self.syslog is not None and level.priority < 7:
                self.to_syslog(level, text)
            if self.journal is not None:
                self.to_journal(level, text)
        if self.early is not None:
            self.early.append((level, text, line))
        if self.call_soon is None:
            flush()
        elif not self.scheduled:
            self.scheduled = True
            self.call_soon(turn_over)

    def shaped(
        self,
        level: Level,
        text: str,
        event: str = "",
        facts: Mapping[str, object] | None = None,
    ) -> str:
        """Give the line as it is written, with the time that it is now."""
        now = time.time()
        second = int(now)
        clock = _clock
        if second != clock.second:
            clock.tick(second)
        millis = int((now - second) * 1000)
        if not self.json:
            return f"{clock.date}.{millis:03d} {clock.zone}{level.word} {text}\n"
        stamp = f"{clock.date.replace(' ', 'T')}.{millis:03d}{clock.iso_zone}"
        fields: dict[str, object] = {
            "time": stamp,
            "pid": clock.pid,
            "level": level.word,
        }
        return json_line(fields, text, event, facts)

    def to_syslog(self, level: Level, text: str) -> None:
        """Send one line to the syslog daemon."""
        assert self.syslog is not None
        self.syslog.put(
            self.for_syslog(level, text), lambda told: self.for_syslog(WARNING, told)
        )

    def for_syslog(self, level: Level, text: str) -> bytes:
        """Give a line as syslog daemons take it."""
        code = self.facility << 3 | level.priority
        ident = f"{self.syslog_ident}[{_clock.pid}]"
        return encode(f"<{code}>{_clock.syslog_date} {ident}: {text}")

    def to_journal(self, level: Level, text: str) -> None:
        """Send one line to journald, instead of to stderr."""
        assert self.journal is not None
        self.journal.put(
            self.for_journal(level, text), lambda told: self.for_journal(WARNING, told)
        )

    def for_journal(self, level: Level, text: str) -> bytes:
        """Give a line as journald takes it."""
        raw = encode(text)
        if b"\n" in raw:
            # A value of several lines goes with its length in front.
            field = b"MESSAGE\n" + len(raw).to_bytes(8, "little") + raw
        else:
            field = b"MESSAGE=" + raw
        return b"%s\nPRIORITY=%d\nSYSLOG_IDENTIFIER=%s\n" % (
            field,
            level.priority,
            encode(self.syslog_ident),
        )


_clock: Final = Clock()
_log: Final = Log()


# Called by everybody


def info(text: str) -> None:
    """Log *text* at level LOG."""
    _log.line(LOG, text)


def warning(text: str) -> None:
    """Log *text* at level WARNING."""
    _log.line(WARNING, text)


def error(text: str) -> None:
    """Log *text* at level ERROR."""
    _log.line(ERROR, text)


def fatal(text: str) -> None:
    """Log *text* at level FATAL; ending the process is the caller's business."""
    _log.line(FATAL, text)


def debug(text: str) -> None:
    """Log *text* from verbosity 1 on."""
    if verbosity > 0:
        _log.line(DEBUG, text)


def noise(text: str) -> None:
    """Log *text* from verbosity 2 on."""
    if verbosity > 1:
        _log.line(NOISE, text)


def detail(level: Level, text: str, event: str, facts: Mapping[str, object]) -> None:
    """Log what PgBouncer has no line for: an event with its *facts*.

    With log_format = json always; as text only with log_details = 1.
    """
    if _log.json or _log.details:
        _log.line(level, text, event, facts)


# Called by whoever drives the process


def start(quiet: bool, level: int) -> None:
    """Say how to log until the configuration is known."""
    global verbosity
    verbosity = level
    _log.stderr = not quiet
    _log.journal = None if quiet else journal_of_stderr()


def report_crashes() -> None:
    """Let a fatal signal write where each thread was: to the log file, or stderr."""
    _log.reports_crashes = True
    faulthandler.enable(STDERR)


def configure(
    settings: LogSettings, quiet: bool, daemon: bool, hold: bool = False
) -> None:
    """Take the settings over; at a start, a RELOAD, and once in the background.

    *hold*: the lines for the file and syslog wait, until this is called without it:
    when the process is who it is going to be.
    """
    global verbosity
    flush()
    verbosity = settings.verbose
    _log.stderr = not (quiet or daemon)
    _log.journal = journal_of_stderr() if _log.stderr else None
    _log.json = settings.log_format == "json"
    _log.details = settings.log_details > 0
    _log.syslog_ident = settings.syslog_ident or "pgbouncer"
    # An unknown facility means daemon, without a word.
    name = (settings.syslog_facility or "").lower()
    _log.facility = FACILITIES.get(name, FACILITIES["daemon"])
    if hold:
        return
    if not settings.syslog:
        if _log.syslog is not None:
            _log.syslog.close()
        _log.syslog = None
    elif _log.syslog is None:
        _log.syslog = Datagrams(SYSLOG_SOCKET)
    path = settings.logfile or None
    if _log.file is not None and _log.file.path != path:
        _log.file.close()
        _log.file = None
    if path is not None and _log.file is None:
        _log.file = File(path)
    repeat_early()


def repeat_early() -> None:
    """Give the file and syslog the lines that came before they were known."""
    lines, _log.early = _log.early, None
    for level, text, line in lines or ():
        if _log.file is not None:
            _log.file.write(encode(line), _log.call_soon is not None)
        if _log.syslog is not None and level.priority < 7:
            _log.to_syslog(level, text)


def open_file() -> None:
    """Open the log file now; without one that can be opened nothing starts."""
    if _log.file is not None:
        _log.file.write(b"", running=False)


def reopen() -> None:
    """Close the file, so that the next line opens the path again (rotation)."""
    flush()
    if _log.file is not None:
        _log.file.close()


def unwritten() -> list[str]:
    """Give the list, always the same, of the lines that `flush` would write."""
    return _log.pending


def flush() -> None:
    """Write the lines of this turn; at the end of a turn, and at exit."""
    if not _log.pending:
        return
    data = encode("".join(_log.pending))
    _log.pending.clear()
    if _log.stderr and _log.journal is None:
        _log.output.put(STDERR, data)
    if _log.file is not None:
        _log.file.write(data, _log.call_soon is not None)


def turn_over() -> None:
    """End a turn whose lines nobody else has flushed."""
    _log.scheduled = False
    flush()


def attach(call_soon: Callable[[Callable[[], None]], object]) -> None:
    """Gather the lines of each turn from now on; *call_soon* is the loop's."""
    _log.call_soon = call_soon


def detach() -> None:
    """Write each line at once again: the loop is about to end."""
    _log.call_soon = None
    _log.scheduled = False
    flush()


def journal_of_stderr() -> Datagrams | None:
    """Return journald's socket if stderr is its stream (JOURNAL_STREAM says so)."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        stat = os.fstat(2)
        if (int(device), int(inode)) != (stat.st_dev, stat.st_ino):
            return None
    except (ValueError, OSError):
        return None
    return _log.journal or Datagrams(JOURNAL_SOCKET)


# A child must not write its parent's lines again, and has another process id.
os.register_at_fork(before=flush, after_in_child=_clock.forked)
