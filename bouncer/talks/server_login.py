"""Log in to PostgreSQL: from a connected socket to its first ReadyForQuery.

What fails before the server has sent an ErrorResponse raises `Disconnect`: clients
go on waiting. An ErrorResponse, or a request that our secret cannot answer, raises
`LoginFailed`, whose text waiting clients get.

A server has to prove itself as well: once SCRAM has begun, AuthenticationOk without
the server's verified signature is refused. And nothing that came in clear before the
TLS handshake is ever read as if TLS had brought it.
"""

from __future__ import annotations

import re
import ssl
from typing import Any

from bouncer import log
from bouncer.auth import tls
from bouncer.auth.derive import deriver
from bouncer.auth.md5 import FORBIDDEN, hash_password, is_allowed
from bouncer.auth.md5 import answer as md5_answer
from bouncer.auth.scram import ClientSide, ScramError, fits
from bouncer.auth.secrets import MD5, PLAIN, SCRAM, kind_of, parse_scram
from bouncer.config.queries import split_if_needed
from bouncer.errors import (
    CANNOT_ANSWER,
    DEFAULT_SQLSTATE,
    REFUSED,
    ConfigError,
    Disconnect,
    LoginFailed,
    ProtocolError,
)
from bouncer.relay.talk import READ, READ_BYTE, StartTls
from bouncer.talks.login_packets import Talk
from bouncer.wire.messages import (
    AUTH_CLEARTEXT,
    AUTH_MD5,
    AUTH_OK,
    AUTH_SASL,
    AUTH_SASL_CONTINUE,
    AUTH_SASL_FINAL,
    BE_AUTHENTICATION,
    BE_BACKEND_KEY_DATA,
    BE_COMMAND_COMPLETE,
    BE_DATA_ROW,
    BE_EMPTY_QUERY,
    BE_ERROR,
    BE_NOTICE,
    BE_PARAMETER_STATUS,
    BE_READY,
    BE_ROW_DESCRIPTION,
    SCRAM_SHA_256,
    SSL_REQUEST,
    encode_text,
    parse_authentication,
    parse_fields,
    parse_parameter_status,
    parse_sasl_mechanisms,
    password_message,
    query,
    sasl_initial_response,
    sasl_response,
    startup_message,
)

CANCEL_KEY = 8
# Longer keys (protocol 3.2) are not asked for; PostgreSQL allows 256 bytes.
MD5_SALT = 4
_NOT_ANSWERED = "failed to answer authreq"
_YES = 0x53  # 'S'
_NO = 0x4E  # 'N'
# PgBouncer builds this message in a buffer of 512 bytes.
LONGEST_PACKET = 512
# What a server may tell before it is ready: PostgreSQL sends 15 parameters.
MOST_TOLD = 1000  # parameters, notices and keys
MOST_TOLD_BYTES = 1 << 20
LONGEST_SCRAM = 8192  # bytes of a SCRAM message of a server
# What a connect_query may be answered with besides what any login message may be.
_RESULTS = (BE_ROW_DESCRIPTION, BE_DATA_ROW, BE_COMMAND_COMPLETE, BE_EMPTY_QUERY)


class ServerLogin:
    """What a login has told: parameters in their order, the cancel key."""

    __slots__ = ("cancel_key", "parameters", "told", "told_bytes")

    def __init__(self) -> None:
        self.parameters: list[tuple[str, str]] = []
        self.cancel_key = b"\0" * CANCEL_KEY
        #: Messages that were no requests, and their bytes.
        self.told = self.told_bytes = 0

    def count(self, body: bytes) -> bool:
        """Count one; False when a server that means well would have stopped."""
        self.told += 1
        self.told_bytes += len(body)
        return self.told <= MOST_TOLD and self.told_bytes <= MOST_TOLD_BYTES


class Exchange:
    """How far the authentication has come."""

    __slots__ = ("asked", "continued", "credentials", "done", "scram")

    def __init__(self, credentials: Any) -> None:
        self.credentials = credentials
        #: SCRAM, once the server has asked for it.
        self.scram: ClientSide | None = None
        self.continued = False
        #: A password has been asked for.
        self.asked = False
        #: The server's signature was right, or no SCRAM was asked for.
        self.done = True


def server_login(server: Any, app: Any) -> Talk:
    """The whole login; returns a `ServerLogin`."""
    settings = app.settings
    if settings.server_tls_sslmode != "disable" and not server.is_unix:
        yield from ask_for_tls(server, app)
    server.write(startup_message(server.startup_params()))
    login = ServerLogin()
    exchange = Exchange(server.pool.credentials)
    accepted = False
    while True:
        code, body = yield READ
        if code == BE_AUTHENTICATION:
            if accepted:
                protocol_error(server, "protocol error: request after AuthenticationOk")
            accepted = yield from answer(server, exchange, body)
        elif code == BE_READY and accepted:
            break
        else:
            take_message(server, login, code, body)
    connect_query = server.pool.database.config.connect_query
    if connect_query:
        if len(query(connect_query)) > LONGEST_PACKET:
            raise Disconnect("exec_on_connect query failed", notify=False)
        parts = split_if_needed(connect_query)
        server.write(b"".join(query(part) for part in parts))
        for _ in parts:
            yield from connect_query_done(server, login)
    return login


