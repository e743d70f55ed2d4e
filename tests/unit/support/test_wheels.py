"""What a release is made of: which Pythons and machines, and what proves a wheel."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

import bouncer
from tests.support.scripts import loaded

ROOT = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CIBUILDWHEEL = PROJECT["tool"]["cibuildwheel"]


@pytest.fixture
def wheels() -> Any:
    """The script that builds a release."""
    return loaded(ROOT / "docs/packaging/wheels.py")


def test_cibuildwheel_builds_the_same(wheels: Any) -> None:
    """Two lists that said different things: of machines, flags and C libraries."""
    offered = {f"cp{a}{b}-manylinux*" for a, b in wheels.DEBIANS.values()}
    assert set(CIBUILDWHEEL["build"].split()) == offered | {"cp312-manylinux*"}
    assert CIBUILDWHEEL["archs"] == list(wheels.MACHINES)
    linux = CIBUILDWHEEL["linux"]
    assert linux["environment"] == wheels.FLAGS
    images = {linux[f"manylinux-{machine}-image"] for machine in wheels.MACHINES}
    assert (images, wheels.GLIBC) == ({"manylinux2014"}, (2, 17))


def test_classifiers_name_the_pythons_of_the_wheels(wheels: Any) -> None:
    start = "Programming Language :: Python :: 3."
    told = {c.removeprefix(start) for c in PROJECT["project"]["classifiers"]}
    assert {str(minor) for _, minor in wheels.DEBIANS.values()} | {"12"} <= told


def test_a_machine_stands_for_all_its_pythons(
    wheels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is here is built as it is here, the others with Debian's headers."""
    here = wheels.os.uname().machine
    found = {(3, 11): Path("/a/python3.11"), (3, 12): Path("/a/python3.12")}
    monkeypatch.setattr(wheels, "every_python", lambda: found)
    other = next(machine for machine in wheels.MACHINES if machine != here)
    natives = [wheels.Here(path) for path in found.values()]
    assert list(wheels.targets([])) == natives
    assert list(wheels.targets([other])) == [
        wheels.Debian(suite, other) for suite in wheels.DEBIANS
    ]
    if here in wheels.MACHINES:
        missing = [wheels.Debian(suite, here) for suite in ("trixie", "forky")]
        assert list(wheels.targets([here])) == natives + missing


def test_words_name_interpreters_and_debians(wheels: Any) -> None:
    assert list(wheels.targets(["forky:aarch64", "/opt/python"])) == [
        wheels.Debian("forky", "aarch64"),
        wheels.Here(Path("/opt/python")),
    ]
    for word in ("sarge:aarch64", "forky:vax"):
        with pytest.raises(wheels.Failed, match=word):
            list(wheels.targets([word]))


@pytest.mark.parametrize(
    ("tag", "is_right"),
    [
        ("manylinux2014_aarch64.manylinux_2_17_aarch64", True),
        ("manylinux1_x86_64.manylinux_2_5_x86_64", True),
        ("manylinux_2_28_x86_64", False),
        ("linux_x86_64", False),
    ],
)
def test_only_what_runs_from_glibc_2_17_on_is_a_release(
    wheels: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tag: str,
    is_right: bool,
) -> None:
    """auditwheel gives the tag that fits, whatever it is."""

    def run(*command: str | Path) -> str:
        place = Path(command[command.index("-w") + 1])
        place.mkdir()
        (place / f"pybouncer-1-cp311-cp311-{tag}.whl").touch()
        return ""

    monkeypatch.setattr(wheels, "run", run)
    release = tmp_path / "release"
    release.mkdir()
    raw = tmp_path / "raw.whl"
    if is_right:
        assert wheels.proven(raw, release).exists()
    else:
        with pytest.raises(wheels.Failed, match="needs a C library"):
            wheels.proven(raw, release)
    assert len(list(release.iterdir())) == is_right


def test_there_is_one_version() -> None:
    """Packages take it from pyproject.toml, programs from `bouncer`."""
    version = PROJECT["project"]["version"]
    assert version == bouncer.__version__
    lines = (ROOT / "CHANGELOG.md").read_text().splitlines()
    titles = [line for line in lines if line.startswith("## ")]
    assert titles[0] == "## Unreleased"
    assert re.fullmatch(rf"## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d", titles[1])
