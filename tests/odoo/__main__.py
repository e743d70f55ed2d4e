"""Run Odoo 19 on PostgreSQL 18, directly and behind the pooler, and check what it can.

    python -m tests.odoo [--setup direct --setup scram --setup md5] [--only PATTERN]

`--replace pool_mode=session pool_mode=transaction` shows what another configuration of
the pooler would do.

Prints a table: each row with its seconds in each set-up, and what is wrong. Ends with 1
when a row is wrong behind the pooler, or directly, which then tells about the test.
"""

import argparse
import contextlib
import re
import shutil
import signal
import sys
import time
from pathlib import Path

from tests.bench.__main__ import our_command
from tests.odoo.rows import ROWS
from tests.odoo.scene import Scene, furnish
from tests.odoo.stage import Stage, say, unpacked
from tests.support.ground import Ground, Unusable
from tests.support.real import peers_place

SETUPS = ("direct", "scram", "md5")


def try_rows(stage: Stage, setup: str, only: str) -> dict[str, tuple[float, str]]:
    """The seconds of each row, and what is wrong with it."""
    found = {}
    with stage.running(setup) as (odoo, pooler):
        scene = Scene(stage, odoo, pooler)
        furnish(scene)
        for name, row in ROWS.items():
            if not re.search(only, name):
                continue
            begun, wrong, told = time.monotonic(), "", None
            try:
                told = row(scene)
            except Exception as error:
                wrong = f"{type(error).__name__}: {error}"
            took = time.monotonic() - begun if told is None else told
            found[name] = (took, wrong)
            say(f"{setup}: {name}: {took:.1f} s {wrong or 'right'}")
    return found


def table(found: dict[str, dict[str, tuple[float, str]]]) -> str:
    """The rows with their seconds, and a mark on what is wrong."""
    lines = [f"{'seconds':44}" + "".join(f"{setup:>10}" for setup in found)]
    for name in ROWS:
        cells = [rows[name] for rows in found.values() if name in rows]
        told = "".join(f"{s:9.1f}{'!' if wrong else ' '}" for s, wrong in cells)
        if cells:
            lines.append(
                f"{name:44}{told} {'WRONG' if any(w for _, w in cells) else 'right'}"
            )
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="make odoo", description=__doc__)
    add = parser.add_argument
    add("--setup", action="append", choices=SETUPS, help="only these")
    add("--only", default="", metavar="PATTERN", help="only rows named so")
    add("--peers", type=Path, default=peers_place(), help="where Debian's programs are")
    add("--pgbin", metavar="DIR", type=Path, help="another PostgreSQL than 18")
    add("--replace", nargs=2, action="append", metavar=("TEXT", "BY"), default=[])
    add("--ours", metavar="PROGRAM", help="another pooler")
    add("--keep", metavar="DIR", type=Path, help="copy logs and configurations there")
    return parser.parse_args()


def interrupted(*_: object) -> None:
    """Stop everything."""
    be_deaf()
    raise KeyboardInterrupt


def be_deaf() -> None:
    """Let no Ctrl-C, nor a second one, leave a PostgreSQL or a directory behind."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def main() -> int:
    """Run the set-ups, print the table; 1 when something is wrong."""
    given = arguments()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupted)
    found: dict[str, dict[str, tuple[float, str]]] = {}
    try:
        with Ground(our_command(given.ours)) as ground, contextlib.ExitStack() as ends:
            stage = Stage(ground, unpacked(given.peers, ground), given.pgbin)
            ends.callback(stage.close)
            stage.changes = given.replace
            if given.keep:
                ends.callback(keep, ground.root, given.keep)
            ends.callback(be_deaf)
            stage.make_template()
            for setup in given.setup or SETUPS:
                found[setup] = try_rows(stage, setup, given.only)
    except Unusable as problem:
        print(f"odoo: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; nothing is left running.")
        return 130
    print(table(found))
    wrong = [
        f"{setup}: {name}: {why}"
        for setup, rows in found.items()
        for name, (_, why) in rows.items()
        if why
    ]
    print("\n".join([*wrong, f"{len(wrong)} rows are wrong"]))
    return bool(wrong)


def keep(root: Path, target: Path) -> None:
    """Copy logs and configurations to *target*."""
    for pattern in (
        "cluster/log",
        "*/*.log",
        "*/*.conf",
        "*/*.ini",
        "*/stderr",
        "*/log*",
    ):
        for path in root.glob(pattern):
            shutil.copy(path, target / "-".join(path.relative_to(root).parts))


if __name__ == "__main__":
    sys.exit(main())
