"""Messages of the protocol as bytes, and bytes taken apart again.

Short names, because the tests that use them are mostly lists of messages.
"""

import struct

Message = tuple[bytes, bytes]  # type byte, body


def message(code: bytes, body: bytes = b"") -> bytes:
    return code + struct.pack("!I", len(body) + 4) + body


# What a client sends


def query(sql: str) -> bytes:
    return message(b"Q", sql.encode() + b"\0")


def parse(name: str, sql: str, *types: int) -> bytes:
    counts = struct.pack(f"!H{len(types)}I", len(types), *types)
    return message(b"P", f"{name}\0{sql}\0".encode() + counts)


def bind(name: str, portal: str = "", *values: str) -> bytes:
    body = f"{portal}\0{name}\0".encode() + struct.pack("!HH", 0, len(values))
    for value in values:
        body += struct.pack("!I", len(value.encode())) + value.encode()
    return message(b"B", body + struct.pack("!H", 0))


def describe(name: str, kind: bytes = b"S") -> bytes:
    return message(b"D", kind + name.encode() + b"\0")


def execute(portal: str = "", limit: int = 0) -> bytes:
    return message(b"E", portal.encode() + b"\0" + struct.pack("!I", limit))


def close(name: str, kind: bytes = b"S") -> bytes:
    return message(b"C", kind + name.encode() + b"\0")


def function_call(oid: int, argument: bytes = b"") -> bytes:
    head = struct.pack("!IHH", oid, 0, 1)
    return message(
        b"F", head + struct.pack("!I", len(argument)) + argument + struct.pack("!H", 0)
    )


def copy_data(data: bytes) -> bytes:
    return message(b"d", data)


def copy_fail(text: str = "enough") -> bytes:
    return message(b"f", text.encode() + b"\0")


SYNC = message(b"S")
FLUSH = message(b"H")
COPY_DONE = message(b"c")
TERMINATE = message(b"X")


# What a server sends


def row_description(*names: str) -> bytes:
    body = struct.pack("!H", len(names))
    for name in names:
        body += name.encode() + b"\0" + struct.pack("!IhIhih", 0, 0, 25, -1, -1, 0)
    return message(b"T", body)


def data_row(*values: bytes) -> bytes:
    body = struct.pack("!H", len(values))
    for value in values:
        body += struct.pack("!I", len(value)) + value
    return message(b"D", body)


def complete(tag: str) -> bytes:
    return message(b"C", tag.encode() + b"\0")


def ready(status: str = "I") -> bytes:
    return message(b"Z", status.encode())


def error(sqlstate: str, text: str, severity: str = "ERROR") -> bytes:
    return message(b"E", fields(severity, sqlstate, text))


def notice(text: str) -> bytes:
    return message(b"N", fields("NOTICE", "00000", text))


def fields(severity: str, sqlstate: str, text: str) -> bytes:
    return f"S{severity}\0V{severity}\0C{sqlstate}\0M{text}\0\0".encode()


def notification(channel: str, payload: str = "") -> bytes:
    return message(b"A", struct.pack("!I", 99) + f"{channel}\0{payload}\0".encode())


def parameter_status(name: str, value: str) -> bytes:
    return message(b"S", f"{name}\0{value}\0".encode())


PARSE_COMPLETE = message(b"1")
BIND_COMPLETE = message(b"2")
CLOSE_COMPLETE = message(b"3")
NO_DATA = message(b"n")
EMPTY_QUERY = message(b"I")
SUSPENDED = message(b"s")
COPY_IN = message(b"G", b"\0\0\0")
COPY_OUT = message(b"H", b"\0\0\0")


# Taking apart


def split(data: bytes) -> tuple[list[Message], bytes]:
    """The whole messages in *data*, and what is left of it."""
    found = []
    pos = 0
    while len(data) - pos >= 5:
        end = pos + 1 + int.from_bytes(data[pos + 1 : pos + 5], "big")
        if end > len(data):
            break
        found.append((data[pos : pos + 1], data[pos + 5 : end]))
        pos = end
    return found, data[pos:]


def codes(data: bytes) -> str:
    """The type bytes of all messages in *data*; "~" for an unfinished last one."""
    found, rest = split(data)
    return b"".join(code for code, _ in found).decode() + ("~" if rest else "")


def rows(data: bytes) -> list[bytes]:
    """The first column of each data row."""
    return [body[6:] for code, body in split(data)[0] if code == b"D"]


def errors(data: bytes) -> list[str]:
    """The texts of all errors."""
    found = []
    for code, body in split(data)[0]:
        if code == b"E":
            text = next(part for part in body.split(b"\0") if part[:1] == b"M")
            found.append(text[1:].decode())
    return found
