"""Every capture of a real HAProxy 2.6.12 reads as what it says."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ha.errors import CutAnswer, HAProxyError, NoAnswer, Refused
from ha.haproxy import (
    HAProxy,
    SocketServer,
    Status,
    parse_info,
    parse_processes,
    parse_servers_state,
    sanitize,
)
from ha.transport import Endpoint, checked, verdict
from ha.watch import COLUMNS, HAProxyWatch

CAPTURES = Path(__file__).parents[1] / "recordings" / "haproxy"
HERE = Endpoint.parse("/run/haproxy/admin.sock")

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow")


def capture(name: str) -> str:
    # The recorder's mark where HAProxy did not close by itself.
    return (CAPTURES / name).read_text().removesuffix("<connection held open>\n")


def rows(name: str):
    server = SocketServer(HERE, lambda: capture(name))
    return {(row.proxy, row.name): row for row in server.rows()}


CSV = [
    ("show_stat_csv.csv", 26),
    ("show_stat_csv_startup.csv", 26),
    ("show_stat_states.csv", 9),
    ("show_stat_states2.csv", 9),
    ("show_stat_slowstart.csv", 5),
    ("show_stat_after_forced_down.csv", 5),
    ("show_stat_no_maint.csv", 23),
    ("show_stat_up.csv", 17),
    ("show_stat_be_rw_servers.csv", 3),
    ("show_stat_frontends.csv", 4),
]


@pytest.mark.parametrize(("name", "count"), CSV)
def test_show_stat_gives_every_row_in_order(name, count):
    text = capture(name)
    found = rows(name)
    assert len(found) == count
    keys = [tuple(line.split(",")[:2]) for line in text.splitlines()[1:] if line]
    assert list(found) == keys


@pytest.mark.parametrize(("name", "count"), CSV)
def test_every_status_of_the_captures_is_understood(name, count):
    for row in rows(name).values():
        assert row.status.word in row.status.text
        assert row.status.word in (
            "UP", "DOWN", "NOLB", "DRAIN", "MAINT", "no check", "OPEN"
        ), row  # fmt: skip


def test_capture_in_detail():
    found = rows("show_stat_csv.csv")
    server = found["poolers", "p2"]
    assert server.kind == "server"
    assert server.status == Status("DOWN (agent)", "DOWN", source="agent")
    assert server.address == "127.0.0.1:6902"
    assert server.columns["mode"] == "tcp"
    agent = 'via agent : down (lag 912 MB; "apply" paused)'
    assert server.last_agent == agent
    assert not server.usable
    drained = found["poolers", "p1"]
    assert drained.status.text == "DRAIN (agent)"
    weightless = found["be_ro", "pg-c"]
    assert (weightless.status.text, weightless.weight) == ("UP", 0)
    assert not weightless.usable
    assert found["be_ro", "pg-b"].usable
    assert found["fe_rw", "FRONTEND"].usable
    assert found["be_rw", "BACKEND"].active == 1
    assert found["be_rw", "pg-a"].session_limit == 200
    assert found["poolers", "p4"].last_check == "Connection refused"


def test_more_states():
    found = rows("show_stat_states.csv")
    assert found["pool", "soft"].status.word == "NOLB"
    assert (found["pool", "soft"].check_status, found["pool", "soft"].check_code) == (
        "L7OKC",
        404,
    )
    flappy = found["pool", "flappy"].status
    assert (flappy.word, flappy.have, flappy.need) == ("UP", 1, 3)
    assert found["pool", "named"].status.source == "resolution"
    second = rows("show_stat_states2.csv")
    assert second["tr", "t_cli"].status.source == "via pool/clidrain"
    assert Status.parse("UP (2/3)").need == 3
    assert Status.parse("something new").word == "something new"


def test_servers_state_separates_orders_from_health():
    states = parse_servers_state(capture("show_servers_state_states.txt"), "x")
    forced = {f"{s.backend}/{s.name}": s.forced for s in states}
    assert forced == {
        "pool/soft": "",
        "pool/clidrain": "drain",
        "pool/flappy": "",
        "pool/named": "",
        "tr/t_soft": "",
        "tr/t_cli": "",
    }
    everything = parse_servers_state(capture("show_servers_state.txt"), "x")
    assert {f"{s.backend}/{s.name}" for s in everything if s.forced == "maint"} >= {
        "poolers/p5"
    }
    assert len(parse_servers_state(capture("show_servers_state_be_ro.txt"), "x")) == 3
    second = parse_servers_state(capture("show_servers_state_states2.txt"), "x")
    assert len(second) == 6


@pytest.mark.parametrize("name", ["show_info.txt", "show_info_float.txt"])
def test_show_info(name):
    info = parse_info(capture(name), "x")
    assert info["Pid"] == "5255"
    assert info["Build info"] == "2.6.12-1+deb12u4"
    assert info["Unstoppable Jobs"] == "1"
    assert info["description"] == "lab-layout"
    assert info["Stopping"] == "0"
    assert len(info) >= 68


def test_show_info_through_the_master():
    assert parse_info(capture("master_at1_show_info.txt"), "x")["Name"] == "HAProxy"
    assert len(rows("master_at1_show_stat.txt")) == 4


def test_all_workers_are_found_after_a_reload():
    assert parse_processes(capture("master_show_proc.txt"), "x") == [5255]
    text = capture("master_show_proc_after_reload.txt")
    assert parse_processes(text, "x") == [6831, 5255]


def command_replies() -> list[tuple[str, str, str]]:
    """Level, command and reply of each recorded command."""
    parts = re.split(
        r"^## \[(\w+)\] (.*)\n", capture("command_replies.txt"), flags=re.M
    )
    return list(zip(parts[1::3], parts[2::3], parts[3::3], strict=True))


DONE = (
    "New server registered.",
    "Server deleted.",
    "no need to change",
    "IP changed from",
)


@pytest.mark.parametrize(("level", "command", "reply"), command_replies())
def test_recorded_reply_is_taken_as_done_or_refused(level, command, reply):
    text = reply.strip()
    if not command.startswith(
        ("set server", "set weight", "set maxconn", "enable", "disable", "add server",
         "del server", "shutdown", "clear")
    ):  # fmt: skip
        return
    if not text or text.startswith(DONE):
        assert verdict("x", reply) == text
    else:
        with pytest.raises(Refused) as caught:
            verdict("x", reply)
        assert caught.value.text in text


def test_severities_tell_errors_from_warnings():
    for line in capture("severity_replies.txt").splitlines():
        if line.startswith("[3]: "):
            with pytest.raises(Refused, match=re.escape("No such server.")):
                verdict("x", line + "\n\n")
        elif line.startswith("[4]: "):
            assert verdict("x", line).startswith("no need to change")


@pytest.mark.parametrize(
    "name", ["unknown_command.txt", "unknown_command2.txt", "master_bad_worker.txt"]
)
def test_unknown_commands_are_refused_with_one_line(name):
    with pytest.raises(Refused) as caught:
        verdict("x", capture(name))
    assert "\n" not in caught.value.text


def test_refused_show_stat_is_an_error_not_an_empty_world():
    with pytest.raises(Refused, match="Invalid statistics domain"):
        sanitize(capture("show_stat_domain_dns.csv"), "x")
    with pytest.raises(CutAnswer, match="not the output of `show stat`"):
        # Statistics of resolvers: a table, but another one.
        sanitize(capture("show_stat_domain_bad.txt"), "x")


@pytest.mark.parametrize(
    "name",
    [
        "show_sess.txt", "show_table_st_src.txt", "show_stat_typed.txt", "help.txt",
        "show_backend.txt", "show_stat_json.json", "http_stats_csv.csv",
    ],
)  # fmt: skip
def test_other_texts_are_no_show_stat(name):
    with pytest.raises(HAProxyError):
        sanitize(capture(name), "x")


# The nine traps of haproxy-stats 1.5


def test_trap_one_quoted_commas_do_not_move_columns():
    text = capture("show_stat_csv.csv")
    assert '"via agent : down (lag 912 MB, ""apply"" paused)"' in text
    server = SocketServer(HERE, lambda: text)
    p2 = next(one for one in server.listeners if one.svname == "p2")
    assert (p2.addr, p2.mode, p2.iid) == ("127.0.0.1:6902", "tcp", 8)


def test_trap_two_numbers_and_names_have_their_own_types():
    text = capture("show_stat_states.csv").replace("pool,clidrain,", "pool,007,")
    text = text.replace("pool,flappy,", "pool,²,")
    found = {row.name: row for row in SocketServer(HERE, lambda: text).rows()}
    assert found["007"].name == "007"
    assert found["²"].columns["lastsess"] == "-1"
    assert found["soft"].session_limit is None
    assert found["soft"].since_change == 1


def test_trap_three_a_failure_is_not_remembered():
    answers = ["Permission denied\n\n", capture("show_stat_states.csv")]
    haproxy = HAProxy("/nowhere")
    haproxy.asked = lambda endpoint, command: answers.pop(0)
    with pytest.raises(Refused, match="Permission denied"):
        haproxy.picture()
    assert len(haproxy.picture().rows) == 9


@pytest.mark.parametrize(
    "text",
    ["", "\n", "Permission denied\n\n", "<html></html>\n", "# pxname,\n"],
)
def test_trap_four_nothing_and_error_texts_are_errors(text):
    with pytest.raises(HAProxyError):
        SocketServer(HERE, lambda: text)


@pytest.mark.parametrize("cut", [1, 2, 300, 1800, 5000, 7000])
def test_half_an_answer_is_an_error(cut):
    text = capture("show_stat_csv.csv")
    with pytest.raises(CutAnswer):
        SocketServer(HERE, lambda: text[:-cut])


def test_trap_five_readers_never_see_an_empty_world():
    haproxy = HAProxy("/nowhere")
    watch = HAProxyWatch([haproxy])
    haproxy.asked = lambda endpoint, command: capture("show_stat_states.csv")
    before = watch.rows_now()
    seen_meanwhile = []

    def fetch(endpoint, command):
        seen_meanwhile.extend(watch.table())
        raise NoAnswer("x", "gone")

    haproxy.asked = fetch
    watch.seen[haproxy].error = "look again"
    after = watch.rows_now()
    assert len(seen_meanwhile) == len(before) == len(after) == 9
    assert {row[-1] for row in after} == {"gone"}


def test_trap_six_listeners_are_not_servers():
    found = rows("show_stat_csv.csv")
    assert not [row for row in found.values() if row.kind == "listener"]
    text = capture("show_stat_states.csv")
    line = next(x for x in text.splitlines() if x.startswith("pool,soft,"))
    cells = line.split(",")
    cells[1], cells[32] = "sock-1", "3"
    text = text.replace(line, ",".join(cells) + "\n" + line)
    kinds = {r.name: r.kind for r in SocketServer(HERE, lambda: text).rows()}
    assert (kinds["sock-1"], kinds["soft"]) == ("listener", "server")
    # A filtered dump has no BACKEND row; its servers are there all the same.
    filtered = rows("show_stat_be_rw_servers.csv")
    assert [row.kind for row in filtered.values()] == ["server"] * 3


def test_trap_seven_importing_leaves_logging_alone():
    script = (
        "import logging\n"
        "root = logging.getLogger()\n"
        "before = list(root.handlers), root.level\n"
        "import ha.haproxy\n"
        "assert (list(root.handlers), root.level) == before, root.handlers\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert logging.getLogger().level is not None


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("/run/haproxy/admin.sock", "admin.sock"),
        ("unix:/run/a:b.sock", "a:b.sock"),
        ("127.0.0.1:9999", "127.0.0.1-9999"),
        ("[::1]:9999", "__1-9999"),
        ("abns@ha", "ha"),
    ],
)
def test_trap_eight_a_socket_has_a_name_without_slashes(text, label):
    assert Endpoint.parse(text).label == label


def test_trap_nine_status_and_check_are_taken_apart():
    text = capture("show_stat_states.csv").replace(",L7OKC,404,", ",* L7OKC,404,")
    found = {row.name: row for row in SocketServer(HERE, lambda: text).rows()}
    assert (found["soft"].check_status, found["soft"].check_running) == ("L7OKC", True)
    assert not found["clidrain"].check_running


# Words that reach an admin socket


@pytest.mark.parametrize(
    "word", ["a;b", "a\\b", "a\nb", "a<<b", "", " a", "a b", "a\tb", "a\0"]
)
def test_words_that_could_end_a_command_are_refused(word):
    with pytest.raises(HAProxyError):
        checked(word)
    haproxy = HAProxy("/nowhere")
    for pair in ((word, "s"), ("b", word)):
        with pytest.raises(HAProxyError, match="cannot be used"):
            haproxy.set_state(*pair, "drain")


@pytest.mark.parametrize("text", ["nowhere", "host:", "host:0", "host:65536", "h:²"])
def test_place_that_is_no_socket_is_refused(text):
    with pytest.raises(HAProxyError):
        Endpoint.parse(text)


def test_table_has_a_cell_for_each_column():
    haproxy = HAProxy("/nowhere")
    haproxy.asked = lambda endpoint, command: capture("show_stat_csv.csv")
    for row in HAProxyWatch([haproxy]).rows_now():
        for cell, (name, kind) in zip(row, COLUMNS, strict=True):
            wanted = str if kind == "text" else int
            assert cell is None or isinstance(cell, wanted), name
