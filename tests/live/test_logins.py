"""Logins of libpq through the pooler to a real PostgreSQL, methods and TLS together."""

import shutil
import socket
import ssl
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.ground import Ground, Postgres

SSL_REQUEST = struct.pack("!II", 8, 80877103)


def open_as(pooler: Any, user: str, password: str, **more: Any) -> psycopg.Connection:
    return psycopg.connect(
        psycopg.conninfo.make_conninfo(
            host="127.0.0.1",
            port=pooler.port,
            dbname=more.pop("dbname", "p0"),
            user=user,
            password=password,
            **more,
        ),
        autocommit=True,
    )


def value(connection: psycopg.Connection, sql: str) -> Any:
    row = connection.execute(sql).fetchone()
    return row[0] if row else None


def stored(postgres: Postgres, user: str) -> str:
    """The secret that PostgreSQL has of a role."""
    [row] = postgres.rows(
        f"select rolpassword as p from pg_authid where rolname='{user}'"
    )
    secret: str = row["p"]
    return secret


# Method, user, what auth_file has: the password or what PostgreSQL stores.
WAYS = [
    ("plain", "u_plain", "password"),
    ("plain", "u_scram2", "password"),
    ("plain", "u_md5", "stored"),
    ("md5", "u_md5", "password"),
    ("md5", "u_md5", "stored"),
    ("md5", "u_scram2", "stored"),
    ("scram-sha-256", "u_scram2", "password"),
    ("scram-sha-256", "u_scram2", "stored"),
]
PASSWORDS = {"u_plain": "plainpass", "u_md5": "md5pass", "u_scram2": "scrampass2"}


@pytest.mark.parametrize(("method", "user", "kind"), WAYS)
def test_login_at_both_ends(
    pooler: Callable[..., Any], postgres: Postgres, method: str, user: str, kind: str
) -> None:
    password = PASSWORDS[user]
    secret = password if kind == "password" else stored(postgres, user)
    one = pooler({"auth_type": method}, users={user: secret})
    for _ in range(2):
        with open_as(one, user, password) as connection:
            assert value(connection, "select current_user") == user
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        open_as(one, user, password + "x")


@pytest.mark.regression(14)
def test_wrong_password_is_refused_beside_a_warm_pool(
    pooler: Callable[..., Any], postgres: Postgres
) -> None:
    """CVE-2025-46801 of Pgpool: a cached credential was compared with itself."""
    secret = stored(postgres, "u_scram2")
    one = pooler(
        {"auth_type": "scram-sha-256", "pool_mode": "transaction"},
        users={"u_scram2": secret, "u_md5": "md5pass"},
    )
    with open_as(one, "u_scram2", "scrampass2") as connection:
        assert value(connection, "select 1") == 1
        for user, guess in (("u_scram2", "md5pass"), ("u_md5", "scrampass2")):
            with pytest.raises(psycopg.OperationalError, match="SASL"):
                open_as(one, user, guess)
    with open_as(one, "u_md5", "md5pass") as other:
        assert value(other, "select current_user") == "u_md5"


def test_failed_attempt_does_not_lock_a_pass_through_user_out(
    pooler: Callable[..., Any], postgres: Postgres
) -> None:
    secret = stored(postgres, "u_scram2")
    one = pooler({"auth_type": "scram-sha-256"}, users={"u_scram2": secret})
    with pytest.raises(psycopg.OperationalError):
        open_as(one, "u_scram2", "guess")
    with open_as(one, "u_scram2", "scrampass2") as connection:
        assert value(connection, "select current_user") == "u_scram2"


def test_rotated_password_needs_no_restart(
    pooler: Callable[..., Any], postgres: Postgres
) -> None:
    """Keys learnt from the old secret must not be used with the new one."""
    postgres.rows("create role rotated login password 'old'")
    postgres.rows("create role rotated2 login password 'x'")
    try:
        one = pooler(
            {"auth_type": "scram-sha-256"},
            users={"rotated": stored(postgres, "rotated"), "admin": "adminpass"},
        )
        with open_as(one, "rotated", "old") as connection:
            assert value(connection, "select 1") == 1
        postgres.rows("alter role rotated password 'new'")
        one.users["rotated"] = "new"
        one.write_configuration()
        with open_as(one, "admin", "adminpass", dbname="pgbouncer") as console:
            console.execute("RELOAD")
            console.execute("RECONNECT p0")
        with open_as(one, "rotated", "new") as connection:
            assert value(connection, "select current_user") == "rotated"
    finally:
        postgres.rows("drop role rotated")
        postgres.rows("drop role rotated2")


# auth_query


@pytest.mark.regression(7)
@pytest.mark.parametrize(
    ("until", "fine"),
    [
        ("'2001-01-01'", False),
        ("'infinity'", True),
        ("null", True),
        ("'2100-01-01 00:00:00+14'", True),
    ],
)
def test_cve_2025_2291_expired_password(
    pooler: Callable[..., Any], postgres: Postgres, until: str, fine: bool
) -> None:
    postgres.rows("create role ageing login password 'secret'")
    try:
        if until != "null":
            postgres.rows(f"alter role ageing valid until {until}")
        one = pooler({"auth_type": "md5", "auth_user": "postgres"}, users={})
        for guess in ("md5", ""):
            with pytest.raises(psycopg.OperationalError):
                open_as(one, "ageing", guess)
        if fine:
            with open_as(one, "ageing", "secret") as connection:
                assert value(connection, "select current_user") == "ageing"
        else:
            with pytest.raises(psycopg.OperationalError, match="authentication failed"):
                open_as(one, "ageing", "secret")
    finally:
        postgres.rows("drop role ageing")