def take_message(server: Any, login: ServerLogin, code: int, body: bytes) -> None:
    """Note a message that may come at any point of a login."""
    if not login.count(body):
        log.error(f"{server.prefix} server sends messages without end in its login")
        raise Disconnect("too many messages from server", notify=False)
    if code == BE_PARAMETER_STATUS:
        try:
            name, value = parse_parameter_status(body)
        except ProtocolError as error:
            raise Disconnect(str(error), notify=False) from None
        if log.verbosity:
            log.debug(f"S: param: {name} = {value}")
        login.parameters.append((name, value))
    elif code == BE_BACKEND_KEY_DATA:
        if len(body) < CANCEL_KEY:
            raise Disconnect("bad cancel key", notify=False)
        login.cancel_key = body[:CANCEL_KEY]
    elif code == BE_ERROR:
        raise refusal(body)
    elif code != BE_NOTICE:
        refuse_message(server, code)


def refuse_message(server: Any, code: int) -> None:
    """A message that has no place in a login."""
    log.error(f"{server.prefix} unknown pkt from server: '{shown(code)}'")
    raise Disconnect("unknown pkt from server", notify=True)


def shown(code: int) -> str:
    """Print a message type for the log."""
    return chr(code) if 0x21 <= code <= 0x7E else "?"


def refusal(body: bytes) -> LoginFailed:
    """Turn an ErrorResponse into what waiting clients are told.

    Whatever it lacks is made up: a client gets a well-formed error in any case.
    """
    fields = parse_fields(body)
    severity, text = fields.get("S", ""), fields.get("M", "")
    sqlstate = fields.get("C", "")
    if len(sqlstate) != 5 or not sqlstate.isalnum():
        sqlstate = DEFAULT_SQLSTATE
    return LoginFailed(severity, sqlstate, text or "server login failed", REFUSED)


# TLS


def ask_for_tls(server: Any, app: Any) -> Talk:
    """Send SSLRequest; shake hands, go on in clear, or give up."""
    settings = app.settings
    server.write(SSL_REQUEST)
    byte = yield READ_BYTE
    if byte == _NO and not server.buffered():
        if settings.server_tls_sslmode not in ("allow", "prefer"):
            raise Disconnect("server refused SSL", notify=False)
        return
    if byte not in (_YES, _NO):
        raise Disconnect("bad sslreq answer", notify=False)
    if server.buffered():
        raise Disconnect("received unencrypted data after SSL response", notify=False)
    try:
        context = tls.connect_context(settings)
    except ConfigError as error:
        log.error(str(error))
        detail = f"TLS: {error}"
        raise Disconnect("TLS startup failed", notify=False, detail=detail) from None
    try:
        yield StartTls(context, False, tls.server_name(server.host))
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = tls.failure_of(error, server.host)
        log.warning(f"TLS handshake error: {reason}")
        detail = f"TLS: {reason}"
        raise Disconnect("server conn crashed?", notify=False, detail=detail) from None
    if settings.log_connections:
        log.info(f"{server.prefix} SSL established: {server.tls_info}")


# Authentication


def answer(server: Any, exchange: Exchange, body: bytes) -> Talk:
    """Answer one authentication request; True when the server is content."""
    try:
        code, rest = parse_authentication(body)
    except ProtocolError:
        raise Disconnect(_NOT_ANSWERED, notify=False) from None
    credentials = exchange.credentials
    if code == AUTH_OK:
        if not exchange.done:
            protocol_error(
                server,
                "protocol error: AuthenticationOk without prior "
                "AuthenticationSASLFinal",
            )
        return True
    if code in (AUTH_CLEARTEXT, AUTH_MD5):
        if exchange.asked:
            protocol_error(server, "protocol error: password requested again")
        exchange.asked = True
    if code == AUTH_CLEARTEXT:
        server.write(password_message(encode_text(credentials.secret)))
    elif code == AUTH_MD5:
        answer_md5(server, credentials, rest)
    elif code == AUTH_SASL:
        begin_scram(server, exchange, rest)
    elif code == AUTH_SASL_CONTINUE:
        yield from continue_scram(server, exchange, rest)
    elif code == AUTH_SASL_FINAL:
        finish_scram(server, exchange, rest)
    else:
        protocol_error(server, f"unknown/unsupported auth method: {code}")
    return False


def protocol_error(server: Any, text: str) -> None:
    """Give up on a server that asks what it may not ask."""
    log.error(f"{server.prefix} {text}")
    raise Disconnect(_NOT_ANSWERED, notify=False)


def cannot_answer(server: Any, line: str, text: str) -> LoginFailed:
    """Our secret does not fit the server's request: tell the clients."""
    log.error(f"{server.prefix} {line}")
    return LoginFailed(
        "FATAL",
        DEFAULT_SQLSTATE,
        f"server login failed: {text}",
        CANNOT_ANSWER,
        reason=_NOT_ANSWERED,
        notify=False,
    )


