"""Link, release, hand over. Types of pool.pyx for Python callers."""

from typing import Any

from bouncer.relay.client import Client
from bouncer.relay.poller import Poller
from bouncer.relay.stream import StreamList
from bouncer.relay.texts import Changes

def break_release(on: bool) -> None: ...

class Pool:
    poller: Poller
    database: Any
    user: Any
    keeper: Any
    database_name: str
    user_name: str
    idle: StreamList
    used: StreamList
    tested: StreamList
    active: StreamList
    login: StreamList
    being_canceled: StreamList
    active_cancel: StreamList
    clients: StreamList
    waiting: StreamList
    cancel_waiting: StreamList
    departed: dict[Client, None]
    cancel_active: StreamList
    mode: int
    max_prepared: int
    blocked: bool
    draining: bool
    queue_only: bool
    contested: bool
    round_robin: bool
    reset_on_release: bool
    check_on_release: bool
    reset_query: bytes
    changes: Changes
    check_query: bytes
    lifetime_us: int
    welcome: bytes | None
    defaults: Any
    learn_query: bytes | None
    notes: Any
    assignments: int
    transactions: int
    queries: int
    client_bytes: int
    server_bytes: int
    transaction_us: int
    query_us: int
    wait_us: int
    client_parses: int
    server_parses: int
    binds: int
    logins: int
    def __init__(
        self, poller: Any, keeper: Any, database_name: Any, user_name: Any
    ) -> None: ...
    def queue(self, client: Any, kind: Any) -> Any: ...
    def leave_queue(self, client: Any) -> Any: ...
    def release_server(self, server: Any) -> Any: ...
    def login_done(self, server: Any) -> Any: ...
    def activate(self) -> Any: ...
    def push_login(self, server: Any) -> Any: ...
    def push_cancel(self, server: Any) -> Any: ...
    def push_client(self, client: Any) -> Any: ...
    def push_cancel_client(self, client: Any, active: Any) -> Any: ...
    def back_to_login(self, client: Any) -> Any: ...
    def occupy(self, server: Any) -> Any: ...
    def link_pair(self, client: Any, server: Any) -> Any: ...
    def unlink_pair(self, client: Any, server: Any) -> Any: ...
    def check(self, server: Any) -> Any: ...
    def park_used(self, server: Any) -> Any: ...
    def unpark(self, server: Any) -> Any: ...
    def settle_again(self, server: Any) -> Any: ...
    def count_console_command(self) -> Any: ...
    @property
    def server_count(self) -> Any: ...
    @property
    def client_count(self) -> Any: ...
    def servers(self) -> Any: ...
