"""Fixtures of the console's unit tests."""

from collections.abc import Iterator

import pytest

from bouncer import log


class Lines:
    """What was logged, as the recordings have it: level and text."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def take(self) -> list[str]:
        """What was logged since the last call."""
        found, self.lines = self.lines, []
        return found


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """Catch the log."""
    found = Lines()
    for level, word in (("info", "LOG"), ("warning", "WARNING"), ("error", "ERROR")):

        def keep(text: str, word: str = word) -> None:
            found.lines.append(f"{word} {text.rstrip()}")

        monkeypatch.setattr(log, level, keep)
    yield found
