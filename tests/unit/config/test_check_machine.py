"""`--check` says which library this machine lacks for the configuration."""

from typing import Any

import pytest

from bouncer.auth import ldap, md5, pam
from bouncer.check.findings import ERROR, WARNING
from tests.unit.config.test_check import found, write  # noqa: F401  (a fixture)


@pytest.mark.parametrize(
    ("method", "library"), [("ldap", "libldap.so.2"), ("pam", "libpam.so.0")]
)
def test_missing_library_is_an_error_of_auth_type(
    write: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    library: str,
) -> None:
    monkeypatch.setattr(ldap, "library", lambda: None)
    monkeypatch.setattr(pam, "libraries", lambda: None)
    rest = f"auth_type = {method}\nauth_ldap_options = ldapserver=x ldapprefix=y\n"
    places, texts = found(write(rest))
    assert (ERROR, 4, "auth_type") in places
    assert library in texts[places.index((ERROR, 4, "auth_type"))]


def test_missing_library_is_an_error_of_the_hba_line(
    write: Any,  # noqa: F811
    here: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ldap, "library", lambda: None)
    (here / "hba").write_text("\nhost all all all ldap ldapserver=x ldapprefix=y\n")
    places, texts = found(write("auth_type = hba\nauth_hba_file = hba\n"))
    assert (ERROR, 2, "") in places
    assert "libldap2 on Debian 13" in texts[places.index((ERROR, 2, ""))]


def test_forbidden_md5_is_warned_of(
    write: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(md5, "is_allowed", lambda: False)
    places, texts = found(write("auth_type = md5\n[databases]\na = host=h\n"))
    assert places == [(WARNING, 4, "auth_type")]
    assert "FIPS" in texts[0] and "scram-sha-256" in texts[0]
