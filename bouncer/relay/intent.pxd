"""What a statement may do to its session: contract of intent.pyx."""

cdef enum:
    LONGEST_SQL_NAME = 63       # bytes of an identifier (NAMEDATALEN - 1)
    LOOKED_AT = 1000            # bytes of a text in which resetting is looked for

cdef enum TextKind:             # by the first word of a text
    OTHER = 0                   # nobody knows before PostgreSQL
    READS = 1                   # SELECT and its like: rows come
    CHANGES = 2                 # INSERT and its like: mostly none; values of some types
    UTILITY = 3                 # no rows, and no types but those that were given

cdef bint holds_forgetting(const char* p, Py_ssize_t count) noexcept
cdef Py_ssize_t deallocated(const char* p, Py_ssize_t count, char* name) noexcept
cdef Py_ssize_t next_deallocated(const char* p, Py_ssize_t count, char* name) noexcept
cdef bint may_reset(const char* p, Py_ssize_t count) noexcept
cdef bint is_control(const char* p, Py_ssize_t count) noexcept
cdef bint may_set(const char* p, Py_ssize_t count) noexcept
cdef int kind_of(const char* p, Py_ssize_t count) except -1
cdef int highest_value(const char* p, Py_ssize_t count, int most) noexcept
