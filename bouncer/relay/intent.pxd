"""What a statement may do to its session: contract of intent.pyx."""

cdef enum:
    LONGEST_SQL_NAME = 63       # bytes of an identifier (NAMEDATALEN - 1)
    LONGEST_DEALLOCATE = 200    # bytes of a text that may be no more than that

cdef bint holds_forgetting(const char* p, Py_ssize_t count) noexcept
cdef Py_ssize_t deallocated(const char* p, Py_ssize_t count, char* name) noexcept
cdef bint may_reset(const char* p, Py_ssize_t count) noexcept
cdef bint may_set(const char* p, Py_ssize_t count) noexcept
