"""Health served from the pooler's own loop: HTTP, and HAProxy's agent-check.

From the main loop on purpose: a pooler that is stuck cannot claim to be well. No
client slot, no log line, no question to the database: an answer is made of memory
and written in one piece, because HAProxy resets the connection as soon as it has
read the status line. What goes wrong with a checker's connection is the checker's
business, and silent.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import urllib.parse
from collections.abc import Awaitable, Callable
from typing import Protocol, cast

from ha.agent import Agent, parse_size
from ha.readiness import TICK, Answer, Grade, Policy, Readiness
from ha.view import PoolerView, names

# A check is over in milliseconds; who takes longer is not one.
DEADLINE = 5.0
MAX_REQUEST = 8192
# Checkers connected at once; the oldest goes when there are more.
MAX_CONNECTIONS = 512
# An answer above this size (/metrics) may take a while to be read; so many may at
# once, and the oldest goes when there are more.
LARGE = 65536
MAX_LARGE = 8
# With so many databases /status is made once per look at the pooler.
MANY_DATABASES = 100
# How long an agent connection may take to say what it wants. One without
# `agent-send` says nothing, and is answered after this.
AGENT_PATIENCE = 0.1
MAX_QUESTION = 512
HIGHEST_PORT = 65535

REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}

# Names that Patroni uses for the same questions.
ALIASES = {
    "/": "/ready",
    "/health": "/ready",
    "/readiness": "/ready",
    "/liveness": "/live",
    "/read-write": "/primary",
    "/leader": "/primary",
    "/master": "/primary",
}

# What may be asked of a pooler of last resort, too (`held=yes`).
ASKED = ("/ready", "/primary", "/replica", "/read-only")

Metrics = Callable[[], str | Awaitable[str]]


Reply = Callable[[bytes], None]

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class HealthSettings(Protocol):
    """What of `Settings` is read here."""

    health_listen: str
    agent_listen: str
    health_databases: str
    health_down_after: float
    health_wrong_role: str


class Checker(asyncio.Protocol):
    """One connection of a checker; closed after one answer, or at the deadline."""

    def __init__(self, server: HealthServer, patience: float) -> None:
        self.server = server
        self.patience = patience
        self.received = b""
        self.transport: asyncio.Transport | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock."""
        self.transport = cast(asyncio.Transport, transport)
        self.server.enter(self)
        loop = asyncio.get_running_loop()
        self.timer = loop.call_later(self.patience, self.expired)

    def connection_lost(self, exc: Exception | None) -> None:
        """The checker went, as they do."""
        if self.timer is not None:
            self.timer.cancel()
        self.server.leave(self)

    def expired(self) -> None:
        """Too slow."""
        self.drop()

    def drop(self) -> None:
        """Close at once."""
        if self.transport is not None:
            self.transport.abort()

    def reply(self, data: bytes) -> None:
        """Send everything in one piece and close."""
        if self.transport is not None and not self.transport.is_closing():
            if len(data) > LARGE:
                self.server.enter_large(self)
            self.transport.write(data)
            self.transport.close()


class HttpChecker(Checker):
    """GET, HEAD, OPTIONS; HTTP/1.0 without a header is what HAProxy sends."""

    def data_received(self, data: bytes) -> None:
        """Answer when the head is complete; a body is never read."""
        if self.answered:
            return
        self.received += data[: MAX_REQUEST + 4]
        head, end, _ = self.received.partition(b"\r\n\r\n")
        if not end:
            # Whoever types with netcat ends lines with LF alone.
            head, end, _ = self.received.partition(b"\n\n")
        if len(head) > MAX_REQUEST:
            self.answered = True
            self.received = b""
            self.reply(response(400, "head too long\n"))
        elif end:
            self.answered = True
            line = head.split(b"\n", 1)[0].decode("latin-1").strip()
            self.received = b""
            self.server.http(line, self.reply)


class AgentChecker(Checker):
    """One line, or silence, in; one line out."""

    def data_received(self, data: bytes) -> None:
        """Answer a complete question."""
        self.received += data[: MAX_QUESTION + 1]
        if b"\n" in self.received or len(self.received) > MAX_QUESTION:
            self.answer()

    def eof_received(self) -> bool:
        """Half a connection is enough to answer on."""
        self.answer()
        return True

    def expired(self) -> None:
        """Nothing was asked: the general question."""
        self.answer()

    def answer(self) -> None:
        """Send the line and close."""
        if self.answered:
            return
        self.answered = True
        line = self.received[:MAX_QUESTION].partition(b"\n")[0]
        self.received = b""
        self.reply(self.server.agent.answer(line.decode("utf-8", "replace")).encode())


