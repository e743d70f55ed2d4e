# cython: language_level=3, boundscheck=False, wraparound=False, nonecheck=True
"""A client connection: what it may send, and where each message goes.

Bytes are forwarded as they came; only message headers are looked at, and the
names in prepared-statement messages. A client owns nothing while it is idle.
"""

from collections import OrderedDict

from cython cimport nonecheck
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy, strlen

from bouncer import log
from bouncer.details import login_failed
from bouncer.relay.door cimport Known
from bouncer.relay.intent cimport (
    CHANGES, LONGEST_SQL_NAME, LOOKED_AT, deallocated, holds_forgetting, is_control,
    may_reset, may_set, next_deallocated)
from bouncer.relay.kept cimport MOST_KEPT, keep
from bouncer.relay.ledger cimport (
    COPY_FAILED, EMPTIED, FORWARD, REFUSED, SWALLOW, Ledger, Owed, next_note)
from bouncer.relay.poller cimport Poller
from bouncer.relay.pool cimport LINKED, SESSION, Pool
from bouncer.relay.said import Said
from bouncer.relay.server cimport (
    AWAITED, LEARN, MAY_RESET, MOST_OWED, PH_APPLY, PH_LEARN, PH_RELAY, PORTALS,
    PUT_BACK, SET_IN_BLOCK, Server)
from bouncer.relay.sockets cimport EPOLLIN, EPOLLOUT, EPOLLRDHUP, MSG_DONTWAIT, recv
from bouncer.relay.statements cimport (
    MOST_TEXT, NameEntry, NameTable, Pending, Prepared, PreparedSet, Unnamed)
from bouncer.relay.stream cimport HIGH_WATER, Stream, next_id
from bouncer.relay.texts cimport (
    DEALLOCATED, NO_ROWS, NOWHERE, TAKEN, TOO_MANY, Statement, statement_for,
    unused_number)
from bouncer.wire.codes cimport (
    FE_BIND, FE_CLOSE, FE_COPY_DATA, FE_COPY_DONE, FE_COPY_FAIL, FE_DESCRIBE,
    FE_EXECUTE, FE_FLUSH, FE_FUNCTION_CALL, FE_PARSE, FE_PASSWORD, FE_QUERY,
    FE_SYNC, FE_TERMINATE, STATUS_FAILED, STATUS_IDLE)
from bouncer.wire.framer cimport (
    HEADER, Buf, be32, buf_append, buf_free, buf_put, buf_room, buf_size, put32)
from bouncer.wire.messages import error_response

cdef enum:
    SSL_REQUEST = 80877103      # PostgreSQL protocol, SSLRequest
    MOST_A_TURN = 2000          # messages of one client before others have a turn
    LONGEST_NAME = 1024         # bytes of a statement's or portal's name
    LONGEST_LENDING = 8192      # bytes of a text in which DEALLOCATE is looked for
    MOST_LENT = 100             # names that are lent for one text
    LONGEST_UNNAMED = 65536     # of a Parse that a client keeps to say it again
    LONGEST_REST = 65536        # bytes held of who is gone, to see how it went
    LONGEST_MESSAGE = 0x7FFFFFFF    # of those that are taken apart (PostgreSQL: 1 GB)

cdef uint64_t FOREVER = <uint64_t>-1    # a note that is never made
# Empty texts to prepare, with so many values: see Client.lend.
cdef bytes ONE_VALUE = b"\0\0\1" + bytes(4), TWO_VALUES = b"\0\0\2" + bytes(8)

cdef enum Kind:                 # of a message type, see KINDS
    UNKNOWN = 0
    REQUEST = 1                 # needs a server; something may be owed for it
    NAMED = 2                   # a request that may name a prepared statement
    COPYING = 3                 # part of a COPY: goes only to a linked server
    GOODBYE = 4
    BROKEN = 5                  # its length is impossible
    NOT_ENDING = -1

cdef enum Rest:                 # what a client has left behind when it went
    HOLDS_WHOLE = 0             # messages, each whole
    HOLDS_PART = 1              # ... the last of them not
    HOLDS_GOODBYE = 2           # ... and a Terminate

cdef uint8_t[256] KINDS
KINDS[<int>FE_QUERY] = KINDS[<int>FE_FUNCTION_CALL] = KINDS[<int>FE_SYNC] = REQUEST
KINDS[<int>FE_FLUSH] = KINDS[<int>FE_EXECUTE] = REQUEST
KINDS[<int>FE_PARSE] = KINDS[<int>FE_BIND] = NAMED
KINDS[<int>FE_DESCRIBE] = KINDS[<int>FE_CLOSE] = NAMED
KINDS[<int>FE_COPY_DATA] = KINDS[<int>FE_COPY_DONE] = COPYING
KINDS[<int>FE_COPY_FAIL] = COPYING
KINDS[<int>FE_TERMINATE] = GOODBYE

STATE_NAMES = ("login", "active", "waiting", "waiting_cancel_req", "active_cancel_req")

# Switches that every message or every disconnect looks at, set by the app.
cdef bint refuse_simple_query = False
cdef bint log_disconnections = True
cdef bint log_pooler_errors = True


def configure(bint pqexec_disabled, bint disconnections, bint pooler_errors):
    """Copy the settings that this module looks at."""
    global refuse_simple_query, log_disconnections, log_pooler_errors
    refuse_simple_query = pqexec_disabled
    log_disconnections = disconnections
    log_pooler_errors = pooler_errors


cdef inline const char* name_end(const char* p, Py_ssize_t count) noexcept:
    """The 0 behind a name; NULL when none is there. Never looks far."""
    if count <= 0:
        return NULL
    return <const char*>memchr(p, 0, min(count, LONGEST_NAME + 1))


cdef enum About:                # what a NAMED message is about
    NO_STATEMENT = 0            # a portal, or nobody knows
    UNNAMED_STATEMENT = 1
    NAMED_STATEMENT = 2
    CUT = 3                     # what tells has not come yet


cdef inline int about(int code, const char* body, Py_ssize_t left) noexcept:
    """What a Parse, Bind, Describe or Close is about; *left* bytes of it are here."""
    cdef const char* stop
    if code == FE_BIND:
        stop = body
        if left < 1 or body[0]:
            stop = name_end(body, left)     # of the portal
        if stop == NULL:
            return CUT
        left -= stop + 1 - body
        body = stop + 1
    elif code != FE_PARSE:
        if left > 0 and body[0] != b"S":
            return NO_STATEMENT
        body += 1
        left -= 1
    if left < 1:
        return CUT
    return NAMED_STATEMENT if body[0] else UNNAMED_STATEMENT


cdef bint is_whole_parse(const char* p, Py_ssize_t count) noexcept:
    """Does a Parse body hold, behind its name, a text and all its types?"""
    cdef const char* stop = <const char*>memchr(p, 0, count) if count > 0 else NULL
    cdef Py_ssize_t rest
    if stop == NULL:
        return False
    rest = count - (stop + 1 - p)
    return rest >= 2 and rest - 2 >= 4 * (
        (<Py_ssize_t><uint8_t>stop[1] << 8) | <uint8_t>stop[2])


# Who keeps a longer Parse without a name than LOOKED_AT; first: for the longest time.
cdef object kept_long_ones = OrderedDict()
cdef Py_ssize_t kept_bytes = 0


cdef inline void count_kept(Py_ssize_t change) noexcept:
    global kept_bytes
    kept_bytes += change


cdef int let_oldest_go() except -1:
    """All of them together are bounded: those who least need theirs lose it.

    Most bind what they have parsed at once. Who comes back later finds it at the same
    server, or is told that there is none (26000), as by PgBouncer.
    """
    while kept_bytes > MOST_KEPT:
        (<Client?>next(iter(kept_long_ones))).keep_unnamed(NULL, 0)
    return 0


def unnamed_kept():
    """How many bytes of long Parses without a name clients keep, and how many do."""
    return kept_bytes, len(kept_long_ones)


cdef inline Buf* scratch(Buf* shared, Buf* own) noexcept:
    """The buffer that a rewritten output is put together in: *own* while it is busy."""
    return shared if buf_size(shared) == 0 else own


cdef Pending named(bytes name):
    """A note for a request that is about a statement, of which nothing is undone."""
    cdef Pending pending = Pending.__new__(Pending)
    pending.name = name
    return pending


cdef int put_message(Buf* composed, int code, bytes head, const char* rest,
                     Py_ssize_t count) except -1:
    """Put a message of ours into *composed*: *head*, then *count* bytes of *rest*."""
    cdef Py_ssize_t size = len(head)
    cdef char* at = buf_room(composed, HEADER + size + count)
    at[0] = code
    put32(at + 1, <uint32_t>(4 + size + count))
    memcpy(at + HEADER, <const char*>head, size)
    if count:
        memcpy(at + HEADER + size, rest, count)
    composed.end += HEADER + size + count
    return 0


