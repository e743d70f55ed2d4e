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
cdef bytes set_batch(TrackedParams wanted, TrackedParams present)
cdef TrackedParams applied(TrackedParams server, TrackedParams client)
cdef bint is_unasked(Py_ssize_t index) noexcept
cdef bint means_something(Py_ssize_t index, bytes value) except -1
cdef bint is_followed(Py_ssize_t index) except -1
cdef bytes parameter_name(Py_ssize_t index)
cdef TrackedParams merged(TrackedParams server, TrackedParams client)