@pytest.mark.regression(8)
def test_cve_2025_12819_lookup_sees_nothing_of_the_client(
    pooler: Callable[..., Any], postgres: Postgres
) -> None:
    """An attacker's search_path must not reach the connection of auth_query."""
    postgres.rows("create table seen (path text, app text)")
    postgres.rows(
        "create function lookup(u text) returns table (n text, s text) "
        "language plpgsql security definer as $$ begin "
        "insert into public.seen values (current_setting('search_path'), "
        "current_setting('application_name')); "
        "return query select rolname::text, rolpassword::text from pg_authid "
        "where rolname = u; end $$"
    )
    try:
        one = pooler(
            {
                "auth_type": "md5",
                "auth_user": "postgres",
                "auth_query": "select * from public.lookup($1)",
                "track_extra_parameters": "IntervalStyle, search_path",
                "pool_mode": "transaction",
            },
            users={},
        )
        for options in (
            {"application_name": "evil"},
            {"options": "-c search_path=evil"},
        ):
            for _ in range(2):
                with open_as(one, "u_md5", "md5pass", **options) as connection:
                    assert value(connection, "select 1") == 1
        seen = postgres.rows("select distinct path, app from seen")
        assert seen == [{"path": '"$user", public', "app": ""}]
    finally:
        postgres.rows("drop function lookup")
        postgres.rows("drop table seen")


# TLS


@pytest.fixture
def tls_settings(lab: Ground) -> dict[str, str]:
    if not lab.certificates:
        pytest.skip("needs openssl (apt-get install openssl)")
    return {
        "client_tls_sslmode": "require",
        "client_tls_key_file": "{certs}/bouncer.key",
        "client_tls_cert_file": "{certs}/bouncer.crt",
        "client_tls_ca_file": "{certs}/ca.crt",
        "server_tls_sslmode": "verify-full",
        "server_tls_ca_file": "{certs}/ca.crt",
    }


def test_tls_at_both_ends(
    pooler: Callable[..., Any], lab: Ground, tls_settings: dict[str, str]
) -> None:
    one = pooler({"auth_type": "scram-sha-256", **tls_settings})
    ca = Path(str(lab.certificates)) / "ca.crt"
    with open_as(
        one, "u_scram2", "scrampass2", sslmode="verify-full", sslrootcert=str(ca)
    ) as connection:
        assert value(
            connection, "select ssl from pg_stat_ssl where pid=pg_backend_pid()"
        )
        [row] = [r for r in one.console("SHOW CLIENTS") if r["database"] == "p0"]
        assert row["tls"].startswith("TLSv1.")
    with pytest.raises(psycopg.OperationalError, match="SSL required"):
        open_as(one, "u_scram2", "scrampass2", sslmode="disable")


def test_certificate_of_another_authority_is_not_logged_in_to(
    pooler: Callable[..., Any], tls_settings: dict[str, str]
) -> None:
    settings = {**tls_settings, "server_tls_ca_file": "{certs}/rogueca.crt"}
    one = pooler({**settings, "query_wait_timeout": "2", "server_login_retry": "1"})
    with pytest.raises(psycopg.OperationalError, match="query_wait_timeout"):
        open_as(one, "postgres", "", sslmode="require")
    assert any("certificate verif" in line for line in one.text().splitlines())


def shown_certificate(port: int) -> bytes:
    """The certificate that the pooler shows to a client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), 5) as plain:
        plain.sendall(SSL_REQUEST)
        assert plain.recv(1) == b"S"
        with context.wrap_socket(plain) as wrapped:
            found = wrapped.getpeercert(True)
    assert found is not None
    return found


@pytest.mark.regression(107)
def test_new_certificate_counts_after_reload_and_a_broken_one_does_not(
    pooler: Callable[..., Any], lab: Ground, tls_settings: dict[str, str]
) -> None:
    one = pooler(tls_settings, run=False)
    for kind in ("crt", "key"):
        shutil.copy(f"{lab.certificates}/bouncer.{kind}", one.directory / f"own.{kind}")
    own = {
        "client_tls_cert_file": "{dir}/own.crt",
        "client_tls_key_file": "{dir}/own.key",
        "client_tls_sslmode": "allow",
    }
    one.ini = {**one.ini, **own}
    one.write_configuration()
    one.run()
    with open_as(one, "postgres", "", sslmode="require") as living:
        first = shown_certificate(one.port)
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout",
             "own.key", "-out", "own.crt", "-subj", "/CN=localhost", "-days", "2"],
            cwd=one.directory, check=True, capture_output=True,
        )  # fmt: skip
        one.write_configuration()
        one.console("RELOAD")
        second = shown_certificate(one.port)
        assert second != first
        (one.directory / "own.crt").write_text("broken")
        one.write_configuration()
        with pytest.raises(psycopg.Error):
            one.console("RELOAD")
        assert shown_certificate(one.port) == second
        assert value(living, "select 1") == 1


def test_clear_text_behind_ssl_request_is_never_read_as_tls(
    pooler: Callable[..., Any], tls_settings: dict[str, str]
) -> None:
    """CVE-2021-3935, over a real socket, with certificate authentication."""
    settings = {
        "auth_type": "cert",
        **tls_settings,
        "client_tls_sslmode": "verify-full",
    }
    one = pooler(settings)
    body = struct.pack("!I", 0x30000) + b"user\0postgres\0database\0p0\0\0"
    packet = struct.pack("!I", len(body) + 4) + body
    with socket.create_connection(("127.0.0.1", one.port), 5) as plain:
        plain.sendall(SSL_REQUEST + packet)
        answer = b""
        while part := plain.recv(4096):
            answer += part
    assert b"received unencrypted data after SSL request" in answer
    assert not answer.startswith(b"S")
