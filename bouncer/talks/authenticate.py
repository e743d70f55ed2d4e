"""Let a client prove who it is, by the method that the configuration asks for.

A user of None is nobody whom we know: each method of ours then goes through the
same motions and fails with the same text (mock authentication); only PAM and LDAP
know users by themselves. An empty secret matches nothing. What a client is told
never says why it failed; the log does, without ever naming a secret.

The hard idea: nobody has a secret of a kind that users of auth_file have, each kind as
often as it is there, drawn by the name; so have those whose secret the method has no
use for. The messages are the same up to the last one, and so are the derivations.
"""

from __future__ import annotations

import asyncio
import os
import pwd
from collections.abc import Awaitable
from typing import Any

from bouncer import log
from bouncer.auth import ldap, md5, pam, tls
from bouncer.auth.derive import MAX_ITERATIONS, deriver, secret_of
from bouncer.auth.md5 import answer as md5_answer
from bouncer.auth.md5 import begun_with, hash_password
from bouncer.auth.scram import ScramError, ServerSide, mock_secrets
from bouncer.auth.secrets import (
    MD5,
    PLAIN,
    SCRAM,
    ScramSecret,
    kind_of,
    parse_scram,
    same,
)
from bouncer.errors import Disconnect, ProtocolError
from bouncer.relay.proof import Secret
from bouncer.talks.login_packets import Talk, read_password
from bouncer.wire.messages import (
    AUTHENTICATION_CLEARTEXT,
    AUTHENTICATION_SASL,
    SCRAM_SHA_256,
    authentication_md5,
    authentication_sasl_continue,
    authentication_sasl_final,
    decode_text,
    encode_text,
    parse_password,
    parse_sasl_initial,
)

_WRONG_PASSWORD = "password authentication failed"
_SASL_FAILED = "SASL authentication failed"
_SALT_BYTES = 16
# Password messages without a zero byte, which are as if they had not come.
MOST_PASSWORDS = 16


class Prepared:
    """What has been made of a user's secret; kept until the secret changes."""

    __slots__ = ("kind", "salt", "scram")

    def __init__(self, secret: str) -> None:
        self.kind = kind_of(secret)
        #: The secret that SCRAM checks against; of a password once it is derived.
        self.scram: ScramSecret | None = None
        self.salt = b""
        if self.kind == SCRAM:
            self.scram = parse_scram(secret)
        elif self.kind == PLAIN:
            # Drawn now, so that all who wait for the derivation wait for the same.
            self.salt = os.urandom(_SALT_BYTES)


def prepared(user: Any) -> Prepared:
    """Give what has been made of the secret of *user*."""
    found: Prepared | None = user.adhoc_scram
    if found is None:
        found = user.adhoc_scram = Prepared(user.secret)
    return found


def choose_method(client: Any, app: Any, login: Any) -> None:
    """Say at *login* how the client has to prove who it is."""
    login.method = app.settings.auth_type
    if login.method == "hba":
        login.rule = hba_line(client, app, login)
        login.method = login.rule.method


def exchange_for(client: Any, app: Any, login: Any, begun: Any = None) -> Talk | None:
    """Give the exchange that proves who the client is.

    *begun* is how far `relay.proof` got with it, if at all. None when nothing needs to
    be asked and the client may come in; raises when nothing needs to be asked and it
    may not.
    """
    user, method, rule = login.user, login.method, login.rule
    if method == "trust":
        if user is None:
            raise Disconnect('"trust" authentication failed')
        return None
    if method == "md5":
        if is_asked_for_scram(app, login):
            return check_scram(client, app, login, user, begun)
        return check_md5(client, app, login, user, begun)
    if method == "scram-sha-256":
        return check_scram(client, app, login, user, begun)
    if method in ("plain", "password"):
        return check_plain(client, app, login, user)
    if method == "any":
        return None
    if method == "cert":
        check_certificate(client, rule, login, user)
        return None
    if method == "peer":
        return check_peer(client, rule, login, user)
    if method == "pam":
        return check_pam(client, app, login)
    if method == "ldap":
        return check_ldap(client, app, rule, login)
    if method == "reject":
        raise Disconnect("login rejected")
    raise Disconnect("bouncer config error")


