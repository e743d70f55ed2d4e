"""Conversations that can go wrong in each of the four known ways, as bytes.

Each shows who asked in every row, and owes exactly the rows that stand beside it. The
first statement leaves the tag in table `ran`, so that it can be told what was run.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.relay import frames as f


@dataclass
class Conversation:
    """What a client sends, and what it is owed up to each ReadyForQuery."""

    tag: str
    messages: list[bytes] = field(default_factory=list)
    owed: list[list[str]] = field(default_factory=list)
    # How many ReadyForQuery are due when all up to message n has been read.
    ready_after: list[int] = field(default_factory=list)

    def say(self, *messages: bytes, owes: list[str] | None = None) -> None:
        """Add messages; *owes* are the rows of the ReadyForQuery that ends them."""
        self.messages += messages
        self.ready_after += [len(self.owed)] * len(messages)
        if owes is not None:
            self.owed.append(owes)
            self.ready_after[-1] += 1

    @property
    def raw(self) -> bytes:
        """All of it."""
        return b"".join(self.messages)

    def places(self, inside: int = 1) -> Iterator[int]:
        """Where to cut: behind each message, and at *inside* places within each."""
        start = 0
        for number, message in enumerate(self.messages):
            size = len(message)
            steps = {1 + (number + n * size // (inside + 1)) % (size - 1)
                     for n in range(inside)} if size > 1 else set()  # fmt: skip
            yield from sorted(start + step for step in steps)
            start += size
            yield start

    def ready_at(self, place: int) -> int:
        """How many ReadyForQuery are due for the first *place* bytes."""
        count = size = 0
        for message, due in zip(self.messages, self.ready_after, strict=True):
            size += len(message)
            if size > place:
                break
            count = due
        return count


def counting(tag: str, pause: str = "") -> Conversation:
    """Owed answers of every kind, an error in the middle, all in one go."""
    it = Conversation(tag)
    insert = f"insert into ran values ('{tag}') returning tag || '-1'"
    it.say(f.parse("", insert), f.bind(""), f.execute(), f.SYNC, owes=[f"{tag}-1"])
    it.say(f.query(f"select '{tag}-2'{pause};select '{tag}-3'"),
           owes=[f"{tag}-2", f"{tag}-3"])  # fmt: skip
    it.say(f.parse("", "select 1/0"), f.bind(""), f.execute())
    it.say(f.parse("", f"select '{tag}-4'"), f.bind(""), f.execute(), f.SYNC, owes=[])
    it.say(f.FLUSH, f.SYNC, owes=[])
    it.say(f.query(""), owes=[])
    it.say(f.parse("", f"select '{tag}-' || generate_series(5, 7)"), f.bind(""))
    it.say(f.describe("", b"P"), f.execute("", 1), f.FLUSH, f.execute())
    it.say(f.SYNC, owes=[f"{tag}-{n}" for n in (5, 6, 7)])
    it.say(f.query(f"select '{tag}-8'"), owes=[f"{tag}-8"])
    return it


def synthetic(tag: str, pause: str = "") -> Conversation:
    """Statements that everybody shares: some answers are ours, some the server's."""
    it = Conversation(tag)
    it.say(f.query(f"insert into ran values ('{tag}')"), owes=[])
    shared = f"select $1::text{pause}"
    it.say(f.parse("s", shared), f.describe("s"))
    it.say(f.bind("s", "", f"{tag}-1"), f.execute(), f.close("s"))
    it.say(f.parse("s", shared), f.bind("s", "", f"{tag}-2"), f.execute())
    it.say(f.SYNC, owes=[f"{tag}-1", f"{tag}-2"])
    it.say(f.parse("t", f"select '{tag}-3'"), f.parse("u", "select nonsense"))
    it.say(f.bind("t"), f.execute(), f.close("t"), f.SYNC, owes=[])
    it.say(f.parse("v", f"select '{tag}-4', $1::text"), f.bind("v", "", "x" * 9000))
    it.say(f.execute(), f.close("v"), f.SYNC, owes=[f"{tag}-4"])
    it.say(f.bind("s", "", f"{tag}-5"), f.execute(), f.SYNC, owes=[f"{tag}-5"])
    return it


def halves(tag: str, pause: str = "") -> Conversation:
    """Messages of many kilobytes, in a transaction."""
    it = Conversation(tag)
    it.say(f.query("begin"), owes=[])
    it.say(f.query(f"insert into ran values ('{tag}')"), owes=[])
    it.say(f.query(f"select '{tag}-1', '{'q' * 20_000}'{pause}"), owes=[f"{tag}-1"])
    it.say(f.parse("", f"select '{tag}-2', $1::text"), f.bind("", "", "b" * 70_000))
    it.say(f.execute(), f.SYNC, owes=[f"{tag}-2"])
    it.say(f.query(f"select '{tag}-3'"), owes=[f"{tag}-3"])
    it.say(f.query("commit"), owes=[])
    it.say(f.query(f"select '{tag}-4', repeat('r', 100000)"), owes=[f"{tag}-4"])
    return it


def copies(tag: str, pause: str = "") -> Conversation:
    """COPY both ways, simple and extended."""
    it = Conversation(tag)
    line = f"{tag}\n".encode()
    it.say(f.query("copy ran from stdin"), f.copy_data(line), f.COPY_DONE, owes=[])
    it.say(f.query(f"copy (select '{tag}-1'{pause}) to stdout"), owes=[f"{tag}-1"])
    it.say(f.parse("", "copy copied from stdin"), f.bind(""), f.execute(), f.SYNC)
    it.say(f.copy_data(line), f.copy_data(line * 1000), f.COPY_DONE)
    it.say(f.SYNC, owes=[])
    it.say(f.query("copy copied from stdin"), f.copy_data(line))
    it.say(f.copy_fail(), owes=[])
    it.say(f.query(f"select '{tag}-2'"), owes=[f"{tag}-2"])
    return it


ALL = {one.__name__: one for one in (counting, synthetic, halves, copies)}
