# cython: language_level=3, boundscheck=False, wraparound=False, nonecheck=True
"""Link a client to a server, release it, hand it to the next.

Decides by itself only what is certain: a clean idle server for a client, the
longest waiting client for a released server. Everything else (nobody idle, a
pause, a limit, an age) is the keeper's, which is Python. The newest idle
server goes first, so that the oldest can reach server_idle_timeout.
"""

from cython cimport nonecheck

from bouncer.relay.checked cimport CHECKED, failed
from bouncer.relay.client cimport (
    CL_ACTIVE, CL_ACTIVE_CANCEL, CL_LOGIN, CL_WAITING, CL_WAITING_CANCEL,
    WAIT_QUERY, Client, move_client)
from bouncer.relay.ledger cimport next_note
from bouncer.relay.poller cimport Poller
from bouncer.relay.server cimport (
    PH_APPLY, PH_CHECK, PH_RELAY, PH_RESET, PLACE_LOGIN, PLACE_RELEASED, PORTALS,
    SV_ACTIVE, SV_ACTIVE_CANCEL, SV_BEING_CANCELED, SV_IDLE, SV_TESTED, SV_USED,
    Server, move_server)
from bouncer.relay.stream cimport Stream, StreamList
from bouncer.relay.texts cimport Changes
from bouncer.relay.tracked cimport set_batch


cdef bint release_is_broken = False


def break_release(bint on):
    """Share servers as they are: for the test that sees the debug build notice."""
    global release_is_broken
    release_is_broken = on


cdef int check_shared(Server server) except -1:
    """Somebody else gets *server*: in the debug build that it may be is asserted."""
    if not server.is_clean():
        return failed(f"{server!r} is shared, though {server.why_unclean()}")
    return 0


cdef inline int rest(Server server) except -1:
    """*server* waits for whoever comes next; the caller says where in the list."""
    if CHECKED:
        check_shared(server)
    return move_server(server, SV_IDLE)


