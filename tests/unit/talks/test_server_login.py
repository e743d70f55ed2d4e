"""Logging in to PostgreSQL, and to servers that are none.

What PgBouncer 1.25.2 logs for each misbehaviour was seen with a scripted server.
"""

import ssl
import struct
from typing import Any

import pytest

from bouncer.auth.derive import MAX_ITERATIONS, derive, secret_of
from bouncer.auth.md5 import hash_password
from bouncer.auth.scram import ServerSide
from bouncer.errors import ConfigError, Disconnect, LoginFailed
from bouncer.talks.server_login import ServerLogin, server_login
from bouncer.wire import messages
from tests.unit.talks.driver import FakeApp, FakeServer, Lines, Stopped, run
from tests.unit.talks.test_authenticate import KEYS, PASSWORD, SECRETS

READY = (ord("Z"), b"I")
OK = (ord("R"), b"\0\0\0\0")
KEY = (ord("K"), b"12345678")
SALT = b"0123456789abcdef"


@pytest.fixture(autouse=True)
def quiet(logged: Lines) -> None:
    """No test of a misbehaving server writes to the terminal."""


def server_of(secret: str = "", database: Any = None, **settings: Any) -> FakeServer:
    settings.setdefault("server_tls_sslmode", "disable")
    app = FakeApp(databases={"p0": database or {}}, users={"ann": secret}, **settings)
    pool = app.registry.pool(app.registry.databases["p0"], "ann")
    return FakeServer(app, pool)


def login(server: FakeServer, *inputs: Any) -> ServerLogin:
    found = run(server_login(server, server.app), server, *inputs)
    assert isinstance(found, ServerLogin)
    return found


def dropped(server: FakeServer, *inputs: Any) -> Disconnect:
    """A login that ends without anything that clients are told."""
    with pytest.raises(Disconnect) as error:
        login(server, *inputs)
    return error.value


def failed(server: FakeServer, *inputs: Any) -> LoginFailed:
    """A login that ends with something that clients are told."""
    with pytest.raises(LoginFailed) as error:
        login(server, *inputs)
    return error.value


def auth(code: int, rest: bytes = b"") -> tuple[int, bytes]:
    return ord("R"), struct.pack("!I", code) + rest


SASL = auth(10, b"SCRAM-SHA-256\0\0")


# The plain way


def test_login_tells_parameters_in_order_and_the_key() -> None:
    server = server_of()
    found = login(
        server,
        OK,
        (ord("S"), b"server_version\x0015.1\0"),
        (ord("N"), b"SNOTICE\0Mhi\0\0"),
        (ord("S"), b"TimeZone\0UTC\0"),
        KEY,
        READY,
    )
    assert found.parameters == [("server_version", "15.1"), ("TimeZone", "UTC")]
    assert found.cancel_key == b"12345678"
    assert server.sent == messages.startup_message(
        [("database", "p0"), ("user", "ann")]
    )


def test_long_cancel_key_is_cut() -> None:
    key = (ord("K"), b"12345678abcd")
    assert login(server_of(), OK, key, READY).cancel_key == b"12345678"


def test_short_cancel_key() -> None:
    found = dropped(server_of(), OK, (ord("K"), b"ab"))
    assert found.reason == "bad cancel key" and not found.notify


@pytest.mark.parametrize("body", [b"ab", b"ab\0", b"ab\0c", b"ab\0c\0x"])
def test_broken_parameter_status(body: bytes) -> None:
    found = dropped(server_of(), OK, (ord("S"), body))
    assert found.reason == "broken ParameterStatus packet"


@pytest.mark.parametrize(
    ("code", "shown"), [(ord("T"), "T"), (ord("v"), "v"), (1, "?"), (0xFF, "?")]
)
def test_unknown_message(logged: Lines, code: int, shown: str) -> None:
    found = dropped(server_of(), OK, (code, b""))
    assert found.reason == "unknown pkt from server" and found.notify
    assert logged.take() == [f"ERROR S: p0/ann unknown pkt from server: '{shown}'"]


