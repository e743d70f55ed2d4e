"""Texts that clients prepare, one statement for all: contract of texts.pyx (D7)."""

from libc.stdint cimport uint32_t, uint64_t


cdef dict by_place              # Statement.place -> it: what a Parse of its text gets
cdef bytes TOO_MANY             # the error of a client that has MOST_NAMES
cdef bytes DEALLOCATED          # CommandComplete of a DEALLOCATE
cdef bytes NOWHERE              # the name of a statement that no server ever has
cdef bytes TAKEN                # ... of one that is made for a single error or answer


cdef enum Rows:                 # what Describe of a statement answers
    ROWS_UNKNOWN = 0
    NO_ROWS = 1                 # NoData
    SOME_ROWS = 2               # RowDescription


cdef class Changes


cdef class Statement:
    """One text with its parameter types, whatever clients call it.

    And with the parameters under which it is parsed: a literal without a time zone,
    say, is another moment in another one.
    """
    cdef:
        readonly bytes key      # query text, 0, type count, types: as in Parse
        readonly bytes scope    # TrackedParams.scope of whoever prepared it
        tuple place             # in the table of all: scope and key
        readonly uint64_t number
        readonly bytes name     # PGBOUNCER_<number>
        readonly bint forgets   # it may make its server forget statements
        readonly bint resets    # it may reset parameters
        readonly bint sets      # it may set some by set_config()
        uint64_t born           # notes made later are of what came behind it
        int kind                # intent.TextKind
        readonly bytes types    # body of its ParameterDescription; None: unknown
        readonly int rows       # Rows
        int values              # how many parameters the text has; -1: not counted
        uint32_t users          # clients and servers that refer to it
    cdef int learn_types(self, bytes types) except -1
    cdef int unlearn(self) noexcept
    cdef int count_values(self) except -1
    cdef bint infers(self) except -1
    cdef bytes as_parsed(self, Changes changes)
    cdef bytes stand_in(self)


cdef class Changes:
    """What is seen of changes to the tables, types and functions of a database."""
    cdef:
        object __weakref__
        uint64_t latest         # a statement that was born before it may be stale


cdef Statement statement_for(bytes key, bytes scope, Changes changes)
cdef Statement numbered(uint64_t number, bytes key, bytes scope)
cdef uint64_t unused_number() noexcept
cdef int retire(Statement statement) except -1
cdef int drop_unused(Statement statement) except -1
cdef int let_go(Statement statement) except -1
