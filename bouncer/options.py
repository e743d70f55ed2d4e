"""The command line, read as GNU getopt_long reads it, with getopt's complaints.

Init scripts and images rely on its liberties: options after the file, clusters
such as -qd, long names cut short.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

HELP: Final = """\
{argv0} is a connection pooler for PostgreSQL.

Usage:
  {argv0} [OPTION]... CONFIG_FILE

Options:
  -d, --daemon         run in background (as a daemon)
  -q, --quiet          run quietly
  -u, --user=USERNAME  assume identity of USERNAME
  -v, --verbose        increase verbosity
  -V, --version        show version, then exit
  -h, --help           show this help, then exit

Report bugs to <https://github.com/pgbouncer/pgbouncer/issues>.
PgBouncer home page: <https://www.pgbouncer.org/>
"""

# Long name to short name.
LONG: Final = {
    "quiet": "q",
    "verbose": "v",
    "help": "h",
    "daemon": "d",
    "version": "V",
    "reboot": "R",
    "user": "u",
    "check": "check",
    "explain": "explain",
}
WITH_VALUE: Final = "u"
# What has a long name only.
LONG_ONLY: Final = ("check", "explain")


class UsageError(Exception):
    """The command line cannot be understood; the text goes to stderr."""


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    *show* is "help", "version", "check" or "explain" if that is all that is wanted.
    """

    config: str = ""
    daemon: bool = False
    quiet: bool = False
    reboot: bool = False
    user: str = ""
    verbose: int = 0
    show: str = ""


def parse(arguments: Sequence[str]) -> Options:
    """Read the *arguments*, without argv[0]; raise `UsageError` as getopt complains."""
    given: dict[str, str] = {}
    verbose = 0
    files: list[str] = []
    for name, value in tokens(arguments):
        if name == "":
            files.append(value)
        elif name in ("h", "V"):
            # The first of these wins over whatever follows.
            return Options(show="help" if name == "h" else "version")
        elif name == "v":
            verbose += 1
        else:
            given[name] = value
    if len(files) != 1:
        raise UsageError("no configuration file specified")
    return Options(
        config=files[0],
        daemon="d" in given,
        quiet="q" in given,
        reboot="R" in given,
        user=given.get("u", ""),
        verbose=verbose,
        show=next((name for name in LONG_ONLY if name in given), ""),
    )


def tokens(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (short name, value) for each option, ("", text) for each other word."""
    words = iter(arguments)
    for word in words:
        if word == "--":
            for rest in words:
                yield "", rest
        elif word.startswith("--"):
            yield long_option(word[2:], words)
        elif word.startswith("-") and word != "-":
            yield from short_options(word[1:], words)
        else:
            yield "", word


def short_options(cluster: str, words: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Yield the options of a word such as "qd" or "uNAME"."""
    while cluster:
        name, cluster = cluster[0], cluster[1:]
        if name not in "qvhdVRu":
            raise UsageError(f"invalid option -- '{name}'")
        if name not in WITH_VALUE:
            yield name, ""
            continue
        value = cluster or next(words, None)
        if value is None:
            raise UsageError(f"option requires an argument -- '{name}'")
        yield name, value
        return


def long_option(word: str, words: Iterator[str]) -> tuple[str, str]:
    """Return the option that *word* (without its dashes) means."""
    text, equals, value = word.partition("=")
    matches = [text] if text in LONG else [one for one in LONG if one.startswith(text)]
    if not matches:
        raise UsageError(f"unrecognized option '--{word}'")
    if len(matches) > 1:
        shown = "".join(f" '--{one}'" for one in matches)
        raise UsageError(f"option '--{word}' is ambiguous; possibilities:{shown}")
    name = LONG[matches[0]]
    if name not in WITH_VALUE:
        if equals:
            raise UsageError(f"option '--{matches[0]}' doesn't allow an argument")
        return name, ""
    if equals:
        return name, value
    following = next(words, None)
    if following is None:
        raise UsageError(f"option '--{matches[0]}' requires an argument")
    return name, following
