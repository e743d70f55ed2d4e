"""What SHOW writes for raw rows."""

from dataclasses import replace
from typing import Any

import pytest

from admin.show import TOPICS
from bouncer import __version__
from tests.unit.admin.talking import (
    SYNC,
    Conversation,
    FakeApp,
    bind,
    console,
    describe,
    execute,
    parse,
    socket_row,
)

# monitoring.md section 2: positional and strict readers count these.
WIDTHS = {
    "STATS": 25,
    "STATS_TOTALS": 13,
    "STATS_AVERAGES": 13,
    "TOTALS": 2,
    "POOLS": 17,
    "PEER_POOLS": 5,
    "LISTS": 2,
    "USERS": 8,
    "DATABASES": 17,
    "PEERS": 4,
    "CLIENTS": 21,
    "SERVERS": 21,
    "SOCKETS": 28,
    "ACTIVE_SOCKETS": 28,
    "CONFIG": 4,
    "MEM": 5,
    "DNS_HOSTS": 3,
    "DNS_ZONES": 3,
    "STATE": 2,
    "VERSION": 1,
    "FDS": 15,
    "PYBOUNCER": 5,
}


def rows(messages: list[dict[str, Any]]) -> list[list[Any]]:
    return [m["values"] for m in messages if m["msg"] == "DataRow"]


def test_every_topic_has_its_width() -> None:
    assert {name: len(topic.shape) for name, topic in TOPICS.items()} == WIDTHS


@pytest.mark.parametrize("name", sorted(WIDTHS))
def test_rows_are_as_wide_as_announced(name: str) -> None:
    got = console().ask(f"SHOW {name}")
    assert got[0]["msg"] == "RowDescription"
    assert {len(row) for row in rows(got)} <= {WIDTHS[name]}
    # Numbers are plain digits wherever a number is announced.
    for row in rows(got):
        for value, field in zip(row, got[0]["fields"], strict=True):
            if field["type_oid"] in (20, 23, 1700) and value is not None:
                assert value.lstrip("-").isdigit(), (field["name"], value)


def test_waits_are_cut_into_seconds_and_the_rest() -> None:
    app = FakeApp()
    app.clients = [socket_row(wait=3_000_017, ptr=0xAB, link=0xCD)]
    row = rows(Conversation(app).ask("SHOW CLIENTS"))[0]
    assert row[11:16] == ["3", "17", "0", "0xab", "0xcd"]
    pool = rows(console().ask("SHOW POOLS"))[0]
    assert pool[13:15] == ["12", "13"]


def test_times_are_local_with_their_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        row = rows(console().ask("SHOW CLIENTS"))[0]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert row[9] == "2023-11-14 23:13:20 CET"


def test_time_that_is_unset_shows_as_now() -> None:
    import time

    before = int(time.time())
    row = rows(console().ask("SHOW CLIENTS"))[0]
    shown = time.mktime(time.strptime(row[10][:19], "%Y-%m-%d %H:%M:%S"))
    assert before <= shown <= time.time()


def test_users_without_sizes_of_their_own_have_empty_ones() -> None:
    """1.25.2 repeated those of the row above."""
    got = rows(console().ask("SHOW USERS"))
    assert [row[1:3] for row in got] == [
        ["", ""],
        ["        3", "        1"],
        ["", "        7"],
        ["", ""],
    ]


def test_active_sockets_are_the_asking_console_and_those_with_data() -> None:
    app = FakeApp()
    assert [row[20] for row in rows(Conversation(app).ask("SHOW ACTIVE_SOCKETS"))] == [
        "1",
        "1",
    ]
    app.socket_rows = lambda: [  # type: ignore[method-assign]
        socket_row(id=1),
        socket_row(id=2),
        socket_row(id=3, pkt_avail=7),
    ]
    got = rows(Conversation(app).ask("SHOW ACTIVE_SOCKETS"))
    assert [row[20] for row in got] == ["1", "3"]


def test_dns_hosts_list_addresses_with_port_zero() -> None:
    assert rows(console().ask("SHOW DNS_HOSTS")) == [
        ["db.example", "7", "10.0.0.1:0,[::1]:0"],
        ["x", "0", ""],
    ]


def test_mem_multiplies() -> None:
    assert rows(console().ask("SHOW MEM")) == [["user_cache", "100", "3", "47", "5000"]]


