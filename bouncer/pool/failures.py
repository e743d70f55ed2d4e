"""What became of attempts at a server that failed, for people.

PgBouncer's lines say that a connection failed, not where to and why. Here is what they
leave out: for the log, and, of the newest attempt of each pool, for the console's
SELECT and /status. Nothing here decides anything.
"""

from __future__ import annotations

import errno
from typing import Any, NamedTuple

from bouncer import log

MILLISECOND = 1000
LOGIN_FAILED = "login failed"  # the server has spoken, and does not want us
MOST_TEXT = 512  # characters of what a server or a library says


class Failure(NamedTuple):
    """An attempt that came to nothing. Times are monotonic microseconds."""

    at: int
    host: str  # as it is configured
    address: str  # as the log shows it, "" when there was none
    reason: str  # PgBouncer's word
    error: str  # what the kernel, DNS, TLS or the server said
    code: str  # the name of an errno, or an SQLSTATE; "" for neither
    duration: int


def named(number: int) -> str:
    """Give the name of an errno, as in the manual."""
    return errno.errorcode.get(number, "")


def connect_failed(
    server: Any, began: int, reason: str, error: str = "", code: str = ""
) -> None:
    """An attempt of *server* that *began* then has failed."""
    pool, now = server.pool, server.pool.poller.now
    error = error[:MOST_TEXT] or reason
    address = server.address_text if server.address is not None else ""
    host = server.host or "unix socket"
    failure = Failure(now, host, address, reason, error, code, now - began)
    pool.evidence.last_failure = failure
    where = host if host in address else f"{host} ({address or 'no address'})"
    spent = failure.duration / MILLISECOND
    what = "login at" if reason == LOGIN_FAILED else "connect to"
    text = f"{what} {where} failed after {spent:.0f} ms: {error}"
    log.detail(
        log.LOG,
        f"{server.prefix} {text}",
        "connect_failed",
        {
            "host": host,
            "reason": reason,
            "error": error,
            "code": code or None,
            "duration_ms": round(spent, 3),
        },
    )
