"""`pgbouncer --check [OPTION]... FILE`: what is wrong with a configuration.

Exit status: 0 nothing, 1 a start would fail, 2 warnings only, 3 bad command line;
`pybouncer check` has the codes of all its commands.
"""

import json
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from typing import Any, Final

from bouncer.arguments import Parser, say
from bouncer.check.advice import advise
from bouncer.check.ask import Asked, ask_all, compare
from bouncer.check.findings import ERROR, RANKS, WARNING, Finding
from bouncer.check.reading import Reading, read_all
from bouncer.check.safety import examine
from bouncer.check.since import UnknownVersion, Version, changed, version

FINE, FAILS, WARNS, MISUSED = 0, 1, 2, 3
ABOUT: Final = """\
Read a configuration and the files that it names as a start would, but start nothing;
name each mistake with file, line and setting, and what was probably meant. Then ask the
PostgreSQL servers in it whether they are there and have room for the pools.
"""
EXITS: Final = (
    "0  nothing to complain about",
    "1  a start would fail",
    "2  warnings only",
    "3  wrongly called",
)
EXAMPLES: Final = (
    "{prog} /etc/pgbouncer/pgbouncer.ini",
    "{prog} --json --offline x.ini",
    "{prog} --from 1.18 /etc/pgbouncer/pgbouncer.ini",
)


def check_parser(prog: str, exits: Sequence[str], **options: Any) -> Parser:
    """Return the reader of a command line that begins with *prog*."""
    examples = [one.format(prog=prog) for one in EXAMPLES]
    parser = Parser(
        prog=prog, description=ABOUT, examples=examples, exits=exits, **options
    )
    return add_check_options(parser)


def add_check_options(parser: Parser) -> Parser:
    """Add what a check may be told."""
    parser.add_argument("file", metavar="FILE", help="the configuration: pgbouncer.ini")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document, for programs"
    )
    parser.add_argument(
        "--offline", action="store_true", help="do not connect to any server"
    )
    parser.add_argument(
        "--from",
        dest="since",
        type=read_version,
        metavar="1.N",
        help="tell which changes since that PgBouncer matter for this file",
    )
    return parser


def read_version(text: str) -> Version:
    """Read what `--from` was given."""
    try:
        return version(text)
    except UnknownVersion as error:
        raise ArgumentTypeError(str(error)) from error


def check_main(arguments: Sequence[str]) -> int:
    """Do what the command line behind `--check` says; return the exit status."""
    parser = check_parser("pgbouncer --check", EXITS, misused=MISUSED)
    try:
        return report(parser.parse_args(arguments))
    except SystemExit as end:
        return int(end.code or 0)


def report(options: Namespace) -> int:
    """Check the file of *options* and print what was found; return its status."""
    findings, asked = check(options.file, not options.offline, options.since)
    status = status_of(findings)
    if options.json:
        show_json(options.file, findings, asked, status)
    else:
        show(options.file, findings, asked)
    return status


def check(
    path: str, online: bool = True, since: Version | None = None
) -> tuple[list[Finding], list[Asked]]:
    """Return everything that is wrong with the configuration in *path*.

    With *since* also what matters to who comes from that version of PgBouncer.
    """
    reading = read_all(path)
    findings = list(reading.findings)
    asked: list[Asked] = []
    if not unreadable(reading):
        findings += examine(reading)
        findings += advise(reading)
        if online:
            asked = ask_all(reading)
            findings += compare(reading, asked)
        if since is not None:
            findings += changed(reading, since)
    return sorted(findings, key=lambda found: RANKS.index(found.level)), asked


def unreadable(reading: Reading) -> bool:
    """Whether there is no configuration that advice could be about."""
    return any(found.level == ERROR and not found.line for found in reading.findings)


def status_of(findings: list[Finding]) -> int:
    """Return the exit status that *findings* call for."""
    levels = {found.level for found in findings}
    if ERROR in levels:
        return FAILS
    return WARNS if WARNING in levels else FINE


def counted(number: int, word: str) -> str:
    """Say how many there are of something."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def show(path: str, findings: list[Finding], asked: list[Asked]) -> None:
    """Print for people."""
    for found in findings:
        say(str(found))
    for one in asked:
        if one.problem:
            say(f"{one.place}: could not be asked: {one.problem}")
    errors = sum(found.level == ERROR for found in findings)
    warnings = sum(found.level == WARNING for found in findings)
    if errors or warnings:
        verdict = "does not start" if errors else "starts"
        counts = f"{counted(errors, 'error')}, {counted(warnings, 'warning')}"
        say(f"{path}: {verdict}: {counts}")
    else:
        say(f"{path}: nothing to complain about")


def show_json(
    path: str, findings: list[Finding], asked: list[Asked], status: int
) -> None:
    """Print for programs."""
    document = {
        "file": path,
        "ok": status in (FINE, WARNS),
        "status": status,
        "findings": [found.as_json() for found in findings],
        "servers": [
            {
                "host": one.target.host,
                "port": one.target.port,
                "databases": [database.name for database in one.databases],
                "max_connections": one.max_connections or None,
                "reserved": one.reserved,
                "problem": one.problem,
            }
            for one in asked
        ],
    }
    say(json.dumps(document, indent=2))
