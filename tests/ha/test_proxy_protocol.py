"""PROXY protocol headers: real ones, cut ones, wrong ones."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha import proxy_protocol as proxy

# As HAProxy 2.6.12 sent them.
HAPROXY_V1 = b"PROXY TCP4 127.0.0.1 127.0.0.1 33306 17000\r\n"
HAPROXY_V2 = (
    b"\r\n\r\n\x00\r\nQUIT\n!\x11\x00\x0c\x7f\x00\x00\x01\x7f\x00\x00\x01\x82 Bh"
)
HAPROXY_V2_TLV = (
    b"\r\n\r\n\x00\r\nQUIT\n!\x11\x00.\x7f\x00\x00\x01\x7f\x00\x00\x01\x82*Bh"
    b"\x03\x00\x04\xcftq\xd7\x05\x00\x18-7F000001:822A-3BFF-0001"
)
HAPROXY_LOCAL = b"\r\n\r\n\x00\r\nQUIT\n \x00\x00\x00"
SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16/"


@pytest.mark.parametrize(
    ("data", "port"),
    [(HAPROXY_V1, 33306), (HAPROXY_V2, 0x8220), (HAPROXY_V2_TLV, 0x822A)],
)
def test_haproxy_header_names_the_client_and_leaves_the_rest(data, port):
    header = proxy.parse(data + SSL_REQUEST)
    assert header.source == "127.0.0.1"
    assert header.source_port == port
    assert header.destination == "127.0.0.1"
    assert header.destination_port == 17000
    assert (data + SSL_REQUEST)[header.length :] == SSL_REQUEST
    assert not header.local


def test_local_header_of_a_health_check_names_nobody():
    header = proxy.parse(HAPROXY_LOCAL + SSL_REQUEST)
    assert header.local
    assert header.source is None
    assert header.length == len(HAPROXY_LOCAL)


def test_local_header_with_addresses_is_skipped_whole():
    data = proxy.SIGNATURE + b"\x20\x11" + struct.pack("!H", 15) + b"x" * 15
    header = proxy.parse(data)
    assert header.local and header.source is None and header.length == len(data)


@pytest.mark.parametrize(
    "line",
    [b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ffff::1 nonsense 1 2 3 4\r\n"],
)
def test_unknown_line_is_skipped_up_to_its_end(line):
    header = proxy.parse(line + b"\0\0")
    assert header.source is None
    assert header.length == len(line)


def test_version_one_ipv6():
    header = proxy.parse(b"PROXY TCP6 2001:DB8::1 ::1 65535 1\r\n")
    assert (header.source, header.source_port) == ("2001:db8::1", 65535)
    assert header.family == "tcp6"


@pytest.mark.parametrize(
    "data", [HAPROXY_V1, HAPROXY_V2, HAPROXY_V2_TLV, HAPROXY_LOCAL]
)
def test_each_prefix_asks_for_more(data):
    for size in range(len(data)):
        assert proxy.parse(data[:size]) is None
        assert size == 0 or proxy.looks_like_header(data[:size])
    assert proxy.parse(data).length == len(data)


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY TCP4 127.0.0.1 127.0.0.1 33306 17000\n" + b" " * 80,
        b"PROXY TCP4 127.0.0.1 127.0.0.1 33306 17000\n",
        b"PROXY  TCP4 127.0.0.1 127.0.0.1 33306 17000\r\n",
        b"PROXY TCP4 127.0.0.1 127.0.0.1 33306\r\n",
        b"PROXY TCP4 127.0.0.1 127.0.0.1 33306 17000 \r\n",
        b"PROXY TCP4 127.0.0.1 127.0.0.1 033 17000\r\n",
        b"PROXY TCP4 127.0.0.1 127.0.0.1 -1 17000\r\n",
        b"PROXY TCP4 127.0.0.1 127.0.0.1 65536 17000\r\n",
        b"PROXY TCP4 127.0.0.01 127.0.0.1 1 17000\r\n",
        b"PROXY TCP4 ::1 ::1 1 17000\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 1 17000\r\n",
        b"PROXY TCP6 127.0.0.1 127.0.0.1 1 17000\r\n",
        b"PROXY UDP4 127.0.0.1 127.0.0.1 1 17000\r\n",
        b"PROXY\r\n",
        b"PROXY \r\n",
        b"PROXYTCP4 127.0.0.1 127.0.0.1 1 2\r\n",
        b"PROXY TCP4 \xff 127.0.0.1 1 2\r\n",
        b"PROXI",
        b"P" * 200,
        b"PROXY " + b"a" * 101,
    ],
)
def test_version_one_wrong_line_is_refused(line):
    with pytest.raises(proxy.BadHeader):
        proxy.parse(line)


def test_version_one_longest_line():
    line = b"PROXY UNKNOWN " + b"x" * (107 - 14 - 2) + b"\r\n"
    assert len(line) == 107
    assert proxy.parse(line).length == 107
    with pytest.raises(proxy.BadHeader):
        proxy.parse(line[:-2] + b"x\r\n")


@pytest.mark.parametrize(
    "data",
    [
        proxy.SIGNATURE + b"\x31\x11\x00\x0c" + b"\0" * 12,  # version 3
        proxy.SIGNATURE + b"\x31",
        proxy.SIGNATURE + b"\x22\x11\x00\x0c" + b"\0" * 12,  # command 2
        proxy.SIGNATURE + b"\x21\x12\x00\x0c" + b"\0" * 12,  # UDP
        proxy.SIGNATURE + b"\x21\x41\x00\x0c" + b"\0" * 12,  # family 4
        proxy.SIGNATURE + b"\x21\x11\x00\x0b" + b"\0" * 11,  # too short
        proxy.SIGNATURE + b"\x21\x21\x00\x0c" + b"\0" * 12,
        proxy.SIGNATURE + b"\x21\x11\x00\x0e" + b"\0" * 14,  # half a TLV
        proxy.SIGNATURE + b"\x21\x11\x00\x0f" + b"\0" * 12 + b"\x05\x00\x01",
        proxy.SIGNATURE + b"\x21\x11\xff\xff",  # would be 64 kB
        HAPROXY_V2_TLV.replace(b"\xcftq\xd7", b"\xcftq\xd8"),
        HAPROXY_V2_TLV.replace(b"822A-", b"822B-"),
        b"\r\n\r\nX",
        SSL_REQUEST,
        b"GET / HTTP/1.0\r\n\r\n",
    ],
)
def test_version_two_wrong_header_is_refused(data):
    with pytest.raises(proxy.BadHeader):
        proxy.parse(data)


def test_ssl_tlv_tells_the_version_of_tls():
    inner = b"\x21\x00\x07TLSv1.3"
    value = b"\x01\x00\x00\x00\x00" + inner
    tlv = b"\x20" + struct.pack("!H", len(value)) + value
    block = b"\x7f\0\0\1\x7f\0\0\1\0\1\0\2" + tlv
    data = proxy.SIGNATURE + b"\x21\x11" + struct.pack("!H", len(block)) + block
    assert proxy.parse(data).tls == "TLSv1.3"
    off = data.replace(b"\x01\x00\x00\x00\x00" + inner, b"\x00\x00\x00\x00\x00" + inner)
    assert proxy.parse(off).tls is None


def test_unix_header():
    data = proxy.build_v2("/run/a.sock", 0, "unix", 0)
    header = proxy.parse(data)
    assert (header.family, header.source, header.destination) == (
        "unix",
        "/run/a.sock",
        "unix",
    )
    assert len(data) == 16 + 216


def test_built_headers_are_those_of_haproxy():
    assert proxy.build_v1("127.0.0.1", 33306, "127.0.0.1", 17000) == HAPROXY_V1
    assert proxy.build_v2("127.0.0.1", 0x8220, "127.0.0.1", 17000) == HAPROXY_V2
    assert proxy.build_v2_local() == HAPROXY_LOCAL


def test_crc32c_of_the_usual_check_string():
    assert proxy.crc32c(b"123456789") == 0xE3069283


addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
ports = st.integers(0, 65535)


@given(addresses, ports, addresses, ports, st.booleans(), st.binary(max_size=20))
def test_what_was_built_reads_back(source, sport, target, tport, checksum, rest):
    for data in (
        proxy.build_v1(source, sport, target, tport),
        proxy.build_v2(source, sport, target, tport, checksum),
    ):
        header = proxy.parse(data + rest)
        assert header.length == len(data)
        same = proxy.ip(header.source)
        expected = proxy.ip(source)
        assert same in (expected, proxy.mapped(expected))
        assert (header.source_port, header.destination_port) == (sport, tport)


@given(st.binary(max_size=300))
def test_any_bytes_give_a_header_a_refusal_or_a_wish_for_more(data):
    for start in (b"", b"PROXY ", proxy.SIGNATURE, proxy.SIGNATURE + b"\x21\x11"):
        whole = start + data
        try:
            header = proxy.parse(whole)
        except proxy.BadHeader:
            continue
        assert header is None or 0 < header.length <= len(whole)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        (
            "10.0.0.0/8, ::1",
            ["10.1.2.3", "::1", "::ffff:10.1.2.3"],
            ["11.0.0.1", "unix"],
        ),
        ("unix", ["unix"], ["127.0.0.1", "::1", "garbage"]),
        ("127.0.0.1 2001:db8::/32", ["127.0.0.1", "2001:db8::9"], ["127.0.0.2"]),
        ("", [], ["127.0.0.1", "unix"]),
    ],
)
def test_networks(text, inside, outside):
    networks = proxy.TrustedNetworks(text)
    assert bool(networks) == bool(text)
    for address in inside:
        assert address in networks
    for address in outside:
        assert address not in networks


@pytest.mark.parametrize("text", ["10.0.0.1/8", "nonsense", "1.2.3", "10.0.0.0/33"])
def test_networks_with_a_slip_of_the_pen_are_refused(text):
    with pytest.raises(ValueError, match=text.partition("/")[0]):
        proxy.TrustedNetworks(text)
