"""A pooler that is only described: what health sees of it, the test says."""

from __future__ import annotations

import asyncio

from ha.view import DatabaseFacts

PRIMARY = ("f", "off", None, "0")
STANDBY = ("t", "off", "1048576", "1")


class Described:
    """A pooler whose state the test sets."""

    def __init__(self, *names: str) -> None:
        self.word = "running"
        self.used, self.limit = 0, 100
        self.facts = {name: DatabaseFacts(name, servers=10) for name in names}
        self.answers = {name: [PRIMARY] for name in names}
        self.asked: list[tuple[str, str]] = []

    def phase(self):
        return self.word

    def clients(self):
        return self.used, self.limit

    def databases(self):
        return dict(self.facts)

    def set(self, name: str, **changes) -> None:
        old = self.facts[name]
        fields = {field: getattr(old, field) for field in old.__slots__}
        self.facts[name] = DatabaseFacts(**fields | changes)

    async def probe(self, database, sql):
        self.asked.append((database, sql))
        answer = self.answers[database]
        if isinstance(answer, BaseException):
            raise answer
        if answer is None:
            await asyncio.Event().wait()
        return answer
