"""What a talk makes us keep, and how long it may keep others waiting."""

import socket
import struct

import pytest

from bouncer.errors import Disconnect
from bouncer.relay.poller import Poller
from bouncer.relay.server import Server
from bouncer.relay.talk import READ, Waiter
from tests.relay import frames as f
from tests.relay.harness import ServerEnd

HELD = 65536  # a login's, stream.pxd
HIGH_WATER = 262144
LOGINS_KEPT = 32 << 20
LOGIN_UNSENT = 16384
MESSAGES = 16  # of one talk per round
FLOOD = f.message(b"p", b"x" * 1000) * 4000
STARTUP = struct.pack("!II", 8 + 32, 196608) + b"user\0me\0database\0some_database\0\0"
SSL_REQUEST = struct.pack("!II", 8, 80877103)


def log_in_by(relay, talk):
    """Let logins of *relay* be *talk*, a generator function of the client."""
    relay.begin_login = lambda client, first_byte: client.begin_talk(talk(client))
    relay.login_over = lambda client, outcome: client.welcome_done()


def talk_with(relay, talk):
    """A client that has logged in and goes on by *talk*, as a console's does."""
    end = relay.client()

    def console(client):
        client.welcome_done()
        relay.pool.push_client(client)
        yield from talk(client)

    log_in_by(relay, console)
    return end


def rounds_until_idle(poller):
    """Go round by round: a stay in dispatch has one round when it has no time."""
    poller.budget_us = -1
    before = -1
    while before != poller.rounds:
        before = poller.rounds
        yield poller.dispatch()


# What is held


def test_login_that_waits_for_others_reads_nothing(relay):
    """While PAM or LDAP thought, whatever came was kept: 1 GB in seven seconds."""
    r = relay()
    judged, got = Waiter(), []

    def talk(client):
        yield READ
        yield judged
        while len(got) < 4000:
            _, body = yield READ
            got.append(len(body))

    log_in_by(r, talk)
    end = r.client()
    end.send(STARTUP)
    end.send(FLOOD)
    assert end.unsent  # it is in the kernel that the rest stands
    assert end.client.held_bytes <= HELD
    judged.set()
    end.turn()
    assert got == [1000] * 4000


def test_client_that_leaves_while_its_login_waits_is_noticed(relay):
    """A stream that is not read tells nothing of its end by itself."""
    r = relay()
    given_up = []

    def talk(client):
        yield READ
        yield Waiter(lambda: given_up.append(client))

    log_in_by(r, talk)
    for leave in ("half_close", "close"):
        for behind in (b"", FLOOD):
            end = r.client()
            end.send(STARTUP)
            end.send(behind)
            getattr(end, leave)()
            assert end.client.closed
            assert given_up.pop() is end.client


def test_server_login_that_waits_for_keys_reads_nothing(relay):
    """A server asked for a million iterations and sent 2 GB meanwhile."""
    r = relay()
    derived = Waiter()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    server = Server(r.poller, ours.detach(), r, r.pool)
    server.address_text = "fake"
    server.watch(True)
    server.talk_phase()
    r.pool.push_login(server)
    end = ServerEnd(theirs, r.turn, server)
    r.servers.append(end)
    got = []
    r.server_talk_over = lambda server, value: server.disconnect("done", False)

    def talk():
        yield READ
        yield derived
        while len(got) < 4000:
            got.append((yield READ)[0])

    server.begin_talk(talk())
    end.send(f.message(b"R", b"\0\0\0\x0b"))
    end.send(FLOOD)
    assert len(end.unsent) > len(FLOOD) - 1_500_000
    derived.set()
    end.turn()
    assert len(got) == 4000


def test_login_message_that_comes_byte_by_byte_is_held_once(relay):
    r = relay()
    got = []

    def talk(client):
        got.append((yield READ))

    log_in_by(r, talk)
    end = r.client()
    packet = f.message(b"p", b"x" * 65000)
    end.send(packet[:60000])
    end.drip(packet[60000:65004])
    assert end.client.held_bytes == 65004
    end.send(packet[65004:])
    assert got == [(ord("p"), b"x" * 65000)]
    assert end.client.held_bytes == 0


