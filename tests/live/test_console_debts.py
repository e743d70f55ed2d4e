"""What a console that waits is told: each debt ends once, whoever ends it."""

import socket
import struct
import threading
from contextlib import contextmanager

import psycopg
import pytest

from tests.replay.pooler import wait_for
from tests.support.wire import FakeClient, error, query, rows

LIFTED = "PAUSE was lifted before it was complete"
CANCELLED = "canceling statement due to user request"


@pytest.fixture
def one(pooler):
    """A pooler whose servers come back when a transaction ends."""
    return pooler({"pool_mode": "transaction"})


@contextmanager
def consoles(one, count):
    """Log in to the console *count* times."""
    made = []
    try:
        for _ in range(count):
            made.append(FakeClient(one.port))
            made[-1].login("pgbouncer", "admin", one.users["admin"])
        yield made
    finally:
        for each in made:
            each.close()


@contextmanager
def in_transaction(one, database="p0"):
    """Hold a server of *database*; gives the client that does."""
    with FakeClient(one.port) as client:
        client.login(database, "u_trust")
        client.ask("begin")
        yield client


def tags(messages):
    return [m["tag"] for m in messages if m["type"] == "CommandComplete"]


def state(console):
    (mode,) = [row[0] for row in rows(console.ask("SHOW STATE")) if row[1] == "yes"]
    return mode


def paused(console, database="p0"):
    sql = f"SELECT paused FROM databases WHERE name = '{database}'"
    return rows(console.ask(sql)) == [["1"]]


def cancel(one, console):
    """Send a CancelRequest for *console*; back when the pooler has taken it."""
    request = struct.pack("!II", 16, 80877102) + bytes.fromhex(console.key_hex)
    # Open during a shutdown, too.
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(f"{one.directory}/.s.PGSQL.{one.port}")
        connection.sendall(request)
        assert connection.recv(1) == b""


def ended(messages, text):
    """Whether *messages* are one error with *text*, and one ReadyForQuery."""
    fields = error(messages)
    kinds = [message["type"] for message in messages]
    return kinds == ["ErrorResponse", "ReadyForQuery"] and (
        (fields["S"], fields["C"], fields["M"]) == ("ERROR", "57014", text)
    )


def silent(console):
    """Whether nothing has come, told by the answer to a further command."""
    return tags(console.ask("SHOW VERSION")) == ["SHOW"]


def test_cancelled_pause_ends_with_an_error_and_is_lifted(one):
    """Ctrl-C got no answer at all: psycopg hung, and psql, too."""
    with in_transaction(one) as client, consoles(one, 2) as (first, other):
        first.send_bytes(query("PAUSE"))
        assert wait_for(lambda: state(other) == "paused", 5)
        cancel(one, first)
        assert ended(first.until_ready(), CANCELLED)
        assert state(other) == "active"
        client.ask("commit")
        # A later pause of somebody else is not an answer to this one.
        assert tags(other.ask("PAUSE")) == ["PAUSE"]
        assert silent(first)


def test_cancelled_pause_of_a_database_lifts_that_pause_alone(one):
    """The cancel did nothing."""
    with (
        in_transaction(one),
        in_transaction(one, "p1"),
        consoles(one, 3) as (first, second, other),
    ):
        first.send_bytes(query("PAUSE p0"))
        second.send_bytes(query("PAUSE p1"))
        assert wait_for(lambda: paused(other) and paused(other, "p1"), 5)
        cancel(one, first)
        assert ended(first.until_ready(), CANCELLED)
        assert not paused(other)
        assert paused(other, "p1")
        assert silent(second)


def test_cancelled_wait_close_ends_and_lifts_no_pause(one):
    """The cancel lifted whatever pause there was, and was not answered."""
    with in_transaction(one), consoles(one, 2) as (first, other):
        other.ask("RECONNECT")
        first.send_bytes(query("WAIT_CLOSE"))
        other.send_bytes(query("PAUSE"))
        with consoles(one, 1) as (third,):
            assert wait_for(lambda: state(third) == "paused", 5)
            cancel(one, first)
            answer = first.until_ready()
            assert ended(answer, CANCELLED), answer
            assert state(third) == "paused"
        assert silent(other)


