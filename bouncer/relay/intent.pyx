# cython: language_level=3, boundscheck=False, wraparound=False, nonecheck=True
"""What a statement may do to its session, as far as its text tells.

Asked before it is sent, where what is sent behind it depends on that. A text that
looks as if costs a wait or a Parse that was not needed; nothing is ever parsed here,
and nobody pays more than a search for two letters with each query.
"""

from libc.string cimport memchr
from posix.strings cimport strncasecmp


cdef bint has_before(const char* p, Py_ssize_t count, int letter) noexcept:
    """Does *letter* stand in one of the two words, as their "c" does?"""
    cdef const char* end = p + count
    cdef const char* at = p
    while at < end:
        at = <const char*>memchr(at, letter, end - at)
        if at == NULL:
            return False
        if end - at >= 4 and (
                (at - p >= 6 and strncasecmp(at - 6, b"deallocate", 10) == 0)
                or (at - p >= 3 and strncasecmp(at - 3, b"discard", 7) == 0)):
            return True
        at += 1
    return False


cdef bint holds_forgetting(const char* p, Py_ssize_t count) noexcept:
    """Does DEALLOCATE or DISCARD stand anywhere in this text?"""
    return has_before(p, count, 0x63) or has_before(p, count, 0x43)


cdef bint has_word(const char* p, Py_ssize_t count, const char* word,
                   Py_ssize_t size) noexcept:
    cdef Py_ssize_t i
    for i in range(count - size + 1):
        if (p[i] | 0x20) == word[0] and strncasecmp(p + i, word, size) == 0:
            return True
    return False


cdef bint may_reset(const char* p, Py_ssize_t count) noexcept:
    """Does this text begin as one that lets parameters go back to their defaults?

    RESET, DISCARD, SET with DEFAULT or LOCAL, SELECT set_config() with NULL. Of longer
    texts only the beginning counts: nobody shall pay for this with each query.
    """
    while count and (p[0] == 0x20 or 0x09 <= p[0] <= 0x0D or p[0] == 0x3B):
        p += 1
        count -= 1
    if count < 5:
        return False
    if count > 1000:
        count = 1000
    if (p[0] | 0x20) == 0x72:           # r
        return strncasecmp(p, b"reset", 5) == 0
    if (p[0] | 0x20) == 0x64:           # d
        return strncasecmp(p, b"disca", 5) == 0
    if (p[0] | 0x20) != 0x73 or (p[1] | 0x20) != 0x65:      # se
        return False
    if (p[2] | 0x20) == 0x74:           # set
        return has_word(p, count, b"default", 7) or has_word(p, count, b"local", 5)
    return (count > 22 and strncasecmp(p, b"select", 6) == 0
            and has_word(p, 40 if count > 40 else count, b"set_config", 10)
            and has_word(p, count, b"null", 4))


def speaks_of_resetting(bytes text not None):
    """The above, for tests."""
    return may_reset(text, len(text))


def speaks_of_forgetting(bytes text not None):
    """The above, for tests."""
    return holds_forgetting(text, len(text))
