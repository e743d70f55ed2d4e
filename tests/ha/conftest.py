"""Fixtures of the HA tests: a HAProxy to test with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need
from tests.ha.balancer import INSTALL, Balancer, running
from tests.ha.containers import why_plain
from tests.ha.site import Cluster, Site, make_cluster
from tests.support.ground import Ground


def pytest_report_collectionfinish(items: list[pytest.Item]) -> str:
    """Say what the hosts of the tests with several hosts are."""
    if not any("test_containers.py" in item.nodeid for item in items):
        return ""
    if why := why_plain():
        return f"several hosts: plain processes, {why}"
    return "several hosts: plain processes, and containers by testcontainers"


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


@pytest.fixture(scope="session")
def cluster(lab: Ground) -> Iterator[Cluster]:
    """A primary and a standby of the HA tests' own."""
    yield from make_cluster(lab)


@pytest.fixture
def site(lab: Ground, cluster: Cluster) -> Iterator[Callable[..., Site]]:
    """Run a rendered layout: ``site("farm", poolers=3)``."""
    need("haproxy", INSTALL)
    started: list[Site] = []

    def start(layout: str, **arguments: Any) -> Site:
        one = Site(lab, layout, cluster, **arguments)
        started.append(one)
        return one.start()

    yield start
    for one in started:
        one.stop()
