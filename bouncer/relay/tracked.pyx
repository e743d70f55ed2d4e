# cython: language_level=3, nonecheck=True
"""Parameters that follow a client to whatever server it gets.

When a client gets a server that has other values, one simple Query of SETs and RESETs
goes before its request. The one hard idea: a server reports some of these parameters
and says by itself what it has; of the others (search_path before PostgreSQL 18, most of
`track_extra_parameters`) its login tells nothing, and what it has is what we have set
last. There None means what the server has by itself, which a RESET brings back, and
UNSURE what nobody knows. Values are bytes as they came.
"""

import weakref

from bouncer.wire.identifiers import is_list, quoted_list
from bouncer.wire.messages import decode_text, encode_text

BUILT_IN = (b"DateStyle", b"client_encoding", b"TimeZone",
            b"standard_conforming_strings", b"application_name",
            b"default_transaction_read_only", b"IntervalStyle", b"search_path",
            b"scram_iterations", b"session_authorization")
cdef int CLIENT_ENCODING = 1
cdef int APPLICATION_NAME = 4
# Of these case means nothing (server sheet 6). In names of schemas and roles it does.
cdef int CASELESS = 7
SEARCH_PATH = b"search_path"
MAX_LITERAL = 127               # bytes of a quoted value; longer is left out
UNSURE = b"\0"                  # equals no value that anybody can have

# Encodings in which a backslash may be the second half of a character: all that
# PostgreSQL takes from clients only, with their other names.
NOT_PLAIN = frozenset((
    b"sjis", b"shiftjis", b"mskanji", b"win932", b"windows932", b"shiftjis2004",
    b"big5", b"win950", b"windows950", b"gbk", b"win936", b"windows936", b"uhc",
    b"win949", b"windows949", b"gb18030", b"johab"))

cdef tuple names = BUILT_IN
cdef set listed = set()         # lower-case names of `track_extra_parameters`
cdef dict places = {}           # lower-case name -> index
cdef object interned = weakref.WeakValueDictionary()


def configure(extra):
    """Set the tracked names: the built-in ones, then *extra* (str, in order)."""
    global names, listed
    cdef list found = list(BUILT_IN)
    seen = {name.lower() for name in found}
    listed = set()
    for name in extra:
        raw = encode_text(name)
        listed.add(raw.lower())
        if raw and raw.lower() not in seen:
            seen.add(raw.lower())
            found.append(raw)
    names = tuple(found)
    places.clear()
    for index, name in enumerate(names):
        places[name.lower()] = index


configure([])


def tracked_names():
    """Canonical names in their fixed order, as str."""
    return [decode_text(name) for name in names]


cdef object tracked_index(bytes name):
    """Index of a parameter (any case), or None when it is not tracked."""
    return places.get(name.lower())


def index_of(str name):
    """Index of a parameter, or None."""
    return places.get(encode_text(name).lower())


cdef bytes parameter_name(Py_ssize_t index):
    return names[index]


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


cdef bint is_same(Py_ssize_t index, bytes one, bytes other) except -1:
    """Do two values of a parameter mean the same to a server?"""
    return one == other or (index < CASELESS and one.lower() == other.lower())


cdef TrackedParams applied(TrackedParams server, TrackedParams client,
                           TrackedParams login):
    """The server's values after a SET batch: nobody else's are left.

    What it reports it has told. *login* is what its login has told.
    """
    cdef list values = list(server.values)
    cdef bint plain = is_plain(client, server)
    for index in range(len(values)):
        if login is None or login.values[index] is None:
            value = client.values[index]
            if value is not None and setting(index, value, plain) is None:
                value = None
            values[index] = value
    return intern_values(tuple(values))


cdef TrackedParams merged(TrackedParams server, TrackedParams client):
    """The server's canonical values, where it has one; else the client's."""
    cdef list values = list(server.values)
    for index, value in enumerate(values):
        if value is None:
            values[index] = client.values[index]
    return intern_values(tuple(values))


cdef TrackedParams respelled(TrackedParams login, TrackedParams given,
                             TrackedParams canonical):
    """*login*, each value that is still *given* so as a server spells it."""
    if login is None or given is canonical:
        return login
    return intern_values(tuple([
        other if value is not None and value == one else value
        for value, one, other in zip(login.values, given.values, canonical.values)]))


