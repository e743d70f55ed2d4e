"""The program `pybouncer`: what is ours beside the pooler, and the pooler itself.

    pybouncer run ...            = pgbouncer [OPTION]... FILE
    pybouncer [OPTION]... FILE   likewise
    pybouncer demo               the main job, shown in half a minute
    pybouncer check, explain     as pgbouncer --check, --explain
    pybouncer ha ...             render, check, watch and steer HAProxy
    pybouncer version, help

The one hard idea: `every_command` has the parsers of all commands, from which help,
manual pages and completion are made, and needs all extras; a command that is run
loads only what it needs itself.

Apart from `bouncer.cli`, so that a pooler does not load what only HAProxy needs.
"""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, NoReturn

from bouncer import COMPATIBLE_VERSION, __version__
from bouncer.arguments import (
    DONE,
    EXITS,
    FOUND,
    MISUSED,
    Parser,
    finish,
    hint,
    listing,
    say,
)
from bouncer.check import explain, main
from bouncer.cli import pgbouncer
from bouncer.extras import lacks

ABOUT: Final = """\
pybouncer is a connection pooler for PostgreSQL that takes PgBouncer's place, and the
front around it. Without a command it is pgbouncer: pybouncer [OPTION]... FILE.
"""
RUN: Final = """\
Run the pooler on a configuration file, as pgbouncer does: with the same options, log
lines and signals.
"""
# Of commands that end with what they have found.
ASKED: Final = ("0  nothing was found", "1  something was found", "2  wrongly called")
ADMITS: Final = ("0  admitted", "1  refused", "2  wrongly called")


class Command(NamedTuple):
    """A command: for which task, what it does, how its parser is made, what runs."""

    name: str
    task: str
    summary: str
    parser: Callable[[str], Parser]
    run: Callable[[Sequence[str]], int]


# run


def run_parser(prog: str) -> Parser:
    """Return the parser of `run`, for its help: what counts is `bouncer.options`."""
    parser = Parser(
        prog=prog,
        usage=f"{prog} [OPTION]... FILE",
        description=RUN,
        examples=[f"{prog} -d /etc/pgbouncer/pgbouncer.ini"],
        exits=["0  shut down as asked", "1  could not start, or was ended"],
    )
    add = parser.add_argument
    add("file", metavar="FILE", help="the configuration: pgbouncer.ini")
    add("-d", "--daemon", action="store_true", help="run in the background")
    add("-R", "--reboot", action="store_true", help="take over from the running pooler")
    add("-u", "--user", metavar="NAME", help="become this user (when started as root)")
    add("-q", "--quiet", action="store_true", help="log nothing to standard error")
    add("-v", "--verbose", action="count", help="log more; up to three times")
    add("-V", "--version", action="store_true", help="show version, then exit")
    return parser


def run(words: Sequence[str]) -> int:
    """Be pgbouncer."""
    if {"-h", "--help"} & set(words):
        return show(run_parser("pybouncer run"))
    return pgbouncer(["pybouncer run", *words])


# demo


def demo_parser(prog: str) -> Parser:
    """Return the parser of `demo`."""
    parser: Parser = importlib.import_module("bouncer.demo").demo_parser(prog)
    return parser


def demo(words: Sequence[str]) -> int:
    """Show what a pooler is for."""
    status: int = importlib.import_module("bouncer.demo").demo_main(words)
    return status


# check, explain


def check_parser(prog: str) -> Parser:
    """Return the parser of `check`."""
    return main.check_parser(prog, ASKED)


def check(words: Sequence[str]) -> int:
    """Say what is wrong with a configuration: 1 also for warnings."""
    options = check_parser("pybouncer check").parse_args(words)
    return DONE if main.report(options) == main.FINE else FOUND


def explain_parser(prog: str) -> Parser:
    """Return the parser of `explain`."""
    return explain.explain_parser(prog, ADMITS)


def explain_client(words: Sequence[str]) -> int:
    """Say what a client would get."""
    return explain.answer(explain_parser("pybouncer explain").parse_args(words))


# ha


def ha_parser(prog: str) -> Parser:
    """Return the parser of `ha`, with all of its commands."""
    parser: Parser = importlib.import_module("ha.cli").build_parser(prog)
    return parser


