"""Nobody is answered like somebody: the same messages, the same derivations.

Compared are sequences and work, not time.
"""

from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pytest

from bouncer.auth import derive as module
from bouncer.auth.derive import MAX_ITERATIONS, derive, deriver
from bouncer.auth.md5 import hash_password
from bouncer.auth.secrets import kinds_of
from bouncer.errors import Disconnect
from bouncer.talks.authenticate import secret_for
from bouncer.talks.client_login import client_login
from tests.unit.talks.driver import (
    FakeApp,
    FakeClient,
    Lines,
    ScramUser,
    md5_answer,
    password,
    run,
    startup,
)

PASSWORD = b"secret"
METHODS = ("plain", "md5", "scram-sha-256")


def scram(iterations: int = 4096) -> str:
    salt = b"0123456789abcdef"
    keys = derive(PASSWORD, salt, iterations)
    parts = [
        b64encode(one).decode() for one in (salt, sha256(keys[0]).digest(), keys[1])
    ]
    return f"SCRAM-SHA-256${iterations}:{parts[0]}${parts[1]}:{parts[2]}"


SECRETS = {
    "plain": "secret",
    "md5": hash_password(b"ann", PASSWORD).decode(),
    "scram": scram(),
    "empty": "",
}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Each test begins with nothing derived."""
    deriver._known.clear()
    yield


@pytest.fixture
def derived(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The counts of iterations that were run through."""
    counts: list[int] = []

    def counting(password: bytes, salt: bytes, iterations: int) -> Any:
        counts.append(iterations)
        return derive(password, salt, iterations)

    monkeypatch.setattr(module, "derive", counting)
    return counts


def seen(app: FakeApp, user: str, guess: bytes = b"guess") -> tuple[list[Any], str]:
    """Kinds and sizes of the messages that *user* is sent, and how it ends."""
    client, them = FakeClient(), ScramUser(guess)

    def answer(stream: Any) -> Any:
        """A password, an md5 answer or SCRAM, as asked."""
        code = int.from_bytes(client.sent[client.taken :][5:9], "big")
        if code == 10:
            return them.first(stream)
        if code == 11:
            return them.final(stream)
        if code == 5:
            return md5_answer(user.encode(), guess)(stream)
        return password(guess)

    shapes: list[Any] = []
    taken = FakeClient.take

    try:
        run(client_login(client, app), client, startup(user), *[answer] * 3)
        end = "in"
    except Disconnect as error:
        end = f"{error.sqlstate} {error.notify} {error.reason}"
    client.taken = 0
    for kind, body in taken(client):
        shapes.append((kind, body[:4], len(body)))
    return shapes, end


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", SECRETS)
def test_nobody_sees_what_somebody_sees(
    logged: Lines, derived: list[int], method: str, kind: str
) -> None:
    """A SCRAM secret asked for SASL where nobody was asked for md5; an md5 secret
    ended SCRAM one message sooner; a password against a SCRAM secret was derived,
    nobody's never."""
    # The name's length must be the same: nothing else may differ.
    app = FakeApp(auth_type=method, users={"ann": SECRETS[kind]})
    if method == "scram-sha-256" and kind == "plain":
        seen(app, "ann")  # its keys are derived once after the file is read
        derived.clear()
    somebody = seen(app, "ann"), derived.copy()
    derived.clear()
    nobody = seen(app, "bob"), derived.copy()
    assert nobody == somebody


@pytest.mark.parametrize("kind", ["plain", "md5", "scram", "empty"])
@pytest.mark.parametrize("others", ["plain", "md5", "scram"])
def test_scram_ends_with_the_same_message_whatever_the_secret(
    logged: Lines, kind: str, others: str
) -> None:
    users = {"ann": SECRETS[kind], **{f"u{n}": SECRETS[others] for n in range(3)}}
    app = FakeApp(auth_type="scram-sha-256", users=users)
    assert seen(app, "ann") == seen(app, "bob")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["plain", "md5", "scram"])
