"""Rows of SHOW FDS that make no sense end the takeover, and nothing else.

The old process is played here: it hands over real sockets with rows of its choice. It
must never be told to shut down then, and no byte may reach what it has handed over.
"""

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bouncer import log
from bouncer.adopt import begin
from bouncer.app import Bouncer
from bouncer.config.load import load
from bouncer.errors import StartError
from bouncer.wire.messages import (
    command_complete,
    data_row,
    ready_for_query,
    row_description,
)
from tests.unit.ops.test_takeover import OK, Old

COLUMNS = [("x", 25, -1)] * 16
CLIENT = {
    "connected_at": 1,
    "query_start": 0,
    "transaction_start": 0,
    "replication": 0,
    "names": [],
    "tracked": {"client_encoding": "UTF8"},
    "id": 11,
}
SERVER = {
    "connected_at": 1,
    "idle_since": 1,
    "ready": True,
    "status": 73,
    "spoke": False,
    "unsure": False,
    "probed": False,
    "in_error": False,
    "copy": 0,
    "group": 1,
    "evicting": 0,
    "replication": 0,
    "close_needed": False,
    "prepared": [],
    "owed": [],
    "tracked": {},
    "pool": {"welcome": "", "defaults": {}, "disabled": False},
    "id": 12,
}
STATEMENT = [7, "select 1\0\0\0", ""]


def row(number: int, task: str, link: int = 0, **more: Any) -> list[Any]:
    """Return a row; *state* is a dict, or what stands in its place."""
    told: dict[str, Any] = {
        "fd": number,
        "task": task,
        "user": None if task == "pooler" else "u_trust",
        "database": None if task == "pooler" else "p0",
        "addr": "127.0.0.1",
        "port": 6432,
        "cancel": number,
        "link": link,
        **dict.fromkeys(("encoding", "strings", "datestyle", "timezone")),
        **dict.fromkeys(("password", "client_key", "server_key")),
        "state": None,
        **more,
    }
    if isinstance(told["state"], dict):
        told["state"] = json.dumps(told["state"])
    return list(told.values())


def client(number: int = 1, link: int = 0, **more: Any) -> list[Any]:
    return row(number, "client", link, state=CLIENT | {"id": 10 + number} | more)


def server(number: int = 2, link: int = 0, **more: Any) -> list[Any]:
    return row(number, "server", link, state=SERVER | {"id": 10 + number} | more)


def pair(**more: Any) -> list[list[Any]]:
    """Return a linked pair whose server's state has *more*."""
    return [client(link=2), server(link=1, **more)]


UNSUITABLE: dict[str, tuple[list[list[Any]], str]] = {
    "unknown task": ([row(1, "guest")], "unknown task: guest"),
    "one descriptor twice": ([client(1), client(1, id=99)], "two rows of one"),
    "partner that is not there": ([client(link=5)], "partner is not there"),
    "partner of its own kind": ([client(1, 2), client(2, 1)], "partner is not there"),
    "partner with another partner": (
        [client(1, 2), server(2, 3), client(3, 2)],
        "partner is not there",
    ),
    "server without a user": ([row(1, "server", user=None)], "without user or datab"),
    "unknown database": ([row(1, "server", database="none")], "no such database"),
    "console": ([row(1, "client", database="pgbouncer")], "of the console"),
    "cancel key of nine bytes": ([row(1, "client", cancel=2**64)], "of 64 bits"),
    "port": ([row(1, "client", port=65536)], "of 16 bits"),
    "key": ([row(1, "client", client_key="\\x00")], "key of 1 bytes"),
    "state that is a list": ([row(1, "client", state="[1]")], "not an object"),
    "state without end": ([row(1, "client", state="[" * 100_000)], "too deep"),
    "two of one id": ([client(1, id=7), server(2, id=7)], "two connections"),
    "id that is none": ([client(id="x")], "id: no number"),
    "times": ([client(connected_at=2**63)], "connected_at"),
    "flag": ([client(), server(ready=1)], "ready: no flag"),
    "missing": ([client(), row(2, "server", state={"ready": True})], "missing"),
    "copy": (pair(copy=5), "copy"),
    "refused of no name": ([client(refused=["x"])], "refused: of no name"),
    "names": ([client(names=[["a"]])], "names: not of 4 parts"),
    "name twice": ([client(names=[["a", *STATEMENT]] * 2)], "one stands twice"),
    "name with a zero": ([client(names=[["a\0b", *STATEMENT]])], "zero byte"),
    "text that is no Parse": ([client(names=[["a", 7, "x", ""]])], "no Parse"),
    "two texts of a number": (
        [client(names=[["a", *STATEMENT], ["b", 7, "select 2\0\0\0", ""]])],
        "two texts of one number",
    ),
    "prepared twice": (pair(prepared=[[*STATEMENT, True, 1]] * 2), "stands twice"),
    "Parse of nothing": (
        pair(owed=[[0x50, 0, [None, None, False, 1]]]),
        "a Parse of no statement",
    ),
    "owed to nobody": (
        [client(), server(owed=[[0x50, 0, ["a", STATEMENT, False, 1]]])],
        "a name of no client",
    ),
    "tracked": ([client(tracked=[1])], "not names and values"),
    "welcome": (
        [server(pool={"welcome": 1, "defaults": {}, "disabled": False})],
        "pool: ",
    ),
}


