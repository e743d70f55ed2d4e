"""What an online restart hands over: nothing that was true before is forgotten.

Here the next process is a second relay in this one. It gets copies of the sockets and
what `carried` tells, through JSON as in life; the old relay lets go of its own.
"""

import json
import os
import re
from pathlib import Path

import pytest

from bouncer.relay.carried import (
    client_state,
    learn_statements,
    let_go,
    restore_client,
    restore_server,
    server_state,
    statements_learnt,
    statements_of,
)
from bouncer.relay.client import Client
from bouncer.relay.server import Server
from tests.relay import frames as f
from tests.relay.backend import Backend
from tests.relay.harness import (
    DEFAULTS,
    SESSION,
    TRANSACTION,
    ClientEnd,
    Relay,
    ServerEnd,
    give_backends,
)

RELAY = Path(__file__).resolve().parents[2] / "bouncer" / "relay"


def carry(state):
    return json.loads(json.dumps(state))


def take_over(old: Relay, new: Relay) -> Relay:
    """Hand every connection of *old* to *new*, as bouncer.adopt does."""
    new.size = old.size
    told = [carry(client_state(end.client)) for end in old.clients]
    told += [carry(server_state(end.server)) for end in old.servers]
    learn_statements(pair for state in told for pair in statements_of(state))
    pairs = {end.client: take_client(new, end) for end in old.clients}
    for end in old.servers:
        take_server(new, end, pairs.get(end.server.client))
    statements_learnt()
    pairs.clear()
    for end in (*old.clients, *old.servers):
        let_go(end.client if isinstance(end, ClientEnd) else end.server)
    old.clients.clear()
    old.servers.clear()
    return new


def take_client(new: Relay, end: ClientEnd) -> ClientEnd:
    client = Client(new.poller, os.dup(end.client.fd), new, None)
    client.user, client.pool, client.tracked = "user", new.pool, end.client.tracked
    client.welcome_done()
    client.at_login = end.client.at_login
    new.pool.push_client(client)
    restore_client(client, carry(client_state(end.client)))
    client.watch()
    end.sock.setblocking(False)
    taken = ClientEnd(end.sock, new.turn, client)
    new.clients.append(taken)
    return taken


def take_server(new: Relay, end: ServerEnd, client: ClientEnd | None) -> ServerEnd:
    server = Server(new.poller, os.dup(end.server.fd), new, new.pool)
    server.address_text = "fake"
    server.watch(True)
    server.tracked, server.at_login = end.server.tracked, end.server.at_login
    new.pool.push_login(server)
    if client is None:
        new.pool.login_done(server)
    else:
        server.relay_phase()
        server.tracked = client.client.tracked
        new.pool.link_pair(client.client, server)
        server.tracked = end.server.tracked
    restore_server(server, carry(server_state(end.server)))
    taken = ServerEnd(end.sock, new.turn, server)
    taken.backend = end.backend
    new.servers.append(taken)
    return taken


class Live:
    """A relay whose servers are Backends, with one client; it can be succeeded."""

    def __init__(self, make) -> None:
        self.make = make
        self.relay = give_backends(make())
        self.client = self.relay.client()

    def succeed(self) -> None:
        """Go on in the next process."""
        where = self.relay.clients.index(self.client)
        self.relay = take_over(self.relay, give_backends(self.make()))
        self.client = self.relay.clients[where]

    def ask(self, *data: bytes) -> bytes:
        return self.client.ask(*data)


@pytest.fixture
def live(relay):
    one = Live(relay)
    yield one
    one.client = one.relay = None  # pytest keeps *one* for a while


