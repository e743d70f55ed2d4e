"""What a peer may say must cost one connection at most, whatever it is."""

import pytest

from bouncer.relay.client import Client
from tests.relay import frames as f
from tests.relay.harness import pair


@pytest.mark.parametrize("more", [f.EMPTY_QUERY, f.SUSPENDED])
@pytest.mark.parametrize("end", [f.COPY_DONE, f.SYNC, f.copy_fail()])
def test_copy_that_fails_and_is_answered_once_more(relay, more, end):
    """A hostile server answers an Execute whose COPY has failed: nothing is owed then,
    and the walk from the last entry to the first began at number 4294967295."""
    r = relay()
    client, other = r.client(), r.client()
    client.send(f.parse("", "copy in 0"), f.bind(""), f.execute(), f.FLUSH)
    server = r.servers[0]
    server.send(f.PARSE_COMPLETE, f.BIND_COMPLETE, f.COPY_IN, f.error("22P04", "bad"))
    server.send(more)
    client.send(end)
    assert server.server.owed_count <= 1
    client.send(f.SYNC)
    client.close()
    other.send(f.query("select 1"))
    assert len(r.servers) == 2, "the server of the other client must be another one"


def test_error_in_the_midst_of_a_round_leaves_the_poller_working(relay):
    """`busy` stayed set: nothing that timers or coroutines wrote was ever sent."""
    r = relay()
    client = r.client()

    def crashed(stream, problem):
        raise RuntimeError("worse") from problem

    crashing = r.poller.crashed
    r.poller.crashed = crashed
    r.poller.put_off(lambda: 1 // 0)
    with pytest.raises(RuntimeError):
        r.poller.dispatch()
    r.poller.crashed = crashing
    client.client.write(b"still")
    r.poller.settle()
    client.pull()
    assert client.got == b"still"


def test_stream_that_is_dropped_while_an_event_of_it_waits(relay):
    """The place in the poller kept a pointer to it, which the event then followed."""
    r = relay()
    kept = []

    def begin_login(client, first_byte):
        client.disconnect(None)
        kept.clear()

    r.begin_login = begin_login
    ends = []
    for _ in range(2):
        ours, theirs = pair()
        client = Client(r.poller, ours, r, None)
        client.watch()
        kept.append(client)
        ends.append(theirs)
        theirs.send(b"\0\0\0\x08????")
    del client
    r.poller.dispatch()
    assert not kept and not r.problems
    for end in ends:
        end.close()
