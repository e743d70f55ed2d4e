"""What the linter's rules say of a line, and of which lines they must say nothing.

`test_lint.py` shows that each rule finds its mistake; here stand the lines on both
sides of a rule's edge. The good configuration and its poolers are those of there.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ha.lint import findings, read
from tests.ha.test_lint import (
    GOOD,
    OUTER,
    POOL_CHECK,
    POOL_SERVERS,
    TIMERS,
    inis,
    pooler,
)

SOCKET = "stats socket /run/haproxy/admin.sock mode 660 level admin"
WEIGHTS = "weight 100 maxconn 90\n    server n1 192.0.2.21:5432 check port 8008\n"


def said(name: str, text: str, files: dict[str, str], directory: Path) -> list[str]:
    """What the rule *name* says of a haproxy.cfg and ini files."""
    paths = []
    for file, content in {"haproxy.cfg": text, **files}.items():
        (directory / file).write_text(content)
        paths.append(str(directory / file))
    found = [one for one in findings(read(paths)) if one.rule == name]
    return [one.what.replace(f"{directory}/", "") for one in found]


def changed(old: str, new: str) -> str:
    """The good configuration with another line."""
    assert old in GOOD
    return GOOD.replace(old, new, 1)


# Words of a line


@pytest.mark.parametrize(
    ("check", "what"),
    [
        ("pgsql-check", ["pool: pgsql-check without a user"]),
        # A name is missing: the rule broke on it (IndexError).
        ("pgsql-check user", ["pool: pgsql-check without a user"]),
        ("pgsql-check uses app", ["pool: pgsql-check without a user"]),
        ("pgsql-check user app", []),
        ("pgsql-check user pgbouncer", []),
        ("pgsql-check user nobody", ["pool: p1.ini has no database 'nobody'",
                                     "pool: p2.ini has no database 'nobody'"]),
    ],
)  # fmt: skip
def test_pgsql_check_needs_a_user_that_is_a_database(
    check: str, what: list[str], tmp_path: Path
) -> None:
    text = changed(POOL_CHECK, f"    option {check}\n")
    assert said("pgsql-user", text, inis(), tmp_path) == what


def test_pgsql_check_with_any_user_is_well_before_automatic_databases(
    tmp_path: Path,
) -> None:
    text = changed(POOL_CHECK, "    option pgsql-check user nobody\n")
    files = {
        name: ini.replace("[databases]\n", "[databases]\n* = host=db.example\n")
        for name, ini in inis().items()
    }
    assert said("pgsql-user", text, files, tmp_path) == []


NETWORK, USERS = "the network", "every user of the host"


@pytest.mark.parametrize(
    ("socket", "open_to"),
    [
        ("192.0.2.1:9999 level admin", NETWORK),
        (":9999 level admin", NETWORK),
        ("*:9999 level admin", NETWORK),
        ("[2001:db8::1]:9999 level admin", NETWORK),
        ("db.example:9999 level admin", NETWORK),
        ("127.0.0.1:9999 level admin", None),
        ("[::1]:9999 level admin", None),
        ("localhost:9999 level admin", None),
        # The kind of an address may be said: those were never reported.
        ("ipv4@192.0.2.1:9999 level admin", NETWORK),
        ("ipv4@*:9999 level admin", NETWORK),
        ("ipv6@[::]:9999 level admin", NETWORK),
        ("tcp@192.0.2.1:9999 level admin", NETWORK),
        ("tcp4@192.0.2.1:9999 level admin", NETWORK),
        ("tcp6@[2001:db8::1]:9999 level admin", NETWORK),
        ("ipv4@127.0.0.1:9999 level admin", None),
        ("tcp6@::1:9999 level admin", None),
        ("fd@5 level admin", None),
        ("192.0.2.1:9999 level operator", None),
        ("192.0.2.1:9999", None),
        ("/run/a.sock mode 660 level admin", None),
        ("/run/a.sock level admin", None),
        ("/run/a.sock level admin mode", None),
        ("unix@/run/a.sock mode 660 level admin", None),
        ("abns@admin level admin", None),
        ("/run/a.sock mode 666 level admin", USERS),
        ("/run/a.sock level admin mode 662", USERS),
        ("unix@/run/a.sock mode 777 level admin", USERS),
        ("/run/a.sock mode 664 level admin", None),
        ("/run/a.sock mode 666 level user", None),
    ],
)
def test_stats_socket_is_open_to_those_who_can_reach_it(
    socket: str, open_to: str | None, tmp_path: Path
) -> None:
    """A socket on TCP was no longer reported, and no test noticed."""
    text = changed(SOCKET, f"stats socket {socket}")
    place = socket.split()[0]
    expected = [f"stats socket {place} is open to {open_to}"] if open_to else []
    assert said("open-socket", text, {}, tmp_path) == expected


def test_stats_socket_without_a_place_is_no_open_one(tmp_path: Path) -> None:
    assert said("open-socket", changed(SOCKET, "stats socket"), {}, tmp_path) == []


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("balance roundrobin", ["pool: balance roundrobin"]),
        ("balance", ["pool: balance roundrobin"]),
        ("option tcpka", ["pool: balance roundrobin"]),
        ("balance source", ["pool: balance source"]),
        ("balance first", []),
        ("balance leastconn", []),
    ],
)
def test_balance_that_does_not_count_sessions_is_noted(
    line: str, what: list[str], tmp_path: Path
) -> None:
    text = changed("    balance leastconn\n", f"    {line}\n")
    assert said("static-balance", text, {}, tmp_path) == what


@pytest.mark.parametrize(
    ("line", "what"),
    [("mode", []), ("mode tcp", []), ("mode http", ["pool: mode http"])],
)
def test_only_a_mode_that_is_said_is_http(
    line: str, what: list[str], tmp_path: Path
) -> None:
    text = changed("listen pool\n", f"listen pool\n    {line}\n")
    assert said("http-mode", text, {}, tmp_path) == what


# Edges of a figure


@pytest.mark.parametrize(
    ("rule", "old", "new", "what"),
    [
        ("hard-stop", "after 8h", "after 30m", []),
        ("hard-stop", "after 8h", "after 1799s", ["hard-stop-after 1799 s"]),
        ("hard-stop", "after 8h", "after", []),
        ("short-timers", "timeout client 8h", "timeout client 30m", []),
        ("short-timers", "timeout client 8h", "timeout client 1799s",
         ["timeout client 1799 s"]),
        ("short-timers", "timeout server 8h", "timeout server 1799s",
         ["timeout server 1799 s"]),
        ("connect-timeout", "timeout connect 2s", "timeout connect 5s", []),
        ("connect-timeout", "timeout connect 2s", "timeout connect 5001ms",
         ["timeout connect 5.001 s"]),
        ("queue-timeout", "timeout queue 5s", "timeout queue 30s", []),
        ("queue-timeout", "timeout queue 5s", "timeout queue 31s",
         ["timeout queue 31 s"]),
        # pool 2 x 400, rw and readers 2 x 90 each, inband 2 x 400.
        ("global-maxconn", "maxconn 5000", "maxconn 1960", []),
        ("global-maxconn", "maxconn 5000", "maxconn 1959",
         ["maxconn 1959, servers take 1960"]),
        ("global-maxconn", "maxconn 5000", "maxconn", []),
        ("weight-one", "weight 100 maxconn 400\n    server p1",
         "weight 20 maxconn 400\n    server p1", []),
        ("weight-one", "weight 100 maxconn 400\n    server p1",
         "weight 19 maxconn 400\n    server p1",
         ["pool/p1: weight 19 with agent-check",
          "pool/p2: weight 19 with agent-check"]),
        ("weight-one", WEIGHTS, WEIGHTS.replace("weight 100", "weight 1"), []),
        ("weight-one", WEIGHTS, WEIGHTS.replace("weight 100", "weight 1 slowstart 9s"),
         ["rw/n1: weight 1 with slowstart", "rw/n2: weight 1 with slowstart"]),
        # inter 1 s + fall 2 x timeout check + fastinter 0.3 s
        ("slow-detection", "timeout check 500ms", "timeout check 1850ms", []),
        ("slow-detection", "timeout check 500ms", "timeout check 1900ms",
         [f"{name}: a hung process is found after up to 5.1 s"
          for name in ("pool/p1", "rw/n1", "readers/n1", "inband/q1")]),
        # Out after fall x fastinter, the next in after (rise - 1) x fastinter + inter.
        ("both-up", "fall 2 rise 2 tcp-ut 30s\n    default-server on-marked-down "
         "shutdown-sessions weight 100 maxconn 90", "fall 4 rise 1 fastinter 250ms\n"
         "    default-server on-marked-down shutdown-sessions weight 100 maxconn 90",
         []),
        ("both-up", "fall 2 rise 2 tcp-ut 30s\n    default-server on-marked-down "
         "shutdown-sessions weight 100 maxconn 90", "fall 5 rise 1 fastinter 250ms\n"
         "    default-server on-marked-down shutdown-sessions weight 100 maxconn 90",
         ["rw/n1: leaves after 1.25 s, the next enters after 1 s"]),
    ],
)  # fmt: skip
def test_rule_speaks_on_one_side_of_its_edge(
    rule: str, old: str, new: str, what: list[str], tmp_path: Path
) -> None:
    assert said(rule, changed(old, new), {}, tmp_path) == what


MAXCONN = "p1: maxconn 1000, max_client_conn 1000 in p1.ini"


@pytest.mark.parametrize(
    ("maxconn", "what"),
    [(999, []), (1000, [f"pool/{MAXCONN}", f"pool/{MAXCONN.replace('p1', 'p2')}"])],
)
def test_maxconn_stays_below_max_client_conn(
    maxconn: int, what: list[str], tmp_path: Path
) -> None:
    text = changed(POOL_SERVERS, POOL_SERVERS.replace("400", str(maxconn)))
    assert said("maxconn-above-pooler", text, inis(), tmp_path) == what


@pytest.mark.parametrize("setting", TIMERS)
def test_every_timer_of_the_pooler_is_below_haproxys(
    setting: str, tmp_path: Path
) -> None:
    for value, wrong in ((28799, False), (28800, True)):
        ini = pooler(1).replace("query_wait_timeout = 60", f"{setting} = {value}")
        expected = [
            f"timeout {side} 28800 s, {setting} 28800 s in p1.ini"
            for side in ("client", "server")
        ]
        told = said("timer-below-pooler", GOOD, inis(ini), tmp_path)
        assert told == (expected if wrong else []), value


# Poolers among each other


def test_each_pooler_has_a_number_of_its_own(tmp_path: Path) -> None:
    both = inis(second=pooler(2).replace("peer_id = 2", "peer_id = 1"))
    assert said("cancel-lost", GOOD, both, tmp_path) == [
        "peer_id 1 is also that of p1.ini"
    ]
    short = inis(second=pooler(2, peers="2 = host=192.0.2.12 port=6432\n"))
    assert said("cancel-lost", GOOD, short, tmp_path) == ["[peers] lacks 1"]


@pytest.mark.parametrize(("sessions", "pool", "what"), [
    ("session", 19, ["session pools of 19 behind pools of 20"]),
    ("session", 20, []),
    ("transaction", 19, []),
])  # fmt: skip
def test_session_pool_behind_a_larger_pool_is_too_small(
    sessions: str, pool: int, what: list[str], tmp_path: Path
) -> None:
    inner = pooler(1, f"pool_mode = {sessions}\ndefault_pool_size = {pool}")
    files = {"p1.ini": inner, "outer.ini": OUTER}
    assert said("inner-session-pool", GOOD, files, tmp_path) == what


@pytest.mark.parametrize(
    ("hop", "lacking"),
    [
        ("", ["0 in the cascade outer.ini -> p1.ini"]),
        ("pool_mode = session", []),
        ("pool_mode = session\nmax_prepared_statements = 0", []),
    ],
)
def test_hop_in_session_mode_need_not_track_statements(
    hop: str, lacking: list[str], tmp_path: Path
) -> None:
    inner = hop or "pool_mode = transaction\nmax_prepared_statements = 0"
    files = {"p1.ini": pooler(1, inner), "outer.ini": OUTER}
    told = said("statements-lost", GOOD, files, tmp_path)
    assert told == [f"max_prepared_statements {one}" for one in lacking]


@pytest.mark.parametrize(
    ("outer", "inner", "what"),
    [
        (60, 30, ["query_wait_timeout 60 s here and 30 s in p1.ini"]),
        (0, 30, []),
        (60, 0, []),
    ],
)
def test_waits_add_up_only_where_both_hops_wait(
    outer: int, inner: int, what: list[str], tmp_path: Path
) -> None:
    ini = pooler(1).replace("query_wait_timeout = 60", f"query_wait_timeout = {inner}")
    files = {"p1.ini": ini, "outer.ini": OUTER + f"query_wait_timeout = {outer}\n"}
    assert said("waits-add-up", GOOD, files, tmp_path) == what
