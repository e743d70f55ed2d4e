"""What a configuration needs of the machine is said before the first login.

A missing libldap or libpam was found out by the first client; where md5 is forbidden
(FIPS) it went on all the same, by an implementation that nobody had approved.
"""

from dataclasses import replace
from typing import Any

import pytest

from bouncer.auth import ldap, md5, needed, pam
from bouncer.config.hba import HbaRules
from bouncer.config.ident import IdentMaps
from bouncer.config.settings import Settings
from bouncer.errors import LibraryMissing, LoginFailed
from bouncer.talks.client_login import client_login
from bouncer.talks.server_login import server_login
from tests.unit.talks.driver import (
    FakeApp,
    FakeClient,
    FakeServer,
    Lines,
    catch_log,
    password,
    refused,
    run,
    startup,
)
from tests.unit.talks.test_authenticate import SECRETS

HBA = "local all all trust\nhost all all all ldap ldapserver=x ldapprefix=y\n"
LDAP = "libldap.so.2 (package libldap-2.5-0 on Debian 12, libldap2 on Debian 13)"
PAM = "libpam.so.0 (package libpam0g on Debian)"


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Lines:
    """The log."""
    return catch_log(monkeypatch)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with neither library."""
    monkeypatch.setattr(ldap, "library", lambda: None)
    monkeypatch.setattr(pam, "libraries", lambda: None)


@pytest.fixture
def fips(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that forbids md5."""
    monkeypatch.setattr(md5, "is_allowed", lambda: False)
    monkeypatch.setattr("bouncer.talks.server_login.is_allowed", lambda: False)


def settings_of(**values: Any) -> Settings:
    """Settings that differ from the defaults in *values*."""
    return replace(Settings.defaults(), **values)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"auth_type": "ldap"}, f"auth_type = ldap needs {LDAP}, not found here"),
        ({"auth_type": "pam"}, f"auth_type = pam needs {PAM}, not found here"),
        ({"auth_type": "hba"}, f"ldap in line 2 of FILE needs {LDAP}, not found here"),
    ],
)
def test_missing_library_is_named_with_its_package(
    bare: None, tmp_path: Any, values: dict[str, str], text: str
) -> None:
    file = tmp_path / "hba"
    file.write_text(HBA)
    settings = settings_of(auth_hba_file=str(file), **values)
    with pytest.raises(LibraryMissing) as error:
        needed.rules_for(settings)
    assert str(error.value) == text.replace("FILE", str(file))


def test_library_that_nobody_needs_is_not_missed(bare: None, tmp_path: Any) -> None:
    file = tmp_path / "hba"
    file.write_text(HBA)
    for method in ("md5", "trust", "any", "plain", "cert", "scram-sha-256"):
        settings = settings_of(auth_hba_file=str(file), auth_type=method)
        assert needed.rules_for(settings) is None
    file.write_text("local all all trust\n")
    settings = settings_of(auth_hba_file=str(file), auth_type="hba")
    assert len(needed.rules_for(settings).lines) == 1  # type: ignore[union-attr]


# md5


@pytest.mark.parametrize(
    ("method", "hba", "who"),
    [
        ("md5", "", "auth_type = md5"),
        ("hba", "host all all all md5\n", "md5 in line 1 of hba"),
        ("scram-sha-256", "", ""),
        ("plain", "host all all all md5\n", ""),
        ("hba", "host all all all scram-sha-256\n", ""),
    ],
)
def test_forbidden_md5_is_told_where_it_is_asked_for(
    fips: None, method: str, hba: str, who: str
) -> None:
    rules = HbaRules(hba, "hba", IdentMaps(""))
    text = needed.forbidden(settings_of(auth_type=method), rules)
    assert bool(text) == bool(who)
    assert who in text


@pytest.mark.parametrize("secret", ["plain", "md5"])
def test_forbidden_md5_lets_nobody_in_by_it(
    logged: Lines, fips: None, secret: str
) -> None:
    """The client is not even asked; the log says why."""
    client = FakeClient()
    app = FakeApp(users={"ann": SECRETS[secret]}, auth_type="md5")
    found = refused(client_login(client, app), client, startup())
    assert found.reason == "password authentication failed"
    assert client.take() == []
    assert f"ERROR C: p0/ann {md5.FORBIDDEN}" in logged.take()


def test_forbidden_md5_does_not_check_a_password_against_its_hash(
    logged: Lines, fips: None
) -> None:
    client = FakeClient()
    app = FakeApp(users={"ann": SECRETS["md5"]}, auth_type="plain")
    talk = client_login(client, app)
    found = refused(talk, client, startup(), password(b"secret"))
    assert found.reason == "password authentication failed"
    assert f"ERROR C: p0/ann {md5.FORBIDDEN}" in logged.take()


def test_forbidden_md5_is_not_the_answer_to_a_server(logged: Lines, fips: None) -> None:
    app = FakeApp(users={"ann": "secret"}, server_tls_sslmode="disable")
    pool = app.registry.pool(app.registry.databases["p0"], "ann")
    server = FakeServer(app, pool)
    with pytest.raises(LoginFailed) as error:
        run(server_login(server, app), server, (ord("R"), b"\0\0\0\5salt"))
    assert error.value.text == "server login failed: md5 is forbidden here"
    assert md5.FORBIDDEN in logged.take()[-1]


def test_secret_for_scram_works_where_md5_is_forbidden(
    logged: Lines, fips: None
) -> None:
    """With auth_type = md5, too: whoever has a SCRAM secret is asked for SCRAM."""
    client = FakeClient()
    app = FakeApp(users={"ann": SECRETS["scram"]}, auth_type="md5")
    with pytest.raises(Exception, match="READ"):
        run(client_login(client, app), client, startup())
    assert client.take()[-1] == ("R", b"\0\0\0\x0aSCRAM-SHA-256\0\0")


def test_openssl_is_asked_whether_md5_is_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_data: bytes) -> None:
        raise ValueError("[digital envelope routines] unsupported")

    monkeypatch.setattr("hashlib.md5", refuse)
    md5.is_allowed.cache_clear()
    try:
        assert not md5.is_allowed()
    finally:
        md5.is_allowed.cache_clear()
