"""Each mistake that the linter knows, seeded into a configuration that is clean."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ha.cfg import Config, words_of
from ha.cli import main
from ha.errors import HAError
from ha.lint import findings
from ha.rules import RULES
from ha.subject import Subject

# What the pooler ends by itself, so that HAProxy's timers must be longer.
TIMERS = (
    "client_idle_timeout",
    "query_timeout",
    "query_wait_timeout",
    "transaction_timeout",
    "idle_transaction_timeout",
)
GOOD = """\
global
    maxconn 5000
    stats socket /run/haproxy/admin.sock mode 660 level admin
    server-state-file /var/lib/haproxy/server-state
    hard-stop-after 8h
defaults
    mode tcp
    option tcplog
    option dontlognull
    option clitcpka
    option srvtcpka
    timeout connect 2s
    timeout client 8h
    timeout server 8h
    timeout client-fin 30s
    timeout server-fin 30s
    timeout check 500ms
    timeout queue 5s
    option redispatch 1
    load-server-state-from-file global

listen pool
    bind *:6432
    balance leastconn
    option httpchk
    http-check send meth GET uri /ready ver HTTP/1.1 hdr Host pooler
    http-check disable-on-404
    http-check expect status 200
    default-server inter 1s fastinter 300ms fall 2 rise 2 tcp-ut 30s
    default-server on-marked-down shutdown-sessions weight 100 maxconn 400
    server p1 192.0.2.11:6432 check port 6480 agent-check agent-port 6481 send-proxy-v2
    server p2 192.0.2.12:6432 check port 6480 agent-check agent-port 6481 send-proxy-v2

listen rw
    bind *:5000
    balance leastconn
    option httpchk OPTIONS /primary
    http-check expect status 200
    default-server inter 1s fastinter 300ms fall 2 rise 2 tcp-ut 30s
    default-server on-marked-down shutdown-sessions weight 100 maxconn 90
    server n1 192.0.2.21:5432 check port 8008
    server n2 192.0.2.22:5432 check port 8008

frontend ro
    bind *:5001
    use_backend rw_readers if { nbsrv(readers) lt 1 }
    default_backend readers

backend readers
    balance leastconn
    option httpchk OPTIONS /replica?lag=16MB
    http-check expect status 200
    default-server inter 1s fastinter 300ms fall 2 rise 2 tcp-ut 30s
    default-server on-marked-down shutdown-sessions weight 100 maxconn 90
    server n1 192.0.2.21:5432 check port 8008
    server n2 192.0.2.22:5432 check port 8008

backend inband
    balance leastconn
    option tcp-check
    tcp-check connect linger
    tcp-check send-binary 0000000804d2162f
    tcp-check expect rstring ^[SN]
    default-server inter 1s fastinter 300ms fall 2 rise 2 tcp-ut 30s
    default-server on-marked-down shutdown-sessions weight 100 maxconn 400
    server q1 192.0.2.11:7432 check
    server q2 192.0.2.12:7432 check backup
"""

PEERS = """\
1 = host=192.0.2.11 port=6432
2 = host=192.0.2.12 port=6432
"""

POOLER = """\
[databases]
app = host=db.example port=5432
[peers]
{peers}[pgbouncer]
auth_type = trust
listen_addr = *
listen_port = 6432
peer_id = {number}
max_client_conn = 1000
server_login_retry = 1
query_wait_timeout = 60
{more}
[pybouncer]
health_listen = 192.0.2.1{number}:6480
proxy_protocol_networks = 192.0.2.1
"""

LOGIN = """\
    option tcp-check
    tcp-check connect linger
    tcp-check send-binary 00000016000300007573657200686163686563 6b0000
    tcp-check expect rbinary ^52
"""
ROLE_QUERY = LOGIN + "    tcp-check send-binary 510000002b73656c65637420\n"
POOL_CHECK = """\
    option httpchk
    http-check send meth GET uri /ready ver HTTP/1.1 hdr Host pooler
    http-check disable-on-404
    http-check expect status 200
"""


def pooler(number: int, more: str = "", peers: str = PEERS) -> str:
    return POOLER.format(number=number, more=more, peers=peers)


def inis(first: str = "", second: str = "") -> dict[str, str]:
    return {"p1.ini": first or pooler(1), "p2.ini": second or pooler(2)}


USERLIST = Path(__file__).with_name("scram_userlist.txt")

# The servers of rw, with what is said of them.
RW_DEFAULTS = """\
    default-server inter 1s fastinter 300ms fall 2 rise 2 tcp-ut 30s
    default-server on-marked-down shutdown-sessions weight 100 maxconn 90
