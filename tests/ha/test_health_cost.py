"""What anybody who reaches the health ports can make us do."""

from __future__ import annotations

import asyncio
import socket

import pytest

from ha import health
from ha.agent import Question, parse_size
from ha.readiness import MOST_LOGINS, MOST_PROBES, SAMPLE, TICK, Grade, Policy
from tests.ha.balancer import wait_for
from tests.ha.described import Described
from tests.ha.test_health import ON_UVLOOP, exchange, serve  # noqa: F401  (a fixture)
from tests.ha.test_readiness import Bench, run

MANY = [f"app{n:03}" for n in range(300)]


def asked(view: Described) -> set[str]:
    """The databases that were logged in to."""
    return {name for name, _ in view.asked}


def test_health_logs_in_at_few_databases_of_many():
    """At the start each of 1 000 databases got a connection, 1 004 logins in 4 s."""

    async def story():
        view = Described(*MANY)
        bench = Bench(view)
        await bench.run(5)
        for _ in range(10):
            assert bench.readiness.ready().grade is Grade.GOOD
            bench.readiness.primary()
            await bench.run(2)
        assert len(asked(view)) <= SAMPLE
        # Who wants to know about one names it.
        assert bench.readiness.ready("app290").word == "starting"
        await bench.run(2)
        assert bench.readiness.ready("app290").grade is Grade.GOOD

    run(story())


def test_health_finds_the_database_that_is_well():
    async def story():
        view = Described(*MANY[:100])
        for name in MANY[:99]:
            view.answers[name] = ConnectionRefusedError("gone")
        bench = Bench(view)
        for _ in range(60):
            bench.readiness.ready()
            await bench.run(1)
        assert bench.readiness.ready().grade is Grade.GOOD

    run(story())


def test_few_probes_are_under_way_at_once():
    async def story():
        view = Described(*MANY)
        view.answers = dict.fromkeys(MANY)  # none ever answers
        bench = Bench(view, Policy(databases=tuple(MANY)))
        await bench.run(1)
        bench.readiness.primary()
        await bench.run(1)
        assert len(view.asked) == MOST_PROBES
        bench.readiness.close()

    run(story())


def test_probes_of_many_named_databases_all_have_their_turn():
    async def story():
        view = Described(*MANY[:200])
        bench = Bench(view, Policy(databases=tuple(MANY[:200])))
        for _ in range(60):
            await bench.run(0.25)
        assert asked(view) == set(MANY[:200])

    run(story())


ODD = [
    b"\0\xff\xfe\n\n",
    b"GET\n\n",
    b"GET /ready\n\n",
    b"GET  /ready HTTP/1.0\r\n\r\n",
    b"GET /ready?" + b"&".join(b"a%d=1" % n for n in range(900)) + b" HTTP/1.0\r\n\r\n",
    b"GET /replica?lag=" + b"9" * 5000 + b" HTTP/1.0\r\n\r\n",
    b"GET /replica?lag=\xb2 HTTP/1.0\r\n\r\n",
    b"GET /read-only?lag=-1 HTTP/1.0\r\n\r\n",
    b"GET /ready?db=%ff%00%0d%0aX:%20y HTTP/1.0\r\n\r\n",
    b"GET /" + b"x" * 8000 + b" HTTP/1.0\r\n\r\n",
    b"GET /" + b"x" * 20_000 + b" HTTP/1.0\r\n\r\n",
    b"GET /live HTTP/1.0\r\n" + b"H: v\r\n" * 5000 + b"\r\n",
    b"x" * 9000,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 600 + b"\n\n",
]


def test_http_bears_odd_bytes(serve):  # noqa: F811
    served = serve(Described("app"))
    for data in ODD:
        # What is not read any more may reset the connection behind the answer.
        try:
            answer = exchange(served.http, data)
        except ConnectionError:
            continue
        assert answer.split(b"\r\n")[0].split(b" ")[1] in (b"400", b"404", b"503")
        assert b"\r\nX: y" not in answer
    assert served.get("/live")[0] == 200


