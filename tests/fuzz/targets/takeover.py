"""What a new process is told by the old one: rows of SHOW FDS and the state in them.

Each row is a step; its socket's far end is ours. Afterwards the clients go on, the
servers answer, and somebody new is served. A row that is not understood ends the start
with `StartError`; it must not end it otherwise, nor leave anything behind.
"""

import gc
import itertools
import json
import os
import random
import socket
import struct
from typing import Any

from bouncer.adopt import Adoption
from bouncer.carry import state_of
from bouncer.errors import StartError
from bouncer.relay import stream as relay_stream
from bouncer.relay.statements import known_statements
from bouncer.talks.takeover import OldProcess
from tests.fuzz.steps import Step
from tests.fuzz.targets import Found
from tests.fuzz.targets.process import CLIENT, LOGIN, SERVER, Far, Play
from tests.relay import frames as f

ROW, SAID, ANSWERED = range(3)
MOST_ROWS = 12
NUMBERS = (0, 1, -1, 2, 255, 2**31, 2**32, 2**63, 2**64, 1.5, 10**30)
ODD = ("", "x", None, True, [], {}, "\udcff", [[]], "names", "TimeZone")

BASE = ("10", "client", "u_trust", "p0", "127.0.0.1", "4711", "77", "0", "UTF8", "on",
        "ISO, MDY", "UTC", None, None, None, None)  # fmt: skip


def row(**given: Any) -> bytes:
    """A row as the old process sends it; names as in `Row`, "state" as JSON."""
    names = ("number", "task", "user", "database", "host", "port", "cancel", "link",
             "encoding", "strings", "datestyle", "timezone", "password", "client_key",
             "server_key", "state")  # fmt: skip
    values = dict(zip(names, BASE, strict=True)) | given
    if isinstance(values["state"], dict):
        values["state"] = json.dumps(values["state"])
    return data_row([values[name] for name in names])


def data_row(values: list[str | None]) -> bytes:
    body = struct.pack("!H", len(values) & 0xFFFF)
    for value in values:
        raw = None if value is None else value.encode("utf-8", "surrogatepass")
        body += b"\xff" * 4 if raw is None else struct.pack("!I", len(raw)) + raw
    return body


def states(*said: bytes) -> list[dict[str, Any]]:
    """What this build tells of a client that has said that, and of its server."""
    play = Play(b"\0\1\0\0")
    play.step(Step(LOGIN, 0, b"\0\0"))
    play.step(Step(CLIENT, 0, b"".join(said)))
    client = play.ours[0]
    both = (client, next(iter(client.pool.servers())))
    found = [json.loads(state_of(one, set())) for one in both]
    play.leave()
    play.close()
    return found


IDLE = states()
NAMED = states(f.parse("a", "select 1"), f.bind("a"), f.execute(), f.SYNC)
BEGUN = states(f.query("begin"), f.parse("", "select 1"), f.describe(""), f.FLUSH)
COPYING = states(f.query("copy t from stdin"), f.copy_data(b"x"), f.close("a"), f.SYNC)
ids = itertools.count(1000)


def pair(told: list[dict[str, Any]], linked: bool = True) -> tuple[bytes, bytes]:
    """Rows of a client and a server, linked to each other or not."""
    one = next(ids)
    client = {"number": str(one), "link": str(one + 1) if linked else "0"}
    server = {"number": str(one + 1), "link": str(one) if linked else "0"}
    next(ids)
    return (
        row(**client, state={**told[0], "id": one}),
        row(**server, task="server", state={**told[1], "id": one + 1}),
    )


# A server in the middle of something has its client.
PAIRS = [pair(IDLE, False), *(pair(told) for told in (IDLE, NAMED, BEGUN, COPYING))]
words = {
    ROW: [
        *itertools.chain.from_iterable(PAIRS), row(), row(user=None, database=None),
        row(number="11", task="server"), row(number="13", link="14"),
        row(password="pw"),
        row(number="14", task="server", link="13"), row(cancel=str(2**64 - 1)),
        row(number="12", task="pooler", user=None, database=None, port="23499"),
        row(number="15", database="forced", task="server", user="u"),
        row(number="16", database="forced"), row(host="::1"), row(host="unix"),
        row(number="17", database="pgbouncer", user="admin"), row(user="", database=""),
        row(client_key="\\x" + "00" * 32, server_key="\\x" + "11" * 32),
        row(database="nowhere"), row(number="18", state={"names": [],
        "refused": ["x"]}),
    ],
    SAID: [
        f.query("select 1"), f.SYNC, f.parse("a", "select 1"), f.bind("a"), f.execute(),
        f.close("a"), f.TERMINATE, f.bind("a") + f.execute() + f.SYNC, f.FLUSH,
        f.copy_data(b"x"), f.COPY_DONE,
    ],
    ANSWERED: [
        f.ready(), f.complete("SELECT 1") + f.ready(), f.PARSE_COMPLETE, f.ready("T"),
        f.BIND_COMPLETE, f.complete("SET") + f.ready(), f.error("22012", "no"),
        f.PARSE_COMPLETE + f.BIND_COMPLETE + f.complete("SELECT 1") + f.ready(),
        f.COPY_IN, f.data_row(b"x"), f.complete("COPY 1") + f.ready(),
    ],
}  # fmt: skip


