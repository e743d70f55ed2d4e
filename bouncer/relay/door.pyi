"""Let clients in and see them out. Types of door.pyx for Python callers."""

from typing import Any

class Counts:
    client_count: int
    departed: int
    server_count: int

class Known:
    login: Any
    stale: bool
    is_let_in: bool

class Door:
    sockets: int
    departed: int
    most_sockets: int
    most_fd: int
    last_fd: int
    is_closing: bool
    epoch: int
    logging_in: dict[Any, None]
    keys: dict[bytes, Any]
    def __init__(self, app: Any) -> None: ...
    def remember(
        self,
        client: Any,
        body: bytes,
        login: Any,
        needs_proof: bool,
        secret: Any,
        attempt: str | None,
        limits: tuple[int, int],
        welcome: tuple[bytes, bytes] | None,
        nobody: str | None = ...,
    ) -> None: ...
    def forget(self) -> None: ...
    def close(self) -> None: ...
    def forget_keys(self) -> None: ...
    def accepted(self, client: Any) -> None: ...
    def take_in(self, client: Any) -> Any: ...
    def new_key(self) -> bytes: ...
