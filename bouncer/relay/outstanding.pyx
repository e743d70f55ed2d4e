# cython: language_level=3, boundscheck=False, wraparound=False, nonecheck=True
"""Requests that still await an answer."""

from cpython.ref cimport Py_INCREF, Py_XDECREF, PyObject
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc

cdef uint64_t last_note = 1     # notes are numbered in the order they are owed


cdef uint64_t next_note() noexcept:
    """The number of a note that is about to be owed; never used again."""
    global last_note
    last_note += 1
    return last_note


cdef uint64_t notes_made() noexcept:
    return last_note


cdef int grow(OwedQueue* queue) except -1:
    cdef uint32_t capacity = queue.capacity * 2
    cdef uint32_t i
    cdef Owed* items = <Owed*>malloc(capacity * sizeof(Owed))
    if items == NULL:
        raise MemoryError()
    for i in range(queue.count):
        items[i] = owed_at(queue, i)[0]
    free(queue.items)
    queue.items = items
    queue.head = 0
    queue.capacity = capacity
    return 0


cdef int owed_push(OwedQueue* queue, int kind, int action, object note) except -1:
    """Owe one more; *note* is None or kept until the entry is settled."""
    cdef Owed* entry
    if queue.capacity == 0:
        queue.capacity = OWED_INLINE
    if queue.count == queue.capacity:
        grow(queue)
    queue.count += 1
    entry = owed_at(queue, queue.count - 1)
    entry.kind = kind
    entry.action = action
    entry.note = NULL
    entry.behind = last_note
    if note is not None:
        Py_INCREF(note)
        entry.note = <PyObject*>note
    return 0


cdef void owed_pop(OwedQueue* queue) noexcept:
    """Settle the head."""
    cdef Owed* entry = owed_at(queue, 0)
    cdef PyObject* note = entry.note
    if queue.syncs_known:
        queue.syncs_known -= 1
    queue.head += 1
    if queue.head == queue.capacity:
        queue.head = 0
    queue.count -= 1
    if queue.count == 0:
        queue.head = 0
        if queue.items != NULL:     # a burst is over: give the memory back
            free(queue.items)
            queue.items = NULL
            queue.capacity = OWED_INLINE
    Py_XDECREF(note)


cdef void owed_clear(OwedQueue* queue) noexcept:
    while queue.count:
        owed_pop(queue)
    queue.goals = 0


cdef void owed_cut(OwedQueue* queue, uint32_t count) noexcept:
    """Take *count* entries behind the head out: the head moves up to the rest."""
    cdef Owed first = owed_at(queue, 0)[0]
    cdef Owed* entry
    cdef PyObject* note
    cdef uint32_t left = count
    while left:
        left -= 1
        entry = owed_at(queue, 1)
        note = entry.note
        queue.head += 1
        if queue.head == queue.capacity:
            queue.head = 0
        queue.count -= 1
        owed_at(queue, 0)[0] = first
        Py_XDECREF(note)
    queue.syncs_known -= min(queue.syncs_known, count)
