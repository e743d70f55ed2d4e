"""auth_query asks a session that no client has left anything in."""

from typing import Any

import pytest

from bouncer.config.params import AUTH_QUERY, PARAMS
from bouncer.errors import Disconnect
from bouncer.talks.auth_query import auth_query, text_of
from bouncer.wire import messages
from tests.unit.talks.driver import FakeServer, Lines, Stopped, run
from tests.unit.talks.test_auth_query import DONE, PREAMBLE, SQL, row
from tests.unit.talks.test_server_login import server_of

DISCARDED = [(ord("C"), b"DISCARD ALL\0"), (ord("Z"), b"I")]


def used() -> FakeServer:
    server: FakeServer = server_of()
    server.fresh = False
    return server


def test_session_of_a_client_is_discarded_first() -> None:
    """A client's search_path or temporary table answered in PostgreSQL's place."""
    server = used()
    answers: list[Any] = [*PREAMBLE, row("ann", "x"), *DONE]
    found = run(auth_query(server, SQL, "ann"), server, *DISCARDED, *answers)
    assert found == ("ann", "x")
    assert server.sent.startswith(messages.query("DISCARD ALL") + messages.parse(SQL))
    assert server.fresh


def test_session_of_nobody_is_asked_at_once() -> None:
    server = server_of()
    run(auth_query(server, SQL, "ann"), server, *PREAMBLE, row("ann", "x"), *DONE)
    assert b"DISCARD" not in server.sent


def test_nothing_is_asked_before_it_is_discarded() -> None:
    server = used()
    with pytest.raises(Stopped):
        run(auth_query(server, SQL, "ann"), server, DISCARDED[0])
    assert server.sent == messages.query("DISCARD ALL")
    assert not server.fresh


def test_parameters_that_change_are_learnt() -> None:
    server = used()
    told = (ord("S"), b"TimeZone\0UTC\0")
    with pytest.raises(Stopped):
        run(auth_query(server, SQL, "ann"), server, told, *DISCARDED)
    assert server.learnt == [b"TimeZone\0UTC\0"]


@pytest.mark.parametrize(
    "answer",
    [
        (ord("E"), b"SERROR\0C25001\0Mno\0\0"),
        (ord("Z"), b"T"),
        (ord("Z"), b"E"),
        (ord("D"), b"\0\0"),
    ],
)
def test_session_that_is_not_discarded_is_not_asked(
    logged: Lines, answer: tuple[int, bytes]
) -> None:
    server = used()
    with pytest.raises(Disconnect):
        run(auth_query(server, SQL, "ann"), server, answer)
    assert b"select" not in server.sent and not server.fresh


def test_default_query_names_its_schema_and_is_shown_as_pgbouncers() -> None:
    """Who owns a database sets its search_path, for the auth user as well."""
    assert PARAMS["auth_query"].default == AUTH_QUERY
    asked = text_of(AUTH_QUERY)
    for part in ("pg_catalog.pg_authid", "pg_catalog.now()"):
        assert part in asked
    assert asked.count("OPERATOR(pg_catalog.") == 2
    assert "=" not in asked.replace("OPERATOR(pg_catalog.=)", "")
    assert text_of(SQL) == SQL
