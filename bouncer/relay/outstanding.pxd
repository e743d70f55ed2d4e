"""Requests that still await an answer: contract of outstanding.pyx.

A ring of small structs per server. An entry is what the client (or we) asked;
the answer that settles it is listed in server sheet 7. Most transactions owe
one entry, so the ring's first piece stands in the struct itself.

A client decides how long the ring grows and what the server says meanwhile, so
nothing walks it for each message: what is asked of it often is counted.
"""

from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum Action:
    FORWARD = 0                 # the answer goes to the client
    SWALLOW = 1                 # we asked: the answer is ours
    FAKE = 2                    # the server was not asked: we answer in order
    REFUSED = 3                 # the server will refuse it, and we tell why

cdef enum:
    OWED_INLINE = 6


cdef struct Owed:
    uint8_t kind                # the request's message code
    uint8_t action
    PyObject* note              # owned; a statements.Pending for Parse and Close
    uint64_t behind             # the last note that was made when it came


cdef struct OwedQueue:
    Owed* items                 # NULL while the inline piece suffices
    Owed inline_items[6]
    uint32_t head
    uint32_t count
    uint32_t capacity
    uint32_t goals              # Queries, Syncs and so on among them: the server counts
    uint64_t forgotten          # notes up to this one tell of nothing any more
    uint32_t syncs_known        # so many behind the head are known to be Syncs


cdef inline bint is_goal(int kind) noexcept:
    """Does PostgreSQL answer ReadyForQuery to it: a Query, Sync or FunctionCall?"""
    return kind == 0x51 or kind == 0x53 or kind == 0x46


cdef inline Owed* owed_at(OwedQueue* queue, uint32_t index) noexcept:
    cdef Owed* items = queue.items if queue.items != NULL else queue.inline_items
    cdef uint32_t place = queue.head + index
    if place >= queue.capacity:
        place -= queue.capacity
    return &items[place]


cdef uint64_t next_note() noexcept
cdef uint64_t notes_made() noexcept
cdef int owed_push(OwedQueue* queue, int kind, int action, object note) except -1
cdef void owed_pop(OwedQueue* queue) noexcept
cdef void owed_clear(OwedQueue* queue) noexcept
cdef void owed_cut(OwedQueue* queue, uint32_t count) noexcept
