"""LDAP: how options are read, and logins at a real slapd."""

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest

from bouncer.auth import ldap
from bouncer.auth.ldap import LdapError, Options
from tests.conftest import missing
from tests.support.slapd import (
    ADMIN,
    ADMIN_PASSWORD,
    Slapd,
    free_port,
    make_certificate,
    need_slapd,
)
from tests.unit.talks.driver import Lines, catch_log


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Lines:
    return catch_log(monkeypatch)


# Options


def options_error(text: str) -> str:
    with pytest.raises(LdapError) as error:
        Options(text)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=b", [("a", "b")]),
        ("a=b c=d", [("a", "b"), ("c", "d")]),
        ("a=b,c=d", [("a", "b"), ("c", "d")]),
        (" a=b , c=d ", [("a", "b"), ("c", "d")]),
        ('a="b c,d"', [("a", "b c,d")]),
        ('a="b""c" d=e', [("a", 'b"c'), ("d", "e")]),
        ('a="" b=c', [("a", ""), ("b", "c")]),
        ('a="b', [("a", "b")]),
        ("a=", [("a", "")]),
        ("a=b=c", [("a", "b=c")]),
        ("a=cn=x\tb=1", [("a", "cn=x"), ("b", "1")]),
    ],
)
def test_pairs(text: str, expected: list[tuple[str, str]]) -> None:
    assert ldap.pairs(text) == expected


def test_simple_bind_options() -> None:
    found = Options(
        'ldapserver="a b" ldapport=1389 ldapprefix="uid=" ldapsuffix=",dc=x"'
    )
    assert (found.server, found.port, found.scheme) == ("a b", 1389, "ldap")
    assert (found.prefix, found.suffix, found.tls) == ("uid=", ",dc=x", False)
    assert ldap.addresses(found) == ("a b", "ldap://a:1389 ldap://b:1389")


def test_search_options() -> None:
    found = Options('ldapserver=h ldapscheme=ldaps ldaptls=1 ldapbasedn="dc=x"')
    assert found.tls and found.filter_for("eve") == "(uid=eve)"
    assert ldap.addresses(found) == ("h", "ldaps://h:636")
    found = Options("ldapserver=h ldapbasedn=x ldapsearchattribute=cn ldaptls=0")
    assert not found.tls and found.filter_for("eve") == "(cn=eve)"
    found = Options(
        'ldapserver=h ldapbasedn=x ldapsearchfilter="(|(a=$username)(b=$username))"'
    )
    assert found.filter_for("eve") == "(|(a=eve)(b=eve))"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ldap://h/", ("ldap", "h", 0, "", None, 0, None)),
        ("ldaps://h:1636/dc=x", ("ldaps", "h", 1636, "dc=x", None, 0, None)),
        ("ldap://h/dc=x%20y?cn?sub", ("ldap", "h", 0, "dc=x y", "cn", 2, None)),
        ("ldap://h/dc=x??one?(a=b)", ("ldap", "h", 0, "dc=x", None, 1, "(a=b)")),
    ],
)
def test_ldapurl(url: str, expected: tuple[Any, ...]) -> None:
    found = Options(f'ldapurl="{url}"')
    assert (
        found.scheme,
        found.server,
        found.port,
        found.base_dn,
        found.search_attribute,
        found.scope,
        found.search_filter,
    ) == expected


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("ldapserver=h foo=1", 'invalid LDAP option: "foo"'),
        ("ldapserver ldaptls=1", 'invalid LDAP option: "ldapserver"'),
        ("ldapscheme=http", 'invalid ldapscheme value: "http"'),
        ("ldapport=0", 'invalid LDAP port number: "0"'),
        ("ldapport=x", 'invalid LDAP port number: "x"'),
        ("ldapport=65536", 'invalid LDAP port number: "65536"'),
        ("ldapurl=http://h", "unsupported LDAP URL scheme: http"),
        (
            "ldapserver=h ldapprefix=x ldapbasedn=y",
            "cannot mix options for simple bind and search+bind modes",
        ),
        (
            "ldapserver=h ldapsuffix=x ldapsearchfilter=y",
            "cannot mix options for simple bind and search+bind modes",
        ),
        (
            "ldapserver=h",
            'authentication method "ldap" requires argument "ldapbasedn", '
            '"ldapprefix", or "ldapsuffix" to be set',
        ),
        (
            "ldapserver=h ldapbasedn=x ldapsearchattribute=y ldapsearchfilter=z",
            "cannot use ldapsearchattribute together with ldapsearchfilter",
        ),
        ("ldapprefix=x", "LDAP server not specified, and no ldapbasedn"),
        (
            "ldapserver=" + "h" * 1024,
            "The LDAP options are longer than MAX_LDAP_CONFIG: 1024",
        ),
    ],
)
def test_options_that_do_not_go_together(text: str, error: str) -> None:
    assert options_error(text) == error


def test_ldapurl_that_is_none() -> None:
    for url in ("ldap://h:x/", "ldap://h/dc=x??all"):
        text = options_error(f"ldapurl={url}")
        assert text.startswith(f'could not parse LDAP URL "{url}": ')


# A real server

PEOPLE = {"eve": "right", "bob": "other"}


@pytest.fixture(scope="module")
def slapd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slapd]:
    if ldap.library() is None:
        missing("needs libldap (apt-get install libldap-2.5-0)")
    need_slapd()
    where = tmp_path_factory.mktemp("slapd")
    make_certificate(where)
    # libldap reads these once, when it makes its first TLS connection.
    os.environ["LDAPTLS_CACERT"] = str(where / "crt")
    server = Slapd(where, where / "crt", where / "key", PEOPLE)
    yield server
    server.stop()


