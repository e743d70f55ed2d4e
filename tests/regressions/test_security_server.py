"""Section 1, the other side: what a hostile or broken server may send us.

It can be somebody between us and PostgreSQL, or a PostgreSQL that somebody owns.
"""

import base64
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.regressions.attacks import SSL_REQUEST, packet, read_exactly
from tests.support.wire import FakeClient, FakeServer, ServerTalk, error, rows

QUICK = {"server_login_retry": "0.05", "query_wait_timeout": "0.4"}


def man_in_the_middle(answer: bytes) -> Callable[[ServerTalk], None]:
    def script(talk: ServerTalk) -> None:
        assert read_exactly(talk, 8) == SSL_REQUEST
        talk.send_bytes(answer)
        while talk.connection.sock.recv(65536):
            pass

    return script


WELCOME = packet(b"R", b"\0\0\0\0") + packet(b"K", b"12345678") + packet(b"Z", b"I")


FORGED = b"SFATAL\0CXX000\0Mforged"
IN_THE_MIDDLE = {
    "yes and more": b"S" + WELCOME,
    "no and more": b"N" + WELCOME,
    "short error": packet(b"E", FORGED + b"\0\0"),
    "long error": packet(b"E", FORGED + b"!" * 100_000 + b"\0\0"),
}


@pytest.fixture(scope="module", params=["prefer", "require"])
def met(
    request: pytest.FixtureRequest, shared_pooler: Any, lab: Any
) -> Iterator[tuple[Any, dict[str, str]]]:
    """A pooler to whose SSLRequest somebody in the middle answers, a case a database.

    With what its clients were told in the end.
    """
    ports = {case: lab.free_port() for case in IN_THE_MIDDLE}
    servers = [
        FakeServer(port, man_in_the_middle(IN_THE_MIDDLE[case]))
        for case, port in ports.items()
    ]
    one = shared_pooler(
        {"server_tls_sslmode": request.param, **QUICK},
        databases={
            case.replace(" ", "_"): f"host=127.0.0.1 port={port}"
            for case, port in ports.items()
        },
    )
    yield one, told_all(one, [case.replace(" ", "_") for case in ports])
    assert not any(c.messages for server in servers for c in server.connections)
    for server in servers:
        server.close()


def told_all(one: Any, databases: list[str]) -> dict[str, Any]:
    """The last message of a login to each database, all at once, and the error."""
    with ExitStack() as stack:
        clients = {}
        for name in databases:
            clients[name] = client = stack.enter_context(FakeClient(one.port))
            client.start([["database", name], ["user", "u_trust"]])
        return {name: client.until_ready() for name, client in clients.items()}


@pytest.mark.regression(5)
def test_cve_2021_43767_and_23222_clear_bytes_behind_the_answer_to_ssl_request(
    met: tuple[Any, dict[str, Any]],
) -> None:
    one, told = met
    for case in ("yes_and_more", "no_and_more"):
        assert error(told[case])["M"] == "query_wait_timeout"
        assert told[case][-1]["type"] == "<connection closed>"
    one.wait_for_log("yes_and_more.*unencrypted data after SSL response")
    one.wait_for_log("no_and_more.*(unencrypted data|server refused SSL)")


@pytest.mark.regression(6)
def test_cve_2024_10977_error_instead_of_an_answer_to_ssl_request(
    met: tuple[Any, dict[str, Any]],
) -> None:
    """Its text went to the client as if a server had been authenticated."""
    one, told = met
    for case in ("short_error", "long_error"):
        assert error(told[case])["M"] == "query_wait_timeout"
    assert "forged" not in one.text()


# SCRAM


def scram_server(
    talk: ServerTalk,
    first: Callable[[str], bytes],
    last: bytes,
    on_proof: Callable[[], None] = lambda: None,
) -> None:
    """Ask for SCRAM, answer with *first* of the client's nonce, then with *last*.

    *on_proof* is called when the client has answered *first*.
    """
    talk.splitter.asked = "AuthenticationSASL"
    talk.send({"type": "AuthenticationSASL", "mechanisms": ["SCRAM-SHA-256"]})
    message = talk.read()
    if message is None:
        return
    nonce = message["data"].partition("r=")[2]
    talk.splitter.asked = "AuthenticationSASLContinue"
    talk.send_bytes(packet(b"R", struct.pack("!I", 11) + first(nonce)))
    if talk.read() is None:
        return
    on_proof()
    talk.send_bytes(packet(b"R", struct.pack("!I", 12) + last) + WELCOME)
    while talk.read():
        pass