def ha(words: Sequence[str]) -> int:
    """Do something about HAProxy, if what that takes is installed."""
    try:
        commands = importlib.import_module("ha.cli")
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] in ("ha", "bouncer"):
            raise
        print(lacks("pybouncer ha", str(missing.name), "ha"), file=sys.stderr)
        return FOUND
    status: int = commands.main(words)
    return status


# version, help


def version_parser(prog: str) -> Parser:
    """Return the parser of `version`."""
    return Parser(prog=prog, description="Show both versions.", exits=[])


def version(words: Sequence[str]) -> int:
    """Say which of us this is, and which PgBouncer it stands in for."""
    version_parser("pybouncer version").parse_args(words)
    say(f"pybouncer {__version__} (PgBouncer {COMPATIBLE_VERSION})")
    return DONE


COMMANDS: Final = (
    Command("demo", "to try", "show the main job in half a minute", demo_parser, demo),
    Command("run", "to run", "run the pooler: as pgbouncer", run_parser, run),
    Command(
        "check",
        "before a start or a reload",
        "say what is wrong with a configuration",
        check_parser,
        check,
    ),
    Command(
        "explain",
        "before a start or a reload",
        "say what a client would get, and why",
        explain_parser,
        explain_client,
    ),
    Command(
        "ha",
        "with HAProxy",
        "render, check, watch and steer HAProxy before poolers",
        ha_parser,
        ha,
    ),
    Command("version", "else", "show both versions", version_parser, version),
)
BY_NAME: Final = {command.name: command for command in COMMANDS}
BESIDE: Final = (
    "-R, --reboot   take over from the running pooler",
    "--check        as pybouncer check, with exit codes of its own",
    "--explain      as pybouncer explain",
)


def by_task() -> str:
    """Return the list of the commands for the help."""
    parts: dict[str, list[str]] = {}
    for one in COMMANDS:
        parts.setdefault(one.task, []).append(f"{one.name:10}{one.summary}")
    sections = [listing(task, lines) for task, lines in parts.items()]
    beside = listing("options of pgbouncer that its own --help does not list", BESIDE)
    more = (
        "pybouncer COMMAND --help tells more of each; on the console, SHOW PYBOUNCER."
    )
    return "\n\n".join([*sections, beside, more])


def overview() -> Parser:
    """Return the parser whose help lists the commands by task."""
    return Parser(
        prog="pybouncer",
        usage="pybouncer COMMAND ...\n       pybouncer [OPTION]... FILE",
        description=f"{ABOUT}\n{by_task()}",
        exits=EXITS,
        add_help=False,
    )


def every_command() -> Parser:
    """Return the parser of everything, for manual pages and completion."""
    parser = Parser(prog="pybouncer", description=ABOUT, exits=EXITS)
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=Parser)
    for one in COMMANDS:
        made = one.parser(f"pybouncer {one.name}")
        # argparse would make the parser by itself: it is made already.
        commands.add_parser(one.name, help=one.summary, add_help=False)
        commands.choices[one.name] = made
    return parser


def show(parser: Parser) -> int:
    """Print the help of *parser*."""
    say(parser.format_help().rstrip("\n"))
    return DONE


def show_help(words: Sequence[str]) -> int:
    """Print the help of the command that *words* name, or the list of all."""
    if not words:
        return show(overview())
    if words[0] not in BY_NAME:
        return unknown(words[0])
    return pybouncer(["pybouncer", words[0], "--help"])


def unknown(word: str) -> int:
    """Refuse a word that is neither a command nor a file."""
    near = hint(word, [*BY_NAME, "help"])
    print(
        f"pybouncer: {word} is neither a command nor a file{near}; "
        "see pybouncer --help",
        file=sys.stderr,
    )
    return MISUSED


def pybouncer_main() -> NoReturn:
    """Run as `pybouncer`."""
    sys.exit(finish(pybouncer(sys.argv)))


def pybouncer(argv: Sequence[str]) -> int:
    """Do what the command line *argv* says; return the exit code."""
    words = argv[1:]
    if not words:
        print(overview().format_help(), end="", file=sys.stderr)
        return MISUSED
    first = words[0]
    if first in ("-h", "--help", "help"):
        return show_help(words[1:])
    if first in BY_NAME:
        try:
            return BY_NAME[first].run(words[1:])
        except SystemExit as end:
            return int(end.code or 0)
    if first.startswith("-") or os.path.sep in first or os.path.exists(first):
        return pgbouncer(argv)
    return unknown(first)
