"""Section 2: bytes that are odd, cut, too long, or simply wrong."""

import contextlib
import random
import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.regressions.attacks import (
    GSSENC_REQUEST,
    SSL_REQUEST,
    exchange,
    is_served,
    packet,
    refusal,
    startup,
)
from tests.replay.pooler import wait_for
from tests.support.ground import Ground
from tests.support.wire import FakeClient, FakeServer, ServerTalk, error, query, rows

MEGABYTE = 1 << 20
LIMIT = 200_000  # max_packet_size


@pytest.fixture(scope="module")
def one(shared_pooler: Any) -> Any:
    """A pooler in whose way most of these tests throw something."""
    return shared_pooler(
        {
            "pool_mode": "transaction",
            "client_login_timeout": "2",
            "max_packet_size": LIMIT,
            "ignore_startup_parameters": "extra_float_digits",
            "default_pool_size": 3,
        },
    )


# The startup packet


@pytest.mark.regression(21)
@pytest.mark.parametrize(
    "length", [0, 4, 7, 8, 9, 10_000, 10_001, 2**31 - 1, 2**31, 2**32 - 1]
)
def test_startup_packet_of_any_length_is_refused_before_it_is_kept(
    one: Any, length: int
) -> None:
    before = one.memory()
    body = struct.pack("!II", length, 0x30000) + b"x" * min(length, 20_000)
    with FakeClient(one.port, seconds=5) as client:
        with contextlib.suppress(OSError):
            client.send_bytes(body)
        got = client.until_ready()
        assert got[-1]["type"] == "<connection closed>"
        assert len(got) <= 2
    assert one.memory() - before < 2 * MEGABYTE
    is_served(one.port)


@pytest.mark.regression(22)
def test_startup_packet_in_pieces_at_every_offset(one: Any) -> None:
    whole = startup(application_name="pieces", extra_float_digits="1")
    for at in range(1, len(whole)):
        with FakeClient(one.port) as client:
            client.send_bytes(whole[:at])
            if at % 8 == 1:  # the others may be put together by the network
                time.sleep(0.002)
            client.send_bytes(whole[at:])
            assert client.until_ready()[-1]["type"] == "ReadyForQuery", at


@pytest.mark.regression(22)
@pytest.mark.parametrize("pieces", [1, 1000, 65_000])
def test_startup_packet_longer_than_pkt_buf(one: Any, pieces: int) -> None:
    step = max(pieces, 50)
    whole = startup(extra_float_digits="1" * 50_000)
    with FakeClient(one.port) as client:
        for start in range(0, len(whole), step):
            client.send_bytes(whole[start : start + step])
        assert client.until_ready()[-1]["type"] == "ReadyForQuery"


LONG = [995, 996, 1023, 1024, 1025, 2047, 2048, 4096, 16_384, 65_530]


@pytest.mark.regression(23)
def test_passwords_of_any_length_work_and_are_never_cut_into_a_match(
    pooler: Callable[..., Any],
) -> None:
    """Longer than the packet buffer; 1.25.2 cuts them, or drops the connection."""
    users = {f"long{n}": "p" * n for n in LONG}
    one = pooler(
        {"auth_type": "plain", "pool_mode": "transaction"},
        databases={"p0": "{pg} user=u_trust"},
        users=users,
    )
    for name, password in users.items():
        whole = packet(b"p", password.encode() + b"\0")
        for step in (len(whole), 1000):
            with FakeClient(one.port) as client:
                client.start([["database", "p0"], ["user", name]])
                assert client.next(5)["type"] == "AuthenticationCleartextPassword"
                for start in range(0, len(whole), step):
                    client.send_bytes(whole[start : start + step])
                assert client.until_ready()[-1]["type"] == "ReadyForQuery", name
        for wrong in (password[:-1], password[:994], password[:1] + "q" + password[2:]):
            text = refusal(one.port, "p0", name, wrong)
            assert text == "password authentication failed"
    with FakeClient(one.port) as client:
        client.start([["database", "p0"], ["user", "long65530"]])
        client.next(5)
        with contextlib.suppress(OSError):
            client.send_bytes(packet(b"p", b"p" * 100_000 + b"\0"))
            assert error(client.until_ready())


# What a server may say while it logs us in