@pytest.mark.parametrize("mode", [SESSION, TRANSACTION])
def test_statement_that_resets_is_still_known_to(relay, mode):
    """Of a reset that changes nothing at the server only its text tells."""
    made = []

    def make():
        made.append(relay(mode=mode))
        return made[-1]

    one = Live(make)
    one.client = one.relay.client(TimeZone="Asia/Tokyo")
    one.ask(f.parse("r", "reset TimeZone"), f.SYNC)
    one.ask(f.query("begin"))
    one.ask(f.query("set TimeZone Etc/UTC"))
    one.succeed()
    one.ask(f.bind("r"), f.execute(), f.SYNC)
    assert f.rows(one.ask(f.query("show TimeZone"))) == [b"Asia/Tokyo"]


def test_unnamed_statement_of_a_transaction_is_still_there(live):
    """It was taken for another client's, and closed before its Bind."""
    live.ask(f.query("begin"))
    assert f.codes(live.ask(f.parse("", "parameters"), f.SYNC)) == "1Z"
    live.succeed()
    got = live.ask(f.bind("", "", "mine"), f.execute(), f.SYNC)
    assert f.codes(got) == "2DCZ"
    live.ask(f.query("commit"))


def test_unnamed_statement_of_another_client_is_still_not_there(live):
    other = live.relay.client()
    other.ask(f.parse("", "select others"), f.SYNC)
    live.ask(f.query("begin"))
    live.succeed()
    got = live.ask(f.bind(""), f.execute(), f.SYNC)
    assert f.codes(got) == "EZ"
    assert f.rows(got) == []


def test_doubt_about_a_servers_statements_stays(live):
    """One was gone, by SQL: from then on a Close goes before each Parse."""
    live.ask(f.parse("s", "select s"), f.SYNC)
    live.relay.servers[0].backend.statements.clear()
    assert f.codes(live.ask(f.bind("s"), f.execute(), f.SYNC)) == "EZ"
    live.succeed()
    backend = live.relay.servers[0].backend
    seen: list[bytes] = []
    message = backend.message
    backend.message = lambda code, body: (seen.append(code), message(code, body))
    assert f.codes(live.ask(f.parse("t", "select t"), f.SYNC)) == "1Z"
    assert b"".join(seen) == b"CPS"


def test_server_that_spoke_out_of_turn_is_still_not_used(live):
    server = live.relay.server()
    server.send(f.data_row(b"nobody's"))
    assert server.server.is_dirty
    live.succeed()
    assert live.relay.servers[0].server.is_dirty
    got = live.ask(f.query("select mine"))
    assert f.rows(got) == [b"mine"]
    assert live.relay.reasons == ["idle server got dirty"]


def test_name_of_a_refused_parse_may_be_taken_again(live):
    """Its client was thrown out: the name was taken for one in use."""
    assert f.codes(live.ask(f.parse("s", "syntax error"), f.SYNC)) == "EZ"
    live.succeed()
    assert f.codes(live.ask(f.parse("s", "select fine"), f.SYNC)) == "1Z"
    got = live.ask(f.bind("s"), f.execute(), f.SYNC)
    assert f.rows(got) == [b"fine"]


def test_names_that_a_server_has_for_a_deallocate_are_still_taken_back(live):
    """What a text left of them stayed at the server, for whoever came next."""
    live.ask(f.parse("s", "select s"), f.parse("t", "select t"), f.SYNC)
    live.ask(f.query("begin"))
    live.ask(f.query("select 1; deallocate s; fail; deallocate t"))
    live.succeed()
    backend = live.relay.servers[0].backend
    assert set(backend.statements) >= {"t"}
    live.ask(f.query("rollback"))
    assert not {"s", "t"} & set(backend.statements)
    assert f.codes(live.ask(f.bind("s"), f.execute(), f.SYNC)) == "EZ"
    assert f.codes(live.ask(f.bind("t"), f.execute(), f.SYNC)) == "2DCZ"


