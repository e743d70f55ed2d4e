"""A server connection: contract of server.pyx."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from bouncer.relay.stream cimport Stream

cdef class Server(Stream)

from bouncer.relay.checked cimport CHECKED, check_server_move
from bouncer.relay.client cimport Client
from bouncer.relay.ledger cimport Ledger, Owed
from bouncer.relay.pool cimport Pool
from bouncer.relay.statements cimport Pending, Prepared, PreparedSet, Unnamed
from bouncer.relay.tracked cimport TrackedParams

cdef enum ServerState:
    SV_LOGIN = 0
    SV_IDLE = 1
    SV_ACTIVE = 2
    SV_USED = 3
    SV_TESTED = 4
    SV_BEING_CANCELED = 5
    SV_ACTIVE_CANCEL = 6

cdef enum Phase:                # what its messages mean
    PH_CONNECT = 0              # the kernel is connecting
    PH_TALK = 1                 # login, auth_query
    PH_RELAY = 2                # answers for the client
    PH_APPLY = 3                # answers to our SETs: swallowed
    PH_RESET = 4                # answers to server_reset_query: swallowed
    PH_CHECK = 5                # answers to server_check_query: swallowed
    PH_LEARN = 6                # rows of learn_query: what a client has set

cdef enum Place:                # why the place of a server is still to be found
    PLACE_FOUND = 0
    PLACE_RELEASED = 1
    PLACE_RESET = 2             # its reset or check is over
    PLACE_LOGIN = 3

cdef enum:
    MOST_OWED = 20000           # requests under way before a client must wait

cdef enum Minding:              # why the values of its client are minded; several
    PORTALS = 1                 # a portal of its client may reset some
    MAY_RESET = 2               # a text that may is unanswered
    HAS_RESET = 4               # one has, since the last ReadyForQuery
    PUT_BACK = 8                # ... so its client's own are to be set again
    LEARN = 16                  # its client may have set what it does not report
    LEARN_RESET = 32            # ... or reset it
    SET_IN_BLOCK = 64           # its client's own are set, up to a ROLLBACK
    UNDONE = 128                # ... which has come, since the last ReadyForQuery

cdef enum HeldUp:
    CROWDED = 1                 # too much is owed
    AWAITED = 2                 # what the client means hangs on an answer


cdef class Server(Stream):
    cdef:
        readonly int state      # changed by move_server alone
        int phase
        public Pool pool
        readonly Client client  # linked, else None
        # Why it may not be shared (design D5)
        Ledger ledger           # what it owes
        int status              # the byte of the last ReadyForQuery
        bint dirty              # spoke out of turn
        public bint close_needed
        public bint fresh       # no client has had it since its login or DISCARD ALL
        public int cancels      # cancel requests for it that are in flight
        public bint keeps_cancels   # some wait for the answer to a query of ours
        bint release_due        # done, but the client still sends half a message
        int place_due           # bytes follow the last answer: look at them first
        int held_up             # why its client is not read: HeldUp
        int64_t remain          # bytes of the current message still to come
        bint fakes_due          # our own answers wait for the end of this message
        bint skipping           # ... which go nowhere
        public TrackedParams tracked
        public TrackedParams at_login   # what RESET and DISCARD ALL leave here
        int minds               # Minding
        object said             # said.Said: texts that may reset; None: none yet
        list learnt             # rows of learn_query
        int asked_status        # the status when a query of ours was sent
        TrackedParams equal_to  # a client's values that need no SET here
        PreparedSet prepared    # None until the first
        bint fatal              # its client has read a FATAL of it
        bint doubting           # it has contradicted what we know of *prepared*
        uint64_t forgetting     # what was parsed up to this note is perhaps gone soon
        list lent               # names that texts may deallocate (Client.lend), or None
        bytes reworded          # what goes out instead of this message; None: that
        uint64_t unnamed        # which Parse its unnamed statement is from; 0: none
        uint64_t bound          # number of the statement of the last Bind that worked
        bint changing           # what it runs has changed the database
        uint64_t evicting       # first group with an unanswered Close of ours; 0: none
        public bytes cancel_key
        public bytes error      # first ErrorResponse while we were asking, or its head
        uint32_t asked          # Queries of our own that are not answered yet
        # Told by the policy
        public object app
        public object login     # UserState whose secret was used
        public object address   # hosts.Address it is connected to
        public object host      # hosts.Address it is connected to
        public object address_text  # "127.0.0.1:5432" or "unix:5432"
        public int replication
        public object peer      # registry.PeerState for a peer's cancel connection
        public object cancel_for    # the Client whose CancelRequest it carries
        public int64_t idle_since   # when the last message came, microseconds
        public uint64_t backend_pid
    # The flow of an answer
    cdef Py_ssize_t relay(self, const char* p, Py_ssize_t count) except -1
    cdef Py_ssize_t swallow(self, const char* p, Py_ssize_t count) except -1
    cdef Py_ssize_t unlinked(self, const char* p, Py_ssize_t count) except -1
    cdef int pass_on(self, Client client, const char* p, Py_ssize_t count) except -1
    cdef int note_settled(self, Owed* head, int code) except -1
    cdef int note_types(self, bytes types) except -1
    cdef int on_ready(self, int status) except -1
    cdef int finish_asking(self) except -1
    cdef int use_answer(self) except -1
    cdef int look_at_cancels(self) except -1
    cdef int copy_asked(self) except -1
    cdef int set_failed(self, Client client) except -1
    cdef bint may_say_goodbye(self) except -1
    cdef int find_place(self) except -1
    cdef int settle_ready(self) except -1
    cdef set undo(self, uint32_t count, bint failed)
    cdef int bury(self, set unborn) except -1
    cdef int probe(self) except -1
    cdef bytes take_back(self)
    cdef bint is_lending_for_query(self) except -1
    cdef int note_deallocated(self, Client client) except -1
    cdef bint can_answer_now(self) except -1
    cdef int crowd(self) except -1
    cdef bint is_forgetting(self) except -1
    cdef bytes client_name(self, bytes number)
    cdef int reword(self, bytes body) except -1
    cdef bint is_certain(self, Prepared* item) except -1
    cdef int owe_fake(self, int code, Pending pending) except -1
    cdef int answer_fakes(self) except -1
    cdef int copy_given_up(self) except -1
    cdef int note_long(self, int code, const char* p) except -1
    cdef int note_parameter(self, const char* p, Py_ssize_t count) except -1
    cdef int note_error(self, bytes body) except -1
    cdef int note_stale(self, Owed* head, bytes body) except -1
    cdef int note_change(self) except -1
    cdef int note_end(self, bytes body) except -1
    cdef int note_scope(self) except -1
    cdef bint note_reset(self, Py_ssize_t index, bytes value) except -1
    cdef bint is_undone(self, Py_ssize_t index, bytes value) except -1
    cdef bint is_reset(self, Py_ssize_t index) except -1
    cdef int give_own(self, Client client, Py_ssize_t index, bytes own) except -1
    cdef int note_silent(self, Client client, int status) except -1
    cdef int say(self, bytes text, bint is_query) except -1
    cdef int put_back(self, Client client) except -1
    cdef int note_block(self, Client client, set committed) except -1
    cdef int settle_undone(self, Client client, int status) except -1
    cdef bint mend_values(self, Client client) except -1
    cdef TrackedParams told(self)
    cdef bint learn(self, Client client) except -1
    cdef int note_row(self, const char* p, Py_ssize_t count) except -1
    cdef int take_learnt(self, Client client) except -1
    cdef int note_discarded(self, Client client) except -1
    cdef int refuse_value(self, Client client, bytes body) except -1
    cdef int note_tag(self, const char* p, Py_ssize_t count) except -1
    cdef int skipped(self, uint32_t index) except -1
    cdef int undo_unnamed(self, uint32_t count) except -1
    cdef int unnamed_was(self, uint64_t change, Unnamed before,
                         uint32_t behind) except -1
    # Called by clients and pools
    cdef int owe(self, int code) except -1
    cdef int ask(self, bytes query, int phase) except -1
    cdef bint is_clean(self) except -1
    cdef str why_unclean(self)
    # Ending
    cdef int end(self, str reason, bint terminate, bint notify, str sqlstate) except -1


cdef inline int move_server(Server server, int state) except -1:
    """*server* is in *state* from now on; the debug build refuses wrong moves."""
    if CHECKED:
        check_server_move(server, server.closed, server.state, state)
    server.state = state
    return 0
