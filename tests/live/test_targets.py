"""Whose failure a failed server login is, and of which target.

`server_login_retry` and `server_connect_timeout` are so long here that whoever has to
wait for them is not served at all: nothing is measured in seconds.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.regressions.steps import a_few_rounds, clients, show, told
from tests.replay.pooler import wait_for
from tests.support.wire import FakeClient, FakeServer, ServerTalk, error, rows
from tests.unit.ops.dns_server import DnsServer

A, B, C = "127.0.0.1", "127.0.0.2", "127.0.0.3"
NAME = "db.example.test"
PATIENT = {
    "pool_mode": "transaction",
    "default_pool_size": 1,
    "server_login_retry": 1000,
    "server_connect_timeout": 1000,
    "query_wait_timeout": 60,
}
Script = Callable[[ServerTalk], None]


class Place(FakeServer):
    """A server at one address that answers each query with the address."""

    def __init__(self, address: str, port: int, script: Script | None = None) -> None:
        self.address = address
        super().__init__(port, script or self.say_where)

    def listen(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server((self.address, self.port))
            threading.Thread(
                target=self._accept, args=(self._listener,), daemon=True
            ).start()

    def say_where(self, talk: ServerTalk) -> None:
        """Log in and answer."""
        if talk.login():
            while message := talk.read():
                if message["type"] == "Query":
                    answer(talk, message["sql"], self.address)


def answer(talk: ServerTalk, sql: str, text: str) -> None:
    """One row, or a change of the transaction's state."""
    if sql in ("begin", "commit"):
        talk.send({"type": "CommandComplete", "tag": sql.upper()})
        talk.ready("T" if sql == "begin" else "I")
    else:
        talk.answer(text)


def silent(talk: ServerTalk) -> None:
    """Take the connection and never say anything."""
    while talk.read():
        pass


def refusing(code: str, text: str) -> Script:
    """Refuse every login."""

    def script(talk: ServerTalk) -> None:
        message = talk.read()
        if message is not None and message["type"] == "SSLRequest":
            talk.send_bytes(b"N")
            message = talk.read()
        if message is not None:
            fields = [["S", "FATAL"], ["V", "FATAL"], ["C", code], ["M", text]]
            talk.send({"type": "ErrorResponse", "fields": fields})

    return script


