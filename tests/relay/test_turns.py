"""Who goes first in a round of the poller."""

import time

from tests.relay import frames as f


def test_queries_go_before_the_logins_of_a_round_and_logins_get_a_share(relay):
    """A query stood in line behind all logins that were ready before it."""
    r = relay()
    served = r.client()
    served.send(f.query("a"))
    [server] = r.servers
    server.answer("a")
    server.take()
    begun = []
    let_in = r.begin_login

    def costly(client, first_byte):
        begun.append(client)
        time.sleep(0.001)  # what a login costs: twice the share of a round
        let_in(client, first_byte)

    r.begin_login = costly
    logins = [r.client() for _ in range(20)]
    for login in logins:
        login.queue(f.TERMINATE)
    served.queue(f.query("now"))
    r.poller.dispatch()
    server.pull()
    assert server.got == f.query("now")
    assert 1 <= len(begun) < 10
    server.answer("now")
    assert len(begun) == 20
    assert all(login.client.closed for login in logins)
    begun.clear()
    del r.begin_login


def test_client_that_sends_many_messages_at_once_leaves_others_their_turns(relay):
    """64 kB of Flush, 13 000 of them, were looked at in one go, again and again."""
    r = relay(size=2)
    flood, other = r.client(), r.client()
    flood.send(f.query("begin"))
    r.servers[0].take()
    r.servers[0].send(f.complete("BEGIN"), f.ready("T"))
    flood.take()
    r.poller.budget_us = -1  # one round for each dispatch
    flood.queue(f.FLUSH * 10_000)
    other.queue(f.query("b"))
    r.poller.dispatch()
    r.servers[0].pull()
    # A turn, and another one at the end of the round.
    assert len(r.servers[0].got) <= 2 * 2_000 * len(f.FLUSH)
    while len(r.servers) < 2 or not r.servers[1].got:
        r.poller.dispatch()
        r.servers[-1].pull()
    r.servers[0].pull()
    assert len(r.servers[0].got) < 10_000 * len(f.FLUSH)
    assert r.servers[0].take() == f.FLUSH * 10_000
