"""Command lines of `pybouncer`: one kind of parser for all of its commands.

Their help gives examples and exit codes, a word that is misspelt gets the nearest one,
and who reads our output may stop reading (`| head`). Manual pages and completion are
made from the same parsers. The command line of `pgbouncer` is not read here: it is
getopt's to the letter (`bouncer.options`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any, Final, NoReturn

DONE, FOUND, MISUSED = 0, 1, 2
EXITS: Final = ("0  done", "1  not done, or something was found", "2  wrongly called")


def listing(title: str, lines: Iterable[str]) -> str:
    """Return a section of a help text."""
    return "\n".join([f"{title}:", *(f"  {line}" for line in lines)])


class Parser(argparse.ArgumentParser):
    """Reads the command line of one command, and explains it.

    *examples* are whole command lines, *exits* tells the exit codes; both end the help.
    *misused* is the exit code of a command line that makes no sense.
    """

    def __init__(
        self,
        *,
        examples: Sequence[str] = (),
        exits: Sequence[str] = EXITS,
        misused: int = MISUSED,
        epilog: str = "",
        **options: Any,
    ) -> None:
        parts = [epilog] if epilog else []
        if examples:
            parts.append(listing("examples", examples))
        if exits:
            parts.append(listing("exit codes", exits))
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog="\n\n".join(parts),
            **options,
        )
        self.misused = misused

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As in argparse; an unknown option is told with the nearest one."""
        found, rest = self.parse_known_args(args, namespace)
        if not rest:
            return found
        word = rest[0].partition("=")[0]
        if word.startswith("-"):
            self.error(f"there is no option {word}{hint(word, self.every_option())}")
        self.error(f"one word too many: {word}")

    def every_option(self) -> Iterator[str]:
        """Yield the long options of this parser and of its commands."""
        for action in self._actions:
            yield from (one for one in action.option_strings if one.startswith("--"))
        for _, parser in commands_of(self):
            yield from parser.every_option()

    def command_or_error(self, word: str) -> None:
        """Refuse *word* where a command is expected, unless it is one or an option."""
        names = [name for name, _ in commands_of(self)]
        if names and not word.startswith("-") and word not in names:
            self.error(f"there is no command {word}{hint(word, names)}")

    def error(self, message: str) -> NoReturn:
        """End with the usage, what is wrong, and where more stands."""
        self.print_usage(sys.stderr)
        self.exit(self.misused, f"{self.prog}: {message}; see {self.prog} --help\n")


def commands_of(parser: argparse.ArgumentParser) -> Iterator[tuple[str, Parser]]:
    """Yield the names and parsers of the commands that *parser* knows."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def hint(word: str, known: Iterable[str]) -> str:
    """Return what *word* was probably meant to be, as the end of a sentence."""
    near = get_close_matches(word, list(known), 1, 0.5)
    return f"; did you mean {near[0]}?" if near else ""


def one_of(words: Iterable[str]) -> Callable[[str], str]:
    """Return a reader of an argument that must be one of *words*."""
    known = list(words)

    def read(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(
                f"{text} is none of {', '.join(known)}{hint(text, known)}"
            )
        return text

    return read


def say(text: str) -> None:
    """Print a line, as long as somebody reads.

    Names that are no UTF-8 come out as they came in.
    """
    with reader_may_leave():
        sys.stdout.flush()
        sys.stdout.buffer.write(f"{text}\n".encode("utf-8", "surrogateescape"))
        sys.stdout.buffer.flush()


@contextlib.contextmanager
def reader_may_leave() -> Iterator[None]:
    """Who reads us, such as head, has seen enough: the rest goes nowhere.

    The exit code stays what it would have been.
    """
    try:
        yield
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def finish(status: int) -> int:
    """Return *status* once all is written that is printed and anybody reads."""
    with reader_may_leave():
        sys.stdout.flush()
    return status
