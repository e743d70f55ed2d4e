"""The compiled relay: bytes of several clients and of the servers of one pool.

The servers are either hostile, saying what the input says, or models of PostgreSQL
that answer what they are asked (setup's first byte). Of the latter every row belongs
to the client that asked, which `@mark@` in its messages proves: it becomes the
client's own mark. In both cases whoever comes next must be served.
"""

import gc
import re
from typing import Any

from bouncer.relay import stream as relay_stream
from bouncer.relay.statements import known_statements
from tests.fuzz.steps import Step
from tests.fuzz.targets import Found
from tests.relay import frames as f
from tests.relay.backend import Backend, Failed
from tests.relay.harness import (
    SESSION,
    STATEMENT,
    TRANSACTION,
    ClientEnd,
    Relay,
    ServerEnd,
    give_backends,
)

CLIENT, SERVER, CONNECT, LEAVE, DIE, ACT, STALL, HALF, DRIP = range(9)
MARK = b"@mark@"
MOST_CLIENTS = 4
MOST_DRIPS = 300  # bytes that come one by one
MOST_UNSENT = 1 << 20  # bytes that wait for one peer
BIGGEST = 5000  # rows or bytes that a model answers with
RESETS = (b"", b"discard all")
CHECKS = (b"", b"select 1")
VARIANTS: tuple[dict[str, str], ...] = (
    {},
    {"TimeZone": "Asia/Tokyo"},
    {"application_name": "a'\\b"},
    {"client_encoding": "SQL_ASCII", "DateStyle": "German"},
)
NAMES = (b"", b"a", b"b", b"foo", b"PGBOUNCER_1", b"n" * 70)
SQL = (
    b"select @mark@", b"DISCARD ALL", b"DEALLOCATE ALL", b"discard all", b"begin",
    b"deallocate all", b"commit", b"rollback", b"copy in 0", b"copy in 1", b"", b";",
    b"copy in refused", b"copy out 3 @mark@", b"set TimeZone @mark@", b"fail @mark@",
    b"show TimeZone", b"rows 3 @mark@", b"big 4000 @mark@", b"notice @mark@",
    b"select @mark@;fail;select @mark@", b"parameters", b"set x=1", b"syntax",
)  # fmt: skip
ERRORS = (
    b"SERROR\0C22012\0Mdiv\0\0", b"SFATAL\0VFATAL\0C57P01\0Mx\0\0", b"", b"\0",
    b"SERROR\0C26000\0Mx\0\0", b"SERROR\0C42P05\0Mx\0\0", b"SERROR\0C53200\0Mx\0\0",
    b"SERROR\0C0A000\0RRevalidateCachedQuery\0\0",
)  # fmt: skip
TAGS = (
    b"SELECT 1",
    b"DISCARD ALL",
    b"DEALLOCATE ALL",
    b"BEGIN",
    b"COPY 1",
    b"SET",
    b"",
)
STATUSES = (
    (b"TimeZone", b"UTC"), (b"TimeZone", b"Asia/Tokyo"), (b"search_path", b"a"),
    (b"application_name", b"x\\'y"), (b"client_encoding", b"UTF8"), (b"foo", b"bar"),
    (b"default_transaction_read_only", b"on"), (b"DateStyle", b"\xff"),
)  # fmt: skip
FROM_CLIENT = [
    *(f.message(b"Q", sql + b"\0") for sql in SQL),
    *(f.message(b"P", n + b"\0" + s + b"\0\0\0") for n in NAMES for s in SQL[:12]),
    *(f.message(b"B", b"\0" + n + b"\0\0\0\0\0\0\0") for n in NAMES),
    f.bind("", "p", "@mark@"), f.bind("a", "", "@mark@"),
    *(f.message(c, k + n + b"\0") for c in (b"D", b"C") for k in (b"S", b"P", b"X")
      for n in NAMES),
    f.execute(), f.execute("", 1), f.execute("p", 2), *[f.SYNC] * 8, f.FLUSH,
    f.COPY_DONE,
    f.copy_data(b"row\n"), f.copy_fail(), f.function_call(1, MARK), f.TERMINATE,
    f.message(b"p", b"x\0"), f.query("select @mark@") * 3,
    f.parse("a", "select @mark@") + f.bind("a") + f.execute() + f.SYNC,
    f.parse("", "select @mark@") + f.describe("") + f.bind("") + f.execute() + f.SYNC,
    f.query("begin") + f.query("select @mark@") + f.query("commit"),
]  # fmt: skip
FROM_SERVER = [
    *[f.ready(status) for status in "IIITEX"],
    *(f.message(b"C", tag + b"\0") for tag in TAGS),
    *(f.message(b"E", body) for body in ERRORS),
    *(f.message(b"S", n + b"\0" + v + b"\0") for n, v in STATUSES),
    f.PARSE_COMPLETE, f.BIND_COMPLETE, f.CLOSE_COMPLETE, f.NO_DATA, f.SUSPENDED,
    f.message(b"T", b"\0\0"), f.data_row(b"x"), f.notice("hm"), f.notification("n"),
    f.COPY_IN, f.COPY_OUT, f.message(b"W", b"\0\0\0"), f.copy_data(b"row\n"),
    f.message(b"c"), f.message(b"t", b"\0\0"), f.EMPTY_QUERY, f.message(b"V"),
    f.message(b"K", b"\0" * 8), f.message(b"R", b"\0" * 4),
    f.row_description("a") + f.data_row(b"x" * 50) + f.complete("SELECT 1") + f.ready(),
    f.complete("SET") + f.ready(), f.error("57P01", "bye", "FATAL"),
    f.PARSE_COMPLETE + f.BIND_COMPLETE + f.data_row(b"y") + f.complete("SELECT 1"),
]  # fmt: skip
words = {
    CLIENT: FROM_CLIENT, SERVER: FROM_SERVER, CONNECT: [b""], LEAVE: [b""], DIE: [b""],
    ACT: [bytes([number]) for number in range(8)], STALL: [b""], HALF: [b""],
    DRIP: FROM_CLIENT,
}  # fmt: skip


