"""The README: its figures are those that were measured, its links lead somewhere."""

import re
from pathlib import Path
from typing import Any

import pytest

from bouncer import COMPATIBLE_VERSION
from tests.support.scripts import loaded

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "README.md").read_text()
LINKS = re.findall(r"\]\(([^)]+)\)", TEXT)
FIGURES = {
    "simple": r"([\d.]+) with simple",
    "extended": r"([\d.]+) extended",
    "prepared": r"([\d.]+) prepared",
    "TLS to the client": r"([\d.]+) with TLS",
    "memory, 5000 idle clients": r"per idle client ([\d.]+)",
}


@pytest.fixture(scope="module")
def wheels() -> Any:
    """The script that builds a release."""
    return loaded(ROOT / "docs/packaging/wheels.py")


@pytest.mark.parametrize("figure", FIGURES)
def test_figures_are_those_of_the_last_bench(figure: str) -> None:
    measured = (ROOT / "docs/performance.md").read_text()
    row = re.search(rf"^\| {re.escape(figure)} \|(.*)$", measured, re.M)
    assert row is not None
    ratio = row[1].split("|")[3].strip()
    told = re.search(FIGURES[figure], " ".join(TEXT.split()))
    assert told is not None
    assert told[1] == ratio


@pytest.mark.parametrize("target", sorted(set(LINKS)))
def test_links_lead_somewhere(target: str) -> None:
    path, _, part = target.partition("#")
    assert (ROOT / path).exists()
    if part:
        titles = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(), re.M)
        assert part in [title.lower().replace(" ", "-") for title in titles]


def test_it_names_the_version_that_we_stand_in_for() -> None:
    assert f"PgBouncer {COMPATIBLE_VERSION}" in TEXT


def test_a_release_has_links_that_work_elsewhere(wheels: Any) -> None:
    """PyPI shows the README without the repository around it."""
    url = "https://forge.example/pybouncer"
    text = wheels.absolute(TEXT, url, "1.2")
    found = re.findall(r"\]\(([^)]+)\)", text)
    assert len(found) == len(LINKS)
    assert all(link.startswith(f"{url}/") for link in found)
    assert f"]({url}/raw/v1.2/docs/performance.svg)" in text
    assert f"]({url}/blob/v1.2/docs/migration.md)" in text


def test_a_release_without_an_address_has_no_links(wheels: Any) -> None:
    text = wheels.absolute(TEXT, "", "1.2")
    assert "](" not in text
    assert "docs/migration.md" in text
