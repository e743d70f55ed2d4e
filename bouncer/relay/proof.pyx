# cython: language_level=3, boundscheck=False, wraparound=False, nonecheck=True
"""Check a client's password: md5 and SCRAM-SHA-256 (RFC 5802, RFC 7677), server's side.

The usual form of each message and the right password, nothing else: what differs in
any way is left to `bouncer.talks.authenticate`, which knows every way to fail, and is
told by `begun` how far this has got.
"""

import os
from binascii import a2b_base64, b2a_base64

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t
from libc.string cimport memchr, memcmp, memcpy, memset

from bouncer.wire.digest cimport KEY, Signer, same, sha256_into
from bouncer.wire.framer cimport be32

cdef enum:
    MD5_ANSWER = 36             # "md5", 32 digits, 0
    PROOF_TEXT = 44             # base64 of a key
    SALT = 4                    # random bytes of an md5 challenge
    NONCE = 18                  # random bytes of ours; 24 characters, as PostgreSQL's

cdef bytes MECHANISM = b"SCRAM-SHA-256\0"
cdef int MECHANISM_SIZE = 14
# Base64 of the gs2 headers "n,," and "y,,".
cdef bytes NO_BINDING = b"biws"
cdef bytes NO_BINDING_EITHER = b"eSws"


cdef enum:
    NOISE = 1024                # random bytes read at once: a system call costs more

cdef bytes noise = b""
cdef Py_ssize_t noise_used = 0


cdef bytes random_bytes(Py_ssize_t count):
    """So many random bytes, not used before."""
    global noise, noise_used
    if noise_used + count > len(noise):
        noise = os.urandom(NOISE)
        noise_used = 0
    noise_used += count
    return noise[noise_used - count:noise_used]


cdef class Secret:

    @staticmethod
    def md5(digits):
        """Of md5 authentication; *digits* is a hash object that has seen them."""
        cdef Secret secret = Secret.__new__(Secret)
        secret.digits = digits
        return secret

    @staticmethod
    def scram(bytes stored_key not None, bytes server_key not None,
              bytes tail not None):
        """Of SCRAM; *tail* is the end of each server-first message."""
        cdef Secret secret = Secret.__new__(Secret)
        if len(stored_key) != KEY:
            raise ValueError("a key of SCRAM-SHA-256 has 32 bytes")
        secret.stored, secret.server = Signer(stored_key), Signer(server_key)
        memcpy(secret.stored_key, <const char*>stored_key, KEY)
        secret.tail = tail
        return secret


cdef class Proof:

    cdef bytes challenge(self):
        """The first message."""
        if self.secret.digits is not None:
            self.salt = random_bytes(SALT)
            return b"R\0\0\0\x0c\0\0\0\5" + self.salt
        return b"R\0\0\0\x17\0\0\0\x0a" + MECHANISM + b"\0"

    cdef int check(self, const char* p, Py_ssize_t count) except -1:
        """A Verdict on the body of a password message; `reply` is what to send."""
        if self.secret.digits is not None:
            self.reply = b""
            return RIGHT if self.check_md5(p, count) else WRONG
        if self.nonce is None:
            return GO_ON if self.read_first(p, count) else WRONG
        return RIGHT if self.check_final(p, count) else WRONG

    cdef bint check_md5(self, const char* p, Py_ssize_t count) except -1:
        cdef bytes expected
        if count != MD5_ANSWER or p[count - 1] != 0 or memcmp(p, b"md5", 3):
            return False
        state = self.secret.digits.copy()
        state.update(self.salt)
        expected = state.hexdigest().encode()
        return same(p + 3, <const char*>expected, 32)

    cdef bint read_first(self, const char* p, Py_ssize_t count) except -1:
        """SASLInitialResponse: n,,n=NAME,r=NONCE and no more."""
        cdef const char* stop = p + count
        cdef const char* at
        if count < MECHANISM_SIZE + 4 + 8 or memcmp(p, <const char*>MECHANISM,
                                                    MECHANISM_SIZE):
            return False
        p += MECHANISM_SIZE
        if be32(p) != <size_t>(stop - p - 4):
            return False
        p += 4
        if p[0] == b"n":
            self.binding = NO_BINDING
        elif p[0] == b"y":
            self.binding = NO_BINDING_EITHER
        else:
            return False
        if memcmp(p + 1, b",,n=", 4):
            return False
        at = <const char*>memchr(p + 5, b",", stop - p - 5)
        if at == NULL or stop - at < 4 or at[1] != b"r" or at[2] != b"=":
            return False
        self.client_bare = p[3:stop - p]
        p = at + 3
        at = p
        while at < stop:
            if not 0x21 <= <uint8_t>at[0] <= 0x7E or at[0] == b",":
                return False
            at += 1
        nonce = p[:stop - p]
        self.nonce = nonce + b2a_base64(random_bytes(NONCE), newline=False)
        self.server_first = b"r=" + self.nonce + self.secret.tail
        size = len(self.server_first) + 8
        self.reply = (b"R" + (<int>size).to_bytes(4, "big") + b"\0\0\0\x0b"
                      + self.server_first)
        return True

    cdef bint check_final(self, const char* p, Py_ssize_t count) except -1:
        """SASLResponse: c=BINDING,r=NONCE,p=PROOF and no more."""
        cdef bytes begin = b"c=" + self.binding + b",r=" + self.nonce
        cdef bytes proof, signed
        cdef Py_ssize_t size = len(begin)
        cdef uint8_t[KEY] key
        cdef uint8_t[KEY] digest
        cdef int i
        if (count != size + 3 + PROOF_TEXT or memcmp(p, <const char*>begin, size)
                or memcmp(p + size, b",p=", 3)):
            return False
        try:
            proof = a2b_base64(p[size + 3:count], strict_mode=True)
        except ValueError:
            return False
        if len(proof) != KEY:
            return False
        signed = self.client_bare + b"," + self.server_first + b"," + begin
        self.secret.stored.sign_into(signed, len(signed), key)
        for i in range(KEY):
            key[i] ^= (<const uint8_t*><const char*>proof)[i]
        sha256_into(<const char*>key, KEY, digest)
        memset(key, 0, KEY)
        if not same(digest, self.secret.stored_key, KEY):
            return False
        self.secret.server.sign_into(signed, len(signed), digest)
        # AuthenticationSASLFinal: v= and the server's signature.
        self.reply = b"R\0\0\0\x36\0\0\0\x0cv=" + b2a_base64(
            PyBytes_FromStringAndSize(<char*>digest, KEY), newline=False)
        return True

    cdef object begun(self):
        """How far it got: a salt, True (asked), or what ServerSide goes on from."""
        if self.salt is not None:
            return self.salt
        if self.nonce is None:
            return True
        return (self.binding, self.client_bare, self.nonce, self.server_first)
