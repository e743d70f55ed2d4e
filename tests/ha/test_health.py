"""Health over real sockets, and what a real HAProxy makes of the answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import uvloop

from ha.cli import main
from ha.health import HealthServer
from tests.ha.balancer import wait_for
from tests.ha.described import PRIMARY, STANDBY, Described

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow")


class Served:
    """A HealthServer in a loop of its own thread."""

    def __init__(self, view: Described, loop: asyncio.AbstractEventLoop, **settings):
        self.view, self.loop = view, loop
        self.settings = SimpleNamespace(
            health_listen="127.0.0.1:0",
            agent_listen="127.0.0.1:0",
            health_databases="",
            health_down_after=1.0,
            health_wrong_role="auto",
        )
        vars(self.settings).update(settings)
        self.server = HealthServer(view, self.settings, lambda: "up 1\n")
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def start(self) -> Served:
        self.thread.start()
        starting = asyncio.run_coroutine_threadsafe(self.server.start(), self.loop)
        starting.result(5)
        return self

    def call(self, function, *arguments):
        """Run *function* in the server's thread."""

        async def wrapped():
            return function(*arguments)

        return asyncio.run_coroutine_threadsafe(wrapped(), self.loop).result(5)

    def stop(self) -> None:
        self.call(self.server.close)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()

    @property
    def http(self) -> int:
        return self.server.addresses[0][1]

    @property
    def agent(self) -> int:
        return self.server.addresses[1][1]

    def get(self, target: str, method: str = "GET") -> tuple[int, str]:
        return fetch(self.http, f"{method} {target} HTTP/1.0\r\n\r\n".encode())

    def ask(self, line: bytes | None) -> str:
        return exchange(self.agent, line or b"").decode()


def exchange(port: int, data: bytes, half_close: bool = False) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 5) as link:
        if data:
            link.sendall(data)
        if half_close:
            link.shutdown(socket.SHUT_WR)
        pieces = []
        while piece := link.recv(65536):
            pieces.append(piece)
        return b"".join(pieces)


def fetch(port: int, request: bytes) -> tuple[int, str]:
    head, _, body = exchange(port, request).partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


@pytest.fixture(params=["asyncio", "uvloop"])
def serve(request) -> Iterator[Callable[..., Served]]:
    started: list[Served] = []

    def start(view: Described, **settings) -> Served:
        new = (
            uvloop.new_event_loop
            if request.param == "uvloop"
            else asyncio.new_event_loop
        )
        started.append(Served(view, new(), **settings).start())
        return started[-1]

    yield start
    for one in started:
        one.stop()


# The pooler's own loop; HAProxy costs seconds.
ON_UVLOOP = pytest.mark.parametrize("serve", ["uvloop"], indirect=True)


def test_answers_over_http(serve):
    served = serve(Described("app", "other"))
    assert wait_for(lambda: served.get("/ready?db=app")[0] == 200)
    assert served.get("/live")[0] == 200
    assert served.get("/primary?db=app") == (
        200,
        '{"status": "primary", "database": "app"}\n',
    )
    assert served.get("/replica?db=app&lag=16MB")[0] == 404
    assert served.get("/read-only")[0] == 200
    assert served.get("/ready?db=nosuch")[0] == 503
    assert served.get("/metrics") == (200, "up 1\n")
    assert served.get("/ready", "HEAD") == (200, "")
    assert served.get("/primary", "OPTIONS") == (200, "")
    status = json.loads(served.get("/status")[1])
    assert status["databases"]["app"]["role"]["standby"] is False
    assert status["phase"] == "running"
    for alias in ("/", "/health", "/readiness", "/liveness", "/leader", "/read-write"):
        assert served.get(alias)[0] == 200, alias
    served.view.word = "paused"
    assert served.get("/ready?db=app")[0] == 404
    assert served.get("/ready?db=app&held=yes")[0] == 200
    assert served.get("/ready?db=app&held=no")[0] == 404
    served.view.word = "draining"
    assert served.get("/ready") == (404, '{"status": "draining"}\n')
    assert served.get("/live")[0] == 200


@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [
        (b"GET /ready HTTP/1.0\n\n", 200),
        (b"GET /ready HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n", 200),
        (b"POST /ready HTTP/1.0\r\n\r\n", 405),
        (b"GET /nosuch HTTP/1.0\r\n\r\n", 400),
        (b"GET /replica?lagg=1 HTTP/1.0\r\n\r\n", 400),
        (b"GET /replica?lag=x HTTP/1.0\r\n\r\n", 400),
        (b"GET /ready?lag=1 HTTP/1.0\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"\0\0\0\x08\x04\xd2\x16/\r\n\r\n", 400),
        (b"GET /" + b"x" * 9000, 400),
        (b"GET /ready HTTP/2\r\n\r\n", 400),
    ],
)
def test_requests_as_they_come(serve, request_bytes, code):
    served = serve(Described("app"))
    assert wait_for(lambda: served.get("/ready")[0] == 200)
    assert fetch(served.http, request_bytes)[0] == code


