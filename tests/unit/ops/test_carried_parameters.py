"""Tracked parameters in a takeover: from older releases of ours, and to other roles."""

from types import SimpleNamespace
from typing import Any

import pytest

from bouncer.carry import apart, put_pool, put_unasked
from bouncer.relay.tracked import from_dict
from bouncer.wire.messages import parameter_status


def pool(name: str = "ann") -> Any:
    followed: list[bool] = []
    return SimpleNamespace(
        welcome=None,
        defaults=None,
        user_name=name,
        database=SimpleNamespace(disabled=False),
        follow=lambda params, extra: followed.append(extra),
        followed=followed,
    )


def test_welcome_of_an_older_release_is_taken_apart() -> None:
    """It tracked six parameters, and told the others as any server's."""
    plain = parameter_status("is_superuser", "on")
    found = apart(
        parameter_status("search_path", "public")
        + plain
        + parameter_status("default_transaction_read_only", "off")
    )
    assert found == (
        plain,
        {"search_path": "public", "default_transaction_read_only": "off"},
    )


@pytest.mark.parametrize(
    "welcome", [b"S", b"S\0\0\0\0", b"S\0\0\0\x09ab\0", b"xxxxxxx"]
)
def test_welcome_that_is_none_is_an_error(welcome: bytes) -> None:
    with pytest.raises(ValueError, match="not a welcome"):
        apart(welcome)


def test_what_an_older_release_set_back_is_the_servers_own() -> None:
    server = SimpleNamespace(
        at_login=from_dict({"TimeZone": "UTC"}),
        tracked=from_dict({"TimeZone": "x", "search_path": "mine"}),
    )
    told = {"search_path": "public", "default_transaction_read_only": "off"}
    put_unasked(server, None, told)
    assert server.at_login.as_dict() == {"TimeZone": "UTC", **told}
    assert server.tracked.as_dict() == {
        "TimeZone": "x",
        "search_path": "mine",
        "default_transaction_read_only": "off",
    }


@pytest.mark.parametrize("role", ["ann", "bob"])
def test_welcome_of_another_role_is_not_taken_over(role: str) -> None:
    """A RELOAD can have changed `user=`: the next login asks anew."""
    one = SimpleNamespace(pool=pool())
    put_pool(
        one,
        None,
        {
            "welcome": parameter_status("is_superuser", "on").decode(),
            "defaults": {"session_authorization": role},
            "disabled": True,
        },
    )
    assert (one.pool.welcome is None) == (role == "bob")
    assert one.pool.followed == ([] if role == "bob" else [True])
    assert one.pool.database.disabled
