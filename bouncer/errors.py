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


class TlsKept(ConfigError):
    """A reload went well but for TLS, whose old setup goes on."""


class LibraryMissing(ConfigError):
    """What the configuration asks for needs a library that this machine has not."""


class StartError(BouncerError):
    """The process cannot start; the text is the log's FATAL line."""


class ProtocolError(BouncerError):
    """A message whose body contradicts its type."""


# PgBouncer formats what it says itself into 128 bytes.
TEXT_LIMIT = 127


def cut(text: str, limit: int = TEXT_LIMIT) -> str:
    """Cut *text* after *limit* bytes, as PgBouncer's buffers do."""
    if len(text) * 4 <= limit:
        return text
    data = text.encode("utf-8", "surrogateescape")
    if len(data) <= limit:
        return text
    return data[:limit].decode("utf-8", "surrogateescape")


class Disconnect(BouncerError):
    """Close one connection, with a reason.

    *reason* goes into `closing because: …`, cut at 127 bytes unless *whole* (what
    a server said when it refused our login is passed on in full). *notify* means,
    for a client, that it reads the same text as FATAL with *sqlstate*; for a
    server, that Terminate is sent before the close. *silent* closes without the
    `closing because` line (TLS failures). Whoever raises logs a line that names the
    cause beforehand; *log_after* is a LOG line that follows the closing. *detail* is
    what PgBouncer's text leaves out.
    """

    def __init__(
        self,
        reason: str,
        notify: bool = True,
        sqlstate: str = DEFAULT_SQLSTATE,
        silent: bool = False,
        whole: bool = False,
        log_after: str = "",
        detail: str = "",
    ) -> None:
        super().__init__(reason)
        self.reason = reason if whole else cut(reason)
        self.notify = notify
        self.sqlstate = sqlstate
        self.silent = silent
        self.log_after = log_after
        self.detail = detail


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
        self.reason = cut(text if reason is None else reason)
        self.notify = notify


REFUSED = "refused"
CANNOT_ANSWER = "cannot answer"


class ServerError(BouncerError):
    """PostgreSQL answered a query of ours with an ErrorResponse."""

    def __init__(self, text: str, sqlstate: str) -> None:
        super().__init__(text)
        self.sqlstate = sqlstate


class CommandError(BouncerError):
    """A console command that is refused: ERROR, and the session goes on.

    *hint* is ours, for who reads the answer; the log has PgBouncer's line alone.
    """

    def __init__(
        self, text: str, sqlstate: str = DEFAULT_SQLSTATE, hint: str = ""
    ) -> None:
        super().__init__(text)
        self.text = text
        self.sqlstate = sqlstate
        self.hint = hint
