"""Hostile servers: what stands where a database line points, by name.

    python -m tests.hostile.servers NAME PORT SECONDS

PORT is the pooler's; the attack finds a port of its own to listen on and prints it
first. Clients of the pooler that ask for the hostile database are part of the attack.
"""

import base64
import contextlib
import itertools
import os
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator

from tests.hostile.ground import message, startup

CLIENTS = 4  # who ask for the hostile database all the time
OK = message(b"R", struct.pack("!I", 0))
Script = Callable[[socket.socket], Iterator[bytes]]


def nonce_of(first: bytes) -> bytes:
    """The client's nonce in its SASLInitialResponse."""
    return first.rpartition(b"r=")[2]


def scram_of_a_million_rounds(sock: socket.socket) -> Iterator[bytes]:
    """Ask for a derivation that takes long, and send while it goes on."""
    yield message(b"R", struct.pack("!I", 10) + b"SCRAM-SHA-256\0\0")
    asked = sock.recv(4096)
    salt = base64.b64encode(b"0123456789abcdef")
    text = b"r=%sxyz,s=%s,i=1000000" % (nonce_of(asked), salt)
    yield message(b"R", struct.pack("!I", 11) + text)
    while True:
        yield message(b"N", b"SNOTICE\0Mhello\0\0") * 2000


def parameters_without_end(sock: socket.socket) -> Iterator[bytes]:
    """ParameterStatus with ever new names."""
    yield OK
    numbers = itertools.count()
    while True:
        some = itertools.islice(numbers, 1000)
        yield b"".join(message(b"S", b"name_%d\0%050d\0" % (n, n)) for n in some)


def large_parameters(sock: socket.socket) -> Iterator[bytes]:
    """ParameterStatus of 60 kB."""
    yield OK
    number = 0
    while True:
        number += 1
        yield message(b"S", b"name_%d\0%s\0" % (number, b"x" * 60000))


def oks_without_end(sock: socket.socket) -> Iterator[bytes]:
    """AuthenticationOk over and over."""
    while True:
        yield OK * 7000


def notices_without_end(sock: socket.socket) -> Iterator[bytes]:
    """Notices instead of the end of a login."""
    yield OK
    while True:
        yield message(b"N", b"SNOTICE\0Mhello\0\0") * 3000


def half_messages(sock: socket.socket) -> Iterator[bytes]:
    """A message that never ends."""
    yield OK + b"S" + struct.pack("!I", 0x3FFFFFFF)
    while True:
        yield b"x" * 65536


def errors_of_many_fields(sock: socket.socket) -> Iterator[bytes]:
    """An ErrorResponse of a hundred thousand fields."""
    yield message(b"E", b"Mx\0" * 300000 + b"\0")


SERVERS: dict[str, Script] = {
    one.__name__: one
    for one in (
        scram_of_a_million_rounds,
        parameters_without_end,
        large_parameters,
        oks_without_end,
        notices_without_end,
        half_messages,
        errors_of_many_fields,
    )
}


def serve(
    sock: socket.socket, script: Callable[[socket.socket], Iterator[bytes]]
) -> None:
    """Be the hostile server on one connection."""
    with sock, contextlib.suppress(OSError):
        if sock.recv(8)[4:8] == struct.pack("!I", 80877103):
            sock.sendall(b"N")
        sock.recv(65536)
        for part in script(sock):
            sock.sendall(part)


def ask(port: int, until: float) -> None:
    """Be a client that wants the hostile database, again and again."""
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            with socket.create_connection(("127.0.0.1", port), 5) as sock:
                sock.sendall(startup("hostile", "u_trust"))
                while time.monotonic() < until and sock.recv(65536):
                    pass


def main(name: str, listen: str, port: str, seconds: str) -> None:
    """Listen, and let clients ask."""
    os.nice(10)
    until = time.monotonic() + float(seconds)
    listener = socket.create_server(("127.0.0.1", int(listen)))
    for _ in range(CLIENTS):
        threading.Thread(target=ask, args=(int(port), until), daemon=True).start()
    print("begun", flush=True)
    taken = 0
    while time.monotonic() < until:
        if select.select([listener], [], [], 0.05)[0]:
            sock = listener.accept()[0]
            taken += 1
            threading.Thread(
                target=serve, args=(sock, SERVERS[name]), daemon=True
            ).start()
    print(taken, 0, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
