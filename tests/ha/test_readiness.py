"""What health says in each state, from a pooler that is only described."""

from __future__ import annotations

import asyncio

import pytest

from bouncer.probe import Busy
from ha.agent import Agent, Question, parse_size
from ha.readiness import (
    PLAIN_ROLE_SQL,
    PROBE_EVERY,
    Answer,
    Grade,
    Policy,
    Readiness,
)
from tests.ha.described import PRIMARY, STANDBY, Described

GOOD, SOFT, HARD = Grade.GOOD, Grade.SOFT, Grade.HARD


class Bench:
    """A readiness whose clock the test moves."""

    def __init__(self, view: Described, policy: Policy | None = None) -> None:
        self.view, self.now = view, 1000.0
        self.readiness = Readiness(view, policy or Policy(), clock=lambda: self.now)
        self.agent = Agent(self.readiness)

    async def run(self, seconds: float = 0.0) -> None:
        """Tick through *seconds*; probes have ended afterwards, or hang."""
        end = self.now + seconds
        while True:
            self.readiness.tick()
            for _ in range(4):
                await asyncio.sleep(0)
            if self.now >= end - 1e-9:
                return
            self.now += 0.25

    def traffic(self, name: str) -> None:
        self.view.set(name, finished=self.view.facts[name].finished + 1)


def run(coroutine):
    return asyncio.run(coroutine)


def test_starting_until_the_first_proof_then_ready():
    async def story():
        bench = Bench(Described("app"))
        bench.readiness.tick()
        assert bench.readiness.ready("app").word == "starting"
        assert bench.readiness.ready("app").grade is HARD
        await bench.run(0.25)
        assert bench.readiness.ready("app").grade is GOOD
        assert bench.readiness.primary("app").word == "primary"

    run(story())


def test_no_way_to_ask_is_no_reason_to_keep_clients_away():
    async def story():
        view = Described("app")
        view.answers["app"] = LookupError("no pool")
        bench = Bench(view)
        await bench.run(0.5)
        assert bench.readiness.ready("app").grade is GOOD
        assert bench.readiness.primary("app").word == "role unknown"
        assert bench.readiness.primary("app").grade is HARD
        view.answers["app"] = [PRIMARY]
        await bench.run(2)
        assert bench.readiness.primary("app").grade is GOOD

    run(story())


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda view: setattr(view, "word", "draining"), "draining"),
        (lambda view: setattr(view, "word", "paused"), "paused"),
        (lambda view: view.set("app", paused=True), "paused"),
        (lambda view: view.set("app", disabled=True), "disabled"),
        (lambda view: setattr(view, "used", 100), "saturated"),
    ],
)
def test_states_that_hold_clients_are_soft_even_without_the_database(change, word):
    async def story():
        bench = Bench(Described("app"))
        await bench.run(0.25)
        change(bench.view)
        await bench.run(1)
        for judge in (bench.readiness.ready, bench.readiness.primary):
            assert (judge("app").grade, judge("app").word) == (SOFT, word)
        line = bench.agent.answer("app\n")
        if word == "saturated":
            assert line.startswith("ready up 5%")
        else:
            assert line == f"up drain #{word}\n"
            bench.view.answers["app"] = ConnectionRefusedError("gone")
            bench.view.set("app", failing_for=60.0)
            await bench.run(30)
            assert bench.readiness.ready("app").grade is SOFT

    run(story())


@pytest.mark.parametrize(
    ("change", "held"),
    [
        (lambda view: setattr(view, "word", "draining"), SOFT),
        (lambda view: setattr(view, "word", "paused"), GOOD),
        (lambda view: view.set("app", paused=True), GOOD),
        (lambda view: view.set("app", disabled=True), SOFT),
        (lambda view: setattr(view, "used", 100), GOOD),
    ],
)
def test_pooler_of_last_resort_is_one_where_a_client_may_wait(change, held):
    async def story():
        view = Described("app", "ro")
        view.answers["ro"] = [STANDBY]
        bench = Bench(view)
        bench.readiness.tick()
        bench.readiness.primary()
        await bench.run(1)
        change(view)
        view.set("ro", paused=view.facts["app"].paused)
        bench.readiness.tick()
        assert bench.readiness.ready("app").grade is SOFT
        assert bench.readiness.ready("app", held=True).grade is held
        assert bench.readiness.primary("app", held=True).grade is held
        # A role is a role, paused or not.
        assert bench.readiness.primary("ro", held=True).grade is SOFT
        assert bench.readiness.read_only("app", held=True).grade is held

    run(story())


