# cython: language_level=3, boundscheck=False, wraparound=False, nonecheck=True
"""What a statement may do to its session, as far as its text tells.

Asked before it is sent, where what is sent behind it depends on that. A text that
looks as if costs a wait or a Parse that was not needed; nothing is ever parsed here,
and nobody pays more than a search for two letters with each query.
"""

from libc.stdint cimport int64_t
from libc.string cimport memchr, memcmp, strcmp, strlen
from posix.strings cimport strncasecmp

cdef enum:
    LONGEST_LOOK = 100000       # bytes of a text that are searched for a rare word


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


cdef inline bint is_blank(int c) noexcept:
    return c == 0x20 or 0x09 <= c <= 0x0D


cdef Py_ssize_t past_blanks(const char* p, Py_ssize_t count, bint semicolons) noexcept:
    """How many bytes blanks and comments take at *p*, and *semicolons*."""
    cdef Py_ssize_t i = 0, size = 1
    while i < count and size:
        if is_blank(p[i]) or semicolons and p[i] == 0x3B:
            size = 1
        else:
            size = past_comment(p + i, count - i)
        i += size
    return i


cdef Py_ssize_t word_at(const char* p, Py_ssize_t count, char* word) noexcept:
    """Copy the identifier at *p* to *word*, in small letters unless it is quoted.

    Gives the bytes that it takes in the text, 0 where none stands or it is too long for
    its 64 bytes, which it ends with a NUL.
    """
    cdef Py_ssize_t i = 0
    cdef int c
    if count and p[0] == 0x22:
        return quoted_at(p, count, word, False)
    if count > 2 and (p[0] | 0x20) == 0x75 and p[1] == 0x26 and p[2] == 0x22:   # U&"
        i = quoted_at(p + 2, count - 2, word, True)
        return i + 2 if i else 0
    if count == 0 or 0x30 <= p[0] <= 0x39:
        return 0
    while i < count:
        c = <unsigned char>p[i]
        if not is_of_name(c) and (c != 0x24 or i == 0):
            break
        if i == LONGEST_SQL_NAME:
            return 0
        word[i] = c | 0x20 if 0x41 <= c <= 0x5A else c
        i += 1
    word[i] = 0
    return i


cdef Py_ssize_t quoted_at(const char* p, Py_ssize_t count, char* word,
                          bint has_escapes) noexcept:
    """As word_at, for what stands in quotes; of U&"" it *has_escapes*."""
    cdef Py_ssize_t i = 0, size = 0, end = 0, clause = 0, digits
    cdef char by = 0x5C
    while end < count and (end == 0 or p[end] == 0x22):     # with what is doubled
        i = min(past_quotes(p + end, count - end), count - end)
        end += i
    if end < 3 or i < 2 or p[end - 1] != 0x22:
        return 0
    if has_escapes:
        clause = past_escape_clause(p + end, count - end, &by)
    i = 1
    while i < end - 1:
        if size == LONGEST_SQL_NAME:
            return 0
        if not has_escapes or p[i] != by or p[i + 1] == by:
            word[size] = p[i]
            size += 1
            i += 2 if p[i] == 0x22 or has_escapes and p[i] == by else 1
            continue
        digits = 6 if p[i + 1] == 0x2B else 4
        i += 2 if digits == 6 else 1
        if i + digits >= end or put_character(
                word, &size, hexadecimal(p + i, digits)) < 0:
            return 0
        i += digits
    word[size] = 0
    return end + clause


cdef Py_ssize_t past_escape_clause(const char* p, Py_ssize_t count, char* by) noexcept:
    """How many bytes UESCAPE takes at *p*, 0: none is there; *by* is what it says."""
    cdef Py_ssize_t i = past_blanks(p, count, False)
    if count - i < 10 or strncasecmp(p + i, b"uescape", 7) != 0:
        return 0
    i += 7
    i += past_blanks(p + i, count - i, False)
    if count - i < 3 or p[i] != 0x27 or p[i + 2] != 0x27:
        return 0
    by[0] = p[i + 1]
    return i + 3


cdef int64_t hexadecimal(const char* p, Py_ssize_t digits) noexcept:
    """The number of so many digits, -1 where they are none."""
    cdef int64_t value = 0
    cdef Py_ssize_t i
    cdef int c
    for i in range(digits):
        c = p[i]
        if 0x30 <= c <= 0x39:
            c -= 0x30
        elif 0x61 <= (c | 0x20) <= 0x66:
            c = (c | 0x20) - 0x57
        else:
            return -1
        value = value << 4 | c
    return value


