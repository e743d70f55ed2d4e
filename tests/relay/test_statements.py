"""Prepared statements: renamed, shared, evicted, undone when PostgreSQL skips them."""

import pytest

from tests.relay import frames as f
from tests.relay.backend import Backend
from tests.relay.harness import DEFAULTS, give_backends

OK = f.PARSE_COMPLETE + f.ready()


def prepared(relay, client, name="a", sql="S0"):
    """Let *client* prepare a statement on the relay's one server."""
    client.send(f.parse(name, sql), f.SYNC)
    server = relay.servers[0]
    server.send(OK)
    assert client.codes() == "1Z"
    server.take()
    return server


def names_of(server):
    """The statements named in what the server has received: [(code, name)]."""
    found = []
    for code, body in f.split(server.take())[0]:
        if code == b"P":
            found.append(("P", body.split(b"\0")[0].decode()))
        elif code == b"B":
            found.append(("B", body.split(b"\0")[1].decode()))
        elif code in b"DC":
            found.append((code.decode(), body[1:-1].decode()))
        else:
            found.append((code.decode(), ""))
    return found


def test_names_are_those_of_the_text(relay):
    r = relay()
    first, second = r.client(), r.client()
    server = prepared(r, first, "mine", "select 1")
    second.send(f.parse("yours", "select 1"), f.bind("yours"), f.execute(), f.SYNC)
    got = names_of(server)
    assert [code for code, _ in got] == ["B", "E", "S"]
    server.send(f.BIND_COMPLETE, f.complete("SELECT 0"), f.ready())
    assert second.codes() == "12CZ"
    first.send(f.bind("mine"), f.SYNC)
    assert names_of(server)[0] == got[0]


def test_types_are_part_of_what_is_shared(relay):
    r = relay()
    client = r.client()
    server = prepared(r, client, "a", "select $1")
    client.send(f.parse("b", "select $1", 23), f.SYNC)
    assert [code for code, _ in names_of(server)] == ["P", "S"]


def test_close_and_sync_without_a_server(relay):
    """The made-up CloseComplete, not yet sent, was taken for a client that does not
    read: nothing was read from it any more."""
    r = relay()
    client = r.client()
    client.send(f.close("a"), f.SYNC)
    server = r.servers[0]
    assert server.take() == f.SYNC
    server.send(f.ready())
    assert client.codes() == "3Z"


def test_made_up_answer_does_not_split_a_message(relay):
    """RowDescription settles a Describe as soon as it begins; what we answered
    ourselves then went out between its first and its second half."""
    r = relay()
    client = r.client()
    client.send(f.parse("a", "select 1"), f.describe("a"), f.FLUSH)
    server = r.servers[0]
    description = f.row_description("x" * 100)
    server.send(f.PARSE_COMPLETE, f.message(b"t", b"\0\0"), description[:40])
    client.send(f.close("zz"))
    server.send(description[40:])
    client.send(f.SYNC)
    server.send(f.ready())
    assert client.codes() == "1tT3Z"


@pytest.mark.regression(43)
def test_made_up_answer_stands_before_the_next_answer(relay):
    """It came too late when the message before it was cut, and the answer behind it
    was not counted at all."""
    r = relay()
    client = r.client()
    server = prepared(r, client, "a", "select 1")
    client.send(f.describe("a"), f.parse("b", "select 1"), f.bind("b"), f.SYNC)
    description = f.row_description("x" * 10)
    server.send(f.message(b"t", b"\0\0"), description[:9])
    server.send(description[9:], f.BIND_COMPLETE, f.ready())
    assert client.codes() == "tT12Z"
    assert server.server.state_name == "idle"


def test_made_up_answer_behind_a_copy(relay):
    """The end of a COPY settled CopyDone, but not what stood behind it."""
    r = relay()
    client = r.client()
    server = prepared(r, client, "a", "select 1")
    client.send(f.parse("", "copy"), f.bind(""), f.execute(), f.FLUSH)
    server.send(f.PARSE_COMPLETE, f.BIND_COMPLETE, f.COPY_IN)
    client.send(f.copy_data(b"x"), f.COPY_DONE, f.parse("b", "select 1"), f.SYNC)
    server.send(f.complete("COPY 1"), f.ready())
    assert client.codes() == "12GC1Z"
    server.take()
    client.send(f.bind("b"), f.SYNC)
    assert [code for code, _ in names_of(server)] == ["B", "S"]


