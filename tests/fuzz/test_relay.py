"""Mutated bytes from either side into the compiled relay, many thousand times.

Nothing may be raised, nothing may be left behind, and the client that comes next gets
its own answer. Hypothesis finds the seeds: `make fuzz` tries many.
"""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutation import Mutator, spoken
from tests.relay import frames as f
from tests.relay.backend import Backend
from tests.relay.conftest import logged, relay  # noqa: F401  (fixtures)
from tests.relay.harness import SESSION, STATEMENT, TRANSACTION, Relay, give_backends

# `relay` counts at the end what was made and not freed.
pytestmark = [pytest.mark.adversity, pytest.mark.usefixtures("relay", "logged")]
CORPUS = spoken()
ANSWERS = [
    [f.row_description("a"), f.data_row(b"x" * 50), f.complete("SELECT 1"), f.ready()],
    [f.PARSE_COMPLETE, f.BIND_COMPLETE, f.data_row(b"y"), f.SUSPENDED, f.ready("T")],
    [f.error("22012", "division by zero"), f.ready("E")],
    [f.COPY_IN, f.complete("COPY 1"), f.ready()],
    [f.COPY_OUT, f.copy_data(b"row"), f.message(b"c"), f.complete("COPY 1"), f.ready()],
    [f.parameter_status("TimeZone", "Asia/Tokyo"), f.notice("hm"), f.ready()],
    [f.complete("DISCARD ALL"), f.notification("news"), f.CLOSE_COMPLETE, f.ready()],
]
modes = st.sampled_from((SESSION, TRANSACTION, STATEMENT))
quiet = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


class Strict(Backend):
    """What it does not understand ends the connection."""

    def message(self, code: bytes, body: bytes) -> None:
        try:
            super().message(code, body)
        except (ValueError, IndexError, KeyError, AssertionError, TypeError):
            self.out += f.error("08P01", "invalid message", "FATAL")
            self.ended = True


def next_is_served(r: Relay) -> None:
    """A new client gets the answer to what it asks."""
    client = r.client()
    client.send(f.query("select mine"))
    r.open_wanted()
    for _ in range(5):
        r.turn()
    assert f.rows(client.take()) == [b"mine"]
    client.send(f.TERMINATE)


@given(seed=st.integers(0, 2**32), mode=modes, prepared=st.sampled_from((0, 1, 3, 200)))
@quiet
def test_any_bytes_of_a_client(seed, mode, prepared):
    r = give_backends(Relay(mode=mode, prepared=prepared), Strict)
    mutator = Mutator(random.Random(seed))
    for _ in range(3):
        client = r.client()
        for piece in mutator.pieces(mutator.mutated(mutator.dice.choice(CORPUS))):
            if not client.ended:
                client.send(piece)
        client.take()
        client.close()
        next_is_served(r)
    r.close()


@given(seed=st.integers(0, 2**32), mode=modes)
@quiet
def test_any_bytes_of_a_server(seed, mode):
    """Whoever comes next gets what its own server says to it, and nothing before."""
    r = Relay(mode=mode)
    dice = random.Random(seed)
    mutator = Mutator(dice)
    first, second = r.client(), r.client()
    first.send(*dice.choice(CORPUS))
    second.send(f.query("second"))
    raw = mutator.mutated([m for _ in range(3) for m in dice.choice(ANSWERS)])
    for piece in mutator.pieces(raw):
        if second.client.server is not None or not r.servers:
            break  # what comes now is the second one's answer
        if not r.servers[0].server.closed:
            r.servers[0].send(piece)
    # Not by a goodbye, behind which what it has asked for is still run.
    first.client.disconnect("over", False)
    first.close()
    server = next(s for s in r.servers if s.server is second.client.server)
    asked = server.take()
    if b"SET " in asked:  # what the first one had changed
        server.send(f.complete("SET"), f.ready())
        asked = server.take()
    assert asked.endswith(f.query("second"))
    assert second.take() == b""
    server.answer("mine")
    assert f.rows(second.take()) == [b"mine"]
    second.close()
    r.close()
