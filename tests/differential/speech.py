"""Conversations as data, and as one line of text that can be played again.

What a client does is a list of words. A word is a message, written as in

    P("s1","select $1::int",23) B("","s1","5") D E S H C("S","s1") Q("select 1") X

with the arguments that `WRITERS` takes, or one of the signs

    |     wait until everything that has been asked for is answered
    /     what follows is another write to the socket
    half  say that nothing more will be sent, and go on reading
    @     wait for the other clients

What stands between two of them is one write. `name="value"` in front is a startup
parameter, `%7` chops the writes at random bytes (7 is the seed). Clients are divided
by `&` (at the same time as those before) or `>` (when those before have gone). Who does
not leave with X or half waits for its answers, and stays until others have had their
turn on its server. In front
of all stand the settings: `transaction/1/200 :`, pool_mode, pool_size,
max_prepared_statements.
"""

import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.relay import frames

WAIT, WRITE, HALF, MEET = "|", "/", "half", "@"
SIGNS = (WAIT, WRITE, HALF, MEET)
TOGETHER, THEN = "&", ">"
MODES = ("session", "transaction", "statement")


def bind(portal: str = "", name: str = "", *values: str) -> bytes:
    """A Bind; portal first, as the notation has it."""
    return frames.bind(name, portal, *values)


def describe(kind: str = "P", name: str = "") -> bytes:
    return frames.describe(name, kind.encode())


def close(kind: str = "S", name: str = "") -> bytes:
    return frames.close(name, kind.encode())


def function_call(oid: int, argument: str = "") -> bytes:
    return frames.function_call(oid, argument.encode())


def copy_data(text: str) -> bytes:
    return frames.copy_data(text.encode())


WRITERS: dict[str, Callable[..., bytes]] = {
    "P": frames.parse,  # name, text, types
    "B": bind,  # portal, name, values
    "D": describe,  # "P" or "S", name
    "E": frames.execute,  # portal, limit
    "C": close,  # "P" or "S", name
    "S": lambda: frames.SYNC,
    "H": lambda: frames.FLUSH,
    "Q": frames.query,
    "F": function_call,  # oid, argument
    "d": copy_data,
    "c": lambda: frames.COPY_DONE,
    "f": frames.copy_fail,
    "X": lambda: frames.TERMINATE,
}


@dataclass(frozen=True)
class Word:
    """One message with its arguments, or one sign."""

    code: str
    arguments: tuple[Any, ...] = ()

    @property
    def raw(self) -> bytes:
        """The message's bytes."""
        return WRITERS[self.code](*self.arguments)

    @property
    def is_sign(self) -> bool:
        return self.code in SIGNS

    def __str__(self) -> str:
        if not self.arguments:
            return self.code
        return f"{self.code}({','.join(map(json.dumps, self.arguments))})"


def say(code: str, *arguments: Any) -> Word:
    """A word, shorter to write."""
    return Word(code, arguments)


@dataclass
class Speaker:
    """One client: what it logs in with and what it says."""

    words: list[Word] = field(default_factory=list)
    startup: dict[str, str] = field(default_factory=dict)
    chop: int | None = None
    joins: str = TOGETHER  # with those before it, or THEN

    def __str__(self) -> str:
        head = [f"{name}={json.dumps(text)}" for name, text in self.startup.items()]
        if self.chop is not None:
            head.append(f"%{self.chop}")
        return " ".join([*head, *map(str, self.words)])

    @property
    def leaves(self) -> bool:
        """Whether it ends its side itself."""
        return any(word.code in ("X", HALF) for word in self.words)

    @property
    def is_open(self) -> bool:
        """Whether its last unit has not been synced, so that it keeps its server."""
        said = [word.code for word in self.words if not word.is_sign]
        said = [code for code in said if code not in "HX"]
        return bool(said) and said[-1] in "PBDEC"

    def writes(self) -> Iterator[list[bytes] | Word]:
        """The pieces of each write, and between them the signs."""
        dice = random.Random(self.chop)
        for part in parts(self.words):
            if isinstance(part, Word):
                yield part
                continue
            raw = b"".join(word.raw for word in part)
            places = []
            if self.chop is not None and len(raw) > 1:
                count = min(dice.randrange(1, 6), len(raw) - 1)
                places = sorted(dice.sample(range(1, len(raw)), count))
            ends = zip([0, *places], [*places, len(raw)], strict=True)
            yield [raw[start:end] for start, end in ends]


def parts(words: list[Word]) -> Iterator[list[Word] | Word]:
    """The signs, and what stands between two of them."""
    gathered: list[Word] = []
    for word in words:
        if not word.is_sign:
            gathered.append(word)
            continue
        if gathered:
            yield gathered
            gathered = []
        yield word
    if gathered:
        yield gathered


@dataclass
class Conversation:
    """What some clients of one pool say, and what the pool is like."""

    mode: str = "transaction"
    size: int = 1
    prepared: int = 200
    speakers: list[Speaker] = field(default_factory=list)

    def __str__(self) -> str:
        said = ""
        for number, speaker in enumerate(self.speakers):
            said += f" {speaker.joins} {speaker}" if number else f" {speaker}"
        return f"{self.mode}/{self.size}/{self.prepared} :{said}"

    def rounds(self) -> Iterator[list[Speaker]]:
        """Those who speak at the same time, one group after the other."""
        together: list[Speaker] = []
        for speaker in self.speakers:
            if speaker.joins == THEN and together:
                yield together
                together = []
            together.append(speaker)
        if together:
            yield together


STRING = r'"(?:[^"\\]|\\.)*"'
TOKEN = re.compile(
    rf"\s*(?:(?P<name>[A-Za-z_]\w+)=(?P<value>{STRING})|%(?P<chop>\d+)"
    rf"|(?P<sign>half|[|/@&>])|(?P<code>[PBDECSHQFXdcf])(?:\((?P<said>(?:{STRING}|[^\")])*)\))?)"
)


def read(line: str) -> Conversation:
    """The conversation that *line* stands for; ValueError if it is none."""
    head, colon, rest = line.strip().partition(":")
    words = head.strip().split("/")
    if not colon or len(words) != 3 or words[0] not in MODES:
        raise ValueError(f"no pool_mode/pool_size/max_prepared_statements: in {line!r}")
    speakers = list(read_speakers(rest))
    return Conversation(words[0], int(words[1]), int(words[2]), speakers)


def read_speakers(text: str) -> Iterator[Speaker]:
    """The clients in the notation of this module."""
    speaker, place = Speaker(), 0
    text = text.rstrip()
    while place < len(text):
        token = TOKEN.match(text, place)
        if token is None:
            raise ValueError(f"not understood: {text[place : place + 40]!r}")
        place = token.end()
        if token["name"]:
            speaker.startup[token["name"]] = json.loads(token["value"])
        elif token["chop"]:
            speaker.chop = int(token["chop"])
        elif token["sign"] in (TOGETHER, THEN):
            yield speaker
            speaker = Speaker(joins=token["sign"])
        elif token["sign"]:
            speaker.words.append(Word(token["sign"]))
        else:
            arguments = json.loads(f"[{token['said'] or ''}]")
            speaker.words.append(Word(token["code"], tuple(arguments)))
    yield speaker
