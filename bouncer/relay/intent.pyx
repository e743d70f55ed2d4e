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


cdef inline bint begins_word(int c) noexcept:
    return 0x61 <= (c | 0x20) <= 0x7A or c == 0x5F or c >= 0x80


cdef inline bint is_of_word(int c) noexcept:
    return begins_word(c) or 0x30 <= c <= 0x39 or c == 0x24


cdef Py_ssize_t behind_comment(const char* p, Py_ssize_t count) noexcept:
    """The bytes of the comment at *p*, 0 where none begins. They nest."""
    cdef Py_ssize_t i = 2
    cdef int depth = 1
    if count < 2 or not (p[0] == p[1] == 0x2D or p[0] == 0x2F and p[1] == 0x2A):
        return 0
    if p[0] == 0x2D:
        while i < count and p[i] != 0x0A and p[i] != 0x0D:
            i += 1
        return i
    while i < count and depth:
        if i + 1 < count and p[i] == 0x2A and p[i + 1] == 0x2F:
            depth -= 1
            i += 1
        elif i + 1 < count and p[i] == 0x2F and p[i + 1] == 0x2A:
            depth += 1
            i += 1
        i += 1
    return i


cdef Py_ssize_t blanks(const char* p, Py_ssize_t count, bint semicolons) noexcept:
    """The bytes of blanks and comments at *p*, and of *semicolons*."""
    cdef Py_ssize_t i = 0, size
    while i < count:
        if is_blank(p[i]) or semicolons and p[i] == 0x3B:
            i += 1
            continue
        size = behind_comment(p + i, count - i)
        if size == 0:
            break
        i += size
    return i


cdef Py_ssize_t behind_quoted(const char* p, Py_ssize_t count, bint escapes) noexcept:
    """The bytes of a literal or quoted identifier; a doubled quote begins another."""
    cdef Py_ssize_t i = 1
    while i < count and p[i] != p[0]:
        i += 2 if escapes and p[i] == 0x5C else 1
    return min(i + 1, count)


cdef Py_ssize_t behind_dollars(const char* p, Py_ssize_t count) noexcept:
    """The bytes of a literal in dollar quotes, 1 where none begins."""
    cdef Py_ssize_t i = 1, tag
    while i < count and is_of_word(<unsigned char>p[i]) and p[i] != 0x24:
        i += 1
    if i == count or p[i] != 0x24 or 0x30 <= p[1] <= 0x39:
        return 1
    tag = i + 1
    i = tag
    while i + tag <= count:
        if p[i] == 0x24 and memcmp(p + i, p, tag) == 0:
            return i + tag
        i += 1
    return count


cdef Py_ssize_t behind_statement(const char* p, Py_ssize_t count) noexcept:
    """The bytes up to the semicolon that ends what stands at *p*."""
    cdef Py_ssize_t i = 0, word, size
    cdef int c
    while i < count and p[i] != 0x3B:
        c = <unsigned char>p[i]
        word = i
        while i < count and is_of_word(<unsigned char>p[i]) and (
                i > word or p[i] != 0x24):
            i += 1
        if i > word:
            if i - word == 1 and (c | 0x20) == 0x65 and i < count and p[i] == 0x27:
                i += behind_quoted(p + i, count - i, True)
        elif c == 0x27 or c == 0x22:
            i += behind_quoted(p + i, count - i, False)
        elif c == 0x24:
            i += behind_dollars(p + i, count - i)
        else:
            size = behind_comment(p + i, count - i)
            i += size if size else 1
    return i


cdef int put_code(char* word, Py_ssize_t* size, int64_t code) noexcept:
    """Put a character into *word*, in UTF-8; -1 where it has no room or is none."""
    cdef int more = 0 if code < 0x80 else 1 if code < 0x800 else \
        2 if code < 0x10000 else 3
    if code <= 0 or code > 0x10FFFF or size[0] + more >= LONGEST_SQL_NAME:
        return -1
    word[size[0]] = <char>(code if not more else
                           (0xF0 << (3 - more) & 0xFF) | code >> 6 * more)
    size[0] += 1
    while more:
        more -= 1
        word[size[0]] = <char>(0x80 | code >> 6 * more & 0x3F)
        size[0] += 1
    return 0


cdef int64_t escaped(const char* p, Py_ssize_t digits) noexcept:
    """The number of so many hexadecimal digits, -1 where they are none."""
    cdef int64_t value = 0
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


cdef Py_ssize_t escape_clause(const char* p, Py_ssize_t count, char* by) noexcept:
    """The bytes of a UESCAPE clause, 0 where none stands; *by* is what it names."""
    cdef Py_ssize_t i = blanks(p, count, False)
    if count - i < 10 or strncasecmp(p + i, b"uescape", 7) != 0:
        return 0
    i += 7
    i += blanks(p + i, count - i, False)
    if count - i < 3 or p[i] != 0x27 or p[i + 2] != 0x27:
        return 0
    by[0] = p[i + 1]
    return i + 3


