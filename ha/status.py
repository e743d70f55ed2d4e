"""`pybouncer ha status` and the orders drain, ready, maint, weight.

An order is given to every HAProxy named, and told one by one: one that is down must
not keep the others from being told. Three things an operator forgets are done here:
an agent would undo the order within a second, so it is disabled first; the last
usable server of a backend is not taken away without --force; after a drain somebody
must wait, over all workers, until the sessions are gone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence

from ha.errors import HAProxyError
from ha.haproxy import HAProxy, Row
from ha.watch import COLUMNS, Cell, HAProxyWatch

# What fits a terminal; --wide shows all of COLUMNS.
NARROW = (
    "haproxy",
    "proxy",
    "name",
    "type",
    "status",
    "weight",
    "sessions",
    "session_limit",
    "queued",
    "check_status",
    "last_agent",
    "error",
)
WAIT_STEP = 0.2
# HAProxy's agent checks: what `agent_status` may read while an agent is heard.
NO_AGENT = ("", "UNK")

Say = Callable[[str], None]


def balancers(options: argparse.Namespace) -> list[HAProxy]:
    """The HAProxies of the command line."""
    masters: list[str | None] = list(options.master)
    masters += [None] * (len(options.socket) - len(masters))
    return [
        HAProxy(place, options.timeout, master)
        for place, master in zip(options.socket, masters, strict=False)
    ]


# status


def status(options: argparse.Namespace) -> int:
    """Show the table once, or again and again."""
    watch = HAProxyWatch(balancers(options))
    draw: Callable[[list[tuple[Cell, ...]]], str]
    if options.json:
        draw = as_json
    else:
        names = [name for name, _ in COLUMNS] if options.wide else list(NARROW)
        draw = lambda rows: as_table(rows, names)  # noqa: E731
    while True:
        rows = watch.rows_now()
        if options.watch is None:
            print(draw(rows))
            return int(all(row[-1] is not None for row in rows))
        if not options.json and sys.stdout.isatty():
            print("\x1b[2J\x1b[H", end="")
        print(draw(rows), flush=True)
        try:
            time.sleep(options.watch)
        except KeyboardInterrupt:
            return 0


def as_json(rows: Sequence[tuple[Cell, ...]]) -> str:
    """One line: a list of objects."""
    names = [name for name, _ in COLUMNS]
    return json.dumps([dict(zip(names, row, strict=True)) for row in rows])


def as_table(rows: Sequence[tuple[Cell, ...]], names: list[str]) -> str:
    """Aligned columns; those that are empty in every row are left out."""
    places = {name: index for index, (name, _) in enumerate(COLUMNS)}
    texts = {
        name: [
            "" if row[places[name]] is None else str(row[places[name]]) for row in rows
        ]
        for name in names
    }
    kept = [name for name in names if any(texts[name])]
    types = dict(COLUMNS)
    widths = {name: max(len(name), *map(len, texts[name])) for name in kept}

    def line(values: dict[str, str]) -> str:
        return "  ".join(
            values[name].rjust(widths[name])
            if types[name] != "text"
            else values[name].ljust(widths[name])
            for name in kept
        ).rstrip()

    lines = [line({name: name for name in kept})]
    for index in range(len(rows)):
        lines.append(line({name: texts[name][index] for name in kept}))
    return "\n".join(lines)


# drain, ready, maint, weight


def split_target(text: str) -> tuple[str, str]:
    """`backend/server` taken apart."""
    backend, slash, server = text.partition("/")
    if not slash or not backend or not server:
        raise HAProxyError(repr(text), "write backend/server")
    return backend, server


def order(options: argparse.Namespace) -> int:
    """Give one order to every HAProxy; 1 when one of them could not be told."""
    backend, server = split_target(options.server)
    failed = 0
    for haproxy in balancers(options):
        try:
            give(haproxy, backend, server, options, print)
        except HAProxyError as problem:
            failed = 1
            print(f"ERROR {problem}", file=sys.stderr)
    return failed


def give(
    haproxy: HAProxy,
    backend: str,
    server: str,
    options: argparse.Namespace,
    say: Say,
) -> None:
    """Give the order to one HAProxy and tell what happened."""
    row = present(haproxy, backend, server)
    where, target = haproxy.endpoint.text, f"{backend}/{server}"
    if options.command == "weight":
        if row.agent_status not in NO_AGENT:
            haproxy.set_agent(backend, server, False)
            say(f"{where}: {target}: its agent is not heard until `ready`")
        haproxy.set_weight(backend, server, options.weight)
        current, initial = haproxy.weight_of(backend, server)
        say(f"{where}: {target} has weight {current} (initial {initial})")
        if current == 0:
            say(f"{where}: {target} gets no new sessions at weight 0")
        return
    if options.command == "ready":
        haproxy.set_state(backend, server, "ready")
        haproxy.hear_agent(backend, server)
    else:
        take_away(haproxy, row, options.command, options.force)
    row = present(haproxy, backend, server)
    say(f"{where}: {target} is {row.status.text}, {row.sessions or 0} sessions")
    if options.command == "drain" and options.wait is not None:
        left = await_empty(haproxy, backend, server, options.wait, say)
        if left and options.cut:
            haproxy.cut_sessions(backend, server)
            say(f"{where}: {target}: {left} sessions cut")
        elif left:
            raise HAProxyError(
                where, f"{target} still has {left} sessions after {options.wait:g} s"
            )


def present(haproxy: HAProxy, backend: str, server: str) -> Row:
    """The server's row; says which servers there are when it is not among them."""
    picture = haproxy.picture()
    row = picture.server(backend, server)
    if row is None:
        known = " ".join(f"{r.proxy}/{r.name}" for r in picture.of_kind("server"))
        raise HAProxyError(
            haproxy.endpoint.text,
            f"there is no server {backend}/{server}; there is {known or 'none'}",
        )
    return row


def take_away(haproxy: HAProxy, row: Row, state: str, force: bool) -> None:
    """Drain or maint, unless that would leave the backend with nobody."""
    target = f"{row.proxy}/{row.name}"
    others = haproxy.picture().others_usable(row.proxy, row.name)
    if not others and row.usable and not force:
        raise HAProxyError(
            haproxy.endpoint.text,
            f"{target} is the last usable server of {row.proxy}: only with --force",
        )
    if row.agent_status not in NO_AGENT:
        haproxy.set_agent(row.proxy, row.name, False)
    haproxy.set_state(row.proxy, row.name, state)


def await_empty(
    haproxy: HAProxy, backend: str, server: str, seconds: float, say: Say
) -> int:
    """Wait until the server has no session; returns how many are left."""
    ends = time.monotonic() + seconds
    told = -1
    while True:
        left = haproxy.sessions_on(backend, server)
        if left != told:
            say(f"{haproxy.endpoint.text}: {backend}/{server}: {left} sessions left")
            told = left
        if not left or time.monotonic() >= ends:
            return left
        time.sleep(WAIT_STEP)
