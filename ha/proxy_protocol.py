"""The PROXY protocol, versions 1 and 2: who is behind a balancer.

A header is believed only from a network that the operator listed, because whoever
may send one may claim any address, and HBA rules go by address. PostgreSQL's first
byte is always 0 (a length below 16 MB), so a header cannot be mistaken for a
startup packet: it may be optional, and where it is not allowed it can be named.
(Facts: HAProxy's proxy-protocol.txt, sections 2.1 and 2.2.)
"""

from __future__ import annotations

import ipaddress
import re
import struct
from dataclasses import dataclass

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V1_PREFIX = b"PROXY"
# The longest line that version 1 allows, CRLF included.
V1_MAX = 107
V2_FIXED = 16
# Addresses take at most 216 bytes; the rest is room for TLVs. The field itself
# could say 65535, which nobody who forwards a TCP connection needs.
V2_MAX_REST = 4096
UNIX_PATH = 108

TLV_CRC32C = 0x03
TLV_SSL = 0x20
TLV_NOOP = 0x04
SSL_CLIENT_USED_TLS = 0x01
SSL_VERSION = 0x21

FAMILIES = {0x11: "tcp4", 0x21: "tcp6", 0x31: "unix"}
CODES = {family: code for code, family in FAMILIES.items()}
ADDRESS_BYTES = {"tcp4": 12, "tcp6": 36, "unix": 2 * UNIX_PATH}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class BadHeader(Exception):
    """These bytes are not a header that may be used; the text is for the log."""


@dataclass(frozen=True, slots=True)
class Header:
    """What one header said.

    *length* bytes of the stream belong to it. *source* is None when it names
    nobody (LOCAL, UNKNOWN, unspecified family): the connection's own address stays.
    It is a path when *family* is "unix".
    """

    version: int
    local: bool
    length: int
    source: str | None = None
    source_port: int = 0
    destination: str | None = None
    destination_port: int = 0
    family: str = "unknown"
    tls: str | None = None


def looks_like_header(data: bytes) -> bool:
    """Could *data*, the first bytes of a connection, be (the start of) a header?"""
    return bool(data) and (
        data[: len(V1_PREFIX)] == V1_PREFIX[: len(data)]
        or data[: len(SIGNATURE)] == SIGNATURE[: len(data)]
    )


def parse(data: bytes) -> Header | None:
    """Read the header at the start of *data*; None means more bytes are needed.

    Raises `BadHeader` as soon as it is certain that no header can come of it.
    """
    if not data:
        return None
    if data[:1] == V1_PREFIX[:1]:
        return parse_v1(data)
    if data[: len(SIGNATURE)] == SIGNATURE[: len(data)]:
        return parse_v2(data)
    raise BadHeader("no PROXY header")


# Version 1


def parse_v1(data: bytes) -> Header | None:
    """`PROXY TCP4 1.2.3.4 5.6.7.8 1111 2222` and CRLF."""
    if data[: len(V1_PREFIX)] != V1_PREFIX[: len(data)]:
        raise BadHeader("no PROXY header")
    end = data.find(b"\r\n", 0, V1_MAX)
    if end < 0:
        if len(data) >= V1_MAX:
            raise BadHeader(f"PROXY v1 line longer than {V1_MAX} bytes")
        if b"\n" in data:
            raise BadHeader("PROXY v1 line does not end with CRLF")
        return None
    try:
        words = data[:end].decode("ascii").split(" ")
    except UnicodeDecodeError:
        raise BadHeader("PROXY v1 line is not ASCII") from None
    length = end + 2
    if words[0] != "PROXY" or len(words) < 2:
        raise BadHeader("malformed PROXY v1 line")
    if words[1] == "UNKNOWN":
        # "The receiver must ignore anything presented before the CRLF."
        return Header(1, False, length)
    if words[1] not in ("TCP4", "TCP6") or len(words) != 6:
        raise BadHeader("malformed PROXY v1 line")
    family = words[1].lower()
    return Header(
        1,
        False,
        length,
        source=address_text(words[2], family),
        source_port=port_number(words[4]),
        destination=address_text(words[3], family),
        destination_port=port_number(words[5]),
        family=family,
    )


