"""The second client with the same startup packet: the same answers, by a shorter way.

The first login with a packet is a talk; what came of it is kept (relay/door.pyx), and
md5 and SCRAM are then checked in compiled code (relay/proof.pyx). Nobody must be able
to tell, whatever has changed in between and whatever is sent.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import ROOT
from tests.replay.passwords import scram_secret
from tests.replay.pooler import wait_for
from tests.support.wire import FakeClient, error, query, rows

PASSWORD = "known-pass"
SCRAM = scram_secret(PASSWORD, b"salt of sixteen.", 4096)
METHODS = {
    "trust": ("trust", ""),
    "plain": ("plain", PASSWORD),
    "md5": ("md5", PASSWORD),
    "scram": ("scram-sha-256", SCRAM),
    "scram of a password": ("scram-sha-256", PASSWORD),
}
CHALLENGED = [way for way in METHODS if way != "trust"]
FORCED = "{pg} user=u_trust"


def told(messages: list[dict[str, Any]]) -> list[Any]:
    """What a client sees, without what is random."""
    return [
        {k: v for k, v in m.items() if not k.endswith(("_hex", "data"))}
        for m in messages
    ]


def attempt(one: Any, password: str = PASSWORD, **more: str) -> list[Any]:
    """Log in, ask and leave; what was seen."""
    database, user = more.pop("database", "p0"), more.pop("user", "known")
    with FakeClient(one.port) as client:
        seen = client.login(database, user, password, **more)
        if seen[-1]["type"] == "ReadyForQuery":
            assert rows(client.ask("select 42")) == [["42"]]
    return told(seen)


@pytest.fixture
def start(pooler: Callable[..., Any]) -> Callable[..., Any]:
    """Start a pooler where ``known`` logs in one of the ways of METHODS."""

    def begin(way: str, **settings: Any) -> Any:
        method, secret = METHODS[way]
        return pooler(
            {"auth_type": method, "pool_mode": "transaction", **settings},
            databases={"p0": FORCED, "p1": FORCED},
            users={"known": secret, "admin": "adminpass", "u_trust": ""},
        )

    return begin


@pytest.mark.parametrize("way", METHODS)
def test_all_logins_see_the_same(start: Any, way: str) -> None:
    one = start(way)
    first = attempt(one)
    assert first[-1]["type"] == "ReadyForQuery"
    for _ in range(3):
        assert attempt(one) == first
    one.wait_for_log("login attempt: db=p0 user=known", 4)


@pytest.fixture
def without_libcrypto(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lets poolers that are started from here on find no libcrypto."""
    # Where the pooler's user can read it.
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        (place / "sitecustomize.py").write_text(
            "from bouncer.wire import digest\ndigest.load(None)\n"
        )
        place.chmod(0o755)
        monkeypatch.setenv("PYTHONPATH", f"{place}{os.pathsep}{ROOT}")
        yield


