"""`--check` says where clients could answer for auth_query."""

import pytest

from bouncer.check.main import check
from bouncer.check.safety import without_schema
from bouncer.config.params import AUTH_QUERY

START = "[pgbouncer]\nunix_socket_dir = {here}\nauth_file = users.txt\n"
SHARED = "[databases]\na = host=h user=asker\nb = host=h\n"


def texts(here, rest):
    (here / "pgbouncer.ini").write_text(START.replace("{here}", str(here)) + rest)
    (here / "users.txt").write_text('"asker" "secret"\n')
    (here / "users.txt").chmod(0o600)
    (here / "pgbouncer.ini").chmod(0o600)
    findings, _ = check("pgbouncer.ini", online=False)
    return [(f.setting, f.text) for f in findings if "auth_query means" in f.text]


def test_shared_servers_and_a_query_without_schema(here):
    query = "auth_user = asker\nauth_query = select * from get_auth($1)\n"
    [(name, text)] = texts(here, query + SHARED)
    assert name == "a" and "get_auth" in text
    both = texts(here, query + "auth_dbname = a\n" + SHARED)
    assert [name for name, _ in both] == ["a", "b"]


@pytest.mark.parametrize(
    "query",
    [
        "auth_user = asker\n",
        f"auth_user = asker\nauth_query = {AUTH_QUERY}\n",
        "auth_user = asker\nauth_query = select * from pooler.get_auth($1)\n",
        "auth_user = other\nauth_query = select * from get_auth($1)\n",
        "auth_user = asker\nauth_dbname = b\nauth_query = select * from f($1)\n",
    ],
)
def test_nothing_is_said_where_nobody_can(here, query):
    assert texts(here, query + SHARED) == []


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("SELECT usename, passwd FROM pg_shadow WHERE usename=$1", ["pg_shadow"]),
        ("select u, p from pg_catalog.pg_shadow where u=$1", []),
        ("select * from user_search($1)", ["user_search"]),
        ("select * from only t join s.u on (true)", ["t"]),
        ('select * from "s"."f"($1)', []),
        ('select * from "F"($1)', ['"F"']),
        ("select (f($1)).*", ["f"]),
        ("select case when a in ('f(') then b end from s . t", []),
        ("select pg_catalog.lower(a), coalesce(b, 'x') from s.t", []),
    ],
)
def test_names_without_schema(sql, names):
    assert without_schema(sql) == names
