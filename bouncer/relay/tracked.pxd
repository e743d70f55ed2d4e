"""Tracked parameters: contract of tracked.pyx (design D6)."""


cdef class TrackedParams:
    """Values of the tracked parameters, in the fixed order; None is unknown.

    Interned: equal values are the same object, so that the relay compares
    pointers when it links a client and a server.
    """
    cdef:
        readonly tuple values
        readonly bytes scope    # all that decides what a statement means
        object __weakref__


cdef TrackedParams changed(TrackedParams params, Py_ssize_t index, bytes value)
cdef object tracked_index(bytes name)
cdef bytes set_batch(TrackedParams wanted, TrackedParams present, TrackedParams login,
                     set local=*)
cdef bint sets_unreported(TrackedParams wanted, TrackedParams present,
                          TrackedParams login) except -1
cdef TrackedParams applied(TrackedParams server, TrackedParams client,
                           TrackedParams login)
cdef TrackedParams with_own(TrackedParams params, TrackedParams own,
                            TrackedParams login)
cdef TrackedParams doubted(TrackedParams params, TrackedParams login, dict known)
cdef bint is_same(Py_ssize_t index, bytes one, bytes other) except -1
cdef bint means_something(Py_ssize_t index, bytes value) except -1
cdef bytes parameter_name(Py_ssize_t index)
cdef TrackedParams respelled(TrackedParams login, TrackedParams given,
                             TrackedParams canonical)
cdef TrackedParams merged(TrackedParams server, TrackedParams client)
