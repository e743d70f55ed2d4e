"""A reset that changes nothing on the server, but must for its client.

The client's startup packet has asked for another value than the server's own. Then it
sets the server's own, and resets: PostgreSQL tells of no change, yet the client had
another value at its login and must have it again.
"""

import psycopg
import pytest

STYLE = "-c DateStyle=Postgres,MDY"
WAYS = [
    "RESET DateStyle",
    "RESET ALL",
    "SET DateStyle TO DEFAULT",
    "DISCARD ALL",
]


@pytest.mark.parametrize("mode", ["session", "transaction"])
@pytest.mark.parametrize("way", WAYS)
def test_reset_of_what_was_set_to_the_servers_own_value(pooler, postgres, mode, way):
    """PostgreSQL itself says `Postgres, MDY` again; the client kept `ISO, MDY`."""
    one = pooler({"pool_mode": mode})
    found = []
    for where in (postgres.conninfo(user="u_trust"), one.conninfo()):
        with psycopg.connect(where, autocommit=True, options=STYLE) as who:
            who.execute("SET DateStyle TO ISO, MDY")
            who.execute(way.encode())
            row = who.execute("SHOW DateStyle").fetchone()
            found.append((row, who.info.parameter_status("DateStyle")))
    assert found[1] == found[0]
