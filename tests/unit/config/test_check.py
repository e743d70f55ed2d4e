"""`--check` and `--explain`: what they find, and where they say it is."""

import asyncio
import json
import os
import socket
import threading

import pytest

from bouncer.check.explain import explain_main
from bouncer.check.findings import ERROR, NOTE, WARNING
from bouncer.check.main import FAILS, FINE, MISUSED, WARNS, check, check_main
from bouncer.config.load import load
from bouncer.wire import messages
from ha.health import HealthServer
from ha.proxy_protocol import TrustedNetworks

START = "[pgbouncer]\nunix_socket_dir = {here}\nauth_file = users.txt\n"


@pytest.fixture
def write(here):
    """Writes pgbouncer.ini: what a sound configuration has, then *rest*."""

    def to_disk(rest, start=START, users='"alice" "secret"\n', mode=0o600):
        # As an operator would see it: an ini file in the working directory.
        for name, text in (("pgbouncer.ini", start + rest), ("users.txt", users)):
            path = here / name
            path.write_text(text.replace("{here}", str(here)))
            path.chmod(mode)
        return "pgbouncer.ini"

    return to_disk


def found(path):
    """The findings as (level, line, setting), and their texts; notes are none."""
    findings = [f for f in check(path, online=False)[0] if f.level != NOTE]
    return [(f.level, f.line, f.setting) for f in findings], [
        f"{f.text} | {f.suggestion}" for f in findings
    ]


def test_a_sound_configuration_gives_nothing(write, capsys):
    path = write("[databases]\na = host=h\n")
    assert check_main(["--offline", path]) == FINE
    assert capsys.readouterr().out == f"{path}: nothing to complain about\n"


def test_every_mistake_is_found_at_its_line(write):
    path = write(
        "pol_mode = session\n"
        "query_timeout = 10min\n"
        "log_stats = yes\n"
        "auth_type = scram\n"
        "max_client_conn = 20 ; few\n"
        "[databases]\n"
        '"d" = host=h\n'
        "b = hots=h\n"
        "[pgbuncer]\n"
        "a = 1\n"
        "[users]\n"
        "u = query_timout=1\n"
        "%include missing.ini\n"
    )
    places, texts = found(path)
    assert places == [
        (ERROR, 4, "pol_mode"),
        (ERROR, 5, "query_timeout"),
        (ERROR, 6, "log_stats"),
        (ERROR, 7, "auth_type"),
        (ERROR, 8, "max_client_conn"),
        (ERROR, 10, ""),
        (ERROR, 11, "b"),
        (ERROR, 12, ""),
        (ERROR, 15, "u"),
        (ERROR, 16, ""),
    ]
    for text, hint in zip(
        texts,
        [
            "pool_mode",
            "600",
            "1",
            "scram-sha-256",
            "a line of its own",
            "'...'",
            "host",
            "[pgbouncer]",
            "query_timeout",
            "No such file",
        ],
        strict=True,
    ):
        assert hint in text


@pytest.mark.parametrize(
    ("rest", "hint"),
    [
        ("pool_size = 5\n", "default_pool_size"),
        ("log_format = json\n", "[pybouncer]"),
        ("service_name = x\n", "job_name"),
        ("Pool_Mode = session\n", "pool_mode"),
        ("auth_type = password\n", "plain"),
        ("client_tls_sslmode = verify_full\n", "verify-full"),
        ("unix_socket_mode = 0888\n", "octal"),
        ('pool_mode = "session"\n', "no quotes"),
        ("[databases]\na = hostname=h\n", "host"),
        ("[databases]\na = host=h sslmode=require\n", "server_tls_sslmode"),
        ("[databases]\na = host=h # c\n", "a line of its own"),
    ],
)
def test_a_mistake_comes_with_what_was_meant(write, rest, hint):
    places, texts = found(write(rest))
    assert places[0][0] == ERROR
    assert hint in texts[0]


