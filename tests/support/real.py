"""The real PgBouncer that tests and benchmarks compare with, and which one that is.

`PGBOUNCER_PEER` names one; else the newer Debian's, which tests/support/peers has
unpacked (1.26.1), is taken; else this Debian's (1.18). What was unpacked may lie where
the user who runs poolers may not go, below /root say: it counts as missing then, so
each is asked for its version by that user.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.replay.lab import Identity, Unusable

DEBIAN = "/usr/sbin/pgbouncer"


class Real(NamedTuple):
    """A PgBouncer: where, its version, and the first line of its `--version`."""

    path: str
    version: tuple[int, int, int]
    line: str

    def __str__(self) -> str:
        return f"{self.line} ({self.path})"

    @property
    def has_statements(self) -> bool:
        """Whether it knows prepared statements."""
        return self.version >= (1, 21, 0)


def peers_place() -> Path:
    """Where tests/support/peers unpacks: `PYBOUNCER_PEERS`, else below the cache."""
    if given := os.environ.get("PYBOUNCER_PEERS"):
        return Path(given)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "pybouncer-ci", "peers")


def ask(path: str, identity: Identity | None = None) -> Real | None:
    """The PgBouncer at *path*, or None where poolers' user cannot run one there."""
    try:
        done = subprocess.run(
            [path, "--version"],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
            cwd="/",
            **(identity or Identity()).process_options(),
        )
    except OSError:
        return None
    found = re.match(r"PgBouncer (\d+)\.(\d+)\.(\d+)", done.stdout)
    if done.returncode or found is None:
        return None
    numbers = (int(found[1]), int(found[2]), int(found[3]))
    return Real(path, numbers, done.stdout.split("\n")[0])


def places() -> Iterator[str]:
    """Where a real one may be, the first choice first."""
    yield str(peers_place() / "bin" / "pgbouncer")
    yield DEBIAN


def find_real(identity: Identity | None = None) -> Real:
    """The one to compare with; Unusable, which says what to do, without any."""
    if given := os.environ.get("PGBOUNCER_PEER"):
        if real := ask(given, identity):
            return real
        raise Unusable(f"PGBOUNCER_PEER={given} does not run as a PgBouncer")
    for path in places():
        if real := ask(path, identity):
            return real
    raise Unusable(f"no PgBouncer: tests/support/peers {peers_place()}, as root")


def find_trixie(identity: Identity | None = None) -> Real | None:
    """Debian 13's (1.24.1), where it is unpacked: the last line that hands over."""
    return ask(str(peers_place() / "bin-trixie" / "pgbouncer"), identity)


def which_real() -> str:
    """A line for who reads what was run."""
    try:
        return f"real PgBouncer: {find_real()}"
    except Unusable as problem:
        return f"real PgBouncer: none ({problem})"


if __name__ == "__main__":
    print(which_real())
