"""Where clients come in and go: contract of door.pyx."""

from libc.stdint cimport uint32_t

cdef class Counts
cdef class Door
cdef class Known

from bouncer.relay.client cimport Client
from bouncer.relay.pool cimport Pool
from bouncer.relay.proof cimport Secret
from bouncer.relay.tracked cimport TrackedParams


cdef class Counts:
    """How many connections a database or a user has; limits look at them."""
    cdef:
        public Py_ssize_t client_count
        public Py_ssize_t departed      # ... of them, who counts for no limit any more
        public Py_ssize_t server_count


cdef class Known:
    """What became of a startup packet: what the next one like it meets."""
    cdef:
        readonly object login   # client_login.Login of the one that got in
        str nobody              # what is logged first of who is not known at all
        object user             # as in Client
        object user_state
        object database_state
        str attempt             # what is logged of it; None: nothing is
        readonly bint stale     # something has changed since
        readonly bint is_let_in     # else the right password is a talk's, too
        Counts database
        Py_ssize_t database_limit       # 0: none
        Counts account
        Py_ssize_t account_limit
        Pool pool
        dict params             # as the startup packet gave them
        TrackedParams tracked
        bytes before            # the welcome up to the cancel key
        bytes after
        bint needs_proof        # a password is asked for
        Secret secret           # what it is checked against here; None: by the talk


cdef class Door:
    cdef:
        object app              # contracts: begins talks, makes keys
        public Py_ssize_t sockets       # every client's, logins and cancels included
        public Py_ssize_t departed      # ... of them, who has gone and is still served
        public Py_ssize_t most_sockets  # max_client_conn
        public int most_fd      # descriptors from here on are the console's ...
        public int last_fd      # ... and from here on nobody's who comes in
        public bint is_closing  # a shutdown: the app hears of every end
        readonly dict logging_in    # clients whose login takes time, in order
        readonly dict keys      # cancel key -> client
        list spare              # cancel keys for the next clients
        dict known              # packet with its sender's address -> Known
        dict asked              # the same, of whom it is not known that they get in
        readonly long epoch     # how often something has changed
    cdef int enter(self, Client client, const char* p, Py_ssize_t count) except -1
    cdef Py_ssize_t go_on(self, Client client, const char* p,
                          Py_ssize_t count) except -1
    cdef int let_in(self, Client client, Known known) except -1
    cpdef int take_in(self, Client client) except -1
    cpdef bytes new_key(self)
    cdef int gone(self, Client client) except -1