@pytest.mark.parametrize(
    ("rest", "setting", "text"),
    [
        (
            "server_idle_timeout=100\nserver_lifetime=50\n",
            "server_idle_timeout",
            "longer",
        ),
        ("query_timeout=5\n", "query_timeout", "a waiting query"),
        ("reserve_pool_size=2\nreserve_pool_timeout=0\n", "reserve_pool_size", "off"),
        (
            "reserve_pool_size=2\nquery_wait_timeout=3\nserver_login_retry=1\n"
            "query_wait_notify=0\n",
            "reserve_pool_size",
            "never used",
        ),
        ("max_db_connections=5\n", "max_db_connections", "below"),
        ("min_pool_size=30\n", "min_pool_size", "more than"),
        ("query_wait_timeout=0\n", "query_wait_timeout", "wait for ever"),
        ("stats_period=0\n", "stats_period", "once"),
        ("unix_socket_mode=770\n", "unix_socket_mode", "leading 0"),
        ("logfile='x'\n", "logfile", "quotes"),
        ("syslog_ident=x # y\n", "syslog_ident", "comment"),
        ("syslog_facility=local9\n", "syslog_facility", "daemon"),
        ("auth_dbname=q\n", "auth_dbname", "no database"),
        ("auth_query=select 1\n", "auth_query", "auth_user"),
        ("auth_hba_file=x\n", "auth_hba_file", "not read"),
        ("auth_type=trust\nlisten_addr=*\n", "auth_type", "no password"),
        ("auth_type=plain\nlisten_addr=*\n", "auth_type", "clear text"),
        ("server_tls_ca_file=x\n", "server_tls_ca_file", "does not verify"),
        ("client_tls_key_file=x\n", "client_tls_key_file", "no effect"),
        ("so_reuseport=1\n", "so_reuseport", "cancel"),
        ("peer_id=70000\n[peers]\n1=host=h\n", "peer_id", "65535"),
        ("[peers]\n1=host=h\n", "peers", "no peer_id"),
        ("admin_users=bob\n", "admin_users", "bob"),
        ("pool_mode=transaction\nserver_reset_query=x\n", "server_reset_query", "mode"),
        ("log_stats=0\nlog_stats=1\n", "log_stats", "given twice"),
        ("log_stats=0\n[pgbouncer]\nauth_file=users.txt\n", "log_stats", "this header"),
        ("[databases]\nd=host=h\tport=1\n", "d", "tab"),
        ("[databases]\nd=host=a,,b\n", "d", "empty host"),
        ("[databases]\nd=port=70000\n", "d", "port"),
        ("[databases]\nd=password=x\n", "d", "without user="),
        ("[databases]\nd=user=nobody\n", "d", "no password"),
        ("[databases]\nd=user=scram\n", "d", "SCRAM"),
        ("[databases]\nd=pool_size=5 max_db_connections=3\n", "d", "more than"),
    ],
)
def test_what_cannot_be_meant_is_a_warning(write, rest, setting, text):
    keys = "A" * 43 + "="
    scram = f"SCRAM-SHA-256$4096:c2FsdA==${keys}:{keys}"
    if "[databases]" not in rest:
        rest += (
            "[databases]\n* = host=127.0.0.1\n"
            if "auth_dbname" not in rest
            else ("[databases]\na = host=127.0.0.1\n")
        )
    path = write(rest, users=f'"alice" "secret"\n"scram" "{scram}"\n')
    findings, _ = check(path, online=False)
    assert [
        f for f in findings if f.setting == setting and text in f.text + f.suggestion
    ]
    assert {f.level for f in findings} == {WARNING}


def test_files_that_others_can_read(write, capsys):
    path = write("[databases]\na = user=u password=p\n", mode=0o644)
    assert check_main(["--json", "--offline", path]) == WARNS
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] and document["status"] == WARNS
    texts = [(f["file"], f["setting"]) for f in document["findings"]]
    assert texts == [("pgbouncer.ini", "auth_file"), ("pgbouncer.ini", "")]


def test_places_that_do_not_exist_end_a_start(write):
    places, _ = found(
        write("unix_socket_dir=/nowhere\nlogfile=/nowhere/log\nuser=no such user\n")
    )
    errors = {setting for level, _, setting in places if level == ERROR}
    assert errors == {"unix_socket_dir", "logfile", "user"}


@pytest.mark.parametrize(
    ("rest", "setting", "level"),
    [
        ("client_tls_sslmode=require\n", "client_tls_key_file", ERROR),
        ("server_tls_protocols=legacy\n", "server_tls_protocols", ERROR),
        ("auth_type=cert\n", "auth_type", ERROR),
        (
            "client_tls_sslmode=require\nclient_tls_key_file=/k\n"
            "client_tls_cert_file=/c\n",
            "client_tls_cert_file",
            ERROR,
        ),
        (
            "server_tls_sslmode=verify-full\nserver_tls_ca_file=/nowhere\n",
            "server_tls_ca_file",
            WARNING,
        ),
    ],
)
def test_tls_is_set_up_as_a_start_would(write, rest, setting, level):
    path = write(rest + "[databases]\na=host=h\n")
    findings, _ = check(path, online=False)
    assert (level, setting) in [(f.level, f.setting) for f in findings]


