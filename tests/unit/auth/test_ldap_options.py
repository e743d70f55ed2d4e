"""LDAP options as PostgreSQL and PgBouncer read them.

What is expected was seen: PostgreSQL 15 and PgBouncer 1.26.1 with these lines in their
HBA files, and an LDAP server that writes down what it is asked. Where they differ,
PostgreSQL's meaning counts, and what only PgBouncer accepts is accepted as well.
"""

from __future__ import annotations

import pytest

from bouncer.auth.ldap import LdapError, Options, addresses
from bouncer.config.masking import HIDDEN, without_secrets

BASE, ONE, SUB, CHILDREN = range(4)
HERE = "ldapserver=h ldapport=1389 "
URL = "ldap://h:1389"

SEARCHES = [
    ('ldapbasedn="dc=x" # comment', "dc=x", SUB, "(uid=eve)"),
    ('ldapbasedn="dc=x" # base=y', "dc=x", SUB, "(uid=eve)"),
    ('ldapbasedn="dc=x" #ldapsearchattribute=cn', "dc=x", SUB, "(uid=eve)"),
    ('ldapbasedn="dc=x" stray', "dc=x", SUB, "(uid=eve)"),
    ('"ldapbasedn=dc=x"', "dc=x", SUB, "(uid=eve)"),
    ('"ldapbasedn=dc=x, dc=y"', "dc=x, dc=y", SUB, "(uid=eve)"),
    ('"ldapbasedn"=dc=x', "dc=x", SUB, "(uid=eve)"),
    ('ldapbasedn=dc="x y"', "dc=x y", SUB, "(uid=eve)"),
    ('ldapbasedn="dc=""x"""', 'dc="x"', SUB, "(uid=eve)"),
    ('ldapbasedn="dc=x" ,ldapsearchfilter="(cn=$username)"', "dc=x", SUB, "(cn=eve)"),
    ('ldapbasedn="dc=x",ldapsearchattribute=cn', "dc=x", SUB, "(cn=eve)"),
    # A hash is a comment where a word begins.
    ("ldapbasedn=dc=x#y", "dc=x#y", SUB, "(uid=eve)"),
    # URLs
    (f'ldapurl="{URL}/dc=x?cn,uid?sub"', "dc=x", SUB, "(cn=eve)"),
    (f'ldapurl="{URL}/dc=x?cn,uid"', "dc=x", BASE, "(cn=eve)"),
    (f'ldapurl="{URL}/dc=x??ONE"', "dc=x", ONE, "(uid=eve)"),
    (f'ldapurl="{URL}/dc=x?uid?children"', "dc=x", CHILDREN, "(uid=eve)"),
    (f'ldapurl="{URL}/dc=x?uid?subordinate"', "dc=x", CHILDREN, "(uid=eve)"),
    (f'ldapurl="{URL}/dc=x%20y?%63n?sub"', "dc=x y", SUB, "(cn=eve)"),
    (f'ldapurl="{URL}/dc=x??sub?(cn=$username)"', "dc=x", SUB, "(cn=eve)"),
    (f'ldapurl="LDAP{URL[4:]}/dc=x?uid?sub"', "dc=x", SUB, "(uid=eve)"),
    # No slash, no base
    (f'ldapurl="{URL}" ldapbasedn="dc=z"', "dc=z", SUB, "(uid=eve)"),
    (f'ldapbasedn="dc=z" ldapurl="{URL}"', "dc=z", BASE, "(uid=eve)"),
    (f'ldapbasedn="dc=z" ldapurl="{URL}/dc=x?uid?one"', "dc=x", ONE, "(uid=eve)"),
    # Each option sets the scope back
    (f'ldapurl="{URL}/dc=x?uid?one" ldapbasedn="dc=z"', "dc=z", SUB, "(uid=eve)"),
    (f'ldapurl="{URL}/dc=x?uid?one" ldapsearchattribute=cn', "dc=x", SUB, "(cn=eve)"),
    (f'ldapsearchattribute=cn ldapurl="{URL}/dc=x??one"', "dc=x", ONE, "(cn=eve)"),
    (f'ldapsearchattribute=cn ldapurl="{URL}/dc=x?uid?one"', "dc=x", ONE, "(uid=eve)"),
    (f'ldapurl="{URL}/dc=x?uid?base" ldaptls=0', "dc=x", SUB, "(uid=eve)"),
    (f'ldaptls=0 ldapurl="{URL}/dc=x?uid"', "dc=x", BASE, "(uid=eve)"),
]


@pytest.mark.parametrize(("text", "base", "scope", "asked"), SEARCHES)
def test_options_mean_what_they_mean_to_postgresql(
    text: str, base: str, scope: int, asked: str
) -> None:
    found = Options(text if "ldapurl" in text else HERE + text)
    assert (found.base_dn, found.scope, found.filter_for("eve")) == (base, scope, asked)
    assert addresses(found) == ("h", "ldap://h:1389")


def test_url_without_a_base_goes_with_a_prefix() -> None:
    """It was said to mix simple bind and search; both others take it."""
    found = Options(f'ldapurl="{URL}" ldapprefix="cn=" ldapsuffix=",dc=y"')
    assert (found.prefix, found.suffix, found.base_dn) == ("cn=", ",dc=y", None)


@pytest.mark.parametrize(
    "text",
    [
        f'{HERE} ldapprefix="cn=" ldapurl="{URL}/"',
        f'ldapurl="{URL}"',
        f'ldapurl="{URL}?cn?sub"',
        f'ldapurl="{URL} dc=x?cn?sub"',
        f'ldapurl="{URL}/dc=x??any"',
        'ldapurl="ldap://h:99999/dc=x"',
        f"stray {HERE} ldapbasedn=dc=x",
        f"{HERE} ldapbasedn = dc=x",
        f'{HERE} ldapbasedn= "dc=x"',
        f"{HERE} ldapbasedn=dc=x,dc=y",
        f"{HERE} ldapbasedn=dc=x map=y",
        f"{HERE} LDAPBASEDN=dc=x",
    ],
)
def test_options_that_both_refuse(text: str) -> None:
    with pytest.raises(LdapError):
        Options(text)


def test_word_before_an_option_may_be_a_secret_and_is_not_shown() -> None:
    with pytest.raises(LdapError) as refused:
        Options(f"{HERE} ldapbindpasswd=my own secret ldapbasedn=dc=x")
    assert str(refused.value) == f'invalid LDAP option: "{HIDDEN}"'


@pytest.mark.parametrize(
    "text",
    [
        '"ldapbindpasswd=hush" ldapbasedn=x',
        '"ldapbindpasswd"=hush ldapbasedn=x',
        '"ldapbindpasswd=hush hush" ldapbasedn=x',
        '"ldapbindpasswd"="hush hush" ldapbasedn=x',
    ],
)
def test_secret_is_hidden_however_it_is_quoted(text: str) -> None:
    assert "hush" in text and "hush" not in without_secrets(text, bare=True)
