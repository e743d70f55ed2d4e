"""The console: what clients of the virtual `pgbouncer` database talk to.

The one hard idea: a console must never hold up a query of somebody else. Rows are
made a slice at a time and the loop breathes in between; SELECT runs in a thread. So
an answer takes many turns, and a deferred reply (PAUSE from before) that becomes due
meanwhile waits in `late` until the answer is whole.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Generator, Iterable, Sequence
from time import perf_counter
from typing import Any, Final, TypeVar

from admin.commands import (
    ADMIN,
    COMMANDS,
    STATS,
    Asked,
    Deferred,
    Done,
    Gathered,
    Notice,
    Reply,
    Rows,
    Statement,
    is_topic,
    reload_failed,
    run,
    shortened,
)
from admin.encode import EMPTY_QUERY, Column, Value, row_description, text_rows
from admin.extended import Extended
from admin.grammar import Command, parse, parse_prepared
from admin.handover import hand_over
from admin.owed import Owed
from admin.postgres import Block, Plain, parse_plain
from admin.script import cut
from admin.show import TOPICS, App, Row
from admin.sql import Select, answerable, reads_a_table
from admin.sqlbounds import LONGEST_QUERY, too_long
from admin.sqlrun import Encode, Run
from admin.turn import Turn
from bouncer import COMPATIBLE_VERSION, log
from bouncer.errors import CommandError, ConfigError, Disconnect
from bouncer.relay.talk import READ, Waiter
from bouncer.wire.codes import Frontend
from bouncer.wire.messages import (
    command_complete,
    decode_text,
    error_response,
    notice_response,
    parameter_status,
)
from bouncer.wire.sqlstate import CONFIG_FILE_ERROR

Talk = Generator[Any, Any, None]
T = TypeVar("T")

# The loop breathes after so many seconds of making rows: queries that pass by must
# not be held up for more than 5 ms, and this is not all that one turn does.
SLICE: Final = 0.001
# Rows between two looks at the clock.
ROWS_BETWEEN_LOOKS: Final = 32
# Unsent bytes above which a console waits until its client has read some.
HIGH_WATER: Final = 4 << 20
DRAIN_PAUSE: Final = 0.02
# WAIT_CLOSE may be given again and again before the first is answered.
MOST_OWING: Final = 1000
# PgBouncer builds an ErrorResponse and its ReadyForQuery in 512 bytes. What is longer
# is shortened; so is its line in the log.
LONGEST_REFUSAL: Final = 484

FE_QUERY: Final = int(Frontend.FE_QUERY)
FE_TERMINATE: Final = int(Frontend.FE_TERMINATE)
EXTENDED: Final = frozenset(
    {
        int(Frontend.FE_PARSE),
        int(Frontend.FE_BIND),
        int(Frontend.FE_DESCRIBE),
        int(Frontend.FE_EXECUTE),
        int(Frontend.FE_CLOSE),
        int(Frontend.FE_FLUSH),
        int(Frontend.FE_SYNC),
    }
)
FE_FUNCTION_CALL: Final = int(Frontend.FE_FUNCTION_CALL)
# Without a COPY they mean nothing, and are dropped, as PostgreSQL does.
OF_COPY: Final = frozenset(
    {
        int(Frontend.FE_COPY_DATA),
        int(Frontend.FE_COPY_DONE),
        int(Frontend.FE_COPY_FAIL),
    }
)

_WELCOME: Final = b"".join(
    parameter_status(name, value)
    for name, value in (
        ("pgbouncer.version", COMPATIBLE_VERSION),
        ("server_version", f"{COMPATIBLE_VERSION}/bouncer"),
        ("client_encoding", "UTF8"),
        ("server_encoding", "UTF8"),
        ("DateStyle", "ISO"),
        ("TimeZone", "GMT"),
        ("standard_conforming_strings", "on"),
        ("is_superuser", "on"),
    )
)

_NAMES: Final = re.compile(r"[^,\s]+")


def names_in(value: str | None) -> list[str]:
    """Read a list of users: commas, blanks or both between them, no quotes."""
    return _NAMES.findall(value or "")


class AdminConsole:
    """The console of one process; fills `bouncer.contracts.Console`."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.sessions: dict[int, Session] = {}
        self.ending = False  # SHUTDOWN was given
        self.turn = Turn()

    # Called by client_login and cancel

    def rights(self, user: str, client: Any) -> str | None:
        """Say what *user* may do here; None: nothing."""
        settings = self.app.settings
        if user in names_in(settings.admin_users):
            return ADMIN
        if user in names_in(settings.stats_users) or settings.auth_type == "any":
            return STATS
        return None

    def welcome(self) -> bytes:
        """Give the parameters every console client is told first."""
        return _WELCOME

    def converse(self, client: Any, rights: str, own_user: bool) -> Talk:
        """Talk to one client that has been sent its welcome."""
        session = Session(self, client, rights, own_user)
        self.sessions[client.id] = session
        try:
            yield from session.talk()
        finally:
            self.sessions.pop(client.id, None)
            session.leave()
            self._left()

    def cancel_requested(self, client: Any) -> None:
        """A CancelRequest named *client*: end what it waits for."""
        session = self.sessions.get(client.id)
        if session is not None and session.compiling:
            return  # that ends by itself, and soon
        if session is not None and session.running is not None:
            session.running.cancel()
            return
        if session is not None and session.owing:
            for owed in tuple(session.owing):
                self.app.commands.give_up(owed)
            return
        # Lifting a pause that is complete is PgBouncer's own way.
        log.warning(f"{client.prefix} admin cancel request for non-waiting client?")
        if self.app.global_mode != "none" and self.app.shutdown_mode in (
            None,
            "wait_for_clients",
        ):
            self.app.resume(None)

    def _left(self) -> None:
        # Nobody else could resume. A process that ends, after it has handed its sockets
        # to another, must not touch them again.
        if self.ending or self.sessions:
            return
        if self.app.global_mode == "suspend":
            log.info("admin disappeared when suspended, doing RESUME")
            self.app.resume(None)

    # Called by sessions

    def end(self) -> Waiter:
        """The process is ending: give what a session waits for until then."""
        self.ending = True
        return Waiter()


