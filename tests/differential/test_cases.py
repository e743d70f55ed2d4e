"""The cases from the field: through us each is answered as PostgreSQL answers it.

They were found by real drivers and tools.
"""

import pytest

from tests.differential.cases import ALL, MIXED, Case
from tests.differential.ground import Arena


def parameters() -> list[object]:
    """Each case in each of its settings."""
    return [
        pytest.param(case, mode, prepared, id=f"{case.name}, {mode} {prepared}")
        for case in ALL
        for mode, prepared in case.settings()
    ]


@pytest.mark.parametrize(("case", "mode", "prepared"), parameters())
def test_case_is_answered_as_by_postgresql(
    stage: Arena, case: Case, mode: str, prepared: int
) -> None:
    assert not stage.play(case.conversation(mode, prepared))


@pytest.mark.parametrize("mode", ["session", "transaction"])
@pytest.mark.parametrize("name", [name for name in MIXED if "own SET" not in name])
def test_postgresql_18_is_usable_behind_a_query_without_sync(
    stage18: Arena, name: str, mode: str
) -> None:
    """It was left in a state in which our SET for the next client met an error.

    Its own client meets that error directly, too: nothing to compare.
    """
    assert not stage18.play(Case(name, MIXED[name]).conversation(mode, 200))
