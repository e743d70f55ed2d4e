"""COPY in both protocols: what Sync, CopyDone and CopyFail are worth, and when."""

import pytest

from tests.relay import frames as f
from tests.relay.harness import SESSION, TRANSACTION

BAD = f.error("22P04", "bad row")
EXTENDED = f.parse("", "copy") + f.bind("") + f.execute()
BEGUN = f.PARSE_COMPLETE + f.BIND_COMPLETE + f.COPY_IN


@pytest.mark.regression(57)
def test_copy_in_is_over_with_ready_for_query(relay):
    r = relay()
    first, second = r.client(), r.client()
    first.send(f.query("copy"))
    second.send(f.query("second"))
    server = r.servers[0]
    server.send(f.COPY_IN)
    first.send(f.copy_data(b"x"), f.COPY_DONE)
    assert b"second" not in server.take()
    server.send(f.complete("COPY 1"), f.ready())
    assert first.codes() == "GCZ"
    assert server.take() == f.query("second")


def test_pipelined_copies_are_counted_whenever_their_beginning_is_told(relay):
    """CopyDone counted only when CopyInResponse had been seen: the second one was
    then taken for the first one's, and the second COPY was no longer owed: its
    answers went to the next client."""
    r = relay()
    first, second = r.client(), r.client()
    first.send(f.query("copy1"), f.copy_data(b"x"), f.COPY_DONE, f.query("copy2"))
    server = r.servers[0]
    second.send(f.query("second"))
    server.send(f.COPY_IN)
    first.send(f.copy_data(b"x"), f.COPY_DONE)
    server.send(f.complete("COPY 1"), f.ready())
    assert second.take() == b""
    server.take()
    server.send(f.COPY_IN, f.complete("COPY 2"), f.ready())
    assert first.codes() == "GCZGCZ"
    assert server.take() == f.query("second")


@pytest.mark.regression(56)
@pytest.mark.parametrize("mode", [SESSION, TRANSACTION])
def test_late_end_of_a_failed_copy_takes_no_server(relay, mode):
    r = relay(mode=mode)
    first, second = r.client(), r.client()
    first.send(f.query("copy"))
    server = r.servers[0]
    server.send(f.COPY_IN)
    first.send(f.copy_data(b"x"))
    server.send(BAD, f.ready())
    assert first.codes() == "GEZ"
    if mode == SESSION:
        first.send(f.copy_data(b"y"), f.COPY_DONE, f.query("next"))
        assert f.codes(server.take()) == "QddcQ"
        server.answer("next")
        assert f.rows(first.take()) == [b"next"]
        return
    first.send(f.copy_data(b"y"), f.copy_data(b"z"), f.copy_fail(), f.COPY_DONE)
    second.send(f.query("second"))
    assert server.take() == f.query("copy") + f.copy_data(b"x") + f.query("second")
    server.answer("2")
    assert f.rows(second.take()) == [b"2"]
    assert first.take() == b""


def test_copy_that_fails_in_the_middle_of_a_message(relay):
    """The rest of the message made the release due, and the query behind it was
    sent on a server that was then closed under it: the client waited for ever."""
    r = relay()
    client = r.client()
    client.send(f.query("copy"))
    server = r.servers[0]
    server.send(f.COPY_IN)
    data = f.copy_data(b"x" * 100)
    client.send(data[:50])
    server.send(BAD, f.ready())
    client.send(data[50:], f.copy_data(b"y"), f.copy_fail(), f.query("two"))
    server.take()
    server.answer("2")
    assert client.codes() == "GEZTDCZ"
    assert server.server.state_name == "idle"


def test_server_is_released_when_the_half_message_is_through(relay):
    r = relay()
    first, second = r.client(), r.client()
    first.send(f.query("copy"))
    server = r.servers[0]
    server.send(f.COPY_IN)
    data = f.copy_data(b"x" * 100)
    first.send(data[:50])
    server.send(BAD, f.ready())
    second.send(f.query("second"))
    assert b"second" not in server.take()
    first.send(data[50:])
    assert server.take() == data[50:] + f.query("second")


@pytest.mark.regression(55)
def test_sync_inside_an_extended_copy_is_not_answered(relay):
    r = relay()
    first, second = r.client(), r.client()
    first.send(EXTENDED, f.SYNC)
    server = r.servers[0]
    server.send(BEGUN)
    first.send(f.SYNC, f.copy_data(b"x"), f.COPY_DONE, f.SYNC)
    second.send(f.query("second"))
    assert b"second" not in server.take()
    server.send(f.complete("COPY 1"), f.ready())
    assert first.codes() == "12GCZ"
    assert server.take() == f.query("second")


def test_extended_copy_refused_before_it_begins(relay):
    """The Sync before the data ends it; CopyDone and the second Sync come after."""
    r = relay()
    first, second = r.client(), r.client()
    first.send(EXTENDED, f.SYNC, f.copy_data(b"x"), f.COPY_DONE, f.SYNC)
    second.send(f.query("second"))
    server = r.servers[0]
    server.send(f.error("42P01", "no such table"), f.ready())
    assert b"second" not in server.take()
    server.send(f.ready())
    assert first.codes() == "EZZ"
    assert server.take() == f.query("second")


