"""Outages staged against the pooler: what the client, the log and the ports say.

Each must be answered with a cause: where to, why, how long, whose.
"""

import json
import os
import re
import socket
import ssl
import subprocess
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bouncer.wire import messages
from tests.replay.pooler import wait_for
from tests.support.ground import Ground, Postgres
from tests.support.wire import FakeServer, ServerTalk

JSON = "[pybouncer]\nlog_format = json\n"
TEXT = "[pybouncer]\nlog_details = 1\n"


def events(one: Any, name: str) -> list[dict[str, Any]]:
    """The JSON lines of an event so far."""
    found = []
    for line in (one.directory / "log").read_text().splitlines():
        if line.startswith("{") and (told := json.loads(line)).get("event") == name:
            found.append(told)
    return found


def event(one: Any, name: str) -> dict[str, Any]:
    """The first line of an event, once it is there."""
    assert wait_for(lambda: events(one, name), 10), (one.directory / "log").read_text()
    return events(one, name)[0]


def refusal(one: Any, **more: Any) -> str:
    """What a client reads who does not get in, or whose query fails."""
    with pytest.raises(psycopg.Error) as error:
        with one.connect(**more) as connection:
            connection.execute("select 1")
    return str(error.value)


class Json:
    """Lets the pooler start with a log that is not PgBouncer's text."""

    def __init__(self, pooler: Any) -> None:
        self.pooler = pooler

    def __call__(self, *given: Any, **more: Any) -> Any:
        """As `pooler`, with log_format = json; console commands find it up."""
        one = self.pooler(*given, run=False, may_end=True, more=JSON, **more)
        one.complaints = list  # type: ignore[method-assign]
        one._says_up = lambda: "process up" in one.text()
        return one.run()


@pytest.fixture
def in_json(pooler: Any) -> Json:
    """Start poolers whose log is JSON."""
    return Json(pooler)


# PostgreSQL is down


def test_server_that_is_down_is_told_with_place_errno_and_duration(
    in_json: Json, lab: Ground
) -> None:
    port = lab.free_port()
    health = lab.free_port()
    databases = {"p0": f"host=127.0.0.1 port={port}"}
    more = f"{JSON}health_listen = 127.0.0.1:{health}\n"
    one = in_json.pooler(
        {"query_wait_timeout": 1},
        run=False,
        databases=databases,
        more=more,
        server_port=port,
    )
    one.complaints = list
    one._says_up = lambda: "process up" in one.text()
    one.run()
    assert "query_wait_timeout" in refusal(one)
    told = event(one, "connect_failed")
    assert (told["host"], told["code"]) == ("127.0.0.1", "ECONNREFUSED")
    assert told["error"] == "Connection refused"
    assert told["reason"] == "connect failed"
    assert told["address"] == f"127.0.0.1:{port}" and told["side"] == "server"
    assert 0 <= told["duration_ms"] < 10_000
    failed = event(one, "login_failed")
    assert (failed["sqlstate"], failed["reason"]) == ("08P01", "query_wait_timeout")
    [row] = one.console("SELECT * FROM failures")
    assert (row["database"], row["user"], row["host"]) == ("p0", "u_trust", "127.0.0.1")
    assert (row["code"], row["error"]) == ("ECONNREFUSED", "Connection refused")
    with urllib.request.urlopen(f"http://127.0.0.1:{health}/status", timeout=10) as got:
        status = json.load(got)["databases"]["p0"]
    assert status["last_failure"]["code"] == "ECONNREFUSED"
    assert status["last_failure"]["address"] == f"127.0.0.1:{port}"


def test_log_details_are_lines_of_text(pooler: Any, lab: Ground) -> None:
    port = lab.free_port()
    databases = {"p0": f"host=127.0.0.1 port={port}"}
    one = pooler(
        {"query_wait_timeout": 1}, databases=databases, server_port=1, more=TEXT
    )
    refusal(one)
    one.wait_for_log(
        rf"LOG S-0x\w+: p0/u_trust@127.0.0.1:{port} connect to 127.0.0.1 "
        r"failed after \d+ ms: Connection refused"
    )
    one.wait_for_log("LOG C-0x.* login failed: 08P01: query_wait_timeout")


def test_without_details_the_log_is_pgbouncers(pooler: Any, lab: Ground) -> None:
    databases = {"p0": f"host=127.0.0.1 port={lab.free_port()}"}
    one = pooler({"query_wait_timeout": 1}, databases=databases, server_port=1)
    refusal(one)
    one.wait_for_log("closing because: connect failed")
    assert not one.log_matches("connect to|login failed: 08P01")


