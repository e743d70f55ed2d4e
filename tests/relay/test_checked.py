"""What the debug build refuses, and that it notices what it is there to notice."""

import gc
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bouncer.relay import checked
from bouncer.relay.pool import break_release
from tests.relay import frames
from tests.relay.harness import Relay, ServerEnd, give_backends

RELAY = Path(__file__).resolve().parents[2] / "bouncer" / "relay"
debug_only = pytest.mark.skipif(
    not checked.is_debug(), reason="looks at the debug build: make checked"
)


@pytest.fixture
def failures() -> Iterator[list[str]]:
    """The checks that failed; expected here."""
    yield checked.failures
    checked.failures.clear()


@pytest.fixture
def broken_release() -> Iterator[None]:
    """A pool that shares every server that is released."""
    break_release(True)
    yield
    break_release(False)


def server_of(relay: Relay) -> ServerEnd:
    """The server of a client that has asked something."""
    relay.client().send(frames.query("select 1"))
    return relay.servers[-1]


def release_unclean(relay: Relay) -> ServerEnd:
    """Let a server say more than it was asked, right behind the client's answer."""
    server = server_of(relay)
    server.send(
        frames.complete("SELECT 0"), frames.ready(), frames.data_row(b"nobody's")
    )
    return server


def test_unclean_server_is_ended_when_it_is_released(
    relay: Callable[..., Relay],
) -> None:
    one = relay()
    assert release_unclean(one).server.closed
    assert one.reasons == ["idle server got dirty"]


@debug_only
def test_broken_release_is_noticed(
    relay: Callable[..., Relay], failures: list[str], broken_release: None
) -> None:
    """Without the look at is_clean the next client would get another's row."""
    one = relay()
    with pytest.raises(AssertionError, match="it spoke out of turn"):
        release_unclean(one)
    assert "is shared, though it spoke out of turn" in failures[0]
    one.problems.clear()
    one.servers[-1].server.disconnect("noticed")


@debug_only
def test_broken_release_to_a_waiting_client_is_noticed(
    relay: Callable[..., Relay], failures: list[str], broken_release: None
) -> None:
    one = relay()
    server = server_of(one)
    one.client().send(frames.query("select 2"))
    with pytest.raises(AssertionError, match="is shared"):
        server.send(
            frames.complete("SELECT 0"), frames.ready(), frames.data_row(b"nobody's")
        )
    assert failures
    one.problems.clear()
    one.opens_at_once = False
    server.server.disconnect("noticed")


def test_server_says_which_condition_it_fails(relay: Callable[..., Relay]) -> None:
    one = relay()
    server = server_of(one).server
    assert server.unclean == "it is not ready, it owes answers"
    one.servers[-1].answer("1")
    assert server.unclean == ""


@debug_only
def test_moves_that_there_are_not_are_refused(
    relay: Callable[..., Relay], failures: list[str]
) -> None:
    one = relay()
    server = server_of(one)
    server.answer("1")
    with pytest.raises(AssertionError, match="moves from idle to active_cancel"):
        one.pool.push_cancel(server.server)
    client = one.clients[-1].client
    with pytest.raises(AssertionError, match="moves from active to waiting_cancel"):
        one.pool.push_cancel_client(client, False)
    server.server.disconnect("it goes")
    with pytest.raises(AssertionError, match="moves from closed, idle to used"):
        one.pool.park_used(server.server)
    assert len(failures) == 3
    # Nothing has moved.
    assert one.pool.server_count == 0
    assert client.state_name == "idle"


def test_states_are_changed_in_one_place() -> None:
    """Beside the first one of a server, which is no move."""
    found = [
        f"{path.name}: {line.strip()}"
        for path in (*RELAY.glob("*.pyx"), *RELAY.glob("*.pxd"))
        for line in path.read_text().splitlines()
        if re.search(r"\w\.state = ", line)
    ]
    assert sorted(found) == [
        "client.pxd: client.state = state",
        "server.pxd: server.state = state",
        "server.pyx: self.state = SV_LOGIN",
    ]


def test_policy_cannot_set_a_state(relay: Callable[..., Relay]) -> None:
    one = relay()
    server = server_of(one).server
    with pytest.raises(AttributeError):
        server.state = 1
    with pytest.raises(AttributeError):
        one.clients[-1].client.state = 1


def test_closed_stream_that_is_kept_is_found(relay: Callable[..., Relay]) -> None:
    one = give_backends(relay())
    one.client().ask(frames.query("select 1"))
    assert checked.leaks() == []
    kept = one.clients[-1].client
    one.clients[-1].close()
    assert [what.partition(":")[0] for what in checked.leaks()] == [
        "Client is closed and kept"
    ]
    assert kept.closed
    one.clients.clear()
    del kept
    gc.collect()
    assert checked.leaks() == []


@debug_only
def test_buffers_are_counted(relay: Callable[..., Relay]) -> None:
    one = relay()
    before = checked.counts()["buffers"]
    client = one.client()
    client.send(frames.query("select 1")[:7])  # half a message behind its header
    server = one.servers[-1]
    server.send(frames.ready()[:3])  # which is held until the rest comes
    assert checked.counts()["buffers"] == before + 1
    server.close()
    client.close()
    assert checked.counts()["buffers"] == before
