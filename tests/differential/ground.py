"""What conversations are played on: one PostgreSQL, and a pooler for each setting.

Both ways have a database of their own, made from one template, so that even the oids in
a RowDescription are the same. Every conversation finds the tables empty and the pooler
without servers: what it shows can be shown again.
"""

import contextlib
import threading
from collections.abc import Iterator

import psycopg

from tests.differential.compare import Heard
from tests.differential.play import DATABASE, Direct, Pooled, Quiet
from tests.differential.speech import MODES, Conversation, Speaker, say
from tests.support.ground import Ground, Postgres, wait_for
from tests.support.pooler import RunningPooler

PATIENCE = 10.0  # seconds without a message: it hangs
BEHIND_US = DATABASE + "_pooled"
MOST_SPEAKERS = 4
SETUP = "".join(
    f"create table t{n} (a int primary key, b text check (b <> 'bad'));"
    for n in range(1, MOST_SPEAKERS + 1)
)
TABLES = ",".join(f"t{n}" for n in range(1, MOST_SPEAKERS + 1))
CONTENT = " union all ".join(
    f"select {n}, a, b from t{n}" for n in range(1, MOST_SPEAKERS + 1)
)
OTHERS = (
    "select 1 from pg_stat_activity where datname = current_database()"
    " and pid <> pg_backend_pid()"
)
SETTINGS = {
    "server_login_retry": "0.1",
    "query_wait_notify": 0,  # a notice that PostgreSQL does not send
    "log_connections": 0,
    "log_disconnections": 0,
    "log_pooler_errors": 0,
}
SIZES = (1, 2, 3)
# What the next client of a server does, and has of its own.
ITS_OWN = {"application_name": "next", "TimeZone": "America/New_York"}
LOOK = (
    "select 'mark', current_setting('timezone'), current_setting('application_name'),"
    " current_setting('datestyle'), current_setting('client_encoding')"
)


def entry(conversation: Conversation) -> str:
    """The database of a pooler that has this conversation's pool_mode and size."""
    return f"{conversation.mode}{conversation.size}"


def next_speaker(mode: str, prepared: int) -> Speaker:
    """Who comes to a server afterwards and wants to be served right."""
    name = "next" if prepared else ""
    look = [
        say("P", name, "select $1::text || 'mark'"),
        *(say("B", "", name, "the "), say("D", "P", ""), say("E"), say("S"), say("|")),
        *(say("Q", LOOK), say("|"), say("P", "", "show timezone"), say("B"), say("E")),
        *(say("S"), say("|")),
    ]
    if mode != "statement":
        # Each keeps its server until all have one.
        look = [say("Q", "begin"), say("|"), say("@"), *look, say("Q", "commit")]
    return Speaker(look, dict(ITS_OWN))