def is_asked_for_scram(app: Any, login: Any) -> bool:
    """Say whether method md5 becomes SCRAM, which only a SCRAM secret can do."""
    user = login.user
    if user is None or not user.secret:
        return nobodys_iterations(app, login) > 0
    return prepared(user).kind == SCRAM


def hba_line(client: Any, app: Any, login: Any) -> Any:
    """Give the first line that fits."""
    rule = None
    if app.hba is not None:
        rule = app.hba.match(
            login.database_name,
            login.user_name,
            None if client.is_unix else client.peer_address,
            client.tls_object is not None,
            client.replication,
        )
    if rule is None:
        raise Disconnect("no authentication method is found")
    return rule


# Passwords


def clear_password(client: Any, app: Any) -> Talk:
    """Wait for a PasswordMessage; gives the password, in clear or as md5 answer."""
    for _ in range(MOST_PASSWORDS):
        body = yield from read_password(client, app)
        password = parse_password(body)
        if password is None:
            continue  # no zero byte at the end: as if it had not come
        if not password:
            raise Disconnect("empty password returned by client")
        return password
    raise Disconnect("bad packet")


def check_plain(client: Any, app: Any, login: Any, user: Any) -> Talk:
    """A password in clear, against a secret of any kind."""
    client.write(AUTHENTICATION_CLEARTEXT)
    password = yield from clear_password(client, app)
    if user is None or not user.secret:
        if nobodys_iterations(app, login):
            yield from fits_scram(client, password, nobodys_secret(app, login))
        raise Disconnect(_WRONG_PASSWORD)
    made = prepared(user)
    if made.kind == PLAIN:
        fine = same(password, encode_text(user.secret))
    elif made.kind == MD5 and not md5.is_allowed():
        log.error(f"{client.prefix} {md5.FORBIDDEN}")
        fine = False
    elif made.kind == MD5:
        hashed = hash_password(encode_text(login.user_name), password)
        fine = same(hashed, encode_text(user.secret))
    else:
        fine = yield from fits_scram(client, password, made.scram)
    if not fine:
        raise Disconnect(_WRONG_PASSWORD)


def fits_scram(client: Any, password: bytes, secret: Any) -> Talk:
    """Say whether *password* is the one behind a SCRAM secret."""
    if secret.iterations > MAX_ITERATIONS:
        log.error(f"{client.prefix} {too_many(secret.iterations)}")
        return False
    # What somebody claims is not kept: it may be wrong.
    keys = yield deriver.wanted(password, secret.salt, secret.iterations, False)
    claimed = secret_of(keys, secret.salt, secret.iterations)
    return same(claimed.stored_key, secret.stored_key)


def check_md5(client: Any, app: Any, login: Any, user: Any, salt: Any) -> Talk:
    """A challenge; the answer proves the password or its md5 hash.

    *salt* is that of a challenge that has been sent, or None.
    """
    if not md5.is_allowed():
        log.error(f"{client.prefix} {md5.FORBIDDEN}")
        raise Disconnect(_WRONG_PASSWORD)
    if salt is None:
        salt = os.urandom(4)
        client.write(authentication_md5(salt))
    answer = yield from clear_password(client, app)
    fine = same(answer, md5_answer(md5_stored(login), salt))
    if not fine or user is None or not user.secret:
        raise Disconnect(_WRONG_PASSWORD)


def md5_stored(login: Any) -> bytes:
    """Give the stored form that an answer is checked against."""
    user = login.user
    secret = b"" if user is None else encode_text(user.secret)
    if user is None or prepared(user).kind == PLAIN:
        return hash_password(encode_text(login.user_name), secret)
    return secret


