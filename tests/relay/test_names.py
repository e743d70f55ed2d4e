"""Names of prepared statements, taken or unknown, and what is still to be answered.

Each conversation is given to a model of PostgreSQL directly and through us, in one
write, in a write for each message, and with a wait behind each; then a second client
uses the same server.
"""

import pytest

from bouncer.relay.intent import speaks_of_forgetting, speaks_of_resetting
from tests.relay import frames as f
from tests.relay.backend import Backend
from tests.relay.harness import DEFAULTS, give_backends

S, SYNC = "select s", f.SYNC
DO = f.bind("s") + f.execute()


def unit(name, sql=S):
    return f.parse(name, sql) + f.bind(name) + f.execute()


DISCARD = [f.query("discard all")]
FORGETS = {
    "discard": DISCARD,
    "deallocate": [f.query("deallocate all")],
    "deallocate prepare": [f.query("deallocate prepare all")],
    "comment": [f.query("/* back to the pool */ discard all")],
    "among others": [f.query("begin;deallocate all;commit")],
    "extended": [f.parse("", "deallocate all"), f.bind(""), f.execute(), SYNC],
    "named": [f.parse("d", "deallocate all"), f.bind("d"), f.execute(), SYNC],
}
# What is sent; the first message of each tells what was prepared before, alone.
TALKS = {
    "name taken twice": [f.parse("s", S) + SYNC, f.parse("s", S), SYNC],
    "taken in one unit": [SYNC, f.parse("s", S), f.parse("s", "select t"), SYNC],
    "taken behind good work": [
        f.parse("s", S) + SYNC, unit("t"), f.parse("s", S), SYNC],
    "taken by a bad text": [f.parse("s", S) + SYNC, f.parse("s", "syntax error"), SYNC],
    "taken, and what follows": [f.parse("s", S) + SYNC, f.parse("s", "select t"), DO,
                                f.query("select q"), SYNC, DO, SYNC],
    "taken in a transaction": [f.parse("s", S) + SYNC, f.query("begin"),
                               f.parse("s", S), SYNC, DO, SYNC, f.query("rollback")],
    "first one fails": [SYNC, f.parse("s", "syntax error"), SYNC, unit("s"), SYNC],
    "bind of nothing": [SYNC, f.bind("s"), f.execute(), SYNC],
    "describe of nothing": [SYNC, f.describe("s"), SYNC],
    "bind behind good work": [SYNC, unit("t"), DO, SYNC, f.bind("t"), SYNC],
    "bind in a transaction": [SYNC, f.query("begin"), DO, SYNC, f.query("commit")],
    "bind in a failed one": [SYNC, f.query("begin"), f.query("fail"), DO, SYNC,
                             f.query("rollback")],
    "bind of what was refused": [SYNC, f.parse("s", "syntax error"), SYNC, DO, SYNC],
    "bind of what was skipped": [SYNC, f.parse("", "syntax error"), f.parse("s", S),
                                 SYNC, DO, SYNC],
    "closed, then bound": [f.parse("s", S) + SYNC, f.close("s"), DO, SYNC],
    "closed, then taken": [f.parse("s", S) + SYNC, f.close("s"),
                           unit("s", "select t"), SYNC],
    "Close skipped, then taken": [f.parse("s", S) + SYNC, f.parse("", "syntax error"),
                                  f.close("s"), SYNC, f.parse("s", S), SYNC, DO, SYNC],
    "Close skipped, then bound": [f.parse("s", S) + SYNC, f.parse("", "syntax error"),
                                  f.close("s"), SYNC, DO, SYNC],
    "pipelined": [SYNC, f.parse("s", S), SYNC, DO, SYNC, DO, SYNC],
    "pipelined, and refused": [SYNC, f.query("begin"), f.query("fail"),
                               f.parse("s", S), SYNC, f.query("rollback"), DO, SYNC],
    "two names, the first refused": [
        SYNC, f.query("begin"), f.query("fail"), f.parse("a", S), SYNC,
        f.query("rollback"), f.parse("b", S), SYNC, f.bind("a"), SYNC, f.bind("b"),
        SYNC],
    "known text in a block that has failed": [
        SYNC, f.query("begin"), f.parse("", "fail"), f.bind(""), f.execute(), SYNC,
        f.parse("k", "select known"), SYNC, f.query("rollback")],
    "taken where a Query is owed": [
        f.parse("s", S) + SYNC, f.query("select q"), f.parse("s", S), SYNC],
    **{f"forgotten by {how}, then taken": [
        f.parse("s", S) + SYNC, *what, unit("s", "select t"), SYNC]
       for how, what in FORGETS.items()},
    **{f"forgotten by {how}, then bound": [f.parse("s", S) + SYNC, *what, DO, SYNC]
       for how, what in FORGETS.items()},
    **{f"forgotten by {how}, then a known text": [
        SYNC, *what, f.parse("n", "select known"), f.describe("n"), SYNC]
       for how, what in FORGETS.items()},
    "forgotten in the same unit": [
        f.parse("s", S) + SYNC, f.parse("", "deallocate all"), f.bind(""), f.execute(),
        unit("s", "select t"), SYNC],
    "skipped, not forgotten": [
        f.parse("s", S) + SYNC, f.parse("", "syntax error"), *DISCARD, SYNC, DO, SYNC],
    "failed, not forgotten": [
        f.parse("s", S) + SYNC, f.query("begin"), f.query("fail"), *DISCARD,
        f.query("rollback"), DO, SYNC],
    "behind a Query that might have forgotten it": [
        SYNC, f.parse("s", S), f.query("deallocate nobody"), DO, SYNC],
    "... in a Flush": [
        SYNC, f.parse("s", S), f.query("deallocate nobody"), f.describe("s"), f.FLUSH,
        SYNC],
    "Close and Parse skipped behind a failed copy": [
        SYNC, f.query("copy in 1"), f.copy_data(b"x"), f.COPY_DONE, SYNC,
        f.parse("s", S), f.describe("no"), f.close("s"), f.parse("s", "select t"), SYNC,
        DO, SYNC],
    "Close and Parse skipped": [
        SYNC, f.parse("s", S), f.execute("no"), f.close("s"), f.parse("s", "select t"),
        SYNC, DO, SYNC],
    "while a copy is open": [
        f.parse("s", S) + SYNC, f.query("copy in 0"), f.copy_data(b"x"), SYNC,
        f.COPY_DONE, f.parse("s", S), SYNC],
}  # fmt: skip


