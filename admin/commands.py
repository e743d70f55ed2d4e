"""The control commands: who may give them, what is checked, in which order.

The one hard idea: order is interface. A refusal before the `... command issued`
line and one after it are told apart by log readers, and a command that is no
command is refused before anybody asks for rights. Acts are the application's; what
stands here is what is said before and after.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from inspect import isawaitable
from typing import Any, Final

from admin.encode import Column, Value, columns_of
from admin.grammar import HELP_ASKED, Assignment, Command
from admin.owed import Owed
from admin.parameters import may_be_set
from admin.postgres import Plain
from admin.show import HELP, HELP_OF_OURS, TOPICS, App, Topic, topic_of
from bouncer import log
from bouncer.config.masking import without_secrets
from bouncer.errors import CommandError, ConfigError, Disconnect, TlsKept
from bouncer.wire.messages import decode_text, encode_text
from bouncer.wire.sqlstate import CONFIG_FILE_ERROR, SUCCESSFUL_COMPLETION

# The one SHOW that is answered by another program.
HAPROXY: Final = "HAPROXY"

ADMIN: Final = "admin"
STATS: Final = "stats"

# PgBouncer writes the tag of a SET into 512 bytes.
LONGEST_TAG: Final = 511
# So much of a text fits into its message for an error, where the connection ends
# when it is longer; ours goes on, with a shorter text.
LONGEST_QUOTED: Final = 450
DOTS: Final = "..."
# What may be a mistyped command, and how close it must be to one that there is.
MISTYPED: Final = re.compile(r"[A-Za-z_]{1,20}(?:[ \t\r\n]+[A-Za-z_]{1,20}){0,2}")
CLOSE: Final = 0.75


@dataclass(frozen=True, slots=True)
class Notice:
    """Something said before the answer."""

    text: str
    detail: str | None = None
    sqlstate: str = SUCCESSFUL_COMPLETION
    severity: str = "NOTICE"


@dataclass(frozen=True, slots=True)
class Done:
    """A command that is complete."""

    tag: str
    notices: tuple[Notice, ...] = ()
    # What has to end before the answer may go out.
    after: Awaitable[None] | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """A command that is answered by rows."""

    topic: Topic
    tag: str = "SHOW"

    @property
    def shape(self) -> tuple[Column, ...]:
        """The columns of the answer."""
        return self.topic.shape


@dataclass(frozen=True, slots=True)
class Gathered:
    """A command answered by rows that somebody else has to be asked for."""

    shape: tuple[Column, ...]
    rows: Awaitable[Sequence[Sequence[Value]]]
    tag: str = "SHOW"


@dataclass(frozen=True, slots=True)
class Deferred:
    """A command whose answer comes when the application says so."""

    owed: Owed


@dataclass(frozen=True, slots=True)
class Silent:
    """A command that ends the process: nothing is answered."""


Reply = Done | Rows | Gathered | Deferred | Silent


@dataclass(slots=True)
class Asked:
    """One command and who gave it."""

    app: App
    client: Any
    rights: str
    # Makes the debt of a deferred answer, by its tag.
    owe: Callable[[str], Owed]
    text: str  # as written, for `invalid command`
    # Carries out what PostgreSQL's own statements do to a session.
    plain: Callable[[Plain], Done]
    argument: str = ""
    notices: list[Notice] = field(default_factory=list)

    def invalid(self) -> CommandError:
        """Refuse what is no command."""
        # It goes to the log as well, where a mistyped SET must leave no secret.
        text = shortened(without_secrets(self.text), LONGEST_QUOTED)
        return CommandError(
            f"invalid command '{text}', use SHOW HELP;", hint=meant_by(self.text)
        )

    def need_admin(self) -> None:
        """Refuse whoever may only look."""
        if self.rights != ADMIN:
            raise CommandError("admin access needed")

    def need_running(self) -> None:
        """Refuse while everything is paused or suspended."""
        if self.app.global_mode != "none":
            raise CommandError("already paused")

    def issued(self, what: str) -> None:
        """Log the command."""
        argument = f" '{self.argument}'" if self.argument else ""
        log.info(f"{what}{argument} command issued")

    def database(self, refusal: str, create: bool = True) -> Any:
        """Find the database named; *refusal* is said of the console's own."""
        name = self.argument
        if name in self.app.consoles:
            raise CommandError(f"{refusal}: {name}")
        if create:
            found = self.app.registry.find_database(name, self.client)
        else:
            found = self.app.registry.databases.get(name)
        if found is None:
            raise CommandError(f"no such database: {name}")
        return found


Statement = Command | Assignment | Plain


def shortened(text: str, longest: int) -> str:
    """Cut *text* to *longest* bytes, the dots that say so included."""
    data = encode_text(text)
    if len(data) <= longest:
        return text
    at = longest - len(DOTS)
    while data[at] & 0xC0 == 0x80:  # within a character
        at -= 1
    return decode_text(data[:at]) + DOTS


