"""Ways in which poolers have lost count, byte for byte (regression list, section 3).

At the far end stands a model of PostgreSQL, and another one is asked directly: what
that answers is what the client must get.
"""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.relay import frames as f
from tests.relay.backend import Backend
from tests.relay.harness import (
    DEFAULTS,
    SESSION,
    STATEMENT,
    TRANSACTION,
    Relay,
    give_backends,
)


class Pair:
    """A client of the relay, and the same client on a connection of its own."""

    def __init__(self, relay) -> None:
        self.end, self.direct = relay.client(), Backend(DEFAULTS)
        self.compared = 0

    def say(self, *messages: bytes) -> None:
        """Send in one segment; what comes must be what comes directly."""
        data = b"".join(messages)
        self.direct.receive(data)
        self.end.send(data)
        got, expected = self.end.take(), self.direct.out
        assert got == expected, (f.codes(got), f.codes(expected))
        self.direct.out = b""

    def is_served(self, text: str) -> None:
        """A marker of every kind."""
        self.say(f.query(f"select {text}"))
        self.say(f.parse("", f"select {text}"), f.bind(""), f.execute(), f.SYNC)


@pytest.fixture
def backed(relay):
    """Make relays with a Backend behind each server."""
    return lambda **options: give_backends(relay(**options))


UNITS = {
    "simple": [f.query("select simple")],
    "set": [f.query("set application_name mine")],
    "extended": [f.parse("", "select extended"), f.bind(""), f.execute(), f.SYNC],
    "named": [f.parse("n{}", "select named"), f.bind("n{}"), f.execute(), f.SYNC],
    "error": [f.parse("", "fail unit"), f.bind(""), f.execute(), f.SYNC],
    "sync": [f.SYNC],
    "function": [f.function_call(7, b"seven")],
    "empty": [f.query("")],
    "copy": [f.query("copy in 0"), f.copy_data(b"row"), f.COPY_DONE],
}


@pytest.mark.regression(36)
@pytest.mark.parametrize("count", range(2, 21))
def test_requests_of_all_kinds_in_one_segment(backed, count):
    """SET and an extended query in one segment: the first answer let the server go."""
    r = backed(size=1)
    one, other = Pair(r), Pair(r)
    dice = random.Random(count)
    for turn in range(10):
        kinds = dice.choices(list(UNITS), k=count - 1)
        segment = UNITS["set"] + [m for kind in kinds for m in UNITS[kind]]
        named = str(turn).encode().ljust(2, b"_")
        number = iter(range(1000))
        pieces = []
        for message in segment:
            if b"n{}" in message and message[:1] == b"P":
                named = b"%02d" % (next(number) + 50 * (turn % 2))
            pieces.append(message.replace(b"n{}", b"n" + named))
        # Names are taken again in the next turn but one.
        closes = [f.close(f"n{n:02d}") for n in range(100)]
        one.say(*pieces)
        other.is_served(f"other-{turn}")
        one.say(*closes, f.SYNC)
    assert len(r.servers) == 1


@pytest.mark.regression(38)
def test_ready_of_a_failed_unit_is_not_the_next_units(relay):
    """The client sends on before it has read of the error of what it sent before."""
    r = relay()
    first, second = r.client(), r.client()
    first.send(f.parse("", "bad"), f.describe(""), f.FLUSH)
    second.send(f.query("second"))
    server = r.servers[0]
    server.take()
    server.send(f.error("42601", "syntax error"))
    first.send(f.SYNC, f.parse("", "good"), f.describe(""), f.FLUSH)
    server.send(f.ready())
    assert b"second" not in server.take()
    server.send(f.PARSE_COMPLETE, f.message(b"t", b"\0\0"), f.NO_DATA)
    assert b"second" not in server.take()
    first.send(f.bind(""), f.execute(), f.SYNC)
    server.send(f.BIND_COMPLETE, f.complete("DO"), f.ready())
    assert first.codes() == "EZ1tn2CZ"
    assert f.codes(server.take()) == "BESQ"


