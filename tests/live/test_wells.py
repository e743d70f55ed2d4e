"""The four wells of wrong rows, each with what can be broken broken at every place.

Nearly every way in which a pooler ever gave one client another's rows was one of four:
counting owed answers, our own answers mixed with streamed ones, half a request that
outlives its client or its wait, a cancel against reuse. One conversation for each
is cut at every message boundary and inside messages, while the client is killed, the
server is killed, the wait ends, or a cancel strikes. After each, whoever gets that
server next must get its own answers, or the server must have been closed.
"""

import contextlib
import itertools
import queue
import threading
from collections.abc import Callable, Iterable

import pytest

from tests.replay.pooler import wait_for
from tests.support import conversations
from tests.support.checker import Worker, verified
from tests.support.conversations import Conversation
from tests.support.cutting import DOWN, UP, Cut, CuttingProxy
from tests.support.wire import FakeClient, error

pytestmark = pytest.mark.adversity

LANES = 4
INI = {
    "default_pool_size": 1,
    "server_login_retry": "0.05",
    "max_prepared_statements": 3,
    "max_client_conn": 2000,
}
KINDS = list(conversations.ALL)
# SQLSTATEs of the errors that the conversations cause themselves.
EXPECTED = {
    "counting": ["22012"],
    "synthetic": ["42703"],
    "halves": [],
    "copies": ["57014"],
}
FORBIDDEN = {"statement": ["halves"]}  # a transaction


class Lane:
    """A pool of one server, with a proxy before the server and a client that checks."""

    def __init__(self, one, number, proxy, is_session: bool) -> None:
        self.one, self.number, self.proxy = one, number, proxy
        self.is_session = is_session
        self.database = f"lane{number}"
        self.worker = Worker(f"next{number}", one.port, self.database, "u_trust", 1)
        self.next: FakeClient | None = None
        self.serial = itertools.count(1)

    def login(self) -> FakeClient:
        client = FakeClient(self.one.port, seconds=20)
        got = client.login(self.database, "u_trust")
        assert got[-1]["type"] == "ReadyForQuery", got
        return client

    def conversation(self, kind: str, pause: str = "") -> Conversation:
        tag = f"{kind}-{self.number}-{next(self.serial)}"
        return conversations.ALL[kind](tag, pause)

    def next_client_is_served(self, case: object, may_be_cut: bool = False) -> None:
        """Whoever comes next gets its own answers, of several kinds, and no error."""
        it = self.worker
        for ask in (
            it.ask_simply, it.ask_prepared, it.ask_in_pipeline, it.fail_on_purpose,
        ):  # fmt: skip
            for _ in range(5):
                self.next = self.next or self.login()
                try:
                    ask(self.next)
                    break
                except OSError as problem:
                    self.next.close()
                    self.next = None
                    assert may_be_cut, f"after {case}: {problem}"
            else:
                pytest.fail(f"after {case} nobody is served")
        if self.is_session:  # it would keep the server
            self.close()

    def close(self) -> None:
        if self.next is not None:
            self.next.close(terminate=True)
            self.next = None


@pytest.fixture
def lanes(pooler, postgres, free_port):
    """Make a pooler of some mode with several lanes; closed after the test."""
    with contextlib.ExitStack() as stack:

        def make(mode: str, **settings: object) -> list[Lane]:
            postgres.rows("drop table if exists ran, copied")
            postgres.rows("create table ran (tag text)")
            postgres.rows("create table copied (tag text)")
            postgres.rows("grant all on ran, copied to public")
            proxies = [CuttingProxy(free_port(), postgres.port) for _ in range(LANES)]
            for proxy in proxies:
                stack.callback(proxy.close)
            databases = {
                f"lane{n}": f"host=127.0.0.1 port={proxy.port} dbname=p0"
                for n, proxy in enumerate(proxies)
            }
            ini = {**INI, "pool_mode": mode, **settings}
            one = pooler(ini, databases=databases)
            is_session = mode == "session"
            made = [Lane(one, n, proxy, is_session) for n, proxy in enumerate(proxies)]
            for lane in made:
                stack.callback(lane.close)
            return made

        yield make


def in_parallel(
    lanes: list[Lane], cases: Iterable[tuple], play: Callable[..., None]
) -> None:
    """Play every case, on whichever lane is free; the first failure ends it."""
    todo: queue.SimpleQueue[tuple] = queue.SimpleQueue()
    for case in cases:
        todo.put(case)
    problems: list[BaseException] = []

    def run(lane: Lane) -> None:
        try:
            lane.next_client_is_served("nothing")
            while not problems:
                play(lane, *todo.get_nowait())
        except queue.Empty:
            pass
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=run, args=(lane,)) for lane in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]