@pytest.mark.parametrize("way", CHALLENGED)
def test_logins_without_the_interpreters_libcrypto_see_the_same(
    start: Any, way: str, without_libcrypto: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's own SHA-256 does the work then; SHOW PYBOUNCER says so."""
    one = start(way)
    shown = {row["key"]: row["value"] for row in one.console("SHOW PYBOUNCER")}
    assert shown["sha256"] == "Python"
    monkeypatch.undo()
    usual = start(way)
    expected, wrong = attempt(usual), attempt(usual, "wrong")
    for _ in range(3):
        assert attempt(one) == expected
        assert attempt(one, "wrong") == wrong


@pytest.mark.parametrize("way", CHALLENGED)
def test_wrong_passwords_are_refused_alike_before_and_after(
    start: Any, way: str
) -> None:
    one = start(way)
    wrong = attempt(one, "wrong")
    assert error(wrong)["C"] in ("08P01", "28P01")
    attempt(one)
    attempt(one)
    for password in ("wrong", PASSWORD + "x", "x"):
        assert attempt(one, password) == wrong
    assert attempt(one)[-1]["type"] == "ReadyForQuery"


@pytest.mark.parametrize("way", ["md5", "scram"])
def test_nobody_looks_like_a_wrong_password_each_time(start: Any, way: str) -> None:
    one = start(way)
    attempt(one)
    wrong = attempt(one, "wrong")
    for password in ("wrong", "", PASSWORD):
        assert attempt(one, password, user="nobody") == wrong
    one.wait_for_log("no such user: nobody", 3)
    one.wait_for_log("login attempt: db=p0 user=nobody", 3)
    assert [r for r in one.console("SHOW CLIENTS") if r["database"] == "p0"] == []


@pytest.mark.parametrize("way", ["md5", "scram"])
def test_who_was_nobody_gets_in_once_the_file_names_him(start: Any, way: str) -> None:
    one = start(way)
    for _ in range(2):
        assert error(attempt(one, user="late"))
    one.users["late"] = METHODS[way][1]
    one.reload()
    assert attempt(one, user="late")[-1]["type"] == "ReadyForQuery"


@pytest.mark.parametrize("way", METHODS)
@pytest.mark.parametrize("pieces", ["bytes", "at once"])
def test_a_login_may_come_in_pieces_or_with_its_query(
    start: Any, way: str, pieces: str
) -> None:
    one = start(way)
    expected = attempt(one)
    with FakeClient(one.port) as client:
        send = client.sock.sendall
        if pieces == "bytes":
            client.send_bytes = lambda raw: [send(bytes([b])) for b in raw]  # type: ignore[method-assign]
        elif way == "trust":
            client.send_bytes = lambda raw: send(raw + query("select 43"))  # type: ignore[method-assign]
        assert told(client.login("p0", "known", PASSWORD)) == expected
        if pieces == "at once" and way == "trust":
            assert rows(client.until_ready()) == [["43"]]
        client.send_bytes = send  # type: ignore[method-assign]
        assert rows(client.ask("select 44")) == [["44"]]


GOOD = {"password": PASSWORD}
UNUSUAL: dict[str, list[dict[str, Any]]] = {
    "channel binding": [{"scram_client_first": {**GOOD, "gs2": "p=tls-unique,,"}}],
    "the other gs2 header": [{"scram_client_first": {**GOOD, "gs2": "y,,"}}],
    "authorization identity": [{"scram_client_first": {**GOOD, "gs2": "n,a=x,"}}],
    "a name": [{"scram_client_first": {**GOOD, "user": "somebody"}}],
    "an extension": [{"text": "n,,m=x,n=,r=abcdefgh"}],
    "more attributes": [{"text": "n,,n=,r=abcdefgh,x=y"}],
    "no nonce": [{"text": "n,,n="}],
    "a nonce of nothing": [{"text": "n,,n=,r="}],
    "an unprintable nonce": [{"text": "n,,n=,r=ab\x01c"}],
    "nothing": [{"text": ""}],
    "a corrupt proof": [
        {"scram_client_first": GOOD},
        {"scram_client_final": {"corrupt": True}},
    ],
    "another nonce": [{"scram_client_first": GOOD}, {"text": "c=biws,r=x,p=AAAA"}],
    "no proof": [{"scram_client_first": GOOD}, {"text": "c=biws,r=x"}],
    "an empty final": [{"scram_client_first": GOOD}, {"text": ""}],
}


def exchange(one: Any, steps: list[dict[str, Any]]) -> list[Any]:
    """Go through SCRAM with these messages."""
    with FakeClient(one.port) as client:
        client.start([["database", "p0"], ["user", "known"]])
        seen = [client.next(10)]
        kind = "SASLInitialResponse"
        for step in steps:
            data = step.get("text", step)
            message = {"type": kind, "data": data}
            if kind == "SASLInitialResponse":
                message["mechanism"] = "SCRAM-SHA-256"
            client.send(message)
            seen.append(client.next(10))
            kind = "SASLResponse"
        if seen[-1]["type"] == "ErrorResponse":
            seen.append(client.next(10))
        return told(seen)


@pytest.mark.parametrize("case", UNUSUAL)
def test_unusual_scram_ends_as_it_does_in_a_talk(start: Any, case: str) -> None:
    one = start("scram")
    steps = UNUSUAL[case]

    def reasons() -> list[str]:
        if len(talk) > len(steps) + 1:  # it ended with an error
            one.wait_for_log("pooler error")
        return [
            line.partition("known@")[2].partition(" ")[2]
            for line in one.log_matches("ERROR")
        ]

    talk = exchange(one, steps)
    by_talk = reasons()
    attempt(one)
    one.log_file.write_text("")
    assert exchange(one, steps) == talk
    assert reasons() == by_talk


@pytest.mark.parametrize("way", CHALLENGED)
@pytest.mark.parametrize("what", ["startup", "query", "terminate", "ssl", "end"])
def test_other_messages_in_place_of_a_password(start: Any, way: str, what: str) -> None:
    one = start(way)

    def try_it() -> list[Any]:
        with FakeClient(one.port) as client:
            client.start([["database", "p0"], ["user", "known"]])
            seen = [client.next(10)]
            if what == "startup":
                client.start([["database", "p0"], ["user", "known"]])
            elif what == "query":
                client.send_bytes(query("select 1"))
            elif what == "terminate":
                client.send_bytes(b"X\0\0\0\4")
            elif what == "ssl":
                client.send_bytes(b"\0\0\0\x08\x04\xd2\x16\x2f")
                assert client.sock.recv(1) == b"N"
                return told(seen)
            else:
                client.half_close()
            seen.append(client.next(10))
            if seen[-1]["type"] == "ErrorResponse":
                seen.append(client.next(10))
            return told(seen)

    talk = try_it()
    attempt(one)
    assert try_it() == talk


# What changes between two logins


def refused(one: Any, **more: str) -> str:
    found = error(attempt(one, **more))
    assert found, "was let in"
    return found["M"]


@pytest.mark.parametrize("way", ["trust", "md5", "scram"])
def test_a_disabled_database_lets_nobody_in(start: Any, way: str) -> None:
    one = start(way)
    attempt(one)
    attempt(one)
    one.console("DISABLE p0")
    assert refused(one) == 'database "p0" is disabled'
    assert attempt(one, database="p1")[-1]["type"] == "ReadyForQuery"
    one.console("ENABLE p0")
    assert attempt(one)[-1]["type"] == "ReadyForQuery"


@pytest.mark.parametrize("way", CHALLENGED)
def test_a_changed_secret_counts_from_the_reload_on(start: Any, way: str) -> None:
    one = start(way)
    attempt(one)
    attempt(one)
    fresh = scram_secret("fresh", b"another salt 16.", 4096)
    one.users["known"] = fresh if way == "scram" else "fresh"
    one.reload()
    assert "authentication failed" in refused(one)
    assert attempt(one, "fresh")[-1]["type"] == "ReadyForQuery"


@pytest.mark.parametrize("way", METHODS)
def test_who_left_the_file_is_refused(start: Any, way: str) -> None:
    one = start(way)
    attempt(one)
    attempt(one)
    del one.users["known"]
    one.reload()
    assert "authentication failed" in refused(one)


def test_a_removed_database_is_unknown(start: Any) -> None:
    one = start("trust")
    attempt(one, database="p1")
    attempt(one, database="p1")
    del one.databases["p1"]
    one.reload()
    assert refused(one, database="p1") == "no such database: p1"


def test_hba_lines_count_for_each_address_and_from_the_reload_on(pooler: Any) -> None:
    one = pooler(
        {"auth_type": "hba", "auth_hba_file": "{dir}/hba"},
        databases={"p0": FORCED},
        users={"known": "", "admin": "", "u_trust": ""},
        run=False,
    )
    (one.directory / "hba").write_text("host all all 127.0.0.1/32 trust\n")
    one.run()
    attempt(one)
    attempt(one)
    (one.directory / "hba").write_text(
        "host pgbouncer admin 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 reject\n"
    )
    one.reload()
    assert refused(one) == "login rejected"


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("max_client_conn", "no more connections allowed (max_client_conn)"),
        (
            "max_db_client_connections",
            "client connections exceeded (max_db_client_connections)",
        ),
        (
            "max_user_client_connections",
            "client connections exceeded (max_user_client_connections)",
        ),
    ],
)
@pytest.mark.parametrize("way", ["trust", "md5", "scram"])
def test_limits_count_known_clients(
    start: Any, way: str, setting: str, text: str
) -> None:
    one = start(way, **{setting: 2})
    attempt(one)
    with FakeClient(one.port) as first, FakeClient(one.port) as second:
        for client in (first, second):
            seen = client.login("p0", "known", PASSWORD)
            assert seen[-1]["type"] == "ReadyForQuery"
        assert refused(one) == text
        second.close()
        assert wait_for(lambda: not error(attempt(one)), 10)
    assert wait_for(
        lambda: (
            [r["current_client_connections"] for r in one.console("SHOW DATABASES")
             if r["name"] == "p0"] == [0]
        ),
        10,
    )  # fmt: skip


