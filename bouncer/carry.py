"""What one of our processes tells the next about a connection, beyond SHOW FDS.

SHOW FDS has a column more for a new process that says by its application_name that
it is one of ours: this JSON. A real PgBouncer neither asks for it nor sends it.

`relay.carried` has the fields that only the relay knows. Here are the others, in one
table: `SHARED` names each field, says how it is read off and how it is put in, and what
an absent one means. Both processes go through it.
"""

import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from bouncer.relay.carried import client_state, server_state
from bouncer.relay.client import Client
from bouncer.relay.server import Server
from bouncer.relay.tracked import filled, from_dict, index_of, named_values
from bouncer.talks.takeover import APPLICATION_NAME
from bouncer.wire.messages import decode_text

MISSING = object()
ROLE = "session_authorization"
UNASKED = ("default_transaction_read_only", "search_path")


class Field(NamedTuple):
    """One field of a connection, its user or its pool.

    *read* gives a value that JSON can have, *put* takes it, in a process where the
    connection has its pool and *user* is the client's, or the pool's. An absent value
    leaves what is there.
    """

    name: str
    read: Callable[[Any, Any], Any]
    put: Callable[[Any, Any, Any], None]
    kinds: tuple[type, ...] = (Client, Server)


def read_tracked(stream: Any, user: Any) -> dict[str, str]:
    """Return the tracked values, whatever bytes they are (see from_dict)."""
    return own_values(stream, stream.tracked)


def put_tracked(stream: Any, user: Any, value: Any) -> None:
    """Take tracked values; without any, those of the columns stay."""
    if value := texts(value):
        stream.tracked = from_dict(value)


def read_at_login(stream: Any, user: Any) -> dict[str, str]:
    """Return the values that a RESET goes back to."""
    return own_values(stream, stream.at_login)


def own_values(stream: Any, params: Any) -> dict[str, str]:
    """Return *params*, but for the role that any client of the pool has.

    It may be another one in the next process: a RELOAD can have changed `user=`.
    """
    values = as_text(named_values(params) if params else ())
    defaults = stream.pool.defaults
    if isinstance(stream, Client) and defaults is not None:
        role = as_text(named_values(defaults)).get(ROLE)
        if values.get(ROLE, role) == role:
            values.pop(ROLE, None)
    return values


def put_at_login(stream: Any, user: Any, value: Any) -> None:
    """Take the values that a RESET goes back to."""
    if value := texts(value):
        stream.at_login = from_dict(value)


def read_unasked(server: Any, user: Any) -> dict[str, str]:
    """Return what the login told of parameters that releases before 1.26.1 set back."""
    values = read_at_login(server, user)
    return {name: values[name] for name in UNASKED if name in values}


def put_unasked(server: Any, user: Any, value: Any) -> None:
    """Take that: such a release has it nowhere else, unless a client has set one."""
    told = from_dict(texts(value))
    if server.at_login is not None and server.tracked is not None:
        server.at_login = filled(server.at_login, told)
        server.tracked = filled(server.tracked, told)


def read_keys(client: Any, user: Any) -> list[str] | None:
    """Return the SCRAM keys of the client itself, not those of a forced user."""
    keys = None if user is None else user.scram_keys
    return None if keys is None else [key.hex() for key in keys]


def put_keys(client: Any, user: Any, value: Any) -> None:
    """Take the client's own SCRAM keys, if they fit its secret here."""
    if value is not None:
        user.learn_keys(keys_of(value))


def read_pool_keys(stream: Any, user: Any) -> list[str] | None:
    """Return the SCRAM keys of the pool; SHOW FDS has none of a forced user."""
    keys = stream.pool.credentials.scram_keys
    return None if keys is None else [key.hex() for key in keys]


def put_pool_keys(stream: Any, user: Any, value: Any) -> None:
    """Take the pool's SCRAM keys, if they fit its secret here."""
    if value is not None:
        stream.pool.learn_keys(keys_of(value))


def keys_of(value: Any) -> tuple[bytes, bytes]:
    """Return keys that were told as hexadecimal digits."""
    client_key, server_key = value
    return bytes.fromhex(client_key), bytes.fromhex(server_key)


