"""SHOW FDS for a process that takes over: each row with the descriptor it names.

The one hard idea: a descriptor travels beside the bytes of one message, so each row
is one message, sent when everything before it has left.
"""

from __future__ import annotations

import array
import asyncio
import errno
import os
import socket
from collections.abc import Generator
from typing import Any, Final

from admin.encode import text_rows
from admin.show import TOPICS, App
from bouncer import carry

Talk = Generator[Any, Any, None]

DRAIN_PAUSE: Final = 0.02


def hand_over(app: App, client: Any) -> Talk:
    """Send each row of SHOW FDS with the descriptor it names."""
    to_ours = carry.is_ours(client)
    rows = app.fds(to_ours)
    width = len(TOPICS["FDS"].shape)
    # A process of ours is told more, in a column that it alone asks for.
    known = carry.streams(app) if to_ours else None
    told: set[Any] = set()
    yield drained(client)
    connection = socket.socket(fileno=os.dup(client.fd))
    try:
        for row in rows:
            if known is None:
                packets = text_rows([row._replace(cancel=signed(row.cancel))], width)
            else:
                state = carry.state_of(known.get(row.fd), told)
                packets = text_rows([(*row, state)], width + 1)
            data = b"".join(packets)
            yield from send_with_descriptor(connection, data, row.fd)
        app.commands.handed_over = True
        app.commands.to_ours = to_ours
    finally:
        connection.close()


def signed(key: int) -> int:
    """Return a cancel key as the int8 that its column is.

    A real PgBouncer writes it unsigned, and reads all above the highest as the highest.
    """
    return key - (1 << 64) if key >= 1 << 63 else key


async def drained(client: Any) -> None:
    """Wait until all that was written has left."""
    client.flush()
    while client.unsent:
        await asyncio.sleep(DRAIN_PAUSE)


def send_with_descriptor(connection: socket.socket, data: bytes, fd: int) -> Talk:
    """Send *data* with *fd* attached to its first byte."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
    while data:
        try:
            sent = connection.sendmsg([data], rights, socket.MSG_DONTWAIT)
        except BlockingIOError:
            yield asyncio.sleep(DRAIN_PAUSE)
            continue
        except OSError as error:
            # Either end is gone: the console's, which reading will tell, or the
            # connection's that the row is about.
            if error.errno != errno.EBADF and not isinstance(error, ConnectionError):
                raise
            return
        data = data[sent:]
        rights = []
