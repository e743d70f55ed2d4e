"""TLS settings become contexts; certificates become names.

`client_context` is built at start and at each reload and either succeeds as a whole
or raises, so a broken certificate leaves the old context in use. The files of the
server side are opened only when a connection is made (`connect_context`), and again
only when they have changed: new certificates need no restart on either side.

The texts are PgBouncer's; behind the colon stands the library's bare reason.
"""

from __future__ import annotations

import os
import ssl
import warnings
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

from bouncer.auth import openssl
from bouncer.config.settings import Settings
from bouncer.errors import ConfigError

ALPN = b"postgresql"
# openssl/x509_vfy.h: X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_WRONG_NAME = (62, 64)
VERIFYING = ("verify-ca", "verify-full")
# Values of *_tls_ciphers that leave the library's choice.
LIBRARY_CIPHERS = ("default", "secure", "normal", "fast")
AUTOMATIC = ("auto", "none")

_VERSIONS = {
    "tlsv1.0": ssl.OP_NO_TLSv1,
    "tlsv1.1": ssl.OP_NO_TLSv1_1,
    "tlsv1.2": ssl.OP_NO_TLSv1_2,
    "tlsv1.3": ssl.OP_NO_TLSv1_3,
}
_ALL = frozenset(_VERSIONS)
_SECURE = frozenset(("tlsv1.2", "tlsv1.3"))
_WORDS = {
    "all": _ALL,
    "tlsv1": _ALL,
    "secure": _SECURE,
    "default": _SECURE,
    **{name: frozenset((name,)) for name in _VERSIONS},
}
# The words that *_tls_protocols may have.
PROTOCOLS = tuple(_WORDS)


# Contexts


class ClientTls(ssl.SSLContext):
    """The context for clients; keeps alive what OpenSSL calls back."""

    alpn: Any = None


def client_context(settings: Settings) -> ssl.SSLContext | None:
    """Build the context for clients, or None when TLS is disabled.

    Checks what the server side says as well, in PgBouncer's order. Raises
    `ConfigError` with the text for the log.
    """
    mode = settings.client_tls_sslmode
    if mode != "disable" and not (
        settings.client_tls_key_file and settings.client_tls_cert_file
    ):
        raise ConfigError(
            "To allow TLS connections from clients, client_tls_key_file and "
            "client_tls_cert_file must be set."
        )
    if settings.auth_type == "cert":
        if mode != "verify-full":
            raise ConfigError(
                "auth_type=cert requires client_tls_sslmode=SSLMODE_VERIFY_FULL"
            )
        if not settings.client_tls_ca_file:
            raise ConfigError("auth_type=cert requires client_tls_ca_file")
    if mode == "verify-full" and not settings.client_tls_ca_file:
        raise ConfigError("client_tls_sslmode requires client_tls_ca_file")
    server_context(settings)
    if mode == "disable":
        return None

    context = ClientTls(ssl.PROTOCOL_TLS_SERVER)
    _set_protocols(context, "client", settings.client_tls_protocols)
    _set_ciphers(context, "client", settings.client_tls_ciphers)
    _set_key_exchange(
        context, settings.client_tls_dheparams, settings.client_tls_ecdhcurve
    )
    context.options |= (
        ssl.OP_CIPHER_SERVER_PREFERENCE
        | ssl.OP_NO_COMPRESSION
        | ssl.OP_NO_RENEGOTIATION
        | ssl.OP_NO_TICKET
    )
    # Database clients resume no sessions; a ticket would cost each login a packet.
    context.num_tickets = 0
    _set_ciphersuites(context, settings.client_tls13_ciphers)
    _load_certificate(
        context, settings.client_tls_cert_file, settings.client_tls_key_file
    )
    _load_ca(context, settings.client_tls_ca_file)
    # Below verify-ca a certificate may be missing; one that is shown must be good.
    context.verify_mode = ssl.CERT_REQUIRED if mode in VERIFYING else ssl.CERT_OPTIONAL
    reach = openssl.native(context)
    if reach is not None:
        context.alpn = reach.require_alpn(ALPN)
    else:
        context.set_alpn_protocols([ALPN.decode()])
    return context