@pytest.mark.regression(44)
def test_made_up_answer_is_not_given_while_postgresql_skips(relay):
    r = relay()
    client = r.client()
    server = prepared(r, client, "a", "select 1")
    client.send(f.bind("a"), f.FLUSH)
    server.send(f.error("22P02", "bad parameter"))
    client.send(f.parse("b", "select 1"), f.close("a"))
    assert client.codes() == "E"
    client.send(f.SYNC)
    server.send(f.ready())
    assert client.codes() == "Z"
    server.take()
    # a was not closed, b was not made
    client.send(f.bind("a"), f.parse("b", "select 1"), f.SYNC)
    assert [code for code, _ in names_of(server)] == ["B", "S"]
    server.send(f.BIND_COMPLETE, f.ready())
    assert client.codes() == "21Z"


# Skipped requests


def test_failed_parse_frees_its_name(relay):
    r = relay()
    client = r.client()
    client.send(f.parse("a", "select wrong"), f.SYNC)
    server = r.servers[0]
    server.send(f.error("42601", "syntax error"), f.ready())
    assert client.codes() == "EZ"
    server.take()
    client.send(f.parse("a", "select wrong"), f.SYNC)
    assert [code for code, _ in names_of(server)] == ["P", "S"]
    server.send(OK)
    assert client.codes() == "1Z"


def test_failing_for_ever_keeps_no_names(relay):
    r = relay()
    client = r.client()
    client.send(f.parse("good", "S0"), f.SYNC)
    r.servers[0].send(OK)
    for number in range(500):
        client.send(f.parse(f"bad{number}", f"syntax {number}"), f.SYNC)
        r.servers[0].send(f.error("42601", "syntax error"), f.ready())
        r.servers[0].take()
        client.take()
    assert [name for name, _ in client.client.prepared_names] == [b"good"]


def test_skipped_requests_are_undone_from_the_last_to_the_first(relay):
    """Close and a new Parse of the same name, both skipped, lost the name: the
    client was then thrown out for using it."""
    r = relay()
    client = r.client()
    server = prepared(r, client, "a", "S0")
    client.send(f.parse("x", "bad"), f.close("a"), f.parse("a", "S2"), f.SYNC)
    server.send(f.error("42601", "syntax error"), f.ready())
    assert client.codes() == "EZ"
    server.take()
    client.send(f.bind("a"), f.SYNC)
    assert [code for code, _ in names_of(server)] == ["B", "S"]
    server.send(f.BIND_COMPLETE, f.ready())
    assert client.codes() == "2Z"


def test_statement_evicted_in_a_skipped_batch_is_not_taken_for_prepared(relay):
    """Its skipped Close was undone, its skipped Parse was not: the next user of the
    text got an error 26000."""
    r = relay(prepared=1)
    client = r.client()
    client.send(f.parse("x", "bad"), f.parse("a", "S1"), f.parse("b", "S2"), f.SYNC)
    server = r.servers[0]
    assert [code for code, _ in names_of(server)] == ["P", "P", "C", "P", "C", "S"]
    server.send(f.error("42601", "syntax error"), f.ready())
    assert client.codes() == "EZ"
    assert server.server.prepared_count == 0
    client.send(f.parse("a", "S1"), f.bind("a"), f.SYNC)
    assert [code for code, _ in names_of(server)] == ["P", "B", "S"]


def test_skipped_eviction_leaves_the_statement_prepared(relay):
    r = relay(prepared=1)
    client = r.client()
    server = prepared(r, client, "a", "S1")
    client.send(f.parse("b", "bad"), f.SYNC)
    assert [code for code, _ in names_of(server)] == ["P", "C", "S"]
    server.send(f.error("42601", "syntax error"), f.ready())
    client.take()
    client.send(f.bind("a"), f.SYNC)
    assert [code for code, _ in names_of(server)] == ["B", "S"]


