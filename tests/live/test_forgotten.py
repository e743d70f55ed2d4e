"""DISCARD ALL and DEALLOCATE ALL with a real PostgreSQL, and what comes behind."""

import pytest

from tests.relay import frames as f
from tests.support.wire import FakeClient, rows


def extended(sql: str) -> bytes:
    return f.parse("", sql) + f.bind("") + f.execute() + f.SYNC


FORGET = {
    "query": (f.query("DISCARD ALL"), "CZ"),
    "deallocate": (f.query("DEALLOCATE ALL"), "CZ"),
    "with comments": (f.query("/* all */ discard -- now\n all;"), "CZ"),
    "twice": (f.query("deallocate all; deallocate all"), "CCZ"),
    "extended": (extended("DISCARD ALL"), "12CZ"),
    "extended deallocate": (extended("DEALLOCATE ALL"), "12CZ"),
}


CODES = {
    "ParseComplete": "1",
    "BindComplete": "2",
    "CloseComplete": "3",
    "CommandComplete": "C",
    "ParameterStatus": "",
    "ReadyForQuery": "Z",
}


@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_discard_all_and_close_in_one_write_leave_the_process_alive(pooler, mode):
    """Three messages of a client that had prepared nothing ended the process."""
    one = pooler({"pool_mode": mode, "max_prepared_statements": 10})
    with FakeClient(one.port) as beside:
        beside.login("p0", "u_trust")
        for request, answers in FORGET.values():
            with FakeClient(one.port) as client:
                client.login("p0", "u_trust")
                client.send_bytes(request + f.close("foo") + f.SYNC)
                got = client.until_ready(answers.count("Z") + 1)
                assert "".join(CODES[message["type"]] for message in got) == (
                    answers + "3Z"
                )
            assert rows(beside.ask("select 'mine'")) == [["mine"]]
