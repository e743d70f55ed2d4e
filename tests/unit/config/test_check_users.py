"""`--check`: entries of auth_file, secrets, limits of users, doors that stand open."""

import pytest

from bouncer.check.findings import WARNING
from bouncer.check.main import check
from tests.unit.config.test_check import found, write  # noqa: F401  (a fixture)

KEYS = "A" * 43 + "="
SCRAM = f"SCRAM-SHA-256$4096:c2FsdA==${KEYS}:{KEYS}"
MD5 = "md5" + "0123456789abcdef" * 2
DATABASE = "[databases]\na = host=h\n"


def in_userlist(write, users, rest=DATABASE):  # noqa: F811
    """What is said of auth_file, as (line, text)."""
    findings, _ = check(write(rest, users=users), online=False)
    assert {one.level for one in findings} <= {WARNING}
    return [
        (one.line, one.text)
        for one in findings
        if one.file == "users.txt" or one.setting == "auth_file"
    ]


@pytest.mark.parametrize("users", ["", "\n\n", "; nobody yet\n"])
def test_userlist_without_a_user(write, users):  # noqa: F811
    """A start says nothing, and then nobody can log in."""
    [(line, text)] = in_userlist(write, users)
    assert line == 3 and text == "there is no user in it: nobody can log in"


@pytest.mark.parametrize(
    "rest",
    [
        "auth_user = looker\n" + DATABASE,
        "[databases]\na = host=h auth_user=looker\n",
        "[databases]\n* = host=h auth_user=looker\n",
        "auth_type = any\n[databases]\na = host=h\n",
    ],
)
def test_userlist_may_be_empty_where_nobody_needs_it(write, rest):  # noqa: F811
    assert not in_userlist(write, "", rest)


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        ("SCRAM-SHA-256$4096:", "cut or mangled"),
        ("SCRAM-SHA-256096:c2FsdA==:", "cut or mangled"),
        (SCRAM[:-2], "cut or mangled"),
        (SCRAM.replace("SHA", "sha"), "cut or mangled"),
        ("${DB_PASSWORD}", "a variable"),
        ("$DB_PASSWORD", "a variable"),
        ("$(cat /run/secrets/db)", "a variable"),
        ("`cat x`", "a variable"),
        ("md5${HASH}", "a variable"),
        ("{{ .Values.password }}", "a variable"),
        ("<%= @password %>", "a variable"),
        (MD5[:-1], "34 instead of 35"),
        (MD5 + "  -", "38 instead of 35"),
        (MD5.upper().replace("MD5", "md5"), "small letters"),
        ("md5", "without its hash"),
        ("'secret'", "the quotes are part"),
    ],
)
def test_secret_that_is_not_what_it_looks_like(write, secret, text):  # noqa: F811
    """A shell cuts at $, nothing is replaced in here: it became a password."""
    [(line, said)] = in_userlist(write, f'"alice" "x"\n"bob" "{secret}"\n')
    assert line == 2 and text in said
    assert secret not in said or secret == "md5"


@pytest.mark.parametrize(
    "secret",
    [SCRAM, MD5, "md5er", "pa$word", "$ecret", "100%", "a{b}c", "md5-is-old", "SCRAM"],
)
def test_honest_secrets_are_not_doubted(write, secret):  # noqa: F811
    assert not in_userlist(write, f'"bob" "{secret}"\n')


def test_entries_that_are_odd(write):  # noqa: F811
    users = '"bob" "x"\n"bob" "y"\n"carol" ""\n"${WHO}" "z"\n'
    assert sorted(in_userlist(write, users)) == [
        (2, "the user is given twice, the last entry counts"),
        (3, "an empty secret lets nobody in: carol"),
        (4, '"${WHO}" in a name: nothing is replaced in here'),
    ]


def test_many_bad_secrets_are_a_few_lines(write):  # noqa: F811
    users = "".join(f'"u{n}" "SCRAM-SHA-256$4096:"\n' for n in range(500))
    assert len(in_userlist(write, users)) == 6


# Limits


