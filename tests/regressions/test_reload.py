"""Configuration, reload, DNS and users: scenarios 105 to 115."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.regressions.steps import backend, clients, show, told
from tests.replay.pooler import wait_for
from tests.support.checker import Crew
from tests.support.wire import FakeClient, FakeServer, query, rows
from tests.unit.ops.dns_server import DnsServer

TRANSACTION = {"pool_mode": "transaction", "query_wait_notify": 0}


# A broken file changes nothing


@pytest.fixture(scope="module")
def steady(shared_pooler: Any) -> Any:
    """A pooler whose files the tests break and mend."""
    return shared_pooler({**TRANSACTION, "default_pool_size": 3})


def configuration(one: Any) -> Any:
    """What is in force, as the console tells it."""
    return [
        {name: value for name, value in row.items() if "current" not in name}
        for what in ("CONFIG", "DATABASES", "USERS")
        for row in one.console(f"SHOW {what}")
    ]


BROKEN = {
    "no value": "[pgbouncer]\ndefault_pool_size = 9\nnonsense\n",
    "unknown setting": "[pgbouncer]\ndefault_pool_size = 9\nno_such_thing = 1\n",
    "bad value": "[pgbouncer]\ndefault_pool_size = many\nmax_client_conn = 7\n",
    "bad word": "[pgbouncer]\nmax_client_conn = 7\npool_mode = sometimes\n",
    "unknown section": "[databases]\nnew = host=127.0.0.1\n[nothing]\na = b\n",
    "half a header": "[databases\nnew = host=127.0.0.1\n",
    "bad connection string": "[databases]\nnew = host='127.0.0.1\n",
    "unknown key": "[databases]\nnew = host=127.0.0.1 colour=red\n",
    "reserved name": "[databases]\nnew = host=127.0.0.1\npgbouncer = host=::1\n",
    "no such include": "[databases]\nnew = host=127.0.0.1\n%include missing.ini\n",
    "bad user option": "[users]\nu_trust = pool_mode=never\n",
    "bad peer": "[peers]\nx = host=127.0.0.1\n",
}


@pytest.mark.regression(105)
@pytest.mark.parametrize("kind", BROKEN)
def test_reload_of_a_broken_file_changes_nothing(steady: Any, kind: str) -> None:
    one = steady
    before = configuration(one)
    ini = one.directory / "pgbouncer.ini"
    good = ini.read_text()
    with clients(one, 1) as (client,):
        ini.write_text(good.replace("pool_size = 3", "pool_size = 8") + BROKEN[kind])
        try:
            with pytest.raises(psycopg.Error, match="RELOAD failed"):
                one.console("RELOAD")
            assert configuration(one) == before
        finally:
            ini.write_text(good)
        one.console("RELOAD")
        assert configuration(one) == before
        assert rows(client.ask("select 'mine'")) == [["mine"]]


RELOADS = [
    pytest.param(30, id="short"),
    pytest.param(1000, id="long", marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
]


@pytest.mark.regression(106)
@pytest.mark.parametrize("count", RELOADS)
def test_reload_under_load_leaves_those_who_did_not_change(
    pooler: Any, count: int
) -> None:
    one = pooler({**TRANSACTION, "max_client_conn": 500, "log_connections": 0})
    crew = Crew(one.port, 3, 106)
    # Only for themselves: each stays on one connection to the end.
    with clients(one, 2) as steady, crew:
        memory = 0
        for number in range(count):
            if number == count // 3:
                memory = one.memory()
            # Added, changed, removed, renamed, in turn.
            one.databases = {
                "p0": "{pg} dbname=p0",
                f"name{number % 3}": "{pg} dbname=p1",
                "changing": f"{{pg}} dbname=p{number % 2} pool_size={1 + number % 5}",
            }
            one.users = {**one.users, f"user{number % 4}": f"secret{number}"}
            one.users.pop(f"user{(number + 2) % 4}", None)
            one.more = f"[users]\nu_trust = pool_size={3 + number % 3}\n"
            one.write_configuration()
            with contextlib.suppress(OSError), FakeClient(one.port) as passing:
                passing.login(f"name{number % 3}", "u_trust")
                passing.send_bytes(query("select pg_sleep(0.01)"))
                one.console("RELOAD")
                with clients(one, 1, "changing") as (client,):
                    client.ask("begin")
                    assert rows(client.ask("select 'mine'")) == [["mine"]]
            for client in steady:
                assert rows(client.ask(f"select {number}")) == [[str(number)]]
        assert one.memory() - memory < 3 << 20
    assert not crew.wrong
    assert crew.answered


@pytest.mark.regression(107)
def test_reload_with_unchanged_tls_keeps_servers(pooler: Any, postgres: Any) -> None:
    if postgres.rows("show ssl")[0]["ssl"] != "on":
        pytest.skip("the server has no TLS")
    tls = {
        "server_tls_sslmode": "verify-ca",
        "server_tls_ca_file": "{certs}/ca.crt",
        "client_tls_sslmode": "allow",
        "client_tls_key_file": "{certs}/bouncer.key",
        "client_tls_cert_file": "{certs}/bouncer.crt",
    }
    one = pooler({**TRANSACTION, **tls})
    with clients(one, 1) as (client,):
        before = backend(client)
        assert show(one, "SERVERS", database="p0")["tls"].startswith("TLS")
        for _ in range(3):
            one.console("RELOAD")
            assert backend(client) == before
        assert show(one, "SERVERS", database="p0")["close_needed"] == 0


# Users and who may ask about them


@pytest.fixture(scope="module")
def asking(shared_pooler: Any) -> Any:
    """A pooler that asks the server for most users, in all sorts of ways."""
    return shared_pooler(
        {
            **TRANSACTION,
            "auth_type": "scram-sha-256",
            "auth_user": "authu",
            "server_login_retry": "0.2",
            "query_wait_timeout": 3,
        },
        databases={
            "p0": "{pg} dbname=p0",
            "forced": "{pg} dbname=p0 user=authu",
            "elsewhere": "{pg} dbname=p1 auth_dbname=p0",
            "unlisted": "{pg} dbname=p0 auth_user=bouncer2",
            "nobody": "{pg} dbname=p0 auth_user=no_such_role",
            "missing": "{pg} dbname=p0 auth_dbname=nowhere",
            "console": "{pg} dbname=p0 auth_dbname=pgbouncer",
        },
        users={"authu": "own secret", "u_trust": "", "admin": "adminpass"},
    )


@pytest.fixture(scope="module")
def scram_user(postgres: Any) -> Iterator[str]:
    """A user whom only the server knows, and one who may ask without a password."""
    postgres.rows("create role asked_for login password 'asked'")
    postgres.rows("create role bouncer2 superuser login")
    yield "asked_for"
    postgres.rows("drop role asked_for")
    postgres.rows("drop role bouncer2")


def who(one: Any, database: str, user: str, password: str) -> str:
    """Log in and ask who we are at the server, or what is wrong."""
    with FakeClient(one.port) as client:
        got = client.login(database, user, password)
        if (text := told(got)) is not None:
            return text
        found: str = rows(client.ask("select current_user"))[0][0]
        return found


@pytest.mark.regression(108)
@pytest.mark.regression(109)
@pytest.mark.parametrize(
    ("database", "user", "password", "answer"),
    [
        ("p0", "authu", "own secret", "authu"),
        ("p0", "asked_for", "asked", "asked_for"),
        ("forced", "asked_for", "asked", "authu"),
        ("forced", "authu", "own secret", "authu"),
        ("elsewhere", "asked_for", "asked", "asked_for"),
        ("elsewhere", "authu", "own secret", "authu"),
        ("unlisted", "asked_for", "asked", "asked_for"),
        ("nobody", "asked_for", "asked", 'role "no_such_role" does not exist'),
        ("missing", "asked_for", "asked", "bouncer config error"),
        ("console", "asked_for", "asked", "bouncer config error"),
        ("p0", "asked_for", "wrong", "SASL authentication failed"),
        ("no_such_database", "authu", "own secret", "no such database: "),
    ],
)
def test_auth_user_in_every_place(
    asking: Any, scram_user: str, database: str, user: str, password: str, answer: str
) -> None:
    for _ in range(2):
        assert answer in who(asking, database, user, password)
    assert asking.is_running()


@pytest.mark.regression(109)
@pytest.mark.parametrize(
    ("more", "line"),
    [
        (
            "auth_dbname = pgbouncer",
            'ERROR cannot use the reserved "pgbouncer" database as an auth_dbname',
        ),
        (
            "[databases]\npgbouncer = host=127.0.0.1",
            'ERROR database name "pgbouncer" is reserved',
        ),
    ],
)
def test_console_is_no_database_and_says_so(pooler: Any, more: str, line: str) -> None:
    one = pooler(run=False, may_end=True, more=more)
    one.start("pgbouncer.ini")
    assert one.wait_for_exit(10) == 1
    assert any(line in words for words in (*one.lines(), one.stderr.read_text()))


@pytest.mark.regression(110)
def test_replication_together_with_auth_query_and_reload(
    asking: Any, postgres: Any
) -> None:
    one = asking
    postgres.rows("create role streamer login replication password 'stream'")
    try:
        with FakeClient(one.port) as stream, FakeClient(one.port) as other:
            got = stream.login("p0", "streamer", "stream", replication="database")
            assert got[-1]["type"] == "ReadyForQuery", got
            assert rows(stream.ask("IDENTIFY_SYSTEM"))
            other.login("p0", "streamer", "stream")
            assert rows(other.ask("select 'mine'")) == [["mine"]]
            # Nothing has changed for it: it stays.
            one.console("RELOAD")
            assert rows(stream.ask("IDENTIFY_SYSTEM"))
            one.console("RECONNECT p0")
            assert told(stream.until_ready()) == "database configuration changed"
            assert rows(other.ask("select 'mine'")) == [["mine"]]
        with FakeClient(one.port) as wrong:
            got = wrong.login("p0", "asked_nothing", "x", replication="database")
            assert told(got) == "no such user"
    finally:
        wait_for(lambda: not show(one, "SERVERS", user="streamer"), 1)
        postgres.rows("drop role streamer")


@pytest.mark.regression(111)
def test_scram_secrets_serve_at_the_server_again_and_again(
    pooler: Any, postgres: Any
) -> None:
    found = postgres.rows("select rolpassword from pg_authid where rolname='u_scram'")
    one = pooler(
        {**TRANSACTION, "auth_type": "scram-sha-256", "server_login_retry": "0.1"},
        users={
            "u_scram": found[0]["rolpassword"],
            "u_scram2": "scrampass2",
            "u_md5": "md5pass",
            "u_plain": "plainpass",
            "admin": "adminpass",
        },
    )
    secrets = [
        ("u_scram", "scrampass"),
        ("u_scram2", "scrampass2"),
        ("u_md5", "md5pass"),
        ("u_plain", "plainpass"),
    ]

    def everybody() -> None:
        for user, password in secrets:
            assert who(one, "p0", user, password) == user

    everybody()
    everybody()  # a second client, on the same server
    one.console("RECONNECT")
    everybody()  # a third, for which the server connects again
    one.reload(scram_iterations=10000)
    one.console("RECONNECT")
    everybody()
    assert who(one, "p0", "u_scram", "wrong") == "SASL authentication failed"
    one.console("RECONNECT")
    everybody()  # a failed attempt spoils nothing
    assert not one.log_matches("server login failed")


@pytest.mark.regression(115)
def test_removed_users_and_changed_passwords_count_after_reload(pooler: Any) -> None:
    users = {"u_trust": "first", "postgres": "other", "admin": "adminpass"}
    one = pooler({**TRANSACTION, "auth_type": "md5"}, users=users)
    with clients(one, 1) as (kept,), clients(one, 1, user="postgres") as (gone,):
        one.users = {"u_trust": "second", "admin": "adminpass"}
        one.write_configuration()
        assert who(one, "p0", "u_trust", "first") == "u_trust"  # not before
        one.console("RELOAD")
        refused = "password authentication failed"
        assert who(one, "p0", "u_trust", "first") == refused
        assert who(one, "p0", "postgres", "other") == refused
        assert who(one, "p0", "u_trust", "second") == "u_trust"
        # Who is in stays in.
        assert rows(kept.ask("select 'mine'")) == [["mine"]]
        assert rows(gone.ask("select 'mine'")) == [["mine"]]


# Hosts and names


MANY = ",".join(["127.0.0.1"] * 64)


@pytest.mark.regression(112)
@pytest.mark.parametrize(
    "hosts",
    [
        "127.0.0.1, 127.0.0.1",
        "127.0.0.1,::1",
        "127.0.0.1,no-such-host.invalid",
        "127.0.0.1,127.0.0.9",
        "no-such-host.invalid,127.0.0.9,::1,127.0.0.1",
        MANY,
    ],
    ids=lambda hosts: hosts[:30],
)
@pytest.mark.parametrize("balance", ["round-robin", "disable"])
def test_host_list_reaches_the_host_that_serves(
    pooler: Any, postgres: Any, hosts: str, balance: str
) -> None:
    one = pooler(
        {**TRANSACTION, "server_login_retry": "0.05", "unix_socket_dir": "{dir}"},
        databases={
            "p0": f"host='{hosts}' port={postgres.port} dbname=p0 "
            f"load_balance_hosts={balance}"
        },
    )
    for _ in range(3):
        with clients(one, 1) as (client,):
            assert wait_for(lambda c=client: rows(c.ask("select 1")) == [["1"]], 5)
        one.console("RECONNECT")
    assert not one.log_matches("@unix:.*connect")


class ServerElsewhere(FakeServer):
    """A server at another address of the loopback, on the same port."""

    def listen(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.2", self.port))
            accept = self._accept
            threading.Thread(target=accept, args=(self._listener,), daemon=True).start()


@pytest.mark.regression(113)
def test_connections_follow_the_answers_of_dns(pooler: Any, free_port: Any) -> None:
    port = free_port()
    with DnsServer() as dns:
        here, there = FakeServer(port), ServerElsewhere(port)
        dns.hosts["db.test"] = ["127.0.0.1"]
        dns.ttl = 2**31 - 1
        one = pooler(
            {
                **TRANSACTION,
                "resolv_conf": "{dir}/resolv.conf",
                "dns_max_ttl": "0.2",
                "dns_nxdomain_ttl": "0.2",
                "server_lifetime": "0",  # connects for each transaction
                "server_login_retry": "0.1",
            },
            run=False,
            databases={"p0": f"host=db.test port={port}"},
        )
        path = one.directory / "resolv.conf"
        path.write_text(f"nameserver {dns.address}\noptions timeout:1 attempts:1\n")
        path.chmod(0o644)
        one.run()
        try:
            with clients(one, 1) as (client,):
                assert rows(client.ask("a")) == [["a"]]
                assert here.connections and not there.connections

                def is_there() -> bool:
                    assert rows(client.ask("b")) == [["b"]]
                    return bool(there.connections)

                dns.hosts["db.test"] = ["127.0.0.2"]
                assert wait_for(is_there, 5)
                asked = dns.count("db.test")
                # The resolver fails, then says nothing: the last answer stays.
                dns.failures["db.test"] = 2
                for _ in range(10):
                    assert rows(client.ask("c")) == [["c"]]
                dns.failures.clear()
                dns.silent.add("db.test")
                for _ in range(10):
                    assert rows(client.ask("d")) == [["d"]]
                assert dns.count("db.test") - asked < 15
                for row in one.console("SHOW DNS_HOSTS"):
                    assert row["ttl"] >= 0
                assert show(one, "LISTS", list="dns_queries")["items"] >= 0
        finally:
            here.close()
            there.close()


@pytest.mark.regression(114)
def test_include_overrides_and_what_stood_before_survives(pooler: Any) -> None:
    one = pooler(
        {"default_pool_size": 3, "min_pool_size": 1, "max_db_connections": 50},
        run=False,
        more="%include more.ini\nreserve_pool_size = 7\n[databases]\nb = {pg}\n"
        "%include more_databases.ini\nd = {pg}",
    )
    (one.directory / "more.ini").write_text(
        "default_pool_size = 4\nreserve_pool_size = 6\nmax_client_conn = 70\n"
    )
    (one.directory / "more_databases.ini").write_text(
        "c = host=127.0.0.1\nb = host=127.0.0.2 dbname=other\n"
    )
    one.identity.own(one.directory)
    one.run()
    shown = {row["key"]: row["value"] for row in one.console("SHOW CONFIG")}
    wanted = {
        "default_pool_size": "4",
        "min_pool_size": "1",
        "max_db_connections": "50",
        "reserve_pool_size": "7",
        "max_client_conn": "70",
    }
    assert {name: shown[name] for name in wanted} == wanted
    found = {row["name"]: row for row in one.console("SHOW DATABASES")}
    assert set(found) == {"p0", "p1", "b", "c", "d", "pgbouncer"}
    assert (found["b"]["host"], found["b"]["database"]) == ("127.0.0.2", "other")
