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


def is_carried(stream: Any) -> bool:
    """Say whether SHOW FDS hands *stream* over: neither it nor its partner has TLS."""
    partner = stream.server if isinstance(stream, Client) else stream.client
    return stream.tls_object is None and (partner is None or partner.tls_object is None)


def step_aside(app: Any) -> int:
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
        gone += [one for one in (*clients, *servers) if is_carried(one)]
        kept += sum(not is_carried(client) for client in clients)
    for stream in gone:
        let_go(stream)
    if kept:
        log.info(f"{kept} clients over TLS stay here until they leave")
    return kept
