"""Who a client is behind a balancer that speaks the PROXY protocol."""

import getpass
import re
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ha.proxy_protocol import SIGNATURE, build_v1, build_v2, build_v2_local
from tests.replay.pooler import wait_for
from tests.support.wire import FakeClient, error

UNIX = build_v2("/run/app.sock", 0, "/run/balancer.sock", 0)
UNSPECIFIED = SIGNATURE + b"\x21\x00\x00\x00"
UNKNOWN = b"PROXY UNKNOWN\r\n"
ME = getpass.getuser()
READY = "ReadyForQuery"
NOBODY = "no authentication method is found"
# Headers that name no IP address, from a balancer that is not checking us.
NAMELESS = {"unix": UNIX, "unspecified": UNSPECIFIED, "unknown": UNKNOWN}


def mapped(address: str, version: int) -> bytes:
    """A header for a client of IPv4 whose address is written as IPv6."""
    if version == 1:
        return build_v1(f"::ffff:{address}", 4711, "::ffff:10.0.0.1", 5432)
    block = bytes(10) + b"\xff\xff" + socket.inet_aton(address)
    block += bytes(16) + struct.pack("!HH", 4711, 5432)
    return SIGNATURE + b"\x21\x21" + struct.pack("!H", len(block)) + block


@pytest.fixture
def start(pooler: Callable[..., Any]) -> Callable[..., Any]:
    """Start a pooler with these HBA lines, whose balancers are *networks*."""

    def begin(hba: str, networks: str = "127.0.0.1", **settings: Any) -> Any:
        one = pooler(
            {
                "auth_type": "hba",
                "auth_hba_file": "{dir}/hba.conf",
                "pool_mode": "transaction",
                **settings,
            },
            run=False,
            databases={"p0": "{pg} user=u_trust"},
            users={"u_trust": "", ME: "", "admin": "adminpass"},
            more=f"[pybouncer]\nproxy_protocol_networks = {networks}\n",
        )
        (one.directory / "hba.conf").write_text(hba)
        one.identity.own(one.directory)
        return one.run()

    return begin


def is_read(port: int, client: FakeClient) -> bool:
    """Whether the process on *port* has read all that *client* has sent so far."""
    local = f":{port:04X}"
    remote = f":{client.sock.getsockname()[1]:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines():
        fields = line.split()
        if fields[1].endswith(local) and fields[2].endswith(remote):
            return fields[4].endswith(":00000000")
    return False


def attempt(
    one: Any, *headers: bytes, unix: bool = False, user: str = "u_trust"
) -> str:
    """Log in behind *headers*; what came last: a message's type, or an error's text."""
    with FakeClient(one.port) as client:
        if unix:
            client.sock.close()
            client.sock = socket.socket(socket.AF_UNIX)
            client.sock.settimeout(10)
            client.sock.connect(str(one.directory / f".s.PGSQL.{one.port}"))
        for header in headers:
            client.send_bytes(header)
        seen = client.login("p0", user)
        return error(seen).get("M") or str(seen[-1]["type"])


@pytest.mark.parametrize("name", NAMELESS)
def test_client_of_a_balancers_unix_socket_gets_in_as_the_balancer(
    start: Callable[..., Any], name: str
) -> None:
    """A path was taken for an address: `internal error`, for every such client."""
    one = start("host all all 127.0.0.1/32 trust\n")
    for _ in range(2):
        assert attempt(one, NAMELESS[name]) == READY
    one.wait_for_log(r"@127\.0\.0\.1:\d+ login attempt", 2)
    assert not one.log_matches("internal error")


@pytest.mark.parametrize("name", NAMELESS)
def test_header_makes_nobody_local(start: Callable[..., Any], name: str) -> None:
    """`local` and `peer` lines are for who is on a Unix socket of ours."""
    one = start(f"local all all trust\nhost all {ME} all peer\n")
    assert attempt(one, NAMELESS[name]) == NOBODY
    assert attempt(one, NAMELESS[name], user=ME) == "unix socket login rejected"


@pytest.mark.parametrize("name", NAMELESS)
def test_client_behind_our_unix_socket_is_not_the_balancers_os_user(
    start: Callable[..., Any], name: str
) -> None:
    """Whom the balancer speaks for has not the rights of the user that it runs as."""
    one = start(
        f"local all {ME} peer\nlocal all all trust\nhost all all all trust\n",
        networks="unix, 127.0.0.1",
    )
    assert attempt(one, unix=True, user=ME) == READY
    assert attempt(one, build_v2_local(), unix=True, user=ME) == READY
    refused = "unix socket login rejected"
    assert attempt(one, NAMELESS[name], unix=True, user=ME) == refused
    assert attempt(one, NAMELESS[name], unix=True) == READY


@pytest.mark.parametrize("name", [*NAMELESS, "address", "local"])
def test_second_header_is_refused(start: Callable[..., Any], name: str) -> None:
    """Behind a header without address a client could bring its own, and be anybody."""
    first = {
        **NAMELESS,
        "address": build_v1("127.0.0.1", 1, "127.0.0.1", 2),
        "local": build_v2_local(),
    }[name]
    one = start("host all all 127.0.0.1/32 reject\nhost all all 10.1.2.3/32 trust\n")
    own = build_v1("10.1.2.3", 1, "10.0.0.1", 2)
    assert attempt(one, own) == READY
    with FakeClient(one.port) as client:
        client.send_bytes(first)
        wait_for(lambda: is_read(one.port, client), 10)
        client.send_bytes(own)
        client.start([["database", "p0"], ["user", "u_trust"]])
        client.half_close()  # what makes no sense may wait for its rest
        assert client.read_until("ReadyForQuery", 1, 10)[-1]["type"] != READY
    with FakeClient(one.port) as client:
        client.send_bytes(first + own)
        client.start([["database", "p0"], ["user", "u_trust"]])
        client.half_close()
        assert client.read_until("ReadyForQuery", 1, 10)[-1]["type"] != READY
    assert len(one.log_matches("@10.1.2.3:1 login attempt")) == 1


@pytest.mark.parametrize("version", [1, 2])
def test_hba_line_of_ipv4_fits_an_address_written_as_ipv6(
    start: Callable[..., Any], version: int
) -> None:
    """A reject line for 10.1.2.3 was passed over by ::ffff:10.1.2.3."""
    one = start(
        "host all all 10.1.2.3/32 reject\n"
        "host all all ::ffff:10.9.9.9/128 reject\n"
        "host all all 10.0.0.0/8 trust\n"
        "host all all ::/0 trust\n"
    )
    for _ in range(2):
        assert attempt(one, mapped("10.1.2.3", version)) == "login rejected"
        assert attempt(one, mapped("10.9.9.9", version)) == "login rejected"
        assert attempt(one, mapped("10.1.2.4", version)) == READY
        assert attempt(one, mapped("192.0.2.1", version)) == READY
        assert attempt(one, build_v1("192.0.2.1", 1, "10.0.0.1", 2)) == NOBODY
    shown = [re.sub(r".*@(.*):\d+ .*", r"\1", at) for at in one.log_matches("attempt")]
    assert "[::ffff:10.1.2.3]" in shown, shown
