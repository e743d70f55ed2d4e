# cython: language_level=3, boundscheck=False, wraparound=False, nonecheck=True
"""One socket of the relay: read, write, pause; plain or TLS.

A stream owns memory only while a send is blocked, a message is cut, or it
waits for somebody; everything else passes through the poller's one buffer.
`take` is handed bytes and says how many it used; the rest is held.

While a talk has the stream, nothing is read that the talk does not wait for: not
while it waits for somebody else, not while its answers are not read, and not while
others have their turn. So what a peer can make us keep is one message.
"""

import socket
import ssl

from cpython.memoryview cimport PyMemoryView_FromMemory
from cython cimport nonecheck
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memcpy, memset

from bouncer.errors import Disconnect
from bouncer.relay.poller cimport READ_SIZE, Poller
from bouncer.relay.sockets cimport (
    AF_INET, AF_INET6, AF_UNIX, EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP,
    MSG_DONTWAIT, MSG_NOSIGNAL, SO_PEERCRED, SOL_SOCKET, bouncer_ucred, close,
    getsockname, getsockopt, inet_ntop, monotonic_us, ntohs, recv,
    send as send_bytes, sockaddr,
    sockaddr_in, sockaddr_in6, sockaddr_storage, socklen_t)
from bouncer.relay.talk cimport Talk
from bouncer.relay.talk import READ, READ_BYTE
from bouncer.wire.framer cimport (
    HEADER, Buf, be32, buf_append, buf_consume, buf_free, buf_size)

cdef extern from "Python.h":
    enum:
        PyBUF_READ

WantRead = ssl.SSLWantReadError
TlsError = ssl.SSLError

cdef enum:
    COPIED = 4096               # bytes that cost less to copy than to make a view of

cdef uint64_t last_id = 0
cdef uint64_t made = 0
cdef uint64_t freed = 0


def alive():
    """Streams made and not yet freed; tests compare before and after."""
    return made - freed


cdef uint64_t next_id() noexcept:
    """The console's "id": shared by clients and servers, never used again."""
    global last_id
    last_id += 1
    return last_id


def count_from(uint64_t value):
    """Go on numbering behind *value* (after a takeover)."""
    global last_id
    if value > last_id:
        last_id = value


cdef object as_object(const char* p, Py_ssize_t count):
    """What the standard library takes for bytes; for one call."""
    if count <= COPIED:
        return p[:count]
    return PyMemoryView_FromMemory(<char*>p, count, PyBUF_READ)