def test_lines_of_the_other_files_are_named(write, here):
    (here / "hba").write_text(
        "host all all all md5\nhost all all\nlocal x y peer map=m"
    )
    (here / "hba").chmod(0o600)
    path = write(
        "auth_type=hba\nauth_hba_file=hba\nauth_ident_file=none\n[databases]\na=\n",
        users='"a" "b"\nx',
    )
    findings, _ = check(path, online=False)
    assert [(f.file, f.line) for f in findings] == [
        ("users.txt", 2),
        ("pgbouncer.ini", 6),
        ("hba", 2),
        ("hba", 2),
        ("hba", 3),
        ("hba", 3),
    ]


def test_an_unreadable_file_is_one_error(here, capsys):
    assert check_main(["--offline", "missing.ini"]) == FAILS
    assert capsys.readouterr().out == (
        'missing.ini: error: could not load file "missing.ini": No such file or '
        "directory\nmissing.ini: does not start: 1 error, 0 warnings\n"
    )


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["--nonsense", "a"]])
def test_a_bad_command_line(arguments, capsys):
    assert check_main(arguments) == MISUSED
    assert explain_main(arguments) == MISUSED
    assert "usage" in capsys.readouterr().err


class Server(threading.Thread):
    """Answers one login and one question as PostgreSQL does."""

    def __init__(self, answers):
        super().__init__(daemon=True)
        self.answers = answers
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.heard = b""

    def run(self):
        connection, _ = self.socket.accept()
        with connection, self.socket:
            for answer in self.answers:
                self.heard += connection.recv(4096)
                connection.sendall(answer)
            if self.answers[-1]:
                connection.recv(4096)


ROW = messages.row_description([("a", 25, -1), ("b", 25, -1)])
ANSWER = ROW + messages.data_row(["15", "3"]) + messages.ready_for_query()


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ([messages.AUTHENTICATION_OK + messages.ready_for_query(), ANSWER], ""),
        ([messages.error_response("go away", "28000")], "go away"),
        ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], "this is no PostgreSQL server"),
        ([b""], "the server closed the connection"),
    ],
)
def test_servers_are_asked_how_much_they_take(write, answers, problem):
    server = Server([b"N", *answers])
    server.start()
    place = f"host=127.0.0.1 port={server.port}"
    path = write(
        f"[databases]\na = {place} user=alice\nb = {place} user=alice pool_size=5\n"
    )
    findings, asked = check(path)
    server.join(5)
    assert not server.is_alive()
    assert [one.problem for one in asked] == [problem]
    texts = [finding.text for finding in findings]
    if problem:
        assert not texts
    else:
        assert texts == [
            f"a pool of 20 connections, but 127.0.0.1 port {server.port} takes 12",
            "the pools of 2 databases take up to 25 connections per user, but "
            f"127.0.0.1 port {server.port} takes 12",
        ]


# --explain


def explain(capsys, *arguments):
    """Title to (value, source), and the exit status."""
    status = explain_main(["--json", *arguments])
    facts = json.loads(capsys.readouterr().out)
    return {fact["title"]: (fact["value"], fact["source"]) for fact in facts}, status


EXPLAINED = """\
query_wait_timeout = 30
query_timeout = 1.5
client_tls_sslmode = prefer
auth_type = hba
auth_hba_file = hba
[users]
alice = pool_size=7 client_idle_timeout=9
app = query_timeout=3 pool_mode=transaction
[databases]
shop = host=10.0.0.5,10.0.0.6 query_wait_timeout=5 pool_size=30
forced = host=h user=app password=geheim
* = host=10.0.0.9 auth_user=looker
"""
HBA = """\
hostssl shop alice all scram-sha-256
host shop alice 10.0.0.0/8 reject
host all all all md5
local all all peer
"""


@pytest.fixture
def explained(write, here):
    (here / "hba").write_text(HBA)
    return write(EXPLAINED)


def test_explain_names_each_source(explained, capsys):
    facts, status = explain(capsys, "shop", "alice", "10.1.1.1", explained)
    assert status == 0
    assert facts["database"] == ("shop", "pgbouncer.ini:13")
    assert facts["method without TLS"] == ("login rejected", "hba:2")
    assert facts["method with TLS"] == ("scram-sha-256", "hba:1")
    assert facts["known from auth_file"] == ("plain text secret", "users.txt:1")
    assert facts["pool"] == ("shop/alice", "")
    assert facts["pool_size"] == ("7", "pgbouncer.ini:10")
    assert facts["pool_mode"] == ("session", "default")
    assert facts["query_wait_timeout"] == ("5", "pgbouncer.ini:13")
    assert facts["query_timeout"] == ("1.5", "pgbouncer.ini:5")
    assert facts["client_idle_timeout"] == ("9", "pgbouncer.ini:10")


