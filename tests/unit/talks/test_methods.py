"""Methods that ask something else than a stored secret, and the HBA file."""

import os
from typing import Any

import pytest

from bouncer.talks import authenticate as module
from bouncer.talks.client_login import client_login
from tests.unit.talks.driver import (
    FakeApp,
    FakeClient,
    Lines,
    password,
    refused,
    run,
    startup,
)
from tests.unit.talks.test_authenticate import (
    PASSWORD,
    SECRETS,
    WRONG,
    app_of,
    attempt,
)

# HBA


def test_first_line_decides_and_nothing_falls_through(logged: Lines) -> None:
    hba = "host p0 ann 127.0.0.1/32 reject\nhost all all all trust\n"
    app = app_of("hba", hba=hba)
    assert attempt(app, "plain", b"x") == "login rejected"
    app = app_of("hba", hba="host all all all md5\nhost all all all trust\n")
    assert attempt(app, "md5", b"guess") == WRONG


def test_no_line(logged: Lines) -> None:
    text = "no authentication method is found"
    for hba in ("host p1 all all trust\n", "local all all trust\n", ""):
        assert attempt(app_of("hba", hba=hba), "plain", b"x") == text
    app = app_of("hba")
    app.hba = None
    assert attempt(app, "plain", b"x") == text


@pytest.mark.parametrize(
    ("method", "exchange", "works"),
    [
        ("trust", "none", True),
        ("password", "plain", True),
        ("md5", "md5", True),
        ("scram-sha-256", "scram-sha-256", True),
    ],
)
def test_hba_methods(logged: Lines, method: str, exchange: str, works: bool) -> None:
    app = app_of("hba", hba=f"host all all all {method}\n")
    assert attempt(app, exchange, PASSWORD) is None


def test_hba_looks_at_tls(client: FakeClient) -> None:
    hba = "hostssl all all all trust\nhostnossl all all all reject\n"
    app = app_of("hba", hba=hba)
    talk = client_login(client, app)
    assert refused(talk, client, startup()).reason == "login rejected"
    other = FakeClient()
    other.tls_object = "tls"
    run(client_login(other, app), other, startup())


def test_hba_is_asked_for_unknown_users_and_databases_too(client: FakeClient) -> None:
    hba = "host nodb ghost all reject\nhost all all all trust\n"
    talk = client_login(client, app_of("hba", hba=hba))
    found = refused(talk, client, startup("ghost", "nodb"))
    assert found.reason == "login rejected"


def test_hba_physical_replication_needs_the_keyword(client: FakeClient) -> None:
    app = app_of("hba", hba="host all all all trust\n")
    talk = client_login(client, app)
    found = refused(talk, client, startup(replication="true"))
    assert found.reason == "no authentication method is found"
    other = FakeClient()
    run(client_login(other, app), other, startup(replication="database"))


# Certificates


class Certificate:
    """A TLS object whose client has shown (or not shown) a certificate."""

    def __init__(self, *names: str, common: str = "") -> None:
        self.found: dict[str, Any] = {}
        if names or common:
            self.found = {
                "subject": ((("commonName", common),),),
                "subjectAltName": tuple(("DNS", name) for name in names),
            }

    def getpeercert(self) -> dict[str, Any]:
        return self.found


CERT_FAILED = "certificate authentication failed"


@pytest.mark.parametrize(
    ("shown", "problem"),
    [
        (None, "TLS connection required"),
        (Certificate(), "TLS client certificate required"),
        (Certificate(common="bob"), "TLS certificate name mismatch"),
        (Certificate(common="ann"), ""),
        (Certificate("ann", common="bob"), ""),
    ],
)
def test_cert(client: FakeClient, logged: Lines, shown: Any, problem: str) -> None:
    client.tls_object = shown
    talk = client_login(client, app_of("cert"))
    if not problem:
        run(talk, client, startup())
        return
    assert refused(talk, client, startup()).reason == CERT_FAILED
    assert logged.take()[-1] == f"ERROR C: p0/ann {problem}"