def test_parse_in_a_failed_transaction_is_refused(relay):
    """We answered ParseComplete for a text that the server had: the name was then
    taken, and whoever prepared it again was thrown out.
    """
    r = relay()
    client = r.client()
    server = prepared(r, client, "a", "S0")
    client.send(f.query("begin"), f.query("fail"))
    server.send(f.complete("BEGIN"), f.ready("T"), f.error("22012", "no"), f.ready("E"))
    assert client.codes() == "CZEZ"
    server.take()
    client.send(f.parse("b", "S0"), f.SYNC)
    assert [code for code, _ in names_of(server)] == ["C", "P", "S"]
    server.send(f.CLOSE_COMPLETE, f.error("25P02", "aborted"), f.ready("E"))
    assert client.codes() == "EZ"
    assert server.server.prepared_count == 0
    client.send(f.parse("b", "S0"), f.SYNC)
    server.send(f.error("25P02", "aborted"), f.ready("E"))
    assert client.codes() == "EZ"


def test_statement_of_a_unit_that_may_still_fail_is_parsed_again_behind_it(relay):
    """PostgreSQL goes on behind the Sync, whatever became of the Parse before it."""
    r = relay()
    first, second = r.client(), r.client()
    server = prepared(r, first, "a", "S0")
    server.server.disconnect("gone", True, False)
    first.send(f.query("begin; fail"), f.parse("b", "S0"), f.SYNC)
    first.send(f.query("rollback"), f.bind("a"), f.SYNC)
    server = r.servers[1]
    got = names_of(server)
    assert [code for code, _ in got] == ["Q", "P", "S", "Q", "C", "P", "B", "S"]
    server.send(f.complete("BEGIN"), f.error("P0001", "fail"), f.ready("E"))
    server.send(f.error("25P02", "aborted"), f.ready("E"))
    server.send(f.complete("ROLLBACK"), f.ready("I"))
    server.send(f.CLOSE_COMPLETE, f.PARSE_COMPLETE, f.BIND_COMPLETE, f.ready())
    assert first.codes() == "CEZEZCZ2Z"
    second.send(f.parse("c", "S0"), f.SYNC)
    assert f.codes(server.take()) == "S"


def test_statement_evicted_in_a_unit_that_may_still_fail(relay):
    """Its Close was skipped: the Parse behind the Sync then named what was there."""
    r = relay(prepared=1)
    client = r.client()
    server = prepared(r, client, "a", "S0")
    client.send(f.parse("", "bad"), f.parse("b", "S1"), f.SYNC, f.bind("a"), f.SYNC)
    assert f.codes(server.take()) == "PPCSCPCBS"
    server.send(f.error("42601", "syntax error"), f.ready())
    server.send(f.CLOSE_COMPLETE, f.PARSE_COMPLETE, f.CLOSE_COMPLETE)
    server.send(f.BIND_COMPLETE, f.ready())
    assert client.codes() == "EZ2Z"
    assert server.server.prepared_count == 1
    client.send(f.bind("a"), f.SYNC)
    assert f.codes(server.take()) == "BS"


# Everything forgotten


@pytest.mark.regression(51)
def test_statement_parsed_behind_deallocate_all_survives(relay):
    """It was forgotten together with those before; its user was thrown out."""
    r = relay()
    client = r.client()
    server = prepared(r, client, "old", "S0")
    client.send(f.query("deallocate all"), f.parse("a", "S1"), f.SYNC)
    server.send(f.complete("DEALLOCATE ALL"), f.ready())
    server.send(OK)
    assert client.codes() == "CZ1Z"
    server.take()
    client.send(f.bind("a"), f.SYNC)
    assert [code for code, _ in names_of(server)] == ["B", "S"]
    server.send(f.BIND_COMPLETE, f.ready())
    assert client.codes() == "2Z"
    assert [name for name, _ in client.client.prepared_names] == [b"a"]


def test_close_behind_deallocate_all_is_not_undone_into_existence(relay):
    r = relay()
    client = r.client()
    server = prepared(r, client, "a", "S0")
    client.send(f.query("deallocate all"), f.parse("b", "bad"), f.close("a"), f.SYNC)
    server.send(f.complete("DEALLOCATE ALL"), f.ready())
    server.send(f.error("42601", "syntax error"), f.ready())
    assert client.codes() == "CZEZ"
    assert client.client.prepared_names == []


# The server knows better


def refuse(server, sqlstate, routine="x", text="no"):
    fields = f"SERROR\0C{sqlstate}\0M{text}\0R{routine}\0\0".encode()
    server.send(f.message(b"E", fields), f.ready())


