"""Cases 3a to 3d: a parameter goes with its client, and with nobody else.

One server for all, so that whatever one client leaves the next one meets.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.replay.backends import Recorder
from tests.support.ground import Postgres
from tests.support.wire import FakeClient, error, query, rows

INI = {"pool_mode": "transaction", "default_pool_size": 1}
MODES = ("session", "transaction")
USER = "postgres"


@pytest.fixture(params=[15, 18])
def server(request: pytest.FixtureRequest) -> Postgres:
    """Both kinds of PostgreSQL: the older one does not report search_path."""
    name = "postgres" if request.param == 15 else "postgres18"
    found: Postgres = request.getfixturevalue(name)
    return found


def client(one: Any, **params: str) -> FakeClient:
    made = FakeClient(one.port, seconds=20)
    got = made.login("p0", USER, **params)
    assert got[-1]["type"] == "ReadyForQuery", error(got)
    return made


def refused(one: Any, **params: str) -> dict[str, str]:
    """The error of a login that does not succeed."""
    with FakeClient(one.port, seconds=20) as made:
        return error(made.login("p0", USER, **params))


def value(made: FakeClient, sql: str) -> str:
    got = made.ask(sql)
    assert not error(got), error(got)
    [[found]] = rows(got)
    return str(found)


def told(got: list[dict[str, Any]]) -> dict[str, str]:
    """The parameters in what a client was sent."""
    return {m["name"]: m["value"] for m in got if m["type"] == "ParameterStatus"}


# 3a


def test_session_authorization_stays_with_who_has_set_it(
    pooler: Callable[..., Any], server: Postgres
) -> None:
    """It reached the next client: somebody else's rights."""
    one = pooler(INI, server_port=server.port)
    with client(one) as first, client(one) as second:
        first.ask("set session authorization u_trust")
        for _ in range(2):
            assert value(second, "select session_user") == USER
            assert value(first, "select session_user || current_user") == "u_trust" * 2
        first.ask("reset session authorization")
        assert value(first, "select session_user") == USER


def test_read_only_stays_with_who_has_set_it(
    pooler: Callable[..., Any], server: Postgres
) -> None:
    """It was taken back behind the transaction: who had asked for it wrote."""
    one = pooler(INI, server_port=server.port)
    with client(one) as first, client(one) as second:
        first.ask("create table if not exists read_only_case (a int)")
        first.ask("set default_transaction_read_only = on")
        assert error(first.ask("insert into read_only_case values (1)"))["C"] == "25006"
        assert not error(second.ask("insert into read_only_case values (2)"))
        assert error(first.ask("insert into read_only_case values (3)"))["C"] == "25006"
        second.ask("drop table read_only_case")


def test_scram_iterations_stay_with_who_has_set_them(
    pooler: Callable[..., Any], postgres18: Postgres
) -> None:
    one = pooler(INI, server_port=postgres18.port)
    with client(one, scram_iterations="5000") as first, client(one) as second:
        assert value(first, "show scram_iterations") == "5000"
        second.ask("set scram_iterations = 6000")
        assert value(first, "show scram_iterations") == "5000"
        assert value(second, "show scram_iterations") == "6000"


def test_startup_parameter_that_only_later_versions_know_is_their_error(
    pooler: Callable[..., Any], postgres: Postgres
) -> None:
    """PostgreSQL's own words, and the server goes on."""
    if postgres.major >= 16:
        pytest.skip("it knows scram_iterations")
    one = pooler(INI)
    with client(one) as other:
        pid = value(other, "select pg_backend_pid()")
        with client(one, scram_iterations="5000") as wrong:
            found = error(wrong.ask("select 1"))
            assert (found["S"], found["C"]) == ("FATAL", "42704")
            assert "scram_iterations" in found["M"]
        assert value(other, "select pg_backend_pid()") == pid


# 3b


UNREPORTED = {
    **INI,
    "track_extra_parameters": "statement_timeout, my.tenant, role, work_mem",
}


