"""Each method against each kind of secret, and against nobody."""

from typing import Any

import pytest

from bouncer.auth.derive import MAX_ITERATIONS, derive
from bouncer.auth.md5 import hash_password
from bouncer.errors import Disconnect
from bouncer.talks.client_login import client_login
from bouncer.wire import messages
from tests.unit.talks.driver import (
    FakeApp,
    FakeClient,
    Lines,
    ScramUser,
    Stopped,
    md5_answer,
    password,
    refused,
    run,
    startup,
)

WRONG = "password authentication failed"
SASL_FAILED = "SASL authentication failed"
PASSWORD = b"s\xc3\xa9cret"
# SCRAM-SHA-256 secret of PASSWORD, 4096 iterations, salt 0123456789abcdef.
KEYS = derive(PASSWORD, b"0123456789abcdef", 4096)


def scram_secret(keys: tuple[bytes, bytes] = KEYS, iterations: int = 4096) -> str:
    from base64 import b64encode
    from hashlib import sha256

    salt = b64encode(b"0123456789abcdef").decode()
    stored = b64encode(sha256(keys[0]).digest()).decode()
    return f"SCRAM-SHA-256${iterations}:{salt}${stored}:{b64encode(keys[1]).decode()}"


SECRETS = {
    "plain": PASSWORD.decode(),
    "md5": hash_password(b"ann", PASSWORD).decode(),
    "scram": scram_secret(),
    "empty": "",
}


def app_of(method: str, kind: str = "plain", **more: Any) -> FakeApp:
    return FakeApp(auth_type=method, users={"ann": SECRETS[kind]}, **more)


def attempt(app: FakeApp, method: str, given: bytes, user: str = "ann") -> str | None:
    """Log in with *given*; None when it works, else the text."""
    client = FakeClient()
    steps: list[Any] = [startup(user)]
    if method == "scram-sha-256":
        them = ScramUser(given)
        steps += [them.first, them.final]
    elif method == "md5":
        steps.append(md5_answer(user.encode(), given))
    else:
        steps.append(password(given))
    try:
        run(client_login(client, app), client, *steps)
    except Disconnect as error:
        assert error.notify and error.sqlstate == "08P01"
        return error.reason
    return None


MATRIX = [
    ("plain", "plain", True),
    ("plain", "md5", True),
    ("plain", "scram", True),
    ("plain", "empty", False),
    ("md5", "plain", True),
    ("md5", "md5", True),
    ("md5", "empty", False),
    ("scram-sha-256", "plain", True),
    ("scram-sha-256", "scram", True),
    ("scram-sha-256", "empty", False),
]


@pytest.mark.parametrize(("method", "kind", "works"), MATRIX)
def test_right_password(logged: Lines, method: str, kind: str, works: bool) -> None:
    given = PASSWORD if kind != "empty" else b""
    if kind == "empty" and method == "plain":
        given = b"x"
    failure = SASL_FAILED if method == "scram-sha-256" else WRONG
    app = app_of(method, kind)
    assert attempt(app, method, given) == (None if works else failure)


@pytest.mark.parametrize(("method", "kind", "works"), MATRIX)
@pytest.mark.parametrize("guess", [b"secret", PASSWORD + b"x", PASSWORD[:-1], b"md5"])
def test_wrong_password(
    logged: Lines, method: str, kind: str, works: bool, guess: bytes
) -> None:
    failure = SASL_FAILED if method == "scram-sha-256" else WRONG
    assert attempt(app_of(method, kind), method, guess) == failure


@pytest.mark.parametrize("method", ["plain", "md5", "scram-sha-256"])
def test_nobody_fails_like_a_wrong_password(logged: Lines, method: str) -> None:
    known, nobody = app_of(method), app_of(method)
    wrong = attempt(known, method, b"guess")
    known_lines = logged.take()
    assert attempt(nobody, method, b"guess", "ghost") == wrong
    errors = [line for line in logged.take() if line.startswith("ERROR")]
    assert [line.replace("(nodb)/ghost", "p0/ann") for line in errors] == [
        line for line in known_lines if line.startswith("ERROR")
    ]


