"""Events of clients that PgBouncer's lines leave something out of; see `log.detail`."""

from __future__ import annotations

from typing import Any

from bouncer import log


def login_failed(client: Any, reason: str, sqlstate: str) -> None:
    """A client has been told why it may not come in."""
    log.detail(
        log.LOG,
        f"{client.prefix} login failed: {sqlstate}: {reason}",
        "login_failed",
        {"sqlstate": sqlstate, "reason": reason, "tls": client.tls_info or None},
    )


def tls_failed(client: Any, error: str) -> None:
    """A client's TLS handshake came to nothing; PgBouncer's line does not say whose."""
    log.detail(
        log.WARNING,
        f"{client.prefix} TLS handshake failed: {error}",
        "tls_failed",
        {"error": error},
    )