"""
POOL_SERVERS = "weight 100 maxconn 400\n    server p1"
OUTER = """\
[databases]
a = host=192.0.2.1 port=6432
[pgbouncer]
auth_type = trust
pool_mode = transaction
listen_port = 6999
server_login_retry = 1
"""

# rule: (text to replace, its replacement, ini files)
SEEDS: list[tuple[str, str, str, dict[str, str]]] = [
    ("check-kills-full", POOL_CHECK, "    option pgsql-check user app\n", {}),
    ("check-kills-held", POOL_CHECK, ROLE_QUERY.replace(" 6b", "6b"), {}),
    ("check-kills-login", POOL_CHECK, LOGIN.replace(" 6b", "6b"), {}),
    ("no-soft-state", "    http-check disable-on-404\n", "", {}),
    ("no-check", "server n2 192.0.2.22:5432 check port 8008\n\nfrontend",
     "server n2 192.0.2.22:5432\n\nfrontend", {}),
    ("agent-alone", "check port 6480 agent-check agent-port 6481 send-proxy-v2\n\n",
     "agent-check agent-port 6481 send-proxy-v2\n\n", {}),
    ("connect-check", POOL_CHECK, "", {}),
    ("role-without-pooler", "192.0.2.21:5432 check port 8008\n    server n2",
     "192.0.2.21:6432 check port 8008\n    server n2", {}),
    ("redirect-is-success", "    http-check expect status 200\n" + RW_DEFAULTS,
     RW_DEFAULTS, {}),
    ("no-linger", "tcp-check connect linger", "tcp-check connect", {}),
    ("pgsql-user", POOL_CHECK, "    option pgsql-check user nobody\n", inis()),
    ("keeps-dead-sessions", RW_DEFAULTS,
     RW_DEFAULTS.replace("on-marked-down shutdown-sessions ", ""), {}),
    ("both-up", RW_DEFAULTS, RW_DEFAULTS.replace("fall 2 rise 2", "fall 5 rise 1"), {}),
    ("slow-detection", "timeout check 500ms", "timeout check 5s", {}),
    ("weight-one", POOL_SERVERS, POOL_SERVERS.replace("weight 100 ", ""), {}),
    ("read-empty", "    use_backend rw_readers if { nbsrv(readers) lt 1 }\n", "", {}),
    ("one-backup", "server q1 192.0.2.11:7432 check", "server q1 192.0.2.11:7432 check "
     "backup", {}),
    ("static-balance", "balance leastconn\n    option httpchk\n",
     "balance roundrobin\n    option httpchk\n", {}),
    ("no-timers", "    timeout server 8h\n", "", {}),
    ("unequal-timers", "timeout server 8h", "timeout server 9h", {}),
    ("short-timers", "timeout client 8h", "timeout client 1m", {}),
    ("connect-timeout", "timeout connect 2s", "timeout connect 30s", {}),
    ("queue-timeout", "    timeout queue 5s\n", "", {}),
    ("no-redispatch", "option redispatch 1", "no option redispatch", {}),
    ("no-maxconn", POOL_SERVERS, POOL_SERVERS.replace(" maxconn 400", ""), {}),
    ("global-maxconn", "maxconn 5000", "maxconn 500", {}),
    ("hard-stop", "hard-stop-after 8h", "hard-stop-after 30s", {}),
    ("http-mode", "listen pool\n", "listen pool\n    mode http\n", {}),
    ("open-socket", "mode 660", "mode 666", {}),
    ("no-socket", "    stats socket /run/haproxy/admin.sock mode 660 level admin\n", "",
     {}),
    ("forgets-drains", "    load-server-state-from-file global\n", "", {}),
    ("no-keepalive", "    option srvtcpka\n", "", {}),
    ("no-log", "    option tcplog\n", "", {}),
    ("no-tcp-ut", "rise 2 tcp-ut 30s", "rise 2", {}),
    ("no-fin-timers", "    timeout client-fin 30s\n", "", {}),
    ("maxconn-above-pooler", POOL_SERVERS, POOL_SERVERS.replace("400", "1000"), inis()),
    ("timer-below-pooler", "", "", inis(pooler(1, "client_idle_timeout = 40000"))),
    ("proxy-refused", "", "",
     inis(pooler(1).replace("proxy_protocol_networks = 192.0.2.1\n", ""))),
    ("proxy-untold", "6481 send-proxy-v2\n\n", "6481\n\n", inis()),
    ("cancel-lost", "", "", inis(pooler(1).replace("peer_id = 1", "peer_id = 0"))),
    ("peers-differ", "", "",
     inis(second=pooler(2, peers=PEERS.replace("2.11", "2.99")))),
    ("login-retry", "", "",
     {"b.ini": "[databases]\na = host=127.0.0.1 port=5000\n[pgbouncer]\nauth_type = "
      "trust\nlisten_port = 6999\n"}),
    ("statements-lost", "", "",
     {**inis(pooler(1, "pool_mode = transaction\nmax_prepared_statements = 0")),
      "outer.ini": OUTER}),
    ("inner-session-pool", "", "",
     {**inis(pooler(1, "default_pool_size = 2")), "outer.ini": OUTER}),
    ("waits-add-up", "", "", {**inis(), "outer.ini": OUTER}),
    ("health-login", "", "",
     inis(pooler(1, f"auth_file = {USERLIST}").replace(
         "[pybouncer]\n", "[pybouncer]\nhealth_user = h\n"))),
    ("health-unasked", POOL_CHECK,
     "    option tcp-check\n    tcp-check connect linger\n    tcp-check send-binary "
     "0000000804d2162f\n    tcp-check expect rstring ^[SN]\n", inis()),
]  # fmt: skip


@pytest.fixture
def check(tmp_path: Path, capsys):
    """Write files, check them: ``check(text, inis) -> (exit code, findings)``."""

    def run(text: str, files: dict[str, str] | None = None, *options: str):
        paths = []
        for name, content in {"haproxy.cfg": text, **(files or {})}.items():
            path = tmp_path / name
            path.write_text(content)
            paths.append(str(path))
        code = main(["check", "--json", *options, *paths])
        return code, json.loads(capsys.readouterr().out)

    return run


def test_good_configuration_is_clean(check):
    assert check(GOOD, None, "--strict") == (0, [])
    assert check(GOOD, inis(), "--strict") == (0, [])


@pytest.mark.parametrize(("name", "old", "new", "files"), SEEDS, ids=lambda v: v)
def test_seeded_mistake_is_found(check, name, old, new, files):
    assert GOOD.count(old), f"nothing to replace for {name}"
    code, found = check(GOOD.replace(old, new, 1) if old else GOOD, files)
    mine = [one for one in found if one["rule"] == name]
    assert mine, [one["rule"] for one in found]
    one = mine[0]
    assert one["line"] > 0 and Path(one["file"]).exists()
    assert one["what"] and one["why"] and one["remedy"]
    worst = {one["severity"] for one in found}
    assert code == int(bool(worst - {"note"}))


def test_every_rule_has_a_seed():
    names = {name for name, *_ in SEEDS}
    assert set(RULES) - names == {"balancers-above-pooler"}


@pytest.mark.parametrize("family", ["", "ipv4@"])
def test_several_balancers_count_together(family, tmp_path, capsys):
    text = GOOD.replace("maxconn 400", "maxconn 600")
    text = text.replace("bind *", f"bind {family}*")
    text = re.sub(r"^( +server \S+ )", rf"\g<1>{family}", text, flags=re.M)
    for name, content in {"lb1.cfg": text, "lb2.cfg": text, **inis()}.items():
        (tmp_path / name).write_text(content)
    files = [str(path) for path in sorted(tmp_path.iterdir())]
    assert main(["check", *files]) == 1
    out = capsys.readouterr().out
    assert "2 balancers send 1200 [balancers-above-pooler]" in out
    # A pair that shares an address: one of them is at work.
    for name in ("lb1.cfg", "lb2.cfg"):
        path = tmp_path / name
        path.write_text(text.replace("bind " + family + "*", "bind 192.0.2.100"))
    assert main(["check", *files]) == 0


def test_places_are_those_of_the_lines(check):
    text = GOOD.replace("timeout server 8h", "timeout server 9h")
    _, found = check(text)
    line = text.splitlines()[found[0]["line"] - 1]
    assert line.strip() == "timeout server 9h"


def test_text_for_people(tmp_path, capsys):
    path = tmp_path / "haproxy.cfg"
    path.write_text(GOOD.replace("timeout server 8h", "timeout server 9h"))
    assert main(["check", str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert re.match(rf"{path}:\d+: warning: .* \[unequal-timers\]$", lines[0])
    assert lines[1].startswith("    why: ") and lines[2].startswith("    remedy: ")
    assert lines[-1] == "0 errors, 1 warning, 0 notes"


def test_unreadable_input(tmp_path, capsys):
    assert main(["check", str(tmp_path / "none.cfg")]) == 2
    (tmp_path / "x.cfg").write_text("nothing here\n")
    assert main(["check", str(tmp_path / "x.cfg")]) == 2
    (tmp_path / "x.ini").write_text("[pgbouncer]\nfoo = 1\n")
    assert main(["check", str(tmp_path / "x.ini")]) == 2
    assert main(["check"]) == 2
    assert main(["check", "--rules"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in RULES)


# Reading haproxy.cfg


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('agent-send "rw db=app\\n" x', ["agent-send", "rw db=app\n", "x"]),
        ("a\\ b c # comment", ["a b", "c"]),
        ("a '#x' \"#y\" b#c", ["a", "#x", "#y", "b"]),
        ("a 'it\\n' \"\" b", ["a", "it\\n", "", "b"]),
        ("  ", []),
    ],
)
def test_words_are_cut_as_haproxy_does(line, words):
    assert words_of(line) == words


def test_inheritance_by_name_and_by_place():
    config = Config.parse(
        "defaults base\n timeout client 1h\n default-server inter 5s\n"
        "defaults\n timeout client 2h\n option redispatch\n"
        "listen a from base\n server s 1.2.3.4:1 check\n"
        "listen b\n no option redispatch\n default-server rise 7\n"
        " server s 1.2.3.4:1 check no-backup\n",
        "x",
    )
    a, b = config.of("listen")
    assert a.timeout("client")[0] == 3600
    assert b.timeout("client")[0] == 7200
    assert a.option("redispatch") is None and b.option("redispatch") is None
    subject = Subject([config])
    servers = {proxy.name: proxy.servers[0] for proxy in subject.proxies}
    assert servers["a"].time("inter", 2) == 5
    assert servers["b"].time("inter", 2) == 2
    assert servers["b"].number("rise", 2) == 7


def test_combined_check_is_one_of_the_pooler(check):
    text = GOOD.replace(
        POOL_CHECK,
        "    option tcp-check\n    tcp-check connect port 8008\n"
        "    tcp-check send OPTIONS\\ /primary\\ HTTP/1.0\\r\\n\\r\\n\n"
        "    tcp-check expect rstring ^HTTP/1\\.[01]\\ 200 comment role\n"
        "    tcp-check connect port 6432 linger\n"
        "    tcp-check send-binary 0000000804d2162f\n"
        "    tcp-check expect rstring ^[SN] comment pooler\n",
    ).replace("check port 6480", "check")
    assert check(text, None, "--strict") == (0, [])
    proxy = next(p for p in Subject([Config.parse(text, "x")]).proxies)
    assert (proxy.check.kind, proxy.role) == ("ssl", "write")


def test_web_proxies_are_left_alone(check):
    web = "\nlisten web\n mode http\n bind *:80\n server w 192.0.2.1:80\n"
    assert check(GOOD + web, None, "--strict") == (0, [])


def test_soft_login_check_is_accepted(check):
    soft = LOGIN.replace(" 6b", "6b").replace(
        "    tcp-check expect rbinary",
        "    tcp-check expect ! rstring C57P0 error-status L7OKC\n"
        "    tcp-check expect rbinary",
    )
    assert check(GOOD.replace(POOL_CHECK, soft))[0] == 0


def test_captured_layouts_have_no_errors():
    layouts = Path(__file__).parents[1] / "recordings" / "haproxy" / "layouts"
    for path in sorted(layouts.glob("*.cfg")):
        found = findings(Subject([Config.read(str(path))]))
        assert not [one for one in found if one.severity == "error"], path


def test_configuration_without_proxies_is_no_configuration():
    with pytest.raises(HAError):
        Config.parse("global\n maxconn 1\n", "x")