def test_cert_does_not_make_users(client: FakeClient, logged: Lines) -> None:
    client.tls_object = Certificate(common="ghost")
    talk = client_login(client, app_of("cert"))
    assert refused(talk, client, startup("ghost")).reason == CERT_FAILED


@pytest.mark.parametrize(
    ("ident", "works"),
    [
        ("m certuser ann\n", True),
        ("m certuser all\n", True),
        ("m certuser bob\nm other ann\n", False),
        ("m *.x ann\n", False),
    ],
)
def test_cert_with_map(
    client: FakeClient, logged: Lines, ident: str, works: bool
) -> None:
    client.tls_object = Certificate(common="certuser")
    app = app_of("hba", hba="host all all all cert map=m\n", ident=ident)
    talk = client_login(client, app)
    if works:
        run(talk, client, startup())
        return
    assert refused(talk, client, startup()).reason == CERT_FAILED
    assert logged.take()[-1] == "ERROR C: p0/ann ident map: m does not have a match"


# peer


def local(uid: int | None = None) -> FakeClient:
    client = FakeClient()
    client.is_unix = True
    client.peer_uid = os.geteuid() if uid is None else uid
    return client


PEER_FAILED = "unix socket login rejected"


def test_peer_is_the_os_user(logged: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "os_user_name", lambda uid: "ann")
    app = app_of("hba", hba="local all all peer\n")
    client = local()
    run(client_login(client, app), client, startup())
    for user in ("ghost", "bob"):
        client = local()
        talk = client_login(client, app)
        assert refused(talk, client, startup(user)).reason == PEER_FAILED


def test_peer_with_map(logged: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "os_user_name", lambda uid: "root")
    hba = "local all all peer map=m\n"
    client = local()
    app = app_of("hba", hba=hba, ident="m root ann\n")
    run(client_login(client, app), client, startup())
    client = local()
    app = app_of("hba", hba=hba, ident="m root bob\n")
    assert refused(client_login(client, app), client, startup()).reason == PEER_FAILED
    assert logged.take()[-1] == "ERROR C: p0/ann ident map m cannot be matched"


def test_peer_without_such_an_os_user(logged: Lines) -> None:
    client = local(uid=4_000_000)
    app = app_of("hba", hba="local all all peer\n")
    assert refused(client_login(client, app), client, startup()).reason == PEER_FAILED


def test_peer_over_tcp_always_fails(client: FakeClient) -> None:
    client.peer_uid = os.geteuid()
    app = app_of("hba", hba="host all all all peer\n")
    assert refused(client_login(client, app), client, startup()).reason == PEER_FAILED


# PAM and LDAP


def judge(monkeypatch: pytest.MonkeyPatch, name: str, right: bytes) -> list[Any]:
    """Replace the judge; gives what it was asked."""
    asked: list[Any] = []

    async def authenticate(*arguments: Any) -> bool:
        asked.append(arguments)
        return right in arguments

    monkeypatch.setattr(f"bouncer.auth.{name}.authenticate", authenticate)
    monkeypatch.setattr("bouncer.auth.ldap.library", lambda: "libldap")
    return asked


def test_pam_user_needs_no_auth_file(
    client: FakeClient, logged: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = judge(monkeypatch, "pam", b"right")
    app = FakeApp(auth_type="pam")
    run(client_login(client, app), client, startup("eve"), password(b"right"))
    assert asked == [("eve", b"right", "127.0.0.1")]
    # the password serves for the server, and for nothing else
    assert client.pool.credentials == ("eve", "right", None)
    assert not app.registry.users["eve"].in_auth_file


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:0:1", "::ffff:0:1"),
    ],
)
def test_pam_is_told_an_ipv4_address_in_one_form(
    client: FakeClient,
    logged: Lines,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    told: str,
) -> None:
    """A rule of PAM for 10.1.2.3 was passed over by ::ffff:10.1.2.3."""
    asked = judge(monkeypatch, "pam", b"right")
    client.peer_address = address
    app = FakeApp(auth_type="pam")
    run(client_login(client, app), client, startup("eve"), password(b"right"))
    assert asked == [("eve", b"right", told)]


