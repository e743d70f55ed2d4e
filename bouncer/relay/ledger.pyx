# cython: language_level=3, boundscheck=False, wraparound=False, nonecheck=True
"""What a server still owes, and how far an error reaches. No socket is needed for it.

Whatever is asked of a server is entered; whatever it says is heard, and settles what
it answers. The one hard idea: what an ErrorResponse puts an end to is decided when it
comes, from what stands at the head then. A Query, a FunctionCall or a Sync ends alone,
and ReadyForQuery follows. After an error in any other message PostgreSQL throws all
away up to the next Sync, Query and FunctionCall included (PostgreSQL protocol,
"Extended Query" and "Pipelining").
"""

from cpython.ref cimport Py_XDECREF, PyObject
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from bouncer.wire.codes cimport (
    BE_BIND_COMPLETE, BE_CLOSE_COMPLETE, BE_COMMAND_COMPLETE, BE_COPY_BOTH,
    BE_COPY_DONE, BE_COPY_IN, BE_COPY_OUT, BE_EMPTY_QUERY, BE_ERROR,
    BE_FUNCTION_RESULT, BE_NO_DATA, BE_NOTICE, BE_NOTIFICATION,
    BE_PARAMETER_DESCRIPTION, BE_PARAMETER_STATUS, BE_PARSE_COMPLETE,
    BE_PORTAL_SUSPENDED, BE_ROW_DESCRIPTION, FE_BIND, FE_CLOSE, FE_COPY_DONE,
    FE_DESCRIBE, FE_EXECUTE, FE_PARSE, FE_QUERY, FE_SYNC)

last_note = 1                   # notes are numbered in the order they are owed

HEARD_NAMES = ("passes", "settles", "ours", "late", "probed", "strange", "tells")


cdef uint64_t next_note() noexcept:
    """The number of a note that is about to be owed; never used again."""
    global last_note
    last_note += 1
    return last_note


cdef uint64_t notes_made() noexcept:
    return last_note


