"""A rolling restart step by step, with balancers and a clock that tests turn.

`test_scenarios.py` restarts real poolers behind a real HAProxy; here stands what it
does when something goes wrong on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import pytest

from ha import failover, status
from ha.errors import HAError
from ha.failover import Patience, Rolling, by_command
from ha.haproxy import Picture, Row, Status
from ha.inventory import Pooler

P1, P2, P3 = (Pooler(name=name, address=name) for name in ("p1", "p2", "p3"))
BACKENDS = ("pool", "pool_held")


class Clock:
    """Time passes only where somebody sleeps; then *due* things happen."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.due: list[tuple[float, Callable[[], None]]] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for at, act in sorted(self.due, key=lambda one: one[0]):
            if at <= self.now:
                self.due.remove((at, act))
                act()

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        self.due.append((self.now + seconds, act))


def row(proxy: str, name: str, word: str, agent: str, weight: int) -> Row:
    """A server's row of `show stat`."""
    values: dict[str, Any] = {one.name: None for one in fields(Row)}
    return Row(**values | {
        "kind": "server", "proxy": proxy, "name": name, "status": Status.parse(word),
        "weight": weight, "agent_status": agent, "check_status": "L7OK",
        "last_check": "", "columns": {},
    })  # fmt: skip


class Balancer:
    """A HAProxy as far as it is asked and told; *told* has what it was told."""

    def __init__(self, name: str, log: list[str], *servers: str) -> None:
        self.endpoint = SimpleNamespace(text=name)
        self.told = log
        self.words = dict.fromkeys(servers, "UP")
        self.agents = dict.fromkeys(servers, "")
        self.sessions: dict[str, int] = {}
        self.comes_back = True

    def picture(self) -> Picture:
        rows = tuple(
            row(*place.split("/"), word, self.agents[place], 100)
            for place, word in self.words.items()
        )
        return Picture(self.endpoint.text, 0.0, rows)

    def tell(self, what: str) -> None:
        self.told.append(f"{self.endpoint.text} {what}")

    def set_state(self, backend: str, server: str, state: str) -> None:
        place = f"{backend}/{server}"
        self.tell(f"{place} {state}")
        words = {"drain": "DRAIN", "maint": "MAINT", "ready": "UP"}
        if state != "ready" or self.comes_back:
            self.words[place] = words[state]

    def set_agent(self, backend: str, server: str, heard: bool) -> None:
        self.tell(f"{backend}/{server} agent {heard}")

    def hear_agent(self, backend: str, server: str) -> None:
        self.tell(f"{backend}/{server} agent heard")

    def cut_sessions(self, backend: str, server: str) -> None:
        self.tell(f"{backend}/{server} cut")

    def sessions_on(self, backend: str, server: str) -> int:
        return self.sessions.get(f"{backend}/{server}", 0)