@pytest.mark.parametrize("method", ["plain", "md5"])
def test_empty_password_is_named(logged: Lines, method: str) -> None:
    client = FakeClient()
    talk = client_login(client, app_of(method))
    found = refused(talk, client, startup(), (ord("p"), b"\0"))
    assert found.reason == "empty password returned by client"


def test_password_without_zero_byte_is_as_if_it_had_not_come(
    client: FakeClient,
) -> None:
    talk = client_login(client, app_of("plain"))
    run(talk, client, startup(), (ord("p"), PASSWORD), password(PASSWORD))
    assert client.user == "ann"


@pytest.mark.parametrize("answer", [b"md5", b"md5" + b"0" * 32, b"md5" + b"0" * 33])
def test_md5_answer_of_any_other_form_fails(client: FakeClient, answer: bytes) -> None:
    talk = client_login(client, app_of("md5"))
    assert refused(talk, client, startup(), password(answer)).reason == WRONG


def test_md5_salt_differs_each_time() -> None:
    salts = set()
    for _ in range(20):
        client = FakeClient()
        with pytest.raises(Stopped):
            run(client_login(client, app_of("md5")), client, startup())
        salts.add(client.sent)
    assert len(salts) == 20


@pytest.mark.parametrize("length", [995, 996, 1023, 1024, 1025, 2048, 65530])
def test_long_passwords_work_and_are_never_cut_into_a_match(
    logged: Lines, length: int
) -> None:
    secret = "x" * length
    for method in ("plain", "md5"):
        app = FakeApp(auth_type=method, users={"ann": secret})
        assert attempt(app, method, secret.encode()) is None
        assert attempt(app, method, secret.encode()[:-1]) == WRONG
        assert attempt(app, method, secret.encode() + b"x") == WRONG


# SCRAM


def test_md5_asks_for_scram_when_the_secret_is_scram(client: FakeClient) -> None:
    them = ScramUser(PASSWORD)
    talk = client_login(client, app_of("md5", "scram"))
    run(talk, client, startup(), them.first, them.final)
    assert client.user == "ann"


def test_scram_with_an_md5_secret_fails(client: FakeClient, logged: Lines) -> None:
    them = ScramUser(PASSWORD)
    talk = client_login(client, app_of("scram-sha-256", "md5"))
    found = refused(talk, client, startup(), them.first, them.final)
    assert found.reason == SASL_FAILED
    assert logged.take()[-1] == (
        "ERROR C: p0/ann SCRAM authentication failed: user has MD5 secret"
    )


@pytest.mark.parametrize(
    "body",
    [b"", b"\0", b"SCRAM-SHA-256-PLUS\0\0\0\0\x03p,,", b"FOO\0\0\0\0\0", b"SCRAM"],
)
def test_other_mechanism(client: FakeClient, body: bytes) -> None:
    talk = client_login(client, app_of("scram-sha-256"))
    found = refused(talk, client, startup(), (ord("p"), body))
    assert found.reason == "client selected an invalid SASL authentication mechanism"


