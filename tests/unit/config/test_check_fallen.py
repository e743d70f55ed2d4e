"""`--check` tells what happens to those whom an HBA line does not meet."""

import pytest

from bouncer.check.fallen import doubts, fates
from bouncer.check.main import check
from bouncer.config.hba import HbaRules
from bouncer.config.ident import IdentMaps
from tests.unit.config.test_check import write  # noqa: F401  (a fixture)

ALL_TRUST = "host all all all trust"

# The first line is not understood; what the check says of its people.
FATES = [
    ("host all alice all gss", [ALL_TRUST],
     '"alice" falls to line 2 (trust): let in without a password'),
    ("host all alice all gss", ["host all bob all trust"],
     '"alice": refused, no line behind it fits'),
    ("host all alice all gss", ["host all bob all trust", "host all all all md5"],
     '"alice" falls to line 3 (md5)'),
    ("host all alice all gss", ["host d alice 10.0.0.0/8 reject", ALL_TRUST],
     '"alice" falls to line 2 (reject) or line 3 (trust): let in without a '
     "password"),
    ("host all alice 10.1.0.0/16 gss", ["host all all 192.168.0.0/16 trust"],
     '"alice": refused, no line behind it fits'),
    ("host all alice 10.1.0.0/16 gss", ["host all all 10.0.0.0/8 md5", ALL_TRUST],
     '"alice" falls to line 2 (md5)'),
    ("host all alice db.example md5", [ALL_TRUST],
     '"alice" falls to line 2 (trust): let in without a password'),
    ("host all alice samenet md5", [ALL_TRUST],
     '"alice" falls to line 2 (trust): let in without a password'),
    ("host all +admins all md5", [ALL_TRUST],
     "its clients fall to line 2 (trust): let in without a password"),
    ("host all a,b,c,d,e all gss", [ALL_TRUST],
     '"a", "b", "c" and others fall to line 2 (trust): let in without a '
     "password"),
    ("local all alice gss", [ALL_TRUST], '"alice": refused, no line behind it fits'),
    ("local all alice peer map=x", ["local all all trust"],
     '"alice" falls to line 2 (trust): let in without a password'),
    ("hostssl all alice all gss", ["hostnossl all all all trust",
      "host all all all md5"],
     '"alice" falls to line 3 (md5)'),
    ("hostnogssenc all alice all md5", [ALL_TRUST],
     '"alice" falls to line 2 (trust): let in without a password'),
    ("hostgssenc all alice all md5", [ALL_TRUST],
     "nobody comes with GSS encryption, so it is for nobody"),
    ("include other.conf", [ALL_TRUST],
     "the file is not read, its lines count for nothing"),
    ("hots all alice all reject", [ALL_TRUST],
     "its clients fall to line 2 (trust): let in without a password"),
    ("host all alice", [ALL_TRUST],
     '"alice" falls to line 2 (trust): let in without a password'),
    ("host replication alice all gss", [ALL_TRUST],
     '"alice": refused, no line behind it fits'),
    ("host replication alice all gss", [ALL_TRUST, "host replication all all md5"],
     '"alice" falls to line 3 (md5)'),
    ('host all "alice', [ALL_TRUST],
     "its clients fall to line 2 (trust): let in without a password"),
]  # fmt: skip


@pytest.mark.parametrize(("broken", "behind", "expected"), FATES)
def test_fate_of_those_whose_line_is_skipped(
    broken: str, behind: list[str], expected: str
) -> None:
    """`alice gss` above `all trust` let alice in, and the check named a line only."""
    text = "\n".join([broken, *behind])
    rules = HbaRules(text, "hba", IdentMaps())
    assert fates(text, rules) == {1: expected}


def test_line_that_is_never_reached_changes_nothing() -> None:
    text = f"host all all all md5\nhost all alice all gss\n{ALL_TRUST}"
    rules = HbaRules(text, "hba", IdentMaps())
    assert fates(text, rules) == {2: "which changes nothing: line 1 comes first"}


