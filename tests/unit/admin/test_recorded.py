"""Recorded conversations of PgBouncer's console that need no server, at unit level.

The whole program is compared by tests/compat; here it is only the talk, in
milliseconds, with the configuration of the recording and an idle application.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.compat.renewed import renewed
from tests.unit.admin.talking import Conversation, configured

RECORDINGS = Path(__file__).parents[2] / "recordings" / "admin_golden.json"
GOLDEN = json.loads(RECORDINGS.read_text())
# What 1.26 dropped and we keep.
KEPT = json.loads(RECORDINGS.with_name("admin_restart_1_25.json").read_text())
GOLDEN["cases"] += renewed(KEPT["cases"])

GROUPS = ("grammar.", "set.", "cmd.", "show.fake.", "show.notfaked.", "protocol.")
SINGLE = (
    "show.version.admin",
    "show.version.stats",
    "show.config.admin",
    "show.config.stats",
    "show.fds.stats",
    "show.state.paused",
    "show.state.suspended",
    "scenario.pause_repeat",
    "scenario.pause_db_and_global",
    "scenario.autodb",
)

# Not copied, or needs more than a talk; docs/compatibility.md says which is which.
LEFT_OUT = {
    "protocol.split_body": "a cut message is put together, not refused",
    "protocol.split_header": "the relay puts messages together",
    "protocol.cancel_bad_key": "no console is involved",
} | {
    f"protocol.{name}": "the extended protocol is spoken"
    for name in (
        "parse",
        "parse_bind_describe_execute_sync",
        "parse_named_sync",
        "bind",
        "describe_portal",
        "describe_statement",
        "execute",
        "sync",
        "flush",
        "close_unnamed",
        "parse_describe_flush",
    )
}

LEFT_OUT |= {
    f"grammar.{name}": "comments are no words, nothing is an empty query"
    for name in (
        "empty",
        "semicolon",
        "blank",
        "two_semicolons",
        "line_comment",
        "lead_comment",
        "block_comment",
    )
}
LEFT_OUT |= dict.fromkeys(
    (
        *("grammar.multi", "grammar.multi_trailing", "grammar.select_1"),
        *("grammar.select_fn", "grammar.begin", "grammar.commit"),
        *("grammar.rollback", "grammar.start_tx", "grammar.discard_all"),
        *("grammar.deallocate", "grammar.reset_all", "set.admin.local"),
        *("set.admin.time_zone", "set.admin.names", "set.admin.search_path"),
        *("set.admin.appname", "set.stats.appname", "set.admin.stmt_timeout"),
        *("show.notfaked.server_version", "show.notfaked.transaction_isolation"),
        *("show.notfaked.application_name", "show.notfaked.is_superuser"),
    ),
    "what drivers say to any PostgreSQL is answered",
)
LEFT_OUT |= dict.fromkeys(
    ("grammar.len451", "protocol.big_query_4091"),
    "what is quoted is shortened, and the session goes on",
)

CASES = [
    case
    for case in GOLDEN["cases"]
    if (case["id"].startswith(GROUPS) or case["id"] in SINGLE)
    and case["id"] not in LEFT_OUT
]

FORMS = {
    "<int>": r"-?\d+",
    "<port>": r"\d+",
    "<pid>": r"\d+",
    "<ptr>": r"0x[0-9a-f]+",
    "<timestamp>": r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+",
    "<path>": r".+",
}


def fill(text: str, directory: Path) -> str:
    for name in ("listen_port", "pg_port", "fake_port", "peer_port"):
        text = text.replace(f"{{{name}}}", "6432" if name == "listen_port" else "5432")
        text = text.replace(f"<{name}>", "6432" if name == "listen_port" else "5432")
    return text.replace("{dir}", str(directory))


def matches(recorded: Any, got: Any, directory: Path) -> bool:
    if isinstance(recorded, str):
        recorded = fill(recorded, directory)
        pattern = re.escape(recorded)
        for name, form in FORMS.items():
            pattern = pattern.replace(re.escape(name), form)
        return isinstance(got, str) and bool(re.fullmatch(pattern, got, re.DOTALL))
    if isinstance(recorded, list):
        return (
            isinstance(got, list)
            and len(recorded) == len(got)
            and all(
                matches(a, b, directory) for a, b in zip(recorded, got, strict=True)
            )
        )
    if isinstance(recorded, dict):
        return (
            isinstance(got, dict)
            and recorded.keys() == got.keys()
            and all(matches(recorded[key], got[key], directory) for key in recorded)
        )
    return bool(recorded == got)


def bytes_of(message: dict[str, Any]) -> bytes:
    if "hex" in message:
        return bytes.fromhex(message["hex"])
    found = re.search(r"Query of (\d+) 'x' bytes", message["desc"])
    assert found is not None, message
    count = int(found[1])
    return b"Q" + (count + 5).to_bytes(4, "big") + b"x" * count + b"\0"


def after_steps_of_clients(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out the ordinary clients that some recordings begin with."""
    consoles = {
        step["conn"]
        for step in steps
        if step["op"] == "connect" and step["startup"]["database"] == "pgbouncer"
    }
    return [step for step in steps if step.get("conn") in consoles]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_talk_is_as_recorded(case: Any, tmp_path: Path, logged: Any) -> None:
    text = fill(GOLDEN["meta"]["configs"][case["config"]], tmp_path)
    (tmp_path / "userlist.txt").write_text(GOLDEN["meta"]["auth_file"]["default"])
    app = configured(text, tmp_path)
    logged.take()
    talks: dict[str, Conversation] = {}
    compared = 0
    for step in after_steps_of_clients(case["steps"]):
        name = step["conn"]
        if step["op"] == "connect":
            rights = "admin" if step["startup"]["user"] == "admin" else "stats"
            talks[name] = Conversation(app, rights)
            continue
        if step["op"] == "query":
            got = talks[name].ask(step["query"])
        elif step["op"] == "send_messages":
            got = talks[name].send(*map(bytes_of, step["messages"]))
        elif step["op"] == "query_filtered":
            rows = [
                m["values"] for m in talks[name].ask(step["query"]) if "values" in m
            ]
            assert chosen(step, rows) == json.loads(
                fill(json.dumps(step["rows"]), tmp_path)
            )
            compared += 1
            continue
        else:
            pytest.fail(f"cannot play {step['op']}")
        assert matches(step["recv"], got, tmp_path), (step, got)
        compared += 1
    assert compared
    check_log(case, logged.take(), tmp_path)