def test_a_cancel_key_of_a_known_login_cancels(start: Any) -> None:
    one = start("scram")
    attempt(one)
    with one.connect("p0", "known", password=PASSWORD) as connection:
        with ThreadPoolExecutor(1) as other:
            waiting = other.submit(connection.execute, "select pg_sleep(30)")
            one.wait_for_pool(lambda row: row["sv_active"] == 1, user="u_trust")
            connection.cancel_safe()
            with pytest.raises(psycopg.errors.QueryCanceled):
                waiting.result()


def test_startup_parameters_of_known_packets_are_each_ones_own(start: Any) -> None:
    one = start("trust")
    for _ in range(2):
        for zone in ("UTC", "Europe/Rome"):
            with FakeClient(one.port) as client:
                seen = client.login("p0", "known", TimeZone=zone)
                given = {
                    m["name"]: m["value"]
                    for m in seen
                    if m["type"] == "ParameterStatus"
                }
                assert given["TimeZone"] == zone
                assert rows(client.ask("show timezone")) == [[zone]]


@pytest.mark.parametrize("version", ["3.0", "3.2"])
def test_protocol_negotiation_comes_each_time(start: Any, version: str) -> None:
    one = start("trust")
    for _ in range(3):
        with FakeClient(one.port) as client:
            params = [["database", "p0"], ["user", "known"], ["_pq_.foo", "bar"]]
            client.start(params, version)
            seen = client.until_ready()
            assert seen[0]["type"] == "NegotiateProtocolVersion"
            assert seen[-1]["type"] == "ReadyForQuery"


def test_suspend_waits_for_a_password_that_was_asked_for(start: Any) -> None:
    one = start("md5", suspend_timeout=5)
    attempt(one)
    with FakeClient(one.port) as client:
        client.start([["database", "p0"], ["user", "known"]])
        assert client.next(10)["type"] == "AuthenticationMD5Password"
        with FakeClient(one.port) as console:
            console.login("pgbouncer", "admin", "adminpass")
            console.send_bytes(query("SUSPEND"))
            client.send(
                {
                    "type": "PasswordMessage",
                    "password": {"md5": {"user": "known", "password": PASSWORD}},
                }
            )
            assert client.until_ready()[-1]["type"] == "ReadyForQuery"
            console.until_ready()
            console.ask("RESUME")
        assert rows(client.ask("select 45")) == [["45"]]
