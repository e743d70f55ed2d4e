"""Build and parse the messages that are rare: logins, console answers, errors.

What flows between a client and its server is never taken apart here; the relay
does that. Text is UTF-8 with surrogateescape, so that a name of any bytes comes
out as it came in (`encode_text`, `decode_text`). Builders return one whole packet;
parsers get the body behind the length and raise `ProtocolError` when it is cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct

from bouncer.errors import DEFAULT_SQLSTATE, ProtocolError
from bouncer.wire.codes import Backend, Frontend, Request
from bouncer.wire.sqlstate import SUCCESSFUL_COMPLETION

# The codes that Python looks at, as plain integers (an enum's member is looked up).
BE_AUTHENTICATION = int(Backend.BE_AUTHENTICATION)
BE_BACKEND_KEY_DATA = int(Backend.BE_BACKEND_KEY_DATA)
BE_BIND_COMPLETE = int(Backend.BE_BIND_COMPLETE)
BE_COMMAND_COMPLETE = int(Backend.BE_COMMAND_COMPLETE)
BE_DATA_ROW = int(Backend.BE_DATA_ROW)
BE_EMPTY_QUERY = int(Backend.BE_EMPTY_QUERY)
BE_ERROR = int(Backend.BE_ERROR)
BE_NEGOTIATE = int(Backend.BE_NEGOTIATE)
BE_NOTICE = int(Backend.BE_NOTICE)
BE_NO_DATA = int(Backend.BE_NO_DATA)
BE_PARAMETER_STATUS = int(Backend.BE_PARAMETER_STATUS)
BE_PARSE_COMPLETE = int(Backend.BE_PARSE_COMPLETE)
BE_READY = int(Backend.BE_READY)
BE_ROW_DESCRIPTION = int(Backend.BE_ROW_DESCRIPTION)
FE_BIND = int(Frontend.FE_BIND)
FE_DESCRIBE = int(Frontend.FE_DESCRIBE)
FE_EXECUTE = int(Frontend.FE_EXECUTE)
FE_PARSE = int(Frontend.FE_PARSE)
FE_PASSWORD = int(Frontend.FE_PASSWORD)
FE_QUERY = int(Frontend.FE_QUERY)
FE_TERMINATE = int(Frontend.FE_TERMINATE)
REQUEST_CANCEL = int(Request.REQUEST_CANCEL)
REQUEST_GSSENC = int(Request.REQUEST_GSSENC)
REQUEST_SSL = int(Request.REQUEST_SSL)
REQUEST_STARTUP_2 = int(Request.REQUEST_STARTUP_2)
REQUEST_STARTUP_3 = int(Request.REQUEST_STARTUP_3)

_HEADER = Struct("!BI")
_HEADER_INT32 = Struct("!BII")
_HEADER_INT16 = Struct("!BIH")
_INT16 = Struct("!H")
_INT32 = Struct("!I")
_SIGNED32 = Struct("!i")
_TWO_INT32 = Struct("!II")
# Table oid, column number, type oid, type length, type modifier, format.
_COLUMN = Struct("!IhIhih")

# PostgreSQL's errors have 18 kinds of fields, its requests two mechanisms.
MOST_FIELDS = 64

_NULL = b"\xff\xff\xff\xff"

AUTH_OK = 0
AUTH_CLEARTEXT = 3
AUTH_MD5 = 5
AUTH_SASL = 10
AUTH_SASL_CONTINUE = 11
AUTH_SASL_FINAL = 12

OID_INT8 = 20
OID_INT4 = 23
OID_TEXT = 25
OID_NUMERIC = 1700

SCRAM_SHA_256 = b"SCRAM-SHA-256"


def encode_text(text: str) -> bytes:
    """Turn *text* into the bytes it was decoded from."""
    return text.encode("utf-8", "surrogateescape")


def decode_text(data: bytes) -> str:
    """Turn bytes of a peer into text without losing any of them."""
    return data.decode("utf-8", "surrogateescape")


def _packet(code: int, body: bytes) -> bytes:
    return _HEADER.pack(code, len(body) + 4) + body


# From us to a client


def _authentication(code: int, rest: bytes = b"") -> bytes:
    return _HEADER_INT32.pack(BE_AUTHENTICATION, 8 + len(rest), code) + rest


AUTHENTICATION_OK = _authentication(AUTH_OK)
AUTHENTICATION_CLEARTEXT = _authentication(AUTH_CLEARTEXT)
AUTHENTICATION_SASL = _authentication(AUTH_SASL, SCRAM_SHA_256 + b"\0\0")
READY_IDLE = _packet(BE_READY, b"I")
CANCEL_KEY_FOLLOWS = _HEADER.pack(BE_BACKEND_KEY_DATA, 12)  # a key of eight bytes


def authentication_md5(salt: bytes) -> bytes:
    """Ask for an md5 response to the four bytes of *salt*."""
    return _authentication(AUTH_MD5, salt)


def authentication_sasl_continue(data: bytes) -> bytes:
    """Carry SCRAM's server-first message."""
    return _authentication(AUTH_SASL_CONTINUE, data)


