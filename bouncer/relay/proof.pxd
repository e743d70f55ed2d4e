"""A client's proof of its password: contract of proof.pyx."""

from libc.stdint cimport uint8_t

from bouncer.wire.digest cimport Signer

cdef enum Verdict:
    WRONG = 0                   # or unusual: a talk finds out
    GO_ON = 1                   # another message is to come
    RIGHT = 2


cdef class Secret:
    """What a stored secret is checked against."""
    cdef:
        object digits           # md5 object that has seen the stored digits, or None
        # SCRAM: StoredKey, who signs with it and with ServerKey, end of server-first
        uint8_t stored_key[32]
        Signer stored, server
        bytes tail


cdef class Proof:
    """How far one client has got."""
    cdef:
        Secret secret
        bytes salt              # md5: the challenge
        # SCRAM, as in auth.scram.ServerSide; empty until client-first
        bytes client_bare
        bytes nonce
        bytes server_first
        bytes binding
        bytes reply             # left by check: what the client is to be told
    cdef bytes challenge(self)
    cdef int check(self, const char* p, Py_ssize_t count) except -1
    cdef bint check_md5(self, const char* p, Py_ssize_t count) except -1
    cdef bint read_first(self, const char* p, Py_ssize_t count) except -1
    cdef bint check_final(self, const char* p, Py_ssize_t count) except -1
    cdef object begun(self)
