"""Write manual pages and shell completion: `python docs/packaging/manuals.py DIR`.

From the parsers that read the command lines, so that neither can be out of date; the
page about the files is docs/config.md, whose settings a test compares with the table
that reads them. For packages; needs the extra [manuals].
"""

import sys
from pathlib import Path
from typing import Final

import shtab
from argparse_manpage.manpage import Manpage
from roff import page

from bouncer import COMPATIBLE_VERSION, __version__
from bouncer.arguments import Parser, commands_of
from bouncer.check.explain import EXITS as EXPLAIN_EXITS
from bouncer.check.explain import explain_parser
from bouncer.check.main import EXITS as CHECK_EXITS
from bouncer.check.main import check_parser
from bouncer.pybouncer import every_command, run_parser

TITLES: Final = {
    "pgbouncer": "connection pooler for PostgreSQL",
    "pybouncer": "connection pooler for PostgreSQL, and the front around it",
}
FILES: Final = "pgbouncer.ini, userlist.txt - configuration of pybouncer"
CONFIG: Final = Path(__file__).resolve().parents[1] / "config.md"
SHELLS: Final = ("bash", "zsh")
# What stands for a name on disk, and how shells complete it.
COMPLETED: Final = {
    "FILE": shtab.FILE,
    "PGBOUNCER.INI": shtab.FILE,
    "DIR": shtab.DIRECTORY,
}


def pgbouncer_parser() -> Parser:
    """Return what describes the command line of `pgbouncer`, --check and all."""
    parser = run_parser("pgbouncer")
    parser.description = "Run the pooler on a configuration file."
    questions = parser.add_argument_group("instead of a start")
    for flag, question in (
        ("--check", check_parser("pgbouncer --check", CHECK_EXITS)),
        ("--explain", explain_parser("pgbouncer --explain", EXPLAIN_EXITS)),
    ):
        text = question.description or ""
        # What argparse would take for a format.
        told = text.strip().replace("%", "%%")
        usage = question.format_usage().partition(": ")[2].split()
        questions.add_argument(
            flag, action="store_true", help=f"{told} Usage: {' '.join(usage)}"
        )
    return parser


def manual(parser: Parser) -> str:
    """Return the manual page of section 1 about a program."""
    data = {
        "project_name": "pybouncer",
        "version": __version__,
        "manual_title": f"PgBouncer {COMPATIBLE_VERSION}",
        "description": TITLES[parser.prog],
    }
    return str(Manpage(parser, _data=data))


def completion(parser: Parser, shell: str) -> str:
    """Return what completes the command line of a program in *shell*."""
    complete_names(parser)
    return shtab.complete(parser, shell)


def complete_names(parser: Parser) -> None:
    """Let names on disk be completed, of *parser* and of its commands."""
    for action in parser._actions:
        if action.metavar in COMPLETED:
            action.complete = COMPLETED[action.metavar]  # type: ignore[attr-defined]
    for _, one in commands_of(parser):
        complete_names(one)


def write(directory: Path) -> list[Path]:
    """Write every page and every completion; return what was written."""
    directory.mkdir(parents=True, exist_ok=True)
    texts = {
        f"{parser.prog}.1": manual(parser)
        for parser in (pgbouncer_parser(), every_command())
    }
    texts |= {
        f"{parser.prog}.{shell}": completion(parser, shell)
        for parser in (pgbouncer_parser(), every_command())
        for shell in SHELLS
    }
    footer = f"PgBouncer {COMPATIBLE_VERSION}"
    texts["pgbouncer.5"] = page(CONFIG.read_text(), "PGBOUNCER", 5, footer, FILES)
    written = []
    for name, text in texts.items():
        path = directory / name
        path.write_text(text)
        written.append(path)
    return written


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for one in write(Path(sys.argv[1])):
        print(one)
