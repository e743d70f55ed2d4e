"""Whom the door asks for a password before it is known what comes of it."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.live.test_client_counts import counts
from tests.live.test_known_logins import PASSWORD, SCRAM, attempt
from tests.replay.pooler import wait_for
from tests.support.wire import FakeClient, error

SECRETS = {"md5": ("md5", PASSWORD), "scram": ("scram-sha-256", SCRAM)}


@pytest.fixture
def start(pooler: Callable[..., Any]) -> Callable[..., Any]:
    """Start a pooler that judges by HBA lines."""

    def begin(way: str, lines: str = "") -> Any:
        method, secret = SECRETS[way]
        one = pooler(
            {
                "auth_type": "hba",
                "auth_hba_file": "{dir}/hba",
                "pool_mode": "transaction",
            },
            run=False,
            databases={"p0": "{pg} user=u_trust max_db_client_connections=2"},
            users={"known": secret, "admin": "adminpass", "u_trust": ""},
        )
        rules(
            one, f"host all known all {method}\nhost all ghost all {method}\n" + lines
        )
        return one.run()

    return begin


def rules(one: Any, lines: str) -> None:
    (one.directory / "hba").write_text("host all admin all trust\n" + lines)
    one.identity.own(one.directory)


@pytest.mark.parametrize("way", SECRETS)
def test_right_password_after_wrong_ones_gets_in(start: Any, way: str) -> None:
    one = start(way)
    wrong = [attempt(one, "wrong") for _ in range(3)]
    assert wrong[0] == wrong[1] == wrong[2]
    assert wrong == [attempt(one, "wrong", user="ghost") for _ in range(3)]
    for _ in range(3):
        assert attempt(one)[-1]["type"] == "ReadyForQuery"
    assert attempt(one, "wrong") == wrong[0]
    one.wait_for_log("db=p0 user=known", 7)
    assert not one.log_matches("no such user: known")


@pytest.mark.parametrize("way", SECRETS)
def test_who_is_asked_counts_against_the_limits(start: Any, way: str) -> None:
    one = start(way)
    attempt(one, "wrong")
    names = [["database", "p0"], ["user", "known"]]
    first, second, third = (FakeClient(one.port) for _ in range(3))
    for client in (first, second):
        client.start(names)
        assert client.next(10)["type"].startswith("Authentication")
    third.start(names)
    assert "max_db_client_connections" in error(third.until_ready())["M"]
    for client in (first, second, third):
        client.close()
    wait_for(lambda: counts(one)["p0"] == 0, 10)
    assert attempt(one)[-1]["type"] == "ReadyForQuery"


@pytest.mark.parametrize("way", SECRETS)
def test_verdict_from_before_a_reload_is_not_remembered(start: Any, way: str) -> None:
    """A login that RELOAD overtook was remembered afterwards, with the old HBA line:
    whoever came with the same packet got in, past the new one."""
    one = start(way)
    # The pool knows its welcome: the first login would not be remembered.
    assert attempt(one)[-1]["type"] == "ReadyForQuery"
    one.console("RELOAD")
    with FakeClient(one.port) as client:
        answered = False

        def overtaken(message: Any, send: Any = client.send) -> None:
            """Before the first answer the rules change."""
            nonlocal answered
            if not answered and message["type"] != "StartupMessage":
                answered = True
                rules(one, "host all all all reject\n")
                one.console("RELOAD")
            send(message)

        client.send = overtaken  # type: ignore[method-assign]
        last = client.login("p0", "known", PASSWORD)[-1]
        assert answered and last["type"] == "ReadyForQuery"
    for _ in range(2):
        assert error(attempt(one))["M"] == "login rejected"
