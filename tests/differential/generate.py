"""Makes valid conversations out of a seed.

Valid means: PgBouncer's documentation promises that it works in that pool mode. So what
lives as long as a session is used in session pooling only, blocks not in statement
pooling, and names of statements where they are followed. Failures are valid, too.

What is known to go wrong and has a name in `STILL_OPEN` is not generated unless asked
for: mending it means to delete its line.
"""

import random
from collections.abc import Collection
from typing import Any

from tests.differential import texts
from tests.differential.speech import (
    HALF,
    MODES,
    THEN,
    TOGETHER,
    WAIT,
    WRITE,
    Conversation,
    Speaker,
    Word,
    say,
)
from tests.differential.texts import Statement

STILL_OPEN: dict[str, str] = {}
NAMES = ("s1", "s2", "s3")
PORTALS = ("", "", "", "c1", "c2")
SIZES = (1, 1, 1, 3)
PREPARED = (200, 200, 2, 0)


def generate(seed: int, without: Collection[str] = tuple(STILL_OPEN)) -> Conversation:
    """The conversation of this seed."""
    dice = random.Random(seed)
    mode = dice.choices(MODES, (3, 5, 1))[0]
    made = Conversation(mode, dice.choice(SIZES), dice.choice(PREPARED))
    count = dice.choice((1, 1, 1, 2, 2, 3))
    for number in range(1, count + 1):
        writer = Writer(dice, made, number, without)
        made.speakers.append(writer.speaker)
        writer.write()
    return made


