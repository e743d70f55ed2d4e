"""`--check`: every mistake of a line, and what is read but cannot have been meant."""

import pytest

from bouncer.check.findings import ERROR, WARNING
from bouncer.check.main import check
from tests.unit.config.test_check import found, write  # noqa: F401  (a fixture)


def of_line(write, line, section="databases"):  # noqa: F811
    """What is said of one line, as (level, text with suggestion)."""
    places, texts = found(write(f"[{section}]\n{line}\n"))
    return [
        (place[0], text)
        for place, text in zip(places, texts, strict=True)
        if place[1] == 5
    ]


@pytest.mark.parametrize(
    ("line", "section", "wanted"),
    [
        ("a = hots=h prot=1 pool_mod=session", "databases", ["host", "port", "mode"]),
        ("a = host=h port=0 pool_mode=x foo=1", "databases", ["port", "mode", "foo"]),
        ("a = host=h port 5 pool_mod=session", "databases", ["syntax", "pool_mode?"]),
        ("u = pool_siz=1 query_timout=2", "users", ["pool_size?", "query_timeout?"]),
        ("1 = hst=h prt=5", "peers", ["host?", "port?"]),
        ("pgbouncer = hots=h", "databases", ["host", "reserved"]),
    ],
)
def test_every_mistake_of_a_line_is_told(write, line, section, wanted):  # noqa: F811
    """Only the first of each line was, and the next came after the next try."""
    said = of_line(write, line, section)
    assert len(said) == len(wanted)
    for (level, text), part in zip(said, wanted, strict=True):
        assert level == ERROR
        assert part in text


def test_free_text_behind_a_mistake_is_one_mistake(write):  # noqa: F811
    said = of_line(write, "a = host=h password=my very own word x=1 # and so on")
    assert [text.partition(" | ")[0] for _, text in said] == [
        "syntax error in connection string"
    ]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("a = host=h port=5x", "read as 5"),
        ("a = host=h pool_size=20, port=5", "pool_size=20, is read as 20"),
        ("a = host=h pool_size=many", "read as 0"),
        ("a = host=h pool_size=99999999999", "is read as"),
        ("a = host=h server_lifetime=10min", "did you mean 600?"),
        ('a = host=h max_db_connections="5"', "no quotes"),
        ("a = host= port=5432", 'host is "port=5432" | leave host= out'),
        ("a = host=h,port=5432", "only blanks separate"),
        ("a = host=h dbname=shop;port=5", "only blanks separate"),
        ("a = host=h dbname=shop, port=5", "only blanks separate"),
        ('a = host=h user="bob"', "the quotes are part"),
        ('a = host=h user=bob password="x"', "the quotes are part"),
        ("a = host=${PGHOST}", "nothing is replaced"),
        ("a = host=$PGHOST", "nothing is replaced"),
        ("a = host=h user=bob password=$(cat,/run/x)", "nothing is replaced"),
        ("a = host=h user=bob password={{pw}}", "nothing is replaced"),
        ("a = host=h user=bob password=SCRAM-SHA-256$4096:", "cut or mangled"),
        ("a = host=h user=bob password=md5abcdef0123456789", "instead of 35"),
        ("a = host=h host=i", "given twice"),
        ("a = host=h:5432", "host=h port=5432"),
        ("a = host=postgres://h/shop", "URL"),
        ("* = host=h port=5x", "read as 5"),
        ("* = hots=h", "host"),
        ("* = host=h port=70000", "70000 is not a port"),
        ("* = host=a,,b", "empty host"),
    ],
)
def test_what_is_read_but_not_meant_is_a_warning(write, line, text):  # noqa: F811
    """PgBouncer reads a number up to its first other sign, a word up to a blank."""
    said = of_line(write, line)
    assert [one for one in said if text in one[1]]
    assert {level for level, _ in said} == {WARNING}


def test_port_of_a_peer_is_looked_at(write):  # noqa: F811
    said = of_line(write, "1 = host=h port=70000", "peers")
    assert (WARNING, "70000 is not a port | ") in said