def address_text(text: str, family: str) -> str:
    """The address in its usual spelling."""
    kind = ipaddress.IPv4Address if family == "tcp4" else ipaddress.IPv6Address
    try:
        if "%" in text:
            raise ValueError
        return str(kind(text))
    except ValueError:
        raise BadHeader(f"PROXY v1 line with a bad address: {text!r}") from None


def port_number(text: str) -> int:
    """A decimal port, without sign, blank or leading zero."""
    if not re.fullmatch(r"0|[1-9][0-9]{0,4}", text) or int(text) > 65535:
        raise BadHeader(f"PROXY v1 line with a bad port: {text!r}")
    return int(text)


# Version 2


def parse_v2(data: bytes) -> Header | None:
    """Signature, version and command, family, length, addresses, TLVs."""
    if len(data) < V2_FIXED:
        if len(data) > len(SIGNATURE) and data[len(SIGNATURE)] >> 4 != 2:
            raise BadHeader("PROXY header of an unknown version")
        return None
    version_command, family_code, rest = struct.unpack_from("!BBH", data, 12)
    if version_command >> 4 != 2:
        raise BadHeader("PROXY header of an unknown version")
    command = version_command & 0x0F
    if command > 1:
        raise BadHeader(f"PROXY v2 header with unknown command {command}")
    if rest > V2_MAX_REST:
        raise BadHeader(f"PROXY v2 header of {rest} bytes")
    length = V2_FIXED + rest
    if len(data) < length:
        return None
    if command == 0:
        # LOCAL: the balancer speaks for itself. Addresses are to be skipped.
        return Header(2, True, length)
    if family_code == 0:
        tls = read_tlvs(data[:length], V2_FIXED)
        return Header(2, False, length, tls=tls)
    family = FAMILIES.get(family_code)
    if family is None:
        raise BadHeader(f"PROXY v2 header for family 0x{family_code:02x}")
    if rest < ADDRESS_BYTES[family]:
        raise BadHeader(f"PROXY v2 header too short for {family}")
    tls = read_tlvs(data[:length], V2_FIXED + ADDRESS_BYTES[family])
    source, source_port, destination, destination_port = read_addresses(
        data[V2_FIXED : V2_FIXED + ADDRESS_BYTES[family]], family
    )
    return Header(
        2,
        False,
        length,
        source=source,
        source_port=source_port,
        destination=destination,
        destination_port=destination_port,
        family=family,
        tls=tls,
    )


def read_addresses(block: bytes, family: str) -> tuple[str, int, str, int]:
    """Source, its port, destination, its port."""
    if family == "unix":
        paths = (block[:UNIX_PATH], block[UNIX_PATH:])
        source, destination = (
            path.rstrip(b"\0").split(b"\0", 1)[0].decode("utf-8", "replace")
            for path in paths
        )
        return source or "unix", 0, destination or "unix", 0
    half = 4 if family == "tcp4" else 16
    source_port, destination_port = struct.unpack_from("!HH", block, 2 * half)
    return (
        str(ipaddress.ip_address(block[:half])),
        source_port,
        str(ipaddress.ip_address(block[half : 2 * half])),
        destination_port,
    )


def read_tlvs(header: bytes, place: int) -> str | None:
    """Check the lengths and the checksum; returns the client's TLS version."""
    tls: str | None = None
    checked = False
    while place < len(header):
        kind, size, value = one_tlv(header, place)
        if kind == TLV_CRC32C:
            if size != 4 or checked:
                # Each would be computed over the whole header.
                raise BadHeader("PROXY v2 header with a malformed checksum")
            checked = True
            blank = header[: place + 3] + b"\0\0\0\0" + header[place + 7 :]
            if crc32c(blank) != int.from_bytes(value, "big"):
                raise BadHeader("PROXY v2 header with a wrong checksum")
        elif kind == TLV_SSL:
            tls = read_ssl_tlv(value)
        place += 3 + size
    return tls


def one_tlv(block: bytes, place: int) -> tuple[int, int, bytes]:
    """Type, length and value at *place*."""
    if len(block) - place < 3:
        raise BadHeader("PROXY v2 header with a cut TLV")
    kind, size = struct.unpack_from("!BH", block, place)
    if len(block) - place - 3 < size:
        raise BadHeader("PROXY v2 header with a TLV that is longer than the header")
    return kind, size, block[place + 3 : place + 3 + size]


