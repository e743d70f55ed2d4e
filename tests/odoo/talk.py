"""How a browser and a program talk to Odoo: JSON-RPC, XML-RPC, websocket.

Of the websocket (RFC 6455) only what Odoo uses: text in one frame, pings, a close.
"""

import base64
import http.client
import json
import os
import select
import socket
import struct
import time
import xmlrpc.client
from typing import Any

LONGEST = 600.0  # seconds for one answer; a module's installation takes minutes
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class OdooError(Exception):
    """What Odoo answers instead of a result: the kind of its error, and the text."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class Browser:
    """One user's session over HTTP."""

    def __init__(self, port: int, database: str) -> None:
        self.port, self.database = port, database
        self.cookie, self.info = "", {}  # type: str, dict[str, Any]

    def post(self, path: str, parameters: dict[str, Any]) -> Any:
        """A JSON-RPC request, on a connection of its own; its result."""
        body = {"jsonrpc": "2.0", "method": "call", "id": 1, "params": parameters}
        headers = {"Content-Type": "application/json", "Cookie": self.cookie}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LONGEST)
        try:
            connection.request("POST", path, json.dumps(body), headers)
            response = connection.getresponse()
            told = response.read()
        finally:
            connection.close()
        for cookie in response.headers.get_all("Set-Cookie", []):
            if cookie.startswith("session_id="):
                self.cookie = cookie.partition(";")[0]
        if response.status != 200:
            raise OdooError(
                f"HTTP {response.status}", told[:300].decode(errors="replace")
            )
        answer = json.loads(told)
        if error := answer.get("error"):
            data = error.get("data") or {}
            raise OdooError(
                data.get("name", "?"), data.get("message", error["message"])
            )
        return answer.get("result")

    def log_in(self, user: str, password: str) -> "Browser":
        """Begin a session."""
        given = {"db": self.database, "login": user, "password": password}
        self.info = self.post("/web/session/authenticate", given)
        return self

    def call(self, model: str, method: str, *arguments: Any, **more: Any) -> Any:
        """Call a method of a model, as the web client does."""
        given = {"model": model, "method": method, "args": arguments, "kwargs": more}
        return self.post(f"/web/dataset/call_kw/{model}/{method}", given)


class Program:
    """A program that uses Odoo's external interface: XML-RPC."""

    def __init__(self, port: int, database: str, user: str, password: str) -> None:
        self.address = f"http://127.0.0.1:{port}/xmlrpc/2/"
        self.database, self.password = database, password
        common = xmlrpc.client.ServerProxy(f"{self.address}common")
        self.uid = common.authenticate(database, user, password, {})
        if not self.uid:
            raise OdooError("AccessDenied", f"{user} in {database}")

    def call(self, model: str, method: str, *arguments: Any, **more: Any) -> Any:
        """Call a method of a model."""
        models = xmlrpc.client.ServerProxy(f"{self.address}object", allow_none=True)
        return models.execute_kw(
            self.database, self.uid, self.password, model, method, arguments, more
        )


class Manager:
    """The database manager, by its master password."""

    def __init__(self, port: int, master: str) -> None:
        self.address, self.master = f"http://127.0.0.1:{port}/xmlrpc/2/db", master

    def do(self, what: str, *arguments: Any) -> Any:
        """`create_database`, `duplicate_database`, `rename`, `drop`, `dump`, ..."""
        proxy = xmlrpc.client.ServerProxy(self.address, allow_none=True)
        return getattr(proxy, what)(self.master, *arguments)

    def names(self) -> list[str]:
        """Its databases."""
        listed = xmlrpc.client.ServerProxy(self.address).list()
        assert isinstance(listed, list)
        return listed


class Bell:
    """A browser's websocket, which tells of notifications."""

    def __init__(self, port: int, browser: Browser) -> None:
        self.stream = socket.create_connection(("127.0.0.1", port), timeout=LONGEST)
        self.held = b""
        version = browser.info["websocket_worker_version"]
        lines = [
            f"GET /websocket?version={version} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            f"Origin: http://127.0.0.1:{browser.port}",
            f"Cookie: {browser.cookie}",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        ]
        self.stream.sendall("\r\n".join([*lines, "", ""]).encode())
        while b"\r\n\r\n" not in self.held:
            self._more(time.monotonic() + LONGEST)
        head, _, self.held = self.held.partition(b"\r\n\r\n")
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise OdooError("websocket", head.split(b"\r\n")[0].decode())
        self.send({"event_name": "subscribe", "data": {"channels": [], "last": 0}})

    def __enter__(self) -> "Bell":
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def send(self, what: dict[str, Any]) -> None:
        """Send a message as one text frame."""
        self._frame(TEXT, json.dumps(what).encode())

    def _frame(self, opcode: int, payload: bytes) -> None:
        size = len(payload)
        length = (
            bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack("!H", size)
        )
        mask = os.urandom(4)
        hidden = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
        self.stream.sendall(bytes([0x80 | opcode]) + length + mask + hidden)

    def _more(self, end: float) -> None:
        """Read more; TimeoutError at the time *end*."""
        ready, _, _ = select.select(
            [self.stream], [], [], max(end - time.monotonic(), 0)
        )
        if not ready:
            raise TimeoutError("nothing came over the websocket")
        data = self.stream.recv(1 << 16)
        if not data:
            raise OdooError("websocket", "Odoo has closed it")
        self.held += data

    def _take(self, size: int, end: float) -> bytes:
        while len(self.held) < size:
            self._more(end)
        taken, self.held = self.held[:size], self.held[size:]
        return taken

    def _next(self, end: float) -> tuple[int, bytes]:
        """The opcode and payload of the next frame."""
        first, second = self._take(2, end)
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", self._take(2, end))
        elif size == 127:
            (size,) = struct.unpack("!Q", self._take(8, end))
        return first & 0x0F, self._take(size, end)

    def wait_for(self, kind: str, text: str, seconds: float) -> None:
        """Wait for a notification of this *kind* that has *text* in it."""
        end = time.monotonic() + seconds
        while True:
            opcode, payload = self._next(end)
            if opcode == PING:
                self._frame(PONG, payload)
            if opcode == CLOSE:
                raise OdooError(
                    "websocket", f"closed: {payload[:2].hex()} {payload[2:]!r}"
                )
            if opcode != TEXT:
                continue
            for one in json.loads(payload):
                message = one["message"]
                if message["type"] == kind and text in json.dumps(message["payload"]):
                    return