cdef int put_character(char* word, Py_ssize_t* size, int64_t code) noexcept:
    """Put a character into *word*, in UTF-8; -1 where it has no room or is none."""
    cdef int more = (
        0 if code < 0x80 else 1 if code < 0x800 else 2 if code < 0x10000 else 3)
    if code <= 0 or code > 0x10FFFF or size[0] + more >= LONGEST_SQL_NAME:
        return -1
    word[size[0]] = <char>(
        code if more == 0 else (0xF0 << (3 - more) & 0xFF) | code >> 6 * more)
    size[0] += 1
    while more:
        more -= 1
        word[size[0]] = <char>(0x80 | code >> 6 * more & 0x3F)
        size[0] += 1
    return 0


cdef Py_ssize_t deallocate_at(const char* p, Py_ssize_t count, char* name) noexcept:
    """How many bytes the DEALLOCATE of one name takes at *p*; 0: none stands here."""
    cdef Py_ssize_t i = 10, size
    if count < 12 or (p[0] | 0x20) != 0x64 or strncasecmp(p, b"deallocate", 10) != 0 \
            or is_of_name(<unsigned char>p[10]) or p[10] == 0x24:
        return 0
    for _ in range(2):
        i += past_blanks(p + i, count - i, False)
        size = word_at(p + i, count - i, name)
        if size == 0 or size == 3 and p[i] != 0x22 and strcmp(name, b"all") == 0:
            return 0
        i += size
        i += past_blanks(p + i, count - i, False)
        if i == count or p[i] == 0x3B:
            return i
        if size != 7 or strcmp(name, b"prepare") != 0:
            break
    return 0


cdef Py_ssize_t deallocated(const char* p, Py_ssize_t count, char* name) noexcept:
    """Is this text DEALLOCATE of one name, and nothing else? The name's size, else 0.

    *name* has room for 64 bytes.
    """
    cdef Py_ssize_t i = past_blanks(p, count, True)
    cdef Py_ssize_t size = deallocate_at(p + i, count - i, name)
    i += size
    if size == 0 or i + past_blanks(p + i, count - i, True) < count:
        return 0
    return <Py_ssize_t>strlen(name)


cdef Py_ssize_t past_statement(const char* p, Py_ssize_t count) noexcept:
    """How many bytes stand at *p* up to the semicolon that ends a statement."""
    cdef Py_ssize_t i = 0, size
    cdef int c
    while i < count and p[i] != 0x3B:
        c = <unsigned char>p[i]
        size = 0
        if is_of_name(c):
            while i + size < count and (
                    is_of_name(<unsigned char>p[i + size]) or p[i + size] == 0x24):
                size += 1
            if size == 1 and (c | 0x20) == 0x65 and i + 1 < count and p[i + 1] == 0x27:
                size += past_escapes(p + i + 1, count - i - 1)      # E''
        elif c == 0x27 or c == 0x22 or c == 0x24:
            size = past_quotes(p + i, count - i)
        elif c == 0x2D or c == 0x2F:
            size = past_comment(p + i, count - i)
        i += size if size else 1
    return min(i, count)


cdef Py_ssize_t past_escapes(const char* p, Py_ssize_t count) noexcept:
    """How many bytes the string at *p* takes, in which a backslash escapes."""
    cdef Py_ssize_t i = 1
    while i < count and p[i] != 0x27:
        i += 2 if p[i] == 0x5C else 1
    return i + 1


cdef Py_ssize_t next_deallocated(const char* p, Py_ssize_t count, char* name) noexcept:
    """How many bytes stand at *p* to the end of the first DEALLOCATE of one name.

    0: there is none. *name* has room for 64 bytes. In a text of several statements the
    next one may stand behind it. In a string, or a function's body, none is seen.
    """
    cdef Py_ssize_t i = 0, size
    while i < count:
        i += past_blanks(p + i, count - i, True)
        size = deallocate_at(p + i, count - i, name)
        if size:
            return i + size
        i += past_statement(p + i, count - i)
    return 0


cdef bint has_word(const char* p, Py_ssize_t count, const char* word,
                   Py_ssize_t size) noexcept:
    cdef Py_ssize_t i
    for i in range(count - size + 1):
        if (p[i] | 0x20) == word[0] and strncasecmp(p + i, word, size) == 0:
            return True
    return False


cdef bint holds_resetting(const char* p, Py_ssize_t count) noexcept:
    """Does a word stand anywhere in this text that only resetting needs?"""
    return (has_word(p, count, b"reset", 5) or has_word(p, count, b"discard", 7)
            or has_word(p, count, b"default", 7) or has_word(p, count, b"local", 5)
            or has_word(p, count, b"names", 5)
            or may_set(p, count) and has_word(p, count, b"null", 4))


