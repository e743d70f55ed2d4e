"""The arena that all tests of this directory share."""

from collections.abc import Iterator

import pytest

from tests.differential.ground import Arena
from tests.support.ground import Ground, Postgres


def staged(lab: Ground, postgres: Postgres) -> Iterator[Arena]:
    """An arena; its poolers must have written nothing but log lines."""
    with Arena(lab, postgres) as one:
        yield one
    complaints = [line for p in one.poolers.values() for line in p.complaints()]
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)


@pytest.fixture(scope="session")
def stage(lab: Ground, postgres: Postgres) -> Iterator[Arena]:
    """Conversations are played here."""
    yield from staged(lab, postgres)


@pytest.fixture(scope="session")
def stage18(lab: Ground, postgres18: Postgres) -> Iterator[Arena]:
    """The same with PostgreSQL 18."""
    yield from staged(lab, postgres18)