class Site:
    """Two balancers, three poolers, and what happened in which order."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.did: list[str] = []
        self.said: list[str] = []
        self.balancers = [
            Balancer(name, self.did, *(f"pool/p{n}" for n in (1, 2, 3)))
            for name in ("one", "two")
        ]
        self.answers: dict[str, list[str]] = {}

    def restart(self, pooler: Pooler) -> None:
        self.did.append(f"restart {pooler.name}")

    def ready(self, pooler: Pooler) -> str:
        waiting = self.answers.get(pooler.name, [])
        return waiting.pop(0) if waiting else ""

    def run(self, *poolers: Pooler, **more: Any) -> None:
        Rolling(
            self.balancers, BACKENDS, self.restart, self.ready, self.said.append, **more
        ).run(poolers)  # type: ignore[arg-type]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    for module in (failover, status):
        monkeypatch.setattr(module, "time", found)
    return found


@pytest.fixture
def site(clock: Clock) -> Site:
    return Site(clock)


def steps(name: str) -> list[str]:
    """What one restart tells two balancers, in order."""
    place = f"pool/{name}"
    return [
        f"one {place} drain", f"two {place} drain", f"restart {name}",
        f"one {place} ready", f"one {place} agent heard",
        f"two {place} ready", f"two {place} agent heard",
    ]  # fmt: skip


def test_poolers_are_restarted_one_after_the_other(site: Site) -> None:
    site.run(P1, P2)
    assert site.did == [*steps("p1"), *steps("p2")]
    assert site.said[0] == "p1: drained at 2 places"
    assert site.said[-1] == "p2: back"
    assert not any("sessions left" in line or "cut" in line for line in site.said)


def test_pooler_is_drained_wherever_it_is_a_server(site: Site) -> None:
    """A last resort has its own line for it; what does not know it is passed over."""
    one, two = site.balancers
    one.words["pool_held/p1"] = "UP"
    one.words["pool_held/p2"] = "UP"
    one.agents.update({"pool_held/p1": "", "pool_held/p2": ""})
    del two.words["pool/p1"]
    site.run(P1)
    assert site.did[:3] == ["one pool/p1 drain", "one pool_held/p1 drain", "restart p1"]


def test_pooler_that_no_balancer_knows_is_not_restarted(site: Site) -> None:
    with pytest.raises(HAError, match=r"no balancer has a server p9 in pool, pool_h"):
        site.run(Pooler(name="p9", address="p9"), P1)
    assert site.did == []


def test_last_usable_server_is_not_taken_away(site: Site) -> None:
    site.balancers[1].words.update({"pool/p2": "DOWN", "pool/p3": "MAINT"})
    why = "stopped at p1, which stays drained: two: pool/p1 is the last usable server"
    with pytest.raises(HAError, match=why):
        site.run(P1, P2)
    # The next is left alone, and nothing was restarted.
    assert site.did == ["one pool/p1 drain"]


def test_server_that_gets_nobody_anyway_may_be_the_last(site: Site) -> None:
    """The pooler that is down is the one whose restart is wanted most."""
    for balancer in site.balancers:
        balancer.words.update({"pool/p1": "DOWN", "pool/p2": "DOWN", "pool/p3": "DOWN"})
    site.run(P1)
    assert site.did == steps("p1")


def test_agent_is_not_heard_while_its_server_is_drained(site: Site) -> None:
    """It would lift the drain within a second."""
    site.balancers[0].agents["pool/p1"] = "L7OK"
    site.run(P1)
    assert site.did[:3] == [
        "one pool/p1 agent False", "one pool/p1 drain", "two pool/p1 drain"
    ]  # fmt: skip


# Sessions


def test_restart_waits_until_the_sessions_of_all_balancers_have_ended(
    site: Site,
) -> None:
    one, two = site.balancers
    one.sessions["pool/p1"], two.sessions["pool/p1"] = 2, 3
    site.clock.after(5, one.sessions.clear)
    site.clock.after(9, two.sessions.clear)
    began = site.clock.now
    site.run(P1)
    assert 9 <= site.clock.now - began < 9.5
    assert [line for line in site.said if line.endswith("sessions")] == [
        "p1: 5 sessions", "p1: 3 sessions", "p1: 0 sessions"
    ]  # fmt: skip


@pytest.mark.parametrize("cut", [False, True])
def test_sessions_that_outlive_the_drain_are_cut_only_if_asked_for(
    cut: bool, site: Site
) -> None:
    site.balancers[1].sessions["pool/p1"] = 4
    began = site.clock.now
    site.run(P1, cut=cut, patience=Patience(drain=7))
    assert 7 <= site.clock.now - began < 7.5
    cuts = [step for step in site.did if step.endswith("cut")]
    assert cuts == (["one pool/p1 cut", "two pool/p1 cut"] if cut else [])
    told = (
        "p1: 4 sessions cut" if cut else "p1: 4 sessions left, its stop will end them"
    )
    assert told in site.said


def test_nothing_is_cut_where_nothing_is_left(site: Site) -> None:
    site.run(P1, cut=True)
    assert site.did == steps("p1")


@pytest.mark.parametrize(
    ("word", "again"),
    [("UP", True), ("UP 1/3", True), ("NOLB", True),
     ("DRAIN", False), ("MAINT", False), ("DOWN", False), ("DOWN 1/2", False)],
)  # fmt: skip
def test_balancer_that_was_reloaded_is_told_to_drain_again(
    word: str, again: bool, site: Site
) -> None:
    """It had forgotten, and sent clients to a pooler that was being stopped."""
    one, two = site.balancers
    two.sessions["pool/p1"] = 1
    site.clock.after(3, lambda: one.words.update({"pool/p1": word}))
    site.clock.after(5, two.sessions.clear)
    site.run(P1)
    drains = [step for step in site.did if step == "one pool/p1 drain"]
    assert len(drains) == 1 + again
    assert site.did.index("restart p1") > max(
        at for at, step in enumerate(site.did) if step.endswith("drain")
    )


# Back again


def test_pooler_is_let_in_when_it_says_itself_that_it_is_ready(site: Site) -> None:
    site.answers["p1"] = ["refused"] * 20
    began = site.clock.now
    site.run(P1)
    assert site.did == steps("p1")
    assert 2 <= site.clock.now - began < 2.5


def test_pooler_that_is_not_ready_stays_drained_and_the_next_is_left_alone(
    site: Site,
) -> None:
    site.answers["p1"] = ["503 down"] * 1000
    why = (
        "stopped at p1, which stays drained: not ready 4 s after its restart: "
        "503 down; `pybouncer ha ready BACKEND/p1` lets it back in"
    )
    with pytest.raises(HAError) as problem:
        site.run(P1, P2, patience=Patience(ready=4))
    assert str(problem.value) == why
    assert site.did == steps("p1")[:3]


def test_next_pooler_waits_until_every_balancer_sends_clients_again(
    site: Site,
) -> None:
    two = site.balancers[1]
    two.comes_back = False
    site.clock.after(6, lambda: two.words.update({"pool/p1": "UP"}))
    began = site.clock.now
    site.run(P1)
    assert site.did == steps("p1")
    assert 6 <= site.clock.now - began < 6.5


def test_pooler_that_a_balancer_does_not_use_again_ends_the_restart(
    site: Site,
) -> None:
    two = site.balancers[1]
    two.comes_back = False
    began = site.clock.now
    with pytest.raises(HAError, match=r"two: pool/p1 is DRAIN \(L7OK\)"):
        site.run(P1, P2, patience=Patience(usable=3))
    assert 3 <= site.clock.now - began < 3.5
    assert site.did == steps("p1")


def test_restart_that_fails_leaves_the_pooler_drained(site: Site) -> None:
    def fails(pooler: Pooler) -> None:
        raise HAError("no such unit")

    site.restart = fails  # type: ignore[method-assign]
    with pytest.raises(HAError, match="stays drained: no such unit"):
        site.run(P1, P2)
    assert site.did == steps("p1")[:2]


# The command


def test_command_has_the_poolers_values_and_must_succeed() -> None:
    said: list[str] = []
    pooler = Pooler(name="p 1", address="192.0.2.1", port=7)
    by_command("true {name} {address}:{port}", said.append)(pooler)
    assert said == ["p 1: true 'p 1' 192.0.2.1:7"]
    with pytest.raises(HAError, match=r"^false ended with 1$"):
        by_command("false", said.append)(pooler)
    with pytest.raises(HAError, match=r"^/no/such: No such file or directory$"):
        by_command("/no/such {name}", said.append)(pooler)