cdef class Client(Stream):
    """A connection from an application."""

    def __init__(self, Poller poller not None, int fd, app, listener):
        self.come(poller, fd, app, listener)

    cdef int come(self, Poller poller, int fd, object app, object listener) except -1:
        if poller is None or app.door is None:
            raise ValueError("a client of no poller or door")
        self.poller = poller
        self.fd = fd
        self.app = app
        self.door = app.door
        self.listener = listener
        self.id = next_id()
        self.specials = self.modest = True
        self.connected_at = self.received_at = poller.now
        return 0

    def watch(self):
        """Start reading."""
        self.poller.add(self, EPOLLIN)

    # Bytes come

    @nonecheck(False)
    cdef Py_ssize_t take(self, const char* p, Py_ssize_t count) except -1:
        cdef Py_ssize_t used = 0
        cdef int known
        if not self.started:
            # 'P' or CR may begin a PROXY header, which comes before all else.
            # Whoever stands behind a balancer that named nobody could else name itself.
            if ((p[0] == 0x50 or p[0] == 0x0D) and not self.refused_tls
                    and not self.introduced):
                used = self.app.proxy_header(self, p[:count])
                if used == 0 or self.closed:
                    return 0
                if used < 0:
                    used = 0
                else:
                    self.introduced = True
                if used == count:
                    return used
            if (count - used == 8 and be32(p + used) == 8
                    and be32(p + used + 4) == SSL_REQUEST
                    and (self.is_unix or self.app.client_tls is None)):
                # Most drivers ask first. The answer needs no conversation.
                self.refused_tls = True
                self.push(b"N", 1)
                return used + 8
            self.started = True
            known = self.door.enter(self, p + used, count - used)
            if known == 0:
                self.app.begin_login(self, <uint8_t>p[used])
            used += known
            if self.closed or self.tls_handshaking or used == count:
                return used
        if self.state == CL_LOGIN:
            if self.dropping:
                return count
            if self.proof is not None:
                used += self.door.go_on(self, p + used, count - used)
                if self.proof is not None or self.closed or used == count:
                    return used
        if self.talk is not None:
            used += self.talk_take(p + used, count - used)
            if self.talk is not None or self.closed:
                return used
        if self.state >= CL_WAITING_CANCEL or self.leaving is not None:
            return count
        if self.state == CL_WAITING or self.held_back:
            return used
        return used + self.relay(p + used, count - used)

    @nonecheck(False)
    cdef Py_ssize_t relay(self, const char* p, Py_ssize_t count) except -1:
        """Forward whole and partial messages; stop where something must wait."""
        cdef Py_ssize_t pos = 0         # looked at so far
        cdef Py_ssize_t start = 0       # forwarded so far
        cdef Py_ssize_t part, done
        cdef int code = 0, kind
        cdef int ending = NOT_ENDING    # the Kind of message that ends the client
        cdef bint full = False          # the server owes too much already
        cdef int what                   # About
        cdef int turn = MOST_A_TURN     # messages that may still be looked at
        cdef uint32_t length
        cdef Buf* composed = NULL       # rewritten output, once there is any
        cdef Buf own
        cdef Poller poller = self.poller
        cdef Server server = self.server
        if ((self.put_off or buf_size(&self.out) > HIGH_WATER
                or (server is not None and buf_size(&server.out) > 0))
                and self.is_stuck()):
            return 0
        own.data = NULL
        own.start = own.end = own.capacity = 0
        if self.pool is None:
            raise AssertionError("relayed before its login")
        try:
            while pos < count:
                if self.remain:
                    part = count - pos
                    if part > self.remain:
                        part = self.remain
                    if self.dropping:
                        start = pos + part
                    pos += part
                    self.remain -= part
                    continue
                if count - pos < HEADER:
                    break
                if turn == 0:
                    self.end_turn()
                    break
                turn -= 1
                code = <uint8_t>p[pos]
                length = be32(p + pos + 1)
                kind = KINDS[code]
                if length < 4 or length >= poller.max_packet_size or code == 0:
                    length = be32(p + pos)
                    if code == 0 and 8 <= length < 0x10000:
                        # An SSLRequest or its like; the code names it.
                        if count - pos < 8:
                            break
                        code = <int>be32(p + pos + 4)
                        kind = UNKNOWN
                    else:
                        kind = BROKEN
                elif code == FE_FLUSH and length != 4:
                    # PostgreSQL would answer with an error and skip all up to a
                    # Sync, which may be another client's.
                    kind = BROKEN
                if kind == UNKNOWN or kind == GOODBYE or kind == BROKEN:
                    ending = kind
                    break
                if self.refusing and self.refuses(code):
                    self.dropping = True
                    self.remain = <int64_t>length + 1
                    start = pos
                    continue
                if (server is not None and server.ledger.is_skipping()
                        and code != FE_SYNC and kind != COPYING):
                    # PostgreSQL would not look at it; we need not remember it.
                    if pos > start:
                        self.pass_on(server, p + start, pos - start, composed)
                    self.dropping = True
                    self.remain = <int64_t>length + 1
                    start = pos
                    continue
                if server is not None and server.minds and kind != COPYING:
                    if (server.minds & (MAY_RESET | PUT_BACK | SET_IN_BLOCK)
                            and server.ledger.goals
                            and not server.ledger.unsynced
                            and not server.ledger.is_copy_in()):
                        # What comes now counts on its own values, which the server
                        # will have again when it has told of the reset, or undone it.
                        server.held_up |= AWAITED
                        self.pause_reading()
                        break
                    if server.minds & PORTALS and not self.note_portal(
                            server, code, p + pos + HEADER,
                            min(count - pos, <Py_ssize_t>length + 1) - HEADER,
                            count - pos > length):
                        break               # its names have not come yet
                if kind == COPYING or (code == FE_FLUSH and server is None):
                    if server is None:
                        # PostgreSQL ignores these outside a COPY, and a Flush of
                        # nothing; a server that was taken for them would never
                        # be given back.
                        self.dropping = True
                        self.remain = <int64_t>length + 1
                        start = pos
                        continue
                    if code != FE_COPY_DATA:
                        self.copy_ends(server)
                    self.dropping = False
                    self.remain = <int64_t>length + 1
                    self.pool.client_bytes += self.remain
                    continue
                if (server is not None and server.ledger.count >= MOST_OWED
                        and not server.ledger.is_skipping()):
                    full = True         # a Sync that ends a failure settles it all
                    break
                what = NO_STATEMENT
                # A session's server is its own, but for Queries of ours in between.
                if (kind == NAMED and self.replication == 0
                        and (self.pool.mode != SESSION
                             or self.pool.learn_query is not None
                             or server is None
                             or self.at_login is not server.at_login)):
                    what = about(code, p + pos + HEADER, min(
                        count - pos, <Py_ssize_t>length + 1) - HEADER)
                    if (what >= NAMED_STATEMENT and self.pool.max_prepared > 0
                            and self.pool.mode != SESSION):
                        if composed == NULL:
                            composed = scratch(&poller.scratch, &own)
                        if pos > start:
                            # It goes out before a rewritten message.
                            buf_append(composed, p + start, pos - start)
                            start = pos
                        done = self.statement_message(
                            p + pos, count - pos, code, length, composed)
                        if done == -1 or self.closed:
                            break           # cut, waiting or closed
                        if done > 0:
                            server = self.server
                            pos += done
                            start = pos
                            if buf_size(composed) > HIGH_WATER and pos < count:
                                # A few bytes may make us parse a long text again.
                                self.pass_on(server, NULL, 0, composed)
                                if buf_size(&server.out) == 0:
                                    self.end_turn()     # or else `drained` goes on
                                break
                            continue
                    elif (what == CUT and count - pos <= <Py_ssize_t>length
                            and count - pos <= HEADER + LONGEST_NAME):
                        break               # but a name without end is not kept
                elif (code == FE_QUERY and self.names is not None
                        and length <= LONGEST_LENDING and not refuse_simple_query):
                    if count - pos <= <Py_ssize_t>length:
                        break               # looked at whole
                    if holds_forgetting(p + pos + HEADER, <Py_ssize_t>length - 4):
                        if composed == NULL:
                            composed = scratch(&poller.scratch, &own)
                        buf_append(composed, p + start, pos - start)
                        start = pos
                        done = self.deallocate(p + pos, length, composed)
                        if done < 0:
                            break
                        server = self.server
                        if done > 0:
                            pos += done
                            start = pos
                            continue
                if server is None:
                    if buf_size(&self.out) > 0 and self.is_slow():
                        break
                    if code == FE_QUERY and refuse_simple_query:
                        ending = REQUEST
                        break
                    self.begin_request()
                    if self.pool.acquire(self) != LINKED:
                        break
                    server = self.server
                    if server.minds & PORTALS:
                        continue            # look at it again
                else:
                    if self.query_start == 0 or self.transaction_start == 0:
                        self.begin_request()
                    if code == FE_QUERY and refuse_simple_query:
                        ending = REQUEST
                        break
                if ((code == FE_QUERY or code == FE_PARSE)
                        and (self.at_login is not server.at_login
                             or self.pool.learn_query is not None)):
                    if count - pos <= <Py_ssize_t>length and length < LOOKED_AT:
                        break               # looked at whole
                    part = min(count - pos, <Py_ssize_t>length + 1) - HEADER
                    if code == FE_QUERY:
                        self.note_text(server, p + pos + HEADER, part, True)
                    else:
                        self.note_parse(server, p + pos + HEADER, part)
                if what == UNNAMED_STATEMENT:
                    if (code == FE_BIND and self.names is not None
                            and self.may_deallocate()):
                        if composed == NULL:
                            composed = scratch(&poller.scratch, &own)
                        buf_append(composed, p + start, pos - start)
                        start = pos
                        server.forgetting = FOREVER
                        if self.lend(server, code, self.unnamed_parse.data + HEADER + 1,
                                     buf_size(&self.unnamed_parse) - HEADER - 1,
                                     composed):
                            break
                    if code == FE_BIND and self.pool.learn_query is not None:
                        self.note_text(
                            server, self.unnamed_parse.data + self.unnamed_parse.start,
                            buf_size(&self.unnamed_parse), False)
                    if code == FE_PARSE or code == FE_CLOSE:
                        if (count - pos <= <Py_ssize_t>length
                                and length < LONGEST_UNNAMED):
                            break           # kept whole
                    elif server.ledger.syncs and not server.ledger.is_copy_in() \
                            and server.ledger.is_open(self.unnamed_doubt):
                        if composed == NULL:
                            composed = scratch(&poller.scratch, &own)
                        self.await_answers(server, composed)
                        break
                    elif server.unnamed != self.unnamed:
                        if composed == NULL:
                            composed = scratch(&poller.scratch, &own)
                        buf_append(composed, p + start, pos - start)
                        start = pos
                        self.fit_unnamed(server, composed)
                self.pool.client_bytes += <int64_t>length + 1
                if ((server.prepared is not None or self.names is not None)
                        and (code == FE_QUERY or code == FE_PARSE)):
                    self.note_forgetting(
                        server, p + pos, min(count - pos, <Py_ssize_t>length + 1),
                        count - pos > length)
                if (what == UNNAMED_STATEMENT if code == FE_PARSE or code == FE_CLOSE
                        else code == FE_QUERY and (self.unnamed or server.unnamed)):
                    self.change_unnamed(server, p + pos, <Py_ssize_t>length + 1)
                elif code != FE_FLUSH:
                    server.owe(code)
                self.dropping = False
                self.remain = <int64_t>length + 1
            if not self.closed and server is not None and self.server is server:
                if pos > start or (composed != NULL and buf_size(composed) > 0):
                    self.pass_on(server, p + start, pos - start, composed)
                if full:
                    server.crowd()
                if server.release_due and self.remain == 0:
                    # Unless more was asked for meanwhile.
                    server.release_due = False
                    if server.ledger.ready and server.ledger.count == 0:
                        if server.ledger.unsure or server.ledger.mixed:
                            server.probe()
                        else:
                            self.pool.release(server)
            if ending != NOT_ENDING and not self.closed:
                # Behind what was sent before, or a message would stay cut in two.
                self.end_by(ending, code, p + pos, count - pos)
            if buf_size(&self.out) > HIGH_WATER:
                self.is_slow()
        finally:
            if own.data != NULL:
                buf_free(&own)
            if composed == &poller.scratch:
                composed.start = composed.end = 0
                if composed.capacity > HIGH_WATER:
                    buf_free(composed)
        return pos if not self.closed else count

    cdef int end_by(self, int kind, int code, const char* p,
                    Py_ssize_t count) except -1:
        """End for the message at *p*, which is not relayed."""
        if kind == BROKEN:
            return self.bad_header(p, count)
        if kind == GOODBYE:
            return self.goodbye("client close request")
        if kind == REQUEST:
            return self.refuse_query()
        if code == 0 and count >= 8:
            code = be32(p + 4)      # a startup packet, or one of its kind
        log.error(f"{self.prefix} unknown pkt from client: {code}/0x{code:02x}")
        return self.end("unknown pkt", True, "08P01")

    @nonecheck(False)
    cdef int pass_on(self, Server server, const char* p, Py_ssize_t count,
                     Buf* composed) except -1:
        """Send to the server; stop reading this client while it cannot take more."""
        if server is None:
            return 0
        if composed != NULL and buf_size(composed) > 0:
            if count > 0:
                buf_append(composed, p, count)
            p = composed.data + composed.start
            count = buf_size(composed)
            composed.start = composed.end = 0
        if count > 0 and server.send(p, count):
            self.pause_reading()
        return 0

    cdef bint is_stuck(self) except -1:
        """Would more of it only be kept, here or for its server?"""
        if self.put_off:
            return True
        if self.server is not None and buf_size(&self.server.out) > 0 and (
                self.server.interest & EPOLLOUT
                or buf_size(&self.server.out) > HIGH_WATER):
            self.pause_reading()    # until the server's `drained`
            return True
        return buf_size(&self.out) > HIGH_WATER and self.is_slow()

    cdef bint may_read(self) except -1:
        """Does nothing that its server or the next round will tell stand against it?"""
        return (not self.closed and self.state != CL_WAITING and not self.held_back
                and not self.put_off and self.leaving is None
                and (self.server is None or (
                    buf_size(&self.server.out) == 0 and not self.server.held_up)))

    cdef int end_turn(self) except -1:
        """Enough for this round: let others go on, too."""
        self.pause_reading()
        self.put_off = True
        self.poller.later.append(self.pump)
        return 0

    cdef bint is_slow(self) except -1:
        """Does it not read its answers? Then we stop reading it, too."""
        self.flush_out()
        if buf_size(&self.out) == 0:
            return False
        self.pause_reading()        # until `drained`
        return True

    @nonecheck(False)
    cdef int begin_request(self) except -1:
        """A query, and with it perhaps a transaction, begins (stats.md 1)."""
        if self.query_start == 0:
            self.query_start = self.poller.now
            self.pool.queries += 1
        if self.transaction_start == 0:
            self.transaction_start = self.query_start
            self.pool.transactions += 1
        return 0

    cdef int copy_ends(self, Server server) except -1:
        """CopyDone or CopyFail: mark the place, for the Syncs before it."""
        if server.ledger.copy == COPY_FAILED:
            server.copy_given_up()
        elif server.ledger.count:
            # A mark only. Where its COPY begins has perhaps not been told yet.
            server.ledger.push(FE_COPY_DONE, FORWARD, None)
        return 0

    def cancel_wait(self):
        """End the wait for a server as PostgreSQL ends a query; false if none waits.

        The client reads an error, and ReadyForQuery where its unit ends; it stays.
        """
        cdef int code
        if self.state != CL_WAITING or self.wait_kind != WAIT_QUERY \
                or self.replication or buf_size(&self.held) < HEADER:
            return False
        code = <uint8_t>self.held.data[self.held.start]
        self.refusing = REFUSED_TO_SYNC
        if code == FE_QUERY or code == FE_FUNCTION_CALL:
            self.refusing = REFUSED_MESSAGE
        self.query_start = self.transaction_start = 0
        self.pool.leave_queue(self)
        self.write(error_response("canceling statement due to user request", "57014",
                                  "ERROR"))
        self.pump()
        return True

    cdef bint refuses(self, int code) except -1:
        """Does a message of a unit that has been refused go nowhere?

        With a Sync, or itself, the unit ends.
        """
        if self.refusing == REFUSED_REST:
            if code != FE_SYNC:
                return True
            self.refusing = NOTHING_REFUSED
            return False
        if code == FE_SYNC or self.refusing == REFUSED_MESSAGE:
            self.refusing = NOTHING_REFUSED
            self.write(b"Z\0\0\0\5I")
        return True

    cdef int go_on(self) except -1:
        """A server is there (or its parameters are set): send what was held."""
        self.held_back = False
        if self.closed:
            return 0
        self.chew()
        if self.may_read():
            self.resume_reading()
        return 0

    cdef int drained(self) except -1:
        """What this client was slow to read has gone out."""
        if self.leaving is not None and not self.is_owed():
            return self.finish()
        if self.server is not None:
            self.server.resume_reading()
        if self.state != CL_WAITING and not self.held_back and not self.want_read:
            self.chew()
            if self.may_read():
                self.resume_reading()
        return 0

    # Prepared statements (server sheet 9)

    @nonecheck(False)
    cdef Py_ssize_t statement_message(self, const char* p, Py_ssize_t count, int code,
                                      uint32_t length, Buf* composed) except -2:
        """Handle a message that may name a statement.

        Returns how many bytes were used, 0 when it names none (forward it), -1
        when it is cut, must wait, or the client was closed.
        """
        cdef Py_ssize_t total = <Py_ssize_t>length + 1
        cdef Py_ssize_t here = count if count < total else total
        cdef const char* body = p + HEADER
        cdef Py_ssize_t left = here - HEADER
        cdef const char* name
        cdef const char* stop
        cdef Py_ssize_t size
        if length > LONGEST_MESSAGE:
            self.bad_header(p, count)
            return -1
        name = body
        if code == FE_BIND:             # portal first
            stop = name_end(body, left)
            if stop == NULL:
                return self.nameless(code, left, here == total)
            name = stop + 1
        elif code == FE_DESCRIBE or code == FE_CLOSE:
            if left < 1:
                return self.broken_message(code) if here == total else -1
            if body[0] != b"S":
                return 0
            name = body + 1
        left -= name - body
        stop = name_end(name, left)
        if stop == NULL:
            return self.nameless(code, left, here == total)
        size = stop - name
        if size == 0:
            return 0
        if code == FE_CLOSE:
            if here < total:
                return -1
            return self.close_statement(name, size, total, composed)
        if code == FE_PARSE and here < total and total <= MOST_TEXT:
            return -1               # kept whole: its text is the statement's key
        if code == FE_PARSE and self.has_no_room(name, size, total):
            self.pool.client_bytes += total
            return self.refuse_parse(here, total, composed)
        if self.server is None:
            if buf_size(&self.out) > 0 and self.is_slow():
                return -1
            self.begin_request()
            if self.pool.acquire(self) != LINKED:
                return -1
            if self.server.minds & PORTALS:
                self.note_portal(self.server, code, body, here - HEADER, True)
        elif self.query_start == 0 or self.transaction_start == 0:
            self.begin_request()
        if code == FE_PARSE:
            if not is_whole_parse(stop + 1, left - size - 1):
                return self.misused("broken Parse packet")
            return self.parse_statement(name, size, stop + 1, left - size - 1,
                                        total, composed)
        return self.use_statement(p, here, total, code, name, size, composed)

    cdef int nameless(self, int code, Py_ssize_t left, bint whole) except -2:
        """No name ends in what has come of a message, of which *left* is the last."""
        if left > LONGEST_NAME:
            return self.misused("bad packet")
        return self.broken_message(code) if whole else -1

    cdef int broken_message(self, int code) except -2:
        log.error(f"{self.prefix} failed to parse prepared statement packet type "
                  f"'{chr(code)}'")
        return self.misused("failed to parse packet")

    cdef int misused(self, str reason) except -2:
        """A message about a statement is wrong: end, and take the server along."""
        if self.server is not None:
            self.server.ledger.ready = False
        self.end(reason, True, "08P01")
        return -1

    cdef Py_ssize_t parse_statement(self, const char* name, Py_ssize_t size,
                                    const char* text, Py_ssize_t text_size,
                                    Py_ssize_t total, Buf* composed) except -2:
        cdef Statement statement
        cdef Server server = self.server
        cdef Pending pending
        cdef Prepared* item = NULL
        cdef NameEntry* entry = NULL
        if self.names is None:
            self.names = NameTable()
        else:
            entry = self.names.entry_of(name, size)
        if (server.ledger.syncs or server.forgetting) and self.hangs(
                server, FE_PARSE, entry):
            self.await_answers(server, composed)
            return -1
        self.pool.client_parses += 1
        self.pool.client_bytes += total
        if entry != NULL:
            self.parse_taken(text, text_size, name[:size], composed)
            return total
        statement = statement_for(text[:text_size], self.scope(), self.pool.changes)
        if statement.resets:
            self.mind_portals(server)
        if server.prepared is not None:
            item = server.prepared.find(statement)
        # In a failed transaction PostgreSQL refuses a Parse, and so must we; of one
        # that is still being spoken of nobody knows whether it will have failed.
        if (item != NULL and server.is_certain(item)
                and server.status != STATUS_FAILED and server.ledger.goals == 0):
            pending = self.name_statement(name[:size], statement)
            if server.can_answer_now():
                self.write(b"1\0\0\0\4")
                next_note()
            else:
                server.owe_fake(FE_PARSE, pending)
        else:
            self.close_first(statement, item, composed)
            pending = self.name_statement(name[:size], statement)
            self.send_parse(statement, pending, composed)
            server.ledger.push(FE_PARSE, FORWARD, pending)
            self.ask_about(statement, composed)
            self.make_room(server, composed)
        return total

    cdef Pending name_statement(self, bytes name, Statement statement):
        """From now on *name* is that of *statement*; returns the note of its Parse."""
        cdef Pending pending = Pending.__new__(Pending)
        pending.name = name
        pending.statement = statement
        pending.number = next_note()
        self.names.put(name, statement, pending.number, False)
        return pending

    cdef Py_ssize_t parse_taken(self, const char* text, Py_ssize_t text_size,
                                bytes own_name, Buf* composed) except -1:
        """A Parse whose name is taken: let PostgreSQL refuse it (42P05).

        So the error stands where it belongs, fails a transaction and has what follows
        skipped. First we see to it that a statement is in the way.
        """
        cdef Server server = self.server
        if not server.ledger.is_reading_copy():
            put_message(composed, FE_CLOSE, b"S" + TAKEN + b"\0", NULL, 0)
            server.ledger.push(FE_CLOSE, SWALLOW, None)
            put_message(composed, FE_PARSE, TAKEN + b"\0\0\0\0", NULL, 0)
            server.ledger.push(FE_PARSE, SWALLOW, None)
        put_message(composed, FE_PARSE, TAKEN + b"\0", text, text_size)
        server.ledger.push(FE_PARSE, FORWARD, named(own_name))
        return 0

    cdef bint hangs(self, Server server, int code, NameEntry* entry) except -1:
        """Does what a name means hang on an answer that is still owed?

        *entry* is what we believe of it. What stands before the same Sync does not
        matter: when that fails, this message is skipped as well. Nor does a Parse on
        which a Bind follows at the same server: PostgreSQL will know.
        """
        cdef Ledger ledger = server.ledger
        cdef Prepared* item
        if ledger.is_reading_copy():
            return False        # it answers no Sync
        if entry == NULL:
            # A Close that PostgreSQL skips has not freed the name.
            return ledger.is_open(self.last_close)
        if server.is_forgetting():
            return True
        if not ledger.is_open(entry.made):
            return False
        if (code == FE_PARSE or server.prepared is None
                or ledger.is_open(self.last_close)):
            return True
        item = server.prepared.find(<Statement>entry.statement)
        return item == NULL or item.made != entry.made

    cdef int await_answers(self, Server server, Buf* composed) except -1:
        """Look at this message again when the server has said more."""
        if server.ledger.goals == 0:
            buf_append(composed, b"H\0\0\0\4", HEADER)   # or it may say nothing
        server.held_up |= AWAITED
        self.pause_reading()
        return 0

    cdef bint has_no_room(self, const char* name, Py_ssize_t size,
                          Py_ssize_t total) except -1:
        """May it prepare no more? A name that is taken is another error."""
        if self.names is None:
            return total > MOST_TEXT
        return self.names.is_full(name, size, total) \
            and self.names.entry_of(name, size) == NULL

    cdef Py_ssize_t refuse_parse(self, Py_ssize_t here, Py_ssize_t total,
                                 Buf* composed) except -2:
        """It would have more statements than a client may: an error, not the end.

        As one of PostgreSQL's own, this one stands behind the answers that are owed,
        fails a transaction and has all up to the next Sync skipped. So a server that
        has been asked for anything gets a Parse that it must refuse, and what it says
        of that is put in other words.
        """
        cdef Server server = self.server
        cdef bytes body
        self.refusing = REFUSED_REST
        if server is None:
            self.refusing = REFUSED_TO_SYNC
            self.write(TOO_MANY)
        elif server.ledger.ready and server.can_answer_now():
            self.write(TOO_MANY)
        else:
            body = (b"PGBOUNCER_%d\0syntax error: too many prepared statements\0\0\0"
                    % unused_number())
            put_message(composed, FE_PARSE, body, NULL, 0)
            server.ledger.push(FE_PARSE, REFUSED, None)
        self.dropping = True
        self.remain = total - here
        return here

    cdef int note_text(self, Server server, const char* p, Py_ssize_t count,
                       bint is_query) except -1:
        """What may this text reset, or set of what the server does not report?

        Of one that has not come whole its beginning counts.
        """
        if may_reset(p, count) or server.minds & MAY_RESET:
            server.say(p[:min(count, LOOKED_AT)].rstrip(b"\0"), is_query)
        if self.pool.learn_query is not None and may_set(p, count):
            server.minds |= LEARN
        return 0

    cdef int note_parse(self, Server server, const char* p, Py_ssize_t count) except -1:
        """A Parse that goes out as it is: keep its text, if that may reset parameters.

        What it does counts when a portal of it is run.
        """
        cdef const char* stop = name_end(p, count)
        cdef const char* text
        cdef Py_ssize_t size
        if stop == NULL:
            return 0
        text = stop + 1
        size = count - (text - p)
        if self.pool.learn_query is not None and may_set(text, size):
            server.minds |= LEARN
        if not (may_reset(text, size) or self.resetting is not None
                and is_control(text, size)):
            if self.resetting is not None:
                self.resetting.pop(p[:stop - p], None)
            return 0
        self.mind_portals(server)
        name = p[:stop - p]
        if len(self.resetting) < MOST_RESETTING or name in self.resetting:
            self.resetting[name] = text[:min(size, LOOKED_AT)].partition(b"\0")[0]
        return 0

    cdef int mind_portals(self, Server server) except -1:
        """From now on what its portals run is looked at."""
        if self.resetting is None:
            self.resetting = {}
        server.minds |= PORTALS
        return 0

    cdef bytes text_of(self, const char* name, Py_ssize_t size):
        """The text of a statement that may count, or None."""
        cdef NameEntry* entry = NULL
        cdef Statement statement
        if size and self.names is not None:
            entry = self.names.entry_of(name, size)
        if entry == NULL:
            return None if self.resetting is None else self.resetting.get(name[:size])
        statement = <Statement>entry.statement
        if statement.resets or is_control(statement.key, len(statement.key)):
            return statement.key[:LOOKED_AT].partition(b"\0")[0]
        return None

    cdef bint note_portal(self, Server server, int code, const char* p,
                          Py_ssize_t count, bint whole) except -1:
        """See what a Bind or Execute, its body at *p*, runs; false: cut too short."""
        cdef const char* stop
        cdef const char* name
        if code != FE_BIND and code != FE_EXECUTE:
            return True
        stop = name_end(p, count)
        if stop != NULL and code == FE_BIND:
            name = stop + 1
            stop = name_end(name, count - (name - p))
            if stop != NULL:
                if server.said is None:
                    server.said = Said()
                server.said.bind(p[:name - 1 - p], self.text_of(name, stop - name))
        elif stop != NULL and server.said is not None:
            text = server.said.portals.get(p[:stop - p])
            if text is not None:
                self.note_text(server, <const char*>text, len(<bytes>text), False)
        return stop != NULL or whole or count > 2 * LONGEST_NAME

    cdef bytes scope(self):
        return b"" if self.tracked is None else self.tracked.scope

    cdef int send_parse(self, Statement statement, Pending pending,
                        Buf* composed) except -1:
        """Put a Parse under the shared name into *composed*."""
        cdef Server server = self.server
        cdef bytes text = statement.as_parsed(self.pool.changes)
        put_message(composed, FE_PARSE, statement.name + b"\0", text, len(text))
        self.pool.server_parses += 1
        if server.prepared is None:
            server.prepared = PreparedSet()
        pending.group = server.ledger.group
        server.prepared.add(
            statement, False, server.ledger.group, pending.number, False)
        return 0

    cdef int send_close(self, Statement statement, Pending pending,
                        Buf* composed) except -1:
        """Put a Close of ours into *composed*."""
        cdef Server server = self.server
        put_message(composed, FE_CLOSE, b"S" + statement.name + b"\0", NULL, 0)
        server.ledger.push(FE_CLOSE, SWALLOW, pending)
        if server.evicting == 0:
            server.evicting = server.ledger.group
        return 0

    @nonecheck(False)
    cdef int change_unnamed(self, Server server, const char* p,
                            Py_ssize_t count) except -1:
        """Owe a Parse or Close of the unnamed statement, or a Query, which destroys it.

        The server is told; we note whose statement it has from now on, and keep the
        Parse: at another server it is said again. Where this may be skipped we keep
        what was before, too.
        """
        cdef int code = p[0]
        cdef Unnamed before = None
        cdef Owed* entry
        if not server.ledger.is_sure():
            before = self.unnamed_now(server)
        entry = server.ledger.enter(code, FORWARD, before)
        self.unnamed_change = next_note()
        self.unnamed_doubt = 0
        self.unnamed = server.unnamed = self.unnamed_change if code == FE_PARSE else 0
        if before is not None:
            self.unnamed_doubt = before.change = self.unnamed_change
            before.server_after = server.unnamed
        if code == FE_PARSE:
            entry.about = self.unnamed
            if count <= LOOKED_AT and not self.kept_long:
                return buf_put(&self.unnamed_parse, p, count)
            if count <= LONGEST_UNNAMED:
                return self.keep_unnamed(p, count)
        return self.keep_unnamed(NULL, 0)

    cdef int keep_unnamed(self, const char* p, Py_ssize_t count) except -1:
        """Keep this Parse in the place of the last; none when *count* is 0."""
        if self.kept_long:
            kept_long_ones.pop(self)
            count_kept(-self.kept_long)
            self.kept_long = 0
        if count:
            buf_put(&self.unnamed_parse, p, count)
        else:
            buf_free(&self.unnamed_parse)
        if count > LOOKED_AT:
            self.kept_long = self.unnamed_parse.capacity
            count_kept(self.kept_long)
            kept_long_ones[self] = None
            let_oldest_go()
        return 0

    cdef Unnamed unnamed_now(self, Server server):
        cdef Unnamed now = Unnamed.__new__(Unnamed)
        now.changed = self.unnamed_change
        now.server = server.unnamed
        now.client = self.unnamed
        if buf_size(&self.unnamed_parse):
            now.text = keep(self.unnamed_parse.data, self.unnamed_parse.end)
        return now

    cdef int fit_unnamed(self, Server server, Buf* composed) except -1:
        """See that a Bind or Describe finds the client's own unnamed statement.

        A server keeps one when its client goes: somebody else's. Where this client has
        none, or its text was too long to be kept, PostgreSQL shall find none (26000).
        """
        cdef int code = FE_CLOSE
        cdef Unnamed before = self.unnamed_now(server)
        cdef Owed* entry
        if self.unnamed and buf_size(&self.unnamed_parse):
            code = FE_PARSE
            buf_append(composed, self.unnamed_parse.data, self.unnamed_parse.end)
        else:
            buf_append(composed, b"C\0\0\0\6S\0", 7)
        entry = server.ledger.enter(code, SWALLOW, before)
        server.unnamed = before.server_after = self.unnamed if code == FE_PARSE else 0
        entry.about = server.unnamed
        return 0

    cdef int note_forgetting(self, Server server, const char* p,
                             Py_ssize_t count, bint whole) except -1:
        """A Query, or a Parse without a name, that goes out as it is.

        Behind a DEALLOCATE or DISCARD in the same pipeline the server may have none of
        what it has now; when that is told, what stands behind has been sent. Of a text
        that has not come in one piece nobody knows. (What is parsed is run later.)
        """
        if not whole or holds_forgetting(p + HEADER, count - HEADER):
            server.forgetting = next_note() if p[0] == FE_QUERY else FOREVER
        return 0

    cdef bint may_deallocate(self) except -1:
        """Does the unnamed statement look like it? Of longer texts nobody knows."""
        cdef Py_ssize_t size = buf_size(&self.unnamed_parse)
        return (HEADER + 1 < size <= HEADER + LONGEST_LENDING
                and holds_forgetting(self.unnamed_parse.data + HEADER, size - HEADER))

    cdef bint lend(self, Server server, int code, const char* text, Py_ssize_t size,
                   Buf* composed) except -1:
        """Let *server* have what *text* deallocates, of a Query or of what a Bind runs.

        It has this client's statements under other names, and others share them. So for
        each that is named in a DEALLOCATE it gets an empty one of that very name before
        the text. PostgreSQL itself finds it or not, in its turn, in a transaction or
        behind an error; its tag tells that it is gone (Server.note_deallocated), and
        what is left is closed before anybody else has the server (Server.probe). It has
        another number of values than the client's, so that EXECUTE in SQL is refused:
        nothing would be run, and nobody be told.

        True: it waits, as what is still to be answered may free a name.
        """
        cdef char name[LONGEST_SQL_NAME + 1]
        cdef const char* stop = <const char*>memchr(text, 0, size) if size > 0 else NULL
        cdef Py_ssize_t at = 0, part = -1
        cdef list found = []
        cdef dict needed = {}           # name -> what follows it in a Parse
        cdef NameEntry* entry
        cdef Ledger ledger = server.ledger
        cdef bytes left, one, empty
        if (stop == NULL or ledger.unsure or self.pool.mode == SESSION
                or ledger.is_reading_copy()):
            return False
        size = stop - text
        while part and len(found) <= MOST_LENT:
            part = next_deallocated(text + at, size - at, name)
            at += part
            if part == 0:
                break
            entry = self.names.entry_of(name, strlen(name))
            found.append(None if entry == NULL else <bytes>name)
            if entry != NULL:
                values = (<Statement>entry.statement).count_values()
                needed[<bytes>name] = TWO_VALUES if values == 1 else ONE_VALUE
        if not found or len(found) > MOST_LENT:
            return False
        if not server.can_answer_now():
            self.await_answers(server, composed)
            return True
        if not needed and server.lent is None:
            return False
        if (code == FE_QUERY or server.lent is None or len(server.lent) > MOST_LENT
                or server.status == STATUS_IDLE and not ledger.unsynced):
            left = server.take_back()       # no portal is there that may need them
            buf_append(composed, <const char*>left, len(left))
            server.lent = []
        server.lent += found
        for one, empty in needed.items():
            put_message(composed, FE_CLOSE, b"S" + one + b"\0", NULL, 0)
            ledger.push(FE_CLOSE, SWALLOW, None)
            put_message(composed, FE_PARSE, one + b"\0" + empty, NULL, 0)
            ledger.push(FE_PARSE, SWALLOW, None)
        ledger.mixed = True             # so it is probed before it is shared
        return False

    cdef int close_first(self, Statement statement, Prepared* item,
                         Buf* composed) except -1:
        """Close before a Parse, where nobody knows whether the server has it.

        *item* is what we believe. A Close or a Parse of ours before an earlier Sync,
        not answered yet, may still be skipped. Close of what is not there is fine.
        """
        cdef Server server = self.server
        cdef Pending pending
        if server.ledger.is_reading_copy() or item == NULL and not server.doubting and (
                server.evicting == 0 or server.evicting == server.ledger.group):
            return 0
        pending = Pending.__new__(Pending)
        pending.statement = statement
        pending.made = pending.number = next_note()
        if item != NULL:
            pending.made = item.made
            server.prepared.discard(statement)
        return self.send_close(statement, pending, composed)

    cdef int make_room(self, Server server, Buf* composed) except -1:
        """Over the limit: close the least recently used, in stream order."""
        cdef Statement oldest
        cdef Pending pending
        while (server.prepared.count > <uint32_t>self.pool.max_prepared
                or (server.prepared.text > MOST_TEXT and server.prepared.count > 1)):
            oldest = <Statement>server.prepared.oldest.statement
            pending = Pending.__new__(Pending)
            pending.statement = oldest
            pending.seen = server.prepared.oldest.seen
            pending.group = server.prepared.oldest.group
            pending.made = server.prepared.oldest.made
            pending.number = next_note()
            self.send_close(oldest, pending, composed)
            server.prepared.discard(oldest)
        return 0

    cdef int inject_parse(self, Statement statement, Buf* composed) except -1:
        """The server lacks what Bind or Describe names: prepare it first."""
        cdef Server server = self.server
        cdef Pending pending = Pending.__new__(Pending)
        pending.statement = statement
        pending.number = next_note()
        self.send_parse(statement, pending, composed)
        server.ledger.push(FE_PARSE, SWALLOW, pending)
        self.ask_about(statement, composed)
        self.make_room(server, composed)
        return 0

    cdef int ask_about(self, Statement statement, Buf* composed) except -1:
        """Behind a Parse that we send: how is it described? We may have to tell.

        Only of what changes rows: nobody but PostgreSQL knows the types of its values.
        All else that has no rows has no values either. See put_stand_in.
        """
        cdef Pending pending
        if statement.kind != CHANGES or statement.types is not None:
            return 0
        pending = Pending.__new__(Pending)
        pending.about = statement
        put_message(composed, FE_DESCRIBE, b"S" + statement.name + b"\0", NULL, 0)
        self.server.ledger.push(FE_DESCRIBE, SWALLOW, pending)
        return 0

    cdef int needs_stand_in(self, Server server, NameEntry* entry, int code,
                            const char* rest, Py_ssize_t left, bint whole) except -2:
        """Is this for a server that lacks the statement, in a block that has failed?

        And would PostgreSQL, if it had it, say more than that? Then 1. It says NoData
        where there are no rows, 08P01 where a Bind has a wrong number of values; all
        else it refuses as it refuses to parse. *left* bytes at *rest*, behind the name,
        are here. -1: whether the block has failed will be known when more is answered,
        or the number of values when more has come.
        """
        cdef Ledger ledger = server.ledger
        cdef Statement statement = <Statement>entry.statement
        cdef Prepared* item = NULL
        cdef Py_ssize_t formats, values
        if server.prepared is not None:
            item = server.prepared.find(statement)
        if item != NULL and (server.is_certain(item) or item.made == entry.made
                             and not ledger.is_settled(entry.made)):
            return 0
        if ledger.is_reading_copy():
            return 0
        if code == FE_DESCRIBE:
            if statement.rows != NO_ROWS or statement.types is None:
                return 0
        else:
            formats = values = -1
            if left >= 2:
                formats = <uint8_t>rest[0] << 8 | <uint8_t>rest[1]
                if left >= 4 + 2 * formats:
                    rest += 2 + 2 * formats
                    values = <uint8_t>rest[0] << 8 | <uint8_t>rest[1]
            if values < 0:
                return 0 if whole else -1
            if values == statement.count_values() and (
                    formats <= 1 or formats == values):
                return 0
        return 1 if ledger.goals == 0 else -1

    cdef int put_stand_in(self, Statement statement, Buf* composed) except -1:
        """Prepare, in a block that has failed, what is described like *statement*.

        So PostgreSQL itself answers, in its turn and with its own words.
        """
        cdef Server server = self.server
        put_message(composed, FE_CLOSE, b"S" + TAKEN + b"\0", NULL, 0)
        server.ledger.push(FE_CLOSE, SWALLOW, None)
        put_message(composed, FE_PARSE, TAKEN + b"\0" + statement.stand_in(), NULL, 0)
        server.ledger.push(FE_PARSE, SWALLOW, None)
        return 0

    cdef Py_ssize_t use_statement(self, const char* p, Py_ssize_t here,
                                  Py_ssize_t total, int code, const char* name,
                                  Py_ssize_t size, Buf* composed) except -2:
        """Bind or Describe of a named statement: rename it."""
        cdef Statement statement
        cdef Server server = self.server
        cdef Prepared* item = NULL
        cdef NameEntry* entry = NULL
        cdef Owed* owed
        cdef Pending pending = None     # for an error about a name of ours
        cdef int needs = 0
        if self.names is not None:
            entry = self.names.entry_of(name, size)
        if (server.ledger.syncs or server.forgetting) and self.hangs(
                server, code, entry):
            self.await_answers(server, composed)
            return -1
        if entry != NULL and (server.ledger.goals or server.status == STATUS_FAILED):
            needs = self.needs_stand_in(
                server, entry, code, name + size + 1, here - (name + size + 1 - p),
                here == total)
            if needs < 0:
                if server.ledger.goals:
                    self.await_answers(server, composed)
                return -1
        if entry != NULL:
            statement = <Statement>entry.statement
            if (statement.forgets and code == FE_BIND
                    and len(statement.key) <= LONGEST_LENDING
                    and self.lend(server, code, <const char*>statement.key,
                                  len(statement.key), composed)):
                return -1
        self.pool.client_bytes += total
        if code == FE_BIND:
            self.pool.binds += 1
        if entry == NULL:
            # PostgreSQL itself refuses it (26000), in its turn.
            pending = named(name[:size])
            self.put_renamed(p, here, total, name, size, NOWHERE, composed)
            server.ledger.push(code, FORWARD, pending)
            return here
        if needs:
            self.put_stand_in(statement, composed)
            self.put_renamed(p, here, total, name, size, TAKEN, composed)
            server.ledger.push(code, FORWARD, named(name[:size]))
            return here
        if server.prepared is not None:
            item = server.prepared.find(statement)
        if item != NULL and server.is_certain(item):
            server.prepared.touch(item)
        elif (item != NULL and item.made == entry.made
                and not server.ledger.is_settled(entry.made)):
            pending = named(name[:size])    # its own Parse is on its way
        else:
            if statement.scope != self.scope():
                # Parsed now it does not mean what it means to those who share it.
                statement = statement_for(
                    statement.key, self.scope(), self.pool.changes)
                item = NULL
                if server.prepared is not None:
                    item = server.prepared.find(statement)
            if item != NULL and server.is_certain(item):
                server.prepared.touch(item)
            elif not server.ledger.is_reading_copy():
                self.close_first(statement, item, composed)
                self.inject_parse(statement, composed)
        if statement.forgets and code == FE_BIND:
            server.forgetting = FOREVER
        if statement.sets and code == FE_BIND:
            server.minds |= LEARN
        self.put_renamed(p, here, total, name, size, statement.name, composed)
        if code == FE_DESCRIBE and statement.types is None:
            if pending is None:
                pending = named(name[:size])
            pending.about = statement
        owed = server.ledger.enter(code, FORWARD, pending)
        owed.about = statement.number
        owed.made = entry.made
        return here

    cdef int put_renamed(self, const char* p, Py_ssize_t here, Py_ssize_t total,
                         const char* name, Py_ssize_t size, bytes other,
                         Buf* composed) except -1:
        """Put a message into *composed*, its name at *name* replaced by *other*.

        Of *total* bytes *here* have come; the rest follows as it is.
        """
        cdef Py_ssize_t before = name - p       # header, portal or 'S'
        cdef Py_ssize_t after = here - before - size    # from the name's 0 on
        cdef Py_ssize_t other_size = len(other)
        cdef char* at = buf_room(composed, before + other_size + after)
        memcpy(at, p, before)
        put32(at + 1, <uint32_t>(total - 1 - size + other_size))
        memcpy(at + before, <const char*>other, other_size)
        memcpy(at + before + other_size, name + size, after)
        composed.end += before + other_size + after
        self.dropping = False
        self.remain = total - here
        return 0

    cdef Py_ssize_t close_statement(self, const char* name, Py_ssize_t size,
                                    Py_ssize_t total, Buf* composed) except -2:
        """Never reaches the server: other clients may share the statement."""
        cdef Statement statement = None
        cdef Server server = self.server
        cdef Pending pending
        cdef NameEntry* entry = NULL
        cdef uint64_t made = 0
        if self.names is not None:
            entry = self.names.entry_of(name, size)
        if (server is not None and server.ledger.syncs
                and not server.ledger.is_reading_copy()
                and (entry == NULL or server.ledger.is_open(entry.made))
                and server.ledger.is_open(self.last_close)):
            # One that PostgreSQL skips gives the name back; this one frees it then.
            self.await_answers(server, composed)
            return -1
        if entry != NULL:
            made = entry.made
            statement = self.names.take_out(name, size)
        self.pool.client_bytes += total
        if server is None or server.can_answer_now():
            self.write(b"3\0\0\0\4")
        else:
            pending = Pending.__new__(Pending)
            pending.name = name[:size]
            pending.statement = statement
            pending.number = next_note()
            pending.made = made
            if statement is not None:
                self.last_close = pending.number
            server.owe_fake(FE_CLOSE, pending)
        return total

    cdef Py_ssize_t deallocate(self, const char* p, uint32_t length,
                               Buf* composed) except -2:
        """A Query in which DEALLOCATE or DISCARD stands, of a client with names.

        If all it does is to deallocate one of these, nothing is to be done at the
        server: it has the statement under another name, or has it not, and others share
        it. Where it is in the midst of something it gets an empty Query instead, which
        ends what this would have ended. Else it gets what it needs, see lend.

        Gives how many bytes were used; 0 when it is to be forwarded, -1 when it waits.
        """
        cdef Server server = self.server
        cdef char name[LONGEST_SQL_NAME + 1]
        cdef Py_ssize_t total = <Py_ssize_t>length + 1
        cdef Py_ssize_t size = 0
        cdef bint alone = server is None
        if total > HEADER and p[total - 1] == 0:
            size = deallocated(p + HEADER, total - HEADER - 1, name)
        if (size == 0 or self.names.entry_of(name, size) == NULL
                or server is not None and (
                    server.ledger.unsure or self.pool.mode == SESSION
                    or server.ledger.is_reading_copy())):
            return self.lend_to_query(p + HEADER, total - HEADER, composed)
        if server is None:
            if buf_size(&self.out) > 0 and self.is_slow():
                return -1
        else:
            if not server.can_answer_now():
                self.await_answers(server, composed)
                return -1
            if server.status == STATUS_FAILED:
                return 0                # refused, whatever the name is
            alone = server.status == STATUS_IDLE and not server.ledger.unsynced
        self.names.take_out(name, size)
        self.pool.client_bytes += total
        if not alone:
            if self.query_start == 0:
                self.begin_request()
            buf_append(composed, b"Q\0\0\0\5\0", 6)
            self.change_unnamed(server, p, total)
            server.ledger.at(server.ledger.count - 1).action = EMPTIED
            return total
        self.unnamed = self.unnamed_doubt = 0       # as by any Query
        self.keep_unnamed(NULL, 0)
        self.pool.queries += 1
        if self.transaction_start == 0:
            self.pool.transactions += 1
        self.write(DEALLOCATED + b"Z\0\0\0\5I")
        return total

    cdef int lend_to_query(self, const char* text, Py_ssize_t size,
                           Buf* composed) except -2:
        """Find a server for this text, with what it needs; 0, or -1 when it waits."""
        if self.server is None:
            if buf_size(&self.out) > 0 and self.is_slow():
                return -1
            self.begin_request()
            if self.pool.acquire(self) != LINKED:
                return -1
        return -1 if self.lend(self.server, FE_QUERY, text, size, composed) else 0

    # Ending

    cdef int bad_header(self, const char* p, Py_ssize_t count) except -1:
        shown = p[:min(count, 8)].hex()
        return self.end(f"bad packet header: '{shown}'", True, "08P01")

    cdef bint end_special(self, const char* p, Py_ssize_t count) except -1:
        if not self.on_console:
            return False
        if count >= 8:
            self.end_by(UNKNOWN, 0, p, count)
        return True

    def too_long(self, code, length):
        if self.on_console:
            self.end("incomplete pkt", True, "08P01")
        elif code != FE_PASSWORD:
            # No message of a login: its end never comes, the login timeout does.
            self.dropping = True
        else:
            self.end("bad packet header: '" + bytes([code]).hex()
                     + (<int64_t>length).to_bytes(4, "big").hex() + "'", True, "08P01")

    cdef int refuse_query(self) except -1:
        log.error(f"{self.prefix} client used \"Query\" packet type")
        return self.end("PQexec disallowed", True, "08P01")

    cdef int peer_eof(self) except -1:
        if self.state == CL_LOGIN or self.state == CL_WAITING and self.talk is not None:
            return self.end(None, False, "08P01")   # a probe, or given up
        if self.is_queued():
            return 0                    # see gone_while_queued
        if self.broken:
            return self.peer_reset()    # a write was told of it before
        return self.goodbye("client unexpected eof")

    # Gone while it waits: what it has asked for is run all the same (goodbye, below)

    cdef bint is_queued(self) noexcept:
        return (self.state == CL_WAITING and self.wait_kind == WAIT_QUERY
                and self.talk is None and not self.replication)

    cdef int mind_end(self) except -1:
        """It begins to wait, unread: be told when it goes, also if nothing else is."""
        if self.watched:
            if not self.interest & EPOLLIN:
                self.poller.modify(self, self.interest | EPOLLRDHUP)
        elif self.slot:
            self.poller.add(self, self.interest & ~<uint32_t>EPOLLIN | EPOLLRDHUP)
        return 0

    cdef int gone_while_queued(self, bint both_ways) except -1:
        cdef int rest
        self.read_rest()
        if self.closed:
            return 0
        rest = self.what_is_held()
        if rest == HOLDS_PART or both_ways and rest != HOLDS_GOODBYE:
            # Nobody waits for what it has not asked for, nor after a crash.
            return self.end("client unexpected eof", False, "08P01")
        if both_ways:
            self.poller.remove(self)
        else:
            self.poller.modify(
                self, self.interest & ~<uint32_t>(EPOLLIN | EPOLLRDHUP))
        if not self.departed:
            self.depart(1)
            self.pool.departed[self] = None
            self.pool.keeper.departed(self.pool)
        return 0

    cdef int depart(self, int change) except -1:
        """It has gone, but for what it has asked for: no limit counts it any more.

        With *change* -1 it is all over, and it is not counted as such, either.
        """
        self.departed = change > 0
        self.door.departed += change
        if self.counted_database is not None:
            self.counted_database.departed += change
        if self.counted_user is not None:
            self.counted_user.departed += change
        return 0

    cdef int read_rest(self) except -1:
        """Hold what it has sent to its end, were it not for too much."""
        cdef ssize_t count = 1
        self.want_read = True       # of TLS, too
        try:
            while (count > 0 and not self.closed
                    and buf_size(&self.held) < LONGEST_REST):
                count = recv(self.fd, self.poller.rbuf, self.poller.read_size,
                             MSG_DONTWAIT)
                if count < 0 and errno != EAGAIN and errno != EINTR:
                    return self.peer_reset()
                if count > 0 and self.tls_object is not None:
                    self.tls_receive(self.poller.rbuf, count)
                elif count > 0:
                    self.feed(self.poller.rbuf, count)
        finally:
            self.want_read = False
        return 0

    cdef int what_is_held(self) noexcept:
        """Look at the frames of the messages that wait."""
        cdef const char* p = self.held.data + self.held.start
        cdef Py_ssize_t left = buf_size(&self.held)
        cdef int64_t size
        if left >= LONGEST_REST:
            return HOLDS_WHOLE      # as far as we look
        while left >= HEADER:
            if p[0] == FE_TERMINATE:
                return HOLDS_GOODBYE
            size = <int64_t>be32(p + 1) + 1
            if size < HEADER or size > left:
                return HOLDS_PART
            p += size
            left -= size
        return HOLDS_PART if left else HOLDS_WHOLE

    cdef int peer_reset(self) except -1:
        if self.leaving is not None and self.told_since:
            # It has closed, and this answers what we have sent: nobody reads it.
            self.broken = True
            self.poller.remove(self)
            return 0
        self.leaving = None
        if self.state == CL_LOGIN or self.state == CL_WAITING and self.talk is not None:
            return self.end(None, False, "08P01")
        return self.end("client unexpected eof", False, "08P01")

    cdef int goodbye(self, str why) except -1:
        """It has nothing more to ask: end when what it has asked for is answered.

        As with PostgreSQL, what stands before a Terminate is run and answered; and an
        end of file may be one half of a connection, whose other half still reads.
        """
        if self.leaving is None:
            self.leaving = why
        self.pause_reading()
        if not self.is_owed():
            self.finish()
        if not self.closed and not self.departed:
            self.depart(1)
        return 0

    cdef bint is_owed(self) except -1:
        """Will something come that ends what it has asked for?"""
        cdef Server server = self.server
        if server is None or self.replication or not self.sent_whole():
            return False
        return server.ledger.goals > 0 and server.phase == PH_RELAY and not (
            server.ledger.is_copy_in() and not server.ledger.copy_end_asked()
            or server.ledger.is_skipping())     # up to a Sync that it will never send

    cdef int finish(self) except -1:
        """All is answered: go, when it has read that, too (see `drained`)."""
        if buf_size(&self.out) > 0 and not self.broken and self.sent_whole():
            self.flush_out()
            if buf_size(&self.out) > 0 and not self.broken:
                return 0
        return self.end(self.leaving, False, "08P01")

    cdef bint busy_with_part(self) noexcept:
        return (self.remain > 0 or self.held.end > self.held.start or self.held_back
                or self.refusing != NOTHING_REFUSED)

    def wake(self):
        if self.state != CL_WAITING and not self.held_back:
            self.resume_reading()

    def tls_broken(self, error):
        """The original names the library's complaint without a prefix."""
        reason = getattr(error, "reason", None) or str(error)
        if reason == "UNEXPECTED_EOF_WHILE_READING" or "EOF" in reason:
            log.warning("tls_sbufio_recv: read failed: error:0A000126:SSL "
                        "routines::unexpected eof while reading")
        else:
            log.warning(f"tls_sbufio_recv: read failed: {reason}")
        return self.peer_eof()

    @property
    def given_application_name(self):
        """What the startup packet said; before the welcome."""
        if self.startup_params is None:
            return ""
        return self.startup_params.get("application_name", "")

    def disconnect(self, reason, notify=True, sqlstate="08P01"):
        """Close, with a reason for the log and, if *notify*, for the client."""
        self.end(reason, notify, sqlstate)

    cdef int end(self, str reason, bint notify, str sqlstate) except -1:
        cdef Server server = self.server
        cdef bint whole = True
        if self.closed:
            return 0
        if reason is not None and log_disconnections:
            log.info(f"{self.prefix} closing because: {reason} "
                     f"(age={self.age_seconds}s)")
        if server is not None:
            # An error inside a half-sent message would be taken for its rest.
            whole = server.remain == 0 or server.skipping
            self.leave(server)
        elif self.ends_with is not None:
            self.ends_with.end(
                "client disconnect before everything was sent to the server",
                True, False, "08P01")
            self.ends_with = None
        if self.departed:
            self.depart(-1)
            self.pool.departed.pop(self, None)
        if self.pool is not None and self.home is not None:
            self.home.drop(self)
        if notify and reason is not None:
            if self.specials:
                login_failed(self, reason, sqlstate)
            if log_pooler_errors:
                log.warning(f"{self.prefix} pooler error: {reason}")
            if whole:
                self.write(error_response(reason, sqlstate))
        self.shut()
        if self.names is not None:
            self.names.clear()
        self.keep_unnamed(NULL, 0)
        self.door.gone(self)
        return 0

    @nonecheck(False)
    cdef bint sent_whole(self) noexcept:
        """Is no message half way to the server?"""
        return self.remain == 0 or self.dropping

    cdef int leave(self, Server server) except -1:
        """What becomes of the server of a client that goes (server sheet 5.4)."""
        cdef Pool pool = self.pool
        cdef bint whole = self.sent_whole()
        self.server = None
        server.client = None
        if server.replication:
            return server.end("replication client was closed", whole, False, "08P01")
        if server.phase == PH_LEARN:
            return 0                    # it finds its place when it has the answer
        if server.phase == PH_APPLY or not server.ledger.ready:
            return server.end("client disconnect while server was not ready",
                              whole, False, "08P01")
        if server.ledger.count or server.ledger.mixed:
            return server.end("client disconnected with query in progress",
                              whole, False, "08P01")
        if not whole or buf_size(&server.out) > 0:
            return server.end(
                "client disconnect before everything was sent to the server",
                whole, False, "08P01")
        server.resume_reading()
        pool.release(server)
        return 0

    # Talks

    def talk_over(self, value):
        self.talk = None
        if isinstance(value, Known):
            if not self.closed:
                self.door.let_in(self, <Known>value)
        else:
            self.app.login_over(self, value)

    def talk_failed(self, reason):
        self.talk = None
        if reason.silent:
            self.end(None, False, reason.sqlstate)
        else:
            self.end(reason.reason, reason.notify, reason.sqlstate)
        if reason.log_after:
            log.info(f"{self.prefix} {reason.log_after}")

    cpdef int welcome_done(self) except -1:
        """Login is over: from now on messages are relayed."""
        self.started = True
        self.specials = False
        self.forget_kept()
        self.at_login = self.tracked
        move_client(self, CL_ACTIVE)
        return 0

    def pump(self):
        """Use what was received while nobody could."""
        self.put_off = False
        if self.server is not None:
            self.server.held_up = 0
        if not self.closed and self.state != CL_WAITING and not self.held_back:
            self.chew()
            if self.may_read():
                self.resume_reading()

    def go_on_now(self):
        """Its server is there: send what was held; for the policy."""
        self.go_on()

    @property
    def in_handshake(self):
        """TLS is being negotiated: no message can be sent."""
        return self.tls_handshaking

    @property
    def is_asked(self):
        """Its password is awaited, without a talk."""
        return self.proof is not None

    @property
    def prepared_count(self):
        return 0 if self.names is None else self.names.count

    @property
    def prepared_names(self):
        return [] if self.names is None else self.names.items()

    @property
    def held_bytes(self):
        return buf_size(&self.held)

    @property
    def is_held_back(self):
        return self.held_back

    @property
    def state_name(self):
        """As SHOW CLIENTS says it."""
        if self.state == CL_ACTIVE:
            return "idle" if self.server is None else "active"
        return STATE_NAMES[self.state]

    @property
    def prefix(self):
        """The log prefix (logs.md 1.1)."""
        db = "(nodb)" if self.pool is None else self.pool.database_name
        if self.pool is not None and self.pool.user_name == "":
            return self.mark(b"C") + db + "@" + self.address_text    # a peer's
        user = "(nouser)" if self.user is None else self.user
        return self.mark(b"C") + db + "/" + user + "@" + self.address_text

    @property
    def address_text(self):
        if self.is_unix:
            return f"unix({self.peer_pid}):{self.app.listen_port}"
        if self.family == 0:
            return "(bad-af):0"
        return self.endpoint()

    @property
    def tls_info(self):
        if self.tls_object is None or self.tls_handshaking:
            return ""
        return self.app.tls_info(self.tls_object)

    def __repr__(self):
        return f"{self.prefix}"