def test_pam_refuses(
    client: FakeClient, logged: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(monkeypatch, "pam", b"right")
    app = FakeApp(auth_type="pam")
    talk = client_login(client, app)
    found = refused(talk, client, startup("eve"), password(b"wrong"))
    assert found.reason == "PAM authentication failed"
    assert "eve" not in app.registry.users


def test_wrong_password_does_not_replace_an_accepted_one(
    logged: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(monkeypatch, "pam", b"right")
    app = FakeApp(auth_type="pam")
    client = FakeClient()
    run(client_login(client, app), client, startup("eve"), password(b"right"))
    pool = client.pool
    other = FakeClient()
    refused(client_login(other, app), other, startup("eve"), password(b"wrong"))
    assert pool.credentials.secret == "right"


def test_pam_on_the_console_is_for_admins_only(
    client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = judge(monkeypatch, "pam", b"right")
    talk = client_login(client, FakeApp(auth_type="pam"))
    found = refused(talk, client, startup("eve", "pgbouncer"), password(b"right"))
    assert found.reason == "not allowed" and not asked
    other = FakeClient()
    app = FakeApp(auth_type="pam")
    steps = (startup("admin", "pgbouncer"), password(b"right"))
    assert run(client_login(other, app), other, *steps) == "console"


def test_ldap_line_on_the_console_is_for_admins_only(
    client: FakeClient, logged: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody unknown who satisfies LDAP must not end up on the console."""
    judge(monkeypatch, "ldap", b"right")
    app = FakeApp(auth_type="hba", hba="host all all all ldap ldapserver=x\n")
    talk = client_login(client, app)
    found = refused(talk, client, startup("eve", "pgbouncer"), password(b"right"))
    assert found.reason == "not allowed"


def test_pam_login_to_an_unknown_database(
    client: FakeClient, logged: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(monkeypatch, "pam", b"right")
    talk = client_login(client, FakeApp(auth_type="pam"))
    found = refused(talk, client, startup("eve", "nodb"), password(b"right"))
    assert found.reason == "no such database: nodb"


def test_ldap_gets_its_options(logged: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = judge(monkeypatch, "ldap", b"right")
    options = 'ldapserver=h ldapprefix="uid="'
    app = FakeApp(auth_type="ldap", auth_ldap_options=options)
    assert attempt(app, "plain", b"right", "eve") is None
    app = FakeApp(auth_type="hba", hba=f"host all all all ldap {options}\n")
    assert attempt(app, "plain", b"right", "eve") is None
    assert asked == [(options, "eve", b"right")] * 2
    assert attempt(app, "plain", b"no", "eve") == "LDAP authentication failed"


def test_ldap_password_serves_the_server_not_other_methods(
    logged: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(monkeypatch, "ldap", b"right")
    options = "ldapserver=h ldapprefix=x"
    app = app_of("ldap", auth_ldap_options=options)
    assert attempt(app, "plain", b"right") is None
    pool = app.registry.databases["p0"].pools["ann"]
    assert pool.credentials.secret == "right"
    assert app.registry.users["ann"].secret == SECRETS["plain"]


def test_ldap_without_options_or_library(
    logged: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = FakeApp(auth_type="ldap")
    assert attempt(app, "plain", b"x", "eve") == "auth_ldap_options is null"
    monkeypatch.setattr("bouncer.auth.ldap.library", lambda: None)
    app = FakeApp(auth_type="ldap", auth_ldap_options="ldapserver=h ldapprefix=x")
    assert attempt(app, "plain", b"x", "eve") == "ldap is not supported by this build"