def test_each_debt_of_a_console_ends_by_its_cancel(one):
    with in_transaction(one), in_transaction(one, "p1"), consoles(one, 2) as both:
        first, other = both
        first.send_bytes(query("PAUSE p0") + query("PAUSE p1"))
        assert wait_for(lambda: paused(other) and paused(other, "p1"), 5)
        cancel(one, first)
        answers = first.until_ready(2)
        assert ended(answers[:2], CANCELLED)
        assert ended(answers[2:], CANCELLED)
        assert not paused(other)
        assert not paused(other, "p1")


def test_cancelled_pause_stays_for_others_that_wait_for_it(one):
    with (
        in_transaction(one) as client,
        consoles(one, 3) as (first, second, other),
    ):
        first.send_bytes(query("PAUSE p0"))
        assert wait_for(lambda: paused(other), 5)
        second.send_bytes(query("PAUSE p0"))
        one.wait_for_log("PAUSE 'p0' command issued", 2)
        cancel(one, first)
        assert ended(first.until_ready(), CANCELLED)
        assert paused(other)
        cancel(one, second)
        assert ended(second.until_ready(), CANCELLED)
        assert not paused(other)
        client.ask("commit")


def test_cancel_lifts_no_pause_that_somebody_else_has_left_behind(one):
    with in_transaction(one), consoles(one, 2) as (first, other):
        with consoles(one, 1) as (gone,):
            gone.send_bytes(query("PAUSE p0"))
            assert wait_for(lambda: paused(other), 5)
        first.send_bytes(query("PAUSE p0"))
        one.wait_for_log("PAUSE 'p0' command issued", 2)
        cancel(one, first)
        assert ended(first.until_ready(), CANCELLED)
        assert paused(other)


@pytest.mark.parametrize("what", ["", " p0"])
def test_resume_from_elsewhere_answers_a_pause_that_waits(one, what):
    """It was answered by the next pause of anybody, or never (PAUSE db)."""
    with in_transaction(one) as client, consoles(one, 2) as (first, other):
        first.send_bytes(query(f"PAUSE{what}"))
        is_paused = paused if what else lambda console: state(console) == "paused"
        assert wait_for(lambda: is_paused(other), 5)
        assert tags(other.ask(f"RESUME{what}")) == ["RESUME"]
        assert ended(first.until_ready(), LIFTED)
        client.ask("commit")
        assert tags(other.ask(f"PAUSE{what}")) == ["PAUSE"]
        assert silent(first)


def test_resume_on_the_same_console_answers_its_pause_first(one):
    with in_transaction(one), consoles(one, 1) as (first,):
        first.send_bytes(query("PAUSE") + query("RESUME"))
        answers = first.until_ready(2)
        assert ended(answers[:2], LIFTED)
        assert tags(answers[2:]) == ["RESUME"]


def test_resume_of_everything_leaves_pauses_of_databases_alone(one):
    with in_transaction(one) as client, consoles(one, 2) as (first, other):
        first.send_bytes(query("PAUSE p0"))
        assert wait_for(lambda: paused(other), 5)
        other.send_bytes(query("PAUSE"))
        with consoles(one, 1) as (third,):
            assert wait_for(lambda: state(third) == "paused", 5)
            assert tags(third.ask("RESUME")) == ["RESUME"]
        assert ended(other.until_ready(), LIFTED)
        assert silent(first)
        client.ask("commit")
        assert tags(first.until_ready()) == ["PAUSE"]


def test_pause_of_a_database_does_not_wait_for_another(one):
    """It was answered when all paused databases were drained."""
    with (
        in_transaction(one) as client,
        in_transaction(one, "p1"),
        consoles(one, 2) as (first, second),
    ):
        second.send_bytes(query("PAUSE p1"))
        first.send_bytes(query("PAUSE p0"))
        one.wait_for_log("PAUSE 'p0' command issued")
        client.ask("commit")
        assert tags(first.until_ready()) == ["PAUSE"]
        assert silent(second)


def test_cancel_leaves_the_pause_of_a_shutdown_in_force(pooler):
    one = pooler({"pool_mode": "transaction"}, may_end=True)
    with in_transaction(one), consoles(one, 2) as (first, other):
        first.send_bytes(query("PAUSE"))
        assert wait_for(lambda: state(other) == "paused", 5)
        assert tags(other.ask("SHUTDOWN WAIT_FOR_SERVERS")) == ["SHUTDOWN"]
        cancel(one, first)
        assert ended(first.until_ready(), CANCELLED)
        assert state(other) == "paused"


