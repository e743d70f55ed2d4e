# cython: language_level=3, boundscheck=False, wraparound=False, nonecheck=True
"""Who has prepared what: the names of a client, the statements of a server.

Clients keep their own names; servers know a statement by its number (see texts.pyx).
Both tables are C: a Bind looks up twice and allocates nothing. Names are the clients'
choice, so they are hashed with a key that nobody knows. DEALLOCATE ALL forgets what was
parsed before it, not what has been sent behind it: both tables are strung in the order
of parsing, too, so that this costs what it forgets.
"""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from cython cimport nonecheck
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy

from bouncer.relay import texts
from bouncer.relay.texts cimport Statement, let_go

# What Python callers ask of statements, they ask here.
known_statements = texts.known_statements
number_from = texts.number_from

# Another key in each process: nobody can choose names or numbers that collide.
cdef uint64_t key_first = int.from_bytes(os.urandom(8), "little")
cdef uint64_t key_second = int.from_bytes(os.urandom(8), "little")
cdef uint64_t spread = int.from_bytes(os.urandom(8), "little") | 1


cdef class Pending:
    pass


cdef class Unnamed:
    pass


cdef inline uint64_t turned(uint64_t value, int bits) noexcept nogil:
    return (value << bits) | (value >> (64 - bits))


cdef struct Sip:
    uint64_t a
    uint64_t b
    uint64_t c
    uint64_t d


cdef inline void sip_round(Sip* v) noexcept nogil:
    v.a += v.b
    v.b = turned(v.b, 13) ^ v.a
    v.a = turned(v.a, 32)
    v.c += v.d
    v.d = turned(v.d, 16) ^ v.c
    v.a += v.d
    v.d = turned(v.d, 21) ^ v.a
    v.c += v.b
    v.b = turned(v.b, 17) ^ v.c
    v.c = turned(v.c, 32)


cdef inline uint64_t last_word(const char* p, Py_ssize_t size) noexcept nogil:
    """The bytes behind the last whole word, and the size above them."""
    cdef uint64_t word = 0
    cdef Py_ssize_t left = size & 7
    cdef Py_ssize_t i
    if left and size >= 8:
        memcpy(&word, p + size - 8, 8)
        word >>= 8 * (8 - left)
    else:
        for i in range(left):
            word |= <uint64_t><unsigned char>p[i] << (8 * i)
    return word | (<uint64_t>size << 56)


cdef inline uint64_t hashed(const char* p, Py_ssize_t size, uint64_t first,
                            uint64_t second) noexcept nogil:
    """SipHash-1-3 (Aumasson and Bernstein, 2012) with the key *first*, *second*."""
    cdef Sip v
    cdef uint64_t word
    cdef Py_ssize_t i
    v.a = first ^ 0x736f6d6570736575u
    v.b = second ^ 0x646f72616e646f6du
    v.c = first ^ 0x6c7967656e657261u
    v.d = second ^ 0x7465646279746573u
    for i in range(size >> 3):
        memcpy(&word, p + 8 * i, 8)
        v.d ^= word
        sip_round(&v)
        v.a ^= word
    word = last_word(p, size)
    v.d ^= word
    sip_round(&v)
    v.a ^= word
    v.c ^= 0xff
    sip_round(&v)
    sip_round(&v)
    sip_round(&v)
    return v.a ^ v.b ^ v.c ^ v.d


cdef inline uint64_t name_hash(const char* p, Py_ssize_t size) noexcept nogil:
    return hashed(p, size, key_first, key_second)


def keyed_hash(bytes data not None, uint64_t first, uint64_t second):
    """The hash of a name under a key, for tests."""
    return hashed(data, len(data), first, second)


