"""What is measured, how often, and what we want to reach.

A figure is measured on us and on the peer in turn, A B B A, so that a machine that
slowly gets faster or slower favours nobody; the ratio of a round is that of the sums.
Before and after each round the same load runs straight on PostgreSQL: when these two
controls differ by more than DRIFT, something else was busy: the round does not count.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.bench import load
from tests.bench.load import Target

DRIFT = 0.10


@dataclass
class Figure:
    """One line of the table. *bar*: the ratio to the peer that we want at most."""

    name: str
    unit: str
    bar: float | None
    measure: Callable[[Target], float]
    fresh: bool = False  # each measurement wants a pooler that has just been started
    is_absolute: bool = False  # *bar* is for our own value, not for the ratio
    ours: list[float] = field(default_factory=list)
    peers: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    rejected: int = 0
    failure: str = ""

    def add(self, ours: list[float], peers: list[float]) -> None:
        """The values of one round."""
        self.ours += ours
        self.peers += peers
        if ours and peers:
            self.ratios.append(sum(ours) / max(sum(peers), 1e-9))

    @property
    def ratio(self) -> float | None:
        """The median of the rounds' ratios."""
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def reached(self) -> bool | None:
        """Whether the bar was reached; None without a bar or a figure."""
        value = statistics.median(self.ours) if self.is_absolute and self.ours else None
        value = value if self.is_absolute else self.ratio
        return None if value is None or self.bar is None else value <= self.bar


def connect_cycles(seconds: int) -> list[Figure]:
    """Connect, log in, ask and leave, by each method."""
    return [
        Figure(
            f"connect cycle, {kind}",
            "us CPU per cycle",
            1.0,
            lambda t, user=user, password=password: load.connect_cycle(
                t, seconds, user, password
            ),
        )
        for kind, user, password in (
            ("trust", "u_trust", ""),
            ("md5", "u_md5", "md5pass"),
            ("SCRAM", "u_keyed", "keyedpass"),
        )
    ]


def figures(seconds: int, is_short: bool) -> list[Figure]:
    """All of them; fewer clients in the short form, which proves nothing."""
    many, idle, cold = (100, 300, 50) if is_short else (500, 5000, 200)
    cpu, us = load.cpu_per_transaction, "us CPU per transaction"
    return [
        Figure("simple", us, 0.85, lambda t: cpu(t, seconds)),
        Figure("extended", us, 0.85, lambda t: cpu(t, seconds, "-M", "extended")),
        Figure("prepared", us, 0.80, lambda t: cpu(t, seconds, "-M", "prepared")),
        Figure(
            f"prepared, {load.STATEMENTS} statements / one",
            "times",
            1.05,
            lambda t: load.many_statements(t, seconds),
            is_absolute=True,
        ),
        Figure(
            "TLS to the client", us, 0.85, lambda t: cpu(t, seconds, sslmode="require")
        ),
        *connect_cycles(seconds),
        Figure(
            f"memory, {idle} idle clients",
            "bytes per client",
            1.0,
            lambda t: load.idle_memory(t, idle)[0],
            fresh=True,
        ),
        Figure(
            f"SHOW CLIENTS with {idle} clients",
            "ms",
            None,
            lambda t: load.idle_memory(t, idle)[1],
        ),
        Figure(
            f"p99 / p50, {many} clients",
            "",
            2.0,
            lambda t: load.tail_latency(t, max(seconds, 2), many),
            is_absolute=True,
        ),
        Figure(
            f"cold start, {cold} clients, PostgreSQL {2 * load.AWAY:g} ms away",
            "ms",
            0.5,
            lambda t: load.cold_start(t, cold, load.FAR),
            fresh=True,
        ),
        Figure(
            f"cold start, {cold} clients, PostgreSQL beside us",
            "ms",
            None,
            lambda t: load.cold_start(t, cold),
            fresh=True,
        ),
        Figure(
            "longest pause of the loop, 200 clients",
            "ms",
            None,
            lambda t: load.longest_pause(t, max(seconds, 2)),
        ),
    ]
