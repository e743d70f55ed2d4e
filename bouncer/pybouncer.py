"""The program `pybouncer`: what is ours beside the pooler, and the pooler itself.

    pybouncer ha ...             render, check, watch and steer HAProxy
    pybouncer check FILE         = pgbouncer --check FILE
    pybouncer explain ... FILE   = pgbouncer --explain ... FILE
    pybouncer version
    pybouncer --help
    pybouncer [OPTION]... FILE   = pgbouncer [OPTION]... FILE

Apart from `bouncer.cli`, so that a pooler does not load what only HAProxy needs.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from bouncer import COMPATIBLE_VERSION, __version__
from bouncer.check.explain import explain_main
from bouncer.check.main import check_main
from bouncer.cli import pgbouncer
from ha import cli as ha_cli

HELP: Final = """\
pybouncer is a connection pooler for PostgreSQL that takes PgBouncer's place.

Usage:
  pybouncer [OPTION]... CONFIG_FILE     as pgbouncer: see pgbouncer --help
  pybouncer check CONFIG_FILE           the same as --check
  pybouncer explain CONFIG_FILE         the same as --explain
  pybouncer ha ...                      render, check, watch and steer HAProxy
  pybouncer version                     show both versions, then exit

Options that pgbouncer --help does not list, of pgbouncer, too:
  -R, --reboot         do an online reboot
      --check          read the configuration, report what is wrong, then exit
      --explain        say what the configuration amounts to, then exit
"""


def show_help(arguments: Sequence[str]) -> int:
    """List what is ours: `pgbouncer --help` is PgBouncer's to the byte."""
    print(HELP, end="")
    return 0


def version(arguments: Sequence[str]) -> int:
    """Say which of us this is, and which PgBouncer it stands in for."""
    print(f"pybouncer {__version__} (PgBouncer {COMPATIBLE_VERSION})")
    return 0


COMMANDS: Final[dict[str, Callable[[Sequence[str]], int]]] = {
    "check": check_main,
    "explain": explain_main,
    "ha": ha_cli.main,
    "help": show_help,
    "-h": show_help,
    "--help": show_help,
    "version": version,
}


def pybouncer_main() -> NoReturn:
    """Run as `pybouncer`."""
    sys.exit(pybouncer(sys.argv))


def pybouncer(argv: Sequence[str]) -> int:
    """Do what the command line *argv* says; return the exit code."""
    command = COMMANDS.get(argv[1]) if len(argv) > 1 else None
    if command is not None:
        return command(argv[2:])
    return pgbouncer(argv)