def ask(options: str, user: str = "eve", password: bytes = b"right") -> bool:
    return asyncio.run(ldap.authenticate(options, user, password))


SIMPLE = 'ldapprefix="uid=" ldapsuffix=",ou=people,dc=example"'
SEARCH = f'ldapbasedn="dc=example" ldapbinddn="{ADMIN}" ldapbindpasswd={ADMIN_PASSWORD}'


def at(server: Slapd, more: str) -> str:
    return f"ldapserver=127.0.0.1 ldapport={server.port} {more}"


def test_simple_bind(slapd: Slapd, logged: Lines) -> None:
    assert ask(at(slapd, SIMPLE))
    assert ask(at(slapd, SIMPLE), "bob", b"other")
    assert logged.take() == []
    assert not ask(at(slapd, SIMPLE), "bob")
    assert logged.take() == [
        "WARNING LDAP login failed for user uid=bob,ou=people,dc=example on server "
        "127.0.0.1: Invalid credentials"
    ]


def test_search_and_bind(slapd: Slapd, logged: Lines) -> None:
    assert ask(at(slapd, SEARCH))
    assert ask(at(slapd, SEARCH + " ldapsearchattribute=cn"), "Bob", b"other")
    filtered = SEARCH + ' ldapsearchfilter="(&(uid=$username)(sn=E))"'
    assert ask(at(slapd, filtered))
    assert logged.take() == []
    assert not ask(at(slapd, filtered), "bob", b"other")
    assert logged.take() == [
        'WARNING LDAP user "bob" does not exist',
        'WARNING LDAP search for filter "(&(uid=bob)(sn=E))" on server "127.0.0.1" '
        "returned no entries.",
        'WARNING LDAP search was for base "dc=example", scope sub',
    ]


def test_search_must_find_one(slapd: Slapd, logged: Lines) -> None:
    options = at(slapd, SEARCH + " ldapsearchattribute=mail")
    assert not ask(options, "twin@example")
    assert logged.take() == [
        'WARNING LDAP user "twin@example" is not unique',
        'WARNING LDAP search for filter "(mail=twin@example)" on server "127.0.0.1" '
        "returned 2 entries.",
    ]


def test_search_of_a_base_that_does_not_exist(slapd: Slapd, logged: Lines) -> None:
    options = at(slapd, SEARCH.replace("dc=example", "dc=nowhere", 1))
    assert not ask(options)
    assert logged.take() == [
        'WARNING could not search LDAP for filter "(uid=eve)" on server "127.0.0.1": '
        "No such object",
        'WARNING LDAP search was for base "dc=nowhere", scope sub',
    ]


def test_bind_before_the_search_fails(slapd: Slapd, logged: Lines) -> None:
    options = at(
        slapd, f'ldapbasedn="dc=example" ldapbinddn="{ADMIN}" ldapbindpasswd=x'
    )
    assert not ask(options)
    assert logged.take() == [
        f'WARNING could not perform initial LDAP bind for ldapbinddn "{ADMIN}" on '
        'server "127.0.0.1": Invalid credentials'
    ]


@pytest.mark.parametrize("user", ["*", "e*", "eve)(uid=*", "a\\b", "a/b"])
def test_names_that_would_be_a_filter(slapd: Slapd, logged: Lines, user: str) -> None:
    assert not ask(at(slapd, SEARCH), user)
    assert logged.take() == [
        "WARNING invalid character in user name for LDAP authentication"
    ]


def test_empty_password_is_no_login(slapd: Slapd, logged: Lines) -> None:
    """A bind without a password is anonymous, and succeeds."""
    assert not ask(at(slapd, SIMPLE), "eve", b"")


def test_long_names_are_not_cut(slapd: Slapd, logged: Lines) -> None:
    """PgBouncer cuts the DN at 255 bytes."""
    assert not ask(at(slapd, SIMPLE), "e" * 300)
    assert f"user uid={'e' * 300},ou=people" in logged.take()[0]


def test_starttls(slapd: Slapd, logged: Lines) -> None:
    assert ask(at(slapd, SIMPLE + " ldaptls=1"))
    assert logged.take() == []


def test_ldaps(slapd: Slapd, logged: Lines) -> None:
    options = (
        f"ldapserver=127.0.0.1 ldapscheme=ldaps ldapport={slapd.tls_port} {SIMPLE}"
    )
    assert ask(options)
    url = f'ldapurl="ldaps://127.0.0.1:{slapd.tls_port}/dc=example?uid?sub" '
    rights = f'ldapbinddn="{ADMIN}" ldapbindpasswd={ADMIN_PASSWORD}'
    assert ask(url + rights)
    assert logged.take() == []


def test_second_server_is_asked_when_the_first_is_gone(
    slapd: Slapd, logged: Lines
) -> None:
    # 127.0.0.2 answers nobody on this port: slapd listens on 127.0.0.1 only.
    assert ask(f'ldapserver="127.0.0.2 127.0.0.1" ldapport={slapd.port} {SIMPLE}')


def test_server_that_is_not_there(logged: Lines) -> None:
    if ldap.library() is None:
        pytest.skip("needs libldap (apt-get install libldap-2.5-0)")
    options = f"ldapserver=127.0.0.1 ldapport={free_port()} ldapprefix=uid="
    assert not ask(options)
    assert logged.take() == [
        "WARNING LDAP login failed for user uid=eve on server 127.0.0.1: "
        "Can't contact LDAP server"
    ]
    assert not ask(options + " ldaptls=1")
    [line] = logged.take()
    assert line.startswith("WARNING could not start LDAP TLS session: ")


def test_bad_options_refuse_everybody(logged: Lines) -> None:
    assert not ask("ldapserver=h foo=1")
    assert logged.take() == ['WARNING invalid LDAP option: "foo"']
