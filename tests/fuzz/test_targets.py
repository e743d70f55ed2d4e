"""The fuzzer's targets see what they are there to see: each is shown a fault.

And they get where faults may be: logins succeed, what is taken over is served.
"""

import pytest

from bouncer import log
from tests.fuzz import play
from tests.fuzz.steps import Step, pack
from tests.fuzz.targets import LOGGING, ignored
from tests.relay import frames as f

HONEST = b"\x03\0\0\0"  # transaction pooling, one server, a model of PostgreSQL


def fault(name, *steps, setup=HONEST):
    """What is wrong, says a child that plays this; nothing of it is left here."""
    return play.batch(name, [("input", pack(setup, steps))]).get("input", "")


@pytest.fixture(autouse=True)
def silent_log(monkeypatch):
    """As in a child, but only for the test."""
    for name in LOGGING:
        monkeypatch.setattr(log, name, ignored)


def test_row_of_another_client_is_found(monkeypatch):
    from tests.fuzz.targets import relay

    asks = Step(relay.CLIENT, 0, f.query("select @mark@"))
    assert not fault("relay", asks)
    monkeypatch.setattr(relay.Play, "mark", lambda self, client: b"mark07")
    assert "client 0 got rows of {7}" in fault("relay", asks)


def test_every_client_of_the_relay_target_gets_its_own_mark():
    from tests.fuzz.targets import relay

    one = relay.Play(HONEST)
    for who in (1, 2):
        one.connect(who)
    for who in (0, 1, 2):
        one.step(Step(relay.CLIENT, who, f.query("select @mark@")))
    one.listen()
    assert [f.rows(bytes(some)) for some in one.heard] == [
        [b"mark00"], [b"mark01"], [b"mark02"],
    ]  # fmt: skip
    one.leave()
    one.r.close()


def test_exception_in_the_relay_is_found(monkeypatch):
    from tests.fuzz.targets import relay

    def fails(self, pool):
        raise ZeroDivisionError("shown to the fuzzer")

    monkeypatch.setattr("tests.relay.harness.Keeper.wants_server", fails)
    asks = Step(relay.CLIENT, 0, f.query("select 1"))
    assert "shown to the fuzzer" in fault("relay", asks)


def test_next_client_that_is_not_served_is_found(monkeypatch):
    from tests.fuzz.targets import relay

    monkeypatch.setattr(relay.Model, "simple", lambda self, texts: self.ready())
    assert "not served" in fault("relay")


@pytest.mark.parametrize("user", range(6))
def test_right_logins_of_the_process_target_succeed(user):
    """Else it would see no more than what comes before a login."""
    from tests.fuzz.targets import process

    one = process.Play(b"\0\0\0\0")
    place = 3 if process.USERS[user] in (b"admin", b"stats") else 0
    one.step(Step(process.LOGIN, 0, bytes([user, place])))
    assert one.clients[0].key != b"\0" * 8
    assert not one.ours[0].closed
    one.leave()
    one.somebody_is_served()
    one.close()


def test_internal_error_of_the_process_is_found(monkeypatch):
    from tests.fuzz.targets import process

    def fails(*_):
        raise ZeroDivisionError("shown to the fuzzer")

    monkeypatch.setattr("bouncer.app.Bouncer.begin_login", fails)
    hello = process.login(b"u_trust", b"p0")
    steps = [Step(process.CONNECT), Step(process.CLIENT, 0, hello)]
    assert "shown to the fuzzer" in fault("process", *steps)


@pytest.mark.parametrize("at", range(5))
def test_rows_of_the_takeover_target_are_taken_over(at):
    """Made by this build itself, so that they are understood by it."""
    from tests.fuzz.targets import process, takeover

    one = process.Play(b"\0\1\0\0")
    rows = takeover.PAIRS[at]
    adoption = takeover.adopt(one, [Step(takeover.ROW, 0, row) for row in rows])
    assert adoption is not None
    assert [len(some) for some in (adoption.clients, adoption.servers)] == [1, 1]
    one.ours += adoption.clients.values()
    one.leave()
    one.somebody_is_served()
    one.close()
