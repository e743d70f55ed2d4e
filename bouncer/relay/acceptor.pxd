"""A listening socket in the relay: contract of acceptor.pyx."""

from bouncer.relay.stream cimport Stream


cdef class Acceptor(Stream):
    cdef:
        object app              # contracts: hears of each client that came in
        object listener         # listener.Listener, whose descriptor it is
