# cython: language_level=3, boundscheck=False, wraparound=False, nonecheck=True
"""Texts that clients prepare: one statement for all who do, on all servers.

A statement is keyed by its full text, its parameter types and the tracked parameters
under which it is parsed, never by a hash alone. It lives as long as a client or a
server refers to it, so memory is bounded by what is in use.

The hard thing is when a text that is known may be answered for without asking
PostgreSQL: not when it would be understood otherwise by now. So it is not after a
change to the database that has passed through us (`Changes`), nor when PostgreSQL has
refused a value or the statement itself (`retire`); then who prepares it gets a new
statement, which no server has. Who holds the old one keeps it, as directly.
"""

import os
import weakref

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t

from bouncer.relay.intent cimport (
    UTILITY, highest_value, holds_forgetting, kind_of, may_reset, may_set)
from bouncer.relay.ledger cimport next_note
from bouncer.wire.messages import error_response

TOO_MANY = error_response("too many prepared statements", "54000", "ERROR")
DEALLOCATED = b"C\0\0\0\x0FDEALLOCATE\0"
# Nobody can guess these, so nobody has prepared one of them by SQL.
cdef bytes secret = os.urandom(8).hex().encode()
NOWHERE = b"PGBOUNCER_none_" + secret
TAKEN = b"PGBOUNCER_taken_" + secret
by_place = {}                   # while somebody refers to it
cdef uint64_t last_number = 0
changes_by_name = weakref.WeakValueDictionary()

cdef enum:
    SPARE_TYPES = 256           # bytes of types that are kept with the shortest text
    MOST_VALUES = 65535         # PostgreSQL protocol: Int16


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

    cdef int learn_types(self, bytes types) except -1:
        """Keep a ParameterDescription: with it Describe and Bind can be answered for.

        One that is larger than what PostgreSQL can make of the text is not kept.
        """
        if (2 <= len(types) <= len(self.key) + SPARE_TYPES
                and len(types) == 2 + 4 * int.from_bytes(types[:2], "big")):
            self.types = types
        return 0

    cdef int unlearn(self) noexcept:
        """It does not fit any more: parsed again it may be described otherwise."""
        if self.kind != UTILITY:
            self.types = None
            self.rows = ROWS_UNKNOWN
        return 0

    cdef int count_values(self) except -1:
        """How many parameters it has, as PostgreSQL or the text tells."""
        cdef const uint8_t* p
        cdef Py_ssize_t size
        if self.types is not None:
            p = <const uint8_t*>PyBytes_AS_STRING(self.types)
            return p[0] << 8 | p[1]
        if self.values < 0:
            p = <const uint8_t*>PyBytes_AS_STRING(self.key)
            size = self.key.find(b"\0")
            self.values = max(p[size + 1] << 8 | p[size + 2],
                              highest_value(<const char*>p, size, MOST_VALUES))
        return self.values

    cdef bint infers(self) except -1:
        """Has PostgreSQL to find out the type of one of its values?"""
        cdef Py_ssize_t place = self.key.find(b"\0") + 3
        cdef Py_ssize_t given = (len(self.key) - place) // 4
        cdef Py_ssize_t i
        for i in range(given):
            if self.key[place + 4 * i:place + 4 * i + 4] == b"\0\0\0\0":
                return True
        return given < self.count_values()

    cdef bytes as_parsed(self, Changes changes):
        """What stands behind its name in a Parse.

        Behind a change to the database its types are said: those who hold it know them,
        and PostgreSQL keeps them for a session, whatever it would make of it by now.
        """
        if (changes is None or self.born > changes.latest or self.types is None
                or self.kind == UTILITY):
            return self.key
        return self.key[:self.key.find(b"\0") + 1] + self.types

    cdef bytes stand_in(self):
        """What to parse in its place where nothing else can be: an empty text.

        PostgreSQL takes that in a transaction that has failed, too, and with it any
        types; then it says of Describe and Bind what it would say of this statement.
        """
        cdef int count
        if self.types is not None:
            return b"\0" + self.types
        count = self.count_values()
        return b"\0" + count.to_bytes(2, "big") + bytes(4 * count)

    def __repr__(self):
        return f"Statement({self.name.decode()}, users={self.users})"


cdef class Changes:
    pass


def changes_of(name):
    """The one for all pools whose servers have *name* for their database."""
    found = changes_by_name.get(name)
    if found is None:
        found = changes_by_name[name] = Changes()
    return found


cdef Statement statement_for(bytes key, bytes scope, Changes changes):
    """The statement of this text; the caller counts itself in as a user.

    One that is older than *changes* is nobody's any more who comes anew.
    """
    cdef tuple place = (scope, key)
    cdef Statement statement = by_place.get(place)
    if statement is None or changes is not None and statement.born < changes.latest:
        statement = numbered(last_number + 1, key, scope)
    return statement


cdef Statement numbered(uint64_t number, bytes key, bytes scope):
    """A new statement with this number, from another process perhaps (see carried)."""
    cdef Statement statement = Statement.__new__(Statement)
    cdef const char* text = PyBytes_AS_STRING(key)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(key)
    statement.key = key
    statement.scope = scope
    statement.place = (scope, key)
    statement.number = number
    statement.name = b"PGBOUNCER_%d" % number
    statement.forgets = holds_forgetting(text, size)
    statement.resets = may_reset(text, size)
    statement.sets = may_set(text, size)
    statement.born = next_note()
    statement.values = -1
    statement.kind = kind_of(text, key.find(b"\0"))
    if statement.kind == UTILITY:
        statement.types = key[key.find(b"\0") + 1:]
        statement.rows = NO_ROWS
    by_place[statement.place] = statement
    number_from(number)
    return statement


cdef int retire(Statement statement) except -1:
    """It fits the database no longer: who prepares its text anew gets another."""
    if by_place.get(statement.place) is statement:
        del by_place[statement.place]
    return 0


cdef int drop_unused(Statement statement) except -1:
    """Forget a statement that has come to no user."""
    return retire(statement) if statement.users == 0 else 0


cdef int let_go(Statement statement) except -1:
    """One user less; the last one takes the statement along."""
    statement.users -= 1
    return retire(statement) if statement.users == 0 else 0


cdef uint64_t unused_number() noexcept:
    """A number that no statement has or will get."""
    global last_number
    last_number += 1
    return last_number