def chosen(step: dict[str, Any], rows: list[list[Any]]) -> list[list[Any]]:
    """Do what the words of a recording's filter say."""
    words = step["filter"]
    if words.startswith("key in"):
        keys = re.findall(r"\w+", words)[2:]
        return [row for row in rows if row[0] in keys]
    assert words.startswith("name, paused, disabled where name ~* '^auto'")
    return [
        [row[0], *row[-2:]] for row in rows if re.match("auto", row[0], re.IGNORECASE)
    ]


def check_log(case: Any, lines: list[str], directory: Path) -> None:
    """Compare what the talk logs; the relay's and the application's lines are not."""
    others = (
        "login attempt",
        "closing because",
        "registered new auto-database",
        "To allow TLS connections",
    )
    wanted = [
        line for line in case.get("log", []) if not any(part in line for part in others)
    ]
    last = case["steps"][-1].get("recv") or [{}]
    if last[-1].get("msg") == "EOF" and wanted:
        # The relay tells the client's end; its line about it comes last.
        if "pooler error" in wanted[-1] and wanted[-1] not in lines:
            wanted = wanted[:-1]
    wanted = [line.replace("\n\t", "\n") for line in wanted]
    if "log" in case:
        assert matches(wanted, lines, directory), (wanted, lines)
