"""A relay without a process: real Poller, Pool, Client and Server over socketpairs.

Everything happens in the thread of the test and only when it calls `turn`, so that
each test decides what the relay sees, in which order, and in which pieces. The
policy is a stand-in that opens servers up to a size; who is at the far end of a
server's socket is the test's (often `backend.Backend`, a model of PostgreSQL).
"""

import contextlib
import socket
from collections.abc import Callable
from typing import Any

from bouncer.errors import Disconnect
from bouncer.relay import stream as relay_stream
from bouncer.relay.client import Client
from bouncer.relay.door import Door
from bouncer.relay.poller import Poller
from bouncer.relay.pool import Pool
from bouncer.relay.server import Server
from bouncer.relay.tracked import from_dict
from tests.relay import frames
from tests.relay.backend import Backend

SESSION, TRANSACTION, STATEMENT = 0, 1, 2
WAIT_QUERY = 0
DEFAULTS = {
    "DateStyle": "ISO, MDY",
    "client_encoding": "UTF8",
    "TimeZone": "Etc/UTC",
    "standard_conforming_strings": "on",
    "application_name": "",
    "IntervalStyle": "postgres",
}


def pair(sndbuf: int = 0) -> tuple[int, socket.socket]:
    """The relay's descriptor and the test's socket of one connection."""
    ours, theirs = socket.socketpair()
    if sndbuf:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, sndbuf)
    ours.setblocking(False)
    return ours.detach(), theirs


class End:
    """The far end of one connection of the relay."""

    def __init__(self, sock: socket.socket, turn: Callable[[], None]) -> None:
        self.sock, self.turn = sock, turn
        sock.setblocking(False)
        self.got = b""  # everything received so far
        self.ended = False  # the relay has closed
        self.unsent = b""
        self.reading = True

    def send(self, *data: bytes) -> None:
        """Send in one write and let the relay work."""
        self.queue(b"".join(data))
        self.turn()

    def drip(self, *data: bytes) -> None:
        """Send byte by byte, each seen by the relay alone."""
        for byte in b"".join(data):
            self.send(bytes([byte]))

    def queue(self, data: bytes) -> None:
        self.unsent += data
        self.push()

    def push(self) -> None:
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionError):
            while self.unsent:
                self.unsent = self.unsent[self.sock.send(self.unsent) :]

    def pull(self) -> None:
        """Take what has come; the relay is not run."""
        if self.sock.fileno() < 0:
            return
        try:
            while self.reading and (data := self.sock.recv(1 << 20)):
                self.got += data
            if self.reading:
                self.ended = True
        except BlockingIOError:
            pass
        except ConnectionError:
            self.ended = True

    def take(self) -> bytes:
        """What came since the last `take`, until nothing more comes."""
        before = -1
        while before != len(self.got):
            before = len(self.got)
            self.turn()
            self.pull()
        data, self.got = self.got, b""
        return data

    def codes(self) -> str:
        """The types of the messages that came since the last look."""
        return frames.codes(self.take())

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)
        self.turn()

    def close(self) -> None:
        self.sock.close()
        self.turn()


class ClientEnd(End):
    """The application's side of a client connection."""

    def __init__(self, sock: socket.socket, turn: Any, client: Client) -> None:
        super().__init__(sock, turn)
        self.client = client

    def ask(self, *data: bytes) -> bytes:
        """Send and return everything that comes back now."""
        self.send(*data)
        return self.take()


class ServerEnd(End):
    """PostgreSQL's side of a server connection."""

    def __init__(self, sock: socket.socket, turn: Any, server: Server) -> None:
        super().__init__(sock, turn)
        self.server = server
        self.backend: Backend | None = None

    def answer(self, text: str, status: str = "I") -> None:
        """Send one row and ReadyForQuery."""
        self.send(
            frames.row_description("answer"),
            frames.data_row(text.encode()),
            frames.complete("SELECT 1"),
            frames.ready(status),
        )


class Keeper:
    """Opens servers while somebody waits and the pool has room."""

    def __init__(self, relay: "Relay") -> None:
        self.relay = relay

    def may_wait(self, pool: Pool, client: Client) -> bool:
        return True

    def wants_server(self, pool: Pool) -> None:
        pool.activate()
        if pool.waiting.first is not None and len(pool.used):
            pool.check(pool.used.first)
        elif pool.waiting.first is not None and pool.server_count < self.relay.size:
            self.relay.wanted += 1
            if self.relay.opens_at_once:
                self.relay.open_wanted()

    def departed(self, pool: Pool) -> None:
        """As many as there are may wait on here."""

    def lifetime_over(self, pool: Pool, server: Server) -> bool:
        return True

    def idle_while_blocked(self, pool: Pool, server: Server) -> None:
        """A pause of the tests closes nothing."""

    def told_to_go(self, server: Server) -> None:
        """PostgreSQL ends the session: its end follows."""

    def reached(self, server: Server) -> None:
        """Nothing is noted of attempts here."""

    def special_waiter(self, pool: Pool, client: Client, server: Server) -> None:
        raise AssertionError("no such waiters here")