cdef Py_ssize_t quoted_at(const char* p, Py_ssize_t count, char* word,
                          bint unicode_escapes) noexcept:
    """As word_at, for what stands in quotes."""
    cdef Py_ssize_t i = 1, size = 0, end = 0, step = 4
    cdef char by = 0
    cdef int64_t code
    while end < count and (end == 0 or p[end] == 0x22):     # with what is doubled
        i = behind_quoted(p + end, count - end, False)
        end += i
    if end < 3 or i < 2 or p[end - 1] != 0x22:
        return 0
    i = 1
    count = end + (escape_clause(p + end, count - end, &by) if unicode_escapes else 0)
    if unicode_escapes and by == 0:
        by = 0x5C
    while i < end - 1:
        if size == LONGEST_SQL_NAME:
            return 0
        if unicode_escapes and p[i] == by and p[i + 1] != by:
            step = 6 if p[i + 1] == 0x2B else 4
            i += 2 if step == 6 else 1
            code = escaped(p + i, step) if i + step < end else -1
            if put_code(word, &size, code) < 0:
                return 0
            i += step
            continue
        word[size] = p[i]
        size += 1
        i += 2 if p[i] == 0x22 or unicode_escapes and p[i] == by else 1
    word[size] = 0
    return count


cdef Py_ssize_t word_at(const char* p, Py_ssize_t count, char* word) noexcept:
    """Copy the identifier at *p* to *word*, in small letters unless it is quoted.

    Gives the bytes that it takes in the text, 0 where none stands or it is too long for
    its 64 bytes, which it ends with a NUL.
    """
    cdef Py_ssize_t i = 0
    cdef int c
    if count > 0 and p[0] == 0x22:
        return quoted_at(p, count, word, False)
    if count > 2 and (p[0] | 0x20) == 0x75 and p[1] == 0x26 and p[2] == 0x22:   # U&"
        i = quoted_at(p + 2, count - 2, word, True)
        return i + 2 if i else 0
    if count == 0 or not begins_word(<unsigned char>p[0]):
        return 0
    while i < count and is_of_word(<unsigned char>p[i]):
        c = p[i]
        if i == LONGEST_SQL_NAME:
            return 0
        word[i] = c | 0x20 if 0x41 <= c <= 0x5A else c
        i += 1
    word[i] = 0
    return i


cdef Py_ssize_t deallocate_at(const char* p, Py_ssize_t count, char* name) noexcept:
    """The bytes of the DEALLOCATE of one name at *p*; 0 where none stands."""
    cdef Py_ssize_t i = 10, size
    if count < 12 or (p[0] | 0x20) != 0x64 or strncasecmp(p, b"deallocate", 10) != 0 \
            or is_of_word(<unsigned char>p[10]):
        return 0
    for _ in range(2):
        i += blanks(p + i, count - i, False)
        size = word_at(p + i, count - i, name)
        if size == 0:
            return 0
        if size == 3 and p[i] != 0x22 and strcmp(name, b"all") == 0:
            return 0
        i += size
        i += blanks(p + i, count - i, False)
        if i == count or p[i] == 0x3B:
            return i
        if size != 7 or strcmp(name, b"prepare") != 0:
            break
    return 0


cdef Py_ssize_t next_deallocated(const char* p, Py_ssize_t count, char* name) noexcept:
    """The bytes up to behind the first DEALLOCATE of one name; 0: there is none.

    *name* has room for 64 bytes. Of a text of several statements the next may stand
    behind it. What it says within a literal or a function's body does not count.
    """
    cdef Py_ssize_t i = 0, size
    while i < count:
        i += blanks(p + i, count - i, True)
        size = deallocate_at(p + i, count - i, name)
        if size:
            return i + size
        i += behind_statement(p + i, count - i)
    return 0


cdef Py_ssize_t deallocated(const char* p, Py_ssize_t count, char* name) noexcept:
    """Is this text DEALLOCATE of one name, and nothing else? Its size, else 0."""
    cdef Py_ssize_t i, size
    if count > LONGEST_DEALLOCATE:
        return 0
    i = blanks(p, count, True)
    size = deallocate_at(p + i, count - i, name)
    i += size
    if size == 0 or i + blanks(p + i, count - i, True) < count:
        return 0
    return <Py_ssize_t>strlen(name)


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
    cdef Py_ssize_t at = 0, size
    found = []
    while True:
        size = next_deallocated(
            <const char*>text + at, len(text) - at, name)
        if size == 0:
            return found
        at += size
        found.append(<bytes>name)


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