class Guarded(Relay):
    """Keeps what a stream raised, and ends that stream, as the app does."""

    def crashed(self, stream: Any, problem: Exception) -> None:
        super().crashed(stream, problem)
        if stream is not None and not stream.closed:
            stream.disconnect("internal error")

    def turn(self) -> None:
        super().turn()
        for end in self.clients:
            self.measure("client", end.client)
        for end in self.servers:
            self.measure("server", end.server)

    def measure(self, what: str, stream: Any) -> None:
        if stream.unsent > MOST_UNSENT:
            raise Found(f"{stream.unsent} bytes wait for a {what}")


class Model(Backend):
    """PostgreSQL, as far as the relay's tests need it; what is odd ends it."""

    def message(self, code: bytes, body: bytes) -> None:
        try:
            super().message(code, body)
        except (ValueError, IndexError, KeyError, AssertionError, TypeError):
            self.out += f.error("08P01", "invalid message", "FATAL")
            self.ended = True

    def check(self, words: list[str]) -> None:
        super().check(words)
        if any(w.isdecimal() and (len(w) > 5 or int(w) > BIGGEST) for w in words[:3]):
            raise Failed("54000", "too much")


class Play:
    """One input, as it is played."""

    def __init__(self, setup: bytes) -> None:
        how, prepared, extras = setup[0], setup[1], setup[2]
        self.honest = bool(how & 1)
        mode = (SESSION, TRANSACTION, STATEMENT)[(how >> 1) % 3]
        most = (200, 0, 1, 2)[prepared & 3]
        r = Guarded(mode=mode, size=1 + (how >> 4 & 1), prepared=most)
        self.r = r
        r.pool.reset_query = RESETS[prepared >> 2 & 1]
        r.pool.reset_on_release = bool(r.pool.reset_query)
        r.pool.check_query = CHECKS[prepared >> 3 & 1]
        r.pool.check_on_release = bool(r.pool.check_query)
        self.sndbuf = 4096 if extras & 1 else 0
        # Without names of ours, and in session pooling without a reset, PostgreSQL
        # itself shows a client what the last one has left behind.
        self.marked = self.honest and (
            bool(r.pool.reset_query) if mode == SESSION else most > 0
        )
        if self.honest:
            give_backends(r, Model)
        self.clients: list[ClientEnd] = []
        self.heard: list[bytearray] = []
        self.connect(0)

    def step(self, step: Step) -> None:
        what, who, data = step
        what %= 9
        client = self.clients[who % len(self.clients)]
        alive = client.sock.fileno() >= 0
        if what == CONNECT:
            self.connect(who)
        elif what == SERVER:
            if not self.honest and (server := self.server(who)) is not None:
                server.send(data)
        elif what == DIE:
            if (server := self.server(who)) is not None:
                server.close()
        elif what == ACT:
            self.act(data[0] if data else 0, client, who)
        elif not alive:
            return
        elif what == CLIENT:
            client.send(data.replace(MARK, self.mark(client)))
        elif what == DRIP:
            client.drip(data.replace(MARK, self.mark(client))[:MOST_DRIPS])
        elif what == LEAVE:
            client.close()
        elif what == STALL:
            client.reading = not client.reading
        elif what == HALF and not client.ended:
            client.half_close()

    def mark(self, client: ClientEnd) -> bytes:
        return b"mark%02d" % self.clients.index(client)

    def server(self, who: int) -> ServerEnd | None:
        """One of the servers that are still there."""
        some = [end for end in self.r.servers if end.sock.fileno() >= 0]
        return some[who % len(some)] if some else None

    def connect(self, who: int) -> None:
        if len(self.clients) < MOST_CLIENTS:
            given = VARIANTS[who % len(VARIANTS)]
            self.clients.append(self.r.client(self.sndbuf, **given))
            self.heard.append(bytearray())

    def act(self, number: int, client: ClientEnd, who: int) -> None:
        """What the pooler does by itself or for its console."""
        r, one = self.r, client.client
        server = self.server(who)
        number %= 8
        if number == 0:
            one.cancel_wait()
        elif number == 1 and not one.closed:
            one.disconnect("killed")
        elif number == 2 and server and not server.server.closed:
            server.server.disconnect("killed")
        elif number == 3 and server:
            server.server.close_needed = True
        elif number == 4 and not one.closed:
            one.quiesce()
            r.turn()
            one.rouse()
        elif number == 5:
            r.pool.blocked = not r.pool.blocked
            if not r.pool.blocked:
                r.pool.activate()
        elif number == 6:
            for one in list(r.pool.idle):
                r.pool.park_used(one)
        elif number == 7:
            r.poller.tick()
        r.turn()

    def listen(self) -> None:
        """Take what the far ends have got; a hostile server does not look at it."""
        for number, client in enumerate(self.clients):
            client.pull()
            self.heard[number] += client.got
            client.got = b""
            if not self.marked:
                self.heard[number].clear()
        if not self.honest:
            for server in self.r.servers:
                server.pull()
                server.got = b""

    def compare(self) -> None:
        """Nobody has heard of another's mark."""
        for number, heard in enumerate(self.heard):
            marks = {int(mark) for mark in re.findall(rb"mark(\d\d)", heard)}
            if marks - {number}:
                raise Found(f"client {number} got rows of {marks - {number}}")

    # The end

    def leave(self) -> None:
        """All clients of the input go."""
        self.r.pool.blocked = False
        for client in self.clients:
            client.reading = True
            if client.sock.fileno() >= 0:
                client.close()
        self.r.turn()
        for client in self.clients:
            if not client.client.closed:  # it waits: nobody reads it
                client.client.disconnect("not waited for", False)
        self.r.turn()

    def next_is_served(self) -> None:
        r = self.r
        if not self.honest:
            self.ask_servers_left()
            for end in r.servers:
                if end.sock.fileno() >= 0:
                    end.close()
            r.turn()
        client = r.client()
        client.send(f.query("select mine"))
        r.open_wanted()
        for _ in range(6):
            r.turn()
            if not self.honest:
                self.answer(client, "mine")
        if f.rows(client.take()) != [b"mine"]:
            raise Found("the next client is not served")
        client.close()

    def ask_servers_left(self) -> None:
        """What a server gets asked after all that, its answer goes to who asked."""
        r = self.r
        for end in r.servers:
            end.pull()
            end.got = b""
        client = r.client()
        client.send(f.query("select left"))
        answered = False
        for _ in range(6):
            answered = self.answer(client, "left") or answered
        rows = f.rows(client.take())
        if answered and rows != [b"left"]:
            raise Found(f"the next client got {rows}")
        if not answered and rows:
            raise Found(f"the next client got {rows} before it was answered")
        client.close()
        r.turn()

    def answer(self, client: ClientEnd, text: str) -> bool:
        """Let the server of *client* say what PostgreSQL would say."""
        for end in self.r.servers:
            if end.server.client is not client.client or end.sock.fileno() < 0:
                continue
            end.pull()
            asked, end.got = end.got, b""
            if asked.endswith(f.query("select " + text)):
                end.answer(text)
                return True
            if asked:
                end.send(f.complete("SET"), f.ready())
        return False


def run(setup: bytes, steps: list[Step]) -> None:
    """Play one input."""
    streams, statements = relay_stream.alive(), known_statements()
    play = Play(setup)
    for step in steps:
        play.step(step)
        play.listen()
    play.compare()
    play.leave()
    play.next_is_served()
    play.r.close()
    # The classes are cycles' ends: on_turn of give_backends names the relay.
    play.r.door = None
    del play
    gc.collect()
    if relay_stream.alive() != streams:
        raise Found(f"{relay_stream.alive() - streams} streams made and not freed")
    if known_statements() != statements:
        raise Found("statements outlived their users")