cdef class NameTable:

    def __dealloc__(self):
        self.clear()

    @nonecheck(False)
    cdef NameEntry** place(self, uint64_t hash, const char* name,
                           Py_ssize_t size) noexcept:
        """Where *name* stands, or else would stand. The table is not empty."""
        cdef uint32_t i = <uint32_t>hash & (self.capacity - 1)
        cdef NameEntry* entry
        while True:
            entry = self.places[i]
            if entry == NULL:
                return &self.places[i]
            if (entry.hash == hash and PyBytes_GET_SIZE(<object>entry.name) == size
                    and memcmp(PyBytes_AS_STRING(<object>entry.name), name, size) == 0):
                return &self.places[i]
            i = (i + 1) & (self.capacity - 1)

    cdef NameEntry* entry_of(self, const char* name, Py_ssize_t size) noexcept:
        if self.count == 0:
            return NULL
        return self.place(name_hash(name, size), name, size)[0]

    cdef Statement find(self, const char* name, Py_ssize_t size):
        cdef NameEntry* entry = self.entry_of(name, size)
        return None if entry == NULL else <Statement>entry.statement

    cdef bint is_full(self, const char* name, Py_ssize_t size,
                      Py_ssize_t more) noexcept:
        """Is there no room for *name*, with *more* bytes of text?"""
        if self.text + more > MOST_TEXT:
            return True
        return self.count >= MOST_NAMES and self.entry_of(name, size) == NULL

    cdef int parse_failed(self, bytes name, Statement statement) except -1:
        """The Parse of this one was refused or skipped: its name is free.

        0 when it is free already.
        """
        cdef NameEntry* entry = self.entry_of(name, len(name))
        if entry == NULL or <Statement>entry.statement is not statement:
            return 0
        self.take_out(name, len(name))
        return 1

    cdef int enlarge(self) except -1:
        cdef NameEntry** old = self.places
        cdef NameEntry* entry = self.first
        cdef uint32_t capacity = 8 if self.capacity == 0 else self.capacity * 2
        cdef uint32_t i
        self.places = <NameEntry**>calloc(capacity, sizeof(NameEntry*))
        if self.places == NULL:
            self.places = old
            raise MemoryError()
        self.capacity = capacity
        while entry != NULL:
            i = <uint32_t>entry.hash & (capacity - 1)
            while self.places[i] != NULL:
                i = (i + 1) & (capacity - 1)
            self.places[i] = entry
            entry = entry.later
        free(old)
        return 0

    cdef void string(self, NameEntry* entry, bint again) noexcept:
        """Put *entry* at its end of the order of parsing; see `put`."""
        if again:
            entry.earlier = NULL
            entry.later = self.first
        else:
            entry.earlier = self.last
            entry.later = NULL
        if entry.earlier != NULL:
            entry.earlier.later = entry
        else:
            self.first = entry
        if entry.later != NULL:
            entry.later.earlier = entry
        else:
            self.last = entry

    cdef void unstring(self, NameEntry* entry) noexcept:
        if entry.earlier != NULL:
            entry.earlier.later = entry.later
        else:
            self.first = entry.later
        if entry.later != NULL:
            entry.later.earlier = entry.earlier
        else:
            self.last = entry.earlier

    cdef int put(self, bytes name, Statement statement, uint64_t made,
                 bint again) except -1:
        """Add a name that is not taken.

        *made* is the number of the latest note; or, when a Close is undone (*again*),
        of that Close: all that is older has been answered, as has what it brings back.
        """
        cdef const char* text
        cdef Py_ssize_t size
        cdef uint64_t hash
        cdef NameEntry** where
        cdef NameEntry* entry
        if name is None or statement is None:
            raise ValueError("a name of no statement")
        text, size = PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)
        hash = name_hash(text, size)
        if (self.count + 1) * 4 > self.capacity * 3:
            self.enlarge()
        where = self.place(hash, text, size)
        entry = where[0]
        statement.users += 1        # first: it may be the one that stands there
        if entry != NULL:
            self.unstring(entry)
            self.text -= len((<Statement>entry.statement).key)
            let_go(<Statement>entry.statement)
            Py_DECREF(<object>entry.statement)
        else:
            entry = <NameEntry*>malloc(sizeof(NameEntry))
            if entry == NULL:
                let_go(statement)
                raise MemoryError()
            Py_INCREF(name)
            entry.hash = hash
            entry.name = <PyObject*>name
            where[0] = entry
            self.count += 1
        Py_INCREF(statement)
        entry.statement = <PyObject*>statement
        self.text += len(statement.key)
        entry.made = made
        self.string(entry, again)
        return 0

    cdef Statement take_out(self, const char* name, Py_ssize_t size):
        """Forget a name; returns its statement or None."""
        cdef NameEntry** where
        if self.count == 0:
            return None
        where = self.place(name_hash(name, size), name, size)
        return None if where[0] == NULL else self.remove(where)

    cdef Statement remove(self, NameEntry** where):
        cdef NameEntry* entry = where[0]
        cdef Statement statement = <Statement>entry.statement
        cdef uint32_t i, j, home, mask = self.capacity - 1
        where[0] = NULL
        self.count -= 1
        self.text -= len(statement.key)
        self.unstring(entry)
        # Close the gap: later entries of the same run move up if they may.
        i = <uint32_t>(where - self.places)
        j = i
        while True:
            j = (j + 1) & mask
            if self.places[j] == NULL:
                break
            home = <uint32_t>self.places[j].hash & mask
            if ((j - home) & mask) >= ((j - i) & mask):
                self.places[i] = self.places[j]
                self.places[j] = NULL
                i = j
        Py_DECREF(<object>entry.name)
        free(entry)
        let_go(statement)
        Py_DECREF(statement)        # the table's; the local name holds its own
        return statement

    cdef int forget(self, uint64_t upto) except -1:
        """Forget all that was parsed up to this note."""
        cdef NameEntry* entry = self.first
        while entry != NULL and entry.made <= upto:
            self.remove(self.place(entry.hash, PyBytes_AS_STRING(<object>entry.name),
                                   PyBytes_GET_SIZE(<object>entry.name)))
            entry = self.first
        if self.count == 0:
            self.clear()
        return 0

    cdef int clear(self) except -1:
        cdef NameEntry* entry = self.first
        cdef NameEntry* after
        self.first = self.last = NULL
        while entry != NULL:
            after = entry.later
            let_go(<Statement>entry.statement)
            Py_DECREF(<object>entry.name)
            Py_DECREF(<object>entry.statement)
            free(entry)
            entry = after
        free(self.places)
        self.places = NULL
        self.capacity = 0
        self.count = 0
        self.text = 0
        return 0

    cdef bytes name_of(self, uint64_t number, uint64_t upto):
        """The latest name, up to a note, of the statement with this number, or None."""
        cdef NameEntry* entry = self.last
        while entry != NULL and (
                entry.made > upto or (<Statement>entry.statement).number != number):
            entry = entry.earlier
        return None if entry == NULL else <bytes>entry.name

    cdef bytes name_made(self, uint64_t made):
        """The name that this note has made, or None."""
        cdef NameEntry* entry = self.last
        while entry != NULL and entry.made != made:
            entry = entry.earlier
        return None if entry == NULL else <bytes>entry.name

    def items(self):
        """(name, Statement) pairs, as they were parsed."""
        cdef NameEntry* entry = self.first
        found = []
        while entry != NULL:
            found.append((<object>entry.name, <object>entry.statement))
            entry = entry.later
        return found