def only_reported(TrackedParams params not None, TrackedParams login not None):
    """What is known after a DISCARD ALL: what a server does not report is as at first.

    *login* is what a login on such a server has told.
    """
    return with_own(params, None, login)


cdef TrackedParams with_own(TrackedParams params, TrackedParams own,
                            TrackedParams login):
    """*params*, but *own* (None: nothing) where a server does not report.

    *login* is what its login has told.
    """
    return intern_values(tuple([
        (None if own is None else own.values[index]) if told is None else value
        for index, (value, told) in enumerate(zip(params.values, login.values))]))


cdef TrackedParams doubted(TrackedParams params, TrackedParams login, dict known):
    """What a server has of what it does not report is not sure any more.

    But for *known*: index -> value.
    """
    cdef list values = list(params.values)
    for index in range(len(values)):
        if login.values[index] is None and (
                values[index] is not None or index in known):
            values[index] = known.get(index, UNSURE)
    return intern_values(tuple(values))


def filled(TrackedParams client, TrackedParams defaults):
    """The client's values, where it gave one; else the pool's default."""
    return merged(client, defaults)


def named_values(TrackedParams params):
    """(canonical name, value) of each known parameter, as bytes, in order."""
    return [(name, value) for name, value in zip(names, params.values)
            if value is not None]


def unreported_names(TrackedParams params not None, TrackedParams login not None,
                     bint extra):
    """Names, as bytes, of what has a value in *params* and is not told in *login*.

    And, with *extra*, of what `track_extra_parameters` names and is not told.
    """
    return [name for index, name in enumerate(names)
            if login.values[index] is None
            and (params.values[index] is not None
                 or (extra and name.lower() in listed))]


cdef bint means_something(Py_ssize_t index, bytes value) except -1:
    """Can this value be given to another server, too?"""
    return names[index].lower() != SEARCH_PATH or is_list(value)


cdef bint is_plain_encoding(bytes encoding) except -1:
    return (encoding is None
            or encoding.lower().translate(None, b"-_ ") not in NOT_PLAIN)


cdef bint is_plain(TrackedParams one, TrackedParams other) except -1:
    return (is_plain_encoding(one.values[CLIENT_ENCODING])
            and is_plain_encoding(other.values[CLIENT_ENCODING]))


cdef bytes setting(Py_ssize_t index, bytes value, bint plain):
    """The SET for one parameter, or None when there can be none.

    Its literal is too long; or the list of search_path is no list; or it is not
    *plain* which of its bytes are backslashes: in some encodings such a byte may be
    the second half of a character, and doubled it would end the literal.
    """
    name = names[index]
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


cdef bint needs_reset(bytes have, bytes told) except -1:
    """Is *have* what somebody else has set, though a login told *told*?"""
    return have is not None and have != told


cdef bytes set_batch(TrackedParams wanted, TrackedParams present,
                     TrackedParams login, set local=None):
    """All SETs that turn *present* into *wanted*; None when none is needed.

    *login* is what the login of that server has told; None when we have not seen it.
    Of *local* (indexes) the value is set for the transaction only.
    """
    cdef list parts = []
    cdef bint plain = is_plain(wanted, present)
    for index in range(len(names)):
        want = wanted.values[index]
        have = present.values[index]
        if want is have:
            continue
        told = None if login is None else login.values[index]
        part = None
        if want is not None:
            if have is not None and is_same(index, want, have):
                continue
            part = setting(index, want, plain)
            if part is None and told is not None and index < CASELESS:
                continue        # too long: the server keeps what it has
        if part is None and needs_reset(have, told):
            part = b"RESET " + names[index] + b";"
        if part is not None:
            if local is not None and index in local and part.startswith(b"SET "):
                part = b"SET LOCAL " + part[4:]
            parts.append(part)
    return b"".join(parts) if parts else None


cdef bint sets_unreported(TrackedParams wanted, TrackedParams present,
                          TrackedParams login) except -1:
    """Does the batch of these set anything that the server does not report?"""
    if login is None:
        return False
    for index in range(len(names)):
        want = wanted.values[index]
        if (login.values[index] is None and want is not None
                and want != present.values[index]):
            return True
    return False