def read_ssl_tlv(value: bytes) -> str | None:
    """The TLS version between the client and the balancer, None without TLS."""
    if len(value) < 5:
        raise BadHeader("PROXY v2 header with a cut TLV")
    place, version = 5, ""
    while place < len(value):
        kind, size, inner = one_tlv(value, place)
        if kind == SSL_VERSION:
            version = inner.decode("ascii", "replace")
        place += 3 + size
    return (version or "TLS") if value[0] & SSL_CLIENT_USED_TLS else None


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            # Castagnoli's polynomial, bits reversed.
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


CRC32C_TABLE = _crc32c_table()


def crc32c(data: bytes) -> int:
    """The checksum that version 2 may carry (RFC 4960, appendix B)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC32C_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


# Building

# Nobody's connection but our own; or of what version 1 has no word for.
UNKNOWN_V1 = b"PROXY UNKNOWN\r\n"


def build_v1(
    source: str, source_port: int, destination: str, destination_port: int
) -> bytes:
    """A version 1 header; what is not a pair of one family is UNKNOWN."""
    addresses = pair(source, destination)
    if addresses is None:
        return UNKNOWN_V1
    first, second = addresses
    return (
        f"PROXY TCP{first.version} {first} {second} {source_port} {destination_port}"
        "\r\n"
    ).encode()


def build_v2(
    source: str,
    source_port: int,
    destination: str,
    destination_port: int,
    checksum: bool = False,
) -> bytes:
    """A version 2 header. Two unix paths (or "unix") make a unix header."""
    addresses = pair(source, destination)
    if addresses is not None:
        first, second = addresses
        block = first.packed + second.packed
        block += struct.pack("!HH", source_port, destination_port)
        code = CODES["tcp4" if first.version == 4 else "tcp6"]
    elif ip(source) is None and ip(destination) is None:
        block = b"".join(
            path.encode()[: UNIX_PATH - 1].ljust(UNIX_PATH, b"\0")
            for path in (source, destination)
        )
        code = CODES["unix"]
    else:
        block, code = b"", 0
    return assemble(0x21, code, block, checksum)


def build_v2_local() -> bytes:
    """The header of a connection that is nobody's but our own: a check, a cancel."""
    return assemble(0x20, 0, b"", False)


def assemble(command: int, code: int, block: bytes, checksum: bool) -> bytes:
    """Put a version 2 header together."""
    tlv = struct.pack("!BHI", TLV_CRC32C, 4, 0) if checksum else b""
    header = SIGNATURE + struct.pack("!BBH", command, code, len(block) + len(tlv))
    header += block + tlv
    return header[:-4] + struct.pack("!I", crc32c(header)) if checksum else header


def pair(source: str, destination: str) -> tuple[Address, Address] | None:
    """Both addresses, of one family; v4 is lifted to v6 when only one is v4."""
    first, second = ip(source), ip(destination)
    if first is None or second is None:
        return None
    if first.version != second.version:
        first, second = mapped(first), mapped(second)
    return first, second


def ip(text: str) -> Address | None:
    """The address, without its zone; None for what is not one."""
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def mapped(address: Address) -> Address:
    """An IPv4 address as IPv6."""
    if address.version == 6:
        return address
    return ipaddress.IPv6Address(f"::ffff:{address}")


# Who is believed


class TrustedNetworks:
    """The networks of `proxy_protocol_networks`; `unix` stands for unix sockets."""

    def __init__(self, text: str) -> None:
        self.networks: list[Network] = []
        self.unix = False
        for word in re.split(r"[\s,]+", text.strip()):
            if word == "unix":
                self.unix = True
            elif word:
                # Raises ValueError with a text that names the word. Host bits are
                # a slip of the pen, and a slip here is a hole.
                self.networks.append(ipaddress.ip_network(word))

    def __bool__(self) -> bool:
        return self.unix or bool(self.networks)

    def __contains__(self, address: object) -> bool:
        """May a connection from *address* (a text, or "unix") bring a header?"""
        if address == "unix":
            return self.unix
        plain = ip(str(address))
        if plain is None:
            return False
        if isinstance(plain, ipaddress.IPv6Address) and plain.ipv4_mapped is not None:
            plain = plain.ipv4_mapped
        return any(plain in network for network in self.networks)
