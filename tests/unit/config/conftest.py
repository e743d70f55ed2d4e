"""What the tests of the configuration share: the log as a list of lines."""

import pytest

from bouncer import log


@pytest.fixture
def logged(monkeypatch):
    """The lines logged so far, as `LEVEL text`."""
    lines = []
    for name, word in [
        ("debug", "DEBUG"),
        ("info", "LOG"),
        ("warning", "WARNING"),
        ("error", "ERROR"),
    ]:
        monkeypatch.setattr(
            log, name, lambda text, word=word: lines.append(word + " " + text)
        )
    return lines


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory to write configurations to, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
