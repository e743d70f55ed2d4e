"""Who is owed what: several requests under way, errors in the middle, leftovers."""

import threading

import pytest

from tests.relay import frames as f
from tests.relay.harness import SESSION, STATEMENT, TRANSACTION


def test_query_is_answered_and_the_server_idle_again(relay):
    r = relay()
    client = r.client()
    client.send(f.query("one"))
    server = r.servers[0]
    assert server.take() == f.query("one")
    server.answer("1")
    assert client.codes() == "TDCZ"
    assert server.server.clean
    assert server.server.state_name == "idle"


def test_messages_arrive_byte_by_byte(relay):
    r = relay()
    client = r.client()
    asked = f.parse("", "select 1") + f.bind("") + f.execute() + f.SYNC
    client.drip(asked)
    server = r.servers[0]
    assert server.take() == asked
    answer = (
        f.PARSE_COMPLETE
        + f.BIND_COMPLETE
        + f.data_row(b"1")
        + f.complete("SELECT 1")
        + f.ready()
    )
    server.drip(answer)
    assert client.take() == answer
    assert server.server.state_name == "idle"


@pytest.mark.regression(37)
@pytest.mark.parametrize("count", [2, 3, 20])
def test_server_is_kept_until_every_query_of_a_pipeline_is_answered(relay, count):
    r = relay()
    first, second = r.client(), r.client()
    first.send(*(f.query(f"q{n}") for n in range(count)))
    second.send(f.query("second"))
    server = r.servers[0]
    for n in range(count):
        assert b"second" not in server.take()
        server.answer(f"a{n}")
    assert f.rows(first.take()) == [f"a{n}".encode() for n in range(count)]
    assert second.take() == b""
    assert server.take() == f.query("second")
    server.answer("for the second")
    assert f.rows(second.take()) == [b"for the second"]


@pytest.mark.regression(37)
@pytest.mark.parametrize("failing", range(5))
def test_error_in_any_unit_of_a_pipeline_settles_that_unit_alone(relay, failing):
    r = relay()
    first, second = r.client(), r.client()
    unit = f.parse("", "x") + f.bind("") + f.describe("", b"P") + f.execute() + f.SYNC
    first.send(unit * 5)
    second.send(f.query("second"))
    server = r.servers[0]
    for n in range(5):
        assert b"second" not in server.take()
        if n == failing:
            server.send(f.PARSE_COMPLETE, f.error("22012", "division by zero"))
        else:
            server.send(f.PARSE_COMPLETE, f.BIND_COMPLETE, f.row_description("a"))
            server.send(f.data_row(b"x"), f.complete("SELECT 1"))
        server.send(f.ready())
    expected = ["1EZ" if n == failing else "12TDCZ" for n in range(5)]
    assert first.codes() == "".join(expected)
    assert server.take() == f.query("second")


def test_transaction_keeps_the_server(relay):
    r = relay()
    first, second = r.client(), r.client()
    first.send(f.query("begin"))
    server = r.servers[0]
    server.send(f.complete("BEGIN"), f.ready("T"))
    second.send(f.query("second"))
    first.send(f.query("fail"))
    server.send(f.error("22012", "no"), f.ready("E"))
    assert server.take() == f.query("begin") + f.query("fail")
    first.send(f.query("rollback"))
    server.send(f.complete("ROLLBACK"), f.ready())
    assert server.take() == f.query("rollback") + f.query("second")
    server.answer("2")
    assert f.rows(second.take()) == [b"2"]


def test_session_keeps_the_server_until_its_client_leaves(relay):
    r = relay(mode=SESSION)
    first, second = r.client(), r.client()
    first.send(f.query("a"))
    server = r.servers[0]
    server.answer("a")
    second.send(f.query("b"))
    assert server.take() == f.query("a")
    first.send(f.TERMINATE)
    assert server.take() == f.query("b")
    server.answer("b")
    assert f.rows(second.take()) == [b"b"]


def test_statement_pooling_ends_transactions_but_no_half_message(relay):
    """A row that had begun in an earlier read was cut off by the error."""
    r = relay(mode=STATEMENT)
    client = r.client()
    client.send(f.query("select 1; begin"))
    server = r.servers[0]
    row = f.data_row(b"x" * 100)
    server.send(row[:50])
    server.send(row[50:], f.complete("SELECT 1"), f.complete("BEGIN"), f.ready("T"))
    got = client.take()
    assert f.codes(got) == "DE"
    assert f.errors(got) == ["transaction blocks not allowed in statement pooling mode"]
    assert client.ended
    assert server.take() == f.query("select 1; begin") + f.TERMINATE
    assert server.ended


