"""What we write into a SET: names and literals that stay such in any server."""

import pytest

from bouncer.relay import tracked
from bouncer.relay.tracked import from_dict, index_of
from tests.relay import frames as f
from tests.relay.test_parameters import READS_18, learn, reports


def moved(relay, value):
    """A client sets its search_path, and gets a server that another has had."""
    r = relay()
    r.on_open = learn
    first, second = r.client(**READS_18), r.client(**READS_18)
    first.send(f.query("set it"))
    server = r.servers[0]
    reports(server, "search_path", value)
    server.take()
    second.send(f.query("b"))
    assert server.take() == f.query('SET search_path="$user", public;')
    reports(server, "search_path", '"$user", public')
    server.take()
    server.answer("b")
    first.send(f.query("c"))
    return first, server


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("mine", "mine"),
        ("foo-bar", '"foo-bar"'),
        ("$user,public", '"$user", public'),
        ("public;create/**/table/**/t(x/**/int)",
         '"public;create/**/table/**/t(x/**/int)"'),
    ],
)  # fmt: skip
def test_search_path_is_written_as_identifiers(relay, value, written):
    """It was put into the SET as it came: legal values cost the client its session,
    others were run."""
    _, server = moved(relay, value)
    assert server.take() == f.query(f"SET search_path={written};")


def test_search_path_that_is_no_list_cuts_nobody(relay):
    """No PostgreSQL reports such a one. It stays with its server."""
    r = relay()
    r.on_open = learn
    first, second = r.client(**READS_18), r.client(**READS_18)
    first.send(f.query("set it"))
    server = r.servers[0]
    reports(server, "search_path", "a b; drop table x")
    assert first.codes() == "CSZ"
    server.take()
    second.send(f.query("b"))
    assert server.take() == f.query('SET search_path="$user", public;')
    reports(server, "search_path", '"$user", public')
    server.take()
    server.answer("b")
    first.send(f.query("c"))
    assert server.take() == f.query("c")


def test_search_path_of_a_startup_packet_is_quoted(relay):
    r = relay()
    client = r.client(search_path="Foo, it's")
    client.client.tracked = from_dict({"search_path": "Foo, it's"})
    r.server().server.learn_parameter(b"search_path\0public\0")
    client.send(f.query("a"))
    assert r.servers[0].take() == f.query('SET search_path=foo, "it\'s";')


def test_literals_hold_whatever_standard_conforming_strings_is(relay):
    r = relay()
    client = r.client(
        standard_conforming_strings="off", application_name="it's \\' a \\ trap"
    )
    client.send(f.query("a"))
    assert r.servers[0].take() == f.query(
        "SET standard_conforming_strings='off';"
        "SET application_name=E'it''s \\\\'' a \\\\ trap';"
    )


@pytest.mark.parametrize("encoding", ["SJIS", "big5", "Shift_JIS_2004", "windows-936"])
def test_backslash_that_may_be_half_a_character_is_not_doubled(relay, encoding):
    """With a second backslash, the first character would take one and the literal's
    end the other."""
    r = relay()
    raw = b"\x83\x5c'; drop table x --".decode("utf-8", "surrogateescape")
    client = r.client(client_encoding=encoding, application_name=raw)
    client.send(f.query("a"))
    assert r.servers[0].take() == f.query(f"SET client_encoding='{encoding}';")


def test_parameter_that_is_no_utf8_harms_nobody(relay):
    """UnicodeEncodeError at the login of such a server, each time."""
    name = b"\xff\xfe\xc0".decode("utf-8", "surrogateescape")
    assert index_of(name) is None
    assert from_dict({name: name, "TimeZone": name}).as_dict() == {
        "TimeZone": "\ufffd" * 3
    }
    r = relay()
    client = r.client()
    client.send(f.query("a"))
    r.servers[0].send(f.message(b"S", b"\xff\xfe\0\xff\0"))
    r.servers[0].send(f.message(b"S", b"TimeZone\0\xff\xfe\0"))
    r.servers[0].answer("a")
    assert client.codes() == "SSTDCZ"


def test_tracked_names_may_be_of_any_bytes():
    name = b"caf\xe9.name".decode("utf-8", "surrogateescape")
    tracked.configure([name])
    try:
        assert tracked.tracked_names()[-1] == name
        assert from_dict({name: "x"}).as_dict() == {name: "x"}
    finally:
        tracked.configure([])