@pytest.mark.parametrize("length", [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_cve_2026_6664_wrong_length_of_the_initial_response(
    client: FakeClient, logged: Lines, length: int
) -> None:
    body = b"SCRAM-SHA-256\0" + length.to_bytes(4, "big") + b"n,,n=,r=abc"
    talk = client_login(client, app_of("scram-sha-256"))
    assert refused(talk, client, startup(), (ord("p"), body)).reason == SASL_FAILED
    assert logged.take()[-1].startswith("ERROR C: p0/ann malformed SASL")


def test_failed_exchange_is_explained_in_the_log_only(
    client: FakeClient, logged: Lines
) -> None:
    packet = messages.sasl_initial_response(b"SCRAM-SHA-256", b"p=x,,n=,r=a")
    talk = client_login(client, app_of("scram-sha-256"))
    found = refused(talk, client, startup(), (ord("p"), packet[5:]))
    assert found.reason == SASL_FAILED
    assert logged.take()[-1] == (
        "ERROR C: p0/ann client requires SCRAM channel binding, but it is not supported"
    )


def salt_of(app: FakeApp, user: str) -> bytes:
    client = FakeClient()
    with pytest.raises(Stopped):
        talk = client_login(client, app)
        run(talk, client, startup(user), ScramUser(b"x").first)
    return client.take()[-1][1].partition(b",s=")[2]


def test_salt_and_count_are_stable_for_everybody(logged: Lines) -> None:
    app = app_of("scram-sha-256", scram_iterations=1234)
    for user in ("ann", "ghost"):
        once = salt_of(app, user)
        assert once == salt_of(app, user)
        assert once.endswith(b",i=1234")
    assert salt_of(app, "ann") != salt_of(app, "ghost") != salt_of(app, "ghost2")


def test_password_is_derived_once_for_many_logins(
    logged: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(*wish: Any) -> Any:
        calls.append(wish)
        return derive(*wish)

    monkeypatch.setattr("bouncer.auth.derive.derive", counted)
    app = app_of("scram-sha-256")
    for _ in range(3):
        assert attempt(app, "scram-sha-256", PASSWORD) is None
    assert len(calls) == 1
    app.registry.set_auth_file({"ann": "another"})
    assert attempt(app, "scram-sha-256", b"another") is None
    assert len(calls) == 2


def test_keys_for_the_server_come_from_a_stored_secret_only(logged: Lines) -> None:
    app = app_of("scram-sha-256", "plain")
    assert attempt(app, "scram-sha-256", PASSWORD) is None
    assert app.registry.users["ann"].scram_keys is None
    for method in ("scram-sha-256", "md5"):
        app = app_of(method, "scram")
        assert attempt(app, "scram-sha-256", b"guess") == SASL_FAILED
        assert app.registry.users["ann"].scram_keys is None
        # a failed attempt of anybody must not cost the user the keys for good
        assert attempt(app, "scram-sha-256", PASSWORD) is None
        assert app.registry.users["ann"].scram_keys == KEYS


def test_changed_secret_forgets_the_keys(logged: Lines) -> None:
    app = app_of("scram-sha-256", "scram")
    attempt(app, "scram-sha-256", PASSWORD)
    app.registry.set_auth_file({"ann": "rotated"})
    assert app.registry.users["ann"].scram_keys is None


@pytest.mark.parametrize(("fitting", "expected"), [(True, KEYS), (False, None)])
def test_keys_serve_a_forced_user_with_the_same_secret(
    logged: Lines, fitting: bool, expected: Any
) -> None:
    other = scram_secret(derive(b"other", b"0123456789abcdef", 4096))
    forced = {"user": "app", "password": SECRETS["scram"] if fitting else other}
    app = app_of("scram-sha-256", "scram", databases={"p0": forced})
    assert attempt(app, "scram-sha-256", PASSWORD) is None
    assert app.registry.databases["p0"].pools["app"].scram_keys == expected


def test_secret_with_a_huge_count_is_not_derived(
    client: FakeClient, logged: Lines
) -> None:
    app = FakeApp(
        auth_type="plain", users={"ann": scram_secret(iterations=MAX_ITERATIONS + 1)}
    )
    assert attempt(app, "plain", PASSWORD) == WRONG
    assert logged.take()[-1] == (
        "ERROR C: p0/ann SCRAM iteration count 1000001 is above the limit of 1000000"
    )


def test_no_secret_is_ever_logged(
    logged: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bouncer.log.verbosity", 3)
    debug: list[str] = []
    monkeypatch.setattr("bouncer.log.debug", debug.append)
    monkeypatch.setattr("bouncer.log.noise", debug.append)
    for method in ("plain", "md5", "scram-sha-256"):
        for kind in SECRETS:
            attempt(app_of(method, kind), method, b"guessguess")
            attempt(app_of(method, kind), method, PASSWORD)
    text = "\n".join(debug + logged.take())
    for part in ("guessguess", SECRETS["plain"], SECRETS["md5"][3:], "SCRAM-SHA-256$"):
        assert part not in text
