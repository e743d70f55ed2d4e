"""What systemd is told, and what it gave us.

Messages are datagrams to the socket that NOTIFY_SOCKET names. Without the
variable everything here does nothing. Both variables stay in the environment, as
PgBouncer leaves them.
"""

import os
import socket
import time
from typing import Final

from bouncer import log

# The first descriptor that a service manager passes.
FIRST_PASSED: Final = 3
# Seconds between two signs of life of a process that systemd has not started itself.
UNTOLD_WATCHDOG: Final = 1.0


class Service:
    """The service manager that started us, if one did."""

    __slots__ = ("address", "watchdog")

    def __init__(self) -> None:
        name = os.environ.get("NOTIFY_SOCKET", "")
        # "@name" is an abstract socket.
        self.address = "\0" + name[1:] if name.startswith("@") else name
        self.watchdog = watchdog_period() if name else 0.0

    def ready(self) -> None:
        """Say that the start, or a reload, is over."""
        self.notify("READY=1")

    def main_process(self) -> None:
        """Say that this process takes the place of the one that systemd started."""
        self.notify(f"MAINPID={os.getpid()}")
        # Nobody tells us of WatchdogSec=; if there is one, it counts on.
        if self.address and not self.watchdog:
            self.watchdog = UNTOLD_WATCHDOG

    def reloading(self) -> None:
        """Say that a reload begins; systemd wants to know when (notify-reload)."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self.notify(f"RELOADING=1\nMONOTONIC_USEC={now}")

    def stopping(self) -> None:
        """Say that the process is about to end."""
        self.notify("STOPPING=1")

    def status(self, text: str) -> None:
        """Give the one line that systemctl status shows: the log's, with a real mu."""
        self.notify(f"STATUS={text.replace(' us', ' μs')}")

    def alive(self) -> None:
        """Reset the watchdog; due at least every *watchdog* seconds, if not 0."""
        self.notify("WATCHDOG=1")

    def notify(self, message: str) -> None:
        """Send *message*; a service manager that does not listen is its own problem."""
        if not self.address:
            return
        flags = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
        with socket.socket(socket.AF_UNIX, flags) as sock:
            sock.setblocking(False)
            try:
                sock.sendto(message.encode(), self.address)
            except OSError as err:
                log.debug(f"could not notify the service manager: {err}")


def watchdog_period() -> float:
    """Return how often, in seconds, the watchdog should be reset; 0 if never."""
    pid = os.environ.get("WATCHDOG_PID", "")
    if pid and pid != str(os.getpid()):
        return 0.0
    try:
        limit = int(os.environ.get("WATCHDOG_USEC", "0"))
    except ValueError:
        return 0.0
    # Half the limit, as sd_watchdog_enabled(3) advises.
    return max(limit, 0) / 2_000_000


def passed_fds() -> list[int]:
    """Return the listening sockets that were passed to this very process."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    try:
        count = int(os.environ.get("LISTEN_FDS", "0"))
    except ValueError:
        return []
    return list(range(FIRST_PASSED, FIRST_PASSED + count))