def back_at_full_size(lanes: list[Lane], postgres) -> None:
    """Nothing has leaked: each pool has its server, idle, and PostgreSQL as many."""
    for lane in lanes:
        lane.next_client_is_served("everything")
    for lane in lanes:
        lane.one.wait_for_pool(
            lambda row: (
                (row["sv_idle"], row["sv_active"], row["cl_waiting"]) == (1, 0, 0)
            ),
            database=lane.database,
        )
    assert wait_for(lambda: len(postgres.backends()) == len(lanes), 10)


def kinds_for(mode: str) -> list[str]:
    return [kind for kind in KINDS if kind not in FORBIDDEN.get(mode, [])]


def places_of(kind: str, inside: int) -> list[int]:
    return list(conversations.ALL[kind]("x-0-000").places(inside))


def test_conversations_are_answered_as_by_postgresql(lanes, postgres):
    """Each is owed what it says, and a direct connection gets the same."""
    lane = lanes("transaction")[0]
    for kind in KINDS:
        answers = []
        for port, database in ((postgres.port, "p0"), (lane.one.port, lane.database)):
            it = conversations.ALL[kind]("same")
            with FakeClient(port) as client:
                client.login(database, "u_trust")
                client.send_bytes(it.raw)
                answers.append(client.until_ready(len(it.owed)))
            verified(it.tag, answers[-1], it.owed)
            errors = [dict(m["fields"])["C"] for m in answers[-1] if "fields" in m]
            assert errors == EXPECTED[kind]
        kinds = [[m["type"] for m in got] for got in answers]
        assert kinds[0] == kinds[1]


# The client is killed

ENDS = ("close", "reset", "terminate", "half")


def end_client(client: FakeClient, how: str) -> None:
    """Let the client go, in some manner."""
    if how == "terminate":
        client.close(terminate=True)
    elif how == "half":
        with contextlib.suppress(OSError):
            client.half_close()
        client.until_ready(99)
        client.close()
    elif how == "reset":
        client.reset()
    else:
        client.close()


def client_killed(lane: Lane, kind: str, at: int, how: str, patient: bool) -> None:
    """Send a part; perhaps wait for all answers that it owes; go."""
    it = lane.conversation(kind)
    client = lane.login()
    client.send_bytes(it.raw[:at])
    due = it.ready_at(at)
    if patient and due:
        verified(it.tag, client.until_ready(due), it.owed, all_asked=False)
    end_client(client, how)
    lane.next_client_is_served((kind, at, how))


def client_kills(mode: str, inside: int, hows: Iterable[str] | None) -> Iterable[tuple]:
    """Every place in turn with all of *hows*, or with one of the ENDS after another."""
    turn = itertools.cycle(ENDS)
    patience = itertools.cycle((False, True, True, False, True))
    for kind in kinds_for(mode):
        for at in places_of(kind, inside):
            for how in hows or (next(turn),):
                yield kind, at, how, next(patience)


@pytest.mark.regression(33)
def test_client_killed_at_every_message_and_inside(lanes, postgres):
    some = lanes("transaction")
    in_parallel(some, client_kills("transaction", 1, None), client_killed)
    back_at_full_size(some, postgres)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["session", "transaction", "statement"])
def test_client_killed_everywhere_in_every_manner(lanes, postgres, mode):
    some = lanes(mode)
    in_parallel(some, client_kills(mode, 12, ENDS), client_killed)
    back_at_full_size(some, postgres)


def client_stops_reading(lane: Lane, kind: str, at: int, how: str) -> None:
    """Send everything; read *at* bytes of the answers; go."""
    it = lane.conversation(kind)
    client = lane.login()
    client.send_bytes(it.raw)
    left = at
    while left and (data := client.sock.recv(left)):
        left -= len(data)
    end_client(client, how)
    lane.next_client_is_served((kind, "answers", at, how))


def answer_places(lane: Lane, kind: str, inside: int) -> list[int]:
    """The boundaries of the messages in what *kind* is answered, and places inside."""
    client = lane.login()
    it = lane.conversation(kind)
    client.send_bytes(it.raw)
    raw, ready = b"", 0
    answer = Conversation("")
    while ready < len(it.owed):
        raw += client.sock.recv(1 << 16)
        found, _ = conversations.f.split(raw)
        ready = sum(code == b"Z" for code, _ in found)
    answer.messages = [conversations.f.message(*one) for one in found]
    client.close(terminate=True)
    return list(answer.places(inside))


