"""Play all kept inputs: `python -m tests.fuzz.replay [TARGET...]`; 1 if one is wrong.

Nothing but the build under test is needed, so this also runs under sanitizers.
"""

import sys

from tests.fuzz import corpus, play
from tests.fuzz.targets import TARGETS


def main(names: list[str]) -> int:
    """Play the kept inputs of these targets, or of all."""
    found = 0
    for name in names or TARGETS:
        inputs = corpus.kept(name)
        wrong = play.batch(name, inputs)
        print(f"{name}: {len(inputs)} inputs, {len(wrong)} wrong", flush=True)
        for one, why in wrong.items():
            print(f"  {one}: {why}", flush=True)
        found += len(wrong)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
