"""The extended protocol on the console, which PgBouncer's console does not speak.

The one hard idea: there are no transactions here, so a Sync only ends a series: it
closes the portals, forgives an error, and is answered by ReadyForQuery. In between,
a deferred command (PAUSE) holds the series up, because its answer must come before
what was sent behind it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from struct import Struct
from struct import error as StructError
from typing import Any, Final

from admin.commands import (
    COMMANDS,
    NUMBERED,
    Deferred,
    Done,
    Gathered,
    Rows,
    describe,
    fill,
    is_topic,
    run,
)
from admin.encode import (
    BIND_COMPLETE,
    CLOSE_COMPLETE,
    EMPTY_QUERY,
    NO_DATA,
    OID_INT8,
    OID_TEXT,
    PARSE_COMPLETE,
    PORTAL_SUSPENDED,
    TEXT,
    Column,
    Value,
    mixed_rows,
    parameter,
    parameter_description,
    row_description,
    text_rows,
)
from admin.grammar import Command, parse_prepared
from admin.grammar import Statement as Parsed
from admin.owed import Owed
from admin.show import Row
from admin.sql import Select
from bouncer.errors import CommandError
from bouncer.relay.talk import Waiter
from bouncer.wire.codes import Frontend
from bouncer.wire.messages import (
    READY_IDLE,
    command_complete,
    decode_text,
    error_response,
)

Talk = Generator[Any, Any, None]

# A client that leaks statements is stopped before it eats the pooler's memory.
MOST_STATEMENTS: Final = 1000
MOST_PORTALS: Final = 1000

_INT2: Final = Struct("!H")
_INT4: Final = Struct("!i")
_OID: Final = Struct("!I")

FE_BIND: Final = int(Frontend.FE_BIND)
FE_CLOSE: Final = int(Frontend.FE_CLOSE)
FE_DESCRIBE: Final = int(Frontend.FE_DESCRIBE)
FE_EXECUTE: Final = int(Frontend.FE_EXECUTE)
FE_FLUSH: Final = int(Frontend.FE_FLUSH)
FE_PARSE: Final = int(Frontend.FE_PARSE)
FE_SYNC: Final = int(Frontend.FE_SYNC)


class Reader:
    """Reads the fields of a message; a message that is cut is refused."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.at = 0

    def text(self) -> bytes:
        """Read up to the next zero byte."""
        end = self.body.find(b"\0", self.at)
        if end < 0:
            raise malformed()
        found = self.body[self.at : end]
        self.at = end + 1
        return found

    def number(self, form: Struct) -> int:
        """Read one number."""
        try:
            value: int = form.unpack_from(self.body, self.at)[0]
        except StructError:
            raise malformed() from None
        self.at += form.size
        return value

    def numbers(self, form: Struct) -> list[int]:
        """Read a count and so many numbers."""
        return [self.number(form) for _ in range(self.number(_INT2))]

    def values(self) -> list[bytes | None]:
        """Read a count and so many values with their lengths."""
        found: list[bytes | None] = []
        for _ in range(self.number(_INT2)):
            length = self.number(_INT4)
            if length < 0:
                found.append(None)
                continue
            if self.at + length > len(self.body):
                raise malformed()
            found.append(self.body[self.at : self.at + length])
            self.at += length
        return found

    def kind(self) -> bytes:
        """Read one byte that is S or P."""
        self.at += 1
        found = self.body[self.at - 1 : self.at]
        if found not in (b"S", b"P"):
            raise malformed()
        return found


def malformed() -> CommandError:
    """Refuse a message whose lengths do not fit."""
    return CommandError("invalid message format")


class Statement:
    """What Parse made: a command, a query, or nothing at all."""

    __slots__ = ("command", "oids", "select", "text")

    def __init__(
        self,
        text: bytes,
        command: Parsed | None,
        select: Select | None,
        oids: tuple[int, ...],
    ) -> None:
        self.text = text
        self.command = command
        self.select = select
        self.oids = oids


class Portal:
    """What Bind made: a statement with its values, and how far it has got."""

    __slots__ = (
        "command",
        "formats",
        "over",
        "packets",
        "shape",
        "statement",
        "values",
    )

    def __init__(
        self,
        statement: Statement,
        command: Parsed | None,
        values: list[Value],
        shape: tuple[Column, ...],
        formats: list[int],
    ) -> None:
        self.statement = statement
        self.command = command
        self.values = values
        self.shape = shape
        self.formats = formats
        self.packets: Iterator[bytes] | None = None
        self.over = False

    def encode(self, rows: Iterable[Row]) -> Iterable[bytes]:
        """Make packets of *rows* in the formats that were asked for."""
        if any(self.formats):
            return mixed_rows(rows, self.shape, self.formats)
        return text_rows(rows, len(self.shape))