# SCRAM


def check_scram(client: Any, app: Any, login: Any, user: Any, begun: Any) -> Talk:
    """SCRAM-SHA-256; keys for the server are learnt from a stored secret."""
    if begun is None:
        client.write(AUTHENTICATION_SASL)
    body = yield from read_password(client, app)
    if not isinstance(begun, tuple) and body.partition(b"\0")[0] != SCRAM_SHA_256:
        raise Disconnect("client selected an invalid SASL authentication mechanism")
    made = None if user is None or not user.secret else prepared(user)
    try:
        if isinstance(begun, tuple):
            exchange = ServerSide((yield from scram_secret(app, login, user, made)))
            exchange.go_on_from(*begun)
        else:
            _, first = parse_sasl_initial(body)
            exchange = ServerSide((yield from scram_secret(app, login, user, made)))
            client.write(authentication_sasl_continue(exchange.first(first)))
            body = yield from read_password(client, app)
        final = exchange.final(body)
    except ProtocolError as error:
        log.error(f"{client.prefix} {error}")
        raise Disconnect(_SASL_FAILED) from None
    except ScramError as error:
        lines = error.lines
        if made is not None and made.kind == MD5:
            lines = ("SCRAM authentication failed: user has MD5 secret",)
        for line in lines:
            log.error(f"{client.prefix} {line}")
        raise Disconnect(_SASL_FAILED) from None
    client.write(authentication_sasl_final(final))
    if made is not None and made.kind == SCRAM:
        remember_keys(client, user, exchange.keys)


def secret_for(app: Any, login: Any) -> Secret | None:
    """Give what `relay.proof` checks the password against; None: it does not."""
    user, method = login.user, login.method
    if method not in ("md5", "scram-sha-256"):
        return None
    made = None if user is None or not user.secret else prepared(user)
    if method == "md5" and not is_asked_for_scram(app, login):
        if not md5.is_allowed():
            return None
        # No password fits what nobody has.
        stored = os.urandom(_SALT_BYTES) if made is None else md5_stored(login)
        return Secret.md5(begun_with(stored))
    if made is None or made.kind == MD5:
        scram: ScramSecret | None = nobodys_secret(app, login)
    else:
        scram = made.scram
    if scram is None:
        return None
    return Secret.scram(scram.stored_key, scram.server_key, scram.tail)


def scram_secret(app: Any, login: Any, user: Any, made: Prepared | None) -> Talk:
    """Give the secret to check against; it is made of a password once."""
    if made is not None and made.scram is not None:
        return made.scram
    if made is None or made.kind == MD5:
        # At once, as for everybody whose keys are known: those are derived at the
        # first login since the secret was read, so a wait would tell who is nobody.
        return nobodys_secret(app, login)
    iterations = scram_iterations(app)
    password = encode_text(user.secret)
    keys = deriver.known(password, made.salt, iterations)
    if keys is None:
        keys = yield deriver.wanted(password, made.salt, iterations)
    made.scram = secret_of(keys, made.salt, iterations)
    return made.scram


def nobodys_secret(app: Any, login: Any) -> ScramSecret:
    """Give the secret that nobody would have."""
    iterations = nobodys_iterations(app, login) or scram_iterations(app)
    return mock_secrets.secret(encode_text(login.user_name), iterations)


def nobodys_iterations(app: Any, login: Any) -> int:
    """Give the iterations of that secret; 0 when it would be of another kind."""
    name = encode_text(login.user_name)
    return mock_secrets.iterations(name, app.registry.kinds)


def scram_iterations(app: Any) -> int:
    """Give the iterations for secrets of our own making."""
    iterations: int = app.settings.scram_iterations
    return max(iterations, 1)


def remember_keys(client: Any, user: Any, keys: Any) -> None:
    """Keep what the client's proof has shown, for logins at the server."""
    user.scram_keys = keys
    pool = client.pool
    if pool is not None:
        # A forced user may have the client's own secret.
        pool.learn_keys(keys)


