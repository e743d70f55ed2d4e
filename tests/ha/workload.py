"""A ledger that tells afterwards which acknowledged transactions are missing.

Every client writes numbered rows. A row counts as acknowledged when its commit was; a
commit whose answer was lost is tried again, and the primary key says whether it had
happened. So at the end lost means lost, and an error is what a client saw.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg

CREATE = """
drop table if exists ledger;
create table ledger (client int, number int, primary key (client, number));
grant all on ledger to public
"""
PAUSE = 0.02
RECONNECT_AFTER = 0.1


@dataclass
class Client:
    """One client's account of what happened to it."""

    number: int
    persistent: bool
    acknowledged: int = 0
    errors: list[tuple[float, str]] = field(default_factory=list)
    # Errors of a second try on a fresh connection: what an application that
    # reconnects once would show its user.
    after_reconnect: list[tuple[float, str]] = field(default_factory=list)
    last: float = 0.0
    gap: float = 0.0
    cut: int = 0

    def succeeded(self, now: float) -> None:
        if self.last:
            self.gap = max(self.gap, now - self.last)
        self.last = now


@dataclass
class Figures:
    """What a run comes to."""

    transactions: int
    errors: int
    after_reconnect: int
    sessions_cut: int
    longest_gap: float
    service_gap: float
    lost: int
    texts: list[str]

    def line(self, name: str) -> str:
        return (
            f"{name}: {self.transactions} transactions, {self.errors} errors "
            f"({self.after_reconnect} after one reconnect), {self.sessions_cut} "
            f"sessions cut, longest gap of a client {self.longest_gap:.2f} s, service "
            f"gap {self.service_gap:.2f} s, {self.lost} acknowledged transactions lost"
        )


class Workload:
    """Clients that write until told to stop; half of them keep their connection."""

    def __init__(
        self, connect: Callable[[], Any], database: Any, clients: int = 8,
        persistent: int = 4,
    ) -> None:  # fmt: skip
        self.connect, self.database = connect, database
        self.clients = [Client(n, n < persistent) for n in range(clients)]
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.last_success = 0.0
        self.service_gap = 0.0
        self.threads = [
            threading.Thread(target=self.run, args=[client], daemon=True)
            for client in self.clients
        ]

    def __enter__(self) -> Workload:
        with self.database() as link:
            link.execute(CREATE)
        for thread in self.threads:
            thread.start()
        self.wait(lambda: all(client.acknowledged > 2 for client in self.clients))
        # The start is no part of the figures.
        for client in self.clients:
            client.errors.clear()
            client.after_reconnect.clear()
            client.gap = 0.0
        self.service_gap = 0.0
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join(60)

    def wait(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        ends = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > ends:
                texts = [c.errors[-1:] for c in self.clients]
                raise AssertionError(f"the workload does not get on: {texts}")
            time.sleep(0.05)

    def settle(self, seconds: float = 60) -> None:
        """Wait until every client has got on again."""
        before = [client.acknowledged for client in self.clients]
        self.wait(
            lambda: all(
                client.acknowledged > count + 3
                for client, count in zip(self.clients, before, strict=True)
            ),
            seconds,
        )

    def run(self, client: Client) -> None:
        link: Any = None
        number = 0
        while not self.stopping.is_set():
            number += 1
            tries = 0
            while not self.stopping.is_set():
                tries += 1
                try:
                    if link is None:
                        link = self.connect()
                    self.write(link, client.number, number)
                    break
                except psycopg.Error as problem:
                    self.failed(client, link, problem, tries)
                    if link is not None:
                        link.close()
                    link = None
                    # Nobody reconnects faster than this by accident.
                    time.sleep(RECONNECT_AFTER)
            else:
                break
            client.acknowledged = number
            now = time.monotonic()
            client.succeeded(now)
            with self.lock:
                if self.last_success:
                    self.service_gap = max(self.service_gap, now - self.last_success)
                self.last_success = now
            if not client.persistent and link is not None:
                link.close()
                link = None
            time.sleep(PAUSE)
        if link is not None:
            link.close()

    def write(self, link: Any, client: int, number: int) -> None:
        """One transaction of two statements."""
        try:
            with link.transaction():
                link.execute(f"select {client}")
                link.execute(f"insert into ledger values ({client}, {number})")
        except psycopg.errors.UniqueViolation:
            # The first try was committed; only its answer was lost.
            pass

    def failed(self, client: Client, link: Any, problem: Exception, tries: int) -> None:
        entry = (time.monotonic(), f"{type(problem).__name__}: {problem}".strip())
        client.errors.append(entry)
        if tries > 1:
            client.after_reconnect.append(entry)
        if link is not None and link.broken:
            client.cut += 1

    def figures(self) -> Figures:
        """Compare the accounts with the table; the workload must have ended."""
        assert self.stopping.is_set()
        with self.database() as link:
            rows = link.execute("select client, number from ledger").fetchall()
        there = set(rows)
        lost = sum(
            (client.number, number) not in there
            for client in self.clients
            for number in range(1, client.acknowledged + 1)
        )
        return Figures(
            transactions=sum(client.acknowledged for client in self.clients),
            errors=sum(len(client.errors) for client in self.clients),
            after_reconnect=sum(len(c.after_reconnect) for c in self.clients),
            sessions_cut=sum(client.cut for client in self.clients),
            longest_gap=max(client.gap for client in self.clients),
            service_gap=self.service_gap,
            lost=lost,
            texts=[text for c in self.clients for _, text in c.errors],
        )
