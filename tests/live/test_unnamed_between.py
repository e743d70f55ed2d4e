"""The unnamed statement of a session, where Queries of ours come in between."""

from typing import Any

import pytest

from tests.support.wire import FakeClient, error, rows

LEARNT = {"track_extra_parameters": "search_path, work_mem"}
# A text behind which we ask for values, or set some again.
BETWEEN = {
    "asked": "select set_config('jit', 'off', false)",
    "put back": "reset timezone",
}


@pytest.mark.parametrize("mode", ["session", "transaction"])
@pytest.mark.parametrize("flush", ["Flush", "Sync"])
@pytest.mark.parametrize("between", BETWEEN)
def test_unnamed_statement_outlives_queries_of_ours(
    pooler: Any, between: str, flush: str, mode: str
) -> None:
    """asyncpg's introspection: a Query destroys it, and the client knows nothing."""
    one = pooler({"pool_mode": mode, "max_prepared_statements": 200, **LEARNT})
    with FakeClient(one.port) as client:
        client.login("p0", "u_trust", "", TimeZone="Asia/Tokyo")

        def parse(name: str, sql: str) -> None:
            client.send({"type": "Parse", "name": name, "sql": sql})
            client.send({"type": flush})
            if flush == "Sync":
                client.until_ready()

        def run(name: str) -> list[dict[str, Any]]:
            client.send({"type": "Bind", "statement": name})
            client.send({"type": "Execute"})
            client.send({"type": "Sync"})
            seen: list[dict[str, Any]] = client.until_ready()
            return seen

        parse("", "select 7")
        parse("named", BETWEEN[between])
        assert not error(run("named"))
        assert rows(run("")) == [["7"]]