class Arena:
    """Plays conversations both ways and says what differs."""

    def __init__(self, ground: Ground, postgres: Postgres | None = None) -> None:
        self.ground = ground
        self.postgres = postgres or ground.postgresql
        self.poolers: dict[int, RunningPooler] = {}  # by max_prepared_statements
        self.consoles: dict[int, psycopg.Connection] = {}
        self.detour = lambda port: port  # what stands before a pooler
        self.last: Conversation | None = None
        self.next_right: dict[tuple[str, bool], Heard] = {}
        self._prepare()

    def _prepare(self) -> None:
        where = self.postgres
        with where.connect("postgres") as connection:
            connection.execute(f"create database {DATABASE}")
            with where.connect(DATABASE) as inside:
                inside.execute(SETUP)
                inside.execute(f"grant all on {TABLES} to public")
            connection.execute(f"create database {BEHIND_US} template {DATABASE}")
        self.stores = [where.connect(name) for name in (DATABASE, BEHIND_US)]
        self.quiet = Quiet(where.conninfo("postgres"))

    def close(self) -> None:
        """Stop the poolers and leave the server."""
        for console in self.consoles.values():
            console.close()
        for pooler in self.poolers.values():
            pooler.stop()
        for store in self.stores:
            store.close()
        self.quiet.connection.close()

    def __enter__(self) -> "Arena":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The two databases

    def empty(self) -> None:
        """Empty the tables, when nobody writes to them any more."""
        if not wait_for(lambda: not self.stores[1].execute(OTHERS).fetchone(), 30):
            raise RuntimeError(
                "a server of the pooler has been closed and is still there"
            )
        for which, store in enumerate(self.stores):
            # TRUNCATE makes a dozen files anew, and most conversations leave no row.
            if self.content(which):
                store.execute(f"truncate {TABLES}")

    def content(self, which: int) -> list[tuple[object, ...]]:
        return sorted(self.stores[which].execute(CONTENT).fetchall(), key=repr)

    # The poolers

    def pooler(self, conversation: Conversation) -> RunningPooler:
        """The pooler for this conversation; none has clients or servers any more."""
        if last := self.last:
            if self.poolers[last.prepared].is_running():
                self.consoles[last.prepared].execute(f"KILL {entry(last)}")
                self.consoles[last.prepared].execute(f"RESUME {entry(last)}")
        prepared = conversation.prepared
        if prepared not in self.poolers or not self.poolers[prepared].is_running():
            self._start(prepared)
        self.last = conversation
        return self.poolers[prepared]

    def _start(self, prepared: int) -> None:
        ini = {**SETTINGS, "max_prepared_statements": prepared}
        entries = {
            entry(Conversation(mode, size)): f"{{pg}} dbname={BEHIND_US}"
            f" pool_mode={mode} pool_size={size}"
            for mode in MODES
            for size in SIZES
        }
        port = self.postgres.port
        pooler = RunningPooler(self.ground, port, ini, databases=entries).run("-q")
        console = pooler.connect("pgbouncer", "admin")
        console.prepare_threshold = None
        self.poolers[prepared], self.consoles[prepared] = pooler, console

    # Playing

    def directly(self, conversation: Conversation) -> list[Heard]:
        """What PostgreSQL tells each client."""
        where = (self.postgres.directory, self.postgres.port)
        speakers = conversation.speakers
        return [Direct(speaker, where, self.quiet).play() for speaker in speakers]

    def play(self, conversation: Conversation, patience: float = PATIENCE) -> list[str]:
        """All that differs, one line each."""
        pooler = self.pooler(conversation)
        self.empty()
        rights = self.directly(conversation)
        port = self.detour(pooler.port)
        database = entry(conversation)
        scene = Scene(port, database, patience, conversation.mode != "session")
        for together in conversation.rounds():
            done = len(scene.players)
            scene.enter(together, rights[done : done + len(together)])
        wrong = scene.wrong()
        if not wrong:
            wrong = self.next_ones(conversation, port, patience)
        wrong += [told for told in scene.end() if told not in wrong]
        if not wrong and self.content(0) != self.content(1):
            wrong.append(
                f"other rows in the tables ({self.content(1)}; of: {self.content(0)}"
            )
        if not pooler.is_running():
            wrong.append("the pooler has ended")
        return wrong

    def next_ones(
        self, conversation: Conversation, port: int, patience: float
    ) -> list[str]:
        """What differs for the next client of each server."""
        mode, size = conversation.mode, conversation.size
        speaker = next_speaker(mode, conversation.prepared)
        key = mode, bool(conversation.prepared)
        if key not in self.next_right:
            [self.next_right[key]] = self.directly(Conversation(speakers=[speaker]))
        scene = Scene(port, entry(conversation), patience, may_stay=False)
        scene.enter([speaker] * size, [self.next_right[key]] * size)
        return [told.replace("client", "next client") for told in scene.end()]


class Scene:
    """Clients of one pooler, some of whom stay connected while others come."""

    def __init__(
        self, port: int, database: str, patience: float, may_stay: bool
    ) -> None:
        self.port, self.database = port, database
        self.patience, self.may_stay = patience, may_stay
        self.players: list[Pooled] = []
        self.threads: list[threading.Thread] = []
        self.may_leave = threading.Event()

    def enter(self, speakers: list[Speaker], rights: list[Heard]) -> None:
        """Let clients speak at the same time, until each has been told all."""
        meet = threading.Barrier(len(speakers), timeout=self.patience)
        players = [
            Pooled(speaker, self.port, self.database, right, self.patience, meet)
            for speaker, right in zip(speakers, rights, strict=True)
        ]
        for player in players:
            player.may_leave = self.may_leave if self.may_stay else None
            self.threads.append(threading.Thread(target=player.play, daemon=True))
            self.threads[-1].start()
        for player in players:
            player.settled.wait()
        self.players += players

    def wrong(self) -> list[str]:
        """What those who have gone, or were told wrong, say."""
        return [
            f"client {number}: {told}"
            for number, player in enumerate(self.players, 1)
            if player.heard.end != "open" and (told := player.difference())
        ]

    def end(self) -> list[str]:
        """Let those leave who have stayed; what anybody was told wrong."""
        self.may_leave.set()
        for thread in self.threads:
            thread.join()
        return self.wrong()


@contextlib.contextmanager
def arena(command: str) -> Iterator[Arena]:
    """An arena with a PostgreSQL of its own for the program *command*."""
    with Ground(command) as ground, Arena(ground) as one:
        yield one
