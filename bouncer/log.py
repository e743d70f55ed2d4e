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

import os
import socket
import time
from collections.abc import Callable
from json import dumps
from typing import Final, NamedTuple, Protocol

# A text longer than this (bytes) is cut; PgBouncer formats into 2048 bytes.
TEXT_LIMIT: Final = 2047
# No text of so many characters can be longer than TEXT_LIMIT in UTF-8.
SURELY_SHORT: Final = TEXT_LIMIT // 4
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


def write_all(fd: int, data: bytes) -> None:
    """Write *data*; what cannot be written is lost, as there is no one to tell."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except OSError:
            return


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

    __slots__ = ("path", "sock")

    def __init__(self, path: str) -> None:
        self.path = path
        self.sock: socket.socket | None = None

    def send(self, data: bytes) -> None:
        """Send *data*, or drop it: a stuck log daemon must not stop the pooler."""
        for _ in range(2):
            if self.sock is None and not self.connect():
                return
            assert self.sock is not None
            try:
                self.sock.send(data)
                return
            except BlockingIOError:
                return
            except OSError:
                # The daemon was restarted: one fresh try.
                self.close()

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


class File:
    """The log file: opened by the first line after a start or a reopening."""

    __slots__ = ("fd", "not_before", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = -1
        self.not_before = 0.0

    def write(self, data: bytes, running: bool) -> None:
        """Append *data*. Before the pooler runs, a failed open ends the process."""
        if self.fd < 0:
            now = time.monotonic()
            if now < self.not_before:
                return
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            try:
                self.fd = os.open(self.path, flags, 0o666)
            except OSError as err:
                self.not_before = now + REOPEN_PAUSE
                self.complain(err, running)
                return
        if data:
            write_all(self.fd, data)

    def complain(self, err: OSError, running: bool) -> None:
        """Tell stderr, quiet or not; end a process that has not begun to work."""
        stamp = f"{_clock.date}.000 {_clock.zone.split(' ')[0]} {_clock.pid}"
        text = f"{stamp} FATAL Cannot open logfile: '{self.path}': {err.strerror}\n"
        write_all(2, encode(text))
        if not running:
            raise SystemExit(1)

    def close(self) -> None:
        """Close the file; the next line opens the path again."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        self.not_before = 0.0


