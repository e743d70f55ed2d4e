# cython: language_level=3, boundscheck=False, wraparound=False, nonecheck=True
"""What notes of requests keep of statements without a name: all together not too much.

A Parse without a name that may be skipped keeps the one before it, for then that is
still there. In a pipeline without a Sync each of them does, until its server answers.
"""

from cpython.bytes cimport PyBytes_GET_SIZE

cdef Py_ssize_t noted_bytes = 0


cdef class Kept:

    def __dealloc__(self):
        global noted_bytes
        if self.text is not None:
            noted_bytes -= PyBytes_GET_SIZE(self.text)


cdef Kept keep(const char* text, Py_ssize_t size):
    """What is to be kept of *text*: None when there is too much of it already."""
    global noted_bytes
    cdef Kept kept
    if noted_bytes + size > MOST_KEPT:
        return None
    kept = Kept.__new__(Kept)
    kept.text = text[:size]
    noted_bytes += size
    return kept


def unnamed_noted():
    """How many bytes of Parses without a name are kept by notes of requests."""
    return noted_bytes