cdef class Stream:
    """One socket; Client and Server build on it."""

    def __cinit__(self, *args, **kwargs):
        global made
        made += 1
        self.fd = -1
        self.want_read = True
        self.peer_uid = -1
        self.talk_limit = LOGIN_MESSAGE

    def __dealloc__(self):
        global freed
        freed += 1
        if self.slot and self.poller is not None:
            # Nobody has closed it: an event of this round may still name it.
            self.poller.release_slot(self)
        if self.fd >= 0 and not self.closed:
            close(self.fd)
        buf_free(&self.out)
        buf_free(&self.held)

    # Called by the poller

    @nonecheck(False)
    cdef int on_events(self, uint32_t events) except -1:
        if events & EPOLLOUT:
            self.flush_out()
            if self.closed:
                return 0
        if events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP):
            if self.want_read:
                self.on_readable()
            elif events & EPOLLERR:
                self.peer_reset()
            elif events & (EPOLLHUP | EPOLLRDHUP) and self.is_queued():
                self.gone_while_queued((events & EPOLLHUP) != 0)
            elif events & EPOLLHUP:
                # Cannot be masked, and what the peer sent last is still to be
                # read when we may: stop watching altogether until then.
                self.poller.remove(self)
                if self.talk_paused and not self.talk_reads():
                    self.peer_eof()
            elif events & EPOLLRDHUP and self.talk_paused and not self.talk_reads():
                # Whom it waits for has no one to tell any more.
                self.peer_eof()
            elif self.talk_paused and not self.talk_reads() or self.is_queued():
                self.poller.modify(
                    self, self.interest & ~<uint32_t>EPOLLIN | EPOLLRDHUP)
            else:
                self.poller.modify(
                    self, self.interest & ~<uint32_t>(EPOLLIN | EPOLLRDHUP))
        return 0

    cdef int flush_out(self) except -1:
        """Send what is queued; watch for writability while the kernel is full."""
        cdef ssize_t sent
        cdef bint blocked = (self.interest & EPOLLOUT) != 0
        if self.closed:
            return 0
        while buf_size(&self.out) > 0:
            if self.broken:
                buf_free(&self.out)
                break
            sent = send_bytes(self.fd, self.out.data + self.out.start,
                              buf_size(&self.out), MSG_DONTWAIT | MSG_NOSIGNAL)
            if sent < 0:
                if errno == EINTR:
                    continue
                if errno == EAGAIN:
                    if not blocked and self.watched:
                        self.poller.modify(self, self.interest | EPOLLOUT)
                    return 0
                self.broken = True
                continue
            buf_consume(&self.out, sent)
        if blocked:
            if self.watched:
                self.poller.modify(self, self.interest & ~<uint32_t>EPOLLOUT)
            if self.talk is not None:
                self.go_on_talking()
            else:
                self.talk_paused = False
                self.drained()
        return 0

    # Overridden by Client and Server

    cdef Py_ssize_t take(self, const char* p, Py_ssize_t count) except -1:
        """Use up to *count* bytes; returns how many were used."""
        return count

    cdef int bad_header(self, const char* p, Py_ssize_t count) except -1:
        return self.shut()

    cdef bint end_special(self, const char* p, Py_ssize_t count) except -1:
        """A packet without a type byte: true when it is none of the talk's messages."""
        return False

    cdef int drained(self) except -1:
        """A blocked send has gone out."""
        return 0

    cdef int peer_eof(self) except -1:
        return self.shut()

    cdef int peer_reset(self) except -1:
        return self.peer_eof()

    cdef bint is_queued(self) noexcept:
        """Does it wait, unread, so that its end is all that there is to hear of it?"""
        return False

    cdef int gone_while_queued(self, bint both_ways) except -1:
        """It has closed its half of the connection, or has gone (*both_ways*)."""
        return 0

    # Reading

    @nonecheck(False)
    cdef int on_readable(self) except -1:
        cdef Poller poller = self.poller
        cdef int fills = poller.loop_count
        cdef ssize_t count
        cdef Py_ssize_t size
        if self.specials or self.talk is not None:
            return self.read_for_talk()
        while True:
            size = MODEST_READ if self.modest else poller.read_size
            count = recv(self.fd, poller.rbuf, size, MSG_DONTWAIT)
            if count <= 0:
                break
            self.received_at = poller.now
            if self.tls_object is not None:
                self.tls_receive(poller.rbuf, count)
            else:
                self.feed(poller.rbuf, count)
            fills -= 1
            if (count < size or fills == 0 or self.closed
                    or not self.want_read):
                return 0
        return self.nothing_read(count)

    cdef int nothing_read(self, ssize_t count) except -1:
        """A recv has brought no byte; errno is its."""
        if count == 0:
            if self.tls_handshaking:
                # Let the handshake itself say that it was broken off.
                self.tls_in.write_eof()
                return self.tls_handshake()
            return self.peer_eof()
        if errno == EAGAIN or errno == EINTR:
            return 0
        return self.peer_reset()

    cdef int read_for_talk(self) except -1:
        """Read no more than may be kept until the talk has used it."""
        cdef Poller poller = self.poller
        cdef ssize_t count
        cdef Py_ssize_t room
        if not self.talk_may_go_on():
            return self.pause_talk()
        room = self.talk_room()
        if room <= 0:
            return self.pause_talk()
        if self.modest and room > MODEST_READ:
            room = MODEST_READ
        count = recv(self.fd, poller.rbuf, room, MSG_DONTWAIT)
        if count <= 0:
            return self.nothing_read(count)
        self.received_at = poller.now
        if self.tls_object is not None:
            self.tls_receive(poller.rbuf, count)
        else:
            self.feed(poller.rbuf, count)
        if not self.closed and not self.talk_may_go_on():
            self.pause_talk()
        return 0

    cdef Py_ssize_t talk_room(self) except -1:
        """How many bytes may be read: what is held stays within one message."""
        cdef Py_ssize_t most = LOGIN_HELD
        if not self.specials:
            most = 1 + <Py_ssize_t>self.talk_limit
        most -= buf_size(&self.held)
        if self.tls_object is not None:
            # What is decrypted is never more than what came. A cut record is in
            # the library's own buffer, which takes no more than one.
            most -= self.tls_in.pending
            if self.specials or self.tls_handshaking:
                return most if most < TLS_READ else TLS_READ
        return most if most < READ_SIZE else READ_SIZE

    cdef bint talk_reads(self) except -1:
        """Does the talk, if there is one, wait for bytes?"""
        cdef Talk talk = self.talk
        return (talk is None or self.tls_handshaking or talk.waiting is READ
                or talk.waiting is READ_BYTE)

    cdef bint talk_may_go_on(self) except -1:
        """May more be read, or handed to the talk, now?"""
        return self.talk_reads() and not self.turn_due and not self.is_crowded()

    cdef bint is_crowded(self) except -1:
        """Does the peer not read what it is told?"""
        cdef Py_ssize_t most = LOGIN_UNSENT if self.specials else HIGH_WATER
        if buf_size(&self.out) <= most:
            return False
        if not self.interest & EPOLLOUT:
            self.flush_out()
        return buf_size(&self.out) > most

    cdef bint may_keep(self, Py_ssize_t count) except -1:
        """May a login have a message of so many bytes? What it keeps is its affair.

        Each may be large; all together, of people nobody knows yet, may not.
        """
        if count <= LOGIN_SMALL:
            return True
        count *= LOGIN_TIMES
        if self.poller.logins_kept + count > LOGINS_KEPT:
            return False
        self.kept += count
        self.poller.logins_kept += count
        return True

    cdef bint may_hold(self, Py_ssize_t count) except -1:
        """May a login have so many bytes of a message whose rest has not come?"""
        if count <= LOGIN_SMALL or not self.specials:
            return True
        count -= self.part
        if self.poller.logins_kept + count > LOGINS_KEPT:
            return False
        self.part += count
        self.poller.logins_kept += count
        return True

    cdef int forget_part(self) except -1:
        """The rest has come."""
        self.poller.logins_kept -= self.part
        self.part = 0
        return 0

    cdef int forget_kept(self) except -1:
        """The login is over."""
        self.poller.logins_kept -= self.kept + self.part
        self.kept = self.part = 0
        return 0

    cdef int pause_talk(self) except -1:
        self.talk_paused = True
        return self.pause_reading()

    cdef int go_on_talking(self) except -1:
        """What the talk was stopped for is over: use what is held, read on."""
        if not self.closed and buf_size(&self.held) > 0:
            self.chew()
        return self.settle_reading()

    cdef int settle_reading(self) except -1:
        """The talk has gone on: is it to be read, or no more?"""
        if self.closed:
            return 0
        if not self.talk_may_go_on():
            return self.pause_talk()
        if self.talk_paused:
            self.talk_paused = False
            self.wake()
        return 0

    @nonecheck(False)
    cdef int feed(self, const char* p, Py_ssize_t count) except -1:
        """Hand over new plaintext; hold what cannot be used yet."""
        cdef Py_ssize_t used
        if buf_size(&self.held) > 0:
            buf_append(&self.held, p, count)
            return self.chew()
        used = self.take(p, count)
        if used < count and not self.closed:
            if self.tls_handshaking:
                return self.tls_receive(p + used, count - used)
            buf_append(&self.held, p + used, count - used)
        return 0

    cdef int chew(self) except -1:
        """Hand over what is held, again."""
        cdef Py_ssize_t used, before
        cdef Buf mine
        while not self.closed and buf_size(&self.held) > 0:
            # take may come back here for the same stream: it works on bytes of
            # ours alone, so give it the buffer and look at what is left.
            mine = self.held
            memset(&self.held, 0, sizeof(Buf))
            before = buf_size(&mine)
            try:
                used = self.take(mine.data + mine.start, before)
            except BaseException:
                buf_free(&mine)
                raise
            if self.closed:
                buf_free(&mine)
                return 0
            buf_consume(&mine, used)
            if buf_size(&mine) > 0:
                if buf_size(&self.held) > 0:
                    buf_append(&mine, self.held.data + self.held.start,
                               buf_size(&self.held))
                    buf_free(&self.held)
                self.held = mine
                if self.tls_handshaking:
                    mine = self.held
                    memset(&self.held, 0, sizeof(Buf))
                    try:
                        self.tls_receive(mine.data + mine.start, buf_size(&mine))
                    finally:
                        buf_free(&mine)
            if used == 0:
                return 0
        return 0

    cdef Py_ssize_t talk_take(self, const char* p, Py_ssize_t count) except -1:
        """Cut messages for the talk, as long as it asks for them and has the turn."""
        cdef Py_ssize_t pos = 0
        cdef uint32_t length
        cdef int code, given = 0
        cdef Talk talk
        while not self.closed and not self.turn_due:
            talk = self.talk
            if talk is None or talk.waiting is None or self.tls_handshaking:
                break
            if given and self.poller.is_turn_over(given):
                self.poller.queue_turn(self)
                break
            if self.is_crowded():
                break
            given += 1
            if talk.waiting is READ_BYTE:
                if pos == count:
                    break
                self.behind = count - pos - 1
                pos += 1
                talk.step(<uint8_t>p[pos - 1])
                continue
            if talk.waiting is not READ or count - pos < HEADER:
                break
            code = <uint8_t>p[pos]
            if code == 0 and self.specials:
                # PostgreSQL protocol, StartupMessage and friends: no type byte.
                # The length is 16 bits of it at most, see client sheet 1.
                if count - pos < 8:
                    break
                length = be32(p + pos)
                if length < 8 or length > 0xFFFF:
                    self.bad_header(p + pos, count - pos)
                    break
                if count - pos < length:
                    if not self.may_hold(count - pos):
                        talk.step(None, Disconnect("too many large logins at once"))
                    break
                self.forget_part()
                if not self.may_keep(length):
                    talk.step(None, Disconnect("too many large logins at once"))
                    break
                body = (p + pos + 4)[:length - 4]
                self.behind = count - pos - length
                pos += length
            elif code == 0 and self.end_special(p + pos, count - pos):
                break
            else:
                length = be32(p + pos + 1)
                if length < 4 or length >= self.poller.max_packet_size:
                    self.bad_header(p + pos, count - pos)
                    break
                if length > self.talk_limit:
                    self.too_long(code, length)
                    break
                if count - pos - 1 < length:
                    if not self.may_hold(count - pos):
                        talk.step(None, Disconnect("too many large logins at once"))
                    break
                self.forget_part()
                if self.specials and not self.may_keep(length):
                    talk.step(None, Disconnect("too many large logins at once"))
                    break
                body = (p + pos + HEADER)[:length - 4]
                self.behind = count - pos - 1 - length
                pos += 1 + <Py_ssize_t>length
            talk.step((code, body))
        return pos

    def too_long(self, code, length):
        """A message for a talk is larger than anybody may make us keep."""
        self.shut()

    @nonecheck(False)
    cdef int pause_reading(self) except -1:
        """Leave further bytes in the kernel; costs no system call now."""
        self.want_read = False
        return 0

    @nonecheck(False)
    cdef int resume_reading(self) except -1:
        if self.closed or self.want_read or self.quiet:
            return 0
        self.want_read = True
        if not self.watched:
            if self.slot:
                self.poller.add(
                    self, self.interest & ~<uint32_t>EPOLLRDHUP | EPOLLIN)
        elif not self.interest & EPOLLIN:
            self.poller.modify(self, self.interest & ~<uint32_t>EPOLLRDHUP | EPOLLIN)
        if self.tls_object is not None and not self.tls_handshaking:
            # What TLS has decrypted or buffered raises no event of the socket.
            self.poller.put_off(self.pump_later)
        return 0

    def quiesce(self):
        """Stop reading for a suspend; true when nothing is half done here."""
        if self.closed:
            return True
        self.flush_out()
        if buf_size(&self.out) > 0 or self.busy_with_part():
            if self.quiet:
                self.rouse()        # what it has begun wants its rest
            return False
        self.quiet = True
        self.pause_reading()
        return True

    def rouse(self):
        """End what `quiesce` began."""
        self.quiet = False
        self.wake()

    cdef bint busy_with_part(self) noexcept:
        return False

    def wake(self):
        """Read again, if nothing else forbids it."""
        self.resume_reading()

    def pump_later(self):
        if not self.closed and self.tls_object is not None:
            self.tls_pump()
            if self.talk is not None:
                self.settle_reading()

    cdef int tls_receive(self, const char* p, Py_ssize_t count) except -1:
        self.tls_in.write(as_object(p, count))
        if self.tls_handshaking:
            self.tls_seen += <uint32_t>count
            return self.tls_handshake()
        return self.tls_pump()

    cdef int tls_pump(self) except -1:
        """Decrypt and hand over until nothing is left or we may not read."""
        cdef Py_ssize_t count
        cdef Poller poller = self.poller
        # To read where nothing is costs an exception. What is, is in tls_in alone:
        # our buffer takes any record whole (RFC 8446 section 5.1).
        while not self.closed and self.want_read and self.tls_in.pending:
            try:
                count = self.tls_records.read(poller.read_size, poller.plain_view)
            except WantRead:
                break
            except TlsError as error:
                return self.tls_broken(error)
            if count == 0:
                return self.peer_eof()
            self.feed(poller.plain, count)
            if self.talk is not None and not self.closed \
                    and not self.talk_may_go_on():
                self.pause_talk()
        if not self.closed and self.tls_out.pending:
            data = self.tls_out.read()
            self.push(data, len(data))
        return 0

    def tls_broken(self, error):
        """The peer's TLS is wrong or ended without a goodbye."""
        self.peer_eof()
        return 0

    def start_tls(self, context, server_side, server_hostname):
        """Begin the handshake; the talk goes on when it is over."""
        self.tls_in = ssl.MemoryBIO()
        self.tls_out = ssl.MemoryBIO()
        self.tls_object = context.wrap_bio(
            self.tls_in, self.tls_out, server_side=server_side,
            server_hostname=server_hostname)
        # What SSLObject wraps has the same read and write, without a Python frame.
        self.tls_records = getattr(self.tls_object, "_sslobj", self.tls_object)
        self.tls_handshaking = True
        if not server_side:
            self.tls_handshake()

    cdef int tls_handshake(self) except -1:
        error = None
        try:
            self.tls_object.do_handshake()
        except WantRead:
            error = WantRead
        except Exception as problem:
            error = problem
        if self.tls_out.pending:
            data = self.tls_out.read()
            self.push(data, len(data))
        if self.closed:
            return 0
        if error is WantRead:
            if self.tls_seen <= LOGIN_TLS or not self.specials:
                return 0
            error = OSError("handshake too long")
        self.tls_handshaking = False
        if error is not None:
            self.broken = True          # nothing can be said in clear, or at all
        self.talk.step(None, error)
        if error is None and not self.closed and self.tls_in.pending:
            self.tls_pump()
        return 0

    # Writing

    @nonecheck(False)
    cdef int send(self, const char* p, Py_ssize_t count) except -1:
        """Send plaintext; 1 when some of it had to be kept, else 0."""
        if self.tls_object is not None and not self.tls_handshaking:
            self.tls_records.write(as_object(p, count))
            data = self.tls_out.read()
            return self.push(data, len(data))
        return self.push(p, count)

    @nonecheck(False)
    cdef int push(self, const char* p, Py_ssize_t count) except -1:
        """Send raw bytes; 1 when some of them had to be kept, else 0."""
        cdef ssize_t sent
        if self.closed or self.broken or count == 0:
            return 0
        if buf_size(&self.out) > 0:
            buf_append(&self.out, p, count)
            if not self.interest & EPOLLOUT:
                self.flush_out()
            return buf_size(&self.out) > 0
        while True:
            sent = send_bytes(self.fd, p, count, MSG_DONTWAIT | MSG_NOSIGNAL)
            if sent == count:
                return 0
            if sent >= 0:
                break
            if errno == EINTR:
                continue
            if errno == EAGAIN:
                sent = 0
                break
            self.broken = True      # reading will tell why, and what came before
            return 0
        buf_append(&self.out, p + sent, count - sent)
        if self.watched and not self.interest & EPOLLOUT:
            self.poller.modify(self, self.interest | EPOLLOUT)
        return 1

    def write(self, bytes data not None):
        """Queue *data*; all that is queued in one step goes out in one send."""
        if self.closed or self.broken:
            return
        if self.tls_object is not None and not self.tls_handshaking:
            self.tls_records.write(data)
            data = self.tls_out.read()
        buf_append(&self.out, <const char*>data, len(data))
        self.poller.queue_flush(self)

    def flush(self):
        """Send what is queued now."""
        self.poller.write_log()
        self.flush_out()

    @property
    def unsent(self):
        """Bytes that wait for the kernel to take them."""
        return buf_size(&self.out)

    # Talks

    def begin_talk(self, generator):
        """Run *generator* as this stream's conversation."""
        self.talk = Talk(self, generator)
        self.talk.step(None)

    def buffered(self):
        """Bytes received behind the message that the talk has just got."""
        return self.behind

    @property
    def loop(self):
        return self.poller.loop

    def tick(self):
        return self.poller.tick()

    def after_step(self):
        """A talk went on outside a read: use what came meanwhile, then flush."""
        self.go_on_talking()
        self.poller.settle()

    def talk_over(self, value):
        self.talk = None

    def talk_failed(self, reason):
        self.shut()

    def talk_crashed(self, problem):
        if self.poller.crashed is not None:
            self.poller.crashed(self, problem)
        else:
            self.shut()

    # Ending

    cdef int shut(self) except -1:
        """Close the socket and forget it; what is queued is sent if it fits."""
        if self.closed:
            return 0
        if buf_size(&self.out) > 0:
            self.poller.write_log()
        if self.tls_object is not None and not self.tls_handshaking:
            try:
                self.tls_object.unwrap()
            except Exception:
                pass        # it wants the peer's goodbye too; ours is written
            data = self.tls_out.read()
            self.push(data, len(data))
        if buf_size(&self.out) > 0 and not self.broken:
            send_bytes(self.fd, self.out.data + self.out.start, buf_size(&self.out),
                       MSG_DONTWAIT | MSG_NOSIGNAL)
        self.closed = True
        self.forget_kept()
        self.poller.release_slot(self)
        if self.fd >= 0:
            close(self.fd)
        buf_free(&self.out)
        buf_free(&self.held)
        self.tls_object = self.tls_records = self.tls_in = self.tls_out = None
        cdef Talk talk = self.talk
        self.talk = None
        if talk is not None:
            talk.cancel()
        return 0

    def abandon(self):
        """Close without a word: ending as usual has failed."""
        if self.home is not None:
            self.home.drop(self)
        self.shut()

    # Addresses

    cdef int learn_peer(self, const void* raw) except -1:
        """Keep the peer's address from a sockaddr; text is made on demand."""
        cdef bouncer_ucred who
        cdef socklen_t size = sizeof(bouncer_ucred)
        self.family = (<sockaddr*>raw).sa_family
        if self.family == AF_INET:
            memcpy(self.peer_raw, &(<sockaddr_in*>raw).sin_addr, 4)
            self.peer_port_raw = ntohs((<sockaddr_in*>raw).sin_port)
        elif self.family == AF_INET6:
            memcpy(self.peer_raw, &(<sockaddr_in6*>raw).sin6_addr, 16)
            self.peer_port_raw = ntohs((<sockaddr_in6*>raw).sin6_port)
        else:
            self.is_unix = True
            if getsockopt(self.fd, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0:
                self.peer_pid = who.pid
                self.peer_uid = who.uid
        return 0

    def set_peer(self, str host, int port):
        """The peer's address as told by a PROXY header or by a configuration."""
        cdef bytes packed
        if ":" in host:
            packed = socket.inet_pton(socket.AF_INET6, host)
            self.family = AF_INET6
        else:
            packed = socket.inet_pton(socket.AF_INET, host)
            self.family = AF_INET
        memset(self.peer_raw, 0, 16)
        memcpy(self.peer_raw, <const char*>packed, len(packed))
        self.peer_port_raw = port
        self.is_unix = False
        self.peer_uid = -1

    def note_unix(self, int port):
        """The peer is behind a Unix socket whose file name has *port*."""
        self.family = AF_UNIX
        self.is_unix = True
        self.peer_port_raw = port

    @property
    def peer_address(self):
        """The peer's IP address as text, or "unix"."""
        cdef char text[64]
        if self.family == AF_INET or self.family == AF_INET6:
            inet_ntop(self.family, self.peer_raw, text, 64)
            return text.decode("ascii")
        return "unix"

    @property
    def peer_port(self):
        return self.peer_port_raw

    @property
    def peer_ip_bytes(self):
        """Raw address (4 or 16 bytes), or None over a Unix socket."""
        if self.family == AF_INET:
            return (<char*>self.peer_raw)[:4]
        if self.family == AF_INET6:
            return (<char*>self.peer_raw)[:16]
        return None

    def local_name(self):
        """Our side's (address, port); ("unix", 0) over a Unix socket."""
        cdef sockaddr_storage raw
        cdef socklen_t size = sizeof(sockaddr_storage)
        cdef char text[64]
        if self.closed or getsockname(self.fd, <sockaddr*>&raw, &size) < 0:
            return ("unix", 0)
        if raw.ss_family == AF_INET:
            inet_ntop(AF_INET, &(<sockaddr_in*>&raw).sin_addr, text, 64)
            return (text.decode("ascii"), ntohs((<sockaddr_in*>&raw).sin_port))
        if raw.ss_family == AF_INET6:
            inet_ntop(AF_INET6, &(<sockaddr_in6*>&raw).sin6_addr, text, 64)
            return (text.decode("ascii"), ntohs((<sockaddr_in6*>&raw).sin6_port))
        return ("unix", 0)

    @property
    def local_address(self):
        return self.local_name()[0]

    @property
    def local_port(self):
        return self.local_name()[1]

    cdef str endpoint(self):
        """The peer as log lines show it: 192.0.2.1:5432, [2001:db8::1]:5432."""
        cdef char text[80]
        cdef char ip[64]
        if inet_ntop(self.family, self.peer_raw, ip, 64) == NULL:
            return "(bad-af):0"
        snprintf(text, 80, b"[%s]:%d" if self.family == AF_INET6 else b"%s:%d",
                 ip, <int>self.peer_port_raw)
        return text.decode("ascii")

    cdef str mark(self, char side):
        """How a log prefix begins: C-0x1234 or S-0x1234."""
        cdef char text[32]
        snprintf(text, 32, b"%c-0x%lx: ", side, <unsigned long><void*>self)
        return text.decode("ascii")

    @property
    def pointer(self):
        """A stable unique hexadecimal name, as in log prefixes."""
        return "0x%x" % <uint64_t><void*>self

    @property
    def age_seconds(self):
        """Whole seconds since the connection was made."""
        return (monotonic_us() - self.connected_at) // 1000000


cdef class StreamList:
    """Streams of one state, in order."""

    @nonecheck(False)
    cdef int push_head(self, Stream stream) except -1:
        if stream.home is not None:
            stream.home.drop(stream)
        stream.prev = None
        stream.next = self.head
        if self.head is not None:
            self.head.prev = stream
        else:
            self.tail = stream
        self.head = stream
        stream.home = self
        self.count += 1
        return 0

    @nonecheck(False)
    cdef int push_tail(self, Stream stream) except -1:
        if stream.home is not None:
            stream.home.drop(stream)
        stream.next = None
        stream.prev = self.tail
        if self.tail is not None:
            self.tail.next = stream
        else:
            self.head = stream
        self.tail = stream
        stream.home = self
        self.count += 1
        return 0

    @nonecheck(False)
    cdef int drop(self, Stream stream) except -1:
        """Take *stream* out; the last reference of the list goes with it."""
        cdef Stream before = stream.prev
        cdef Stream after = stream.next
        if before is not None:
            before.next = after
        else:
            self.head = after
        if after is not None:
            after.prev = before
        else:
            self.tail = before
        stream.prev = None
        stream.next = None
        stream.home = None
        self.count -= 1
        return 0

    def __len__(self):
        return self.count

    def __iter__(self):
        """A snapshot: safe while members come and go."""
        cdef list members = []
        cdef Stream stream = self.head
        while stream is not None:
            members.append(stream)
            stream = stream.next
        return iter(members)

    @property
    def first(self):
        return self.head

    @property
    def last(self):
        return self.tail
