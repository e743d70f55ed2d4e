"""Free ports below the range from which the kernel takes those of clients."""

import contextlib
import random
import socket


def free_ports(count: int, choice: range) -> list[int]:
    """*count* different ports of 127.0.0.1 that were free just now."""
    found: list[int] = []
    while len(found) < count:
        port = random.choice(choice)
        with socket.socket() as trial, contextlib.suppress(OSError):
            trial.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    return found