def test_pause_within_a_query_holds_up_what_stands_behind_it(one):
    with in_transaction(one) as client, consoles(one, 2) as (first, other):
        first.send_bytes(query("SHOW VERSION; PAUSE; SHOW STATE; RESUME"))
        assert wait_for(lambda: state(other) == "paused", 5)
        client.ask("commit")
        answer = first.until_ready()
        assert tags(answer) == ["SHOW", "PAUSE", "SHOW", "RESUME"]
        assert ["paused", "yes"] in rows(answer)
        assert state(other) == "active"


def test_cancel_of_a_pause_within_a_query_ends_the_query(one):
    with in_transaction(one), consoles(one, 2) as (first, other):
        first.send_bytes(query("PAUSE; RELOAD"))
        assert wait_for(lambda: state(other) == "paused", 5)
        cancel(one, first)
        assert ended(first.until_ready(), CANCELLED)
        assert state(other) == "active"
        assert not one.log_matches("RELOAD command issued")


# Drivers


@pytest.mark.parametrize("parameters", [None, ("p0",)])
def test_psycopg_cancels_a_pause(one, parameters):
    """With both protocols; without an answer it waited for ever."""
    sql = "PAUSE" if parameters is None else "PAUSE %s"
    raised = []

    def pause(connection):
        try:
            connection.execute(sql, parameters)
        except psycopg.Error as problem:
            raised.append(problem)

    with (
        in_transaction(one),
        one.connect("pgbouncer", "admin") as first,
        consoles(one, 1) as (other,),
    ):
        thread = threading.Thread(target=pause, args=(first,))
        thread.start()
        is_paused = paused if parameters else lambda it: state(it) == "paused"
        assert wait_for(lambda: is_paused(other), 5)
        first.cancel_safe()
        thread.join(20)
        assert not thread.is_alive()
        assert isinstance(raised[0], psycopg.errors.QueryCanceled)
        assert not paused(other)
        assert state(other) == "active"
        assert first.execute("SHOW STATE").fetchone() == ("active", "yes")


# Shutdown


@pytest.mark.parametrize("how", ["RESUME", "SIGUSR2", "cancel"])
def test_pause_can_be_lifted_while_a_shutdown_waits_for_clients(pooler, how):
    """It was refused: the clients waited, and so did the shutdown for them."""
    one = pooler({"pool_mode": "transaction"}, may_end=True)
    with FakeClient(one.port) as client, consoles(one, 1) as (console,):
        client.login("p0", "u_trust")
        assert tags(console.ask("SHUTDOWN WAIT_FOR_CLIENTS")) == ["SHUTDOWN"]
        assert tags(console.ask("PAUSE")) == ["PAUSE"]
        client.send_bytes(query("select 1"))
        assert wait_for(
            lambda: rows(console.ask("SELECT sum(cl_waiting) FROM pools")) == [["1"]], 5
        )
        if how == "RESUME":
            assert tags(console.ask("RESUME")) == ["RESUME"]
        elif how == "SIGUSR2":
            one.signal("SIGUSR2")
        else:
            cancel(one, console)
        assert rows(client.until_ready()) == [["1"]]
        assert state(console) == "active"
    assert wait_for(lambda: not one.is_running(), 5)
    assert one.exit_status() == 0


def test_resume_is_refused_where_a_shutdown_has_paused(pooler):
    one = pooler({"pool_mode": "transaction"}, may_end=True)
    with in_transaction(one), consoles(one, 1) as (console,):
        assert tags(console.ask("SHUTDOWN WAIT_FOR_CLIENTS")) == ["SHUTDOWN"]
        # Nothing is paused: as PgBouncer says it.
        assert error(console.ask("RESUME"))["M"] == "pooler is shutting down"
        assert tags(console.ask("SHUTDOWN WAIT_FOR_SERVERS")) == ["SHUTDOWN"]
        assert error(console.ask("RESUME"))["M"] == "pooler is shutting down"
        one.signal("SIGUSR2")
        one.wait_for_log("got SIGUSR2 while shutting down, ignoring")
        assert state(console) == "paused"