@pytest.mark.regression(52)
def test_statement_that_is_gone_is_parsed_again_after_one_error(relay):
    """DEALLOCATE by its name, or in a function: everybody got 26000 for ever."""
    r = relay()
    first, second = r.client(), r.client()
    server = prepared(r, first, "a", "S0")
    first.send(f.bind("a"), f.SYNC)
    name = server.server.prepared_names[0].decode()
    refuse(server, "26000", text=f'prepared statement "{name}" does not exist')
    assert f.errors(first.take()) == ['prepared statement "a" does not exist']
    server.take()
    second.send(f.parse("b", "S0"), f.bind("b"), f.SYNC)
    assert f.codes(server.take()) == "CPBS"
    server.send(f.CLOSE_COMPLETE, f.PARSE_COMPLETE, f.BIND_COMPLETE, f.ready())
    assert second.codes() == "12Z"
    first.send(f.bind("a"), f.SYNC)
    assert f.codes(server.take()) == "BS"


@pytest.mark.regression(53)
def test_statement_whose_columns_changed_is_parsed_again_after_one_error(relay):
    """cached plan must not change result type, for ever."""
    r = relay()
    client = r.client()
    server = prepared(r, client, "a", "select * from t")
    client.send(f.bind("a"), f.SYNC)
    refuse(server, "0A000", "RevalidateCachedQuery")
    assert client.codes() == "EZ"
    server.take()
    client.send(f.bind("a"), f.SYNC)
    assert f.codes(server.take()) == "CPBS"


def test_statement_that_is_there_unknown_to_us_is_closed_first(relay):
    r = relay()
    client = r.client()
    server = prepared(r, client, "a", "S0")
    client.send(f.parse("b", "S1"), f.SYNC)
    name = f.split(server.take())[0][0][1].split(b"\0")[0].decode()
    refuse(
        server, "42P05", text=f"Prepared Statement \u00bb{name}\u00ab existiert bereits"
    )
    assert f.errors(client.take()) == [
        "Prepared Statement \u00bbb\u00ab existiert bereits"
    ]
    server.take()
    client.send(f.parse("b", "S1"), f.SYNC)
    assert f.codes(server.take()) == "CPS"


def test_errors_of_other_kinds_change_nothing(relay):
    r = relay()
    client = r.client()
    server = prepared(r, client, "a", "S0")
    client.send(f.query("execute x"))
    refuse(server, "26000")
    client.send(f.bind("a"), f.SYNC)
    refuse(server, "22P02")
    server.take()
    client.send(f.bind("a"), f.SYNC)
    assert f.codes(server.take()) == "BS"


# The unnamed statement


@pytest.mark.regression(54)
def test_unnamed_statement_of_another_client_is_not_there(relay):
    """Bind to it ran what another client had asked, with its rows."""
    r = relay()
    first, second = r.client(), r.client()
    first.send(f.parse("", "select secret"), f.SYNC)
    server = r.servers[0]
    server.send(OK)
    server.take()
    second.send(f.bind(""), f.SYNC)
    assert server.take() == f.close("") + f.bind("") + f.SYNC
    server.send(f.CLOSE_COMPLETE, f.error("26000", "none"), f.ready())
    assert second.codes() == "EZ"
    second.send(f.describe(""), f.SYNC)
    assert server.take() == f.describe("") + f.SYNC
    server.send(f.error("26000", "none"), f.ready())
    assert second.codes() == "EZ"
    own = f.parse("", "x") + f.bind("") + f.describe("", b"P") + f.execute() + f.SYNC
    second.send(own)
    assert server.take() == own