def test_ready_before_authentication_is_no_login(logged: Lines) -> None:
    """PgBouncer 1.25.2 dies of this."""
    assert dropped(server_of(), READY).reason == "unknown pkt from server"


# TLS


def test_tls_is_not_asked_for_when_disabled_or_local() -> None:
    server = server_of(server_tls_sslmode="require")
    server.is_unix = True
    login(server, OK, READY)
    assert not server.sent.startswith(messages.SSL_REQUEST)


@pytest.mark.parametrize("mode", ["allow", "prefer"])
def test_tls_refused_goes_on_in_clear(mode: str) -> None:
    server = server_of(server_tls_sslmode=mode)
    login(server, ord("N"), OK, READY)
    assert server.sent.startswith(messages.SSL_REQUEST + b"\0\0\0")
    assert not server.started_tls


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_tls_refused_ends_the_login_where_it_is_demanded(mode: str) -> None:
    found = dropped(server_of(server_tls_sslmode=mode), ord("N"))
    assert found.reason == "server refused SSL" and not found.notify


@pytest.mark.parametrize("byte", [ord("E"), 0, ord("s"), 0x16])
def test_cve_2024_10977_other_answer_to_ssl_request(byte: int) -> None:
    server = server_of(server_tls_sslmode="prefer")
    server.behind = 100_000
    assert dropped(server, byte).reason == "bad sslreq answer"


@pytest.mark.parametrize("mode", ["prefer", "require"])
@pytest.mark.parametrize("byte", [ord("S"), ord("N")])
def test_cve_2021_43767_clear_data_behind_the_answer(mode: str, byte: int) -> None:
    server = server_of(server_tls_sslmode=mode)
    server.behind = 1
    found = dropped(server, byte)
    assert found.reason == "received unencrypted data after SSL response"
    assert not server.started_tls


@pytest.mark.regression(112)
def test_tls_begins_with_the_name_of_the_host(logged: Lines) -> None:
    server = server_of(server_tls_sslmode="prefer")
    login(server, ord("S"), "tls", OK, READY)
    [wanted] = server.started_tls
    assert isinstance(wanted.context, ssl.SSLContext)
    assert not wanted.server_side and wanted.server_hostname == "db.example"
    assert logged.take() == [
        "LOG S: p0/ann SSL established: TLSv1.3/TLS_AES_256_GCM_SHA384"
    ]


def test_tls_handshake_failure(logged: Lines) -> None:
    server = server_of(server_tls_sslmode="prefer")
    error = ssl.SSLCertVerificationError(1, "verify failed")
    error.verify_message = "self-signed certificate"
    found = dropped(server, ord("S"), error)
    assert found.reason == "server conn crashed?" and not found.notify
    assert logged.take() == [
        "WARNING TLS handshake error: handshake failed: "
        "certificate verification failed: self-signed certificate"
    ]