class Relay:
    """One poller and one pool, and whatever a test connects to them.

    *size* is the pool's; *opens_at_once* says whether a wanted server is there
    immediately, or when the test calls `open_wanted`. *welcome* makes the far end
    of a new server.
    """

    listen_port = 6432
    client_tls = None
    server_sndbuf = 0  # what the kernel takes for a server; 0: as usual

    def __init__(
        self,
        mode: int = TRANSACTION,
        size: int = 1,
        prepared: int = 200,
        opens_at_once: bool = True,
    ) -> None:
        self.alive_before = relay_stream.alive()
        self.size, self.opens_at_once, self.wanted = size, opens_at_once, 0
        self.poller = Poller()
        self.door = Door(self)
        self.poller.crashed = self.crashed
        self.problems: list[Exception] = []
        self.keeper = Keeper(self)
        self.pool = Pool(self.poller, self.keeper, "db", "user")
        self.pool.mode = mode
        self.pool.max_prepared = prepared
        self.clients: list[ClientEnd] = []
        self.servers: list[ServerEnd] = []
        self.reasons: list[str] = []  # of closed servers, in order
        self.on_open: Callable[[ServerEnd], None] = lambda end: None
        self.on_turn: Callable[[], None] = lambda: None
        self.cancels = self
        self.given: dict[str, str] = {}

    # Connections

    def client(self, sndbuf: int = 0, **given: str) -> ClientEnd:
        """A client that has logged in; *given* are values of tracked parameters."""
        ours, theirs = pair(sndbuf)
        client = Client(self.poller, ours, self, None)
        client.user, client.pool = "user", self.pool
        client.tracked = client.at_login = from_dict({**DEFAULTS, **given})
        client.watch()
        end = ClientEnd(theirs, self.turn, client)
        self.clients.append(end)
        return end

    def server(self, sndbuf: int = 0) -> ServerEnd:
        """A server that has logged in and joins the pool."""
        ours, theirs = pair(sndbuf or self.server_sndbuf)
        server = Server(self.poller, ours, self, self.pool)
        server.address_text = "fake"
        server.tracked = server.at_login = from_dict(DEFAULTS)
        server.watch(True)
        server.relay_phase()
        self.pool.push_login(server)
        end = ServerEnd(theirs, self.turn, server)
        self.servers.append(end)
        self.on_open(end)
        self.pool.login_done(server)
        return end

    def open_wanted(self) -> None:
        """Open what the policy wanted."""
        while self.wanted:
            self.wanted -= 1
            if self.pool.waiting.first and self.pool.server_count < self.size:
                self.server()

    # Running

    def turn(self) -> None:
        """Let the relay work until nothing is left to do."""
        for _ in range(1000):
            before = self.poller.rounds
            self.poller.dispatch()
            self.poller.settle()
            self.on_turn()
            for end in (*self.clients, *self.servers):
                if end.unsent and end.sock.fileno() >= 0:
                    end.push()
            if self.poller.rounds == before:
                break
        assert not self.problems, self.problems

    def close(self) -> None:
        """End everything; every stream made must have been freed."""
        for end in (*self.clients, *self.servers):
            end.sock.close()
        self.turn()
        for end in self.clients:
            if end.client.state_name == "waiting":  # nobody reads it, so nobody knows
                end.client.disconnect("not waited for", False)
        self.turn()
        for end in self.clients:
            assert end.client.closed
        for end in self.servers:
            assert end.server.closed
        assert self.pool.server_count == 0
        assert self.pool.client_count == 0
        self.clients.clear()
        self.servers.clear()
        # These name this object, and it them.
        self.on_open = self.on_turn = lambda *_: None
        self.poller.crashed = None

    # What the relay calls

    def begin_login(self, client: Client, first_byte: int) -> None:
        client.welcome_done()
        self.pool.push_client(client)

    def proxy_header(self, client: Client, data: bytes) -> int:
        return -1

    def client_gone(self, client: Client) -> None:
        """No cancel requests, no replication here."""

    def server_gone(self, server: Server, reason: str) -> None:
        self.reasons.append(reason)
        if self.pool.waiting.first is not None:
            self.poller.put_off(lambda: self.keeper.wants_server(self.pool))

    def server_talk_over(self, server: Server, value: Any) -> None:
        raise AssertionError(value)

    def server_talk_failed(self, server: Server, problem: Disconnect) -> None:
        raise AssertionError(problem)

    def finished(self, server: Server) -> None:
        raise AssertionError("no cancels here")

    def crashed(self, stream: Any, problem: Exception) -> None:
        self.problems.append(problem)


def give_backends(relay: "Relay", make: type[Backend] = Backend) -> "Relay":
    """Let a model of PostgreSQL answer at the far end of every server of *relay*."""

    def opened(end: ServerEnd) -> None:
        end.backend = make(DEFAULTS)

    def answer() -> None:
        for end in relay.servers:
            if end.sock.fileno() < 0:
                continue
            end.pull()
            data, end.got = end.got, b""
            end.backend.receive(data)
            out, end.backend.out = end.backend.out, b""
            end.queue(out)
            if end.backend.ended and not end.unsent:
                end.sock.close()

    relay.on_open, relay.on_turn = opened, answer
    return relay
