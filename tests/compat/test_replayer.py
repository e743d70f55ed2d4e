"""The replayer must see differences, and read back what it writes."""

import pytest

from tests.replay import tolerances
from tests.replay.client import Patience
from tests.replay.compare import Enough, Findings, Placeholders
from tests.replay.protocol import (
    BackendSplitter,
    FrontendSplitter,
    encode_backend,
    encode_frontend,
)


def test_a_case_in_which_nothing_was_compared_fails():
    findings = Findings(Placeholders({}, {}))
    findings.items("nothing", [], [])
    findings.require_comparison()
    assert findings.differences


def test_a_case_that_is_known_to_differ_is_over_with_its_first_difference():
    """It waited its full time for each thing that was known not to come."""
    findings = Findings(Placeholders({}, {}), first_only=True)
    findings.items("as recorded", ["a"], ["a"])
    with pytest.raises(Enough):
        findings.items("not so", ["a"], ["b"])
    assert [difference.where for difference in findings.differences] == ["not so"]


def test_a_case_that_is_known_to_differ_waits_as_recorded_and_little_more():
    patience = Patience(little=True)
    assert patience.seconds(3) == 3 + tolerances.ANSWER_THAT_DIFFERS
    assert patience.for_all() < Patience().for_all()
    assert patience.seconds() < Patience().seconds()


@pytest.mark.parametrize(
    "recorded, got, same",
    [
        ("S-<ptr>: p0 (age=<n>s)", "S-0x55aa01: p0 (age= 12s)", True),
        ("S-<ptr>: p0 (age=<n>s)", "S-55aa01: p0 (age=12s)", False),
        ("port @PORT@", "port 12345", True),
        ("port @PORT@", "port 12346", False),
        ("<n>", None, False),
        ("<n>", "", False),
        ("1.5", "1x5", False),
        (None, "", False),
        (["a", "<any>"], ["a", {"b": 1}], True),
        (["a"], ["a", "b"], False),
        ({"a": "1"}, {"a": "1", "b": "2"}, False),
        (True, 1, False),
    ],
)
def test_placeholders_match_forms_and_values(recorded, got, same):
    placeholders = Placeholders(
        {"<n>": " *[0-9]+", "<ptr>": "0x[0-9a-f]+"}, {"@PORT@": 12345}
    )
    assert placeholders.matches(recorded, got) is same


def test_diff_tells_what_is_missing_surplus_and_different():
    placeholders = Placeholders({}, {})
    row = {"type": "DataRow", "values": ["a", "1"]}
    lines = placeholders.diff(
        ["x", row, "y"], ["x", {**row, "values": ["a", "2"]}, "y", "z"]
    )
    assert lines == [
        "  (1 as recorded)",
        "- DataRow a|1",
        "+ DataRow a|2",
        "    values[1]: recorded 1, got 2",
        "  (1 as recorded)",
        "+ z",
    ]


def test_the_end_of_a_log_must_match_to_its_last_line():
    placeholders = Placeholders({}, {})
    assert placeholders.ending_diff(["b", "c"], ["a", "b", "c"]) == []
    assert placeholders.ending_diff(["b", "c"], ["a", "b", "c", "d"])
    assert placeholders.ending_diff(["b", "c"], ["c"])


@pytest.mark.parametrize(
    "message",
    [
        {"type": "Query", "sql": "select 1"},
        {"type": "Parse", "name": "s", "sql": "select $1", "param_types": [23]},
        {
            "type": "Bind",
            "portal": "",
            "statement": "s",
            "param_formats": [0],
            "params": ["1", None, {"hex": "00ff"}],
            "result_formats": [],
        },
        {"type": "Describe", "kind": "S", "name": "s"},
        {"type": "Sync"},
        {"type": "CopyFail", "message": "no"},
    ],
)
def test_client_messages_survive_encoding(message):
    splitter = FrontendSplitter()
    splitter.started = True
    splitter.feed(encode_frontend(message))
    assert splitter.next() == message and splitter.next() is None


@pytest.mark.parametrize(
    "message",
    [
        {
            "type": "ErrorResponse",
            "fields": [["S", "FATAL"], ["C", "08P01"], ["M", "no"]],
        },
        {
            "type": "RowDescription",
            "columns": [
                {
                    "name": "a",
                    "table": 0,
                    "attnum": 0,
                    "oid": 25,
                    "typlen": -1,
                    "typmod": -1,
                    "format": 0,
                }
            ],
        },
        {"type": "DataRow", "values": ["a", None, ""]},
        {"type": "CopyBothResponse", "format": 0, "columns": []},
        {"type": "BackendKeyData", "key_hex": "0102030405060708"},
    ],
)
def test_server_messages_survive_encoding_one_byte_at_a_time(message):
    splitter, got = BackendSplitter(), []
    for byte in encode_backend(message):
        splitter.feed(bytes([byte]))
        got += iter(splitter.next, None)
    assert got == [message]


def test_garbage_decodes_as_malformed():
    splitter = BackendSplitter()
    splitter.feed(b"T\0\0\0\6\0\x09" + b"Z\0\0\0\x01")
    assert [m["type"] for m in iter(splitter.next, None)] == [
        "<malformed>",
        "ReadyForQuery",
    ]