def test_database_away_is_hard_after_down_after_and_not_before():
    async def story():
        bench = Bench(Described("app"), Policy(down_after=10))
        await bench.run(0.25)
        bench.view.answers["app"] = ConnectionRefusedError("refused")
        for _ in range(12):
            bench.readiness.ready("app")
            await bench.run(1)
        # 5 s until the proof is too old, then the first failed probe counts.
        assert bench.readiness.ready("app").grade is GOOD
        for _ in range(6):
            bench.readiness.ready("app")
            await bench.run(1)
        assert bench.readiness.ready("app").word == "database unreachable"
        assert bench.readiness.ready("app").grade is HARD
        assert bench.readiness.live().grade is GOOD
        bench.view.answers["app"] = [PRIMARY]
        await bench.run(2)
        assert bench.readiness.ready("app").grade is GOOD

    run(story())


def test_failing_servers_seen_by_the_pooler_need_no_probe():
    async def story():
        bench = Bench(Described("app"), Policy(down_after=10))
        await bench.run(0.25)
        bench.now += 20
        bench.view.answers["app"] = Busy("app")
        bench.view.set("app", failing_for=9.9)
        await bench.run(0)
        assert bench.readiness.ready("app").grade is GOOD
        bench.view.set("app", failing_for=10.1)
        await bench.run(0)
        assert bench.readiness.ready("app").grade is HARD

    run(story())


def test_busy_pool_that_leaves_no_server_for_a_probe_stays_ready(monkeypatch):
    monkeypatch.setattr("ha.readiness.PROBE_DEADLINE", 0.01)

    async def story():
        bench = Bench(Described("app"), Policy(down_after=1))
        await bench.run(0.25)
        bench.view.answers["app"] = Busy("app")
        bench.view.set("app", busiest=1.0, waiting=7)
        for _ in range(20):
            bench.readiness.primary("app")
            await bench.run(1)
            await asyncio.sleep(0.02)
        assert len(bench.view.asked) > 5
        assert bench.readiness.ready("app").grade is GOOD
        # Whether it still is the primary, nobody knows.
        assert bench.readiness.primary("app") == Answer(SOFT, "role unknown")
        # Silence of a server that was asked is the database's.
        bench.view.answers["app"] = None
        for _ in range(4):
            bench.readiness.primary("app")
            await bench.run(1)
            await asyncio.sleep(0.02)
        assert bench.readiness.ready("app").grade is HARD

    run(story())


def test_traffic_is_proof_and_spares_the_probe():
    async def story():
        bench = Bench(Described("app"))
        await bench.run(0.25)
        asked = len(bench.view.asked)
        for _ in range(60):
            bench.readiness.ready("app")
            bench.traffic("app")
            await bench.run(0.5)
        assert len(bench.view.asked) == asked
        assert bench.readiness.ready("app").grade is GOOD

    run(story())


def test_probes_end_when_nobody_asks():
    async def story():
        bench = Bench(Described("app"))
        bench.readiness.tick()
        bench.readiness.primary("app")
        await bench.run(10)
        asked = len(bench.view.asked)
        assert 9 <= asked <= 11 / PROBE_EVERY
        await bench.run(10)
        later = len(bench.view.asked)
        await bench.run(20)
        assert len(bench.view.asked) == later

    run(story())


