# cython: language_level=3, boundscheck=False, wraparound=False
"""Prepared statements: one text, many clients, many servers.

A statement is keyed by its full text, its parameter types and the tracked parameters
under which it is parsed, never by a hash alone. Clients keep their own names; servers
know it as PGBOUNCER_<n>. It lives as long as a client or a server refers to it, so
memory is bounded by what is in use. Both tables are C: a Bind looks up twice and
allocates nothing.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp

cdef dict by_place = {}         # Statement.place -> it, while somebody refers to it
cdef uint64_t last_number = 0


def known_statements():
    """How many distinct statements are in use."""
    return len(by_place)


def number_from(uint64_t number):
    """Number new statements above *number*.

    Servers that were taken over have statements of which we know nothing.
    """
    global last_number
    if number > last_number:
        last_number = number


cdef class Statement:

    def __repr__(self):
        return f"Statement({self.name.decode()}, users={self.users})"


cdef class Pending:
    pass


cdef Statement statement_for(bytes key, bytes scope):
    """The statement of this text; the caller counts itself in as a user."""
    cdef tuple place = (scope, key)
    cdef Statement statement = by_place.get(place)
    if statement is None:
        statement = numbered(last_number + 1, key, scope)
    return statement


cdef Statement numbered(uint64_t number, bytes key, bytes scope):
    """A new statement with this number, from another process perhaps (see carried)."""
    cdef Statement statement = Statement.__new__(Statement)
    statement.key = key
    statement.scope = scope
    statement.place = (scope, key)
    statement.number = number
    statement.name = b"PGBOUNCER_%d" % number
    by_place[statement.place] = statement
    number_from(number)
    return statement


cdef int drop_unused(Statement statement) except -1:
    """Forget a statement that has come to no user."""
    if statement.users == 0 and by_place.get(statement.place) is statement:
        del by_place[statement.place]
    return 0


cdef void let_go(Statement statement) noexcept:
    """One user less; the last one takes the statement along."""
    statement.users -= 1
    if statement.users == 0 and by_place.get(statement.place) is statement:
        del by_place[statement.place]


cdef inline uint64_t hashed(const char* p, Py_ssize_t size) noexcept nogil:
    """FNV-1a, 64 bits; never 0, which marks a free entry."""
    cdef uint64_t value = 14695981039346656037u
    cdef Py_ssize_t i
    for i in range(size):
        value = (value ^ <unsigned char>p[i]) * 1099511628211u
    return value | 1


cdef class NameTable:

    def __dealloc__(self):
        self.clear()

    cdef NameEntry* place(self, uint64_t hash, const char* name,
                          Py_ssize_t size) noexcept:
        cdef uint32_t i = <uint32_t>(hash >> 1) & (self.capacity - 1)
        cdef NameEntry* entry
        while True:
            entry = &self.entries[i]
            if entry.hash == 0:
                return entry
            if (entry.hash == hash and PyBytes_GET_SIZE(<object>entry.name) == size
                    and memcmp(PyBytes_AS_STRING(<object>entry.name), name, size) == 0):
                return entry
            i = (i + 1) & (self.capacity - 1)

    cdef Statement find(self, const char* name, Py_ssize_t size):
        cdef NameEntry* entry
        if self.count == 0:
            return None
        entry = self.place(hashed(name, size), name, size)
        if entry.hash == 0:
            return None
        return <Statement>entry.statement

    cdef bint is_taken(self, const char* name, Py_ssize_t size) except -1:
        """Has this name a statement that was not refused?"""
        cdef NameEntry* entry
        if self.count == 0:
            return False
        entry = self.place(hashed(name, size), name, size)
        return entry.hash != 0 and not entry.failed

    cdef int note_failure(self, bytes name) except -1:
        """The Parse of *name* was refused; only the latest of such are kept.

        As in PgBouncer, which keeps them all, a Bind may try the text once more.
        """
        cdef const char* oldest
        cdef Py_ssize_t size
        cdef NameEntry* entry
        if self.find(name, len(name)) is None:
            return 0
        self.place(hashed(name, len(name)), name, len(name)).failed = True
        if self.failures is None:
            self.failures = []
        self.failures.append(name)
        while len(self.failures) > KEPT_FAILURES:
            name = self.failures.pop(0)
            oldest, size = name, len(name)
            entry = NULL if self.count == 0 else self.place(
                hashed(oldest, size), oldest, size)
            if entry != NULL and entry.hash and entry.failed:
                self.take_out(oldest, size)
        return 0

    cdef int put(self, bytes name, Statement statement) except -1:
        """Add a name that is not taken."""
        cdef NameEntry* old = self.entries
        cdef NameEntry* entry
        cdef uint32_t capacity = self.capacity
        cdef uint32_t i
        if (self.count + 1) * 4 > capacity * 3:
            self.capacity = 8 if capacity == 0 else capacity * 2
            self.entries = <NameEntry*>calloc(self.capacity, sizeof(NameEntry))
            if self.entries == NULL:
                self.entries = old
                self.capacity = capacity
                raise MemoryError()
            for i in range(capacity):
                if old[i].hash:
                    entry = self.place(old[i].hash,
                                       PyBytes_AS_STRING(<object>old[i].name),
                                       PyBytes_GET_SIZE(<object>old[i].name))
                    entry[0] = old[i]
            free(old)
        entry = self.place(hashed(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)),
                           PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        Py_INCREF(statement)
        statement.users += 1
        if entry.hash:
            let_go(<Statement>entry.statement)
            Py_DECREF(<object>entry.statement)
            entry.statement = <PyObject*>statement
            entry.failed = False
            return 0
        Py_INCREF(name)
        entry.failed = False
        entry.hash = hashed(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        entry.name = <PyObject*>name
        entry.statement = <PyObject*>statement
        self.count += 1
        return 0

    cdef Statement take_out(self, const char* name, Py_ssize_t size):
        """Forget a name; returns its statement or None."""
        cdef NameEntry* entry
        cdef Statement statement
        cdef uint32_t i, j, home, mask = self.capacity - 1
        if self.count == 0:
            return None
        entry = self.place(hashed(name, size), name, size)
        if entry.hash == 0:
            return None
        statement = <Statement>entry.statement
        Py_DECREF(<object>entry.name)
        entry.hash = 0
        self.count -= 1
        # Close the gap: later entries of the same run move up if they may.
        i = <uint32_t>(entry - self.entries)
        j = i
        while True:
            j = (j + 1) & mask
            if self.entries[j].hash == 0:
                break
            home = <uint32_t>(self.entries[j].hash >> 1) & mask
            if ((j - home) & mask) >= ((j - i) & mask):
                self.entries[i] = self.entries[j]
                self.entries[j].hash = 0
                i = j
        let_go(statement)
        Py_DECREF(statement)        # the table's; the local name holds its own
        return statement

    cdef int clear(self) except -1:
        cdef uint32_t i
        for i in range(self.capacity):
            if self.entries[i].hash:
                let_go(<Statement>self.entries[i].statement)
                Py_DECREF(<object>self.entries[i].name)
                Py_DECREF(<object>self.entries[i].statement)
        free(self.entries)
        self.entries = NULL
        self.capacity = 0
        self.count = 0
        return 0

    def refused(self):
        """Names whose Parse was refused and that were not taken again, oldest first."""
        return [name for name in self.failures or ()
                if self.find(name, len(name)) is not None
                and not self.is_taken(name, len(name))]

    def items(self):
        """(name, Statement) pairs, in no order."""
        cdef uint32_t i
        found = []
        for i in range(self.capacity):
            if self.entries[i].hash:
                found.append((<object>self.entries[i].name,
                              <object>self.entries[i].statement))
        return found


cdef class PreparedSet:

    def __dealloc__(self):
        self.clear()

    cdef Prepared* find(self, Statement statement) noexcept:
        cdef Prepared* item
        if self.count == 0:
            return NULL
        item = self.buckets[statement.number & (self.capacity - 1)]
        while item != NULL and item.number != statement.number:
            item = item.chain
        return item

    cdef Prepared* add(self, Statement statement, bint seen,
                       uint64_t group) except NULL:
        """Append as the most recently used; it must not be there yet."""
        cdef Prepared** old = self.buckets
        cdef Prepared* item
        cdef uint32_t capacity = self.capacity
        if self.count >= capacity:
            self.capacity = 8 if capacity == 0 else capacity * 2
            self.buckets = <Prepared**>calloc(self.capacity, sizeof(Prepared*))
            if self.buckets == NULL:
                self.buckets = old
                self.capacity = capacity
                raise MemoryError()
            item = self.oldest
            while item != NULL:
                item.chain = self.buckets[item.number & (self.capacity - 1)]
                self.buckets[item.number & (self.capacity - 1)] = item
                item = item.newer
            free(old)
        item = <Prepared*>malloc(sizeof(Prepared))
        if item == NULL:
            raise MemoryError()
        Py_INCREF(statement)
        statement.users += 1
        item.statement = <PyObject*>statement
        item.number = statement.number
        item.seen = seen
        item.group = group
        item.chain = self.buckets[item.number & (self.capacity - 1)]
        self.buckets[item.number & (self.capacity - 1)] = item
        item.newer = NULL
        item.older = self.newest
        if self.newest != NULL:
            self.newest.newer = item
        else:
            self.oldest = item
        self.newest = item
        self.count += 1
        return item

    cdef void unlink(self, Prepared* item) noexcept:
        if item.older != NULL:
            item.older.newer = item.newer
        else:
            self.oldest = item.newer
        if item.newer != NULL:
            item.newer.older = item.older
        else:
            self.newest = item.older

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
        where = &self.buckets[statement.number & (self.capacity - 1)]
        while where[0] != NULL and where[0].number != statement.number:
            where = &where[0].chain
        item = where[0]
        if item == NULL:
            return 0
        where[0] = item.chain
        self.unlink(item)
        self.count -= 1
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
        self.oldest = self.newest = NULL
        self.capacity = self.count = 0
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
        while item != NULL and item.group < group:
            item = item.newer
        return item != NULL

    def names(self):
        """Server-side names, least recently used first."""
        cdef Prepared* item = self.oldest
        found = []
        while item != NULL:
            found.append((<Statement>item.statement).name)
            item = item.newer
        return found