@pytest.mark.parametrize(
    ("rest", "text"),
    [
        ("[users]\nu = pool_size=10 max_user_connections=5\n", "pool's size, 10"),
        (
            "default_pool_size = 30\n[users]\nu = max_user_connections=5\n"
            "[databases]\na = host=h user=u password=x\n",
            "pool's size, 30",
        ),
        (
            "[users]\nu = max_user_connections=5\n"
            "[databases]\na = host=h user=u password=x pool_size=6\n",
            "pool's size, 6",
        ),
        (
            "[users]\nu = max_user_connections=5\n[databases]\n"
            "a = host=h user=u password=x min_pool_size=3\n"
            "b = host=h user=u password=x min_pool_size=3\n",
            "the 6 connections",
        ),
        (
            "max_user_connections = 25\nmin_pool_size = 15\n[databases]\n"
            "a = host=h user=u password=x\nb = host=h user=u password=x\n",
            "the 30 connections",
        ),
        (
            "min_pool_size = 6\n[users]\nu = max_user_connections=5\n",
            "the 6 connections",
        ),
        ("max_user_connections = 5\n", "default_pool_size = 20"),
        (
            "[users]\nu = pool_size=9 max_user_client_connections=4\n",
            "never fill its pool of 9",
        ),
    ],
)
def test_limit_of_a_user_below_what_its_pool_needs(write, rest, text):  # noqa: F811
    if "[databases]" not in rest:
        rest += DATABASE
    _, [said] = found(write(rest))
    assert text in said


@pytest.mark.parametrize(
    "rest",
    [
        "[users]\nu = max_user_connections=5\n",
        "[users]\nu = max_user_connections=20 pool_size=20\n",
        "default_pool_size = 30\n[users]\nu = max_user_connections=5\n",
        "max_user_connections = 50\n",
    ],
)
def test_limit_of_a_user_may_be_low_on_purpose(write, rest):  # noqa: F811
    assert found(write(rest + DATABASE)) == ([], [])


# Doors


@pytest.mark.parametrize(
    ("listen", "line", "warned"),
    [
        ("*", "host all all all trust", True),
        ("10.0.0.1", "host all all 0.0.0.0/0 trust", True),
        ("*", "host a alice ::/0 trust", True),
        ("127.0.0.1", "host all all all trust", False),
        ("*", "host all all 127.0.0.1/32 trust", False),
        ("*", "host all all 10.0.0.0/8 trust", False),
        ("*", "local all all trust", False),
        ("*", "host all all all md5", False),
    ],
)
def test_trust_for_the_world(write, here, listen, line, warned):  # noqa: F811
    """Only `auth_type = trust` was told, not the same word in an HBA file."""
    (here / "hba").write_text(f"{line}\n")
    rest = (
        f"listen_addr = {listen}\nauth_type = hba\nauth_hba_file = hba\n"
        "[databases]\na = host=h\n"
    )
    findings, _ = check(write(rest), online=False)
    told = [one.line for one in findings if "no password" in one.text]
    assert told == ([1] if warned else [])


# health_user


@pytest.mark.parametrize(
    ("users", "text"),
    [
        (f'"bob" "{SCRAM}"', "the SCRAM secret"),
        ('"bob" ""', "is empty"),
        ('"bob" "SCRAM-SHA-256$4096:"', "cut or mangled"),
        ('"bob" "${PW}"', "a variable"),
        ('"alice" "x"', "is not in auth_file"),
    ],
)
def test_health_user_that_cannot_log_in(write, users, text):  # noqa: F811
    rest = "[pybouncer]\nhealth_listen = 127.0.0.1:6480\nhealth_user = bob\n"
    findings, _ = check(write(rest + DATABASE, users=users), online=False)
    [said] = [one.text for one in findings if one.setting == "health_user"]
    assert text in said


def test_health_user_without_an_auth_file(write):  # noqa: F811
    rest = "[pybouncer]\nhealth_listen = 127.0.0.1:6480\nhealth_user = bob\n"
    start = "[pgbouncer]\nunix_socket_dir = {here}\nauth_user = l\n"
    _, texts = found(write(rest + DATABASE, start=start))
    assert any("there is no auth_file" in text for text in texts)


# Queries


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("'DISCARD ALL'", "the quotes"),
        ('"DISCARD ALL"', "the quotes"),
        ("DISCARD ALL; SELECT 1", "2 statements"),
        ("RESET ALL; DISCARD ALL;", "2 statements"),
        ("DISCARD ALL;", ""),
        ("RESET ALL; UNLISTEN *", ""),
    ],
)
def test_reset_query_that_does_not_reset(write, query, text):  # noqa: F811
    _, texts = found(write(f"server_reset_query = {query}\n{DATABASE}"))
    assert bool(texts) == bool(text)
    assert all(text in said for said in texts)