cdef inline uint32_t bucket(uint64_t number, uint32_t capacity) noexcept nogil:
    """Clients choose which numbers stay in use, but not where those stand."""
    return <uint32_t>((number * spread) >> 32) & (capacity - 1)


cdef class PreparedSet:

    def __dealloc__(self):
        self.clear()

    cdef Prepared* find(self, Statement statement) except? NULL:
        return self.numbered(statement.number)

    cdef Prepared* numbered(self, uint64_t number) noexcept:
        """The statement with this number, if it is believed to be there."""
        cdef Prepared* item
        if self.count == 0:
            return NULL
        item = self.buckets[bucket(number, self.capacity)]
        while item != NULL and item.number != number:
            item = item.chain
        return item

    cdef Prepared* add(self, Statement statement, bint seen, uint64_t group,
                       uint64_t made, bint again) except NULL:
        """Append as the most recently used; it must not be there yet.

        *made* and *again* are those of NameTable.put.
        """
        cdef Prepared* item
        if self.count >= self.capacity:
            self.enlarge()
        item = <Prepared*>malloc(sizeof(Prepared))
        if item == NULL:
            raise MemoryError()
        Py_INCREF(statement)
        statement.users += 1
        item.statement = <PyObject*>statement
        item.number = statement.number
        item.seen = seen
        item.group = group
        item.made = made
        self.hang(item)
        item.newer = NULL
        item.older = self.newest
        if self.newest != NULL:
            self.newest.newer = item
        else:
            self.oldest = item
        self.newest = item
        item.earlier = NULL if again else self.last
        item.later = self.first if again else NULL
        if item.earlier != NULL:
            item.earlier.later = item
        else:
            self.first = item
        if item.later != NULL:
            item.later.earlier = item
        else:
            self.last = item
        self.count += 1
        self.text += len(statement.key)
        if group > self.latest:
            self.latest = group
        return item

    cdef void hang(self, Prepared* item) noexcept:
        cdef uint32_t i = bucket(item.number, self.capacity)
        item.chain = self.buckets[i]
        self.buckets[i] = item

    cdef int enlarge(self) except -1:
        cdef Prepared** old = self.buckets
        cdef Prepared* item = self.oldest
        cdef uint32_t capacity = 8 if self.capacity == 0 else self.capacity * 2
        self.buckets = <Prepared**>calloc(capacity, sizeof(Prepared*))
        if self.buckets == NULL:
            self.buckets = old
            raise MemoryError()
        self.capacity = capacity
        while item != NULL:
            self.hang(item)
            item = item.newer
        free(old)
        return 0

    @nonecheck(False)
    cdef void unlink(self, Prepared* item) noexcept:
        if item.older != NULL:
            item.older.newer = item.newer
        else:
            self.oldest = item.newer
        if item.newer != NULL:
            item.newer.older = item.older
        else:
            self.newest = item.older

    @nonecheck(False)
    cdef void touch(self, Prepared* item) noexcept:
        """Make *item* the most recently used."""
        if item == self.newest:
            return
        self.unlink(item)
        item.newer = NULL
        item.older = self.newest
        self.newest.newer = item
        self.newest = item

    cdef int discard(self, Statement statement) except -1:
        """Forget *statement* if it is there; 1 when it was."""
        cdef Prepared** where
        cdef Prepared* item
        if self.count == 0:
            return 0
        where = &self.buckets[bucket(statement.number, self.capacity)]
        while where[0] != NULL and where[0].number != statement.number:
            where = &where[0].chain
        item = where[0]
        if item == NULL:
            return 0
        where[0] = item.chain
        self.unlink(item)
        if item.earlier != NULL:
            item.earlier.later = item.later
        else:
            self.first = item.later
        if item.later != NULL:
            item.later.earlier = item.earlier
        else:
            self.last = item.earlier
        self.count -= 1
        self.text -= len(statement.key)
        free(item)
        let_go(statement)
        Py_DECREF(statement)
        return 1

    cdef int clear(self) except -1:
        cdef Prepared* item = self.oldest
        cdef Prepared* after
        while item != NULL:
            after = item.newer
            let_go(<Statement>item.statement)
            Py_DECREF(<object>item.statement)
            free(item)
            item = after
        free(self.buckets)
        self.buckets = NULL
        self.oldest = self.newest = self.first = self.last = NULL
        self.capacity = self.count = 0
        self.text = 0
        self.latest = 0
        return 0

    cdef int forget(self, uint64_t upto) except -1:
        """Forget all that was parsed up to this note."""
        while self.first != NULL and self.first.made <= upto:
            self.discard(<Statement>self.first.statement)
        if self.count == 0:
            self.clear()
        return 0

    cdef int doubt(self) noexcept:
        """Nobody knows what of it is still there."""
        cdef Prepared* item = self.oldest
        while item != NULL:
            item.seen = False
            item.group = 0
            item = item.newer
        return 0

    cdef bint has_since(self, uint64_t group) noexcept:
        """Was anything parsed in *group* of requests, or later?"""
        cdef Prepared* item = self.oldest
        cdef uint64_t latest = 0
        if self.latest < group:
            return False
        while item != NULL and item.group < group:
            if item.group > latest:
                latest = item.group
            item = item.newer
        if item == NULL:
            self.latest = latest        # none is looked at again before one is added
        return item != NULL

    def names(self):
        """Server-side names, least recently used first."""
        cdef Prepared* item = self.oldest
        found = []
        while item != NULL:
            found.append((<Statement>item.statement).name)
            item = item.newer
        return found
