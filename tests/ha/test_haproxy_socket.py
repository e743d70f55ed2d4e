"""The stats socket for real: HAProxy itself, and sockets that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ha.cli import main
from ha.errors import CutAnswer, HAProxyError, NoAnswer, Refused, Unreachable
from ha.haproxy import HAProxy
from ha.transport import MAX_COMMAND, Endpoint, ask
from ha.watch import HAProxyWatch
from tests.ha.balancer import wait_for

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow")

CONFIG = """\
global
    stats socket {{dir}}/admin.sock mode 600 level admin
    stats socket {{dir}}/user.sock mode 600 level user
    stats socket 127.0.0.1:{tcp} level operator
    stats timeout 4s
defaults
    mode tcp
    timeout connect 1s
    timeout client 1h
    timeout server 1h
    timeout client-fin 200ms
    timeout server-fin 200ms
listen pool
    bind 127.0.0.1:{front}
    default-server inter 200ms fall 2 rise 1 weight 100 on-marked-down shutdown-sessions
    server one 127.0.0.1:{one}
    server two 127.0.0.1:{two} check
"""


@pytest.fixture
def echo() -> Iterator[Callable[[], int]]:
    """Ports on which connections are accepted and kept."""
    sockets: list[socket.socket] = []

    def keep(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                sockets.append(listening.accept()[0])

    def start() -> int:
        listening = socket.create_server(("127.0.0.1", 0))
        sockets.append(listening)
        threading.Thread(target=keep, args=[listening], daemon=True).start()
        return int(listening.getsockname()[1])

    yield start
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()


@pytest.fixture
def front(free_port) -> int:
    return free_port()


@pytest.fixture
def lb(balancer, echo, free_port, front):
    tcp = free_port()
    started = balancer(CONFIG.format(tcp=tcp, front=front, one=echo(), two=echo()))
    started.tcp = f"127.0.0.1:{tcp}"
    started.wait_status("pool", "two", "UP")
    return started


def test_orders_change_what_haproxy_says(lb):
    haproxy = lb.haproxy
    assert haproxy.info()["Pid"] == str(lb.process.pid)
    haproxy.set_state("pool", "one", "drain")
    assert lb.status("pool", "one") == "DRAIN"
    assert {s.name: s.forced for s in haproxy.server_states()} == {
        "one": "drain",
        "two": "",
    }
    haproxy.set_state("pool", "one", "ready")
    assert lb.status("pool", "one") == "no check"
    haproxy.set_weight("pool", "one", "50%")
    assert haproxy.weight_of("pool", "one") == (50, 100)
    haproxy.set_max_sessions("pool", "one", 7)
    assert lb.row("pool", "one").session_limit == 7
    haproxy.set_state("pool", "one", "maint")
    assert lb.status("pool", "one") == "MAINT"


def test_refusals_have_haproxys_words(lb):
    with pytest.raises(Refused, match="No such server"):
        lb.haproxy.set_state("pool", "three", "drain")
    with pytest.raises(Refused, match="No such backend"):
        lb.haproxy.set_weight("nowhere", "one", "3")
    with pytest.raises(Refused, match="between 0 and 256"):
        lb.haproxy.set_weight("pool", "one", "999")
    user = HAProxy(lb.socket.replace("admin", "user"))
    assert len(user.picture().rows) == 4
    with pytest.raises(Refused, match="Permission denied"):
        user.set_state("pool", "one", "drain")
    with pytest.raises(HAProxyError, match="not one of"):
        lb.haproxy.set_state("pool", "one", "frob")


def test_tcp_socket_reads_the_same(lb):
    over_tcp = HAProxy(lb.tcp)
    assert [r.name for r in over_tcp.picture().rows] == [
        r.name for r in lb.haproxy.picture().rows
    ]
    with pytest.raises(Refused, match="Permission denied"):
        over_tcp.set_state("pool", "one", "drain")


def test_sessions_are_counted_over_old_workers_through_the_master(
    balancer, echo, free_port, front
):
    text = CONFIG.format(tcp=free_port(), front=front, one=echo(), two=echo())
    lb = balancer(text, master=True)
    lb.haproxy.set_state("pool", "two", "drain")
    with socket.create_connection(("127.0.0.1", front)):
        assert wait_for(lambda: lb.haproxy.sessions_on("pool", "one") == 1)
        with contextlib.suppress(HAProxyError):
            # The master closes without an answer.
            ask(lb.haproxy.master, "reload", 5)
        assert wait_for(lambda: len(lb.haproxy.workers()) == 2)
        assert wait_for(lambda: lb.row("pool", "one").sessions == 0)
        assert lb.haproxy.sessions_on("pool", "one") == 1
    assert wait_for(lambda: lb.haproxy.sessions_on("pool", "one") == 0)


def test_eleventh_connection_waits_and_ends_in_an_error_not_a_hang(lb):
    held = []
    with contextlib.ExitStack() as stack:
        for _ in range(11):
            one = stack.enter_context(socket.socket(socket.AF_UNIX))
            one.connect(lb.socket)
            held.append(one)
        with pytest.raises(NoAnswer, match="stats maxconn"):
            HAProxy(lb.socket, 0.5).info()
    assert wait_for(lb.answers)


def test_stopped_haproxy_is_unknown_and_keeps_its_last_picture(lb):
    watch = HAProxyWatch([HAProxy(lb.socket, 0.3)])
    assert len(watch.rows_now()) == 4
    time.sleep(0.25)
    os.kill(lb.process.pid, 19)
    try:
        rows = asyncio.run(watch.rows())
    finally:
        os.kill(lb.process.pid, 18)
    assert len(rows) == 4
    assert all("no answer within 0.3 s" in row[-1] for row in rows)
    assert all(row[-2] >= 250 for row in rows)
    assert wait_for(lambda: watch.rows_now()[0][-1] is None)


def test_console_provider_asks_without_stopping_the_loop(lb, tmp_path):
    lost = str(tmp_path / "lost.sock")
    watch = HAProxyWatch.from_setting(f"{lb.socket}, {lost}")
    turns = []

    async def count() -> None:
        while True:
            turns.append(time.monotonic())
            await asyncio.sleep(0.01)

    async def story() -> list:
        counting = asyncio.ensure_future(count())
        try:
            return (await asyncio.gather(*(watch.rows() for _ in range(5))))[-1]
        finally:
            counting.cancel()

    rows = asyncio.run(story())
    assert len(rows) == 5
    assert rows[-1][0] == lost and "no such socket" in rows[-1][-1]
    assert len(turns) >= 1
    assert HAProxyWatch.from_setting(" , ") is None


# Sockets that misbehave


@pytest.fixture
def fake(tmp_path) -> Iterator[Callable[..., str]]:
    """A unix socket that answers with what it is given, and then closes or hangs."""
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def start(reply: bytes, close: bool = True, slowly: bool = False) -> str:
        path = str(tmp_path / f"fake{len(threads)}.sock")
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        listening.listen()
        listening.settimeout(0.1)

        def serve() -> None:
            kept = []
            while not stop.is_set():
                try:
                    one, _ = listening.accept()
                except TimeoutError:
                    continue
                with contextlib.suppress(OSError):
                    for at in range(0, len(reply), 1 if slowly else max(len(reply), 1)):
                        one.send(reply[at : at + 1] if slowly else reply)
                        if slowly and stop.wait(0.05):
                            break
                if close:
                    one.recv(65536)
                    one.close()
                kept.append(one)
            for one in kept:
                one.close()
            listening.close()

        threads.append(threading.Thread(target=serve, daemon=True))
        threads[-1].start()
        return path

    yield start
    stop.set()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"", CutAnswer),
        (b"# pxname,svname,\npool,o", CutAnswer),
        (b"# pxname,svname,\npool,one,\n", CutAnswer),
        (b"# pxname,svname,\npool,one,two,\n\n", CutAnswer),
        (b"\0\xff\xfe garbage", CutAnswer),
        (b"Permission denied\n\n", Refused),
        (b"HTTP/1.0 400 Bad request\r\n\r\n", CutAnswer),
    ],
)
def test_wrong_answers_are_clear_errors(fake, reply, error):
    path = fake(reply)
    with pytest.raises(error) as caught:
        HAProxy(path).picture()
    assert path in str(caught.value)
    rows = HAProxyWatch([HAProxy(path)]).rows_now()
    assert len(rows) == 1 and rows[0][0] == path and rows[0][-1]


@pytest.mark.parametrize("slowly", [False, True])
def test_answer_that_never_ends_meets_the_deadline(fake, slowly):
    # Slowly it would take more than 40 s.
    path = fake(b"# pxname,svname,\npool,one,\n" * 30, close=False, slowly=slowly)
    started = time.monotonic()
    with pytest.raises(NoAnswer):
        HAProxy(path, 0.4).picture()
    assert 0.35 < time.monotonic() - started < 20


def test_order_without_an_answer_is_not_taken_for_done(fake):
    with pytest.raises(CutAnswer):
        HAProxy(fake(b"")).set_state("pool", "one", "drain")


def test_places_where_nobody_is(tmp_path):
    with pytest.raises(Unreachable, match="no such socket"):
        HAProxy(str(tmp_path / "none")).info()
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(Unreachable):
        HAProxy(str(file)).info()
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "left.sock"))
    left.close()
    with pytest.raises(Unreachable, match="left its socket file"):
        HAProxy(str(tmp_path / "left.sock")).info()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(Unreachable, match="refused"):
        HAProxy(f"127.0.0.1:{port}").info()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user to be refused as")
def test_socket_without_permission_says_where_to_look(tmp_path):
    directory = Path("/tmp") / f"ha-permission-{os.getpid()}"
    directory.mkdir(mode=0o755)
    with socket.socket(socket.AF_UNIX) as listening:
        path = directory / "admin.sock"
        listening.bind(str(path))
        path.chmod(0o600)
        listening.listen()
        try:
            os.seteuid(65534)
            with pytest.raises(Unreachable, match="permission denied: see `mode`"):
                HAProxy(str(path)).info()
        finally:
            os.seteuid(0)
            path.unlink()
            directory.rmdir()


def test_command_that_haproxy_would_never_answer_is_not_sent(tmp_path):
    with pytest.raises(HAProxyError, match="longer than"):
        ask(Endpoint.parse(str(tmp_path / "none")), "x" * MAX_COMMAND)


# The command line


def run(capsys, *argv: str) -> tuple[int, str, str]:
    code = main(argv)
    out, err = capsys.readouterr()
    return code, out, err


def test_status_as_table_and_json(lb, capsys):
    code, out, _ = run(capsys, "status", "-s", lb.socket)
    assert code == 0
    assert out.splitlines()[0].split()[:3] == ["haproxy", "proxy", "name"]
    assert "no check" in out
    code, out, _ = run(capsys, "status", "-s", lb.socket, "--json")
    listed = json.loads(out)
    assert [one["name"] for one in listed] == ["FRONTEND", "one", "two", "BACKEND"]
    assert listed[1]["usable"] == 1


def test_status_of_one_dead_and_one_living_haproxy(lb, capsys, tmp_path):
    lost = str(tmp_path / "lost.sock")
    code, out, _ = run(capsys, "status", "-s", lb.socket, "-s", lost)
    assert code == 0 and "no such socket" in out and "BACKEND" in out
    code, out, _ = run(capsys, "status", "-s", lost)
    assert code == 1


def test_drain_waits_for_sessions_and_cuts_them_when_told(lb, capsys, front):
    code, out, _ = run(capsys, "drain", "pool/two", "-s", lb.socket)
    assert (code, "DRAIN" in out) == (0, True)
    with socket.create_connection(("127.0.0.1", front)) as client:
        assert wait_for(lambda: lb.row("pool", "one").sessions == 1)
        code, out, err = run(
            capsys, "drain", "pool/one", "-s", lb.socket, "--wait", "0.3"
        )
        assert code == 1 and "last usable server" in err
        code, out, err = run(
            capsys, "drain", "pool/one", "-s", lb.socket, "--force", "--wait", "0.3"
        )
        assert code == 1 and "still has 1 sessions" in err
        code, out, _ = run(
            capsys,
            *("drain", "pool/one", "-s", lb.socket, "--wait", "0.2", "--cut"),
        )
        assert code == 0 and "1 sessions cut" in out
        client.settimeout(5)
        assert client.recv(1) == b""
    code, out, _ = run(capsys, "ready", "pool/one", "-s", lb.socket)
    assert code == 0 and "no check" in out
    code, out, _ = run(capsys, "weight", "pool/two", "0%", "-s", lb.socket)
    assert code == 0 and "no new sessions at weight 0" in out


def test_wrong_calls(lb, capsys):
    assert run(capsys, "drain", "pool", "-s", lb.socket)[0] == 1
    code, _, err = run(capsys, "drain", "pool/none", "-s", lb.socket)
    assert code == 1 and "there is pool/one pool/two" in err
    assert run(capsys)[0] == 2
    assert run(capsys, "frobnicate")[0] == 2
    assert run(capsys, "status", "--timeout", "0")[0] == 2
    assert run(capsys, "--help")[0] == 0
