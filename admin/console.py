"""The console: what clients of the virtual `pgbouncer` database talk to.

The one hard idea: a console must never hold up a query of somebody else. Rows are
made a slice at a time and the loop breathes in between; SELECT runs in a thread. So
an answer takes many turns, and a deferred reply (PAUSE from before) that becomes due
meanwhile waits in `late` until the answer is whole.
"""

from __future__ import annotations

import array
import asyncio
import errno
import os
import re
import socket
from collections.abc import Callable, Generator, Iterable
from time import perf_counter
from typing import Any, Final, TypeVar

from admin.commands import (
    ADMIN,
    STATS,
    Asked,
    Deferred,
    Done,
    Gathered,
    Rows,
    reload_failed,
    run,
)
from admin.encode import (
    Value,
    row_description,
    text_rows,
)
from admin.extended import Extended
from admin.grammar import parse
from admin.owed import Owed
from admin.show import TOPICS, App, Row
from admin.sql import Select, reads_a_table
from admin.sqlbounds import LONGEST_QUERY, too_long
from admin.sqlrun import Encode, Run
from admin.turn import Turn
from bouncer import COMPATIBLE_VERSION, carry, log
from bouncer.errors import CommandError, ConfigError, Disconnect
from bouncer.relay.talk import READ, Waiter
from bouncer.wire.codes import Frontend
from bouncer.wire.messages import (
    READY_IDLE,
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
# PgBouncer builds an ErrorResponse and its ReadyForQuery in 512 bytes, and drops
# the connection when they do not fit.
LONGEST_REFUSAL: Final = 512

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
# Known to the protocol, of no use here.
UNSUPPORTED: Final = frozenset(
    {
        int(Frontend.FE_FUNCTION_CALL),
        int(Frontend.FE_COPY_DATA),
        int(Frontend.FE_COPY_DONE),
        int(Frontend.FE_COPY_FAIL),
    }
)

_WELCOME: Final = b"".join(
    parameter_status(name, value)
    for name, value in (
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
        """A CancelRequest named *client*: lift whatever everybody waits for."""
        session = self.sessions.get(client.id)
        if session is not None and session.compiling:
            return  # that ends by itself, and soon
        if session is not None and session.running is not None:
            session.running.cancel()
            return
        if session is None or not session.owing:
            log.warning(f"{client.prefix} admin cancel request for non-waiting client?")
        if self.app.global_mode != "none" and self.app.shutdown_mode is None:
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
        self.owing: set[Owed] = set()
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
            if not self.spoken:
                self.spoken = True
                self.app.console_command(self.client)
            if self.extended.failed and code in UNSUPPORTED | {FE_QUERY}:
                continue  # PostgreSQL protocol: all is dropped until Sync
            if code == FE_QUERY:
                yield from self.query(body)
            elif code in EXTENDED:
                self.answering = True
                yield from self.extended.message(code, body)
                if not self.extended.open:
                    self.answered()
            elif code in UNSUPPORTED:
                text = f"unsupported packet type for admin console: {code}"
                self.refuse(CommandError(text))
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
        text = body if end < 0 else body[:end]
        # A command longer than PgBouncer's buffer is refused as there; SELECT is ours.
        if len(body) + 5 > settings.pkt_buf and not self.is_query(text):
            raise Disconnect("incomplete pkt")
        if end < 0:
            raise Disconnect("incomplete query")
        self.extended.forget_unnamed()
        self.answering = True
        try:
            yield from self.answer(text)
        except CommandError as error:
            self.refuse(error)
        self.answered()

    def answer(self, text: bytes) -> Talk:
        """Carry out one command and send all that it answers."""
        statement = parse(text)
        asked = self.asked(text, self.owe_simple)
        if statement is None:
            if not self.is_query(text):
                raise asked.invalid()
            select = yield from self.compile(text)
            width = len(select.shape)
            found = yield from self.select(
                select, [], lambda rows: text_rows(rows, width)
            )
            self.client.write(row_description(select.shape))
            yield from self.in_slices(found, self.send)
            self.complete(f"SELECT {len(found)}")
            return
        reply = run(statement, asked)
        if isinstance(reply, Rows):
            self.client.write(row_description(reply.shape))
            if reply.topic is TOPICS["FDS"] and self.may_have_descriptors():
                yield from self.hand_over()
            else:
                made = text_rows(self.rows_of(reply), len(reply.shape))
                yield from self.in_slices(made, self.send)
            self.complete(reply.tag)
        elif isinstance(reply, Gathered):
            found = yield reply.rows
            self.client.write(row_description(reply.shape))
            made = text_rows(found, len(reply.shape))
            yield from self.in_slices(made, self.send)
            self.complete(reply.tag)
        elif isinstance(reply, Done):
            yield from self.finish(reply)
            self.complete(reply.tag)
        elif isinstance(reply, Deferred):
            if not reply.owed.gone:
                self.owing.add(reply.owed)
        else:
            yield self.console.end()

    def asked(self, text: bytes, owe: Callable[[str], Owed]) -> Asked:
        """Say who asks."""
        return Asked(self.app, self.client, self.rights, owe, decode_text(text))

    def complete(self, tag: str) -> None:
        """End the answer to one Query."""
        self.client.write(command_complete(tag) + READY_IDLE)

    def refuse(self, error: CommandError) -> None:
        """Log an error and send it, with a ReadyForQuery; or give up on both."""
        self.log_refusal(error)
        data = error_response(error.text, error.sqlstate, "ERROR") + READY_IDLE
        if len(data) > LONGEST_REFUSAL:
            raise Disconnect("failure")
        self.client.write(data)

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
        return Owed(tag, self.pay, lambda owed: None)

    def pay(self, owed: Owed) -> None:
        """Answer what was deferred, between two answers."""
        self.owing.discard(owed)
        data = command_complete(owed.tag) + READY_IDLE
        if self.answering:
            self.late.append(data)
        else:
            self.client.write(data)
            self.client.flush()

    def answered(self) -> None:
        """An answer is whole: what became due meanwhile may follow."""
        self.answering = False
        if self.late:
            self.client.write(b"".join(self.late))
            self.late.clear()

    # Shared by both protocols

    def is_query(self, text: bytes) -> bool:
        """Whether *text* is a SELECT from our tables."""
        begin = text[:LONGEST_QUERY]
        try:
            # A text that is too long may be cut within a character.
            return reads_a_table(
                begin.decode(errors="strict" if begin is text else "ignore")
            )
        except UnicodeDecodeError:
            return False

    def compile(self, text: bytes) -> Generator[Any, Any, Select]:
        """Let a query be checked when it is its turn."""
        if len(text) > LONGEST_QUERY:
            raise too_long()
        self.compiling = True
        try:
            select: Select = yield self.console.turn.compile(text.decode())
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
            self.client.write(notice_response(notice.text, detail=notice.detail))

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

    # Online restart

    def may_have_descriptors(self) -> bool:
        """Whether SHOW FDS carries the descriptors themselves to this client."""
        return self.own_user and self.client.is_unix and not self.client.tls_info

    def hand_over(self) -> Talk:
        """Send each row of SHOW FDS with the descriptor it names."""
        to_ours = carry.is_ours(self.client)
        rows = self.app.fds(to_ours)
        width = len(TOPICS["FDS"].shape)
        # A process of ours is told more, in a column that it alone asks for.
        known = carry.streams(self.app) if to_ours else None
        told: set[Any] = set()
        yield drained(self.client)
        connection = socket.socket(fileno=os.dup(self.client.fd))
        try:
            for row in rows:
                if known is None:
                    packets = text_rows(
                        [row._replace(cancel=signed(row.cancel))], width
                    )
                else:
                    state = carry.state_of(known.get(row.fd), told)
                    packets = text_rows([(*row, state)], width + 1)
                data = b"".join(packets)
                yield from send_with_descriptor(connection, data, row.fd)
            self.app.commands.handed_over = True
            self.app.commands.to_ours = to_ours
        finally:
            connection.close()


def signed(key: int) -> int:
    """Return a cancel key as the int8 that its column is.

    A real PgBouncer writes it unsigned, and reads all above the highest as the highest.
    """
    return key - (1 << 64) if key >= 1 << 63 else key


async def breathe(client: Any) -> None:
    """Let the loop do everything else; wait for a client that reads slowly."""
    await asyncio.sleep(0)
    while client.unsent > HIGH_WATER:
        await asyncio.sleep(DRAIN_PAUSE)


async def drained(client: Any) -> None:
    """Wait until all that was written has left."""
    client.flush()
    while client.unsent:
        await asyncio.sleep(DRAIN_PAUSE)


def send_with_descriptor(connection: socket.socket, data: bytes, fd: int) -> Talk:
    """Send *data* with *fd* attached to its first byte."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
    while data:
        try:
            sent = connection.sendmsg([data], rights, socket.MSG_DONTWAIT)
        except BlockingIOError:
            yield asyncio.sleep(DRAIN_PAUSE)
            continue
        except OSError as error:
            # Either end is gone: the console's, which reading will tell, or the
            # connection's that the row is about.
            if error.errno != errno.EBADF and not isinstance(error, ConnectionError):
                raise
            return
        data = data[sent:]
        rights = []
