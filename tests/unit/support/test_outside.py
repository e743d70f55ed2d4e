"""`make outside` compares two runs of a suite: what counts, and what does not."""

from tests.outside.frame import NOT_RUN, PASSED, SOMETIMES, judge

DIRECT = {"one": PASSED, "two": PASSED, "three": "broken anyway"}


def test_what_fails_directly_as_well_is_no_fault():
    outcome = judge("suite", DIRECT, DIRECT, {})
    assert outcome.is_right
    assert (outcome.direct, outcome.ours, outcome.total) == (2, 2, 3)


def test_failure_through_us_alone_is_a_fault():
    outcome = judge("suite", DIRECT, {**DIRECT, "two": "other rows"}, {})
    assert outcome.unexpected == {"two": "other rows"}
    assert not outcome.is_right


def test_test_that_did_not_run_through_us_is_a_fault():
    assert judge("suite", DIRECT, {"one": PASSED}, {}).unexpected == {"two": NOT_RUN}


def test_expected_failure_is_right_as_long_as_it_fails():
    may_fail = {"two": "true process ids"}
    outcome = judge("suite", DIRECT, {**DIRECT, "two": "other rows"}, may_fail)
    assert outcome.is_right
    assert outcome.expected == may_fail
    outcome = judge("suite", DIRECT, DIRECT, may_fail)
    assert outcome.mended == ("two",)
    assert not outcome.is_right


def test_expected_failure_that_says_something_else_is_a_fault():
    """A list by names alone hid new faults behind the old ones of the same test."""
    may_fail, said = {"two": "true process ids"}, {"two": r"pid \d+"}
    outcome = judge(
        "suite", DIRECT, {**DIRECT, "two": "no pid 7"}, may_fail, must_say=said
    )
    assert outcome.is_right
    assert outcome.told == {"two": "no pid 7"}
    outcome = judge(
        "suite", DIRECT, {**DIRECT, "two": "it hung"}, may_fail, must_say=said
    )
    assert outcome.unexpected == {"two": "it hung"}
    assert not outcome.mended


def test_failure_that_comes_and_goes_is_right_either_way():
    may_fail = {"two": SOMETIMES + "a race of the suite"}
    assert judge("suite", DIRECT, DIRECT, may_fail).is_right
    assert judge("suite", DIRECT, {**DIRECT, "two": "other"}, may_fail).is_right


def test_short_form_lifts_no_entry_of_a_test_that_it_leaves_out():
    may_fail = {"four": "known"}
    assert judge("suite", DIRECT, DIRECT, may_fail, whole=False).is_right
    assert judge("suite", DIRECT, DIRECT, may_fail).mended == ("four",)
