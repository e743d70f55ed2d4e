"""A login has one startup packet, and is counted once, for the names in it."""

import random
from typing import Any

import pytest

from bouncer.errors import Disconnect
from bouncer.relay.talk import Waiter
from bouncer.talks.client_login import CancelAsked, client_login, known_login
from tests.unit.talks.driver import (
    GSSENC_REQUEST,
    KEY,
    SSL_REQUEST,
    FakeApp,
    FakeClient,
    ScramUser,
    Stopped,
    md5_answer,
    password,
    refused,
    run,
    special,
    startup,
)

AGAIN = "client re-sent startup pkt"
CANCEL = special(80877102, KEY)
DATABASES: dict[str, dict[str, Any]] = {
    "p0": {},
    "p1": {"max_db_client_connections": 2},
}
METHODS = ("plain", "md5", "scram-sha-256", "pam")
# What a startup packet may name: who and what exist, and who and what do not.
NAMES = [
    ("ann", "p0"),
    ("ann", "p1"),
    ("ghost", "p0"),
    ("ghost", "nowhere"),
    ("ann", "nowhere"),
    ("admin", "pgbouncer"),
    ("ghost", "pgbouncer"),
]


def app_of(method: str, **settings: Any) -> FakeApp:
    users = {"ann": "secret", "bob": "secret", "admin": "secret"}
    settings.setdefault("databases", DATABASES)
    return FakeApp(users=users, auth_type=method, **settings)


def reason(app: FakeApp, client: FakeClient, *inputs: Any) -> str:
    found = refused(client_login(client, app), client, *inputs)
    assert found.notify and found.sqlstate == "08P01"
    return found.reason


@pytest.mark.parametrize(
    ("method", "names"),
    [
        (method, names)
        for method in METHODS
        for names in NAMES
        # Asked of nobody: PAM knows no administrators.
        if method != "pam" or names != ("ghost", "pgbouncer")
    ],
)
def test_second_startup_packet_is_refused(
    client: FakeClient, method: str, names: tuple[str, str]
) -> None:
    """After one of nobody, or for no database, a second one began everything anew.

    The limits had counted the first one's names: whoever came in with the second
    was charged to another database and another user.
    """
    app = app_of(method)
    assert reason(app, client, startup(*names), startup("ann", "p1")) == AGAIN


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("extra", [SSL_REQUEST, GSSENC_REQUEST])
def test_a_request_between_two_startup_packets_changes_nothing(
    client: FakeClient, names: tuple[str, str], extra: Any
) -> None:
    app = app_of("md5")
    assert reason(app, client, startup(*names), extra, extra, startup()) == AGAIN
    assert client.sent.endswith(b"NN")


@pytest.mark.parametrize("user", ["ann", "ghost"])
def test_second_startup_packet_within_scram_is_refused(
    client: FakeClient, user: str
) -> None:
    """CVE-2026-107350: the rest of the first exchange counted for the second user."""
    app, side = app_of("scram-sha-256"), ScramUser(b"secret")
    again = startup("admin", "pgbouncer")
    assert reason(app, client, startup(user), side.first, again) == AGAIN


@pytest.mark.parametrize("user", ["ann", "ghost"])
def test_second_startup_packet_of_version_2_is_named_old(
    client: FakeClient, user: str
) -> None:
    text = "old V2 protocol not supported"
    old = special(0x20000, b"\0" * 288)
    assert reason(app_of("md5"), client, startup(user), old) == text


def test_second_startup_packet_behind_a_password_that_was_none(
    client: FakeClient,
) -> None:
    """A password without its zero byte is as if it had not come."""
    app = app_of("plain")
    none = (ord("p"), b"secret")
    assert reason(app, client, startup("ghost"), none, startup()) == AGAIN


def test_second_startup_packet_after_auth_query_is_refused(client: FakeClient) -> None:
    app = app_of("md5", auth_user="bob")
    app.rows = {"eve": ("eve", "secret")}
    assert reason(app, client, startup("eve"), startup()) == AGAIN
    assert app.asked == [("p0", "eve")]


class Known:
    """What the door knows of a startup packet."""

    def __init__(self, login: Any) -> None:
        self.login = login
        self.stale = False
        self.is_let_in = True


@pytest.mark.parametrize("stale", [False, True])
def test_second_startup_packet_of_a_known_client_is_refused(
    client: FakeClient, monkeypatch: pytest.MonkeyPatch, stale: bool
) -> None:
    app = app_of("md5")
    logins = []
    monkeypatch.setattr(
        app.door, "remember", lambda client, body, login, *_: logins.append(login)
    )
    assert (
        run(client_login(client, app), client, startup(), md5_answer(b"ann", b"secret"))
        is None
    )
    known = Known(logins[0])
    known.stale = stale
    other = FakeClient()
    found = refused(known_login(other, app, known, None), other, startup("bob"))
    assert (found.reason, found.notify) == (AGAIN, True)
    third = FakeClient()
    asked = run(known_login(third, app, known, None), third, CANCEL)
    assert isinstance(asked, CancelAsked)


@pytest.mark.parametrize("user", ["ann", "ghost"])
def test_cancel_request_instead_of_a_password_is_one(
    client: FakeClient, user: str
) -> None:
    asked = run(client_login(client, app_of("md5")), client, startup(user), CANCEL)
    assert isinstance(asked, CancelAsked)
    assert asked.key == KEY


def choose(random_: random.Random) -> Any:
    """One thing that a client may send."""
    user = random_.choice(["ann", "bob", "ghost", "admin"])
    database = random_.choice(["p0", "p1", "nowhere", "pgbouncer"])
    return random_.choice(
        [
            startup(user, database),
            startup(user, database),
            md5_answer(user.encode(), b"secret"),
            password(b"wrong"),
            (ord("p"), b""),
            SSL_REQUEST,
            GSSENC_REQUEST,
            CANCEL,
            special(0x20000, b"\0" * 8),
            (ord("Q"), b"select 1\0"),
        ]
    )


@pytest.mark.parametrize("method", ["trust", *METHODS[:3]])
def test_a_client_is_counted_once_for_its_first_startup_packet(method: str) -> None:
    """Whatever clients send: counts are those of who is there, and what they named."""
    dice = random.Random(method)
    for _ in range(200):
        app = app_of(method)
        clients = []
        for _ in range(4):
            client = FakeClient()
            begin = startup(*dice.choice(NAMES))
            rest = [choose(dice) for _ in range(dice.randrange(5))]
            try:
                run(client_login(client, app), client, begin, *rest)
            except (Disconnect, Stopped):
                pass
            if client.counted_database is not None:
                name = client.counted_database.name.encode()
                assert b"\0database\0" + name + b"\0" in begin[1]
            clients.append(client)
        databases = [one.counted_database for one in clients]
        for database in app.registry.databases.values():
            assert database.client_count == databases.count(database)
        assert app.registry.databases["p1"].client_count <= 2
        users = [one.counted_user for one in clients]
        for user in app.registry.users.values():
            assert user.client_count == users.count(user)


def test_waiting_for_a_welcome_nothing_is_read(client: FakeClient) -> None:
    """What comes meanwhile is the relay's: `unknown pkt`."""
    app = app_of("trust")
    state = app.registry.databases["p0"]
    app.registry.pool(state, "ann").waiter = Waiter()
    with pytest.raises(Stopped) as stopped:
        run(client_login(client, app), client, startup(), startup("bob"))
    assert isinstance(stopped.value.want, Waiter)
