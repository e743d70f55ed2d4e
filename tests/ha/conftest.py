"""Fixtures of the HA tests: a HAProxy to test with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import need
from tests.ha.balancer import INSTALL, Balancer, running


@pytest.fixture
def balancer(tmp_path: Path) -> Iterator[Callable[..., Balancer]]:
    """Start HAProxies: ``balancer(text, master=False)``; ``{dir}`` is filled in."""
    need("haproxy", INSTALL)
    with ExitStack() as stack:

        def start(text: str, master: bool = False, name: str = "lb") -> Balancer:
            directory = tmp_path / name
            directory.mkdir()
            # A unix socket's path may have 107 bytes; pytest's are long.
            return stack.enter_context(
                running(directory, text.replace("{dir}", str(directory)), master)
            )

        yield start
