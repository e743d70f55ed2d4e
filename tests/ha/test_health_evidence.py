"""Whose word counts about a database: a table, and a clock that the test turns."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from bouncer.errors import CANNOT_ANSWER, REFUSED, LoginFailed, ServerError
from bouncer.pool.evidence import SECOND, Evidence, Weight, of_pools, weigh
from bouncer.probe import Busy, LoginRefused, StillFailing
from ha.health import HealthServer
from ha.readiness import MOST_LIVE_PROBES, MOST_PROBES, Policy
from tests.ha.described import PRIMARY, STANDBY, Described
from tests.ha.test_readiness import Bench, run

WRONG_PASSWORD = LoginFailed("FATAL", "28P01", "wrong password", REFUSED)
STARTING = LoginFailed("FATAL", "57P03", "starting up", REFUSED)
NO_KEYS = LoginFailed("FATAL", "08P01", "wrong password type", CANNOT_ANSWER)
GONE = ConnectionRefusedError("refused")


@pytest.mark.parametrize(
    ("sqlstate", "weight"),
    [
        ("28P01", Weight.PRESENT),
        ("28000", Weight.PRESENT),
        ("3D000", Weight.PRESENT),
        ("42501", Weight.PRESENT),
        ("53300", Weight.PRESENT),
        ("55000", Weight.PRESENT),
        ("57P03", Weight.AWAY),
        ("57P01", Weight.AWAY),
        ("53200", Weight.AWAY),
        ("58030", Weight.AWAY),
        ("XX000", Weight.AWAY),
        ("08006", Weight.AWAY),
        ("08P01", Weight.NOTHING),
        ("", Weight.NOTHING),
    ],
)
def test_an_error_is_weighed_by_its_sqlstate(sqlstate: str, weight: Weight) -> None:
    assert weigh(sqlstate) is weight


# What happens to pools: (second, pool, what). Asked at second 60.
HAPPENS: dict[str, tuple[list[tuple[int, str, Any]], Any]] = {
    "nothing": ([], (None, None)),
    "a login": ([(50, "a", "in")], (10, None)),
    "no answer": ([(40, "a", None), (50, "a", None)], (None, 20)),
    "an answer to another": ([(40, "a", None), (50, "b", "in")], (10, None)),
    "silence after an answer": (
        [(10, "a", None), (30, "b", "in"), (40, "a", None)],
        (30, 30),
    ),
    "a refused login": ([(40, "a", None), (50, "a", WRONG_PASSWORD)], (10, None)),
    "only refused logins": ([(40, "a", WRONG_PASSWORD)] * 2, (20, None)),
    "a secret of ours that cannot log in": ([(50, "a", NO_KEYS)], (10, None)),
    "a server that starts": ([(40, "a", STARTING)], (None, 20)),
    "a pool that nobody uses": ([(10, "unused", None)], (None, None)),
    "its success": ([(40, "a", None), (50, "unused", "in")], (10, None)),
}


@pytest.mark.parametrize("name", HAPPENS)
def test_newest_attempt_of_all_pools_decides(name: str) -> None:
    """The oldest failing pool decided: one stale password, and all was down."""
    events, (answered, failing) = HAPPENS[name]
    pools = {
        name: SimpleNamespace(
            evidence=Evidence(), client_count=int(name != "unused"), server_count=0
        )
        for name in ("a", "b", "unused")
    }
    for second, pool, what in events:
        evidence = pools[pool].evidence
        if what == "in":
            evidence.succeeded(second * SECOND)
        else:
            evidence.failed(second * SECOND, what)
            # Its connection ends in the same moment.
            evidence.failed(second * SECOND)
    found = of_pools(pools.values(), 60 * SECOND)
    assert (found.answered_ago, found.failing_for) == (answered, failing)


def refusal(problem: LoginFailed) -> LoginRefused:
    return LoginRefused("health", problem)


AWAY, FAILING = {"failing_for": 30.0, "failed_ago": 0.1}, {"failing_for": 30.0}
# After a proof 40 s ago: what a probe gets, what the pools tell, and the answer.
EVIDENCE: list[tuple[str, Any, dict[str, Any], int, str]] = [
    ("probe answered", [PRIMARY], {}, 200, "ready"),
    ("probe answered, pool's failure is older",
     [PRIMARY], {"failing_for": 30.0, "failed_ago": 20.0}, 200, "ready"),
    ("nobody answers", GONE, AWAY, 503, "database unreachable"),
    ("probe fails, no pool tries", GONE, {}, 503, "database unreachable"),
    ("probe waits, pools fail", StillFailing("x"), AWAY, 503, "database unreachable"),
    ("probe finds no server, pools fail", Busy("x"), AWAY, 503, "database unreachable"),
    ("all servers at work", Busy("x"), {"busiest": 1.0}, 200, "ready"),
    ("probe fails, a client is let in", GONE, {"answered_ago": 0.1}, 200, "ready"),
    ("probe fails, a client is refused", GONE, {"answered_ago": 0.5}, 200, "ready"),
    ("wrong password", refusal(WRONG_PASSWORD), {}, 200, "ready"),
    ("secret cannot log in", refusal(NO_KEYS), {}, 200, "ready"),
    ("wrong password, clients too", refusal(WRONG_PASSWORD),
     {"answered_ago": 1.0}, 200, "ready"),
    ("a server that starts", refusal(STARTING), {}, 503, "database unreachable"),
    ("statement refused", ServerError("denied", "42501"), {}, 200, "ready"),
    ("server ends", ServerError("ends", "57P01"), {}, 503, "database unreachable"),
    ("nobody to ask as", LookupError("x"), {}, 200, "ready"),
    ("nobody to ask as, and clients fail", LookupError("x"), AWAY,
     503, "database unreachable"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("probe", "pools", "code", "word"),
    [row[1:] for row in EVIDENCE],
    ids=[row[0] for row in EVIDENCE],
)
def test_newest_evidence_of_pools_and_probes_decides(
    probe: Any, pools: dict[str, Any], code: int, word: str
) -> None:
    async def story() -> None:
        bench = Bench(Described("app"), Policy(down_after=10))
        await bench.run(0.25)
        bench.view.answers["app"] = probe
        bench.now += 40
        for _ in range(20):
            bench.view.set("app", **pools)
            bench.readiness.ready("app")
            await bench.run(1)
        answer = bench.readiness.ready("app")
        assert (answer.grade.value, answer.word) == (code, word)

    run(story())


@pytest.mark.parametrize("problem", [WRONG_PASSWORD, NO_KEYS])
def test_health_login_that_fails_is_told_and_is_no_outage(
    problem: LoginFailed, caplog: pytest.LogCaptureFixture
) -> None:
    """From the start everything was down, and nothing said why."""

    async def story() -> None:
        view = Described("app")
        view.answers["app"] = refusal(problem)
        settings: Any = SimpleNamespace(
            health_listen="", agent_listen="", health_databases="",
            health_down_after=10.0, health_wrong_role="auto",
        )  # fmt: skip
        server = HealthServer(view, settings)
        server.readiness.tick()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert server.readiness.ready("app").grade.value == 200
        told = server.database_status("app")["health_login"]
        assert told == {"user": "health", "error": problem.text}
        assert "error" in server.database_status("app")

    run(story())


def test_health_login_is_told_once_and_that_it_is_mended(monkeypatch: Any) -> None:
    lines: list[str] = []
    monkeypatch.setattr("ha.readiness.log.warning", lines.append)
    monkeypatch.setattr("ha.readiness.log.info", lines.append)

    async def story() -> None:
        bench = Bench(Described("app"))
        for answer in (refusal(WRONG_PASSWORD), StillFailing("app"), [PRIMARY]):
            bench.view.answers["app"] = answer
            for _ in range(5):
                bench.readiness.primary("app")
                await bench.run(1)

    run(story())
    assert lines == [
        'health checks cannot log in to database "app" as user "health": '
        "wrong password",
        'health checks can log in to database "app" again',
    ]


def test_failure_that_nobody_looked_after_is_no_evidence() -> None:
    """A failed probe of an hour ago said 503 to the first who asked again."""

    async def story() -> None:
        bench = Bench(Described("app"), Policy(down_after=10))
        await bench.run(0.25)
        bench.view.answers["app"] = GONE
        bench.now += 10
        bench.readiness.ready("app")
        await bench.run(1)
        bench.now += 3600
        bench.readiness.tick()
        assert bench.readiness.ready("app").grade.value == 200

    run(story())


ROLES = [
    ("/primary", PRIMARY, "primary"),
    ("/replica", STANDBY, "replica"),
    ("/read-only", PRIMARY, "read_only"),
]


@pytest.mark.parametrize(
    "silence", [None, Busy("app"), StillFailing("app"), LookupError("app")]
)
@pytest.mark.parametrize(("path", "role", "ask"), ROLES)
def test_role_is_known_for_three_probes(
    path: str, role: Any, ask: str, silence: Any
) -> None:
    """/primary said 200 of a fenced server, from a memory of 20 s ago."""

    async def story() -> None:
        view = Described("app")
        view.answers["app"] = [role]
        bench = Bench(view, Policy(down_after=10))
        bench.readiness.tick()
        question = getattr(bench.readiness, ask)
        question("app")
        await bench.run(2)
        assert question("app").grade.value == 200
        view.answers["app"] = silence
        known_at = bench.readiness.watched["app"].role.at
        codes = {}
        while bench.now < known_at + 30:
            codes[bench.now - known_at] = question("app").grade.value
            await bench.run(0.25)
            bench.now += 0.25
        assert {code for age, code in codes.items() if age <= 2} == {200}
        assert 200 not in {code for age, code in codes.items() if age > 3}
        # Nobody is cut before the database counts as down.
        assert {code for age, code in codes.items() if 3 < age <= 10} == {404}
        bench.readiness.close()

    run(story())


@pytest.mark.parametrize(
    ("silence", "code"),
    [
        (Busy("app"), 200),
        (refusal(WRONG_PASSWORD), 200),
        (StillFailing("app"), 200),
        (None, 404),
        (GONE, 404),
    ],
)
@pytest.mark.parametrize(("path", "role", "ask"), ROLES)
def test_role_is_kept_where_nobody_can_ask_and_clients_are_answered(
    path: str, role: Any, ask: str, silence: Any, code: int
) -> None:
    """A pool whose servers are all at work has none for a probe: without this every
    pooler of a busy farm would send clients away. A demotion ends all connections."""

    async def story() -> None:
        view = Described("app")
        view.answers["app"] = [role]
        bench = Bench(view, Policy(down_after=60))
        bench.readiness.tick()
        question = getattr(bench.readiness, ask)
        question("app")
        await bench.run(2)
        view.answers["app"] = silence
        for _ in range(40):
            question("app")
            bench.traffic("app")
            await bench.run(0.25)
            bench.now += 0.25
        assert question("app").grade.value == code
        if ask == "replica":
            # How far it is behind, nobody has heard.
            assert bench.readiness.replica("app", 1 << 40).grade.value == 404
        # Nor is anybody answered any more.
        for _ in range(8):
            question("app")
            await bench.run(0.25)
            bench.now += 0.25
        assert question("app").grade.value == 404
        bench.readiness.close()

    run(story())


def test_role_is_kept_while_a_pause_lasts_for_the_last_resort() -> None:
    async def story() -> None:
        bench = Bench(Described("app"))
        bench.readiness.tick()
        bench.readiness.primary("app")
        await bench.run(2)
        bench.view.set("app", paused=True)
        await bench.run(60)
        assert bench.readiness.primary("app", held=True).grade.value == 200
        assert bench.readiness.primary("app").word == "paused"

    run(story())


def test_who_asks_seldom_still_gets_knowledge() -> None:
    async def story() -> None:
        bench = Bench(Described("app"))
        bench.readiness.tick()
        answers = []
        for _ in range(4):
            answers.append(bench.readiness.primary("app").word)
            await bench.run(30)
        assert answers[-1] == "primary"

    run(story())


def test_databases_that_hang_keep_nobody_from_what_he_knows() -> None:
    """Four probes that hung were all there might be: the roles of all others aged."""
    names = [f"app{n:02}" for n in range(40)]
    dead = names[: 3 * MOST_PROBES]

    async def story() -> None:
        view = Described(*names)
        for name in names:
            view.set(name, live=int(name not in dead))
        view.answers |= dict.fromkeys(dead)  # they never answer
        bench = Bench(view)
        bench.readiness.tick()
        for _ in range(20):
            for name in names:
                bench.readiness.primary(name)
            await bench.run(0.5)
        assert sum(bench.readiness.probing.values()) <= MOST_PROBES + MOST_LIVE_PROBES
        words = {bench.readiness.primary(name).word for name in names[len(dead) :]}
        assert words == {"primary"}
        bench.readiness.close()

    run(story())