def test_agent_bears_odd_bytes(serve):  # noqa: F811
    served = serve(Described("app"))
    for line in (
        b"\0\xff\n",
        b"share=" + b"9" * 400 + b"\n",
        b"share=0x10\n",
        b"share=\xb2\n",
        b"share=-1\n",
        b"lag=" + b"9" * 400 + b"\n",
        b"db=%0a%0ddown\n",
        b"rw " * 300 + b"\n",
        b"x" * 5000,
    ):
        try:
            answer = exchange(served.agent, line)
        except ConnectionError:
            continue
        assert answer.startswith((b"error #", b"up drain #", b"ready up "))
        assert answer.count(b"\n") == 1
    assert served.ask(b"app\n").startswith(("ready up", "up drain #starting"))


@pytest.mark.parametrize("text", ["9" * 5000, "\u0663", "1\u00b2", "", "-1"])
def test_sizes_are_plain_short_numbers(text):
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)
    with pytest.raises(ValueError, match="share"):
        Question.parse(f"share={text}")


def test_a_dribbled_head_ends_at_the_deadline(serve, monkeypatch):  # noqa: F811
    monkeypatch.setattr(health, "DEADLINE", 0.3)
    served = serve(Described("app"))
    with socket.create_connection(("127.0.0.1", served.http), 5) as link:
        link.sendall(b"GET /live HT")
        assert link.recv(100) == b""


def test_connections_to_the_ports_are_bounded(serve, monkeypatch):  # noqa: F811
    """Of many that came in one turn of the loop only the first was sent away."""
    monkeypatch.setattr(health, "DEADLINE", 60)
    monkeypatch.setattr(health, "MAX_CONNECTIONS", 20)
    served = serve(Described("app"))
    links = [socket.create_connection(("127.0.0.1", served.http), 5) for _ in range(60)]
    try:
        # The newest is served; the oldest are gone.
        links[-1].sendall(b"GET /live HTTP/1.0\r\n\r\n")
        assert links[-1].recv(100).startswith(b"HTTP/1.1 200")
        assert len(served.server.checkers) <= 20
        assert [link.recv(100) for link in links[:40]] == [b""] * 40
    finally:
        for link in links:
            link.close()


@ON_UVLOOP
def test_large_answers_that_nobody_reads_are_few(serve):  # noqa: F811
    """512 checkers could leave as many whole /metrics unread."""
    served = serve(Described("app"))
    served.server.metrics = lambda: "x" * 10_000_000
    links = []
    try:
        for _ in range(15):
            link = socket.create_connection(("127.0.0.1", served.http), 5)
            link.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            links.append(link)
        assert wait_for(lambda: len(served.server.large) == health.MAX_LARGE)
        assert wait_for(lambda: len(served.server.checkers) <= health.MAX_LARGE)
    finally:
        for link in links:
            link.close()


def test_metrics_are_made_once_for_all_who_ask_meanwhile():
    """Each of a flood of questions walked all pools on the loop."""

    async def story():
        made = 0
        go_on = asyncio.Event()

        async def render():
            nonlocal made
            made += 1
            await go_on.wait()
            return "up 1\n"

        settings = type(
            "Settings",
            (),
            {
                "health_listen": "",
                "agent_listen": "",
                "health_databases": "",
                "health_down_after": 1.0,
                "health_wrong_role": "auto",
            },
        )()
        server = health.HealthServer(Described("app"), settings, render)
        replies: list[bytes] = []
        for _ in range(50):
            server.http("GET /metrics HTTP/1.0", replies.append)
        await asyncio.sleep(0)
        go_on.set()
        while len(replies) < 50:
            await asyncio.sleep(0)
        assert made == 1
        assert {reply.endswith(b"\r\n\r\nup 1\n") for reply in replies} == {True}

    asyncio.run(story())


def test_questions_by_name_cost_few_logins_at_a_time():
    """Each of 300 names, asked about without end, was 300 logins a second."""

    async def story():
        view = Described(*MANY)
        bench = Bench(view)
        await bench.run(5)
        before = len(view.asked)
        for name in MANY:
            bench.readiness.primary(name)
        await bench.run(TICK)
        assert len(view.asked) - before <= 2 * MOST_LOGINS
        # Those that have a server cost nobody a login.
        for name in MANY:
            view.set(name, live=1)
            bench.readiness.primary(name)
        await bench.run(14)
        assert asked(view) == set(MANY)

    run(story())