@pytest.mark.parametrize(
    "line",
    [
        "a = host=10.0.0.1 port=5432 dbname='my shop' pool_size=20",
        "a = host=h user=bob password=a,b;c=d",
        "a = host=h user=bob password='''x'''",
        "a = host=h user=bob password=pa$word",
        "a = host=::1 connect_query='select ''${x}'' where a=1'",
        "a = host=fe80::1,fe80::2 auth_query='select $1'",
        "a = host=/run/postgresql user=bob password=5f4dcc3b5aa765d61d8327deb882cf99",
        "a = dbname='host=x'",
        "a = host=h pool_size=-1 reserve_pool=+5",
    ],
)
def test_odd_but_honest_lines_are_not_doubted(write, line):  # noqa: F811
    said = of_line(write, line)
    assert not [text for _, text in said if "no password for" not in text]


def test_no_secret_is_shown(write):  # noqa: F811
    for line in (
        "a = user= password=geheim",
        "a = host=h;password=geheim",
        'a = host=h user=b password="geheim"',
        "a = host=h pasword=geheim user=b",
        "a = host=h user=b password=geheim x y",
    ):
        assert "geheim" not in str(of_line(write, line)), line


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("pool_mode = transactional", "transaction"),
        ("pool_mode = trans", "transaction"),
        ("pool_mode = Sesion", "session"),
        ("auth_type = scram_sha_256", "scram-sha-256"),
        ("auth_type = $AUTH_TYPE", "nothing is replaced"),
        ("server_tls_sslmode = verify_ca", "verify-ca"),
        ("client_tls_sslmode = enabled", "require"),
        ("syslog_facility = deamon", "daemon"),
        ("[databases]\na = host=h pool_mode=transactions", "transaction"),
        ("[databases]\na = host=h load_balance_hosts=roundrobin", "round-robin"),
        ("[users]\nu = pool_mode=stmt", "one of session"),
        ("[pybouncer]\nlog_format = jsn", "json"),
    ],
)
def test_words_come_with_the_nearest_right_one(write, line, word):  # noqa: F811
    _, texts = found(write(line + "\n"))
    assert word in texts[0]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("stats_users = a;b", '"a;b" counts as one name | only commas'),
        ("admin_users = pgbouncer|alice", "only commas"),
        ('admin_users = "alice", pgbouncer', "no quotes"),
        ("ignore_startup_parameters = extra_float_digits; options", "only commas"),
        ("listen_addr = 127.0.0.1 ::1", "blanks do not"),
        ("logfile = ${HOME}/log", "nothing is replaced"),
        ("[pybouncer]\nhealth_listen = 127.0.0.1:1;127.0.0.1:2", "only commas"),
    ],
)
def test_lists_with_the_wrong_sign_between(write, line, text):  # noqa: F811
    _, texts = found(write(line + "\n"))
    assert [one for one in texts if text in one]


@pytest.mark.parametrize(
    "line",
    [
        "admin_users = alice, pgbouncer",
        "admin_users = alice pgbouncer",
        "stats_users = alice",
        "ignore_startup_parameters = extra_float_digits, options",
        "ignore_startup_parameters = extra_float_digits options  x",
        "listen_addr = 127.0.0.1, ::1",
        "auth_query = SELECT usename, passwd FROM s.look($1)",
    ],
)
def test_lists_as_they_should_be(write, line):  # noqa: F811
    _, texts = found(write(line + "\n[databases]\na = host=h auth_user=alice\n"))
    assert not texts


SETTINGS = (
    "listen_addr = 127.0.0.1\nlisten_port = 6432\nauth_type = md5\n"
    "auth_file = users.txt\npool_mode = transaction\nserver_reset_query = \n"
    "query_timeout = 5s\nadmin_users = alice\n"
)


def test_missing_header_is_told_once_and_first(write):  # noqa: F811
    """Each line behind it was a syntax error, and the cause came last."""
    start = "[databases]\nshop = host=h prot=5\n\n"
    path = write(SETTINGS, start=start)
    places, texts = found(path)
    assert texts[0] == (
        "listen_addr and 7 more stand in [databases], because the header [pgbouncer] "
        "is missing | [pgbouncer] belongs before this line"
    )
    assert places[0] == (ERROR, 4, "")
    # And they are read as what they are.
    assert places[1:] == [(ERROR, 2, "shop"), (ERROR, 10, "query_timeout")]


def test_settings_before_any_header(write):  # noqa: F811
    places, texts = found(write(SETTINGS, start="unix_socket_dir = {here}\n"))
    assert places[0] == (ERROR, 1, "")
    assert "unix_socket_dir and 8 more stand before the first section" in texts[0]
    assert len([place for place in places if place[0] == ERROR]) == 2


def test_databases_without_their_header(write):  # noqa: F811
    places, texts = found(write("a = host=h\nb = host=h port=5432\nc = host=i\n"))
    assert places == [(ERROR, 4, "")]
    assert "the header [databases] is missing" in texts[0]


