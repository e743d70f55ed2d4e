"""Tracked parameters: set before the client's query, and never left to others."""

from bouncer.relay.tracked import from_dict
from tests.relay import frames as f
from tests.relay.harness import DEFAULTS, SESSION


def done(server, *statuses):
    """Answer a batch of SETs."""
    server.send(*statuses, f.complete("SET"), f.ready())


def test_values_are_set_before_the_query(relay):
    r = relay()
    client = r.client(TimeZone="Asia/Tokyo", application_name="it's")
    client.send(f.query("a"))
    server = r.servers[0]
    assert server.take() == f.query(
        "SET TimeZone='Asia/Tokyo';SET application_name='it''s';"
    )
    done(
        server,
        f.parameter_status("TimeZone", "Asia/Tokyo"),
        f.parameter_status("application_name", "it's"),
    )
    assert client.take() == b""
    assert server.take() == f.query("a")
    server.answer("a")
    assert client.codes() == "TDCZ"
    client.send(f.query("b"))
    assert server.take() == f.query("b")


def test_next_client_does_not_inherit_them(relay):
    r = relay()
    first, second = r.client(TimeZone="X"), r.client()
    first.send(f.query("a"))
    server = r.servers[0]
    done(server, f.parameter_status("TimeZone", "X"))
    second.send(f.query("b"))
    server.answer("a")
    assert server.take().endswith(f.query("SET TimeZone='Etc/UTC';"))


def test_what_a_client_sets_follows_it(relay):
    r = relay()
    first, second = r.client(), r.client()
    first.send(f.query("set timezone to x"))
    server = r.servers[0]
    server.send(f.complete("SET"), f.parameter_status("TimeZone", "X"), f.ready())
    assert first.codes() == "CSZ"
    second.send(f.query("b"))
    done(server, f.parameter_status("TimeZone", "Etc/UTC"))
    server.answer("b")
    server.take()
    first.send(f.query("c"))
    assert server.take() == f.query("SET TimeZone='X';")


def test_values_lost_in_a_reset_are_set_again(relay):
    """A server remembered which values it had been given, not that they were gone."""
    r = relay(mode=SESSION)
    r.pool.reset_query, r.pool.reset_on_release = b"discard all", True
    first = r.client(TimeZone="X")
    first.send(f.query("a"))
    server = r.servers[0]
    done(server, f.parameter_status("TimeZone", "X"))
    server.answer("a")
    first.send(f.TERMINATE)
    server.take()
    server.send(
        f.parameter_status("TimeZone", "Etc/UTC"), f.complete("DISCARD ALL"), f.ready()
    )
    second = r.client(TimeZone="X")
    second.send(f.query("b"))
    assert server.take() == f.query("SET TimeZone='X';")


def test_value_that_is_refused_ends_client_and_server(relay, logged):
    r = relay()
    client = r.client(TimeZone="Nowhere")
    client.send(f.query("a"))
    r.servers[0].send(f.error("22023", "invalid value"), f.ready())
    assert f.errors(client.take()) == ["invalid server parameter"]
    assert logged.has("varcache_apply failed: ERROR: invalid value")
    assert b"a\0" not in r.servers[0].take().split(b"Q")[-1]


def test_client_that_goes_while_they_are_set_is_still_served(relay):
    r = relay()
    first, second = r.client(TimeZone="X"), r.client()
    first.send(f.query("a"))
    first.close()
    second.send(f.query("b"))
    r.servers[0].take()
    done(r.servers[0], f.parameter_status("TimeZone", "X"))
    assert r.servers[0].take() == f.query("a")
    r.servers[0].answer("for nobody")
    assert b"SET TimeZone" in r.servers[0].take()
    done(r.servers[0], f.parameter_status("TimeZone", "Etc/UTC"))
    r.servers[0].answer("b")
    assert f.rows(second.take()) == [b"b"]
    assert r.reasons == []


