"""A DNS server of our own: a thread that answers from a dict, over UDP."""

import socket
import struct
import threading
from ipaddress import ip_address
from types import TracebackType

A, SOA, AAAA = 1, 6, 28
NOERROR, SERVFAIL, NXDOMAIN = 0, 2, 3


class DnsServer:
    """Answers A, AAAA and SOA questions until it is closed.

    *hosts* maps a name to its addresses, *zones* a zone to its serial, *failures*
    a name to a response code. Names in *silent* get no answer at all. *asked*
    counts the questions.
    """

    def __init__(self, address: str = "127.0.0.1", port: int = 0) -> None:
        self.hosts: dict[str, list[str]] = {}
        self.zones: dict[str, int] = {}
        self.failures: dict[str, int] = {}
        self.silent: set[str] = set()
        self.ttl = 3600
        self.asked: list[tuple[str, int]] = []
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind((address, port))
        self.address = "{}:{}".format(*self._sock.getsockname())
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> "DnsServer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # An empty datagram ends the thread, which may be waiting.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", self._sock.getsockname())
        self._thread.join()
        self._sock.close()

    def count(self, name: str, kind: int = A) -> int:
        """Return how often *name* has been asked for."""
        return self.asked.count((name, kind))

    def _serve(self) -> None:
        while True:
            question, client = self._sock.recvfrom(4096)
            if not question:
                return
            answer = self._answer(question)
            if answer:
                self._sock.sendto(answer, client)

    def _answer(self, question: bytes) -> bytes:
        labels, at = [], 12
        while question[at]:
            labels.append(question[at + 1 : at + 1 + question[at]].decode())
            at += 1 + question[at]
        name = ".".join(labels).lower()
        (kind,) = struct.unpack_from("!H", question, at + 1)
        self.asked.append((name, kind))
        if name in self.silent:
            return b""
        records = self._records(name, kind)
        code = self.failures.get(name, NOERROR)
        if name not in self.hosts and name not in self.zones and not code:
            code = NXDOMAIN
        head = question[:2] + struct.pack(
            "!HHHHH", 0x8580 | code, 1, len(records), 0, 0
        )
        return head + question[12 : at + 5] + b"".join(records)

    def _records(self, name: str, kind: int) -> list[bytes]:
        if name in self.failures:
            return []
        datas = []
        if kind == SOA and name in self.zones:
            numbers = struct.pack("!IIIII", self.zones[name], 60, 60, 60, 60)
            datas = [b"\xc0\x0c\xc0\x0c" + numbers]
        for text in self.hosts.get(name, []):
            address = ip_address(text)
            if kind == (A if address.version == 4 else AAAA):
                datas.append(address.packed)
        return [
            b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, self.ttl, len(data)) + data
            for data in datas
        ]
