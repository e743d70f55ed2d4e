"""The HA front of a running pooler: health, quiet probes, PROXY headers, HAProxy."""

from __future__ import annotations

import json
import re
import socket
import struct
import time
import urllib.error
import urllib.request
from typing import Any

import psycopg
import pytest

from ha import proxy_protocol
from tests.ha.balancer import wait_for
from tests.ha.site import flavour_of

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow")

SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16/"
STARTUP = b"\x00\x00\x00\x16\x00\x03\x00\x00user\x00hacheck\x00\x00"
GSS_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x30"


@pytest.fixture(autouse=True)
def ours_only(lab):
    if flavour_of(lab.command, lab) != "pybouncer":
        pytest.skip("the original has no HA front")


def startup(user: str = "u_trust", database: str = "p0", **more: str) -> bytes:
    fields = {"user": user, "database": database, **more}
    body = b"".join(f"{k}\0{v}\0".encode() for k, v in fields.items()) + b"\0"
    return struct.pack("!II", len(body) + 8, 0x00030000) + body


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as got:
            return got.status, got.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


@pytest.fixture
def front(pooler, free_port):
    """Start a pooler with a health port: ``front(ini={...}, ours="key = value")``."""

    def start(ini: Any = "", ours: str = "", **arguments: Any) -> Any:
        port, agent = free_port(), free_port()
        arguments["more"] = (
            f"[pybouncer]\nhealth_listen = 127.0.0.1:{port}\n"
            f"agent_listen = 127.0.0.1:{agent}\nhealth_user = u_trust\n{ours}\n"
        )
        running = pooler(ini, **arguments)
        running.health, running.agent = port, agent
        return running

    return start


# Health of a real pooler


@pytest.mark.regression(131)
def test_health_of_a_running_pooler(front):
    running = front()
    assert wait_for(lambda: get(running.health, "/ready?db=p0")[0] == 200)
    assert get(running.health, "/live")[0] == 200
    assert wait_for(lambda: get(running.health, "/primary?db=p0")[0] == 200)
    assert get(running.health, "/replica?db=p0")[0] == 404
    assert get(running.health, "/read-only?db=p0")[0] == 200
    assert get(running.health, "/ready?db=nosuch")[0] == 503
    assert get(running.health, "/ready?db=pgbouncer")[0] == 503
    status = json.loads(get(running.health, "/status")[1])
    assert set(status["databases"]) == {"p0", "p1"}
    assert status["databases"]["p0"]["role"]["writable"] is True
    metrics = get(running.health, "/metrics")[1]
    assert "pgbouncer" in metrics and "p0" in metrics
    assert not running.log_matches("hacheck|/ready|GET ")


@pytest.mark.regression(131)
def test_pause_and_resume_show_at_once(front):
    running = front()
    assert wait_for(lambda: get(running.health, "/ready?db=p0")[0] == 200)
    running.console("PAUSE p0")
    assert wait_for(lambda: get(running.health, "/ready?db=p0")[0] == 404)
    assert get(running.health, "/ready?db=p1")[0] == 200
    assert get(running.health, "/ready?db=p0&held=yes")[0] == 200
    assert get(running.health, "/live")[0] == 200
    running.console("RESUME p0")
    assert wait_for(lambda: get(running.health, "/ready?db=p0")[0] == 200)
    running.console("PAUSE")
    assert wait_for(lambda: get(running.health, "/ready")[0] == 404)
    running.console("RESUME")
    running.console("DISABLE p0")
    assert wait_for(lambda: get(running.health, "/ready?db=p0")[0] == 404)


@pytest.mark.regression(131)
def test_saturation_is_soft(front):
    running = front({"max_client_conn": 3})
    assert wait_for(lambda: get(running.health, "/ready?db=p0")[0] == 200)
    held = [running.connect() for _ in range(3)]
    assert wait_for(lambda: get(running.health, "/ready?db=p0")[0] == 404)
    assert "saturated" in get(running.health, "/ready?db=p0")[1]
    assert get(running.health, "/live")[0] == 200
    for one in held:
        one.close()
    assert wait_for(lambda: get(running.health, "/ready?db=p0")[0] == 200)


@pytest.mark.regression(131)
def test_graceful_end_says_draining_until_the_last_client_left(front):
    running = front(may_end=True)
    assert wait_for(lambda: get(running.health, "/ready?db=p0")[0] == 200)
    with running.connect() as client:
        running.interrupt("SIGTERM")
        assert wait_for(lambda: get(running.health, "/ready?db=p0")[0] == 404)
        assert "draining" in get(running.health, "/ready?db=p0")[1]
        assert client.execute("select 1").fetchone() == (1,)
    assert wait_for(lambda: not running.is_running())


