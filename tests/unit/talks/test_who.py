"""Who is known, who is looked up, and who may use the console."""

import os
from typing import Any

import pytest

from bouncer.errors import Disconnect
from tests.unit.talks.driver import (
    KEY,
    FakeApp,
    FakeClient,
    Lines,
    Stopped,
    md5_answer,
    password,
    startup,
)
from tests.unit.talks.test_client_login import app_of, login, reason

# auth_type=any


def test_any_takes_every_name_for_the_forced_user(
    client: FakeClient, logged: Lines
) -> None:
    app = app_of(auth_type="any", databases={"p0": {"user": "app"}}, users={})
    assert login(client, app, startup("whoever")) is None
    assert client.pool is app.registry.databases["p0"].pools["app"]
    assert logged.take() == [
        "LOG C: p0/app login attempt: db=p0 user=app tls=no replication=no"
    ]


@pytest.mark.parametrize("database", ["p0", "nodb"])
def test_any_without_forced_user(
    client: FakeClient, logged: Lines, database: str
) -> None:
    app = app_of(auth_type="any")
    assert reason(client, app, startup("x", database)) == "bouncer config error"
    assert logged.take() == [
        "ERROR C: (nodb)/(nouser) auth_type=any requires forced user"
    ]


# auth_query


def looking_up(**settings: Any) -> FakeApp:
    settings.setdefault("auth_type", "md5")
    return app_of(auth_user="authu", users={"admin": "a"}, **settings)


def test_auth_query_gives_name_and_secret(client: FakeClient, logged: Lines) -> None:
    app = looking_up()
    app.rows["ann"] = ("ann", "secret")
    assert login(client, app, startup(), md5_answer(b"ann", b"secret")) is None
    assert app.asked == [("p0", "ann")]
    assert client.pool is app.registry.databases["p0"].pools["ann"]
    assert client.pool.credentials.secret == "secret"
    assert logged.take() == [
        "LOG C: p0/ann login attempt: db=p0 user=ann tls=no replication=no"
    ]


def test_auth_query_decides_under_which_name(client: FakeClient) -> None:
    app = looking_up()
    app.rows["ann"] = ("anna", "secret")
    assert login(client, app, startup(), md5_answer(b"anna", b"secret")) is None
    assert client.user == "anna"


def test_auth_query_without_row(client: FakeClient, logged: Lines) -> None:
    assert reason(client, looking_up(), startup("ghost")) == "no such user"
    assert logged.take() == ["LOG C: p0/(nouser) login failed: db=p0"]


@pytest.mark.parametrize("auth_type", ["md5", "plain"])
@pytest.mark.parametrize("guess", [b"md5", b"x", b"NULL"])
def test_cve_2025_2291_null_secret_matches_nothing(
    client: FakeClient, auth_type: str, guess: bytes
) -> None:
    """The original keeps NULL as the text "md5", which is then a password."""
    app = looking_up(auth_type=auth_type)
    app.rows["ann"] = ("ann", None)
    given = md5_answer(b"ann", guess) if auth_type == "md5" else password(guess)
    assert reason(client, app, startup(), given) == "password authentication failed"


def test_cve_2015_6817_user_whom_the_query_does_not_know_is_not_auth_user(
    client: FakeClient,
) -> None:
    for auth_type in ("trust", "md5", "plain", "scram-sha-256"):
        app = looking_up(auth_type=auth_type)
        assert reason(FakeClient(), app, startup("ghost")) == "no such user"


def test_auth_file_wins_over_auth_query(client: FakeClient) -> None:
    app = looking_up()
    with pytest.raises(Stopped):
        login(client, app, startup("admin"))
    assert app.asked == []


def test_auth_query_is_not_asked_for_an_unknown_database(client: FakeClient) -> None:
    app = looking_up()
    with pytest.raises(Stopped):
        login(client, app, startup("ann", "nodb"))
    assert app.asked == []