class Plays:
    """An old process that gives *rows*, each with a socket."""

    def __init__(self, rows: list[list[Any]]) -> None:
        self.rows = rows
        self.ends: list[tuple[socket.socket, socket.socket]] = []
        self.told: bytes = b""
        self.taken: Any = None  # what was made of the rows

    def __call__(self, old: Old) -> None:
        old.peer.settimeout(20)
        old.expect(b"pgbouncer")
        old.say(OK, ready_for_query())
        old.expect(b"SHOW VERSION;\0")
        old.say(command_complete("SHOW"))
        old.expect(b"SUSPEND;\0")
        old.say(command_complete("SUSPEND"))
        old.expect(b"SHOW FDS;\0")
        old.say(row_description(COLUMNS))
        with contextlib.suppress(ConnectionError):
            for one in self.rows:
                ends = socket.socketpair()
                self.ends.append(ends)
                old.hand_over(data_row(one), ends[0].fileno())
            old.say(command_complete("SHOW"), ready_for_query())
            self.told = old.peer.recv(4096)

    def close(self) -> None:
        for ends in self.ends:
            for end in ends:
                end.close()


class TwiceAsked(Old):
    """The first to come only looks whether somebody is there."""

    def play(self) -> None:
        """Let him go, and play for the second."""
        self.server.accept()[0].close()
        super().play()


@pytest.fixture
def take_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[list[list[Any]]], tuple[StartError | None, Plays]]]:
    """Let a pooler take over from a process that gives these rows."""
    for name in ("info", "warning", "error"):
        monkeypatch.setattr(log, name, lambda text: None)
    made: list[tuple[TwiceAsked, Plays]] = []

    def take(rows: list[list[Any]]) -> tuple[StartError | None, Plays]:
        ini = tmp_path / "ini"
        ini.write_text(
            "[databases]\np0 = host=127.0.0.1\n[pgbouncer]\nauth_type = trust\n"
            f"listen_port = 6432\nunix_socket_dir = {tmp_path}\n"
        )
        app = Bouncer(load(str(ini), None), str(ini), None)
        plays = Plays(rows)
        old = TwiceAsked(str(tmp_path / ".s.PGSQL.6432"), plays)
        made.append((old, plays))
        try:
            adoption = begin(app)
        except StartError as err:
            old.thread.join(20)
            return err, plays
        assert adoption is not None
        adoption.old.close()
        plays.taken = adoption
        return None, plays

    yield take
    for old, plays in made:
        old.close()
        plays.close()


Take = Callable[[list[list[Any]]], tuple[StartError | None, Plays]]


@pytest.mark.parametrize("name", UNSUITABLE)
def test_row_that_makes_no_sense_ends_the_takeover(name: str, take_from: Take) -> None:
    rows, why = UNSUITABLE[name]
    problem, plays = take_from(rows)
    assert problem is not None and why in str(problem)
    assert plays.told == b""
    for ours, theirs in plays.ends:
        for end in (ours, theirs):
            end.setblocking(False)
            with pytest.raises(BlockingIOError):
                end.recv(1)


def test_rows_that_make_sense_are_taken(take_from: Take) -> None:
    """The rows of the other tests are wrong in what those say, and in nothing else."""
    names = [["a", *STATEMENT], ["b", 8, "select 2\0\0\1\0\0\0\1", "x"]]
    owed = [[0x50, 0, ["c", STATEMENT, False, 1]], [0x53, 0, None]]
    rows = [
        client(link=2, names=names, refused=["b"]),
        server(link=1, owed=owed, ready=False, prepared=[[*STATEMENT, True, 1]]),
    ]
    problem, _ = take_from(rows)
    assert problem is None


PID, SECRET = 4711, 0x89ABCDEF
KEY = PID << 32 | SECRET


def test_cancel_key_of_a_server_tells_its_process(take_from: Take) -> None:
    """SHOW SERVERS and the log told a process of PostgreSQL that there is not."""
    rows = [client(1, link=2), server(2, link=1), server(3)]
    for one, key in ((rows[1], KEY), (rows[2], KEY + (1 << 32))):
        one[6] = key
    problem, plays = take_from(rows)
    assert problem is None
    servers = plays.taken.servers
    assert [one.backend_pid for one in servers.values()] == [PID, PID + 1]
    assert servers[2].cancel_key == KEY.to_bytes(8, "big")


@pytest.mark.parametrize("of_ours", [True, False])
def test_pair_and_idle_server_are_taken_to_their_pool(
    of_ours: bool, take_from: Take
) -> None:
    """Of a process of ours, and of one that tells nothing more than its rows."""
    rows = [client(1, link=2), server(2, link=1), server(3)]
    if not of_ours:
        rows = [row(1, "client", 2), row(2, "server", 1), row(3, "server")]
    problem, plays = take_from(rows)
    assert problem is None
    clients, servers = plays.taken.clients, plays.taken.servers
    assert clients[1].server is servers[2] and servers[2].client is clients[1]
    pool = servers[2].pool
    assert pool is servers[3].pool is clients[1].pool
    assert (list(pool.active), list(pool.idle)) == ([servers[2]], [servers[3]])
    database, account = pool.database, pool.user.account
    assert (database.client_count, database.server_count) == (1, 2)
    assert (account.client_count, account.server_count) == (1, 2)
    assert not any(one.close_needed for one in servers.values())


def test_name_of_an_application_that_was_not_told_is_set_before_use(
    take_from: Take,
) -> None:
    """What the next client wants would have seemed to be there already."""
    told = server(2, tracked={"application_name": "told"})
    problem, plays = take_from([row(1, "server"), told])
    assert problem is None
    names = [
        one.tracked.as_dict()["application_name"]
        for one in plays.taken.servers.values()
    ]
    assert names == ["(unknown)", "told"]