NOTICE = packet(b"N", b"SNOTICE\0C00000\0Mhear me\0\0")
STATUS = packet(b"S", b"DateStyle\0ISO, MDY\0")
WELCOME = [
    packet(b"R", b"\0\0\0\0"),
    packet(b"S", b"server_version\x0015.0\0"),
    packet(b"S", b"odd\0" + b"v" * 9000 + b"\0"),
    packet(b"S", b"client_encoding\0UTF8\0"),
    packet(b"K", b"12345678"),
    packet(b"Z", b"I"),
]


def logins(
    pooler: Any, free_port: Callable[[], int], welcomes: list[list[bytes]]
) -> None:
    """Each welcome, sent in its pieces, must make a login that serves a client."""

    def script(talk: ServerTalk) -> None:
        message = talk.read()
        if message is None:
            return
        for piece in welcomes[int(dict(message["params"])["database"][1:])]:
            talk.send_bytes(piece)
            time.sleep(0.001)
        while message := talk.read():
            if message["type"] == "Query":
                talk.answer(message["sql"])

    port = free_port()
    server = FakeServer(port, script)
    names = [f"d{number}" for number in range(len(welcomes))]
    try:
        one = pooler(
            {
                "pool_mode": "transaction",
                "server_tls_sslmode": "disable",
                "query_wait_timeout": 5,
            },
            server_port=port,
            databases=dict.fromkeys(names, "{pg}"),
        )
        for name in names:
            with FakeClient(one.port) as client:
                got = client.login(name, "u_trust")
                assert got[-1]["type"] == "ReadyForQuery", error(got)
                assert rows(client.ask(name)) == [[name]]
        assert not one.log_matches("^(ERROR|WARNING) ")
    finally:
        server.close()


@pytest.mark.regression(24)
def test_login_messages_of_a_server_in_pieces_at_any_offset(
    pooler: Any, free_port: Callable[[], int]
) -> None:
    """And longer than the packet buffer: 1.25.2 gives up on them."""
    whole = b"".join(WELCOME)
    offsets = [*range(1, 60), 4096, 5000, *range(len(whole) - 45, len(whole))]
    logins(pooler, free_port, [[whole[:at], whole[at:]] for at in offsets])


@pytest.mark.regression(25)
@pytest.mark.parametrize("extra", [NOTICE, STATUS, NOTICE + STATUS])
def test_notices_and_parameters_at_every_point_of_a_servers_login(
    pooler: Any, free_port: Callable[[], int], extra: bytes
) -> None:
    welcomes = [
        [b"".join(WELCOME[:at]) + extra + b"".join(WELCOME[at:])]
        for at in range(len(WELCOME))
    ]
    logins(pooler, free_port, welcomes)


@pytest.mark.regression(24)
@pytest.mark.parametrize("outer", ["session", "transaction", "statement"])
def test_pooler_before_a_pooler(pooler: Any, outer: str) -> None:
    inner = pooler({"pool_mode": "transaction", "auth_type": "scram-sha-256"})
    one = pooler({"pool_mode": outer, "auth_type": "plain"}, server_port=inner.port)
    for _ in range(3):
        with FakeClient(one.port) as client:
            got = client.login("p0", "u_scram", "scrampass")
            assert got[-1]["type"] == "ReadyForQuery", error(got)
            assert rows(client.ask("select current_user")) == [["u_scram"]]


# Options and versions


OPTIONS = [
    ("-c TimeZone=UTC", True),
    ("-cTimeZone=UTC", True),
    ("--TimeZone=UTC", True),
    ("--timezone=UTC -c DateStyle=ISO,\\ DMY", True),
    ("--Time-Zone=UTC", False),
    ("-c geqo=off", False),
    ("-c", False),
    ("-c =x", False),
    ("--", False),
    ("TimeZone=UTC", False),
    ("-x", False),
    ("-c TimeZone=UTC\\", True),
    ("\\", False),
    (" ", False),
    ("", True),
]