@pytest.mark.parametrize(
    ("name", "given", "own"),
    [
        ("statement_timeout", "7s", "0"),
        ("work_mem", "1MB", "4MB"),
        ("role", "u_trust", "none"),
        ("my.tenant", "o'brien; set role x", ""),
    ],
)
def test_unreported_parameter_is_set_for_who_gave_it_and_reset_for_others(
    pooler: Callable[..., Any], server: Postgres, name: str, given: str, own: str
) -> None:
    """It was told to the client, and never set."""
    one = pooler(UNREPORTED, server_port=server.port)
    show = f"select coalesce(current_setting('{name}', true), '')"
    with client(one, **{name: given}) as a, client(one) as b:
        for _ in range(2):
            assert value(a, show) == given
            assert value(b, show) == own


def test_unreported_search_path_is_set_for_who_gave_it(
    pooler: Callable[..., Any], postgres: Postgres
) -> None:
    if postgres.major >= 18:
        pytest.skip("it reports search_path")
    one = pooler(INI)
    with client(one, search_path="pg_catalog") as a, client(one) as b:
        for _ in range(2):
            assert value(a, "show search_path") == "pg_catalog"
            assert value(b, "show search_path") == '"$user", public'


RESETS = ("reset all", "reset statement_timeout", "discard all")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("reset", RESETS)
def test_reset_of_an_unreported_parameter_goes_back_to_the_startup_value(
    pooler: Callable[..., Any], server: Postgres, mode: str, reset: str
) -> None:
    """PgBouncer 1.26.1 loses it."""
    one = pooler(
        {**UNREPORTED, "pool_mode": mode, "default_pool_size": 2 - (mode != "session")},
        server_port=server.port,
    )
    with client(one, statement_timeout="7s") as a, client(one) as b:
        assert value(a, "show statement_timeout") == "7s"
        a.ask(reset)
        assert value(b, "show statement_timeout") == "0"
        assert value(a, "show statement_timeout") == "7s"
        a.ask("set statement_timeout = '9s'")
        assert value(b, "show statement_timeout") == "0"
        assert value(a, "show statement_timeout") == "9s"
        a.ask(reset)
        assert value(a, "show statement_timeout") == "7s"


CHANGES = {
    "SET": ("set statement_timeout = '9s'",),
    "SET in a transaction": ("begin", "set statement_timeout = '9s'", "commit"),
    "set_config": ("select set_config('statement_timeout', '9s', false)",),
    "DO": ("do $$ begin perform set_config('statement_timeout', '9s', false); end $$",),
    "two statements": ("select 1; set statement_timeout = '9s'",),
}


@pytest.mark.parametrize("given", [{}, {"statement_timeout": "7s"}])
@pytest.mark.parametrize("change", CHANGES)
def test_unreported_parameter_follows_what_its_client_sets(
    pooler: Callable[..., Any], change: str, given: dict[str, str]
) -> None:
    """PgBouncer 1.26.1 undoes it at the next server, or leaves it to others."""
    one = pooler(UNREPORTED)
    with client(one, **given) as a, client(one) as b:
        for statement in CHANGES[change]:
            a.ask(statement)
        for _ in range(2):
            assert value(b, "show statement_timeout") == "0"
            assert value(a, "show statement_timeout") == "9s"


def test_search_path_that_is_tracked_by_name_follows_what_its_client_sets(
    pooler: Callable[..., Any], server: Postgres
) -> None:
    """Where PostgreSQL does not report it, too."""
    one = pooler(
        {**INI, "track_extra_parameters": "search_path"}, server_port=server.port
    )
    with client(one) as a, client(one) as b:
        a.ask('set search_path = pg_catalog, "Mine, too"')
        for _ in range(2):
            assert value(b, "show search_path") == '"$user", public'
            assert value(a, "show search_path") == 'pg_catalog, "Mine, too"'


UNDONE = (
    ("begin", "set statement_timeout = '9s'", "rollback"),
    ("begin", "set local statement_timeout = '9s'", "commit"),
    ("begin", "set statement_timeout = '9s'", "select 1/0", "commit"),
    ("set statement_timeout = '9s'; select 1/0",),
)


