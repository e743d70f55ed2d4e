"""What the tests of the regression list share."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import start_poolers
from tests.support.checker import Crew
from tests.support.ground import Ground


@pytest.fixture(scope="module")
def shared_pooler(lab: Ground, request: pytest.FixtureRequest) -> Iterator[Any]:
    """`pooler`, for poolers that all tests of a module use; for fixtures of modules."""
    yield from start_poolers(lab, request)


@pytest.fixture
def markers() -> Callable[..., Any]:
    """Clients that verify every row beside the scenario: ``with markers(one):``.

    They log in as u_trust to p0. At the end nobody may have got another's row or
    wait for one, and they must have been served at all.
    """
    return Watched


class Watched:
    """A crew whose findings fail the test when the block ends."""

    def __init__(self, one: Any, count: int = 4, seed: int = 1) -> None:
        self.one, self.crew = one, Crew(one.port, count, seed)

    def __enter__(self) -> Crew:
        return self.crew.__enter__()

    def __exit__(self, *problem: Any) -> None:
        self.crew.__exit__(*problem)
        assert not self.crew.wrong
        assert not self.crew.hanging
        assert self.crew.answered
        assert self.one.is_running()
