"""Our settings for single databases and users: what counts, and what is refused."""

from types import SimpleNamespace
from typing import Any

import pytest

from bouncer.config.ini import Refused
from bouncer.config.own import Own, OwnSettings, read_own, settings_of
from bouncer.config.params import PARAMS, Where
from bouncer.config.values import BadValue, parse_span
from bouncer.pool.limits import Limits


def lines(**given: int) -> dict[str, Own]:
    """Lines of one section: name to its parallel_logins."""
    return {
        name.replace("every", "*"): Own(name, "x:1", {"parallel_logins": value})
        for name, value in given.items()
    }


@pytest.mark.parametrize(
    ("databases", "users", "counts"),
    [
        ({}, {}, None),
        ({"db": 2}, {}, 2),
        ({"other": 2}, {}, None),
        ({"every": 3, "db": 2}, {}, 2),
        ({"every": 3, "other": 2}, {}, 3),
        ({"db": 2}, {"user": 4}, 4),
        ({"db": 2}, {"every": 5}, 5),
        ({"db": 2}, {"other": 4}, 2),
    ],
)
def test_users_line_counts_before_the_databases(
    databases: dict[str, int], users: dict[str, int], counts: int | None
) -> None:
    own = OwnSettings(lines(**databases), lines(**users))
    assert own.value("parallel_logins", "db", "user") == counts
    app: Any = SimpleNamespace(
        config=SimpleNamespace(own=own), settings=SimpleNamespace(parallel_logins=1)
    )
    pool = SimpleNamespace(
        database=SimpleNamespace(name="db"), user=SimpleNamespace(name="user")
    )
    assert Limits(app).own("parallel_logins", pool) == (counts or 1)


def test_line_that_sets_something_else_leaves_it_to_the_next() -> None:
    own = OwnSettings(
        {"db": Own("db", "x:1", {"parallel_logins": 2})},
        {"user": Own("user", "x:2", {})},
    )
    assert own.value("parallel_logins", "db", "user") == 2


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("fair_wait=1", "unrecognized user parameter: fair_wait"),
        ("pool_size=1", "unrecognized user parameter: pool_size"),
        ("parallel_logins=many", "invalid parallel_logins: many"),
        ("parallel_logins=0", "invalid parallel_logins: 0"),
        ("parallel_logins", "syntax error in user settings"),
    ],
)
def test_mistake_of_a_line_is_named(text: str, line: str) -> None:
    with pytest.raises(Refused) as refused:
        read_own("u", text, "x:1", Where.USER)
    assert refused.value.line == line


def test_each_section_takes_what_may_stand_there() -> None:
    for where in (Where.DATABASE, Where.USER):
        for name, param in settings_of(where).items():
            assert param.also & where
            made = read_own("x", f"{name}={param.default}", "x:1", where)
            assert made.values == {name: param.initial()}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1.5", 1.5),
        ("250ms", 0.25),
        ("250 ms", 0.25),
        ("3s", 3),
        ("2 min", 120),
        (".5h", 1800),
        ("0x10", 16),
    ],
)
def test_times_of_ours_may_have_units(text: str, seconds: float) -> None:
    assert parse_span(text) == seconds
    assert PARAMS["fair_wait"].parse(text) == seconds


@pytest.mark.parametrize("text", ["", "1 day", "ms", "1m", "1 s s", "-1s", "1e3s"])
def test_other_units_are_refused(text: str) -> None:
    with pytest.raises(BadValue):
        parse_span(text)


def test_times_of_pgbouncer_have_none() -> None:
    with pytest.raises(BadValue):
        PARAMS["query_timeout"].parse("5s")