@pytest.mark.parametrize("statements", UNDONE)
def test_unreported_parameter_keeps_its_value_when_a_set_is_undone(
    pooler: Callable[..., Any], statements: tuple[str, ...]
) -> None:
    one = pooler(UNREPORTED)
    with client(one, statement_timeout="7s") as a, client(one) as b:
        for statement in statements:
            a.ask(statement)
        assert value(b, "show statement_timeout") == "0"
        assert value(a, "show statement_timeout") == "7s"


def test_client_that_sets_an_unreported_parameter_and_goes_leaves_nothing(
    pooler: Callable[..., Any],
) -> None:
    one = pooler(UNREPORTED)
    with client(one) as b:
        for goodbye in (b"", b"X\0\0\0\4"):
            with client(one) as a:
                a.send_bytes(query("set statement_timeout = '9s'") + goodbye)
                a.until_ready()
            assert value(b, "show statement_timeout") == "0"


@pytest.mark.parametrize(
    ("name", "wrong", "code"),
    [
        ("statement_timeout", "nonsense", "22023"),
        ("role", "nobody_of_that_name", "22023"),
        ("work_mem", "1", "22023"),
    ],
)
def test_refused_value_of_an_unreported_parameter_is_its_clients_error_only(
    pooler: Callable[..., Any], name: str, wrong: str, code: str
) -> None:
    """By PostgreSQL's own words; PgBouncer 1.26.1 closes the server, too."""
    one = pooler(UNREPORTED)
    with client(one, statement_timeout="7s") as other:
        pid = value(other, "select pg_backend_pid()")
        for _ in range(2):
            with client(one, **{name: wrong}) as made:
                found = error(made.ask("select 1"))
                assert found["S"] == "FATAL" and found["C"] == code
                assert name in found["M"] or wrong in found["M"]
            assert value(other, "select pg_backend_pid()") == pid
            assert value(other, "show statement_timeout") == "7s"


@pytest.fixture
def recorded(
    pooler: Callable[..., Any], postgres: Postgres, free_port: Callable[[], int]
) -> Iterator[Callable[..., Any]]:
    """Start a pooler; `.sent()` is what it says to its server."""
    recorder = Recorder(free_port(), postgres.port)

    def start(**ini: Any) -> Any:
        one = pooler(
            {**INI, "server_tls_sslmode": "disable", **ini}, server_port=recorder.port
        )
        one.sent = lambda: [
            message["sql"]
            for connection in list(recorder.connections)
            for message in list(connection.messages)
            if message["type"] == "Query"
        ]
        return one

    yield start
    recorder.close()


def test_nobody_is_asked_for_values_where_none_is_unreported(
    recorded: Callable[..., Any],
) -> None:
    """A question per SET is for pools that need it."""
    one = recorded()
    with client(one) as a, client(one) as b:
        for each in (a, b, a):
            each.ask("set work_mem = '5MB'")
            each.ask("reset work_mem")
            each.ask("do $$ begin end $$")
    assert not [sql for sql in one.sent() if "pg_settings" in sql]


# 3c


def test_tracked_parameters_are_taken_from_startup_and_options_in_any_case(
    pooler: Callable[..., Any], server: Postgres
) -> None:
    one = pooler(INI, server_port=server.port)
    given = {
        "Search_Path": "pg_catalog",
        "options": "-c DEFAULT_TRANSACTION_READ_ONLY=on --intervalSTYLE=iso_8601",
    }
    with client(one, **given) as a, client(one) as b:
        for _ in range(2):
            assert value(a, "show search_path") == "pg_catalog"
            assert value(a, "show default_transaction_read_only") == "on"
            assert value(a, "show intervalstyle") == "iso_8601"
            assert value(b, "show search_path") == '"$user", public'
            assert value(b, "show default_transaction_read_only") == "off"
            assert value(b, "show intervalstyle") == "postgres"


