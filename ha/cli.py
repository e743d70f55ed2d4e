"""`pybouncer ha ...`: render and check configurations, watch and steer HAProxy."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TypeAlias

from bouncer.arguments import (
    DONE,
    FOUND,
    MISUSED,
    Parser,
    listing,
    one_of,
    reader_may_leave,
)
from ha import lint, render, rules, status
from ha.errors import HAError
from ha.failover import Patience, Rolling, by_command, readiness
from ha.haproxy import HAProxy
from ha.inventory import Inventory, Pooler, load
from ha.layouts import LAYOUTS, poolers_on_nodes

DEFAULT_SOCKET = "/run/haproxy/admin.sock"
SOCKET_VARIABLE = "PYBOUNCER_HAPROXY"

PROG = "pybouncer ha"

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def seconds(text: str) -> float:
    """A number of seconds above zero."""
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


ABOUT = """\
Render the configurations of HAProxy and of the poolers behind it from the one that
there is, check them, watch what HAProxy says of its servers, and steer it over its
stats socket.
"""


def build_parser(prog: str = PROG) -> Parser:
    """All commands."""
    parser = Parser(
        prog=prog,
        description=ABOUT,
        examples=[
            f"{prog} render farm --from pgbouncer.ini --inventory farm.toml --out new/",
            f"{prog} check haproxy.cfg pgbouncer.ini",
            f"{prog} status --watch",
            f"{prog} drain poolers/one --wait 60",
        ],
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", title="commands"
    )
    add_render(commands)
    add_check(commands)
    add_status(commands)
    add_orders(commands)
    add_restart(commands)
    add_save_state(commands)
    return parser


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


def add_render(commands: Commands) -> None:
    """`render`."""
    lines = [f"{one.name:12}{one.summary}" for one in LAYOUTS.values()]
    parser = commands.add_parser(
        "render",
        help="write every file of a layout",
        description="Write haproxy.cfg, pgbouncer.ini and what else a layout has.",
        epilog=listing("layouts", lines),
        examples=[f"{PROG} render farm --from x.ini --inventory farm.toml --out new/"],
    )
    parser.add_argument(
        "layout",
        metavar="LAYOUT",
        type=one_of(LAYOUTS),
        choices=list(LAYOUTS),
        help="below",
    )
    parser.add_argument(
        "--from",
        dest="source",
        required=True,
        metavar="PGBOUNCER.INI",
        help="the pooler's configuration as it is, or as it would be for one pooler",
    )
    parser.add_argument(
        "--inventory",
        required=True,
        metavar="FILE",
        help="hosts and addresses, see docs/ha.md",
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="DIR",
        help="where the files go; made if need be",
    )
    parser.set_defaults(run=render.run)


def add_check(commands: Commands) -> None:
    """`check`."""
    parser = commands.add_parser(
        "check", help="find mistakes in haproxy.cfg and pgbouncer.ini files"
    )
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="haproxy.cfg, pgbouncer.ini, any number",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON list, for programs"
    )
    parser.add_argument(
        "--strict", action="store_true", help="exit code 1 for notes, too"
    )
    parser.add_argument("--rules", action="store_true", help="list what is looked for")
    parser.set_defaults(run=check)


def check(options: argparse.Namespace) -> int:
    """Check files, or list the rules."""
    if options.rules:
        for rule in sorted(rules.RULES.values(), key=lambda one: one.name):
            print(f"{rule.name:24}{rule.severity:8} {rule.why}")
        return 0
    if not options.files:
        print("ERROR name at least one file", file=sys.stderr)
        return MISUSED
    return lint.run(options)


def add_status(commands: Commands) -> None:
    """`status`."""
    parser = commands.add_parser("status", help="what HAProxy says of its servers")
    add_sockets(parser)
    parser.add_argument("--json", action="store_true", help="one JSON list per look")
    parser.add_argument("--wide", action="store_true", help="all columns")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=seconds,
        const=1.0,
        metavar="SECONDS",
        help="look again every so many seconds (default: 1)",
    )
    parser.set_defaults(run=status.status)


ORDERS = {
    "drain": "send a server no new sessions, keep those it has",
    "ready": "undo drain and maint",
    "maint": "take a server out; with on-marked-down shutdown-sessions its sessions "
    "are cut at once",
    "weight": "change a server's share",
}


def add_orders(commands: Commands) -> None:
    """`drain`, `ready`, `maint`, `weight`."""
    for name, text in ORDERS.items():
        parser = commands.add_parser(name, help=text)
        add_sockets(parser)
        parser.add_argument(
            "server", metavar="BACKEND/SERVER", help="names as in haproxy.cfg"
        )
        if name == "weight":
            parser.add_argument(
                "weight", metavar="N|N%", help="0 to 256, or a part of the configured"
            )
        if name in ("drain", "maint"):
            parser.add_argument(
                "--force", action="store_true", help="even the last usable server"
            )
        if name == "drain":
            parser.add_argument(
                "--wait",
                type=seconds,
                metavar="SECONDS",
                help="wait so long for its sessions to end (default: not at all)",
            )
            parser.add_argument(
                "--cut", action="store_true", help="cut those that are left then"
            )
        parser.set_defaults(run=status.order)


def add_restart(commands: Commands) -> None:
    """`restart`."""
    parser = commands.add_parser(
        "restart", help="restart the poolers of an inventory, one at a time"
    )
    add_sockets(parser)
    parser.add_argument(
        "--inventory",
        required=True,
        metavar="FILE",
        help="hosts and addresses, see docs/ha.md",
    )
    parser.add_argument(
        "--backend",
        action="append",
        metavar="NAME",
        help="the proxy that leads to the poolers, once for each (default: the "
        "inventory's name, and that name with _held)",
    )
    parser.add_argument(
        "--only", action="append", metavar="POOLER", help="not all, but this one"
    )
    parser.add_argument(
        "--command",
        dest="restart_command",
        required=True,
        metavar="COMMAND",
        help="restarts one; {name}, {address} and {port} are filled in",
    )
    parser.add_argument(
        "--drain-timeout",
        type=seconds,
        default=60.0,
        metavar="SECONDS",
        help="how long the sessions of one may take to end (default: 60)",
    )
    parser.add_argument(
        "--ready-timeout",
        type=seconds,
        default=60.0,
        metavar="SECONDS",
        help="how long one may take until HAProxy has it UP again (default: 60)",
    )
    parser.add_argument(
        "--cut", action="store_true", help="cut the sessions that outlive the drain"
    )
    parser.set_defaults(run=restart)


def restart(options: argparse.Namespace) -> int:
    """Restart the poolers one at a time."""
    inventory = load(options.inventory)
    if options.socket:
        haproxies = status.balancers(options)
    else:
        haproxies = [
            HAProxy(one.stats, options.timeout)
            for one in inventory.balancers
            if one.stats
        ]
    if not haproxies:
        raise HAError("no balancer: name its socket (--socket, or `stats` in the file)")

    def say(text: str) -> None:
        print(text, flush=True)

    rolling = Rolling(
        haproxies,
        options.backend or [inventory.name, f"{inventory.name}_held"],
        by_command(options.restart_command, say),
        readiness(inventory),
        say,
        Patience(drain=options.drain_timeout, ready=options.ready_timeout),
        options.cut,
    )
    rolling.run(chosen(inventory, options.only))
    return 0


def chosen(inventory: Inventory, only: list[str] | None) -> list[Pooler]:
    """The poolers to restart, in the order of the inventory."""
    every = [*(inventory.central or inventory.poolers or poolers_on_nodes(inventory))]
    unknown = set(only or ()) - {pooler.name for pooler in every}
    if unknown:
        raise HAError(f"there is no pooler {min(unknown)} in the inventory")
    return [one for one in every if not only or one.name in only]


def add_save_state(commands: Commands) -> None:
    """`save-state`."""
    parser = commands.add_parser(
        "save-state", help="write the servers' states down before a reload"
    )
    add_sockets(parser)
    parser.add_argument("file", metavar="FILE", help="as `server-state-file` says")
    parser.set_defaults(run=save_state)


def save_state(options: argparse.Namespace) -> int:
    """Write `show servers state` to a file, whole or not at all."""
    if len(options.socket) != 1:
        raise HAError("save-state takes one --socket")
    text = status.balancers(options)[0].state_file()
    new = f"{options.file}.new"
    try:
        with open(new, "w") as to:
            to.write(text)
        os.replace(new, options.file)
    except OSError as problem:
        raise HAError(f"{problem.filename}: {problem.strerror}") from None
    return 0


# Commands that find their sockets elsewhere when none is named.
FINDS_SOCKETS = ("restart",)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 done, 1 not (or findings), 2 wrongly called."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    try:
        if words:
            parser.command_or_error(words[0])
        options = parser.parse_args(words)
    except SystemExit as end:
        return int(end.code or DONE)
    if options.command not in FINDS_SOCKETS and "socket" in options:
        default = os.environ.get(SOCKET_VARIABLE) or DEFAULT_SOCKET
        options.socket = options.socket or [default]
    status = DONE
    try:
        with reader_may_leave():
            status = int(options.run(options))
    except HAError as problem:
        print(f"ERROR {problem}", file=sys.stderr)
        return FOUND
    except KeyboardInterrupt:
        return 130
    return status
