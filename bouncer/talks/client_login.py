"""Log a client in: from its first byte to its first ReadyForQuery.

One conversation, told in the order of PgBouncer's checks, which clients can see:
a wrong password is reported before a database that does not exist, and limits count
before anybody is authenticated. A user who is not known goes through the same
exchange as one with a wrong password (mock authentication), without a pool.

SSLRequest, GSSENCRequest and CancelRequest may come at any point before the login
is over: `login_packets` answers the first two by itself, and refuses a second
startup packet.
"""

from __future__ import annotations

import os
from struct import Struct
from typing import Any

from bouncer import log
from bouncer.errors import Disconnect, cut
from bouncer.relay.talk import READ
from bouncer.talks.authenticate import choose_method, exchange_for, secret_for
from bouncer.talks.health_check import answer_check, is_check
from bouncer.talks.login_packets import CancelInstead, Talk, sort_out, start_tls
from bouncer.talks.startup import LOGICAL, PHYSICAL, check_values, read_startup
from bouncer.wire.messages import (
    AUTHENTICATION_OK,
    CANCEL_KEY_FOLLOWS,
    FE_PASSWORD,
    READY_IDLE,
    REQUEST_CANCEL,
    REQUEST_STARTUP_2,
    REQUEST_STARTUP_3,
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
# auth_type values for which auth_file does not say who may come in.
ASK_ELSEWHERE = ("any", *OUTSIDE)
# Methods that find the same for everybody with the same packet and address.
REMEMBERED = ("trust", "md5", "scram-sha-256", "plain", "password")
_REPLICATION = {0: "no", LOGICAL: "database", PHYSICAL: "yes"}


class CancelAsked:
    """The connection was no login, but a request to cancel a query."""

    __slots__ = ("key",)

    def __init__(self, key: bytes) -> None:
        self.key = key


class Login:
    """What is known of a login while it lasts."""

    __slots__ = (
        "console",
        "database",
        "database_name",
        "epoch",
        "is_admin",
        "is_negotiated",
        "method",
        "packet",
        "rights",
        "rule",
        "user",
        "user_name",
    )

    def __init__(self, user_name: str, database_name: str) -> None:
        self.user_name = user_name
        self.database_name = database_name
        #: DatabaseState, or None when there is no such database.
        self.database: Any = None
        #: UserState, or None for nobody whom we know.
        self.user: Any = None
        self.console: Any = None
        self.rights: str | None = None
        self.is_admin = False
        #: Whether the client was told which protocol we speak.
        self.is_negotiated = False
        #: auth_type, or what an HBA line says.
        self.method = ""
        #: The startup packet.
        self.packet = b""
        #: The door's, when it came.
        self.epoch = 0
        #: The HBA line that fits, with auth_type=hba.
        self.rule: Any = None


def client_login(client: Any, app: Any) -> Talk:
    """The whole login; returns None, a `CancelAsked`, or a console's talk."""
    client.talk_limit = LONGEST_LOGIN_MESSAGE
    if client.first_byte_is_tls:
        yield from start_tls(client, app)
    code, body = yield READ
    return (yield from login_by(client, app, code, body))


def login_by(client: Any, app: Any, code: int, body: bytes) -> Talk:
    """The login from a packet on that has been read."""
    if code or not body.startswith(_STARTUP_3):
        code, body = yield from sort_out(client, app, code, body)
        if code == FE_PASSWORD:
            raise Disconnect("client password pkt before startup packet")
        if body.startswith(_CANCEL):
            return cancel_asked(body)
    checker = app.settings.health_check_user
    if checker and is_check(body, checker):
        yield from answer_check(client)
    login = begin(client, app, body)
    if login.console is not None and is_own_user(client, login.user_name):
        return welcome_own_user(client, app, login)
    admit(client, app, login)
    if login.user is None:
        yield from find_user(client, app, login)
    choose_pool(client, app, login)
    choose_method(client, app, login)
    remember_question(client, app, login)
    exchange = exchange_for(client, app, login)
    if exchange is not None:
        try:
            yield from exchange
        except CancelInstead as packet:
            return cancel_asked(packet.body)
    outcome = yield from come_in(client, app, login)
    remember(client, app, login)
    return outcome


def known_login(client: Any, app: Any, known: Any, begun: Any) -> Talk:
    """The password of a client whose startup packet is known; gives *known*.

    *begun* says what has been done already: None nothing, the rest as in
    `relay.proof`. When something has changed meanwhile this is a login like any other.
    """
    client.talk_limit = LONGEST_LOGIN_MESSAGE
    login = known.login
    try:
        yield from exchange_for(client, app, login, begun) or ()
    except CancelInstead as packet:
        return cancel_asked(packet.body)
    if known.is_let_in and not known.stale:
        return known
    outcome = yield from come_in(client, app, login)
    remember(client, app, login)
    return outcome


def come_in(client: Any, app: Any, login: Login) -> Talk:
    """What comes behind the proof: last checks, and the welcome once it is known."""
    check_way_in(client, app, login)
    client.pool.logins += 1  # before the welcome has come, as PgBouncer
    if login.console is None:
        waiter = client.pool.welcome_waiter(client)
        if waiter is not None:
            yield waiter
    return welcome(client, app, login)


def is_usual(client: Any, app: Any, login: Login) -> bool:
    """Say whether the next one with this packet will be treated like *client*.

    What has been weighed must still hold: a RELOAD may have come in between.
    """
    return (
        login.epoch == app.door.epoch
        and client.tls_object is None
        and not client.replication
        and not login.is_negotiated
        and not app.settings.application_name_add_host
        and not log.verbosity
    )


def remember(client: Any, app: Any, login: Login) -> None:
    """Spare the next one with this packet what has just been found out."""
    if (
        login.method not in REMEMBERED
        or login.console is not None
        or not login.user.in_auth_file
        or not is_usual(client, app, login)
    ):
        return
    limits = app.limits
    app.door.remember(
        client,
        login.packet,
        login,
        login.method != "trust",
        secret_for(app, login),
        attempt_text(client, login) if app.settings.log_connections else None,
        (
            limits.max_db_clients(login.database),
            limits.max_user_clients(login.user.account),
        ),
        welcome_around_key(client, app, b""),
    )


def remember_question(client: Any, app: Any, login: Login) -> None:
    """Ask the next one with this packet at once, whoever may come in with it or not.

    Nobody and somebody whose password is wrong cost the same: so neither is told by it.
    """
    user = login.user
    if (
        login.method not in ("md5", "scram-sha-256")
        or login.console is not None
        or not is_usual(client, app, login)
        or (user is not None and not user.in_auth_file)
        or (user is None and login.user_name in app.registry.users)
    ):
        return
    secret = secret_for(app, login)
    if secret is None:
        return
    database, limits = login.database, app.limits
    app.door.remember(
        client,
        login.packet,
        login,
        True,
        secret,
        attempt_text(client, login) if app.settings.log_connections else None,
        (
            limits.max_db_clients(database) if database is not None else 0,
            limits.max_user_clients(user.account) if user is not None else 0,
        ),
        None,
        no_such_user(login) if user is None else None,
    )


_CANCEL = _INT32.pack(REQUEST_CANCEL)
_STARTUP_3 = _INT32.pack(REQUEST_STARTUP_3)[:2]


def cancel_asked(body: bytes) -> CancelAsked:
    """Take a CancelRequest apart."""
    if len(body) != 4 + CANCEL_KEY:
        raise Disconnect("bad cancel request", notify=False)
    return CancelAsked(body[4:])


# Before the user is known


def begin(client: Any, app: Any, body: bytes) -> Login:
    """Read the startup packet and find the database."""
    settings = app.settings
    if body.startswith(_STARTUP_2):
        raise Disconnect("old V2 protocol not supported")
    if (
        settings.client_tls_sslmode in TLS_DEMANDED
        and client.tls_object is None
        and not client.is_unix
    ):
        raise Disconnect("SSL required")
    start = read_startup(client, settings, body)
    if start.database not in app.consoles:
        check_values(start)
    app.limits.admit_socket(client, start.database)
    if start.negotiation:
        client.write(start.negotiation)
    login = Login(start.user, start.database)
    login.packet, login.epoch = body, app.door.epoch
    login.is_negotiated = bool(start.negotiation)
    login.console = app.consoles.get(start.database)
    login.database = app.registry.find_database(start.database, client)
    return login


_STARTUP_2 = _INT32.pack(REQUEST_STARTUP_2)


def admit(client: Any, app: Any, login: Login) -> None:
    """Count the client against the limits, and look the user up in auth_file."""
    name = login.user_name
    # Four bytes at most per character.
    if len(name) * 4 > LONGEST_USER and len(encode_text(name)) > LONGEST_USER:
        after = ""
        if app.settings.log_connections:
            after = f"login failed: db={login.database_name} user={name}"
        raise Disconnect("username too long", log_after=after)
    if login.console is not None:
        login.rights = login.console.rights(name, client)
        login.is_admin = login.rights == "admin"
    user = app.registry.users.get(name)
    if user is not None and not user.in_auth_file:
        user = None
    known = user is not None and app.settings.auth_type not in ASK_ELSEWHERE
    if known:
        client.user = name  # the log names him when a limit refuses him
    app.limits.admit_client(client, login.database, user, login.is_admin)
    if known:
        client.user_state = login.user = user


# Who it is


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
    login.user = app.registry.user(login.user_name)
    login.rights = "admin"
    # He is nobody's client: the database counts him, his name does not.
    app.limits.admit_client(client, login.database, None, True)
    choose_pool(client, app, login)
    client.pool.logins += 1
    send_welcome(client, app, login.console.welcome())
    return login.console.converse(client, "admin", True)


def find_user(client: Any, app: Any, login: Login) -> Talk:
    """Find a user whom auth_file does not have, or does not decide about.

    `login.user` stays None for nobody whom we know: then the login goes on to fail
    (mock authentication), unless PAM or LDAP knows.
    """
    name = login.user_name
    auth_type = app.settings.auth_type
    database = login.database
    if auth_type == "any":
        forced = database.config.user if database is not None else None
        if not forced:
            log.error(f"{client.prefix} auth_type=any requires forced user")
            raise Disconnect("bouncer config error")
        login.user = app.registry.user(forced)
        login.user_name = forced
    elif auth_type in OUTSIDE:
        if database is not None and database.config.auth_user:
            log.error(
                f"{client.prefix} {OUTSIDE[auth_type]} can't be used together with "
                "database authentication"
            )
            raise Disconnect("bouncer config error")
        user = app.registry.users.get(name)
        if user is not None and user.in_auth_file:
            login.user = user
    elif database is not None and (database.config.auth_user or app.settings.auth_user):
        yield from look_up(client, app, login)
    else:
        if name in app.registry.users:
            client.user = name
        log.info(f"{client.prefix} {no_such_user(login)}")
    client.user = login.user_name
    client.user_state = login.user


def no_such_user(login: Login) -> str:
    """What the log says of a name that we do not know."""
    return f"no such user: {login.user_name}"


def look_up(client: Any, app: Any, login: Login) -> Talk:
    """Ask auth_query for the user; it must exist."""
    if login.user_name in app.registry.users:
        client.user = login.user_name  # the log names him when the query fails
    row = yield app.auth_query(client, login.database, login.user_name)
    if row is None:
        if app.settings.log_connections:
            log.info(f"{client.prefix} login failed: db={login.database_name}")
        raise Disconnect("no such user")
    name, secret = row
    # A NULL secret matches nothing, like an empty one.
    login.user = app.registry.learn_user(login.database, name, secret or "")
    login.user_name = name
    if login.console is not None:
        login.rights = login.console.rights(name, client)
        login.is_admin = login.rights == "admin"
    app.limits.admit_client(client, login.database, login.user, login.is_admin)


def choose_pool(client: Any, app: Any, login: Login) -> None:
    """The pool is that of the forced user, or of who logs in."""
    user = login.user
    client.database = database = login.database
    if database is not None and user is not None:
        client.pool = app.registry.login_pool(database, user)
    if app.settings.log_connections:
        log.info(f"{client.prefix} {attempt_text(client, login)}")
    if login.console is not None and login.rights is None:
        # Nobody's existence is told; PAM and LDAP have everybody's.
        if login.user is not None or app.settings.auth_type in OUTSIDE:
            raise Disconnect("not allowed")


def attempt_text(client: Any, login: Login) -> str:
    """What the log says of a login that has got so far."""
    return (
        f"login attempt: db={shown_database(login)} "
        f"user={login.user_name} tls={client.tls_info or 'no'} "
        f"replication={_REPLICATION[client.replication]}"
    )


def shown_database(login: Login) -> str:
    """The database's name; one that nobody configured may be of any length."""
    return cut(login.database_name, LONGEST_DATABASE)


# Let in


def check_way_in(client: Any, app: Any, login: Login) -> None:
    """What only somebody who has proved who he is may know."""
    database = login.database
    if database is None:
        name = shown_database(login)
        if app.settings.log_connections:
            log.info(f"{client.prefix} login failed: db={name} user={login.user_name}")
        raise Disconnect(f"no such database: {name}")
    if login.console is not None:
        if login.rights is None:
            raise Disconnect("not allowed")
    elif database.disabled:
        raise Disconnect(f'database "{database.name}" is disabled')
    elif app.shutdown_mode is not None and (
        # Over TCP only somebody who was here before: the listeners are closed.
        client.is_unix or app.shutdown_mode == "wait_for_servers"
    ):
        raise Disconnect("pooler is shutting down")


def welcome(client: Any, app: Any, login: Login) -> Any:
    """Send the welcome; gives the console's talk where there is one."""
    if login.console is None:
        send_welcome(client, app, b"")
        return None
    send_welcome(client, app, login.console.welcome())
    return login.console.converse(client, login.rights, False)


def send_welcome(client: Any, app: Any, fixed: bytes) -> None:
    """Send everything from AuthenticationOk to ReadyForQuery in one piece."""
    client.cancel_key = key = app.door.new_key()
    before, after = welcome_around_key(client, app, fixed)
    client.write(b"".join((before, key, after)))


def welcome_around_key(client: Any, app: Any, fixed: bytes) -> tuple[bytes, bytes]:
    """Give what is sent before and behind the cancel key."""
    message = app.settings.login_notify_message
    before = (
        AUTHENTICATION_OK,
        fixed,
        client.pool.welcome_for(client),
        CANCEL_KEY_FOLLOWS,
    )
    return b"".join(before), (notice_response(message) if message else b"") + READY_IDLE
