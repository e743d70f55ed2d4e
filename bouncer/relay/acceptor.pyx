# cython: language_level=3, boundscheck=False, wraparound=False, nonecheck=True
"""Accept clients on a listening socket, in compiled code."""

import os

from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, EMFILE, errno
from libc.stdint cimport int64_t
from libc.string cimport memset

from bouncer.relay.client cimport CL_WAITING_CANCEL, Client
from bouncer.relay.door cimport Door
from bouncer.relay.poller cimport Poller
from bouncer.relay.sockets cimport (
    EPOLLIN, SOCK_CLOEXEC, SOCK_NONBLOCK, accept4, monotonic_us, sockaddr,
    sockaddr_storage, socklen_t)
from bouncer.relay.stream cimport Stream

cdef enum:
    BURST = 64                  # clients accepted before others get a turn
    BURST_US = 500              # or as many as this takes: their logins begin at once
    LAST_CALLS = 4096           # the kernel's queue is rarely longer


cdef class Acceptor(Stream):
    """A listening socket; what it accepts becomes a Client of *app*."""

    def __init__(self, Poller poller not None, int fd, app, listener):
        self.poller = poller
        self.fd = fd
        self.app = app
        self.door = app.door
        self.listener = listener

    def watch(self):
        self.poller.add(self, EPOLLIN)

    def unwatch(self):
        """Leave the poller; the descriptor belongs to the listener."""
        self.poller.remove(self)
        self.poller.release_slot(self)
        self.closed = True          # so that dealloc does not close it

    def disconnect(self, reason):
        """Something went wrong with one client: the others still come in here."""

    def last_call(self):
        """Take those in who have connected already; the socket is about to close."""
        cdef int _
        for _ in range(LAST_CALLS):
            if self.closed or not self.on_events(0):
                break

    cdef int on_events(self, unsigned int events) except -1:
        """Accept some clients; returns whether there may be more."""
        cdef sockaddr_storage raw
        cdef socklen_t size
        cdef int fd, _
        cdef int64_t begun = monotonic_us()
        cdef Client client
        cdef Door door = self.door
        for _ in range(BURST):
            size = sizeof(sockaddr_storage)
            memset(&raw, 0, size)
            fd = accept4(self.fd, <sockaddr*>&raw, &size,
                         SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd < 0:
                if errno == EINTR or errno == ECONNABORTED:
                    continue
                if errno != EAGAIN:
                    self.app.accept_failed(OSError(errno, os.strerror(errno)))
                return 0
            client = Client.__new__(Client)
            client.come(self.poller, fd, self.app, self.listener)
            client.learn_peer(&raw)
            self.poller.add(client, EPOLLIN)
            door.sockets += 1
            try:
                # With tcp_defer_accept the first bytes are there already.
                client.on_readable()
            except Exception as error:
                self.poller.crashed(client, error)
            if (not client.closed and client.specials
                    and client.state < CL_WAITING_CANCEL):
                door.logging_in[client] = None
            if fd >= door.last_fd:
                # What is left is not for who comes in here.
                self.app.accept_failed(OSError(EMFILE, os.strerror(EMFILE)))
                return 0
            if self.closed or monotonic_us() - begun > BURST_US:
                break
        return 1
