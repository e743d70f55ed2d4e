"""What the grammar of ini files, connection strings and auth_file allows."""

import pytest

from bouncer.config.connstr import BadConnstr, pairs
from bouncer.config.ini import IniError, read_ini
from bouncer.config.load import Loader, load, make_autodb, masked
from bouncer.config.userlist import UserList, UserListFile
from bouncer.errors import ConfigError


class Listener:
    """A sink that writes down what it is told."""

    def __init__(self):
        self.heard = []

    def section(self, name, place):
        self.heard.append((place.line, f"[{name}]"))

    def item(self, key, value, place):
        self.heard.append((place.line, place.shown, key, value))

    def debug(self, text):
        pass


def heard(here, text):
    (here / "a.ini").write_bytes(text)
    listener = Listener()
    read_ini("a.ini", listener)
    return listener.heard


def test_an_item_knows_its_own_line_and_the_one_that_is_reported(here):
    text = b"[x]\na = 1\n\n\nb = 2 \nc=3\r\n\r\n'd\n e' =4"
    assert heard(here, text) == [
        (1, "[x]"),
        (2, 4, "a", "1"),
        (5, 6, "b", "2"),
        (6, 8, "c", "3"),
        (9, 9, "d\n e", "4"),
    ]


def test_values_keep_quotes_comments_and_equal_signs(here):
    assert heard(here, b"a = 'x' ; y = z # w  ") == [(1, 1, "a", "'x' ; y = z # w")]


def test_bytes_that_are_no_utf8_survive(here):
    ((_, _, key, value),) = heard(here, b"'\xff' = \xe9\xff")
    assert key.encode("utf-8", "surrogateescape") == b"\xff"
    assert value.encode("utf-8", "surrogateescape") == b"\xe9\xff"


def test_an_include_of_itself_ends(here, logged):
    (here / "a.ini").write_text("[pgbouncer]\n%include a.ini\n")
    with pytest.raises(IniError) as error:
        read_ini("a.ini", Listener())
    assert error.value.lines[0] == (
        "include nesting level too deep (a.ini:2), stopping loading"
    )
    assert len(error.value.lines) == 11


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("   ", []),
        ("a=1 b = 2", [("a", "1"), ("b", "2")]),
        ("a='it''s'  b==c", [("a", "it's"), ("b", "=c")]),
        ("a=x\ty", [("a", "x\ty")]),
        ("a='x'yb=1", [("a", "x"), ("b", "1")]),
        ("'a'=1", [("'a'", "1")]),
    ],
)
def test_connstr(text, found):
    assert list(pairs(text)) == found


@pytest.mark.parametrize("text", ["a", "a b=1", "a=", "=1", "a=''", "a='b", "a='b''"])
def test_connstr_refuses(text):
    with pytest.raises(BadConnstr):
        list(pairs(text))


def test_connstr_is_read_in_linear_time():
    with pytest.raises(BadConnstr):
        list(pairs("a='" + "''" * 200_000))


def write(here, text):
    (here / "pgbouncer.ini").write_text(text)


@pytest.mark.regression(105)
def test_reload_that_fails_leaves_everything_as_it_was(here, logged):
    """The original would have kept b's new port, lost the peer and reset log_stats."""
    write(
        here, "[databases]\nb = port=1\n[peers]\n1 = host=h\n[pgbouncer]\nlog_stats=0"
    )
    running = load("pgbouncer.ini")
    write(here, "[databases]\nb = port=2\n[pgbouncer]\nbad = 1\nlog_stats=0")
    with pytest.raises(ConfigError):
        load("pgbouncer.ini", running)
    assert logged == [
        "ERROR unknown parameter: pgbouncer/bad",
        'ERROR invalid value "1" for parameter bad in configuration (pgbouncer.ini:4)',
    ]
    assert running.databases["b"].port == 1
    assert running.peers.keys() == {1}
    assert running.settings.log_stats == 0


def test_reload_discards_what_set_changed(here):
    write(here, "[pgbouncer]\nauth_user=x\n")
    running = load("pgbouncer.ini")
    running.settings = running.settings.with_value("log_stats", "0")
    running.settings = running.settings.with_value("auth_file", "list")
    again = load("pgbouncer.ini", running)
    assert again.settings.log_stats == 1
    # Without a default there is nothing to go back to.
    assert again.settings.auth_file == "list"


def test_reload_resets_our_section_though_no_pgbouncer_header_does(here):
    write(here, "[pybouncer]\nlog_format=JSON\nworkers=1\n[pgbouncer]\n[pgbouncer]\n")
    running = load("pgbouncer.ini")
    assert running.settings.log_format == "json"
    write(here, "[pgbouncer]\n")
    assert load("pgbouncer.ini", running).settings.log_format == "text"


