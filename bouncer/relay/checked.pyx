# cython: language_level=3, boundscheck=False, wraparound=False, nonecheck=True
"""Checks of the debug build (`BOUNCER_DEBUG=1 make build`).

Which moves from state to state there are stands here, as a table; and what is made
and not freed is counted here. Nothing of this is in the release build: CHECKED is a C
constant, 0 there. A check that fails is logged, kept in `failures`, and raised, so
that it costs the connection that it was about.
"""

import gc

from libc.stdint cimport int64_t

from bouncer import log
from bouncer.relay.client cimport (
    CL_ACTIVE, CL_ACTIVE_CANCEL, CL_LOGIN, CL_WAITING, CL_WAITING_CANCEL)
from bouncer.relay.poller cimport Poller
from bouncer.relay.server cimport (
    SV_ACTIVE, SV_ACTIVE_CANCEL, SV_BEING_CANCELED, SV_IDLE, SV_LOGIN, SV_TESTED,
    SV_USED)
from bouncer.relay.stream cimport Stream
from bouncer.relay.stream import alive
from bouncer.relay.talk cimport Talk
from bouncer.wire.framer cimport buffers_kept

# From a state to those that may follow it; the end is no state.
CLIENT_MOVES = {
    # A login waits for the welcome or a lookup, or it was a CancelRequest.
    CL_LOGIN: {CL_ACTIVE, CL_WAITING, CL_WAITING_CANCEL},
    # Back from a wait, a login goes on, and is over.
    CL_ACTIVE: {CL_ACTIVE, CL_WAITING, CL_LOGIN},
    CL_WAITING: {CL_ACTIVE},
    CL_WAITING_CANCEL: {CL_ACTIVE_CANCEL},
    CL_ACTIVE_CANCEL: set(),
}
SERVER_MOVES = {
    # Straight to a client: one that waited, replication, a takeover.
    SV_LOGIN: {SV_IDLE, SV_ACTIVE, SV_ACTIVE_CANCEL},
    # Again: it was handed over, and given back before that had returned.
    SV_IDLE: {SV_IDLE, SV_ACTIVE, SV_USED},
    # To the next client without a rest.
    SV_ACTIVE: {SV_IDLE, SV_ACTIVE, SV_USED, SV_TESTED, SV_BEING_CANCELED},
    SV_USED: {SV_IDLE, SV_TESTED},
    SV_TESTED: {SV_IDLE, SV_ACTIVE, SV_USED, SV_BEING_CANCELED},
    # Its cancels are through: the place is looked for again.
    SV_BEING_CANCELED: {SV_IDLE, SV_ACTIVE, SV_USED, SV_TESTED, SV_BEING_CANCELED},
    SV_ACTIVE_CANCEL: set(),
}
CLIENT_NAMES = ("login", "active", "waiting", "waiting_cancel", "active_cancel")
SERVER_NAMES = ("login", "idle", "active", "used", "tested", "being_canceled",
                "active_cancel")

# What was found so far; tests look at it.
failures = []


def is_debug():
    """Is this the debug build?"""
    return CHECKED


cdef int failed(str what) except -1:
    """A check has failed: say so, and end what goes on."""
    failures.append(what)
    log.fatal(f"check failed: {what}")
    raise AssertionError(what)


cdef int check_client_move(object client, bint closed, int before,
                           int after) except -1:
    if closed or after not in CLIENT_MOVES[before]:
        return failed(f"{client!r} moves from {'closed, ' if closed else ''}"
                      f"{CLIENT_NAMES[before]} to {CLIENT_NAMES[after]}")
    return 0


cdef int check_server_move(object server, bint closed, int before,
                           int after) except -1:
    if closed or after not in SERVER_MOVES[before]:
        return failed(f"{server!r} moves from {'closed, ' if closed else ''}"
                      f"{SERVER_NAMES[before]} to {SERVER_NAMES[after]}")
    return 0


def counts():
    """What was made and is not freed, by kind."""
    found = {"streams": alive(), "buffers": buffers_kept(), "Client": 0, "Server": 0,
             "Talk": 0}
    for one in gc.get_objects():
        if isinstance(one, (Stream, Talk)):
            name = type(one).__name__
            found[name] = found.get(name, 0) + 1
    return found


def leaks():
    """What should have been freed and was not, in words.

    What is closed or over may be kept by nobody; an open stream is its poller's. A
    buffer belongs to a stream, or is the one that all rewriting shares.
    """
    cdef Stream stream
    cdef Talk talk
    cdef Poller poller
    cdef int64_t owned = 0
    cdef int64_t streams = 0
    told = []
    gc.unfreeze()
    gc.collect()
    for one in gc.get_objects():
        if isinstance(one, Stream):
            stream = <Stream>one
            streams += 1
            owned += (stream.out.data != NULL) + (stream.held.data != NULL)
            if stream.closed:
                told.append(f"{type(one).__name__} is closed and kept: {one!r}")
        elif isinstance(one, Talk):
            talk = <Talk>one
            if talk.generator is None:
                told.append("a talk is over and kept")
        elif isinstance(one, Poller):
            poller = <Poller>one
            owned += poller.scratch.data != NULL
    if alive() != streams:
        told.append(f"{alive() - streams} streams are kept by nobody who can be found")
    if CHECKED and buffers_kept() != owned:
        told.append(f"{buffers_kept() - owned} buffers are nobody's")
    return told


def report():
    """At the end of a debug build's process: say what was counted."""
    if not CHECKED:
        return
    for what in leaks():
        log.fatal(f"check failed: {what}")
    log.info(f"debug build: {counts()}")