def meant_by(text: str) -> str:
    """Name the command that a mistyped one is close to; "" if there is none."""
    text = text.strip(" \t\r\n;")
    if not MISTYPED.fullmatch(text):
        return ""
    words = text.upper().split()
    [near] = get_close_matches(words[0], COMMANDS, 1, CLOSE) or [""]
    if near == "SHOW":
        topics = [*_USAGES, HAPROXY, *TOPICS]
        near = " ".join(get_close_matches(" ".join(words[1:]), topics, 1, CLOSE))
        return f"Did you mean SHOW {near}?" if near else ""
    # What is spelt right is refused for what stands behind it.
    return f"Did you mean {near}?" if near and near != words[0] else ""


def run(statement: Statement, asked: Asked) -> Reply:
    """Carry out one command; raises `CommandError` when it is refused."""
    if isinstance(statement, Plain):
        return asked.plain(statement)
    if isinstance(statement, Assignment):
        return _set(statement, asked)
    command = COMMANDS.get(statement.word)
    if command is None:
        raise asked.invalid()
    asked.argument = statement.argument
    return command(asked)


def describe(statement: Statement, app: App, rights: str) -> tuple[Column, ...]:
    """Name the columns that *statement* will give; none for most commands."""
    if isinstance(statement, Command) and statement.word in ("SHOW", "SELECT"):
        if statement.argument.upper() == HAPROXY:
            return _haproxy_columns(app)
        topic = topic_of(statement.argument, app)
        if topic is not None and not (topic.admin_only and rights != ADMIN):
            return topic.shape
    return ()


# Looking

_USAGES: Final = {
    "HELP": Notice("Console usage", HELP),
    HELP_ASKED: Notice("What pybouncer has beyond PgBouncer", HELP_OF_OURS),
}


def _show(asked: Asked) -> Reply:
    usage = _USAGES.get(asked.argument.upper())
    if usage is not None:
        return Done("SHOW", (usage,))
    if asked.argument.upper() == HAPROXY:
        shape = _haproxy_columns(asked.app)
        return Gathered(shape, asked.app.haproxy.rows())
    topic = topic_of(asked.argument, asked.app)
    if topic is None:
        raise asked.invalid()
    if topic.admin_only:
        asked.need_admin()
    return Rows(topic)


def is_topic(name: str, app: App) -> bool:
    """Whether there is a SHOW *name*."""
    known = name.upper()
    return known in _USAGES or known == HAPROXY or topic_of(name, app) is not None


def _haproxy_columns(app: App) -> tuple[Column, ...]:
    """Name the columns of SHOW HAPROXY: what ha says they are."""
    if getattr(app, "haproxy", None) is None:
        raise CommandError("haproxy_sockets is not set in [pybouncer]")
    return columns_of(app.haproxy.columns)


def _set(statement: Assignment, asked: Asked) -> Reply:
    key, value = statement.key, statement.value
    if may_be_set(key):
        return Done("SET", (Notice("SET ignored"),))
    asked.need_admin()
    try:
        notices = asked.app.set(key, value)
    except ConfigError as error:
        if str(error):
            log.error(without_secrets(str(error), bare=True))
        raise CommandError("SET failed") from error
    tag = f"SET {key}={value}"
    raw = tag.encode("utf-8", "surrogateescape")
    if len(raw) > LONGEST_TAG:
        tag = raw[:LONGEST_TAG].decode("utf-8", "surrogateescape")
    return Done(tag, tuple(map(Notice, notices)))


# Pausing


def _deferred(complete: bool, owed: Owed) -> Reply:
    return Done(owed.tag) if complete else Deferred(owed)


def _pause(asked: Asked) -> Reply:
    asked.need_admin()
    asked.need_running()
    asked.issued("PAUSE")
    database = asked.database("cannot pause admin db") if asked.argument else None
    owed = asked.owe("PAUSE")
    return _deferred(asked.app.pause(database, owed), owed)


def _resume(asked: Asked) -> Reply:
    asked.need_admin()
    asked.issued("RESUME")
    app, name = asked.app, asked.argument
    if not name:
        if app.global_mode == "none":
            raise CommandError(
                "pooler is not paused"
                if app.shutdown_mode is None
                else "pooler is shutting down"
            )
        # While clients are waited for, those that a pause holds up must go on.
        if app.shutdown_mode not in (None, "wait_for_clients"):
            raise CommandError("pooler is shutting down")
        app.resume(None)
        return Done("RESUME")
    # The console's own database is never paused, which is all that is said of it.
    if name in app.consoles:
        raise CommandError(f"database {name} is not paused")
    database = asked.database("", create=False)
    if not database.paused:
        raise CommandError(f"database {name} is not paused")
    app.resume(database)
    return Done("RESUME")


def _suspend(asked: Asked) -> Reply:
    if asked.argument:
        raise asked.invalid()
    asked.need_admin()
    asked.need_running()
    if any(each.paused for each in asked.app.registry.databases.values()):
        raise CommandError("cannot suspend with paused databases")
    asked.issued("SUSPEND")
    owed = asked.owe("SUSPEND")
    return _deferred(asked.app.suspend(owed), owed)