def answer_md5(server: Any, credentials: Any, salt: bytes) -> None:
    """Answer a challenge with the md5 of the password, or with its stored hash."""
    if len(salt) != MD5_SALT:
        raise Disconnect(_NOT_ANSWERED, notify=False)
    if not is_allowed():
        line = f"cannot do MD5 authentication: {FORBIDDEN}"
        raise cannot_answer(server, line, "md5 is forbidden here")
    secret = encode_text(credentials.secret)
    kind = kind_of(credentials.secret)
    if kind == SCRAM:
        raise cannot_answer(
            server,
            "cannot do MD5 authentication: wrong password type",
            "wrong password type",
        )
    stored = secret
    if kind != MD5:
        stored = hash_password(encode_text(credentials.user), secret)
    server.write(password_message(md5_answer(stored, salt)))


def begin_scram(server: Any, exchange: Exchange, rest: bytes) -> None:
    """Choose SCRAM-SHA-256 if it is offered and our secret can do it."""
    if exchange.scram is not None:
        protocol_error(
            server, "protocol error: duplicate AuthenticationSASL message from server"
        )
    if SCRAM_SHA_256 not in parse_sasl_mechanisms(rest):
        text = "none of the server's SASL authentication mechanisms are supported"
        raise cannot_answer(server, text, text)
    credentials = exchange.credentials
    kind = kind_of(credentials.secret)
    if kind == MD5:
        raise cannot_answer(
            server,
            "cannot do SCRAM authentication: wrong password type",
            "wrong password type",
        )
    if kind == SCRAM and stored_keys(credentials) is None:
        raise cannot_answer(
            server,
            "cannot do SCRAM authentication: password is SCRAM secret "
            "but client authentication did not provide SCRAM keys",
            "wrong password type",
        )
    exchange.scram = scram = ClientSide()
    exchange.done = False
    server.write(sasl_initial_response(SCRAM_SHA_256, scram.first()))


def stored_keys(credentials: Any) -> Any:
    """Give the keys that a client has shown, if they belong to this secret.

    Keys that were learnt before the secret changed are worth nothing.
    """
    keys = credentials.scram_keys
    secret = parse_scram(credentials.secret)
    if keys is None or secret is None or not fits(secret, keys):
        return None
    return keys


def continue_scram(server: Any, exchange: Exchange, rest: bytes) -> Talk:
    """Prove that we know the password."""
    scram = exchange.scram
    if scram is None:
        protocol_error(
            server,
            "protocol error: AuthenticationSASLContinue without prior "
            "AuthenticationSASL",
        )
        return
    if exchange.continued:
        protocol_error(
            server,
            "SCRAM exchange protocol error: received second AuthenticationSASLContinue",
        )
    exchange.continued = True
    if len(rest) > LONGEST_SCRAM:
        protocol_error(server, "SCRAM exchange protocol error: message is too long")
    try:
        scram.server_first(rest)
    except ScramError as error:
        give_up(server, error)
    credentials = exchange.credentials
    if kind_of(credentials.secret) == PLAIN:
        password = encode_text(credentials.secret)
        keys = deriver.known(password, scram.salt, scram.iterations)
        if keys is None:
            keys = yield deriver.wanted(password, scram.salt, scram.iterations)
    else:
        keys = stored_keys(credentials)
    server.write(sasl_response(scram.final(keys)))


def finish_scram(server: Any, exchange: Exchange, rest: bytes) -> None:
    """Let the server prove that it knows the password, too."""
    scram = exchange.scram
    if scram is None or not exchange.continued or exchange.done:
        protocol_error(
            server,
            "protocol error: AuthenticationSASLFinal without prior "
            "AuthenticationSASLContinue",
        )
        return
    try:
        scram.server_final(rest)
    except ScramError as error:
        if error.is_wrong_signature:
            raise cannot_answer(server, str(error), str(error)) from None
        give_up(server, error)
    exchange.done = True


def give_up(server: Any, error: ScramError) -> None:
    """Log why the exchange failed, and end it."""
    for line in error.lines:
        log.error(f"{server.prefix} {line}")
    raise Disconnect(_NOT_ANSWERED, notify=False)


# connect_query


def connect_query_done(server: Any, login: ServerLogin) -> Talk:
    """Read the answer to connect_query: only parameters count, errors are logged."""
    while True:
        code, body = yield READ
        if code == BE_READY:
            return
        if code == BE_ERROR:
            line = error_line("S: error while executing exec_on_query", body)
            log.error(without_literals(line, server.pool.database.config.connect_query))
        elif code not in _RESULTS:
            take_message(server, login, code, body)


_LITERAL = re.compile(r"'([^']+)'")


def without_literals(line: str, sql: str) -> str:
    """Return *line* without the texts in quotes that it has from *sql*."""
    for literal in _LITERAL.findall(sql + "'"):
        line = line.replace(literal, "***")
    return line


def error_line(note: str, body: bytes) -> str:
    """Say in one line what a server's ErrorResponse says."""
    fields = parse_fields(body)
    if "S" not in fields or "M" not in fields:
        return f"{note}: partial error message, cannot log"
    return f"{note}: {fields['S']}: {fields['M']}"
