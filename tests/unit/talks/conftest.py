"""Fixtures of the talks' unit tests."""

import pytest

from tests.unit.talks.driver import FakeClient, Lines, catch_log


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Lines:
    """Catch the log."""
    return catch_log(monkeypatch)


@pytest.fixture
def client(logged: Lines) -> FakeClient:
    """A client that has just connected."""
    return FakeClient()
