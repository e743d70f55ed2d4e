"""Whatever a process knows is handed over at an online restart, or there is a reason.

Of clients and servers alone see tests/relay/test_carried.py; here are what they have in
common, and the pools, databases and users that they belong to.
"""

import re
from pathlib import Path

import pytest

from bouncer import carry
from bouncer.pool.pools import ServerPool
from bouncer.pool.registry import DatabaseState, UserState
from bouncer.snapshot import FD_COLUMNS, FD_PARAMETERS, FdRow

ROOT = Path(__file__).resolve().parents[3]

FOUND = "found anew where the connection gets its place"
STILL = "nothing is half done while both processes stand still"
CONFIGURED = "of the configuration, which the next process reads itself"
CACHE = "only saves work"
PEER = "asked of the kernel, or told by SHOW FDS"
TLS = "connections over TLS stay with the old process"
COUNTED = "counters begin anew with each process, as PgBouncer's do"
ATTEMPTS = "the next process tries to connect on its own account"

TOLD = {
    "Stream": {"fd", "id", "connected_at", "received_at", "peer_port_raw"},
    "Pool": {"welcome", "defaults", "user", "scram_keys"},
    "DatabaseState": {"name", "disabled"},
    "UserState": {"name", "secret", "dynamic", "scram_keys"},
}
NOT_TOLD = {
    "Stream": {
        **dict.fromkeys(("poller", "slot", "interest", "watched", "prev", "next",
                         "home"), FOUND),
        **dict.fromkeys(("want_read", "quiet", "flush_queued", "broken", "closed",
                         "specials", "out", "held", "talk_limit", "behind", "talk",
                         "turn_due", "talk_paused", "modest", "kept", "put_off",
                         "part"),
                        STILL),
        **dict.fromkeys(("tls_handshaking", "tls_seen", "tls_object", "tls_records",
                         "tls_in", "tls_out"), TLS),
        **dict.fromkeys(("is_unix", "peer_raw", "family", "peer_pid", "peer_uid"),
                        PEER),
    },
    "Pool": {
        **dict.fromkeys(("poller", "keeper", "database", "database_name", "user_name",
                         "idle", "used", "tested", "active", "login",
                         "being_canceled", "active_cancel", "clients", "waiting",
                         "cancel_waiting", "cancel_active", "peer", "departed"), FOUND),
        **dict.fromkeys(("mode", "max_prepared", "round_robin", "reset_on_release",
                         "check_on_release", "reset_query", "check_query",
                         "lifetime_us"), CONFIGURED),
        **dict.fromkeys(("blocked", "draining", "handing", "queue_only", "contested",
                         "notes", "cancels", "fair_check"), STILL),
        **dict.fromkeys(("assignments", "transactions", "queries", "client_bytes",
                         "server_bytes", "transaction_us", "query_us", "wait_us",
                         "client_parses", "server_parses", "binds", "logins", "newer",
                         "older"), COUNTED),
        **dict.fromkeys(("welcomes", "last_welcome", "flagged", "idle_since"), CACHE),
        **dict.fromkeys(("unreported", "learn_query"), "from the values of clients"),
        "changes": "all statements are new in the next process",
        **dict.fromkeys(("last_error", "last_sqlstate", "refused_at", "evidence",
                         "last_lifetime_close", "held_told", "reached", "hosts",
                         "host_key"), ATTEMPTS),
    },
    "DatabaseState": {
        **dict.fromkeys(("auto", "config"), CONFIGURED),
        "idle_since": CACHE,
        "past": COUNTED,
        "paused": "SUSPEND is refused while a database is paused",
        "wait_close": STILL,
        "pools": FOUND,
    },
    "UserState": {
        **dict.fromkeys(("in_auth_file", "options", "named"), CONFIGURED),
        "adhoc_scram": CACHE,
        **dict.fromkeys(("account", "aliases"), FOUND),
    },
}  # fmt: skip


def declared(name: str) -> set[str]:
    """Return the fields that a class of the relay declares."""
    text = (ROOT / "bouncer" / "relay" / f"{name.lower()}.pxd").read_text()
    block = text.split(f"cdef class {name}:")[1].split("    cdef:\n")[1]
    fields: set[str] = set()
    for line in block.splitlines():
        if not line.startswith("        "):
            if line.strip().startswith("#") or not line.strip():
                continue
            break
        code = re.sub(r"\[\d+\]", "", line.split("#")[0]).strip()
        names = re.sub(r"^(public |readonly |unsigned )+", "", code)
        fields.update(one for one in re.split(r"\W+", names)[1:] if one)
    return fields


@pytest.mark.parametrize("name", NOT_TOLD)
def test_every_field_is_handed_over_or_need_not_be(name: str) -> None:
    """A field that somebody adds, and forgets here, is forgotten at each restart."""
    if name == "Stream":
        fields = declared("Stream")
    elif name == "Pool":
        source = (ROOT / "bouncer" / "pool" / "pools.py").read_text()
        own = source.split("class ServerPool")[1].split("@property")[0]
        fields = declared("Pool") | set(re.findall(r"self\.(\w+)(?:: [^=]+)? = ", own))
        assert "evidence" in fields and ServerPool.__name__ == "ServerPool"
    else:
        kind = {"DatabaseState": DatabaseState, "UserState": UserState}[name]
        fields = set(kind.__slots__)
    assert fields == TOLD[name] | set(NOT_TOLD[name])
    assert not TOLD[name] & set(NOT_TOLD[name])


def test_columns_of_show_fds_are_the_fields_of_their_row() -> None:
    assert tuple(column.name for column in FD_COLUMNS) == FdRow._fields
    assert set(FD_PARAMETERS) <= set(FdRow._fields)


def test_shared_fields_are_read_and_put() -> None:
    names = [field.name for field in carry.SHARED]
    assert len(set(names)) == len(names)
    assert all(callable(field.read) and callable(field.put) for field in carry.SHARED)
