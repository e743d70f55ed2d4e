"""Messages of a server that are too large to be waited for: their head must do."""

import pytest

from tests.relay import frames as f
from tests.relay.harness import STATEMENT, TRANSACTION, Relay

LONG = "x" * 70_000
MESSAGES = {
    "error": (f.error("P0001", LONG), "E"),
    "notice": (f.notice(LONG), "N"),
    "parameter that nobody follows": (f.parameter_status("is_it", LONG), "S"),
    "command": (f.message(b"C", LONG.encode() + b"\0"), "C"),
}


def served_again(r: Relay) -> None:
    """The next client gets the same server."""
    second = r.client()
    second.send(f.query("b"))
    r.servers[0].answer("mine")
    assert f.rows(second.take()) == [b"mine"]
    assert (len(r.servers), r.reasons) == (1, [])


@pytest.mark.parametrize("kind", MESSAGES)
@pytest.mark.parametrize("mode", [TRANSACTION, STATEMENT])
@pytest.mark.parametrize("pieces", [1, 7, 100_000])
def test_long_message_costs_no_server(relay, kind, mode, pieces):
    """`raise exception '%', repeat('x', 70000)` cost the connection, each time."""
    message, code = MESSAGES[kind]
    r = relay(mode=mode)
    client = r.client()
    client.send(f.query("a"))
    data = message + f.ready()
    size = -(-len(data) // pieces)
    if pieces == 100_000:  # the head byte by byte, the rest at once
        r.servers[0].drip(data[:2000])
        r.servers[0].send(data[2000:])
    else:
        for at in range(0, len(data), size):
            r.servers[0].send(data[at : at + size])
    assert client.take() == data
    assert code == message[:1].decode()
    served_again(r)


def test_long_error_that_names_a_lost_statement_is_believed(relay):
    """26000 counts, however much is said about it: it must not come for ever."""
    r = relay(prepared=10)
    client = r.client()
    client.send(f.parse("s", "select a"), f.SYNC)
    server = r.servers[0]
    assert f.codes(server.take()) == "PS"
    server.send(f.PARSE_COMPLETE, f.ready())
    client.send(f.bind("s"), f.execute(), f.SYNC)
    assert f.codes(server.take()) == "BES"
    server.send(f.error("26000", LONG), f.ready())
    client.send(f.bind("s"), f.execute(), f.SYNC)
    assert f.codes(server.take()) == "CPBES"


def test_long_value_of_a_followed_parameter_costs_the_server(relay):
    """What it has is not known: nobody else may get it."""
    r = relay()
    client = r.client()
    client.send(f.query("a"))
    r.servers[0].send(
        f.parameter_status("TimeZone", LONG), f.complete("SET"), f.ready()
    )
    assert client.codes() == "SCZ"
    assert r.reasons == ["close_needed"]


@pytest.mark.parametrize("always", [False, True])
def test_long_error_of_a_reset_is_an_error(relay, always):
    """It was overlooked: the server went to the next client as if it were clean."""
    r = relay(size=1)
    r.pool.reset_query, r.pool.reset_on_release = b"discard all", True
    client = r.client()
    client.send(f.query("a"))
    server = r.servers[0]
    server.answer("first")
    server.take()
    server.send(f.error("P0001", LONG) if always else f.complete("DISCARD ALL"))
    server.send(f.ready())
    assert r.reasons == (["reset query failed"] if always else [])


def test_long_error_while_parameters_are_set_is_an_error(relay, logged):
    r = relay(size=1)
    client = r.client(TimeZone="Asia/Tokyo")
    client.send(f.query("a"))
    server = r.servers[0]
    server.send(f.error("22023", LONG), f.ready())
    assert logged.has("varcache_apply failed: ERROR: xxx")
    assert r.reasons == ["invalid server parameter"]


@pytest.mark.parametrize("prepared", [0, 10])
def test_long_error_in_a_pipeline_is_an_error(relay, prepared):
    """What stands behind it is skipped, and the server is clean after its Sync."""
    r = relay(prepared=prepared)
    client = r.client()
    client.send(f.parse("", "select a"), f.bind(""), f.execute())
    client.send(f.parse("", "select b"), f.bind(""), f.execute(), f.SYNC)
    server = r.servers[0]
    answers = f.PARSE_COMPLETE + f.BIND_COMPLETE + f.error("22012", LONG) + f.ready()
    server.send(answers)
    assert client.take() == answers
    server.take()
    served_again(r)
