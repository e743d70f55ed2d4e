"""Many clients at once, of which only counts matter."""

import selectors
import socket
import time
from collections import Counter

from tests.bench.load import read_ready, startup_packet
from tests.support.wire import query


class Load:
    """Many clients that ask again as soon as they are answered; who was, how often."""

    def __init__(self, port: int, count: int, sql: str, user: str = "u_trust") -> None:
        self.message = query(sql)
        self.served: Counter[int] = Counter()
        self.selector = selectors.DefaultSelector()
        self.failed = 0
        self.socks: list[socket.socket] = []
        for number in range(count):
            sock = socket.create_connection(("127.0.0.1", port))
            sock.sendall(startup_packet("p0", user))
            read_ready(sock)
            self.socks.append(sock)
            self.selector.register(sock, selectors.EVENT_READ, number)

    def ask(self, number: int) -> None:
        self.socks[number].sendall(self.message)

    def round(self, timeout: float = 0.2) -> None:
        """Read what is there; whoever is answered asks again."""
        for key, _ in self.selector.select(timeout):
            sock, number = self.socks[key.data], key.data
            data = sock.recv(65536)
            if not data or b"FATAL" in data:
                self.failed += 1
                self.selector.unregister(sock)
            elif data.endswith(b"Z\0\0\0\5I"):
                self.served[number] += 1
                self.ask(number)

    def run(self, answers: int) -> float:
        """Until so many answers have come; the seconds that they took."""
        begun = time.monotonic()
        for number in range(len(self.socks)):
            self.ask(number)
        while self.served.total() < answers and not self.failed:
            self.round()
        return time.monotonic() - begun

    def close(self) -> None:
        for sock in self.socks:
            sock.close()
        self.selector.close()
