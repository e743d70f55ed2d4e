"""A client and a server that speak the protocol byte by byte.

Messages are dictionaries, as in tests/replay/protocol.py: {"type": "Query", "sql":
"select 1"}. Both ends can also send any bytes at all, and stop at any of them.
"""

import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

from tests.replay import protocol
from tests.replay.backends import DEFAULT_PARAMETERS, Server, ServerConnection
from tests.replay.client import Client, Patience

Message = dict[str, Any]

__all__ = ["FakeClient", "FakeServer", "Message", "ServerTalk", "query", "rows"]

CLOSED = protocol.CLOSED


def query(sql: str) -> bytes:
    """The bytes of a simple query."""
    return protocol.encode_frontend({"type": "Query", "sql": sql})


def rows(messages: list[Message]) -> list[list[Any]]:
    """The values of the data rows among *messages*."""
    return [m["values"] for m in messages if m["type"] == "DataRow"]


def error(messages: list[Message]) -> dict[str, str]:
    """The fields of the first error among *messages*; empty without one."""
    for message in messages:
        if message["type"] == "ErrorResponse":
            return dict(message["fields"])
    return {}


class FakeClient(Client):  # type: ignore[misc]
    """A client connection; `login` first, or send what you like."""

    def __init__(self, port: int, host: str = "127.0.0.1", seconds: float = 10) -> None:
        self.seconds = seconds
        sock = socket.create_connection((host, port), timeout=seconds)
        super().__init__(sock, Patience())

    def login(
        self, database: str, user: str, password: str = "", **params: str
    ) -> list[Message]:
        """Log in, by password where asked; all messages up to ReadyForQuery."""
        self.start([["database", database], ["user", user], *map(list, params.items())])
        seen: list[Message] = []
        while True:
            message = self.next(self.seconds)
            seen.append(message)
            kind = message["type"]
            if kind == "AuthenticationMD5Password":
                secret = {"md5": {"user": user, "password": password}}
                self.send({"type": "PasswordMessage", "password": secret})
            elif kind == "AuthenticationCleartextPassword":
                self.send({"type": "PasswordMessage", "password": password})
            elif kind == "AuthenticationSASL":
                first = {"scram_client_first": {"password": password}}
                self.send(
                    {
                        "type": "SASLInitialResponse",
                        "mechanism": "SCRAM-SHA-256",
                        "data": first,
                    }
                )
            elif kind == "AuthenticationSASLContinue":
                self.send({"type": "SASLResponse", "data": {"scram_client_final": {}}})
            elif kind in ("ReadyForQuery", protocol.CLOSED, protocol.TIMEOUT):
                return seen

    def ask(self, sql: str) -> list[Message]:
        """Send a simple query; the messages up to ReadyForQuery or the end."""
        self.send_bytes(query(sql))
        return self.until_ready()

    def until_ready(self, count: int = 1) -> list[Message]:
        """Messages up to the *count*-th ReadyForQuery, or the end."""
        got: list[Message] = self.read_until("ReadyForQuery", count, self.seconds)
        return got

    def half_close(self) -> None:
        """Say that nothing more will be sent, and go on reading."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with a TCP reset."""
        self.sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.sock.close()

    def close(self, terminate: bool = False) -> None:
        """Close, whatever state the connection is in."""
        super().close(terminate)
        self.sock.close()

    def __enter__(self) -> "FakeClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ServerTalk:
    """What a script of FakeServer does on one connection."""

    def __init__(self, server: "FakeServer", connection: ServerConnection) -> None:
        self.connection, self.number = connection, connection.number
        self.splitter = protocol.FrontendSplitter()
        self._incoming: Iterator[Message] = server.messages(connection, self.splitter)

    def read(self) -> Message | None:
        """The next message of the pooler, or None when it has closed."""
        return next(self._incoming, None)

    def send(self, *messages: Message) -> None:
        """Send messages in one write."""
        self.send_bytes(b"".join(map(protocol.encode_backend, messages)))

    def send_bytes(self, raw: bytes) -> None:
        """Send any bytes."""
        self.connection.sock.sendall(raw)

    def ready(self, status: str = "I") -> None:
        """Send ReadyForQuery."""
        self.send({"type": "ReadyForQuery", "status": status})

    def login(self) -> bool:
        """Take a login without a password; whether it was one (not a cancel)."""
        message = self.read()
        if message and message["type"] == "SSLRequest":
            self.send_bytes(b"N")
            message = self.read()
        if message is None or message["type"] != "StartupMessage":
            return False
        self.send(
            {"type": "AuthenticationOk"},
            *(
                {"type": "ParameterStatus", "name": name, "value": value}
                for name, value in DEFAULT_PARAMETERS
            ),
            {"type": "BackendKeyData", "key_hex": f"{self.number:08x}{77:08x}"},
            {"type": "ReadyForQuery", "status": "I"},
        )
        return True

    def answer(self, text: str) -> None:
        """Send one row with one column, and ReadyForQuery."""
        self.send(
            {"type": "RowDescription", "columns": [{"name": "answer", "oid": 25}]},
            {"type": "DataRow", "values": [text]},
            {"type": "CommandComplete", "tag": "SELECT 1"},
            {"type": "ReadyForQuery", "status": "I"},
        )

    def close(self) -> None:
        """End the connection."""
        self.connection.closing = True
        try:
            self.connection.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def obliging(talk: ServerTalk) -> None:
    """A script: log in, then answer each query with the query itself."""
    if not talk.login():
        return
    while message := talk.read():
        if message["type"] == "Query":
            talk.answer(message["sql"])
        elif message["type"] == "Sync":
            talk.ready()
        elif message["type"] == "Terminate":
            return


class FakeServer(Server):  # type: ignore[misc]
    """A server of which *script* is run for each connection, in a thread of its own."""

    def __init__(
        self,
        port: int,
        script: Callable[[ServerTalk], None] = obliging,
        **options: Any,
    ) -> None:
        self.script = script
        super().__init__(port, **options)

    def serve(self, connection: ServerConnection) -> None:
        """Run the script; what it leaves open is closed."""
        talk = ServerTalk(self, connection)
        try:
            self.script(talk)
        finally:
            talk.close()
