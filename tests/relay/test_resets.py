"""RESET and DISCARD ALL go back to what the client's startup packet said.

What comes directly of a model of PostgreSQL that has logged in with those values must
come through us, whose servers log in without them.
"""

import pytest

from tests.relay import frames as f
from tests.relay.backend import Backend
from tests.relay.harness import DEFAULTS, SESSION, TRANSACTION, give_backends

GIVEN = {"TimeZone": "Asia/Tokyo", "application_name": "worker"}
SHOW = f.query("show TimeZone") + f.query("show application_name")
OWN = f.query("set TimeZone Etc/UTC")
# Steps, each answered before the next; "|" is a query of somebody else's between them.
TALKS = {
    "reset all": [f.query("reset all"), SHOW],
    "reset one": [f.query("reset TimeZone"), SHOW],
    "discard all": [f.query("discard all"), SHOW],
    "set, then reset all": [
        f.query("set TimeZone Europe/Oslo"), f.query("reset all"), SHOW],
    "set, then reset one": [
        f.query("set application_name other"), f.query("reset application_name"), SHOW],
    "set behind it": [f.query("reset all"), f.query("set TimeZone Europe/Oslo"), SHOW],
    "set in the same query": [
        f.query("discard all;set application_name new"), SHOW],
    "somebody between": [SHOW, "|", f.query("reset all"), "|", SHOW],
    "extended": [
        f.parse("", "reset all") + f.bind("") + f.execute() + f.SYNC, SHOW],
    "in a transaction": [
        f.query("begin"), f.query("reset all"), SHOW, f.query("commit"), SHOW],
    "rolled back": [
        f.query("begin"), f.query("set TimeZone Europe/Oslo"), f.query("reset all"),
        f.query("rollback"), SHOW],
    "failed behind it": [
        f.query("begin"), f.query("reset all"), f.query("fail"), f.query("rollback"),
        SHOW],
    "in one write with more": [
        f.query("reset all") + SHOW, f.query("discard all") + SHOW],
    "in one write, extended": [
        f.parse("", "reset all") + f.bind("") + f.execute() + f.SYNC + SHOW],
    "again and again": [f.query("reset all"), f.query("discard all"), SHOW,
                        f.query("reset TimeZone"), SHOW],
    "set to the server's own": [f.query("set TimeZone Etc/UTC"), SHOW],
    "set to the server's own, then reset": [
        OWN, f.query("reset TimeZone"), SHOW],
    "set to the server's own, then extended": [
        OWN, f.parse("r", "reset TimeZone") + f.SYNC,
        SHOW + f.bind("r") + f.execute() + f.SYNC, SHOW],
    "set to the server's own, then rolled back": [
        OWN, f.query("begin;reset TimeZone;rollback"), SHOW],
    "set to the server's own, then an error": [
        OWN, f.query("reset TimeZone;fail"), SHOW],
    "set to the server's own, then behind others in one write": [
        OWN, f.query("select 1") + f.query("reset all") + f.query("select 2"), SHOW],
    "set to the server's own, then set again": [
        OWN, f.query("reset TimeZone;set TimeZone Etc/UTC"), SHOW],
}  # fmt: skip


@pytest.mark.parametrize("mode", [TRANSACTION, SESSION])
@pytest.mark.parametrize("name", TALKS)
def test_reset_goes_back_to_the_startup_packet(relay, name, mode):
    """Case 2c: the client had the server's values for the rest of its life: asyncpg's
    pool sends RESET ALL at each release, psycopg2 DISCARD ALL."""
    r = give_backends(relay(mode=mode, size=1 + (mode == SESSION)))
    direct = Backend({**DEFAULTS, **GIVEN})
    client, other = r.client(**GIVEN), r.client()
    for step in TALKS[name]:
        if step == "|":
            got = other.ask(SHOW)
            assert f.rows(got) == [b"Etc/UTC", b""]
            continue
        direct.receive(step)
        assert client.ask(step) == direct.out
        direct.out = b""
    assert f.rows(other.ask(SHOW)) == [b"Etc/UTC", b""]
    assert all(end.server.state_name in ("idle", "active") for end in r.servers)
