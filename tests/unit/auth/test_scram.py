"""SCRAM-SHA-256 on both sides: the RFC's exchange, and everything malformed.

The reasons in the tables were seen in the log of PgBouncer 1.25.2.
"""

from base64 import b64decode, b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bouncer.auth import scram
from bouncer.auth.derive import derive, secret_of
from bouncer.auth.scram import ClientSide, MockSecrets, ScramError, ServerSide, fits

# RFC 7677, section 3
SALT = b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
CLIENT_NONCE = b"rOprNGfwEbeRWgbNEkqO"
SERVER_NONCE = b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
CLIENT_FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
SERVER_FIRST = (
    b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
    b"s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
)
CLIENT_FINAL = (
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
    b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="

KEYS = derive(b"pencil", SALT, 4096)
SECRET = secret_of(KEYS, SALT, 4096)
PROOF = b64encode(b"x" * 32)


def nonces(monkeypatch: pytest.MonkeyPatch, value: bytes) -> None:
    monkeypatch.setattr(scram, "_nonce", lambda: value)


def reasons(error: pytest.ExceptionInfo[ScramError]) -> list[str]:
    return list(error.value.lines)


def test_rfc_7677_server_side(monkeypatch: pytest.MonkeyPatch) -> None:
    nonces(monkeypatch, SERVER_NONCE)
    exchange = ServerSide(SECRET)
    assert exchange.first(CLIENT_FIRST) == SERVER_FIRST
    assert exchange.final(CLIENT_FINAL) == SERVER_FINAL
    assert exchange.keys == KEYS


def test_rfc_7677_client_side(monkeypatch: pytest.MonkeyPatch) -> None:
    nonces(monkeypatch, CLIENT_NONCE)
    exchange = ClientSide()
    # The RFC's client names itself; PostgreSQL's do not.
    exchange._client_bare = CLIENT_FIRST[3:]
    exchange.server_first(SERVER_FIRST)
    assert (exchange.salt, exchange.iterations) == (SALT, 4096)
    assert exchange.final(KEYS) == CLIENT_FINAL
    exchange.server_final(SERVER_FINAL)


def test_both_sides_understand_each_other() -> None:
    client, server = ClientSide(), ServerSide(SECRET)
    first = client.first()
    assert first.startswith(b"n,,n=,r=") and len(first) == len(b"n,,n=,r=") + 24
    client.server_first(server.first(first))
    client.server_final(server.final(client.final(KEYS)))
    assert server.keys is not None and fits(SECRET, server.keys)


def test_nonces_differ_each_time() -> None:
    assert ClientSide().first() != ClientSide().first()
    assert ServerSide(SECRET).first(CLIENT_FIRST) != ServerSide(SECRET).first(
        CLIENT_FIRST
    )


def test_keys_of_another_secret_do_not_fit() -> None:
    other = derive(b"pencil", b"another salt", 4096)
    assert fits(SECRET, KEYS)
    assert not fits(SECRET, other)
    assert not fits(SECRET, (KEYS[0], other[1]))
    assert not fits(SECRET, (other[0], KEYS[1]))


MALFORMED = "malformed SCRAM message ({})".format

FIRST_FAILURES = [
    (b"", MALFORMED('unexpected channel-binding flag "0x00"')),
    (b"\xff,,", MALFORMED('unexpected channel-binding flag "0xff"')),
    (b"x,,n=,r=a", MALFORMED("unexpected channel-binding flag \"'x'\"")),
    (b"n", MALFORMED('comma expected, but found character "0x00"')),
    (b"n;,n=,r=a", MALFORMED("comma expected, but found character \"';'\"")),
    (b"n,", MALFORMED('unexpected attribute "0x00" in client-first-message')),
    (
        b"n,b=x,n=,r=a",
        MALFORMED("unexpected attribute \"'b'\" in client-first-message"),
    ),
    (
        b"p=tls-unique,,n=,r=a",
        "client requires SCRAM channel binding, but it is not supported",
    ),
    (
        b"n,a=x,n=,r=a",
        "client uses authorization identity, but it is not supported",
    ),
    (b"n,,m=1,n=,r=a", "client requires an unsupported SCRAM extension"),
    (b"n,,r=abc", MALFORMED('attribute "n" expected')),
    (b"n,,n", MALFORMED('expected "=" after attribute "n"')),
    (b"n,,n=", MALFORMED('attribute "r" expected')),
    (b"n,,n=,x=1", MALFORMED('attribute "r" expected')),
    (b"n,,n=,r", MALFORMED('expected "=" after attribute "r"')),
    (b"n,,n=,r=a\x01b", "non-printable characters in SCRAM nonce"),
    (b"n,,n=,r=a\0b", "non-printable characters in SCRAM nonce"),
    (b"n,,n=,r=\xc3\xa9", "non-printable characters in SCRAM nonce"),
    (b"n,,n=,r=a,q", MALFORMED('expected character "=" after attribute "q"')),
    (
        b"n,,n=,r=a,1=2",
        MALFORMED("attribute expected, but found invalid character \"'1'\""),
    ),
]


@pytest.mark.parametrize(("message", "reason"), FIRST_FAILURES)
def test_client_first_is_refused(message: bytes, reason: str) -> None:
    with pytest.raises(ScramError) as error:
        ServerSide(SECRET).first(message)
    assert reasons(error) == [reason]


@pytest.mark.parametrize(
    "message", [b"n,,n=,r=", b"y,,n=,r=a", b"n,,n=u,r=a,", b"n,,n=,r=a,q=1"]
)
def test_client_first_is_accepted(message: bytes) -> None:
    assert b",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096" in ServerSide(SECRET).first(message)


FINAL_FAILURES = [
    (b"", [MALFORMED('attribute "c" expected')]),
    (b"c", [MALFORMED('expected "=" after attribute "c"')]),
    (
        b"c=",
        ["unexpected SCRAM channel-binding attribute in client-final-message"],
    ),
    (
        b"c=eSws,r=%N,p=" + PROOF,
        ["unexpected SCRAM channel-binding attribute in client-final-message"],
    ),
    (b"c=biws,x=%N,p=" + PROOF, [MALFORMED('attribute "r" expected')]),
    (
        b"c=biws,r=%N",
        [
            MALFORMED('attribute expected, but found invalid character "0x00"'),
            "could not read proof",
        ],
    ),
    (
        b"c=biws,r=%N,p",
        [
            MALFORMED('expected character "=" after attribute "p"'),
            "could not read proof",
        ],
    ),
    (b"c=biws,r=%N,p=", [MALFORMED("malformed proof in client-final-message")]),
    (b"c=biws,r=%N,p=###", [MALFORMED("malformed proof in client-final-message")]),
    (b"c=biws,r=%N,p=QUJD", [MALFORMED("malformed proof in client-final-message")]),
    (
        b"c=biws,r=%N,p=" + PROOF + b",x=1",
        [MALFORMED("garbage at the end of client-final-message")],
    ),
    (b"c=biws,r=%N,p=" + PROOF, ["password authentication failed"]),
    (b"c=biws,r=%N,q=1,p=" + PROOF, ["password authentication failed"]),
    (
        b"c=biws,r=%Nx,p=" + PROOF,
        ["invalid SCRAM response (nonce does not match)"],
    ),
    (b"c=biws,r=zz,p=" + PROOF, ["invalid SCRAM response (nonce does not match)"]),
]


@pytest.mark.parametrize(("message", "expected"), FINAL_FAILURES)
def test_client_final_is_refused(message: bytes, expected: list[str]) -> None:
    exchange = ServerSide(SECRET)
    nonce = exchange.first(b"n,,n=,r=abc").partition(b",")[0][2:]
    with pytest.raises(ScramError) as error:
        exchange.final(message.replace(b"%N", nonce))
    assert reasons(error) == expected
    assert exchange.keys is None


def test_client_that_could_bind_must_say_so_again() -> None:
    client, server = ClientSide(), ServerSide(SECRET)
    client.server_first(server.first(b"y,," + client.first()[3:]))
    final = client.final(KEYS)
    with pytest.raises(ScramError):
        server.final(final)


def test_extensions_before_the_proof_are_signed_and_ignored() -> None:
    """RFC 5802 allows them; they are part of what the proof covers."""
    client, server = ClientSide(), ServerSide(SECRET)
    client.server_first(server.first(client.first()))
    plain = client.final(KEYS)
    extended = plain.replace(b",p=", b",q=1,p=")
    with pytest.raises(ScramError) as error:
        server.final(extended)
    assert reasons(error) == ["password authentication failed"]


SERVER_FIRST_FAILURES = [
    (b"", MALFORMED('attribute "r" expected')),
    (b"s=abc", MALFORMED('attribute "r" expected')),
    (b"r=zz,s=QUJD,i=4096", "invalid SCRAM response (nonce mismatch)"),
    (b"r=%N" + b"x" * 10000, MALFORMED('attribute "s" expected')),
    (b"r=%Nx,s=###,i=4096", MALFORMED("invalid salt")),
    (b"r=%Nx,s=,i=4096", MALFORMED("invalid salt")),
    (b"r=%Nx,i=4096", MALFORMED('attribute "s" expected')),
    (b"r=%Nx,s=QUJD,i=0", MALFORMED("invalid iteration count")),
    (b"r=%Nx,s=QUJD,i=-1", MALFORMED("invalid iteration count")),
    (b"r=%Nx,s=QUJD,i=12x", MALFORMED("invalid iteration count")),
    (b"r=%Nx,s=QUJD,i=99999999999", MALFORMED("invalid iteration count")),
    (b"r=%Nx,s=QUJD,i=", MALFORMED("invalid iteration count")),
    (b"r=%Nx,s=QUJD", MALFORMED('attribute "i" expected')),
    (
        b"r=%Nx,s=QUJD,i=4096,q=1",
        MALFORMED("garbage at end of server-first-message"),
    ),
]


@pytest.mark.parametrize(("message", "reason"), SERVER_FIRST_FAILURES)
def test_cve_2026_6665_server_first_is_refused(message: bytes, reason: str) -> None:
    exchange = ClientSide()
    nonce = exchange.first().rpartition(b"=")[2]
    with pytest.raises(ScramError) as error:
        exchange.server_first(message.replace(b"%N", nonce))
    assert reasons(error) == [reason]


def test_server_first_may_have_a_long_salt_and_nonce() -> None:
    exchange = ClientSide()
    nonce = exchange.first().rpartition(b"=")[2]
    salt = b64encode(b"s" * 10000)
    exchange.server_first(b"r=" + nonce + b"x" * 10000 + b",s=" + salt + b",i=10")
    assert len(exchange.salt) == 10000


SERVER_FINAL_FAILURES = [
    (b"", MALFORMED('attribute "v" expected')),
    (b"x=1", MALFORMED('attribute "v" expected')),
    (b"v=", MALFORMED("malformed server signature")),
    (b"v=###", MALFORMED("malformed server signature")),
    (b"v=QUJD", MALFORMED("malformed server signature")),
    (b"v=QUJD,x=1", MALFORMED("garbage at end of server-final-message")),
    (b"e=other-error", "error received from server in SCRAM exchange: other-error"),
    (b"e=other,x=1", "error received from server in SCRAM exchange: other"),
    (b"v=" + PROOF, "invalid server signature"),
]


@pytest.mark.parametrize(("message", "reason"), SERVER_FINAL_FAILURES)
def test_server_final_is_refused(message: bytes, reason: str) -> None:
    client, server = ClientSide(), ServerSide(SECRET)
    client.server_first(server.first(client.first()))
    client.final(KEYS)
    with pytest.raises(ScramError) as error:
        client.server_final(message)
    assert reasons(error) == [reason]
    assert error.value.is_wrong_signature == (reason == "invalid server signature")


def test_mock_secret_is_the_same_for_a_name_and_no_proof_fits() -> None:
    mock = MockSecrets()
    once, again = mock.secret(b"ghost", 4096), mock.secret(b"ghost", 4096)
    assert once.tail == again.tail
    assert once.salt != mock.secret(b"other", 4096).salt
    assert once.salt != MockSecrets().secret(b"ghost", 4096).salt
    assert len(once.salt) == 16
    keys = derive(b"guess", once.salt, 4096)
    assert not fits(once, keys)


@given(st.binary(max_size=80))
def test_messages_of_any_bytes_are_accepted_or_refused(data: bytes) -> None:
    for step in (
        lambda: ServerSide(SECRET).first(data),
        lambda: ServerSide(SECRET).final(data),
        lambda: ClientSide().server_first(data),
        lambda: ClientSide().server_final(data),
    ):
        try:
            step()
        except ScramError:
            pass
