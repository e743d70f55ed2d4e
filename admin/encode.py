"""Turn rows of plain values into the console's messages, as text or as binary.

The one hard idea: 10 000 rows are mostly the same few hundred values. `Cells` keeps
the finished bytes of every value it has seen (length word included), so a row costs
one dictionary look-up per column and one join.

Values are `str`, `int`, `float`, `bytes` (bytea) or None; never `bool`, which would
be taken for the 1 or 0 that it equals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from math import isfinite
from struct import Struct
from typing import Final, NamedTuple

from bouncer.errors import CommandError
from bouncer.wire.messages import encode_text

Value = str | int | float | bytes | None

OID_BOOL: Final = 16
OID_BYTEA: Final = 17
OID_INT8: Final = 20
OID_INT2: Final = 21
OID_INT4: Final = 23
OID_TEXT: Final = 25
OID_OID: Final = 26
OID_FLOAT4: Final = 700
OID_FLOAT8: Final = 701
OID_NUMERIC: Final = 1700
TEXTS: Final = frozenset({0, 18, 19, OID_TEXT, 705, 1042, 1043})

TEXT: Final = 0
BINARY: Final = 1

_HEADER: Final = Struct("!cI")
_ROW: Final = Struct("!cIH")
_COUNT: Final = Struct("!H")
_INT2: Final = Struct("!h")
_INT4: Final = Struct("!i")
_INT8: Final = Struct("!q")
_FLOAT4: Final = Struct("!f")
_FLOAT8: Final = Struct("!d")
_OIDS: Final = Struct("!I")
_NUMERIC: Final = Struct("!HhHH")
_SIZES: Final = [size.to_bytes(4, "big") for size in range(256)]
_NULL: Final = b"\xff\xff\xff\xff"
# Behind the name: table oid, column number, type oid and length, modifier, format.
_COLUMN: Final = Struct("!IHIhih")

PARSE_COMPLETE: Final = b"1\0\0\0\x04"
BIND_COMPLETE: Final = b"2\0\0\0\x04"
CLOSE_COMPLETE: Final = b"3\0\0\0\x04"
NO_DATA: Final = b"n\0\0\0\x04"
PORTAL_SUSPENDED: Final = b"s\0\0\0\x04"
EMPTY_QUERY: Final = b"I\0\0\0\x04"

# As PostgreSQL writes them.
_NOT_FINITE: Final = {float("inf"): b"Infinity", float("-inf"): b"-Infinity"}

# A value longer than this is not worth keeping.
LONGEST_KEPT: Final = 64
# So many finished values are kept per answer.
MOST_KEPT: Final = 4096
# Numbers from here on are ids, ports, microseconds: each is needed once.
ALL_DIFFERENT: Final = 10_000


class Column(NamedTuple):
    """Name and type of a column as RowDescription has them."""

    name: str
    oid: int = OID_TEXT
    length: int = -1


_TYPES: Final = {
    "t": (OID_TEXT, -1),
    "i": (OID_INT4, 4),
    "q": (OID_INT8, 8),
    "n": (OID_NUMERIC, -1),
    "b": (OID_BYTEA, -1),
    "f": (OID_FLOAT8, 8),
    "o": (OID_OID, 4),
    "l": (OID_BOOL, 1),
}


def columns(spec: str) -> tuple[Column, ...]:
    """Read columns like `t: name host i: port`; the letters are admin.md's."""
    found: list[Column] = []
    oid, length = _TYPES["t"]
    for word in spec.split():
        if word.endswith(":"):
            oid, length = _TYPES[word[:-1]]
        else:
            found.append(Column(word, oid, length))
    return tuple(found)


_TYPE_NAMES: Final = {"text": "t", "int4": "i", "int8": "q"}


def columns_of(named: Iterable[tuple[str, str]]) -> tuple[Column, ...]:
    """Read columns given as (name, type name)."""
    return tuple(Column(name, *_TYPES[_TYPE_NAMES[kind]]) for name, kind in named)


def row_description(shape: Sequence[Column], formats: Sequence[int] = ()) -> bytes:
    """Announce *shape*; *formats* are one per column, or none for all text."""
    body = [_COUNT.pack(len(shape))]
    for index, (name, oid, length) in enumerate(shape):
        body.append(encode_text(name) + b"\0")
        how = formats[index] if formats else TEXT
        body.append(_COLUMN.pack(0, 0, oid, length, -1, how))
    return packet(b"T", b"".join(body))


def parameter_description(oids: Sequence[int]) -> bytes:
    """Announce the types of a statement's parameters."""
    return packet(
        b"t", _COUNT.pack(len(oids)) + b"".join(_OIDS.pack(oid) for oid in oids)
    )


def packet(code: bytes, body: bytes) -> bytes:
    """Put the header in front of *body*."""
    return _HEADER.pack(code, len(body) + 4) + body


# Text


class Cells(dict[Value, bytes]):
    """Finished text cells by value: length and bytes."""

    def __missing__(self, value: Value) -> bytes:
        if isinstance(value, str):
            data = value.encode("utf-8", "surrogateescape")
            keep = len(data) <= LONGEST_KEPT
        elif isinstance(value, int):
            data = b"%d" % value
            keep = value < ALL_DIFFERENT
        elif value is None:
            return _NULL
        else:
            # A float that equals an int must not find the int's text.
            data = text_of(value) or b""
            keep = False
        size = len(data)
        cell = (_SIZES[size] if size < 256 else size.to_bytes(4, "big")) + data
        if keep and len(self) < MOST_KEPT:
            self[value] = cell
        return cell