def server_context(settings: Settings) -> None:
    """Check the server side's words; its files wait for a connection."""
    if settings.server_tls_sslmode == "disable":
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _set_protocols(context, "server", settings.server_tls_protocols)
    _set_ciphers(context, "server", settings.server_tls_ciphers)


# The last context for servers, and what it was made from.
_made: tuple[Any, ssl.SSLContext] | None = None


def connect_context(settings: Settings) -> ssl.SSLContext:
    """Give the context for a new server connection.

    Made anew when a setting or a file has changed. Raises `ConfigError`.
    """
    global _made
    source = (
        settings.server_tls_sslmode,
        settings.server_tls_protocols,
        settings.server_tls_ciphers,
        settings.server_tls13_ciphers,
        _identity(settings.server_tls_ca_file),
        _identity(settings.server_tls_cert_file),
        _identity(settings.server_tls_key_file),
    )
    if _made is not None and _made[0] == source:
        return _made[1]
    mode = settings.server_tls_sslmode
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = mode == "verify-full"
    context.verify_mode = ssl.CERT_REQUIRED if mode in VERIFYING else ssl.CERT_NONE
    _set_protocols(context, "server", settings.server_tls_protocols)
    _set_ciphers(context, "server", settings.server_tls_ciphers)
    _set_ciphersuites(context, settings.server_tls13_ciphers)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if mode in VERIFYING or settings.server_tls_ca_file:
        _load_ca(context, settings.server_tls_ca_file)
    if settings.server_tls_cert_file and settings.server_tls_key_file:
        _load_certificate(
            context, settings.server_tls_cert_file, settings.server_tls_key_file
        )
    _made = source, context
    return context


def server_name(host: str | None) -> str | None:
    """Give the name to check a server's certificate against, and to send as SNI."""
    if not host or host.startswith(("/", "@")):
        return None
    return host


def _identity(path: str) -> tuple[Any, ...]:
    try:
        state = os.stat(path)
    except OSError:
        return (path,)
    return path, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


def reason_of(error: Exception) -> str:
    """Give the bare reason of an error of the TLS library or the system."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verification failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        if error.reason:
            return error.reason.lower().replace("_", " ")
        text = str(error.args[-1])
        return text.partition("] ")[2].rpartition(" (")[0] or text
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)


def failure_of(error: Exception, host: str) -> str:
    """Say why a handshake with the server at *host* failed, as PgBouncer does."""
    if getattr(error, "verify_code", 0) in _WRONG_NAME:
        return f"name `{host}' not present in server certificate"
    return f"handshake failed: {reason_of(error)}"


def _set_protocols(context: ssl.SSLContext, side: str, text: str) -> None:
    """Apply a list like `tlsv1.2,!tlsv1.0`; empty leaves the library's range."""
    if not text:
        return
    chosen: frozenset[str] | None = None
    for item in text.replace(":", ",").split(","):
        word = item.lstrip().lower()
        negative = word.startswith("!")
        versions = _WORDS.get(word[1:] if negative else word)
        if versions is None:
            raise ConfigError(f"invalid {side}_tls_protocols: {text}")
        if negative:
            chosen = (_ALL if chosen is None else chosen) - versions
        else:
            chosen = versions if chosen is None else chosen | versions
    assert chosen is not None
    with warnings.catch_warnings():
        # Python would rather have a range; a list may have holes.
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED
        for name, option in _VERSIONS.items():
            if name in chosen:
                context.options &= ~option
            else:
                context.options |= option


def _set_ciphers(context: ssl.SSLContext, side: str, text: str) -> None:
    library = text.lower() in LIBRARY_CIPHERS or not text
    try:
        context.set_ciphers("DEFAULT" if library else text)
    except ssl.SSLError:
        raise ConfigError(f"invalid {side}_tls_ciphers: {text}") from None


def _set_ciphersuites(context: ssl.SSLContext, text: str | None) -> None:
    if not text:
        return
    reach = openssl.native(context)
    if reach is None or not reach.set_ciphersuites(text):
        raise ConfigError("TLS setup failed: failed to set the TLSv1.3 cipher suites")


