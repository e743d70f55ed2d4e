"""Ask PostgreSQL who a user is: one auth_query on a server of the auth user.

The query gets the name as a parameter, by the extended protocol and without any SET
before it, so nothing that a client has chosen reaches the connection that answers.
Clients may share servers with it: those of a database whose `user` is the auth user.
What they have left in the session could answer in the place of PostgreSQL (a
search_path, a temporary table), so it is discarded first.
"""

from __future__ import annotations

from typing import Any

from bouncer import log
from bouncer.auth.secrets import MAX_SECRET
from bouncer.config.params import AUTH_QUERY
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
    query,
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
DISCARD_ALL = query("DISCARD ALL")

# PgBouncer's default, and SHOW CONFIG's, and how it is asked: names without a schema
# mean what a search_path says, and a database's owner may set that for everybody.
_QUALIFIED = (
    "SELECT rolname, CASE WHEN rolvaliduntil OPERATOR(pg_catalog.<) pg_catalog.now() "
    "THEN NULL ELSE rolpassword END FROM pg_catalog.pg_authid "
    "WHERE rolname OPERATOR(pg_catalog.=) $1 AND rolcanlogin"
)
MOST_MESSAGES = 10_000  # of one answer; none of them is kept


def text_of(sql: str) -> str:
    """Give what is asked for the setting *sql*."""
    return _QUALIFIED if sql == AUTH_QUERY else sql


def auth_query(server: Any, sql: str, user_name: str) -> Talk:
    """Run *sql* for *user_name*.

    Returns (name, secret), secret None for NULL, or None when there is no row.
    Raises `Disconnect` for the server connection, which must not be used again.
    """
    if not server.fresh:
        yield from discard_all(server)
    server.write(
        parse(text_of(sql))
        + bind([encode_text(user_name)])
        + DESCRIBE_PORTAL
        + EXECUTE_ALL
        + SYNC
    )
    found: tuple[str, str | None] | None = None
    for _ in range(MOST_MESSAGES):
        code, body = yield READ
        try:
            if code == BE_DATA_ROW:
                found = take_row(body) or found
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
    raise Disconnect("unexpected response from auth_query", notify=False)


def discard_all(server: Any) -> Talk:
    """Forget what clients have left in the session."""
    server.write(DISCARD_ALL)
    for _ in range(MOST_MESSAGES):
        code, body = yield READ
        if code == BE_READY:
            if body != _IDLE:
                raise Disconnect("unexpected response from auth_query", notify=False)
            server.forget_session()
            return
        if code == BE_PARAMETER_STATUS:
            server.learn_parameter(body)
        elif code == BE_ERROR:
            log.error(error_line("S: error in DISCARD ALL before auth_query", body))
            raise Disconnect("error response from auth_query", notify=False)
        elif code not in (BE_COMMAND_COMPLETE, BE_NOTICE):
            raise Disconnect("unexpected response from auth_query", notify=False)
    raise Disconnect("unexpected response from auth_query", notify=False)


def check_columns(count: int) -> None:
    """The result is a name and a secret."""
    if count != 2:
        text = f"expected 2 columns from auth_query, not {count}"
        raise Disconnect(text, notify=False)


def take_row(body: bytes) -> tuple[str, str | None] | None:
    """Give name and secret of a row, never a part of either; None: it names nobody."""
    check_columns(parse_column_count(body))
    values = parse_data_row(body)
    name, secret = values
    if name is None:
        return None
    if len(name) > LONGEST_USER or not name:
        raise Disconnect("unexpected response from auth_query", notify=False)
    if secret is None or len(secret) > MAX_SECRET:
        return decode_text(name), None
    return decode_text(name), decode_text(secret)
