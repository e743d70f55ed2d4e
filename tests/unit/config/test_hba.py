"""Which HBA line a connection gets; how lines are read is recorded and compared."""

import pytest

from bouncer.config.hba import HbaRules
from bouncer.config.ident import IdentMaps

UNIX, NONE, LOGICAL, PHYSICAL = None, 0, 1, 2


def rules(text, ident="", path="hba"):
    found = HbaRules(text, path, IdentMaps(ident))
    assert not found.problems
    return found


def method(found, database, user, address, tls=False, replication=NONE):
    line = found.match(database, user, address, tls, replication)
    return line and (line.line, line.method)


def test_the_first_line_that_fits_decides():
    found = rules("local all all trust\nhost d a 10.0.0.0/8 md5\nhost d a all reject")
    assert method(found, "d", "a", UNIX) == (1, "trust")
    assert method(found, "d", "a", "10.1.2.3") == (2, "md5")
    assert method(found, "d", "a", "11.1.2.3") == (3, "reject")
    assert method(found, "d", "b", "11.1.2.3") is None


def test_hostssl_and_hostnossl_look_at_this_connection():
    found = rules("hostssl all all all md5\nhostnossl all all all reject")
    assert method(found, "d", "a", "::1", tls=True) == (1, "md5")
    assert method(found, "d", "a", "::1", tls=False) == (2, "reject")
    assert method(found, "d", "a", UNIX) is None


def test_families_do_not_mix():
    found = rules("host all all 0.0.0.0/0 md5\nhost all all ::/0 trust")
    assert method(found, "d", "a", "127.0.0.1") == (1, "md5")
    assert method(found, "d", "a", "fe80::1%eth0") == (2, "trust")


def test_ipv4_written_as_ipv6_fits_lines_of_both():
    """A reject line for 10.1.2.3 was passed over by ::ffff:10.1.2.3."""
    found = rules(
        "host all all 10.1.2.3/32 reject\n"
        "host all all ::ffff:10.9.0.0/112 reject\n"
        "host all all 10.0.0.0/8 md5\n"
        "host all all ::/0 trust"
    )
    assert method(found, "d", "a", "::ffff:10.1.2.3") == (1, "reject")
    assert method(found, "d", "a", "::ffff:10.9.8.7") == (2, "reject")
    assert method(found, "d", "a", "::ffff:10.1.2.4") == (3, "md5")
    assert method(found, "d", "a", "::ffff:192.0.2.1") == (4, "trust")
    assert method(found, "d", "a", "192.0.2.1") is None
    assert method(found, "d", "a", "::a01:203") == (4, "trust")
    assert method(found, "d", "a", "::1:ffff:a01:203") == (4, "trust")


def test_mask_column_and_host_bits():
    found = HbaRules("host all all 10.0.0.1 255.0.0.0 md5", "hba", IdentMaps())
    assert [p.text for p in found.problems] == [
        "address does not match mask in hba line #1: 10.0.0.1 / 255.0.0.0"
    ]
    assert method(found, "d", "a", "10.0.0.1") is None


def test_physical_replication_wants_its_keyword():
    found = rules("host all all all trust\nhost replication r all md5")
    assert method(found, "d", "r", "::1", replication=PHYSICAL) == (2, "md5")
    assert method(found, "d", "r", "::1", replication=LOGICAL) == (1, "trust")
    only = rules("host replication all all md5")
    assert method(only, "replication", "r", "::1") is None


@pytest.mark.parametrize("column", ["sameuser all", "all sameuser"])
def test_sameuser_stands_in_both_columns(column):
    found = rules(f"host {column} all md5")
    assert method(found, "a", "a", "::1") == (1, "md5")
    assert method(found, "b", "a", "::1") is None


def test_quoting_makes_a_name_of_a_keyword():
    found = rules('host "all","@f","a""b" "+g" all md5')
    for name in ("all", "@f", 'a"b'):
        assert method(found, name, "+g", "::1") == (1, "md5")
    assert method(found, "d", "+g", "::1") is None


def test_lists_in_files_are_relative_to_the_file_that_names_them(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "list").write_text("a, b ignored\n@more\n")
    (tmp_path / "sub" / "more").write_text("c\n@list\n")
    found = rules("host @sub/list all all md5", path=str(tmp_path / "hba"))
    for name in "abc":
        assert method(found, name, "u", "::1") == (1, "md5")
    assert method(found, "ignored", "u", "::1") is None


def test_ldap_keeps_the_rest_of_the_line():
    found = rules('host all all all ldap ldapserver=h ldapprefix="cn=" # x\r\n')
    line = found.match("d", "a", "::1", False, NONE)
    assert line.options == 'ldapserver=h ldapprefix="cn=" # x'


def test_ident_maps_say_who_may_be_whom():
    ident = 'm root a\nm root "all"\nm www all\n'
    found = rules("local all all peer map=m", ident).match("d", "a", UNIX, False, 0)
    assert found.map.name == "m"
    assert found.map.allows("root", "a") and found.map.allows("www", "anybody")
    assert found.map.allows("root", "all") and not found.map.allows("root", "b")
    assert not found.map.allows("other", "a")
