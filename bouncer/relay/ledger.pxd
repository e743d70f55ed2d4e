"""What a server still owes: contract of ledger.pyx.

An entry is what the client (or we) asked, and stays until the server has answered it.
Most transactions owe one to five, so the ring's first piece stands in the object.

A client decides how long the ring grows and what the server says meanwhile, so
nothing walks it for each message: what is asked of it often is counted.
"""

from cpython.ref cimport Py_INCREF, Py_XDECREF, PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free

from bouncer.wire.codes cimport FE_COPY_DONE, FE_FUNCTION_CALL, FE_QUERY, FE_SYNC

cdef enum Action:
    FORWARD = 0                 # the answer goes to the client
    SWALLOW = 1                 # we asked: the answer is ours
    FAKE = 2                    # the server was not asked: we answer in order
    REFUSED = 3                 # the server will refuse it, and we tell why
    EMPTIED = 4                 # a Query that has become an empty one: a DEALLOCATE

cdef enum Heard:                # what a message of the server is
    PASSES = 0                  # the client's; it settles nothing
    SETTLES = 1                 # the client's; with it the head is answered
    OURS = 2                    # nobody's; with it the head is answered
    LATE = 3                    # nobody's: a Close of ours that was settled before
    PROBED = 4                  # nobody's: what our empty query brings
    STRANGE = 5                 # no server sends such a one
    TELLS = 6                   # ParameterDescription that we look at or asked for

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
    # Of a Parse without a name: Client.unnamed; of a Bind or Describe with one: the
    # number of its statement; else 0.
    uint64_t about
    uint64_t made               # ... and NameEntry.made of the name; else anything
    PyObject* note              # owned; a statements.Pending, or NULL
    uint64_t behind             # the last note that was made when it came


cdef uint64_t last_note


cdef inline bint is_goal(int kind) noexcept:
    """Does PostgreSQL answer ReadyForQuery to it?"""
    return kind == FE_QUERY or kind == FE_SYNC or kind == FE_FUNCTION_CALL


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
    # Short ones, here so that they cost no call
    cdef inline Owed* at(self, uint32_t index) noexcept:
        """The entry so many behind the head; it must be there."""
        cdef Owed* items = self.items if self.items != NULL else self.inline_items
        cdef uint32_t place = self.head + index
        if place >= self.capacity:
            place -= self.capacity
        return &items[place]

    cdef inline int push(self, int kind, int action, object note) except -1:
        self.enter(kind, action, note)
        return 0

    cdef inline Owed* enter(self, int kind, int action, object note) except NULL:
        """Owe one more; *note* is None or kept until the entry is settled."""
        cdef Owed* entry
        if self.count == self.capacity:
            self.enlarge()
        self.count += 1
        entry = self.at(self.count - 1)
        entry.kind = kind
        entry.action = action
        entry.about = 0
        entry.note = NULL
        entry.behind = last_note
        if note is not None:
            Py_INCREF(note)
            entry.note = <PyObject*>note
            next_note()         # what comes behind it is behind it
        if action == FAKE:
            return entry        # the server hears nothing of it
        self.ready = False
        if kind == FE_SYNC:
            self.goals += 1
            self.syncs += 1
            self.group += 1
            self.synced = last_note
            self.unsynced = False
        elif kind == FE_QUERY or kind == FE_FUNCTION_CALL:
            self.goals += 1
            self.mixed |= self.unsynced
        elif kind != FE_COPY_DONE:
            self.unsynced = True
        return entry

    cdef inline bint is_extra_ready(self) noexcept:
        """Is this ReadyForQuery one that we do not count? (see copy_ended)"""
        cdef Owed* head
        if self.count == 0:
            return False
        head = self.at(0)
        if head.kind == FE_QUERY and head.action == SWALLOW:
            return not self.probed
        return self.unsure and not self.spoke and head.kind != FE_SYNC

    cdef inline bint answer_is_ours(self) noexcept:
        """Does the server answer nothing to what is owed next?"""
        cdef Owed* head
        if self.count == 0:
            return False
        head = self.at(0)
        return head.action == FAKE or head.kind == FE_COPY_DONE

    cdef inline void pop(self) noexcept:
        """Settle the head."""
        cdef Owed* entry = self.at(0)
        cdef PyObject* note = entry.note
        cdef int kind = entry.kind
        if is_goal(kind):
            self.goals -= 1
            if kind == FE_SYNC:
                self.syncs -= 1
        if self.syncs_known:
            self.syncs_known -= 1
        self.head += 1
        if self.head == self.capacity:
            self.head = 0
        self.count -= 1
        if self.count == 0:
            self.head = 0
            if self.items != NULL:      # a burst is over: give the memory back
                free(self.items)
                self.items = NULL
                self.capacity = OWED_INLINE
        Py_XDECREF(note)

    cdef inline bint is_even(self) noexcept:
        """Does it owe nothing, and wait for a request outside of a transaction?"""
        return (self.ready and self.count == 0 and not self.unsure
                and self.copy == COPY_NONE)

    cdef inline bint is_reading_copy(self) noexcept:
        """Does it wait for data of a COPY, which any other message ends with an error?

        That one names the message, so it should be the client's own.
        """
        return self.is_copy_in() and not self.copy_end_asked()

    cdef inline bint is_skipping(self) noexcept:
        """Does PostgreSQL throw away all that comes before a Sync?

        A Sync that is owed was sent behind what has failed: it goes on from there.
        """
        return self.reach == TO_SYNC and self.syncs == 0 and self.count > 0

    cdef inline bint is_sure(self) noexcept:
        """Can what is asked now not be skipped, since nothing before it may fail?"""
        return not self.unsynced or self.count == 0

    # Asked
    cdef int enlarge(self) except -1
    # Heard
    cdef int heard(self, int code) noexcept
    cdef uint32_t settled_by_ready(self) noexcept
    cdef int copy_ended(self, bint failed) noexcept
    cdef bint is_copy_in(self) noexcept
    cdef bint copy_end_asked(self) noexcept
    cdef bint answers(self, int code) noexcept
    cdef int error_heard(self) noexcept
    # Settled
    cdef void clear(self) noexcept
    cdef void cut(self, uint32_t count) noexcept
    # How things stand
    cdef bint is_settled(self, uint64_t note) noexcept
    cdef bint is_open(self, uint64_t note) noexcept


cdef uint64_t next_note() noexcept
cdef uint64_t notes_made() noexcept
