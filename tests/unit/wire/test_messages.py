"""Messages are built byte for byte, and parsed however broken they come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bouncer.errors import ProtocolError
from bouncer.wire import messages


def fields(packet: bytes) -> list[bytes]:
    """The fields of an ErrorResponse or NoticeResponse, in their order."""
    assert packet[1:5] == (len(packet) - 1).to_bytes(4, "big")
    assert packet.endswith(b"\0\0")
    return packet[5:-2].split(b"\0")


def test_error_has_severity_code_and_text_in_that_order() -> None:
    packet = messages.error_response("login rejected")
    assert packet[:1] == b"E"
    assert fields(packet) == [b"SFATAL", b"C08P01", b"Mlogin rejected"]


def test_error_keeps_a_servers_code_and_the_consoles_severity() -> None:
    packet = messages.error_response("no such command", "F0000", "ERROR")
    assert fields(packet) == [b"SERROR", b"CF0000", b"Mno such command"]


def test_error_text_cannot_end_early() -> None:
    """A zero byte in a text would make the rest of it look like fields."""
    packet = messages.error_response("a\0Cxxxxx")
    assert fields(packet) == [b"SFATAL", b"C08P01", b"MaCxxxxx"]


def test_notice_has_a_detail_only_when_there_is_one() -> None:
    assert fields(messages.notice_response("hello")) == [
        b"SNOTICE",
        b"C00000",
        b"Mhello",
    ]
    packet = messages.notice_response("Console usage", detail="SHOW …")
    assert fields(packet)[3] == "DSHOW …".encode()


def test_names_of_any_bytes_come_out_as_they_came_in() -> None:
    raw = b"caf\xe9 \xff"
    assert messages.encode_text(messages.decode_text(raw)) == raw
    assert raw in messages.parameter_status("x", messages.decode_text(raw))


def test_constants_are_what_the_protocol_says() -> None:
    assert bytes.fromhex("520000000800000000") == messages.AUTHENTICATION_OK
    assert bytes.fromhex("520000000800000003") == messages.AUTHENTICATION_CLEARTEXT
    assert (
        bytes.fromhex("52000000170000000a") + b"SCRAM-SHA-256\0\0"
    ) == messages.AUTHENTICATION_SASL
    assert bytes.fromhex("0000000804d2162f") == messages.SSL_REQUEST
    assert bytes.fromhex("0000000804d21630") == messages.GSSENC_REQUEST
    assert messages.READY_IDLE == b"Z\0\0\0\x05I"
    assert messages.authentication_md5(b"abcd") == b"R\0\0\0\x0c\0\0\0\x05abcd"
    assert messages.cancel_request(b"12345678") == (
        b"\0\0\0\x10\x04\xd2\x16\x2e12345678"
    )


def test_negotiation_names_the_newest_minor_and_the_unknown_options() -> None:
    packet = messages.negotiate_protocol_version(0x30000, [b"_pq_.a", b"_pq_.b"])
    assert packet == (b"v\0\0\0\x1a\0\x03\0\0\0\0\0\x02_pq_.a\0_pq_.b\0")


def test_row_description_and_rows_are_text() -> None:
    packet = messages.row_description([("name", 25, -1), ("n", 20, 8)])
    assert packet[:7] == b"T" + (len(packet) - 1).to_bytes(4, "big") + b"\0\x02"
    assert b"name\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0" in packet
    row = messages.data_row(["a", None, 5, b"\xff"])
    assert row == (
        b"D\0\0\0\x19\0\x04\0\0\0\x01a\xff\xff\xff\xff\0\0\0\x015\0\0\0\x01\xff"
    )
    assert messages.parse_data_row(row[5:]) == [b"a", None, b"5", b"\xff"]


def test_startup_message_is_read_as_it_was_built() -> None:
    params = [("user", "ann"), ("database", "orders")]
    packet = messages.startup_message(params)
    assert packet[:4] == len(packet).to_bytes(4, "big")
    assert packet[4:8] == b"\0\x03\0\0"
    assert messages.parse_startup(packet[8:]) == (
        [(b"user", b"ann"), (b"database", b"orders")],
        True,
    )


@pytest.mark.parametrize(
    ("body", "params", "terminated"),
    [
        (b"", [], False),
        (b"\0", [], True),
        (b"\0\0", [], False),
        (b"user\0u\0", [(b"user", b"u")], False),
        (b"user\0u", [], False),
        (b"user\0u\0\0x", [(b"user", b"u")], False),
        (b"user\0u\0\0\0", [(b"user", b"u")], False),
        (b"user\0u\0foo", [(b"user", b"u")], False),
        (b"user\0\0\0", [(b"user", b"")], True),
        (b"user\0u\0a\0b\0", [(b"user", b"u"), (b"a", b"b")], False),
    ],
)
def test_startup_parameters_count_up_to_where_the_packet_is_broken(
    body: bytes, params: list[tuple[bytes, bytes]], terminated: bool
) -> None:
    assert messages.parse_startup(body) == (params, terminated)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"SCRAM-SHA-256",
        b"SCRAM-SHA-256\0",
        b"SCRAM-SHA-256\0\0\0\0",
        b"SCRAM-SHA-256\0\xff\xff\xff\xff",
        b"SCRAM-SHA-256\0\x7f\xff\xff\xffn,,",
        b"SCRAM-SHA-256\0\x80\0\0\0n,,",
        b"SCRAM-SHA-256\0\0\0\0\x01n,,n=,r=a",
        b"SCRAM-SHA-256\0\0\0\0\x20n,,n=,r=a",
    ],
)
def test_cve_2026_6664_sasl_lengths_never_reach_beyond_the_packet(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        messages.parse_sasl_initial(body)


def test_sasl_initial_response_is_read_as_it_was_built() -> None:
    packet = messages.sasl_initial_response(b"SCRAM-SHA-256", b"n,,n=,r=abc")
    assert messages.parse_sasl_initial(packet[5:]) == (b"SCRAM-SHA-256", b"n,,n=,r=abc")


def test_password_without_zero_byte_is_none() -> None:
    assert messages.parse_password(b"secret\0") == b"secret"
    assert messages.parse_password(b"\0") == b""
    assert messages.parse_password(b"secret") is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", {}),
        (b"\0", {}),
        (b"SFATAL\0Mgo away\0\0", {"S": "FATAL", "M": "go away"}),
        (b"SFATAL\0Mgo away\0", {"S": "FATAL", "M": "go away"}),
        (b"SFATAL\0Mgo aw", {"S": "FATAL"}),
        (b"Monly\0\0", {"M": "only"}),
        (b"S\0\0", {"S": ""}),
    ],
)
def test_cve_2026_6666_errors_may_lack_anything(
    body: bytes, expected: dict[str, str]
) -> None:
    assert messages.parse_fields(body) == expected


@pytest.mark.parametrize(
    "body", [b"", b"ab", b"ab\0", b"ab\0c", b"ab\0c\0x", b"a\0b\0\0"]
)
def test_parameter_status_must_be_two_strings(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        messages.parse_parameter_status(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0",
        b"\0\x01",
        b"\0\x01\0\0\0\x05ab",
        b"\0\x01\x7f\xff\xff\xff",
        b"\0\x01\0\0\0\x01ab",
        b"\xff\xff\0\0\0\0",
    ],
)
def test_cut_rows_are_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        messages.parse_data_row(body)


@given(st.binary(max_size=60))
def test_parsers_take_any_bytes(data: bytes) -> None:
    messages.parse_startup(data)
    messages.parse_fields(data)
    messages.parse_password(data)
    messages.parse_sasl_mechanisms(data)
    for parser in (
        messages.parse_data_row,
        messages.parse_sasl_initial,
        messages.parse_parameter_status,
        messages.parse_authentication,
        messages.parse_column_count,
    ):
        try:
            parser(data)
        except ProtocolError:
            pass


@given(st.lists(st.one_of(st.none(), st.binary(max_size=20)), max_size=10))
def test_rows_are_read_as_they_were_built(values: list[bytes | None]) -> None:
    assert messages.parse_data_row(messages.data_row(values)[5:]) == values