def test_statement_pooling_does_not_tell_of_the_begin(relay):
    r = relay(mode=STATEMENT)
    client = r.client()
    client.send(f.query("begin"))
    r.servers[0].send(f.complete("BEGIN"), f.ready("T"))
    assert client.codes() == "E"


@pytest.mark.regression(40)
def test_portal_that_is_suspended_keeps_the_server_until_sync(relay):
    r = relay()
    first, second = r.client(), r.client()
    first.send(f.parse("", "x"), f.bind(""), f.execute("", 1), f.FLUSH)
    server = r.servers[0]
    server.send(f.PARSE_COMPLETE, f.BIND_COMPLETE, f.data_row(b"1"), f.SUSPENDED)
    second.send(f.query("second"))
    for _ in range(3):
        first.send(f.execute("", 1), f.FLUSH)
        server.send(f.data_row(b"2"), f.SUSPENDED)
    assert b"second" not in server.take()
    first.send(f.SYNC)
    server.send(f.ready())
    assert first.codes() == "12Ds" + "Ds" * 3 + "Z"
    assert server.take() == f.SYNC + f.query("second")


def test_function_call_is_owed_one_answer(relay):
    r = relay()
    first, second = r.client(), r.client()
    first.send(f.function_call(7, b"x") * 2)
    second.send(f.query("second"))
    server = r.servers[0]
    server.send(f.message(b"V", b"\0\0\0\1y"), f.ready())
    assert b"second" not in server.take()
    server.send(f.error("42883", "no such function"), f.ready())
    assert first.codes() == "VZEZ"
    assert server.take() == f.query("second")


# What comes behind the last answer


@pytest.mark.regression(62, 63)
def test_rows_behind_the_last_answer_reach_nobody(relay, logged):
    """Read together with ReadyForQuery, they went to the client that came next."""
    r = relay()
    first, second = r.client(), r.client()
    first.send(f.query("a"))
    second.send(f.query("b"))
    server = r.servers[0]
    server.send(
        f.complete("a"),
        f.ready(),
        f.data_row(b"foreign"),
        f.complete("SELECT 1"),
        f.ready(),
    )
    assert first.codes() == "CZ"
    assert second.take() == b""
    assert server.ended or server.server.closed
    assert "idle server got dirty" in r.reasons
    assert logged.has("got packet 'D' from server when not linked")
    r.servers[1].answer("mine")
    assert f.rows(second.take()) == [b"mine"]


@pytest.mark.regression(63)
def test_half_message_behind_the_last_answer_closes_the_server(relay):
    r = relay()
    first, second = r.client(), r.client()
    first.send(f.query("a"))
    second.send(f.query("b"))
    r.servers[0].send(f.complete("a"), f.ready(), f.data_row(b"foreign")[:7])
    assert first.codes() == "CZ"
    assert second.take() == b""
    assert r.reasons == ["idle server got dirty"]


def test_notification_behind_the_last_answer_is_dropped(relay):
    r = relay()
    first, second = r.client(), r.client()
    first.send(f.query("a"))
    second.send(f.query("b"))
    server = r.servers[0]
    server.send(f.complete("a"), f.ready(), f.notification("news"))
    server.answer("b")
    assert first.codes() == "CZ"
    assert second.codes() == "TDCZ"
    assert r.reasons == []


@pytest.mark.regression(62)
@pytest.mark.parametrize("what", [f.notice("hm"), f.error("57P01", "shut"), f.ready()])
def test_idle_server_that_speaks_is_not_used_again(relay, what):
    r = relay()
    client = r.client()
    client.send(f.query("a"))
    r.servers[0].answer("a")
    client.take()
    r.servers[0].send(what)
    client.send(f.query("b"))
    assert r.servers[0].take() == f.query("a") + f.TERMINATE
    r.servers[1].answer("b")
    assert f.rows(client.take()) == [b"b"]


def test_bytes_behind_a_reset_close_the_server(relay):
    r = relay(mode=SESSION)
    r.pool.reset_query, r.pool.reset_on_release = b"discard all", True
    first, second = r.client(), r.client()
    first.send(f.query("a"))
    server = r.servers[0]
    server.answer("a")
    first.close()
    second.send(f.query("b"))
    server.send(f.complete("DISCARD ALL"), f.ready(), f.data_row(b"foreign"))
    assert second.take() == b""
    assert r.reasons == ["idle server got dirty"]


# Clients that go