def probe_is_answered(server):
    """Answer the empty query that the relay asks when it is not sure."""
    assert server.take().endswith(f.query(""))
    server.send(f.EMPTY_QUERY, f.ready())


def test_extended_copy_that_fails_on_its_data_with_everything_sent(relay):
    r = relay()
    first, second = r.client(), r.client()
    first.send(EXTENDED, f.SYNC, f.copy_data(b"x"), f.COPY_DONE, f.SYNC)
    second.send(f.query("second"))
    server = r.servers[0]
    server.send(BEGUN, BAD)
    server.send(f.ready())  # for the second Sync: the first one was data
    probe_is_answered(server)
    assert first.codes() == "12GEZ"
    assert server.take() == f.query("second")
    assert r.reasons == []


def test_extended_copy_that_fails_before_its_first_sync_is_read(relay):
    """A trigger for the statement fails behind CopyInResponse: then both Syncs are
    answered, and the second answer must not reach the next client."""
    r = relay()
    first, second = r.client(), r.client()
    first.send(EXTENDED, f.SYNC, f.copy_data(b"x"), f.COPY_DONE, f.SYNC)
    second.send(f.query("second"))
    server = r.servers[0]
    server.send(BEGUN, BAD, f.ready())
    server.send(f.ready())
    probe_is_answered(server)
    assert first.codes() == "12GEZZ"
    assert second.take() == b""
    # It was told apart, but trusted no more.
    assert r.reasons == ["close_needed"]
    r.servers[1].answer("2")
    assert f.rows(second.take()) == [b"2"]


def test_extended_copy_fails_and_the_next_unit_is_under_way(relay):
    r = relay()
    first, second = r.client(), r.client()
    unit = f.parse("a", "S1") + f.bind("a") + f.execute() + f.SYNC
    first.send(EXTENDED, f.SYNC, f.copy_data(b"x"), f.COPY_DONE, f.SYNC, unit)
    second.send(f.query("second"))
    server = r.servers[0]
    server.send(BEGUN, BAD, f.ready(), f.ready())
    server.send(f.PARSE_COMPLETE, f.BIND_COMPLETE, f.complete("SELECT 0"), f.ready())
    assert first.codes() == "12GEZZ12CZ"
    assert second.take() == b""
    assert [name for name, _ in first.client.prepared_names] == [b"a"]
    assert r.reasons == ["close_needed"]


def test_extended_copy_fails_and_the_next_copy_is_under_way(relay):
    """The empty query must not be sent into that one."""
    r = relay()
    client = r.client()
    client.send(EXTENDED, f.SYNC, f.copy_data(b"x"), f.COPY_DONE, f.SYNC)
    client.send(f.query("copy2"))
    server = r.servers[0]
    server.send(BEGUN, BAD, f.ready(), f.ready())
    server.send(f.COPY_IN)
    client.send(f.copy_data(b"y"), f.COPY_DONE)
    server.send(f.complete("COPY 1"), f.ready())
    assert client.codes() == "12GEZZGCZ"
    assert f.query("") not in server.take()


@pytest.mark.parametrize("end", [f.COPY_DONE, f.copy_fail(), b""])
def test_end_of_a_failed_extended_copy_comes_late(relay, end):
    r = relay()
    first, second = r.client(), r.client()
    first.send(EXTENDED, f.SYNC)
    server = r.servers[0]
    server.send(BEGUN)
    first.send(f.copy_data(b"x"))
    second.send(f.query("second"))
    server.send(BAD)
    assert first.codes() == "12GE"
    first.send(f.copy_data(b"y"), end, f.SYNC)
    assert b"second" not in server.take()
    server.send(f.ready())
    probe_is_answered(server)
    assert first.codes() == "Z"
    assert server.take() == f.query("second")


def test_copy_out_fails_half_way(relay):
    r = relay()
    client = r.client()
    client.send(f.query("copy out"))
    server = r.servers[0]
    server.send(f.COPY_OUT, f.copy_data(b"1"), f.error("57014", "canceled"), f.ready())
    assert client.codes() == "HdEZ"
    assert server.server.clean


def test_two_copies_in_one_query(relay):
    r = relay()
    client = r.client()
    client.send(f.query("copy a; copy b"))
    server = r.servers[0]
    server.send(f.COPY_IN)
    client.send(f.copy_data(b"1"), f.COPY_DONE)
    server.send(f.complete("COPY 1"), f.COPY_IN)
    client.send(f.copy_data(b"2"), f.copy_fail())
    server.send(f.error("57014", "COPY from stdin failed: enough"), f.ready())
    assert client.codes() == "GCGEZ"
    assert server.server.clean


def test_copy_messages_out_of_the_blue_are_nobodys(relay):
    r = relay()
    client = r.client()
    client.send(f.copy_data(b"1"), f.COPY_DONE, f.copy_fail())
    assert r.servers == []
    client.send(f.query("a"), f.COPY_DONE, f.query("b"), f.copy_fail())
    server = r.servers[0]
    server.answer("a")
    server.answer("b")
    assert f.rows(client.take()) == [b"a", b"b"]
    assert server.server.clean
