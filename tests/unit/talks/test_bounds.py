"""How much somebody who is not trusted yet may tell us: counts, not time."""

from typing import Any

import pytest

from bouncer.config.settings import Settings
from bouncer.errors import Disconnect, ProtocolError
from bouncer.talks import startup as startup_module
from bouncer.talks.auth_query import MOST_MESSAGES, auth_query
from bouncer.talks.probe import MAX_BYTES, MAX_MESSAGES, probe
from bouncer.talks.server_login import MOST_TOLD, MOST_TOLD_BYTES
from bouncer.talks.startup import MOST_OPTIONS, MOST_PARAMETERS, read_startup
from bouncer.wire.messages import MOST_FIELDS, data_row, parse_data_row, parse_fields
from tests.unit.talks.driver import FakeClient, Lines
from tests.unit.talks.test_server_login import (
    KEY,
    OK,
    READY,
    auth,
    dropped,
    login,
    server_of,
)

VERSION = b"\0\3\0\0"


class Talked:
    """Drives a talk by hand: how many messages did it take?"""

    prefix = "S"
    fresh = True  # no client has used this server

    def __init__(self) -> None:
        self.taken = 0

    def write(self, data: bytes) -> None: ...

    def learn_parameter(self, body: bytes) -> None: ...

    def run(self, talk: Any, message: tuple[int, bytes], most: int) -> str:
        next(talk)
        with pytest.raises(Disconnect) as error:
            for _ in range(most):
                self.taken += 1
                talk.send(message)
        return error.value.reason


# A startup packet


def refused(client: FakeClient, body: bytes) -> str:
    with pytest.raises(Disconnect) as error:
        read_startup(client, Settings.defaults(), VERSION + body)
    return error.value.reason


def test_startup_packet_has_so_many_parameters_at_most(client: FakeClient) -> None:
    """64 kB of them cost milliseconds, before anybody was known."""
    fine = b"user\0a\0" * MOST_PARAMETERS + b"\0"
    read_startup(client, Settings.defaults(), VERSION + fine)
    text = "invalid startup packet layout: too many parameters"
    assert refused(client, b"user\0a\0" + fine) == text
    assert refused(client, b"\0" * 60_000) == text


def test_options_are_so_many_at_most(
    client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 kB of -c TimeZone=... cost 3 ms: 13 ms for everybody else."""
    read = 0
    unescape = startup_module._unescape

    def counted(value: bytes, at: int) -> tuple[bytes, int]:
        nonlocal read
        read += 1
        return unescape(value, at)

    monkeypatch.setattr(startup_module, "_unescape", counted)
    fine = b" ".join([b"-c TimeZone=UTC"] * MOST_OPTIONS)
    read_startup(
        client, Settings.defaults(), VERSION + b"user\0a\0options\0" + fine + b"\0\0"
    )
    assert client.startup_params == {"TimeZone": "UTC"}
    assert read == MOST_OPTIONS
    much = b" ".join([b"-c TimeZone=UTC"] * 3700)
    assert refused(client, b"user\0a\0options\0" + much + b"\0\0") == (
        "unsupported options startup parameter: too many options"
    )
    assert read == 2 * MOST_OPTIONS


def test_long_option_with_escapes_is_read_whole(client: FakeClient) -> None:
    value = b"\\ \\\\x" * 10_000
    body = b"user\0a\0options\0-c TimeZone=" + value + b" --DateStyle=ISO\0\0"
    read_startup(client, Settings.defaults(), VERSION + body)
    assert client.startup_params == {"TimeZone": " \\x" * 10_000, "DateStyle": "ISO"}


# A server's login


@pytest.mark.parametrize(
    ("code", "body"), [("S", b"n\0v\0"), ("N", b"Mhm\0\0"), ("K", b"12345678")]
)
def test_server_may_tell_so_much_before_it_is_ready(code: str, body: bytes) -> None:
    """Parameters without end were kept until server_connect_timeout: 2.2 GB."""
    message = (ord(code), body)
    login(server_of(), OK, *[message] * (MOST_TOLD - 1), KEY, READY)
    found = dropped(server_of(), OK, *[message] * (MOST_TOLD + 1))
    assert found.reason == "too many messages from server"


def test_parameters_of_a_server_are_so_long_at_most() -> None:
    message = (ord("S"), b"n\0" + b"v" * 100_000 + b"\0")
    count = MOST_TOLD_BYTES // len(message[1])
    found = login(server_of(), OK, *[message] * count, READY)
    assert len(found.parameters) == count
    found = dropped(server_of(), OK, *[message] * (count + 1))
    assert found.reason == "too many messages from server"


@pytest.mark.parametrize(
    ("messages", "line"),
    [
        ([OK, OK], "request after AuthenticationOk"),
        ([OK, auth(3)], "request after AuthenticationOk"),
        ([auth(3), auth(3)], "password requested again"),
        ([auth(5, b"salt"), auth(3)], "password requested again"),
    ],
)
def test_server_asks_once(logged: Lines, messages: list[Any], line: str) -> None:
    """AuthenticationOk without end: 51 ms for others, PgBouncer's 0.31."""
    found = dropped(server_of("secret"), *messages)
    assert found.reason == "failed to answer authreq"
    assert f"protocol error: {line}" in logged.take()[-1]


def test_scram_message_of_a_server_is_so_long_at_most(logged: Lines) -> None:
    """Its salt is part of what is kept of derived keys."""
    sasl = auth(10, b"SCRAM-SHA-256\0\0")
    long = auth(11, b"r=x,s=" + b"A" * 100_000 + b",i=4096")
    assert dropped(server_of("secret"), sasl, long).reason == "failed to answer authreq"
    assert "message is too long" in logged.take()[-1]


def test_error_with_fields_without_end_is_read_as_far_as_errors_go() -> None:
    assert (
        len(parse_fields(b"".join(b"%cx\0" % i for i in range(1, 255)))) == MOST_FIELDS
    )
    assert parse_fields(b"SFATAL\0Mno\0\0") == {"S": "FATAL", "M": "no"}


# Answers


def test_auth_query_that_is_answered_without_end_is_given_up() -> None:
    row = data_row(["ann", "secret"])[5:]
    for message in ((ord("D"), row), (ord("N"), b"Mhm\0\0"), (ord("S"), b"n\0v\0")):
        talked = Talked()
        talk = auth_query(talked, "select", "ann")
        reason = talked.run(talk, message, 2 * MOST_MESSAGES)
        assert reason == "unexpected response from auth_query"
        assert talked.taken == MOST_MESSAGES


def test_probe_that_is_answered_without_end_is_given_up() -> None:
    talked = Talked()
    talked.run(probe(talked, "select"), (ord("N"), b"Mhm\0\0"), 2 * MAX_MESSAGES)
    assert talked.taken == MAX_MESSAGES
    talked = Talked()
    row = data_row(["x" * 100_000])[5:]
    talked.run(probe(talked, "select"), (ord("D"), row), 2 * MAX_MESSAGES)
    assert talked.taken == MAX_BYTES // len(row) + 1


def test_row_that_announces_more_columns_than_it_can_have_is_malformed() -> None:
    with pytest.raises(ProtocolError):
        parse_data_row(b"\xff\xff" + b"\xff" * 1000)
