"""The epoll set nested in the event loop. Types of poller.pyx for Python callers."""

from typing import Any

class Poller:
    fd: int
    read_size: int
    loop_count: int
    now: int
    max_packet_size: int
    budget_us: int
    loop: Any
    unwritten: list[str]
    after: Any
    crashed: Any
    longest_us: int
    rounds: int
    def use_buffers(self, size: Any) -> Any: ...
    def dispatch(self) -> Any: ...
    def settle(self) -> Any: ...
    def tick(self) -> Any: ...
    def put_off(self, call: Any) -> Any: ...
    def take_longest(self) -> Any: ...
    @staticmethod
    def wall_clock() -> Any: ...
    @staticmethod
    def clock() -> Any: ...