@pytest.mark.regression(39)
@pytest.mark.parametrize("name", ["", "s"])
def test_parse_and_flush_keep_the_server_for_bind_and_sync(backed, name):
    """Sequelize, asyncpg, pgx: the answer to a Flush is not the end of a request."""
    r = backed(size=2)
    one, other = Pair(r), Pair(r)
    one.say(f.parse(name, "select flushed"), f.describe(name), f.FLUSH)
    linked = one.end.client.server
    other.is_served("between")
    assert one.end.client.server is linked
    one.say(f.bind(name), f.execute(), f.FLUSH)
    other.is_served("between again")
    assert one.end.client.server is linked
    one.say(f.SYNC)
    assert one.end.client.server is None


steps = st.one_of(
    st.tuples(st.just("parse"), st.integers(0, 5), st.integers(0, 5)),
    st.tuples(st.just("bind"), st.integers(0, 5), st.integers(0, 1)),
    st.tuples(st.just("describe"), st.integers(0, 5), st.just(0)),
    st.tuples(st.just("execute"), st.integers(0, 2), st.just(0)),
    st.tuples(st.just("close"), st.integers(0, 5), st.just(0)),
    st.tuples(st.just("flush"), st.just(0), st.just(0)),
)
TEXTS = ("select a", "select b", "rows 3 c", "parameters", "syntax error", "fail d")


def batch(direct: Backend, chosen: list[tuple[str, int, int]]) -> list[bytes]:
    """Messages up to a Sync; names are used only while the client may believe in them.

    What a pooler refuses by closing (an unknown name, one in use) is left out.
    """
    said, names = [], {n for n in direct.statements if n}
    for what, number, other in chosen:
        name = f"s{number}"
        if what == "parse" and name not in names:
            names.add(name)
            said.append(f.parse(name, TEXTS[other]))
        elif what == "bind" and name in names:
            said.append(f.bind(name, "", f"value {number} {other}"))
        elif what == "describe" and name in names:
            said.append(f.describe(name))
        elif what == "execute":
            said.append(f.execute("", number))
        elif what == "close":
            names.discard(name)
            said.append(f.close(name))
        elif what == "flush":
            said.append(f.FLUSH)
    return [*said, f.SYNC]


