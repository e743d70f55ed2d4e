"""auth_query: what is asked, and what counts as an answer."""

from typing import Any

import pytest

from bouncer.errors import Disconnect
from bouncer.talks.auth_query import auth_query
from bouncer.wire import messages
from tests.unit.talks.driver import Lines, run
from tests.unit.talks.test_server_login import server_of

COLUMNS = (ord("T"), b"\0\x02")
PREAMBLE = [(ord("1"), b""), (ord("2"), b""), COLUMNS]
DONE = [(ord("C"), b"SELECT 1\0"), (ord("Z"), b"I")]
SQL = "select name, secret from users where name = $1"


def row(*values: Any) -> tuple[int, bytes]:
    return ord("D"), messages.data_row(values)[5:]


def ask(*inputs: Any, user: str = "ann") -> Any:
    server = server_of()
    return run(auth_query(server, SQL, user), server, *inputs), server


def dropped(*inputs: Any) -> str:
    with pytest.raises(Disconnect) as error:
        ask(*inputs)
    assert not error.value.notify
    return error.value.reason


def test_the_name_travels_as_a_parameter_and_nothing_else_does() -> None:
    """CVE-2025-12819: nothing that a client has chosen comes before the query."""
    _, server = ask(*PREAMBLE, row("ann", "x"), *DONE, user="a'; drop")
    assert server.sent == (
        messages.parse(SQL)
        + b"B\0\0\0\x18\0\0\0\0\0\x01\0\0\0\x08a'; drop\0\0"
        + b"D\0\0\0\x06P\0"
        + b"E\0\0\0\x09\0\0\0\0\0"
        + b"S\0\0\0\x04"
    )


def test_row_gives_name_and_secret() -> None:
    found, _ = ask(*PREAMBLE, row("ann", "secret"), *DONE)
    assert found == ("ann", "secret")


def test_null_secret_stays_null() -> None:
    found, _ = ask(*PREAMBLE, row("ann", None), *DONE)
    assert found == ("ann", None)


def test_last_of_several_rows_counts() -> None:
    found, _ = ask(*PREAMBLE, row("ann", "a"), row("bob", "b"), *DONE)
    assert found == ("bob", "b")


def test_no_row_is_nobody() -> None:
    found, _ = ask(*PREAMBLE, (ord("C"), b"SELECT 0\0"), (ord("Z"), b"I"))
    assert found is None


def test_notices_and_parameters_do_not_disturb() -> None:
    found, server = ask(
        (ord("N"), b"\0"), (ord("S"), b"a\0b\0"), *PREAMBLE, row("ann", "x"), *DONE
    )
    assert found == ("ann", "x")
    assert server.learnt == [b"a\0b\0"]


@pytest.mark.parametrize("status", [b"T", b"E", b"", b"II"])
def test_query_that_leaves_a_transaction_open(status: bytes) -> None:
    """The server was taken for idle and went to the next client."""
    left = [*PREAMBLE, row("ann", "x"), (ord("C"), b"SELECT 1\0"), (ord("Z"), status)]
    assert dropped(*left) == "unexpected response from auth_query"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_other_number_of_columns(count: int) -> None:
    columns = (ord("T"), count.to_bytes(2, "big"))
    text = f"expected 2 columns from auth_query, not {count}"
    assert dropped(*PREAMBLE[:2], columns) == text
    assert dropped(*PREAMBLE, row(*["x"] * count)) == text


def test_statement_without_result() -> None:
    text = "expected 2 columns from auth_query, not 0"
    assert dropped(*PREAMBLE[:2], (ord("n"), b"")) == text


def test_row_without_a_name_is_no_row() -> None:
    """PgBouncer 1.26 looks at the rows behind it; before, the lookup failed."""
    nobody, ann = row(None, "x"), row("ann", "y")
    assert ask(*PREAMBLE, nobody, *DONE)[0] is None
    assert ask(*PREAMBLE, row(None, None), *DONE)[0] is None
    assert ask(*PREAMBLE, nobody, ann, *DONE)[0] == ("ann", "y")
    assert ask(*PREAMBLE, ann, nobody, *DONE)[0] == ("ann", "y")


@pytest.mark.parametrize("name", ["", "u" * 128])
def test_name_that_nobody_can_have(name: str) -> None:
    assert dropped(*PREAMBLE, row(name, "x")) == "unexpected response from auth_query"


def test_long_secret_is_never_cut_into_a_match() -> None:
    found, _ = ask(*PREAMBLE, row("ann", "x" * 65530), *DONE)
    assert found == ("ann", "x" * 65530)
    found, _ = ask(*PREAMBLE, row("ann", "x" * 65531), *DONE)
    assert found == ("ann", None)


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"SERROR\0C42P01\0Mno table\0\0", "ERROR: no table"),
        (b"\0", "partial error message, cannot log"),
        (b"SERROR\0Mno", "partial error message, cannot log"),
    ],
)
def test_error_response(logged: Lines, body: bytes, shown: str) -> None:
    assert dropped((ord("E"), body)) == "error response from auth_query"
    assert logged.take() == [f"ERROR S: error in auth_query: {shown}"]


@pytest.mark.parametrize("code", [ord("G"), ord("K"), ord("A"), 0])
def test_unexpected_message(code: int) -> None:
    assert dropped((code, b"")) == "unexpected response from auth_query"


@pytest.mark.parametrize("body", [b"", b"\0\x02\0\0", b"\0\x02\0\0\0\x05ab"])
def test_cut_row(body: bytes) -> None:
    assert dropped(*PREAMBLE, (ord("D"), body)) == "bad packet"