class Log:
    """Everything that is known about where lines go."""

    __slots__ = (
        "call_soon",
        "early",
        "facility",
        "file",
        "journal",
        "json",
        "pending",
        "scheduled",
        "stderr",
        "syslog",
        "syslog_ident",
    )

    def __init__(self) -> None:
        self.stderr = True
        self.file: File | None = None
        self.syslog: Datagrams | None = None
        self.syslog_ident = "pgbouncer"
        self.facility = FACILITIES["daemon"]
        self.journal: Datagrams | None = None
        self.json = False
        self.pending: list[str] = []
        # Lines from before `configure`; None once it has been called.
        self.early: list[tuple[Level, str, str]] | None = []
        self.call_soon: Callable[[Callable[[], None]], object] | None = None
        self.scheduled = False

    def line(self, level: Level, text: str) -> None:
        """Write one line, or queue it for the end of the loop's turn."""
        text = tidy(text)
        now = time.time()
        second = int(now)
        clock = _clock
        if second != clock.second:
            clock.tick(second)
        millis = int((now - second) * 1000)
        if self.json:
            line = json_line(level, text, millis)
        else:
            line = f"{clock.date}.{millis:03d} {clock.zone}{level.word} {text}\n"
        self.pending.append(line)
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

    def to_syslog(self, level: Level, text: str) -> None:
        """Send one line to the syslog daemon."""
        assert self.syslog is not None
        code = self.facility << 3 | level.priority
        ident = f"{self.syslog_ident}[{_clock.pid}]"
        self.syslog.send(encode(f"<{code}>{_clock.syslog_date} {ident}: {text}"))

    def to_journal(self, level: Level, text: str) -> None:
        """Send one line to journald, instead of to stderr."""
        assert self.journal is not None
        raw = encode(text)
        if b"\n" in raw:
            # A value of several lines goes with its length in front.
            field = b"MESSAGE\n" + len(raw).to_bytes(8, "little") + raw
        else:
            field = b"MESSAGE=" + raw
        self.journal.send(
            b"%s\nPRIORITY=%d\nSYSLOG_IDENTIFIER=%s\n"
            % (field, level.priority, encode(self.syslog_ident))
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


# Called by whoever drives the process


def start(quiet: bool, level: int) -> None:
    """Say how to log until the configuration is known."""
    global verbosity
    verbosity = level
    _log.stderr = not quiet
    _log.journal = None if quiet else journal_of_stderr()


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
        write_all(2, data)
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


# JSON: the facts of a line as fields


def json_line(level: Level, text: str, millis: int) -> str:
    """Return the line of log_format = json."""
    stamp = f"{_clock.date.replace(' ', 'T')}.{millis:03d}{_clock.iso_zone}"
    fields: dict[str, object] = {
        "time": stamp,
        "pid": _clock.pid,
        "level": level.word,
    }
    message = text.replace("\n\t", "\n")
    message = prefix_fields(message, fields)
    fields["message"] = message
    event_fields(message, fields)
    return dumps(fields) + "\n"


def prefix_fields(text: str, fields: dict[str, object]) -> str:
    """Put the socket prefix of *text* into *fields*; return the rest.

    The address is what follows the first "@" that has, before the next blank, no
    other "@" but a port at its end. Names may hold any of these characters: no
    rule can be right for all of them.
    """
    if not text.startswith(("C-0x", "S-0x")):
        return text
    connection, colon, rest = text.partition(": ")
    if not colon:
        return text
    at = rest.find("@")
    while at >= 0:
        address, _, message = rest[at + 1 :].partition(" ")
        host, colon, port = address.rpartition(":")
        if colon and host and "@" not in host and port.isdigit():
            break
        at = rest.find("@", at + 1)
    else:
        return text
    owner = rest[:at]
    fields["connection"] = connection
    fields["side"] = "client" if text[0] == "C" else "server"
    if owner.startswith("peer-"):
        fields["peer"] = owner[5:]
    else:
        database, _, user = owner.partition("/")
        fields["database"] = None if database == "(nodb)" else database
        fields["user"] = None if user == "(nouser)" else user
    fields["address"] = address
    return message


def event_fields(message: str, fields: dict[str, object]) -> None:
    """Name what happened, for the lines that dashboards are made of."""
    if message.startswith("closing because: "):
        reason, _, age = message[17:].rpartition(" (age=")
        fields["event"] = "disconnect"
        fields["reason"] = reason
        if age[:-2].isdigit():
            fields["age"] = int(age[:-2])
    elif message.startswith("login attempt: "):
        fields["event"] = "login"
        tls = message.rpartition(" tls=")[2].partition(" ")[0]
        fields["tls"] = None if tls == "no" else tls
        fields["replication"] = message.rpartition(" replication=")[2]
    elif message.startswith("new connection to server"):
        fields["event"] = "connect"
    elif message.startswith("pooler error: "):
        fields["event"] = "error"
        fields["reason"] = message[14:]
    elif message.startswith("stats: "):
        fields["event"] = "stats"
        fields.update(stats_fields(message[7:]))


def stats_fields(text: str) -> dict[str, object]:
    """Return the numbers of the stats line: "xacts_per_s", "in_bytes_per_s", ..."""
    fields: dict[str, object] = {}
    for part in text.split(", "):
        words = part.split(" ")
        if words[-1] == "us":  # xact 482 us
            name, number = f"{words[0]}_us", words[1]
        elif words[-1] == "B/s":  # in 14 B/s
            name, number = f"{words[0]}_bytes_per_s", words[1]
        else:  # 0 client parses/s
            name, number = "_".join(words[1:]).replace("/s", "_per_s"), words[0]
        if number.isdigit():
            fields[name] = int(number)
    return fields


# A child must not write its parent's lines again, and has another process id.
os.register_at_fork(before=flush, after_in_child=_clock.forked)