cdef class Pool:
    """The clients and servers of one database and user."""

    def __init__(self, Poller poller not None, keeper, database_name, user_name):
        self.poller = poller
        self.keeper = keeper
        self.database_name = database_name
        self.user_name = user_name
        self.idle = StreamList()
        self.used = StreamList()
        self.tested = StreamList()
        self.active = StreamList()
        self.login = StreamList()
        self.being_canceled = StreamList()
        self.active_cancel = StreamList()
        self.clients = StreamList()
        self.waiting = StreamList()
        self.departed = {}
        self.cancel_waiting = StreamList()
        self.cancel_active = StreamList()
        self.mode = SESSION
        self.lifetime_us = 3600 * 1000000
        self.reset_query = b""
        self.check_query = b""
        self.changes = Changes()

    # Called by clients

    @nonecheck(False)
    cdef int acquire(self, Client client) except -1:
        """Link an idle server, or let the policy decide what *client* gets."""
        cdef Server server
        if (not self.blocked and self.waiting.count == 0
                and client.replication == 0):
            while self.idle.head is not None:
                server = <Server>self.idle.head
                if server.close_needed:
                    server.end("obsolete connection", True, False, "08P01")
                elif not server.is_clean():
                    server.end("idle server got dirty", True, False, "08P01")
                else:
                    if CHECKED:
                        check_shared(server)
                    return self.link(client, server)
        if self.queue_only:
            # The policy has looked at this very situation: nothing to decide.
            self.enqueue(client, WAIT_QUERY)
            return WAITING
        if not self.keeper.may_wait(self, client):
            return GONE
        self.enqueue(client, WAIT_QUERY)
        self.keeper.wants_server(self)
        if client.closed:
            return GONE
        # The policy may have found one at once (a used server that is fresh).
        # A replication client's own server may still be logging in.
        return LINKED if (client.server is not None and not client.held_back
                          and client.server.phase == PH_RELAY) else WAITING

    def queue(self, Client client not None, int kind):
        """Put *client* at the end of the queue; it is not read meanwhile."""
        self.enqueue(client, kind)

    cdef int enqueue(self, Client client, int kind) except -1:
        client.wait_kind = kind
        client.wait_start = self.poller.now
        client.notified = False
        move_client(client, CL_WAITING)
        self.waiting.push_tail(client)
        client.pause_reading()
        return client.mind_end()

    cdef int wait_again(self, Client client) except -1:
        """Its server is none after all: *client* is the first to get another one."""
        client.wait_kind = WAIT_QUERY
        client.wait_start = self.poller.now
        client.held_back = False
        move_client(client, CL_WAITING)
        self.waiting.push_head(client)
        client.pause_reading()
        client.mind_end()
        self.queue_only = False
        self.poller.put_off(lambda: self.keeper.wants_server(self))
        return 0

    def leave_queue(self, Client client not None):
        """The wait is over without a server (a welcome, a refusal)."""
        if client.state == CL_WAITING:
            self.wait_us += self.poller.now - client.wait_start
            move_client(client, CL_ACTIVE)
            self.clients.push_tail(client)
            client.resume_reading()

    # Called by servers

    @nonecheck(False)
    cdef int link(self, Client client, Server server) except -1:
        cdef bytes batch
        if client.state == CL_WAITING:
            self.wait_us += self.poller.now - client.wait_start
            move_client(client, CL_ACTIVE)
            self.clients.push_tail(client)
        client.server = server
        client.modest = False
        server.client = client
        move_server(server, SV_ACTIVE)
        server.phase = PH_RELAY
        server.fresh = False
        if server.minds or client.resetting is not None or server.said is not None:
            server.said = None
            server.minds = 0 if client.resetting is None else PORTALS
            server.said = None
        self.active.push_tail(server)
        if client.replication:
            return LINKED
        self.assignments += 1
        if (client.tracked is not server.tracked
                and client.tracked is not server.equal_to
                and client.tracked is not None and server.tracked is not None):
            batch = set_batch(client.tracked, server.tracked, server.told())
            if batch is not None:
                client.held_back = True
                client.pause_reading()
                server.ask(batch, PH_APPLY)
                return WAITING
            server.equal_to = client.tracked
        return LINKED

    @nonecheck(False)
    cdef int release(self, Server server) except -1:
        """Unlink a server whose client has no more use for it."""
        cdef Client client = server.client
        if client is not None:
            client.server = None
            client.modest = True
            server.client = None
            if self.draining:
                client.quiet = True
                client.pause_reading()
            elif not client.want_read and not client.put_off and client.leaving is None:
                client.resume_reading()     # only its server took no more
        server.release_due = False
        server.held_up = 0
        if not server.want_read:
            server.resume_reading()     # only its last client was slow
        if server.behind:
            server.place_due = PLACE_RELEASED
            return 0
        return self.settle(server, False)

    @nonecheck(False)
    cdef int settle(self, Server server, bint after_reset) except -1:
        """Find the place of an unlinked server: a client, a list, or the end."""
        # Nearly every way one client ever got another's rows, in any pooler,
        # was a server that was shared when this did not hold (design D5).
        if not server.is_clean() and not (CHECKED and release_is_broken):
            return server.end("idle server got dirty", True, False, "08P01")
        if (server.close_needed or server.cancels or server.replication
                or (self.reset_on_release and not after_reset)
                or self.check_on_release or self.blocked or self.contested
                or self.poller.now - server.connected_at >= self.lifetime_us):
            return self.settle_special(server, after_reset)
        if self.waiting.head is not None:
            return self.hand_over(server)
        rest(server)
        if self.round_robin:
            self.idle.push_tail(server)
        else:
            self.idle.push_head(server)
        return 0

    cdef int settle_special(self, Server server, bint after_reset) except -1:
        """The order is that of server sheet 5.5."""
        if (self.poller.now - server.connected_at >= self.lifetime_us
                and self.keeper.lifetime_over(self, server)):
            return server.end("server lifetime over", True, False, "08P01")
        if server.close_needed:
            return server.end("close_needed", True, False, "08P01")
        if server.cancels:
            # A cancel that arrives late must not hit the next client's query.
            move_server(server, SV_BEING_CANCELED)
            self.being_canceled.push_tail(server)
            return 0
        if server.replication:
            return server.end("replication client was closed", True, False, "08P01")
        if self.contested and not self.blocked and self.keeper.must_yield(self):
            return server.end("evicted", True, False, "08P01")
        if self.reset_on_release and not after_reset:
            if len(self.reset_query) > LONGEST_QUERY:
                return server.end("reset query failed", False, False, "08P01")
            move_server(server, SV_TESTED)
            self.tested.push_head(server)
            return server.ask(self.reset_query, PH_RESET)
        if self.blocked:
            rest(server)
            self.idle.push_head(server)
            self.keeper.idle_while_blocked(self, server)
            return 0
        if self.check_on_release and not after_reset:
            move_server(server, SV_USED)
            self.used.push_head(server)
            self.queue_only = False
            if self.waiting.head is not None:
                self.keeper.wants_server(self)
            elif self.contested:
                self.keeper.idle_while_contested(self)
            return 0
        if self.waiting.head is not None:
            return self.hand_over(server)
        rest(server)
        if self.round_robin:
            self.idle.push_tail(server)
        else:
            self.idle.push_head(server)
        if self.contested:
            self.keeper.idle_while_contested(self)
        return 0

    cdef int hand_over(self, Server server) except -1:
        """Give *server* to the longest waiting client.

        One that leaves at once gives it back before this has returned: then the
        next one gets it from here, not from a place ever deeper on the stack.
        """
        cdef Stream waiter = None
        if self.handing:
            rest(server)
            self.idle.push_head(server)
            return 0
        self.handing = True
        try:
            self.give(server)
            while (not self.blocked and self.idle.head is not None
                    and self.waiting.head is not None
                    and self.waiting.head is not waiter):
                waiter = self.waiting.head
                server = <Server>self.idle.head
                if server.close_needed:
                    server.end("obsolete connection", True, False, "08P01")
                elif not server.is_clean():
                    server.end("idle server got dirty", True, False, "08P01")
                else:
                    self.give(server)
        finally:
            self.handing = False
        return 0

    cdef int give(self, Server server) except -1:
        cdef Client client = <Client>self.waiting.head
        if client.replication or client.wait_kind != WAIT_QUERY:
            rest(server)
            self.idle.push_head(server)
            self.keeper.special_waiter(self, client, server)
            return 0
        if CHECKED:
            check_shared(server)
        if self.link(client, server) == LINKED:
            client.go_on()
        return 0

    # Called by the policy

    def release_server(self, Server server not None):
        """Unlink *server* and find its place; for the policy."""
        self.release(server)

    def login_done(self, Server server not None):
        """A server has logged in: it joins the pool."""
        server.phase = PH_RELAY
        server.ledger.ready = server.fresh = True
        server.idle_since = self.poller.now
        if server.behind:
            server.place_due = PLACE_LOGIN
            return
        if not server.is_clean():
            server.end("idle server got dirty", True, False, "08P01")
            return
        if self.waiting.head is None or self.blocked:
            rest(server)
            self.idle.push_head(server)
            if self.blocked:
                self.keeper.idle_while_blocked(self, server)
            return
        self.hand_over(server)

    def activate(self):
        """Serve waiting clients from idle servers; after a pause or a check."""
        cdef Server server
        while (not self.blocked and self.waiting.head is not None
                and self.idle.head is not None):
            server = <Server>self.idle.head
            if server.close_needed:
                server.end("obsolete connection", True, False, "08P01")
            elif not server.is_clean():
                server.end("idle server got dirty", True, False, "08P01")
            else:
                waiter = self.waiting.head
                self.hand_over(server)
                if self.waiting.head is waiter:
                    return

    def push_login(self, Server server not None):
        """A connection has begun."""
        self.login.push_tail(server)

    def push_cancel(self, Server server not None):
        """A connection carries a CancelRequest instead of a login."""
        move_server(server, SV_ACTIVE_CANCEL)
        self.active_cancel.push_tail(server)

    def push_client(self, Client client not None):
        """A client has logged in."""
        self.clients.push_tail(client)

    def push_cancel_client(self, Client client not None, bint active):
        """A client that brought a CancelRequest: waiting, or forwarded."""
        move_client(client, CL_ACTIVE_CANCEL if active else CL_WAITING_CANCEL)
        (self.cancel_active if active else self.cancel_waiting).push_tail(client)

    def back_to_login(self, Client client not None):
        """A client that waited for an auth_query is in no list again."""
        if client.home is not None:
            client.home.drop(client)
        move_client(client, CL_LOGIN)

    def occupy(self, Server server not None):
        """Take an idle server for a query of our own; it is linked to nobody."""
        move_server(server, SV_ACTIVE)
        self.active.push_tail(server)
        self.assignments += 1
        server.unnamed = next_note()    # a talk of ours may parse one
        server.talk_phase()

    def link_pair(self, Client client not None, Server server not None):
        """Link a given pair (replication, auth_query, takeover)."""
        return self.link(client, server)

    def unlink_pair(self, Client client not None, Server server not None):
        """Undo link_pair without looking for the server's place."""
        client.server = None
        client.modest = True
        server.client = None

    def check(self, Server server not None):
        """Ask a used server whether it lives; it becomes idle when it answers."""
        if len(self.check_query) > LONGEST_QUERY:
            server.end("test query failed", False, False, "08P01")
            return
        move_server(server, SV_TESTED)
        self.tested.push_head(server)
        server.ask(self.check_query, PH_CHECK)

    def park_used(self, Server server not None):
        """An idle server is due for a check before its next use."""
        move_server(server, SV_USED)
        self.used.push_head(server)
        self.queue_only = False

    def unpark(self, Server server not None):
        """A used server needs no check after all, or its cancels are through."""
        rest(server)
        self.idle.push_head(server)

    def settle_again(self, Server server not None):
        """Find the place of a parked server."""
        self.settle(server, False)

    def count_console_command(self):
        self.queries += 1
        self.transactions += 1

    @property
    def server_count(self):
        """Server connections of every state, cancel connections included."""
        return (self.idle.count + self.used.count + self.tested.count
                + self.active.count + self.login.count
                + self.being_canceled.count + self.active_cancel.count)

    @property
    def client_count(self):
        return (self.clients.count + self.waiting.count
                + self.cancel_waiting.count + self.cancel_active.count)

    def servers(self):
        """A snapshot, in the order of SHOW SERVERS."""
        return [*self.active, *self.idle, *self.used, *self.tested, *self.login,
                *self.active_cancel, *self.being_canceled]

    def __repr__(self):
        return f"{self.database_name}/{self.user_name}"