@pytest.mark.regression(27)
@pytest.mark.parametrize("ignored", [False, True])
def test_options_of_any_form_are_taken_or_refused(pooler: Any, ignored: bool) -> None:
    more = ",options" if ignored else ""
    one = pooler(
        {
            "pool_mode": "transaction",
            "ignore_startup_parameters": "extra_float_digits" + more,
        }
    )
    for text, fine in OPTIONS:
        with FakeClient(one.port) as client:
            got = client.login("p0", "u_trust", options=text)
            is_in = got[-1]["type"] == "ReadyForQuery"
            # Ignoring `options` concerns settings that we do not know.
            unknown = text in ("-c geqo=off", "--Time-Zone=UTC", "-c =x")
            assert is_in == (fine or (ignored and unknown)), (text, error(got))
            if is_in and "\\" not in text and "imezone" not in text:
                assert rows(client.ask("select 1")) == [["1"]]


@pytest.mark.regression(28)
def test_newer_protocol_is_negotiated_once_even_for_who_comes_first(
    pooler: Any,
) -> None:
    """1.25.2 sends NegotiateProtocolVersion again while a client is queued."""
    versions = [("3.1", {}), ("3.2", {}), ("3.9999", {}), ("3.0", {"_pq_.x": "1"}),
                ("3.2", {"_pq_.x": "1", "_pq_.y": "2"})]  # fmt: skip
    one = pooler(
        {"auth_type": "md5", "auth_user": "postgres"},
        databases={f"d{n}": "{pg} dbname=p0" for n in range(len(versions))},
        users={},
    )
    for number, (version, options) in enumerate(versions):
        for _ in range(2):  # the first waits for auth_query and for a server
            with FakeClient(one.port) as client:
                client.start(
                    [["database", f"d{number}"], ["user", "u_md5"], *options.items()],
                    version,
                )
                got = [client.next(5), client.next(5)]
                assert got[0]["type"] == "NegotiateProtocolVersion", got
                assert got[0]["version"] == "3.0"
                assert got[0]["options"] == list(options)
                secret = {"md5": {"user": "u_md5", "password": "md5pass"}}
                client.send({"type": "PasswordMessage", "password": secret})
                got += client.until_ready()
                kinds = [m["type"] for m in got]
                assert kinds.count("NegotiateProtocolVersion") == 1
                assert kinds[-1] == "ReadyForQuery"


@pytest.fixture(scope="module")
def encrypted(shared_pooler: Any, lab: Ground) -> Any:
    if not lab.certificates:
        pytest.skip("needs openssl (apt-get install openssl)")
    return shared_pooler(
        {
            "pool_mode": "transaction",
            "client_tls_sslmode": "allow",
            "client_tls_key_file": "{certs}/bouncer.key",
            "client_tls_cert_file": "{certs}/bouncer.crt",
        }
    )


def tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@pytest.mark.regression(29)
def test_requests_before_the_startup_packet_in_any_order(
    one: Any, encrypted: Any
) -> None:
    for requests, port in (
        ((GSSENC_REQUEST, SSL_REQUEST), one.port),
        ((SSL_REQUEST, GSSENC_REQUEST), one.port),
        ((GSSENC_REQUEST,), encrypted.port),
    ):
        with FakeClient(port) as client:
            for request in requests:
                client.send_bytes(request)
                assert client.one_byte() == "N"
            assert client.login("p0", "u_trust")[-1]["type"] == "ReadyForQuery"
    with FakeClient(encrypted.port) as client:
        client.send_bytes(GSSENC_REQUEST)
        assert client.one_byte() == "N"
        client.send_bytes(SSL_REQUEST)
        assert client.one_byte() == "S"
        assert client.start_tls(tls())
        assert client.login("p0", "u_trust")[-1]["type"] == "ReadyForQuery"
        assert rows(client.ask("select 1")) == [["1"]]
    with FakeClient(encrypted.port) as client:  # SSLRequest inside TLS
        client.send_bytes(SSL_REQUEST)
        assert client.one_byte() == "S"
        assert client.start_tls(tls())
        client.send_bytes(SSL_REQUEST)
        assert client.until_ready()[-1]["type"] == "<connection closed>"
    with FakeClient(encrypted.port) as client:  # twice in clear
        client.send_bytes(SSL_REQUEST)
        assert client.one_byte() == "S"
        client.send_bytes(SSL_REQUEST)
        client.half_close()
        with contextlib.suppress(OSError):
            while client.sock.recv(4096):
                pass
    is_served(one.port)
    is_served(encrypted.port)


