# cython: language_level=3, boundscheck=False, wraparound=False, nonecheck=True
"""A server connection: what it may answer, and who gets the answer.

Answers are forwarded as they came. What is counted is what the client is still
owed; the connection may be shared again when nothing is (design D5).
"""

import re

from cython cimport nonecheck
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from bouncer import log
from bouncer.relay.client cimport CL_WAITING, Client
from bouncer.relay.ledger cimport (
    COPY_FAILED, COPY_NONE, EMPTIED, FAKE, FORWARD, NO_ERROR, OURS, PASSES, PROBED,
    REFUSED, SETTLES, STRANGE, SWALLOW, TELLS, Ledger, Owed, is_goal, next_note,
    notes_made)
from bouncer.relay.poller cimport Poller
from bouncer.relay.pool cimport SESSION, STATEMENT, Pool
from bouncer.relay.said import Said
from bouncer.relay.sockets cimport (
    EPOLLIN, EPOLLOUT, SO_ERROR, SOL_SOCKET, getsockopt, socklen_t)
from bouncer.relay.statements cimport (
    NameEntry, NameTable, Pending, Prepared, PreparedSet, Unnamed)
from bouncer.relay.stream cimport Stream, next_id
from bouncer.relay.talk import READ_BYTE
from bouncer.relay.texts cimport (
    DEALLOCATED, NO_ROWS, SOME_ROWS, TOO_MANY, Statement, retire)
from bouncer.relay.tracked cimport (
    TrackedParams, applied, changed, doubted, is_same, means_something, merged,
    parameter_name, respelled, set_batch, sets_unreported, tracked_index, with_own)
from bouncer.wire.codes cimport (
    BE_CLOSE_COMPLETE, BE_COMMAND_COMPLETE, BE_COPY_BOTH, BE_COPY_DATA, BE_COPY_IN,
    BE_DATA_ROW, BE_EMPTY_QUERY, BE_ERROR, BE_NO_DATA, BE_NOTIFICATION,
    BE_PARAMETER_STATUS, BE_READY, FE_BIND, FE_CLOSE, FE_DESCRIBE, FE_EXECUTE,
    FE_FUNCTION_CALL, FE_PARSE, FE_QUERY, FE_SYNC, STATUS_FAILED, STATUS_IDLE,
    STATUS_IN_TRANSACTION)
from bouncer.wire.framer cimport HEADER, be32, buf_size
from bouncer.wire.resets import ANY

cdef enum:
    WHOLE_LIMIT = 65536         # largest message of a server that is looked into whole
    MOST_SEARCHED = 200         # of what is owed, for the name in an error
    LONG_HEAD = 1024            # bytes of a larger one's body that are looked at
    MOST_LEARNT = 200           # rows of learn_query
    LONGEST_LEARNT = 8192       # bytes of one
    ROLLBACK_LENGTH = 13        # of the CommandComplete of a ROLLBACK
    ANSWERS = 1000 * HEADER     # bytes of answers of our own that go out in one send


STATE_NAMES = ("new", "idle", "active", "used", "tested", "being_canceled",
               "active_cancel")

# A statement's name in an error; what stands around it is the language's of the server.
search_name = re.compile(rb"PGBOUNCER_(\d{1,19}\b|(?:none|taken)_[0-9a-f]{16})").search
# What an error says that comes of a statement which no longer fits the tables and types
# that it was parsed with. Not of a missing right (42501) or a portal's name (42P03).
search_stale = re.compile(rb"\0C(?:42(?!501|P03)|XX)").search
# ... or perhaps comes of a type that is another one by now: a value is refused.
search_refused = re.compile(rb"\0C22").search
# CommandComplete with these letters in front is looked at: ALTER, CREATE, DROP, ...
cdef uint8_t[256] LOOKED_AT
LOOKED_AT[0x41] = LOOKED_AT[0x43] = LOOKED_AT[0x44] = 1
cdef bint log_disconnections = True


def configure(bint disconnections):
    """Copy the settings that this module looks at."""
    global log_disconnections
    log_disconnections = disconnections


cdef inline str shown_code(int code):
    return chr(code) if 32 < code < 127 else "?"


cdef dict error_fields(bytes body):
    fields = {}
    for part in body.split(b"\0"):
        if part:
            fields[part[:1]] = part[1:].decode("utf-8", "replace")
    return fields


def error_summary(bytes body not None):
    """"SEVERITY: text" of an ErrorResponse body."""
    fields = error_fields(body)
    return f"{fields.get(b'S', 'ERROR')}: {fields.get(b'M', '')}"


def error_in_full(bytes body not None):
    """"SEVERITY: SQLSTATE: text" of an ErrorResponse body."""
    fields = error_fields(body)
    return (f"{fields.get(b'S', 'ERROR')}: {fields.get(b'C', 'XX000')}: "
            f"{fields.get(b'M', '')}")


cdef bytes parameter_status(Py_ssize_t index, bytes value):
    """A ParameterStatus of ours."""
    cdef bytes body = parameter_name(index) + b"\0" + value + b"\0"
    return b"S" + (len(body) + 4).to_bytes(4, "big") + body


cdef inline int give_back(Server server, Client client) except -1:
    """*client* has no more use for it: others may have it."""
    server.pool.release(server)
    if client.leaving is not None:
        return 0 if client.closed else client.finish()
    if client.held.end > client.held.start and not client.closed \
            and client.server is None and client.state != CL_WAITING:
        client.go_on()
    return 0