class HealthServer:
    """Listens as the settings say. *metrics* makes the text of /metrics."""

    def __init__(
        self,
        view: PoolerView,
        settings: HealthSettings,
        metrics: Metrics | None = None,
    ) -> None:
        self.view = view
        self.metrics = metrics
        self.readiness = Readiness(view, policy_of(settings))
        self.agent = Agent(self.readiness)
        self.listen = {
            HttpChecker: names(settings.health_listen),
            AgentChecker: names(settings.agent_listen),
        }
        self.servers: list[asyncio.Server] = []
        self.checkers: dict[Checker, None] = {}
        self.large: dict[Checker, None] = {}  # those that are sent much
        self.rendering: asyncio.Task[None] | None = None
        self.wanting: list[tuple[Reply, bool]] = []  # who waits for /metrics
        self.known_status: tuple[float, str] | None = None
        self.answers = 0
        self.ticker: asyncio.TimerHandle | None = None

    # Called by whoever runs the pooler

    async def start(self) -> None:
        """Listen, and look at the pooler from now on. Raises OSError."""
        try:
            for kind, places in self.listen.items():
                for place in places:
                    await self.listen_at(kind, place)
        except OSError:
            self.close()
            raise
        self.tick()

    def reload(self, settings: HealthSettings) -> None:
        """Take settings over; the listening addresses need a restart."""
        self.readiness.policy = policy_of(settings)

    def close(self) -> None:
        """Stop listening; the last thing a pooler does, after its clients left."""
        if self.ticker is not None:
            self.ticker.cancel()
        self.readiness.close()
        if self.rendering is not None:
            self.rendering.cancel()
        for server in self.servers:
            server.close()
        self.servers.clear()
        for checker in list(self.checkers):
            checker.drop()
        for places in self.listen.values():
            for place in places:
                if place.startswith("/"):
                    unlink_socket(place)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where TCP is listened on, HTTP first; port 0 has become a number."""
        return [
            listening.getsockname()[:2]
            for server in self.servers
            for listening in server.sockets
            if listening.family != socket.AF_UNIX
        ]

    async def listen_at(self, kind: type[Checker], place: str) -> None:
        """Open one listening address: `host:port`, `*:port` or a path."""
        loop = asyncio.get_running_loop()
        patience = AGENT_PATIENCE if kind is AgentChecker else DEADLINE

        def checker() -> Checker:
            return kind(self, patience)

        if place.startswith("/"):
            unlink_socket(place)
            self.servers.append(await loop.create_unix_server(checker, place))
            return
        host, colon, port = place.rpartition(":")
        known = bool(colon) and port.isascii() and port.isdigit()
        if not known or int(port) > HIGHEST_PORT:
            raise OSError(f"cannot listen on {place!r}: write host:port or a path")
        host = host.strip("[]")
        self.servers.append(
            await loop.create_server(
                checker, None if host in ("", "*") else host, int(port), backlog=512
            )
        )

    def tick(self) -> None:
        """Look at the pooler, and again in a moment."""
        self.ticker = asyncio.get_running_loop().call_later(TICK, self.tick)
        self.readiness.tick()

    # Called by checkers

    def enter(self, checker: Checker) -> None:
        """Count a checker; make room for it."""
        self.checkers[checker] = None
        if len(self.checkers) > MAX_CONNECTIONS:
            self.send_away(next(iter(self.checkers)))

    def leave(self, checker: Checker) -> None:
        """Forget a checker."""
        self.checkers.pop(checker, None)
        self.large.pop(checker, None)

    def enter_large(self, checker: Checker) -> None:
        """Count a checker that is sent much: what it does not read is kept."""
        self.large[checker] = None
        if len(self.large) > MAX_LARGE:
            self.send_away(next(iter(self.large)))

    def send_away(self, checker: Checker) -> None:
        """Make room; it counts no more at once, and ends in the loop's next turn."""
        self.leave(checker)
        checker.drop()

    def http(self, line: str, reply: Reply) -> None:
        """Hand the whole response to a request line to *reply*, perhaps later."""
        self.answers += 1
        words = line.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            reply(response(400, "not an HTTP/1 request\n"))
            return
        method, target, _ = words
        if method not in ("GET", "HEAD", "OPTIONS"):
            reply(response(405, "GET, HEAD or OPTIONS\n"))
        elif target.partition("?")[0] == "/metrics" and self.metrics is not None:
            self.want_metrics(reply, method != "GET")
        else:
            reply(self.answer(method, target))

    def want_metrics(self, reply: Reply, headers_only: bool) -> None:
        """Give /metrics to *reply*; however many ask meanwhile, it is made once."""
        self.wanting.append((reply, headers_only))
        if self.rendering is None:
            self.rendering = asyncio.ensure_future(self.render())

    async def render(self) -> None:
        """Make /metrics and hand it to everybody who wants it."""
        assert self.metrics is not None
        try:
            made = self.metrics()
            text = made if isinstance(made, str) else await made
        finally:
            self.rendering = None
            wanting, self.wanting = self.wanting, []
        whole = response(200, text, METRICS_TYPE)
        bare = response(200, text, METRICS_TYPE, headers_only=True)
        for reply, headers_only in wanting:
            reply(bare if headers_only else whole)

    def answer(self, method: str, target: str) -> bytes:
        """The whole response to all else."""
        try:
            status, kind, body = self.page(target)
        except ValueError as problem:
            status, kind, body = 400, "text/plain", f"{problem}\n"
        return response(status, body, kind, headers_only=method != "GET")

    def page(self, target: str) -> tuple[int, str, str]:
        """Status, type and body; raises ValueError for what makes no sense."""
        path, _, query = target.partition("?")
        if len(path) > 1:
            path = path.rstrip("/")
        path = ALIASES.get(path, path)
        fields = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        database = fields.pop("db", "")
        lag = None
        if path in ("/replica", "/read-only") and "lag" in fields:
            lag = parse_size(fields.pop("lag"))
        held = path in ASKED and fields.pop("held", "no") == "yes"
        if fields:
            # A misspelt lag= must not mean "any lag".
            raise ValueError(f"unknown parameter {min(fields)!r}")
        if path == "/status":
            return 200, "application/json", self.status_text()
        answer = self.judged(path, database, lag, held)
        body = {"status": answer.word}
        if database:
            body["database"] = database
        return answer.grade.value, "application/json", json.dumps(body) + "\n"

    def judged(self, path: str, database: str, lag: int | None, held: bool) -> Answer:
        """The answer of one of the checks."""
        readiness = self.readiness
        if path == "/live":
            return readiness.live()
        if path == "/ready":
            return readiness.ready(database, held)
        if path == "/primary":
            return readiness.primary(database, held)
        if path == "/replica":
            return readiness.replica(database, lag, held)
        if path == "/read-only":
            return readiness.read_only(database, lag, held)
        # Not 404: to a balancer that is "keep your sessions, get no new ones".
        raise ValueError(f"unknown path {path!r}")

    def status_text(self) -> str:
        """/status as text; of many databases not anew for everybody who asks."""
        at, known = self.readiness.ticked_at, self.known_status
        if known is not None and known[0] == at:
            return known[1]
        text = json.dumps(self.status()) + "\n"
        if len(self.readiness.facts) > MANY_DATABASES:
            self.known_status = (at, text)
        return text

    def status(self) -> dict[str, object]:
        """Everything that is known, for people and their tools."""
        readiness = self.readiness
        used, limit = self.view.clients()
        return {
            "live": readiness.live().grade is Grade.GOOD,
            "phase": self.view.phase(),
            "ready": readiness.ready().word,
            "clients": used,
            "max_client_conn": limit,
            "loop_lag_ms": round(readiness.loop_lag * 1000, 1),
            "weight": self.agent.weight(""),
            "checks": self.answers,
            "databases": {name: self.database_status(name) for name in readiness.facts},
        }

    def database_status(self, name: str) -> dict[str, object]:
        """One database's part of /status."""
        readiness = self.readiness
        facts, watched = readiness.facts[name], readiness.watched[name]
        now = readiness.clock()
        role = watched.role
        proved = watched.proved_at
        answer = readiness.ready_one(name)
        return {
            "ready": answer.grade.value,
            "state": answer.word,
            "paused": facts.paused,
            "disabled": facts.disabled,
            "waiting": facts.waiting,
            "busiest_pool": round(facts.busiest, 3),
            "proof_age": None if proved is None else round(now - proved, 3),
            "failing_for": readiness.failing_for(name),
            "error": watched.error or None,
            "last_failure": facts.failure,
            "health_login": None
            if watched.refused is None
            else dict(zip(("user", "error"), watched.refused, strict=True)),
            "role": None
            if role is None
            else {
                "standby": role.standby,
                "writable": role.writable,
                "lag": role.lag,
                "age": round(now - role.at, 3),
            },
        }


def policy_of(settings: HealthSettings) -> Policy:
    """The part of the settings that can change while running."""
    return Policy(
        databases=names(settings.health_databases),
        down_after=settings.health_down_after,
        wrong_role=settings.health_wrong_role,
    )


def response(
    status: int,
    body: str,
    kind: str = "text/plain",
    headers_only: bool = False,
) -> bytes:
    """A whole HTTP response."""
    content = body.encode()
    head = (
        f"HTTP/1.1 {status} {REASONS[status]}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {len(content)}\r\n"
        "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    ).encode()
    return head if headers_only else head + content


def unlink_socket(path: str) -> None:
    """Remove a socket file that a former process left; nothing else."""
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
    except OSError:
        # Not there, or listening will say what is wrong.
        pass
