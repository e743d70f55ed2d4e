"""Which real PgBouncer tests and benchmarks take."""

from pathlib import Path

import pytest

from tests.replay.lab import Unusable
from tests.support import real
from tests.support.real import ask, find_real, peers_place, which_real


class Myself:
    """Runs things as whoever runs this."""

    def process_options(self) -> dict[str, object]:
        return {}


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Write something that says it is a PgBouncer of a version."""
    monkeypatch.setattr(real, "Identity", Myself)
    monkeypatch.delenv("PGBOUNCER_PEER", raising=False)
    monkeypatch.setenv("PYBOUNCER_PEERS", str(tmp_path / "peers"))
    monkeypatch.setattr(real, "DEBIAN", str(tmp_path / "debian"))

    def write(path: str, version: str, status: int = 0) -> str:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\necho PgBouncer {version}\nexit {status}\n")
        file.chmod(0o755)
        return str(file)

    return write


def test_the_one_that_is_named_comes_first(program, monkeypatch):
    program("debian", "1.18.0")
    program("peers/bin/pgbouncer", "1.26.1")
    monkeypatch.setenv("PGBOUNCER_PEER", program("mine", "1.24.1"))
    assert find_real().version == (1, 24, 1)


def test_the_unpacked_one_comes_before_debians(program):
    program("debian", "1.18.0")
    assert find_real().version == (1, 18, 0)
    path = program("peers/bin/pgbouncer", "1.26.1")
    assert find_real() == (path, (1, 26, 1), "PgBouncer 1.26.1")
    assert which_real() == f"real PgBouncer: PgBouncer 1.26.1 ({path})"


def test_one_that_does_not_run_is_passed_over_unless_it_was_named(program, monkeypatch):
    program("debian", "1.18.0")
    broken = program("peers/bin/pgbouncer", "1.26.1", status=1)
    assert find_real().version == (1, 18, 0)
    monkeypatch.setenv("PGBOUNCER_PEER", broken)
    with pytest.raises(Unusable):
        find_real()


def test_none_at_all_is_said(program):
    assert "tests/support/peers" in which_real()
    assert ask("/nowhere") is None


def test_peers_are_below_the_cache(monkeypatch):
    monkeypatch.delenv("PYBOUNCER_PEERS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert peers_place() == Path("/c/pybouncer-ci/peers")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/h")
    assert peers_place() == Path("/h/.cache/pybouncer-ci/peers")