def test_name_that_dns_does_not_know_is_told(in_json: Json) -> None:
    databases = {"p0": "host=no-such-host.invalid"}
    one = in_json({"query_wait_timeout": 1}, databases=databases, server_port=1)
    refusal(one)
    told = event(one, "connect_failed")
    assert told["host"] == "no-such-host.invalid"
    assert told["error"].startswith("DNS: ") and len(told["error"]) > 6


def test_server_that_says_nothing_is_told(in_json: Json) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        databases = {"p0": f"host=127.0.0.1 port={silent.getsockname()[1]}"}
        settings = {"server_connect_timeout": 1, "query_wait_timeout": 4}
        one = in_json(settings, databases=databases, server_port=1)
        refusal(one)
        told = event(one, "connect_failed")
    assert told["reason"] == "connect timeout"
    assert told["error"] == "no answer within server_connect_timeout"
    assert told["duration_ms"] >= 1000


# The pool is exhausted


def test_exhausted_pool_is_seen_by_whoever_looks(pooler: Any) -> None:
    """Two BEGIN that idle hold everything; troubleshooting.md says how to find them."""
    settings = {
        "pool_mode": "transaction", "default_pool_size": 2, "query_wait_timeout": 1,
    }  # fmt: skip
    one = pooler(settings, more=TEXT)
    holders = [one.connect() for _ in range(2)]
    for holder in holders:
        holder.execute("begin")
    assert "query_wait_timeout" in refusal(one)
    assert one.pool()["sv_active"] == 2
    rows = one.console("SELECT count(*) AS n FROM servers WHERE state = 'active'")
    assert rows == [{"n": 2}]
    assert one.console("SELECT * FROM failures") == []
    for holder in holders:
        holder.close()


# Logins that are refused


def test_login_that_the_server_refuses_has_its_sqlstate(
    in_json: Json, postgres: Postgres
) -> None:
    users = {"u_scram": "stale", "admin": "adminpass"}
    one = in_json({"auth_type": "plain"}, users=users, server_port=postgres.port)
    text = refusal(one, user="u_scram")
    assert 'password authentication failed for user "u_scram"' in text
    told = event(one, "connect_failed")
    assert (told["code"], told["reason"]) == ("28P01", "login failed")
    assert "password authentication failed" in told["error"]
    failed = event(one, "login_failed")
    assert failed["sqlstate"] == "28P01" and failed["user"] == "u_scram"
    [row] = one.console("SELECT code, reason FROM failures")
    assert row == {"code": "28P01", "reason": "login failed"}


def test_server_that_has_no_room_is_told_once(pooler: Any, lab: Ground) -> None:
    """What the server says of itself (53300) is told as any refusal, and once."""
    port = lab.free_port()
    server = FakeServer(port, full)
    try:
        databases = {"p0": f"host=127.0.0.1 port={port}"}
        settings = {"server_tls_sslmode": "disable", "query_wait_timeout": 1}
        one = pooler(settings, databases=databases, server_port=1, more=TEXT)
        refusal(one)
        [line] = one.log_matches("login at 127.0.0.1 failed")
    finally:
        server.close()
    assert line.endswith(" ms: too many connections")
    [row] = one.console("SELECT reason, error, code FROM failures")
    assert row == {
        "reason": "login failed", "error": "too many connections", "code": "53300",
    }  # fmt: skip


def full(talk: ServerTalk) -> None:
    """A server that has no connection to spare."""
    talk.read()
    talk.send_bytes(messages.error_response("too many connections", "53300"))
    talk.close()


