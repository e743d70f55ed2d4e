"""What a server still owes: contract of ledger.pyx.

An entry is what the client (or we) asked, and stays until the server has answered it.
Most transactions owe one to five, so the ring's first piece stands in the object.

A client decides how long the ring grows and what the server says meanwhile, so
nothing walks it for each message: what is asked of it often is counted.
"""

from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from bouncer.wire.codes cimport FE_FUNCTION_CALL, FE_QUERY, FE_SYNC

cdef enum Action:
    FORWARD = 0                 # the answer goes to the client
    SWALLOW = 1                 # we asked: the answer is ours
    FAKE = 2                    # the server was not asked: we answer in order
    REFUSED = 3                 # the server will refuse it, and we tell why

cdef enum Heard:                # what a message of the server is
    PASSES = 0                  # the client's; it settles nothing
    SETTLES = 1                 # the client's; with it the head is answered
    OURS = 2                    # nobody's; with it the head is answered
    LATE = 3                    # nobody's: a Close of ours that was settled before
    PROBED = 4                  # nobody's: what our empty query brings
    STRANGE = 5                 # no server sends such a one

cdef enum Reach:                # what an ErrorResponse puts an end to
    NO_ERROR = 0
    ONE_MESSAGE = 1             # a Query, FunctionCall or Sync: ReadyForQuery comes
    TO_SYNC = 2                 # all up to the next Sync is skipped, Queries included

cdef enum Copy:
    COPY_NONE = 0
    COPY_IN = 1
    COPY_OUT = 2
    COPY_BOTH = 3
    COPY_FAILED = 4             # extended protocol: the client's end is due

cdef enum:
    OWED_INLINE = 6


cdef struct Owed:
    uint8_t kind                # the request's message code
    uint8_t action
    bint unnamed                # a Parse of the client's unnamed statement
    PyObject* note              # owned; a statements.Pending, or NULL
    uint64_t behind             # the last note that was made when it came


cdef class Ledger:
    cdef:
        Owed* items             # NULL while the inline piece suffices
        Owed inline_items[6]
        uint32_t head
        readonly uint32_t count
        uint32_t capacity
        uint32_t goals          # Queries, Syncs, FunctionCalls: a ReadyForQuery each
        uint32_t syncs          # Syncs among them
        uint32_t syncs_known    # so many behind the head are known to be Syncs
        uint64_t forgotten      # notes up to this one tell of nothing any more
        uint64_t synced         # the last note that was made before the last Sync
        uint64_t group          # number of the requests up to the next Sync
        bint ready              # the last thing it said is ReadyForQuery 'I'
        bint spoke              # it answered something since the last ReadyForQuery
        int reach               # Reach of the error since the last ReadyForQuery
        int copy
        bint unsure             # one ReadyForQuery more than we count may come
        bint probed             # our empty query that tells has been answered
        bint unsynced           # extended requests came since the last Sync
        bint mixed              # ... and a Query or FunctionCall among them
        uint32_t late_closes    # Closes of ours that a ReadyForQuery has overtaken
    cdef inline Owed* at(self, uint32_t index) noexcept:
        """The entry so many behind the head; it must be there."""
        cdef Owed* items = self.items if self.items != NULL else self.inline_items
        cdef uint32_t place = self.head + index
        if place >= self.capacity:
            place -= self.capacity
        return &items[place]
    # Asked
    cdef int push(self, int kind, int action, object note) except -1
    # Heard
    cdef int heard(self, int code) noexcept
    cdef uint32_t settled_by_ready(self) noexcept
    cdef int copy_ended(self, bint failed) noexcept
    cdef bint is_copy_in(self) noexcept
    cdef bint answers(self, int code) noexcept
    cdef int error_heard(self) noexcept
    cdef bint is_extra_ready(self) noexcept
    cdef bint answer_is_ours(self) noexcept
    # Settled
    cdef void pop(self) noexcept
    cdef void clear(self) noexcept
    cdef void cut(self, uint32_t count) noexcept
    cdef int enlarge(self) except -1
    # How things stand
    cdef bint is_even(self) noexcept
    cdef bint is_skipping(self) noexcept
    cdef bint is_sure(self) noexcept
    cdef bint is_settled(self, uint64_t note) noexcept
    cdef bint is_open(self, uint64_t note) noexcept


cdef inline bint is_goal(int kind) noexcept:
    """Does PostgreSQL answer ReadyForQuery to it?"""
    return kind == FE_QUERY or kind == FE_SYNC or kind == FE_FUNCTION_CALL


cdef uint64_t next_note() noexcept
cdef uint64_t notes_made() noexcept
