# cython: language_level=3, boundscheck=False, wraparound=False, nonecheck=True
"""The epoll set of the relay, nested in the event loop.

The loop watches one descriptor, the set's own, and calls `dispatch` when any
socket is ready; dispatch stays in compiled code until nothing is ready or its
budget is spent. The hard idea: an event names a slot and a generation, never
a pointer, because a stream may be closed by an earlier event of the same batch.

Nobody keeps the others waiting: what is put off in a round, and a talk that has had
its turn, go on in the next one, behind the sockets that are ready by then; and
between two stays in dispatch the loop looks at signals and timers.
"""

import os

from cpython.memoryview cimport PyMemoryView_FromMemory
from cython cimport nonecheck
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc

from bouncer.relay.sockets cimport (
    EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, close,
    epoll_create1, epoll_ctl, epoll_event, epoll_wait, monotonic_us, wall_us)
from bouncer.relay.stream cimport TALK_MESSAGES, Stream
from bouncer.wire.framer cimport buf_free

cdef extern from "Python.h":
    enum:
        PyBUF_WRITE


cdef class Poller:
    """The set of all sockets of the relay, and the buffers they share."""

    def __cinit__(self):
        self.fd = -1
        self.max_packet_size = 2147483647
        self.budget_us = 2000
        self.unsent = []
        self.later = []
        self.turns = []
        self.loop_count = 5
        self.read_size = READ_SIZE
        self.rbuf = <char*>malloc(READ_SIZE)
        self.plain = <char*>malloc(READ_SIZE)
        self.slot_count = 64
        self.slots = <Slot*>calloc(self.slot_count, sizeof(Slot))
        if self.rbuf == NULL or self.plain == NULL or self.slots == NULL:
            raise MemoryError()
        self.plain_view = PyMemoryView_FromMemory(self.plain, READ_SIZE, PyBUF_WRITE)
        cdef uint32_t i
        for i in range(self.slot_count):
            self.slots[i].next_free = i + 1
        self.fd = epoll_create1(EPOLL_CLOEXEC)
        if self.fd < 0:
            raise OSError(errno, os.strerror(errno))
        self.now = monotonic_us()

    def __dealloc__(self):
        if self.fd >= 0:
            close(self.fd)
        free(self.rbuf)
        free(self.plain)
        free(self.slots)
        buf_free(&self.scratch)

    def use_buffers(self, Py_ssize_t size):
        """Make the shared buffers *size* bytes, if that is more than they have.

        Only before anything is read. There are two for the whole process, so they
        are larger from the start than the original's pkt_buf, which is one per
        busy socket.
        """
        cdef char* rbuf
        cdef char* plain
        if size <= self.read_size:
            return
        rbuf = <char*>malloc(size)
        plain = <char*>malloc(size)
        if rbuf == NULL or plain == NULL:
            free(rbuf)
            free(plain)
            raise MemoryError()
        free(self.rbuf)
        free(self.plain)
        self.rbuf, self.plain, self.read_size = rbuf, plain, size
        self.plain_view = PyMemoryView_FromMemory(plain, size, PyBUF_WRITE)

    # The four operations

    cdef int add(self, Stream stream, uint32_t events) except -1:
        cdef uint32_t i, count
        cdef Slot* grown
        cdef epoll_event event
        if stream.slot == 0:
            if self.free_slot == self.slot_count:
                count = self.slot_count * 2
                grown = <Slot*>realloc(self.slots, count * sizeof(Slot))
                if grown == NULL:
                    raise MemoryError()
                self.slots = grown
                for i in range(self.slot_count, count):
                    grown[i].stream = NULL
                    grown[i].generation = 0
                    grown[i].next_free = i + 1
                self.slot_count = count
            i = self.free_slot
            self.free_slot = self.slots[i].next_free
            self.slots[i].stream = <void*>stream
            stream.slot = i + 1
        i = stream.slot - 1
        event.events = events
        event.data.u64 = (<uint64_t>self.slots[i].generation << 32) | i
        if epoll_ctl(self.fd, EPOLL_CTL_ADD, stream.fd, &event) < 0:
            raise OSError(errno, os.strerror(errno))
        stream.interest = events
        stream.watched = True
        return 0

    cdef int modify(self, Stream stream, uint32_t events) except -1:
        cdef epoll_event event
        cdef uint32_t i = stream.slot - 1
        event.events = events
        event.data.u64 = (<uint64_t>self.slots[i].generation << 32) | i
        if epoll_ctl(self.fd, EPOLL_CTL_MOD, stream.fd, &event) < 0:
            raise OSError(errno, os.strerror(errno))
        stream.interest = events
        return 0

    cdef int remove(self, Stream stream) except -1:
        cdef epoll_event event
        if stream.watched:
            epoll_ctl(self.fd, EPOLL_CTL_DEL, stream.fd, &event)
            stream.watched = False
        return 0

    @nonecheck(False)
    cdef int wait(self) noexcept:
        return epoll_wait(self.fd, self.events, EVENTS, 0)

    # Called by streams

    cdef int release_slot(self, Stream stream) except -1:
        """Forget a stream that is being closed; late events for it are ignored."""
        cdef uint32_t i
        if stream.slot:
            i = stream.slot - 1
            self.slots[i].stream = NULL
            self.slots[i].generation += 1
            self.slots[i].next_free = self.free_slot
            self.free_slot = i
            stream.slot = 0
            stream.watched = False
        return 0

    cdef int queue_flush(self, Stream stream) except -1:
        if not stream.flush_queued:
            stream.flush_queued = True
            self.unsent.append(stream)
        return 0

    cdef int flush_all(self) except -1:
        """Send what talks and the console have queued, and run what was put off.

        What comes of that is the next round's: it could go on for ever.
        """
        if self.unsent:
            self.flush_unsent()
        if self.later:
            self.run_later()
            if self.unsent:
                self.flush_unsent()
        return 0

    cdef int flush_unsent(self) except -1:
        cdef Stream stream
        cdef list batch = self.unsent
        self.write_log()
        self.unsent = []
        for item in batch:
            stream = <Stream>item
            stream.flush_queued = False
            try:
                stream.flush_out()
            except Exception as error:
                self.crashed(stream, error)
        return 0

    cdef int write_log(self) except -1:
        """Write what is logged before the bytes that tell somebody of it.

        Who reads the log because of an error must find the line.
        """
        if self.unwritten:
            self.after()
        return 0

    cdef int run_later(self) except -1:
        """Run what was put off before now, as much as there is time for."""
        cdef int64_t begun = monotonic_us()
        cdef Py_ssize_t done = 0
        cdef list batch = self.later
        self.later = []
        for item in batch:
            done += 1
            try:
                item()
            except Exception as error:
                self.crashed(None, error)
            if monotonic_us() - begun > LATER_US:
                break
        if done < len(batch):
            self.later = batch[done:] + self.later
        return 0

    cdef int ring(self) except -1:
        """Let the loop call dispatch, even when no socket is ready."""
        if not self.rung and self.loop is not None:
            self.rung = True
            self.loop.call_soon(self.dispatch)
        return 0

    # Turns of talks

    cdef bint is_turn_over(self, int given) noexcept:
        """Has a talk that was given so many messages had its share of the round?"""
        return given >= TALK_MESSAGES or (
            self.busy and monotonic_us() > self.talks_until)

    cdef int queue_turn(self, Stream stream) except -1:
        """The talk of *stream* could go on: it will, when others have had a turn."""
        stream.turn_due = True
        self.turns.append(stream)
        if not self.busy:
            self.ring()
        return 0

    cdef int serve_turns(self, list batch) except -1:
        """Let talks go on, one at least, in the order in which they stopped."""
        cdef Stream stream
        cdef Py_ssize_t done = 0
        for item in batch:
            done += 1
            stream = <Stream>item
            stream.turn_due = False
            try:
                stream.go_on_talking()
            except Exception as error:
                self.crashed(stream, error)
            if monotonic_us() > self.talks_until:
                break
        if done < len(batch):
            self.turns = batch[done:] + self.turns
        return 0

    @nonecheck(False)
    cdef int serve(self, int count) except -1:
        """Serve a round's events: queries first, then logins for as long as they may.

        A login costs ten times what a transaction does. A storm of them must not
        hold up those who are in; who is left out is reported again. Other talks (a
        console, a server that logs in) keep their place among the queries until they
        have taken too long: what a console has done first is seen to be first.
        """
        cdef int i, talks = 0
        cdef list stopped = None
        self.talks_until = self.now + TALKS_US
        for i in range(count):
            if self.serve_event(i, False):
                self.events[talks] = self.events[i]
                talks += 1
        if self.turns:
            stopped = self.turns        # not those who stop in this round
            self.turns = []
        elif talks == 0:
            return 0
        self.talks_until = monotonic_us() + TALKS_US
        for i in range(talks):
            self.serve_event(i, True)
            if monotonic_us() > self.talks_until:
                break
        if stopped is not None:
            self.serve_turns(stopped)
        return 0

    @nonecheck(False)
    cdef bint serve_event(self, int i, bint talks_too) except -1:
        """Hand event *i* to its stream; true when it is a talk's and was left out."""
        cdef uint64_t word = self.events[i].data.u64
        cdef Slot* slot = &self.slots[<uint32_t>word]
        cdef Stream stream
        if slot.stream == NULL or slot.generation != <uint32_t>(word >> 32):
            return False
        stream = <Stream>slot.stream
        if not talks_too and (stream.specials or (
                stream.talk is not None and monotonic_us() > self.talks_until)):
            return True
        try:
            stream.on_events(self.events[i].events)
        except Exception as error:
            self.crashed(stream, error)
        return False

    # Called by the event loop

    def dispatch(self):
        """Serve ready sockets until none is left or the budget is spent."""
        cdef int count
        cdef int64_t begun = monotonic_us()
        self.now = begun
        self.busy = True
        self.rung = False
        try:
            while True:
                count = self.wait()
                if count <= 0:
                    if not (self.turns or self.later or self.unsent):
                        break
                    count = 0
                self.rounds += 1
                self.serve(count)
                if self.unsent or self.later:
                    self.flush_all()
                self.now = monotonic_us()
                if self.now - begun > self.budget_us:
                    break
        finally:
            self.busy = False       # or nobody would ever flush again
        if self.turns or self.later or self.unsent:
            self.ring()
        if self.now - begun > self.longest_us:
            self.longest_us = self.now - begun
        if self.unwritten:
            self.after()

    def settle(self):
        """Flush after work that did not start in `dispatch` (timers, coroutines)."""
        if self.busy:
            return              # dispatch does it at the end of its round
        self.flush_all()
        if self.turns or self.later or self.unsent:
            self.ring()
        if self.unwritten:
            self.after()

    def tick(self):
        """Read the clock; timers call it before they look at ages."""
        if not self.busy:
            self.now = monotonic_us()
        return self.now

    cpdef int put_off(self, call) except -1:
        """Run *call* at the end of the round, outside any stream's handler."""
        self.later.append(call)
        if not self.busy:
            self.ring()
        return 0

    def take_longest(self):
        """Longest dispatch in microseconds since the last call."""
        longest, self.longest_us = self.longest_us, 0
        return longest

    @staticmethod
    def wall_clock():
        """Microseconds since 1970."""
        return wall_us()

    @staticmethod
    def clock():
        """Monotonic microseconds, the scale of every time in the relay."""
        return monotonic_us()