@pytest.mark.parametrize(
    ("hba", "reason"),
    [
        ("host all admin all trust\nhost all all all reject\n", "login rejected"),
        ("host all admin all trust\n", "no authentication method is found"),
    ],
)
def test_client_that_hba_refuses_is_an_event(
    in_json: Json, hba: str, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "hba"
    file.write_text(hba)
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    one = in_json({"auth_type": "hba", "auth_hba_file": file}, server_port=1)
    assert reason in refusal(one)
    told = event(one, "login_failed")
    assert (told["sqlstate"], told["reason"], told["tls"]) == ("08P01", reason, None)
    assert told["user"] == "u_trust" and told["side"] == "client"
    assert told["address"].startswith("127.0.0.1:")


def test_login_that_goes_through_is_no_failure(
    in_json: Json, postgres: Postgres
) -> None:
    one = in_json(server_port=postgres.port)
    with one.connect() as connection:
        with pytest.raises(psycopg.Error):
            connection.execute("select broken")
    with socket.create_connection(("127.0.0.1", one.port)):
        pass  # a TCP check
    one.console("SHOW VERSION")
    assert not events(one, "login_failed") and not events(one, "connect_failed")


# Certificates


def test_expired_certificate_of_the_server_is_named(
    in_json: Json, tmp_path: Path
) -> None:
    """PgBouncer's line says neither which server nor for whom."""
    cert, key = expired(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        settings = {
            "server_tls_sslmode": "verify-ca",
            "server_tls_ca_file": cert,
            "query_wait_timeout": 2,
        }
        databases = {"p0": f"host=127.0.0.1 port={port}"}
        one = in_json(settings, databases=databases, server_port=1)
        with socket.create_connection(("127.0.0.1", one.port)) as client:
            client.sendall(STARTUP)
            link, _ = listening.accept()
            with link:
                link.settimeout(10)
                assert len(link.recv(8)) == 8
                link.sendall(b"S")
                with pytest.raises(ssl.SSLError):
                    context.wrap_socket(link, server_side=True).recv(1)
            told = event(one, "connect_failed")
    assert "expired" in told["error"] and told["address"] == f"127.0.0.1:{port}"


def test_tls_failure_of_a_client_has_its_address(
    in_json: Json, lab: Ground, tmp_path: Path
) -> None:
    """`TLS handshake error: ...` does not say whose; an expired certificate is one."""
    cert, key = expired(tmp_path)
    settings = {
        "client_tls_sslmode": "verify-ca",
        "client_tls_cert_file": cert,
        "client_tls_key_file": key,
        "client_tls_ca_file": cert,
    }
    one = in_json(settings, server_port=1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(cert, key)
    with socket.create_connection(("127.0.0.1", one.port)) as link:
        address = "{}:{}".format(*link.getsockname())
        link.sendall((8).to_bytes(4, "big") + (80877103).to_bytes(4, "big"))
        assert link.recv(1) == b"S"
        with pytest.raises(OSError):
            with context.wrap_socket(link) as secret:
                secret.recv(1)
    told = event(one, "tls_failed")
    assert told["address"] == address and "expired" in told["error"]


# The disk under the log is full


def test_full_disk_costs_lines_but_nobody_waits(pooler: Any) -> None:
    """A limit of the file's size stands for the disk; a truncated file has room."""
    one = pooler(run=False, server_port=1, databases={"p0": "host=127.0.0.1 port=1"})
    one.command = ["prlimit", "--fsize=8192", *one.command]
    one.run("-q")
    log = one.directory / "log"

    def is_full() -> bool:
        one.console("SHOW VERSION")
        return log.stat().st_size == 8192

    assert wait_for(is_full, 60)
    for _ in range(3):
        one.console("SHOW VERSION")  # nobody waits, and nobody fails
    assert log.stat().st_size == 8192
    os.truncate(log, 0)
    one.console("SHOW VERSION")
    lost = (
        r"WARNING log: (\d+) lines \(\d+ bytes\) could not be written: File too large$"
    )
    line = one.wait_for_log(lost)
    assert int(re.findall(lost, line)[0]) >= 3 * 2
    assert log.read_text().lstrip("\n").partition("\n")[0].endswith(line)
    one.wait_for_log("login attempt")
    log.write_text(log.read_text().lstrip("\n"))


STARTUP = b"\0\0\0\x22\0\3\0\0user\0u_trust\0database\0p0\0\0"


CA = """[ca]
default_ca = here
[here]
database = {0}/index
serial = {0}/serial
new_certs_dir = {0}
default_md = sha256
policy = any
[any]
commonName = supplied
"""


def expired(directory: Path) -> tuple[Path, Path]:
    """A certificate of 2001, and its key."""
    for place in (directory, *directory.parents[:2]):
        place.chmod(0o755)
    cert, key, request = (directory / name for name in ("crt", "key", "csr"))
    config = directory / "ca.cnf"
    config.write_text(CA.format(directory))
    (directory / "index").write_text("")
    (directory / "serial").write_text("01\n")
    run = partial(subprocess.run, check=True, capture_output=True)
    run(
        ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x",
         "-keyout", key, "-out", request]
    )  # fmt: skip
    run(
        ["openssl", "ca", "-batch", "-selfsign", "-config", config, "-keyfile", key,
         "-in", request, "-out", cert, "-notext",
         "-startdate", "20010101000000Z", "-enddate", "20010102000000Z"]
    )  # fmt: skip
    key.chmod(0o644)
    return cert, key