class Session:
    """One client of the console."""

    def __init__(
        self, console: AdminConsole, client: Any, rights: str, own_user: bool
    ) -> None:
        self.console = console
        self.app = console.app
        self.client = client
        self.rights = rights
        self.own_user = own_user
        self.extended = Extended(self)
        self.owing: dict[Owed, None] = {}  # in the order of the commands
        self.waiter = Waiter()  # of the debt that holds everything up
        self.block = Block()
        self.answering = False
        self.late: list[bytes] = []
        self.spoken = False
        self.running: Run | None = None
        self.compiling = False

    def talk(self) -> Talk:
        """Answer one message after the other."""
        while True:
            code, body = yield READ
            if code == FE_TERMINATE:
                raise Disconnect("client close request", notify=False)
            if code in OF_COPY:
                continue
            if not self.spoken:
                self.spoken = True
                self.app.console_command(self.client)
            if self.extended.failed and code in (FE_FUNCTION_CALL, FE_QUERY):
                continue  # PostgreSQL protocol: all is dropped until Sync
            if code == FE_QUERY:
                yield from self.query(body)
            elif code in EXTENDED:
                self.answering = True
                yield from self.extended.message(code, body)
                if not self.extended.open:
                    self.answered()
            elif code == FE_FUNCTION_CALL:
                text = f"unsupported packet type for admin console: {code}"
                refused = self.refusal(CommandError(text))
                self.client.write(refused + self.block.ready)
                raise Disconnect("bad packet")
            else:
                what = f"unknown pkt from client: {code}/0x{code:x}"
                log.error(f"{self.client.prefix} {what}")
                raise Disconnect("unknown pkt")

    def leave(self) -> None:
        """Nobody waits for an answer any more."""
        for owed in self.owing:
            owed.gone = True
        self.owing.clear()
        self.extended.leave()

    # The simple protocol

    def query(self, body: bytes) -> Talk:
        """Answer a Query message."""
        settings = self.app.settings
        if settings.disable_pqexec:
            log.error(f'{self.client.prefix} client used "Query" packet type')
            raise Disconnect("PQexec disallowed")
        end = body.find(b"\0")
        if end < 0:
            raise Disconnect("incomplete query")
        self.extended.forget_unnamed()
        try:
            yield from self.answer(body[:end])
        except CommandError as error:
            self.client.write(self.refusal(error) + self.block.ready)
        self.answered()

    def answer(self, text: bytes) -> Talk:
        """Carry out the commands of one Query and send all that they answer."""
        if len(text) > LONGEST_QUERY:
            raise too_long()
        asked = self.asked(text)
        found = cut(text)
        if found is None:
            raise asked.invalid()
        # Nothing is done before all of it is understood.
        statements: list[Statement | bytes] = []
        yield from self.in_slices(
            (self.read(statement, asked) for statement in found), statements.extend
        )
        if len(statements) > 1:
            asked.owe = self.owe_held
        complete = True
        for at, statement in enumerate(statements):
            if at:
                yield breathe(self.client)  # others have had to wait for one of them
            complete = yield from self.carry_out(statement, asked)
        if not statements:
            self.client.write(EMPTY_QUERY)
        if complete:
            self.client.write(self.block.ready)

    def carry_out(
        self, statement: Statement | bytes, asked: Asked
    ) -> Generator[Any, Any, bool]:
        """Carry out one command or query; whether its answer is whole."""
        self.block.check(statement)
        if isinstance(statement, bytes):
            select = yield from self.compile(statement, asked)
            width = len(select.shape)
            rows = yield from self.select(
                select, [], lambda rows: text_rows(rows, width)
            )
            yield from self.send_rows(select.shape, rows)
            self.complete(f"SELECT {len(rows)}")
            return True
        # What this command ends (a PAUSE from before) is told before its own answer.
        reply = run(statement, asked)
        self.answering = True
        if isinstance(reply, Rows):
            if reply.topic is TOPICS["FDS"] and self.may_have_descriptors():
                self.client.write(row_description(reply.shape))
                yield from hand_over(self.app, self.client)
            else:
                made = text_rows(self.rows_of(reply), len(reply.shape))
                yield from self.send_rows(reply.shape, made)
            self.complete(reply.tag)
        elif isinstance(reply, Gathered):
            found = yield reply.rows
            made = text_rows(found, len(reply.shape))
            yield from self.send_rows(reply.shape, made)
            self.complete(reply.tag)
        else:
            return (yield from self.carry_out_later(reply, asked))
        return True

    def carry_out_later(self, reply: Reply, asked: Asked) -> Generator[Any, Any, bool]:
        """Answer a command without rows, now or when it is complete."""
        if isinstance(reply, Done):
            yield from self.finish(reply)
            self.complete(reply.tag)
        elif not isinstance(reply, Deferred):
            yield self.console.end()
        elif asked.owe == self.owe_held:
            yield from self.wait(reply.owed)
        else:
            if not reply.owed.gone:
                self.owing[reply.owed] = None
            return False
        return True

    def send_rows(self, shape: Sequence[Column], made: Iterable[bytes]) -> Talk:
        """Send rows, a slice at a time, behind what they are."""
        self.answering = True
        self.client.write(row_description(shape))
        yield from self.in_slices(made, self.send)

    def asked(self, text: bytes) -> Asked:
        """Say who asks."""
        return Asked(
            self.app,
            self.client,
            self.rights,
            self.owe_simple,
            decode_text(text),
            self.carry_out_plain,
        )

    def read(
        self, statement: bytes, asked: Asked, prepared: bool = False
    ) -> Statement | bytes:
        """Say what a statement is: a command, or bytes that are a query."""
        found = parse_plain(statement)
        if found is not None:
            return found
        command = parse_prepared(statement) if prepared else parse(statement)
        known = command is not None
        if isinstance(command, Command):
            known = command.word in COMMANDS
            if command.word in ("SHOW", "SELECT") and not command.parameter:
                known = is_topic(command.argument, self.app)
        if command is not None and known:
            return command
        if not answerable(statement):
            raise asked.invalid()
        return statement

    def carry_out_plain(self, plain: Plain) -> Done:
        """Do what PostgreSQL would do to the session."""
        tag, warning = self.block.carry_out(plain)
        if plain.act == "set":
            return Done(tag, (Notice("SET ignored"),) if tag == "SET" else ())
        if plain.act in ("commit", "rollback"):
            self.extended.drop_portals()
        elif plain.act in ("discard", "deallocate", "close"):
            self.extended.discard(plain)
        if warning is not None:
            text, sqlstate = warning
            return Done(tag, (Notice(text, None, sqlstate, "WARNING"),))
        return Done(tag)

    def complete(self, tag: str) -> None:
        """End the answer to one command."""
        self.client.write(command_complete(tag))

    def refusal(self, error: CommandError) -> bytes:
        """Log an error; the message that tells of it."""
        self.block.fail()
        error.text = shortened(error.text, LONGEST_REFUSAL)
        self.log_refusal(error)
        return error_response(error.text, error.sqlstate, "ERROR", error.hint)

    def log_refusal(self, error: CommandError) -> None:
        """Write the two lines of a refused command."""
        if error.sqlstate != CONFIG_FILE_ERROR:
            log.error(error.text)
        if self.app.settings.log_pooler_errors:
            log.warning(f"{self.client.prefix} pooler error: {error.text}")

    # Deferred replies

    def owe_simple(self, tag: str) -> Owed:
        """Make a debt that is paid whenever the application says so."""
        if len(self.owing) >= MOST_OWING:
            raise CommandError(f"more than {MOST_OWING} commands wait", "54000")
        return Owed(tag, self.pay)

    def pay(self, owed: Owed, error: CommandError | None) -> None:
        """Answer what was deferred, between two answers."""
        self.owing.pop(owed, None)
        data = command_complete(owed.tag) if error is None else self.refusal(error)
        data += self.block.ready
        if self.answering:
            self.late.append(data)
        else:
            self.client.write(data)
            self.client.flush()

    def owe_held(self, tag: str) -> Owed:
        """Make a debt that the talk itself waits for, and all that comes behind."""
        self.waiter = waiter = Waiter()

        def answer(owed: Owed, error: CommandError | None) -> None:
            if error is None:
                waiter.set(None)
            else:
                waiter.fail(error)

        return Owed(tag, answer)

    def wait(self, owed: Owed) -> Talk:
        """Hold everything up until *owed* is due."""
        self.owing[owed] = None
        try:
            yield self.waiter
        finally:
            self.owing.pop(owed, None)
            owed.gone = True
        self.complete(owed.tag)

    def answered(self) -> None:
        """An answer is whole: what became due meanwhile may follow."""
        self.answering = False
        if self.late:
            self.client.write(b"".join(self.late))
            self.late.clear()

    # Shared by both protocols

    def compile(self, text: bytes, asked: Asked) -> Generator[Any, Any, Select]:
        """Let a query be checked when it is its turn."""
        self.compiling = True
        try:
            select: Select = yield self.console.turn.compile(text.decode())
        except CommandError:
            # What only PostgreSQL could answer is no command of ours.
            if not reads_a_table(text.decode()):
                raise asked.invalid() from None
            raise
        finally:
            self.compiling = False
        return select

    def rows_of(self, reply: Rows) -> Iterable[Row]:
        """Give the rows of a SHOW, made on demand."""
        return reply.topic.rows(self.app, self.client.id)

    def finish(self, reply: Done) -> Talk:
        """Wait for what a command started and send its notices."""
        if reply.after is not None:
            try:
                yield reply.after
            except ConfigError as error:
                raise reload_failed(error) from error
        for notice in reply.notices:
            self.client.write(
                notice_response(
                    notice.text, notice.sqlstate, notice.severity, notice.detail
                )
            )

    def select(
        self, select: Select, values: list[Value], encode: Encode
    ) -> Generator[Any, Any, list[bytes]]:
        """Run a query when it is its turn; the packets of its rows."""
        self.running = work = Run(select, values)
        room = self.extended.held.room()
        try:
            found: list[bytes] = yield self.console.turn.run(
                self.app, self.client.id, work, encode, room
            )
        finally:
            self.running = None
        return found

    def may_have_descriptors(self) -> bool:
        """Whether SHOW FDS carries the descriptors themselves to this client."""
        return self.own_user and self.client.is_unix and not self.client.tls_info

    def in_slices(self, items: Iterable[T], take: Callable[[list[T]], object]) -> Talk:
        """Hand *items* over a slice at a time; the loop breathes in between."""
        batch: list[T] = []
        begun = perf_counter()
        for item in items:
            batch.append(item)
            if len(batch) % ROWS_BETWEEN_LOOKS == 0 and perf_counter() - begun > SLICE:
                take(batch)
                batch = []
                yield breathe(self.client)
                begun = perf_counter()
        take(batch)

    def send(self, packets: list[bytes]) -> None:
        """Queue finished packets."""
        self.client.write(b"".join(packets))


async def breathe(client: Any) -> None:
    """Let the loop do everything else; wait for a client that reads slowly."""
    await asyncio.sleep(0)
    while client.unsent > HIGH_WATER:
        await asyncio.sleep(DRAIN_PAUSE)
