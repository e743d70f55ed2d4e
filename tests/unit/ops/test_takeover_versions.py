"""Which old processes can hand over: SHOW VERSION tells, before anything is asked."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bouncer import COMPATIBLE_VERSION, __version__
from bouncer.errors import StartError
from bouncer.talks.takeover import OldProcess
from bouncer.wire.messages import (
    command_complete,
    data_row,
    error_response,
    notice_response,
    ready_for_query,
    row_description,
)
from tests.unit.ops.test_takeover import OK, Old, Script, lines, play

__all__ = ["lines", "play"]

Play = Callable[[Script], OldProcess]
RECORDED = json.loads(
    (Path(__file__).parents[2] / "recordings/takeover_restart_1_25.json").read_text()
)
SCENARIOS = {one["scenario"]: one for one in RECORDED["scenarios"]}
COLUMN = row_description([("version", 25, -1)])


def shown(version: str) -> bytes:
    """Return a whole answer to SHOW VERSION."""
    row = COLUMN + data_row([version])
    return row + command_complete("SHOW") + ready_for_query()


def asked_for_its_version(play: Play, *answer: bytes) -> OldProcess:
    """Log in at an old process that answers SHOW VERSION so, and SUSPEND."""

    def script(old: Old) -> None:
        old.expect(b"\0\3\0\0")
        old.say(OK, ready_for_query())
        old.expect(b"SHOW VERSION;\0")
        old.say(*answer)
        message = old.peer.recv(4096)
        old.said.append(message)
        if message:
            assert b"SUSPEND;\0" in message, message
            old.say(command_complete("SUSPEND"))

    new = play(script)
    new.login()
    return new


@pytest.mark.parametrize("version", ["1.26.0", "1.26.1", "1.27.0rc1", "2.0.0"])
def test_a_pgbouncer_from_1_26_on_is_left_alone(play: Play, version: str) -> None:
    """It would answer that SUSPEND is no command, and say so in its log."""
    new = asked_for_its_version(play, shown(f"PgBouncer {version}"))
    text = f"^the running PgBouncer {version} cannot hand over its sockets$"
    with pytest.raises(StartError, match=text):
        new.refuse_unable()


@pytest.mark.parametrize(
    "answer",
    [
        shown("PgBouncer 1.25.2"),
        shown("PgBouncer 1.24.1"),
        shown("PgBouncer 1.18.0"),
        notice_response("PgBouncer version 1.9.0") + command_complete("SHOW"),
        shown(f"PgBouncer {COMPATIBLE_VERSION} pybouncer {__version__}"),
        error_response("invalid command", "08P01", "ERROR") + ready_for_query(),
        COLUMN + data_row(["PgBouncer 1.25.2"]) + command_complete("SHOW"),
        shown("something else"),
    ],
)
def test_whoever_may_be_able_to_is_asked(play: Play, answer: bytes) -> None:
    """Those before 1.26, and one of ours, which says so to a process of ours alone."""
    new = asked_for_its_version(play, answer)
    new.refuse_unable()
    new.suspend()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return two sockets, whose descriptors are handed over."""
    pair = socket.socketpair()
    yield pair
    for end in pair:
        end.close()


@pytest.mark.parametrize("name", SCENARIOS)
def test_recorded_takeover_is_understood(
    name: str, play: Play, ends: tuple[socket.socket, socket.socket]
) -> None:
    """Byte for byte what 1.25.2 and 1.18.0 said, with a descriptor for each row."""
    trace = SCENARIOS[name]["trace"]
    told: list[dict[str, Any]] = []

    def script(old: Old) -> None:
        old.expect(b"\0\3\0\0")
        for step in trace[1:]:
            said = step.get("msg") or ""
            if "SHUTDOWN" in said:
                break
            if "SUSPEND" in said:
                old.expect(b"SHOW VERSION;\0")
                old.say(shown(f"PgBouncer {name.rpartition('-')[2]}"))
            if step["dir"] == "new->old":
                old.expect(said.removeprefix("Query ").encode())
                continue
            messages = step.get("messages", [])
            packet = b"".join(bytes.fromhex(one["raw_hex"]) for one in messages)
            told.extend(one["row"] for one in messages if one["type"] == "D")
            if step["scm_rights_fds"]:
                old.hand_over(packet, ends[0].fileno())
            else:
                old.say(packet)
        old.peer.recv(4096)

    new = play(script)
    new.login()
    new.refuse_unable()
    new.suspend()
    rows = new.fetch()
    new.close()
    assert len(rows) == len(told) > 0
    for row, recorded in zip(rows, told, strict=True):
        assert (row.number, row.task) == (int(recorded["fd"]), recorded["task"])
        assert (row.user, row.database) == (recorded["user"], recorded["database"])
        assert (row.host, row.port) == (recorded["addr"], int(recorded["port"]))
        assert row.cancel == int(recorded["cancel"]) % 2**64
        assert row.link == int(recorded["link"])
        assert row.password == recorded.get("password")
        keys = recorded.get("scram_client_key"), recorded.get("scram_server_key")
        assert (row.scram_keys is None) == (None in keys)
        assert row.tracked.get("TimeZone") == recorded["timezone"]
        assert row.tracked.get("client_encoding") == recorded["client_encoding"]
        assert row.state == {}
        os.close(row.fd)
