"""Raw packets, refused logins, and whether others are still served."""

import contextlib
import socket
import struct
from typing import Any

from tests.support.wire import FakeClient, ServerTalk, error, rows

SSL_REQUEST = struct.pack("!II", 8, 80877103)
GSSENC_REQUEST = struct.pack("!II", 8, 80877104)


def packet(code: bytes, body: bytes = b"") -> bytes:
    """A message with its length."""
    return code + struct.pack("!I", len(body) + 4) + body


def startup(database: str = "p0", user: str = "u_trust", **params: str) -> bytes:
    """A startup packet."""
    body = struct.pack("!I", 0x30000)
    for name, value in {"database": database, "user": user, **params}.items():
        body += name.encode() + b"\0" + value.encode() + b"\0"
    body += b"\0"
    return struct.pack("!I", len(body) + 4) + body


def exchange(port: int, data: bytes, seconds: float = 5) -> bytes:
    """Send bytes on a connection of their own; what comes until it is closed."""
    got = b""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(data)
            while part := sock.recv(65536):
                got += part
    return got


def is_served(port: int, database: str = "p0", user: str = "u_trust") -> None:
    """The next client gets its own answer."""
    with FakeClient(port) as client:
        got = client.login(database, user)
        assert got[-1]["type"] == "ReadyForQuery", error(got)
        assert rows(client.ask("select 'served'")) == [["served"]]


def refusal(port: int, *login: Any, **params: str) -> str:
    """What a login that must fail is told; empty when only the connection ends."""
    with FakeClient(port) as client:
        got = client.login(*login, **params)
        assert got[-1]["type"] == "<connection closed>", got[-1]
        return error(got).get("M", "")


def read_exactly(talk: ServerTalk, count: int) -> bytes:
    """Bytes of the pooler, before anything has read messages."""
    got = b""
    while len(got) < count and (part := talk.connection.sock.recv(count - len(got))):
        got += part
    return got
