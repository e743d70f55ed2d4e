"""What is kept of statements without a name, for all clients together."""

cdef enum:
    # Bytes that all clients keep, but for short ones; and that all notes keep
    MOST_KEPT = 8388608

cdef class Kept:
    """A Parse of before, counted as long as a note refers to it."""
    cdef readonly bytes text

cdef Kept keep(const char* text, Py_ssize_t size)
