"""What drivers say to any PostgreSQL, on the console, in both protocols."""

from typing import Any

import pytest

from admin import parameters
from bouncer.config.settings import Settings
from tests.unit.admin.talking import (
    SYNC,
    Conversation,
    FakeApp,
    bind,
    console,
    describe,
    execute,
    parse,
)


def kinds(messages: list[dict[str, Any]]) -> list[str]:
    return [message["msg"] for message in messages]


def rows(messages: list[dict[str, Any]]) -> list[list[Any]]:
    return [m["values"] for m in messages if m["msg"] == "DataRow"]


def tags(messages: list[dict[str, Any]]) -> list[str]:
    return [m["tag"] for m in messages if m["msg"] == "CommandComplete"]


def status(messages: list[dict[str, Any]]) -> str:
    (found,) = [m["status"] for m in messages if m["msg"] == "ReadyForQuery"]
    return str(found)


def told(messages: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Severity, SQLSTATE and text of all errors and notices."""
    fields = [dict(m["fields"]) for m in messages if m["msg"].endswith("Response")]
    return [(one["S"], one["C"], one["M"]) for one in fields if "S" in one]


def extended(talk: Conversation, sql: str) -> list[dict[str, Any]]:
    return talk.send(parse(sql), bind(), describe(), execute(), SYNC)


# Nothing, and comments


@pytest.mark.parametrize("sql", ["", " ", ";", ";;", "-- ping", "/* x */", "/* x */;"])
def test_nothing_is_answered_by_an_empty_query_response(sql: str, logged: Any) -> None:
    """Health checks send it: it was an error, and two lines in the log each time."""
    talk = console()
    assert kinds(talk.ask(sql)) == ["EmptyQueryResponse", "ReadyForQuery"]
    got = extended(talk, sql)
    assert kinds(got)[2:] == ["NoData", "EmptyQueryResponse", "ReadyForQuery"]
    assert logged.take() == []


@pytest.mark.parametrize(
    "sql",
    [
        "SHOW VERSION -- x",
        "/* x */ SHOW VERSION",
        "SHOW /* x */ VERSION;",
        "-- x\nSHOW VERSION;;",
    ],
)
def test_comments_are_no_words(sql: str) -> None:
    talk = console()
    assert tags(talk.ask(sql)) == ["SHOW"]
    assert tags(extended(talk, sql)) == ["SHOW"]


# Several statements


def test_statements_of_a_query_are_answered_in_order_with_one_ready() -> None:
    got = console().ask("SHOW VERSION; SELECT 1; SET x_y = '1'")
    assert tags(got) == ["SHOW", "SELECT 1"]
    assert kinds(got)[-2:] == ["ErrorResponse", "ReadyForQuery"]
    assert kinds(got).count("ReadyForQuery") == 1


def test_nothing_is_done_of_a_query_that_is_not_understood() -> None:
    """A word that is mistyped must not leave half of a script behind."""
    app = FakeApp()
    talk = Conversation(app)
    sql = "PAUSE; REUSME"
    text = f"invalid command '{sql}', use SHOW HELP;"
    assert told(talk.ask(sql)) == [("ERROR", "08P01", text)]
    assert app.global_mode == "none"


def test_error_ends_the_query_where_it_stands() -> None:
    app = FakeApp()
    talk = Conversation(app)
    got = talk.ask("RECONNECT; PAUSE nosuch; SHUTDOWN")
    assert tags(got) == ["RECONNECT"]
    assert told(got) == [("ERROR", "08P01", "no such database: nosuch")]
    assert app.acts == [("reconnect", None)]


def test_prepared_statement_is_one_command() -> None:
    got = console().send(parse("SHOW VERSION; SHOW STATE"), SYNC)
    problem = "cannot insert multiple commands into a prepared statement"
    assert told(got) == [("ERROR", "42601", problem)]


# SET, RESET, SHOW


@pytest.mark.parametrize(
    "sql",
    [
        "SET extra_float_digits = 3",
        "set EXTRA_FLOAT_DIGITS to '0';",
        "SET SESSION extra_float_digits TO 3",
        "SET LOCAL statement_timeout = 0",
        "SET search_path = public, \"$user\", 'x'",
        "SET search_path TO DEFAULT",
        "SET application_name = 'a long name'",
        "SET client_min_messages = notice",
        "SET TIME ZONE 'UTC'",
        'set time zone "Etc/UTC"',
        "SET TIME ZONE -3",
        "SET NAMES 'utf8'",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "SET SESSION AUTHORIZATION DEFAULT",
    ],
)
@pytest.mark.parametrize("rights", ["admin", "stats"])
def test_set_that_drivers_send_is_ignored(sql: str, rights: str) -> None:
    """pgjdbc could not even connect: it begins with SET extra_float_digits."""
    talk = Conversation(FakeApp(), rights)
    ignored = [("NOTICE", "00000", "SET ignored")]
    for got in (talk.ask(sql), extended(talk, sql)):
        assert (told(got), tags(got)) == (ignored, ["SET"])


@pytest.mark.parametrize(
    "sql",
    [
        "SET server_version = 1",
        "SET nosuch = 1",
        "SET LOCAL default_pool_size = 1",
        "SET TIME ZONE",
    ],
)
def test_set_of_anything_else_is_refused(sql: str) -> None:
    assert kinds(console().ask(sql)) == ["ErrorResponse", "ReadyForQuery"]


def test_settings_of_the_pooler_are_no_parameters_of_postgresql() -> None:
    """`transaction_timeout` is both: SET and SHOW CONFIG mean the pooler's."""
    own = set(Settings.defaults().values())
    assert not own & {*parameters.FIXED, *parameters.IGNORED}
    assert tags(console().ask("SET transaction_timeout = 5")) == [
        "SET transaction_timeout=5"
    ]


@pytest.mark.parametrize(
    ("sql", "column", "value"),
    [
        ("SHOW extra_float_digits", "extra_float_digits", "2"),
        ("show transaction_read_only", "transaction_read_only", "off"),
        ("SHOW TRANSACTION ISOLATION LEVEL", "transaction_isolation", "read committed"),
        ("SHOW server_version", "server_version", parameters.SERVER_VERSION),
        ("show time zone", "timezone", "GMT"),
        ("SHOW session_authorization", "session_authorization", "admin"),
        ("SELECT search_path", "search_path", '"$user", public'),
    ],
)
def test_show_tells_what_drivers_ask_for(sql: str, column: str, value: str) -> None:
    talk = console()
    for got in (talk.ask(sql), extended(talk, sql)):
        (described,) = [m for m in got if m["msg"] == "RowDescription"]
        assert [field["name"] for field in described["fields"]] == [column]
        assert (rows(got), tags(got)) == ([[value]], ["SHOW"])


@pytest.mark.parametrize(
    ("sql", "tag"),
    [
        ("RESET ALL", "RESET"),
        ("RESET search_path", "RESET"),
        ("RESET SESSION AUTHORIZATION", "RESET"),
        ("DISCARD ALL", "DISCARD ALL"),
        ("DISCARD TEMPORARY", "DISCARD TEMP"),
        ("DEALLOCATE ALL", "DEALLOCATE ALL"),
        ("deallocate prepare all;", "DEALLOCATE ALL"),
        ("CLOSE ALL", "CLOSE CURSOR ALL"),
        ("UNLISTEN *", "UNLISTEN"),
    ],
)
def test_what_pools_reset_with_is_answered(sql: str, tag: str) -> None:
    talk = console()
    assert (told(talk.ask(sql)), tags(talk.ask(sql))) == ([], [tag])
    assert tags(extended(talk, sql)) == [tag]


def test_asyncpg_resets_a_session() -> None:
    sql = "SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;"
    want = ["SELECT 1", "CLOSE CURSOR ALL", "UNLISTEN", "RESET"]
    assert tags(console().ask(sql)) == want


def test_deallocate_and_discard_forget_statements() -> None:
    talk = console()
    for end, name in (("DEALLOCATE a", "a"), ('DEALLOCATE "B"', "B")):
        talk.send(parse("SHOW STATE", name), SYNC)
        assert tags(talk.ask(end)) == ["DEALLOCATE"]
        assert told(talk.ask(end))[0][1] == "26000"
        assert told(talk.send(bind(name=name), SYNC))[0][1] == "26000"
    for end in ("DEALLOCATE ALL", "DISCARD ALL"):
        talk.send(parse("SHOW STATE", "a"), parse("SHOW STATE", "b"), SYNC)
        talk.ask(end)
        assert not talk.console.sessions[1].extended.statements
    assert talk.console.sessions[1].extended.held.bytes == 0


# Transactions


def test_ready_tells_of_the_transaction_block() -> None:
    talk = console()
    for sql, tag, ready in (
        ("BEGIN", "BEGIN", "T"),
        ("SHOW VERSION", "SHOW", "T"),
        ("COMMIT", "COMMIT", "I"),
        (
            "START TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
            "START TRANSACTION",
            "T",
        ),
        ("SAVEPOINT a", "SAVEPOINT", "T"),
        ("RELEASE SAVEPOINT a", "RELEASE", "T"),
        ("END", "COMMIT", "I"),
        ("BEGIN WORK", "BEGIN", "T"),
        ("ABORT", "ROLLBACK", "I"),
    ):
        got = talk.ask(sql)
        assert (tags(got), status(got), told(got)) == ([tag], ready, []), sql
        other = console()
        if sql == "BEGIN":
            assert status(extended(other, sql)) == "T"


def test_failed_block_refuses_everything_but_its_end() -> None:
    talk = console()
    talk.ask("BEGIN")
    assert status(talk.ask("SHOW nosuch")) == "E"
    aborted = (
        "current transaction is aborted, commands ignored until end of "
        "transaction block"
    )
    for got in (talk.ask("SHOW STATE"), extended(talk, "SHOW STATE")):
        assert told(got) == [("ERROR", "25P02", aborted)]
        assert status(got) == "E"
    assert kinds(talk.ask("-- ping")) == ["EmptyQueryResponse", "ReadyForQuery"]
    got = talk.ask("COMMIT")
    assert (tags(got), status(got)) == (["ROLLBACK"], "I")


def test_rollback_to_a_savepoint_heals_a_block() -> None:
    talk = console()
    talk.ask("BEGIN; SAVEPOINT a; SAVEPOINT b")
    talk.ask("SHOW nosuch")
    got = talk.ask("ROLLBACK TO a")
    assert (tags(got), status(got)) == (["ROLLBACK"], "T")
    got = talk.ask("RELEASE b")
    assert told(got) == [("ERROR", "3B001", 'savepoint "b" does not exist')]
    assert status(got) == "E"
    assert status(talk.ask("ROLLBACK")) == "I"
    assert told(talk.ask("SAVEPOINT x"))[0][1] == "25P01"


def test_begin_and_commit_out_of_place_are_warned_of() -> None:
    talk = console()
    (warning,) = told(talk.ask("COMMIT"))
    assert warning == ("WARNING", "25P01", "there is no transaction in progress")
    talk.ask("BEGIN")
    (warning,) = told(talk.ask("BEGIN"))
    assert warning == ("WARNING", "25001", "there is already a transaction in progress")
    assert told(talk.ask("DISCARD ALL"))[0][1] == "25001"


def test_portals_live_as_long_as_their_block() -> None:
    """JDBC takes the rows of a cursor in several series."""
    talk = console()
    talk.send(parse("BEGIN"), bind(), execute(), SYNC)
    got = talk.send(parse("SHOW CONFIG"), bind(portal="c"), execute(5, "c"), SYNC)
    assert len(rows(got)) == 5
    assert "PortalSuspended" in kinds(got)
    talk.ask("SHOW STATE")
    assert len(rows(talk.send(execute(5, "c"), SYNC))) == 5
    talk.ask("COMMIT")
    assert told(talk.send(execute(5, "c"), SYNC))[0][1] == "34000"
    assert talk.console.sessions[1].extended.portals == {}


# Long texts


@pytest.mark.parametrize("length", [451, 1_000, 5_000, 60_000])
def test_long_text_is_quoted_in_part_and_the_session_goes_on(
    length: int, logged: Any
) -> None:
    """psql's backslash commands ended with `FATAL: failure` and no connection."""
    sql = "SELECT ä, '" + "x y " * (length // 4) + "' FROM pg_class JOIN nosuch"
    talk = console()
    for got in (talk.ask(sql), talk.send(parse(sql), SYNC)):
        ((severity, sqlstate, text),) = told(got)
        assert (severity, sqlstate) == ("ERROR", "08P01")
        assert text.startswith(f"invalid command '{sql[:400]}")
        assert text.endswith("...', use SHOW HELP;")
        assert len(text.encode()) <= 484
    assert all(len(line) < 600 for line in logged.take())
    assert tags(talk.ask("SHOW STATE")) == ["SHOW"]


def test_quoted_text_is_cut_between_characters() -> None:
    for shift in range(4):
        ((_, _, text),) = told(console().ask("x" * shift + " " + "ä€" * 400))
        assert text.endswith(("ä...', use SHOW HELP;", "€...', use SHOW HELP;"))


def test_text_beyond_all_bounds_is_refused_and_the_session_goes_on() -> None:
    talk = console()
    assert told(talk.ask("x " * 40_000))[0][1] == "54000"
    assert tags(talk.ask("SHOW STATE")) == ["SHOW"]


# Who are you?


@pytest.mark.parametrize(
    ("sql", "column", "value"),
    [
        ("select 1", "?column?", "1"),
        ("SELECT 'keep alive'", "?column?", "keep alive"),
        ("SELECT 1 AS one", "one", "1"),
        ("SELECT true", "?column?", "t"),
        ("select version()", "version", None),
        ("select pg_catalog.version();", "version", None),
        ("SELECT current_schema()", "current_schema", "public"),
        ("select current_schema", "current_schema", "public"),
        ("SELECT current_database()", "current_database", "pgbouncer"),
        ("SELECT current_user", "current_user", "admin"),
        ("SELECT pg_is_in_recovery()", "pg_is_in_recovery", "f"),
        ("SELECT pg_catalog.pg_is_in_recovery()", "pg_is_in_recovery", "f"),
        ("SELECT pg_backend_pid()", "pg_backend_pid", "4097"),
        ("SELECT current_setting('server_version')", "current_setting", None),
        ("SELECT pg_catalog.set_config('search_path', '', false)", "set_config", ""),
        (
            "SELECT datname FROM pg_catalog.pg_database WHERE datname = 'bench'",
            "datname",
            "bench",
        ),
        ("SELECT count(*) FROM pg_database WHERE NOT datallowconn", "count", "0"),
        (
            "SELECT rolname FROM pg_roles WHERE rolname = current_user",
            "rolname",
            "admin",
        ),
        ("SELECT typname::name FROM pg_type WHERE oid = 25", None, "text"),
        ("SELECT nspname FROM pg_namespace WHERE oid = 2200", "nspname", "public"),
    ],
)
def test_probes_are_answered(sql: str, column: str | None, value: str | None) -> None:
    talk = console()
    for got in (talk.ask(sql), extended(talk, sql)):
        (described,) = [m for m in got if m["msg"] == "RowDescription"]
        (field,) = described["fields"]
        assert column is None or field["name"] == column
        ((found,),) = rows(got)
        assert value is None or found == value
        assert tags(got) == ["SELECT 1"]


def test_version_is_read_by_tools_that_look_for_postgresql() -> None:
    ((found,),) = rows(console().ask("select version()"))
    assert found.startswith(f"PostgreSQL {parameters.SERVER_VERSION} ")
    assert "PgBouncer" in found


@pytest.mark.parametrize(
    ("sql", "oid"),
    [
        ("SELECT 1", 23),
        ("SELECT 1 AS one", 23),
        ("SELECT 1 one", 23),
        ("SELECT 1 + 1", 20),
        ("SELECT 3000000000", 20),
        ("SELECT 1 UNION SELECT 3000000000", 25),
        ("SELECT 1.5", 701),
        ("SELECT 'x'", 25),
        ("SELECT false", 16),
        ("SELECT pg_is_in_recovery()", 16),
        ("SELECT oid FROM pg_database", 26),
    ],
)
def test_probes_have_the_types_of_postgresql(sql: str, oid: int) -> None:
    """node-postgres gives an int8 as a text: a check for 1 would fail."""
    (described,) = [m for m in console().ask(sql) if m["msg"] == "RowDescription"]
    assert [field["type_oid"] for field in described["fields"]] == [oid]


def test_pgadmin_begins() -> None:
    got = console().ask(
        "SET DateStyle=ISO; SET client_min_messages=notice; SELECT "
        "set_config('bytea_output','hex',false) FROM pg_show_all_settings() "
        "WHERE name = 'bytea_output'; SET client_encoding='UTF8';"
    )
    assert tags(got) == ["SET", "SET", "SELECT 1", "SET"]
    got = console().ask(
        "SELECT db.oid as did, db.datname, db.datallowconn, "
        "pg_encoding_to_char(db.encoding) AS serverencoding, "
        "has_database_privilege(db.oid, 'CREATE') as cancreate, datistemplate "
        "FROM pg_catalog.pg_database db WHERE db.datname = 'bench'"
    )
    assert rows(got)[0][1:] == ["bench", "t", "UTF8", "f", "f"]


def test_dbeaver_and_datagrip_begin() -> None:
    talk = console()
    for sql in (
        "SELECT current_schema(),session_user",
        "SELECT db.oid,db.* FROM pg_catalog.pg_database db WHERE datname='bench'",
        "SELECT * FROM pg_catalog.pg_settings where name='standard_conforming_strings'",
        "select current_database(), current_schema(), current_user",
        "select round(extract(epoch from pg_postmaster_start_time() at time zone "
        "'UTC')) as startup_time",
    ):
        assert tags(talk.ask(sql)) == ["SELECT 1"], sql
        assert tags(extended(talk, sql)) == ["SELECT 1"], sql
    got = talk.ask("select extract(epoch from pg_postmaster_start_time())")
    assert rows(got) == [["1700000000.0"]]


def test_a_column_called_as_a_function_is_still_a_column() -> None:
    got = console().ask("SELECT user, c.database FROM clients c")
    assert tags(got) == ["SELECT 1"]


def test_pattern_of_a_client_is_no_program() -> None:
    """An expression of its own could keep the interpreter for as long as it likes."""
    talk = console()
    got = talk.ask("SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_'")
    assert rows(got) == [["public"]]
    got = talk.ask("SELECT nspname FROM pg_namespace WHERE nspname !~ '^(a+)+$'")
    assert told(got)[0][1] == "0A000"
