"""What a fuzzer's input means: a setup, then steps; and how inputs are spliced.

Every sequence of bytes is an input, so that mutations need no care: SETUP bytes choose
the circumstances, and each step is who does what, a length, and data. The one hard
idea: the mutator knows these borders, and in the data those of messages, and works on
whole messages of several conversations (inserts, doubles, swaps, crosses over, cuts a
message between two reads) more often than on single bytes. Most faults of a protocol
lie between messages that are each well-formed.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

SETUP = 4  # bytes
HEAD = 4  # bytes of a step before its data: what, who, length (big-endian)
MOST_STEPS = 96
LONGEST = 60_000  # bytes of one step
LENGTHS = (0, 1, 3, 4, 5, 8, 255, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
STARTS = (0x30000, 80877102, 80877103, 80877104)  # of packets without a type byte


class Step(NamedTuple):
    """*who* does *what*, perhaps with *data*."""

    what: int
    who: int = 0
    data: bytes = b""


def pack(setup: bytes, steps: Sequence[Step]) -> bytes:
    """The input that `unpack` reads as *setup* and *steps*."""
    raw = bytearray(setup[:SETUP].ljust(SETUP, b"\0"))
    for what, who, data in steps[:MOST_STEPS]:
        kept = data[:LONGEST]
        raw += bytes((what & 255, who & 255)) + len(kept).to_bytes(2, "big") + kept
    return bytes(raw)


def unpack(raw: bytes) -> tuple[bytes, list[Step]]:
    """Setup and steps of any input."""
    steps = []
    at = SETUP
    while at + HEAD <= len(raw) and len(steps) < MOST_STEPS:
        size = min(int.from_bytes(raw[at + 2 : at + HEAD], "big"), LONGEST)
        data = raw[at + HEAD : at + HEAD + size]
        steps.append(Step(raw[at], raw[at + 1], data))
        at += HEAD + size
    return raw[:SETUP].ljust(SETUP, b"\0"), steps


def messages_of(data: bytes) -> list[bytes]:
    """*data* cut where messages of the protocol begin; the last is what is left."""
    found = []
    at = 0
    while at < len(data):
        end = at + 1 + int.from_bytes(data[at + 1 : at + 5], "big")
        size = int.from_bytes(data[at : at + 4], "big")
        if (
            8 <= size <= len(data) - at
            and int.from_bytes(data[at + 4 : at + 8]) in STARTS
        ):
            end = at + size
        if end < at + 5 or end > len(data):
            end = len(data)
        found.append(data[at:end])
        at = end
    return found


def scrambled(dice: random.Random, raw: bytes, most: int) -> bytes:
    """*raw* with some bytes changed, lost, added or said twice."""
    found = bytearray(raw)
    for _ in range(dice.choice((1, 1, 2, 4))):
        at = dice.randrange(len(found) + 1)
        what = dice.randrange(5)
        if what == 0:
            found[at : at + 1] = dice.randbytes(1)
        elif what == 1:
            del found[at : at + dice.choice((1, 1, 4))]
        elif what == 2:
            found.insert(at, dice.choice((0, 1, 10, 32, 39, 255)))
        elif what == 3:
            found[at:at] = found[at : at + dice.randrange(1, 9)]
        else:
            found[at : at + 4] = dice.choice(LENGTHS).to_bytes(4, "big")
    return bytes(found[:most])


class Splicer:
    """Makes new inputs of known ones.

    *words* are messages that a target knows, by what step they belong to; *tweak* is
    the target's own way with data.
    """

    def __init__(
        self,
        words: Mapping[int, Sequence[bytes]],
        tweak: Callable[[random.Random, bytes], bytes] | None = None,
    ) -> None:
        self.words = {what: list(some) for what, some in words.items() if some}
        self.tweak = tweak
        self.dice = random.Random(0)
        self.accidents = (
            self.insert, self.insert, self.insert, self.double, self.drop, self.swap,
            self.cut, self.cut, self.join, self.truncate, self.lengths, self.change,
            self.change, self.other, self.resettle, self.add, self.add, self.move,
        )  # fmt: skip

    # What libFuzzer calls

    def mutated(self, raw: bytes, most: int, seed: int) -> bytes:
        """*raw* after some accidents."""
        self.dice.seed(seed)
        setup, steps = unpack(raw)
        if self.dice.randrange(40) == 0:
            return scrambled(self.dice, raw, most)
        for _ in range(self.dice.choice((1, 1, 1, 2, 2, 3, 5))):
            setup = self.dice.choice(self.accidents)(setup, steps) or setup
        return pack(setup, steps)[:most]

    def crossed(self, one: bytes, two: bytes, most: int, seed: int) -> bytes:
        """The beginning of one conversation and the end of another, or woven."""
        dice = self.dice
        dice.seed(seed)
        setup, first = unpack(one)
        _, second = unpack(two)
        if not first or not second:
            return (one or two)[:most]
        way = dice.randrange(4)
        here, there = dice.randrange(len(first) + 1), dice.randrange(len(second))
        if way == 0:
            steps = first[:here] + second[there:]
        elif way == 1:
            some = second[there : there + dice.randrange(1, 5)]
            steps = first[:here] + some + first[here:]
        elif way == 2:
            steps = []
            while first or second:
                side = (
                    first if first and (not second or dice.random() < 0.5) else second
                )
                steps.append(side.pop(0))
        else:
            steps = first
            self.graft(first, second)
        return pack(setup, steps)[:most]

    def graft(self, first: list[Step], second: list[Step]) -> None:
        """Put messages of a step into a step of the same kind."""
        giver = self.dice.choice(second)
        alike = [at for at, step in enumerate(first) if step.what == giver.what]
        if not alike:
            first.insert(self.dice.randrange(len(first) + 1), giver)
            return
        at = self.dice.choice(alike)
        mine, theirs = messages_of(first[at].data), messages_of(giver.data)
        place = self.dice.randrange(len(mine) + 1)
        gone = self.dice.choice((0, 0, 1))
        mine[place : place + gone] = theirs[: self.dice.randrange(1, 4)]
        first[at] = first[at]._replace(data=b"".join(mine))

    # Accidents: each changes *steps*, or returns another setup

    def word(self, what: int) -> bytes:
        some = self.words.get(what) or self.dice.choice(list(self.words.values()))
        return self.dice.choice(some)

    def pick(self, steps: list[Step]) -> int:
        if not steps:
            self.add(b"", steps)
        return self.dice.randrange(len(steps))

    def add(self, setup: bytes, steps: list[Step]) -> bytes | None:
        """Insert a step."""
        what = self.dice.choice(list(self.words))
        data = b"".join(self.word(what) for _ in range(self.dice.choice((1, 1, 2, 4))))
        place = self.dice.randrange(len(steps) + 1)
        steps.insert(place, Step(what, self.dice.randrange(4), data))
        return None

    def insert(self, setup: bytes, steps: list[Step]) -> bytes | None:
        """Insert a message, or put one in the place of another."""
        at = self.pick(steps)
        parts = messages_of(steps[at].data)
        place = self.dice.randrange(len(parts) + 1)
        gone = self.dice.choice((0, 0, 1))
        parts[place : place + gone] = [self.word(steps[at].what)]
        steps[at] = steps[at]._replace(data=b"".join(parts))
        return None

    def double(self, setup: bytes, steps: list[Step]) -> bytes | None:
        """Say a message again, a few times or many."""
        at = self.pick(steps)
        parts = messages_of(steps[at].data)
        if parts and self.dice.random() < 0.7:
            one = self.dice.choice(parts)
            times = self.dice.choice((1, 1, 2, 8, 64))
            place = self.dice.randrange(len(parts) + 1)
            parts[place:place] = [one] * times
            steps[at] = steps[at]._replace(data=b"".join(parts)[:LONGEST])
        else:
            steps.insert(self.dice.randrange(len(steps) + 1), steps[at])
        return None

    def drop(self, setup: bytes, steps: list[Step]) -> bytes | None:
        """Leave out a message or a step."""
        at = self.pick(steps)
        parts = messages_of(steps[at].data)
        if len(parts) > 1:
            del parts[self.dice.randrange(len(parts))]
            steps[at] = steps[at]._replace(data=b"".join(parts))
        else:
            del steps[at]
        return None

    def swap(self, setup: bytes, steps: list[Step]) -> bytes | None:
        """Exchange two steps, or two messages of a step."""
        at, to = self.pick(steps), self.pick(steps)
        parts = messages_of(steps[at].data)
        if len(parts) > 1 and self.dice.random() < 0.5:
            self.dice.shuffle(parts)
            steps[at] = steps[at]._replace(data=b"".join(parts))
        else:
            steps[at], steps[to] = steps[to], steps[at]
        return None

    def cut(self, setup: bytes, steps: list[Step]) -> bytes | None:
        """Let a step's bytes come in two reads; perhaps others come between."""
        at = self.pick(steps)
        what, who, data = steps[at]
        if len(data) > 1:
            place = self.dice.randrange(1, len(data))
            steps[at] = Step(what, who, data[:place])
            later = min(at + self.dice.choice((1, 1, 2, 3)), len(steps))
            steps.insert(later, Step(what, who, data[place:]))
        return None

    def join(self, setup: bytes, steps: list[Step]) -> bytes | None:
        """Let two steps of one kind come in one read."""
        at = self.pick(steps)
        for other in range(at + 1, len(steps)):
            if steps[other][:2] == steps[at][:2]:
                data = steps[at].data + steps.pop(other).data
                steps[at] = steps[at]._replace(data=data[:LONGEST])
                break
        return None

    def truncate(self, setup: bytes, steps: list[Step]) -> bytes | None:
        """Lose the end of a step."""
        at = self.pick(steps)
        kept = self.dice.randrange(len(steps[at].data) + 1)
        steps[at] = steps[at]._replace(data=steps[at].data[:kept])
        return None

    def lengths(self, setup: bytes, steps: list[Step]) -> bytes | None:
        """Let a message lie about its length."""
        at = self.pick(steps)
        parts = messages_of(steps[at].data)
        if parts:
            one = self.dice.randrange(len(parts))
            size = self.dice.choice(
                (*LENGTHS, len(parts[one]) + self.dice.choice((-2, 0, 1)))
            )
            parts[one] = (
                parts[one][:1] + (size & 0xFFFFFFFF).to_bytes(4, "big") + parts[one][5:]
            )
            steps[at] = steps[at]._replace(data=b"".join(parts))
        return None

    def change(self, setup: bytes, steps: list[Step]) -> bytes | None:
        """Change bytes inside a message, mostly with a length that fits again."""
        at = self.pick(steps)
        parts = messages_of(steps[at].data)
        if self.tweak is not None and self.dice.random() < 0.6:
            data = self.tweak(self.dice, steps[at].data)
            steps[at] = steps[at]._replace(data=data[:LONGEST])
        elif parts:
            one = self.dice.randrange(len(parts))
            head, body = parts[one][:5], parts[one][5:]
            body = scrambled(self.dice, body, LONGEST)
            if self.dice.random() < 0.8:
                head = head[:1] + (len(body) + 4).to_bytes(4, "big")
            parts[one] = head + body
            steps[at] = steps[at]._replace(data=b"".join(parts)[:LONGEST])
        return None

    def other(self, setup: bytes, steps: list[Step]) -> bytes | None:
        """Let somebody else do it, or something else be done."""
        at = self.pick(steps)
        if self.dice.random() < 0.5:
            steps[at] = steps[at]._replace(who=self.dice.randrange(4))
        else:
            steps[at] = steps[at]._replace(what=self.dice.randrange(10))
        return None

    def resettle(self, setup: bytes, steps: list[Step]) -> bytes | None:
        """Other circumstances."""
        raw = bytearray(setup[:SETUP].ljust(SETUP, b"\0"))
        raw[self.dice.randrange(SETUP)] = self.dice.randrange(256)
        return bytes(raw)

    def move(self, setup: bytes, steps: list[Step]) -> bytes | None:
        """Do something earlier or later."""
        at = self.pick(steps)
        step = steps.pop(at)
        steps.insert(self.dice.randrange(len(steps) + 1), step)
        return None