@pytest.mark.regression(33)
def test_client_killed_within_its_answers(lanes, postgres):
    some = lanes("transaction")
    turn = itertools.cycle(("close", "reset", "terminate"))
    cases = [
        (kind, at, next(turn))
        for kind in KINDS
        for at in answer_places(some[0], kind, 1)[::3]
    ]
    in_parallel(some, cases, client_stops_reading)
    back_at_full_size(some, postgres)


# The server is killed


def server_killed(lane: Lane, kind: str, direction: str, at: int, how: str) -> None:
    """The connection to the server is cut when *at* more bytes have passed."""
    lane.next_client_is_served("the last cut", may_be_cut=True)
    passage = lane.proxy.passages[-1]
    it = lane.conversation(kind)
    client = lane.login()
    passage.cut = Cut(direction, passage.passed[direction] + at, how)
    try:
        client.send_bytes(it.raw)
    except ConnectionError:
        pass  # it was thrown out before it had sent everything
    got = client.until_ready(len(it.owed))
    verified(it.tag, got, it.owed)
    fatal = [m for m in got if m["type"] == "ErrorResponse"
             and dict(m["fields"])["S"] == "FATAL"]  # fmt: skip
    assert len(fatal) <= 1, f"{kind}, {direction} {at}: told twice"
    client.close()
    lane.next_client_is_served((kind, direction, at, how), may_be_cut=True)


def server_kills(lane: Lane, mode: str, inside: int, step: int) -> list[tuple]:
    turn = itertools.cycle(("close", "reset", "half"))
    found = []
    for kind in kinds_for(mode):
        places = [(UP, at) for at in places_of(kind, inside)]
        places += [(DOWN, at) for at in answer_places(lane, kind, inside)]
        found += [(kind, way, at, next(turn)) for way, at in places[::step]]
    return found


def test_server_killed_at_messages_and_inside(lanes, postgres):
    some = lanes("transaction")
    in_parallel(some, server_kills(some[0], "transaction", 1, 5), server_killed)
    back_at_full_size(some, postgres)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["session", "transaction", "statement"])
def test_server_killed_everywhere(lanes, postgres, mode):
    some = lanes(mode)
    in_parallel(some, server_kills(some[0], mode, 5, 1), server_killed)
    back_at_full_size(some, postgres)


# The wait ends


class Holder:
    """A client that keeps the only server of a lane until told."""

    def __init__(self, lane: Lane) -> None:
        self.client = lane.login()
        assert error(self.client.ask("begin")) == {}

    def let_go(self) -> None:
        assert error(self.client.ask("commit")) == {}
        self.client.close(terminate=True)


def waits_that_end(lane: Lane, kind: str, places: list[int]) -> None:
    """All clients wait, are thrown out, and send the rest all the same."""
    holder = Holder(lane)
    waiting = []
    for at in places:
        it = lane.conversation(kind)
        client = lane.login()
        client.send_bytes(it.raw[:at])
        waiting.append((it, client, at))
    for it, client, at in waiting:
        if at < 5:  # nothing to wait for yet
            client.send_bytes(it.raw[at:])
        got = client.until_ready()
        told = [m["type"] for m in got]
        # Own answers may come (a Close is answered at once), but no ReadyForQuery.
        assert told[-2:] == ["ErrorResponse", "<connection closed>"], (kind, at, told)
        assert error(got)["M"] == "query_wait_timeout", (kind, at)
        assert "ReadyForQuery" not in told
        with contextlib.suppress(OSError):
            client.send_bytes(it.raw[at:])
        client.close()
    holder.let_go()
    lane.next_client_is_served((kind, "waits that ended"))


@pytest.mark.regression(34, 35)
def test_wait_times_out_within_a_request(lanes, postgres):
    """Nothing of it runs later, on whatever server, and nobody hears of it."""
    some = lanes("transaction", query_wait_timeout=1)
    cases = [(kind, places_of(kind, 1)) for kind in KINDS]
    in_parallel(some, cases, waits_that_end)
    assert postgres.rows("select tag from ran") == []
    back_at_full_size(some, postgres)


@pytest.mark.slow
def test_wait_times_out_anywhere_within_a_request(lanes, postgres):
    some = lanes("transaction", query_wait_timeout=5)
    cases = []
    for kind in KINDS:
        every = places_of(kind, 20)
        cases += [(kind, every[n : n + 60]) for n in range(0, len(every), 60)]
    in_parallel(some, cases, waits_that_end)
    assert postgres.rows("select tag from ran") == []