@pytest.mark.parametrize("mode", [SESSION, TRANSACTION])
def test_client_that_is_reset_with_a_query_in_progress_takes_the_server_along(
    relay, mode
):
    r = relay(mode=mode)
    first, second = r.client(), r.client()
    first.send(f.query("a"))
    second.send(f.query("b"))
    server = r.servers[0]
    server.send(f.row_description("x"), f.data_row(b"1")[:8])
    first.close()  # with unread bytes: a reset
    assert server.take() == f.query("a") + f.TERMINATE
    assert server.ended
    assert r.reasons == ["client disconnect while server was not ready"]
    r.servers[1].answer("b")
    assert f.rows(second.take()) == [b"b"]


def test_client_that_leaves_half_a_message_takes_the_server_along(relay):
    r = relay(mode=SESSION)
    client = r.client()
    client.send(f.query("a"))
    r.servers[0].answer("a")
    client.send(f.copy_data(b"x" * 100)[:50])
    client.close()
    assert r.reasons == ["client disconnect before everything was sent to the server"]


def test_terminate_never_completes_half_a_query(relay):
    """Sent behind it, its five bytes stood for the last five of the query, which
    PostgreSQL then ran: "... where a=X" for "... where a=b".
    """
    r = relay()
    client = r.client()
    asked = f.query("delete from t where a=b")
    client.send(asked[:-2])
    client.close()
    assert r.servers[0].take() == asked[:-2]
    assert r.servers[0].ended
    # Nor when the server is closed for another reason.
    client = r.client()
    client.send(asked[:-2])
    r.servers[1].server.disconnect("query timeout", True, True)
    assert r.servers[1].take() == asked[:-2]


def test_waiting_clients_that_leave_at_once_do_not_pile_up(relay):
    """Each gave the server back from within the hand-over: ever deeper, to a crash."""
    r = relay()
    first = r.client()
    first.send(f.parse("x", "known"), f.SYNC, f.query("a"))
    leavers = [r.client() for _ in range(400)]
    for leaver in leavers:
        leaver.send(f.parse("y", "known"), f.TERMINATE)
    last = r.client()
    last.send(f.query("last"))
    # Depth shows where there is little stack.
    before = threading.stack_size(256 * 1024)
    thread = threading.Thread(
        target=r.servers[0].send,
        args=(f.PARSE_COMPLETE, f.ready(), f.complete("a"), f.ready()),
    )
    thread.start()
    thread.join()
    threading.stack_size(before)
    assert all(leaver.client.closed for leaver in leavers)
    assert {leaver.codes() for leaver in leavers} == {"1"}
    r.servers[0].answer("last")
    assert f.rows(last.take()) == [b"last"]


# Servers that go


@pytest.mark.regression(61)
def test_server_that_dies_in_a_pipeline_is_told_once(relay):
    r = relay()
    client = r.client()
    client.send(f.query("a"), f.query("b"))
    server = r.servers[0]
    server.answer("a")
    server.send(f.row_description("x"), f.data_row(b"half")[:9])
    server.close()
    got = client.take()
    # No error may stand where the rest of the row is expected.
    assert f.codes(got) == "TDCZT~"
    assert client.ended


def test_server_that_dies_between_messages_is_told(relay):
    r = relay()
    client = r.client()
    client.send(f.query("a"))
    r.servers[0].send(f.row_description("x"))
    r.servers[0].close()
    got = client.take()
    assert f.codes(got) == "TE"
    assert f.errors(got) == ["server conn crashed?"]
    assert client.ended


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"D\0\0\0\3", "bad pkt header"),
        (b"Z\0\0\0\6II", "bad pkt header"),
        (f.message(b"?", b"x"), "unknown pkt"),
    ],
)
def test_nonsense_of_a_server_ends_both_at_a_message_boundary(relay, bad, reason):
    r = relay()
    client = r.client()
    client.send(f.query("a"))
    row = f.data_row(b"x" * 60)
    r.servers[0].send(row[:20])
    r.servers[0].send(row[20:], bad)
    got = client.take()
    assert f.codes(got) == "DE"
    assert f.errors(got) == [reason]
    assert r.reasons == [reason]


@pytest.mark.parametrize("what", ["reset", "check"])
def test_query_of_ours_that_is_too_long_closes_the_server(relay, what):
    """As in PgBouncer, which builds it in a buffer of 512 bytes."""
    r = relay(mode=SESSION)
    if what == "reset":
        r.pool.reset_query, r.pool.reset_on_release = b"x" * 507, True
    else:
        r.pool.check_query, r.pool.check_on_release = b"x" * 507, True
    first, second = r.client(), r.client()
    first.send(f.query("a"))
    r.servers[0].answer("a")
    first.send(f.TERMINATE)
    second.send(f.query("b"))
    assert r.reasons == [f"{what.replace('check', 'test')} query failed"]
    r.servers[1].answer("b")
    assert f.rows(second.take()) == [b"b"]
