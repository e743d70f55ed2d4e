"""Each relay test ends with as many streams freed as it made."""

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bouncer import log
from bouncer.relay import checked
from bouncer.relay import stream as relay_stream
from bouncer.relay.statements import known_statements
from tests.relay.harness import Relay


class Log(list[str]):
    """What was logged."""

    def has(self, text: str) -> bool:
        return any(text in line for line in self)


@pytest.fixture(autouse=True)
def logged(monkeypatch: pytest.MonkeyPatch) -> Log:
    """All log lines of the test, instead of stderr."""
    lines = Log()
    for name in ("info", "warning", "error", "fatal"):
        monkeypatch.setattr(log, name, lines.append)
    return lines


@pytest.fixture(scope="module", autouse=True)
def few_to_collect() -> Iterator[None]:
    """What other tests have made is looked through once, not around each test."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def relay() -> Iterator[Callable[..., Relay]]:
    """Make relays; each is closed after the test and must leave nothing behind."""
    gc.collect()
    streams, statements = relay_stream.alive(), known_statements()
    counts = checked.counts() if checked.is_debug() else None
    made: list[Relay] = []

    def make(**options: Any) -> Relay:
        made.append(Relay(**options))
        return made[-1]

    yield make
    while made:
        made.pop().close()
    gc.collect()
    assert relay_stream.alive() == streams, "streams were made and not freed"
    if counts is not None:
        assert checked.counts() == counts, "made and not freed"
    assert known_statements() == statements, "statements outlived their users"