@pytest.mark.regression(29)
@pytest.mark.parametrize("size", [0, 1, 7, 9, 12, 32, 256])
def test_cancel_request_of_another_length_is_dropped(one: Any, size: int) -> None:
    with FakeClient(one.port) as client:
        client.login("p0", "u_trust")
        key = (bytes.fromhex(client.key_hex) * 32)[:size]
        body = struct.pack("!I", 80877102) + key
        assert exchange(one.port, struct.pack("!I", len(body) + 4) + body) == b""
        assert rows(client.ask("select 'still here'")) == [["still here"]]


# Cancel keys, probes


@pytest.mark.regression(30)
def test_cancel_keys_are_positive_and_nobody_elses(one: Any) -> None:
    with contextlib.ExitStack() as stack:
        keys = set()
        clients = [stack.enter_context(FakeClient(one.port)) for _ in range(60)]
        for client in clients:
            client.login("p0", "u_trust")
            assert client.key_hex[0] in "01234567"
            keys.add(client.key_hex)
        assert len(keys) == len(clients)
        gone = clients[0].key_hex
        clients[0].close(terminate=True)
        assert wait_for(
            lambda: len(one.console("SHOW CLIENTS")) == len(clients), 5
        )  # the console among them
        before = len(one.log_matches("failed cancel request"))
        chance = random.Random(1)
        tried = [gone, *(chance.randbytes(8).hex() for _ in range(100))]
        for key in tried:
            with FakeClient(one.port) as guess:
                guess.send({"type": "CancelRequest", "key_hex": key})
                assert guess.next(5)["type"] == "<connection closed>"
        one.wait_for_log("failed cancel request", before + len(tried))
        assert not one.log_matches("successfully sent cancel request")
        for client in clients[1:]:
            assert rows(client.ask("select 1")) == [["1"]]


@pytest.mark.regression(31)
def test_connections_without_a_byte_cost_no_line_and_no_slot(pooler: Any) -> None:
    one = pooler({"max_client_conn": 20})
    is_served(one.port)
    descriptors, lines = one.descriptors(), len(one.lines())
    for number in range(1000):
        with socket.create_connection(("127.0.0.1", one.port), timeout=5) as sock:
            if number % 3 == 0:
                linger = struct.pack("ii", 1, 0)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    assert wait_for(lambda: one.descriptors() <= descriptors, 5)
    told = one.lines()[lines:]
    assert len(told) < 10, told[:10]
    is_served(one.port)
    [lists] = [r for r in one.console("SHOW LISTS") if r["list"] == "login_clients"]
    assert lists["items"] == 0


# After the login


def too_long(code: bytes, length: int) -> bytes:
    return code + struct.pack("!I", length) + b"x" * 100


SENSELESS = {
    "unknown type": packet(b"~", b"body"),
    "type of a server": packet(b"Z", b"I"),
    "type above 127": packet(b"\xff", b""),
    "password": packet(b"p", b"x\0"),
    "length 0": too_long(b"Q", 0),
    "length 3": too_long(b"Q", 3),
    "negative length": too_long(b"Q", 2**31),
    "longest length": too_long(b"P", 2**32 - 1),
    "over max_packet_size": too_long(b"Q", LIMIT + 1),
    "CopyData over max_packet_size": too_long(b"d", LIMIT + 1),
    "query without its zero": packet(b"Q", b"select 1"),
    "query without anything": packet(b"Q", b""),
    "named Parse cut in its name": packet(b"P", b"name"),
    "named Parse cut in its text": packet(b"P", b"name\0select 1"),
    "named Parse without types": packet(b"P", b"name\0select 1\0"),
    "unnamed Parse cut": packet(b"P", b"\0select 1"),
    "Bind cut in its portal": packet(b"B", b"portal"),
    "Bind cut in its statement": packet(b"B", b"\0statement"),
    "Describe without anything": packet(b"D", b""),
    "Describe cut": packet(b"D", b"Sname"),
    "Describe of what": packet(b"D", b"Xname\0"),
    "Close cut": packet(b"C", b"Sname"),
    "Execute cut": packet(b"E", b"\0\0"),
    "FunctionCall cut": packet(b"F", b"\0\0"),
    "Sync with a body": packet(b"S", b"body"),
    "startup packet": startup(),
    "SSLRequest": SSL_REQUEST,
}


