"""Our settings for one database or user, and the file that PgBouncer never reads."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.wire import FakeClient

V2 = b"\r\n\r\n\0\r\nQUIT\n"
SSL_REQUEST = b"\0\0\0\x08\x04\xd2\x16\x2f"


def first_bytes(one: Any, listener: socket.socket, database: str) -> bytes:
    """What the pooler says first to the server of *database*."""
    with FakeClient(one.port, seconds=30) as client:
        client.start([["database", database], ["user", "u_trust"]])
        server, _ = listener.accept()
        with server:
            server.settimeout(30)
            return server.recv(200)


def write_beside(one: Any, text: str) -> None:
    """Write the file beside the ini."""
    (one.directory / "pgbouncer.ini.pybouncer").write_text(text)
    one.identity.own(one.directory)


def shown(one: Any) -> dict[str, tuple[str, str]]:
    """SHOW PYBOUNCER: key to value and source, the latter without its directory."""
    return {
        row["key"]: (row["value"], (row["source"] or "").rpartition("/")[2])
        for row in one.console("SHOW PYBOUNCER")
        if row["key"] != "uptime"
    }


@pytest.fixture
def listeners() -> Iterator[dict[str, socket.socket]]:
    """Where the servers of three databases would be."""
    with ExitStack() as stack:
        found = {}
        for name in ("plain", "first", "second"):
            found[name] = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            found[name].settimeout(30)
        yield found


def test_a_database_or_user_may_have_a_setting_of_its_own(
    pooler: Any, listeners: dict[str, socket.socket]
) -> None:
    """`*` counts for names that say nothing themselves."""
    one = pooler(
        {"pool_mode": "session"},
        databases={
            name: f"host=127.0.0.1 port={listener.getsockname()[1]}"
            for name, listener in listeners.items()
        },
        users={"u_trust": "", "admin": "adminpass"},
        run=False,
    )
    write_beside(
        one,
        "[pybouncer]\nproxy_protocol_send = 2\n"
        "[pybouncer.databases]\n"
        "plain = proxy_protocol_send=0 parallel_logins=3\n"
        "* = proxy_protocol_send=1\n"
        "second = proxy_protocol_send=2\n"
        "[pybouncer.users]\nu_trust = parallel_logins=2\n",
    )
    one.run()
    assert first_bytes(one, listeners["plain"], "plain") == SSL_REQUEST
    assert first_bytes(one, listeners["first"], "first").startswith(
        b"PROXY TCP4 127.0.0.1 "
    )
    assert first_bytes(one, listeners["second"], "second").startswith(V2)
    rows = shown(one)
    file = "pgbouncer.ini.pybouncer"
    assert rows["proxy_protocol_send"] == ("2", f"{file}:2")
    assert rows["databases.plain.parallel_logins"] == ("3", f"{file}:4")
    assert rows["databases.*.proxy_protocol_send"] == ("1", f"{file}:5")
    assert rows["users.u_trust.parallel_logins"] == ("2", f"{file}:8")


def test_reload_takes_the_file_beside_and_a_mistake_in_it_changes_nothing(
    pooler: Any,
) -> None:
    one = pooler({"pool_mode": "session"}, more="[pybouncer]\nparallel_logins = 2\n")
    assert shown(one)["parallel_logins"][0] == "2"
    write_beside(one, "[pybouncer]\nparallel_logins = 5\nfair_wait = 250 ms\n")
    one.reload()
    rows = shown(one)
    assert rows["parallel_logins"] == ("5", "pgbouncer.ini.pybouncer:2")
    assert rows["fair_wait"][0] == "0.25"
    for text, line in (
        ("[pgbouncer]\npool_mode = transaction\n", r"invalid section \"pgbouncer\""),
        ("[pybouncer]\nfair_wait = 3 days\n", r"invalid value \"3 days\" for .*fair_w"),
        (
            "[pybouncer.databases]\nx = fair_wait=1\n",
            "unrecognized database parameter: fair_wait",
        ),
        ("parallel_logins = 7\n", "value without section"),
    ):
        write_beside(one, f"[pybouncer]\nparallel_logins = 6\n{text}")
        if line == "value without section":
            write_beside(one, text)
        one.interrupt("SIGHUP")
        one.wait_for_log(line)
        assert shown(one) == rows
    (one.directory / "pgbouncer.ini.pybouncer").unlink()
    one.reload()
    assert shown(one)["parallel_logins"][0] == "2"
