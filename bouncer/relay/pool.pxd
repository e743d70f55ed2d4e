"""Link, release, hand over: contract of pool.pyx (design D4)."""

from libc.stdint cimport int64_t, uint64_t

cdef class Pool

from bouncer.relay.client cimport Client
from bouncer.relay.poller cimport Poller
from bouncer.relay.server cimport Server
from bouncer.relay.stream cimport StreamList
from bouncer.relay.texts cimport Changes
from bouncer.relay.tracked cimport TrackedParams

cdef enum:
    LONGEST_QUERY = 506         # bytes of a reset or check query, as in PgBouncer

cdef enum Mode:
    SESSION = 0
    TRANSACTION = 1
    STATEMENT = 2

cdef enum Outcome:
    WAITING = 0                 # queued, or its parameters are being set
    LINKED = 1
    GONE = 2                    # the client was closed


cdef class Pool:
    cdef:
        readonly Poller poller
        public object database  # registry.DatabaseState
        public object user      # registry.UserState of the server user
        public object keeper    # policy: asked when this class cannot decide
        public str database_name
        public str user_name
        # Servers by state, first = next to be used
        readonly StreamList idle
        readonly StreamList used
        readonly StreamList tested
        readonly StreamList active
        readonly StreamList login
        readonly StreamList being_canceled
        readonly StreamList active_cancel
        # Clients by state, first = longest there
        readonly StreamList clients
        readonly StreamList waiting
        readonly dict departed  # waiting clients that have closed, as keys: first gone
        readonly StreamList cancel_waiting
        readonly StreamList cancel_active
        # Copied from the settings whenever they change
        public int mode
        public int max_prepared
        public bint blocked     # pause or suspend: nothing is handed out
        public bint draining    # a suspend: who gives its server back is not read
        bint handing            # a released server is being handed over
        public bint queue_only  # nobody idle, no room: who comes just queues
        public bint contested   # others want what is released: a shared limit is full
        public bint round_robin
        public bint reset_on_release
        public bint check_on_release
        public bytes reset_query
        public bytes check_query
        public int64_t lifetime_us      # a server older than this is not kept
        # What the first login of a server has told (client sheet 6.2)
        public bytes welcome    # untracked ParameterStatus messages; None: unknown
        public TrackedParams defaults
        public Changes changes  # of its database, shared with all pools of that
        # Asks a server for what it does not report; None: nobody here has such values
        public bytes learn_query
        # Policy's own notes; the relay does not look at them
        public object notes
        # Counters of stats.md 1: microseconds, bytes, counts
        public uint64_t assignments, transactions, queries, client_bytes, server_bytes
        public int64_t transaction_us, query_us, wait_us
        public uint64_t client_parses, server_parses, binds
        public uint64_t logins
        public int64_t idle_since   # somebody came, or was there when looked at
    # Called by clients
    cdef int acquire(self, Client client) except -1
    # Called by servers
    cdef int release(self, Server server) except -1
    cdef int settle(self, Server server, bint after_reset) except -1
    cdef int settle_special(self, Server server, bint after_reset) except -1
    cdef int hand_over(self, Server server) except -1
    cdef int give(self, Server server) except -1
    cdef int wait_again(self, Client client) except -1
    cdef int enqueue(self, Client client, int kind) except -1
    cdef int link(self, Client client, Server server) except -1