def authentication_sasl_final(data: bytes) -> bytes:
    """Carry SCRAM's server-final message."""
    return _authentication(AUTH_SASL_FINAL, data)


def ready_for_query(status: bytes = b"I") -> bytes:
    """Say that the next command may come; *status* is I, T or E."""
    return _packet(BE_READY, status)


def parameter_status(name: str, value: str) -> bytes:
    """Report the value of a setting."""
    return _packet(
        BE_PARAMETER_STATUS, encode_text(name) + b"\0" + encode_text(value) + b"\0"
    )


def negotiate_protocol_version(newest: int, unknown: Sequence[bytes]) -> bytes:
    """Offer protocol *newest* and name the options that are not known here."""
    body = [_TWO_INT32.pack(newest, len(unknown))]
    for name in unknown:
        body.append(name)
        body.append(b"\0")
    return _packet(BE_NEGOTIATE, b"".join(body))


def _fields(
    severity: str, sqlstate: str, text: str, detail: str | None, hint: str = ""
) -> bytes:
    body = (
        b"S"
        + severity.encode()
        + b"\0C"
        + encode_text(sqlstate)
        + b"\0M"
        + encode_text(text).replace(b"\0", b"")
    )
    if detail is not None:
        body += b"\0D" + encode_text(detail)
    if hint:
        body += b"\0H" + encode_text(hint)
    return body + b"\0\0"


def error_response(
    text: str,
    sqlstate: str = DEFAULT_SQLSTATE,
    severity: str = "FATAL",
    hint: str = "",
) -> bytes:
    """Report an error with PgBouncer's three fields: severity, code, text.

    A *hint* is a fourth one, of ours.
    """
    return _packet(BE_ERROR, _fields(severity, sqlstate, text, None, hint))


def notice_response(
    text: str,
    sqlstate: str = SUCCESSFUL_COMPLETION,
    severity: str = "NOTICE",
    detail: str | None = None,
) -> bytes:
    """Tell something that is not an answer to a command."""
    return _packet(BE_NOTICE, _fields(severity, sqlstate, text, detail))


def row_description(columns: Iterable[tuple[str, int, int]]) -> bytes:
    """Announce columns given as (name, type oid, type length), all as text."""
    body = [b""]
    count = 0
    for name, oid, length in columns:
        body.append(encode_text(name))
        body.append(b"\0")
        body.append(_COLUMN.pack(0, 0, oid, length, -1, 0))
        count += 1
    body[0] = _INT16.pack(count)
    return _packet(BE_ROW_DESCRIPTION, b"".join(body))


def data_row(values: Sequence[str | bytes | int | None]) -> bytes:
    """Build one row; None is NULL, everything else is sent as text."""
    parts = [b""]
    size = 6
    for value in values:
        if value is None:
            parts.append(_NULL)
            size += 4
            continue
        if isinstance(value, bytes):
            data = value
        else:
            data = str(value).encode("utf-8", "surrogateescape")
        parts.append(_INT32.pack(len(data)))
        parts.append(data)
        size += 4 + len(data)
    parts[0] = _HEADER_INT16.pack(BE_DATA_ROW, size, len(values))
    return b"".join(parts)


def command_complete(tag: str) -> bytes:
    """End the answer to one command."""
    return _packet(BE_COMMAND_COMPLETE, encode_text(tag) + b"\0")


# From us to a server

# PostgreSQL protocol, SSLRequest and GSSENCRequest: a length and a code, no type.
SSL_REQUEST = _TWO_INT32.pack(8, REQUEST_SSL)
GSSENC_REQUEST = _TWO_INT32.pack(8, REQUEST_GSSENC)
SYNC = b"S\0\0\0\x04"
FLUSH = b"H\0\0\0\x04"
TERMINATE = b"X\0\0\0\x04"


def startup_message(
    params: Iterable[tuple[str, str]], protocol: int = REQUEST_STARTUP_3
) -> bytes:
    """Open a session with *params*, in the order given."""
    body = [_INT32.pack(protocol)]
    for name, value in params:
        body.append(encode_text(name))
        body.append(b"\0")
        body.append(encode_text(value))
        body.append(b"\0")
    body.append(b"\0")
    packet = b"".join(body)
    return _INT32.pack(len(packet) + 4) + packet


def cancel_request(key: bytes) -> bytes:
    """Ask a server to cancel what the session with *key* is doing."""
    return _TWO_INT32.pack(8 + len(key), REQUEST_CANCEL) + key


def password_message(password: bytes) -> bytes:
    """Answer a request for a password, in clear or as md5 response."""
    return _packet(FE_PASSWORD, password + b"\0")


def sasl_initial_response(mechanism: bytes, data: bytes) -> bytes:
    """Choose *mechanism* and send its first message."""
    return _packet(FE_PASSWORD, mechanism + b"\0" + _INT32.pack(len(data)) + data)


