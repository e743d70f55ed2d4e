"""What one of our processes tells the next about a connection, beyond SHOW FDS.

SHOW FDS has a column more for a new process that says by its application_name that
it is one of ours: this JSON. A real PgBouncer neither asks for it nor sends it.
"""

import json
from collections.abc import Iterable
from typing import Any

from bouncer.relay.carried import client_state, server_state
from bouncer.relay.client import Client
from bouncer.relay.server import Server
from bouncer.relay.tracked import named_values
from bouncer.talks.takeover import APPLICATION_NAME


def is_ours(client: Any) -> bool:
    """Say whether the console's *client* is a new process that wants the column."""
    name = client.tracked.application_name if client.tracked else ""
    return bool(name == APPLICATION_NAME)


def state_of(stream: Client | Server | None) -> str:
    """Return the state of a connection; "" for what has none, such as a listener."""
    if isinstance(stream, Client):
        state = client_state(stream)
        state["tracked"] = tracked_state(stream)
        state["id"] = stream.id
        return json.dumps(state)
    if isinstance(stream, Server):
        state = server_state(stream)
        state["tracked"] = tracked_state(stream)
        state["unasked"] = as_text((stream.unasked or {}).items())
        state["id"] = stream.id
        state["pool"] = pool_state(stream.pool)
        return json.dumps(state)
    return ""


def tracked_state(stream: Client | Server) -> dict[str, str]:
    """Return the tracked values, whatever bytes they are (see from_dict)."""
    return as_text(named_values(stream.tracked, True) if stream.tracked else ())


def as_text(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return names and values of parameters as JSON can have them."""
    return {
        name.decode(): value.decode("utf-8", "surrogateescape") for name, value in pairs
    }


def pool_state(pool: Any) -> dict[str, Any]:
    """Return what new clients of the pool are told at their login."""
    welcome = pool.welcome
    return {
        "welcome": None if welcome is None else welcome.decode("latin-1"),
        "defaults": pool.defaults.as_dict() if pool.defaults else {},
        "disabled": pool.database.disabled,
    }


def streams(app: Any) -> dict[int, Any]:
    """Return all clients and servers of ordinary pools by their descriptor."""
    return {
        stream.fd: stream
        for pool in app.registry.all_pools()
        for stream in (*pool.clients, *pool.waiting, *pool.servers())
    }