def test_settings_behind_the_databases(write):  # noqa: F811
    places, texts = found(write("[databases]\na = host=h\npool_mode = session\n"))
    assert places == [(ERROR, 6, "pool_mode")]
    assert texts == ["stands in [databases] | below [pgbouncer]"]


def test_database_may_be_called_like_a_setting(write):  # noqa: F811
    places, _ = found(write("[databases]\nuser = host=h\nverbose =\nsyslog = hots=h\n"))
    assert places == [(ERROR, 7, "syslog")]


def test_pasted_text_is_one_mistake(write):  # noqa: F811
    """42 equal lines hid what else was wrong."""
    pasted = "".join(
        f"2026-12-01 04:00:{n:02} UTC [7] LOG C-0x1: a/b@1.2.3.4:5 login: db=a\n"
        for n in range(42)
    )
    path = write(f"{pasted}pol_mode = session\n[databases]\na = host=h\n")
    places, texts = found(path)
    assert places == [(ERROR, 4, ""), (ERROR, 46, "pol_mode")]
    assert texts[0].startswith("42 lines from here to line 45 are no configuration")


def test_two_mistakes_that_follow_each_other_are_two(write):  # noqa: F811
    places, _ = found(write('"a" = 1\n"b" = 2\nlog_stats = 1\n[databases]\nd =\n'))
    assert places == [(ERROR, 4, ""), (ERROR, 5, "")]


def test_mark_before_the_text_is_named(write):  # noqa: F811
    _, texts = found(write("[databases]\na =\n", start="\ufeff[pgbouncer]\n"))
    assert "byte order mark" in texts[0]


def of_hba(write, here, text):  # noqa: F811
    """What is said of an HBA file, as (line, text)."""
    (here / "hba").write_text(text)
    (here / "hba").chmod(0o600)
    path = write("auth_type = hba\nauth_hba_file = hba\n[databases]\na =\n")
    findings, _ = check(path, online=False)
    return [
        (one.line, f"{one.text} | {one.suggestion}")
        for one in findings
        if one.file == "hba"
    ]


def test_text_pasted_into_an_hba_file_is_told_once(write, here):  # noqa: F811
    """Each line was told twice."""
    pasted = "".join(f"drwx {n} root 4096 Dec 1\n" for n in range(42))
    text = f"local all all md5\n{pasted}host all all 10.0.0.0/8 md5\n"
    assert of_hba(write, here, text) == [
        (
            2,
            "42 lines from here to line 43 are skipped: unknown type | "
            "its clients fall to line 44 (md5)",
        )
    ]


@pytest.mark.parametrize(
    ("method", "meant"),
    [
        ("scram-sha256", "did you mean scram-sha-256?"),
        ("passwd", "did you mean password?"),
        ("MD5", "did you mean md5?"),
        ('"md5"', "no quotes"),
        ("gss", ""),
    ],
)
def test_method_of_an_hba_line_comes_with_what_was_meant(
    write,  # noqa: F811
    here,
    method,
    meant,
):
    (_, said), _ = of_hba(write, here, f"host all all all {method}\n")
    assert said.partition(" | ")[2] == meant


def test_every_mistake_of_an_hba_line_is_told(write, here):  # noqa: F811
    """Reading stopped at the first of a line."""
    text = "hosts all all 10.0.0.300/8 scram-sha256\nhost all all 10.0.0.300 gss\n"
    assert [said for _, said in of_hba(write, here, text)] == [
        "hba line 1: unknown type | did you mean host?",
        "hba line 1: failed to parse address - 10.0.0.300 | ",
        "hba line 1: unsupported method: buf=scram-sha256 | "
        "did you mean scram-sha-256?",
        "could not parse hba config line 1 | "
        "its clients: refused, no line behind it fits",
        "hba line 2: failed to parse address - 10.0.0.300 | ",
        "hba line 2: unsupported method: buf=gss | ",
        "could not parse hba config line 2 | "
        "its clients: refused, no line behind it fits",
    ]


@pytest.mark.parametrize(
    "line",
    ["${DB} = host=h", "[databases]\na = host=h user=u password=$(cat /run/pw)"],
)
def test_variable_that_breaks_a_line_is_named(write, line):  # noqa: F811
    _, texts = found(write(f"{line}\n"))
    assert "nothing is replaced in here" in texts[0]