def test_server_that_dies_while_they_are_set(relay):
    r = relay()
    client = r.client(TimeZone="X")
    client.send(f.query("a"))
    r.servers[0].close()
    assert f.errors(client.take()) == ["server conn crashed?"]


def test_more_messages_of_a_held_client_wait(relay):
    r = relay()
    client = r.client(TimeZone="X")
    client.send(f.query("a"))
    client.send(f.query("b"))
    server = r.servers[0]
    assert server.take() == f.query("SET TimeZone='X';")
    done(server, f.parameter_status("TimeZone", "X"))
    assert server.take() == f.query("a") + f.query("b")
    server.answer("a")
    server.answer("b")
    assert f.rows(client.take()) == [b"a", b"b"]


# What no client gives at its login


def reports(server, name, value):
    """A SET of the client that has the server."""
    server.send(f.complete("SET"), f.parameter_status(name, value), f.ready())


def test_search_path_follows_who_set_it_and_nobody_else(relay):
    """PostgreSQL 18 reports it."""
    r = relay()
    r.on_open = learn
    first, second = r.client(**READS_18), r.client(**READS_18)
    first.send(f.query("set search_path to mine"))
    server = r.servers[0]
    reports(server, "search_path", "mine")
    server.take()
    second.send(f.query("b"))
    assert server.take() == f.query('SET search_path="$user", public;')
    reports(server, "search_path", '"$user", public')
    assert server.take() == f.query("b")
    server.answer("b")
    second.send(f.query("c"))
    assert server.take() == f.query("c")
    server.answer("c")
    first.send(f.query("d"))
    assert server.take() == f.query("SET search_path=mine;")
    reports(server, "search_path", "mine")
    assert server.take() == f.query("d")
    server.answer("d")
    first.send(f.query("reset search_path"))
    server.take()
    reports(server, "search_path", '"$user", public')
    second.send(f.query("e"))
    assert server.take() == f.query("e")


def test_default_transaction_read_only_stays_with_who_has_set_it(relay):
    """It was taken back even from its own client, which then wrote."""
    r = relay()
    r.on_open = learn
    first, second = r.client(**READS_18), r.client(**READS_18)
    first.send(f.query("a"))
    server = r.servers[0]
    reports(server, "default_transaction_read_only", "on")
    server.take()
    second.send(f.query("b"))
    assert server.take() == f.query("SET default_transaction_read_only='off';")
    reports(server, "default_transaction_read_only", "off")
    assert server.take() == f.query("b")
    server.answer("b")
    first.send(f.query("c"))
    assert server.take() == f.query("SET default_transaction_read_only='on';")


READS_18 = {"search_path": '"$user", public', "default_transaction_read_only": "off"}


def learn(end):
    """What the login of a server of PostgreSQL 18 has told."""
    end.server.tracked = end.server.at_login = from_dict({**DEFAULTS, **READS_18})


def test_error_that_is_not_about_a_value_speaks_of_the_server(relay):
    """Case 2e: our SETs met what another client had left (XX000 of PostgreSQL 18.6),
    and their client was thrown out. It gets another server, and is the first to."""
    r = relay()
    first, second = r.client(TimeZone="X"), r.client()
    first.send(f.query("a"))
    second.send(f.query("b"))
    server = r.servers[0]
    assert b"SET TimeZone" in server.take()
    server.send(f.error("XX000", "unexpected state STARTED"), f.ready())
    assert r.reasons == ["invalid server parameter"]
    assert b"SET TimeZone" in r.servers[1].take()
    done(r.servers[1], f.parameter_status("TimeZone", "X"))
    assert r.servers[1].take() == f.query("a")
    r.servers[1].answer("1")
    assert f.rows(first.take()) == [b"1"]
    assert not second.client.closed


def test_client_whose_values_no_server_takes_is_thrown_out(relay):
    r = relay()
    client = r.client(TimeZone="X")
    client.send(f.query("a"))
    for server in (0, 1):
        r.servers[server].take()
        r.servers[server].send(f.error("XX000", "no"), f.ready())
    assert f.errors(client.take()) == ["invalid server parameter"]
