"""`pybouncer ha ...`: render and check configurations, watch and steer HAProxy."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from ha import status
from ha.errors import HAError

DEFAULT_SOCKET = "/run/haproxy/admin.sock"
SOCKET_VARIABLE = "PYBOUNCER_HAPROXY"


def seconds(text: str) -> float:
    """A number of seconds above zero."""
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def add_sockets(parser: argparse.ArgumentParser) -> None:
    """The options that say which HAProxy is meant."""
    parser.add_argument(
        "-s",
        "--socket",
        action="append",
        metavar="PATH|HOST:PORT",
        help="stats socket, once for each HAProxy "
        f"(default: ${SOCKET_VARIABLE}, else {DEFAULT_SOCKET})",
    )
    parser.add_argument(
        "--master",
        action="append",
        default=[],
        metavar="PATH",
        help="master socket (haproxy -S) of the HAProxy named by the --socket of the "
        "same rank: counts the sessions of workers that a reload left behind, too",
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=2.0,
        metavar="SECONDS",
        help="how long one question may take (default: 2)",
    )


def build_parser() -> argparse.ArgumentParser:
    """All commands."""
    parser = argparse.ArgumentParser(prog="pybouncer ha", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    watched = commands.add_parser("status", help="what HAProxy says of its servers")
    add_sockets(watched)
    watched.add_argument("--json", action="store_true", help="one JSON list per look")
    watched.add_argument("--wide", action="store_true", help="all columns")
    watched.add_argument(
        "--watch",
        nargs="?",
        type=seconds,
        const=1.0,
        metavar="SECONDS",
        help="look again every second, or as often as said",
    )
    watched.set_defaults(run=status.status)

    for name, text in (
        ("drain", "send a server no new sessions, keep those it has"),
        ("ready", "undo drain and maint"),
        ("maint", "take a server out; with on-marked-down shutdown-sessions its "
         "sessions are cut at once"),
        ("weight", "change a server's share"),
    ):  # fmt: skip
        ordered = commands.add_parser(name, help=text)
        add_sockets(ordered)
        ordered.add_argument("server", metavar="BACKEND/SERVER")
        if name == "weight":
            ordered.add_argument("weight", metavar="N|N%")
        if name in ("drain", "maint"):
            ordered.add_argument(
                "--force", action="store_true", help="even the last usable server"
            )
        if name == "drain":
            ordered.add_argument(
                "--wait",
                type=seconds,
                metavar="SECONDS",
                help="wait so long for its sessions to end",
            )
            ordered.add_argument(
                "--cut", action="store_true", help="cut those that are left then"
            )
        ordered.set_defaults(run=status.order)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 done, 1 not (or findings), 2 wrongly called."""
    try:
        options = build_parser().parse_args(argv)
    except SystemExit as end:
        return int(end.code or 0)
    if "socket" in options and not options.socket:
        options.socket = [os.environ.get(SOCKET_VARIABLE) or DEFAULT_SOCKET]
    try:
        return int(options.run(options))
    except HAError as problem:
        print(f"ERROR {problem}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever reads us, such as head, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except KeyboardInterrupt:
        return 130
