"""A client connection: contract of client.pyx."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from bouncer.relay.stream cimport Stream

cdef class Client(Stream)

from bouncer.relay.checked cimport CHECKED, check_client_move
from bouncer.relay.door cimport Counts, Door, Known
from bouncer.relay.proof cimport Proof
from bouncer.relay.poller cimport Poller
from bouncer.relay.pool cimport Pool
from bouncer.relay.server cimport Server
from bouncer.relay.statements cimport (
    NameEntry, NameTable, Pending, Prepared, Unnamed)
from bouncer.relay.texts cimport Statement
from bouncer.relay.tracked cimport TrackedParams
from bouncer.wire.framer cimport Buf

cdef enum ClientState:
    CL_LOGIN = 0
    CL_ACTIVE = 1               # logged in; linked or not
    CL_WAITING = 2
    CL_WAITING_CANCEL = 3       # its CancelRequest waits for a connection
    CL_ACTIVE_CANCEL = 4

cdef enum:
    MOST_RESETTING = 50         # statements whose texts are kept, see Client.resetting

cdef enum WaitKind:
    WAIT_QUERY = 0
    WAIT_WELCOME = 1            # login goes on when the pool knows its welcome
    WAIT_AUTH = 2               # wants a server for an auth_query

cdef enum RefusedUnit:          # of which the client has been told the error
    NOTHING_REFUSED = 0
    REFUSED_MESSAGE = 1         # one message, then ReadyForQuery
    REFUSED_TO_SYNC = 2         # all up to the next Sync, then ReadyForQuery
    REFUSED_REST = 3            # all up to the next Sync, which the server gets


cdef class Client(Stream):
    cdef:
        readonly int state      # changed by move_client alone
        public int wait_kind
        public Pool pool
        readonly Server server  # linked, else None
        public bint first_byte_is_tls   # TLS is configured and begins at once
        readonly bint started   # the login talk has begun
        bint refused_tls        # asked for TLS before that, and was told no
        bint introduced         # a PROXY header came before that: there is no second
        bint held_back          # linked, but the server's parameters are being set
        bint set_twice          # that has failed at one server already
        bint dropping           # the rest of this message goes nowhere
        str leaving             # it asks for nothing more: why; None: it may
        readonly bint departed  # it has closed, or said so: what it asked for is run
        bint told_since         # something was sent to it since then
        int refusing            # a RefusedUnit: what comes of it goes nowhere
        public bint notified    # was told that it is queued (query_wait_notify)
        public bint on_console
        int64_t remain          # bytes of the current message still to come
        # Monotonic microseconds; 0 when not running
        public int64_t query_start
        public int64_t transaction_start
        public int64_t wait_start
        public TrackedParams tracked
        public TrackedParams at_login   # what RESET and DISCARD ALL go back to
        NameTable names         # prepared statements; None until the first
        uint64_t forgotten      # what was parsed up to this note is none of its names
        uint64_t unnamed        # which Parse its unnamed statement is from; 0: none
        uint64_t unnamed_change     # number of the request that has made it so
        uint64_t unnamed_doubt      # ... when that may be skipped
        dict resetting          # name -> text of what may reset parameters; None: none
        Buf unnamed_parse       # that Parse; empty when it was too long to be kept
        Py_ssize_t kept_long    # bytes of that, if it counts for MOST_KEPT; else 0
        uint64_t last_close     # note of the latest Close that we answer in its turn
        # Known after login; who it is
        public object app       # contracts: begins the login, hears of the end
        Door door               # where it came in
        Known known             # its startup packet is; its password is awaited
        Proof proof             # how far it has got with that, else None
        public object user      # login name
        public object user_state
        public object database
        public object listener  # where it came in
        public Counts counted_database  # limits: whose client counts include it
        public Counts counted_user
        public Server ends_with  # closed together with this client, or None
        public int replication  # 0 none, 1 logical, 2 physical
        public str application_name_override
        public str startup_options
        public dict startup_params
        public bytes cancel_key
        public object wait_note  # what the policy remembers of a wait
    # Coming in
    cdef int come(self, Poller poller, int fd, object app, object listener) except -1
    cpdef int welcome_done(self) except -1
    # The flow of a query
    cdef Py_ssize_t relay(self, const char* p, Py_ssize_t count) except -1
    cdef int end_by(self, int kind, int code, const char* p,
                    Py_ssize_t count) except -1
    cdef int pass_on(self, Server server, const char* p, Py_ssize_t count,
                     Buf* composed) except -1
    cdef bint is_slow(self) except -1
    cdef int begin_request(self) except -1
    cdef int copy_ends(self, Server server) except -1
    cdef int refuse_query(self) except -1
    cdef bint refuses(self, int code) except -1
    # Prepared statements
    cdef bint is_stuck(self) except -1
    cdef bint may_read(self) except -1
    cdef int end_turn(self) except -1
    cdef Py_ssize_t statement_message(self, const char* p, Py_ssize_t count, int code,
                                      uint32_t length, Buf* composed) except -2
    cdef Py_ssize_t deallocate(self, const char* p, uint32_t length,
                               Buf* composed) except -2
    cdef int lend_to_query(self, const char* text, Py_ssize_t size,
                           Buf* composed) except -2
    cdef int misused(self, str reason) except -2
    cdef int nameless(self, int code, Py_ssize_t left, bint whole) except -2
    cdef int broken_message(self, int code) except -2
    cdef Py_ssize_t parse_statement(self, const char* name, Py_ssize_t size,
                                    const char* text, Py_ssize_t text_size,
                                    Py_ssize_t total, Buf* composed) except -2
    cdef bint has_no_room(self, const char* name, Py_ssize_t size,
                          Py_ssize_t total) except -1
    cdef Py_ssize_t refuse_parse(self, Py_ssize_t here, Py_ssize_t total,
                                 Buf* composed) except -2
    cdef int note_text(self, Server server, const char* p, Py_ssize_t count,
                       bint is_query) except -1
    cdef int note_parse(self, Server server, const char* p, Py_ssize_t count) except -1
    cdef int mind_portals(self, Server server) except -1
    cdef bytes text_of(self, const char* name, Py_ssize_t size)
    cdef bint note_portal(self, Server server, int code, const char* p,
                          Py_ssize_t count, bint whole) except -1
    cdef bytes scope(self)
    cdef int send_parse(self, Statement statement, Pending pending,
                        Buf* composed) except -1
    cdef int send_close(self, Statement statement, Pending pending,
                        Buf* composed) except -1
    cdef int make_room(self, Server server, Buf* composed) except -1
    cdef Py_ssize_t use_statement(self, const char* p, Py_ssize_t here,
                                  Py_ssize_t total, int code, const char* name,
                                  Py_ssize_t size, Buf* composed) except -2
    cdef int ask_about(self, Statement statement, Buf* composed) except -1
    cdef int needs_stand_in(self, Server server, NameEntry* entry, int code,
                            const char* rest, Py_ssize_t left, bint whole) except -2
    cdef int put_stand_in(self, Statement statement, Buf* composed) except -1
    cdef Py_ssize_t close_statement(self, const char* name, Py_ssize_t size,
                                    Py_ssize_t total, Buf* composed) except -2
    cdef int change_unnamed(self, Server server, const char* p,
                            Py_ssize_t count) except -1
    cdef int keep_unnamed(self, const char* p, Py_ssize_t count) except -1
    cdef Unnamed unnamed_now(self, Server server)
    cdef int fit_unnamed(self, Server server, Buf* composed) except -1
    cdef bint may_deallocate(self) except -1
    cdef bint lend(self, Server server, int code, const char* text, Py_ssize_t size,
                   Buf* composed) except -1
    cdef int note_forgetting(self, Server server, const char* p,
                             Py_ssize_t count, bint whole) except -1
    cdef Pending name_statement(self, bytes name, Statement statement)
    cdef bint hangs(self, Server server, int code, NameEntry* entry) except -1
    cdef int await_answers(self, Server server, Buf* composed) except -1
    cdef Py_ssize_t parse_taken(self, const char* text, Py_ssize_t text_size,
                                bytes own_name, Buf* composed) except -1
    cdef int put_renamed(self, const char* p, Py_ssize_t here, Py_ssize_t total,
                         const char* name, Py_ssize_t size, bytes other,
                         Buf* composed) except -1
    cdef int close_first(self, Statement statement, Prepared* item,
                         Buf* composed) except -1
    cdef int inject_parse(self, Statement statement, Buf* composed) except -1
    cdef int go_on(self) except -1
    # Ending
    cdef bint sent_whole(self) noexcept
    cdef int mind_end(self) except -1
    cdef int depart(self, int change) except -1
    cdef int read_rest(self) except -1
    cdef int what_is_held(self) noexcept
    cdef int goodbye(self, str why) except -1
    cdef bint is_owed(self) except -1
    cdef int finish(self) except -1
    cdef int leave(self, Server server) except -1
    cdef int end(self, str reason, bint notify, str sqlstate) except -1


cdef inline int move_client(Client client, int state) except -1:
    """*client* is in *state* from now on; the debug build refuses wrong moves."""
    if CHECKED:
        check_client_move(client, client.closed, client.state, state)
    client.state = state
    return 0
