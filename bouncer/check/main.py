"""`pgbouncer --check [--json] [--offline] FILE`: what is wrong with a configuration.

Exit status: 0 nothing, 1 a start would fail, 2 warnings only, 3 bad command line.
"""

import json
import sys
from collections.abc import Sequence
from typing import Final

from bouncer.check.advice import advise
from bouncer.check.ask import Asked, ask_all, compare
from bouncer.check.findings import ERROR, Finding
from bouncer.check.reading import Reading, read_all
from bouncer.check.safety import examine

FINE, FAILS, WARNS, MISUSED = 0, 1, 2, 3
USAGE: Final = "usage: pgbouncer --check [--json] [--offline] FILE"


def check_main(arguments: Sequence[str]) -> int:
    """Do what the command line behind `--check` says; return the exit status."""
    flags = {word for word in arguments if word.startswith("--")}
    files = [word for word in arguments if not word.startswith("--")]
    if len(files) != 1 or flags - {"--json", "--offline"}:
        print(USAGE, file=sys.stderr)
        return MISUSED
    findings, asked = check(files[0], online="--offline" not in flags)
    status = status_of(findings)
    if "--json" in flags:
        show_json(files[0], findings, asked, status)
    else:
        show(files[0], findings, asked)
    return status


def check(path: str, online: bool = True) -> tuple[list[Finding], list[Asked]]:
    """Return everything that is wrong with the configuration in *path*."""
    reading = read_all(path)
    findings = list(reading.findings)
    asked: list[Asked] = []
    if not unreadable(reading):
        findings += examine(reading)
        findings += advise(reading)
        if online:
            asked = ask_all(reading)
            findings += compare(reading, asked)
    return sorted(findings, key=lambda found: found.level != ERROR), asked


def unreadable(reading: Reading) -> bool:
    """Whether there is no configuration that advice could be about."""
    return any(found.level == ERROR and not found.line for found in reading.findings)


def status_of(findings: list[Finding]) -> int:
    """Return the exit status that *findings* call for."""
    if any(found.level == ERROR for found in findings):
        return FAILS
    return WARNS if findings else FINE


def write(text: str) -> None:
    """Print *text*; names that are no UTF-8 come out as they came in."""
    sys.stdout.buffer.write(f"{text}\n".encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()


def show(path: str, findings: list[Finding], asked: list[Asked]) -> None:
    """Print for people."""
    for found in findings:
        write(str(found))
    for one in asked:
        if one.problem:
            write(f"{one.place}: could not be asked: {one.problem}")
    errors = sum(found.level == ERROR for found in findings)
    warnings = len(findings) - errors
    if findings:
        verdict = "does not start" if errors else "starts"
        write(f"{path}: {verdict}: {errors} errors, {warnings} warnings")
    else:
        write(f"{path}: nothing to complain about")


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
    write(json.dumps(document, indent=2))