def test_request_in_pieces_and_checkers_that_go(serve):
    served = serve(Described("app"))
    assert wait_for(lambda: served.get("/ready")[0] == 200)
    with socket.create_connection(("127.0.0.1", served.http)) as link:
        for byte in b"GET /live HTTP/1.0\r\n\r\n":
            link.send(bytes([byte]))
        assert link.recv(12) == b"HTTP/1.1 200"
    for _ in range(200):
        link = socket.create_connection(("127.0.0.1", served.http))
        link.send(b"GET /live HT")
        # Reset, not closed: what HAProxy does.
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        link.close()
    assert wait_for(lambda: not served.server.checkers)
    assert served.get("/live")[0] == 200


def test_too_many_checkers_push_the_oldest_out(serve, monkeypatch):
    monkeypatch.setattr("ha.health.MAX_CONNECTIONS", 3)
    served = serve(Described("app"))
    with contextlib.ExitStack() as stack:
        links = [
            stack.enter_context(socket.create_connection(("127.0.0.1", served.http), 5))
            for _ in range(6)
        ]
        with contextlib.suppress(ConnectionResetError):
            assert links[0].recv(1) == b""
        assert served.get("/live")[0] == 200


def test_agent_with_and_without_a_question(serve):
    served = serve(Described("app"))
    assert wait_for(lambda: served.get("/ready")[0] == 200)
    assert served.ask(None) == "ready up 100% maxconn:90\n"
    assert served.ask(b"rw app share=3\n") == "ready up 100% maxconn:30\n"
    assert exchange(served.agent, b"rw", half_close=True).startswith(b"ready up")
    assert served.ask(b"x" * 600).startswith("up drain #no such database")
    served.view.set("app", paused=True)
    assert wait_for(lambda: served.ask(b"app\n") == "up drain #paused\n")


def test_unix_socket_and_stale_file(serve, tmp_path):
    path = tmp_path / "health.sock"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    served = serve(Described("app"), health_listen=str(path))
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(str(path))
        link.sendall(b"GET /live HTTP/1.0\r\n\r\n")
        assert link.recv(12) == b"HTTP/1.1 200"
    served.call(served.server.close)
    assert not path.exists()


@pytest.mark.parametrize("place", ["nonsense", "127.0.0.1:x", "192.0.2.1:1"])
def test_address_that_cannot_be_listened_on(place):
    settings = SimpleNamespace(
        health_listen=place,
        agent_listen="",
        health_databases="",
        health_down_after=1.0,
        health_wrong_role="auto",
    )

    async def story():
        with pytest.raises(OSError):
            await HealthServer(Described(), settings).start()

    asyncio.run(story())


def test_a_thousand_checks_wait_for_no_database(serve):
    """What is known is told; the database is asked at its own pace, not at theirs."""
    view = Described("app")
    served = serve(view)
    assert wait_for(lambda: served.get("/ready")[0] == 200)
    view.answers["app"] = None  # whoever asked it now would wait
    asked = len(view.asked)
    for _ in range(1000):
        assert served.get("/ready?db=app")[0] in (200, 503)
    assert len(view.asked) - asked < 20


# Seen by HAProxy

FARM = """\
global
    stats socket {{dir}}/admin.sock level admin
defaults
    mode tcp
    timeout connect 1s
    timeout client 1h
    timeout server 1h
    timeout check 500ms
listen pool
    bind 127.0.0.1:{front}
    option httpchk
    http-check send meth GET uri {uri} ver HTTP/1.1 hdr Host pooler
    http-check disable-on-404
    http-check expect status 200
    default-server inter 100ms fall 2 rise 1 on-marked-down shutdown-sessions weight 100
    server p1 127.0.0.1:{back} check port {http} {agent}
"""


@pytest.fixture
def echo() -> Iterator[int]:
    """A port that sends every byte back."""

    async def talk(reader, writer):
        try:
            while data := await reader.read(4096):
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()

    loop = asyncio.new_event_loop()
    listening = socket.create_server(("127.0.0.1", 0))

    async def serve():
        async with await asyncio.start_server(talk, sock=listening):
            await stop.wait()
        # Whoever still talks would be found by another test, as garbage.
        talks = asyncio.all_tasks() - {asyncio.current_task()}
        for one in talks:
            one.cancel()
        await asyncio.gather(*talks, return_exceptions=True)
        await asyncio.sleep(0)  # an aborted transport closes in the loop's next turn

    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    yield listening.getsockname()[1]
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