def values_of(body: bytes) -> list[str | None]:
    """The values of a row, as far as there are any."""
    found: list[str | None] = []
    at = 2
    while at + 4 <= len(body) and len(found) < 40:
        size = int.from_bytes(body[at : at + 4], "big", signed=True)
        at += 4
        if size < 0:
            found.append(None)
        else:
            found.append(body[at : at + size].decode("utf-8", "replace"))
            at += size
    return found


def tweak(dice: random.Random, data: bytes) -> bytes:
    """Change one value of a row, or one value somewhere in its state."""
    values = values_of(data)
    if len(values) < 8:
        return data
    at = dice.randrange(len(values))
    if dice.random() < 0.6 and values[-1] and values[-1][:1] == "{":
        try:
            state = json.loads(values[-1])
        except (ValueError, RecursionError):
            return data
        values[-1] = json.dumps(changed(dice, state))
    elif dice.random() < 0.5:
        theirs = values_of(dice.choice(words[ROW]))
        values[at] = dice.choice(theirs)
    else:
        values[at] = dice.choice(
            (None, "", *map(str, NUMBERS), "client", "server", "x")
        )
    return data_row(values)


def changed(dice: random.Random, value: Any) -> Any:
    """A JSON value with one thing inside it changed."""
    if isinstance(value, dict) and value and dice.random() < 0.9:
        key = dice.choice(list(value))
        if dice.random() < 0.15:
            return {name: one for name, one in value.items() if name != key}
        return {**value, key: changed(dice, value[key])}
    if isinstance(value, list) and value and dice.random() < 0.8:
        at = dice.randrange(len(value))
        way = dice.randrange(4)
        if way == 0:
            return [*value, value[at]]
        if way == 1:
            return value[:at] + value[at + 1 :]
        return [*value[:at], changed(dice, value[at]), *value[at + 1 :]]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int) and dice.random() < 0.7:
        return dice.choice((*NUMBERS, value + 1, dice.randrange(256)))
    if isinstance(value, list):
        return [*value, dice.choice((["a", 5, "k", "s"], "x", [83, 0, None], 1))]
    return dice.choice((*ODD, *NUMBERS))


# What `adopt.begin` makes a StartError of.
NOT_UNDERSTOOD = (ValueError, OverflowError, RecursionError)


class Old(OldProcess):
    """The old process, without a connection: rows come from the input."""

    def __init__(self) -> None:
        self.fds, self.buffer = [], b""

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()


def fetched(play: Play, old: Old, steps: list[Step]) -> list[Any]:
    """Rows of the input, each with a socket whose far end the play keeps."""
    rows: list[Any] = []
    for step in steps:
        if step.what % 3 != ROW or len(rows) >= MOST_ROWS:
            continue
        if b"pooler" in step.data[:40]:
            ours = socket.create_server(("127.0.0.1", 0))
        else:
            ours, theirs = socket.socketpair()
            place = play.servers if b"server" in step.data[:40] else play.clients
            place.append(Far(theirs))
        old.fds.append(ours.detach())
        rows.append(old.row(step.data))
    return rows


def adopt(play: Play, steps: list[Step]) -> Adoption | None:
    """Take over what the rows tell; None if the start is given up."""
    old = Old()
    adoption = Adoption(play.app, old, "/nowhere")
    rows: list[Any] = []
    try:
        rows = fetched(play, old, steps)
        adoption.take(rows)
    except (StartError, *NOT_UNDERSTOOD):
        return None
    finally:
        old.close()
    adoption.read()
    return adoption


def go_on(play: Play, steps: list[Step]) -> None:
    """Let those who were taken over speak."""
    kinds = {SAID: CLIENT, ANSWERED: SERVER}
    for step in steps:
        what = step.what % 3
        if what == ROW or (what == SAID and not play.clients):
            continue
        play.step(Step(kinds[what], step.who, step.data))


def run(setup: bytes, steps: list[Step]) -> None:
    """Play one input."""
    streams, statements = relay_stream.alive(), known_statements()
    play = Play(setup)
    adoption = adopt(play, steps)
    adopted = adoption is not None
    if adoption is not None:
        play.ours += [*adoption.clients.values()]
        play.turn()
        go_on(play, steps)
        for listener in adoption.listeners:
            listener.socket.close()
        play.leave()
        if play.is_as_before:
            play.somebody_is_served()
    # A start that was given up is followed by the end of the process.
    for far in (*play.clients, *play.servers):
        far.sock.close()
    play.close()
    del play, adoption
    gc.collect()
    if adopted and (
        streams != relay_stream.alive() or statements != known_statements()
    ):
        raise Found("taken over and not freed")
