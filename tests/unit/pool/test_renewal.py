"""Which changes of an entry renew connections, and which of them."""

from dataclasses import replace
from typing import Any

import pytest

from bouncer.config.settings import Database
from bouncer.pool.registry import differs, needs_renewal

OLD = Database("db", "db", host="a,b", port=5432, user="u")


@pytest.mark.parametrize(
    ("change", "is_looked_at", "all_of_them"),
    [
        ({}, False, False),
        ({"pool_size": 3}, False, False),
        ({"password": "p"}, False, False),
        ({"pool_mode": "session"}, False, False),
        ({"load_balance_hosts": "disable"}, True, False),
        ({"host": "a,b,c"}, True, False),
        ({"host": "b,a"}, True, False),
        ({"host": "b"}, True, False),
        ({"host": "c"}, True, True),
        ({"host": None}, True, True),
        # A blank is part of the name.
        ({"host": " a, b"}, True, True),
        ({"port": 5433}, True, True),
        ({"dbname": "other"}, True, True),
        ({"user": None}, True, True),
        ({"connect_query": "select 1"}, True, True),
        ({"auth_dbname": "x"}, True, True),
        ({"auth_query": "select 1"}, True, True),
        ({"host": "a,b,c", "port": 5433}, True, True),
    ],
)
def test_connections_are_renewed_for_what_makes_them_wrong(
    change: dict[str, Any], is_looked_at: bool, all_of_them: bool
) -> None:
    """One host more, and all were."""
    new = replace(OLD, **change)
    assert differs(OLD, new) == is_looked_at
    assert needs_renewal(OLD, new) == all_of_them
