"""The six CVEs of PgBouncer 1.25.2 that 1.26 closed, each test with its number.

CVE-2026-6669, of the server's side, stands in test_security_server.py.

What 1.26.1 answers word for word is played by tests/compat; here is what none of these
messages may do: end the process, stop it, fill it, or let somebody in.
"""

import struct
from collections.abc import Callable
from typing import Any

import pytest

from tests.regressions.attacks import is_served, packet, startup
from tests.support.wire import FakeClient, error

CLOSED = "<connection closed>"
# All that one such client may make us hold, several times over (bytes).
GROWN = 16 << 20
# Lengths that a signed or an overflowing sum turns into something else.
LENGTHS = [2**31 - 2, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 6, 2**32 - 2, 2**32 - 1]
# Who comes first, and where to.
FIRST = [
    *(("u_scram", "p0"), ("u_md5", "p0"), ("u_plain", "p0"), ("no_such_user", "p0")),
    *(("u_scram", "no_such_database"), ("no_such_user", "no_such_database")),
    *(("u_md5", "no_such_database"), ("admin", "pgbouncer"), ("stats", "pgbouncer")),
]
OPTIONS = [
    *("-c=", "-c =x", "-c =", "--=", "--=x", "--", "-c", "-c ", "-c  =x --=y"),
    *("-c work_mem=1 -c =x", "--=\\", "-c \\=", "-c\t=x", "=", "-c=x" * 30),
]


@pytest.fixture(scope="module")
def one(shared_pooler: Any) -> Any:
    """A pooler that lets lengths pass up to the last one that there is."""
    made = shared_pooler(
        {
            "auth_type": "hba",
            "auth_hba_file": "{dir}/hba.conf",
            "pool_mode": "transaction",
            "client_login_timeout": "2",
            "max_packet_size": 2**32 - 1,
            "ignore_startup_parameters": "extra_float_digits",
        },
        run=False,
    )
    (made.directory / "hba.conf").write_text(
        "host all u_trust 127.0.0.1/32 trust\n"
        "host all u_md5 127.0.0.1/32 md5\n"
        "host all u_plain 127.0.0.1/32 password\n"
        "host all all 127.0.0.1/32 scram-sha-256\n"
    )
    made.write_configuration()
    return made.run()


def begin(client: FakeClient, user: str, database: str = "p0") -> None:
    """Send the startup packet and read what is asked for."""
    client.send_bytes(startup(database, user))
    assert client.next(5)["type"].startswith("Authentication")


def begin_sasl(client: FakeClient, user: str, database: str = "p0") -> None:
    """Go on to the server's challenge."""
    begin(client, user, database)
    client.send_bytes(packet(b"p", b"SCRAM-SHA-256\0\0\0\0\x0cn,,n=,r=abcd"))
    assert client.next(5)["type"] == "AuthenticationSASLContinue"


@pytest.mark.parametrize("user", ["u_scram", "nobody_of_this_name"])
@pytest.mark.parametrize(
    "final",
    [b"", b"c=biws", b"c=biws,p=AAAA", b"p=AAAA", b"c=biws,,p=AAAA", b"r", b"c=,r=,p="],
)
def test_cve_2026_19888_final_message_without_a_nonce(
    one: Any, final: bytes, user: str
) -> None:
    """The process ended: what was not there was compared."""
    pid = one.pid
    with FakeClient(one.port) as client:
        begin_sasl(client, user)
        client.send_bytes(packet(b"p", final))
        got = client.until_ready()
    assert [m["type"] for m in got] == ["ErrorResponse", CLOSED]
    assert error(got)["M"] == "SASL authentication failed"
    is_served(one.port)
    assert one.pid == pid and one.is_running()


