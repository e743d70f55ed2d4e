"""Online restart (-R): take listeners, clients and servers over from a process.

Part one (`begin`) runs before the fork: the old process stands still and hands its
sockets over; everything is put in its place here, but nothing is read. A row that
we could not serve ends it: the old process goes on as if nothing had been. Part
two (`finish`) lets the old process end, and only then does anybody move.

The one hard idea: a real PgBouncer's rows say little about a connection that is in
use. A linked pair goes on as a pair, with the client's parameters taken for the
server's, so that nothing of ours comes between a query and its answer; before its
server is shared it is asked whether an answer is due that nobody counted. An idle
server is as good as any: PgBouncer has waited until nothing was owed. A process of
ours tells everything (`bouncer.carry`), and everything is taken up where it stopped.
"""

import os
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any, Final

from bouncer import log
from bouncer.app import Bouncer
from bouncer.config.settings import Settings
from bouncer.errors import Disconnect, StartError
from bouncer.listener import Listener, unix_socket_name, unix_socket_path
from bouncer.pool.hosts import Address
from bouncer.pool.registry import DatabaseState, UserState
from bouncer.process import await_no_pidfile, somebody_answers
from bouncer.relay.carried import (
    learn_statements,
    owes_unknown,
    restore_client,
    restore_server,
    statements_learnt,
    statements_of,
)
from bouncer.relay.client import Client
from bouncer.relay.server import Server
from bouncer.relay.statements import number_from
from bouncer.relay.stream import count_from
from bouncer.relay.tracked import from_dict, unasked_values
from bouncer.service import passed_fds
from bouncer.talks.takeover import OldProcess, Row

# What we take a server's parameter for whose value the old process did not tell:
# equal to no client's, so that it is set before the server is used.
UNKNOWN: Final = "(unknown)"
# Shifts the seconds of the clock above every number of a statement that an older
# process may have left prepared in a server.
STATEMENT_ROOM: Final = 1 << 24
CREDENTIALS: Final = struct.Struct("3i")


def begin(app: Bouncer) -> "Adoption | None":
    """Take everything over as far as there is a way back; None if nobody runs."""
    settings = app.settings
    log.warning("Online restart is deprecated, use so_reuseport instead")
    path = unix_socket_path(settings)
    if not path or not somebody_answers(unix_socket_name(path)):
        log.info("old process not found, try to continue normally")
        return None
    if path.startswith("@"):
        raise StartError("cannot reboot with abstract Unix socket")
    if passed_fds():
        raise StartError("cannot reboot under service manager")
    log.info("takeover_init: launching connection")
    old = OldProcess(path, settings.listen_port)
    try:
        old.login()
        old.suspend()
        adoption = Adoption(app, old, path)
        adoption.take(old.fetch())
    except BaseException:
        old.close()
        raise
    log.info("disko over, going background")
    return adoption


