"""Is this pooler fit for clients? One state, from memory, for every way of asking.

Balancers act on the answer by killing sessions, so the one hard idea is what may be
called dead: a pooler that is paused, full, draining, or whose server has the wrong
role is *soft* (no new clients, keep the old ones). Only a database that could not be
reached for a while is *hard*. Proof that it can be reached is taken from the traffic
and the logins of all pools; a probe is sent only when somebody asks and there was no
traffic, or when the role of the server is wanted. The newest evidence decides, whoever
it is from. A probe that gets no server because all are busy proves nothing, least of
all a failure; a server that refuses a login, or has no more connections, is there.
What was known of a role is soon no knowledge: servers are fenced.

Anybody may ask, so a question costs PostgreSQL little: a few probes at once, and
where no database is named, as few databases as it takes to find a good one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from heapq import nsmallest

from bouncer import log
from bouncer.errors import ServerError
from bouncer.pool.evidence import Weight, weigh
from bouncer.probe import Busy, LoginRefused, StillFailing
from ha.view import DatabaseFacts, PoolerView, Rows

# The loop is looked at this often; a tick this late means that it was stuck.
TICK = 0.25
STUCK = 2.0
# An answer from the server this young proves that it is there.
PROOF_AGE = 5.0
PROBE_EVERY = 1.0
PROBE_DEADLINE = 2.0
# Probes under way at once: of databases without a server, and of those that have one.
# The first may hang, and must not keep the others from what they want to know.
MOST_PROBES = 4
MOST_LIVE_PROBES = 16
# Probes of databases without a server, which has to log in first, for each `TICK`;
# those of `health_databases` are not counted.
MOST_LOGINS = 4
# So many databases are probed on behalf of all, and when the pooler starts.
SAMPLE = 8
# Probes go on for so long after the last question; for who asks more seldom, until
# twice the time has gone that was between his questions, if it was below `SELDOM`.
DEMAND = 15.0
SELDOM = 120.0
# What is known of a role is knowledge for so long.
ROLE_AGE = 3 * PROBE_EVERY
# A standby whose WAL receiver has been gone for longer does not know its lag.
POSITION_AGE = 30.0

ROLE_SQL = """\
select pg_catalog.pg_is_in_recovery(),
 pg_catalog.current_setting('default_transaction_read_only'),
 case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_wal_lsn_diff(
   coalesce(greatest(pg_catalog.pg_last_wal_receive_lsn(),
     (select latest_end_lsn from pg_catalog.pg_stat_wal_receiver)),
    pg_catalog.pg_last_wal_replay_lsn()), pg_catalog.pg_last_wal_replay_lsn()) end,
 (select count(*) from pg_catalog.pg_stat_wal_receiver)"""

# For servers before PostgreSQL 10, which have other names for positions.
PLAIN_ROLE_SQL = """\
select pg_catalog.pg_is_in_recovery(),
 pg_catalog.current_setting('default_transaction_read_only'), null, 0"""


class Grade(Enum):
    """What a balancer should do: use it, send nothing new, or give it up."""

    GOOD = 200
    SOFT = 404
    HARD = 503


@dataclass(frozen=True, slots=True)
class Answer:
    """A grade and the word that explains it."""

    grade: Grade
    word: str


GOOD = Answer(Grade.GOOD, "ready")
INFINITE = float("inf")
RANKS = (Grade.GOOD, Grade.SOFT, Grade.HARD)


@dataclass(slots=True)
class Role:
    """What the server said of itself, and when."""

    standby: bool
    writable: bool
    lag: int | None
    at: float


@dataclass(slots=True)
class Watched:
    """What is remembered of one database."""

    finished: int = -1
    proved_at: float | None = None
    heard_at: float = -1e9  # traffic only
    was_asked: bool = True  # the last probe got as far as a server
    failing_since: float | None = None  # probes, since the last proof
    failed_at: float = -1e9  # the newest of them
    error: str = ""
    refused: tuple[str, str] | None = None  # the user whom probes are, and the error
    role: Role | None = None
    was_primary: bool = False
    receiver_seen: float | None = None
    plain: bool = False  # the server does not know ROLE_SQL
    mute: bool = False  # there is no way to ask: no pool and no user for one
    asked_at: float = -1e9
    role_asked_at: float = -1e9
    demand: float = DEMAND
    probed_at: float = -1e9
    probe: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """Settings of the section [pybouncer]."""

    databases: tuple[str, ...] = ()
    down_after: float = 10.0
    wrong_role: str = "auto"


@dataclass(slots=True)
class Readiness:
    """Watches one pooler; answers in microseconds."""

    view: PoolerView
    policy: Policy = field(default_factory=Policy)
    clock: Callable[[], float] = time.monotonic
    watched: dict[str, Watched] = field(default_factory=dict)
    ticked_at: float = 0.0
    loop_lag: float = 0.0
    facts: dict[str, DatabaseFacts] = field(default_factory=dict)
    sample: tuple[str, ...] = ()
    probing: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    logins: int = 0
    closed: bool = False

    # Called by the server of health

    def tick(self) -> None:
        """Look at the pooler; start the probes that are due. Every `TICK` seconds."""
        now = self.clock()
        if self.ticked_at:
            late = max(0.0, now - self.ticked_at - TICK)
            # A moving value: one slow turn is no reason to send clients away.
            self.loop_lag += (late - self.loop_lag) / 4
        self.ticked_at = now
        self.facts = self.chosen(self.view.databases())
        for name in list(self.watched):
            if name not in self.facts:
                self.forget(name)
        for name, facts in self.facts.items():
            self.notice(self.watched.setdefault(name, Watched()), facts, now)
        self.sample = self.sampled()
        self.logins = 0
        self.launch()

    def launch(self) -> None:
        """Start the probes that are due: a few at once, those that waited longest."""
        if self.closed or self.view.phase() == "paused":
            return
        now = self.clock()
        due = [
            name
            for name, facts in self.facts.items()
            if not facts.paused and self.due(name, self.watched[name], now)
        ]
        due.sort(key=lambda name: self.watched[name].probed_at)
        for name in due:
            live = self.facts[name].live > 0
            if self.probing[live] >= (MOST_LIVE_PROBES if live else MOST_PROBES):
                continue
            if not (self.policy.databases or live):
                if self.logins >= MOST_LOGINS:
                    continue
                self.logins += 1
            watched = self.watched[name]
            watched.probed_at = now
            self.probing[live] += 1
            watched.probe = asyncio.ensure_future(self.ask(name, watched))
            watched.probe.add_done_callback(partial(self.probed, live))

    def probed(self, live: bool, _: asyncio.Task[None]) -> None:
        """A probe has ended: the next one may begin."""
        self.probing[live] -= 1
        self.launch()

    def close(self) -> None:
        """Cancel the probes."""
        self.closed = True
        for name in list(self.watched):
            self.forget(name)

    # Called for an answer

    def live(self) -> Answer:
        """Is the loop turning?"""
        if self.clock() - self.ticked_at > STUCK:
            return Answer(Grade.HARD, "event loop was stuck")
        return Answer(Grade.GOOD, "live")

    # *held* asks about a pooler of last resort: one that is paused or full is good,
    # since a client may rather wait there than be sent away by the balancer.

    def ready(self, database: str = "", held: bool = False) -> Answer:
        """May new clients come, for *database* or for any?"""
        return self.best(
            database, lambda name: self.ready_one(name, held), self.want_proof, held
        )

    def primary(self, database: str = "", held: bool = False) -> Answer:
        """May clients that write come?"""
        return self.best(
            database, lambda name: self.primary_one(name, held), self.want_role, held
        )

    def replica(
        self, database: str = "", lag: int | None = None, held: bool = False
    ) -> Answer:
        """May clients come that read from a standby, at most *lag* bytes behind?"""
        return self.best(
            database,
            lambda name: self.replica_one(name, lag, held),
            self.want_role,
            held,
        )

    def read_only(
        self, database: str = "", lag: int | None = None, held: bool = False
    ) -> Answer:
        """May clients come that read, from whatever server there is?"""

        def either(name: str) -> Answer:
            answers = (
                self.primary_one(name, held),
                self.replica_one(name, lag, held),
            )
            return min(answers, key=lambda answer: RANKS.index(answer.grade))

        return self.best(database, either, self.want_role, held)

    def best(
        self,
        database: str,
        judge: Callable[[str], Answer],
        want: Callable[[str], None],
        held: bool = False,
    ) -> Answer:
        """Judge one database; without a name, the one that does best.

        One broken database must not take the others out, so the pooler as a whole
        is as good as its best one. Whoever wants to know about one names it.
        """
        if database:
            if database not in self.facts:
                return Answer(Grade.HARD, "no such database")
            want(database)
            return judge(database)
        if not self.facts:
            return self.whole(held) or GOOD
        for name in self.sample:
            if name in self.facts:
                want(name)
        answers = [judge(name) for name in self.facts]
        return min(answers, key=lambda answer: RANKS.index(answer.grade))

    # The judgements

    def whole(self, held: bool) -> Answer | None:
        """What holds for all databases alike, or None."""
        phase = self.view.phase()
        if phase == "running" or (held and phase == "paused"):
            return None
        return Answer(Grade.SOFT, phase)

    def full(self) -> bool:
        """Is max_client_conn reached?"""
        used, limit = self.view.clients()
        return 0 < limit <= used

    def ready_one(self, name: str, held: bool = False) -> Answer:
        """Ready, soft or hard. The soft ones that hold clients go first."""
        facts, watched = self.facts[name], self.watched[name]
        if (whole := self.whole(held)) is not None:
            return whole
        if facts.paused and not held:
            return Answer(Grade.SOFT, "paused")
        if facts.disabled:
            return Answer(Grade.SOFT, "disabled")
        if held and (facts.paused or self.view.phase() == "paused"):
            # What the database does meanwhile is why somebody paused.
            return Answer(Grade.GOOD, "paused")
        failing = self.failing_for(name)
        if failing is not None and failing >= self.policy.down_after:
            return Answer(Grade.HARD, "database unreachable")
        if watched.proved_at is None and not watched.mute:
            # Nothing is known yet; a failed first try is not waited out.
            return Answer(
                Grade.HARD, "starting" if failing is None else "database unreachable"
            )
        if self.full() and not held:
            return Answer(Grade.SOFT, "saturated")
        return GOOD

    def primary_one(self, name: str, held: bool = False) -> Answer:
        """Ready, and the server takes writes."""
        answer = self.ready_one(name, held)
        if answer.grade is not Grade.GOOD:
            return answer
        watched = self.watched[name]
        role = watched.role
        if role is None or not self.is_knowledge(watched, role, answer):
            return role_unknown(role)
        if not role.standby and role.writable:
            return Answer(Grade.GOOD, "primary")
        word = "standby" if role.standby else "read-only"
        wrong = self.policy.wrong_role
        if wrong == "auto":
            # Clients of what was the primary are better cut than left with a server
            # that refuses their writes. One that never was has no such clients.
            wrong = "503" if watched.was_primary else "404"
        return Answer(Grade(int(wrong)), word)

    def replica_one(self, name: str, lag: int | None, held: bool = False) -> Answer:
        """Ready, and the server is a standby that is not too far behind."""
        answer = self.ready_one(name, held)
        if answer.grade is not Grade.GOOD:
            return answer
        watched = self.watched[name]
        role = watched.role
        if role is None or not self.is_knowledge(watched, role, answer):
            return role_unknown(role)
        if not role.standby:
            return Answer(Grade.SOFT, "primary")
        if lag is not None:
            seen = watched.receiver_seen
            unseen = seen is None or role.at - seen > POSITION_AGE
            known = self.is_fresh(role.at) or answer.word == "paused"
            if role.lag is None or unseen or not known:
                return Answer(Grade.SOFT, "lag unknown")
            if role.lag > lag:
                return Answer(Grade.SOFT, f"lag {role.lag} bytes")
        return Answer(Grade.GOOD, "standby")

    def is_fresh(self, at: float) -> bool:
        """Is it so short a time since *at* that it is knowledge?"""
        return self.clock() - at <= ROLE_AGE

    def is_knowledge(self, watched: Watched, role: Role, answer: Answer) -> bool:
        """Is what the server said of itself still worth anything?

        It is while a pause lasts, since nobody is asked then; and while no server is
        free for a probe, but they go on answering others: a primary that is demoted
        ends all its connections first.
        """
        if answer.word == "paused" or self.is_fresh(role.at):
            return True
        return not watched.was_asked and self.is_fresh(watched.heard_at)

    def failing_for(self, name: str) -> float | None:
        """Seconds since which the server cannot be reached, None if it can.

        Nobody's failure counts that is older than the newest answer to anybody.
        """
        now, facts, watched = self.clock(), self.facts[name], self.watched[name]
        proved = -INFINITE if watched.proved_at is None else watched.proved_at
        spans = []
        if facts.failing_for is not None:
            failed_at = self.ticked_at - (facts.failed_ago or 0.0)
            if failed_at > proved:
                spans.append(facts.failing_for + now - self.ticked_at)
        since = watched.failing_since
        if since is not None and now - watched.failed_at <= DEMAND:
            spans.append(now - since)
        return min(max(spans), now - proved) if spans else None

    # Taking notice

    def chosen(self, facts: dict[str, DatabaseFacts]) -> dict[str, DatabaseFacts]:
        """The databases that are asked about, in the order of `health_databases`."""
        if not self.policy.databases:
            return facts
        return {name: facts[name] for name in self.policy.databases if name in facts}

    def sampled(self) -> tuple[str, ...]:
        """The databases that are asked when none is named.

        All of `health_databases`. Without it a few: those whose servers have answered
        go first, then those that nobody has tried, then those that failed longest ago,
        so that one that is well is found, and the others are left alone.
        """
        if self.policy.databases or len(self.facts) <= SAMPLE:
            return tuple(self.facts)

        def rank(name: str) -> tuple[int, float]:
            watched = self.watched[name]
            if watched.failing_since is not None or watched.mute:
                return 2, watched.probed_at
            return int(watched.proved_at is None), 0.0

        return tuple(nsmallest(SAMPLE, self.facts, key=rank))

    def notice(self, watched: Watched, facts: DatabaseFacts, now: float) -> None:
        """Take traffic and logins as proof."""
        if watched.finished >= 0 and facts.finished > watched.finished:
            watched.heard_at = now
            self.prove(watched, now)
        watched.finished = facts.finished
        if facts.answered_ago is not None:
            self.prove(watched, now - facts.answered_ago)

    def prove(self, watched: Watched, at: float) -> None:
        """The server has answered somebody, perhaps some time ago."""
        if watched.proved_at is not None and at <= watched.proved_at:
            return
        watched.proved_at = at
        watched.mute = False
        if watched.failing_since is not None and at >= watched.failing_since:
            is_over = watched.failed_at <= at
            watched.failing_since = None if is_over else watched.failed_at
            watched.error = "" if is_over else watched.error

    def want_proof(self, name: str) -> None:
        """Somebody asked about *name*."""
        self.watched[name].asked_at = self.clock()

    def want_role(self, name: str) -> None:
        """Somebody asked about the role of *name*'s server."""
        now, watched = self.clock(), self.watched[name]
        gap = now - watched.role_asked_at
        if gap <= SELDOM:
            watched.demand = max(DEMAND, 2 * gap)
        watched.asked_at = watched.role_asked_at = now

    def due(self, name: str, watched: Watched, now: float) -> bool:
        """Is a probe wanted, none under way, and the last one old enough?"""
        if watched.probe is not None or now - watched.probed_at < PROBE_EVERY:
            return False
        if watched.proved_at is None and name in self.sample:
            # A pooler that was just started finds out by itself.
            return True
        if now - watched.role_asked_at < watched.demand:
            return True
        proved = watched.proved_at
        return now - watched.asked_at < DEMAND and (
            proved is None or now - proved > PROOF_AGE
        )

    async def ask(self, name: str, watched: Watched) -> None:
        """Probe once; every outcome is remembered, none is raised."""
        was_asked = True
        try:
            async with asyncio.timeout(PROBE_DEADLINE):
                sql = PLAIN_ROLE_SQL if watched.plain else ROLE_SQL
                rows = await self.view.probe(name, sql)
            self.learn(watched, rows)
            self.admitted(name, watched)
        except LookupError:
            watched.mute, watched.failing_since = True, None
        except Busy:
            was_asked = False
        except StillFailing:
            was_asked = False
            watched.failed_at = self.clock()
        except TimeoutError:
            facts = self.facts.get(name)
            if facts is not None and not facts.paused:
                self.fail(watched, f"no answer within {PROBE_DEADLINE:g} s")
        except LoginRefused as problem:
            was_asked = False
            self.refused(name, watched, problem)
        except Exception as problem:
            # A server that refuses the statement is there.
            sqlstate = str(getattr(problem, "sqlstate", ""))
            watched.plain |= sqlstate.startswith("42")
            self.consider(watched, problem, weigh(sqlstate))
        finally:
            watched.probe, watched.was_asked = None, was_asked

    def refused(self, name: str, watched: Watched, problem: LoginRefused) -> None:
        """Nobody was let in to ask, which is no outage, but somebody should mend it."""
        self.consider(watched, problem, problem.weight)
        if problem.weight is Weight.AWAY:
            return
        found = problem.user, str(problem)
        if watched.refused != found:
            watched.refused = found
            log.warning(
                f'health checks cannot log in to database "{name}" '
                f'as user "{found[0]}": {found[1]}'
            )

    def admitted(self, name: str, watched: Watched) -> None:
        """A probe has run."""
        if watched.refused is not None:
            watched.refused = None
            log.info(f'health checks can log in to database "{name}" again')

    def consider(self, watched: Watched, problem: Exception, weight: Weight) -> None:
        """Something went wrong; *weight* says whose fault it is."""
        if weight is Weight.PRESENT:
            self.prove(watched, self.clock())
        elif weight is Weight.NOTHING and isinstance(problem, ServerError):
            watched.mute = True
        else:
            self.fail(watched, str(problem) or type(problem).__name__)

    def learn(self, watched: Watched, rows: Rows) -> None:
        """Take the probe's answer over."""
        now = self.clock()
        recovery, read_only, lag, receivers = rows[0]
        if receivers != "0":
            watched.receiver_seen = now
        role = Role(
            standby=recovery in ("t", "true", "1"),
            writable=read_only == "off",
            lag=None if lag is None else max(0, int(float(lag))),
            at=now,
        )
        watched.was_primary |= not role.standby and role.writable
        watched.role = role
        self.prove(watched, now)

    def fail(self, watched: Watched, text: str) -> None:
        """A probe failed; the first of a row starts the count."""
        watched.error = text
        watched.failed_at = self.clock()
        if watched.failing_since is None:
            watched.failing_since = watched.failed_at

    def forget(self, name: str) -> None:
        """The database is gone."""
        watched = self.watched.pop(name)
        if watched.probe is not None:
            watched.probe.cancel()


def role_unknown(role: Role | None) -> Answer:
    """Nobody comes to a server whose role is not known.

    Who came while it was known stays: that nobody could ask for three seconds is no
    reason to cut anybody, and a server that is away becomes hard by itself.
    """
    return Answer(Grade.HARD if role is None else Grade.SOFT, "role unknown")
