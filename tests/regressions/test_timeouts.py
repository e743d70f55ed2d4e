"""Timeouts, each on its own clock, and servers that vanish: scenarios 99 to 104."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.regressions.steps import a_few_rounds, backend, clients, show, told
from tests.replay.pooler import wait_for
from tests.support.wire import (
    FakeClient,
    FakeServer,
    ServerTalk,
    error,
    obliging,
    query,
    rows,
)

TIMEOUTS = (
    "query_timeout",
    "idle_transaction_timeout",
    "transaction_timeout",
    "client_idle_timeout",
    "query_wait_timeout",
)


@pytest.fixture(scope="module")
def one(shared_pooler: Any) -> Any:
    """The pooler of this file; every test sets its own timeouts."""
    return shared_pooler(
        {"pool_mode": "transaction", "default_pool_size": 1, "query_wait_notify": 0}
    )


@pytest.fixture
def timeouts(one: Any) -> Iterator[Callable[..., Any]]:
    """Set timeouts in seconds; all others are off, and all at the end."""

    def set_them(**given: float) -> Any:
        with one.connect("pgbouncer", "admin") as console:
            console.prepare_threshold = None
            for name in TIMEOUTS:
                console.execute(f"SET {name} = '{given.get(name, 0)}'".encode())
        return one

    yield set_them
    set_them()


# What a client does that meets its timeout. Each returns what it is told.


def runs_long(client: FakeClient) -> Any:
    return client.ask("select pg_sleep(5)")


def idles_in_transaction(client: FakeClient) -> Any:
    client.ask("begin")
    return client.until_ready()


def keeps_a_transaction_busy(client: FakeClient) -> Any:
    client.ask("begin")
    while not error(got := client.ask("select pg_sleep(0.1)")):
        pass
    return got


def idles(client: FakeClient) -> Any:
    client.ask("select 1")
    return client.until_ready()


def waits_in_the_queue(client: FakeClient) -> Any:
    return client.ask("select 1")


def leaves_a_pipeline_open(client: FakeClient) -> Any:
    client.send({"type": "Parse", "sql": "select 1"}, {"type": "Flush"})
    return client.until_ready()


CASES = [
    (runs_long, {"query_timeout": 0.3}, "query timeout"),
    (leaves_a_pipeline_open, {"query_timeout": 0.3}, "query timeout"),
    (
        idles_in_transaction,
        {"idle_transaction_timeout": 0.3},
        "idle transaction timeout",
    ),
    (keeps_a_transaction_busy, {"transaction_timeout": 0.5}, "transaction timeout"),
    (runs_long, {"transaction_timeout": 0.3}, "transaction timeout"),
    (idles, {"client_idle_timeout": 0.3}, "client_idle_timeout"),
    # In pairs: the one that is meant fires, not the shorter one.
    (
        keeps_a_transaction_busy,
        {"transaction_timeout": 0.9, "query_timeout": 0.5},
        "transaction timeout",
    ),
    (
        keeps_a_transaction_busy,
        {"transaction_timeout": 0.9, "idle_transaction_timeout": 0.5},
        "transaction timeout",
    ),
    (
        idles_in_transaction,
        {"idle_transaction_timeout": 0.6, "query_timeout": 0.1},
        "idle transaction timeout",
    ),
    (
        idles_in_transaction,
        {"idle_transaction_timeout": 0.6, "client_idle_timeout": 0.1},
        "idle transaction timeout",
    ),
    (
        runs_long,
        {"query_timeout": 0.6, "idle_transaction_timeout": 0.1},
        "query timeout",
    ),
    (runs_long, {"query_timeout": 0.6, "client_idle_timeout": 0.1}, "query timeout"),
]


@pytest.mark.regression(100)
@pytest.mark.parametrize(
    ("action", "settings", "text"),
    CASES,
    ids=lambda value: getattr(value, "__name__", None),
)
def test_timeout_fires_on_its_own_clock(
    timeouts: Callable[..., Any], action: Any, settings: dict[str, float], text: str
) -> None:
    one = timeouts(**settings)
    with clients(one, 1) as (client,):
        began = time.monotonic()
        fields = error(action(client))
        took = time.monotonic() - began
    assert (fields["S"], fields["C"], fields["M"]) == ("FATAL", "08P01", text)
    assert took >= settings[text.replace(" ", "_")]


@pytest.mark.regression(100)
@pytest.mark.parametrize("name", ["query_wait_timeout", "query_timeout"])
def test_timeout_of_those_who_wait_spares_who_has_a_server(
    timeouts: Callable[..., Any], name: str
) -> None:
    one = timeouts(**{name: 0.4})
    with clients(one, 2) as (holder, waiter):
        holder.ask("begin")
        began = time.monotonic()
        fields = error(waiter.ask("select 1"))
        assert (fields["S"], fields["C"], fields["M"]) == ("FATAL", "08P01", name)
        assert time.monotonic() - began >= 0.4
        assert rows(holder.ask("select 'mine'")) == [["mine"]]


@pytest.mark.regression(100)
def test_copy_that_stalls_is_a_query(timeouts: Callable[..., Any]) -> None:
    one = timeouts(query_timeout=0.5, idle_transaction_timeout=0.1)
    with clients(one, 1) as (client,):
        client.ask("begin; create temp table t (a text) on commit drop")
        client.send_bytes(query("copy t from stdin"))
        assert client.next(5)["type"] == "CopyInResponse"
        began = time.monotonic()
        assert told(client.until_ready()) == "query timeout"
        assert time.monotonic() - began >= 0.4


@pytest.mark.regression(99)
def test_query_timeout_does_not_fire_between_queries(
    timeouts: Callable[..., Any],
) -> None:
    """1.25.2 counts from the last message of a client that is idle in transaction."""
    one = timeouts(query_timeout=0.2)
    with clients(one, 1) as (client,):
        client.ask("begin")
        a_few_rounds(one, 3)
        assert rows(client.ask("select 'mine'")) == [["mine"]]
        client.ask("select nothing")
        a_few_rounds(one, 3)
        client.ask("rollback")
        assert rows(client.ask("select 'mine'")) == [["mine"]]
        assert told(client.ask("select pg_sleep(3)")) == "query timeout"


# What waits, and how long


def silent(talk: ServerTalk) -> None:
    """A server that accepts and never says anything."""
    while talk.read():
        pass


AUTH_QUERY = {
    "auth_type": "md5",
    "auth_user": "authu",
    "pool_mode": "transaction",
    "query_wait_notify": 0,
}


@pytest.mark.regression(101)
@pytest.mark.parametrize("user", ["u_trust", "somebody"])
def test_maxwait_counts_from_the_moment_a_client_is_queued(
    pooler: Any, free_port: Any, user: str
) -> None:
    """In 1.25.2 only queries count: who logs in during an outage is not seen."""
    port = free_port()
    server = FakeServer(port, silent)
    one = pooler(
        {**AUTH_QUERY, "server_lifetime": 100},
        server_port=port,
        users={"u_trust": "md5" + "0" * 32, "authu": "", "admin": "adminpass"},
        databases={"p0": "{pg} dbname=p0"},
        more="[users]\nu_trust = pool_mode=transaction",
    )
    pool_user = user
    if user == "u_trust":
        one.reload(auth_type="trust")
    else:
        pool_user = "authu"  # who asks who somebody is
    try:
        with FakeClient(one.port) as client:
            client.start([["database", "p0"], ["user", user]])
            first = one.wait_for_pool(
                lambda row: row["maxwait"] or row["maxwait_us"], user=pool_user
            )
            one.wait_for_pool(lambda row: row["maxwait"] >= 1, user=pool_user)
            shown = show(one, "CLIENTS", database="p0")
            assert shown["state"] == "waiting"
            assert shown["wait"] >= 1 > first["maxwait"]
    finally:
        server.close()


def refusing(code: str, text: str, times: int, after: int) -> Any:
    """A script: connections after the first *after* are refused *times* times."""
    left = [times]

    def script(talk: ServerTalk) -> None:
        if talk.number <= after or left[0] <= 0:
            obliging(talk)
            return
        left[0] -= 1
        if (message := talk.read()) and message["type"] == "SSLRequest":
            talk.send_bytes(b"N")
            talk.read()
        fields = [["S", "FATAL"], ["C", code], ["M", text]]
        talk.send({"type": "ErrorResponse", "fields": fields})

    return script


RETRY = {"pool_mode": "transaction", "server_login_retry": "0.3"}


@pytest.mark.regression(102)
@pytest.mark.parametrize(
    ("code", "text", "after"),
    [
        ("57P03", "the database system is starting up", 0),
        ("53300", "sorry, too many clients already", 1),
    ],
)
def test_temporary_refusal_does_not_end_those_who_wait(
    pooler: Any, free_port: Any, code: str, text: str, after: int
) -> None:
    port = free_port()
    server = FakeServer(port, refusing(code, text, 2, after))
    one = pooler(RETRY, server_port=port)
    try:
        if after:
            with clients(one, 2) as (holder, waiter):
                holder.send_bytes(query("first"))
                holder.until_ready()
                holder.send({"type": "Parse", "sql": "x"}, {"type": "Flush"})
                one.wait_for_pool(lambda row: row["sv_active"] == 1)
                assert rows(waiter.ask("mine")) == [["mine"]]
        else:
            with clients(one, 1) as (waiter,):
                assert rows(waiter.ask("mine")) == [["mine"]]
        assert len(one.log_matches(f"server login failed: FATAL {text}")) == 2
    finally:
        server.close()


@pytest.mark.regression(102)
def test_backend_that_stays_away_fails_fast_with_its_own_message(
    pooler: Any, free_port: Any
) -> None:
    port = free_port()
    text = "sorry, too many clients already"
    server = FakeServer(port, refusing("53300", text, 1000, 1))
    one = pooler({**RETRY, "server_login_retry": 60}, server_port=port)
    try:
        with clients(one, 3) as (first, second, third):
            assert rows(first.ask("mine")) == [["mine"]]
            server.close_connection(1)
            one.wait_for_pool(lambda row: row["sv_idle"] == 0)
            fields = error(second.ask("x"))
            assert (fields["C"], fields["M"]) == ("53300", text)
            # Who comes later is told at once, in the same words.
            began = time.monotonic()
            shown = f"server login has been failing, cached error: {text}"
            assert told(third.ask("x")) == f"{shown} (server_login_retry)"
            assert time.monotonic() - began < 30  # the next login is in a minute
    finally:
        server.close()


@pytest.mark.regression(103)
def test_idle_servers_that_died_are_not_handed_out(pooler: Any, postgres: Any) -> None:
    one = pooler({"pool_mode": "transaction", "default_pool_size": 4})
    with clients(one, 4) as four:
        for client in four:
            client.ask("begin")
        pids = {backend(client) for client in four}
        for client in four:
            client.ask("commit")
        for pid in pids:
            postgres.rows(f"select pg_terminate_backend({pid})")
        one.wait_for_pool(lambda row: row["sv_idle"] == 0)
        for client in four:
            assert backend(client) not in pids


@pytest.mark.regression(103)
def test_server_that_died_unheard_is_found_by_the_check(
    pooler: Any, free_port: Any
) -> None:
    """Nothing came when it went: only the question before its next use tells."""

    def forgetful(talk: ServerTalk) -> None:
        if not talk.login():
            return
        answered = 0
        while message := talk.read():
            if message["type"] != "Query":
                continue
            answered += 1
            if talk.number == 1 and answered == 2:
                return
            talk.answer(message["sql"])

    port = free_port()
    server = FakeServer(port, forgetful)
    ini = {
        "pool_mode": "transaction",
        "server_check_delay": 0,
        "server_check_query": "alive?",
        "server_login_retry": "0.1",
    }
    one = pooler(ini, server_port=port)
    try:
        with clients(one, 1) as (client,):
            for tag in ("a", "b", "c"):
                assert rows(client.ask(tag)) == [[tag]]
        assert len(server.connections) == 2
        one.wait_for_log("closing because: server conn crashed")
    finally:
        server.close()


# The system's clock

CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <sys/time.h>
#include <time.h>

static long offset(void) {
    long seconds = 0;
    FILE *file = fopen("offset", "r");
    if (file) { if (fscanf(file, "%ld", &seconds) != 1) seconds = 0; fclose(file); }
    return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)
        now->tv_sec += offset();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (result) *result = exact.tv_sec;
    return exact.tv_sec;
}
"""


