"""Cancel requests: find who is meant, carry the request to the server, wait.

A request needs a connection of its own. While one is in flight the server it is
for is given to nobody else: a cancel that comes late must not hit the next
client's query (design D5). With peers a key names the process, too.
"""

from __future__ import annotations

from typing import Any

from bouncer import log
from bouncer.config.settings import Database
from bouncer.pool.keeper import Keeper
from bouncer.pool.registry import DatabaseState, PeerState, UserState
from bouncer.wire.messages import cancel_request

TTL_BITS = 3  # low bits of the key's last byte: how often it may still be passed on
SENT = "successfully sent cancel request"
GAVE_UP = "client gave up on cancel request, so we also give up forwarding to server"
NOT_NEEDED = (
    "peer server was not necessary anymore, because client cancel connection "
    "was already closed"
)


def new_key(random: bytes, peer_id: int) -> bytes:
    """A client's cancel key (client sheet 6.4) from 8 random bytes."""
    if peer_id <= 0:
        return bytes((random[0] & 0x7F,)) + random[1:]
    key = bytearray(random)
    key[0] &= 0x7F
    key[1] = peer_id & 0xFF
    key[2] = (peer_id >> 8) & 0xFF
    key[7] |= TTL_BITS
    return bytes(key)


class Cancels:
    """All cancel requests of the process."""

    def __init__(self, app: Any, keeper: Keeper) -> None:
        self.app = app
        self.keeper = keeper
        # Of a client that brought a request: (target client or None, key)
        self.asked: dict[Any, tuple[Any, bytes]] = {}
        self.carrying: dict[Any, Any] = {}  # server connection -> server to cancel
        # Server that answers a query of ours -> clients whose requests wait for that
        self.kept: dict[Any, list[Any]] = {}

    def request(self, client: Any, key: bytes) -> None:
        """*client* brought a CancelRequest with *key*."""
        peer_id = self.app.settings.peer_id
        if peer_id > 0:
            named = key[1] | key[2] << 8
            if named != peer_id:
                self.to_peer(client, key, named)
                return
            key = key[:7] + bytes([key[7] | TTL_BITS])
        target = self.app.door.keys.get(key)
        if target is None:
            client.disconnect("failed cancel request", False)
        elif target.on_console:
            client.disconnect("cancel request for console client", False)
            self.app.consoles[target.database.name].cancel_requested(target)
        elif target.server is None:
            waited = target.cancel_wait()
            state = "waiting" if waited else "idle"
            client.disconnect(f"cancel request for {state} client", False)
        elif not target.server.is_asked_by_us:
            self.wait(client, target.pool, target, key)
        elif target.held_bytes == 0:
            client.disconnect(
                "ignoring cancel request for server that is setting vars", False
            )
        else:
            self.keep(client, target, key)

    def keep(self, client: Any, target: Any, key: bytes) -> None:
        """The request is meant for what will be sent when a query of ours is answered.

        It would strike that query, or nothing: the target has asked before.
        """
        client.pool = target.pool
        client.wait_start = self.app.poller.now
        target.pool.push_cancel_client(client, False)
        self.asked[client] = (target, key)
        self.kept.setdefault(target.server, []).append(client)
        target.server.keeps_cancels = True

    def look_again(self, server: Any) -> None:
        """*server* has answered our query, or is gone: send on what was kept for it."""
        for client in self.kept.pop(server, ()):
            target, _ = self.asked.get(client, (None, b""))
            if target is None:
                continue  # it has gone
            if target.closed:
                client.disconnect("failed cancel request", False)
            elif target.server is None:
                waited = target.cancel_wait()
                state = "waiting" if waited else "idle"
                client.disconnect(f"cancel request for {state} client", False)
            elif target.server.is_asked_by_us:
                self.kept.setdefault(target.server, []).append(client)
                target.server.keeps_cancels = True
            else:
                target.pool.cancels.append(client)
                self.keeper.open_if_allowed(target.pool)

    def to_peer(self, client: Any, key: bytes, named: int) -> None:
        ttl = key[7] & TTL_BITS
        if ttl == 0:
            client.disconnect(
                "failed to forward cancel request because its TTL was exhausted", False
            )
            return
        peer = self.app.registry.peers.get(named)
        if peer is None:
            client.disconnect("could not find peer to forward request to", False)
            return
        key = key[:7] + bytes([key[7] - 1])
        self.wait(client, self.peer_pool(peer), None, key)

    def peer_pool(self, peer: PeerState) -> Any:
        """The pool of connections to *peer*; it holds nothing but cancels."""
        if peer.pool is None:
            config = Database(f"peer-{peer.id}", "", pool_size=peer.config.pool_size)
            peer.pool = self.app.make_pool(DatabaseState(config), UserState(""))
            peer.pool.peer = peer
            peer.pool.welcome = b""
        return peer.pool

    def wait(self, client: Any, pool: Any, target: Any, key: bytes) -> None:
        client.pool = pool
        client.wait_start = self.app.poller.now
        pool.push_cancel_client(client, False)
        self.asked[client] = (target, key)
        pool.cancels.append(client)
        self.keeper.open_if_allowed(pool)

    # A connection is there

    def use_connection(self, server: Any) -> bool:
        """Send a waiting request over a fresh connection; false if none waits."""
        pool = server.pool
        while pool.cancels:
            client = pool.cancels.pop(0)
            target, key = self.asked[client]
            if target is not None:
                busy = target.server
                if (
                    target.closed
                    or busy is None
                    or busy.is_ready
                    or busy.is_asked_by_us
                ):
                    client.disconnect(
                        "not sending cancel request for client that is now idle", False
                    )
                    continue
                key = busy.cancel_key
                busy.cancels += 1
                self.carrying[server] = busy
            server.cancel_for = client
            self.keeper.reached(server)
            pool.push_cancel(server)
            pool.push_cancel_client(client, True)
            server.write(cancel_request(key))
            if pool.cancels:
                self.keeper.open_if_allowed(pool)  # each has a connection of its own
            return True
        if pool.peer is not None:
            self.keeper.not_needed(server, NOT_NEEDED)
            return True
        return False

    def finished(self, server: Any) -> None:
        """The other side closed the connection: the request has been taken."""
        # Taken off first: `connection_gone` would say that it failed.
        client, server.cancel_for = server.cancel_for, None
        self.let_go(server, True)
        server.disconnect(SENT, False, False)
        if client is not None:
            client.disconnect(SENT, False)

    # Somebody went away

    def connection_gone(self, server: Any) -> None:
        """A connection that carried a request is closed, for whatever reason."""
        self.let_go(server, False)
        client, server.cancel_for = server.cancel_for, None
        if client is not None and not client.closed:
            client.disconnect("failed to send cancel request", False)

    def let_go(self, server: Any, taken: bool) -> None:
        """*server* carries a request no more; the one it was for may go on.

        Unless it was *taken* (PostgreSQL closes the connection behind the signal)
        it may still strike: then nobody else may have the server.
        """
        target = self.carrying.pop(server, None)
        if target is None or target.closed:
            return
        if not taken:
            target.close_needed = True
            target.pool.flagged = True
        target.cancels -= 1
        if target.cancels == 0 and target.state_name == "being_canceled":
            target.pool.settle_again(target)

    def client_gone(self, client: Any) -> None:
        """A client is closed: forget the request it brought."""
        if self.asked.pop(client, None) is None:
            return
        pool = client.pool
        if client in pool.cancels:
            pool.cancels.remove(client)
            return
        for server in pool.active_cancel:
            if server.cancel_for is client:
                server.cancel_for = None
                server.disconnect(GAVE_UP, False, False)

    def drop_peer(self, peer: PeerState) -> None:
        """A peer left the configuration."""
        log.warning("dropping peer  as it does not exist anymore")
        if peer.pool is None:
            return
        for client in (*peer.pool.cancel_waiting, *peer.pool.cancel_active):
            client.disconnect("peer removed", False)
        for server in peer.pool.servers():
            server.disconnect("peer removed", False, False)