@pytest.mark.parametrize("manner", ["one write", "one by one", "in turns", "bytes"])
@pytest.mark.parametrize("prepared", [200, 1])
@pytest.mark.parametrize("name", TALKS)
def test_names_are_as_with_postgresql(relay, name, prepared, manner):
    """Cases 1b to 1e, 2d: FATAL 08P01 for what PostgreSQL answers with an error, at
    once, though an answer that decided it was still owed; or a ParseComplete of ours
    where the server had refused or forgotten the statement."""
    r = give_backends(relay(prepared=prepared))
    direct = Backend(DEFAULTS)
    other, client = r.client(), r.client()
    other.ask(f.parse("known", "select known"), SYNC)
    first, *rest = TALKS[name]
    direct.receive(first)
    heard = client.ask(first)
    direct.receive(b"".join(rest))
    if manner == "one write":
        heard += client.ask(*rest)
    elif manner == "one by one":
        for message in rest:
            client.send(message)
        heard += client.take()
    elif manner == "in turns":
        for message in rest:
            heard += client.ask(message)
    else:
        client.drip(*rest)
        heard += client.take()
    assert f.codes(heard) == f.codes(direct.out)
    assert heard == direct.out
    assert f.rows(other.ask(f.query("select marker"))) == [b"marker"]
    assert f.rows(other.ask(f.bind("known"), f.execute(), SYNC)) == [b"known"]


@pytest.mark.parametrize(
    ("text", "speaks"),
    [
        (b"DISCARD ALL", True),
        (b"discard plans", True),
        (b"-- x\ndiscard all", True),
        (b"begin;DEALLOCATE\nPREPARE all", True),
        (b"select 'dealloCATe'", True),
        (b"discar", False),
        (b"deallocat", False),
        (b"select cast(c as char) from calls where ca", False),
        (b"iscard", False),
        (b"eallocate", False),
        (b"", False),
    ],
)
def test_text_that_may_forget_statements_is_known(text, speaks):
    assert speaks_of_forgetting(text) is speaks


@pytest.mark.parametrize(
    ("text", "speaks"),
    [
        (b"RESET ALL", True),
        (b"  reset TimeZone", True),
        (b"discard all", True),
        (b"set timezone to default", True),
        (b"SET TIME ZONE LOCAL", True),
        (b"select set_config('TimeZone', null, false)", True),
        (b"select pg_catalog.set_config('TimeZone', NULL, false)", True),
        (b"/* a */ reset all", True),
        (b"-- a\nset timezone to default", True),
        (b"select 1; reset all", True),
        (b"begin;set time zone local;", True),
        (b"set names", True),
        (b"set names 'utf8'", True),
        (b"do $$begin reset timezone; end$$", True),
        (b"do $$begin perform 1; end$$", False),
        (b"select 1;", False),
        (b"select 1;\n;\0", False),
        (b"select 'a;b'", False),
        (b"-- reset", True),
        (b"select 1; commit", False),
        (b"select " + b"x, " * 400 + b"; reset all", False),
        (b"set timezone to 'x'", False),
        (b"select set_config('TimeZone', 'x', false)", False),
        (b"select 1", False),
        (b"rese", False),
        (b"", False),
    ],
)
def test_text_that_may_reset_parameters_is_known(text, speaks):
    assert speaks_of_resetting(text) is speaks


def test_nothing_waits_for_what_a_copy_leaves_out(relay):
    """A Sync in a COPY is not answered: who waited for that waited for ever."""
    r = relay()
    client = r.client(TimeZone="Asia/Tokyo")
    client.send(f.query("reset all;copy in 0"))
    server = r.servers[0]
    assert b"SET TimeZone" in server.take()
    server.send(f.complete("SET"), f.parameter_status("TimeZone", "Asia/Tokyo"))
    server.send(f.ready())
    server.take()
    server.send(f.complete("RESET"), f.COPY_IN)
    client.send(f.copy_data(b"x"), SYNC, f.COPY_DONE)
    assert f.codes(server.take()) == "dSc"
    server.send(f.complete("COPY 1"), f.ready())
    assert client.codes() == "CGCZ"


def test_client_that_waits_for_an_answer_asks_for_it(relay):
    """Behind DEALLOCATE in the same unit the server would say nothing before a Sync,
    which stands behind what waits."""
    r = relay()
    client = r.client()
    client.send(f.parse("s", S), SYNC)
    server = r.servers[0]
    server.send(f.PARSE_COMPLETE, f.ready())
    server.take()
    client.send(f.parse("", "deallocate all"), f.bind(""), f.execute())
    client.send(f.parse("s", S), SYNC)
    assert f.codes(server.take()) == "PBEH"
    server.send(f.PARSE_COMPLETE, f.BIND_COMPLETE, f.complete("DEALLOCATE ALL"))
    assert f.codes(server.take()) == "PS"
    server.send(f.PARSE_COMPLETE, f.ready())
    assert client.codes() == "1Z12C1Z"
