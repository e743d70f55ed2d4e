"""What somebody can make the pooler keep, before a login and on the console.

Bytes held and work done are asserted, not time: attackers are stopped when the kernel
takes no more of what they send.
"""

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.regressions.attacks import SSL_REQUEST, is_served, packet, startup
from tests.replay.pooler import wait_for
from tests.support.wire import FakeClient, FakeServer, ServerTalk

MB = 1 << 20
# A million iterations: about half a second in the thread for each password.
SLOW_SECRET = (
    "SCRAM-SHA-256$1000000:" + "A" * 22 + "==$" + "B" * 43 + "=:" + "C" * 43 + "="
)
QUICK = {
    "pool_mode": "transaction",
    "server_login_retry": "0.05",
    "server_tls_sslmode": "disable",
}


class Flood:
    """A connection on which as much is sent as the pooler and the kernel take."""

    def __init__(self, port: int, *first: bytes) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        # Small buffers: what is taken beyond them is in the pooler.
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        for data in first:
            self.sock.sendall(data)
        self.sock.setblocking(False)
        self.sent = 0

    def push(self, data: bytes, most: int) -> bool:
        """Send *data* again and again; False when nothing is taken now."""
        moved = False
        while self.sent < most:
            try:
                self.sent += self.sock.send(data)
                moved = True
            except BlockingIOError:
                return moved
            except ConnectionError:
                return False
        return False


@contextmanager
def floods(count: int, port: int, *first: bytes) -> Iterator[list[Flood]]:
    with ExitStack() as stack:
        made = [Flood(port, *first) for _ in range(count)]
        for one in made:
            stack.callback(one.sock.close)
        yield made


def push_all(made: list[Flood], data: bytes, most: int) -> None:
    """Push until the kernel has taken nothing for a while, or *most* is sent."""
    quiet = 0
    while quiet < 20:
        moved = [one.push(data, most) for one in made]
        quiet = 0 if any(moved) else quiet + 1
        time.sleep(0.01)


def peak(one: Any) -> int:
    """The most resident memory that it has ever had, in bytes."""
    return 1024 * int(one._status("VmHWM").split()[0])


FIRST: dict[str, Callable[[int], list[bytes]]] = {
    "keys are derived": lambda number: [
        startup("p0", "slow"),
        packet(b"p", b"wrong %d\0" % number),
    ],
    "welcome": lambda number: [startup("late", "u_trust"), packet(b"p", b"t\0")],
    "startup": lambda number: [
        struct.pack("!II", 65535, 0x30000) + b"user\0" + b"x" * 65000
    ],
    "password": lambda number: [
        startup("p0", "slow"),
        b"p" + struct.pack("!I", 65000) + b"x" * 64000,
    ],
}


@pytest.mark.parametrize("kind", FIRST)
def test_nobody_who_has_not_logged_in_makes_us_keep_more_than_a_packet(
    pooler: Callable[..., Any], lab: Any, kind: str
) -> None:
    """While keys were derived, or PAM or LDAP asked, 10 clients sent us 1 GB."""
    count, most = 40, 3 * MB
    one = pooler(
        {**QUICK, "auth_type": "plain", "query_wait_timeout": 60},
        databases={"late": f"host=127.0.0.1 port={lab.free_port()}", "p0": "{pg}"},
        users={"u_trust": "t", "slow": SLOW_SECRET, "admin": "a"},
    )
    before = one.memory()
    with ExitStack() as stack:
        made = []
        for number in range(count):
            made.append(Flood(one.port, *FIRST[kind](number)))
            stack.callback(made[-1].sock.close)
        if kind in ("keys are derived", "welcome"):
            push_all(made, packet(b"p", b"x" * 60000), most)
        # 100 kB each; what the process takes besides for so many is not theirs.
        assert peak(one) - before < count * 100_000 + 8 * MB


def test_client_that_never_reads_is_answered_up_to_a_mark(
    pooler: Callable[..., Any],
) -> None:
    """A stats user pipelined SHOW without reading: 2.8 GB, and 6 s for everybody."""
    one = pooler(QUICK)
    with FakeClient(one.port) as other, floods(2, one.port) as made:
        other.login("p0", "u_trust")
        other.ask("select 1")
        log_in_to_the_console(made)
        before = one.memory()
        push_all(made, packet(b"Q", b"SHOW CONFIG\0") * 100, MB)
        other.ask("select 2")
        assert peak(one) - before < 16 * MB


def log_in_to_the_console(made: list[Flood]) -> None:
    for flood in made:
        flood.sock.setblocking(True)
        flood.sock.sendall(startup("pgbouncer", "admin"))
        assert flood.sock.recv(65536)
        flood.sock.setblocking(False)


def test_console_flood_leaves_turns_to_others(pooler: Callable[..., Any]) -> None:
    """Flush without end on the console: everybody else waited 200 ms each time."""
    one = pooler(QUICK)
    with floods(4, one.port) as made, FakeClient(one.port) as other:
        other.login("p0", "u_trust")
        log_in_to_the_console(made)
        flush = packet(b"H") * 10_000
        sent = 0
        for number in range(200):
            for flood in made:
                flood.push(flush, flood.sent + 200_000)
            other.ask(f"select {number}")
            sent = sum(flood.sent for flood in made)
        # They were read, too, but a few messages in each round.
        assert sent > 0
        assert one.is_running()


# A connect that fails at once