UNIT = f.bind("") + f.execute() + f.SYNC
SELECT = f.parse("", "select one") + f.describe("") + f.SYNC
# What one client sends; another has its own unnamed statement on the same server, and
# says it again wherever "|" stands.
UNNAMED = {
    "behind its own Sync": [SELECT, "|", UNIT],
    "again and again": [SELECT, "|", UNIT, "|", UNIT, "|", f.describe(""), f.SYNC],
    "none of its own": ["|", UNIT],
    "none, and another's": ["|", f.describe("") + f.SYNC, "|", UNIT],
    "a Query destroys it": [SELECT, "|", f.query("select q"), "|", UNIT],
    "... where it was": [SELECT, f.query("select q"), UNIT],
    "a Close destroys it": [SELECT, "|", f.close("") + f.SYNC, "|", UNIT],
    "a refused Parse destroys it": [
        SELECT, "|", f.parse("", "syntax error") + f.SYNC, "|", UNIT],
    "... and then it is parsed": [
        f.parse("", "syntax error") + f.SYNC, SELECT, "|", UNIT],
    "a skipped Parse does not": [
        SELECT, "|", f.bind("", "", "x") + f.describe("no", b"P")
        + f.parse("", "select two") + f.SYNC, "|", UNIT],
    "a skipped Query does not": [
        SELECT, "|", f.describe("no", b"P") + f.query("select q") + f.SYNC, "|", UNIT],
    "a skipped Close does not": [
        SELECT, "|", f.describe("no", b"P") + f.close("") + f.SYNC, "|", UNIT],
    "a refused one behind others": [
        SELECT, "|", f.parse("", "select two") + f.parse("", "syntax error")
        + f.parse("", "select three") + f.SYNC, "|", UNIT],
    "the last of a unit": [
        f.parse("", "select two") + f.bind("") + f.parse("", "select one") + f.SYNC,
        "|", UNIT],
    "an error behind it": [
        f.parse("", "select one") + f.describe("no", b"P") + f.SYNC, "|", UNIT],
    "all forgotten by DEALLOCATE": [
        f.parse("", "deallocate all") + f.bind("") + f.execute() + f.SYNC, "|", UNIT],
    "skipped, in the same write": [
        "|", f.execute("no") + f.parse("", "select two") + f.SYNC + UNIT],
    "a skipped Query, in the same write": [
        SELECT, "|", f.execute("no") + f.query("select q") + f.SYNC + UNIT],
    "skipped, and then another": [
        SELECT, "|", f.execute("no") + f.parse("", "select two") + f.SYNC
        + f.parse("", "select three") + UNIT, "|", UNIT],
    "skipped, and another one, too": [
        SELECT, "|", f.execute("no") + f.parse("", "select two") + f.SYNC
        + f.execute("no") + f.parse("", "select three") + f.SYNC, UNIT, "|", UNIT],
    "refused, and then another": [
        SELECT, "|", f.parse("", "syntax error") + f.SYNC
        + f.parse("", "select three") + UNIT, "|", UNIT],
    "refused, and another one skipped": [
        SELECT, "|", f.parse("", "syntax error") + f.SYNC + f.execute("no")
        + f.parse("", "select three") + f.SYNC, UNIT, "|", UNIT],
    "behind a call without a Sync": [
        f.parse("", "select one") + f.function_call(7, b"x"), UNIT],
    "in the same write": [SELECT + UNIT, "|", UNIT + UNIT],
    "long": [f.parse("", "select " + "one" * 20_000) + f.SYNC, "|", UNIT],
}  # fmt: skip


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("prepared", [200, 0])
@pytest.mark.parametrize("name", UNNAMED)
def test_unnamed_statement_is_the_clients_own(relay, name, prepared, cut):
    """Behind its own Sync, on a server that another client had meanwhile, it was not
    there (26000), as it is in every driver that prepares first; or it was another
    client's, with its rows."""
    r = give_backends(relay(prepared=prepared))
    direct = Backend(DEFAULTS)
    client, other = r.client(), r.client()
    for data in UNNAMED[name]:
        if data == "|":
            got = other.ask(f.parse("", "select secret") + UNIT)
            assert f.rows(got) == [b"secret"]
            continue
        direct.receive(data)
        if cut and len(data) < 1000:
            client.drip(data)
        else:
            client.send(data)
        assert client.take() == direct.out
        direct.out = b""
    assert f.rows(other.ask(UNIT)) == [b"secret"] * ("|" in UNNAMED[name])
    assert r.servers[0].server.clean


def test_unnamed_statement_survives_our_own_sets(relay):
    """They are a Query, which destroys the server's."""
    r = give_backends(relay())
    client, other = r.client(TimeZone="Asia/Tokyo"), r.client()
    client.ask(f.parse("", "select one"), f.SYNC)
    other.ask(f.query("select x"))
    assert f.rows(client.ask(UNIT)) == [b"one"]
    client.ask(f.parse("", "select two"), f.SYNC)
    assert f.rows(client.ask(UNIT)) == [b"two"]


