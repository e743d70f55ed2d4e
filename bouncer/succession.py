"""The old side of an online restart: let go of what a successor has, drain the rest.

A TLS connection cannot be handed over: its keys and counters are inside OpenSSL,
which gives them to nobody. PgBouncer cuts such connections off. Here the old process
stays for them: it closes its copies of what was handed over, gives up its place (pid
file, socket file, listeners) and serves what it has left until that ends by itself.
"""

from typing import Any

from bouncer import log
from bouncer.pool.registry import CONSOLE
from bouncer.relay.carried import let_go
from bouncer.relay.client import Client


def is_carried(stream: Any, to_ours: bool = True) -> bool:
    """Say whether SHOW FDS hands *stream* over: neither it nor its partner has TLS.

    A real PgBouncer takes every server of a database with `user=` for that user's:
    one that has another role (auth_user's, or the one of before a RELOAD) is told to
    a process of ours alone.
    """
    partner = stream.server if isinstance(stream, Client) else stream.client
    if stream.tls_object is not None:
        return False
    if partner is not None and partner.tls_object is not None:
        return False
    server = partner if isinstance(stream, Client) else stream
    return to_ours or server is None or has_forced_role(server.pool)


def has_forced_role(pool: Any) -> bool:
    """Say whether servers of *pool* have the role that its database forces, if any."""
    forced = pool.database.config.user
    return not forced or bool(forced == pool.user_name)


def step_aside(app: Any, to_ours: bool) -> int:
    """Let go of everything that the successor has; return how many clients stay.

    The pooler is suspended and stays so; whoever calls ends it, or wakes the rest.
    """
    gone = [client for client in app.logging_in if client.tls_object is None]
    kept = len(app.logging_in) - len(gone)
    for pool in app.registry.all_pools():
        clients = [*pool.clients, *pool.waiting]
        if pool.database.name == CONSOLE:
            gone += clients
            continue
        servers = pool.servers()
        gone += [one for one in (*clients, *servers) if is_carried(one, to_ours)]
        kept += sum(not is_carried(client, to_ours) for client in clients)
    for stream in gone:
        let_go(stream)
    if kept:
        log.info(f"{kept} clients over TLS stay here until they leave")
    return kept