@pytest.mark.parametrize(
    "where", ["host={dir}/nowhere", "host=127.0.0.1 port=99999", "host=no-such.invalid"]
)
def test_connect_that_fails_at_once_with_no_pause_holds_nobody_up(
    pooler: Callable[..., Any], where: str
) -> None:
    """`server_login_retry = 0`: the loop tried again for ever; no signal was heard."""
    one = pooler(
        {**QUICK, "server_login_retry": 0, "query_wait_timeout": 60},
        databases={"p0": "{pg} dbname=p0", "gone": where + " dbname=p0"},
    )
    with FakeClient(one.port) as waiting, FakeClient(one.port) as other:
        other.login("p0", "u_trust")
        other.ask("select 1")
        waiting.send_bytes(startup("gone", "u_trust"))
        one.wait_for_log("gone/u_trust")
        busy = one.cpu()
        for number in range(300):
            other.ask(f"select {number}")
            if number % 100 == 0:
                time.sleep(0.3)
        assert one.cpu() - busy < 0.6
        one.console("SHOW POOLS")
    one.interrupt("SIGHUP")
    one.wait_for_log("SIGHUP|reload", seconds=10)


# Hostile servers


def endless(*messages: bytes) -> Callable[[ServerTalk], None]:
    """A script: take a login, then send the last of *messages* until we are cut off."""

    def script(talk: ServerTalk) -> None:
        talk.connection.sock.recv(65536)
        with contextlib.suppress(OSError):
            for message in messages[:-1]:
                talk.send_bytes(message)
            talk.connection.sock.settimeout(20)
            block = messages[-1] * max(1, 200_000 // len(messages[-1]))
            while True:
                talk.send_bytes(block)

    return script


AUTH_OK = packet(b"R", b"\0\0\0\0")
FLOODS = {
    "parameters": endless(AUTH_OK, packet(b"S", b"name\0value\0")),
    "large parameters": endless(
        AUTH_OK, packet(b"S", b"name\0" + b"v" * 60000 + b"\0")
    ),
    "notices": endless(AUTH_OK, packet(b"N", b"SNOTICE\0Mhm\0\0")),
    "keys": endless(AUTH_OK, packet(b"K", b"12345678")),
    "yes": endless(AUTH_OK),
    "passwords": endless(packet(b"R", b"\0\0\0\3")),
    "fields": endless(packet(b"E", b"Mx\0" * 300_000 + b"\0")),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_login_of_a_server_that_sends_without_end_is_ended(
    pooler: Callable[..., Any], lab: Any, kind: str
) -> None:
    """Parameters without end: 2.2 GB in 12 s, until server_connect_timeout."""
    port = lab.free_port()
    server = FakeServer(port, FLOODS[kind])
    one = pooler(
        {
            **QUICK,
            "server_connect_timeout": 60,
            "query_wait_timeout": 60,
            "server_login_retry": 5,
        },
        databases={"p0": "{pg} dbname=p0", "bad": f"host=127.0.0.1 port={port}"},
    )
    try:
        with FakeClient(one.port) as waiting, FakeClient(one.port) as other:
            other.login("p0", "u_trust")
            other.ask("select 1")
            before = one.memory()
            waiting.send_bytes(startup("bad", "u_trust"))
            one.wait_for_log(r"bad/u_trust.*closing because|server login failed")
            other.ask("select 2")
            assert peak(one) - before < 16 * MB
    finally:
        server.close()


def test_server_that_floods_while_keys_are_derived_is_not_read(
    pooler: Callable[..., Any], lab: Any
) -> None:
    """SCRAM with a million iterations, then a flood: 35 MB became 2.3 GB in 12 s."""
    port, sent = lab.free_port(), [0]

    def script(talk: ServerTalk) -> None:
        sock = talk.connection.sock
        sock.recv(65536)
        talk.send_bytes(packet(b"R", b"\0\0\0\x0aSCRAM-SHA-256\0\0"))
        first = sock.recv(65536)
        nonce = first.partition(b"r=")[2]
        talk.send_bytes(
            packet(b"R", b"\0\0\0\x0br=" + nonce + b"xyz,s=QUFBQUFBQUE=,i=1000000")
        )
        sock.setblocking(False)
        notice = packet(b"N", b"SNOTICE\0M" + b"x" * 50_000 + b"\0\0")
        began = time.monotonic()
        while time.monotonic() - began < 0.4:
            try:
                sent[0] += sock.send(notice)
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:
                return

    server = FakeServer(port, script)
    one = pooler(
        {**QUICK, "query_wait_timeout": 60, "server_login_retry": 60},
        databases={"bad": f"host=127.0.0.1 port={port} user=u password=secret"},
    )
    try:
        before = one.memory()
        with FakeClient(one.port) as waiting:
            waiting.send_bytes(startup("bad", "u_trust"))
            assert wait_for(lambda: sent[0] > 0, 10)
            one.wait_for_log("bad/u@.*closing because", seconds=20)
            assert peak(one) - before < 16 * MB
    finally:
        server.close()


def test_tls_requests_and_handshakes_without_end_are_bounded(
    pooler: Callable[..., Any],
) -> None:
    """Answers to SSLRequest that nobody reads; a ClientHello that never ends."""
    one = pooler(
        {
            **QUICK,
            "client_tls_sslmode": "allow",
            "client_tls_key_file": "{certs}/bouncer.key",
            "client_tls_cert_file": "{certs}/bouncer.crt",
        }
    )
    before = one.memory()
    # A handshake message of 60 kB announced, in records of 16 kB.
    hello = b"\x01\x01\xff\xff" + b"x" * 16000
    record = b"\x16\x03\x01" + struct.pack("!H", len(hello)) + hello
    with floods(20, one.port, SSL_REQUEST) as made:
        push_all(made, record, 4 * MB)
        assert peak(one) - before < 20 * 120_000 + 8 * MB
    is_served(one.port)
