"""What the counts of instructions are compared with, and what that says."""

import json

from tests.bench import counts
from tests.bench.counts import RECORDED, TOLERANCE, verdict

BUILT = {"compiler": "gcc 1", "cython": "3", "python": "3.11", "machine": "x86_64"}
COUNTS = {"simple": 1000, "extended": 2000, "prepared": 3000, "connect cycle": 4000}


def file(**counted: int) -> dict[str, dict[str, str | int]]:
    return {"built with": dict(BUILT), "counts": {**COUNTS, **counted}}


def test_as_recorded_is_fine() -> None:
    said, status = verdict(COUNTS, BUILT, file())
    assert status == 0
    assert "TOO MANY" not in said
    assert "+0.0%" in said


def test_two_percent_more_are_tolerated_and_no_more() -> None:
    assert verdict({**COUNTS, "simple": 1020}, BUILT, file())[1] == 0
    said, status = verdict({**COUNTS, "simple": 1021}, BUILT, file())
    assert status == 1
    assert said.count("TOO MANY") == 1
    assert verdict({**COUNTS, "extended": 2041}, BUILT, file())[1] == 1


def test_fewer_are_always_fine() -> None:
    assert verdict(dict.fromkeys(COUNTS, 1), BUILT, file())[1] == 0


def test_prepared_and_connect_cycle_are_only_told() -> None:
    now = {**COUNTS, "prepared": 6000, "connect cycle": 8000}
    said, status = verdict(now, BUILT, file())
    assert status == 0
    assert said.count("+100.0%") == 2


def test_other_builds_are_not_compared_and_that_is_said() -> None:
    for name in BUILT:
        other = {**BUILT, name: "another"}
        said, status = verdict({**COUNTS, "simple": 9999}, other, file())
        assert status == 0
        assert f"nothing is compared: {name} is another" in said
        assert "9999" in said


def test_recorded_file_has_every_kind_and_names_its_build() -> None:
    recorded = json.loads(RECORDED.read_text())
    assert set(recorded["counts"]) == set(COUNTS)
    assert set(recorded["built with"]) == set(counts.built_with())
    assert set(TOLERANCE) == {"simple", "extended"}