@pytest.mark.parametrize(
    "given", [{"search_path": "x"}, {"options": "-c search_path=x"}]
)
def test_ignore_startup_parameters_wins_over_tracking(
    pooler: Callable[..., Any], given: dict[str, str]
) -> None:
    one = pooler({**INI, "ignore_startup_parameters": "search_path"})
    with client(one, **given) as made:
        assert value(made, "show search_path") == '"$user", public'


def test_parameters_of_a_login_are_told_in_their_order(
    pooler: Callable[..., Any], postgres: Postgres
) -> None:
    one = pooler({**UNREPORTED, "max_prepared_statements": 7})
    with FakeClient(one.port) as made:
        names = list(told(made.login("p0", USER, statement_timeout="7s")))
    assert names[0] == "pgbouncer.version"
    at = names.index("pgbouncer.max_prepared_statements")
    wanted = ["pgbouncer.max_prepared_statements", "pgbouncer.pool_mode", "DateStyle"]
    assert names[at : at + 3] == wanted
    assert names[-2:] == ["session_authorization", "statement_timeout"]


# 3d


LISTS = {
    "foo-bar": '"foo-bar"',
    "1abc": '"1abc"',
    "$user,public": '"$user", public',
    "a'b": '"a\'b"',
    "public, pg_temp": "public, pg_temp",
    '"Mixed Case", other': '"Mixed Case", other',
    "select": '"select"',
    "p1s": "p1s",
}


@pytest.mark.parametrize("given", LISTS)
def test_search_path_of_a_startup_packet_may_be_any_list(
    recorded: Callable[..., Any], given: str
) -> None:
    """The client was cut at its next server."""
    one = recorded()
    with client(one, search_path=given) as a, client(one) as b:
        for _ in range(2):
            a.ask("select 1")
            assert value(b, "show search_path") == '"$user", public'
    assert f"SET search_path={LISTS[given]};" in one.sent()


@pytest.mark.parametrize(
    "given", ["public; set role x", "public; begin", "a b", "a,", '"a', "public;drop x"]
)
@pytest.mark.parametrize("as_option", [False, True])
def test_search_path_that_is_no_list_is_refused_or_harmless(
    recorded: Callable[..., Any], given: str, as_option: bool
) -> None:
    """It was run as SQL, with the pool's rights; `; begin` stalls 1.26.1's pool."""
    one = recorded()
    params = {"search_path": given}
    if as_option:
        params = {"options": "-c search_path=" + given.replace(" ", "\\ ")}
    with client(one) as other:
        found = refused(one, **params)
        assert found["C"] == "22023" and found["S"] == "FATAL"
        assert found["M"] == f'invalid value for parameter "search_path": "{given}"'
        assert value(other, "select 'still'") == "still"
    assert not [sql for sql in one.sent() if "search_path" in sql]


NASTY = (
    "x'; create table stolen (i int); --",
    "x\\'; create table stolen (i int); --",
    'x"; create table stolen (i int); --',
    "x; create table stolen (i int)",
    "$$; create table stolen (i int); $$",
)
EVERYTHING = (
    "application_name",
    "statement_timeout",
    "my.tenant",
    "session_authorization",
    "DateStyle",
    "TimeZone",
    "client_encoding",
    "IntervalStyle",
    "default_transaction_read_only",
    "standard_conforming_strings",
    "search_path",
    "scram_iterations",
    "role",
)


@pytest.mark.parametrize("name", EVERYTHING)
def test_no_value_of_a_tracked_parameter_is_run(
    pooler: Callable[..., Any], name: str
) -> None:
    one = pooler(UNREPORTED)
    with client(one) as other:
        for nasty in NASTY:
            for more in ({}, {"standard_conforming_strings": "off"}):
                with FakeClient(one.port, seconds=20) as made:
                    got = made.login("p0", USER, **{**more, name: nasty})
                    if got[-1]["type"] == "ReadyForQuery":
                        made.ask("select 1")
            assert value(other, "select to_regclass('stolen') is null") == "t"
