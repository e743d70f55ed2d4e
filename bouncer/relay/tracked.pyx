# cython: language_level=3, nonecheck=True
"""Parameters that follow a client to whatever server it gets.

Server sheet 6: when both sides know a value and the two differ (ignoring ASCII
case), one SET is added to a single simple Query. Values are bytes as they came.
"""

import weakref

from bouncer.wire.identifiers import is_list, quoted_list
from bouncer.wire.messages import decode_text, encode_text

BUILT_IN = (b"DateStyle", b"client_encoding", b"TimeZone",
            b"standard_conforming_strings", b"application_name")
cdef int CLIENT_ENCODING = 1
cdef int APPLICATION_NAME = 4
# No client gives these at its login, but a server tells when one has set them
# (PostgreSQL 14 and 18): the next client must not have them.
UNASKED = (b"default_transaction_read_only", b"search_path")
SEARCH_PATH = b"search_path"
FOLLOWED = SEARCH_PATH          # goes with the client that has set it
MAX_LITERAL = 127               # bytes of a quoted value; longer is left out

# Encodings in which a backslash may be the second half of a character: all that
# PostgreSQL takes from clients only, with their other names.
NOT_PLAIN = frozenset((
    b"sjis", b"shiftjis", b"mskanji", b"win932", b"windows932", b"shiftjis2004",
    b"big5", b"win950", b"windows950", b"gbk", b"win936", b"windows936", b"uhc",
    b"win949", b"windows949", b"gb18030", b"johab"))

cdef tuple names = BUILT_IN + (b"IntervalStyle",)
cdef Py_ssize_t asked = 6       # how many names clients may give
cdef dict places = {}           # lower-case name -> index
cdef object interned = weakref.WeakValueDictionary()


def configure(extra):
    """Set the tracked names: the built-in ones, then *extra* (str, in order)."""
    global names, asked
    cdef list found = list(BUILT_IN)
    seen = {name.lower() for name in found}
    for name in extra:
        raw = encode_text(name)
        if raw and raw.lower() not in seen:
            seen.add(raw.lower())
            found.append(raw)
    asked = len(found)
    names = tuple(found + [name for name in UNASKED if name not in seen])
    places.clear()
    for index, name in enumerate(names):
        places[name.lower()] = index


configure(["IntervalStyle"])


def tracked_names():
    """Canonical names in their fixed order, as str."""
    return [decode_text(name) for name in names[:asked]]


cdef object tracked_index(bytes name):
    """Index of a parameter (any case), or None when it is not tracked."""
    return places.get(name.lower())


def index_of(str name):
    """Index of a parameter that clients may give, or None."""
    index = places.get(encode_text(name).lower())
    return index if index is not None and index < asked else None


cdef bint is_unasked(Py_ssize_t index) noexcept:
    return index >= asked


cdef bytes parameter_name(Py_ssize_t index):
    return names[index]


cdef bint is_followed(Py_ssize_t index) except -1:
    return index < asked or names[index] == FOLLOWED


def unasked_values(parameters):
    """What a login told of parameters that no client gives, as bytes."""
    cdef dict found = {}
    for name, value in parameters:
        index = places.get(encode_text(name).lower())
        if index is not None and index >= asked:
            found[encode_text(name)] = encode_text(value)
    return found


cdef class TrackedParams:

    @property
    def application_name(self):
        value = self.values[APPLICATION_NAME]
        return "" if value is None else value.decode("utf-8", "replace")

    def as_dict(self):
        return {decode_text(name): value.decode("utf-8", "replace")
                for name, value in zip(names, self.values) if value is not None}

    def __repr__(self):
        return f"TrackedParams({self.as_dict()!r})"


cpdef TrackedParams intern_values(tuple values):
    """The one object for *values*."""
    cdef TrackedParams found = interned.get(values)
    if found is None:
        found = TrackedParams.__new__(TrackedParams)
        found.values = values
        # Literals are read, and names are looked up, when a statement is parsed.
        found.scope = b"\0".join([
            b"" if value is None else b"=" + value
            for index, value in enumerate(values) if index != APPLICATION_NAME])
        interned[values] = found
    return found


