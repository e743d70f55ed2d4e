# cython: language_level=3, nonecheck=True
"""Message boundaries for Python callers; the relay uses framer.pxd directly."""

cdef int64_t kept = 0


cdef int64_t buffers_kept() noexcept:
    """Buffers that own memory; counted in the debug build only."""
    return kept


cdef void count_buffer(int change) noexcept nogil:
    global kept
    kept += change


def split(bytes data not None):
    """Cut *data* into complete ``(code, body)`` messages and the rest."""
    cdef const char* p = data
    cdef Py_ssize_t size = len(data), pos = 0
    cdef uint32_t length
    messages = []
    while size - pos >= HEADER:
        length = be32(p + pos + 1)
        if length < 4:
            raise ValueError("message length below 4")
        if size - pos - 1 < <Py_ssize_t>length:
            break
        messages.append((<uint8_t>p[pos], data[pos + HEADER:pos + 1 + length]))
        pos += 1 + <Py_ssize_t>length
    return messages, data[pos:]