def test_answers_under_way_reach_their_client(live):
    """Syncs of a pipeline, an error, a statement that is skipped, our own Close."""
    live.relay.pool.max_prepared = 1
    live.relay.on_turn = lambda: None
    direct = Backend(DEFAULTS)
    messages = [
        f.parse("a", "select a"), f.bind("a"), f.execute(), f.SYNC,
        f.query("fail"), f.parse("b", "select b"), f.parse("c", "syntax error"),
        f.bind("b"), f.execute(), f.SYNC,
        f.parse("b2", "select b"), f.bind("b2"), f.execute(), f.SYNC,
        f.close("a"), f.SYNC,
    ]  # fmt: skip
    live.client.send(*messages)
    direct.receive(b"".join(messages))
    live.succeed()
    live.relay.turn()
    assert live.client.take() == direct.out
    assert live.relay.servers[0].server.clean


# Of each field that a connection keeps from one message to the next: why the next
# process needs no word of it. All others must be in what `carried` tells.
PLACE = "told by SHOW FDS or found anew by bouncer.adopt"
STILL = "nothing is half done while both processes stand still"
CACHE = "only saves work"
LOGIN = "only until the welcome"
NOT_CARRIED = {
    "Client": {
        **dict.fromkeys(
            ("state", "pool", "server", "app", "user", "user_state", "database",
             "listener", "door", "counted_database", "counted_user", "cancel_key",
             "tracked", "at_login"),
            PLACE),
        **dict.fromkeys(
            ("held_back", "set_twice", "dropping", "refusing", "leaving", "told_since",
             "departed", "remain", "wait_kind", "wait_start",
             "wait_note", "notified", "ends_with"), STILL),
        **dict.fromkeys(
            ("first_byte_is_tls", "started", "refused_tls", "introduced",
             "application_name_override", "startup_params", "known", "proof"), LOGIN),
        "forgotten": "no note that is carried is older",
        "last_close": "as what its server owes is put in",
        **dict.fromkeys(
            ("unnamed_doubt", "unnamed_change"), "only what is half sent hangs on it"),
        "kept_long": "as unnamed_parse is put in",
        "on_console": "the console is not handed over",
    },
    "Server": {
        **dict.fromkeys(
            ("state", "pool", "client", "app", "login", "address", "host", "phase",
             "address_text", "cancel_key", "backend_pid", "tracked", "at_login"),
            PLACE),
        **dict.fromkeys(
            ("cancels", "keeps_cancels", "release_due", "place_due", "held_up",
             "reworded", "remain", "fakes_due",
             "skipping", "error", "peer", "cancel_for", "learnt", "asked_status",
             "asked"), STILL),
        "equal_to": CACHE,
        "bound": "the statement of an error; nothing is executed meanwhile",
        "changing": "all statements are new in the next process",
        "minds": "bit by bit, and with what its client tells",
        "said": "of a portal that stays open meanwhile only a silent reset is missed",
        "ledger": "field by field, below",
        "forgetting": "put in as the careful side of what is owed",
        "fresh": "whoever had it before: its session is discarded before auth_query",
    },
    "Ledger": {
        **dict.fromkeys(
            ("items", "inline_items", "head", "count", "capacity", "goals", "syncs",
             "synced"),
            "as its entries are put in"),
        "syncs_known": CACHE,
        "forgotten": "no note that is carried is older",
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "told"),
    [("Client", client_state), ("Server", server_state), ("Ledger", server_state)],
)
def test_every_field_is_carried_or_need_not_be(relay, kind, told):
    """A field that somebody adds, and forgets here, is forgotten at each restart."""
    text = (RELAY / f"{kind.lower()}.pxd").read_text()
    block = re.split(rf"cdef class {kind}(?:\(Stream\))?:", text)[1]
    block = re.split("    # (?:Coming in|The flow of)|    cdef inline", block)[0].split(
        "    cdef:\n"
    )[1]
    fields = set()
    for line in block.splitlines():
        code = line.split("#")[0].strip()
        if code:
            fields.update(
                re.split(r"\W+", re.sub(r"^(public |readonly )|\[\d+\]", "", code))[1:]
            )
    r = relay()
    state = told(r.client().client if kind == "Client" else r.server().server)
    assert fields - set(state) == set(NOT_CARRIED[kind])
