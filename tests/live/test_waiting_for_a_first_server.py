"""Who waits for the first server of a pool waits no longer than the settings say."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.wire import FakeClient, FakeServer, ServerTalk, error


@pytest.fixture
def slow(free_port: Callable[[], int]) -> Iterator[int]:
    """A server that never answers a startup packet; its port."""

    def script(talk: ServerTalk) -> None:
        while talk.read():
            pass

    port = free_port()
    server = FakeServer(port, script)
    yield port
    server.close()


@pytest.mark.parametrize("connect_timeout", [1, 30])
def test_query_timeout_counts_while_a_first_server_logs_in(
    pooler: Callable[..., Any], slow: int, connect_timeout: int
) -> None:
    """As in PgBouncer; we waited on, for as long as client_login_timeout."""
    one = pooler(
        {
            "query_timeout": 2,
            "server_connect_timeout": connect_timeout,
            "server_login_retry": 0.2,
        },
        server_port=slow,
    )
    with FakeClient(one.port, seconds=20) as client:
        told = error(client.login("p0", "u_trust"))
    assert told.get("M") == "query_timeout"
    one.wait_for_log("closing because: query_timeout")


def test_query_timeout_counts_while_a_server_for_auth_query_logs_in(
    pooler: Callable[..., Any], slow: int
) -> None:
    one = pooler(
        {
            "auth_type": "md5",
            "auth_user": "u_trust",
            "query_timeout": 2,
            "server_connect_timeout": 30,
        },
        server_port=slow,
    )
    with FakeClient(one.port, seconds=20) as client:
        told = error(client.login("p0", "somebody", "secret"))
    assert told.get("M") == "query_timeout"
