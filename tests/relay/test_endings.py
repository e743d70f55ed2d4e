"""Clients that end with a message which nobody may relay."""

import pytest

from tests.relay import frames as f

BAD = {
    "unknown type": b"z\0\0\0\x04",
    "length too small": b"Q\0\0\0\x03",
    "length too large": b"S\xff\xff\xff\xff",
    "SSLRequest": b"\0\0\0\x08\x04\xd2\x16\x2f",
    "Flush with a body": b"H\0\0\0\x05b",
    "Terminate": b"X\0\0\0\x04",
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_message_before_the_end_reaches_the_server_whole(relay, bad):
    """Else the next client's query would be taken for the rest of it."""
    r = relay()
    first, server = r.client(), r.server()
    first.send(f.query("one"))
    assert server.take() == f.query("one")
    late = f.copy_data(b"late")
    first.send(late[:7])
    server.send(f.complete("SELECT 0"), f.ready())
    first.send(late[7:] + bad)
    first.take()
    assert first.ended
    assert server.take() == late
    second = r.client()
    second.send(f.query("two"))
    assert server.take() == f.query("two")
    server.send(f.complete("SELECT 0"), f.ready())
    assert second.codes() == "CZ"


WRONG = {name: bad for name, bad in BAD.items() if name != "Terminate"}


@pytest.mark.parametrize("bad", WRONG.values(), ids=WRONG)
def test_message_before_the_end_counts_as_work_in_progress(relay, bad):
    r = relay()
    client, server = r.client(), r.server()
    client.send(f.query("one") + bad)
    client.take()
    assert client.ended
    assert server.take() == f.query("one") + f.TERMINATE
    assert server.ended