def test_tls_files_that_cannot_be_read(
    logged: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(settings: Any) -> Any:
        raise ConfigError("TLS setup failed: failed to load CA: no such file")

    monkeypatch.setattr("bouncer.auth.tls.connect_context", broken)
    found = dropped(server_of(server_tls_sslmode="verify-ca"), ord("S"))
    assert found.reason == "TLS startup failed"
    assert logged.take() == ["ERROR TLS setup failed: failed to load CA: no such file"]


# Passwords


@pytest.mark.parametrize("kind", ["plain", "md5", "scram", "empty"])
def test_cleartext_gets_the_secret_verbatim(kind: str) -> None:
    server = server_of(SECRETS[kind])
    login(server, auth(3), OK, READY)
    assert server.sent.endswith(messages.password_message(SECRETS[kind].encode()))


@pytest.mark.parametrize("kind", ["plain", "md5"])
def test_md5(kind: str) -> None:
    server = server_of(SECRETS[kind])
    login(server, auth(5, b"salt"), OK, READY)
    from hashlib import md5

    inner = hash_password(b"ann", PASSWORD)[3:]
    expected = b"md5" + md5(inner + b"salt").hexdigest().encode()
    assert server.sent.endswith(messages.password_message(expected))


WRONG_TYPE = "server login failed: wrong password type"


def test_md5_with_a_scram_secret(logged: Lines) -> None:
    found = failed(server_of(SECRETS["scram"]), auth(5, b"salt"))
    assert (found.text, found.sqlstate) == (WRONG_TYPE, "08P01")
    assert found.reason == "failed to answer authreq" and not found.notify
    assert logged.take() == [
        "ERROR S: p0/ann cannot do MD5 authentication: wrong password type"
    ]


@pytest.mark.parametrize("salt", [b"", b"abc", b"abcde"])
def test_md5_salt_of_another_length(salt: bytes) -> None:
    found = dropped(server_of("x"), auth(5, salt))
    assert found.reason == "failed to answer authreq"


@pytest.mark.parametrize("code", [1, 2, 6, 7, 8, 9, 13, 0xFFFFFFFF])
def test_unsupported_method(logged: Lines, code: int) -> None:
    found = dropped(server_of(), auth(code))
    assert found.reason == "failed to answer authreq"
    assert logged.take() == [f"ERROR S: p0/ann unknown/unsupported auth method: {code}"]


def test_cut_authentication_request() -> None:
    found = dropped(server_of(), (ord("R"), b"\0\0"))
    assert found.reason == "failed to answer authreq"


# SCRAM


class Postgres:
    """A server that checks us by SCRAM."""

    def __init__(
        self, keys: tuple[bytes, bytes] = KEYS, iterations: int = 4096
    ) -> None:
        self.side = ServerSide(secret_of(keys, SALT, iterations))

    def first(self, server: FakeServer) -> tuple[int, bytes]:
        at = server.sent.rindex(b"SCRAM-SHA-256\0") + 18
        return auth(11, self.side.first(server.sent[at:]))

    def final(self, server: FakeServer) -> tuple[int, bytes]:
        return auth(12, self.side.final(server.sent[server.sent.rindex(b"c=biws") :]))

    def forged(self, server: FakeServer) -> tuple[int, bytes]:
        self.final(server)
        return auth(12, b"v=" + b"QUJD" * 10 + b"QUI=")


def test_scram_with_a_password() -> None:
    server, them = server_of(SECRETS["plain"]), Postgres()
    login(server, SASL, them.first, them.final, OK, READY)
    assert them.side.keys == KEYS


def test_scram_is_chosen_among_others() -> None:
    server, them = server_of(SECRETS["plain"]), Postgres()
    offer = auth(10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0")
    login(server, offer, them.first, them.final, OK, READY)


def test_scram_with_the_keys_of_a_client() -> None:
    server, them = server_of(SECRETS["scram"]), Postgres()
    server.pool.user.scram_keys = KEYS
    login(server, SASL, them.first, them.final, OK, READY)
    assert them.side.keys == KEYS


OTHER_KEYS = derive(b"old password", SALT, 4096)


@pytest.mark.parametrize("keys", [None, OTHER_KEYS])
def test_scram_secret_without_keys_of_its_own(logged: Lines, keys: Any) -> None:
    """Keys that were learnt before the secret changed are worth nothing."""
    server = server_of(SECRETS["scram"])
    server.pool.user.scram_keys = keys
    assert failed(server, SASL).text == WRONG_TYPE
    assert logged.take() == [
        "ERROR S: p0/ann cannot do SCRAM authentication: password is SCRAM secret "
        "but client authentication did not provide SCRAM keys"
    ]


def test_stale_keys_are_not_used_for_a_password() -> None:
    """PgBouncer goes on to use them until it is restarted."""
    server, them = server_of(SECRETS["plain"]), Postgres()
    server.pool.user.scram_keys = OTHER_KEYS
    login(server, SASL, them.first, them.final, OK, READY)


def test_scram_with_an_md5_secret(logged: Lines) -> None:
    assert failed(server_of(SECRETS["md5"]), SASL).text == WRONG_TYPE
    assert logged.take() == [
        "ERROR S: p0/ann cannot do SCRAM authentication: wrong password type"
    ]


@pytest.mark.parametrize(
    "offer", [b"SCRAM-SHA-256-PLUS\0\0", b"", b"\0", b"GSSAPI\0\0"]
)
def test_no_mechanism_of_ours(logged: Lines, offer: bytes) -> None:
    text = "none of the server's SASL authentication mechanisms are supported"
    found = failed(server_of("x"), auth(10, offer))
    assert found.text == f"server login failed: {text}"
    assert logged.take() == [f"ERROR S: p0/ann {text}"]


def test_wrong_signature_of_the_server(logged: Lines) -> None:
    server, them = server_of(SECRETS["plain"]), Postgres()
    found = failed(server, SASL, them.first, them.forged)
    assert found.text == "server login failed: invalid server signature"
    assert found.reason == "failed to answer authreq"
    assert logged.take() == ["ERROR S: p0/ann invalid server signature"]


def protocol_errors() -> list[tuple[str, list[Any], str]]:
    def them() -> Postgres:
        return Postgres()

    first, second, third = them(), them(), them()
    return [
        (
            "duplicate",
            [SASL, SASL],
            "protocol error: duplicate AuthenticationSASL message from server",
        ),
        (
            "continue",
            [auth(11, b"r=1")],
            "protocol error: AuthenticationSASLContinue without prior "
            "AuthenticationSASL",
        ),
        (
            "final",
            [auth(12, b"v=1")],
            "protocol error: AuthenticationSASLFinal without prior "
            "AuthenticationSASLContinue",
        ),
        (
            "final too early",
            [SASL, auth(12, b"v=1")],
            "protocol error: AuthenticationSASLFinal without prior "
            "AuthenticationSASLContinue",
        ),
        (
            "continue twice",
            [SASL, first.first, auth(11, b"r=x")],
            "SCRAM exchange protocol error: received second AuthenticationSASLContinue",
        ),
        (
            "ok instead of final",
            [SASL, second.first, OK],
            "protocol error: AuthenticationOk without prior AuthenticationSASLFinal",
        ),
        (
            "ok instead of continue",
            [SASL, OK],
            "protocol error: AuthenticationOk without prior AuthenticationSASLFinal",
        ),
        (
            "final twice",
            [SASL, third.first, third.final, auth(12, b"v=1")],
            "protocol error: AuthenticationSASLFinal without prior "
            "AuthenticationSASLContinue",
        ),
    ]


@pytest.mark.parametrize(
    ("inputs", "text"),
    [pytest.param(inputs, text, id=name) for name, inputs, text in protocol_errors()],
)
def test_scram_out_of_order(logged: Lines, inputs: list[Any], text: str) -> None:
    """A server that does not prove itself is not logged in to."""
    found = dropped(server_of(SECRETS["plain"]), *inputs)
    assert found.reason == "failed to answer authreq" and not found.notify
    assert logged.take() == [f"ERROR S: p0/ann {text}"]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (b"r=zz,s=QUJD,i=4096", "invalid SCRAM response (nonce mismatch)"),
        (b"", 'malformed SCRAM message (attribute "r" expected)'),
    ],
)
def test_malformed_server_first_is_explained_in_the_log(
    logged: Lines, message: bytes, text: str
) -> None:
    found = dropped(server_of("x"), SASL, auth(11, message))
    assert found.reason == "failed to answer authreq"
    assert logged.take() == [f"ERROR S: p0/ann {text}"]