cdef class Ledger:

    def __cinit__(self):
        self.capacity = OWED_INLINE
        self.group = 1

    def __dealloc__(self):
        self.clear()

    # Asked; `push` and other short ones stand in ledger.pxd

    cdef int enlarge(self) except -1:
        cdef uint32_t capacity = self.capacity * 2
        cdef uint32_t i
        cdef Owed* items = <Owed*>malloc(capacity * sizeof(Owed))
        if items == NULL:
            raise MemoryError()
        for i in range(self.count):
            items[i] = self.at(i)[0]
        free(self.items)
        self.items = items
        self.head = 0
        self.capacity = capacity
        return 0

    # Heard

    cdef int heard(self, int code) noexcept:
        """What a message of type *code* is; not for DataRow, CopyData, ReadyForQuery.

        Where it settles the head (SETTLES, OURS) the caller pops it.
        """
        cdef Owed* head
        if code == BE_NOTICE or code == BE_NOTIFICATION or code == BE_PARAMETER_STATUS:
            return PASSES
        self.spoke = True
        if self.count == 1 and self.at(0).kind == FE_QUERY and (
                code == BE_ROW_DESCRIPTION
                or (code == BE_COMMAND_COMPLETE and not self.is_copy_in())):
            self.copy = COPY_NONE       # nearly always
            return PASSES
        if code == BE_COMMAND_COMPLETE:
            if self.copy == COPY_IN or self.copy == COPY_BOTH:
                self.copy_ended(False)
            self.copy = COPY_NONE
        elif code == BE_ERROR:
            return self.error_heard()
        elif code == BE_COPY_IN:
            self.copy = COPY_IN
            return PASSES
        elif code == BE_COPY_OUT:
            self.copy = COPY_OUT
            return PASSES
        elif code == BE_COPY_BOTH:
            self.copy = COPY_BOTH
            return PASSES
        elif not (code == BE_ROW_DESCRIPTION
                  or code == BE_PARSE_COMPLETE or code == BE_BIND_COMPLETE
                  or code == BE_CLOSE_COMPLETE or code == BE_NO_DATA
                  or code == BE_PORTAL_SUSPENDED or code == BE_EMPTY_QUERY
                  or code == BE_PARAMETER_DESCRIPTION or code == BE_COPY_DONE
                  or code == BE_FUNCTION_RESULT):
            return STRANGE
        if self.count == 0:
            head = NULL
        else:
            head = self.at(0)
        if code == BE_CLOSE_COMPLETE and self.late_closes and (
                head == NULL or head.kind != FE_CLOSE):
            self.late_closes -= 1
            return LATE
        if head == NULL or not self.answers(code):
            if (code == BE_PARAMETER_DESCRIPTION and head != NULL
                    and head.kind == FE_DESCRIBE
                    and (head.note != NULL or head.action == SWALLOW)):
                return TELLS
            return PASSES
        if head.kind == FE_QUERY:
            self.probed = True          # its ReadyForQuery settles it
            return PROBED
        return OURS if head.action == SWALLOW or head.action == REFUSED else SETTLES

    cdef bint answers(self, int code) noexcept:
        """Does *code* answer the request at the head?"""
        cdef Owed* head = self.at(0)
        cdef int kind = head.kind
        if kind == FE_EXECUTE:
            return (code == BE_COMMAND_COMPLETE or code == BE_EMPTY_QUERY
                    or code == BE_PORTAL_SUSPENDED)
        if kind == FE_BIND:
            return code == BE_BIND_COMPLETE
        if kind == FE_PARSE:
            return code == BE_PARSE_COMPLETE
        if kind == FE_DESCRIBE:
            return code == BE_ROW_DESCRIPTION or code == BE_NO_DATA
        if kind == FE_CLOSE:
            return code == BE_CLOSE_COMPLETE
        return (kind == FE_QUERY and code == BE_EMPTY_QUERY
                and head.action == SWALLOW)     # a probe of ours

    cdef int error_heard(self) noexcept:
        """An ErrorResponse: note how far it reaches. It settles nothing by itself."""
        cdef Owed* head
        if self.copy == COPY_IN or self.copy == COPY_BOTH:
            self.copy_ended(True)
        else:
            self.copy = COPY_NONE
        if self.reach == TO_SYNC:
            return PASSES               # nothing that is skipped fails
        self.reach = ONE_MESSAGE
        if self.count == 0:
            return PASSES
        head = self.at(0)
        if head.kind == FE_QUERY and head.action == SWALLOW:
            self.probed = True
            return PROBED
        if not is_goal(head.kind):
            self.reach = TO_SYNC
        return PASSES

    cdef uint32_t settled_by_ready(self) noexcept:
        """How many entries a ReadyForQuery settles, from the head on.

        Up to the first that it may answer; after an error that reaches to a Sync, up to
        that. What comes before was answered or, after an error, skipped. (PgBouncer may
        tell of a Close only behind its ReadyForQuery.)
        """
        cdef uint32_t count = 0
        cdef int kind
        cdef bint to_sync = self.reach == TO_SYNC
        self.reach = NO_ERROR
        self.spoke = False
        self.copy = COPY_NONE
        while count < self.count:
            kind = self.at(count).kind
            count += 1
            if kind == FE_SYNC or (is_goal(kind) and not to_sync):
                break
        return count

    cdef int copy_ended(self, bint failed) noexcept:
        """A COPY IN is over: settle the Syncs that PostgreSQL ignored in it.

        They stand between the COPY's own request and the client's CopyDone
        (PostgreSQL protocol, "COPY Operations"). When the COPY has failed they may
        have come behind the failure, and are answered: then we are not sure.
        """
        cdef uint32_t syncs = self.syncs_known
        cdef bint extended = self.count and self.at(0).kind == FE_EXECUTE
        while syncs + 1 < self.count and self.at(syncs + 1).kind == FE_SYNC:
            syncs += 1
        self.syncs_known = syncs        # a server may say that more than once
        if syncs + 1 < self.count and self.at(syncs + 1).kind == FE_COPY_DONE:
            self.cut(syncs + 1)
            self.unsure |= failed and syncs > 0
            self.copy = COPY_NONE
            return 0
        if failed and syncs and not extended:
            self.cut(syncs)
            self.unsure = True
        # Extended: skipped up to a Sync behind the client's end.
        self.copy = COPY_FAILED if failed and extended else COPY_NONE
        return 0

    cdef bint is_copy_in(self) noexcept:
        """Does the server read a COPY, in which it ignores Syncs?"""
        return self.copy == COPY_IN or self.copy == COPY_BOTH

    cdef bint copy_end_asked(self) noexcept:
        """Has the client sent what ends a COPY, be it by an error?"""
        cdef uint32_t i
        for i in range(1, self.count):
            if self.at(i).kind != FE_SYNC and self.at(i).action != FAKE:
                return True
        return False

    # Settled

    cdef void clear(self) noexcept:
        while self.count:
            self.pop()

    cdef void cut(self, uint32_t count) noexcept:
        """Take *count* entries behind the head out: the head moves up to the rest."""
        cdef Owed first = self.at(0)[0]
        cdef Owed* entry
        cdef PyObject* note
        cdef uint32_t left = count
        while left:
            left -= 1
            entry = self.at(1)
            note = entry.note
            if is_goal(entry.kind):
                self.goals -= 1
                if entry.kind == FE_SYNC:
                    self.syncs -= 1
            self.head += 1
            if self.head == self.capacity:
                self.head = 0
            self.count -= 1
            self.at(0)[0] = first
            Py_XDECREF(note)
        self.syncs_known -= min(self.syncs_known, count)

    # How things stand

    cdef bint is_settled(self, uint64_t note) noexcept:
        """Has the request with this note, which was owed here, been answered?"""
        return self.count == 0 or self.at(0).behind > note

    cdef bint is_open(self, uint64_t note) noexcept:
        """May the request with this note be skipped, and what is asked now be not?

        Not when both stand before the same Sync.
        """
        return self.syncs > 0 and note <= self.synced and not self.is_settled(note)

    # For tests

    def ask(self, int code, int action=FORWARD):
        """Enter a request; for tests, as are the two below."""
        self.push(code, action, None)

    def hear(self, int code):
        """The name of what *code* is; settled is what it settles."""
        cdef uint32_t count
        cdef int found
        if code == 0x5A:
            if self.is_extra_ready():
                self.unsure = False
                return "extra"
            count = self.settled_by_ready()
            while count:
                self.pop()
                count -= 1
            self.ready = True
            return "ready"
        found = self.heard(code)
        if found == SETTLES or found == OURS:
            self.pop()
            while self.answer_is_ours():
                self.pop()
        return HEARD_NAMES[found]

    @property
    def owed(self):
        """The codes of what is owed, as text."""
        return "".join([chr(self.at(i).kind) for i in range(self.count)])

    @property
    def even(self):
        return self.is_even()

    @property
    def skipping(self):
        return self.is_skipping()
