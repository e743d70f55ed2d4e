"""Every scenario of the regression list has a test that names it.

The list has 131 numbered scenarios: bugs of PgBouncer and of other poolers. A test
that shows one carries ``@pytest.mark.regression(number)``, wherever it stands.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.regressions.not_applicable import NOT_APPLICABLE

TESTS = Path(__file__).resolve().parents[1]
SECTIONS = {
    "security": range(1, 21),
    "hostile bytes": range(21, 33),
    "wrong rows": range(33, 66),
    "cancel": range(66, 74),
    "session state": range(74, 83),
    "accounting": range(83, 99),
    "timeouts": range(99, 105),
    "configuration": range(105, 116),
    "console": range(116, 122),
    "restart": range(122, 128),
    "high availability": range(128, 132),
}
# One line per section, added when its tests are there.
FINISHED: list[str] = [
    "security",
    "hostile bytes",
    "wrong rows",
    "cancel",
    "session state",
    "accounting",
    "timeouts",
    "configuration",
    "console",
    "restart",
    "high availability",
]


def numbers_in(path: Path) -> Iterator[int]:
    """The numbers that the marks of one file name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            "mark.regression"
        ):
            for argument in node.args:
                number = ast.literal_eval(argument)
                assert isinstance(number, int), f"{path}:{node.lineno}"
                yield number


@pytest.fixture(scope="module")
def tested() -> set[int]:
    """Numbers that some test names."""
    found = (n for path in TESTS.rglob("test_*.py") for n in numbers_in(path))
    return set(found)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_scenario_has_a_test(section: str, tested: set[int]) -> None:
    if section not in FINISHED:
        pytest.skip("not finished")
    missing = set(SECTIONS[section]) - tested - set(NOT_APPLICABLE)
    assert not missing


def test_no_number_is_unknown_or_both_tested_and_not_applicable(
    tested: set[int],
) -> None:
    known = {n for numbers in SECTIONS.values() for n in numbers}
    assert known == set(range(1, 132))
    assert (tested | set(NOT_APPLICABLE)) <= known
    assert not tested & set(NOT_APPLICABLE)
