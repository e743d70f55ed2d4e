# cython: language_level=3, boundscheck=False, wraparound=False, nonecheck=True
"""Let clients in and see them out, in compiled code.

The clients of an application all begin with the same packet. Its first login is a
talk, which weighs settings, limits, HBA lines; what came of it is kept here under
the packet and the address it came from, and the next one gets in without a talk, or
with one that only asks for the password. The hard idea: everything that could let it
end otherwise calls `forget`; what changes all the time (counts against limits, a
welcome that is not known) is looked at here, and sends the client to the talk, which
alone knows how to refuse. Whom a password was asked of is remembered, too, somebody
and nobody alike, before it is known what comes of it: by what it takes to be asked or
refused, those who exist must not be told from those who do not.
"""

from cpython.dict cimport PyDict_GetItem
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from bouncer import log
from bouncer.descriptors import NONE_KEPT
from bouncer.relay.client cimport CL_WAITING_CANCEL, Client
from bouncer.relay.pool cimport Pool
from bouncer.relay.proof cimport RIGHT, WRONG, Proof, Secret
from bouncer.wire.codes cimport FE_PASSWORD
from bouncer.wire.framer cimport HEADER, be32, buf_size

cdef enum:
    MOST_KNOWN = 256            # packets that are remembered
    LONGEST_KNOWN = 1024        # bytes of one
    ADDRESS = 17                # bytes before it in its key
    LONGEST_WELCOME = 2048      # bytes of one that is put together on the stack
    LONGEST_PROOF = 2048        # bytes of a password message that is checked here


cdef class Counts:
    pass


cdef class Known:
    pass


cdef bint is_full(Counts counts, Py_ssize_t limit) except -1:
    return counts is not None and 0 < limit <= counts.client_count - counts.departed


cdef bytes key_of(Client client, const char* packet, uint32_t length):
    """The packet and who sent it: HBA lines look at addresses."""
    cdef char[ADDRESS + LONGEST_KNOWN] text
    text[0] = <char>client.family
    memcpy(text + 1, client.peer_raw, 16)
    memcpy(text + ADDRESS, packet, length)
    return text[:ADDRESS + length]


