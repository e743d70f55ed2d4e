"""Random conversations through narrow pipes: nobody hangs, each gets its own answers.

As test_model, but everything is as tight as it gets: Binds that bring texts near
HIGH_WATER into play, room for one to three statements on a server, kernel buffers
that are always full, deep pipelines with failures and DISCARD ALL in their middle,
clients that are suspended and a pool that is paused meanwhile.
"""

import random

import pytest

from bouncer.relay.client import Client
from tests.relay import frames as f
from tests.relay.harness import Relay
from tests.relay.model import Simulation, Speaker

SMALL = 4096
DEEP = 10_300  # Binds and Executes: more requests than may be under way


class Presser(Speaker):
    """Says long things, and more at once than anybody reads."""

    def __init__(self, name: str, dice: random.Random, given: dict[str, str]) -> None:
        super().__init__(name, dice, given)
        self.forgot = False  # DISCARD ALL is perhaps not answered yet

    def wait(self) -> None:
        super().wait()
        self.forgot = False

    def text(self) -> str:
        """Behind a DISCARD ALL on its way none that a server may have: see D7."""
        if self.forgot:
            return f"select {self.tag()}"
        dice = self.dice
        if dice.random() < 0.5:
            return super().text()
        size = dice.choice((10, 3000, 90_000, 270_000))
        return f"select {dice.choice('abc')}".ljust(size, "x")

    def maybe_wait(self) -> None:
        if self.dice.random() < 0.3:
            self.wait()

    def odd(self) -> None:
        self.dice.choice(
            (super().odd, self.forget, self.forget, self.many_binds, self.many_binds,
             self.many_closes, self.fails_early)
        )()  # fmt: skip

    def copy(self) -> None:
        """A Sync behind a COPY that fails may be in it or not: see Speaker.data."""
        super().copy()
        self.wait()

    def known(self) -> list[str]:
        return [name for name in self.direct.statements if name]

    def forget(self) -> None:
        """DISCARD ALL, and at once more of what it does not touch."""
        if self.direct.status != "I" or not self.may_discard:
            return
        self.wait()  # of what was said before it, nothing is skipped
        verb = self.dice.choice(("discard all", "deallocate all"))
        if self.dice.random() < 0.5:
            self.put(f.query(verb))
        else:
            self.put(f.parse("", verb), f.bind(""), f.execute(), f.SYNC)
        self.forgot = True
        names = []
        for _ in range(self.dice.randrange(4)):
            names.append(self.new_name())
            self.put(f.parse(names[-1], self.text()))
        for name in names:
            self.put(f.bind(name, "", self.tag()), f.execute())
        self.put(f.close("nobody"), f.SYNC)

    def many_binds(self) -> None:
        """Few bytes of a client, much for its server."""
        names = self.known()
        for _ in range(self.dice.randrange(30) if names else 0):
            self.put(f.bind(self.dice.choice(names), "", self.tag()))
            if self.dice.random() < 0.7:
                self.put(f.execute())
            if self.dice.random() < 0.1:
                self.put(self.dice.choice((f.SYNC, f.FLUSH)))
        self.put(f.SYNC)

    def many_closes(self) -> None:
        """Answers of ours, behind a query or not."""
        self.put(self.dice.choice((b"", f.query(f"select {self.tag()}"))))
        self.put(f.close("nobody") * self.dice.choice((3, 700, 3000)), f.SYNC)

    def fails_early(self) -> None:
        """All that stands behind it up to the Sync is skipped."""
        self.put(f.parse("", "syntax error"))
        self.put((f.bind("") + f.execute()) * self.dice.choice((1, 50, 500, DEEP)))
        self.put(f.SYNC)


class Narrow(Simulation):
    def __init__(self, seed: int, make_relay: type[Relay] = Relay) -> None:
        self.quiet: list[Client] = []
        super().__init__(seed, make_relay)
        self.deaths = 0
        self.relay.server_sndbuf = self.dice.choice((0, SMALL, SMALL))
        if self.mode != 0:
            self.relay.pool.max_prepared = self.dice.choice((1, 2, 3))

    def add_speaker(self, name: str) -> None:
        speaker = Presser(name, self.dice, {})
        speaker.speak(self.dice.randrange(1, 10))
        end = self.relay.client(self.dice.choice((0, SMALL)))
        end.heard, end.left = b"", False
        self.speakers.append((speaker, end))

    def policy(self) -> bool:
        dice, pool = self.dice, self.relay.pool
        chance = dice.random()
        if chance < 0.03:
            end = dice.choice(self.speakers)[1]
            if end.client.quiesce() and not end.client.closed:
                self.quiet.append(end.client)
        elif chance < 0.06:
            pool.blocked = True
        elif chance < 0.3:
            self.go_on()
        return super().policy()

    def go_on(self) -> None:
        while self.quiet:
            client = self.quiet.pop()
            if not client.closed:
                client.rouse()
        if self.relay.pool.blocked:
            self.relay.pool.blocked = False
            self.relay.pool.activate()

    def check(self) -> None:
        self.go_on()
        super().check()


@pytest.mark.adversity
@pytest.mark.parametrize("seed", range(40))
def test_nobody_hangs_between_narrow_pipes(relay, seed):
    Narrow(seed, relay).run()