class Writer:
    """Writes what one client says."""

    def __init__(
        self,
        dice: random.Random,
        made: Conversation,
        number: int,
        without: Collection[str],
    ) -> None:
        self.dice, self.mode, self.number = dice, made.mode, number
        self.without, self.prepared = without, made.prepared
        self.may_name = made.prepared > 0 or made.mode == "session"
        joins = dice.choice((TOGETHER, THEN)) if number > 1 else TOGETHER
        self.speaker = Speaker(joins=joins)
        self.words = self.speaker.words
        self.names: dict[str, Statement] = {}
        self.unnamed: Statement | None = None
        self.portals: set[str] = set()
        self.in_block = self.in_trouble = False

    # Small things

    def chance(self, of_hundred: int) -> bool:
        return self.dice.randrange(100) < of_hundred

    def may(self, switch: str) -> bool:
        """Whether what was or is wrong may be written."""
        return switch not in self.without

    def filled(self, text: str) -> str:
        """*text* with the speaker's own table and number."""
        return text.replace("{t}", f"t{self.number}").replace("{n}", str(self.number))

    def pick(self, choices: Any) -> str:
        return self.filled(self.dice.choice(choices))

    def put(self, code: str, *arguments: Any) -> None:
        self.words.append(say(code, *arguments))

    def wait(self) -> None:
        if self.words and self.words[-1].code != WAIT:
            self.words.append(Word(WAIT))

    def pause(self, waits: int = 40) -> None:
        """Perhaps wait, perhaps begin another write."""
        if self.chance(waits) or (self.in_trouble and not self.may("behind failures")):
            self.wait()
        elif self.chance(20):
            self.put(WRITE)

    # All of it

    def write(self) -> None:
        if self.chance(30):
            given = self.dice.choice(texts.STARTUPS)
            self.speaker.startup = {k: self.filled(v) for k, v in given.items()}
        if self.chance(25):
            self.speaker.chop = self.dice.randrange(1000)
        waits = self.dice.choice((0, 20, 60, 100))
        for _ in range(self.dice.choice((1, 2, 3, 5, 8))):
            self.request()
            self.pause(waits)
        self.goodbye()

    def goodbye(self) -> None:
        """Stay (which is the usual thing), or leave in some manner."""
        if self.in_block and self.chance(80):
            self.put("Q", self.dice.choice(("commit", "rollback")))
        if self.chance(60):
            return
        if not self.may("glued goodbye") or self.chance(30):
            self.wait()
        self.put(self.dice.choice(("X", "X", HALF)))

    def request(self) -> None:
        """One of all kinds."""
        kinds = [
            (self.query, 6),
            (self.failing_query, 3),
            (self.unit, 14),
            (self.copy_in, 3),
            (self.copy_out, 1),
            (self.set, 3),
            (self.reset, 2),
            (self.forget, 2),
            (self.call, 2),
            (self.deallocate, 2),
        ]
        if self.mode == "session":
            kinds.append((self.of_a_session, 4))
        if self.mode != "statement":
            kinds.append((self.block, 5))
        self.dice.choices([k for k, _ in kinds], [w for _, w in kinds])[0]()

    # Requests by the simple protocol

    def simple(self, text: str, fails: bool = False) -> None:
        """A text by Query, or sometimes by the extended protocol."""
        if ";" not in text and self.chance(20):
            self.put("P", "", text)
            self.words += [say("B"), say("E"), say("S")]
        else:
            self.put("Q", text)
        self.unnamed = None
        if fails:
            self.trouble()

    def trouble(self) -> None:
        """What was just said fails."""
        self.in_trouble = self.in_block
        if not self.may("behind failures"):
            self.wait()

    def perhaps_trouble(self) -> None:
        """What was just said fails if something of it is there already."""
        if self.in_block and not self.may("behind failures"):
            self.trouble()

    def query(self) -> None:
        text = self.pick(texts.QUERIES)
        self.simple(text)
        if text.startswith("insert"):
            self.perhaps_trouble()

    def failing_query(self) -> None:
        text = self.pick(texts.FAILING)
        if text == "deallocate nobody" and not self.may("failed barrier"):
            return
        self.simple(text, fails=True)

    def set(self) -> None:
        local = self.in_block and self.chance(40)
        self.simple(self.pick(texts.LOCAL_SETS if local else texts.SETS))

    def reset(self) -> None:
        if self.speaker.startup and not self.may("startup back"):
            return
        self.simple(self.pick(texts.RESETS))

    def forget(self) -> None:
        """DISCARD and DEALLOCATE."""
        text = self.pick(texts.FORGETTING)
        if self.speaker.startup and not self.may("startup back"):
            text = "deallocate all"
        if not self.may("forgetting ahead"):
            if self.in_block:
                return
            self.wait()
        self.simple(text, fails=self.in_block and text in texts.DISCARDS_ALL)
        if "all" in text.lower():
            self.names.clear()
        if not self.may("forgetting ahead"):
            self.wait()

    def deallocate(self) -> None:
        """By SQL, what was prepared by the protocol: drivers without Close do so."""
        if not self.names or (self.in_trouble and not self.may("behind failures")):
            return
        name = self.dice.choice(sorted(self.names))
        self.simple(self.dice.choice(texts.DEALLOCATING).format(name))
        if not self.in_trouble:
            del self.names[name]

    def of_a_session(self) -> None:
        self.simple(self.pick(texts.OF_A_SESSION))
        self.perhaps_trouble()

    def call(self) -> None:
        if self.chance(70):
            self.put("F", *self.dice.choice(texts.CALLS))
        else:
            self.put("F", *self.dice.choice(texts.FAILING_CALLS))
            self.trouble()

    def block(self) -> None:
        """Begin a block, go on in it, or end it."""
        if self.in_block and self.chance(50):
            self.simple(self.pick(texts.IN_A_BLOCK))
            self.perhaps_trouble()
        elif self.in_block:
            self.simple(self.dice.choice(("commit", "rollback", "commit")))
            self.in_block = self.in_trouble = False
        else:
            self.simple(
                self.dice.choice(
                    ("begin", "begin", "begin isolation level serializable")
                )
            )
            self.in_block = True

    # COPY

    def copy_in(self) -> None:
        copy = self.dice.choice(texts.COPIES_IN)
        fails = self.in_trouble
        extended = self.chance(30)
        if extended:
            self.put("P", "", self.filled(copy))
            self.words += [say("B"), say("E")]
            if self.chance(60):
                self.put("S")
        else:
            self.put("Q", self.filled(copy))
        if self.chance(40):
            self.wait()
        if not fails:
            fails = self.copy_data(copy)
        if extended:
            self.put("S")
        self.unnamed = None
        if fails:
            self.trouble()
        else:
            self.perhaps_trouble()

    def copy_data(self, copy: str) -> bool:
        """The data and the end of it; whether that fails."""
        fails = self.chance(25)
        bad = self.dice.randrange(3) if fails else -1
        for number in range(self.dice.randrange(4) + (3 if fails else 0)):
            good = texts.GOOD_LINES[copy].format(20 + number)
            self.put("d", self.dice.choice(texts.BAD_LINES) if number == bad else good)
            if self.chance(10) and (not fails or self.chance(50)):
                # In what fails, it comes behind the failure or before, by chance.
                self.put("H" if fails else self.dice.choice("HS"))
        if self.chance(20):
            self.put("f", "changed my mind")
            return True
        self.put("c")
        return fails

    def copy_out(self) -> None:
        self.simple(self.pick(texts.COPIES_OUT))

    # Requests by the extended protocol

    def unit(self) -> None:
        """Messages up to a Sync."""
        if self.in_trouble and not self.may("behind failures"):
            return
        if not self.in_block:
            self.portals.clear()
        failed = False
        for _ in range(self.dice.choice((1, 1, 2, 3, 4))):
            failed = self.part()
            if failed and not self.may("behind failures"):
                break
            if self.chance(15):
                self.put("H")
                if self.chance(40):
                    self.wait()
            if self.may("mixed") and self.chance(12):
                self.dice.choice((self.query, self.failing_query, self.call))()
        self.put("S")
        if self.chance(5):
            self.put("S")
        if not self.may("unnamed later"):
            self.unnamed = None
        if failed:
            self.trouble()

    def part(self) -> bool:
        """Some messages about one statement; whether they fail."""
        if self.chance(12):
            return self.failing_part()
        if self.chance(8):
            self.close(self.dice.choice("SP"), self.dice.choice((*NAMES, "", "c1")))
            return False
        name = self.statement()
        if name is None:
            return False
        statement = self.names[name] if name else self.unnamed
        assert statement is not None
        if self.chance(25):
            self.put("D", "S", name)
        if self.chance(80):
            return self.portal(name, statement)
        return False

    def close(self, kind: str, name: str) -> None:
        """Close a statement or portal, whether it exists or not."""
        self.put("C", kind, name)
        if kind == "P":
            self.portals.discard(name)
        elif name:
            self.names.pop(name, None)
        else:
            self.unnamed = None

    def statement(self) -> str | None:
        """The name of a statement, perhaps a new one."""
        if self.unnamed is not None and self.chance(30):
            return ""
        known = sorted(self.names)
        if known and self.chance(50):
            return self.dice.choice(known)
        name = self.dice.choice((*NAMES, "")) if self.may_name else ""
        statement = self.dice.choice(texts.STATEMENTS)
        if name in self.names and not (self.may("doubtful names") and self.chance(15)):
            if not self.may("skipped close"):
                self.put("S")
                self.unnamed = None
            self.put("C", "S", name)
        self.put("P", name, self.filled(statement.text))
        if name:
            self.names[name] = statement
        else:
            self.unnamed = statement
        return name

    def portal(self, name: str, statement: Statement) -> bool:
        """Bind and what follows; whether that fails."""
        portal = self.dice.choice(PORTALS)
        if portal in self.portals:
            self.put("C", "P", portal)
        if portal:
            self.portals.add(portal)
        fails = bool(statement.fails) and self.chance(20)
        values = self.dice.choice(statement.fails if fails else statement.good)
        if statement.text.startswith("insert") and not fails:
            values = (str(self.dice.randrange(100, 10**6)), *values[1:])
        self.put("B", portal, name, *map(self.filled, values))
        if self.chance(60):
            self.put("D", "P", portal)
        limits = self.dice.choice(((), (0,), (0,), (0,), (1,), (2, 0), (2, 2), (0, 0)))
        for limit in limits:
            self.put("E", portal, limit) if portal or limit else self.put("E")
            if self.chance(10):
                self.put("H")
                if self.chance(50):
                    self.wait()
        once = not statement.text.startswith(("select", "values", "show"))
        return fails or limits == (0, 0) or (once and len(limits) > 1)

    def failing_part(self) -> bool:
        """Messages that fail at some place."""
        where = self.dice.randrange(7)
        if where <= 1 or (self.in_block and not self.may("behind failures")):
            name = self.dice.choice(NAMES) if self.may_name and self.chance(40) else ""
            if name and not self.may("doubtful names"):
                name = ""
            self.put("P", name, self.pick(texts.REFUSED))
            self.words += [say("B", "", name), say("E")]
            self.unnamed = None
        elif where == 2:
            self.put("E", self.dice.choice(("nosuch", "")))
        elif where == 3:
            self.put("D", "P", "nosuch")
        elif where == 4 and self.may("doubtful names") and self.may_name:
            self.put(*self.dice.choice((("B", "", "nosuch"), ("D", "S", "nosuch"))))
        else:
            statement = self.dice.choice(texts.STATEMENTS)
            self.put("P", "", self.filled(statement.text))
            self.unnamed = statement
            self.put("B", "", "", *map(self.filled, self.dice.choice(statement.bad)))
            self.put("E")
        return True
