"""What may fail with a driver through us, and why. These lists only get shorter."""

from collections.abc import Mapping

from tests.outside.frame import SOMETIMES

PIDS = "looks for its session by process id: a pooler's clients have ids of their own"
STAYS = "drops a database that the pool still has a server of"
SPELLING = "our welcome has the client's spelling of client_encoding, as PgBouncer's"
BY_SQL = "EXECUTE or DEALLOCATE by SQL of a name that was prepared by the protocol"
LUCK = SOMETIMES + "whether an error arrives before all is sent, one hop more away"
# A text is parsed once for each server, whoever prepared it, and whenever.
EACH_SERVER = SOMETIMES + "each server of a pool refuses a changed table once"

# (suite, mode): the mode is empty where the reason holds for every pool mode.
REASONS: Mapping[tuple[str, str], Mapping[str, str]] = {
    ("asyncpg", ""): {
        "TestExecuteMany::test_executemany_server_failure_during_writes": LUCK,
    },
    ("asyncpg", "session"): {
        "TestCacheInvalidation::test_type_cache_invalidation_in_pool": STAYS,
        "TestIntrospection::test_introspection_sticks_for_ps": STAYS,
        "TestSettings::test_get_settings_01": SPELLING,
        "TestListeners::test_listen_01": PIDS,
        "TestListeners::test_listen_02": PIDS,
        "TestListeners::test_listen_notletters": PIDS,
        "TestPool::test_pool_min_size_restored_after_idle_connection_loss": PIDS,
    },
    ("asyncpg, shared", "transaction"): {
        "TestPrepare::test_prepare_explicitly_named": BY_SQL,
    },
    ("sqlalchemy/asyncpg", "transaction"): {
        "SchemaTranslateTest_postgresql+asyncpg_async"
        "::test_schema_translate_map_keys_change_name_added": EACH_SERVER,
    },
    ("psycopg2", ""): {
        "AsyncTests::test_notify": PIDS,
        "TestConnectionInfo::test_backend_pid": PIDS,
        "NotifiesTests::test_many_notifies": PIDS,
        "NotifiesTests::test_notifies_received_on_commit": PIDS,
        "NotifiesTests::test_notifies_received_on_execute": PIDS,
        "NotifiesTests::test_notifies_received_on_poll": PIDS,
        "NotifiesTests::test_notifies_received_on_reset": PIDS,
        "NotifiesTests::test_notifies_received_on_rollback": PIDS,
        "NotifiesTests::test_notifies_received_on_set_client_encoding": PIDS,
        "NotifiesTests::test_notifies_received_on_set_session": PIDS,
        "NotifiesTests::test_notify_attributes": PIDS,
        "NotifiesTests::test_notify_payload": PIDS,
    },
    ("lib/pq", ""): {
        "TestErrorDuringStartup": "an unknown user's error is 08P01, as PgBouncer's",
        "TestRuntimeParameters": "parameters at startup that are refused or not kept",
    },
    ("pgx", "session"): {
        "TestFatalRxError": PIDS,
        "TestFatalTxError": PIDS,
    },
    ("pgx", "transaction"): {
        "TestPrepare": BY_SQL,
        "TestStmtCacheInvalidationConn": BY_SQL,
        "TestStmtCacheInvalidationTx": BY_SQL,
    },
}