@pytest.mark.parametrize("iterations", [MAX_ITERATIONS + 1, 10_000_000, 2**31])
def test_ghsa_98qh_huge_iteration_count(logged: Lines, iterations: int) -> None:
    server = server_of(SECRETS["plain"])
    them = Postgres(iterations=iterations)
    assert dropped(server, SASL, them.first).reason == "failed to answer authreq"
    text = "malformed SCRAM message (invalid iteration count)"
    assert logged.take() == [f"ERROR S: p0/ann {text}"]


# Refusals


@pytest.mark.parametrize(
    ("body", "severity", "sqlstate", "text"),
    [
        (b"SFATAL\0C3D000\0Mno db\0\0", "FATAL", "3D000", "no db"),
        (b"SFATAL\0Mno db\0\0", "FATAL", "08P01", "no db"),
        (b"Mno db\0\0", "", "08P01", "no db"),
        (b"SFATAL\0C12\0Mno db\0\0", "FATAL", "08P01", "no db"),
        (b"SFATAL\0C3D0\xe9\0Mno db\0\0", "FATAL", "08P01", "no db"),
        (b"SFATAL\0Mno db", "FATAL", "08P01", "server login failed"),
        (b"\0", "", "08P01", "server login failed"),
        (b"", "", "08P01", "server login failed"),
    ],
)
@pytest.mark.parametrize("before", [(), (OK,), (SASL,), (OK, KEY)])
def test_cve_2026_6666_refusal_of_any_form(
    before: Any, body: bytes, severity: str, sqlstate: str, text: str
) -> None:
    found = failed(server_of("x"), *before, (ord("E"), body))
    assert (found.severity, found.sqlstate) == (severity, sqlstate)
    assert (found.text, found.kind, found.notify) == (text, "refused", True)


