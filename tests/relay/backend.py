"""A model of PostgreSQL's side of the protocol, small but exact in what it answers.

It takes any sequence of messages, as PostgreSQL does: skips to Sync after an error
of the extended protocol, ignores Sync inside COPY FROM STDIN, ignores COPY messages
outside of one, holds answers back until it must flush. Statements are of a little
language of their own; see `Backend.run`. The same messages given to one Backend
directly and to others through the relay must bring the same bytes back.
"""

from dataclasses import dataclass, field

from tests.relay import frames as f

FLUSH_AT = 8192  # bytes of answers that PostgreSQL collects before it sends them


class Failed(Exception):
    """An error of the statement, as PostgreSQL would report it."""

    def __init__(self, sqlstate: str, text: str) -> None:
        super().__init__(sqlstate, text)
        self.answer = f.error(sqlstate, text)


@dataclass
class Portal:
    text: str
    values: bytes = b""  # as Bind brought them
    sent: int = 0  # rows that Execute has fetched so far


@dataclass
class Copy:
    """A COPY FROM STDIN in progress."""

    extended: bool
    fails_at: int  # which CopyData is refused; 0 for none
    rest: list[str] = field(default_factory=list)  # statements of the same Query
    count: int = 0


class Backend:
    """One server process."""

    def __init__(self, defaults: dict[str, str]) -> None:
        self.defaults = dict(defaults)
        self.values = dict(defaults)
        self.before = dict(defaults)  # values at the start of the transaction
        self.reported = dict(defaults)
        self.statements: dict[str, str] = {}
        self.portals: dict[str, Portal] = {}
        self.status = "I"
        self.skipping = False
        self.copy: Copy | None = None
        self.ended = False
        self.taken = b""  # received, not processed yet
        self.made = b""  # answers not flushed yet
        self.out = b""  # answers on their way

    # Bytes

    def receive(self, data: bytes) -> None:
        messages, self.taken = f.split(self.taken + data)
        for code, body in messages:
            if not self.ended:
                self.message(code, body)

    def say(self, *answers: bytes) -> None:
        self.made += b"".join(answers)
        if len(self.made) >= FLUSH_AT:
            self.flush()

    def flush(self) -> None:
        self.out += self.made
        self.made = b""

    def ready(self) -> None:
        if self.status == "I":
            self.portals.clear()
            self.before = dict(self.values)
        for name, value in self.values.items():
            if value != self.reported[name]:
                self.reported[name] = value
                self.say(f.parameter_status(name, value))
        self.say(f.ready(self.status))
        self.flush()

    # Messages

    def message(self, code: bytes, body: bytes) -> None:
        if code == b"X":
            self.ended = True
        elif self.copy is not None:
            self.copying(code, body)
        elif self.skipping:
            if code == b"S":
                self.skipping = False
                self.sync()
        elif code == b"Q":
            self.simple(body[:-1].decode().split(";"))
        elif code == b"F":
            self.function(body)
        elif code == b"S":
            self.sync()
        elif code == b"H":
            self.flush()
        elif code in b"PBDEC":
            try:
                self.extended(code, body)
            except Failed as problem:
                self.fail(problem)
                self.skipping = True
        # CopyData, CopyDone and CopyFail: ignored outside of a COPY

    def sync(self) -> None:
        self.ready()

    def fail(self, problem: Failed) -> None:
        self.values = dict(self.before)
        if self.status == "T":
            self.status = "E"
        self.say(problem.answer)
        self.flush()

    def function(self, body: bytes) -> None:
        try:
            self.check(["function"])
            if body[3] == 0:
                raise Failed("42883", "function with OID 0 does not exist")
            self.say(f.message(b"V", body[10:14] + body[14:-2]))
        except Failed as problem:
            self.fail(problem)
        self.ready()

    def simple(self, texts: list[str]) -> None:
        """Run the statements of a Query, up to an error or a COPY."""
        self.statements.pop("", None)
        if all(not text.strip() for text in texts):
            self.say(f.EMPTY_QUERY)
            self.ready()
            return
        todo = [text for text in texts if text.strip()]
        while todo:
            words = todo.pop(0).split()
            try:
                self.check(words)
                if words[:2] == ["copy", "in"]:
                    self.begin_copy(words, extended=False, rest=todo)
                    return
                if columns := self.columns(words):
                    self.say(f.row_description(*columns))
                self.run(words)
            except Failed as problem:
                self.fail(problem)
                break
        self.ready()

    def extended(self, code: bytes, body: bytes) -> None:
        if code == b"P":
            name, text = (part.decode() for part in body.split(b"\0", 2)[:2])
            words = text.split()
            if not name:
                self.statements.pop("", None)
            if words:
                self.check(words)
            if words[:1] == ["syntax"]:
                raise Failed("42601", f"syntax error at {text}")
            if name and name in self.statements:
                raise Failed("42P05", f'prepared statement "{name}" already exists')
            self.statements[name] = text
            self.say(f.PARSE_COMPLETE)
        elif code == b"B":
            portal, name, values = body.split(b"\0", 2)
            text = self.statement(name.decode())
            self.check(text.split())
            self.portals[portal.decode()] = Portal(text, values)
            self.say(f.BIND_COMPLETE)
        elif code == b"D":
            self.describe(body[:1], body[1:-1].decode())
        elif code == b"E":
            portal, _, limit = body.partition(b"\0")
            self.execute(portal.decode(), int.from_bytes(limit, "big"))
        else:
            kept = self.statements if body[:1] == b"S" else self.portals
            kept.pop(body[1:-1].decode(), None)
            self.say(f.CLOSE_COMPLETE)

    def statement(self, name: str) -> str:
        if not name and name not in self.statements:
            raise Failed("26000", "unnamed prepared statement does not exist")
        if name not in self.statements:
            raise Failed("26000", f'prepared statement "{name}" does not exist')
        return self.statements[name]

    def portal(self, name: str) -> Portal:
        if name not in self.portals:
            raise Failed("34000", f'portal "{name}" does not exist')
        return self.portals[name]

    def describe(self, kind: bytes, name: str) -> None:
        if kind == b"S":
            text = self.statement(name)
            self.check(text.split())
            self.say(f.message(b"t", b"\0\0"))
        else:
            text = self.portal(name).text
        columns = self.columns(text.split())
        self.say(f.row_description(*columns) if columns else f.NO_DATA)

    def execute(self, name: str, limit: int) -> None:
        portal = self.portal(name)
        words = portal.text.split()
        self.check(words)
        if not words:
            self.say(f.EMPTY_QUERY)
        elif words[:2] == ["copy", "in"]:
            self.begin_copy(words, extended=True, rest=[])
        elif words[0] == "parameters":
            self.say(f.data_row(portal.values), f.complete("SELECT 1"))
        elif words[0] == "rows" and limit:
            total = int(words[1])
            upto = min(portal.sent + limit, total)
            self.rows(words, portal.sent, upto)
            fetched, portal.sent = upto - portal.sent, upto
            if fetched == limit:
                self.say(f.SUSPENDED)
            else:
                self.say(f.complete(f"SELECT {fetched}"))
        else:
            self.run(words)

    # COPY FROM STDIN

    def begin_copy(self, words: list[str], extended: bool, rest: list[str]) -> None:
        """copy in N: CopyData N is bad; "refused": fails behind CopyInResponse."""
        if words[2] == "nowhere":
            raise Failed("42P01", "no such table")
        self.say(f.COPY_IN)
        self.flush()
        if words[2] == "refused":
            # A trigger for the statement fails: nothing was read since.
            problem = Failed("P0001", "trigger says no")
            if extended:
                raise problem
            self.fail(problem)
            self.ready()
            return
        self.copy = Copy(extended, int(words[2]), rest)

    def copying(self, code: bytes, body: bytes) -> None:
        copy = self.copy
        assert copy is not None
        if code in b"SH":
            return
        if code == b"d":
            copy.count += 1
            if copy.count == copy.fails_at:
                self.copy_failed(Failed("22P04", f"bad row {copy.count}"))
        elif code == b"c":
            self.copy = None
            self.say(f.complete(f"COPY {copy.count}"))
            if not copy.extended:
                self.simple(copy.rest) if copy.rest else self.ready()
        elif code == b"f":
            text = body[:-1].decode()
            self.copy_failed(Failed("57014", f"COPY from stdin failed: {text}"))
        else:
            self.copy_failed(Failed("08P01", f"unexpected {code!r} during COPY"))

    def copy_failed(self, problem: Failed) -> None:
        copy, self.copy = self.copy, None
        assert copy is not None
        self.fail(problem)
        if copy.extended:
            self.skipping = True
        else:
            self.ready()

    # Statements

    def check(self, words: list[str]) -> None:
        if self.status == "E" and words[:1] not in (["commit"], ["rollback"]):
            raise Failed(
                "25P02",
                "current transaction is aborted, "
                "commands ignored until end of transaction block",
            )

    def columns(self, words: list[str]) -> tuple[str, ...]:
        if not words:
            return ()
        return {
            "select": ("text",),
            "parameters": ("values",),
            "rows": ("number", "text"),
            "big": ("big",),
            "show": (words[-1],),
        }.get(words[0], ())

    def rows(self, words: list[str], first: int, upto: int) -> None:
        text = " ".join(words[2:]).encode()
        for number in range(first, upto):
            self.say(f.data_row(b"%d" % number, text))

    def run(self, words: list[str]) -> None:
        """Run one statement: its rows and its CommandComplete."""
        verb = words[0] if words else ""
        if words[:1] == ["/*"]:  # a comment of whole words
            words = words[words.index("*/") + 1 :]
            verb = words[0]
        if words == ["deallocate", "prepare", "all"]:
            words = ["deallocate", "all"]
        if verb == "select":
            self.say(f.data_row(" ".join(words[1:]).encode()), f.complete("SELECT 1"))
        elif verb == "rows":
            self.rows(words, 0, int(words[1]))
            self.say(f.complete(f"SELECT {words[1]}"))
        elif verb == "big":
            text = " ".join(words[2:]).encode()
            self.say(f.data_row(text.ljust(int(words[1]), b".")))
            self.say(f.complete("SELECT 1"))
        elif verb == "show":
            self.say(f.data_row(self.values[words[1]].encode()), f.complete("SHOW"))
        elif verb == "set":
            self.values[words[1]] = words[2]
            self.say(f.complete("SET"))
        elif verb == "reset":
            for name in [words[1]] if words[1] != "all" else self.defaults:
                self.values[name] = self.defaults[name]
            self.say(f.complete("RESET"))
        elif verb == "notice":
            self.say(f.notice(" ".join(words[1:])), f.complete("DO"))
            self.flush()
        elif verb == "fail":
            raise Failed("P0001", " ".join(words))
        elif verb == "copy":  # copy out N text
            self.say(f.COPY_OUT)
            for _ in range(int(words[2])):
                self.say(f.copy_data(" ".join(words[3:]).encode()))
            self.say(f.message(b"c"), f.complete(f"COPY {words[2]}"))
        elif words in (["deallocate", "all"], ["discard", "all"]):
            unnamed = {"": self.statements[""]} if "" in self.statements else {}
            self.statements = unnamed  # it is none of those that have names
            if verb == "discard":
                self.portals.clear()
                self.values = dict(self.defaults)
            self.say(f.complete(" ".join(words).upper()))
        elif verb == "deallocate":  # deallocate name
            self.statement(words[1])
            del self.statements[words[1]]
            self.say(f.complete("DEALLOCATE"))
        elif verb == "SET":  # from the relay: SET a='b'
            name, _, value = " ".join(words[1:]).partition("=")
            self.values[name] = value.strip("'")
            self.say(f.complete("SET"))
        else:
            self.transaction(verb)

    def transaction(self, verb: str) -> None:
        if verb == "begin":
            if self.status == "I":
                self.status = "T"
            self.say(f.complete("BEGIN"))
        elif verb == "commit":
            failed = self.status == "E"
            self.end_transaction()
            self.say(f.complete("ROLLBACK" if failed else "COMMIT"))
        elif verb == "rollback":
            self.values = dict(self.before)
            self.end_transaction()
            self.say(f.complete("ROLLBACK"))
        else:
            raise Failed("42601", f"syntax error at {verb}")

    def end_transaction(self) -> None:
        self.status = "I"
        self.portals.clear()
        self.before = dict(self.values)