NONE: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
DOUBTS = [
    ('host all "all" all reject', '"all" in quotes is no keyword, so it is for a user '
     "that is called so"),
    ('host "replication" r all reject', '"replication" in quotes is no keyword, so it '
     "is for a database that is called so"),
    ('host all "+admins" all reject', '"+admins" in quotes is a plain name, so it is '
     "for a user that is called so"),
    ("host all /^a.*$ all reject", "/^a.*$ is no regular expression here, so it is for "
     "a user that is called so"),
    ('host "/^db[0-9]+$" all all reject', "/^db[0-9]+$ is no regular expression here, "
     "so it is for a database that is called so"),
    ("host all ALL all reject", "ALL is no keyword, which are written small, so it is "
     "for a user that is called so"),
    ("host all app_* all reject", "app_* is no pattern, so it is for a user that is "
     "called so"),
    ("host all bob,/^a all reject", "/^a is no regular expression here, so it is for a "
     "user that is called so"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "what"), DOUBTS)
def test_names_that_look_like_something_else(line: str, what: str) -> None:
    text = f"{line}\n{ALL_TRUST}"
    rules = HbaRules(text, "hba", IdentMaps())
    assert not rules.problems
    [found] = doubts(text, rules, NONE)
    assert found[:2] == (1, what)
    assert found[2].endswith(" to line 2 (trust): let in without a password")


def test_names_that_are_names_are_not_doubted() -> None:
    text = (
        'local all all peer\nhost sameuser,replication "Alice",bob 10.0.0.0/8 md5\n'
        'host all all all ldap ldapserver=h ldapprefix="uid=" # the rest\n'
    )
    rules = HbaRules(text, "hba", IdentMaps())
    assert not rules.problems and doubts(text, rules, NONE) == []


@pytest.mark.parametrize(("line", "what"), DOUBTS)
def test_names_that_there_are_are_meant(line: str, what: str) -> None:
    rules = HbaRules(line, "hba", IdentMaps())
    there = ("all", "replication", "+admins", "/^a.*$", "/^db[0-9]+$", "ALL", "app_*")
    assert doubts(line, rules, ((*there, "/^a"), (*there, "/^a"))) == []


def test_ldap_options_are_looked_at(write, here) -> None:  # noqa: F811
    """Their mistakes showed at the first login only."""
    (here / "hba").write_text(
        "host all a all ldap ldapserver=h ldapbasdn=x\n"
        "host all b all ldap ldapserver=h ldapprefix=x ldapbindpasswd=hush\n"
        "host all c all ldap ldapserver=h ldapbasedn=x\n"
        "host all d all gss\n" + ALL_TRUST + "\n"
    )
    (here / "hba").chmod(0o600)
    path = write("auth_type = hba\nauth_hba_file = hba\n[databases]\na = host=h\n")
    findings, _ = check(path, online=False)
    about = {(one.line, one.text, one.suggestion) for one in findings
             if one.file == "hba"}  # fmt: skip
    refuses = "it refuses everybody whom it is for"
    falls = '"d" falls to line 5 (trust): let in without a password'
    assert about == {
        (1, 'invalid LDAP option: "ldapbasdn"', refuses),
        (2, "cannot mix options for simple bind and search+bind modes", refuses),
        (4, "hba line 4: unsupported method: buf=gss", ""),
        (4, "could not parse hba config line 4", falls),
    }


def test_ldap_options_of_the_setting_are_looked_at(write) -> None:  # noqa: F811
    path = write(
        "auth_type = ldap\nauth_ldap_options = ldapserver=h\n[databases]\na = host=h\n"
    )
    findings, _ = check(path, online=False)
    [text] = [one.text for one in findings if one.setting == "auth_ldap_options"]
    assert text.startswith("authentication method") and text.endswith("log in")
