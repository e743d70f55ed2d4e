"""The extended protocol on the console, which PgBouncer's console does not speak.

The one hard idea: nothing here is ever undone, so a Sync only ends a series: it
closes the portals (outside of a transaction block), forgives an error, and is
answered by ReadyForQuery. In between, a deferred command (PAUSE) holds the series
up, because its answer must come before what was sent behind it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from itertools import islice
from typing import Any, Final

from admin.commands import (
    NUMBERED,
    Deferred,
    Done,
    Gathered,
    Rows,
    describe,
    fill,
    run,
)
from admin.commands import Statement as Parsed
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
    parameter,
    parameter_description,
    row_description,
)
from admin.grammar import Command
from admin.held import Held, Kept, Portal, Statement
from admin.postgres import IDLE, Plain
from admin.reader import INT2, INT4, MOST_COLUMNS, MOST_PARAMETERS, OID, Reader
from admin.script import cut
from admin.sql import Select
from admin.sqlbounds import LONGEST_QUERY, too_long
from admin.sqlrun import PACKET_OVERHEAD
from bouncer.errors import CommandError
from bouncer.wire.codes import Frontend
from bouncer.wire.messages import command_complete, decode_text, encode_text

Talk = Generator[Any, Any, None]

# A client that leaks statements is stopped before it eats the pooler's memory.
MOST_STATEMENTS: Final = 1000
MOST_PORTALS: Final = 1000

FE_BIND: Final = int(Frontend.FE_BIND)
FE_CLOSE: Final = int(Frontend.FE_CLOSE)
FE_DESCRIBE: Final = int(Frontend.FE_DESCRIBE)
FE_EXECUTE: Final = int(Frontend.FE_EXECUTE)
FE_FLUSH: Final = int(Frontend.FE_FLUSH)
FE_PARSE: Final = int(Frontend.FE_PARSE)
FE_SYNC: Final = int(Frontend.FE_SYNC)


class Extended:
    """The extended protocol of one console session."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.statements: dict[bytes, Statement] = {}
        self.portals: dict[bytes, Portal] = {}
        self.held = Held()
        self.failed = False  # nothing is done until Sync
        self.open = False  # messages have come, their Sync has not

    def message(self, code: int, body: bytes) -> Talk:
        """Answer one message."""
        self.open = code != FE_SYNC
        write = self.session.client.write
        if code == FE_SYNC:
            self.failed = False
            self.drop_portals_outside_of_a_block()
            write(self.session.block.ready)
            return
        if self.failed or code == FE_FLUSH:
            return  # what was written leaves at the end of this turn anyway
        try:
            reader = Reader(body)
            if code == FE_PARSE:
                yield from self.parse(reader)
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
            write(self.session.refusal(error))

    def leave(self) -> None:
        """The session is over: let go of everything, itself included."""
        self.statements.clear()
        self.portals.clear()
        self.session = None

    def forget_unnamed(self) -> None:
        """A Query ends the unnamed statement and the portals, in a block one."""
        self.drop_statement(b"")
        self.drop_portal(b"")
        self.drop_portals_outside_of_a_block()

    # What is held

    def drop_statement(self, name: bytes) -> None:
        """Forget a statement, if there is one."""
        statement = self.statements.pop(name, None)
        if statement is not None:
            self.held.give(statement.size)

    def drop_portal(self, name: bytes) -> None:
        """Forget a portal, if there is one."""
        portal = self.portals.pop(name, None)
        if portal is not None:
            self.held.give(portal.size)

    def drop_portals(self) -> None:
        """Forget all portals."""
        for portal in self.portals.values():
            self.held.give(portal.size)
        self.portals.clear()

    def drop_portals_outside_of_a_block(self) -> None:
        """A series is over: what is not in a transaction is gone."""
        if self.session.block.status == IDLE:
            self.drop_portals()

    def discard(self, plain: Plain) -> None:
        """Forget statements and portals, as DISCARD, DEALLOCATE and CLOSE say."""
        name = encode_text(plain.name)
        if plain.act == "close":
            if not name:
                self.drop_portals()
            else:
                self.portal(name)
                self.drop_portal(name)
        elif name:
            self.statement(name)
            self.drop_statement(name)
        else:
            for each in tuple(self.statements):
                self.drop_statement(each)
            if plain.act == "discard":
                self.drop_portals()

    # One message each

    def parse(self, reader: Reader) -> Talk:
        """Parse: read a command or compile a query."""
        name, text = reader.name(), reader.text()
        wanted = reader.numbers(OID, MOST_PARAMETERS, "parameters")
        if len(text) > LONGEST_QUERY:
            raise too_long()
        if name and name in self.statements:
            named = decode_text(name)
            raise CommandError(f'prepared statement "{named}" already exists', "42P05")
        if len(self.statements) >= MOST_STATEMENTS and name:
            raise CommandError("too many prepared statements", "53400")
        self.drop_statement(name)
        statement = yield from self.prepare(text, wanted)
        self.held.take(statement.size)
        self.statements[name] = statement
        self.session.client.write(PARSE_COMPLETE)

    def prepare(self, text: bytes, wanted: list[int]) -> Generator[Any, Any, Statement]:
        """Make a statement of *text*; *wanted* are the types a client gave."""
        session = self.session
        asked = session.asked(text)
        found = cut(text)
        if found is None:
            raise asked.invalid()
        if not found:
            return Statement(text, None, None, tuple(wanted))
        if len(found) > 1:
            problem = "cannot insert multiple commands into a prepared statement"
            raise CommandError(problem, "42601")
        read = session.read(found[0], asked, True)
        session.block.check(read)
        command: Parsed | None = None
        select: Select | None = None
        oids: tuple[int, ...] = ()
        if isinstance(read, bytes):
            select = yield from session.compile(read, asked)
            oids = select.parameters
        else:
            command = read
            oids = parameters_of(command)
        oids += tuple(OID_TEXT for _ in wanted[len(oids) :])
        given = wanted + [0] * (len(oids) - len(wanted))
        chosen = (mine or own for mine, own in zip(given, oids, strict=True))
        return Statement(text, command, select, tuple(chosen))

    def bind(self, reader: Reader) -> None:
        """Bind: give a statement its values."""
        name, of = reader.name(), reader.name()
        formats = reader.numbers(INT2, MOST_PARAMETERS, "formats")
        raw = reader.values()
        wanted = reader.numbers(INT2, MOST_COLUMNS, "formats")
        statement = self.statement(of)
        if statement.select is not None or statement.command is not None:
            self.session.block.check(statement.command)
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
        portal = Portal(statement, command, values, shape, results)
        self.drop_portal(name)
        self.held.take(portal.size)
        self.portals[name] = portal
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
        kind, name = reader.kind(), reader.name()
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
            self.drop_statement(reader.name())
        else:
            self.drop_portal(reader.name())
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
        name = reader.name()
        most = max(0, reader.number(INT4))
        portal = self.portal(name)
        session = self.session
        if portal.statement.select is not None or portal.command is not None:
            session.block.check(portal.command)
        if portal.over:
            raise CommandError(
                f'portal "{decode_text(name)}" cannot be run anymore', "55000"
            )
        if portal.packets is not None:
            yield from self.send(portal, most)
        elif portal.statement.select is not None:
            found = yield from session.select(
                portal.statement.select, portal.values, portal.encode
            )
            portal.packets = iter(found)
            yield from self.send(portal, most)
        elif portal.command is None:
            portal.over = True
            session.client.write(EMPTY_QUERY)
        else:
            yield from self.command(portal, portal.command, most)

    def command(self, portal: Portal, command: Parsed, most: int) -> Talk:
        """Carry out a command for the first time."""
        session = self.session
        asked = session.asked(portal.statement.text)
        asked.owe = session.owe_held
        reply = run(command, asked)
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
            yield from session.wait(reply.owed)
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
            yield from self.keep(portal)
            session.client.write(PORTAL_SUSPENDED)
            return
        portal.over = True
        is_select = portal.statement.select is not None
        session.client.write(
            command_complete(f"SELECT {sent}" if is_select else "SHOW")
        )

    def keep(self, portal: Portal) -> Talk:
        """Keep the rows behind those that were wanted, which may be much later."""
        rest: deque[bytes] = deque()

        def take(batch: list[bytes]) -> None:
            size = sum(map(len, batch)) + PACKET_OVERHEAD * len(batch)
            self.held.take(size)
            portal.size += size
            rest.extend(batch)

        packets = portal.packets
        if isinstance(packets, Kept):
            return  # they are kept already
        assert packets is not None
        yield from self.session.in_slices(packets, take)
        portal.packets = Kept(rest, portal, self.held)


def parameters_of(command: Parsed) -> tuple[int, ...]:
    """Type what stands for the argument of a command."""
    if isinstance(command, Plain) or not command.parameter:
        return ()
    numbered = isinstance(command, Command) and command.word in NUMBERED
    kind = OID_INT8 if numbered else OID_TEXT
    return (OID_TEXT,) * (command.parameter - 1) + (kind,)


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