@pytest.mark.regression(26)
def test_senseless_message_ends_exactly_one_connection(one: Any, markers: Any) -> None:
    for end in (b"", packet(b"S")):
        with markers(one, count=2), FakeClient(one.port) as idle:
            idle.login("p0", "u_trust")
            for what, message in SENSELESS.items():
                with FakeClient(one.port, seconds=3) as client:
                    client.login("p0", "u_trust")
                    client.send_bytes(message + end)
                    # PostgreSQL refuses some of them with an error only.
                    client.half_close()
                    got = client.read_until("no such type", 1, 3)
                    assert got[-1]["type"] == "<connection closed>", what
                    assert not rows(got), what
                assert rows(idle.ask("select 'other'")) == [["other"]], what


@pytest.mark.regression(26)
def test_message_of_max_packet_size_passes_and_a_longer_one_ends_its_client(
    one: Any,
) -> None:
    for size, fine in ((LIMIT - 100, True), (LIMIT + 100, False)):
        with FakeClient(one.port) as client:
            client.login("p0", "u_trust")
            with contextlib.suppress(OSError):
                client.send_bytes(query(f"select length('{'x' * (size - 30)}')"))
            got = client.until_ready()
            assert (got[-1]["type"] == "ReadyForQuery") == fine
            assert bool(rows(got)) == fine


# At random


def mutated(chance: random.Random) -> bytes:
    """A dialogue with something wrong in it, or just noise."""
    whole = startup() + b"".join(
        (
            query("select 1"),
            packet(b"P", b"s\0select $1::text\0\0\0"),
            packet(b"B", b"\0s\0\0\0\0\1\0\0\0\1x\0\0"),
            packet(b"D", b"P\0"),
            packet(b"E", b"\0\0\0\0\0"),
            packet(b"S"),
            packet(b"C", b"Ss\0"),
            packet(b"H"),
            query("begin"),
            packet(b"S"),
        )
    )
    if chance.random() < 0.2:
        return chance.randbytes(chance.randint(1, 300))
    data = bytearray(whole)
    low = len(startup()) if chance.random() < 0.7 else 0
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(low, len(data))
        what = chance.random()
        if what < 0.4:
            data[at] = chance.randrange(256)
        elif what < 0.6:
            del data[at : at + chance.randint(1, 8)]
        elif what < 0.8:
            data[at:at] = chance.randbytes(chance.randint(1, 8))
        else:
            data[at:] = data[low : chance.randrange(low + 1, len(data) + 1)]
        low = min(low, len(data) - 1)
    return bytes(data)


def fuzz(pooler: Any, markers: Any, seconds: float, seed: int) -> int:
    """Throw mutated dialogues at a pooler while others verify their rows."""
    one = pooler(
        {
            "pool_mode": "transaction",
            "client_login_timeout": 1,
            "server_login_retry": "0.05",
            "default_pool_size": 4,
            "log_disconnections": 0,
            "log_connections": 0,
            "log_pooler_errors": 0,
        }
    )
    chance, thrown = random.Random(seed), 0
    with markers(one, 3, seed):
        memory, end = 0, time.monotonic() + seconds
        while time.monotonic() < end or thrown <= 100:
            with (
                contextlib.suppress(OSError),
                FakeClient(one.port, seconds=2) as client,
            ):
                client.send_bytes(mutated(chance))
                client.half_close()
                client.sock.settimeout(0.02)
                while client.sock.recv(65536):
                    pass
            thrown += 1
            if thrown == 100:
                memory = one.memory()
        assert one.memory() - memory < 16 * MEGABYTE
    return thrown


@pytest.mark.regression(32)
def test_mutated_dialogues_hurt_nobody(pooler: Any, markers: Any) -> None:
    assert fuzz(pooler, markers, 3, 1) > 100


@pytest.mark.slow
@pytest.mark.regression(32)
@pytest.mark.parametrize("seed", range(2, 8))
def test_mutated_dialogues_hurt_nobody_for_long(
    pooler: Any, markers: Any, seed: int
) -> None:
    assert fuzz(pooler, markers, 600, seed) > 100