SALT = base64.b64encode(b"salt" * 4)
LONG = base64.b64encode(b"x" * 7500)
GOOD = b"r=%b,s=" + SALT + b",i=4096"
# What the server says first; its last word.
BAD = {
    "nonce of 10 kB": (b"r=%b" + b"n" * 10_000 + b",s=" + SALT + b",i=1", b"v="),
    "salt of 10 kB": (b"r=%bx,s=" + LONG + b",i=1", b"v="),
    "no nonce": (b"s=" + SALT + b",i=4096", b""),
    "no salt": (b"r=%bx,i=4096", b""),
    "no count": (b"r=%bx,s=" + SALT, b""),
    "another nonce": (b"r=other,s=" + SALT + b",i=4096", b""),
    "nonce cut": (b"r=x%b,s=" + SALT + b",i=4096", b""),
    "salt is garbage": (b"r=%bx,s=!!!,i=4096", b""),
    "salt is empty": (b"r=%bx,s=,i=4096", b""),
    "count is garbage": (b"r=%bx,s=" + SALT + b",i=4x", b""),
    "count is negative": (b"r=%bx,s=" + SALT + b",i=-1", b""),
    "count of 2^31": (b"r=%bx,s=" + SALT + b",i=2147483648", b""),
    "empty": (b"", b""),
    "zero bytes": (b"\0" * 100, b""),
    "empty signature": (GOOD, b"v="),
    "garbage signature": (GOOD, b"v=!!!!"),
    "wrong signature": (GOOD, b"v=" + base64.b64encode(b"s" * 32)),
    "no signature": (GOOD, b""),
    "error of the server": (GOOD, b"e=other-error"),
}


@contextmanager
def between(
    pooler: Any, free_port: Callable[[], int], script: Any, names: list[str]
) -> Iterator[Any]:
    """A pooler before a server that runs *script*, with databases of these *names*."""
    port = free_port()
    server = FakeServer(port, script)
    databases = dict.fromkeys(names, "{pg} user=u_plain password=plainpass")
    try:
        settings = {**QUICK, "server_tls_sslmode": "disable"}
        yield pooler(settings, server_port=port, databases=databases)
    finally:
        server.close()


def scram_of(
    cases: dict[str, tuple[bytes, bytes]], proofs: list[str] | None = None
) -> Callable[[ServerTalk], None]:
    """A script: the case is the number in the database's name.

    *proofs* gets the names of the databases for which the client sent a proof.
    """
    numbered = list(cases.values())
    heard = [] if proofs is None else proofs

    def script(talk: ServerTalk) -> None:
        message = talk.read()
        if message is None or message["type"] != "StartupMessage":
            return
        name = dict(message["params"])["database"]
        first, last = numbered[int(name[1:])]

        def challenge(nonce: str) -> bytes:
            return first.replace(b"%b", nonce.encode())

        scram_server(talk, challenge, last, lambda: heard.append(name))

    return script


@pytest.mark.regression(10)
def test_cve_2026_6665_server_that_does_scram_wrong_is_not_logged_in_to(
    pooler: Any, free_port: Callable[[], int]
) -> None:
    """Long nonces and salts overran buffers."""
    names = [f"d{number}" for number in range(len(BAD))]
    with between(pooler, free_port, scram_of(BAD), names) as one:
        told = told_all(one, names)
        for name, case in zip(names, BAD, strict=True):
            assert told[name][-1]["type"] == "<connection closed>", case
            assert error(told[name])["S"] == "FATAL", case
            one.wait_for_log(rf"^ERROR S-\S* {name}/\S+ \w+")


@pytest.mark.regression(16)
def test_cve_2026_6669_and_ghsa_98qh_xjc8_98pq_count_of_iterations_has_a_limit(
    pooler: Any, free_port: Callable[[], int]
) -> None:
    """A server could keep the pooler busy for as long as it liked."""
    counts = (0, 1_000_001, 10_000_000, 99_999_999, 2**31 - 1, 2**31, 2**32 + 1, 10**30)
    cases = {
        str(count): (b"r=%bx,s=" + SALT + b",i=%d" % count, b"v=") for count in counts
    }
    names = [f"d{number}" for number in range(len(cases))]
    proofs: list[str] = []
    with between(pooler, free_port, scram_of(cases, proofs), names) as one:
        for name, got in told_all(one, names).items():
            told = error(got)
            assert (told["S"], told["M"]) == ("FATAL", "query_wait_timeout")
            one.wait_for_log(f"^ERROR .*{name}/.*iteration")
            one.wait_for_log(f"^LOG .*{name}/.*failed to answer authreq")
        assert proofs == []  # nothing was computed
        assert one.is_running()


