"""The packets that may come before a login is over.

SSLRequest and GSSENCRequest are answered here, at any point of a login; whoever
waits sees only startup packets, cancel requests and passwords. A login has one
startup packet: limits, HBA lines and mock authentication have weighed its names, so
a second one, for whomever, ends the connection.
"""

from __future__ import annotations

import ssl
from collections.abc import Generator
from struct import Struct
from typing import Any, NoReturn

from bouncer import log
from bouncer.auth import tls
from bouncer.details import tls_failed
from bouncer.errors import Disconnect
from bouncer.relay.talk import READ, StartTls
from bouncer.wire.messages import (
    FE_PASSWORD,
    REQUEST_CANCEL,
    REQUEST_GSSENC,
    REQUEST_SSL,
    REQUEST_STARTUP_2,
    REQUEST_STARTUP_3,
)

Talk = Generator[Any, Any, Any]

# Requests in a row that are answered; each driver sends one of a kind at most.
MOST_REQUESTS = 16

_INT32 = Struct("!I")
_CANCEL = _INT32.pack(REQUEST_CANCEL)
_STARTUP_2 = _INT32.pack(REQUEST_STARTUP_2)
_IP_FAMILIES = ("tcp4", "tcp6")


def introduce(client: Any, header: Any) -> None:
    """A PROXY header has said who *client* is.

    One whom the balancer did not meet by IP (its Unix socket, an unknown family)
    keeps the connection's own address: HBA lines see the balancer, and a header
    makes nobody local. Behind our own Unix socket it keeps being local, but is not
    the balancer's OS user.
    """
    if header.family in _IP_FAMILIES:
        client.set_peer(header.source, header.source_port)
    else:
        client.peer_uid = -1


class CancelInstead(Exception):
    """A cancel request came where a password was awaited."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.body = body


def sort_out(client: Any, app: Any, code: int, body: bytes) -> Talk:
    """Answer requests until a startup packet, a cancel request or a password comes.

    *code* and *body* are the packet that was just read.
    """
    for _ in range(MOST_REQUESTS):
        if code == FE_PASSWORD:
            return code, body
        if code:
            raise Disconnect("bad packet", notify=False)
        request: int = _INT32.unpack_from(body)[0]
        if request == REQUEST_SSL:
            yield from answer_ssl_request(client, app)
        elif request == REQUEST_GSSENC:
            if client.buffered():
                raise Disconnect(
                    "received unencrypted data after GSSAPI encryption request"
                )
            client.write(b"N")
        elif request >> 16 == REQUEST_STARTUP_3 >> 16 or request in (
            REQUEST_STARTUP_2,
            REQUEST_CANCEL,
        ):
            return code, body
        else:
            shown = (_INT32.pack(len(body) + 4) + body[:4]).hex()
            raise Disconnect(f"bad packet header: '{shown}'")
        code, body = yield READ
    raise Disconnect("bad packet", notify=False)


def read_password(client: Any, app: Any) -> Talk:
    """Wait for a password message; gives its body."""
    code, body = yield READ
    if code != FE_PASSWORD:
        code, body = yield from sort_out(client, app, code, body)
        if code != FE_PASSWORD:
            if not body.startswith(_CANCEL):
                refuse_second_startup(body)
            raise CancelInstead(body)
    return body


def refuse_second_startup(body: bytes) -> NoReturn:
    """End a login that sends a startup packet again."""
    if body.startswith(_STARTUP_2):
        raise Disconnect("old V2 protocol not supported")
    raise Disconnect("client re-sent startup pkt")


def answer_ssl_request(client: Any, app: Any) -> Talk:
    """Answer S and begin TLS, or answer N."""
    if client.tls_object is not None:
        raise Disconnect("SSL req inside SSL", notify=False)
    if client.buffered():
        # What came in clear must never count as if TLS had brought it.
        raise Disconnect("received unencrypted data after SSL request")
    if app.client_tls is None or client.is_unix:
        client.write(b"N")
        return
    client.write(b"S")
    yield from start_tls(client, app)


def start_tls(client: Any, app: Any) -> Talk:
    """Let the client shake hands; a failure is logged, but not told."""
    try:
        yield StartTls(app.client_tls, True, None)
    except (ssl.SSLError, OSError) as error:
        reason = tls.reason_of(error)
        log.warning(f"TLS handshake error: handshake failed: {reason}")
        tls_failed(client, reason)
        raise Disconnect("TLS handshake failed", notify=False, silent=True) from None