@pytest.mark.regression(42)
@given(
    limit=st.integers(1, 3),
    batches=st.lists(
        st.tuples(st.booleans(), st.lists(steps, max_size=12)), min_size=1, max_size=12
    ),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.usefixtures("relay")  # counts at the end what was not freed
def test_batches_over_a_tiny_cache_are_answered_as_directly(limit, batches):
    """Evictions in the middle; the queue of answers was out of step from then on."""
    r = give_backends(Relay(size=1, prepared=limit))
    pairs = [Pair(r), Pair(r)]
    for which, chosen in batches:
        pair = pairs[which]
        pair.say(*batch(pair.direct, chosen))
        assert r.pool.idle.first.clean
    for number, pair in enumerate(pairs):
        pair.is_served(f"marker {number}")
    server = r.servers[0]
    assert server.server.prepared_count <= limit
    kept = {name for name in server.backend.statements if name}
    assert len(kept) == server.server.prepared_count
    r.close()


@pytest.mark.regression(43)
@pytest.mark.parametrize("size", [100, 70_000, 2_000_000])
def test_made_up_answer_comes_before_a_row_of_any_size(backed, size):
    r = backed(size=1)
    one, other = Pair(r), Pair(r)
    text = f"big {size} row"
    one.say(f.parse("mine", text), f.SYNC)
    other.say(f.parse("a", text), f.bind("a"), f.execute(), f.SYNC)
    other.say(f.parse("b", text), f.describe("b"), f.bind("b"), f.execute(), f.SYNC)
    other.say(f.bind("a"), f.execute(), f.parse("c", text), f.describe("c"), f.SYNC)
    assert len(r.servers[0].backend.statements) == 1


@pytest.mark.regression(44)
def test_skipped_parses_are_answered_by_nobody(backed):
    r = backed(size=1)
    one, other = Pair(r), Pair(r)
    other.say(f.parse("known", "select known"), f.SYNC)
    one.say(
        f.parse("a", "syntax error"), f.parse("b", "select known"), f.bind("b"),
        f.parse("c", "select new"), f.close("c"), f.execute(), f.SYNC,
    )  # fmt: skip
    one.say(f.parse("b", "select known"), f.bind("b"), f.execute(), f.SYNC)
    one.say(f.parse("c", "select new"), f.bind("c"), f.execute(), f.SYNC)
    other.say(f.bind("known"), f.execute(), f.SYNC)


@pytest.mark.regression(47)
def test_bind_before_an_eviction_of_its_statement_works(backed):
    r = backed(size=1, prepared=1)
    one = Pair(r)
    one.say(f.parse("a", "select a"), f.SYNC)
    one.say(
        f.bind("a"), f.execute(), f.parse("b", "select b"), f.bind("b"), f.execute(),
        f.bind("a"), f.execute(), f.parse("c", "select c"), f.bind("a"), f.execute(),
        f.SYNC,
    )  # fmt: skip
    assert r.servers[0].server.prepared_count == 1
    one.is_served("after")


@pytest.mark.regression(48)
def test_eviction_between_flushes_leaves_nothing_unread(backed):
    r = backed(size=1, prepared=1)
    one, other = Pair(r), Pair(r)
    for name in "abcabc":
        one.say(f.parse(name + "1", f"select {name}"), f.FLUSH)
        one.say(f.bind(name + "1"), f.execute(), f.FLUSH)
        one.say(f.close(name + "1"), f.FLUSH)
    server = r.servers[0].server
    assert server.owed_count == 0
    one.say(f.SYNC)
    assert server.clean
    other.is_served("after")
    assert len(r.servers) == 1


# Pairs with one 64-bit FNV-1a hash, which our tables of names use.
COLLISIONS = [
    ("8yn0iYCKYHlIj4-BwPqk", "GReLUrM4wMqfg9yzV3KQ"),
    ("gMPflVXtwGDXbIhP73TX", "LtHf1prlU1bCeYZEdqWf"),
]


def fnv(text: str) -> int:
    value = 14695981039346656037
    for byte in text.encode():
        value = ((value ^ byte) * 1099511628211) & (2**64 - 1)
    return value


@pytest.mark.regression(49)
@pytest.mark.parametrize(("one", "other"), COLLISIONS)
def test_names_and_texts_of_one_hash_are_two(backed, one, other):
    assert fnv(one) == fnv(other)
    r = backed(size=1)
    client, second = Pair(r), Pair(r)
    client.say(f.parse(one, f"select {one}"), f.parse(other, f"select {other}"), f.SYNC)
    for name in (one, other, one):
        client.say(f.bind(name), f.execute(), f.SYNC)
    client.say(f.close(one), f.SYNC)
    client.say(f.bind(other), f.execute(), f.SYNC)
    second.say(f.parse("s", f"select {other}"), f.bind("s"), f.execute(), f.SYNC)
    second.say(f.parse("t", f"select {one}"), f.bind("t"), f.execute(), f.SYNC)


@pytest.mark.regression(50)
def test_one_text_under_two_time_zones_is_two_statements(backed):
    """A literal is read when it is parsed: one client got the other's moment."""
    r = backed(size=1)
    here, there = Pair(r), Pair(r)
    for pair, zone in ((here, "Etc/UTC"), (there, "Asia/Tokyo")):
        pair.say(f.query(f"set TimeZone {zone}"))
        pair.say(f.parse("s", "select moment"), f.SYNC)
    backend = r.servers[0].backend
    assert len(backend.statements) == 2
    seen: list[bytes] = []
    message = backend.message
    backend.message = lambda code, body: (seen.append(code), message(code, body))
    for pair in (here, there, here):
        pair.say(f.parse("t", "select moment"), f.bind("s"), f.execute(), f.SYNC)
        pair.say(f.close("t"), f.SYNC)
    # A SET before each, and nothing is parsed any more.
    assert b"".join(seen) == b"QBESS" * 3


@pytest.mark.regression(50)
def test_statement_parsed_in_one_segment_with_a_set_is_shared_with_nobody(backed):
    """Under which of the two time zones it was parsed, nobody knows."""
    r = backed(size=1)
    one = Pair(r)
    one.say(f.parse("s", "select moment"), f.SYNC)
    one.say(f.query("set TimeZone Asia/Tokyo"), f.parse("t", "select other"), f.SYNC)
    assert r.reasons == ["close_needed"]
    one.say(f.query("set TimeZone Etc/UTC"))
    one.say(f.query("select ordinary"))
    assert len(r.servers) == 2


@pytest.mark.regression(50)
def test_statement_of_another_time_zone_is_not_parsed_for_all(backed):
    """A client changes its zone; another server parses its statement for it."""
    r = backed(size=2)
    one, other, third = Pair(r), Pair(r), Pair(r)
    for pair in (one, other):
        pair.say(f.parse("s", "select moment"), f.SYNC)
    one.say(f.query("set TimeZone Asia/Tokyo"))
    first = r.servers[0].backend
    third.say(f.query("begin"))  # takes that server
    one.say(f.bind("s"), f.execute(), f.SYNC)
    other.say(f.bind("s"), f.execute(), f.SYNC)
    second = r.servers[1].backend
    assert len(first.statements) == 1
    assert len(second.statements) == 2
    one.say(f.query("set TimeZone Etc/UTC"))
    one.say(f.bind("s"), f.execute(), f.SYNC)
    assert len(second.statements) == 2
    third.say(f.query("commit"))


@pytest.mark.regression(61)
@pytest.mark.parametrize("is_prepared", [False, True])
def test_fatal_of_the_server_is_the_only_one(relay, is_prepared):
    """A second one, of ours, made libpq wait for ever in pipeline mode."""
    r = relay()
    client = r.client()
    client.send(f.query("a"), f.parse("s" if is_prepared else "", "b"), f.SYNC)
    server = r.servers[0]
    server.answer("a")
    server.send(f.error("57P01", "terminating connection", "FATAL"))
    server.close()
    got = client.take()
    assert f.codes(got) == "TDCZE"
    assert f.errors(got) == ["terminating connection"]
    assert client.ended


@pytest.mark.regression(54)
def test_simple_query_destroys_the_unnamed_statement_of_a_transaction(relay):
    """PostgreSQL says so; we let it, and do not parse anything for the client."""
    r = relay()
    client = r.client()
    client.send(f.query("begin"))
    server = r.servers[0]
    server.send(f.complete("BEGIN"), f.ready("T"))
    client.send(f.parse("", "x"), f.SYNC)
    server.send(f.PARSE_COMPLETE, f.ready("T"))
    client.send(f.query("y"))
    server.send(f.complete("y"), f.ready("T"))
    server.take()
    client.send(f.bind(""), f.SYNC)
    assert f.codes(server.take()) == "BS"


@pytest.mark.regression(59)
@pytest.mark.parametrize("mode", [SESSION, TRANSACTION, STATEMENT])
@pytest.mark.parametrize("size", [0, 65_536, 3_000_000])
def test_function_call_of_any_size_in_every_mode(backed, mode, size):
    r = backed(size=1, mode=mode)
    one = Pair(r)
    one.say(f.function_call(7, b"x" * size))
    one.say(f.function_call(0, b"x" * size), f.function_call(7, b"y"))
    one.say(f.query("select after"))


@pytest.mark.regression(63)
@pytest.mark.parametrize(
    "leftover",
    [
        f.data_row(b"foreign"),
        f.ready(),
        f.ready()[:3],
        f.complete("SELECT 1"),
        f.PARSE_COMPLETE,
        f.error("XX000", "odd"),
        f.COPY_IN,
    ],
    ids=f.codes,
)
@pytest.mark.parametrize("is_late", [False, True])
def test_server_that_says_too_much_is_closed(relay, leftover, is_late):
    """In the segment of the last answer, or alone and later: nobody gets it."""
    r = relay()
    first, second = r.client(), r.client()
    first.send(f.query("a"))
    server = r.servers[0]
    answer = f.complete("a") + f.ready()
    if is_late:
        server.send(answer)
        server.send(leftover)
    else:
        server.send(answer + leftover)
    assert first.codes() == "CZ"
    second.send(f.query("b"))
    assert second.take() == b""
    assert r.reasons == ["idle server got dirty"]
    r.servers[1].answer("mine")
    assert f.rows(second.take()) == [b"mine"]


@pytest.mark.regression(64)
@pytest.mark.parametrize(
    "refusal",
    [
        f.error("57P01", "terminating connection", "FATAL"),
        f.error("XX000", "something is very wrong", "PANIC"),
        f.error("53200", "out of memory"),
        f.error("57P01", "x" * 70_000, "FATAL"),
        f.error("54000", "x" * 70_000, "S" * 2000),
    ],
    ids=["fatal", "panic", "out of memory", "large and fatal", "large without a code"],
)
@pytest.mark.parametrize("prepared", [0, 200])
def test_server_is_not_used_again_after_the_worst(relay, refusal, prepared):
    r = relay(prepared=prepared)
    first, second = r.client(), r.client()
    first.send(f.query("a"))
    r.servers[0].send(refusal, f.ready())
    assert first.codes() == "EZ"
    second.send(f.query("b"))
    assert r.reasons == ["close_needed"]
    r.servers[1].answer("mine")
    assert f.rows(second.take()) == [b"mine"]


@pytest.mark.regression(64)
def test_server_is_used_again_after_an_ordinary_error(relay):
    r = relay()
    client = r.client()
    client.send(f.query("a"))
    r.servers[0].send(f.error("22012", "division by zero"), f.ready())
    client.send(f.query("b"))
    assert r.reasons == []
    assert len(r.servers) == 1


def test_skipped_close_of_a_refused_name_does_not_take_the_name(backed):
    """The Close behind an error was undone, with the statement that never was."""
    one = Pair(backed(size=1))
    one.say(f.parse("s", "syntax error"), f.SYNC)
    one.say(f.execute(), f.close("s"), f.SYNC)
    one.say(f.parse("s", "select a"), f.bind("s"), f.execute(), f.SYNC)


def test_close_that_is_answered_behind_ready_reaches_nobody(relay):
    """PgBouncer as our server: its CloseComplete may come after ReadyForQuery."""
    r = relay(prepared=1)
    one, two = r.client(), r.client()
    one.send(f.parse("a", "select a"), f.SYNC)
    server = r.servers[0]
    server.take()
    server.send(f.PARSE_COMPLETE, f.ready())
    one.send(f.parse("b", "select b"), f.SYNC)
    assert f.codes(server.take()) == "PCS"
    server.send(f.PARSE_COMPLETE, f.ready())
    assert one.codes() == "1Z1Z"
    two.send(f.query("select 2"))
    server.send(f.CLOSE_COMPLETE, f.complete("SELECT 0"), f.ready())
    assert two.codes() == "CZ"
    # It is gone, and prepared again.
    server.take()
    one.send(f.bind("a"), f.execute(), f.SYNC)
    assert f.codes(server.take()) == "PCBES"
    server.send(f.PARSE_COMPLETE, f.BIND_COMPLETE, f.complete("SELECT 0"), f.ready())
    server.send(f.CLOSE_COMPLETE)  # while it is idle
    assert one.codes() == "2CZ"
    two.send(f.query("select 3"))
    assert f.codes(server.take()) == "Q"