class Turns:
    """A script for each connection in turn; the last one for all that follow."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = scripts

    def __call__(self, talk: ServerTalk) -> None:
        at = min(talk.number, len(self.scripts)) - 1
        self.scripts[at](talk)


def serving(talk: ServerTalk) -> None:
    """Log in and answer."""
    if talk.login():
        while message := talk.read():
            if message["type"] == "Query":
                answer(talk, message["sql"], "served")


@pytest.fixture
def place(free_port: Callable[[], int]) -> Iterator[Callable[..., Place]]:
    """Make servers at addresses of the loopback, all on one port."""
    port = free_port()
    with ExitStack() as stack:

        def make(address: str, script: Script | None = None) -> Place:
            made = Place(address, port, script)
            stack.callback(made.close)
            return made

        make.port = port  # type: ignore[attr-defined]
        yield make


@pytest.fixture
def start(pooler: Any, place: Any) -> Callable[..., Any]:
    """A pooler with a database p0 at *host*."""

    def run(host: str, entry: str = "", more: str = "", **settings: Any) -> Any:
        return pooler(
            {**PATIENT, **settings},
            databases={"p0": f"host='{host}' port={place.port} {entry}"},
            more=more,
        )

    return run


def startup(one: Any, stack: ExitStack, database: str = "p0") -> FakeClient:
    """A client that waits for its welcome."""
    client = stack.enter_context(FakeClient(one.port, seconds=20))
    client.start([["database", database], ["user", "u_trust"]])
    return client


def seen_startup(server: Place, number: int = 1) -> bool:
    """Whether the pooler has asked for a login on that connection."""
    return wait_for(lambda: server.has_seen(number, "StartupMessage", 1), 10)


def plain(talk: ServerTalk) -> None:
    """Refuse TLS, then be silent."""
    if (talk.read() or {}).get("type") == "SSLRequest":
        talk.send_bytes(b"N")
    silent(talk)


def close_all(places: list[Place]) -> None:
    """End every connection there."""
    for server in places:
        for number in range(len(server.connections)):
            server.close_connection(number + 1)


# What we close ourselves is no failure

RENEWALS = ["RECONNECT", "RECONNECT p0", "RELOAD", "PAUSE and RESUME"]


def renew(one: Any, how: str, port: int) -> None:
    if how == "RELOAD":
        one.databases = {"p0": f"host={A} port={port} connect_query='select 1'"}
        one.write_configuration()
    for command in how.split(" and "):
        one.console(command)


@pytest.mark.parametrize("how", RENEWALS)
def test_renewal_during_a_login_makes_nobody_wait(
    start: Any, place: Any, how: str
) -> None:
    """Both waited for `server_login_retry`: our own close was noted as a failure."""
    server = place(A, Turns(plain, serving))
    one = start(A)
    with ExitStack() as stack:
        waiting = [startup(one, stack) for _ in range(2)]
        assert seen_startup(server)
        renew(one, how, place.port)
        for client in waiting:
            assert client.until_ready()[-1]["type"] == "ReadyForQuery"
            assert rows(client.ask("x")) == [["served"]]


@pytest.mark.parametrize("how", RENEWALS)
def test_renewal_during_a_login_refuses_nobody_who_is_in(
    start: Any, place: Any, how: str
) -> None:
    """FATAL `server login has been failing, cached error: connect string changed`."""
    server = place(A, Turns(serving, plain, serving))
    one = start(A)
    with clients(one, 2) as (first, second):
        assert rows(first.ask("x")) == [["served"]]
        server.close_connection(1)
        one.wait_for_pool(lambda row: row["sv_idle"] == 0)
        first.send({"type": "Query", "sql": "x"})
        assert seen_startup(server, 2)
        renew(one, how, place.port)
        assert rows(second.ask("x")) == [["served"]]
        assert rows(first.until_ready()) == [["served"]]
        assert not one.log_matches("has been failing")


def test_renewal_ends_the_pause_of_a_failure(start: Any, place: Any) -> None:
    """RECONNECT is how an administrator says that the server is there again."""
    server = place(A, serving)
    one = start(A)
    with clients(one, 2) as (first, second):
        assert rows(first.ask("x")) == [["served"]]
        server.stop_listening()
        server.close_connection(1)
        one.wait_for_pool(lambda row: row["sv_idle"] == 0)
        first.send({"type": "Query", "sql": "x"})
        one.wait_for_log("closing because: connect failed")
        assert "cached error: connect failed" in (told(second.ask("x")) or "")
        server.listen()
        one.console("RECONNECT")
        assert rows(first.until_ready()) == [["served"]]


def test_reload_to_another_host_leaves_a_silent_one_at_once(
    start: Any, place: Any
) -> None:
    """A failover: the old host accepts and is silent. It took 15 seconds."""
    old, new = place(B, plain), place(A)
    one = start(B)
    with ExitStack() as stack:
        client = startup(one, stack)
        assert seen_startup(old)
        one.databases = {"p0": f"host={A} port={place.port}"}
        one.write_configuration()
        one.console("RELOAD")
        assert client.until_ready()[-1]["type"] == "ReadyForQuery"
        assert rows(client.ask("x")) == [[A]]
        assert len(new.connections) == 1


# One dead target of several


@pytest.mark.parametrize("balance", ["round-robin", "disable"])
@pytest.mark.parametrize(
    ("dead", "hosts"),
    [
        (None, f"{B},{A}"),
        (None, f"{B},{C},{A}"),
        (plain, f"{B},{A}"),
        (plain, f"{B},{C},{A}"),
        (lambda talk: None, f"{B},{A}"),
        (refusing("57P03", "the database system is starting up"), f"{B},{A}"),
        (refusing("53300", "sorry, too many clients already"), f"{B},{A}"),
    ],
    ids=["refused", "two refused", "silent", "two silent", "closed", "57P03", "53300"],
)
def test_dead_target_of_a_list_keeps_nobody_waiting(
    start: Any, place: Any, balance: str, dead: Script | None, hosts: str
) -> None:
    """Each pool whose turn met it stood still for `server_login_retry`."""
    if dead is not None:
        place(B, dead)
        place(C, dead)
    good = place(A)
    one = start(hosts, f"load_balance_hosts={balance}", default_pool_size=2)
    with clients(one, 2) as (first, second):
        assert rows(first.ask("begin")) == []
        assert rows(second.ask("x")) == rows(first.ask("x")) == [[A]]
        first.ask("commit")
        # Nor is one that is in refused when all its servers go.
        close_all([good])
        one.wait_for_pool(lambda row: row["sv_idle"] == 0)
        assert rows(first.ask("x")) == [[A]]
        assert not one.log_matches("has been failing")


@pytest.mark.parametrize("balance", ["round-robin", "disable"])
def test_pause_begins_when_every_target_has_failed_once(
    start: Any, place: Any, balance: str
) -> None:
    places = [place(address, serving) for address in (A, B, C)]
    one = start(f"{A},{B},{C}", f"load_balance_hosts={balance}")
    with clients(one, 2) as (first, second):
        assert rows(first.ask("x")) == [["served"]]
        for server in places:
            server.script = lambda talk: None
        close_all(places)
        before = [len(server.connections) for server in places]
        one.wait_for_pool(lambda row: row["sv_idle"] == 0)
        first.send({"type": "Query", "sql": "x"})
        one.wait_for_log("closing because: server conn crashed", 4)
        text = told(second.ask("x"))
        assert text is not None
        assert text.startswith("server login has been failing, cached error: server")
        a_few_rounds(one)
        after = [len(server.connections) for server in places]
        assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1]


def test_dead_address_of_a_name_is_met_once_by_each_pool(
    pooler: Any, place: Any
) -> None:
    """Two pools on one name shared the turn: one of them met it twice."""
    dead, good = place(B, plain), place(A)
    with DnsServer() as dns:
        dns.hosts[NAME] = [B, A]
        entry = f"host={NAME} port={place.port}"
        one = pooler(
            {**PATIENT, "resolv_conf": "{dir}/resolv.conf"},
            databases={"p0": entry, "p1": entry},
            run=False,
        )
        path = one.directory / "resolv.conf"
        path.write_text(f"nameserver {dns.address}\noptions timeout:1 attempts:1\n")
        one.identity.own(one.directory)
        one.run()
        with clients(one, 1, "p0") as (first,), clients(one, 1, "p1") as (second,):
            for _ in range(4):
                assert rows(first.ask("x")) == rows(second.ask("x")) == [[A]]
                close_all([good])
                for name in ("p0", "p1"):
                    one.wait_for_pool(lambda row: row["sv_idle"] == 0, database=name)
        assert not one.log_matches("has been failing")
        assert len(dead.connections) == 2


# Silent logins


def test_silent_login_is_left_behind_in_a_pool_of_one(start: Any, place: Any) -> None:
    """Everybody waited for it until `server_connect_timeout`."""
    server = place(A, Turns(plain, serving))
    one = start(A)
    with clients(one, 1) as (client,):
        assert rows(client.ask("x")) == [["served"]]
        # It would have been one more than pool_size.
        one.wait_for_log("closing because: login was not needed")
        row = one.pool()
        assert (row["sv_login"], row["sv_idle"]) == (0, 1)
        assert len(server.connections) == 2


def test_silent_login_that_speaks_at_last_is_used(start: Any, place: Any) -> None:
    """A server that takes its time must be no reason to begin again and again."""
    speak = threading.Event()

    def slow(talk: ServerTalk) -> None:
        message = talk.read()
        if message is not None and message["type"] == "SSLRequest":
            talk.send_bytes(b"N")
        speak.wait(30)
        serving(talk)

    server = place(A, Turns(slow, plain))
    one = start(A)
    with ExitStack() as stack:
        client = startup(one, stack)
        assert seen_startup(server, 2)
        speak.set()
        assert client.until_ready()[-1]["type"] == "ReadyForQuery"
        assert rows(client.ask("x")) == [["served"]]
        one.wait_for_pool(lambda row: row["sv_login"] == 0)


def test_attempt_older_than_the_last_success_refuses_nobody(
    start: Any, place: Any
) -> None:
    """`parallel_logins = 2`, only the third connection hangs: all were refused."""
    server = place(A, Turns(serving, serving, plain, serving))
    one = start(
        A,
        default_pool_size=4,
        server_connect_timeout=2,
        more="[pybouncer]\nparallel_logins = 2\n",
    )
    with clients(one, 3) as three:
        for client in three:
            client.send({"type": "Query", "sql": "begin"})
        for client in three:
            assert client.until_ready()[-1]["status"] == "T"
        one.wait_for_log("closing because: connect timeout")
        for client in three:
            client.ask("commit")
        for number in (1, 2, 4):
            server.close_connection(number)
        one.wait_for_pool(lambda row: row["sv_idle"] == 0)
        for client in three:
            assert rows(client.ask("x")) == [["served"]]


def test_nobody_is_refused_while_a_login_is_under_way(start: Any, place: Any) -> None:
    """The pause was over, an attempt had begun, and who asked for it was refused."""
    server = place(A, serving)
    one = start(A, server_login_retry=0.1)
    with clients(one, 2) as (first, second):
        assert rows(first.ask("x")) == [["served"]]
        server.script = lambda talk: None
        server.close_connection(1)
        one.wait_for_pool(lambda row: row["sv_idle"] == 0)
        first.send({"type": "Query", "sql": "x"})
        one.wait_for_log("server conn crashed", 2)
        go_on = threading.Event()

        def slow(talk: ServerTalk) -> None:
            go_on.wait(30)
            serving(talk)

        server.script = slow
        one.wait_for_pool(lambda row: row["sv_login"] >= 1)
        second.send({"type": "Query", "sql": "y"})
        one.wait_for_pool(lambda row: row["cl_waiting"] == 2)
        go_on.set()
        assert rows(first.until_ready()) == rows(second.until_ready()) == [["served"]]


# Refused logins


def refusal_at_login(one: Any, database: str, user: str) -> dict[str, str]:
    """What a new client is told while it logs in; empty when it is let in."""
    with FakeClient(one.port, seconds=20) as client:
        return error(client.login(database, user, one.users.get(user, "")))


def test_database_made_after_it_was_asked_for_is_there(
    pooler: Any, postgres: Any
) -> None:
    """Who asked before blocked it for `server_login_retry`: every restore of Odoo."""
    one = pooler(PATIENT, databases={"*": "{pg}"})
    try:
        for _ in range(2):
            assert refusal_at_login(one, "made_later", "u_trust")["C"] == "3D000"
        postgres.rows("create database made_later")
        with clients(one, 1, "made_later") as (client,):
            assert rows(client.ask("select 1")) == [["1"]]
    finally:
        postgres.rows("drop database if exists made_later with (force)")


def test_role_that_may_log_in_again_may_do_so_at_once(
    pooler: Any, postgres: Any
) -> None:
    postgres.rows("create role shut_out nologin")
    one = pooler(PATIENT, users={"shut_out": "", "u_trust": "", "admin": "adminpass"})
    try:
        assert refusal_at_login(one, "p0", "shut_out")["C"] == "28000"
        with clients(one, 1) as (other,):
            assert rows(other.ask("select 1")) == [["1"]]
        postgres.rows("alter role shut_out login")
        with clients(one, 1, user="shut_out") as (client,):
            assert rows(client.ask("select 1")) == [["1"]]
    finally:
        postgres.rows("drop role shut_out")


@pytest.mark.parametrize(
    "case", ["while servers serve", "for min_pool_size", "nobody is there"]
)
def test_refused_login_is_not_repeated_in_a_loop(
    start: Any, place: Any, case: str
) -> None:
    """PostgreSQL would be asked a thousand times a second."""
    refuse = refusing("28P01", "password authentication failed")
    if case == "while servers serve":
        server = place(A, Turns(serving, refuse))
        one = start(A, default_pool_size=2)
        with clients(one, 2) as (first, second):
            first.ask("begin")
            second.send({"type": "Query", "sql": "x"})
            one.wait_for_log("server login failed")
            a_few_rounds(one)
            assert len(server.connections) == 2
            first.ask("commit")
            assert rows(second.until_ready()) == [["served"]]
        return
    server = place(A, refuse)
    entry = "user=u_trust min_pool_size=1" if case == "for min_pool_size" else ""
    one = start(A, entry)
    if not entry:
        assert refusal_at_login(one, "p0", "u_trust")["C"] == "28P01"
    one.wait_for_log("server login failed")
    a_few_rounds(one)
    assert len(server.connections) == 1


def test_refused_login_of_one_tells_him_what_postgresql_said(
    start: Any, place: Any
) -> None:
    """Later ones were told `server login has been failing, cached error`, 08P01."""
    server = place(A, Turns(serving, refusing("42501", "permission denied")))
    one = start(A)
    with clients(one, 2) as both:
        assert rows(both[0].ask("x")) == [["served"]]
        server.close_connection(1)
        one.wait_for_pool(lambda row: row["sv_idle"] == 0)
        for client in both:
            told_him = error(client.ask("x"))
            assert (told_him["C"], told_him["M"]) == ("42501", "permission denied")
        # What was let in before is forgotten with its last server.
        assert refusal_at_login(one, "p0", "u_trust")["C"] == "42501"


# A cached yes does not outlive what it was about


@pytest.mark.parametrize("auth_type", ["trust", "scram-sha-256"])
@pytest.mark.parametrize("how", ["with (force)", "behind pg_terminate_backend"])
def test_dropped_database_lets_nobody_in(
    pooler: Any, postgres: Any, auth_type: str, how: str
) -> None:
    """New clients were let in until their first query, for as long as an hour."""
    one = pooler(
        {**PATIENT, "auth_type": auth_type},
        databases={"*": "{pg}"},
        users={"u_trust": "secret", "admin": "adminpass"},
    )
    postgres.rows("create database short_lived")
    for _ in range(3):  # from the second on by the fast way in
        with clients(one, 1, "short_lived") as (client,):
            assert rows(client.ask("select 1")) == [["1"]]
    if how == "with (force)":
        postgres.rows("drop database short_lived with (force)")
    else:
        postgres.rows(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = 'short_lived'"
        )
        one.wait_for_pool(lambda row: row["sv_idle"] == 0, database="short_lived")
        postgres.rows("drop database short_lived")
    one.wait_for_pool(lambda row: row["sv_idle"] == 0, database="short_lived")
    refused = refusal_at_login(one, "short_lived", "u_trust")
    assert refused["C"] == "3D000"
    assert refused["M"] == 'database "short_lived" does not exist'
    postgres.rows("create database short_lived")
    try:
        with clients(one, 1, "short_lived") as (client,):
            assert rows(client.ask("select 1")) == [["1"]]
    finally:
        postgres.rows("drop database short_lived with (force)")


# Changed lists


@pytest.mark.parametrize(
    ("hosts", "entry", "gone"),
    [
        (f"{A},{B},{C}", "", None),
        (f"{B},{A}", "", None),
        (f"{A},{B}", "load_balance_hosts=disable", None),
        (f"{A},{C}", "", B),
        (B, "load_balance_hosts=disable", A),
    ],
    ids=["one more", "reordered", "balance", "one replaced", "one less"],
)
def test_changed_host_list_renews_only_what_is_gone(
    start: Any, place: Any, hosts: str, entry: str, gone: str | None
) -> None:
    """Every connection was renewed, to hosts that had not changed, too."""
    places = {address: place(address) for address in (A, B, C)}
    one = start(f"{A},{B}", default_pool_size=2)
    with clients(one, 2) as two:
        for client in two:
            client.ask("begin")
        assert sorted(rows(client.ask("x"))[0][0] for client in two) == [A, B]
        one.databases = {"p0": f"host='{hosts}' port={place.port} {entry}"}
        one.write_configuration()
        one.console("RELOAD")
        flagged = [
            row["addr"] for row in one.console("SHOW SERVERS") if row["close_needed"]
        ]
        assert flagged == ([gone] if gone else [])
        for client in two:
            client.ask("commit")
        if gone:
            one.wait_for_log(f"S-.*@{gone}.*closing because: ")
        kept = {A, B} - {gone}
        assert {row["addr"] for row in one.console("SHOW SERVERS")} == kept
        assert all(len(places[address].connections) == 1 for address in kept)


def test_entry_with_other_hosts_only_is_renewed(start: Any, place: Any) -> None:
    place(A)
    place(B)
    one = start(A)
    with clients(one, 1) as (client,):
        assert rows(client.ask("x")) == [[A]]
        one.databases = {"p0": f"host={B} port={place.port}"}
        one.write_configuration()
        one.console("RELOAD")
        assert rows(client.ask("x")) == [[B]]
        assert show(one, "SERVERS", database="p0")["addr"] == B
