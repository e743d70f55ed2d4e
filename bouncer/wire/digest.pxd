"""SHA-256 and HMAC-SHA-256: contract of digest.pyx."""

from libc.stdint cimport uint8_t, uint32_t

cdef extern from *:
    """
    /* libcrypto's SHA256_CTX, the same since 0.9.8, and room to spare. Laid out here:
       nothing of OpenSSL is needed to compile us. */
    typedef struct {
        uint32_t hash[8], low, high, block[16], used, size;
        uint32_t spare[8];
    } HashState;
    """
    ctypedef struct HashState:
        uint32_t spare[8]

cdef enum:
    KEY = 32                    # bytes of a SHA-256 digest


cdef class Signer:
    """HMAC-SHA-256 (RFC 2104) with one key of up to 64 bytes, whose part is done once.
    """
    cdef:
        HashState inner, outer
        object slow_inner, slow_outer       # Python's, where there is no libcrypto
    cdef object begin(self, HashState* state, const uint8_t* block)
    cdef int sign_into(self, const char* text, size_t size, uint8_t* digest) except -1
    cdef bytes sign_slowly(self, bytes data)

cdef int sha256_into(const char* text, size_t size, uint8_t* digest) except -1
cdef bint same(const void* a, const void* b, size_t size) except -1
