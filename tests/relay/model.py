"""Random clients, random cuts, random ends: each gets its own answers, exactly.

Every client's messages are given, as they are made, to a Backend of its own; what
that answers is what the client must receive through the relay, byte for byte. Where
a server dies or a client is thrown out, what it got must be a beginning of that.
"""

import contextlib
import random

from tests.relay import frames as f
from tests.relay.backend import Backend
from tests.relay.harness import DEFAULTS, ClientEnd, Relay, ServerEnd

ZONES = ("Etc/UTC", "Asia/Tokyo", "Europe/Oslo")
# Texts that several clients share; each shows who asked, or nothing of anybody.
SHARED = (
    "parameters",
    "parameters and more",
    "rows 3 shared",
    "select shared",
    "show TimeZone",
    "rollback",
    "commit",
    "syntax error shared",
    "",
)


class Speaker:
    """Makes up messages, and knows what must come back for them."""

    def __init__(self, name: str, dice: random.Random, given: dict[str, str]) -> None:
        self.name, self.dice = name, dice
        self.direct = Backend({**DEFAULTS, **given})
        self.may_discard = not given
        self.serial = 0
        # Bytes to send once so much has come back.
        self.script: list[tuple[int, bytes]] = []
        self.barrier = 0

    def put(self, *messages: bytes) -> None:
        """Send these; nothing is awaited."""
        data = b"".join(messages)
        self.direct.receive(data)
        self.script.append((self.barrier, data))
        self.barrier = 0

    def wait(self) -> None:
        """Send nothing more before all that was flushed has come."""
        self.barrier = len(self.direct.out)

    def maybe_wait(self) -> None:
        if self.dice.random() < 0.5:
            self.wait()

    def tag(self) -> str:
        self.serial += 1
        return f"{self.name}-{self.serial}"

    # Units

    def speak(self, units: int) -> None:
        for _ in range(units):
            unit = self.dice.choice(
                (self.simple, self.simple, self.batch, self.batch, self.batch,
                 self.transaction, self.copy, self.extended_copy, self.function,
                 self.odd)
            )  # fmt: skip
            unit()
            self.maybe_wait()
        # Leave nothing open, so that the last answers come.
        self.put(f.SYNC)
        self.wait()
        self.put(f.query("rollback"))
        self.wait()

    def statement(self) -> str:
        """One statement of a simple query."""
        dice = self.dice
        return dice.choice(
            (
                f"select {self.tag()}",
                f"select {self.tag()}",
                f"rows {dice.randrange(5)} {self.tag()}",
                f"big {dice.choice((10, 5000, 100_000))} {self.tag()}",
                f"set TimeZone {dice.choice(ZONES)}",
                f"set application_name {self.tag()}",
                "show TimeZone",
                "show application_name",
                f"notice {self.tag()}",
                f"fail {self.tag()}",
                f"copy out {dice.randrange(3)} {self.tag()}",
                "",
            )
        )

    def simple(self) -> None:
        count = self.dice.choice((1, 1, 1, 2, 3))
        self.put(f.query(";".join(self.statement() for _ in range(count))))

    def transaction(self) -> None:
        self.put(f.query("begin"))
        for _ in range(self.dice.randrange(4)):
            self.maybe_wait()
            self.dice.choice((self.simple, self.batch, self.copy))()
            if self.direct.status == "E":
                # A Parse that we answer ourselves is not refused as PostgreSQL
                # would, unless we know of the failure.
                self.wait()
        self.maybe_wait()
        self.put(f.query(self.dice.choice(("commit", "rollback"))))

    def function(self) -> None:
        self.put(f.function_call(self.dice.choice((0, 7, 7)), self.tag().encode()))

    def odd(self) -> None:
        """What is allowed but rare."""
        dice = self.dice
        what = dice.randrange(6)
        if what == 0:
            self.put(f.SYNC * dice.randrange(1, 4))
        elif what == 1:
            self.put(f.FLUSH)
        elif what == 2:
            self.put(dice.choice((f.COPY_DONE, f.copy_fail(), f.copy_data(b"late"))))
        elif what == 3:
            self.put(f.close("nobody"), f.SYNC)
        elif self.may_discard or what == 4:
            self.wait()
            verb = "discard" if self.may_discard and what == 5 else "deallocate"
            self.put(f.query(f"{verb} all"))
            self.wait()

    def new_name(self) -> str:
        """A name that no Parse under way has."""
        return self.dice.choice(("s", "statement_with_a_long_name_")) + self.tag()

    def text(self) -> str:
        dice = self.dice
        if dice.random() < 0.6:
            return dice.choice(SHARED)
        return dice.choice((f"select {self.tag()}", f"rows 4 {self.tag()}"))

    def batch(self) -> None:
        """Messages of the extended protocol up to a Sync."""
        dice = self.dice
        fresh: list[str] = []  # of this batch: usable although perhaps skipped
        unnamed = False
        portal = False
        closed: set[str] = set()
        for _ in range(dice.randrange(1, 9)):
            names = [n for n in self.direct.statements if n and n not in closed]
            names += fresh
            what = dice.randrange(8)
            if what == 0:
                self.put(f.parse("", self.text()))
                unnamed = True
            elif what <= 2:
                name = self.new_name()
                fresh.append(name)
                self.put(f.parse(name, self.text()))
            elif what == 3 and names:
                self.put(f.describe(dice.choice(names)))
            elif what == 4 and names:
                name = dice.choice(names)
                closed.add(name)
                fresh = [n for n in fresh if n != name]
                self.put(f.close(name))
            elif names or unnamed:
                name = dice.choice(names) if names else ""
                self.put(f.bind(name, "", self.tag()))
                portal = True
                if dice.random() < 0.3:
                    self.put(f.describe("", b"P"))
            if portal and dice.random() < 0.7:
                self.put(f.execute("", dice.choice((0, 0, 1, 2))))
            if dice.random() < 0.1:
                self.put(f.FLUSH)
                self.maybe_wait()
        self.put(f.SYNC)
        if closed:
            self.wait()  # their names may be taken again

    def data(self) -> None:
        """The rows of a COPY; in one that will work there may be Syncs among them.

        Where they are answered and where not depends on when PostgreSQL notices
        that a COPY has failed: see test_copy for those.
        """
        copy = self.direct.copy
        works = copy is not None and not copy.fails_at
        for _ in range(self.dice.randrange(4)):
            size = self.dice.choice((0, 1, 100, 20_000))
            self.put(f.copy_data(self.tag().encode().ljust(size)))
            if works and self.dice.random() < 0.2:
                self.put(self.dice.choice((f.SYNC, f.FLUSH)))
        self.put(
            f.COPY_DONE if works else self.dice.choice((f.COPY_DONE, f.copy_fail()))
        )

    def how(self) -> str:
        return self.dice.choice(("0", "0", "1", "2", "3", "refused", "nowhere"))

    def copy(self) -> None:
        rest = self.dice.choice(("", f";select {self.tag()}"))
        self.put(f.query(f"copy in {self.how()}{rest}"))
        if self.dice.random() < 0.7:
            self.wait()
        if self.direct.copy is not None or self.dice.random() < 0.3:
            self.data()
        if self.direct.copy is not None:
            self.put(f.COPY_DONE)

    def extended_copy(self) -> None:
        self.put(f.parse("", f"copy in {self.how()}"), f.bind(""), f.execute())
        if self.dice.random() < 0.6:
            self.put(f.SYNC)
        else:
            self.put(f.FLUSH)
        if self.dice.random() < 0.7:
            self.wait()
        if self.direct.copy is not None or self.dice.random() < 0.3:
            self.data()
        if self.direct.copy is not None:
            self.put(f.COPY_DONE)
        self.put(f.SYNC)


