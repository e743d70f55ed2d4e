"""The differential tester by hand, or for a share of `make fuzz`.

    python -m tests.differential [--seed N] [--seconds S] [--finds N]
        [--lift NAME,NAME | --all]
    python -m tests.differential again 'transaction/1/200 : Q("select 1") S'
    python -m tests.differential show N          what seed N stands for

Without a seed a fresh one is taken and shown. `--lift` also makes what stands in
`generate.STILL_OPEN` under these names, `--all` all of it. Exit code 1 when something
differed.
"""

import argparse
import os
import random
import shlex
import shutil
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from tests.differential import shrink, speech
from tests.differential.compare import kind
from tests.differential.generate import STILL_OPEN, generate
from tests.differential.ground import PATIENCE, Arena, arena
from tests.differential.speech import Conversation
from tests.support.ordinary import make_ordinary

IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")
SHRINK_SECONDS = 40.0
SHRINK_PATIENCE = 1.5  # what hangs once does so again


def command() -> str:
    """The program under test: named by POOLER, else beside this interpreter."""
    script = Path(sys.executable).with_name("pgbouncer")
    own = (
        str(script)
        if script.exists()
        else shlex.join([sys.executable, "-m", "bouncer"])
    )
    return os.environ.get("POOLER") or shutil.which(own) or own


@dataclass
class Find:
    """What differed, made small."""

    seed: int
    line: str
    told: list[str]

    def __str__(self) -> str:
        told = "\n".join(f"    {one}" for one in self.told)
        again = f"python -m tests.differential again {shlex.quote(self.line)}"
        return f"\nDIFFERS (seed {self.seed})\n  {self.line}\n{told}\n  {again}"


@dataclass
class Tally:
    """What came of a run."""

    played: int = 0
    finds: list[Find] = field(default_factory=list)


def smallest(stage: Arena, found: Conversation, told: list[str], seed: int) -> Find:
    """Shrink what differs, as long as it differs in the same way."""

    def is_wrong(smaller: Conversation) -> bool:
        return kind(told[0]) in map(kind, stage.play(smaller, SHRINK_PATIENCE))

    small = shrink.shrink(found, is_wrong, SHRINK_SECONDS)
    return Find(seed, str(small), stage.play(small, SHRINK_PATIENCE) or told)


def go(
    stage: Arena, first: int, seconds: float, without: Collection[str], most: int
) -> Tally:
    """Play seed after seed for so long, or until *most* have differed."""
    tally, ends = Tally(), time.monotonic() + seconds
    while time.monotonic() < ends and len(tally.finds) < most:
        seed = first + tally.played
        conversation = generate(seed, without)
        tally.played += 1
        if told := stage.play(conversation, PATIENCE):
            tally.finds.append(smallest(stage, conversation, told, seed))
            print(tally.finds[-1], flush=True)
    return tally


def main() -> int:
    """Do what the command line says; 1 when something differed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.differential", description=__doc__
    )
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--finds", type=int, default=3)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--lift", default="", metavar="NAME,NAME")
    parser.add_argument("words", nargs="*", metavar="again LINE | show SEED")
    given = parser.parse_args()
    make_ordinary()
    lifted = STILL_OPEN if given.all else given.lift.split(",")
    without = [name for name in STILL_OPEN if name not in lifted]
    what, lines = given.words[:1], given.words[1:]
    if what == ["show"]:
        for seed in lines:
            print(generate(int(seed), without))
        return 0
    with arena(command()) as stage:
        if what == ["again"]:
            told = [told for line in lines for told in stage.play(speech.read(line))]
            print("\n".join(told) or "the same")
            return bool(told)
        seed = given.seed
        if seed is None:
            seed = 1 if IN_CI else random.randrange(10**9)
        print(f"differential: from seed {seed} for {given.seconds:.0f} s", flush=True)
        tally = go(stage, seed, given.seconds, without, given.finds)
    print(f"differential: {tally.played} conversations, {len(tally.finds)} differ")
    return bool(tally.finds)


if __name__ == "__main__":
    sys.exit(main())
