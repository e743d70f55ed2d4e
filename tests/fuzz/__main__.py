"""Coverage-guided fuzzing: `make fuzz`, or `python -m tests.fuzz`.

    python -m tests.fuzz [--seconds N] [TARGET...]   fuzz; exit code 1 for a find
    python -m tests.fuzz check                       the planted bug must be found
    python -m tests.fuzz again TARGET FILE           play a find, instrumented
    python -m tests.fuzz keep [TARGET...]            minimise and keep what was grown

Inputs grow in build/fuzz-grown from run to run; finds go to fuzz-finds. Each target is
a process of its own (`driver`) that libFuzzer ends after its share of the time.
"""

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import build, corpus
from tests.fuzz.steps import Step, pack
from tests.fuzz.targets import TARGETS
from tests.relay.frames import error, query

GROWN = build.ROOT / "build" / "fuzz-grown"
FINDS = build.ROOT / "fuzz-finds"
LONGEST = 30_000  # bytes of an input
INPUT_SECONDS = 30  # before an input counts as a hang
MOST_MEMORY = 2500  # megabytes
START = 120  # seconds that a target may need beyond its time, to start and to load
SEEDS_A_SECOND = 10  # a short run loads only some of them, chosen by chance
MOST_FINDS = 3  # per target and run: the first ones hide the others
CHECK_SECONDS = 240  # at most: it is found within a few hundred executions
COUNTS = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)")
UNITS = re.compile(r"stat::number_of_executed_units: (\d+)|^#(\d+)\t", re.M)
IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")
SEED = 1 if IN_CI else 0  # CI goes the same way each time; 0: another one each time


@dataclass
class Tally:
    """What came of one target."""

    name: str
    kept: int = 0
    inputs: int = 0
    executions: int = 0
    edges: int = 0
    features: int = 0
    finds: list[Path] | None = None

    def read(self, said: str) -> None:
        """Take the counts out of what libFuzzer has said."""
        for edges, features, inputs in COUNTS.findall(said)[-1:]:
            self.edges = max(self.edges, int(edges))
            self.features = max(self.features, int(features))
            self.inputs = max(self.inputs, int(inputs))
        counts = [int(one or other) for one, other in UNITS.findall(said)]
        self.executions += max(counts, default=0)

    @property
    def line(self) -> str:
        return (
            f"{self.name:10}{self.kept:8}{self.inputs:9}{self.executions:12}"
            f"{self.edges:8}{self.features:10}{len(self.finds or ()):7}"
        )


HEAD = (
    f"{'target':10}{'kept':>8}{'inputs':>9}{'executions':>12}{'edges':>8}{'features':>10}"
    f"{'finds':>7}"
)


def driver(name: str, *options: str, **more: str) -> subprocess.Popen[str]:
    """Start libFuzzer on a target."""
    command = [sys.executable, "-m", "tests.fuzz.driver", name, *options]
    return subprocess.Popen(
        command,
        cwd=build.ROOT,
        env=build.environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def limits(seconds: int) -> list[str]:
    return [
        f"-seed={SEED}",
        f"-max_total_time={seconds}",
        f"-timeout={INPUT_SECONDS}",
        f"-rss_limit_mb={MOST_MEMORY}",
        f"-max_len={LONGEST}",
        "-len_control=0",  # else it begins with inputs too short for a step
        "-print_final_stats=1",
        "-print_funcs=0",  # names cost a symbolizer
    ]


def heard(process: subprocess.Popen[str], seconds: float) -> str:
    """All that it says; it is killed when it does not end."""
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[0] + "\nkilled: it did not end by itself\n"


def told(name: str, find: Path | None, said: str) -> None:
    """Show a find and how to look at it."""
    lines = [
        line
        for line in said.splitlines()
        if not re.match(r"#\d+\t|INFO: |\s*$|stat::", line)
    ]
    print(f"\n{name}: FOUND {find or 'nothing that was written down'}")
    print("\n".join(f"    {line[:160]}" for line in lines[:40]))
    if find is not None:
        shown = find.relative_to(build.ROOT)
        find.with_name(find.name + ".txt").write_text(said[-20_000:])
        print(f"  again:       {sys.executable} -m tests.fuzz.play {name} {shown}")
        print(f"  instrumented: make fuzz-again TARGET={name} FIND={shown}", flush=True)


def fuzz(name: str, seconds: float) -> Tally:
    """Fuzz one target for its time."""
    if IN_CI:
        random.seed(SEED)
    tally = Tally(name, finds=[])
    finds, grown = FINDS / name, GROWN / name
    finds.mkdir(parents=True, exist_ok=True)
    grown.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="fuzz-") as seeds:
        tally.kept = corpus.unpack(name, Path(seeds), int(seconds * SEEDS_A_SECOND))
        while (left := int(ends - time.monotonic())) > 0:
            before = set(finds.iterdir())
            options = [f"-artifact_prefix={finds}/", *limits(left)]
            process = driver(name, str(grown), seeds, *options)
            said = heard(process, left + START)
            tally.read(said)
            if process.returncode == 0:
                break
            new = sorted(set(finds.iterdir()) - before)
            told(name, new[0] if new else None, said)
            assert tally.finds is not None
            tally.finds += new or [finds]
            if len(tally.finds) >= MOST_FINDS:
                break
    return tally