class Simulation:
    """Some speakers on one relay, and what chance does to them."""

    def __init__(self, seed: int, make_relay: type[Relay] = Relay) -> None:
        self.seed = seed
        dice = self.dice = random.Random(seed)
        self.mode = dice.choice((0, 1, 1, 1))
        self.relay = make_relay(
            mode=self.mode,
            size=dice.randrange(1, 4),
            prepared=dice.choice((0, 1, 2, 3, 200)) if self.mode == 0 else
            dice.choice((1, 2, 3, 200)),
            opens_at_once=dice.random() < 0.5,
        )  # fmt: skip
        if self.mode == 0:
            self.relay.pool.reset_query = b"discard all"
            self.relay.pool.reset_on_release = True
        self.relay.pool.round_robin = dice.random() < 0.3
        self.relay.on_open = self.opened
        self.deaths = dice.choice((0, 0, 0.002, 0.01))
        self.cut = dice.choice((9, 100, 4000, 1 << 20))
        self.cancels: list[ServerEnd] = []
        self.speakers: list[tuple[Speaker, ClientEnd]] = []
        for number in range(dice.randrange(2, 6)):
            self.add_speaker(f"c{number}")

    def add_speaker(self, name: str) -> None:
        given = {}
        if self.dice.random() < 0.5:
            given = {"TimeZone": self.dice.choice(ZONES), "application_name": name}
        speaker = Speaker(name, self.dice, given)
        speaker.speak(self.dice.randrange(1, 12))
        small = self.dice.choice((0, 0, 4096))
        end = self.relay.client(small, **given)
        end.heard, end.left = b"", False
        self.speakers.append((speaker, end))

    def opened(self, end: ServerEnd) -> None:
        end.backend = Backend(DEFAULTS)

    # What may happen next

    def run(self) -> None:
        idle = 0
        while idle < 300:
            moved = self.dice.choice(
                (self.client_sends, self.client_sends, self.server_moves,
                 self.server_moves, self.client_reads, self.policy)
            )()  # fmt: skip
            self.relay.turn()
            if self.deaths and self.dice.random() < self.deaths:
                self.somebody_dies()
            idle = 0 if moved else idle + 1
        self.check()

    def some(self) -> int:
        return self.dice.randrange(1, self.cut + 1)

    def client_sends(self) -> bool:
        speaker, end = self.dice.choice(self.speakers)
        if end.unsent or end.sock.fileno() < 0:
            return False
        if not speaker.script:
            return self.client_leaves(speaker, end)
        barrier, data = speaker.script[0]
        if len(end.heard) < barrier:
            self.client_hears(end)
            return False
        size = self.some()
        if len(data) > 50 * size:
            size = len(data) // 50
        end.queue(data[:size])
        if size < len(data):
            speaker.script[0] = (0, data[size:])
        else:
            speaker.script.pop(0)
        return True

    def client_leaves(self, speaker: Speaker, end: ClientEnd) -> bool:
        if end.left or end.ended or len(end.heard) < len(speaker.direct.out):
            return False
        end.left = True
        end.queue(f.TERMINATE)
        return True

    def client_reads(self) -> bool:
        return self.client_hears(self.dice.choice(self.speakers)[1])

    def client_hears(self, end: ClientEnd) -> bool:
        end.pull()
        data, end.got = end.got, b""
        end.heard += data
        return bool(data)

    def server_moves(self) -> bool:
        alive = [end for end in self.relay.servers if end.sock.fileno() >= 0]
        if not alive:
            return False
        end = self.dice.choice(alive)
        end.pull()
        data, end.got = end.got, b""
        end.backend.receive(data)
        size = self.some()
        if len(end.backend.out) > 50 * size:
            size = len(end.backend.out) // 50
        out, end.backend.out = end.backend.out[:size], end.backend.out[size:]
        with contextlib.suppress(OSError):
            end.queue(out)
        if end.ended:
            end.sock.close()
        return bool(data or out)

    def policy(self) -> bool:
        """What janitor and cancels do: open, park a server, let it go again."""
        relay = self.relay
        if relay.wanted:
            relay.open_wanted()
            return True
        if self.cancels and self.dice.random() < 0.7:
            end = self.cancels.pop()
            server = end.server
            if not server.closed:
                server.cancels -= 1
                if server.cancels == 0 and server.state_name == "being_canceled":
                    relay.pool.settle_again(server)
            return True
        if self.dice.random() < 0.05:
            active = [end for end in relay.servers if end.server.client is not None]
            if active:
                end = self.dice.choice(active)
                end.server.cancels += 1
                self.cancels.append(end)
        if relay.pool.waiting.first is not None:
            relay.keeper.wants_server(relay.pool)
        return False

    def somebody_dies(self) -> None:
        ends = [end for _, end in self.speakers] + self.relay.servers
        end = self.dice.choice([e for e in ends if e.sock.fileno() >= 0] or ends)
        if isinstance(end, ClientEnd):
            self.client_hears(end)
            end.ended = True
        end.sock.close()
        self.relay.turn()

    # What must hold

    def check(self) -> None:
        for speaker, end in self.speakers:
            if end.sock.fileno() >= 0:
                self.client_hears(end)
            self.check_one(speaker, end)
        for end in self.relay.servers:
            server = end.server
            if not server.closed and server.state_name == "idle":
                assert server.clean
                assert not end.backend.out
                assert not end.backend.made
                assert end.backend.status == "I"

    def check_one(self, speaker: Speaker, end: ClientEnd) -> None:
        heard, expected = end.heard, speaker.direct.out
        messages, _ = f.split(heard)
        if self.deaths and messages and messages[-1][1].startswith(b"SFATAL"):
            assert f.errors(f.message(*messages[-1])) == ["server conn crashed?"]
            heard = heard[: -len(f.message(*messages[-1]))]
        if end.left or not end.ended:
            assert end.left, self.difference(speaker, heard)
            assert heard == expected, self.difference(speaker, heard)
            return
        assert self.deaths, f"{speaker.name} was thrown out"
        assert expected.startswith(heard), self.difference(speaker, heard)

    def difference(self, speaker: Speaker, heard: bytes) -> str:
        """Where the two part, for whoever reads the failure."""
        expected, _ = f.split(speaker.direct.out)
        got, rest = f.split(heard)
        place = 0
        while place < min(len(expected), len(got)) and expected[place] == got[place]:
            place += 1
        context = slice(max(place - 3, 0), place + 4)
        return (
            f"seed {self.seed}, {speaker.name}, message {place}:\n"
            f"expected {[(c, b[:60]) for c, b in expected[context]]}\n"
            f"got      {[(c, b[:60]) for c, b in got[context]]} + {rest[:60]!r}"
        )
