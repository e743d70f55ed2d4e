"""Ask a server one simple query and read the rows as text."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from bouncer.errors import Disconnect, ServerError
from bouncer.relay.talk import READ
from bouncer.wire.messages import (
    BE_DATA_ROW,
    BE_ERROR,
    BE_READY,
    parse_data_row,
    parse_fields,
    query,
)

Row = tuple[str | None, ...]
# A probe asks for a handful; nobody shall fill our memory.
MAX_ROWS = 1000
MAX_BYTES = 1 << 20  # of the whole answer
MAX_MESSAGES = 10_000
COPIES = b"GW"  # CopyInResponse, CopyBothResponse


def probe(server: Any, sql: str) -> Generator[Any, Any, list[Row] | ServerError]:
    """Run *sql*; gives its rows, or the error that the server answered with."""
    rows: list[Row] = []
    error: ServerError | None = None
    server.write(query(sql))
    size = 0
    for _ in range(MAX_MESSAGES):
        code, body = yield READ
        if code == BE_DATA_ROW:
            size += len(body)
            if len(rows) == MAX_ROWS or size > MAX_BYTES:
                raise Disconnect("unexpected response from probe")
            rows.append(
                tuple(
                    None if value is None else value.decode("utf-8", "replace")
                    for value in parse_data_row(body)
                )
            )
        elif code == BE_ERROR:
            fields = parse_fields(body)
            error = ServerError(fields.get("M", ""), fields.get("C", ""))
        elif code in COPIES:
            raise Disconnect("unexpected response from probe")  # it would wait for ever
        elif code == BE_READY:
            if body != b"I":
                raise Disconnect("unexpected response from probe")
            return rows if error is None else error
    raise Disconnect("unexpected response from probe")
