"""What is fuzzed: one module for each target.

A target has `run(setup, steps)`, which plays an input and raises `Found` (or anything
else) when something is wrong; `words`, the messages that the mutator knows, by kind of
step; and perhaps `tweak`, its own way of changing a step's data. It is imported when
it is asked for, since what it imports is what the fuzzer watches.
"""

import importlib
from types import ModuleType

# Name, and the share of the time that it gets.
TARGETS = {
    "relay": 6,
    "process": 6,
    "takeover": 2,
    "ports": 1,
    "haproxy": 1,
    "config": 2,
}


class Found(AssertionError):
    """The pooler did what it must not do."""


def target(name: str) -> ModuleType:
    """The module of a target."""
    if name not in TARGETS:
        raise SystemExit(f"no such target: {name}; there are {', '.join(TARGETS)}")
    return importlib.import_module(f"tests.fuzz.targets.{name}")
