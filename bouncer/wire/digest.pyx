# cython: language_level=3, boundscheck=False, wraparound=False, nonecheck=True
"""SHA-256 (FIPS 180-4) and HMAC-SHA-256 (RFC 2104) for logins.

The one hard idea: nothing is linked. The functions are those of the libcrypto that the
interpreter's own `_ssl` has loaded, found by name at import; so a wheel carries no
library that somebody would have to keep safe, and there is one OpenSSL in the process.
They are the old ones, since the one-shot interface looks the algorithm up anew for
every hash. Where they are not to be had (an interpreter with OpenSSL built in, an
OpenSSL without them), Python's own SHA-256 does the work, at some times the cost.
"""

import ctypes
from hmac import compare_digest

try:
    # Python's own, whose states are copied without OpenSSL's look-ups: 3.11, 3.12.
    from _sha256 import sha256
except ImportError:
    try:
        from _sha2 import sha256
    except ImportError:
        from hashlib import sha256

from libc.string cimport memcpy, memset

cdef enum:
    BLOCK = 64
    CANARY = 0x5AA5C33C

ctypedef int (*begin_function)(HashState*) noexcept nogil
ctypedef int (*update_function)(HashState*, const void*, size_t) noexcept nogil
ctypedef int (*end_function)(uint8_t*, HashState*) noexcept nogil
ctypedef int (*compare_function)(const void*, const void*, size_t) noexcept nogil

cdef struct Library:
    begin_function begin
    update_function update
    end_function end
    compare_function compare

cdef Library crypto
cdef bint is_native = False


def load(path):
    """Take the functions from the library *path*, or from what it is linked with.

    False when they are not there, or not what they should be: Python's own does then.
    """
    global crypto, is_native
    cdef Library found
    is_native = False
    if path is None:
        return False
    try:
        library = ctypes.CDLL(path)
        found.begin = <begin_function>address(library, "SHA256_Init")
        found.update = <update_function>address(library, "SHA256_Update")
        found.end = <end_function>address(library, "SHA256_Final")
        found.compare = <compare_function>address(library, "CRYPTO_memcmp")
    except (AttributeError, OSError):
        return False
    if not works(&found):
        return False
    crypto = found
    is_native = True
    return True


cdef void* address(object library, str name) except NULL:
    """Where the function *name* is; by ctypes, since dlsym has a version too new."""
    return <void*><size_t>ctypes.cast(getattr(library, name), ctypes.c_void_p).value


cdef bint works(Library* found) except -1:
    """Whether it hashes rightly, and keeps to the state that we give it."""
    cdef HashState state
    cdef uint8_t[KEY] digest
    cdef bytes text = b"a text of more than one block, " * 4
    cdef int i
    for i in range(8):
        state.spare[i] = CANARY
    if found.begin(&state) != 1:
        return False
    found.update(&state, <const char*>text, len(text))
    found.end(digest, &state)
    for i in range(8):
        if state.spare[i] != <uint32_t>CANARY:
            return False
    return (<char*>digest)[:KEY] == sha256(text).digest()


def provider():
    """Who hashes: for SHOW PYBOUNCER."""
    return "libcrypto" if is_native else "Python"


cdef int sha256_into(const char* text, size_t size, uint8_t* digest) except -1:
    """Write the hash of *text* to *digest*, 32 bytes."""
    cdef HashState state
    cdef bytes slow
    if is_native:
        crypto.begin(&state)
        crypto.update(&state, text, size)
        crypto.end(digest, &state)
        return 0
    slow = sha256(text[:size]).digest()
    memcpy(digest, <const char*>slow, KEY)
    return 0


cdef bint same(const void* a, const void* b, size_t size) except -1:
    """Whether so many bytes are the same, in a time that does not tell where not."""
    if is_native:
        return crypto.compare(a, b, size) == 0
    return compare_digest((<const char*>a)[:size], (<const char*>b)[:size])


cdef class Signer:

    def __init__(self, bytes key not None):
        cdef uint8_t[BLOCK] pad
        cdef int i
        if len(key) > BLOCK:
            raise ValueError("a key of HMAC-SHA-256 has up to 64 bytes here")
        memset(pad, 0, BLOCK)
        memcpy(pad, <const char*>key, len(key))
        for i in range(BLOCK):
            pad[i] ^= 0x36
        self.slow_inner = self.begin(&self.inner, pad)
        for i in range(BLOCK):
            pad[i] ^= 0x36 ^ 0x5C
        self.slow_outer = self.begin(&self.outer, pad)
        memset(pad, 0, BLOCK)

    cdef object begin(self, HashState* state, const uint8_t* block):
        """The state behind the padded key: that part is the same for every message."""
        if not is_native:
            return sha256((<const char*>block)[:BLOCK])
        crypto.begin(state)
        crypto.update(state, block, BLOCK)
        return None

    cdef int sign_into(self, const char* text, size_t size, uint8_t* digest) except -1:
        """Write the signature of *text* to *digest*, 32 bytes."""
        cdef HashState state
        cdef bytes slow
        if self.slow_inner is not None:
            slow = self.sign_slowly(text[:size])
            memcpy(digest, <const char*>slow, KEY)
            return 0
        state = self.inner
        crypto.update(&state, text, size)
        crypto.end(digest, &state)
        state = self.outer
        crypto.update(&state, digest, KEY)
        crypto.end(digest, &state)
        return 0

    cdef bytes sign_slowly(self, bytes data):
        """The same by Python."""
        inner, outer = self.slow_inner.copy(), self.slow_outer.copy()
        inner.update(data)
        outer.update(inner.digest())
        return outer.digest()

    def sign(self, bytes data not None):
        """Give the signature of *data*."""
        cdef uint8_t[KEY] digest
        self.sign_into(data, len(data), digest)
        return (<char*>digest)[:KEY]


def own_library():
    """The shared library of the interpreter's `_ssl`; None when it is built in."""
    try:
        import _ssl
    except ImportError:
        return None
    return getattr(_ssl, "__file__", None)


load(own_library())
