"""HAProxy's state, read and changed over its stats socket.

haproxy-stats parses `show stat` into objects, made for the HTTP page; here it is
given a socket instead. It splits at commas, keeps a failure for ever, empties its
lists before it fetches and answers garbage with an empty world. So the text is read
as CSV and handed over without quotes or inner commas, every update parses into a
new object, and whatever is not `show stat` output is refused before it gets there.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ha.errors import CutAnswer, HAProxyError, Refused
from ha.transport import (
    BUSY_PAUSE,
    DEFAULT_DEADLINE,
    RELOAD_GAP,
    Endpoint,
    ask,
    checked,
    verdict,
)

# haproxy-stats calls logging.basicConfig() when it is imported, which does nothing
# while the root logger has a handler; our log is nobody else's business.
_guard = logging.NullHandler()
logging.getLogger().addHandler(_guard)
from haproxystats import HAProxyServer  # noqa: E402

logging.getLogger().removeHandler(_guard)
# Its utcnow() is deprecated from Python 3.12 on; we do not read what it sets.
warnings.filterwarnings("ignore", category=DeprecationWarning, module="haproxystats")

FIRST_COLUMN = "# pxname,"
# A comma inside a field, in the text that haproxy-stats will split at commas.
INNER_COMMA = ";"
KINDS = {"0": "frontend", "1": "backend", "2": "server", "3": "listener"}

STATUS = re.compile(
    r"(?P<word>UP|DOWN|NOLB|DRAIN|MAINT|no check|OPEN|PAUSED|STOP|FULL|WAITING)"
    r"(?: \(?(?P<have>\d+)/(?P<need>\d+)\)?)?"
    r"(?: \((?P<source>agent|resolution|via (?P<backend>[^/]+)/(?P<server>.+))\))?"
)


@dataclass(frozen=True, slots=True)
class Status:
    """A status word taken apart: `UP 1/3`, `DOWN (agent)`, `MAINT (via b/s)`.

    *have*/*need* count checks for a server. For a BACKEND row of a filtered dump
    they count usable servers; the row's kind tells which.
    """

    text: str
    word: str
    have: int | None = None
    need: int | None = None
    source: str = ""

    @classmethod
    def parse(cls, text: str) -> Status:
        """Take *text* apart; a word we do not know is kept as it is."""
        found = STATUS.fullmatch(text)
        if found is None:
            return cls(text, text)
        have, need = found["have"], found["need"]
        return cls(
            text,
            found["word"],
            None if have is None else int(have),
            None if need is None else int(need),
            found["source"] or "",
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One row of `show stat`: a frontend, a backend, a server or a listener."""

    kind: str
    proxy: str
    name: str
    status: Status
    weight: int | None
    active: int | None
    backup: int | None
    sessions: int | None
    sessions_max: int | None
    session_limit: int | None
    sessions_total: int | None
    queued: int | None
    connect_errors: int | None
    retries: int | None
    redispatches: int | None
    times_down: int | None
    since_change: int | None
    check_status: str
    check_running: bool
    check_code: int | None
    last_check: str
    agent_status: str
    last_agent: str
    address: str
    # Every column under HAProxy's own name, as text.
    columns: dict[str, str] = field(repr=False, compare=False)

    @property
    def usable(self) -> bool:
        """Does it get new sessions? Weight 0 reads `UP` but gets none."""
        if self.kind in ("frontend", "listener"):
            return self.status.word == "OPEN"
        return self.status.word in ("UP", "no check") and bool(self.weight)


@dataclass(frozen=True, slots=True)
class Picture:
    """What one HAProxy process said at one moment."""

    endpoint: str
    taken: float
    rows: tuple[Row, ...]

    def of_kind(self, kind: str) -> Iterator[Row]:
        """The rows of one kind, in HAProxy's order."""
        return (row for row in self.rows if row.kind == kind)

    def server(self, backend: str, name: str) -> Row | None:
        """One server's row."""
        for row in self.of_kind("server"):
            if row.proxy == backend and row.name == name:
                return row
        return None

    def others_usable(self, backend: str, name: str) -> int:
        """How many other servers of *backend* still get new sessions."""
        return sum(
            row.proxy == backend and row.name != name and row.usable
            for row in self.of_kind("server")
        )


def number(text: str) -> int | None:
    """A column's number; empty means unset, unlimited or not applicable."""
    try:
        return int(text)
    except ValueError:
        return None


def sanitize(text: str, where: str) -> str:
    """Turn `show stat` output into what a split at commas reads correctly.

    Raises `CutAnswer` for an answer that ends early, `Refused` for an error text.
    """
    if not text.startswith(FIRST_COLUMN):
        verdict(where, text)
        raise CutAnswer(where, f"not the output of `show stat`: {text[:60]!r}")
    if not text.endswith("\n\n"):
        raise CutAnswer(where, "half an answer to `show stat`")
    lines: list[str] = []
    width = 0
    for values in csv.reader(io.StringIO(text, newline="")):
        if not values:
            continue
        width = width or len(values)
        if len(values) != width:
            raise CutAnswer(where, f"a row of {len(values)} columns instead of {width}")
        lines.append(",".join(map(plain_field, values)))
    return "\n".join(lines) + "\n"


def plain_field(value: str) -> str:
    """*value* without commas and newlines, and safe from the library's int().

    A server may be called `007`; haproxy-stats makes a number of whatever
    `isdigit()`. A trailing blank, which `row_of` takes away, keeps it a text.
    """
    value = re.sub(r"[\r\n]+", " ", value).replace(",", INNER_COMMA)
    if value.isdigit() and (not value.isascii() or value != str(int(value))):
        return value + " "
    return value


class SocketServer(HAProxyServer):  # type: ignore[misc]
    """haproxy-stats on a stats socket. One object is one moment: never updated.

    *fetch* returns the text of `show stat`; what it raises comes out of here.
    """

    def __init__(self, endpoint: Endpoint, fetch: Callable[[], str]) -> None:
        self.endpoint = endpoint
        self.fetch = fetch
        self.text = ""
        # The base class makes a requests session of the name and calls update().
        super().__init__(endpoint.label)

    def update(self) -> None:
        """Fetch and parse; a failure is raised, not remembered."""
        self.failed = False
        super().update()

    def _fetch(self) -> str:
        self.text = sanitize(self.fetch(), self.endpoint.text)
        # The base class drops the header's "# " by stripping both ends.
        return self.text

    def rows(self) -> tuple[Row, ...]:
        """All rows, backends and their servers in HAProxy's order."""
        services = [*self.frontends, *self.backends, *self.listeners]
        place = {
            tuple(line.split(",", 2)[:2]): index
            for index, line in enumerate(self.text.splitlines())
        }
        rows = [row_of(service) for service in services]
        return tuple(sorted(rows, key=lambda row: place.get((row.proxy, row.name), 0)))


def row_of(service: Any) -> Row:
    """Make a typed row of a haproxy-stats object, which guesses its types."""
    columns = {
        key: str(value).rstrip(" ")
        for key, value in vars(service).items()
        if key not in ("name", "proxy_name", "listeners")
    }
    get = columns.get
    check = get("check_status", "")
    return Row(
        kind=KINDS.get(get("type", ""), get("type", "")),
        proxy=get("pxname", ""),
        name=get("svname", ""),
        status=Status.parse(get("status", "")),
        weight=number(get("weight", "")),
        active=number(get("act", "")),
        backup=number(get("bck", "")),
        sessions=number(get("scur", "")),
        sessions_max=number(get("smax", "")),
        session_limit=number(get("slim", "")),
        sessions_total=number(get("stot", "")),
        queued=number(get("qcur", "")),
        connect_errors=number(get("econ", "")),
        retries=number(get("wretr", "")),
        redispatches=number(get("wredis", "")),
        times_down=number(get("chkdown", "")),
        since_change=number(get("lastchg", "")),
        check_status=check.removeprefix("* "),
        check_running=check.startswith("* "),
        check_code=number(get("check_code", "")),
        last_check=get("last_chk", ""),
        agent_status=get("agent_status", "").removeprefix("* "),
        last_agent=get("last_agt", ""),
        address=get("addr", ""),
        columns=columns,
    )


@dataclass(frozen=True, slots=True)
class ServerState:
    """A line of `show servers state`: the only place that tells why."""

    backend: str
    name: str
    operational: int
    admin: int
    weight: int
    initial_weight: int

    FORCED_MAINT = 1
    FORCED_DRAIN = 8

    @property
    def forced(self) -> str:
        """What somebody ordered through the socket or an agent: drain, maint, ""."""
        if self.admin & self.FORCED_MAINT:
            return "maint"
        return "drain" if self.admin & self.FORCED_DRAIN else ""


def parse_info(text: str, where: str) -> dict[str, str]:
    """Read `show info`: `Key: value`, where a value may be empty."""
    if not text.startswith("Name: "):
        verdict(where, text)
        raise CutAnswer(where, f"not the output of `show info`: {text[:60]!r}")
    if not text.endswith("\n\n"):
        raise CutAnswer(where, "half an answer to `show info`")
    pairs = (line.partition(":") for line in text.splitlines() if line)
    return {key: value.strip() for key, _, value in pairs}


def parse_servers_state(text: str, where: str) -> list[ServerState]:
    """Read `show servers state`, format 1, by the names in its header."""
    lines = text.splitlines()
    if not lines or lines[0] != "1" or len(lines) < 2 or not lines[1].startswith("# "):
        verdict(where, text)
        raise CutAnswer(where, f"not a server state of format 1: {text[:60]!r}")
    if not text.endswith("\n\n"):
        raise CutAnswer(where, "half an answer to `show servers state`")
    names = lines[1][2:].split()
    states: list[ServerState] = []
    for line in filter(None, lines[2:]):
        cells = dict(zip(names, line.split(), strict=False))
        try:
            states.append(
                ServerState(
                    cells["be_name"],
                    cells["srv_name"],
                    int(cells["srv_op_state"]),
                    int(cells["srv_admin_state"]),
                    int(cells["srv_uweight"]),
                    int(cells["srv_iweight"]),
                )
            )
        except (KeyError, ValueError) as problem:
            raise CutAnswer(where, f"server state line {line!r}: {problem}") from None
    return states


def parse_processes(text: str, where: str) -> list[int]:
    """The process ids of all workers, old ones included, from `show proc`."""
    if not text.startswith("#<PID>"):
        verdict(where, text)
        raise CutAnswer(where, f"not the output of `show proc`: {text[:60]!r}")
    found = re.findall(r"^(\d+)\s+worker\s", text, re.MULTILINE)
    return [int(pid) for pid in found]


STATES = ("ready", "drain", "maint")


class HAProxy:
    """One HAProxy, by its stats socket. Every call opens and closes a connection.

    *master* is the socket of the master process (`-S`), through which the old
    workers that a reload left behind can be counted as well.
    """

    def __init__(
        self,
        endpoint: str | Endpoint,
        deadline: float = DEFAULT_DEADLINE,
        master: str | Endpoint | None = None,
    ) -> None:
        self.endpoint = located(endpoint)
        self.master = None if master is None else located(master)
        self.deadline = deadline

    def __repr__(self) -> str:
        return f"HAProxy {self.endpoint.text}"

    # Reading

    def picture(self) -> Picture:
        """All of `show stat`."""
        return self.picture_of(self.endpoint, "show stat")

    def picture_of(self, endpoint: Endpoint, command: str) -> Picture:
        """`show stat` in the words of *command*, which may carry a worker prefix."""
        server = SocketServer(endpoint, lambda: self.read(endpoint, command))
        return Picture(endpoint.text, time.monotonic(), server.rows())

    def info(self) -> dict[str, str]:
        """`show info`. A new Pid means a reload: orders may have been forgotten."""
        text = self.read(self.endpoint, "show info")
        return parse_info(text, self.endpoint.text)

    def server_states(self) -> list[ServerState]:
        """`show servers state`."""
        text = self.read(self.endpoint, "show servers state")
        return parse_servers_state(text, self.endpoint.text)

    def state_file(self) -> str:
        """The text that `server-state-file` takes; checked to be whole."""
        text = self.read(self.endpoint, "show servers state")
        parse_servers_state(text, self.endpoint.text)
        return text

    def weight_of(self, backend: str, server: str) -> tuple[int, int]:
        """The current and the initial weight."""
        target = f"{checked(backend, 'backend')}/{checked(server, 'server')}"
        reply = self.read(self.endpoint, f"get weight {target}")
        found = re.fullmatch(r"(\d+) \(initial (\d+)\)", reply.strip())
        if found is None:
            verdict(self.endpoint.text, reply)
            raise CutAnswer(self.endpoint.text, f"not a weight: {reply[:60]!r}")
        return int(found[1]), int(found[2])

    def workers(self) -> list[int]:
        """Process ids of all workers; needs the master socket."""
        if self.master is None:
            return []
        ends = time.monotonic() + self.deadline
        while True:
            try:
                text = self.read(self.master, "show proc")
            except HAProxyError:
                # During a reload the master becomes another program, which does not
                # listen yet.
                if time.monotonic() >= ends or not os.path.exists(self.master.path):
                    raise
                time.sleep(BUSY_PAUSE)
            else:
                return parse_processes(text, self.master.text)

    def sessions_on(self, backend: str, server: str) -> int:
        """Sessions of one server, summed over all workers when there is a master."""
        if self.master is None:
            pictures = [self.picture()]
        else:
            pictures = [
                picture
                for pid in self.workers()
                if (picture := self.picture_of_worker(self.master, pid)) is not None
            ]
        rows = [picture.server(backend, server) for picture in pictures]
        found = [row.sessions or 0 for row in rows if row is not None]
        if not found:
            raise HAProxyError(
                self.endpoint.text, f"there is no server {backend}/{server}"
            )
        return sum(found)

    def picture_of_worker(self, master: Endpoint, pid: int) -> Picture | None:
        """One worker's picture; None if it has ended since the list was made.

        The master lists a worker a little longer than it lives.
        """
        ends = time.monotonic() + RELOAD_GAP
        while True:
            try:
                return self.picture_of(master, f"@!{pid} show stat")
            except HAProxyError:
                if pid not in self.workers():
                    return None
                if time.monotonic() >= ends:
                    raise
            time.sleep(BUSY_PAUSE)

    # Changing

    def set_state(self, backend: str, server: str, state: str) -> None:
        """`ready`, `drain` or `maint`. Drain keeps sessions; maint may cut them."""
        if state not in STATES:
            raise HAProxyError(self.endpoint.text, f"{state!r} is not one of {STATES}")
        self.order(f"set server {self.target(backend, server)} state {state}")

    def set_weight(self, backend: str, server: str, weight: str) -> None:
        """`N` (0-256) or `N%` of the configured weight, rounded down."""
        if not re.fullmatch(r"\d{1,3}%?", weight):
            raise HAProxyError(self.endpoint.text, f"{weight!r} is not a weight")
        self.order(f"set server {self.target(backend, server)} weight {weight}")

    def set_max_sessions(self, backend: str, server: str, limit: int) -> None:
        """The server's `maxconn`."""
        self.order(f"set maxconn server {self.target(backend, server)} {int(limit)}")

    def set_agent(self, backend: str, server: str, enabled: bool) -> None:
        """Stop or start listening to the server's agent, which overrides orders."""
        word = "enable" if enabled else "disable"
        self.order(f"{word} agent {self.target(backend, server)}")

    def hear_agent(self, backend: str, server: str) -> None:
        """Listen to the server's agent again, if it has one: once disabled, an agent
        is nowhere to be seen.
        """
        try:
            self.set_agent(backend, server, True)
        except Refused as problem:
            if "not configured" not in problem.text:
                raise

    def cut_sessions(self, backend: str, server: str) -> None:
        """Cut every session of the server. Clients read a bare end of stream."""
        self.order(f"shutdown sessions server {self.target(backend, server)}")

    def order(self, command: str) -> str:
        """Run a changing command; raises `Refused` with HAProxy's own words."""
        # Only with severities on can success (no text) and refusal be told apart.
        reply = self.asked(self.endpoint, f"set severity-output number;{command}")
        if not reply.startswith("\n"):
            verdict(self.endpoint.text, reply)
            raise CutAnswer(self.endpoint.text, "HAProxy closed without an answer")
        return verdict(self.endpoint.text, reply[1:])

    def target(self, backend: str, server: str) -> str:
        """`backend/server`, fit for a command."""
        for word in (backend, server):
            if "/" in word:
                raise HAProxyError(self.endpoint.text, f"{word!r} cannot hold a slash")
        return f"{checked(backend, 'backend')}/{checked(server, 'server')}"

    def read(self, endpoint: Endpoint, command: str) -> str:
        """A question that may be asked twice: a reload cuts connections."""
        try:
            return self.asked(endpoint, command)
        except CutAnswer:
            time.sleep(BUSY_PAUSE)
            return self.asked(endpoint, command)

    def asked(self, endpoint: Endpoint, command: str) -> str:
        """One question, one answer."""
        return ask(endpoint, command, self.deadline)


def located(endpoint: str | Endpoint) -> Endpoint:
    """An endpoint from its text."""
    return Endpoint.parse(endpoint) if isinstance(endpoint, str) else endpoint