def from_dict(given):
    """TrackedParams from canonical or other spelling -> str value."""
    cdef list values = [None] * len(names)
    for name, value in given.items():
        index = places.get(encode_text(name).lower())
        if index is not None:
            values[index] = encode_text(value)
    return intern_values(tuple(values))


cdef TrackedParams changed(TrackedParams params, Py_ssize_t index, bytes value):
    cdef list values
    if params.values[index] == value:
        return params
    values = list(params.values)
    values[index] = value
    return intern_values(tuple(values))


cdef TrackedParams applied(TrackedParams server, TrackedParams client):
    """The server's values after a SET batch: nobody else's are left."""
    return intern_values(server.values[:asked] + client.values[asked:])


cdef TrackedParams merged(TrackedParams server, TrackedParams client):
    """The server's canonical values, where it has one; else the client's."""
    cdef list values = list(server.values)
    for index, value in enumerate(values):
        if value is None:
            values[index] = client.values[index]
    return intern_values(tuple(values))


def only_reported(TrackedParams params not None, TrackedParams login not None):
    """What is known after a DISCARD ALL: what a server does not report is as at first.

    *login* is what a login on such a server has told.
    """
    return intern_values(tuple([
        None if told is None else value
        for value, told in zip(params.values, login.values)]))


def filled(TrackedParams client, TrackedParams defaults):
    """The client's values, where it gave one; else the pool's default."""
    cdef list values = list(client.values)
    for index, value in enumerate(values):
        if value is None:
            values[index] = defaults.values[index]
    return intern_values(tuple(values))


def named_values(TrackedParams params, bint unasked=False):
    """(canonical name, value) of each known parameter, as bytes, in order.

    Of those that clients may give, or of all.
    """
    cdef Py_ssize_t count = len(names) if unasked else asked
    return [(name, value) for name, value in zip(names[:count], params.values)
            if value is not None]


cdef bint means_something(Py_ssize_t index, bytes value) except -1:
    """Can this value be given to another server, too?"""
    return names[index].lower() != SEARCH_PATH or is_list(value)


cdef bint is_plain_encoding(bytes encoding) except -1:
    return (encoding is None
            or encoding.lower().translate(None, b"-_ ") not in NOT_PLAIN)


cdef bytes quoted(bytes name, bytes value, bint plain):
    """The SET for one parameter, or None when there can be none.

    Its literal is too long; or the list of search_path is no list; or it is not
    *plain* which of its bytes are backslashes: in some encodings such a byte may be
    the second half of a character, and doubled it would end the literal.
    """
    if name.lower() == SEARCH_PATH:
        found = quoted_list(value)
        return None if found is None else b"SET " + name + b"=" + found + b";"
    literal = value.replace(b"'", b"''")
    if b"\\" in value:
        if not plain and not value.isascii():
            return None
        literal = b"E'" + literal.replace(b"\\", b"\\\\") + b"'"
    else:
        literal = b"'" + literal + b"'"
    if len(literal) > MAX_LITERAL or b"\0" in value:
        return None
    return b"SET " + name + b"=" + literal + b";"


cdef bytes set_batch(TrackedParams wanted, TrackedParams present):
    """All SETs that turn *present* into *wanted*; None when none is needed."""
    cdef list parts = []
    cdef bint plain = (is_plain_encoding(wanted.values[CLIENT_ENCODING])
                       and is_plain_encoding(present.values[CLIENT_ENCODING]))
    for index, name in enumerate(names):
        want = wanted.values[index]
        have = present.values[index]
        if index >= asked and want != have:
            # None is what the server has by itself; nobody has what cannot be set.
            part = None if want is None else quoted(name, want, plain)
            parts.append(b"RESET " + name + b";" if part is None else part)
            continue
        if want is None or have is None or want == have:
            continue
        if want.lower() == have.lower():
            continue
        part = quoted(name, want, plain)
        if part is not None:
            parts.append(part)
    return b"".join(parts) if parts else None
