"""What may fail with a driver through us, and why. These lists only get shorter.

A failure is only expected where it says what the reason is about: the same test with
another fault is a failure. PgBouncer 1.26.1 (`--ours`) fails each of these, too.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Reason(NamedTuple):
    """Why a test may fail, and what it says then (a regular expression)."""

    why: str
    said: str


PIDS = "looks for its session by process id: a pooler's clients have ids of their own"
STAYS = Reason(
    "drops a database that the pool still has a server of",
    "is being accessed by other users",
)
SPELLING = Reason(
    "the welcome has the client's spelling of client_encoding", "'utf-8'\" != 'UTF8'"
)
BY_SQL = Reason(
    "EXECUTE by SQL of a name that was prepared by the protocol",
    'prepared statement "foobar" does not exist',
)
NOBODY = Reason(
    "who is unknown to the pooler is told 08P01, not 28000", "protocol_violation"
)
OTHER_PID = Reason(PIDS, r"AssertionError: (Tuples differ: |Notify\(|\d+ != \d+)")
NOT_ENDED = Reason(PIDS, "TimeoutError|fatal PgError|Expected error but none occurred")

# (suite, mode): the mode is empty where the reason holds for every pool mode.
REASONS: Mapping[tuple[str, str], Mapping[str, Reason]] = {
    ("asyncpg", "session"): {
        "TestCacheInvalidation::test_type_cache_invalidation_in_pool": STAYS,
        "TestIntrospection::test_introspection_sticks_for_ps": STAYS,
        "TestSettings::test_get_settings_01": SPELLING,
        "TestListeners::test_listen_01": OTHER_PID,
        "TestListeners::test_listen_02": OTHER_PID,
        "TestListeners::test_listen_notletters": OTHER_PID,
        "TestPool::test_pool_min_size_restored_after_idle_connection_loss": NOT_ENDED,
    },
    ("asyncpg, shared", "transaction"): {
        "TestPrepare::test_prepare_explicitly_named": BY_SQL,
    },
    ("psycopg2", "session"): {
        "AsyncTests::test_notify": OTHER_PID,
        "TestConnectionInfo::test_backend_pid": OTHER_PID,
        **{
            f"NotifiesTests::{test}": OTHER_PID
            for test in (
                *("test_many_notifies", "test_notifies_received_on_commit"),
                *("test_notifies_received_on_execute", "test_notify_payload"),
                *("test_notifies_received_on_poll", "test_notify_attributes"),
                "test_notifies_received_on_reset",
                "test_notifies_received_on_rollback",
                "test_notifies_received_on_set_client_encoding",
                "test_notifies_received_on_set_session",
            )
        },
    },
    ("lib/pq", ""): {"TestErrorDuringStartup": NOBODY},
    ("pgx", "session"): {
        "TestFatalRxError": NOT_ENDED,
        "TestFatalTxError": NOT_ENDED,
    },
}