def test_a_reserved_setting_says_that_it_has_no_effect(here, logged):
    write(here, "[pgbouncer]\n[pybouncer]\nworkers = 4\n")
    assert load("pgbouncer.ini").settings.workers == 4
    assert logged == ["WARNING workers = 4 has no effect yet"]


@pytest.mark.parametrize("section", ["pgbouncer", "pybouncer"])
def test_sections_do_not_share_their_settings(here, logged, section):
    other = {"pgbouncer": "log_format=json", "pybouncer": "log_stats=1"}[section]
    write(here, f"[pgbouncer]\n[{section}]\n{other}\n")
    with pytest.raises(ConfigError):
        load("pgbouncer.ini")
    assert logged[0] == f"ERROR unknown parameter: {section}/{other.split('=')[0]}"


def test_verbose_in_the_file_shows_what_follows_it_but_no_password(here, logged):
    write(
        here,
        "[pgbouncer]\nlog_stats=1\nverbose=1\n[databases]\n"
        "a = host=h password='geheim'\n[pgbouncer]\n"
        "auth_ldap_options = ldapbindpasswd=geheim\n",
    )
    config = load("pgbouncer.ini")
    assert config.settings.verbose == 1
    assert logged[0] == "DEBUG parse_ini_file: 'verbose' = '1' ok:1"
    assert "DEBUG parse_ini_file: 'a' = 'host=h password=***' ok:1" in logged
    assert not [line for line in logged if "geheim" in line]
    assert masked("password='geheim") == "***"


def test_sources_tell_where_a_value_was_set_last(here):
    (here / "more.ini").write_text("log_stats = 1\n\nc = \n[pgbouncer]\nlog_stats=0")
    write(here, "[databases]\na=\n[pgbouncer]\nlisten_port=1\n%include more.ini\n")
    with pytest.raises(IniError):
        Loader("pgbouncer.ini", None, 0).read()
    (here / "more.ini").write_text("verbose=0\n[pgbouncer]\n\nlog_stats=0\n\n\n")
    config = load("pgbouncer.ini")
    # The second header took listen_port back to its default.
    assert config.sources == {"verbose": "more.ini:1", "log_stats": "more.ini:4"}
    assert config.databases["a"].source == "pgbouncer.ini:2"


def test_fallback_is_parsed_when_it_is_used(here, logged):
    write(here, "[databases]\n* = host=h user=u\n[pgbouncer]\n")
    config = load("pgbouncer.ini")
    made = make_autodb(config, "new")
    assert (made.name, made.dbname, made.host, made.user) == ("new", "new", "h", "u")
    assert made.source == "pgbouncer.ini:2"
    config.autodb.text = "hots=h"
    assert make_autodb(config, "new") is None
    assert logged == ["ERROR unrecognized connection parameter: hots"]
    config.autodb.text = "host=k"
    assert make_autodb(config, "new", made).user == "u"
    assert make_autodb(config, "n" * 64) is None
    config.autodb = None
    assert make_autodb(config, "new") is None


def test_userlist_knows_where_its_entries_stand():
    found = UserList('; c\n"a" "b"\n"c"\n\n"d" x\n\n"e""" "f"')
    assert found.secrets == {"a": "b", "c": "d", 'e"': "f"}
    assert found.lines == {"a": 2, "c": 3, 'e"': 7}
    broken = UserList('"a" "b"\n\n"c')
    assert (str(broken.problem), broken.problem.line) == ("broken auth file", 3)


def test_userlist_of_ten_thousand_users_is_read_fast(here):
    """It is linear: the time limit of the test is far away."""
    secret = "SCRAM-SHA-256$4096:" + "x" * 110
    text = "".join(f'"user{n}" "{secret}"\n' for n in range(10_000))
    assert len(UserList(text).secrets) == 10_000
    assert UserList('"a" "b' + '""' * 200_000).problem is not None


def test_userlist_file_is_read_again_when_it_changed(here, logged):
    path = here / "users.txt"
    file = UserListFile(str(path))
    assert file.reread_if_changed() is None
    assert file.reread_if_changed() is None
    assert logged == [
        f"ERROR could not open auth_file {path}: No such file or directory"
    ]
    path.write_text('"a" "b"')
    assert file.reread_if_changed() == {"a": "b"}
    assert file.reread_if_changed() is None
    # As certificates and secrets are swapped in containers: a new file, renamed.
    (here / "new").write_text('"a" "c"')
    (here / "new").rename(path)
    assert file.reread_if_changed() == {"a": "c"}
    path.unlink()
    assert file.reread_if_changed() is None
    assert len(logged) == 2