def read_pool(stream: Any, user: Any) -> dict[str, Any]:
    """Return what new clients of the pool are told at their login."""
    pool = stream.pool
    return {
        "welcome": None if pool.welcome is None else pool.welcome.decode("latin-1"),
        "defaults": (
            {} if pool.defaults is None else as_text(named_values(pool.defaults))
        ),
        "disabled": pool.database.disabled,
    }


def put_pool(stream: Any, user: Any, value: Any) -> None:
    """Let new clients of the pool be told what they would have been told before."""
    pool = stream.pool
    if type(value) is not dict:
        raise ValueError("pool: not an object")
    welcome = value.get("welcome")
    if pool.welcome is None and welcome is not None:
        plain, tracked = apart(welcome.encode("latin-1"))
        tracked |= texts(value["defaults"])
        # Of another role the next login tells other things.
        if tracked.get(ROLE, pool.user_name) == pool.user_name:
            pool.welcome = plain
            pool.defaults = from_dict(tracked)
            pool.follow(from_dict({}), extra=True)
    pool.database.disabled = bool(value["disabled"])


def apart(welcome: bytes) -> tuple[bytes, dict[str, str]]:
    """Take the tracked parameters out of a welcome: an older process tracked fewer."""
    plain, tracked = [], {}
    while welcome:
        size = int.from_bytes(welcome[1:5], "big") + 1
        name, ended, rest = welcome[5:size].partition(b"\0")
        if len(welcome) < size or size < 5 or not ended:
            raise ValueError("pool: not a welcome")
        if index_of(decode_text(name)) is None:
            plain.append(welcome[:size])
        else:
            tracked[decode_text(name)] = decode_text(rest.removesuffix(b"\0"))
        welcome = welcome[size:]
    return b"".join(plain), tracked


SHARED = (
    Field("tracked", read_tracked, put_tracked),
    Field("at_login", read_at_login, put_at_login),
    Field("unasked", read_unasked, put_unasked, (Server,)),
    Field("keys", read_keys, put_keys, (Client,)),
    Field("pool_keys", read_pool_keys, put_pool_keys),
    Field("pool", read_pool, put_pool),
)


def is_ours(client: Any) -> bool:
    """Say whether the console's *client* is a new process that wants the column."""
    name = client.tracked.application_name if client.tracked else ""
    return bool(name == APPLICATION_NAME)


def state_of(stream: Client | Server | None, told: set[Any]) -> str:
    """Return the state of a connection; "" for what has none, such as a listener.

    *told* are the pools that have been told of: the first of its connections does.
    """
    if isinstance(stream, Client):
        state, user = client_state(stream), stream.user_state
    elif isinstance(stream, Server):
        state, user = server_state(stream), stream.pool.user
    else:
        return ""
    for field in SHARED:
        if isinstance(stream, field.kinds):
            if field.read is read_pool and stream.pool in told:
                continue
            state[field.name] = field.read(stream, user)
    told.add(stream.pool)
    return json.dumps(state)


def put_shared(stream: Any, user: Any, state: dict[str, Any]) -> None:
    """Put what `state_of` has told into a connection; ValueError: it makes no sense."""
    for field in SHARED:
        value = state.get(field.name, MISSING)
        if value is MISSING or not isinstance(stream, field.kinds):
            continue
        try:
            field.put(stream, user, value)
        except (TypeError, KeyError, AttributeError) as err:
            raise ValueError(f"{field.name}: {err}") from None


def as_text(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return names and values of parameters as JSON can have them."""
    return {decode_text(name): decode_text(value) for name, value in pairs}


def texts(value: Any) -> dict[str, str]:
    """Return *value* if it is what `as_text` makes."""
    if type(value) is not dict or not all(type(one) is str for one in value.values()):
        raise ValueError("not names and values")
    return value


def streams(app: Any) -> dict[int, Any]:
    """Return all clients and servers of ordinary pools by their descriptor."""
    return {
        stream.fd: stream
        for pool in app.registry.all_pools()
        for stream in (*pool.clients, *pool.waiting, *pool.servers())
    }