def text_of(value: Value) -> bytes | None:
    """Write one value as text; None is NULL."""
    if isinstance(value, str):
        return encode_text(value)
    if value is None:
        return None
    if isinstance(value, bytes):
        return b"\\x" + value.hex().encode()
    if isinstance(value, float) and not isfinite(value):
        return _NOT_FINITE.get(value, b"NaN")
    return str(value).encode()


def text_rows(rows: Iterable[Sequence[Value]], width: int) -> Iterable[bytes]:
    """Make the DataRow of each row, all columns as text."""
    cells = Cells()
    cell = cells.__getitem__
    pack = _ROW.pack
    for row in rows:
        body = b"".join(map(cell, row))
        yield pack(b"D", len(body) + 6, width) + body


# Binary


def _binary_text(value: Value) -> bytes:
    return text_of(value) or b""


def _binary_bytea(value: Value) -> bytes:
    return value if isinstance(value, bytes) else text_of(value) or b""


def _binary_numeric(value: Value) -> bytes:
    """Write base-10000 digits: count, weight of the first, sign, scale, digits."""
    number = Decimal(str(value))
    sign, digits, exponent = number.as_tuple()
    if not isinstance(exponent, int):
        return _NUMERIC.pack(0, 0, 0xC000, 0)  # NaN, as PostgreSQL writes it
    scale = max(0, -exponent)
    text = "".join(map(str, digits)) + "0" * max(0, exponent)
    whole, part = (text[:-scale], text[-scale:]) if scale else (text, "")
    part = part.rjust(scale, "0")
    whole = whole.rjust(-(-len(whole) // 4) * 4, "0")
    part = part.ljust(-(-len(part) // 4) * 4, "0")
    groups = [int((whole + part)[at : at + 4]) for at in range(0, len(whole + part), 4)]
    weight = len(whole) // 4 - 1
    while groups and groups[0] == 0:
        del groups[0]
        weight -= 1
    while groups and groups[-1] == 0:
        del groups[-1]
    if not groups:
        weight = sign = 0
    head = _NUMERIC.pack(len(groups), weight, 0x4000 if sign else 0, scale)
    return head + b"".join(_INT2.pack(group) for group in groups)


def _binary_int(size: int) -> Callable[[Value], bytes]:
    def write(value: Value) -> bytes:
        number = whole_number(value)
        # SHOW FDS has cancel keys, which are unsigned.
        return (number & (1 << 8 * size) - 1).to_bytes(size, "big")

    return write


def _binary_float8(value: Value) -> bytes:
    return _FLOAT8.pack(float(value or 0))


def _binary_bool(value: Value) -> bytes:
    return b"\1" if value in ("t", 1) else b"\0"


def whole_number(value: Value) -> int:
    """Return *value* as the integer that its column promised."""
    if isinstance(value, int):
        return value
    try:
        number = float(value or 0)
        if number.is_integer():
            return int(number)
    except ValueError:
        pass
    raise CommandError(f"value is no integer: {repr(value)[:100]}", "22P02")


WRITERS: Final[dict[int, Callable[[Value], bytes]]] = {
    OID_BOOL: _binary_bool,
    OID_BYTEA: _binary_bytea,
    OID_INT8: _binary_int(8),
    OID_INT4: _binary_int(4),
    OID_OID: _binary_int(4),
    OID_TEXT: _binary_text,
    OID_FLOAT8: _binary_float8,
    OID_NUMERIC: _binary_numeric,
}


def mixed_rows(
    rows: Iterable[Sequence[Value]], shape: Sequence[Column], formats: Sequence[int]
) -> Iterable[bytes]:
    """Make the DataRow of each row, each column in the format asked for."""
    cells = Cells()
    writers = [
        WRITERS[column.oid] if how == BINARY else None
        for column, how in zip(shape, formats, strict=True)
    ]
    for row in rows:
        parts: list[bytes] = []
        for value, write in zip(row, writers, strict=True):
            if write is None:
                parts.append(cells[value])
            elif value is None:
                parts.append(_NULL)
            else:
                data = write(value)
                parts.append(len(data).to_bytes(4, "big") + data)
        body = b"".join(parts)
        yield _ROW.pack(b"D", len(body) + 6, len(shape)) + body


# Parameters

_FIXED: Final = {
    OID_INT2: _INT2,
    OID_INT4: _INT4,
    OID_INT8: _INT8,
    OID_OID: _OIDS,
    OID_FLOAT4: _FLOAT4,
    OID_FLOAT8: _FLOAT8,
}


def parameter(data: bytes | None, oid: int, how: int) -> Value:
    """Read the value of a parameter of type *oid*, sent as text or binary."""
    if data is None:
        return None
    try:
        if how == BINARY:
            return _binary_parameter(data, oid)
        text = data.decode("utf-8")
        if oid in (OID_INT2, OID_INT4, OID_INT8, OID_OID):
            return int(text)
        if oid in (OID_FLOAT4, OID_FLOAT8, OID_NUMERIC):
            number = float(text)
            return int(text) if text.lstrip("+-").isdigit() else number
        if oid == OID_BOOL:
            return int(text[:1] in ("t", "T", "1", "y", "Y"))
        return text
    except ValueError:
        raise CommandError(
            f"invalid value of a parameter of type {oid}", "22P02"
        ) from None


def _binary_parameter(data: bytes, oid: int) -> Value:
    if oid in TEXTS:
        return data.decode("utf-8")
    if oid == OID_BYTEA:
        return data
    if oid == OID_BOOL and len(data) == 1:
        return data[0]
    reader = _FIXED.get(oid)
    if reader is None:
        raise CommandError(f"no binary parameters of type {oid} here", "0A000")
    if len(data) != reader.size:
        raise CommandError("incorrect binary data format in a parameter", "22P03")
    value: int | float = reader.unpack(data)[0]
    return value
