"""One target under atheris (libFuzzer): `python -m tests.fuzz.driver TARGET ...`.

`python -m tests.fuzz` starts it with what it needs: the instrumented build first in
the path, AddressSanitizer preloaded. Everything behind TARGET is libFuzzer's.

With FUZZ_PLANTED=1 there is a bug here, in the harness, that takes edges and splicing
to find (see `planted`): a fuzzer that does nothing does not find it.
"""

import gc
import os
import sys

import atheris

from tests.fuzz import build, targets
from tests.fuzz.steps import Splicer, Step, unpack

# Plain Python that is watched; what is compiled has its edges from clang.
WATCHED = ["bouncer", "admin", "ha"]
# Data and tables, imported by everything: watching them costs and tells nothing.
ASLEEP = ["bouncer.errors", "bouncer.config.params"]


def planted(steps: list[Step]) -> None:
    """The bug of the self-check: a query, and behind it an error of a server.

    The harness is watched as the product is, so each `if` is an edge that leads on.
    """
    begun = False
    for step in steps:
        if step.what == 0 and step.data[:1] == b"Q":
            begun = True
        if begun and step.what == 1 and step.data[:1] == b"E":
            raise targets.Found("this bug was planted")


def launcher(name: str) -> str:
    """The program that libFuzzer starts for a merge's inner process."""
    path = build.TREE / f"fuzz-{name}"
    path.write_text(
        f'#!/bin/sh\nexec {sys.executable} -m tests.fuzz.driver {name} "$@"\n'
    )
    path.chmod(0o755)
    return str(path)


def main(arguments: list[str]) -> None:
    """Fuzz until libFuzzer has enough; does not return."""
    if len(arguments) < 2:
        raise SystemExit(__doc__)
    name = arguments[1]
    with atheris.instrument_imports(
        include=WATCHED, exclude=ASLEEP, enable_loader_override=False
    ):
        module = targets.target(name)
    targets.settle()
    watched = atheris.instrument_func(planted)
    is_planted = os.environ.get("FUZZ_PLANTED") == "1"

    def one(raw: bytes) -> None:
        setup, steps = unpack(raw)
        if is_planted:
            watched(steps)
        module.run(setup, steps)

    splicer = Splicer(module.words, getattr(module, "tweak", None))
    gc.collect()
    gc.freeze()
    atheris.Setup(
        [launcher(name), *arguments[2:]],
        one,
        custom_mutator=splicer.mutated,
        custom_crossover=splicer.crossed,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
