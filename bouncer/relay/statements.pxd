"""Prepared statements shared by clients: contract of statements.pyx (D7)."""

from cpython.ref cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from bouncer.relay.kept cimport Kept
from bouncer.relay.texts cimport Statement


cdef class Pending:
    """What an unanswered request that names a statement was about."""
    cdef:
        bytes name              # the client's name for it; None when we asked
        Statement statement     # None: nothing is to be undone, an error names it
        Statement about         # of a Describe: whose answer tells what we do not know
        bint seen               # of a Close: what was known of the statement
        uint64_t group          # of a Parse: its group; of a Close: as *seen*
        uint64_t number         # of the note, see ledger.next_note
        uint64_t made           # of a Close: number of the Parse that it undoes


cdef class Unnamed:
    """What was the unnamed statement before a request that may be skipped."""
    cdef:
        uint64_t change         # number of that request; 0: only the server's changes
        uint64_t changed        # as Client.unnamed_change, before it
        uint64_t server         # as Server.unnamed
        uint64_t server_after   # ... behind it
        uint64_t client         # as Client.unnamed
        Kept text               # as Client.unnamed_parse; None: not kept


cdef enum:
    MOST_NAMES = 10000          # statements that a client may have prepared
    MOST_TEXT = 33554432        # bytes of their texts; of those on one server, too

cdef struct NameEntry:
    uint64_t hash
    PyObject* name              # owned bytes
    PyObject* statement         # owned Statement
    uint64_t made               # number of the note of its Parse
    NameEntry* earlier          # in the order of *made*
    NameEntry* later


cdef class NameTable:
    """A client's names. Found from raw bytes: no object is made to look one up."""
    cdef:
        NameEntry** places      # open addressing; NULL: free
        uint32_t capacity       # a power of two
        readonly uint32_t count
        readonly Py_ssize_t text    # bytes of all their statements
        NameEntry* first        # made earliest
        NameEntry* last
    cdef NameEntry** place(self, uint64_t hash, const char* name,
                           Py_ssize_t size) noexcept
    cdef NameEntry* entry_of(self, const char* name, Py_ssize_t size) noexcept
    cdef Statement find(self, const char* name, Py_ssize_t size)
    cdef bint is_full(self, const char* name, Py_ssize_t size,
                      Py_ssize_t more) noexcept
    cdef int put(self, bytes name, Statement statement, uint64_t made,
                 bint again) except -1
    cdef int enlarge(self) except -1
    cdef void string(self, NameEntry* entry, bint again) noexcept
    cdef void unstring(self, NameEntry* entry) noexcept
    cdef int parse_failed(self, bytes name, Statement statement) except -1
    cdef Statement take_out(self, const char* name, Py_ssize_t size)
    cdef Statement remove(self, NameEntry** where)
    cdef int forget(self, uint64_t upto) except -1
    cdef bytes name_of(self, uint64_t number, uint64_t upto)
    cdef bytes name_made(self, uint64_t made)
    cdef int clear(self) except -1


cdef struct Prepared:           # a statement on a server, in the LRU ring
    PyObject* statement         # owned
    uint64_t number
    bint seen                   # its ParseComplete has come
    uint64_t group              # of requests (see Server) that its Parse stands in
    uint64_t made               # number of the note of its Parse
    Prepared* older
    Prepared* newer
    Prepared* earlier           # in the order of *made*
    Prepared* later
    Prepared* chain             # next of the same bucket


cdef class PreparedSet:
    """What a server connection has prepared, least recently used first."""
    cdef:
        Prepared** buckets
        uint32_t capacity
        readonly uint32_t count
        readonly Py_ssize_t text    # bytes of all of them
        uint64_t latest         # no group of theirs is later
        Prepared* oldest
        Prepared* newest
        Prepared* first         # made earliest
        Prepared* last
    cdef Prepared* find(self, Statement statement) except? NULL
    cdef Prepared* add(self, Statement statement, bint seen, uint64_t group,
                       uint64_t made, bint again) except NULL
    cdef int enlarge(self) except -1
    cdef void hang(self, Prepared* item) noexcept
    cdef void unlink(self, Prepared* item) noexcept
    cdef void touch(self, Prepared* item) noexcept
    cdef int discard(self, Statement statement) except -1
    cdef int forget(self, uint64_t upto) except -1
    cdef int doubt(self) noexcept
    cdef bint has_since(self, uint64_t group) noexcept
    cdef Prepared* numbered(self, uint64_t number) noexcept
    cdef int clear(self) except -1
