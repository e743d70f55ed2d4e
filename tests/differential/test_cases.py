"""The cases from the field: through us each is answered as PostgreSQL answers it.

They were found by real drivers and tools. What is not mended yet stands in `OPEN`; it
must fail, so that mending it takes it from the table.
"""

import pytest

from tests.differential.cases import ALL, MIXED, Case
from tests.differential.ground import PATIENCE, Arena

# What is known to hang need not hang for long.
SHORT_PATIENCE = 1.5
# Case: the settings in which it is not right yet.
OPEN: dict[str, tuple[str, ...]] = {}


def parameters() -> list[object]:
    """Each case in each of its settings, those in OPEN marked."""
    found = []
    for case in ALL:
        for mode, prepared in case.settings():
            setting = f"{mode} {prepared}"
            number = case.name.split()[0]
            mark = pytest.mark.xfail(strict=True, reason=f"case {number}")
            is_open = setting in OPEN.get(case.name, ())
            found.append(
                pytest.param(
                    case,
                    mode,
                    prepared,
                    marks=[mark] if is_open else [],
                    id=f"{case.name}, {setting}",
                )
            )
    return found


@pytest.mark.parametrize(("case", "mode", "prepared"), parameters())
def test_case_is_answered_as_by_postgresql(
    stage: Arena, case: Case, mode: str, prepared: int
) -> None:
    is_open = f"{mode} {prepared}" in OPEN.get(case.name, ())
    patience = SHORT_PATIENCE if is_open else PATIENCE
    assert not stage.play(case.conversation(mode, prepared), patience)


@pytest.mark.parametrize("mode", ["session", "transaction"])
@pytest.mark.parametrize("name", [name for name in MIXED if "own SET" not in name])
def test_postgresql_18_is_usable_behind_a_query_without_sync(
    stage18: Arena, name: str, mode: str
) -> None:
    """It was left in a state in which our SET for the next client met an error.

    Its own client meets that error directly, too: nothing to compare.
    """
    assert not stage18.play(Case(name, MIXED[name]).conversation(mode, 200))
