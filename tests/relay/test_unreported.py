"""Parameters that no server reports: what is set, asked for, and believed."""

import pytest

from bouncer.relay import tracked
from bouncer.relay.tracked import from_dict, unreported_names
from tests.relay import frames as f
from tests.relay.harness import DEFAULTS, SESSION, TRANSACTION

ASKED = "the question"


@pytest.fixture(autouse=True)
def follows():
    """track_extra_parameters = statement_timeout"""
    tracked.configure(["statement_timeout"])
    yield
    tracked.configure([])


def pool_of(relay, mode=TRANSACTION):
    """A pool in which somebody has such a value."""
    r = relay(mode=mode)
    r.pool.learn_query = ASKED.encode()
    return r


def learnt(*rows):
    """The answer to the question."""
    return [f.row_description("n", "v", "s"), *rows, f.complete("SELECT"), f.ready()]


def at_learning(r, **given):
    """A client has had a SET answered, and its server is asked what that has done."""
    client = r.client(**given)
    client.send(f.query("set it"))
    server = r.servers[0]
    if given:
        server.take()
        server.send(f.complete("SET"), f.ready())
    assert server.take().endswith(f.query("set it"))
    server.send(f.complete("SET"), f.ready())
    assert client.codes() == "CZ"
    assert server.take() == f.query(ASKED)
    return client, server


def test_value_is_set_for_its_client_and_reset_for_the_next(relay):
    r = pool_of(relay)
    first, second = r.client(statement_timeout="7s"), r.client()
    for _ in range(2):
        for client, batch in (
            (first, "SET statement_timeout='7s';"),
            (second, "RESET statement_timeout;"),
        ):
            client.send(f.query("a"))
            server = r.servers[0]
            assert server.take() == f.query(batch)
            server.send(f.complete("SET"), f.ready())
            assert server.take() == f.query("a")
            server.answer("a")


def test_what_a_client_has_set_goes_with_it(relay):
    r = pool_of(relay)
    client, server = at_learning(r)
    other = r.client()
    server.send(*learnt(f.data_row(b"statement_timeout", b"9s", b"session")))
    other.send(f.query("b"))
    assert server.take() == f.query("RESET statement_timeout;")
    server.send(f.complete("RESET"), f.ready())
    server.take()
    server.answer("b")
    client.send(f.query("c"))
    assert server.take() == f.query("SET statement_timeout='9s';")


@pytest.mark.parametrize("source", [b"default", b"user", b"database", b"client"])
def test_value_that_no_session_has_set_is_the_startup_packets(relay, source):
    r = pool_of(relay)
    client, server = at_learning(r, statement_timeout="7s")
    server.send(*learnt(f.data_row(b"statement_timeout", b"0", source)))
    client.send(f.query("b"))
    assert server.take() == f.query("SET statement_timeout='7s';")


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [f.data_row(b"statement_timeout")],
        [f.message(b"D", b"\0\3\0\0\0\xffx")],
        [f.message(b"D", b"")],
        [f.data_row(b"TimeZone", b"x", b"session")],
        [f.data_row(b"nonsense", b"x", b"session")] * 300,
        [f.data_row(b"statement_timeout", b"x" * 70000, b"session")],
    ],
)
def test_answer_that_tells_nothing_leaves_nothing_to_the_next(relay, rows):
    r = pool_of(relay)
    client, server = at_learning(r, statement_timeout="7s")
    other = r.client()
    server.send(*learnt(*rows))
    other.send(f.query("b"))
    assert server.take() == f.query("RESET statement_timeout;")
    assert not client.client.closed


def test_question_that_is_refused_costs_the_server_only(relay):
    r = pool_of(relay)
    client, server = at_learning(r, statement_timeout="7s")
    server.send(f.error("42501", "no"), f.ready())
    assert r.reasons == ["close_needed"]
    client.send(f.query("b"))
    assert r.servers[1].take() == f.query("SET statement_timeout='7s';")


