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

import ipaddress
import os
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any, Final

from bouncer import log
from bouncer.app import Bouncer
from bouncer.carry import put_shared
from bouncer.config.settings import Settings
from bouncer.errors import Disconnect, StartError
from bouncer.listener import Listener, unix_socket_name, unix_socket_path
from bouncer.pool.hosts import Address
from bouncer.pool.pools import ServerPool
from bouncer.pool.registry import CONSOLE, DatabaseState, UserState
from bouncer.process import (
    await_no_pidfile,
    refuse_strangers_pidfile,
    somebody_answers,
)
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
from bouncer.relay.tracked import from_dict
from bouncer.service import passed_fds
from bouncer.talks.client_login import ASK_ELSEWHERE
from bouncer.talks.takeover import OldProcess, Row, not_understood

# What we take a server's parameter for whose value the old process did not tell:
# equal to no client's, so that it is set before the server is used.
UNKNOWN: Final = "(unknown)"
# Shifts the seconds of the clock above every number of a statement that an older
# process may have left prepared in a server.
STATEMENT_ROOM: Final = 1 << 24
CREDENTIALS: Final = struct.Struct("3i")
MOST_IDS: Final = 1 << 62
# Values of server_tls_sslmode with which a server may have no TLS.
PLAIN_ALLOWED: Final = ("disable", "allow", "prefer")


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
    if settings.pidfile:
        refuse_strangers_pidfile(settings.pidfile)
    log.info("takeover_init: launching connection")
    old = OldProcess(path, settings.listen_port)
    try:
        old.login()
        old.refuse_unable()
        old.suspend()
        adoption = Adoption(app, old, path)
        try:
            adoption.take(old.fetch())
        except (ValueError, OverflowError, RecursionError) as err:
            raise not_understood(err) from None
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
            self.check(row)
        check_links(rows)
        check_ids(rows)
        try:
            learn_statements(pair for row in rows for pair in statements_of(row.state))
            self.place_all(rows)
        finally:
            statements_learnt()
        log.info("SHOW FDS finished")

    def place_all(self, rows: Sequence[Row]) -> None:
        """Put the sockets of rows in their places, partners together."""
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
        check_socket(row)
        if row.task == "pooler" or (row.task == "client" and row.user is None):
            return
        if row.user is None or row.database is None:
            raise StartError(f"takeover: a {row.task} without user or database")
        if row.database == CONSOLE:
            raise StartError(f"takeover: a {row.task} of the console")
        if self.app.registry.find_database(row.database) is None:
            text = f'takeover: no such database: "{row.database}", nothing taken over'
            raise StartError(text)

    def database_of(self, row: Row) -> DatabaseState:
        """Return the database of a row that has been checked."""
        assert row.database is not None
        database = self.app.registry.find_database(row.database)
        assert database is not None
        return database

    def is_of_the_file(self, name: str) -> bool:
        """Say whether a login of *name* would be decided by auth_file, in any case."""
        found = self.app.registry.users.get(name)
        known = found is not None and found.in_auth_file
        return known and self.app.settings.auth_type not in (*ASK_ELSEWHERE, "hba")

    def user_of(self, row: Row) -> UserState:
        """Return who a row's user is: as at a login, the table's or a learnt one.

        With a password he was learnt by the old process (auth_query, PAM, LDAP); not if
        auth_file decides here. And a forced user is never learnt: what a real PgBouncer
        gives with his servers is the password of the entry.
        """
        registry = self.app.registry
        database = self.database_of(row)
        assert row.user is not None
        forced = row.task == "server" and row.user == database.config.user
        if row.password is None or forced or self.is_of_the_file(row.user):
            return registry.user(row.user)
        return registry.learn_user(database, row.user, row.password)

    def learn_keys(self, pool: ServerPool, user: UserState, row: Row) -> None:
        """Keep the SCRAM keys of a row where they fit.

        They are meant for the pool's secret; a real PgBouncer gives there those of
        whoever has logged in last.
        """
        if row.scram_keys is not None:
            user.learn_keys(row.scram_keys)
            pool.learn_keys(row.scram_keys)

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
        database, user = self.database_of(row), self.user_of(row)
        pool = self.app.registry.login_pool(database, user)
        client.user, client.user_state = row.user, user
        client.database, client.pool = database, pool
        client.cancel_key = row.cancel.to_bytes(8, "big")
        client.tracked = from_dict(row.tracked)
        if row.state:
            restore_client(client, row.state)
            put_shared(client, user, row.state)
        if client.at_login is not None and pool.defaults is not None:
            pool.follow(client.at_login)
        self.learn_keys(pool, user, row)
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
        # The pool of the role that it has, be another one forced by now or not.
        database = self.database_of(row)
        pool = self.app.registry.pool(database, self.user_of(row).name)
        server = Server(self.app.poller, row.fd, self.app, pool)
        set_peer(server, row)
        server.login = pool.user
        server.address = address_of(row)
        server.address_text = server.address.text
        server.host = database.config.host
        server.cancel_key = row.cancel.to_bytes(8, "big")
        server.backend_pid = row.cancel >> 32
        unknown = {} if row.state else {"application_name": UNKNOWN}
        server.tracked = from_dict(unknown | row.tracked)
        if row.state:
            put_shared(server, pool.user, row.state)
        self.learn_keys(pool, pool.user, row)
        database.server_count += 1
        pool.user.account.server_count += 1
        return server

    def place(self, row: Row) -> None:
        """Make a server idle, or link it to the client that it was linked to."""
        server = self.servers[row.number]
        client = self.clients.get(row.link)
        # What is handed over has no TLS; our file may ask for it by now.
        mode = self.app.settings.server_tls_sslmode
        must_go = mode not in PLAIN_ALLOWED and not server.is_unix
        server.close_needed = must_go
        if client is None:
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
        if must_go:
            server.close_needed = server.pool.flagged = True


