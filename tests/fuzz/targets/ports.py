"""The health and agent ports: heads of HTTP requests and lines of agent-checks.

Bytes come in pieces, on several connections. Each gets at most one answer, which is a
response or one line; what is kept of a head is bounded, and nothing is left at the end.
"""

import asyncio
from typing import Any

from ha.health import AgentChecker, Checker, HealthServer, HttpChecker
from ha.view import DatabaseFacts
from tests.fuzz.steps import Step
from tests.fuzz.targets import Found

HTTP, AGENT, MORE, END, EXPIRE, TICK = range(6)
MOST_KEPT = 100_000
PATHS = (b"/", b"/live", b"/ready", b"/primary", b"/replica", b"/read-only", b"/status",
         b"/metrics", b"/replica?lag=1MB", b"/ready?db=p0", b"/primary?db=%70%30&x=y",
         b"/replica?lag=-1", b"/ready/p0", b"/replica/p0?lag=99999999999999999999",
         b"//", b"/%ff?%00=%", b"*")  # fmt: skip
HEADS = [
    method + b" " + path + b" HTTP/1." + end
    for path in PATHS
    for method, end in (
        (b"GET", b"0\r\n\r\n"), (b"HEAD", b"1\r\nHost: x\r\n\r\n"), (b"OPTIONS",
        b"0\n\n"),
    )
]  # fmt: skip
words = {
    HTTP: [*HEADS, b"GET / HTTP/2\r\n\r\n", b"POST / HTTP/1.0\r\n\r\n", b"\r\n\r\n",
    b"GET"],
    AGENT: [b"\n", b"rw p0\n", b"ro p0 lag=1MB\n", b"rw share=2\n", b"ro share=0\n",
    b"db=%70",
            b"rw db=p0 share=3 lag=1\n", b"share=\xff\n", b"x y z\n", b"lag=-1\n"],
    MORE: [*HEADS[:6], b"x" * 5000, b"\n", b"\r\n\r\n", b" "],
    END: [b""], EXPIRE: [b""], TICK: [b""],
}  # fmt: skip


class Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        if self.closed:
            raise Found("an answer after the end")
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed


class View:
    """A pooler in one of several states."""

    def __init__(self, setup: bytes) -> None:
        self.setup = setup
        self.asked = 0

    def phase(self) -> str:
        return ("running", "running", "paused", "draining")[self.setup[0] & 3]

    def clients(self) -> tuple[int, int]:
        return self.setup[1], (0, 100)[self.setup[0] >> 2 & 1]

    def databases(self) -> dict[str, DatabaseFacts]:
        how = self.setup[2]
        facts = DatabaseFacts("p0", bool(how & 1), bool(how & 2), how >> 4)
        return {"p0": facts, "p1": DatabaseFacts("p1", False, False)}

    async def probe(self, database: str, sql: str) -> list[list[str | None]]:
        self.asked += 1
        answers: tuple[list[list[str | None]], ...] = (
            [["f", "on", "0"]], [["t", "off", "12"]], [], [[None]], [["x", "y", "z"]],
        )  # fmt: skip
        return answers[self.setup[3] % len(answers)]


class Settings:
    health_listen = agent_listen = ""
    health_databases = ""
    health_down_after = 10.0
    health_wrong_role = "auto"


class Play:
    """One input."""

    def __init__(self, setup: bytes) -> None:
        self.server = HealthServer(View(setup), Settings(), lambda: "metric 1\n")
        self.checkers: list[tuple[Checker, Transport]] = []

    def connect(self, kind: type[Checker]) -> tuple[Checker, Transport]:
        checker, transport = kind(self.server, 1.0), Transport()
        checker.connection_made(transport)  # type: ignore[arg-type]
        self.checkers.append((checker, transport))
        return self.checkers[-1]

    async def step(self, step: Step) -> None:
        what = step.what % 6
        if what == TICK:
            self.server.readiness.tick()
            await asyncio.sleep(0)
            return
        if what in (HTTP, AGENT) or not self.checkers:
            checker, transport = self.connect(
                AgentChecker if what == AGENT else HttpChecker
            )
        else:
            checker, transport = self.checkers[step.who % len(self.checkers)]
        if transport.closed:
            return
        if what in (HTTP, AGENT, MORE):
            if step.data:
                checker.data_received(step.data)
        elif what == END and isinstance(checker, AgentChecker):
            checker.eof_received()
        elif what == EXPIRE:
            checker.expired()
        self.judge(checker, transport)

    def judge(self, checker: Checker, transport: Transport) -> None:
        said = b"".join(transport.written)
        if len(checker.received) > MOST_KEPT:
            raise Found(f"{len(checker.received)} bytes of a head are kept")
        if len(transport.written) > 1:
            raise Found(f"answered twice: {said!r}")
        if said and isinstance(checker, AgentChecker):
            if said.count(b"\n") != 1 or not said.endswith(b"\n"):
                raise Found(f"not one line: {said!r}")
        elif said:
            head, _, _ = said.partition(b"\r\n\r\n")
            if not said.startswith(b"HTTP/1.") or b"\n\n" in head.replace(b"\r", b""):
                raise Found(f"not a response: {said!r}")

    async def whole(self, steps: list[Step]) -> None:
        for step in steps:
            await self.step(step)
        for checker, _ in self.checkers:
            checker.connection_lost(None)
        if self.server.checkers:
            raise Found("connections left behind")
        self.server.close()


loop = asyncio.new_event_loop()
problems: list[Any] = []
loop.set_exception_handler(lambda _, context: problems.append(context))


def run(setup: bytes, steps: list[Step]) -> None:
    """Play one input."""
    problems.clear()
    loop.run_until_complete(Play(setup).whole(steps))
    if problems:
        raise Found(repr(problems[0]))
