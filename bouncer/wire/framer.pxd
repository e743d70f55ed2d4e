"""Message boundaries in a byte stream, and the buffer that keeps cut ones.

Both are C: a struct and inline functions, so that the relay calls nothing.
A message is a type byte, a big-endian length that counts itself but not the
type byte, and a body (PostgreSQL protocol, "Messages").
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove

cdef extern from *:
    """
    #ifdef BOUNCER_DEBUG
    #define BOUNCER_COUNTS_BUFFERS 1
    #else
    #define BOUNCER_COUNTS_BUFFERS 0
    #endif
    """
    const bint COUNTED "BOUNCER_COUNTS_BUFFERS"

cdef enum:
    HEADER = 5                  # bytes: type and length


cdef int64_t buffers_kept() noexcept
cdef void count_buffer(int change) noexcept nogil


cdef struct Buf:                # bytes data[start:end] are in use
    char* data
    Py_ssize_t start
    Py_ssize_t end
    Py_ssize_t capacity


cdef inline uint32_t be32(const char* p) noexcept nogil:
    return ((<uint32_t><uint8_t>p[0] << 24) | (<uint32_t><uint8_t>p[1] << 16)
            | (<uint32_t><uint8_t>p[2] << 8) | <uint32_t><uint8_t>p[3])


cdef inline void put32(char* p, uint32_t value) noexcept nogil:
    p[0] = <char>(value >> 24)
    p[1] = <char>((value >> 16) & 0xFF)
    p[2] = <char>((value >> 8) & 0xFF)
    p[3] = <char>(value & 0xFF)


cdef inline Py_ssize_t buf_size(Buf* buf) noexcept nogil:
    return buf.end - buf.start


cdef inline void buf_free(Buf* buf) noexcept nogil:
    if COUNTED and buf.data != NULL:
        count_buffer(-1)
    free(buf.data)
    buf.data = NULL
    buf.start = buf.end = buf.capacity = 0


cdef inline char* buf_room(Buf* buf, Py_ssize_t count) except NULL:
    """Make room for *count* bytes behind the end; the caller moves the end."""
    cdef Py_ssize_t used = buf.end - buf.start
    cdef Py_ssize_t capacity
    cdef char* grown
    if buf.capacity - buf.end >= count:
        return buf.data + buf.end
    if buf.start and buf.capacity - used >= count:
        memmove(buf.data, buf.data + buf.start, used)
    else:
        capacity = 512
        while capacity < used + count:
            capacity *= 2
        grown = <char*>malloc(capacity)
        if grown == NULL:
            raise MemoryError()
        if COUNTED and buf.data == NULL:
            count_buffer(1)
        if used:
            memcpy(grown, buf.data + buf.start, used)
        free(buf.data)
        buf.data = grown
        buf.capacity = capacity
    buf.start = 0
    buf.end = used
    return buf.data + used


cdef inline int buf_append(Buf* buf, const char* p, Py_ssize_t count) except -1:
    if count > 0:
        memcpy(buf_room(buf, count), p, count)
        buf.end += count
    return 0


cdef inline void buf_consume(Buf* buf, Py_ssize_t count) noexcept nogil:
    """Drop *count* bytes from the front; an empty buffer owns no memory."""
    buf.start += count
    if buf.start >= buf.end:
        buf_free(buf)


cdef inline int buf_put(Buf* buf, const char* p, Py_ssize_t count) except -1:
    """Let *buf* hold these bytes alone, in hardly more room than they need."""
    if buf.capacity < count or buf.capacity > 2 * count + 128:
        buf_free(buf)
        buf.data = <char*>malloc(count)
        if buf.data == NULL:
            raise MemoryError()
        if COUNTED:
            count_buffer(1)
        buf.capacity = count
    memcpy(buf.data, p, count)
    buf.start = 0
    buf.end = count
    return 0