cdef class Door:
    """All that is known of clients before they are, and after they were, relayed."""

    def __init__(self, app):
        self.app = app
        self.most_fd = self.last_fd = NONE_KEPT
        self.logging_in = {}
        self.keys = {}
        self.spare = []
        self.known = {}
        self.asked = {}

    # What is remembered

    def remember(self, Client client not None, bytes body not None, login,
                 bint needs_proof, Secret secret, str attempt, tuple limits,
                 tuple welcome, str nobody=None):
        """*client* got in with the startup packet *body* (without its length).

        Or it is asked for its password, when *welcome* is None: then a talk takes the
        right one. *nobody* is what the log says of a user who does not exist.
        *secret* is what its password is checked against, None where a talk does that.
        *attempt* is what the log says of it, if anything. *limits* are those of the
        database and the user, 0 for none; *welcome* is what was sent before and
        behind the cancel key.
        """
        cdef uint32_t length = <uint32_t>len(body) + 4
        cdef Known known
        cdef dict where = self.asked if welcome is None else self.known
        if length > LONGEST_KNOWN or self.is_closing:
            return
        known = Known.__new__(Known)
        known.login, known.nobody = login, nobody
        known.user, known.user_state = client.user, client.user_state
        known.database_state, known.attempt = client.database, attempt
        known.needs_proof, known.secret = needs_proof, secret
        known.database, known.account = client.counted_database, client.counted_user
        known.database_limit, known.account_limit = limits
        known.pool = client.pool
        known.params = client.startup_params
        known.tracked = client.tracked
        known.is_let_in = welcome is not None
        known.before, known.after = welcome or (b"", b"")
        if len(where) >= MOST_KNOWN:
            where.clear()
        packet = length.to_bytes(4, "big") + body
        where[key_of(client, packet, length)] = known

    def forget(self):
        """Something has changed that a login may depend on."""
        cdef Known known
        self.epoch += 1
        for one in (*self.known.values(), *self.asked.values()):
            known = <Known>one
            known.stale = True
        self.known.clear()
        self.asked.clear()

    def close(self):
        """A shutdown has begun: nobody is remembered, every end is told to the app."""
        self.is_closing = True
        self.forget()

    def forget_keys(self):
        """Keys are made in another way from now on."""
        self.spare.clear()

    # Coming in

    def accepted(self, Client client not None):
        """*client* is there; its login begins."""
        self.sockets += 1
        self.logging_in[client] = None

    cdef int enter(self, Client client, const char* p, Py_ssize_t count) except -1:
        """Use the startup packet at *p*; 0 when that needs a talk from the start."""
        cdef uint32_t length
        cdef Known known
        cdef void* found
        if count < 8 or not (self.known or self.asked):
            return 0
        length = be32(p)
        if length < 8 or length > LONGEST_KNOWN or length > count:
            return 0
        key = key_of(client, p, length)
        found = <void*>PyDict_GetItem(self.known, key)
        if found == NULL:
            found = <void*>PyDict_GetItem(self.asked, key)
            if found == NULL:
                return 0
        known = <Known>found
        if (self.sockets - self.departed > self.most_sockets
                or client.fd >= self.most_fd
                or known.is_let_in and known.pool.welcome is None
                or is_full(known.database, known.database_limit)
                or is_full(known.account, known.account_limit)):
            return 0
        client.counted_database, client.counted_user = known.database, known.account
        if known.database is not None:
            if known.database.client_count == 0:
                self.app.registry.wake(known.database_state)
            known.database.client_count += 1
        if known.account is not None:
            known.account.client_count += 1
        if known.nobody is not None:
            log.info(f"{client.prefix} {known.nobody}")
        client.user, client.user_state = known.user, known.user_state
        client.database, client.pool = known.database_state, known.pool
        if known.attempt is not None:
            log.info(f"{client.prefix} {known.attempt}")
        if not known.needs_proof:
            self.let_in(client, known)
            return <int>length
        client.startup_params = known.params
        if known.secret is None:
            self.app.begin_proof(client, known, None)
        else:
            client.known = known
            client.proof = Proof.__new__(Proof)
            client.proof.secret = known.secret
            client.write(client.proof.challenge())
        return <int>length

    cdef Py_ssize_t go_on(self, Client client, const char* p,
                          Py_ssize_t count) except -1:
        """Use what a client whose password we check has sent: how many bytes."""
        cdef Py_ssize_t used = 0
        cdef uint32_t length
        cdef int verdict
        cdef Known known = client.known
        cdef Proof proof = client.proof
        while count - used >= HEADER:
            verdict = WRONG
            length = be32(p + used + 1)
            if p[used] == FE_PASSWORD and 4 < length <= LONGEST_PROOF:
                if count - used - 1 < length:
                    break
                verdict = proof.check(p + used + HEADER, length - 4)
            if verdict == WRONG or verdict == RIGHT and not known.is_let_in:
                # Or anything else: the talk takes the same message.
                client.proof = client.known = None
                self.app.begin_proof(client, known, proof.begun())
                break
            used += 1 + <Py_ssize_t>length
            if proof.reply:
                client.write(proof.reply)
            if verdict == RIGHT:
                client.proof = client.known = None
                if known.stale:
                    self.app.begin_welcome(client, known.login)
                else:
                    self.let_in(client, known)
                break
        return used

    cdef int let_in(self, Client client, Known known) except -1:
        """*client* has proved who it is: send the welcome, begin to relay."""
        cdef char[LONGEST_WELCOME] text
        cdef Py_ssize_t before = len(known.before), after = len(known.after), size
        cdef bytes key = self.new_key()
        client.tracked = known.tracked
        client.cancel_key = key
        known.pool.logins += 1
        size = before + len(key) + after
        if size <= LONGEST_WELCOME and buf_size(&client.out) == 0:
            memcpy(text, <const char*>known.before, before)
            memcpy(text + before, <const char*>key, len(key))
            memcpy(text + before + len(key), <const char*>known.after, after)
            client.push(text, size)
        else:
            client.write(known.before + key + known.after)
        return self.take_in(client)

    cpdef int take_in(self, Client client) except -1:
        """*client* has logged in: its pool has it, and its key cancels its queries."""
        cdef Pool pool = client.pool
        if self.logging_in:
            self.logging_in.pop(client, None)
        client.startup_params = None
        client.welcome_done()
        pool.clients.push_tail(client)
        pool.idle_since = client.poller.now
        if client.cancel_key is not None:
            self.keys[client.cancel_key] = client
        return 0

    cpdef bytes new_key(self):
        """A cancel key; made in bulk, for randomness costs a system call."""
        if not self.spare:
            self.spare = self.app.make_keys()
        return self.spare.pop()

    # Going

    cdef int gone(self, Client client) except -1:
        """*client* is closed: it counts no more, and its key is nobody's."""
        self.sockets -= 1
        if client.counted_database is not None:
            client.counted_database.client_count -= 1
            client.counted_database = None
        if client.counted_user is not None:
            client.counted_user.client_count -= 1
            client.counted_user = None
        if client.cancel_key is not None and self.keys.get(client.cancel_key) is client:
            del self.keys[client.cancel_key]
        if self.logging_in:
            self.logging_in.pop(client, None)
        if self.is_closing or client.replication or client.state >= CL_WAITING_CANCEL:
            self.app.client_gone(client)
        return 0