class Extended:
    """The extended protocol of one console session."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.statements: dict[bytes, Statement] = {}
        self.portals: dict[bytes, Portal] = {}
        self.failed = False  # nothing is done until Sync
        self.open = False  # messages have come, their Sync has not

    def message(self, code: int, body: bytes) -> Talk:
        """Answer one message."""
        self.open = code != FE_SYNC
        write = self.session.client.write
        if code == FE_SYNC:
            self.failed = False
            self.portals.clear()
            write(READY_IDLE)
            return
        if self.failed or code == FE_FLUSH:
            return  # what was written leaves at the end of this turn anyway
        try:
            reader = Reader(body)
            if code == FE_PARSE:
                self.parse(reader)
            elif code == FE_BIND:
                self.bind(reader)
            elif code == FE_DESCRIBE:
                self.describe(reader)
            elif code == FE_CLOSE:
                self.close(reader)
            else:
                yield from self.execute(reader)
        except CommandError as error:
            self.failed = True
            self.session.log_refusal(error)
            write(error_response(error.text, error.sqlstate, "ERROR"))

    def leave(self) -> None:
        """The session is over: let go of everything, itself included."""
        self.statements.clear()
        self.portals.clear()
        self.session = None

    def forget_unnamed(self) -> None:
        """A Query ends the unnamed statement and the portals."""
        self.statements.pop(b"", None)
        self.portals.clear()

    # One message each

    def parse(self, reader: Reader) -> None:
        """Parse: read a command or compile a query."""
        name, text = reader.text(), reader.text()
        wanted = reader.numbers(_OID)
        if name and name in self.statements:
            named = decode_text(name)
            raise CommandError(f'prepared statement "{named}" already exists', "42P05")
        if len(self.statements) >= MOST_STATEMENTS and name:
            raise CommandError("too many prepared statements", "53400")
        self.statements[name] = self.prepare(text, wanted)
        self.session.client.write(PARSE_COMPLETE)

    def prepare(self, text: bytes, wanted: list[int]) -> Statement:
        """Make a statement of *text*; *wanted* are the types a client gave."""
        if not text.strip(b" \t\n\r;"):
            return Statement(text, None, None, tuple(wanted))
        command = parse_prepared(text)
        oids: tuple[int, ...] = ()
        if command is None:
            if not self.session.is_query(text):
                raise self.session.asked(text, self.owe).invalid()
            select = self.session.console.schema.compile(text.decode())
            oids = select.parameters
        else:
            select = None
            self.check(command, text)
            if command.parameter:
                numbered = isinstance(command, Command) and command.word in NUMBERED
                kind = OID_INT8 if numbered else OID_TEXT
                oids = (OID_TEXT,) * (command.parameter - 1) + (kind,)
        oids += tuple(OID_TEXT for _ in wanted[len(oids) :])
        given = wanted + [0] * (len(oids) - len(wanted))
        chosen = (mine or own for mine, own in zip(given, oids, strict=True))
        return Statement(text, command, select, tuple(chosen))

    def check(self, command: Parsed, text: bytes) -> None:
        """Refuse at once what could never be carried out."""
        if not isinstance(command, Command):
            return
        invalid = command.word not in COMMANDS
        if command.word in ("SHOW", "SELECT") and not command.parameter:
            invalid = not is_topic(command.argument)
        if invalid:
            raise self.session.asked(text, self.owe).invalid()

    def bind(self, reader: Reader) -> None:
        """Bind: give a statement its values."""
        name, of = reader.text(), reader.text()
        formats = reader.numbers(_INT2)
        raw = reader.values()
        wanted = reader.numbers(_INT2)
        statement = self.statement(of)
        if len(raw) != len(statement.oids):
            raise CommandError(
                f"bind message supplies {len(raw)} parameters, but prepared statement "
                f"requires {len(statement.oids)}"
            )
        hows = spread(formats, len(raw), "parameter")
        values = [
            parameter(data, oid, how)
            for data, oid, how in zip(raw, statement.oids, hows, strict=True)
        ]
        command, shape = self.bound(statement, values)
        if name and name in self.portals:
            raise CommandError(f'cursor "{decode_text(name)}" already exists', "42P03")
        if len(self.portals) >= MOST_PORTALS:
            raise CommandError("too many portals", "53400")
        # A command without rows has no columns to be formatted.
        results = spread(wanted, len(shape), "result") if shape else []
        self.portals[name] = Portal(statement, command, values, shape, results)
        self.session.client.write(BIND_COMPLETE)

    def bound(
        self, statement: Statement, values: list[Value]
    ) -> tuple[Parsed | None, tuple[Column, ...]]:
        """Put values into a command; say which columns it will have."""
        if statement.select is not None:
            return None, statement.select.shape
        if statement.command is None:
            return None, ()
        command = fill(statement.command, values)
        return command, describe(command, self.session.app, self.session.rights)

    def describe(self, reader: Reader) -> None:
        """Describe: say what a statement wants and what it gives."""
        kind, name = reader.kind(), reader.text()
        write = self.session.client.write
        if kind == b"P":
            portal = self.portal(name)
            write(
                row_description(portal.shape, portal.formats)
                if portal.shape
                else NO_DATA
            )
            return
        statement = self.statement(name)
        command = statement.command
        if statement.select is not None:
            shape = statement.select.shape
        elif command is None:
            shape = ()
        else:
            if (
                isinstance(command, Command)
                and command.parameter
                and command.word in ("SHOW", "SELECT")
            ):
                raise CommandError(
                    "the columns depend on the parameter: describe the portal", "0A000"
                )
            shape = describe(command, self.session.app, self.session.rights)
        write(parameter_description(statement.oids))
        write(row_description(shape) if shape else NO_DATA)

    def close(self, reader: Reader) -> None:
        """Close: forget a statement or a portal, known or not."""
        if reader.kind() == b"S":
            self.statements.pop(reader.text(), None)
        else:
            self.portals.pop(reader.text(), None)
        self.session.client.write(CLOSE_COMPLETE)

    def statement(self, name: bytes) -> Statement:
        """Find a statement."""
        found = self.statements.get(name)
        if found is None:
            named = decode_text(name)
            what = (
                f'prepared statement "{named}"'
                if name
                else "unnamed prepared statement"
            )
            raise CommandError(f"{what} does not exist", "26000")
        return found

    def portal(self, name: bytes) -> Portal:
        """Find a portal."""
        found = self.portals.get(name)
        if found is None:
            raise CommandError(f'portal "{decode_text(name)}" does not exist', "34000")
        return found

    # Execute

    def execute(self, reader: Reader) -> Talk:
        """Execute: carry a portal out, or go on with it."""
        name = reader.text()
        most = max(0, reader.number(_INT4))
        portal = self.portal(name)
        session = self.session
        if portal.over:
            raise CommandError(
                f'portal "{decode_text(name)}" cannot be run anymore', "55000"
            )
        if portal.packets is not None:
            yield from self.send(portal, most)
        elif portal.statement.select is not None:
            rows = yield from session.select(portal.statement.select, portal.values)
            portal.packets = iter(portal.encode(rows))
            yield from self.send(portal, most)
        elif portal.command is None:
            portal.over = True
            session.client.write(EMPTY_QUERY)
        else:
            yield from self.command(portal, portal.command, most)

    def command(self, portal: Portal, command: Parsed, most: int) -> Talk:
        """Carry out a command for the first time."""
        session = self.session
        reply = run(command, session.asked(portal.statement.text, self.owe))
        if isinstance(reply, Rows):
            portal.packets = iter(portal.encode(session.rows_of(reply)))
            yield from self.send(portal, most)
            return
        if isinstance(reply, Gathered):
            found = yield reply.rows
            portal.packets = iter(portal.encode(found))
            yield from self.send(portal, most)
            return
        portal.over = True
        if isinstance(reply, Done):
            yield from session.finish(reply)
            session.client.write(command_complete(reply.tag))
        elif isinstance(reply, Deferred):
            yield from self.wait(reply.owed)
        else:
            yield session.console.end()

    def send(self, portal: Portal, most: int) -> Talk:
        """Send the rows of a portal, at most *most* of them; 0 is all."""
        session = self.session
        packets = portal.packets
        assert packets is not None
        sent = 0

        def count(batch: list[bytes]) -> None:
            nonlocal sent
            sent += len(batch)
            session.send(batch)

        yield from session.in_slices(islice(packets, most or None), count)
        if most and sent == most:
            # What follows may be asked for much later: take it now.
            rest: list[bytes] = []
            yield from session.in_slices(packets, rest.extend)
            portal.packets = iter(rest)
            session.client.write(PORTAL_SUSPENDED)
            return
        portal.over = True
        is_select = portal.statement.select is not None
        session.client.write(
            command_complete(f"SELECT {sent}" if is_select else "SHOW")
        )

    # Deferred replies

    def owe(self, tag: str) -> Owed:
        """Make a debt that the talk itself waits for."""
        waiter = Waiter()

        def lifted(owed: Owed) -> None:
            owed.gone = True
            waiter.fail(
                CommandError(f"{tag} was lifted before it was complete", "57014")
            )

        owed = Owed(tag, lambda owed: waiter.set(None), lifted)
        self.waiter = waiter
        return owed

    def wait(self, owed: Owed) -> Talk:
        """Hold the series up until *owed* is due."""
        owing = self.session.owing
        owing.add(owed)
        try:
            yield self.waiter
        finally:
            owing.discard(owed)
            owed.gone = True
        self.session.client.write(command_complete(owed.tag))


def spread(formats: list[int], count: int, what: str) -> list[int]:
    """Give a format for each of *count* values: none given is text, one is all."""
    if not formats:
        return [TEXT] * count
    if len(formats) == 1:
        formats = formats * count
    if len(formats) != count:
        raise CommandError(
            f"bind message has {len(formats)} {what} formats but {count} are needed"
        )
    if any(how not in (0, 1) for how in formats):
        raise CommandError("unsupported format code", "22023")
    return formats
