"""A listening socket in the relay: contract of acceptor.pyx."""

from bouncer.relay.door cimport Door
from bouncer.relay.stream cimport Stream


cdef class Acceptor(Stream):
    cdef:
        object app              # contracts: hears of each client that came in
        Door door               # where those who came in are kept
        object listener         # listener.Listener, whose descriptor it is