def test_requests_for_tls_whose_answers_are_not_read_are_not_read(relay):
    """SSLRequest again and again: every answer was kept."""
    r = relay()
    end = r.client(sndbuf=4096)
    end.reading = False
    for _ in range(30000):
        end.queue(SSL_REQUEST)
        if end.unsent:
            break
        r.poller.dispatch()
    end.turn()
    assert end.client.unsent <= LOGIN_UNSENT + 1
    end.reading = True
    while not end.ended and (end.unsent or end.client.unsent):
        end.take()
    assert set(end.got) <= {ord("N")}


def test_answers_that_are_not_read_stop_the_talk(relay):
    """A console whose client pipelined SHOW without reading kept 2.8 GB."""
    r = relay()
    asked = []

    def talk(client):
        while True:
            _, body = yield READ
            asked.append(body)
            client.write(b"x" * 50_000)

    end = talk_with(r, talk)
    end.reading = False
    end.send(f.query("SHOW") * 300)
    assert end.client.unsent <= HIGH_WATER + 50_000
    assert len(asked) < 60
    end.reading = True
    assert sum(len(end.take()) for _ in range(300)) == 300 * 50_000
    assert len(asked) == 300


def test_client_that_leaves_its_answers_unread_is_noticed(relay):
    r = relay()

    def talk(client):
        while True:
            yield READ
            client.write(b"x" * 50_000)

    for _ in range(2):
        end = talk_with(r, talk)
        end.reading = False
        end.send(f.query("SHOW") * 2000)
        assert not end.client.closed
        end.close()
        assert end.client.closed


def waiting_login(told):
    """A login that waits behind its packet; why it may not is added to *told*."""

    def talk(client):
        try:
            yield READ
        except Disconnect as problem:
            told.append(problem.reason)
            raise
        yield Waiter()

    return talk


def test_large_logins_of_all_together_are_bounded(relay):
    """A name of 60 kB is five times as much in the end: 350 MB for 1000 clients."""
    r = relay()
    told = []
    large = struct.pack("!II", 60_000, 196608) + b"x" * 59_992
    log_in_by(r, waiting_login(told))
    fine = LOGINS_KEPT // (5 * 60_000)
    ends = [r.client() for _ in range(fine + 3)]
    for end in ends:
        end.send(large)
    assert told == ["too many large logins at once"] * 3
    assert [end.client.closed for end in ends] == [False] * fine + [True] * 3
    ends[0].close()
    r.client().send(STARTUP)  # small ones are always fine
    ends.append(r.client())
    ends[-1].send(large)
    assert len(told) == 3


def test_large_logins_that_have_come_in_part_are_bounded_together(relay):
    """All of a packet but its end, from 2 500 clients at once: 160 MB."""
    r = relay()
    told = []
    large = struct.pack("!II", 60_000, 196608) + b"x" * 59_000
    log_in_by(r, waiting_login(told))
    fine = LOGINS_KEPT // len(large)
    ends = [r.client() for _ in range(fine + 3)]
    for end in ends:
        end.send(large)
    assert told == ["too many large logins at once"] * 3
    assert [end.client.closed for end in ends] == [False] * fine + [True] * 3
    for end in ends[:10]:
        end.close()
    r.client().send(large[:4000])  # small ones are always fine
    ends.append(r.client())
    ends[-1].send(large)
    ends[-1].send(b"x" * 992)  # the rest; what it will be counts now
    assert len(told) == 3
    assert not ends[-1].client.closed


# Turns


