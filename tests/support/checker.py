"""Clients that tag every query with who they are, and verify every row they get.

The one thing that a pooler must never do is to give one client another's rows. Each
worker is a connection with a name; everything it asks is answered with that name and
a number, and whatever comes back must be exactly what is owed next. Meanwhile the
test may kill clients, servers and connections as it likes: a worker that is cut off
logs in again.
"""

import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

from .wire import FakeClient, Message

CUT_OFF = ("<connection closed>", "<timeout>")


class WrongRow(AssertionError):
    """A client got what it had not asked for."""


class Worker(threading.Thread):
    """One client after the other under one name, until told to stop."""

    def __init__(
        self, name: str, port: int, database: str, user: str, seed: int
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.port, self.database, self.user = port, database, user
        self.random = random.Random(seed)
        self.number = self.answered = self.cut_off = 0
        self.wrong: str | None = None
        self.stopping = threading.Event()
        self.client: FakeClient | None = None
        # Chosen in turn at random; a test may narrow them.
        self.kinds: list[Callable[[FakeClient], None]] = [
            self.ask_simply,
            self.ask_in_transaction,
            self.ask_prepared,
            self.ask_in_pipeline,
            self.fail_on_purpose,
        ]

    def run(self) -> None:
        """Log in, ask, verify; again after each cut."""
        try:
            while not self.stopping.is_set():
                try:
                    self.one_connection()
                except OSError:
                    self.cut_off += 1
        except WrongRow as wrong:
            self.wrong = str(wrong)

    def one_connection(self) -> None:
        """Use one connection until it breaks or we like no more."""
        self.client = client = FakeClient(self.port, seconds=20)
        try:
            if client.login(self.database, self.user)[-1]["type"] != "ReadyForQuery":
                raise ConnectionError("no login")
            for _ in range(self.random.randint(1, 60)):
                if self.stopping.is_set():
                    break
                self.random.choice(self.kinds)(client)
            client.close(terminate=True)
        finally:
            client.close()

    def next_tag(self) -> str:
        """A text that nobody else ever asks for."""
        self.number += 1
        return f"{self.name}-{self.number}"

    def verify(self, got: list[Message], wanted: list[str]) -> None:
        """The answer to one Sync or simple query, which owes *wanted*."""
        self.verify_each(got, [wanted])

    def verify_each(self, got: list[Message], owed: list[list[str]]) -> None:
        """Answers up to each ReadyForQuery must hold exactly the rows owed there.

        An error (somebody has canceled us, or killed the server) or the end may cut
        an answer short, but what has come of it must be right.
        """
        count, is_cut = verified(self.name, got, owed)
        self.answered += count
        if is_cut:
            raise ConnectionError(f"cut off: {errors_in(got)}")

    # What a worker may ask

    def ask_simply(self, client: FakeClient) -> None:
        """A simple query with several rows, of varying size."""
        tag = self.next_tag()
        count, size = self.random.randint(1, 30), self.random.choice((0, 10, 5000))
        sql = f"select '{tag}', repeat('x', {size}) from generate_series(1, {count})"
        self.verify(client.ask(sql), [tag] * count)

    def ask_in_transaction(self, client: FakeClient) -> None:
        """Several queries between BEGIN and COMMIT, on one server."""
        self.verify(client.ask("begin"), [])
        for _ in range(self.random.randint(1, 4)):
            tag = self.next_tag()
            self.verify(client.ask(f"select '{tag}'"), [tag])
        self.verify(client.ask("commit"), [])

    def ask_prepared(self, client: FakeClient) -> None:
        """A named statement, used several times, closed at the end."""
        tag, name = self.next_tag(), f"s{self.number}"
        sql = f"select '{tag}-' || $1::text"
        client.send({"type": "Parse", "name": name, "sql": sql}, {"type": "Sync"})
        self.verify(client.until_ready(), [])
        for number in range(self.random.randint(1, 4)):
            client.send(
                {"type": "Bind", "statement": name, "params": [str(number)]},
                {"type": "Execute"},
                {"type": "Sync"},
            )
            self.verify(client.until_ready(), [f"{tag}-{number}"])
        client.send({"type": "Close", "kind": "S", "name": name}, {"type": "Sync"})
        self.verify(client.until_ready(), [])

    def ask_in_pipeline(self, client: FakeClient) -> None:
        """Many Syncs at once."""
        tags = [self.next_tag() for _ in range(self.random.randint(2, 12))]
        messages: list[dict[str, Any]] = []
        for tag in tags:
            messages += [
                {"type": "Parse", "sql": "select $1::text"},
                {"type": "Bind", "params": [tag]},
                {"type": "Execute"},
                {"type": "Sync"},
            ]
        client.send(*messages)
        self.verify_each(client.until_ready(len(tags)), [[tag] for tag in tags])

    def fail_on_purpose(self, client: FakeClient) -> None:
        """An error of our own; the next query is answered all the same."""
        got = client.ask("select 1/0")
        if not any(m["type"] == "ErrorResponse" for m in got):
            self.verify(got, [])
            raise WrongRow(f"{self.name} is owed an error, got {got}")
        if got[-1]["type"] in CUT_OFF:
            raise ConnectionError(f"cut off: {errors_in(got)}")
        texts = [dict(m["fields"])["M"] for m in got if m["type"] == "ErrorResponse"]
        if texts != ["division by zero"]:
            raise ConnectionError(f"cut off: {texts}")


def verified(
    name: str, got: list[Message], owed: list[list[str]], all_asked: bool = True
) -> tuple[int, bool]:
    """Compare what *name* got with what it is owed, ReadyForQuery by ReadyForQuery.

    Returns how many rows were right, and whether an error or the end cut something
    off. Only then, or when not everything was asked, may answers be missing.
    """
    count, is_cut = 0, False
    answers = answers_in(got)
    if got and got[-1]["type"] == "<timeout>":
        raise WrongRow(f"{name} waits for {owed} in vain, got {answers}")
    for number, answer in enumerate(answers):
        seen = tags(answer)
        wanted = owed[number] if number < len(owed) else []
        broken = any(m["type"] in ("ErrorResponse", *CUT_OFF) for m in answer)
        if seen != (wanted[: len(seen)] if broken else wanted):
            raise WrongRow(f"{name} is owed {wanted}, got {seen}: {answers}")
        if number >= len(owed) and answer[-1]["type"] == "ReadyForQuery":
            raise WrongRow(f"{name} is owed {owed}, got {answers}")
        count += len(seen)
        is_cut |= broken
    if all_asked and not is_cut and len(answers) != len(owed):
        raise WrongRow(f"{name} is owed {owed}, got {answers}")
    return count, is_cut


def errors_in(got: list[Message]) -> list[str]:
    """The texts of the errors, for whoever reads a failure."""
    return [dict(m["fields"])["M"] for m in got if m["type"] == "ErrorResponse"]


def tags(answer: list[Message]) -> list[str]:
    """The first column of each row, also of a COPY TO STDOUT in text."""
    found = []
    for message in answer:
        if message["type"] == "DataRow":
            found.append(message["values"][0])
        elif message["type"] == "CopyData":
            found.append(message["data"].split("\t")[0].rstrip("\n"))
    return found


def answers_in(got: list[Message]) -> list[list[Message]]:
    """Messages, cut after each ReadyForQuery."""
    answers: list[list[Message]] = [[]]
    for message in got:
        answers[-1].append(message)
        if message["type"] == "ReadyForQuery":
            answers.append([])
    return [answer for answer in answers if answer]


class Crew:
    """Several workers at once, and what came of them."""

    def __init__(self, port: int, count: int, seed: int, database: str = "p0") -> None:
        self.workers = [
            Worker(f"w{n}", port, database, "u_trust", seed * 1000 + n)
            for n in range(count)
        ]

    def __enter__(self) -> "Crew":
        for worker in self.workers:
            worker.start()
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.stopping.set()
        end = time.monotonic() + 30
        for worker in self.workers:
            worker.join(max(0.0, end - time.monotonic()))

    @property
    def answered(self) -> int:
        """Rows that were verified."""
        return sum(worker.answered for worker in self.workers)

    @property
    def wrong(self) -> list[str]:
        """What was wrong so far; empty when all is well."""
        return [worker.wrong for worker in self.workers if worker.wrong]

    @property
    def hanging(self) -> list[str]:
        """Who has not come to an end, after it was time to."""
        return [worker.name for worker in self.workers if worker.is_alive()]

    def kill_one(self, chance: random.Random) -> None:
        """Cut a client off where it stands, in order or with a reset."""
        client = chance.choice(self.workers).client
        if client is None:
            return
        # Its own thread closes the socket: another's close() would not wake its recv().
        with contextlib.suppress(OSError):
            if chance.random() < 0.5:
                linger = struct.pack("ii", 1, 0)
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                client.sock.shutdown(socket.SHUT_RD)
            else:
                client.sock.shutdown(socket.SHUT_RDWR)
