"""The kept inputs of the fuzzer, played through this build: no atheris needed.

A child process plays each target's inputs, so that one that kills it is named. Whoever
wants them under other checks (sanitizers) runs this file with that build:
`python -m pytest tests/fuzz/test_corpus.py`, or `python -m tests.fuzz.replay`.
"""

import faulthandler

import pytest

from tests.fuzz import corpus, play
from tests.fuzz.steps import pack, unpack
from tests.fuzz.targets import TARGETS, target

pytestmark = pytest.mark.adversity


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", TARGETS)
def test_kept_inputs_find_nothing(name):
    inputs = corpus.kept(name)
    assert inputs
    wrong = play.batch(name, inputs)
    assert not wrong, "\n".join(f"{one}: {why}" for one, why in wrong.items())


@pytest.mark.parametrize("name", TARGETS)
def test_kept_inputs_are_made_of_steps(name):
    """Else the mutator's splices would not be about messages."""
    inputs = [raw for _, raw in corpus.kept(name)]
    whole = [raw for raw in inputs if pack(*unpack(raw)) == raw]
    assert len(whole) > len(inputs) * 0.9


def test_child_that_dies_is_named_and_the_rest_is_played(monkeypatch):
    """One crash must not hide the other inputs, nor go by as success."""
    module = target("config")
    played = module.run

    def run(setup, steps):
        if setup[3] == 9:
            faulthandler.disable()  # nothing to read for whoever reads the log
            play.os.abort()
        if setup[3] == 8:
            raise AssertionError("seen through")
        played(setup, steps)

    monkeypatch.setattr(module, "run", run)
    inputs = [(str(n), pack(bytes((0, 0, 0, n)), [])) for n in (1, 9, 2, 8, 3)]
    wrong = play.batch("config", inputs)
    assert list(wrong) == ["9", "8"]
    assert "signal 6" in wrong["9"]
    assert "seen through" in wrong["8"]
