"""Make server connections: host, address, socket, then the login talk.

Nothing here waits: an address that must be asked of DNS, a connect that the
kernel has not finished and the login itself all come back as calls.
"""

from __future__ import annotations

import asyncio
import errno
import os
from typing import Any

from bouncer import log
from bouncer.errors import Disconnect, LoginFailed
from bouncer.pool import failures
from bouncer.pool.hosts import Address, LookupFailed
from bouncer.pool.keeper import Keeper, connect_nonblocking, known_parameters
from bouncer.relay.tracked import from_dict, named_values
from bouncer.talks.server_login import server_login
from bouncer.wire.messages import decode_text

# What connect() fails with when it is we who lack something.
OUT_OF_MEANS = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
)
REPLICATION = {1: "database", 2: "yes"}  # value of the startup parameter


class Connector:
    """Opens what the keeper wants opened."""

    def __init__(self, app: Any, keeper: Keeper) -> None:
        self.app = app
        self.keeper = keeper

    # The way to a socket

    def connect(self, server: Any) -> None:
        """Begin to connect *server* to the database of its pool."""
        config = server.peer.config if server.peer else server.pool.database.config
        server.host = host = self.keeper.attempts[server].target.host
        server.address_text = "(bad-af):0"

        def choose(usual: tuple[str, ...], others: tuple[str, ...]) -> str:
            return self.choose(server, usual, others)

        try:
            found = self.app.hosts.resolve(host, config.port, choose)
        except LookupFailed as problem:
            why = str(problem)
            self.app.poller.put_off(lambda: self.no_address(server, host, why))
            return
        if isinstance(found, Address):
            self.connect_to(server, found)
        else:
            found.add_done_callback(lambda future: self.resolved(server, host, future))

    def choose(
        self, server: Any, usual: tuple[str, ...], others: tuple[str, ...]
    ) -> str:
        """Take one of a name's addresses; *usual* ones are there."""
        attempt = self.keeper.attempts.get(server)
        if attempt is None:
            return usual[0]  # it has been closed meanwhile
        ranks = self.keeper.ranks(server.pool)
        return attempt.targets.place(attempt, usual, others, ranks)

    def resolved(self, server: Any, host: str, future: asyncio.Future[Address]) -> None:
        self.app.poller.tick()
        if server.closed or future.cancelled():
            return
        if future.exception() is not None:
            self.no_address(server, host, str(future.exception()))
        else:
            self.connect_to(server, future.result())
        self.app.poller.settle()

    def no_address(self, server: Any, host: str, why: str) -> None:
        if server.closed:
            return
        attempt = self.keeper.attempts.get(server)
        if attempt is not None:
            attempt.targets.has_no_address(attempt)
        self.keeper.attempt_failed(server, "server DNS lookup failed", error=why)
        if not host and not self.app.settings.unix_socket_dir:
            log.error(f"unix socket dir not configured: {server.pool.database_name}")
            server.disconnect("cannot connect", False, False)
        else:
            server.disconnect("server DNS lookup failed", False, False)

    def connect_to(self, server: Any, address: Address) -> None:
        server.address = address
        server.address_text = address.text

        def prepare(fd: int) -> None:
            if fd >= self.app.door.most_fd:
                # What is left is kept for the console, health ports and the log.
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            if address.family != 1:
                self.app.tune_server(fd)

        try:
            sock, connected = connect_nonblocking(
                address.family, address.sockaddr, prepare
            )
        except (OSError, OverflowError) as error:
            # OverflowError: a port that is none.
            reason = getattr(error, "strerror", None) or error
            log.warning(f"sbuf_connect failed to connect to {where(address)}: {reason}")
            number = getattr(error, "errno", None) or 0
            if number in OUT_OF_MEANS:
                self.app.poller.put_off(lambda: self.out_of_means(server, number))
            else:
                self.app.poller.put_off(lambda: self.failed(server, number))
            return
        if address.family != 1:
            server.set_peer(address.host.partition("%")[0], address.port)
        else:
            server.note_unix(address.port)
        server.attach(sock.detach())
        server.watch(connected)
        if connected:
            self.app.poller.put_off(lambda: self.connected_at_once(server))

    def connected_at_once(self, server: Any) -> None:
        if not server.closed:
            server.talk_phase()
            self.connected(server, 0)

    def connected(self, server: Any, error: int) -> None:
        """The kernel has connected, or has given up."""
        if server.closed:
            return
        if error:
            if log.verbosity:
                log.debug(f"{server.prefix} connect failed: {os.strerror(error)}")
            self.failed(server, error)
            return
        if self.app.settings.log_connections:
            if server.is_unix:
                log.info(f"{server.prefix} new connection to server")
            else:
                local = server.local_name()
                log.info(
                    f"{server.prefix} new connection to server "
                    f"(from {shown(local[0], local[1])})"
                )
        if self.app.cancels.use_connection(server):
            return
        if server.pool.blocked and self.app.global_mode != "suspend":
            # It was left in a pause for a cancel, which has found another way.
            self.keeper.not_needed(server, "pause mode")
            return
        if self.keeper.is_surplus(server):
            self.keeper.not_needed(server, "cancel connection was not needed")
            return
        version = self.app.limits.own("proxy_protocol_send", server.pool)
        if version and self.app.proxy is not None:
            self.announce(server, version)
        server.begin_talk(server_login(server, self.app))

    def announce(self, server: Any, version: int) -> None:
        """Tell the next pooler for whom the connection is (PROXY protocol 1 or 2).

        Only in session pooling is it for one client; it is then not used for
        another. Elsewhere the header says that it is our own.
        """
        proxy, pool = self.app.proxy, server.pool
        first = pool.waiting.first
        if pool.mode == 0 and first is not None and not first.is_unix:
            local = first.local_name()
            build = proxy.build_v1 if version == 1 else proxy.build_v2
            header = build(first.peer_address, first.peer_port, local[0], local[1])
            server.close_needed = True
        else:
            header = proxy.UNKNOWN_V1 if version == 1 else proxy.build_v2_local()
        server.write(header)

    def failed(self, server: Any, number: int) -> None:
        if not server.closed:
            self.keeper.attempt_failed(
                server,
                "connect failed",
                error=os.strerror(number) if number else "",
                code=failures.named(number),
            )
            server.disconnect("connect failed", False, False)

    def out_of_means(self, server: Any, number: int) -> None:
        if not server.closed:
            self.keeper.out_of_means(server, number)

    # The login

    def startup_params(self, server: Any) -> list[tuple[str, str]]:
        """What the startup packet says, in the order of server sheet 2.1."""
        config = server.pool.database.config
        params = [("database", config.dbname)]
        for name in ("client_encoding", "datestyle", "timezone", "application_name"):
            value = getattr(config, name)
            if value:
                params.append((name, value))
        client = server.client
        if server.replication and client is not None:
            params.append(("replication", REPLICATION[server.replication]))
            given = client.tracked or from_dict(client.startup_params or {})
            params += [
                (decode_text(name), decode_text(value))
                for name, value in named_values(given)
            ]
            if client.startup_options:
                params.append(("options", client.startup_options))
        params.append(("user", server.pool.user_name))
        return params

    def logged_in(self, server: Any, login: Any) -> None:
        """The login talk is over."""
        pool = server.pool
        server.cancel_key = login.cancel_key
        server.backend_pid = int.from_bytes(login.cancel_key[:4], "big")
        server.tracked = server.at_login = known_parameters(login.parameters)
        if not server.replication or pool.welcome is None:
            pool.take_welcome(login.parameters)
        self.keeper.connected(server)

    def login_failed(self, server: Any, problem: Exception) -> None:
        if isinstance(problem, LoginFailed):
            self.keeper.login_failed(server, problem)
        elif isinstance(problem, Disconnect):
            self.keeper.attempt_failed(server, problem.reason, error=problem.detail)
            server.disconnect(
                None if problem.silent else problem.reason, problem.notify, False
            )


def shown(host: str, port: int) -> str:
    """An address and port as log lines show them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def where(address: Address) -> str:
    """How the original names an address that connect() refused at once."""
    return f"unix:{address.path}" if address.path else address.text
