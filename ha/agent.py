"""Answers for HAProxy's agent-check: drain with a reason, or a weight from real load.

An agent never says `down`: HAProxy keeps that state after the agent is gone, and
`down` kills sessions. Each answer is a whole statement (`ready up 80% maxconn:900`),
because `up` alone lifts no drain. `#` must begin a word. The weight is a percentage
of the configured weight, rounded down by HAProxy, never 0 by load alone.
"""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass

from ha.readiness import Answer, Grade, Readiness

# Clients that log in for checks, monitoring and the console beside HAProxy's.
RESERVED_CLIENTS = 10
LOWEST = 5
STEP = 5
# How far the weight may move in a second: quickly down, slowly up, as a balancer that
# follows every twitch sends the load back and forth.
DOWN_RATE = 50.0
UP_RATE = 15.0
# Loads that count as full.
FULL_LAG = 0.5  # seconds that the loop is late
FULL_WAIT = 1.0  # seconds that a client has waited for a server
CLIENTS_FROM = 0.8  # share of max_client_conn from which it counts


@dataclass(frozen=True, slots=True)
class Question:
    """What `agent-send` asked for: `rw app share=2`.

    *role* is "" (any), `rw` or `ro`; *share* is the number of server lines of all
    balancers that lead here, among which maxconn is divided.
    """

    role: str = ""
    database: str = ""
    share: int = 1
    lag: int | None = None

    @classmethod
    def parse(cls, line: str) -> Question:
        """Read the line; raises ValueError for a word that is not understood."""
        role, database, share, lag = "", "", 1, None
        for word in line.split():
            key, equals, value = word.partition("=")
            if word in ("rw", "ro"):
                role = word
            elif key == "share" and equals:
                if re.fullmatch(r"[0-9]{1,9}", value) is None or int(value) < 1:
                    raise ValueError("share must be at least 1")
                share = int(value)
            elif key == "lag" and equals:
                lag = parse_size(value)
            elif key == "db" and equals:
                database = urllib.parse.unquote(value)
            elif not database and not equals:
                database = word
            else:
                raise ValueError(f"unknown word {word!r}")
        return cls(role, database, share, lag)


UNITS = {"": 1, "b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40}


def parse_size(text: str) -> int:
    """`16MB` as bytes; a bare number is bytes. Raises ValueError."""
    found = re.fullmatch(r"([0-9]{1,18})\s*([a-zA-Z]*)", text)
    if found is None or found[2].lower() not in UNITS:
        raise ValueError(f"not a size: {text[:100]!r}")
    return int(found[1]) * UNITS[found[2].lower()]


class Agent:
    """Makes the answers; remembers the last weight to move from it."""

    def __init__(self, readiness: Readiness) -> None:
        self.readiness = readiness
        self.weights: dict[str, tuple[float, float]] = {}

    def answer(self, line: str) -> str:
        """The line to send back, with its newline."""
        try:
            question = Question.parse(line)
        except ValueError as problem:
            # Unknown words change nothing and show up in HAProxy's last_agt.
            return f"error #{comment(str(problem))}\n"
        found = self.judge(question)
        if found.grade is not Grade.GOOD and found.word != "saturated":
            # `up` makes HAProxy show the reason; it changes no health of its own.
            return f"up drain #{comment(found.word)}\n"
        weight = self.weight(question.database)
        return f"ready up {weight}%{self.max_sessions(question.share)}\n"

    def judge(self, question: Question) -> Answer:
        """The same judgement as HTTP's."""
        if question.role == "rw":
            return self.readiness.primary(question.database)
        if question.role == "ro":
            return self.readiness.replica(question.database, question.lag)
        return self.readiness.ready(question.database)

    def max_sessions(self, share: int) -> str:
        """` maxconn:N`, a bit below max_client_conn; nothing when there is no limit."""
        _, limit = self.readiness.view.clients()
        if limit <= 0:
            return ""
        room = limit - min(RESERVED_CLIENTS, limit // 10)
        # 0 would mean unlimited.
        return f" maxconn:{max(1, room // share)}"

    def weight(self, database: str) -> int:
        """Percent of the configured weight, moved towards what the load asks for."""
        now = self.readiness.clock()
        wanted = 100.0 * (1.0 - self.pressure(database))
        last, at = self.weights.get(database, (wanted, now))
        span = now - at
        low, high = last - DOWN_RATE * span, last + UP_RATE * span
        weight = min(max(wanted, low), high, 100.0)
        self.weights[database] = (weight, now)
        return max(LOWEST, int(weight / STEP + 0.5) * STEP)

    def pressure(self, database: str) -> float:
        """0 idle to 1 overloaded: the worst of clients, queues and the loop."""
        readiness = self.readiness
        used, limit = readiness.view.clients()
        parts = [min(1.0, readiness.loop_lag / FULL_LAG)]
        if limit > 0:
            share = used / limit
            parts.append((share - CLIENTS_FROM) / (1.0 - CLIENTS_FROM))
        for name, facts in readiness.facts.items():
            if facts.waiting and database in ("", name):
                crowd = facts.waiting / (facts.waiting + max(facts.servers, 1))
                parts.append(max(crowd, facts.waited / FULL_WAIT))
        return min(1.0, max(0.0, *parts))


def comment(text: str) -> str:
    """*text*, fit to stand behind `#`."""
    return re.sub(r"[\r\n]+", " ", text)