def test_promotion_is_seen_within_a_second_of_checks():
    async def story():
        view = Described("app")
        view.answers["app"] = [STANDBY]
        bench = Bench(view)
        bench.readiness.tick()
        bench.readiness.primary("app")
        await bench.run(0.5)
        answer = bench.readiness.primary("app")
        assert (answer.grade, answer.word) == (SOFT, "standby")
        assert bench.readiness.replica("app").grade is GOOD
        view.answers["app"] = [PRIMARY]
        await bench.run(1.0)
        assert bench.readiness.primary("app").grade is GOOD
        assert bench.readiness.replica("app").word == "primary"
        assert bench.readiness.replica("app").grade is SOFT

    run(story())


@pytest.mark.regression(128)
@pytest.mark.parametrize(
    ("wrong", "before", "after"),
    [("auto", SOFT, HARD), ("404", SOFT, SOFT), ("503", HARD, HARD)],
)
def test_wrong_role_before_and_after_a_demotion(wrong, before, after):
    async def story():
        view = Described("app")
        view.answers["app"] = [STANDBY]
        bench = Bench(view, Policy(wrong_role=wrong))
        bench.readiness.tick()
        bench.readiness.primary("app")
        await bench.run(1)
        assert bench.readiness.primary("app").grade is before
        for answer in ([PRIMARY], [STANDBY]):
            view.answers["app"] = answer
            await bench.run(1)
        assert bench.readiness.primary("app").grade is after

    run(story())


@pytest.mark.regression(128)
def test_fenced_primary_is_no_primary():
    async def story():
        view = Described("app")
        view.answers["app"] = [("f", "on", None, "0")]
        bench = Bench(view)
        bench.readiness.tick()
        bench.readiness.primary("app")
        await bench.run(1)
        assert bench.readiness.primary("app").word == "read-only"
        assert bench.readiness.primary("app").grade is not GOOD

    run(story())


def test_replica_lag_in_bytes():
    async def story():
        view = Described("app")
        view.answers["app"] = [STANDBY]
        bench = Bench(view)
        bench.readiness.tick()
        bench.readiness.replica("app", 1)
        await bench.run(0.5)
        assert bench.readiness.replica("app", 1048576).grade is GOOD
        late = bench.readiness.replica("app", 1048575)
        assert (late.grade, late.word) == (SOFT, "lag 1048576 bytes")
        assert bench.readiness.read_only("app", 10).grade is SOFT
        # The primary is away: what the standby last heard of it is good for a while.
        view.answers["app"] = [("t", "off", "0", "0")]
        await bench.run(2)
        assert bench.readiness.replica("app", 10).grade is GOOD
        for _ in range(6):
            bench.readiness.replica("app", 10)
            await bench.run(10)
        assert bench.readiness.replica("app", 10).word == "lag unknown"
        assert bench.readiness.replica("app").grade is GOOD

    run(story())


def test_server_that_refuses_the_role_statement_is_there():
    class Undefined(Exception):
        sqlstate = "42883"

    async def story():
        view = Described("app")
        view.answers["app"] = Undefined("no pg_wal_lsn_diff")
        bench = Bench(view)
        bench.readiness.tick()
        bench.readiness.primary("app")
        await bench.run(0.5)
        assert bench.readiness.ready("app").grade is GOOD
        view.answers["app"] = [PRIMARY]
        await bench.run(1)
        assert view.asked[-1] == ("app", PLAIN_ROLE_SQL)
        assert bench.readiness.primary("app").grade is GOOD

    run(story())


def test_one_broken_database_hides_neither_itself_nor_the_others():
    async def story():
        view = Described("good", "bad")
        view.answers["bad"] = ConnectionRefusedError("refused")
        bench = Bench(view, Policy(down_after=0))
        await bench.run(3)
        assert bench.readiness.ready("good").grade is GOOD
        assert bench.readiness.ready("bad").grade is HARD
        assert bench.readiness.ready().grade is GOOD
        view.set("good", paused=True)
        await bench.run(1)
        assert bench.readiness.ready().grade is SOFT
        assert bench.readiness.ready("nosuch").word == "no such database"

    run(story())