cdef class Server(Stream):
    """A connection to PostgreSQL."""

    def __init__(self, Poller poller not None, int fd, app, Pool pool not None):
        self.poller = poller
        self.fd = fd
        self.app = app
        self.pool = pool
        self.id = next_id()
        self.state = SV_LOGIN
        self.phase = PH_CONNECT
        self.status = STATUS_IDLE
        self.connected_at = self.received_at = self.idle_since = poller.now
        self.backend_pid = 0
        self.cancel_key = b""
        self.ledger = Ledger()

    def watch(self, bint connected):
        """Start reading; *connected* is false while the kernel connects."""
        self.poller.add(self, EPOLLIN if connected else EPOLLOUT)

    # Bytes come

    @nonecheck(False)
    cdef int on_events(self, uint32_t events) except -1:
        cdef int error = 0
        cdef socklen_t size = sizeof(int)
        if self.phase == PH_CONNECT:
            getsockopt(self.fd, SOL_SOCKET, SO_ERROR, &error, &size)
            if error == 0:
                self.poller.modify(self, EPOLLIN)
                self.phase = PH_TALK
            self.app.server_connected(self, error)
            return 0
        return Stream.on_events(self, events)

    def talk_phase(self):
        """Messages go to a talk from now on."""
        self.phase = PH_TALK

    def relay_phase(self):
        self.phase = PH_RELAY

    @nonecheck(False)
    cdef Py_ssize_t take(self, const char* p, Py_ssize_t count) except -1:
        cdef Py_ssize_t used = 0
        cdef Py_ssize_t step
        if self.state == SV_ACTIVE_CANCEL:
            return count        # nothing is expected but the end
        while used < count and not self.closed:
            if self.talk is not None:
                step = self.talk_take(p + used, count - used)
                used += step
                if self.talk is not None:
                    return used
                continue
            if self.phase == PH_RELAY:
                step = self.relay(p + used, count - used)
            else:
                step = self.swallow(p + used, count - used)
            if step == 0:
                break
            used += step
        self.behind = 0
        if self.place_due:
            if used < count:
                self.dirty = True       # half a message that nobody asked for
            self.find_place()
        return used

    cdef int find_place(self) except -1:
        """What came behind the last answer has been looked at: go on.

        It must be nobody's answer, or the next client would get it.
        """
        cdef int due = self.place_due
        self.place_due = PLACE_FOUND
        if self.closed or self.client is not None:
            return 0
        if due == PLACE_LOGIN:
            self.pool.login_done(self)
            return 0
        return self.pool.settle(self, due == PLACE_RESET)

    @nonecheck(False)
    cdef Py_ssize_t relay(self, const char* p, Py_ssize_t count) except -1:
        """Forward answers to the client; settle what they answer.

        Returns early, with less than *count*, when the phase or the client changes.
        """
        cdef Py_ssize_t pos = 0         # looked at so far
        cdef Py_ssize_t start = 0       # forwarded so far
        cdef int64_t begun = self.remain    # end of a message that began earlier
        cdef Py_ssize_t part, total
        cdef int code, status
        cdef uint32_t length
        cdef Client client = self.client
        cdef Poller poller = self.poller
        cdef Ledger ledger = self.ledger
        cdef uint64_t forwarded = 0
        cdef int verdict
        cdef Owed* head
        self.idle_since = poller.now
        if client is None:
            return self.unlinked(p, count)
        while pos < count:
            if self.remain:
                part = count - pos
                if part > self.remain:
                    part = self.remain
                pos += part
                self.remain -= part
                if self.skipping:
                    start = pos
                if self.fakes_due and self.remain == 0:
                    self.pass_on(client, p + start, pos - start)
                    start = pos
                    self.answer_fakes()
                continue
            if count - pos < HEADER:
                break
            code = <uint8_t>p[pos]
            length = be32(p + pos + 1)
            if length < 4 or length >= poller.max_packet_size:
                # What stands before it is dropped, but for the rest of a message.
                if start < begun:
                    self.pass_on(client, p + start, begun - start)
                self.end("bad pkt header", True, True, "08P01")
                return count
            total = <Py_ssize_t>length + 1
            if code == BE_DATA_ROW or code == BE_COPY_DATA:
                forwarded += total
                self.remain = total
                self.skipping = False
                continue
            if code == BE_READY:
                if count - pos < total or length != 5:
                    if length != 5:
                        self.pass_on(client, p + start, pos - start)
                        self.end("bad pkt header", True, True, "08P01")
                        return count
                    break
                status = <uint8_t>p[pos + 5]
                self.pool.server_bytes += forwarded + total
                forwarded = 0
                if ledger.is_extra_ready():
                    # It answers a Sync that we thought a COPY had taken.
                    ledger.unsure = False
                    self.close_needed = True
                    pos += total
                    continue
                if ledger.probed:
                    ledger.probed = False
                    self.pass_on(client, p + start, pos - start)
                    start = pos + total
                if self.minds & MAY_RESET and ledger.goals == 1:
                    self.pass_on(client, p + start, pos - start)
                    start = max(pos, start)
                    self.note_silent(client, status)
                if self.minds & UNDONE:
                    self.pass_on(client, p + start, pos - start)
                    start = max(pos, start)
                    self.settle_undone(client, status)
                self.settle_ready()
                if (status != STATUS_IDLE and self.pool.mode == STATEMENT
                        and client.replication == 0):
                    self.status = status
                    if start < begun:
                        self.pass_on(client, p + start, begun - start)
                    self.end("transaction blocks not allowed in statement pooling mode",
                             True, True, "08P01")
                    return count
                pos += total
                # The client's bytes first: what follows may release the server.
                self.pass_on(client, p + start, pos - start)
                start = pos
                self.answer_fakes()
                self.behind = count - pos
                self.on_ready(status)
                if self.client is not client or self.phase != PH_RELAY or self.closed:
                    return pos
                continue
            if (code == BE_PARAMETER_STATUS
                    or (code == BE_COMMAND_COMPLETE
                        and (length <= 10
                             or length == ROLLBACK_LENGTH and self.minds & SET_IN_BLOCK
                             or length >= 14 and (
                                 count - pos == HEADER
                                 or LOOKED_AT[<uint8_t>p[pos + HEADER]])))
                    or code == BE_ERROR):
                # Looked into: needed whole. Of one that is too large for that the
                # first fields must do.
                if count - pos < (
                        total if total <= WHOLE_LIMIT else HEADER + LONG_HEAD):
                    break
                if total > WHOLE_LIMIT:
                    self.note_long(code, p + pos + HEADER)
                elif code == BE_PARAMETER_STATUS:
                    self.note_parameter(p + pos + HEADER, total - HEADER)
                    if self.closed:
                        return count
                elif code == BE_ERROR:
                    if self.lent is not None and self.is_lending_for_query():
                        # That Query would be skipped, and no Sync would follow it.
                        self.end("preparing for DEALLOCATE failed", True, True, "08P01")
                        return count
                    self.note_error(p[pos + HEADER:pos + total])
                else:
                    self.note_tag(p + pos + HEADER, total - HEADER)
            elif (code == BE_EMPTY_QUERY and ledger.count
                    and ledger.at(0).action == EMPTIED):
                self.reworded = DEALLOCATED
            forwarded += total
            self.skipping = False
            self.remain = total
            verdict = ledger.heard(code)
            if verdict == PASSES:
                if self.reworded is not None:
                    self.pass_on(client, p + start, pos - start)
                    start = pos
                    self.skipping = True
                    client.send(<const char*>self.reworded, len(self.reworded))
                    self.reworded = None
                elif code == BE_COPY_IN and client.leaving is not None \
                        and not ledger.copy_end_asked():
                    # Data that it waits for will never come.
                    self.pass_on(client, p + start, pos - start)
                    client.end(client.leaving, False, "08P01")
                    return count
                continue
            if verdict != SETTLES:
                if verdict == TELLS:
                    if count - pos < total and total <= WHOLE_LIMIT:
                        forwarded -= total
                        self.remain = 0
                        break           # looked at whole
                    if total <= WHOLE_LIMIT:
                        self.note_types(p[pos + HEADER:pos + total])
                    if ledger.at(0).action != SWALLOW:
                        continue
                self.pass_on(client, p + start, pos - start)
                start = pos
                if verdict == STRANGE:
                    self.remain = 0
                    log.error(f"{self.prefix} unknown pkt: '{shown_code(code)}'")
                    self.end("unknown pkt", True, True, "08P01")
                    return count
                self.skipping = True
                if verdict == PROBED:
                    if code == BE_ERROR:
                        self.close_needed = True    # it is in no state to be shared
                    continue
                if verdict != OURS:
                    continue
                if ledger.at(0).action == REFUSED:
                    # It takes anything: no PostgreSQL.
                    client.send(<const char*>TOO_MANY, len(TOO_MANY))
            head = ledger.at(0)
            if head.kind == FE_BIND:
                self.bound = head.about
            if head.note != NULL:
                self.note_settled(head, code)
            ledger.pop()
            # What we answer ourselves goes behind this message.
            self.fakes_due = ledger.answer_is_ours()
        self.pool.server_bytes += forwarded
        if pos > start:
            self.pass_on(client, p + start, pos - start)
        if client.leaving is not None and ledger.is_skipping() and not self.closed:
            client.finish()
            return pos
        if self.held_up and (
                self.held_up & AWAITED or ledger.count < MOST_OWED // 2
                or ledger.is_skipping()):
            # Of a group that has failed no more is answered before its Sync.
            self.poller.later.append(client.pump)
        return pos

    @nonecheck(False)
    cdef int pass_on(self, Client client, const char* p, Py_ssize_t count) except -1:
        """Send to the client; stop reading this server while it cannot take more."""
        if count > 0:
            if client.leaving is not None:
                client.told_since = True
            if client.send(p, count):
                self.pause_reading()
        return 0

    cdef bint can_answer_now(self) except -1:
        """May an answer of our own go out before anything else the server says?"""
        return (self.ledger.count == 0 and self.remain == 0
                and self.ledger.reach == NO_ERROR)

    cdef int crowd(self) except -1:
        """The client asks without end: wait until half of it is answered.

        PostgreSQL may be waiting for a Flush before it answers at all.
        """
        self.client.pause_reading()
        if self.held_up & CROWDED:
            return 0
        self.held_up |= CROWDED
        return self.send(b"H\0\0\0\4", 5)

    cdef bint is_certain(self, Prepared* item) except -1:
        """Will the server have this statement when it reads what we send now?

        Not when its Parse stands before a Sync and is not answered yet: it may fail,
        and the server goes on behind the Sync. Nor when DISCARD ALL is on its way.
        """
        return (item.seen or item.group == self.ledger.group) and (
            not self.forgetting or not self.is_forgetting()
            or item.made > self.forgetting)

    cdef bint is_forgetting(self) except -1:
        """Is a request unanswered that may make it forget statements?"""
        if self.forgetting and (self.ledger.count == 0
                                or self.ledger.is_settled(self.forgetting)):
            self.forgetting = 0
        return self.forgetting != 0

    cdef int owe_fake(self, int code, Pending pending) except -1:
        """Answer *code* ourselves, behind what the server is saying or owes."""
        self.ledger.push(code, FAKE, pending)
        if self.ledger.count == 1 and self.ledger.reach == NO_ERROR:
            self.fakes_due = True
        return 0

    cdef int note_settled(self, Owed* head, int code) except -1:
        """*code* is about to settle the head: a Parse is now known to have worked."""
        cdef Pending pending
        if head.kind == FE_DESCRIBE:
            pending = <Pending>head.note
            if pending.about is not None:
                pending.about.rows = NO_ROWS if code == BE_NO_DATA else SOME_ROWS
            return 0
        if (head.kind == FE_PARSE and self.prepared is not None and not head.about):
            pending = <Pending>head.note
            if pending.statement is None:
                return 0
            item = self.prepared.find(pending.statement)
            if item != NULL and item.group == pending.group:
                item.seen = True
        return 0

    cdef int note_types(self, bytes types) except -1:
        """A ParameterDescription has come for a statement of which we have none."""
        cdef Owed* head = self.ledger.at(0)
        cdef Pending pending
        if head.note != NULL:
            pending = <Pending>head.note
            if pending.about is not None:
                pending.about.learn_types(types)
        return 0

    cdef int copy_given_up(self) except -1:
        """The client ends an extended COPY that has failed."""
        cdef Ledger ledger = self.ledger
        cdef uint32_t i
        ledger.copy = COPY_NONE
        if ledger.count < 2:
            return 0                    # its server may have answered it once more
        for i in range(ledger.count - 1, 0, -1):
            ledger.unsure |= ledger.at(i).kind == FE_SYNC
            self.skipped(i)
        ledger.cut(ledger.count - 1)
        return 0

    cdef int probe(self) except -1:
        """Ask for an answer that tells whether the server can be shared.

        It tells whether one more ReadyForQuery comes before it; and whether a Query can
        be run: behind extended messages and a Query without a Sync between PostgreSQL
        18 may still be in a transaction that it has told to be over.
        """
        cdef bytes packet = b"Q\0\0\0\5\0"
        if self.lent is not None and self.ledger.unsure:
            self.close_needed = True    # whose would their answers be?
        elif self.lent is not None:
            packet = self.take_back() + packet
        self.lent = None
        self.ledger.push(FE_QUERY, SWALLOW, None)
        self.ledger.unsure = self.ledger.probed = self.ledger.mixed = False
        self.ledger.unsynced = False
        self.unnamed = 0                # a Query destroys it
        return self.send(<const char*>packet, len(packet))

    cdef bytes take_back(self):
        """What closes that which was lent (Client.lend) and not deallocated."""
        cdef bytes packet = b""
        for name in set(self.lent or ()):
            if name is not None:
                size = (len(name) + 6).to_bytes(4, "big")
                packet += b"C" + size + b"S" + name + b"\0"
                self.ledger.push(FE_CLOSE, SWALLOW, None)
        self.lent = None
        return packet

    cdef bint is_lending_for_query(self) except -1:
        """Does it still prepare what is lent for a Query?"""
        cdef uint32_t i = 0
        while i < self.ledger.count and self.ledger.at(i).action == SWALLOW:
            i += 1
        return 0 < i < self.ledger.count and self.ledger.at(i).kind == FE_QUERY

    cdef int note_deallocated(self, Client client) except -1:
        """PostgreSQL has run the next DEALLOCATE of those that names are lent for."""
        cdef bytes name = self.lent.pop(0)
        cdef NameEntry* entry
        if name is None or client is None or client.names is None:
            return 0
        entry = client.names.entry_of(name, len(name))
        if (entry != NULL and self.ledger.count
                and entry.made <= self.ledger.at(0).behind):
            client.names.take_out(name, len(name))
        return 0

    @nonecheck(False)
    cdef int settle_ready(self) except -1:
        """ReadyForQuery: settle what it answers, and what was skipped before it."""
        cdef Ledger ledger = self.ledger
        cdef bint failed = ledger.reach != NO_ERROR
        cdef uint32_t count
        cdef set unborn
        if not failed and ledger.count == 1 and is_goal(ledger.at(0).kind):
            ledger.spoke = False        # nearly always
            ledger.copy = COPY_NONE
            ledger.pop()
            return 0
        count = ledger.settled_by_ready()
        if failed:
            self.undo_unnamed(count)
        unborn = self.undo(count, failed)
        while count:
            ledger.pop()
            count -= 1
        return 0 if unborn is None else self.bury(unborn)

    cdef set undo(self, uint32_t count, bint failed):
        """Undo what was to be done for those of *count* entries that were skipped.

        From the last to the first: each was done on top of those before. Gives the
        numbers of Parses whose names are closed already, or None.
        """
        cdef Ledger ledger = self.ledger
        cdef set unborn = None
        cdef uint32_t i
        for i in range(count, 0, -1):
            if i == count and is_goal(ledger.at(i - 1).kind):
                continue                # answered by this very message
            if not failed and ledger.at(i - 1).kind == FE_CLOSE \
                    and ledger.at(i - 1).action == SWALLOW:
                ledger.late_closes += 1
            elif self.skipped(i - 1):
                unborn = set() if unborn is None else unborn
                unborn.add((<Pending>ledger.at(i - 1).note).number)
        return unborn

    cdef int bury(self, set unborn) except -1:
        """These Parses have failed: a later Close that is skipped brings back none."""
        cdef Owed* entry
        cdef uint32_t i
        for i in range(self.ledger.count):
            entry = self.ledger.at(i)
            if (entry.kind == FE_CLOSE and entry.action == FAKE and entry.note != NULL
                    and (<Pending>entry.note).made in unborn):
                (<Pending>entry.note).statement = None
        return 0

    cdef int skipped(self, uint32_t index) except -1:
        """A request that the server never answered: undo what it was to do.

        1 for a Parse whose name has been closed by a request that is owed, perhaps.
        """
        cdef Owed* entry = self.ledger.at(index)
        cdef Pending pending
        cdef Client client = self.client
        if entry.note == NULL:
            return 0
        if isinstance(<object>entry.note, Unnamed):
            return 0                # see undo_unnamed
        pending = <Pending>entry.note
        if pending.statement is None:
            return 0                # nothing to bring back
        if entry.kind == FE_PARSE:
            if entry.action != FAKE and self.prepared is not None:
                item = self.prepared.find(pending.statement)
                if item != NULL and item.group == pending.group:
                    self.prepared.discard(pending.statement)
            if (pending.name is not None and client is not None
                    and client.names is not None):
                # The statement does not exist: its name is free again.
                return not client.names.parse_failed(pending.name, pending.statement)
        elif entry.action == SWALLOW:
            if pending.made <= self.ledger.forgotten:
                return 0
            # Our Close of an evicted statement: it is still there.
            if self.prepared is None:
                self.prepared = PreparedSet()
            if self.prepared.find(pending.statement) == NULL:
                self.prepared.add(pending.statement, pending.seen, pending.group,
                                  pending.number, True)
        elif (client is not None and pending.name is not None
                and pending.made > client.forgotten):
            if client.names is None:
                client.names = NameTable()
            if client.names.entry_of(pending.name, len(pending.name)) == NULL:
                client.names.put(
                    pending.name, pending.statement, pending.number, True)
        return 0

    cdef int undo_unnamed(self, uint32_t count) except -1:
        """*count* entries end with an error: what of the unnamed statement was skipped?

        The first of them may be a Parse that was refused: it has destroyed what was
        there. All others have changed nothing, for the server or for the client, whose
        later requests bring back, should they be skipped, what was before these.
        """
        cdef Ledger ledger = self.ledger
        cdef Owed* entry
        cdef Unnamed before = None
        cdef uint64_t last = 0          # the latest change of the client among them
        cdef uint32_t i
        for i in range(count, 0, -1):
            entry = ledger.at(i - 1)
            if i == 1 and entry.kind == FE_PARSE and entry.about:
                if self.unnamed == entry.about:
                    self.unnamed = 0
                if entry.action == FORWARD:
                    before = Unnamed.__new__(Unnamed)
                    before.changed = entry.about
                    last = last or entry.about
            elif (entry.note != NULL and isinstance(<object>entry.note, Unnamed)
                    and not (i == count and is_goal(entry.kind))):
                before = <Unnamed>entry.note
                if self.unnamed == before.server_after:
                    self.unnamed = before.server
                last = last or before.change
        return self.unnamed_was(last, before, count) if last else 0

    cdef int unnamed_was(self, uint64_t change, Unnamed before,
                         uint32_t behind) except -1:
        """What *change* has made is as *before*, for what is owed from *behind* on."""
        cdef Client client = self.client
        cdef Unnamed later
        cdef Owed* entry
        cdef uint32_t i
        for i in range(behind, self.ledger.count):
            entry = self.ledger.at(i)
            if entry.note == NULL or not isinstance(<object>entry.note, Unnamed):
                continue
            later = <Unnamed>entry.note
            if later.changed == change:
                later.changed = before.changed
                later.client = before.client
                later.text = before.text
        if client is None or client.unnamed_change != change:
            return 0
        client.unnamed_change = before.changed
        client.unnamed = before.client
        if before.text is None:
            return client.keep_unnamed(NULL, 0)
        return client.keep_unnamed(
            <const char*>before.text.text, len(before.text.text))

    @nonecheck(False)
    cdef int answer_fakes(self) except -1:
        """Answer, in order, what the server was not asked.

        There may be thousands: they go out together, or each costs a system call.
        """
        cdef char answers[ANSWERS]
        cdef Client client = self.client
        cdef int kind, size = 0
        self.fakes_due = False
        while self.ledger.answer_is_ours():
            kind = self.ledger.at(0).kind
            if kind == FE_PARSE or kind == FE_CLOSE:
                if size == ANSWERS:
                    if client is not None:
                        client.send(answers, size)
                    size = 0
                memcpy(answers + size, b"1\0\0\0\4" if kind == FE_PARSE
                       else b"3\0\0\0\4", HEADER)
                size += HEADER
            self.ledger.pop()
        if size and client is not None:
            client.send(answers, size)
        return 0

    cdef int on_ready(self, int status) except -1:
        """The server waits for a request: is the client's query, or more, over?"""
        cdef Client client = self.client
        cdef Pool pool = self.pool
        cdef int64_t now
        self.status = status
        if self.minds:
            self.minds &= ~(HAS_RESET | UNDONE)
            if self.said is not None:
                self.said.ready(status == STATUS_IDLE)
            if self.minds & SET_IN_BLOCK and status == STATUS_IDLE:
                self.minds ^= SET_IN_BLOCK
                self.said.leave_block()
        if self.ledger.count:
            if client.leaving is not None and self.ledger.goals == 0:
                return client.finish()
            return 0
        self.evicting = 0
        if self.minds & MAY_RESET:
            self.minds ^= MAY_RESET
            self.said.answered(status == STATUS_IDLE)
        if self.held_up:
            if (self.held_up & AWAITED and pool.mode != SESSION
                    and not client.replication):
                self.release_due = True     # it has more to say, which waited for this
            self.poller.later.append(client.pump)
        if self.ledger.unsure and client.sent_whole():
            return self.probe()
        now = self.poller.now
        self.ledger.ready = status == STATUS_IDLE
        if client.query_start:
            pool.query_us += now - client.query_start
            client.query_start = 0
        if status != STATUS_IDLE:
            if client.leaving is not None:
                return client.finish()
            if self.minds & PUT_BACK and status != STATUS_FAILED:
                self.put_back(client)
            return 0
        if self.changing:
            self.changing = False
            self.pool.changes.latest = next_note()  # only now others see it, or no more
        if client.transaction_start:
            pool.transaction_us += now - client.transaction_start
            client.transaction_start = 0
        if self.minds & (PUT_BACK | LEARN) and self.mend_values(client):
            return 0
        if (pool.mode == SESSION or client.replication) and (
                client.leaving is None or not self.ledger.mixed):
            return 0 if client.leaving is None else client.finish()
        if not client.sent_whole():
            self.release_due = True     # half a message is on its way to us
        if self.release_due:
            return 0
        if self.ledger.mixed:
            return self.probe()
        return give_back(self, client)

    cdef Py_ssize_t unlinked(self, const char* p, Py_ssize_t count) except -1:
        """An idle connection spoke (server sheet 8)."""
        cdef Py_ssize_t pos = 0
        cdef uint32_t length
        cdef int code
        while count - pos >= HEADER:
            code = <uint8_t>p[pos]
            length = be32(p + pos + 1)
            if length < 4 or length > WHOLE_LIMIT:
                self.end("bad pkt header", True, False, "08P01")
                return count
            if count - pos < <Py_ssize_t>length + 1:
                break
            if code == BE_CLOSE_COMPLETE and self.ledger.late_closes:
                self.ledger.late_closes -= 1
                pos += <Py_ssize_t>length + 1
                continue
            if not self.dirty:
                log.warning(f"{self.prefix} got packet '{shown_code(code)}' "
                            "from server when not linked")
            if code != BE_NOTIFICATION:
                self.dirty = True
            if code == BE_PARAMETER_STATUS:
                self.note_parameter(p + pos + HEADER, length - 4)
            elif code == BE_ERROR:
                self.note_end(p[pos + HEADER:pos + 1 + <Py_ssize_t>length])
            self.pool.server_bytes += length + 1
            pos += <Py_ssize_t>length + 1
        return pos

    # Queries of our own: SETs, reset, check

    cdef int ask(self, bytes query, int phase) except -1:
        """Send simple Queries whose answers are ours; a NUL stands between two."""
        cdef bytes packet = b""
        cdef list parts = [query] if phase == PH_APPLY else query.split(b"\0")
        for part in parts:
            packet += b"Q" + (len(part) + 5).to_bytes(4, "big") + part + b"\0"
        self.phase = phase
        self.error = None
        self.asked_status = self.status
        self.unnamed = 0                # a Query destroys it
        self.ledger.ready = False
        self.asked = len(parts)
        self.send(<const char*>packet, len(packet))
        return 0

    cdef Py_ssize_t swallow(self, const char* p, Py_ssize_t count) except -1:
        """Read the answers to our own query; none of them goes to a client."""
        cdef Py_ssize_t pos = 0
        cdef Py_ssize_t part, total
        cdef uint32_t length
        cdef int code
        self.idle_since = self.poller.now
        while pos < count and not self.closed:
            if self.remain:
                part = count - pos
                if part > self.remain:
                    part = self.remain
                pos += part
                self.remain -= part
                continue
            if count - pos < HEADER:
                break
            code = <uint8_t>p[pos]
            length = be32(p + pos + 1)
            if (length < 4 or length >= self.poller.max_packet_size
                    or (code == BE_READY and length != 5)):
                self.end("bad pkt header", True, True, "08P01")
                return count
            total = <Py_ssize_t>length + 1
            if (code == BE_READY or code == BE_ERROR or code == BE_PARAMETER_STATUS
                    or code == BE_COMMAND_COMPLETE
                    or (code == BE_DATA_ROW and self.phase == PH_LEARN)):
                part = total if total <= WHOLE_LIMIT else HEADER + LONG_HEAD
                if count - pos < part:
                    break
                if code == BE_DATA_ROW:
                    self.note_row(p + pos + HEADER, part - HEADER)
                elif code == BE_ERROR:
                    if self.error is None:
                        self.error = p[pos + HEADER:pos + part]
                        self.note_end(self.error)
                elif total > WHOLE_LIMIT:
                    self.note_long(code, p + pos + HEADER)
                elif code == BE_PARAMETER_STATUS:
                    self.note_parameter(p + pos + HEADER, total - HEADER)
                elif code == BE_COMMAND_COMPLETE:
                    self.note_tag(p + pos + HEADER, total - HEADER)
                else:
                    self.pool.server_bytes += total
                    self.status = <uint8_t>p[pos + HEADER]
                    pos += total
                    if self.asked > 1:
                        self.asked -= 1
                        continue
                    self.behind = count - pos
                    self.finish_asking()
                    return pos
            elif code == BE_CLOSE_COMPLETE and self.ledger.late_closes:
                self.ledger.late_closes -= 1
            elif code == BE_COPY_IN or code == BE_COPY_BOTH:
                self.copy_asked()
                return count
            self.pool.server_bytes += total
            self.remain = total
        return pos

    cdef int copy_asked(self) except -1:
        """A query of ours begins a COPY: its server would wait for data for ever."""
        cdef str name = ("server_reset_query" if self.phase == PH_RESET else
                         "server_check_query" if self.phase == PH_CHECK else
                         "setting or asking for parameters")
        cdef str reason = ("reset query failed" if self.phase == PH_RESET else
                           "test query failed" if self.phase == PH_CHECK else
                           "invalid server parameter")
        log.warning(f"{self.prefix} {name} was answered by a request for COPY data")
        return self.end(reason, True, True, "08P01")

    cdef int finish_asking(self) except -1:
        """Our query is answered: go on with what it was for."""
        self.use_answer()
        return self.look_at_cancels() if self.keeps_cancels else 0

    cdef int look_at_cancels(self) except -1:
        """Cancel requests were kept while a query of ours was run."""
        self.keeps_cancels = False
        self.app.cancels.look_again(self)
        return 0

    cdef int use_answer(self) except -1:
        cdef int phase = self.phase
        cdef Client client = self.client
        self.phase = PH_RELAY
        if phase == PH_APPLY:
            if self.error is not None or self.status != self.asked_status:
                return self.set_failed(client)
            self.ledger.ready = self.status == STATUS_IDLE
            self.error = None
            if client is not None:
                self.tracked = applied(self.tracked, client.tracked, self.told())
                self.equal_to = merged(self.tracked, client.tracked)
                client.at_login = respelled(
                    client.at_login, client.tracked, self.equal_to)
                client.tracked = self.equal_to
                client.set_twice = False
                client.go_on()
            return 0
        if phase == PH_LEARN:
            return self.take_learnt(client)
        if self.error is not None:
            name = "server_reset_query" if phase == PH_RESET else "server_check_query"
            log.warning(f"{self.prefix} {name} was refused: "
                        f"{error_in_full(self.error)}")
        if self.status != STATUS_IDLE or (phase == PH_RESET and self.error is not None):
            # What the last client has set is still there.
            return self.end("reset query failed" if phase == PH_RESET
                            else "test query failed", True, False, "08P01")
        self.error = None
        self.ledger.ready = True
        # After a reset the place is looked for again, the reset left out.
        if self.behind:
            self.place_due = PLACE_RESET
            return 0
        return self.pool.settle(self, True)

    cdef int set_failed(self, Client client) except -1:
        """Our SETs have met an error: is it about a value, or about this server?

        PostgreSQL refuses a value with an SQLSTATE of class 22, 42 or 25: its client
        cannot be served. Any other says that the server is in no state to be used: the
        client gets another one, once.
        """
        cdef bytes code = b""
        log.error("varcache_apply failed: "
                  + ("ERROR: " if self.error is None else error_summary(self.error)))
        if self.error is not None:
            code = self.error.partition(b"\0C")[2][:2]
        if (client is not None and self.error is not None
                and self.status == self.asked_status
                and code in (b"22", b"42", b"25")
                and sets_unreported(client.tracked, self.tracked, self.told())):
            return self.refuse_value(client, self.error)
        if (client is None or client.set_twice or client.leaving is not None
                or self.asked_status != STATUS_IDLE or self.error is None
                or code in (b"22", b"42", b"25") or self.pool.mode == SESSION):
            return self.end("invalid server parameter", True, True, "08P01")
        client.set_twice = True
        client.server = None
        self.client = None
        self.pool.wait_again(client)
        return self.end("invalid server parameter", True, False, "08P01")

    cdef int note_parameter(self, const char* p, Py_ssize_t count) except -1:
        """A ParameterStatus: remember it if it is tracked, for both sides."""
        cdef bytes body = p[:count]
        cdef list parts = body.split(b"\0", 2)
        cdef Client client = self.client
        if len(parts) < 3:
            return self.end("broken ParameterStatus packet", True, True, "08P01")
        index = tracked_index(parts[0])
        if index is None or self.tracked is None:
            return 0
        before = self.tracked.scope
        value = parts[1]
        self.tracked = changed(self.tracked, index, value)
        self.equal_to = None
        if self.minds & UNDONE and self.is_undone(index, value):
            self.reworded = b""         # told with ReadyForQuery, if at all
            return 0
        if self.minds & (HAS_RESET | MAY_RESET) and self.note_reset(index, value):
            return 0
        if (client is not None and client.tracked is not None
                and self.phase == PH_RELAY
                and client.tracked.values[index] == value):
            self.reworded = b""         # it knows; only the server had another one
        if (client is not None and client.tracked is not None
                and self.phase == PH_RELAY and means_something(index, value)):
            client.tracked = changed(client.tracked, index, value)
            if self.minds & SET_IN_BLOCK and self.is_undone(index, value):
                self.said.chosen.add(index)
            if not self.minds & PUT_BACK:
                self.equal_to = client.tracked
        if self.prepared is not None and self.tracked.scope != before:
            self.note_scope()
        return 0

    cdef int note_long(self, int code, const char* p) except -1:
        """Look at the first LONG_HEAD bytes of a body that is too large to wait for.

        An error's SQLSTATE stands there, and a parameter's name. Where they do not,
        or the value would count, nobody else gets the connection.
        """
        cdef bytes head = p[:LONG_HEAD]
        if code == BE_ERROR and 0 <= head.find(b"\0C") < LONG_HEAD - 7:
            self.note_error(head)
            if self.reworded is not TOO_MANY:
                self.reworded = None    # the rest of it goes out as it is
            return 0
        if (code == BE_PARAMETER_STATUS and b"\0" in head
                and tracked_index(head.split(b"\0", 1)[0]) is None):
            return 0
        self.close_needed = True
        return 0

    cdef bint note_reset(self, Py_ssize_t index, bytes value) except -1:
        """Does this value come of a RESET or DISCARD ALL of the client?

        Then it is the server's, and the client has its own again, of its startup packet
        (PostgreSQL: a reset goes back to what the session began with). It is told that,
        where it has had another; before its next request the server is told, too.
        """
        cdef Client client = self.client
        cdef bytes own
        if (client is None or client.at_login is None or self.at_login is None
                or client.tracked is None or self.phase != PH_RELAY
                or value != self.at_login.values[index]):
            return False
        own = client.at_login.values[index]
        if own is None or is_same(index, own, value) or not self.is_reset(index):
            return False
        self.reworded = b""
        if client.tracked.values[index] != own:
            self.reworded = parameter_status(index, own)
        client.tracked = changed(client.tracked, index, own)
        self.minds |= PUT_BACK
        return True

    cdef bint is_reset(self, Py_ssize_t index) except -1:
        """Has the server told of a parameter because its client has reset it?

        What texts say counts for the last request that is owed: none is sent behind
        it. Where they leave it open we believe that it has.
        """
        if not self.minds & MAY_RESET or self.ledger.goals > 1:
            if self.minds & HAS_RESET and self.said is not None:
                self.said.told.add(index)
            return self.minds & HAS_RESET != 0
        word = self.said.last_word(parameter_name(index))
        if word is None or not word.is_reset:
            return False
        if word.is_local:
            self.said.local.add(index)
        elif word.is_committed:
            self.said.committed.add(index)
        return True

    cdef bint is_undone(self, Py_ssize_t index, bytes value) except -1:
        """Is it what a ROLLBACK leaves of what we have set behind a reset?"""
        return (self.at_login is not None and self.phase == PH_RELAY
                and index in self.said.in_block
                and value == self.at_login.values[index])

    cdef int note_silent(self, Client client, int status) except -1:
        """Give the client its own of what it has reset, where the server tells nothing.

        PostgreSQL tells of a change: there was none where the client had set what the
        server has by itself. Now it is answered; an error has undone it.
        """
        cdef Py_ssize_t index
        if (self.ledger.reach != NO_ERROR or status == STATUS_FAILED
                or client.at_login is None or self.at_login is None
                or client.tracked is None or self.tracked is None):
            return 0
        for index in range(len(client.at_login.values)):
            own, theirs = client.at_login.values[index], self.at_login.values[index]
            if (own is None or theirs is None or is_same(index, own, theirs)
                    or client.tracked.values[index] == own
                    or self.tracked.values[index] != theirs):
                continue
            word = self.said.last_word(parameter_name(index))
            if word is None or not word.is_reset or word.name == ANY:
                continue
            if word.is_local:
                if status == STATUS_IDLE:
                    continue            # it ended with its transaction
                self.said.local.add(index)
            elif word.is_committed:
                self.said.committed.add(index)
            self.give_own(client, index, own)
        return 0

    cdef int give_own(self, Client client, Py_ssize_t index, bytes own) except -1:
        """A parameter of the client is as its startup packet said: tell it."""
        cdef bytes told = parameter_status(index, own)
        client.tracked = changed(client.tracked, index, own)
        self.minds |= PUT_BACK
        return self.pass_on(client, <const char*>told, len(told))

    cdef int say(self, bytes text, bint is_query) except -1:
        """*text* is sent, or run by a portal: it may reset what its client has set.

        Behind what is still unanswered a block may be open.
        """
        if self.said is None:
            self.said = Said()
        self.said.say(text, is_query,
                      self.status != STATUS_IDLE or self.ledger.goals > 0)
        self.minds |= MAY_RESET
        return 0

    cdef bint mend_values(self, Client client) except -1:
        """Its client has set or reset something, and all is answered.

        Gives whether the server is being asked what that was. Who keeps it has its own
        values again; who gives it back has them on its next one.
        """
        if self.minds & LEARN:
            return client.sent_whole() and self.learn(client)
        if client.leaving is None and (self.pool.mode == SESSION or self.release_due):
            self.put_back(client)
        return False

    cdef int put_back(self, Client client) except -1:
        """Its client keeps this server: it must have the client's values again.

        Where it has reset one up to the end of the transaction, it is set so.
        """
        cdef bytes batch = None
        cdef set local = None if self.said is None else self.said.take_local()
        cdef set committed = None if self.said is None else self.said.take_committed()
        self.minds &= ~PUT_BACK
        if client.tracked is not None and self.tracked is not None:
            batch = set_batch(client.tracked, self.tracked, self.told(), local)
        if batch is not None:
            if committed and self.status != STATUS_IDLE:
                self.note_block(client, committed)
            client.held_back = True
            client.pause_reading()
            self.ask(batch, PH_APPLY)
        return 0

    cdef int note_block(self, Client client, set committed) except -1:
        """What is set now is undone with its transaction; its reset is not."""
        for index in committed:
            if client.tracked.values[index] is not self.tracked.values[index]:
                self.said.in_block.add(index)
                self.minds |= SET_IN_BLOCK
        return 0

    cdef int settle_undone(self, Client client, int status) except -1:
        """What we set behind a reset is undone: the client has its own all the same.

        Behind ROLLBACK TO it may be what the client has set itself before.
        """
        if client.at_login is None or self.at_login is None or client.tracked is None:
            return 0
        for index in self.said.in_block:
            own, theirs = client.at_login.values[index], self.at_login.values[index]
            if own is None or self.tracked.values[index] != theirs:
                continue
            if status == STATUS_IN_TRANSACTION and index in self.said.chosen:
                own = theirs
            if client.tracked.values[index] != own:
                told = parameter_status(index, own)
                client.tracked = changed(client.tracked, index, own)
                self.pass_on(client, <const char*>told, len(told))
            if own is not theirs:
                self.minds |= PUT_BACK
                if status != STATUS_IDLE:
                    self.said.committed.add(index)
        return 0

    # What it does not report

    cdef TrackedParams told(self):
        """What its login has told; from another PgBouncer, what logins tell here."""
        return self.pool.defaults if self.at_login is None else self.at_login

    cdef int note_discarded(self, Client client) except -1:
        """DISCARD ALL of the client: what is not reported is as at first.

        The client has its own values of the startup packet again, before its next
        request.
        """
        cdef TrackedParams told = self.told()
        if (client is None or client.tracked is None or client.at_login is None
                or self.tracked is None or told is None or self.phase != PH_RELAY):
            return 0
        self.tracked = with_own(self.tracked, None, told)
        client.tracked = with_own(client.tracked, client.at_login, told)
        self.equal_to = None
        self.minds |= PUT_BACK
        self.minds &= ~(LEARN | LEARN_RESET)
        return 0

    cdef bint learn(self, Client client) except -1:
        """Ask what its client has set or reset, before anybody else has it.

        Whoever leaves meanwhile does not end it: the next client hangs on it, too.
        """
        if self.ledger.mixed and self.pool.mode != SESSION:
            return False                # it is probed first
        self.minds &= ~LEARN
        if (self.tracked is None or client.tracked is None or client.replication
                or self.told() is None or self.pool.learn_query is None):
            return False
        client.held_back = True
        client.pause_reading()
        self.learnt = []
        self.ask(self.pool.learn_query, PH_LEARN)
        return True

    cdef int note_row(self, const char* p, Py_ssize_t count) except -1:
        """A row of learn_query: name, value, and whether the session has set it."""
        cdef list row = []
        cdef Py_ssize_t at = 2
        cdef uint32_t size
        if count > LONGEST_LEARNT or self.learnt is None:
            return 0
        while at + 4 <= count and len(row) < 3:
            size = be32(p + at)
            at += 4
            if size == 0xFFFFFFFF:
                row.append(None)
                continue
            if size > <size_t>(count - at):
                break
            row.append(p[at:at + <Py_ssize_t>size])
            at += size
        if len(row) == 3 and len(self.learnt) < MOST_LEARNT:
            self.learnt.append(row)
        return 0

    cdef int take_learnt(self, Client client) except -1:
        """Note what the client has set: it has it on its next server, too.

        What it has reset is as its startup packet said.
        """
        cdef TrackedParams told = self.told()
        cdef dict known = {}
        self.ledger.ready = self.status == STATUS_IDLE
        if self.error is not None or not self.ledger.ready:
            log.warning(f"{self.prefix} asking for parameters was refused: "
                        + ("no error" if self.error is None
                           else error_in_full(self.error)))
            self.close_needed = True
        for name, value, source in self.learnt:
            index = None if name is None else tracked_index(name)
            if index is None or told.values[index] is not None:
                continue
            if source is None and (value is None or (
                    not value and self.minds & LEARN_RESET)):
                value = None
            elif source is not None and source != b"session":
                value = None
            known[index] = value
            if client is None or client.tracked is None:
                continue
            if value is None and client.at_login is not None:
                client.tracked = changed(
                    client.tracked, index, client.at_login.values[index])
            elif value is None or means_something(index, value):
                client.tracked = changed(client.tracked, index, value)
        self.tracked = doubted(self.tracked, told, known)
        self.learnt = None
        self.error = self.equal_to = None
        self.minds &= ~LEARN_RESET
        if client is None:
            return self.pool.release(self)
        if self.pool.mode == SESSION or self.release_due or not self.ledger.ready:
            if client.leaving is not None:
                return client.finish()
            self.put_back(client)
            return 0 if self.phase == PH_APPLY else client.go_on()
        client.held_back = False
        return give_back(self, client)

    cdef int refuse_value(self, Client client, bytes body) except -1:
        """A value of the client's startup packet is refused: by PostgreSQL's own words.

        Nothing has been set then; the server is as it was, and goes to the next.
        """
        fields = error_fields(body)
        self.ledger.ready = self.status == STATUS_IDLE
        self.error = None
        client.server = None
        self.client = None
        client.end(fields.get(b"M", "invalid server parameter"), True,
                   fields.get(b"C", "22023"))
        return self.pool.release(self)

    cdef int note_scope(self) except -1:
        """What a statement means has changed: by a request that is being answered.

        Of a statement parsed behind it, or with it, nobody knows which of the two
        it means. It stays with its client.
        """
        if not self.close_needed and self.prepared.has_since(
                self.ledger.group - self.ledger.syncs):
            self.close_needed = True
        return 0

    cdef int note_error(self, bytes body) except -1:
        """FATAL, PANIC and out of memory: nobody else shall have this server."""
        if self.minds & SET_IN_BLOCK:
            self.minds |= UNDONE
        if (b"\0VFATAL\0" in body or b"\0VPANIC\0" in body
                or body.startswith((b"SFATAL\0", b"SPANIC\0"))):
            self.fatal = self.close_needed = True
            self.note_end(body)
            return 0
        if b"\0C53200\0" in body:
            self.close_needed = True
        return self.reword(body)

    cdef int reword(self, bytes body) except -1:
        """Say an error about a statement with the name that the client gave it.

        One that contradicts what we know must not come for ever. 26000: a statement is
        gone, by SQL; 42P05: there is one that we do not know. From now on a Close goes
        before each Parse, and each is parsed again.
        """
        cdef int kind
        cdef Owed* head
        if self.ledger.count == 0:
            return 0
        head = self.ledger.at(0)
        kind = head.kind
        if head.action == REFUSED:
            self.reworded = TOO_MANY
            return 0
        if kind == FE_QUERY or kind == FE_SYNC or kind == FE_FUNCTION_CALL:
            return 0
        found = search_name(body)
        known = found is None
        if self.prepared is not None and found is not None and found[1].isdigit():
            known = self.prepared.numbered(int(found[1])) != NULL
        self.note_stale(head, body)
        if self.prepared is not None and (
                (b"\0C26000\0" in body and known)
                or (b"\0C42P05\0" in body
                    and (found is None or found[1].isdigit()))):
            self.doubting = True
            self.prepared.doubt()
        name = None if found is None else self.client_name(found[1])
        if name is not None:
            body = body[:found.start()] + name + body[found.end():]
            self.reworded = b"E" + (len(body) + 4).to_bytes(4, "big") + body
        return 0

    cdef int note_stale(self, Owed* head, bytes body) except -1:
        """Does an error say that the statement at the head fits its tables no longer?

        RevalidateCachedQuery: its result has other columns since a table changed; class
        42 or XX at a Bind or Describe: what it was parsed with has changed or gone, say
        the type of a parameter, and a Parse by somebody new would not fail. It is
        parsed again here, and who prepares its text anew gets another on each server,
        for those of the others are as stale. Class 22 at a Bind: a value is refused,
        mostly for its own sake, but the type that PostgreSQL has found for it may be
        another one by now. Who holds the statement keeps it, and knows its columns.
        """
        cdef Prepared* item
        cdef uint64_t number = self.bound if head.kind == FE_EXECUTE else head.about
        cdef bint stale = b"\0RRevalidateCachedQuery\0" in body
        if head.kind == FE_PARSE and head.action == SWALLOW and head.note != NULL:
            if (isinstance(<object>head.note, Pending)
                    and (<Pending>head.note).statement is not None
                    and search_stale(body) is not None):
                (<Pending>head.note).statement.unlearn()    # its types may be gone
            return 0
        if number == 0 or head.kind == FE_PARSE or self.prepared is None:
            return 0
        if head.kind != FE_EXECUTE:
            stale = stale or search_stale(body) is not None
        if not stale and (head.kind != FE_BIND or search_refused(body) is None):
            return 0
        item = self.prepared.numbered(number)
        if item == NULL or not stale and not (<Statement>item.statement).infers():
            return 0
        retire(<Statement>item.statement)
        if stale:
            (<Statement>item.statement).unlearn()
            item.seen = False
            item.group = 0
        return 0

    cdef int note_change(self) except -1:
        """The database has changed: what is known of texts may be wrong (see texts).

        And once more when the transaction is over: only then others see it, or, after
        a ROLLBACK, what was parsed behind it sees it no more.
        """
        self.pool.changes.latest = next_note()
        self.changing = True
        return 0

    cdef int note_end(self, bytes body) except -1:
        """PostgreSQL itself may have ended the session: its database may be gone."""
        if b"\0C57P01\0" in body or b"\0C57P04\0" in body:
            self.pool.keeper.told_to_go(self)
        return 0

    cdef bytes client_name(self, bytes number):
        """What the client calls the statement that an error at the head speaks of."""
        cdef Owed* head = self.ledger.at(0)
        cdef Client client = self.client
        cdef NameTable names
        cdef Pending pending
        cdef uint64_t made = 0          # which of several names is meant; 0: not noted
        cdef uint32_t i
        if (head.note != NULL and isinstance(<object>head.note, Pending)
                and (<Pending>head.note).name is not None):
            return (<Pending>head.note).name
        names = None if client is None else client.names
        if names is None or not number.isdigit():
            return None
        if head.about and (head.kind == FE_BIND or head.kind == FE_DESCRIBE):
            made = head.made
            name = names.name_made(made)
        else:
            name = names.name_of(int(number), head.behind)
        if name is not None:
            return name
        # It has been closed meanwhile, by a Close that is answered behind this.
        for i in range(1, min(self.ledger.count, MOST_SEARCHED)):
            head = self.ledger.at(i)
            if head.kind == FE_CLOSE and head.action == FAKE and head.note != NULL:
                pending = <Pending>head.note
                if pending.statement is not None and (
                        pending.made == made if made
                        else pending.statement.number == int(number)):
                    return pending.name
        return None

    cdef int note_tag(self, const char* p, Py_ssize_t count) except -1:
        """DISCARD ALL and DEALLOCATE ALL forget every prepared statement.

        RESET and DISCARD ALL reset parameters, of which the server tells behind them; a
        ROLLBACK undoes what was set again behind those.
        """
        cdef Client client = self.client
        if self.pool.learn_query is not None and self.phase == PH_RELAY and (
                (count == 4 and memcmp(p, b"SET\0", 4) == 0)
                or (count == 3 and memcmp(p, b"DO\0", 3) == 0)
                or (count == 5 and memcmp(p, b"CALL\0", 5) == 0)):
            self.minds |= LEARN
        if (count > 9 and (memcmp(p, b"CREATE ", 7) == 0 or memcmp(p, b"ALTER ", 6) == 0
                           or memcmp(p, b"DROP ", 5) == 0)
                or count == 3 and memcmp(p, b"DO\0", 3) == 0):
            self.note_change()
        if count == 6:
            if memcmp(p, b"RESET\0", 6) == 0:
                self.minds |= HAS_RESET
                if self.pool.learn_query is not None and self.phase == PH_RELAY:
                    self.minds |= LEARN | LEARN_RESET
            return 0
        if count == 9 and memcmp(p, b"ROLLBACK\0", 9) == 0:
            self.minds |= UNDONE
            return 0
        if count == 11 and memcmp(p, b"DEALLOCATE\0", 11) == 0:
            if self.lent and self.phase == PH_RELAY:
                self.note_deallocated(client)
            return 0
        if count == 12 and memcmp(p, b"DISCARD ALL\0", 12) == 0:
            self.minds |= HAS_RESET
            if self.pool.learn_query is not None:
                self.note_discarded(client)
        elif count != 15 or memcmp(p, b"DEALLOCATE ALL\0", 15) != 0:
            return 0
        # What was sent behind that command is still to come, or has come already:
        # only what was parsed before it is gone.
        self.ledger.forgotten = (
            self.ledger.at(0).behind if self.ledger.count else notes_made())
        if self.prepared is not None:
            self.prepared.forget(self.ledger.forgotten)
        if client is not None:
            client.forgotten = self.ledger.forgotten
            if client.names is not None:
                client.names.forget(client.forgotten)
        return 0

    # Called by clients and pools

    @nonecheck(False)
    cdef int owe(self, int code) except -1:
        """The client asked for something: count it until it is answered."""
        if self.ledger.copy == COPY_FAILED and code == FE_SYNC:
            self.copy_given_up()        # no CopyDone came: Sync ends it as well
        return self.ledger.push(code, FORWARD, None)

    @nonecheck(False)
    cdef bint is_clean(self) except -1:
        """May another client have it? When in doubt, no (design D5)."""
        return (self.ledger.is_even() and self.remain == 0 and not self.dirty
                and self.status == STATUS_IDLE and self.tracked is not None
                and self.lent is None
                and self.held.end == self.held.start
                and self.out.end == self.out.start and not self.broken)

    cdef str why_unclean(self):
        """What is wrong with it, condition by condition; for the debug build."""
        return ", ".join([name for name, wrong in (
            ("it is not ready", not self.ledger.ready),
            ("it owes answers", self.ledger.count > 0),
            ("a message is half received", self.remain > 0),
            ("what it owes is not sure", self.ledger.unsure),
            ("it spoke out of turn", self.dirty),
            ("a COPY is open", self.ledger.copy != COPY_NONE),
            ("a transaction is open", self.status != STATUS_IDLE),
            ("its parameters are not known", self.tracked is None),
            ("it has statements that were lent", self.lent is not None),
            ("bytes of it are held", self.held.end != self.held.start),
            ("bytes for it are unsent", self.out.end != self.out.start),
            ("it cannot be written to", self.broken),
        ) if wrong])

    cdef int drained(self) except -1:
        """What this server was slow to read has gone out."""
        cdef Client client = self.client
        if client is not None and not client.held_back:
            client.go_on()
        return 0

    # Ending

    cdef int peer_eof(self) except -1:
        if self.state == SV_ACTIVE_CANCEL:
            self.app.cancels.finished(self)
            return 0
        return self.end("server conn crashed?", False, True, "08P01")

    cdef int bad_header(self, const char* p, Py_ssize_t count) except -1:
        return self.end("bad pkt header", True, True, "08P01")

    def too_long(self, code, length):
        self.end("bad pkt header", True, True, "08P01")

    def disconnect(self, reason, terminate=True, notify=True, sqlstate="08P01"):
        """Close, with a reason for the log and (if *notify*) a linked client."""
        self.end(reason, terminate, notify, sqlstate)

    cdef int end(self, str reason, bint terminate, bint notify, str sqlstate) except -1:
        cdef Client client = self.client
        cdef bint whole = self.remain == 0 or self.skipping
        if self.closed:
            return 0
        if reason is not None and log_disconnections:
            log.info(f"{self.prefix} closing because: {reason} "
                     f"(age={self.age_seconds}s)")
        if (terminate and buf_size(&self.out) == 0
                and (client is None or client.sent_whole())
                and self.may_say_goodbye()):
            # Behind half a message it would be taken for the rest of that.
            self.write(b"X\0\0\0\4")
        self.client = None
        if self.home is not None:
            self.home.drop(self)
        self.pool.queue_only = False
        self.shut()
        self.ledger.clear()
        if self.prepared is not None:
            self.prepared.clear()
        self.app.server_gone(self, reason)
        if client is not None and client.server is self:
            client.server = None
            if client.replication and self.phase == PH_TALK:
                whole = True
            if not whole or self.fatal:
                notify = False      # it has been told, or cannot be
            client.end(reason, notify, sqlstate)
        return self.look_at_cancels() if self.keeps_cancels else 0

    cdef bint may_say_goodbye(self) except -1:
        """Would the other side take a Terminate for one?

        Not before it has answered an SSLRequest, nor in the middle of a handshake:
        there it looks like an attack. Nor as the first thing that it is told, nor
        behind a CancelRequest.
        """
        if self.state == SV_ACTIVE_CANCEL or self.phase == PH_CONNECT \
                or self.tls_handshaking:
            return False
        return self.talk is None or self.talk.waiting is not READ_BYTE

    # Talks

    def talk_over(self, value):
        self.talk = None
        self.app.server_talk_over(self, value)

    def talk_failed(self, reason):
        self.talk = None
        self.app.server_talk_failed(self, reason)

    def tls_broken(self, error):
        reason = getattr(error, "reason", None) or str(error)
        if "EOF" in reason:
            log.warning("tls_sbufio_recv: read failed: error:0A000126:SSL "
                        "routines::unexpected eof while reading")
        else:
            log.warning(f"tls_sbufio_recv: read failed: {reason}")
        return self.peer_eof()

    def attach(self, int fd):
        """Take the socket once there is one (names are resolved before)."""
        self.fd = fd

    def learn_parameter(self, bytes body not None):
        """A talk was told of a ParameterStatus."""
        self.note_parameter(body, len(body))

    def forget_session(self):
        """DISCARD ALL has been answered: nothing of its clients is left."""
        if self.prepared is not None:
            self.prepared.clear()
        self.equal_to = None
        self.fresh = True

    def mark_ready(self):
        """It has logged in and waits for a request."""
        self.ledger.ready = True

    def startup_params(self):
        """(name, value) pairs for its startup packet, in order."""
        return self.app.startup_params(self)

    cdef bint busy_with_part(self) noexcept:
        return (self.remain > 0 or self.held.end > self.held.start
                or self.phase >= PH_APPLY or self.phase <= PH_TALK)

    def take_client(self, Client client):
        """Note whom this connection is for while it logs in (replication)."""
        self.client = client
        client.server = self

    @property
    def is_ready(self):
        """ReadyForQuery 'I' came and nothing was asked since."""
        return self.ledger.ready

    @property
    def in_transaction(self):
        return self.status != STATUS_IDLE

    @property
    def owed_count(self):
        return self.ledger.count

    @property
    def is_asked_by_us(self):
        """It answers our SETs, or what its client has set: no cancel strikes that."""
        return self.phase == PH_APPLY or self.phase == PH_LEARN

    @property
    def clean(self):
        return self.is_clean()

    @property
    def unclean(self):
        """Why it may not be shared; empty when it may."""
        return self.why_unclean()

    @property
    def is_dirty(self):
        return self.dirty

    @property
    def prepared_count(self):
        return 0 if self.prepared is None else self.prepared.count

    @property
    def prepared_names(self):
        return [] if self.prepared is None else self.prepared.names()

    @property
    def state_name(self):
        """As SHOW SERVERS says it."""
        return STATE_NAMES[self.state]

    @property
    def prefix(self):
        """The log prefix (logs.md 1.1)."""
        if self.peer is not None:
            return f"S-{self.pointer}: peer-{self.peer.id}@{self.address_text}"
        return (f"S-{self.pointer}: {self.pool.database_name}/{self.pool.user_name}"
                f"@{self.address_text}")

    @property
    def tls_info(self):
        if self.tls_object is None or self.tls_handshaking:
            return ""
        return self.app.tls_info(self.tls_object)

    def __repr__(self):
        return f"{self.prefix}"
