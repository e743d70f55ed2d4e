"""PROXY headers that nobody but a hostile or odd balancer sends."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bouncer.relay.client import Client
from bouncer.relay.poller import Poller
from ha import proxy_protocol as proxy


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def header(command: int, family: int, block: bytes, size: int | None = None) -> bytes:
    length = len(block) if size is None else size
    return proxy.SIGNATURE + struct.pack("!BBH", command, family, length) + block


TLVS = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40)), max_size=6).map(
    lambda pairs: b"".join(tlv(*pair) for pair in pairs)
)
BLOCKS = st.tuples(
    st.sampled_from([0, 11, 12, 35, 36, 215, 216]).flatmap(
        lambda size: st.binary(min_size=size, max_size=size)
    ),
    TLVS,
).map(b"".join)
SECOND = st.builds(
    header,
    st.sampled_from([0x20, 0x21, 0x21, 0x21, 0x22, 0x11]),
    st.sampled_from([0x00, 0x10, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32, 0x41, 0xFF]),
    BLOCKS,
    st.one_of(st.none(), st.integers(0, 0xFFFF)),
)
WORDS = st.one_of(
    st.sampled_from(
        ["TCP4", "TCP6", "UNKNOWN", "::1", "::ffff:10.1.2.3", "10.1.2.3", "fe80::1%2"]
    ),
    st.integers(-1, 70000).map(str),
    st.text(alphabet="0123456789.:abcf%/ ", max_size=20),
)
FIRST = st.lists(WORDS, max_size=6).map(
    lambda words: " ".join(["PROXY", *words]).encode() + b"\r\n"
)


class App:
    """As much of the application as a client needs to be made."""

    door = None


@given(st.one_of(SECOND, FIRST), st.integers(0, 400))
def test_parse_raises_nothing_but_bad_header(data: bytes, cut: int) -> None:
    """And whatever address it gives is one that a client may have."""
    for part in (data, data[:cut], data + b"\0\0\0\x08"):
        try:
            found = proxy.parse(part)
        except proxy.BadHeader:
            continue
        if found is None or found.source is None:
            continue
        assert 0 < found.length <= len(part) and 0 <= found.source_port <= 65535
        assert found.family in ("tcp4", "tcp6", "unix")
        if found.family != "unix":
            client = Client(Poller(), -1, App(), None)
            client.set_peer(found.source, found.source_port)
            assert proxy.ip(client.peer_address) == proxy.ip(found.source)


def test_second_checksum_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each was computed over the whole header: 4 kB of them took 0.2 s."""
    computed = []

    def right(data: bytes) -> int:
        computed.append(len(data))
        return 0

    monkeypatch.setattr(proxy, "crc32c", right)
    one = tlv(proxy.TLV_CRC32C, bytes(4))
    assert proxy.parse(header(0x21, 0x11, bytes(12) + one)) is not None
    with pytest.raises(proxy.BadHeader, match="checksum"):
        proxy.parse(header(0x21, 0x11, bytes(12) + one * 500))
    assert len(computed) == 2


def test_tlvs_of_any_size_fit_up_to_the_bound() -> None:
    room = proxy.V2_MAX_REST - 12 - 3
    found = proxy.parse(header(0x21, 0x11, bytes(12) + tlv(0x05, bytes(room))))
    assert found is not None and found.length == 16 + proxy.V2_MAX_REST
    with pytest.raises(proxy.BadHeader):
        proxy.parse(header(0x21, 0x11, bytes(12) + tlv(0x05, bytes(room + 1))))