def test_databases_of_the_setting_only_and_in_its_order():
    async def story():
        bench = Bench(Described("a", "b", "c"), Policy(databases=("c", "a", "gone")))
        await bench.run(1)
        assert list(bench.readiness.facts) == ["c", "a"]
        assert {name for name, _ in bench.view.asked} == {"a", "c"}
        del bench.view.facts["c"]
        await bench.run(1)
        assert list(bench.readiness.watched) == ["a"]

    run(story())


def test_stuck_loop_is_not_live():
    bench = Bench(Described())
    bench.readiness.tick()
    assert bench.readiness.live().grade is GOOD
    bench.now += 2.1
    assert bench.readiness.live().grade is HARD


# The agent


def test_weight_falls_below_sixty_within_three_seconds_and_recovers():
    async def story():
        bench = Bench(Described("app"))
        await bench.run(1)
        assert bench.agent.answer("app") == "ready up 100% maxconn:90\n"
        bench.view.set("app", waiting=30, waited=0.8)
        seen = []
        for _ in range(3):
            await bench.run(1)
            line = bench.agent.answer("app")
            seen.append(int(line.split("%")[0].removeprefix("ready up ")))
        assert seen[0] > seen[-1] and seen[-1] < 60
        bench.view.set("app", waiting=0, waited=0.0)
        for _ in range(10):
            await bench.run(1)
            line = bench.agent.answer("app")
        assert line == "ready up 100% maxconn:90\n"

    run(story())


def test_weight_is_never_zero_and_goes_in_steps_of_five():
    async def story():
        bench = Bench(Described("app"))
        await bench.run(1)
        bench.view.set("app", waiting=1000, waited=100.0)
        bench.view.used = 99
        weights = set()
        for _ in range(20):
            await bench.run(0.5)
            line = bench.agent.answer("")
            weights.add(int(line.split("%")[0].removeprefix("ready up ")))
        assert min(weights) == 5
        assert all(weight % 5 == 0 for weight in weights)

    run(story())


@pytest.mark.parametrize(
    ("question", "ending"),
    [
        ("", "maxconn:90\n"),
        ("share=3", "maxconn:30\n"),
        ("rw app share=100", "maxconn:1\n"),
        ("db=app", "maxconn:90\n"),
    ],
)
def test_agent_divides_max_client_conn_among_those_who_ask(question, ending):
    async def story():
        bench = Bench(Described("app"))
        await bench.run(1)
        assert bench.agent.answer(question).endswith(ending)

    run(story())


def test_agent_without_a_limit_names_none():
    async def story():
        bench = Bench(Described("app"))
        bench.view.limit = 0
        await bench.run(1)
        assert bench.agent.answer("") == "ready up 100%\n"

    run(story())


def test_agent_drains_the_wrong_role_with_a_reason_and_never_says_down():
    async def story():
        view = Described("app")
        view.answers["app"] = [STANDBY]
        bench = Bench(view, Policy(down_after=0))
        await bench.run(1)
        assert bench.agent.answer("rw app") == "up drain #standby\n"
        assert bench.agent.answer("ro app").startswith("ready up ")
        assert bench.agent.answer("ro app lag=1kB") == "up drain #lag 1048576 bytes\n"
        view.answers["app"] = ConnectionRefusedError("refused")
        await bench.run(20)
        assert bench.agent.answer("app") == "up drain #database unreachable\n"
        assert bench.agent.answer("nosuch") == "up drain #no such database\n"

    run(story())


@pytest.mark.parametrize("line", ["rw app frob", "share=x", "share=0", "lag=3x", "a=b"])
def test_agent_question_that_makes_no_sense_changes_nothing(line):
    bench = Bench(Described())
    bench.readiness.tick()
    assert bench.agent.answer(line).startswith("error #")
    with pytest.raises(ValueError):
        Question.parse(line)


@pytest.mark.parametrize(
    ("text", "size"), [("16MB", 16 << 20), ("7", 7), ("3 kB", 3072), ("1gb", 1 << 30)]
)
def test_sizes(text, size):
    assert parse_size(text) == size
