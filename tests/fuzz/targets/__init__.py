"""What is fuzzed: one module for each target.

A target has `run(setup, steps)`, which plays an input and raises `Found` (or anything
else) when something is wrong; `words`, the messages that the mutator knows, by kind of
step; and perhaps `tweak`, its own way of changing a step's data. It is imported when
it is asked for, since what it imports is what the fuzzer watches.
"""

import importlib
import random
from types import ModuleType
from typing import Any

# Name, and the share of the time that it gets.
TARGETS = {
    "relay": 6,
    "process": 6,
    "takeover": 2,
    "ports": 1,
    "haproxy": 1,
    "config": 2,
}

LOGGING = (
    "info", "warning", "error", "fatal", "debug", "noise", "flush", "reopen",
    "configure",
)  # fmt: skip


class Found(AssertionError):
    """The pooler did what it must not do."""


def ignored(*_: Any) -> None:
    """What is logged does not matter; a file that is set as logfile stays unmade."""


def settle() -> None:
    """For a process that does nothing but play: it logs nothing, and draws the same."""
    from bouncer import log

    for name in LOGGING:
        setattr(log, name, ignored)
    random.seed(0)


def target(name: str) -> ModuleType:
    """The module of a target."""
    if name not in TARGETS:
        raise SystemExit(f"no such target: {name}; there are {', '.join(TARGETS)}")
    return importlib.import_module(f"tests.fuzz.targets.{name}")