@pytest.mark.regression(16)
def test_ghsa_98qh_xjc8_98pq_others_are_served_while_keys_are_derived(
    pooler: Any, free_port: Callable[[], int], postgres: Any
) -> None:
    """While a key was derived the loop stood still."""
    begun: list[float] = []
    derived: list[float] = []  # how long each took

    def challenge(nonce: str) -> bytes:
        salt = base64.b64encode(b"salt %11d" % len(begun)).decode()
        begun.append(time.monotonic())
        return f"r={nonce}x,s={salt},i=900000".encode()

    def script(talk: ServerTalk) -> None:
        talk.read()
        scram_server(
            talk,
            challenge,
            b"v=",
            lambda: derived.append(time.monotonic() - begun[-1]),
        )

    port = free_port()
    server = FakeServer(port, script)
    try:
        one = pooler(
            {**QUICK, "query_wait_timeout": 50, "server_tls_sslmode": "disable"},
            databases={
                "p0": "{pg}",
                "slow": f"host=127.0.0.1 port={port} user=u_plain password=plainpass",
            },
        )
        shares = []  # the longest wait for an answer, in parts of a derivation
        with FakeClient(one.port) as client, FakeClient(one.port) as waiting:
            client.login("p0", "u_trust")
            client.ask("select 1")
            waiting.start([["database", "slow"], ["user", "u_trust"]])
            # The login fails, and the next one begins: five derivations at most.
            while len(shares) < 5 and min(shares, default=1) > 0.5:
                longest = 0.0
                while len(derived) == len(shares):
                    began = time.monotonic()
                    assert rows(client.ask("select 42")) == [["42"]]
                    longest = max(longest, time.monotonic() - began)
                shares.append(longest / derived[len(shares)])
        assert min(shares) < 0.5, shares
    finally:
        server.close()


# Errors that lack something


ERRORS = {
    "no SQLSTATE": b"SFATAL\0Mtext\0\0",
    "no severity": b"CXX000\0Mtext\0\0",
    "no message": b"SFATAL\0CXX000\0\0",
    "no fields": b"\0",
    "nothing": b"",
    "unterminated field": b"SFATAL\0CXX000\0Mtext",
    "unterminated code": b"S",
    "short SQLSTATE": b"SFATAL\0CX\0Mtext\0\0",
    "field without text": b"S\0C\0M\0\0",
}


def is_well_formed(message: Any) -> bool:
    """Severity, a SQLSTATE of five characters, a text."""
    found = dict(message["fields"])
    return bool(found.get("S") and len(found.get("C", "")) == 5 and found.get("M"))


@pytest.mark.regression(11)
def test_cve_2026_6666_error_of_a_login_that_lacks_something(
    pooler: Any, free_port: Callable[[], int]
) -> None:
    """PgBouncer read a SQLSTATE that was not there."""
    forms = list(ERRORS.values())
    names = [f"{phase}{n}" for phase in ("before", "during", "after")
             for n in range(len(forms))]  # fmt: skip

    def script(talk: ServerTalk) -> None:
        message = talk.read()
        if message is None:
            return
        name = dict(message["params"])["database"]
        if name.startswith("during"):
            talk.send({"type": "AuthenticationMD5Password", "salt_hex": "01020304"})
            talk.read()
        elif name.startswith("after"):
            talk.send_bytes(WELCOME[:9])
        talk.send_bytes(packet(b"E", forms[int(name[-1])]))

    with between(pooler, free_port, script, names) as one:
        for name, got in told_all(one, names).items():
            assert [m["type"] for m in got] == ["ErrorResponse", "<connection closed>"]
            assert is_well_formed(got[0]), (name, got)
            assert "query_wait_timeout" not in error(got)["M"]


def answering(talk: ServerTalk, form: list[bytes]) -> None:
    """Answer each query with itself, or, all but "fine", with an error."""
    if not talk.login():
        return
    while message := talk.read():
        if message["type"] == "Query" and message["sql"] == "fine":
            talk.answer("fine")
        elif message["type"] in ("Query", "Sync"):
            talk.send_bytes(packet(b"E", form[0]) + packet(b"Z", b"I"))


@pytest.mark.regression(11)
def test_cve_2026_6666_error_of_any_later_phase(
    pooler: Any, free_port: Callable[[], int]
) -> None:
    """Of auth_query, connect_query, the check, the reset, and of a client's query."""
    form = [b""]
    port = free_port()
    server = FakeServer(port, lambda talk: answering(talk, form))
    try:
        one = pooler(
            {
                "auth_type": "md5",
                "auth_query": "lookup",
                "server_check_query": "check",
                "server_check_delay": 0,
                "server_reset_query": "reset",
                "pool_mode": "session",
                "query_wait_timeout": 5,
                "server_login_retry": "0.05",
            },
            server_port=port,
            databases={
                "p0": "{pg} user=u_trust",
                "asked": "{pg} auth_user=u_trust",
                "greeted": "{pg} user=u_trust connect_query='greet'",
            },
        )
        for name, form[0] in ERRORS.items():
            with FakeClient(one.port) as client:
                got = client.login("asked", "nobody_knows", "x")
                assert got[-1]["type"] == "<connection closed>", name
                assert is_well_formed(got[-2]), name
            for database in ("p0", "greeted", "p0"):
                with FakeClient(one.port) as client:
                    got = client.login(database, "u_plain", "plainpass")
                    assert got[-1]["type"] == "ReadyForQuery", (name, got)
                    assert rows(client.ask("fine")) == [["fine"]], name
                    # A linked client gets what its server said, to the byte.
                    got = client.ask("mine")
                    assert got[0]["type"] in ("ErrorResponse", "<malformed>")
                    assert got[-1]["type"] == "ReadyForQuery", name
                    assert rows(client.ask("fine")) == [["fine"]], name
                    client.close(terminate=True)
    finally:
        server.close()
