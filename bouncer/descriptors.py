"""The last descriptors are kept: for health ports, the console and the log.

The one hard idea: the kernel gives the lowest free number, so a high number says that
few are left, at no cost. From `most` on, clients get in only to the console and servers
are not connected; from `last` on nobody is accepted, until somebody has gone.
"""

import os
import resource
from typing import Final, NamedTuple

# So many are kept, but not more than a share of all.
KEPT: Final = 32
SHARE: Final = 6
NONE_KEPT: Final = 1 << 30


class Bounds(NamedTuple):
    """The first numbers that are kept."""

    most: int
    last: int


def bounds() -> Bounds:
    """Give the bounds that the limit of this process means."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return Bounds(NONE_KEPT, NONE_KEPT)
    kept = min(KEPT, limit // SHARE)
    return Bounds(limit - kept, limit - kept // 2)


def are_free(bound: int) -> bool:
    """Say whether the next descriptor will be below *bound*."""
    try:
        number = os.eventfd(0, os.EFD_CLOEXEC)
    except OSError:
        return False
    os.close(number)
    return number < bound