def test_talk_gets_a_few_messages_per_round_and_queries_go_between(relay):
    """Flush without end on a console held everybody up for 200 ms."""
    r = relay()
    served = r.client()
    served.send(f.query("a"))
    [server] = r.servers
    server.answer("a")
    taken = []

    def talk(client):
        while True:
            taken.append((yield READ))

    flooding = talk_with(r, talk)
    flooding.queue(f.message(b"H") * 10_000)
    rounds = rounds_until_idle(r.poller)
    next(rounds)
    assert 1 <= len(taken) <= MESSAGES
    served.queue(f.query("now"))
    before = len(taken)
    next(rounds)
    server.pull()
    assert server.got.endswith(f.query("now"))
    assert len(taken) - before <= 2 * MESSAGES
    for _ in rounds:
        assert len(taken) - before <= 2 * MESSAGES
        before = len(taken)
    assert len(taken) == 10_000
    r.poller.budget_us = 2000
    server.answer("now")


def test_talks_take_turns_with_each_other(relay):
    r = relay()
    taken = {1: 0, 2: 0, 3: 0}
    numbers = iter(taken)
    ends = []

    def talk(client):
        mine = next(numbers)
        while True:
            yield READ
            taken[mine] += 1

    for _ in taken:
        ends.append(talk_with(r, talk))
        ends[-1].queue(f.message(b"H") * 2000)
    for _ in rounds_until_idle(r.poller):
        if max(taken.values()) < 2000:
            assert max(taken.values()) - min(taken.values()) <= 4 * MESSAGES
    assert set(taken.values()) == {2000}


def test_login_that_goes_on_outside_of_a_round_takes_turns_too(relay):
    """What had come meanwhile was used up at once, however much it was."""
    r = relay()
    judged, got = Waiter(), []
    rung = []

    class Loop:
        def call_soon(self, call):
            rung.append(call)

    def talk(client):
        yield READ
        yield judged
        while True:
            got.append((yield READ))

    log_in_by(r, talk)
    end = r.client()
    end.send(STARTUP + f.message(b"H") * 1000)
    r.poller.loop = Loop()
    judged.set()
    assert 1 <= len(got) <= MESSAGES
    assert len(rung) == 1  # the loop comes back by itself
    rung.pop()()
    r.poller.loop = None
    end.turn()
    assert len(got) == 1000


# Work that is put off


def test_work_put_off_in_a_round_runs_in_the_next_one():
    """A connect that failed at once put off the next one: nobody else was served."""
    poller = Poller()
    rung, done = [], []

    class Loop:
        def call_soon(self, call):
            rung.append(call)

    def again():
        done.append(poller.rounds)
        poller.put_off(again)

    poller.loop = Loop()
    poller.put_off(again)
    assert len(rung) == 1
    poller.settle()
    assert len(done) == 1
    rung.pop()()  # comes back when its time is over
    assert len(done) == len(set(done)) > 1  # once in each round
    assert len(rung) == 1
    poller.loop = None


def test_much_work_put_off_is_spread_over_rounds():
    poller = Poller()
    poller.budget_us = -1
    done = []

    def slow():
        began = poller.clock()
        while poller.clock() - began < 600:
            pass
        done.append(poller.rounds)

    for _ in range(20):
        poller.put_off(slow)
    while len(done) < 20:
        poller.dispatch()
    assert max(done.count(one) for one in done) <= 2


def test_poller_with_nothing_put_off_does_not_ring():
    poller = Poller()
    rung = []

    class Loop:
        def call_soon(self, call):
            rung.append(call)

    poller.loop = Loop()
    poller.put_off(lambda: None)
    rung.pop()()
    poller.settle()
    poller.dispatch()
    assert rung == []
    poller.loop = None


@pytest.mark.parametrize("talk_ends", [False, True])
def test_messages_behind_the_end_of_a_login_reach_what_follows(relay, talk_ends):
    """A console's first commands stood there until more came."""
    r = relay()
    got = []

    def console(client):
        while True:
            got.append((yield READ))

    def login(client):
        yield READ
        if not talk_ends:
            yield from console(client)

    def over(client, outcome):
        client.welcome_done()
        client.begin_talk(console(client))

    log_in_by(r, login)
    r.login_over = over
    end = r.client()
    end.send(STARTUP + f.query("a") + f.query("b"))
    assert [body for _, body in got] == [b"a\0", b"b\0"]