@pytest.fixture
def movable_clock(lab: Any, skip_or_fail: Any) -> Any:
    """A library that moves the wall clock by what a file says."""
    skip_or_fail("cc", "apt-get install gcc libc6-dev")
    directory = lab.directory()
    source, library = directory / "clock.c", directory / "clock.so"
    source.write_text(CLOCK)
    words = ["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"]
    subprocess.run(words, check=True, capture_output=True)
    library.chmod(0o755)
    yield library
    shutil.rmtree(directory)


@pytest.mark.regression(104)
@pytest.mark.parametrize("hours", [1, -1])
def test_clock_that_jumps_fires_no_timeout(
    pooler: Any, movable_clock: Path, hours: int
) -> None:
    settings = dict.fromkeys(TIMEOUTS, 60) | {
        "client_login_timeout": 60,
        "server_idle_timeout": 60,
        "server_connect_timeout": 60,
    }
    one = pooler(
        {**settings, "pool_mode": "transaction", "default_pool_size": 1}, run=False
    )
    one.command = ["env", f"LD_PRELOAD={movable_clock}", *one.command]
    one.run()
    with clients(one, 2) as (holder, waiter):
        holder.ask("begin")
        waiter.send_bytes(query("select 'mine'"))
        one.wait_for_pool(lambda row: row["cl_waiting"] == 1)
        (one.directory / "offset").write_text(str(3600 * hours))
        (one.directory / "offset").chmod(0o644)
        a_few_rounds(one, 3)
        row = one.pool()
        assert row["maxwait"] < 10
        assert show(one, "CLIENTS", state="waiting")["wait"] < 10
        # The clock did move, or this shows nothing.
        lines = one.text().splitlines()
        assert lines[0][11:13] != lines[-1][11:13]
        holder.ask("commit")
        assert rows(waiter.until_ready()) == [["mine"]]
        assert rows(holder.ask("select 'mine'")) == [["mine"]]
        (one.directory / "offset").write_text("0")
        a_few_rounds(one, 3)
        assert one.pool()["sv_idle"] == 1
    ages = one.log_matches("age=")
    assert wait_for(lambda: len(one.log_matches("age=")) >= 2, 5), ages
    assert all(int(a.rpartition("age=")[2][:-2]) < 20 for a in one.log_matches("age="))