# connect_query


def test_connect_query_runs_before_the_login_is_over(logged: Lines) -> None:
    server = server_of(database={"connect_query": "set x = 1"})
    found = login(
        server,
        OK,
        KEY,
        READY,
        (ord("S"), b"x\x001\0"),
        (ord("T"), b"\0\0"),
        (ord("D"), b"\0\0"),
        (ord("C"), b"SET\0"),
        (ord("E"), b"SERROR\0C42601\0Mbad\0\0"),
        READY,
    )
    assert server.sent.endswith(messages.query("set x = 1"))
    assert found.parameters == [("x", "1")]
    assert logged.take() == ["ERROR S: error while executing exec_on_query: ERROR: bad"]


def test_connect_query_is_cut_only_where_it_would_be_refused(logged: Lines) -> None:
    server = server_of(database={"connect_query": "discard all; set x = 1"})
    done = (ord("C"), b"SET\0")
    login(server, OK, KEY, READY, done, READY, done, READY)
    both = messages.query("discard all") + messages.query("set x = 1")
    assert server.sent.endswith(both)
    server = server_of(database={"connect_query": "set y = 2; set x = 1"})
    login(server, OK, KEY, READY, done, done, READY)
    assert server.sent.endswith(messages.query("set y = 2; set x = 1"))


def test_connect_query_error_without_fields(logged: Lines) -> None:
    server = server_of(database={"connect_query": "select x"})
    login(server, OK, READY, (ord("E"), b"\0"), READY)
    assert logged.take() == [
        "ERROR S: error while executing exec_on_query: "
        "partial error message, cannot log"
    ]


def test_login_is_not_over_without_the_answer_to_connect_query() -> None:
    server = server_of(database={"connect_query": "x"})
    with pytest.raises(Stopped):
        login(server, OK, READY)


@pytest.mark.parametrize(("size", "fits"), [(506, True), (507, False)])
def test_connect_query_is_sent_up_to_the_size_that_pgbouncer_can(
    size: int, fits: bool
) -> None:
    server = server_of(database={"connect_query": "x" * size})
    ready = (ord("R"), b"\0\0\0\0"), (ord("Z"), b"I")
    if fits:
        login(server, *ready, *ready[1:])
        assert b"x" * size in server.sent
    else:
        with pytest.raises(Disconnect, match="exec_on_connect query failed"):
            login(server, *ready)
