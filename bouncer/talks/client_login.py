"""Log a client in: from its first byte to its first ReadyForQuery.

One conversation, told in the order of PgBouncer's checks, which clients can see:
a wrong password is reported before a database that does not exist, and limits count
before anybody is authenticated. A user who is not known goes through the same
exchange as one with a wrong password (mock authentication), without a pool; only
then a second startup packet begins everything anew.

SSLRequest, GSSENCRequest and CancelRequest may come at any point before the login
is over: `login_packets` answers the first two by itself.
"""

from __future__ import annotations

import os
from struct import Struct
from typing import Any

from bouncer import log
from bouncer.errors import Disconnect, cut
from bouncer.talks.authenticate import authenticate
from bouncer.talks.login_packets import StartAgain, Talk, next_packet, start_tls
from bouncer.talks.startup import LOGICAL, PHYSICAL, read_startup
from bouncer.wire.messages import (
    AUTHENTICATION_OK,
    FE_PASSWORD,
    READY_IDLE,
    REQUEST_CANCEL,
    REQUEST_STARTUP_2,
    backend_key_data,
    encode_text,
    notice_response,
)

_INT32 = Struct("!I")

# PostgreSQL takes no longer password message; a startup packet has 16 bits of length.
LONGEST_LOGIN_MESSAGE = 65535
# PgBouncer keeps names in 128 and database names in 64 bytes.
LONGEST_USER = 127
LONGEST_DATABASE = 63
CANCEL_KEY = 8

TLS_DEMANDED = ("require", "verify-ca", "verify-full")
# auth_type values that leave the user's existence to somebody else.
OUTSIDE = {"pam": "PAM", "ldap": "LDAP"}
_REPLICATION = {0: "no", LOGICAL: "database", PHYSICAL: "yes"}


class CancelAsked:
    """The connection was no login, but a request to cancel a query."""

    __slots__ = ("key",)

    def __init__(self, key: bytes) -> None:
        self.key = key


class Login:
    """What is known of a login while it lasts."""

    __slots__ = ("console", "database", "database_name", "rights", "user_name")

    def __init__(self, user_name: str, database_name: str) -> None:
        self.user_name = user_name
        self.database_name = database_name
        self.database: Any = None
        self.console: Any = None
        self.rights: str | None = None


def client_login(client: Any, app: Any) -> Talk:
    """The whole login; returns None, a `CancelAsked`, or a console's talk."""
    client.talk_limit = LONGEST_LOGIN_MESSAGE
    if client.first_byte_is_tls:
        yield from start_tls(client, app)
    code, body = yield from next_packet(client, app)
    if code == FE_PASSWORD:
        raise Disconnect("client password pkt before startup packet")
    while True:
        if body.startswith(_CANCEL):
            if len(body) != 4 + CANCEL_KEY:
                raise Disconnect("bad cancel request", notify=False)
            return CancelAsked(body[4:])
        try:
            outcome = yield from log_in(client, app, body)
            return outcome
        except StartAgain as packet:
            body = packet.body


_CANCEL = _INT32.pack(REQUEST_CANCEL)


# The login


def log_in(client: Any, app: Any, body: bytes) -> Talk:
    """Everything from the startup packet to the welcome."""
    settings = app.settings
    if _INT32.unpack_from(body)[0] == REQUEST_STARTUP_2:
        raise Disconnect("old V2 protocol not supported")
    if (
        settings.client_tls_sslmode in TLS_DEMANDED
        and client.tls_object is None
        and not client.is_unix
    ):
        raise Disconnect("SSL required")
    if client.pool is not None:
        raise Disconnect("client re-sent startup pkt")
    client.user = client.user_state = None
    start = read_startup(client, settings, body)
    app.limits.admit_socket(client, start.database)
    if start.negotiation:
        client.write(start.negotiation)

    login = Login(start.user, start.database)
    login.console = app.consoles.get(start.database)
    login.database = database = app.registry.find_database(start.database, client)
    if login.console is not None and is_own_user(client, start.user):
        return welcome_own_user(client, app, login)
    refuse_long_user(client, settings, login)
    if login.console is not None:
        login.rights = login.console.rights(start.user, client)

    user = app.registry.users.get(start.user)
    known = user is not None and user.in_auth_file
    is_admin = login.rights == "admin"
    app.limits.admit_client(client, database, user if known else None, is_admin)
    user = yield from find_user(client, app, login, user if known else None, is_admin)

    client.database = database
    if user is not None:
        choose_pool(client, app, database, user)
    if settings.log_connections:
        log_attempt(client, login)
    exists = user is not None or settings.auth_type in OUTSIDE
    if login.console is not None and login.rights is None and exists:
        raise Disconnect("not allowed")
    yield from authenticate(client, app, login, user)
    if database is None:
        refuse_unknown_database(client, settings, login)
    if login.console is None:
        if database.disabled:
            raise Disconnect(f'database "{database.name}" is disabled')
        if app.shutdown_mode is not None:
            raise Disconnect("pooler is shutting down")
        pool: Any = client.pool
        waiter = pool.welcome_waiter(client)
        if waiter is not None:
            yield waiter
        send_welcome(client, app, b"")
        return None
    if login.rights is None:
        raise Disconnect("not allowed")
    send_welcome(client, app, login.console.welcome())
    return login.console.converse(client, login.rights, False)