@pytest.mark.parametrize("mode", [SESSION, TRANSACTION])
def test_client_that_goes_while_its_server_is_asked_costs_nothing(relay, mode):
    r = pool_of(relay, mode)
    client, server = at_learning(r)
    other = r.client()
    other.send(f.query("b"))
    client.close()
    server.send(*learnt(f.data_row(b"statement_timeout", b"9s", b"session")))
    assert server.take() == f.query("RESET statement_timeout;")
    server.send(f.complete("RESET"), f.ready())
    assert server.take() == f.query("b")
    assert r.reasons == []


def test_requests_wait_while_the_server_is_asked(relay):
    r = pool_of(relay)
    client, server = at_learning(r)
    client.send(f.query("b"))
    assert server.take() == b""
    server.send(*learnt())
    assert server.take() == f.query("b")


def test_session_has_its_startup_value_again_behind_reset_all(relay):
    r = pool_of(relay, SESSION)
    client = r.client(statement_timeout="7s")
    client.send(f.query("reset all"))
    server = r.servers[0]
    server.take()
    server.send(f.complete("SET"), f.ready())
    assert server.take() == f.query("reset all")
    server.send(f.complete("RESET"), f.ready())
    assert server.take() == f.query(ASKED)
    server.send(*learnt(f.data_row(b"statement_timeout", b"0", b"default")))
    assert server.take() == f.query("SET statement_timeout='7s';")
    server.send(f.complete("SET"), f.ready())
    client.send(f.query("b"))
    assert server.take() == f.query("b")


def test_placeholder_that_is_empty_is_reset_only_behind_a_reset(relay):
    """PostgreSQL leaves a setting of an extension that was reset as an empty text."""
    tracked.configure(["my.tenant"])
    for tag, batch in (("SET", ""), ("RESET", "7")):
        r = pool_of(relay)
        client = r.client(**{"my.tenant": "7"})
        client.send(f.query("it"))
        server = r.servers[0]
        server.take()
        server.send(f.complete("SET"), f.ready())
        server.take()
        server.send(f.complete(tag), f.ready())
        assert server.take() == f.query(ASKED)
        server.send(*learnt(f.message(b"D", EMPTY)))
        other = r.client()
        other.send(f.query("b"))
        server.take()
        server.send(f.complete("RESET"), f.ready())
        server.take()
        server.answer("b")
        client.send(f.query("c"))
        assert server.take() == f.query(f"SET my.tenant='{batch}';")


EMPTY = b"\0\3\0\0\0\x09my.tenant\0\0\0\0\xff\xff\xff\xff"


def test_refused_value_is_its_clients_error_and_the_server_goes_on(relay):
    r = pool_of(relay)
    wrong, other = r.client(statement_timeout="x"), r.client()
    wrong.send(f.query("a"))
    other.send(f.query("b"))
    server = r.servers[0]
    server.take()
    server.send(f.error("22023", "invalid value for it"), f.ready())
    assert f.errors(wrong.take()) == ["invalid value for it"]
    assert server.take() == f.query("b")
    assert r.reasons == []


def test_case_of_letters_counts_in_names_of_schemas_and_roles(relay):
    """ "Foo" and "foo" are two schemas; DateStyle is the same in any letters."""
    r = relay()
    one = {"search_path": '"Foo"', "session_authorization": "Bob", "DateStyle": "iso"}
    two = {"search_path": '"foo"', "session_authorization": "bob", "DateStyle": "ISO"}
    r.on_open = lambda end: (
        end.server.__class__
        and setattr(end.server, "tracked", from_dict({**DEFAULTS, **one}))
    )
    client = r.client(**two)
    client.send(f.query("a"))
    assert r.servers[0].take() == f.query(
        "SET search_path=foo;SET session_authorization='bob';"
    )


def test_names_that_are_asked_for():
    login = from_dict({"TimeZone": "UTC"})
    given = from_dict({"TimeZone": "x", "search_path": "y"})
    assert unreported_names(given, login, False) == [b"search_path"]
    assert unreported_names(login, login, True) == [b"statement_timeout"]
    tracked.configure(["Search_Path", "my.tenant"])
    wanted = [b"search_path", b"my.tenant"]
    assert unreported_names(from_dict({}), from_dict({}), True) == wanted