def check_links(rows: Sequence[Row]) -> None:
    """Refuse rows that are not pairs of a client and a server, or single ones."""
    by_number = {row.number: row for row in rows}
    if len(by_number) != len(rows):
        raise StartError("takeover: two rows of one descriptor, nothing taken over")
    for row in rows:
        if not row.link:
            continue
        partner = by_number.get(row.link)
        if (
            partner is None
            or partner.link != row.number
            or {row.task, partner.task} != {"client", "server"}
            or row.database != partner.database
            or (row.user is None or partner.user is None)
        ):
            text = f"takeover: a {row.task} whose partner is not there"
            raise StartError(f"{text}, nothing taken over")


def check_ids(rows: Sequence[Row]) -> None:
    """Refuse numbers of the console that name two connections, or none."""
    ids = [row.state["id"] for row in rows if "id" in row.state]
    if not all(type(one) is int and 0 < one < MOST_IDS for one in ids):
        raise ValueError("id: no number")
    if len(set(ids)) != len(ids):
        raise ValueError("id: of two connections")


def check_socket(row: Row) -> None:
    """Refuse a descriptor that is not what its row says."""
    try:
        with socket.socket(fileno=os.dup(row.fd)) as sock:
            listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            fits = (
                sock.type == socket.SOCK_STREAM
                and sock.family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
                and bool(listens) == (row.task == "pooler")
            )
    except OSError:
        fits = False
    if not fits:
        raise StartError(f"takeover: not the socket of a {row.task}")


def set_peer(stream: Any, row: Row) -> None:
    """Give *stream* the peer's address, which it did not learn by accept()."""
    with socket.socket(fileno=os.dup(row.fd)) as sock:
        if sock.family != socket.AF_UNIX:
            try:
                host, port = sock.getpeername()[:2]
            except OSError:
                # Reset meanwhile; reading will tell. The old process knows who it was.
                host, port = address_of(row).host, row.port
            stream.set_peer(host.partition("%")[0], port)
            return
        stream.note_unix(row.port)
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        stream.peer_pid, stream.peer_uid, _ = CREDENTIALS.unpack(raw)


def address_of(row: Row) -> Address:
    """Return where a connection leads; ValueError: nowhere."""
    if row.host == "unix":
        return Address(socket.AF_UNIX, "unix", row.port)
    ipaddress.ip_address(row.host)
    family = socket.AF_INET6 if ":" in row.host else socket.AF_INET
    return Address(family, row.host, row.port)