def test_database_that_refuses_is_hard_after_a_while_and_others_are_not(front, lab):
    running = front(
        databases={"p0": "{pg} dbname=p0", "gone": "host=127.0.0.1 port=1 dbname=p0"},
        ours="health_down_after = 2",
    )
    assert wait_for(lambda: get(running.health, "/ready?db=p0")[0] == 200)
    assert wait_for(
        lambda: (
            get(running.health, "/ready?db=gone")
            == (503, '{"status": "database unreachable", "database": "gone"}\n')
        )
    )
    assert get(running.health, "/ready")[0] == 200


def test_agent_of_a_running_pooler(front):
    running = front()

    def ask(line: str) -> str:
        with socket.create_connection(("127.0.0.1", running.agent), 5) as link:
            link.sendall(line.encode())
            return link.recv(200).decode()

    assert wait_for(lambda: ask("rw p0 share=2\n") == "ready up 100% maxconn:45\n")
    assert ask("ro p0\n") == "up drain #primary\n"
    running.console("PAUSE p0")
    assert wait_for(lambda: ask("p0\n") == "up drain #paused\n")


# Probes that cost nothing and say nothing


def knock(port: int, data: bytes, answer: int = 0) -> None:
    with socket.create_connection(("127.0.0.1", port), 5) as link:
        if data:
            link.sendall(data)
        if answer:
            assert link.recv(answer)


def quiet(running: Any) -> bool:
    """Has nothing been logged for a moment?"""
    before = len(running.lines())
    time.sleep(0.3)
    return len(running.lines()) == before


# What is sent, and how many bytes of an answer there are.
PROBES = {
    "bare": (b"", 0),
    "SSLRequest": (SSL_REQUEST, 1),
    "GSSENCRequest": (GSS_REQUEST, 1),
    "PROXY LOCAL": (proxy_protocol.build_v2_local(), 0),
    "PROXY LOCAL, SSLRequest": (proxy_protocol.build_v2_local() + SSL_REQUEST, 1),
    "PROXY UNKNOWN, SSLRequest": (b"PROXY UNKNOWN\r\n" + SSL_REQUEST, 1),
}


def test_probe_leaves_no_line_no_client_and_no_server(front):
    running = front(ours="proxy_protocol_networks = 127.0.0.1")
    assert wait_for(lambda: get(running.health, "/ready?db=p0")[0] == 200)
    servers = len(running.console("SHOW SERVERS"))
    for name, (data, answer) in PROBES.items():
        # Nothing of the console's is still on its way.
        assert wait_for(lambda: quiet(running))
        before = len(running.lines())
        for _ in range(100):
            knock(running.port, data, answer)
        logged = [line for line in running.lines()[before:] if "stats:" not in line]
        assert not logged, name
        assert len(running.console("SHOW SERVERS")) == servers, name
        clients = running.console("SHOW CLIENTS")
        assert all(row["database"] == "pgbouncer" for row in clients), name


CHECKED = """\
global
    stats socket {{dir}}/admin.sock level admin
defaults
    mode tcp
    timeout connect 1s
    timeout check 10s
    timeout client 1h
    timeout server 1h
listen pool
    bind 127.0.0.1:{front}
    option pgsql-check user hacheck
    server p1 127.0.0.1:{port} check inter 100ms
"""


