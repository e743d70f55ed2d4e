"""What a pool may open, and when it gives way to another."""

from dataclasses import replace

import pytest

from bouncer.pool.plan import (
    PoolView,
    gives_way,
    is_over,
    may_begin,
    may_open,
    pause_after_failure,
)

NOBODY = PoolView(
    connections=0,
    logins=0,
    parallel_logins=1,
    pool_size=5,
    reserve_size=0,
    reserve_timeout=5,
    welcome_known=True,
    silent=0,
    targets=1,
    resting=False,
    refused=False,
    live=0,
    waiting=1,
    longest_wait=0,
    cancels=0,
    database_connections=0,
    max_database=0,
    user_connections=0,
    max_user=0,
)


def verdict(**what):
    return may_open(replace(NOBODY, **what))


def test_pool_with_room_may_open():
    assert verdict().open
    assert verdict(connections=4).open


def test_pool_size_is_a_limit_and_zero_is_none():
    assert verdict(connections=5).why == "pool full"
    assert verdict(connections=5000, pool_size=0).open


def test_one_login_at_a_time_unless_parallel_logins_says_more():
    assert verdict(logins=1).why == "already in progress"
    assert verdict(logins=1, parallel_logins=2).open
    assert not verdict(logins=2, parallel_logins=2).open


def test_nothing_is_tried_while_every_target_rests():
    assert verdict(resting=True).why == "last failed"
    assert verdict(resting=True, cancels=1).why == "last failed"


@pytest.mark.parametrize(
    ("view", "why"),
    [
        ({"waiting": 1}, ""),
        ({"waiting": 0}, "last refused"),
        ({"waiting": 1, "live": 1}, "last refused"),
        ({"waiting": 0, "live": 1}, "last refused"),
        # Who waits for the welcome is told of each refusal.
        ({"waiting": 1, "live": 1, "welcome_known": False}, ""),
        # A cancel request needs no login.
        ({"waiting": 0, "live": 1, "cancels": 1}, ""),
    ],
)
def test_refused_login_is_tried_again_only_for_somebody_who_has_no_server(view, why):
    """It stood in the way of all others for `server_login_retry`."""
    assert may_begin(replace(NOBODY, refused=True, **view)) == why


@pytest.mark.parametrize(
    ("view", "begins"),
    [
        ({"logins": 1, "silent": 0}, False),
        ({"logins": 1, "silent": 1}, True),
        ({"logins": 1, "silent": 1, "waiting": 0}, False),
        ({"logins": 1, "silent": 1, "waiting": 0, "cancels": 1}, True),
        # The one begun for the silent one has a second of its own.
        ({"logins": 2, "silent": 1}, False),
        ({"logins": 2, "silent": 2}, True),
        ({"logins": 3, "silent": 3}, False),
        ({"logins": 3, "silent": 3, "targets": 4}, True),
        ({"logins": 4, "silent": 4, "targets": 4}, False),
        ({"logins": 2, "silent": 1, "parallel_logins": 2}, True),
        ({"logins": 3, "silent": 1, "parallel_logins": 2}, False),
        ({"logins": 1, "silent": 1, "resting": True}, False),
    ],
)
def test_silent_login_does_not_keep_another_from_beginning(view, begins):
    assert (not may_begin(replace(NOBODY, **view))) == begins


@pytest.mark.parametrize(
    ("view", "room", "extra"),
    [
        ({"silent": 0, "connections": 1}, False, False),
        ({"silent": 1, "connections": 1}, True, True),
        ({"silent": 2, "connections": 2}, False, False),
        ({"silent": 2, "connections": 2, "targets": 3}, True, True),
        ({"silent": 1, "connections": 1, "pool_size": 2}, True, False),
        ({"silent": 1, "connections": 2, "pool_size": 2}, True, True),
        ({"silent": 1, "connections": 9, "pool_size": 0}, True, False),
        # Shared limits count everything.
        ({"silent": 1, "connections": 1, "pool_size": 9, "max_database": 1,
          "database_connections": 1}, True, False),
    ],
)  # fmt: skip
def test_silent_login_does_not_take_the_room_of_another(view, room, extra):
    found = verdict(**{"logins": view["silent"], "pool_size": 1, **view})
    assert (found.open, found.is_extra) == (room, extra)
    assert found.evict_database == bool(view.get("max_database"))


def test_unknown_welcome_opens_beyond_the_size():
    assert verdict(connections=5, welcome_known=False).open


def test_unknown_welcome_opens_one_login_beyond_the_size_however_many_may_log_in():
    many = {"parallel_logins": 9, "welcome_known": False}
    assert verdict(connections=4, logins=4, **many).open
    assert not verdict(connections=5, logins=5, **many).open
    assert not verdict(connections=6, logins=1, **many).open


def test_cancels_may_use_twice_the_size_and_no_shared_limit():
    assert verdict(connections=9, cancels=1, max_database=1).open
    assert not verdict(connections=10, cancels=1).open


@pytest.mark.parametrize(
    ("view", "over"),
    [
        ({"connections": 5}, False),
        ({"connections": 6}, True),
        ({"connections": 6, "reserve_size": 1}, False),
        ({"connections": 6, "welcome_known": False}, False),
        ({"connections": 600, "pool_size": 0}, False),
        ({"database_connections": 3, "max_database": 3}, False),
        ({"database_connections": 4, "max_database": 3}, True),
        ({"user_connections": 4, "max_user": 3}, True),
    ],
)
def test_connection_made_for_a_cancel_may_be_one_too_many(view, over):
    assert is_over(replace(NOBODY, **view)) == over


@pytest.mark.parametrize(
    ("wait", "timeout", "connections", "expected"),
    [(5, 5, 5, True), (4.9, 5, 5, False), (9, 0, 5, False), (9, 5, 7, False)],
)
def test_reserve_pool_opens_for_those_who_waited(wait, timeout, connections, expected):
    found = verdict(
        connections=connections,
        reserve_size=2,
        longest_wait=wait,
        reserve_timeout=timeout,
    )
    assert found.open == found.from_reserve == expected


def test_shared_limits_ask_for_an_eviction():
    found = verdict(max_database=3, database_connections=3, max_user=4)
    assert (found.open, found.evict_database, found.evict_user) == (True, True, False)
    found = verdict(max_user=4, user_connections=4)
    assert (found.open, found.evict_database, found.evict_user) == (True, False, True)


def test_fair_wait_counts_how_much_longer_the_other_has_waited():
    assert gives_way(own_wait=0.0, rival_wait=0.5, margin=0.5)
    assert not gives_way(own_wait=0.1, rival_wait=0.5, margin=0.5)
    assert gives_way(own_wait=9.0, rival_wait=9.5, margin=0.5)
    assert not gives_way(own_wait=0.0, rival_wait=99.0, margin=0.0)


def test_no_attempt_follows_at_once_on_one_that_failed_at_once():
    """With `server_login_retry` = 0 they followed each other without end."""
    assert pause_after_failure(0) == 0.01
    assert pause_after_failure(15) == 15