def sasl_response(data: bytes) -> bytes:
    """Send a further message of a SASL exchange."""
    return _packet(FE_PASSWORD, data)


def query(sql: str) -> bytes:
    """Run *sql* by the simple protocol."""
    return _packet(FE_QUERY, encode_text(sql) + b"\0")


def parse(sql: str) -> bytes:
    """Prepare *sql* as the unnamed statement, its parameter types left open."""
    return _packet(FE_PARSE, b"\0" + encode_text(sql) + b"\0\0\0")


def bind(values: Sequence[bytes]) -> bytes:
    """Bind text *values* to the unnamed statement in the unnamed portal."""
    body = [b"\0\0\0\0", _INT16.pack(len(values))]
    for value in values:
        body.append(_INT32.pack(len(value)))
        body.append(value)
    body.append(b"\0\0")
    return _packet(FE_BIND, b"".join(body))


DESCRIBE_PORTAL = _packet(FE_DESCRIBE, b"P\0")
EXECUTE_ALL = _packet(FE_EXECUTE, b"\0\0\0\0\0")


# From a client


def parse_startup(body: bytes) -> tuple[list[tuple[bytes, bytes]], bool]:
    """Take a StartupMessage apart.

    *body* starts behind the protocol version. Gives the parameters in their order
    and whether the list ends with an empty name that is the last byte: parameters
    count even when it does not, because the first bad one is what gets reported.
    """
    pieces = body.split(b"\0")
    # Only a piece with a zero byte behind it is a string: all but the last.
    whole = len(pieces) - 1
    params: list[tuple[bytes, bytes]] = []
    at = 0
    while at < whole:
        name = pieces[at]
        if not name:
            return params, at == whole - 1 and not pieces[whole]
        if at + 1 >= whole:
            return params, False
        params.append((name, pieces[at + 1]))
        at += 2
    return params, False


def parse_password(body: bytes) -> bytes | None:
    """Give the password of a PasswordMessage; None when its zero byte is missing."""
    end = body.find(b"\0")
    if end < 0:
        return None
    return body[:end]


def parse_sasl_initial(body: bytes) -> tuple[bytes, bytes]:
    """Give mechanism and first message of a SASLInitialResponse."""
    end = body.find(b"\0")
    if end < 0 or len(body) < end + 5:
        raise ProtocolError("malformed SASLInitialResponse")
    length: int = _INT32.unpack_from(body, end + 1)[0]
    data = body[end + 5 :]
    # -1 announces that no data follows: SCRAM never does that.
    if length != len(data):
        raise ProtocolError("malformed SASLInitialResponse")
    return body[:end], data


# From a server


def parse_authentication(body: bytes) -> tuple[int, bytes]:
    """Give the code of an authentication request and what follows it."""
    if len(body) < 4:
        raise ProtocolError("malformed authentication request")
    return _INT32.unpack_from(body)[0], body[4:]


def parse_sasl_mechanisms(rest: bytes) -> list[bytes]:
    """List the mechanisms of an AuthenticationSASL."""
    end = rest.find(b"\0\0")
    return rest[: end if end >= 0 else len(rest)].split(b"\0", MOST_FIELDS)


def parse_parameter_status(body: bytes) -> tuple[str, str]:
    """Give name and value of a ParameterStatus."""
    pieces = body.split(b"\0", 3)
    if len(pieces) != 3 or pieces[2]:
        raise ProtocolError("broken ParameterStatus packet")
    return decode_text(pieces[0]), decode_text(pieces[1])


def parse_fields(body: bytes) -> dict[str, str]:
    """Give the fields of an ErrorResponse or NoticeResponse, by their letters.

    Whatever a server sends here is only ever reported: a cut packet gives the
    fields that are whole.
    """
    fields: dict[str, str] = {}
    pieces = body.split(b"\0", MOST_FIELDS)
    for piece in pieces[:-1]:
        if not piece:
            break
        fields[chr(piece[0])] = decode_text(piece[1:])
    return fields


def parse_column_count(body: bytes) -> int:
    """Give the number of columns that a RowDescription announces."""
    if len(body) < 2:
        raise ProtocolError("malformed RowDescription")
    count: int = _INT16.unpack_from(body)[0]
    return count


def parse_data_row(body: bytes) -> list[bytes | None]:
    """Give the values of a row; None is NULL."""
    if len(body) < 2:
        raise ProtocolError("malformed DataRow")
    count: int = _INT16.unpack_from(body)[0]
    if len(body) < 2 + 4 * count:
        raise ProtocolError("malformed DataRow")
    at = 2
    values: list[bytes | None] = []
    for _ in range(count):
        if at + 4 > len(body):
            raise ProtocolError("malformed DataRow")
        length: int = _SIGNED32.unpack_from(body, at)[0]
        at += 4
        if length < 0:
            values.append(None)
            continue
        if at + length > len(body):
            raise ProtocolError("malformed DataRow")
        values.append(body[at : at + length])
        at += length
    if at != len(body):
        raise ProtocolError("malformed DataRow")
    return values