def _set_key_exchange(context: ssl.SSLContext, dheparams: str, curve: str) -> None:
    if dheparams.lower() not in AUTOMATIC:
        raise ConfigError(f"invalid client_tls_dheparams: {dheparams}")
    reach = openssl.native(context)
    if dheparams.lower() == "auto" and reach is not None:
        reach.set_dh_auto()
    if curve.lower() in AUTOMATIC:
        return
    if reach is not None:
        fine = reach.set_groups(curve)
    else:
        try:
            context.set_ecdh_curve(curve)
            fine = True
        except (ValueError, ssl.SSLError):
            fine = False
    if not fine:
        # The spelling is PgBouncer's.
        raise ConfigError(f"invalid client_tls_ecdhecurve: {curve}")


def _load_certificate(context: ssl.SSLContext, cert: str, key: str) -> None:
    _expect(cert, b"-----BEGIN CERTIFICATE-----", f'certificate file "{cert}"')
    _expect(key, b"PRIVATE KEY-----", f'private key file "{key}"')
    try:
        # Without a password OpenSSL would ask for one on the terminal.
        context.load_cert_chain(cert, key, password=lambda: b"")
    except (ssl.SSLError, OSError) as error:
        what = f'certificate file "{cert}"'
        if _is_good_certificate(cert):
            what = f'private key file "{key}"'
        raise ConfigError(
            f"TLS setup failed: failed to load {what}: {reason_of(error)}"
        ) from None


def _expect(path: str, mark: bytes, what: str) -> None:
    """Raise unless *path* can be read and contains *mark*."""
    try:
        with open(path, "rb") as file:
            found = mark in file.read()
    except OSError as error:
        reason = reason_of(error)
    else:
        if found:
            return
        reason = "no start line"
    raise ConfigError(f"TLS setup failed: failed to load {what}: {reason}")


def _is_good_certificate(path: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (ssl.SSLError, OSError):
        return False
    return True


def _load_ca(context: ssl.SSLContext, path: str) -> None:
    try:
        if path:
            context.load_verify_locations(path)
        else:
            context.set_default_verify_paths()
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"TLS setup failed: failed to load CA: {reason_of(error)}"
        ) from None


# Connections


def describe(tls_object: ssl.SSLObject) -> str:
    """Say what a connection uses, as the log and the console show it."""
    cipher = tls_object.cipher()
    text = f"{tls_object.version()}/{cipher[0] if cipher else 'unknown'}"
    exchange = openssl.key_exchange(tls_object)
    return f"{text}/{exchange}" if exchange else text


def has_certificate(tls_object: ssl.SSLObject) -> bool:
    """Say whether the client has shown a certificate (then it was verified)."""
    return bool(tls_object.getpeercert())


def names_user(tls_object: ssl.SSLObject, user: str) -> bool:
    """Say whether the client's verified certificate stands for *user*.

    Any subjectAltName of the kind that *user* looks like, else the common name;
    names are compared like host names.
    """
    certificate: Any = tls_object.getpeercert()
    if not certificate:
        return False
    return matches(certificate, user)


def matches(certificate: dict[str, Any], user: str) -> bool:
    """Say whether *certificate*, as getpeercert gives it, stands for *user*."""
    alternatives = certificate.get("subjectAltName", ())
    address = _address(user)
    for kind, value in alternatives:
        if "\0" in value:
            return False
        if address is not None:
            if kind == "IP Address" and _address(value.strip()) == address:
                return True
        elif kind == "DNS" and same_name(value, user):
            return True
    common = _common_name(certificate.get("subject", ()))
    if common is None or "\0" in common:
        return False
    if address is not None:
        return common == user
    return same_name(common, user)


def _address(text: str) -> Any:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _common_name(subject: Iterable[Iterable[tuple[str, str]]]) -> str | None:
    for part in subject:
        for name, value in part:
            if name == "commonName":
                return value
    return None


def same_name(pattern: str, name: str) -> bool:
    """Compare like host names: `*.a.b` in a certificate stands for one more label."""
    pattern, name = pattern.lower(), name.lower()
    if pattern == name:
        return True
    if not pattern.startswith("*."):
        return False
    labels = pattern[2:].split(".")
    if len(labels) < 2 or not all(labels[:2]):
        return False
    host, _, domain = name.partition(".")
    return bool(host) and bool(domain) and domain == pattern[2:]
