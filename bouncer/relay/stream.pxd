"""One socket of the relay: contract of stream.pyx."""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

from bouncer.wire.framer cimport Buf

cdef class Stream

from bouncer.relay.poller cimport Poller

cdef enum:
    HIGH_WATER = 262144         # unsent bytes above which we stop reading a peer
    LOGIN_MESSAGE = 1048576     # largest message collected for a talk, in bytes
    # Of somebody who has not logged in, in bytes
    LOGIN_HELD = 65536          # received and not used: one startup packet of any size
    LOGIN_UNSENT = 16384        # what it does not read of our answers
    LOGIN_TLS = 32768           # a handshake, all its certificates included
    LOGIN_SMALL = 4096          # messages that are not counted
    LOGIN_TIMES = 5             # a message, and its text at four bytes a character
    LOGINS_KEPT = 33554432      # what the talks of all logins may keep of larger ones
    TLS_READ = 16384            # what TLS is given at once meanwhile
    TALK_MESSAGES = 16          # of one talk before others get a turn
    MODEST_READ = 8192          # bytes read at a time from who may have to wait


cdef class Stream:
    cdef:
        Poller poller
        readonly int fd
        readonly uint64_t id    # never reused; the console's "id" column
        uint32_t slot           # place in the poller + 1, 0 when in none
        uint32_t interest       # epoll events asked for
        bint watched            # the poller knows the descriptor
        bint want_read          # false: leave bytes in the kernel (back-pressure)
        bint quiet              # suspended: nothing is read until `rouse`
        bint flush_queued       # stands in the poller's list of unsent streams
        bint modest             # what it sends now may have to be kept for long
        bint put_off            # has had its turn: goes on in the next round
        bint broken             # the peer is gone for writing; reading tells why
        readonly bint closed
        bint specials           # logging in: packets may lack a type byte
        bint talk_paused        # not read, because the talk does not wait for bytes
        bint turn_due           # stands in the poller's list of turns
        bint tls_handshaking
        readonly bint is_unix
        Buf out                 # queued or left by a blocked send (TLS: ciphertext)
        Buf held                # received, not yet processed (plaintext)
        public uint32_t talk_limit  # largest message collected for the talk, in bytes
        Py_ssize_t behind       # bytes behind the message that a talk just got
        public object talk      # the Talk that runs on this stream, or None
        public object tls_object    # ssl.SSLObject or None
        object tls_records      # reads and writes for it
        object tls_in
        object tls_out
        uint32_t tls_seen       # bytes of the handshake
        Py_ssize_t kept         # bytes of large messages, as its login keeps them
        Py_ssize_t part         # bytes of one that has come in part
        readonly int64_t connected_at   # monotonic microseconds
        public int64_t received_at      # last bytes from the peer, same clock
        # Raw peer address: formatted only when somebody looks
        unsigned char peer_raw[16]
        uint16_t peer_port_raw
        uint16_t family
        public int peer_pid     # of a Unix client; else 0
        public int peer_uid     # of a Unix client; else -1
        # Intrusive list of the pool: leaving it is O(1), nothing is allocated
        Stream prev
        Stream next
        StreamList home
    # Called by the poller
    cdef int on_events(self, uint32_t events) except -1
    cdef int flush_out(self) except -1
    # Overridden by Client and Server
    cdef Py_ssize_t take(self, const char* p, Py_ssize_t count) except -1
    cdef int drained(self) except -1
    cdef int peer_eof(self) except -1
    cdef int peer_reset(self) except -1
    cdef bint is_queued(self) noexcept
    cdef int gone_while_queued(self, bint both_ways) except -1
    # Reading
    cdef Py_ssize_t talk_take(self, const char* p, Py_ssize_t count) except -1
    cdef int bad_header(self, const char* p, Py_ssize_t count) except -1
    cdef bint end_special(self, const char* p, Py_ssize_t count) except -1
    cdef int on_readable(self) except -1
    cdef int nothing_read(self, ssize_t count) except -1
    cdef int read_for_talk(self) except -1
    cdef Py_ssize_t talk_room(self) except -1
    cdef bint talk_reads(self) except -1
    cdef bint talk_may_go_on(self) except -1
    cdef bint is_crowded(self) except -1
    cdef bint may_keep(self, Py_ssize_t count) except -1
    cdef bint may_hold(self, Py_ssize_t count) except -1
    cdef int forget_part(self) except -1
    cdef int forget_kept(self) except -1
    cdef int pause_talk(self) except -1
    cdef int go_on_talking(self) except -1
    cdef int settle_reading(self) except -1
    cdef int feed(self, const char* p, Py_ssize_t count) except -1
    cdef int chew(self) except -1
    cdef int pause_reading(self) except -1
    cdef int resume_reading(self) except -1
    cdef int tls_pump(self) except -1
    cdef int tls_receive(self, const char* p, Py_ssize_t count) except -1
    cdef int tls_handshake(self) except -1
    cdef bint busy_with_part(self) noexcept
    # Writing
    cdef int send(self, const char* p, Py_ssize_t count) except -1
    cdef int push(self, const char* p, Py_ssize_t count) except -1
    # Ending
    cdef int shut(self) except -1
    # Addresses
    cdef str endpoint(self)
    cdef str mark(self, char side)
    cdef int learn_peer(self, const void* raw) except -1


cdef uint64_t next_id() noexcept


cdef class StreamList:
    """Streams of one state, in order; each stands in at most one list."""
    cdef:
        Stream head
        Stream tail
        readonly int count
    cdef int push_head(self, Stream stream) except -1
    cdef int push_tail(self, Stream stream) except -1
    cdef int drop(self, Stream stream) except -1