def check() -> bool:
    """Does it find the bug that the driver plants?"""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        # Each has half of it: only a splice of the two is a find.
        Path(place, "query").write_bytes(pack(bytes(4), [Step(0, 0, query("x"))]))
        Path(place, "error").write_bytes(pack(bytes(4), [Step(1, 0, error("1", "x"))]))
        options = [f"-artifact_prefix={place}/", *limits(CHECK_SECONDS)]
        process = driver("relay", place, *options, FUZZ_PLANTED="1")
        said = heard(process, CHECK_SECONDS + START)
        tally = Tally("check")
        tally.read(said)
        if process.returncode and "this bug was planted" in said:
            print(
                f"self-check: the planted bug was found, {tally.executions} executions"
            )
            return True
    print(said[-3000:])
    print("self-check: the planted bug was NOT found: what follows proves nothing")
    return False


def keep(name: str) -> None:
    """Minimise what is kept and what was grown, and keep that."""
    grown = GROWN / name
    grown.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        old, new = Path(place, "old"), Path(place, "new")
        new.mkdir()
        old.mkdir()
        if corpus.archive(name).exists():
            corpus.unpack(name, old)
        options = ["-merge=1", *limits(0)]
        said = heard(driver(name, *options, str(new), str(old), str(grown)), 3600)
        inputs = [file.read_bytes() for file in new.iterdir()]
        if not inputs:
            raise SystemExit(f"{said[-3000:]}\nnothing came of merging {name}")
        corpus.keep(name, inputs)
    size = corpus.archive(name).stat().st_size
    print(f"{name}: {len(inputs)} inputs, {size} bytes", flush=True)
    shutil.rmtree(grown)


def main() -> int:
    """Do what the command line says; 1 for finds."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("words", nargs="*", metavar="TARGET")
    given = parser.parse_args()
    if lacking := build.missing():
        print(f"coverage-guided fuzzing: no {lacking}. {build.NEEDED}")
        return 1 if IN_CI else 0
    build.build()
    what, names = given.words[:1], given.words[1:]
    if what == ["keep"]:
        for name in names or TARGETS:
            keep(name)
        return 0
    if what == ["again"]:
        said = heard(process := driver(*names), INPUT_SECONDS)
        print(said)
        return process.returncode
    begun = time.monotonic()
    if not check():
        return 1
    if what == ["check"]:
        return 0
    return fuzz_all(
        given.words or list(TARGETS), given.seconds - time.monotonic() + begun
    )


def fuzz_all(names: list[str], seconds: float) -> int:
    """Fuzz one after the other, and tell what came of it."""
    shares = sum(TARGETS[name] for name in names)
    tallies = [fuzz(name, max(seconds, 1) * TARGETS[name] / shares) for name in names]
    print("\n" + "\n".join([HEAD, *(tally.line for tally in tallies)]), flush=True)
    found = [find for tally in tallies for find in tally.finds or ()]
    if found:
        print(f"\n{len(found)} found; a find becomes a named test (docs/develop.md)")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