cdef bint has_more(const char* p, Py_ssize_t count) noexcept:
    """Does another statement follow in this text, as far as semicolons tell?"""
    cdef const char* at = <const char*>memchr(p, 0x3B, count)
    if at == NULL:
        return False
    at += 1
    while at < p + count and (is_blank(at[0]) or at[0] == 0x3B or at[0] == 0):
        at += 1
    return at < p + count


cdef bint may_reset(const char* p, Py_ssize_t count) noexcept:
    """Does this text look as one that lets parameters go back to their defaults?

    RESET, DISCARD, SET with DEFAULT or LOCAL, SET NAMES, set_config() with NULL, a DO
    that holds such; behind comments and other statements, too. Of longer texts only the
    beginning counts: nobody shall pay for this with each query.
    """
    cdef int first
    while count and (is_blank(p[0]) or p[0] == 0x3B):
        p += 1
        count -= 1
    if count < 5:
        return False
    if count > LOOKED_AT:
        count = LOOKED_AT
    first = p[0] | 0x20
    if first == 0x72 and strncasecmp(p, b"reset", 5) == 0 \
            or first == 0x64 and strncasecmp(p, b"disca", 5) == 0:
        return True
    if first == 0x2D or first == 0x2F or has_more(p, count) \
            or first == 0x64 and (p[1] | 0x20) == 0x6F:     # -- or /* or DO
        return holds_resetting(p, count)
    if first != 0x73 or (p[1] | 0x20) != 0x65:      # se
        return False
    if (p[2] | 0x20) == 0x74:           # set
        return holds_resetting(p, count)
    return (count > 22 and strncasecmp(p, b"select", 6) == 0
            and may_set(p, 60 if count > 60 else count)
            and has_word(p, count, b"null", 4))


cdef bint is_control(const char* p, Py_ssize_t count) noexcept:
    """Does this text begin as SET does, or as what begins or ends transactions?"""
    while count and (is_blank(p[0]) or p[0] == 0x3B):
        p += 1
        count -= 1
    return count >= 10 and strncasecmp(p, b"savepoint", 9) == 0 \
        or count >= 9 and strncasecmp(p, b"rollback", 8) == 0 \
        or count >= 7 and strncasecmp(p, b"commit", 6) == 0 \
        or count >= 6 and (strncasecmp(p, b"begin", 5) == 0
                           or strncasecmp(p, b"start", 5) == 0
                           or strncasecmp(p, b"abort", 5) == 0) \
        or count >= 4 and (strncasecmp(p, b"set", 3) == 0
                           or strncasecmp(p, b"end", 3) == 0)


cdef bint may_set(const char* p, Py_ssize_t count) noexcept:
    """Does set_config stand anywhere in this text? (SET itself shows in its tag.)"""
    cdef const char* end = p + count
    cdef const char* at = p
    while at < end:
        at = <const char*>memchr(at, 0x5F, end - at)        # _
        if at == NULL:
            return False
        if (at - p >= 3 and end - at >= 7
                and strncasecmp(at - 3, b"set_config", 10) == 0):
            return True
        at += 1
    return False


cdef Py_ssize_t past_comment(const char* p, Py_ssize_t count) noexcept:
    """How many bytes the comment at *p* takes; 0: none begins here."""
    cdef Py_ssize_t i = 2
    cdef int depth = 1
    if count < 2:
        return 0
    if p[0] == 0x2D and p[1] == 0x2D:       # --
        while i < count and p[i] != 0x0A and p[i] != 0x0D:
            i += 1
        return i
    if p[0] != 0x2F or p[1] != 0x2A:        # /*, of which one may stand in another
        return 0
    while i + 1 < count and depth:
        if p[i] == 0x2F and p[i + 1] == 0x2A:
            depth += 1
            i += 1
        elif p[i] == 0x2A and p[i + 1] == 0x2F:
            depth -= 1
            i += 1
        i += 1
    return count if depth else i


# Utility statements that PostgreSQL describes with rows in no case; CALL, EXECUTE,
# EXPLAIN, FETCH and SHOW may have some. A query in one may have values of its own.
cdef tuple UTILITIES = (
    b"abort", b"alter", b"analyze", b"begin", b"checkpoint", b"close", b"cluster",
    b"comment", b"commit", b"copy", b"create", b"deallocate", b"declare", b"discard",
    b"do", b"drop", b"end", b"grant", b"listen", b"load", b"lock", b"notify",
    b"prepare", b"refresh", b"reindex", b"release", b"reset", b"revoke", b"rollback",
    b"savepoint", b"set", b"start", b"truncate", b"unlisten", b"vacuum")