def test_totals_name_their_counters_in_order() -> None:
    got = rows(console().ask("SHOW TOTALS"))
    assert len(got) == 24
    assert got[0] == ["total_server_assignment_count", "1"]
    assert got[3] == ["total_client_bytes", "4"]
    assert got[11] == ["total_client_login_count", "12"]
    assert got[12] == ["avg_server_assignment_count", "101"]
    assert got[23] == ["avg_client_login_count", "112"]


def test_stats_split_into_totals_and_averages() -> None:
    talk = console()
    numbers = [str(number) for number in range(1, 13)]
    assert rows(talk.ask("SHOW STATS_TOTALS"))[0] == ["bench", *numbers]
    averages = [str(number) for number in range(101, 113)]
    assert rows(talk.ask("SHOW STATS_AVERAGES"))[0] == ["bench", *averages]
    assert rows(talk.ask("SHOW STATS"))[0] == ["bench", *numbers, *averages]


def test_names_of_any_bytes_come_out_as_they_are() -> None:
    app = FakeApp()
    app.clients = [socket_row(user="\udcff\udcfe")]
    assert rows(Conversation(app).ask("SHOW CLIENTS"))[0][1] == b"\xff\xfe"


@pytest.mark.regression(118)
def test_help_is_that_of_the_original_and_ours_stands_apart() -> None:
    got = console().ask("SHOW HELP")
    assert [message["msg"] for message in got] == [
        "NoticeResponse",
        "CommandComplete",
        "ReadyForQuery",
    ]
    fields = dict(got[0]["fields"])
    assert fields["M"] == "Console usage"
    lines = fields["D"].split("\n\t")
    assert lines[0] == ""
    assert lines[1].startswith("SHOW HELP|CONFIG|DATABASES|POOLS")
    assert lines[-1] == "WAIT_CLOSE [<db>]"
    assert "PYBOUNCER" not in fields["D"]
    for text in ("SHOW PYBOUNCER HELP", " show  pybouncer\nhelp ; "):
        told = dict(console().ask(text)[0]["fields"])["D"].split("\n\t")
        assert {"SHOW PYBOUNCER", "SHOW FDS", "SUSPEND"} < set(told)
        assert any(line.startswith("SELECT <columns> FROM clients") for line in told)


def test_show_pybouncer_tells_our_settings_and_where_they_were_set() -> None:
    app = FakeApp()
    app.settings = replace(app.settings, show_columns="1.25")
    app.config.sources["show_columns"] = "x.ini:7"
    got = {row[0]: row[1:] for row in rows(Conversation(app).ask("SHOW PYBOUNCER"))}
    assert got["version"] == [__version__, None, None, None]
    assert got["uptime"][0].isdigit()
    assert got["show_columns"] == ["1.25", "1.26", "x.ini:7", "RELOAD"]
    assert got["workers"] == ["1", "1", None, "restart"]
    assert "pool_mode" not in got


OLD_WIDTHS = {"STATS": 23, "STATS_TOTALS": 12, "STATS_AVERAGES": 12}


@pytest.mark.parametrize("extended", [False, True])
def test_show_columns_1_25_leaves_the_counts_of_logins_out(extended: bool) -> None:
    """pgbouncer_fdw 1.4.0 and two exporters break on columns that they do not know."""
    app = FakeApp()
    app.settings = replace(app.settings, show_columns="1.25")
    for name, width in WIDTHS.items():
        talk = Conversation(app)
        if extended:
            got = talk.send(
                parse(f"SHOW {name}"), bind(), describe("P"), execute(), SYNC
            )
        else:
            got = talk.ask(f"SHOW {name}")
        shape = next(m["fields"] for m in got if m["msg"] == "RowDescription")
        assert len(shape) == OLD_WIDTHS.get(name, width)
        assert {len(row) for row in rows(got)} <= {len(shape)}
        assert not [one for one in shape if "login_count" in one["name"]]
        if name == "TOTALS":
            assert len(rows(got)) == 22
            assert "login_count" not in str(rows(got))
    averages = rows(Conversation(app).ask("SHOW STATS_AVERAGES"))[0]
    assert averages == ["bench", *map(str, range(101, 112))]
    selected = Conversation(app).ask("SELECT total_client_login_count FROM stats")
    assert rows(selected)[0] == ["12"]
