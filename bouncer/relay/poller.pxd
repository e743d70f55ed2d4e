"""The epoll set nested in the event loop: contract of poller.pyx."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from bouncer.relay.sockets cimport epoll_event
from bouncer.wire.framer cimport Buf

cdef enum:
    READ_SIZE = 65536           # bytes a recv may bring at least; see use_buffers
    EVENTS = 256                # sockets reported by one wait
    TALKS_US = 200              # what talks, logins above all, may take of one round
    LATER_US = 1000             # what work that was put off may take of one round

from bouncer.relay.stream cimport Stream


cdef struct Slot:
    void* stream                # borrowed Stream, NULL while the slot is free
    uint32_t generation         # tells a closed stream's late event from its heir's
    uint32_t next_free


cdef class Poller:
    cdef:
        readonly int fd         # the epoll set; readable when a socket is ready
        epoll_event events[256]
        Slot* slots
        uint32_t slot_count
        uint32_t free_slot      # head of the free list, slot_count when empty
        readonly Py_ssize_t read_size   # of the two buffers, in bytes
        public int loop_count   # buffers that one socket may fill per turn; 0: any
        char* rbuf              # read_size bytes: what the last recv brought
        char* plain             # read_size bytes: what TLS made of it
        object plain_view       # the same, as TLS wants to be told of it
        Buf scratch             # rewritten output of the stream that is being read
        readonly int64_t now    # monotonic microseconds at the start of the round
        public uint32_t max_packet_size
        public int64_t budget_us    # longest stay in dispatch before other work
        public object loop      # the event loop, for coroutines that talks yield
        public list unwritten   # lines of the log
        public object after     # run at the end of a dispatch that has left some
        public object crashed   # callable(stream, exception): a bug in our code
        list unsent             # streams with queued output
        list later              # callables put off to the end of the round
        list turns              # streams whose talk has stopped in favour of others
        Py_ssize_t logins_kept  # bytes, as Stream.may_keep counts them
        int64_t talks_until     # when the talks of this round have had their share
        bint busy               # inside dispatch
        bint rung               # the loop is to call dispatch in any case
        readonly int64_t longest_us
        readonly uint64_t rounds
    # The four operations
    cdef int add(self, Stream stream, uint32_t events) except -1
    cdef int modify(self, Stream stream, uint32_t events) except -1
    cdef int remove(self, Stream stream) except -1
    cdef int wait(self) noexcept
    cdef int serve(self, int count) except -1
    cdef bint serve_event(self, int i, bint logins_too) except -1
    # Called by streams
    cdef int release_slot(self, Stream stream) except -1
    cdef int queue_flush(self, Stream stream) except -1
    cdef int flush_all(self) except -1
    cdef int flush_unsent(self) except -1
    cdef int write_log(self) except -1
    cdef int run_later(self) except -1
    cdef int queue_turn(self, Stream stream) except -1
    cdef bint is_turn_over(self, int given) noexcept
    cdef int serve_turns(self, list batch) except -1
    cdef int ring(self) except -1
    cpdef int put_off(self, call) except -1