@contextlib.contextmanager
def session(front: int) -> Iterator[Callable[[], bool]]:
    """A session through HAProxy; calling it says whether it still works."""
    with socket.create_connection(("127.0.0.1", front), 3) as link:

        def works() -> bool:
            try:
                link.sendall(b"x")
                return link.recv(1) == b"x"
            except OSError:
                return False

        assert works()
        yield works


@ON_UVLOOP
def test_haproxy_keeps_sessions_in_soft_states_and_cuts_them_in_hard_ones(
    serve, balancer, echo, free_port
):
    view = Described("app")
    served = serve(view, health_down_after=0.5)
    assert wait_for(lambda: served.get("/ready?db=app")[0] == 200)
    front = free_port()
    lb = balancer(
        FARM.format(
            front=front, back=echo, http=served.http, uri="/ready?db=app", agent=""
        )
    )
    lb.wait_status("pool", "p1", "UP")
    with session(front) as works:
        for change, undo in (
            (lambda: view.set("app", paused=True),
             lambda: view.set("app", paused=False)),
            (lambda: setattr(view, "word", "draining"),
             lambda: setattr(view, "word", "running")),
            (lambda: setattr(view, "used", 100), lambda: setattr(view, "used", 0)),
        ):  # fmt: skip
            change()
            lb.wait_status("pool", "p1", "NOLB")
            assert works()
            undo()
            lb.wait_status("pool", "p1", "UP")
            assert works()
        assert lb.row("pool", "p1").times_down == 0
        view.set("app", failing_for=1.0)
        lb.wait_status("pool", "p1", "DOWN")
        assert wait_for(lambda: not works())


@ON_UVLOOP
def test_haproxy_does_what_the_agent_says(serve, balancer, echo, free_port):
    view = Described("app")
    served = serve(view)
    assert wait_for(lambda: served.get("/ready?db=app")[0] == 200)
    front = free_port()
    agent = (
        f"agent-check agent-port {served.agent} agent-inter 100ms "
        'agent-send "rw app share=2\\n"'
    )
    lb = balancer(
        FARM.format(front=front, back=echo, http=served.http, uri="/live", agent=agent)
    )
    lb.wait_status("pool", "p1", "UP")
    assert wait_for(lambda: lb.row("pool", "p1").session_limit == 45)
    with session(front) as works:
        view.set("app", paused=True)
        lb.wait_status("pool", "p1", "DRAIN (agent)")
        assert lb.row("pool", "p1").last_agent == "via agent : up (paused)"
        assert works()
        view.set("app", paused=False)
        lb.wait_status("pool", "p1", "UP")
        view.answers["app"] = [STANDBY]
        lb.wait_status("pool", "p1", "DRAIN (agent)")
        assert wait_for(
            lambda: lb.row("pool", "p1").last_agent == "via agent : up (standby)"
        )
        view.answers["app"] = [PRIMARY]
        lb.wait_status("pool", "p1", "UP")
        view.set("app", waiting=90, waited=1.0)
        assert wait_for(lambda: lb.row("pool", "p1").weight < 80)
        view.set("app", waiting=0, waited=0.0)
        assert wait_for(lambda: lb.row("pool", "p1").weight == 100, 15)
        assert works()
        assert lb.row("pool", "p1").times_down == 0


@ON_UVLOOP
@pytest.mark.parametrize("order", ["drain --force", "maint --force", "weight 30"])
def test_agent_is_not_heard_from_an_order_until_ready(
    serve, balancer, echo, free_port, order
):
    """It was never heard again: once disabled, an agent is in no row of `show stat`."""
    view = Described("app")
    served = serve(view)
    assert wait_for(lambda: served.get("/ready?db=app")[0] == 200)
    agent = f"agent-check agent-port {served.agent} agent-inter 100ms"
    lb = balancer(
        FARM.format(
            front=free_port(), back=echo, http=served.http, uri="/live", agent=agent
        )
    )
    assert wait_for(lambda: lb.row("pool", "p1").last_agent == "via agent : up")
    word, more = order.split()
    assert main([word, "pool/p1", more, "--socket", lb.socket]) == 0
    assert lb.row("pool", "p1").last_agent == ""
    if word == "weight":
        assert lb.row("pool", "p1").weight == 30
    assert main(["ready", "pool/p1", "--socket", lb.socket]) == 0
    lb.wait_status("pool", "p1", "UP")
    assert wait_for(lambda: lb.row("pool", "p1").last_agent == "via agent : up")
    assert wait_for(lambda: lb.row("pool", "p1").weight == 100)
