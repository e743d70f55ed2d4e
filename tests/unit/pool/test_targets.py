"""Whose turn it is, and what a failure says of which target; on a clock of numbers."""

import pytest

from bouncer.pool.targets import Attempt, Target, Targets, hosts_of, is_gone

PAUSE = 15_000_000
V4 = ("10.0.0.1", "10.0.0.2")
V6 = ("fd00::1",)


def hosts_in_turn(targets: Targets, count: int, now: int = 0) -> str:
    """The hosts of the next attempts, none of which is known to fail."""
    return "".join(targets.begin(now).target.host for _ in range(count))


def fail(targets: Targets, now: int = 0) -> str:
    """An attempt that fails at once; where."""
    attempt = targets.begin(now, targets.ranks(now, PAUSE, ()))
    targets.note_failure(attempt)
    return attempt.target.host


def at_name(
    targets: Targets, now: int = 0, addresses: tuple[str, ...] = V4
) -> tuple[Attempt, str]:
    """An attempt at a name whose addresses are told."""
    ranks = targets.ranks(now, PAUSE, ())
    attempt = targets.begin(now, ranks)
    others = V6 if addresses == V4 else ()
    return attempt, targets.place(attempt, addresses, others, ranks)


# Turns


@pytest.mark.regression(112)
@pytest.mark.parametrize(
    ("text", "names"),
    [(None, ("",)), ("", ("",)), ("a", ("a",)), ("a,, b", ("a", " b"))],
)
def test_list_keeps_blanks_and_drops_what_is_empty(
    text: str | None, names: tuple[str, ...]
) -> None:
    assert hosts_of(text) == Targets(text).hosts == names


@pytest.mark.regression(112)
def test_load_balance_hosts_round_robin_takes_turns() -> None:
    assert hosts_in_turn(Targets("a,b,c"), 4) == "abca"


def test_load_balance_hosts_disable_stays_until_a_failure() -> None:
    targets = Targets("a,b", "disable")
    assert hosts_in_turn(targets, 2) == "aa"
    assert fail(targets) == "a"
    assert hosts_in_turn(targets, 2) == "bb"


def test_two_failures_of_one_host_move_the_turn_once() -> None:
    """Each moved it, so that it came back to the host that had failed."""
    targets = Targets("a,b", "disable")
    both = [targets.begin(0), targets.begin(0)]
    for attempt in both:
        targets.note_failure(attempt)
    assert hosts_in_turn(targets, 2) == "bb"


def test_each_pool_has_a_turn_of_its_own_among_the_addresses_of_a_name() -> None:
    first, second = Targets("n"), Targets("n")
    assert [at_name(first)[1] for _ in range(3)] == [*V4, V4[0]]
    assert at_name(second)[1] == V4[0]


# Failures


def test_pause_begins_when_every_target_has_failed() -> None:
    targets = Targets("a,b,c")
    for number, host in enumerate("abc"):
        assert not targets.failed
        assert not targets.is_resting(number, PAUSE)
        assert fail(targets, number) == host
    assert targets.failed
    assert targets.is_resting(3, PAUSE)
    # From the start of each attempt that failed.
    assert targets.is_resting(PAUSE - 1, PAUSE)
    assert not targets.is_resting(PAUSE, PAUSE)
    assert fail(targets, PAUSE) == "a"
    assert targets.is_resting(PAUSE, PAUSE)
    # It is known to have failed until it is reached.
    assert targets.failed


def test_failed_target_is_passed_over_until_its_pause_is_over() -> None:
    targets = Targets("a,b")
    assert fail(targets) == "a"
    for now in (1, PAUSE - 1):
        ranks = targets.ranks(now, PAUSE, ())
        assert [targets.begin(now, ranks).target.host for _ in range(2)] == ["b", "b"]
    ranks = targets.ranks(PAUSE, PAUSE, ())
    found = {targets.begin(PAUSE, ranks).target.host for _ in range(2)}
    assert found == {"a", "b"}


def test_host_that_is_listed_twice_is_one_target() -> None:
    targets = Targets("a,a,a")
    assert targets.every() == [Target("a")]
    fail(targets)
    assert targets.failed


def test_attempt_that_began_before_the_last_success_is_no_failure() -> None:
    """One of two logins hung; when it timed out the healthy pool refused everybody."""
    targets = Targets("a")
    hangs, works = targets.begin(10), targets.begin(20)
    targets.note_success(works, 30)
    assert not targets.note_failure(hangs)
    assert not targets.failed
    late = targets.begin(31)
    assert targets.note_failure(late)
    assert targets.failed