def _wait_close(asked: Asked) -> Reply:
    asked.need_admin()
    asked.issued("WAIT_CLOSE")
    database = asked.database("cannot wait in admin db") if asked.argument else None
    owed = asked.owe("WAIT_CLOSE")
    return _deferred(asked.app.wait_close(database, owed), owed)


# Databases and clients


def _disable(asked: Asked) -> Reply:
    asked.need_admin()
    if not asked.argument:
        raise CommandError("a database is required")
    asked.issued("DISABLE")
    asked.app.disable(asked.database("cannot disable admin db"))
    return Done("DISABLE")


def _enable(asked: Asked) -> Reply:
    asked.need_admin()
    if not asked.argument:
        raise CommandError("a database is required")
    asked.issued("ENABLE")
    asked.app.enable(asked.database("cannot enable admin db", create=False))
    return Done("ENABLE")


def _reconnect(asked: Asked) -> Reply:
    asked.need_admin()
    asked.issued("RECONNECT")
    database = None
    if asked.argument:
        database = asked.database("cannot reconnect admin db")
    asked.app.reconnect(database)
    return Done("RECONNECT")


def _kill(asked: Asked) -> Reply:
    asked.need_admin()
    asked.need_running()
    asked.issued("KILL")
    database = asked.database("cannot kill admin db") if asked.argument else None
    asked.app.kill(database)
    return Done("KILL")


# As strtoull reads: blanks, a sign, digits; what follows is not looked at.
_NUMBER: Final = re.compile(r"[ \t\n\v\f\r]*([+-]?)(\d+)", re.ASCII)


def _kill_client(asked: Asked) -> Reply:
    asked.need_admin()
    match = _NUMBER.match(asked.argument)
    if match is None:
        raise CommandError("invalid client pointer supplied")
    number = int(match[2])
    if match[1] == "-":
        number = -number & (1 << 64) - 1
    if number == asked.client.id:
        # PgBouncer dies of this; here only the console goes.
        raise Disconnect("admin forced disconnect")
    asked.app.kill_client(number)
    return Done("KILL_CLIENT")


# The process


def _reload(asked: Asked) -> Reply:
    if asked.argument:
        raise asked.invalid()
    asked.need_admin()
    asked.issued("RELOAD")
    try:
        outcome = asked.app.reload()
    except ConfigError as error:
        raise reload_failed(error) from error
    return Done("RELOAD", after=outcome if isawaitable(outcome) else None)


def reload_failed(error: ConfigError) -> CommandError:
    """Log that a RELOAD failed and say so."""
    if not isinstance(error, TlsKept):
        log.error("RELOAD Failed, see logs for more details")
    return CommandError(
        "RELOAD failed, see logs for additional details", CONFIG_FILE_ERROR
    )


_SHUTDOWNS: Final = {
    "": ("immediate", "SHUTDOWN"),
    "WAIT_FOR_SERVERS": ("wait_for_servers", "SHUTDOWN WAIT_FOR_SERVERS"),
    "WAIT_FOR_CLIENTS": ("wait_for_clients", "SHUTDOWN WAIT_FOR_CLIENTS"),
}


def _shutdown(asked: Asked) -> Reply:
    found = _SHUTDOWNS.get(asked.argument.upper())
    if found is None:
        raise asked.invalid()
    asked.need_admin()
    mode, name = found
    log.info(f"{name} command issued")
    asked.app.shutdown(mode)
    return Silent() if mode == "immediate" else Done("SHUTDOWN")


COMMANDS: Final[dict[str, Callable[[Asked], Reply]]] = {
    "DISABLE": _disable,
    "ENABLE": _enable,
    "KILL": _kill,
    "KILL_CLIENT": _kill_client,
    "PAUSE": _pause,
    "RECONNECT": _reconnect,
    "RELOAD": _reload,
    "RESUME": _resume,
    "SELECT": _show,
    "SHOW": _show,
    "SHUTDOWN": _shutdown,
    "SUSPEND": _suspend,
    "WAIT_CLOSE": _wait_close,
}

# Commands whose argument is a number, for whoever asks a prepared statement.
NUMBERED: Final = frozenset({"KILL_CLIENT"})


def fill(statement: Statement, values: list[Value]) -> Statement:
    """Put the value of a parameter where its placeholder stands.

    Empty and NULL are refused: `PAUSE ""` pauses everything, which nobody means who
    passes the name of a database.
    """
    if isinstance(statement, Plain) or not statement.parameter:
        return statement
    value = values[statement.parameter - 1]
    if isinstance(statement, Assignment):
        if value is None:
            raise CommandError("bad arguments")
        return Assignment(statement.key, str(value))
    if value is None or value == "":
        raise CommandError("bad arguments")
    return Command(statement.word, str(value))