@pytest.mark.parametrize("kind", ["plain", "md5", "SASL", "startup"])
@pytest.mark.parametrize("length", [70_000, 1 << 20, 1 << 30, 1_500_000_000])
def test_cve_2026_6668_long_message_before_the_login(
    one: Any, length: int, kind: str
) -> None:
    """A sum of lengths overflowed; what came before it was kept in memory."""
    before = one.memory()
    with FakeClient(one.port) as client:
        if kind == "startup":
            client.send_bytes(struct.pack("!II", length, 0x30000))
        elif kind == "SASL":
            begin_sasl(client, "u_scram")
            client.send_bytes(b"p" + struct.pack("!I", length))
        else:
            begin(client, f"u_{kind}")
            client.send_bytes(b"p" + struct.pack("!I", length))
        try:
            for _ in range(min(length, 32 << 20) // 65536):
                client.send_bytes(b"x" * 65536)
        except OSError:
            pass  # closed long ago
        assert one.memory() - before < GROWN
        is_served(one.port)
        try:
            assert client.until_ready()[-1]["type"] == CLOSED
        except OSError:
            pass
    assert one.is_running()


@pytest.mark.parametrize("second", ["u_scram", "u_trust", "admin", "nobody", "u_md5"])
@pytest.mark.parametrize(("first", "database"), FIRST)
def test_cve_2026_107350_second_startup_packet(
    one: Any, first: str, database: str, second: str
) -> None:
    """What the first user had proved counted for the second one."""
    target = "pgbouncer" if second == "admin" else "p0"
    with FakeClient(one.port) as client:
        begin(client, first, database)
        client.send_bytes(startup(target, second))
        got = client.until_ready()
    assert "AuthenticationOk" not in {m["type"] for m in got}
    assert got[-1]["type"] == CLOSED
    assert error(got)["M"] == "client re-sent startup pkt"


@pytest.mark.parametrize(
    ("first", "database"), [one for one in FIRST if one[0] not in ("u_md5", "u_plain")]
)
def test_cve_2026_107350_second_startup_packet_in_an_exchange(
    one: Any, first: str, database: str
) -> None:
    """And the rest of the exchange behind it."""
    with FakeClient(one.port) as client:
        begin_sasl(client, first, database)
        rest = packet(b"p", b"c=biws,r=abcd,p=AAAA")
        client.send_bytes(startup("p0", "u_trust") + rest)
        got = client.until_ready()
    assert "AuthenticationOk" not in {m["type"] for m in got}
    assert error(got)["M"] == "client re-sent startup pkt"


@pytest.mark.parametrize("options", OPTIONS)
def test_cve_2026_107349_options_with_an_empty_name(one: Any, options: str) -> None:
    """The process never came back from reading them."""
    before = one.cpu()
    with FakeClient(one.port) as client:
        client.send_bytes(startup("p0", "u_trust", options=options))
        got = client.until_ready()
    assert [m["type"] for m in got] == ["ErrorResponse", CLOSED]
    assert error(got)["M"].startswith("unsupported ")
    is_served(one.port)
    assert one.cpu() - before < 1


BEGUN: dict[str, Callable[[FakeClient], None]] = {
    "nothing": lambda client: None,
    "md5": lambda client: begin(client, "u_md5"),
    "plain": lambda client: begin(client, "u_plain"),
    "SASL": lambda client: begin(client, "u_scram"),
    "challenge": lambda client: begin_sasl(client, "u_scram"),
}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("state", BEGUN)
def test_cve_2026_107348_lengths_near_the_ends_of_an_integer(
    one: Any, state: str, length: int
) -> None:
    """The process never came back; max_packet_size must have been raised for it."""
    pid, before = one.pid, one.cpu()
    with FakeClient(one.port) as client:
        BEGUN[state](client)
        code = b"" if state == "nothing" else b"p"
        client.send_bytes(code + struct.pack("!I", length) + b"x" * 100)
        is_served(one.port)
    assert one.cpu() - before < 1
    assert one.pid == pid and one.is_running()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("code", [b"Q", b"P", b"B", b"D", b"E", b"C", b"d", b"F", b"S"])
def test_cve_2026_107348_lengths_behind_the_login(
    one: Any, code: bytes, length: int
) -> None:
    """Likewise for who has logged in."""
    pid, before = one.pid, one.cpu()
    with FakeClient(one.port) as client:
        client.login("p0", "u_trust")
        client.send_bytes(code + struct.pack("!I", length) + b"x\0" * 50)
        is_served(one.port)
    assert one.cpu() - before < 1
    assert one.pid == pid and one.is_running()