def test_auth_query_failure_reaches_the_client(client: FakeClient) -> None:
    app = looking_up()
    app.rows["ann"] = Disconnect("bouncer config error")
    assert reason(client, app, startup()) == "bouncer config error"


def test_auth_query_user_counts_for_the_user_limit() -> None:
    app = looking_up(max_user_client_connections=1)
    app.rows["ann"] = ("ann", "secret")
    with pytest.raises(Stopped):
        login(FakeClient(), app, startup())
    text = "client connections exceeded (max_user_client_connections)"
    assert reason(FakeClient(), app, startup()) == text


def test_auth_query_is_not_used_with_pam_or_ldap(
    client: FakeClient, logged: Lines
) -> None:
    for auth_type in ("pam", "ldap"):
        app = app_of(auth_type=auth_type, databases={"p0": {"auth_user": "authu"}})
        assert reason(FakeClient(), app, startup()) == "bouncer config error"
        assert logged.take() == [
            f"ERROR C: (nodb)/(nouser) {auth_type.upper()} can't be used together "
            "with database authentication"
        ]


# The console


def test_console_welcome(client: FakeClient, logged: Lines) -> None:
    app = app_of(users={"admin": ""})
    assert login(client, app, startup("admin", "pgbouncer")) == "console"
    kinds = client.take()
    assert kinds[:2] == [
        ("R", b"\0\0\0\0"),
        ("S", b"server_version\x001.25.2/bouncer\0"),
    ]
    assert kinds[-2:] == [("K", KEY), ("Z", b"I")]
    assert app.consoles["pgbouncer"].sessions == [("admin", False)]
    assert logged.take() == [
        "LOG C: pgbouncer/admin login attempt: "
        "db=pgbouncer user=admin tls=no replication=no"
    ]


def test_console_is_not_for_everybody(client: FakeClient) -> None:
    assert reason(client, app_of(), startup("ann", "pgbouncer")) == "not allowed"
    assert client.sent == b""


def test_console_does_not_tell_who_exists(client: FakeClient) -> None:
    app = app_of(auth_type="md5")
    with pytest.raises(Stopped):
        login(client, app, startup("ghost", "pgbouncer"))
    assert client.take()[0][0] == "R"


@pytest.mark.parametrize("auth_type", ["md5", "plain"])
def test_console_password_is_checked_whatever_else_is_on(
    client: FakeClient, auth_type: str
) -> None:
    app = looking_up(auth_type=auth_type, databases={"p0": {"user": "a"}})
    wrong = md5_answer(b"admin", b"x") if auth_type == "md5" else password(b"x")
    text = "password authentication failed"
    assert reason(client, app, startup("admin", "pgbouncer"), wrong) == text


def test_own_os_user_is_admin_without_a_password(
    client: FakeClient, logged: Lines
) -> None:
    app = app_of(auth_type="md5", users={})
    client.is_unix, client.peer_uid = True, os.geteuid()
    assert login(client, app, startup("pgbouncer", "pgbouncer")) == "console"
    assert app.consoles["pgbouncer"].sessions == [("admin", True)]
    assert logged.take() == [
        "LOG C: (nodb)/pgbouncer pgbouncer access from unix socket",
        "LOG C: pgbouncer/pgbouncer login attempt: "
        "db=pgbouncer user=pgbouncer tls=no replication=no",
    ]


@pytest.mark.parametrize(
    ("is_unix", "uid", "user", "database"),
    [
        (False, 0, "pgbouncer", "pgbouncer"),
        (True, 1, "pgbouncer", "pgbouncer"),
        (True, 0, "ann", "pgbouncer"),
        (True, 0, "pgbouncer", "p0"),
    ],
)
def test_nobody_else_is_let_in_as_the_own_os_user(
    client: FakeClient, is_unix: bool, uid: int, user: str, database: str
) -> None:
    app = app_of(auth_type="md5", users={})
    client.is_unix, client.peer_uid = is_unix, os.geteuid() + uid
    with pytest.raises(Stopped):
        login(client, app, startup(user, database))