def test_success_of_one_target_says_nothing_of_another() -> None:
    targets = Targets("a,b")
    hangs, works = targets.begin(10), targets.begin(20)
    targets.note_success(works, 30)
    assert targets.note_failure(hangs)
    assert targets.resting(40, PAUSE) == {Target("a")}
    assert not targets.failed


def test_pause_runs_from_the_start_of_the_attempt_that_failed() -> None:
    """It ran from that of another, which had begun later."""
    targets = Targets("a")
    early, late = targets.begin(10), targets.begin(5_000_000)
    targets.note_failure(late)
    targets.note_failure(early)
    assert targets.is_resting(PAUSE + 4_999_999, PAUSE)
    assert not targets.is_resting(PAUSE + 5_000_000, PAUSE)


def test_addresses_of_a_name_are_targets() -> None:
    targets = Targets("n")
    for address in (*V4, *V6):
        assert not targets.failed
        attempt, chosen = at_name(targets)
        assert chosen == address
        targets.note_failure(attempt)
    assert targets.failed
    assert targets.is_resting(1, PAUSE)


def test_new_address_of_a_name_ends_its_pause() -> None:
    targets = Targets("n")
    for _ in range(2):
        attempt, _ = at_name(targets, addresses=("10.0.0.9",))
        targets.note_failure(attempt)
    assert targets.failed
    targets.forget_failures("other")
    assert targets.failed
    attempt, chosen = at_name(targets)
    assert chosen == V4[0]
    assert not targets.failed
    assert targets.failures == {}


def test_name_without_an_address_is_a_target_that_fails() -> None:
    targets = Targets("n,a")
    attempt, _ = at_name(targets)
    targets.note_success(attempt, 1)
    assert fail(targets, 2) == "a"
    gone = targets.begin(3)
    targets.has_no_address(gone)
    targets.note_failure(gone)
    assert targets.failed
    assert targets.every() == [Target("n"), Target("a")]
    assert targets.reached == {}


# Silence


def test_next_attempt_goes_to_another_target_than_the_one_that_hangs() -> None:
    for balance in ("round-robin", "disable"):
        targets = Targets("a,b,c", balance)
        hanging = []
        for host in "abc":
            ranks = targets.ranks(0, PAUSE, hanging)
            hanging.append(targets.begin(0, ranks).target)
            assert hanging[-1].host == host
        # Then the one whose turn it is: there is no better one.
        assert targets.begin(0, targets.ranks(0, PAUSE, hanging)).target in hanging


def test_what_hangs_is_better_than_what_has_failed() -> None:
    targets = Targets("a,b")
    assert fail(targets) == "a"
    ranks = targets.ranks(1, PAUSE, [Target("b")])
    assert [targets.begin(1, ranks).target.host for _ in range(2)] == ["b", "b"]


def test_target_that_was_silent_is_passed_over_and_has_not_failed() -> None:
    """Each new connection waited a second for it."""
    targets = Targets("a,b", "round-robin")
    silent = targets.begin(0)
    targets.note_success(targets.begin(1), 2)
    targets.note_silence(silent)
    ranks = targets.ranks(3, PAUSE, ())
    assert [targets.begin(3, ranks).target.host for _ in range(2)] == ["b", "b"]
    attempt = targets.begin(3, ranks)
    targets.note_failure(attempt)
    assert not targets.failed
    assert not targets.is_resting(4, PAUSE)
    ranks = targets.ranks(4, PAUSE, ())
    assert targets.begin(4, ranks).target.host == "a"
    assert not targets.ranks(PAUSE + 3, PAUSE, ())


# Renewal


def test_renewal_forgets_failures_and_what_is_under_way() -> None:
    """RECONNECT: an attempt that ended behind it made everybody wait."""
    targets = Targets("a,b", "disable")
    assert fail(targets) == "a"
    under_way = targets.begin(1)
    fresh = targets.renewed()
    assert (fresh.hosts, fresh.rotates) == (targets.hosts, targets.rotates)
    under_way.targets.note_failure(under_way)
    assert targets.failed
    assert not fresh.failed
    assert not fresh.resting(2, PAUSE)


@pytest.mark.parametrize(
    ("host", "address", "name", "gone"),
    [
        ("a", "10.0.0.1", "a", False),
        ("c", "10.0.0.3", "c", True),
        ("", "unix", "", True),
        # Taken over: the entry's whole text instead of the host.
        ("a,b", "10.0.0.1", "", True),
        ("x,10.0.0.7", "10.0.0.7", "", False),
        (None, "", "", True),
    ],
)
def test_connection_is_gone_when_its_own_host_is(
    host: str | None, address: str, name: str, gone: bool
) -> None:
    assert is_gone(("a", "b", "10.0.0.7"), host, address, name) == gone
    assert not is_gone(hosts_of(None), "", "unix", "")
