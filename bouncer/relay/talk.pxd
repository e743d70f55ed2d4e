"""talk.py compiled: the fields of what drives a conversation, in C."""


cdef class Want:
    cdef public str name


cdef class StartTls:
    cdef public object context
    cdef public object server_hostname
    cdef public bint server_side


cdef class Waiter:
    cdef public bint ready
    cdef public object value
    cdef public object error
    cdef public object talk
    cdef public object when_given_up


cdef class Talk:
    cdef public object generator
    cdef public object stream
    cdef public object task
    cdef public object waiting