def served_after_a_wait(lane: Lane, kind: str, at: int, leaves: bool) -> None:
    """A part waits; the server comes; the rest follows, or the client has gone."""
    holder = Holder(lane)
    it = lane.conversation(kind)
    client = lane.login()
    client.send_bytes(it.raw[:at])
    if leaves:
        client.reset()
        holder.let_go()
    else:
        holder.let_go()
        client.send_bytes(it.raw[at:])
        verified(it.tag, client.until_ready(len(it.owed)), it.owed)
        client.close(terminate=True)
    lane.next_client_is_served((kind, at, "after a wait", leaves))


def test_wait_ends_within_a_request(lanes, postgres):
    some = lanes("transaction")
    turn = itertools.cycle((False, True, False))
    cases = [(k, at, next(turn)) for k in KINDS for at in places_of(k, 1)[::2]]
    in_parallel(some, cases, served_after_a_wait)
    seen = postgres.rows("select tag from ran group by tag having count(*) > 1")
    assert seen == [], "run twice"
    back_at_full_size(some, postgres)


# A cancel strikes


def ask_cancel(client: FakeClient, port: int) -> FakeClient:
    """Send a CancelRequest for *client*; its end is not awaited."""
    other = FakeClient(port)
    other.send({"type": "CancelRequest", "key_hex": client.key_hex})
    return other


def cancel_strikes(lane: Lane, kind: str, at: int, leaves: bool) -> None:
    """A cancel comes between two parts; the next client is never struck."""
    it = lane.conversation(kind, ", pg_sleep(0.004)")
    client = lane.login()
    client.send_bytes(it.raw[:at])
    cancel = ask_cancel(client, lane.one.port)
    if leaves:
        client.close(terminate=True)
    else:
        client.send_bytes(it.raw[at:])
        got = client.until_ready(len(it.owed))
        verified(it.tag, got, it.owed)
        told = [dict(m["fields"]) for m in got if m["type"] == "ErrorResponse"]
        # A Parse that was skipped leaves a name that does not exist (26000).
        fine = {"57014", "25P02", "26000", *EXPECTED[kind]}
        wrong = [fields for fields in told if fields["C"] not in fine]
        assert not wrong, (at, wrong)
        client.close(terminate=True)
    lane.next_client_is_served((kind, at, "cancel", leaves))
    cancel.next(20)
    cancel.close()


def cancel_cases(inside: int) -> list[tuple]:
    turn = itertools.cycle((False, False, True))
    return [(k, at, next(turn)) for k in KINDS for at in places_of(k, inside)]


def test_cancel_strikes_between_messages_and_inside(lanes, postgres):
    some = lanes("transaction")
    in_parallel(some, cancel_cases(1)[::2], cancel_strikes)
    back_at_full_size(some, postgres)


def cancel_is_late(lane: Lane, kind: str) -> None:
    """The cancel hangs on its way until the next client's query is running."""
    for _ in range(5):
        cut = Cut(UP, 1, "hold")
        lane.proxy.cuts = {len(lane.proxy.passages) + 1: cut}
        it = lane.conversation(kind, ", pg_sleep(0.2)")
        client = lane.login()
        client.send_bytes(it.raw)
        cancel = ask_cancel(client, lane.one.port)
        if cut.happened.wait(1):
            break
        cancel.close()  # all was over when it came
        client.close()
    else:
        pytest.fail("no cancel was sent")
    got = client.until_ready(len(it.owed))
    verified(it.tag, got, it.owed)
    assert [dict(m["fields"])["C"] for m in got if "fields" in m] == EXPECTED[kind]
    client.close(terminate=True)
    assert lane.next is not None
    lane.next.send_bytes(conversations.f.query("select 'next', pg_sleep(0.2)"))
    assert lane.next.next(0.1)["type"] == "<timeout>"  # it waits, or it runs
    cut.release()
    answer = lane.next.until_ready()
    assert verified("next", answer, [["next"]]) == (1, False)
    cancel.close()
    lane.next_client_is_served((kind, "a late cancel"))


def test_cancel_on_its_way_strikes_nobody_else(lanes, postgres):
    some = lanes("transaction")
    in_parallel(some, [(kind,) for kind in KINDS], cancel_is_late)
    back_at_full_size(some, postgres)


@pytest.mark.slow
def test_cancel_strikes_anywhere(lanes, postgres):
    some = lanes("transaction")
    in_parallel(some, cancel_cases(12) * 3, cancel_strikes)
    back_at_full_size(some, postgres)
