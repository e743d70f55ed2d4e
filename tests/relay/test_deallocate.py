"""DEALLOCATE of one name, as drivers say it that have no Close: libpq before 17.

psycopg 3, DBD::Pg, PDO and Rails prepare by the protocol and deallocate by SQL. The
server has the statement under a name of ours: it said 26000, and in a transaction all
that came behind it failed.
"""

import pytest

from bouncer.relay.intent import speaks_of_deallocating
from tests.relay import frames as f
from tests.relay.backend import Backend
from tests.relay.harness import DEFAULTS, SESSION, STATEMENT, TRANSACTION, give_backends

MADE = f.parse("s", "select s") + f.SYNC
GONE = f.query("deallocate s")
USED = f.bind("s") + f.execute() + f.SYNC

TEXTS = {
    b"deallocate s": b"s",
    b"DEALLOCATE PREPARE S;": b"s",
    b" deallocate\t prepare\n _pg3_0 ; ": b"_pg3_0",
    b'deallocate "S"': b"S",
    b'DEALLOCATE"a""b"': b'a"b',
    b'deallocate prepare "all"': b"all",
    b'deallocate "prepare"': b"prepare",
    b"deallocate prepare": b"prepare",
    b"deallocate prepare;": b"prepare",
    b"deallocate dbdpg_p1_2$x": b"dbdpg_p1_2$x",
    b"deallocate " + b"x" * 63: b"x" * 63,
    b"deallocate all": None,
    b"deallocate prepare ALL": None,
    b"deallocate " + b"x" * 64: None,
    b'deallocate "' + b'"' * 200: None,
    b"deallocate s t": None,
    b"deallocate s; select 1": None,
    b"deallocate s;;": None,
    b'deallocate "s': None,
    b'deallocate ""': None,
    b"deallocate": None,
    b"deallocate ": None,
    b"deallocates s": None,
    b"deallocate 1s": None,
    b"deallocate /* x */ s": None,
    b"discard all": None,
    b"deallocate \xc3\xa9": None,
    b"deallocate s\0x": None,
    b"": None,
}


@pytest.mark.parametrize("text", TEXTS, ids=repr)
def test_text_is_a_deallocate_of_one_name(text):
    assert speaks_of_deallocating(text) == TEXTS[text]


CONVERSATIONS = {
    "idle": [MADE, GONE, MADE, USED],
    "not there any more": [MADE, GONE, USED],
    "twice": [MADE, GONE, GONE],
    "in one send": [MADE + GONE + MADE + USED],
    "behind a query that is owed": [
        MADE, f.query("select 1") + GONE + f.query("select 2")],
    "behind a Parse that fails": [
        f.parse("s", "syntax error") + f.SYNC + GONE,
        f.query("select 1"),
    ],
    "in a transaction": [MADE, f.query("begin"), GONE, f.query("select 1"), USED],
    "in a transaction, in one send": [
        MADE, f.query("begin") + GONE + f.query("select 1") + f.query("commit")],
    "in a failed transaction": [
        MADE, f.query("begin"), f.query("fail"), GONE, f.query("rollback"), USED],
    "of another": [MADE, f.query("deallocate other"), USED],
    "in an open unit": [
        MADE, f.parse("", "select 1") + f.bind("") + GONE + f.SYNC, USED],
    "in the unit that made it": [f.parse("s", "select s") + GONE + USED],
    "in an open unit that fails": [
        MADE, f.parse("", "syntax error") + GONE + f.SYNC, USED],
    "in an open unit that is executed": [
        MADE, f.parse("", "select 1") + f.bind("") + f.execute() + GONE + f.SYNC],
    "with a goodbye": [MADE, GONE + f.TERMINATE],
}  # fmt: skip


@pytest.mark.parametrize("chopped", [False, True], ids=["whole", "chopped"])
@pytest.mark.parametrize("mode", [TRANSACTION, SESSION, STATEMENT])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_deallocate_of_a_name_is_as_with_postgresql(relay, name, mode, chopped):
    steps = CONVERSATIONS[name]
    if mode == STATEMENT and any(b"begin" in step for step in steps):
        pytest.skip("not in this mode")
    r = give_backends(relay(mode=mode))
    direct = Backend(DEFAULTS)
    client, other = r.client(), r.client()
    for step in steps:
        direct.receive(step)
        client.drip(step) if chopped else client.send(step)
        heard = client.take()
        assert f.codes(heard) == f.codes(direct.out)
        assert (f.rows(heard), f.errors(heard), heard[-6:]) == (
            f.rows(direct.out),
            f.errors(direct.out),
            direct.out[-6:],
        )
        direct.out = b""
    if mode == TRANSACTION and "transaction" not in name:
        assert f.rows(other.ask(f.query("select marker"))) == [b"marker"]
    assert len(r.servers) == 1


def test_deallocate_takes_the_statement_from_nobody_else(relay):
    r = give_backends(relay())
    one, other = r.client(), r.client()
    for client in (one, other):
        client.ask(MADE)
    assert f.codes(one.ask(GONE)) == "CZ"
    assert f.rows(other.ask(USED)) == [b"s"]
    assert f.codes(one.ask(USED)) == "EZ"


def test_deallocate_needs_no_server_and_keeps_none(relay):
    r = relay()
    client, holder = r.client(), r.client()
    client.send(MADE)
    server = r.servers[0]
    server.send(f.PARSE_COMPLETE, f.ready())
    client.take()
    holder.send(f.query("begin"))
    server.take()
    assert f.codes(client.ask(GONE)) == "CZ"
    assert r.pool.waiting.count == 0
