"""PostgreSQL's isolation suite: sessions that wait for each other, step by step.

Directly, and through a session pool, where every session keeps its backend. The tester
asks PostgreSQL which session waits for which by process id: see true_pid.c.
"""

from collections.abc import Iterator

from tests.outside.frame import Outcome, Place
from tests.outside.regress import both_ways, outcomes
from tests.outside.sources import EMBEDDED, INSTALLED, release, true_pid

SHORT = """read-write-unique deadlock-simple deadlock-soft fk-deadlock
    lock-update-delete nowait skip-locked timeouts async-notify""".split()
MAY_FAIL: dict[str, str] = {}


def isolation(place: Place) -> Iterator[Outcome]:
    for major in [INSTALLED] if place.short else [INSTALLED, EMBEDDED]:
        yield from isolation_of(place, major)


def isolation_of(place: Place, major: int) -> Iterator[Outcome]:
    """The suite of one release; the tester is that of 15."""
    one = release(place, major)
    options = [f"--inputdir={one.source}/src/test/isolation"]
    files = SHORT if place.short else []
    if not files:
        options.append(f"--schedule={one.source}/src/test/isolation/isolation_schedule")
    preload = {"LD_PRELOAD": str(true_pid(place))}
    program = "isolation/pg_isolation_regress"
    runs = both_ways(place, one, program, files, options, preload)
    yield from outcomes(f"isolation {major}, session", *runs, MAY_FAIL, not place.short)
