"""Play other people's suites, drivers and tools directly and through us.

    python -m tests.outside [--short] [--keep] [--ours PROGRAM] [PART ...]

Says at the end how many tests passed directly and through us, and what differed. The
exit status is 1 when something failed that nobody expected, or when an expected failure
did not fail: then its entry goes.
"""

import argparse
import sys
import time
import traceback
from collections.abc import Iterator

from tests.bench.__main__ import our_command
from tests.outside.frame import Outcome, Place
from tests.outside.parts import PARTS
from tests.support.ground import Ground


def played(name: str, place: Place) -> Iterator[Outcome]:
    """The outcomes of a part; one that breaks is an outcome as well."""
    begin = time.monotonic()
    try:
        yield from PARTS[name].run(place)
    except Exception as error:
        traceback.print_exc()
        yield Outcome(name, 0, 0, 0, {}, {"the part itself": repr(error)})
    finally:
        if place.problems:
            yield Outcome(f"{name}: poolers", 0, 0, 0, {}, dict(place.problems))
            place.problems.clear()
    print(f"{name}: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)


def row(one: Outcome) -> str:
    """A line of the table."""
    return (
        f"{one.name:36} {one.direct:6} {one.ours:6} {one.total:6}"
        f" {len(one.expected):8} {len(one.unexpected) + len(one.mended):6}"
        f" {one.seconds:6.0f}"
    )


def details(one: Outcome) -> Iterator[str]:
    """What there is to say of an outcome besides its numbers."""
    for test, reason in one.expected.items():
        yield f"  expected  {one.name}: {test}: {reason} [{one.told.get(test, '')}]"
    for test, why in one.unexpected.items():
        yield f"  FAILED    {one.name}: {test}: {why}"
    for test in one.mended:
        yield f"  MENDED    {one.name}: {test} passes: take its entry away"


def main() -> int:
    """Run the parts, print the table; 1 when something is to be done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="minutes, for CI")
    parser.add_argument("--ours", metavar="PROGRAM", help="instead of ours")
    parser.add_argument("--keep", action="store_true", help="leave what was printed")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    chosen = given.parts or [
        name for name, part in PARTS.items() if part.in_short or not given.short
    ]
    with Ground(our_command(given.ours)) as ground:
        ground.keep = given.keep
        place = Place(ground, given.short)
        outcomes = [one for name in chosen for one in played(name, place)]
        if given.keep:
            print(f"left in {ground.root}", file=sys.stderr)
    print(f"{'suite':36} {'direct':>6} {'ours':>6} {'of':>6} {'expected':>8}", end="")
    print(f" {'wrong':>6} {'s':>6}")
    print("\n".join([row(one) for one in outcomes]))
    print("\n".join(line for one in outcomes for line in details(one)), flush=True)
    return not all(one.is_right for one in outcomes)


if __name__ == "__main__":
    sys.exit(main())