def test_unnamed_statement_of_any_length_is_nobody_elses(relay):
    """One that is too long to be kept is gone at another server, but none is taken
    for it."""
    r = give_backends(relay())
    client, other = r.client(), r.client()
    text = "select " + "long" * 20_000
    client.ask(f.parse("", text), f.SYNC)
    assert f.rows(client.ask(UNIT)) == [b"long" * 20_000]
    other.ask(f.parse("", "select secret"), f.SYNC)
    assert f.errors(client.ask(UNIT)) == ["unnamed prepared statement does not exist"]
    assert f.rows(other.ask(UNIT)) == [b"secret"]


def test_unnamed_statement_lives_as_long_as_the_server_is_kept(relay):
    r = relay()
    client = r.client()
    client.send(f.query("begin"), f.parse("", "x"), f.SYNC)
    server = r.servers[0]
    server.send(f.complete("BEGIN"), f.ready("T"), f.PARSE_COMPLETE, f.ready("T"))
    server.take()
    client.send(f.bind(""), f.SYNC)
    assert server.take() == f.bind("") + f.SYNC


# The limit


def test_least_recently_used_statement_is_closed_behind_the_new_one(relay):
    r = relay(prepared=2)
    client = r.client()
    server = prepared(r, client, "a", "S1")
    prepared(r, client, "b", "S2")
    client.send(f.bind("a"), f.SYNC)
    (_, name_a), _ = names_of(server)
    server.send(f.BIND_COMPLETE, f.ready())
    client.take()
    client.send(f.parse("c", "S3"), f.bind("b"), f.bind("a"), f.SYNC)
    got = names_of(server)
    # b made room for c; then b comes back, and a (the oldest by then) makes room.
    assert [code for code, _ in got] == ["P", "C", "P", "C", "B", "P", "C", "B", "S"]
    assert got[3] == ("C", name_a)
    assert got[7] == ("B", name_a)
    server.send(f.PARSE_COMPLETE, f.CLOSE_COMPLETE)
    server.send(f.PARSE_COMPLETE, f.CLOSE_COMPLETE, f.BIND_COMPLETE)
    server.send(f.PARSE_COMPLETE, f.CLOSE_COMPLETE, f.BIND_COMPLETE, f.ready())
    assert client.codes() == "122Z"
    assert server.server.clean
    assert server.server.prepared_count == 2


def test_limit_of_none_passes_everything_through(relay):
    r = relay(prepared=0)
    client = r.client()
    asked = f.parse("a", "S1") + f.bind("a") + f.close("a") + f.SYNC
    client.send(asked)
    assert r.servers[0].take() == asked
    r.servers[0].send(f.PARSE_COMPLETE, f.BIND_COMPLETE, f.CLOSE_COMPLETE, f.ready())
    assert client.codes() == "123Z"
    assert r.servers[0].server.clean


@pytest.mark.regression(41)
def test_portal_and_statement_of_one_name_are_two_things(relay):
    r = relay()
    client = r.client()
    server = prepared(r, client, "x", "S1")
    client.send(f.bind("x", "x"), f.close("x", b"P"), f.SYNC)
    assert f.codes(server.take()) == "BCS"
    server.send(f.BIND_COMPLETE, f.CLOSE_COMPLETE, f.ready())
    assert client.codes() == "23Z"
    client.send(f.bind("x"), f.SYNC)
    assert f.codes(server.take()) == "BS"


# Wrong use


def test_parse_without_its_types_ends_the_client(relay):
    r = relay()
    client = r.client()
    broken = f.message(b"P", b"a\0select $1\0\0\2\0\0\0\x17")
    assert f.errors(client.ask(broken)) == ["broken Parse packet"]


def test_parse_without_its_zeros_ends_the_client(relay):
    r = relay()
    client = r.client()
    assert f.errors(client.ask(f.message(b"P", b"abc"))) == ["failed to parse packet"]


@pytest.mark.regression(45)
def test_statement_prepared_and_left_behind_is_not_claimed(relay):
    """The client goes before Sync: its server goes with it, and so does the claim."""
    r = relay()
    first, second = r.client(), r.client()
    first.send(f.parse("a", "S1"))
    assert f.codes(r.servers[0].take()) == "P"
    first.close()
    second.send(f.parse("a", "S1"), f.SYNC)
    assert f.codes(r.servers[1].take()) == "PS"
