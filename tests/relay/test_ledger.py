"""What a server owes, without a server: each row is a conversation of two sides.

Capitals and `1 2 3` are message types as in the protocol; what the client asks stands
before the colon, what the server says behind it. `c` asked is the client's CopyDone.
"""

import pytest

from bouncer.relay.ledger import Ledger

FORWARD, SWALLOW, FAKE = range(3)
OURS = {
    "x": ("Q", SWALLOW),
    "p": ("P", SWALLOW),
    "k": ("C", SWALLOW),
    "d": ("D", SWALLOW),
    "f": ("P", FAKE),
}

# What happens, step by step, "asked:heard" -> what is owed then. Of ours: x a probe, p
# a Parse, k a Close, d a Describe, f a Parse that we answer ourselves.
ROWS = {
    "a query": [("Q:", "Q"), (":TDC", "Q"), (":Z", "")],
    "queries in a row": [("QQQ:TDCZ", "QQ"), (":EZ", "Q"), (":CZ", "")],
    "a unit": [("PBDES:", "PBDES"), (":12TDC", "S"), (":Z", "")],
    "error in a query ends it alone": [("QQ:EZ", "Q"), (":CZ", "")],
    "error in a Parse skips to Sync": [("PBESPS:EZ", "PS"), (":1Z", "")],
    "... a Query, too": [("PBEQSQ:EZ", "Q"), (":CZ", "")],
    "... two of them": [("PQQS:EZ", "")],
    "... a FunctionCall": [("PFS:EZ", "")],
    "... and a Close behind it": [("PQSCS:EZ", "CS"), (":3Z", "")],
    "error in a Bind": [("PBQS:1EZ", "")],
    "error in an Execute": [("PBEQS:12EZ", "")],
    "error in a Query among them ends it alone": [("PBEQS:12CEZ", "S"), (":Z", "")],
    "error in a FunctionCall": [("FS:EZ", "S"), (":Z", "")],
    "error in a Sync": [("PBES:12CEZ", "")],
    "second error of the same unit": [("PBESQ:EEZ", "Q")],
    "good query in an open unit": [("PBEQS:12CTDCZ", "S"), (":Z", "")],
    "notices settle nothing": [("Q:NNSA", "Q"), (":CZ", "")],
    "copy in": [("Q:G", "Q"), ("c:CZ", "")],
    "copy in, a Sync in it": [("Q:G", "Q"), ("Sc:CZ", "")],
    "copy in that fails": [("Q:G", "Q"), (":EZ", "")],
    "extended copy in": [("PBES:12G", "ES"), ("cS:C", "S"), (":Z", "")],
    "extended copy fails, a Query behind its end": [("PBE:12G", "E"), ("cQS:EZ", "")],
    "extended copy fails before its end": [("PBE:12G", "E"), (":E", "E")],
    "ours before the client's": [("pBES:12C", "S"), (":Z", "")],
    "a Parse that we answer": [("PfBES:1", "BES"), (":2CZ", "")],
    "... is skipped": [("PfQS:EZ", "")],
}  # fmt: skip


def play(ledger: Ledger, step: str) -> list[str]:
    """Ask and hear; what each message that was heard was."""
    asked, heard = step.split(":")
    for letter in asked:
        code, action = OURS.get(letter, (letter, FORWARD))
        ledger.ask(ord(code), action)
    return [ledger.hear(ord(letter)) for letter in heard]


@pytest.mark.parametrize("name", ROWS)
def test_what_is_owed(name):
    ledger = Ledger()
    for step, owed in ROWS[name]:
        play(ledger, step)
        assert ledger.owed == owed, step
    assert ledger.even is (ROWS[name][-1][1] == "")


@pytest.mark.parametrize(
    ("steps", "skips"),
    [
        (["P:E"], True),
        (["PBEQ:E"], True),  # the Query is skipped with the rest
        (["PS:E"], False),  # goes on behind that Sync
        (["Q:E"], False),
        (["QP:E"], False),
        (["P:E", "S:Z"], False),
        (["PBE:12G", ":E"], True),
    ],
)
def test_what_comes_next_is_skipped(steps, skips):
    ledger = Ledger()
    for step in steps:
        play(ledger, step)
    assert ledger.skipping is skips


@pytest.mark.parametrize(
    ("step", "heard"),
    [
        ("PBDES:1", "settles"),
        ("PBDES:E", "passes"),
        ("Q:T", "passes"),
        ("pB:1", "ours"),
        ("x:I", "probed"),
        ("x:E", "probed"),
        ("Q:R", "strange"),
        ("Q:K", "strange"),
        (":1", "passes"),
        ("D:t", "passes"),
        ("d:t", "tells"),
        ("d:n", "ours"),
    ],
)
def test_whose_a_message_is(step, heard):
    assert play(Ledger(), step) == [heard]


def test_syncs_in_a_failed_copy_are_probed_for():
    """Whether PostgreSQL had read them in the COPY, or answers them, nobody knows."""
    ledger = Ledger()
    play(ledger, "Q:G")
    play(ledger, "SSc:EZ")
    assert ledger.owed == ""
    assert not ledger.even
    assert play(ledger, "x:Z") == ["extra"]
    assert play(ledger, ":IZ") == ["probed", "ready"]
    assert ledger.even


def test_many_requests_and_none_is_forgotten():
    ledger = Ledger()
    for count in (1, 7, 100, 20_000):
        play(ledger, "PBES" * count + ":")
        assert ledger.count == 4 * count
        play(ledger, ":" + "12CZ" * count)
        assert ledger.even