def test_nobodies_are_of_each_kind_that_users_are_of(
    logged: Lines, derived: list[int], method: str, kind: str
) -> None:
    """Answered like most users, they told who was of a kind that is rare."""
    other = "scram" if kind != "scram" else "md5"
    users = {"ann": SECRETS[kind], "amy": SECRETS[kind], "eve": SECRETS[other]}
    app = FakeApp(auth_type=method, users=users)

    def answered(name: str) -> Any:
        derived.clear()
        return seen(app, name), tuple(derived)

    answered("ann"), answered("amy")  # what is derived once for all, is
    somebodies = [answered(name) for name in users]
    nobodies = [answered(f"{number:03}") for number in range(150)]
    assert all(one in somebodies for one in nobodies)
    assert all(one in nobodies for one in somebodies)
    assert [answered(f"{number:03}") for number in range(150)] == nobodies


def test_nobodys_challenge_is_the_same_each_time_and_differs_by_name(
    logged: Lines,
) -> None:
    app = FakeApp(auth_type="md5", users={"ann": SECRETS["scram"]})
    salts = []
    for name in ("bob", "bob", "rob"):
        client, them = FakeClient(), ScramUser(b"guess")
        try:
            run(
                client_login(client, app), client, startup(name), them.first, them.final
            )
        except Disconnect:
            salts.append(them.side.salt)
    assert salts[0] == salts[1] != salts[2]


def test_nobody_has_the_count_of_iterations_that_users_have(
    logged: Lines, derived: list[int]
) -> None:
    users = {"ann": scram(5000), "amy": scram(5000), "eve": scram(5000)}
    for method in METHODS:
        app = FakeApp(auth_type=method, users=users)
        derived.clear()
        somebody = seen(app, "ann"), derived.copy()
        derived.clear()
        assert (seen(app, "bob"), derived.copy()) == somebody


def test_nobody_costs_no_more_than_the_limit_allows(
    logged: Lines, derived: list[int]
) -> None:
    secret = scram().replace("$4096:", f"${MAX_ITERATIONS + 1}:")
    app = FakeApp(auth_type="plain", users={"ann": secret})
    assert seen(app, "ann") == seen(app, "bob")
    assert derived == []


def test_kinds_are_those_of_the_secrets_that_can_be_used() -> None:
    secrets = [scram(4096), "", scram(5000), "plain", SECRETS["md5"]]
    assert kinds_of(secrets) == (4096, 5000, 0, 0)
    assert kinds_of([]) == kinds_of(["", ""]) == ()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", SECRETS)
def test_the_same_question_is_remembered_of_somebody_and_nobody(
    logged: Lines, monkeypatch: pytest.MonkeyPatch, method: str, kind: str
) -> None:
    """Nobody's second attempt was asked by compiled code, a user's by a talk."""
    app = FakeApp(auth_type=method, users={"ann": SECRETS[kind]})
    remembered: list[tuple[str, bool, type, bool]] = []

    def remember(
        client: Any,
        body: bytes,
        login: Any,
        needs: bool,
        secret: Any,
        attempt: Any,
        limits: Any,
        welcome: Any,
        nobody: Any = None,
    ) -> None:
        remembered.append((login.user_name, needs, type(secret), welcome is None))

    monkeypatch.setattr(app.door, "remember", remember)
    for _ in range(2):
        for name in ("ann", "bob"):
            seen(app, name)
    by_name = {
        name: [rest for who, *rest in remembered if who == name]
        for name in ("ann", "bob")
    }
    if method == "scram-sha-256" and kind == "plain":
        by_name["bob"].pop()  # the first time ann's keys were not known
    assert by_name["ann"] == by_name["bob"]
    assert bool(remembered) == (method != "plain")


def test_nothing_is_checked_here_for_methods_without_a_challenge(
    logged: Lines,
) -> None:
    app = FakeApp(auth_type="plain", users={"ann": "secret"})

    class Login:
        user, method, user_name = None, "plain", "bob"

    assert secret_for(app, Login()) is None