cdef dict KINDS = {
    **dict.fromkeys(UTILITIES, UTILITY),
    **dict.fromkeys((b"insert", b"update", b"delete", b"merge", b"with"), CHANGES),
    **dict.fromkeys((b"select", b"values", b"table", b"show"), READS)}


cdef int kind_of(const char* p, Py_ssize_t count) except -1:
    """The TextKind of this text. (SELECT with an INTO may be none that reads.)"""
    cdef char word[LONGEST_SQL_NAME + 1]
    cdef Py_ssize_t size = -1
    cdef int kind
    while count and size:
        size = 1 if is_blank(p[0]) or p[0] == 0x28 else past_comment(p, count)
        p += size
        count -= size
    if count == 0 or p[0] == 0x22 or word_at(p, count, word) == 0:
        return OTHER
    kind = KINDS.get(<bytes>word, OTHER)
    if kind == READS and has_word(p, min(count, LONGEST_LOOK), b"into", 4):
        return CHANGES
    if kind == UTILITY and highest_value(p, count, 1):
        return OTHER
    return kind


cdef inline bint is_of_name(int c) noexcept:
    return (c >= 0x80 or c == 0x5F or 0x30 <= c <= 0x39 or 0x41 <= c <= 0x5A
            or 0x61 <= c <= 0x7A)


cdef Py_ssize_t past_quotes(const char* p, Py_ssize_t count) noexcept:
    """How many bytes the string or name in quotes at *p* takes; 1: none begins here."""
    cdef Py_ssize_t i = 1, size
    cdef int mark = p[0]
    if mark == 0x27 or mark == 0x22:
        while i < count and p[i] != mark:
            i += 1
        return i + 1
    if count < 2 or 0x30 <= p[1] <= 0x39:
        return 1
    while i < count and is_of_name(<unsigned char>p[i]):
        i += 1
    if i == count or p[i] != 0x24:
        return 1
    size = i + 1                        # of $ or of $tag$, which ends it, too
    while i + 1 + size <= count:
        i += 1
        if p[i] == 0x24 and memcmp(p + i, p, size) == 0:
            return i + size
    return count


cdef int highest_value(const char* p, Py_ssize_t count, int most) noexcept:
    """The highest $n of this text, up to *most*; 0 when it has none.

    What stands in quotes or comments does not count, nor what is part of a name.
    (Of an E'' string with a quote behind a backslash that may be wrong.)
    """
    cdef Py_ssize_t i = 0, size
    cdef int highest = 0, number
    while i < count:
        if p[i] == 0x2D or p[i] == 0x2F:
            size = past_comment(p + i, count - i)
            i += size if size else 1
        elif is_of_name(<unsigned char>p[i]):
            while i < count and (is_of_name(<unsigned char>p[i]) or p[i] == 0x24):
                i += 1
        elif p[i] != 0x27 and p[i] != 0x22 and p[i] != 0x24:
            i += 1
        elif p[i] == 0x24 and i + 1 < count and 0x30 <= p[i + 1] <= 0x39:
            number = 0
            i += 1
            while i < count and 0x30 <= p[i] <= 0x39:
                number = min(number * 10 + p[i] - 0x30, most)
                i += 1
            highest = max(highest, number)
        else:
            i += past_quotes(p + i, count - i)
    return highest


def speaks_of_resetting(bytes text not None):
    """The above, for tests."""
    return may_reset(text, len(text))


def speaks_of_deallocating(bytes text not None):
    """The name in a DEALLOCATE of one, or None; for tests."""
    cdef char name[LONGEST_SQL_NAME + 1]
    cdef Py_ssize_t size = deallocated(text, len(text), name)
    return name[:size] if size else None


def all_deallocated(bytes text not None):
    """The names in every DEALLOCATE of one; for tests."""
    cdef char name[LONGEST_SQL_NAME + 1]
    cdef Py_ssize_t at = 0, size = 1
    cdef list found = []
    while size:
        size = next_deallocated(<const char*>text + at, len(text) - at, name)
        at += size
        if size:
            found.append(<bytes>name)
    return found


def speaks_of_setting(bytes text not None):
    """The above, for tests."""
    return may_set(text, len(text))


def speaks_of_forgetting(bytes text not None):
    """The above, for tests."""
    return holds_forgetting(text, len(text))


def first_word_means(bytes text not None):
    """The name of its TextKind; for tests."""
    return ("other", "reads", "changes", "utility")[kind_of(text, len(text))]


def values_spoken_of(bytes text not None):
    """The highest $n, for tests."""
    return highest_value(text, len(text), 65535)