def too_many(iterations: int) -> str:
    """Name the limit in the log."""
    return f"SCRAM iteration count {iterations} is above the limit of {MAX_ITERATIONS}"


# Certificates and operating system users


def check_certificate(client: Any, rule: Any, login: Any, user: Any) -> None:
    """The TLS client certificate names the user, or who may be the user."""
    user_map = rule.map if rule is not None else None
    problem = ""
    if client.tls_object is None:
        problem = "TLS connection required"
    elif not tls.has_certificate(client.tls_object):
        problem = "TLS client certificate required"
    elif user_map is not None:
        if not certificate_in_map(client.tls_object, user_map, login.user_name):
            problem = f"ident map: {user_map.name} does not have a match"
    elif not tls.names_user(client.tls_object, login.user_name):
        problem = "TLS certificate name mismatch"
    if problem:
        log.error(f"{client.prefix} {problem}")
    if problem or user is None:
        raise Disconnect("certificate authentication failed")


def certificate_in_map(tls_object: Any, user_map: Any, user_name: str) -> bool:
    """Say whether the certificate stands for a system user who may be *user_name*."""
    for entry in user_map.entries:
        if entry.user is None or entry.user == user_name:
            if tls.names_user(tls_object, entry.system):
                return True
    return False


def check_peer(client: Any, rule: Any, login: Any, user: Any) -> Talk:
    """The OS user at the other end of a Unix socket is the user."""
    fine = False
    if client.is_unix and client.peer_uid >= 0:
        # The name service may ask a network.
        loop = asyncio.get_running_loop()
        name = yield loop.run_in_executor(None, os_user_name, client.peer_uid)
        if name is None:
            fine = False
        elif rule.map is not None:
            fine = rule.map.allows(name, login.user_name)
            if not fine:
                log.error(
                    f"{client.prefix} ident map {rule.map.name} cannot be matched"
                )
        else:
            fine = name == login.user_name
    if not fine or user is None:
        raise Disconnect("unix socket login rejected")


def os_user_name(uid: int) -> str | None:
    """Give the name of an OS user; may block."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


# Judges outside


def check_pam(client: Any, app: Any, login: Any) -> Talk:
    """PAM judges the password."""
    client.write(AUTHENTICATION_CLEARTEXT)
    password = yield from clear_password(client, app)
    address = "" if client.is_unix else client.peer_address
    if "." in address:
        # Rules for an IPv4 address must not be passed over by its form as IPv6.
        address = address.removeprefix("::ffff:")
    verdict: Awaitable[bool] = pam.authenticate(login.user_name, password, address)
    accepted = yield verdict
    if not accepted:
        raise Disconnect("PAM authentication failed")
    take_password(client, app, login, password)


def check_ldap(client: Any, app: Any, rule: Any, login: Any) -> Talk:
    """An LDAP server judges the password."""
    options = rule.options if rule is not None else app.settings.auth_ldap_options
    if options is None:
        raise Disconnect("auth_ldap_options is null")
    available = yield ldap.is_available()
    if not available:
        raise Disconnect("ldap is not supported by this build")
    client.write(AUTHENTICATION_CLEARTEXT)
    password = yield from clear_password(client, app)
    accepted = yield ldap.authenticate(options, login.user_name, password)
    if not accepted:
        raise Disconnect("LDAP authentication failed")
    take_password(client, app, login, password)


def take_password(client: Any, app: Any, login: Any, password: bytes) -> None:
    """Keep an accepted password for logins at the server; the user exists now."""
    database = login.database
    if database is None:
        return
    name = login.user_name
    user = app.registry.learn_user(database, name, decode_text(password))
    client.user_state = user
    app.limits.admit_client(client, database, user, login.is_admin)
    client.pool = app.registry.login_pool(database, user)