@pytest.mark.parametrize("auth_type", ["trust", "scram-sha-256"])
def test_pgsql_check_is_silent_and_takes_no_slot(front, balancer, free_port, auth_type):
    running = front(
        {"max_client_conn": 2, "auth_type": auth_type},
        ours="health_check_user = hacheck",
    )
    assert wait_for(lambda: get(running.health, "/ready?db=p0")[0] == 200)
    with running.connect(user="u_md5") as client, running.connect(user="u_md5"):
        # The last slot is taken; the check is none of the clients.
        assert wait_for(lambda: quiet(running))
        before = len(running.lines())
        lb = balancer(CHECKED.format(front=free_port(), port=running.port))
        assert wait_for(
            lambda: lb.row("pool", "p1").last_check == "PostgreSQL server is ok"
        )
        # Some ten checks more.
        time.sleep(1)
        assert lb.row("pool", "p1").times_down == 0
        assert running.lines()[before:] == []
        assert client.execute("select 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError, match="cannot run queries"):
            psycopg.connect(
                host="127.0.0.1", port=running.port, user="hacheck", dbname="p0"
            ).execute("select 1")


def test_startup_with_terminate_is_silent_too(front):
    running = front(ours="health_check_user = hacheck")
    assert wait_for(lambda: quiet(running))
    before = len(running.lines())
    for _ in range(50):
        link, answer = login(running.port, STARTUP)
        with link:
            assert answer[:1] == b"R" and answer.endswith(b"Z\0\0\0\5I")
            link.sendall(b"X\0\0\0\4")
            assert link.recv(1) == b""
    assert running.lines()[before:] == []


def test_checks_do_not_take_the_last_client_slot(front):
    running = front({"max_client_conn": 1})
    with running.connect() as client:
        for _ in range(20):
            knock(running.port, SSL_REQUEST, 1)
        assert client.execute("select 1").fetchone() == (1,)


# PROXY headers


def login(port: int, data: bytes) -> tuple[socket.socket, bytes]:
    """Send a header and a startup packet; returns the first bytes of the answer."""
    link = socket.create_connection(("127.0.0.1", port), 5)
    link.settimeout(8)
    link.sendall(data)
    try:
        return link, link.recv(4096)
    except ConnectionResetError:
        return link, b""


# A header, and the client that it names.
HEADERS = {
    "v1": (proxy_protocol.build_v1("192.0.2.7", 1, "10.0.0.1", 1), "192.0.2.7", 1),
    "v2": (proxy_protocol.build_v2("192.0.2.7", 2, "10.0.0.1", 1), "192.0.2.7", 2),
    "v2 with a checksum": (
        proxy_protocol.build_v2("192.0.2.7", 3, "10.0.0.1", 1, True), "192.0.2.7", 3,
    ),
    "v2 of IPv6": (
        proxy_protocol.build_v2("2001:db8::7", 4, "2001:db8::1", 1), "2001:db8::7", 4,
    ),
    "local": (proxy_protocol.build_v2_local(), "127.0.0.1", None),
    "unknown": (b"PROXY UNKNOWN\r\n", "127.0.0.1", None),
}  # fmt: skip


@pytest.mark.parametrize("pieces", [False, True], ids=["whole", "bytewise"])
def test_true_address_is_seen_everywhere(front, pieces):
    running = front(
        {"application_name_add_host": 1},
        ours="proxy_protocol_networks = 127.0.0.1/32",
    )

    def clients() -> list[dict[str, Any]]:
        rows = running.console("SHOW CLIENTS")
        return [row for row in rows if row["database"] == "p0"]

    for name, (header, address, port) in HEADERS.items():
        data = header + startup(application_name="billing")
        if pieces:
            link = socket.create_connection(("127.0.0.1", running.port), 5)
            link.settimeout(8)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in data:
                link.sendall(bytes([byte]))
            answer = link.recv(4096)
        else:
            link, answer = login(running.port, data)
        with link:
            assert answer[:1] == b"R", name
            [row] = clients()
            assert row["addr"] == address, name
            shown = f"[{address}]" if ":" in address else address
            assert port is None or row["port"] == port, name
            assert f"billing - {shown}:{row['port']}" == row["application_name"], name
            place = re.escape(f"p0/u_trust@{shown}:{row['port']}")
            assert running.wait_for_log(f"{place} login attempt"), name
        assert wait_for(lambda: not clients()), name


def test_hba_goes_by_the_true_address(front, tmp_path):
    running = front(
        {"auth_type": "hba", "auth_hba_file": "{dir}/hba.conf"},
        ours="proxy_protocol_networks = 127.0.0.1",
        run=False,
    )
    (running.directory / "hba.conf").write_text(
        "host all all 192.0.2.0/24 trust\nhost pgbouncer all 127.0.0.1/32 trust\n"
        "host all all 0.0.0.0/0 reject\n"
    )
    running.identity.own(running.directory)
    running.run()
    for source, code in (("192.0.2.9", b"R"), ("198.51.100.9", b"E")):
        header = proxy_protocol.build_v2(source, 1, "10.0.0.1", 1)
        link, answer = login(running.port, header + startup())
        with link:
            assert answer[:1] == code, answer


def refused(running: Any, header: bytes, line: str) -> bytes:
    """The answer to a login behind *header*, of which the log must have *line*."""
    before = len(running.log_matches(line))
    started = time.monotonic()
    link, answer = login(running.port, header + startup())
    with link:
        # The original waits for the rest until client_login_timeout, a minute.
        assert time.monotonic() - started < 30
        assert wait_for(lambda: len(running.log_matches(line)) > before), header
    return answer


@pytest.mark.parametrize("trusted", ["", "192.0.2.0/24"])
def test_header_of_a_stranger_is_refused_with_a_line(front, trusted):
    running = front(ours=f"proxy_protocol_networks = {trusted}")
    for header in (
        proxy_protocol.build_v1("192.0.2.7", 4711, "10.0.0.1", 1),
        proxy_protocol.build_v2("192.0.2.7", 4711, "10.0.0.1", 1),
        proxy_protocol.build_v2_local(),
    ):
        line = "PROXY protocol header from 127.0.0.1, which is not in"
        answer = refused(running, header, line)
        assert answer == b"" or b"PROXY" in answer, header


def test_wrong_header_is_refused_with_a_line(front):
    running = front(ours="proxy_protocol_networks = 127.0.0.1")
    for header in (
        b"PROXY TCP4 1.2.3.4 nonsense 1 2\r\n",
        proxy_protocol.SIGNATURE + b"\x31\x11\x00\x0c" + b"\0" * 12,
        proxy_protocol.SIGNATURE + b"\x21\x11\xff\xff",
        b"PROXY " + b"x" * 200,
    ):
        answer = refused(running, header, "PROXY")
        assert answer == b"" or answer[:1] == b"E", header


def test_header_that_never_ends_meets_the_login_timeout(front):
    running = front(
        {"client_login_timeout": 1}, ours="proxy_protocol_networks = 127.0.0.1"
    )
    started = time.monotonic()
    link, _ = login(running.port, b"PROXY TCP4 1.2.")
    with link:
        assert time.monotonic() - started < 30  # by default it is a minute


def test_header_is_optional_for_those_who_may_send_one(front):
    running = front(ours="proxy_protocol_networks = 127.0.0.1")
    with running.connect() as client:
        assert client.execute("select 1").fetchone() == (1,)


def test_trust_follows_a_reload(front):
    running = front()
    header = proxy_protocol.build_v2("192.0.2.7", 4711, "10.0.0.1", 1)
    link, answer = login(running.port, header + startup())
    link.close()
    assert answer[:1] != b"R"
    running.more += "proxy_protocol_networks = 127.0.0.1\n"
    running.write_configuration()
    running.console("RELOAD")
    link, answer = login(running.port, header + startup())
    with link:
        assert answer[:1] == b"R"


def test_header_before_tls(front, lab):
    running = front(
        {
            "client_tls_sslmode": "require",
            "client_tls_key_file": "{certs}/bouncer.key",
            "client_tls_cert_file": "{certs}/bouncer.crt",
        },
        ours="proxy_protocol_networks = 127.0.0.1",
    )
    header = proxy_protocol.build_v2("192.0.2.7", 4711, "10.0.0.1", 1)
    with socket.create_connection(("127.0.0.1", running.port), 5) as link:
        link.sendall(header + SSL_REQUEST)
        assert link.recv(1) == b"S"
        context = lab.client_context()
        with context.wrap_socket(link) as secure:
            secure.sendall(startup())
            assert secure.recv(1) == b"R"
    assert running.wait_for_log(r"p0/u_trust@192\.0\.2\.7:4711 login attempt")


# SHOW HAPROXY


def test_show_haproxy_has_the_rows_of_its_socket(front, balancer, free_port, tmp_path):
    port, back = free_port(), free_port()
    lb = balancer(
        "global\n stats socket {dir}/admin.sock mode 666 level user\n"
        "defaults\n mode tcp\n timeout connect 1s\n timeout client 1h\n"
        f" timeout server 1h\nlisten pool\n bind 127.0.0.1:{port}\n"
        f" server one 127.0.0.1:{back} weight 100\n"
    )
    for place in (lb.directory, *lb.directory.parents):
        if str(place).startswith("/tmp/"):
            place.chmod(0o755)
    lost = f"{lb.directory}/lost.sock"
    running = front(ours=f"haproxy_sockets = {lb.socket}, {lost}")
    rows = running.console("SHOW HAPROXY")
    assert [row["name"] for row in rows] == ["FRONTEND", "one", "BACKEND", None]
    assert (rows[1]["status"], rows[1]["weight"]) == ("no check", 100)
    assert rows[3]["haproxy"] == lost and "no such socket" in rows[3]["error"]
    lb.stop()
    assert wait_for(lambda: running.console("SHOW HAPROXY")[1]["error"])
    row = running.console("SHOW HAPROXY")[1]
    assert (row["name"], row["status"]) == ("one", "no check")
    assert row["age_ms"] > 0
    with running.connect() as client:
        assert client.execute("select 1").fetchone() == (1,)


def test_show_haproxy_without_a_socket_says_what_is_missing(front):
    running = front()
    with pytest.raises(psycopg.Error, match="haproxy_sockets is not set"):
        running.console("SHOW HAPROXY")
