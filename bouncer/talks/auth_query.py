"""Ask PostgreSQL who a user is: one auth_query on a server of the auth user.

The query gets the name as a parameter, by the extended protocol and without any SET
before it, so nothing that a client has chosen reaches the connection that answers.
"""

from __future__ import annotations

from typing import Any

from bouncer import log
from bouncer.auth.secrets import MAX_SECRET
from bouncer.errors import Disconnect, ProtocolError
from bouncer.relay.talk import READ
from bouncer.talks.login_packets import Talk
from bouncer.talks.server_login import error_line
from bouncer.wire.messages import (
    BE_BIND_COMPLETE,
    BE_COMMAND_COMPLETE,
    BE_DATA_ROW,
    BE_ERROR,
    BE_NO_DATA,
    BE_NOTICE,
    BE_PARAMETER_STATUS,
    BE_PARSE_COMPLETE,
    BE_READY,
    BE_ROW_DESCRIPTION,
    DESCRIBE_PORTAL,
    EXECUTE_ALL,
    SYNC,
    bind,
    decode_text,
    encode_text,
    parse,
    parse_column_count,
    parse_data_row,
)

# PgBouncer keeps names in 128 bytes; a longer one is nobody's.
LONGEST_USER = 127
_EXPECTED = (
    BE_PARSE_COMPLETE,
    BE_BIND_COMPLETE,
    BE_COMMAND_COMPLETE,
    BE_NOTICE,
)
_IDLE = b"I"


def auth_query(server: Any, query: str, user_name: str) -> Talk:
    """Run *query* for *user_name*.

    Returns (name, secret), secret None for NULL, or None when there is no row.
    Raises `Disconnect` for the server connection, which must not be used again.
    """
    server.write(
        parse(query)
        + bind([encode_text(user_name)])
        + DESCRIBE_PORTAL
        + EXECUTE_ALL
        + SYNC
    )
    found: tuple[str, str | None] | None = None
    while True:
        code, body = yield READ
        try:
            if code == BE_DATA_ROW:
                found = take_row(body)
            elif code == BE_ROW_DESCRIPTION:
                check_columns(parse_column_count(body))
            elif code == BE_READY:
                if body != _IDLE:
                    raise Disconnect(
                        "unexpected response from auth_query", notify=False
                    )
                return found
            elif code == BE_PARAMETER_STATUS:
                # A function may set things: the next client must not inherit them.
                server.learn_parameter(body)
            elif code == BE_ERROR:
                log.error(error_line("S: error in auth_query", body))
                raise Disconnect("error response from auth_query", notify=False)
            elif code == BE_NO_DATA:
                check_columns(0)
            elif code not in _EXPECTED:
                raise Disconnect("unexpected response from auth_query", notify=False)
        except ProtocolError:
            raise Disconnect("bad packet", notify=False) from None


def check_columns(count: int) -> None:
    """The result is a name and a secret."""
    if count != 2:
        text = f"expected 2 columns from auth_query, not {count}"
        raise Disconnect(text, notify=False)


def take_row(body: bytes) -> tuple[str, str | None]:
    """Give name and secret of a row; never a part of either."""
    values = parse_data_row(body)
    check_columns(len(values))
    name, secret = values
    if name is None:
        text = "auth_query response contained null user name"
        raise Disconnect(text, notify=False)
    if len(name) > LONGEST_USER or not name:
        raise Disconnect("unexpected response from auth_query", notify=False)
    if secret is None or len(secret) > MAX_SECRET:
        return decode_text(name), None
    return decode_text(name), decode_text(secret)
