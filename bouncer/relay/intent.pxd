"""What a statement may do to its session: contract of intent.pyx."""


cdef bint holds_forgetting(const char* p, Py_ssize_t count) noexcept
cdef bint may_reset(const char* p, Py_ssize_t count) noexcept
