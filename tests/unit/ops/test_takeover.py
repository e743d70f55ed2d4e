"""The dialogue of a takeover, against old processes that say as little as they may."""

import array
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bouncer import log
from bouncer.errors import StartError
from bouncer.talks.takeover import OldProcess, Row
from bouncer.wire.messages import (
    command_complete,
    data_row,
    error_response,
    ready_for_query,
    row_description,
)

OK = b"R\0\0\0\x08\0\0\0\0"
Script = Callable[["Old"], None]


class Old:
    """A process that plays the old side, one step after the other."""

    def __init__(self, path: str, script: Script) -> None:
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(path)
        self.server.listen()
        self.script = script
        self.said: list[bytes] = []
        self.thread = threading.Thread(target=self.play)
        self.thread.start()

    def play(self) -> None:
        self.peer, _ = self.server.accept()
        self.peer.settimeout(5)
        with self.peer:
            self.script(self)

    def expect(self, what: bytes) -> None:
        """Read one message, which must hold *what*."""
        message = self.peer.recv(4096)
        assert what in message, message
        self.said.append(message)

    def say(self, *packets: bytes) -> None:
        self.peer.sendall(b"".join(packets))

    def hand_over(self, packet: bytes, fd: int) -> None:
        """Send a row with its descriptor, as a real one does."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        self.peer.sendmsg([packet], rights)

    def close(self) -> None:
        self.thread.join(5)
        self.server.close()


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Callable[[Script], OldProcess]]:
    """Start an old side that follows a script; return the new side's connection."""
    made: list[tuple[Old, OldProcess]] = []

    def start(script: Script) -> OldProcess:
        path = str(tmp_path / "socket")
        old = Old(path, script)
        new = OldProcess(path, 6432)
        made.append((old, new))
        return new

    yield start
    for old, new in made:
        new.close()
        old.close()


@pytest.fixture(autouse=True)
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    for name in ("info", "error"):
        monkeypatch.setattr(log, name, seen.append)
    return seen


def take(new: OldProcess) -> list[Row]:
    new.login()
    new.suspend()
    return new.fetch()


COLUMNS = [("x", 25, -1)] * 13


def values(number: int, task: str, **more: object) -> list[str | int | None]:
    """Return thirteen columns: what the oldest process has."""
    row = {
        "user": None,
        "database": None,
        "addr": "127.0.0.1",
        "port": 6432,
        "cancel": 0,
        "link": 0,
        "encoding": None,
        "strings": None,
        "datestyle": None,
        "timezone": None,
        "password": None,
    }
    return [number, task, *(row | more).values()]  # type: ignore[list-item]


def test_least_talkative_old_process_is_understood(
    play: Callable[[Script], OldProcess], lines: list[str]
) -> None:
    """No parameters, no ReadyForQuery behind SUSPEND, thirteen columns."""
    pair = socket.socketpair()

    def script(old: Old) -> None:
        old.expect(b"\0\3\0\0database\0pgbouncer\0user\0pgbouncer\0")
        old.say(OK, ready_for_query())
        old.expect(b"SUSPEND;\0")
        old.say(command_complete("SUSPEND"))
        old.expect(b"SHOW FDS;\0")
        client = values(
            17,
            "client",
            user="u",
            database="d",
            cancel=2**64 - 2,
            link=18,
            encoding="UTF8",
            timezone="UTC",
        )
        first = row_description(COLUMNS) + data_row(client)
        old.hand_over(first, pair[0].fileno())
        old.hand_over(data_row(values(18, "server", user="u")), pair[1].fileno())
        old.say(command_complete("SHOW"), ready_for_query())
        old.expect(b"SHUTDOWN;\0")

    new = play(script)
    client, server = take(new)
    assert (client.number, client.task, client.link) == (17, "client", 18)
    assert client.cancel == 2**64 - 2
    assert client.tracked == {"client_encoding": "UTF8", "TimeZone": "UTC"}
    assert client.scram_keys is None and client.state == {}
    assert (server.number, server.user, server.database) == (18, "u", None)
    # The descriptors are ours: private, and theirs may go.
    for row in (client, server):
        assert not os.get_inheritable(row.fd) and not os.get_blocking(row.fd)
    for end in pair:
        end.close()
    os.write(client.fd, b"x")
    assert os.read(server.fd, 10) == b"x"
    new.shutdown()
    assert lines[-1].endswith("closing because: disko over (age=0s)")
    os.close(client.fd)
    os.close(server.fd)


def test_rows_may_come_in_any_pieces(play: Callable[[Script], OldProcess]) -> None:
    ends = socket.socketpair()

    def script(old: Old) -> None:
        old.expect(b"startup"[:0])
        for byte in OK + ready_for_query():
            old.say(bytes([byte]))
        old.expect(b"SUSPEND")
        old.say(command_complete("SUSPEND"), ready_for_query())
        old.expect(b"SHOW FDS")
        packet = row_description(COLUMNS) + data_row(values(3, "pooler"))
        old.hand_over(packet[:1], ends[0].fileno())
        for byte in packet[1:] + command_complete("SHOW"):
            old.say(bytes([byte]))

    (row,) = take(play(script))
    assert (row.number, row.task) == (3, "pooler")
    os.close(row.fd)
    for end in ends:
        end.close()


def test_password_request_means_another_user(
    play: Callable[[Script], OldProcess],
) -> None:
    def script(old: Old) -> None:
        old.expect(b"")
        old.say(b"R\0\0\0\x08\0\0\0\3")

    with pytest.raises(StartError, match="asks for a password"):
        play(script).login()


def test_paused_old_process_is_left_alone(
    play: Callable[[Script], OldProcess], lines: list[str]
) -> None:
    text = "already suspended/paused"

    def script(old: Old) -> None:
        old.expect(b"")
        old.say(OK, ready_for_query())
        old.expect(b"SUSPEND")
        old.say(error_response(text, "08P01", "ERROR"), ready_for_query())

    new = play(script)
    new.login()
    with pytest.raises(StartError, match=r"^socket takeover failed$"):
        new.suspend()
    assert lines[-1] == f"old bouncer sent: ERROR: {text}"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "has closed the connection"),
        (b"D\0\0\0\2", "broken message"),
        (b"G\0\0\0\4", "unexpected message"),
        (data_row(["1", "client"]), "without its descriptor"),
        (b"D\0\0\0\6\0\5", "malformed DataRow"),
        (command_complete("HIDE"), "answer to SHOW FDS"),
    ],
)
def test_nonsense_ends_the_takeover(
    play: Callable[[Script], OldProcess], answer: bytes, why: str
) -> None:
    def script(old: Old) -> None:
        old.expect(b"")
        old.say(OK, ready_for_query())
        old.expect(b"SUSPEND")
        old.say(command_complete("SUSPEND"))
        old.expect(b"SHOW FDS")
        old.say(answer)

    with pytest.raises(StartError, match=why):
        take(play(script))


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="No such file"):
        OldProcess(str(tmp_path / "none"), 6432)