class Adoption:
    """What was taken over, and the way to the process that gave it."""

    def __init__(self, app: Bouncer, old: OldProcess, path: str) -> None:
        self.app = app
        self.old = old
        self.path = path
        self.listeners: list[Listener] = []
        self.clients: dict[int, Any] = {}
        self.servers: dict[int, Any] = {}

    def take(self, rows: Sequence[Row]) -> None:
        """Put everything in its place; nothing is read yet."""
        for row in rows:
            if row.task in ("client", "server"):
                self.check(row)
        learn_statements(pair for row in rows for pair in statements_of(row.state))
        number_from(int(time.time()) * STATEMENT_ROOM)
        count_from(max((row.state.get("id", 0) for row in rows), default=0))
        for row in rows:
            if row.task == "pooler":
                self.take_listener(row)
            elif row.task == "client":
                self.clients[row.number] = self.take_client(row)
            elif row.task == "server":
                self.servers[row.number] = self.take_server(row)
        for row in rows:
            if row.task == "server":
                self.place(row)
        statements_learnt()
        log.info("SHOW FDS finished")

    def finish(self, settings: Settings) -> None:
        """Let the old process end. The listeners are ours alone from then on."""
        self.old.shutdown()
        if settings.pidfile:
            await_no_pidfile(settings.pidfile)
        log.info("old process killed, resuming work")

    def read(self) -> None:
        """Begin to read what was taken over."""
        for stream in (*self.servers.values(), *self.clients.values()):
            if not stream.closed:
                if isinstance(stream, Server):
                    stream.watch(True)
                else:
                    stream.watch()

    # Rows

    def check(self, row: Row) -> None:
        """Refuse a row that would leave its connection without a pool."""
        if row.user is None and row.task == "client":
            return
        if row.user is None or row.database is None:
            raise StartError(f"takeover: a {row.task} without user or database")
        if self.app.registry.find_database(row.database) is None:
            text = f'takeover: no such database: "{row.database}", nothing taken over'
            raise StartError(text)

    def place_of(self, row: Row) -> tuple[DatabaseState, UserState, Any]:
        """Return database, user and pool of a row that has been checked."""
        registry = self.app.registry
        assert row.database is not None and row.user is not None
        database = registry.find_database(row.database)
        assert database is not None
        if row.password is not None:
            user = registry.learn_user(database, row.user, row.password)
        else:
            user = registry.user(row.user)
        pool = registry.pool(database, database.config.user or row.user, user)
        if row.scram_keys is not None:
            pool.scram_keys = row.scram_keys
        return database, user, pool

    def take_listener(self, row: Row) -> None:
        sock = socket.socket(fileno=row.fd)
        if sock.family == socket.AF_UNIX:
            text = f"unix:{row.port}"
            path = self.path
        else:
            text = (
                f"[{row.host}]:{row.port}"
                if ":" in row.host
                else (f"{row.host}:{row.port}")
            )
            path = ""
        log.info(f"got pooler socket: {text}")
        self.listeners.append(Listener(sock, text, row.host, row.port, path))

    def take_client(self, row: Row) -> Any:
        client = Client(self.app.poller, row.fd, self.app, None)
        set_peer(client, row)
        self.app.door.accepted(client)
        if row.user is None:
            # It has connected and said nothing yet: an ordinary new client.
            return client
        database, user, pool = self.place_of(row)
        client.user, client.user_state = row.user, user
        client.database, client.pool = database, pool
        client.cancel_key = row.cancel.to_bytes(8, "big")
        client.tracked = from_dict(row.state.get("tracked") or row.tracked)
        if row.state:
            restore_client(client, row.state)
        try:
            # As an admin, since no limit may cost a client its connection now.
            self.app.limits.admit_client(client, database, user, True)
        except Disconnect:
            raise AssertionError from None
        if self.app.settings.log_connections:
            log.info(
                f"{client.prefix} login attempt: db={database.name} user={row.user} "
                "tls=no replication=no"
            )
        self.app.login_over(client, None)
        return client

    def take_server(self, row: Row) -> Any:
        database, _, pool = self.place_of(row)
        server = Server(self.app.poller, row.fd, self.app, pool)
        set_peer(server, row)
        server.login = pool.user
        server.address = address_of(row)
        server.address_text = server.address.text
        server.host = database.config.host
        server.cancel_key = row.cancel.to_bytes(8, "big")
        server.backend_pid = row.cancel >> 32
        if row.state:
            server.tracked = from_dict(row.state["tracked"])
            server.unasked = unasked_values(row.state.get("unasked", {}).items())
            restore_pool(pool, row.state["pool"])
        else:
            unknown = {"application_name": UNKNOWN}
            server.tracked = from_dict(unknown | row.tracked)
        database.server_count += 1
        pool.user.account.server_count += 1
        return server

    def place(self, row: Row) -> None:
        """Make a server idle, or link it to the client that it was linked to."""
        server = self.servers[row.number]
        client = self.clients.get(row.link)
        if client is None or client.pool is not server.pool:
            server.pool.login_done(server)
        else:
            # The same object: the server must not be asked to change anything now.
            tracked, server.tracked = server.tracked, client.tracked
            server.relay_phase()
            server.pool.link_pair(client, server)
            if row.state:
                server.tracked = tracked
            else:
                owes_unknown(server)
        if row.state:
            restore_server(server, row.state)


def restore_pool(pool: Any, state: dict[str, Any]) -> None:
    """Let new clients of *pool* be told what they would have been told before."""
    if pool.welcome is None and state["welcome"] is not None:
        pool.welcome = state["welcome"].encode("latin-1")
        pool.defaults = from_dict(state["defaults"])
    pool.database.disabled = state["disabled"]


def set_peer(stream: Any, row: Row) -> None:
    """Give *stream* the peer's address, which it did not learn by accept()."""
    with socket.socket(fileno=os.dup(row.fd)) as sock:
        if sock.family != socket.AF_UNIX:
            host, port = sock.getpeername()[:2]
            stream.set_peer(host.partition("%")[0], port)
            return
        stream.note_unix(row.port)
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        stream.peer_pid, stream.peer_uid, _ = CREDENTIALS.unpack(raw)


def address_of(row: Row) -> Address:
    """Return where a server connection leads."""
    if row.host == "unix":
        return Address(socket.AF_UNIX, "unix", row.port)
    family = socket.AF_INET6 if ":" in row.host else socket.AF_INET
    return Address(family, row.host, row.port)