def is_own_user(client: Any, user_name: str) -> bool:
    """The pooler's own OS user needs no password on its console."""
    return (
        user_name == "pgbouncer" and client.is_unix and client.peer_uid == os.geteuid()
    )


def welcome_own_user(client: Any, app: Any, login: Login) -> Any:
    """Let the pooler's own OS user in; gives the console's talk."""
    client.user = login.user_name
    if app.settings.log_connections:
        log.info(f"{client.prefix} pgbouncer access from unix socket")
    user = app.registry.user(login.user_name)
    # He is nobody's client: the database counts him, his name does not.
    app.limits.admit_client(client, login.database, None, True)
    client.database = login.database
    choose_pool(client, app, login.database, user)
    if app.settings.log_connections:
        log_attempt(client, login)
    send_welcome(client, app, login.console.welcome())
    return login.console.converse(client, "admin", True)


def refuse_long_user(client: Any, settings: Any, login: Login) -> None:
    """A name of 128 bytes or more is nobody's."""
    name = login.user_name
    if len(name) * 4 <= LONGEST_USER or len(encode_text(name)) <= LONGEST_USER:
        return
    after = ""
    if settings.log_connections:
        after = f"login failed: db={login.database_name} user={name}"
    raise Disconnect("username too long", log_after=after)


def find_user(client: Any, app: Any, login: Login, known: Any, is_admin: bool) -> Talk:
    """Find who logs in; None is nobody whom we know.

    Then the login goes on to fail (mock authentication), unless PAM or LDAP knows.
    """
    auth_type = app.settings.auth_type
    database = login.database
    if auth_type == "any":
        forced = database.config.user if database is not None else None
        if not forced:
            log.error(f"{client.prefix} auth_type=any requires forced user")
            raise Disconnect("bouncer config error")
        user = app.registry.user(forced)
        client.user = login.user_name = forced
        client.user_state = user
        return user
    outside = OUTSIDE.get(auth_type)
    if outside is not None:
        if database is not None and database.config.auth_user:
            log.error(
                f"{client.prefix} {outside} can't be used together with "
                "database authentication"
            )
            raise Disconnect("bouncer config error")
        client.user = login.user_name
        client.user_state = known
        return known
    if known is None and database is not None:
        if database.config.auth_user or app.settings.auth_user:
            found = yield from look_up(client, app, login, is_admin)
            return found
    if known is None:
        if login.user_name in app.registry.users:
            client.user = login.user_name
        log.info(f"{client.prefix} no such user: {login.user_name}")
        client.user = login.user_name
        return None
    client.user = login.user_name
    client.user_state = known
    return known


def look_up(client: Any, app: Any, login: Login, is_admin: bool) -> Talk:
    """Ask auth_query for the user; it must exist."""
    row = yield app.auth_query(client, login.database, login.user_name)
    if row is None:
        if app.settings.log_connections:
            log.info(f"{client.prefix} login failed: db={login.database_name}")
        raise Disconnect("no such user")
    name, secret = row
    # A NULL secret matches nothing, like an empty one.
    user = app.registry.learn_user(login.database, name, secret or "")
    app.limits.admit_client(client, login.database, user, is_admin)
    client.user = login.user_name = name
    client.user_state = user
    if login.console is not None:
        login.rights = login.console.rights(name, client)
    return user


def choose_pool(client: Any, app: Any, database: Any, user: Any) -> None:
    """The pool is that of the forced user, or of who logs in."""
    if database is None:
        return
    forced = database.config.user
    if forced:
        client.pool = app.registry.pool(database, forced, app.registry.user(forced))
    else:
        client.pool = app.registry.pool(database, user.name, user)


def log_attempt(client: Any, login: Login) -> None:
    """Say who wants to come in; it does not say yet that somebody did."""
    log.info(
        f"{client.prefix} login attempt: db={shown_database(login)} "
        f"user={login.user_name} tls={client.tls_info or 'no'} "
        f"replication={_REPLICATION[client.replication]}"
    )


def shown_database(login: Login) -> str:
    """The database's name; one that nobody configured may be of any length."""
    return cut(login.database_name, LONGEST_DATABASE)


def refuse_unknown_database(client: Any, settings: Any, login: Login) -> None:
    """Only who has proved who he is learns that there is no such database."""
    name = shown_database(login)
    if settings.log_connections:
        log.info(f"{client.prefix} login failed: db={name} user={login.user_name}")
    raise Disconnect(f"no such database: {name}")


def send_welcome(client: Any, app: Any, fixed: bytes) -> None:
    """Send everything from AuthenticationOk to ReadyForQuery in one piece."""
    client.cancel_key = key = app.new_cancel_key()
    message = app.settings.login_notify_message
    client.write(
        b"".join(
            (
                AUTHENTICATION_OK,
                fixed,
                client.pool.welcome_for(client),
                backend_key_data(key),
                notice_response(message) if message else b"",
                READY_IDLE,
            )
        )
    )