def test_explain_looks_at_the_forced_user(explained, capsys):
    facts, status = explain(capsys, "forced", "alice", "unix", explained)
    assert status == 0
    assert facts["method"] == ("peer", "hba:4")
    assert facts["server user"] == ("app, forced", "pgbouncer.ini:14")
    assert facts["pool_mode"] == ("transaction", "pgbouncer.ini:11")
    assert facts["query_timeout"] == ("3", "pgbouncer.ini:11")
    assert facts["client_idle_timeout"] == ("9", "pgbouncer.ini:10")
    assert "geheim" not in str(facts)


def test_explain_follows_the_fallback_and_the_lookup(explained, capsys):
    facts, status = explain(capsys, "other", "bob", "::1", explained)
    assert status == 0
    assert facts["database"] == ("other, made from *", "pgbouncer.ini:15")
    assert facts["looked up by auth_user"] == ("looker", "pgbouncer.ini:15")
    facts, status = explain(capsys, "shop", "bob", "::1", explained)
    assert status == 1
    assert facts["known from auth_file"] == ("no such user", "")


def test_explain_knows_the_console(write, capsys):
    path = write("admin_users=alice\n")
    facts, status = explain(capsys, "pgbouncer", "alice", "unix", path)
    assert (facts["commands"], status) == (("all", "pgbouncer.ini:4"), 0)
    facts, status = explain(capsys, "pgbouncer", "bob", "unix", path)
    assert (facts["commands"], status) == (("not allowed", "pgbouncer.ini:4"), 1)


def test_explain_refuses_what_does_not_exist(write, capsys):
    path = write("[databases]\na=\n")
    facts, status = explain(capsys, "b", "alice", "unix", path)
    assert (facts["database"], status) == (("no such database: b", ""), 1)
    assert explain_main(["a", "alice", "nowhere", path]) == MISUSED
    os.unlink(path)
    assert explain_main(["a", "alice", "unix", path]) == 1


# [pybouncer]


def in_front(write, *lines):
    text = "\n".join(["listen_addr = 127.0.0.1", "[pybouncer]", *lines])
    return found(write(text + "\n[databases]\na = host=h\n"))


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("health_listen = 127.0.0.1:6480, /run/health.sock, [::1]:6480", ""),
        ("health_listen = 10.0.0.1:6480, *:6482", WARNING),
        ("health_listen = [::]:6480", WARNING),
        ("agent_listen = 8.8.8.8:6480", WARNING),
        ("agent_listen = 192.168.0.7:6480", ""),
        ("health_listen = 6480", ERROR),
        ("health_listen = 127.0.0.1:99999", ERROR),
        ("agent_listen = host:", ERROR),
        ("health_listen = 127.0.0.1:6432", ERROR),
        ("agent_listen = *:6432", ERROR),
        ("health_listen = 10.0.0.1:6480, *:6480", ERROR),
        ("proxy_protocol_networks = 10.0.0.0/8, unix, fd00::/8", ""),
        ("proxy_protocol_networks = 10.0.0.5/8", WARNING),
        ("proxy_protocol_networks = balancer", WARNING),
        ("proxy_protocol_networks = 0.0.0.0/0", WARNING),
        ("proxy_protocol_send = 3", WARNING),
        ("health_databases = nowhere", WARNING),
        ("health_user = nobody", WARNING),
        ("health_user = alice", ""),
        ("haproxy_sockets = /run/haproxy/admin.sock, 10.0.0.1:9999", ""),
        ("haproxy_sockets = nonsense", ERROR),
    ],
)
def test_section_of_our_own(write, line, level):
    places, _ = in_front(write, line)
    assert places == ([(level, 6, line.partition(" ")[0])] if level else [])


def test_the_network_that_was_meant_is_suggested(write):
    _, [text] = in_front(write, "proxy_protocol_networks = 10.0.0.5/8")
    assert text.endswith("no PROXY header is accepted | perhaps 10.0.0.0/8")


@pytest.mark.parametrize("line", ["health_listen = 6480", "agent_listen = h:99999"])
def test_what_the_check_refuses_does_not_start(write, line):
    [(level, _, name)], _ = in_front(write, line)
    settings = load(write(f"[pybouncer]\n{line}\n")).settings
    served = HealthServer(None, settings)
    with pytest.raises(OSError, match="cannot listen on"):
        asyncio.run(served.start())
    assert (level, name) == (ERROR, line.partition(" ")[0])


@pytest.mark.parametrize("text", ["10.0.0.5/8", "balancer", "10.0.0.0/8 unix"])
def test_check_and_pooler_agree_about_networks(write, text):
    places, _ = in_front(write, f"proxy_protocol_networks = {text}")
    try:
        TrustedNetworks(text)
    except ValueError:
        assert places
    else:
        assert not places
