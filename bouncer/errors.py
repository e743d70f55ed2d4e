"""What can go wrong, and what the other side is told about it.

Raised low, translated once: whoever drives a talk turns a `Disconnect` into the
log lines and the FATAL packet. Nothing below that place writes to a peer when
something fails, so the text a client reads and the text in the log cannot drift
apart.
"""

from __future__ import annotations

# PgBouncer answers nearly everything with protocol_violation.
DEFAULT_SQLSTATE = "08P01"


class BouncerError(Exception):
    """Root of what this program raises on purpose."""


class ConfigError(BouncerError):
    """A configuration that must not be used; the text is the log's ERROR line."""


class Disconnect(BouncerError):
    """Close one connection, with a reason.

    *reason* goes into `closing because: …`. *notify* means, for a client, that it
    reads the same text as FATAL with *sqlstate*; for a server, that Terminate is
    sent before the close. *silent* closes without the `closing because` line (TLS
    failures). A line that names the cause is logged by whoever raises, beforehand.
    """

    def __init__(
        self,
        reason: str,
        notify: bool = True,
        sqlstate: str = DEFAULT_SQLSTATE,
        silent: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.notify = notify
        self.sqlstate = sqlstate
        self.silent = silent


class LoginFailed(BouncerError):
    """PostgreSQL refused our login, or our secret cannot answer its request.

    *kind* is `REFUSED` (it sent an ErrorResponse) or `CANNOT_ANSWER`. *text* and
    *sqlstate* are what waiting clients get; *reason* closes the server connection;
    *notify* says whether Terminate goes first, as in `Disconnect`.
    """

    def __init__(
        self,
        severity: str,
        sqlstate: str,
        text: str,
        kind: str,
        reason: str | None = None,
        notify: bool = True,
    ) -> None:
        super().__init__(text)
        self.severity = severity
        self.sqlstate = sqlstate
        self.text = text
        self.kind = kind
        self.reason = text if reason is None else reason
        self.notify = notify


REFUSED = "refused"
CANNOT_ANSWER = "cannot answer"


class CommandError(BouncerError):
    """A console command that is refused: ERROR, and the session goes on."""

    def __init__(self, text: str, sqlstate: str = DEFAULT_SQLSTATE) -> None:
        super().__init__(text)
        self.text = text
        self.sqlstate = sqlstate
