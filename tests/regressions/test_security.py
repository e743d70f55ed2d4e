"""Section 1: holes that poolers have had; tests of a CVE carry its number.

Those of PgBouncer's login code have unit tests besides, in tests/unit/talks.
"""

import datetime
import itertools
import ssl
import struct
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from admin.commands import COMMANDS
from admin.show import TOPICS
from tests.regressions.attacks import (
    GSSENC_REQUEST,
    SSL_REQUEST,
    exchange,
    is_served,
    packet,
    refusal,
    startup,
)
from tests.support.ground import Ground, Postgres
from tests.support.wire import FakeClient, error, rows

QUICK = {"server_login_retry": "0.05", "query_wait_timeout": "0.4"}
CLOSED = "<connection closed>"


@pytest.fixture(scope="module")
def one(shared_pooler: Any) -> Any:
    """A pooler with every kind of user, SCRAM, and any database."""
    return shared_pooler(
        {
            "auth_type": "hba",
            "auth_hba_file": "{dir}/hba.conf",
            "pool_mode": "transaction",
            "client_login_timeout": "5",
            **QUICK,
        },
        databases={"p0": "{pg} dbname=p0", "*": "{pg}"},
        run=False,
    )


@pytest.fixture(scope="module", autouse=True)
def hba(one: Any) -> None:
    (one.directory / "hba.conf").write_text(
        "host all u_trust 127.0.0.1/32 trust\n"
        "host all u_md5 127.0.0.1/32 md5\n"
        "host all all 127.0.0.1/32 scram-sha-256\n"
    )
    one.write_configuration()
    one.run()


# Before the login


@pytest.mark.regression(1)
@pytest.mark.parametrize("length", [64, 128, 1000, 60_000])
def test_cve_2012_4575_long_database_name_is_an_error_for_one(
    one: Any, length: int
) -> None:
    """The pooler ended on a name that `*` took in."""
    assert refusal(one.port, "d" * length, "u_trust")
    is_served(one.port)


BEFORE_LOGIN = {
    "nothing": lambda client: None,
    "SSLRequest": lambda client: refused(client, SSL_REQUEST),
    "GSSENCRequest": lambda client: refused(client, GSSENC_REQUEST),
    "md5 request": lambda client: asked(client, "u_md5", 5),
    "SASL request": lambda client: asked(client, "u_scram", 10),
    "SASL initial response": lambda client: sasl_begun(client),
}
UNEXPECTED = {
    "password": packet(b"p", b"secret\0"),
    "query": packet(b"Q", b"select 1\0"),
    "Sync": packet(b"S"),
    "Parse": packet(b"P", b"\0select 1\0\0\0"),
    "startup": startup(user="u_scram"),
}


def refused(client: FakeClient, request: bytes) -> None:
    client.send_bytes(request)
    assert client.one_byte() == "N"


def asked(client: FakeClient, user: str, code: int) -> None:
    client.send_bytes(startup(user=user))
    kind = {5: "AuthenticationMD5Password", 10: "AuthenticationSASL"}[code]
    assert client.next(5)["type"] == kind


def sasl_begun(client: FakeClient) -> None:
    asked(client, "u_scram", 10)
    client.send_bytes(packet(b"p", b"SCRAM-SHA-256\0\0\0\0\x0cn,,n=,r=abcd"))
    assert client.next(5)["type"] == "AuthenticationSASLContinue"


@pytest.mark.regression(2)
@pytest.mark.parametrize("what", UNEXPECTED)
@pytest.mark.parametrize("state", BEFORE_LOGIN)
def test_cve_2015_4054_message_out_of_order_ends_one_login(
    one: Any, state: str, what: str
) -> None:
    """A password before the startup packet was looked up at a user of NULL."""
    with FakeClient(one.port, seconds=1) as client:
        BEFORE_LOGIN[state](client)
        client.send_bytes(UNEXPECTED[what] * 2)
        client.half_close()
        got = client.until_ready()
        assert got[-1]["type"] == CLOSED
        assert "AuthenticationOk" not in {m["type"] for m in got}
    is_served(one.port)


@pytest.mark.regression(9)
@pytest.mark.parametrize("length", [0, 1, 2**31 - 1, 2**32 - 2, 2**32 - 1])
@pytest.mark.parametrize("mechanism", [b"SCRAM-SHA-256\0", b"SCRAM-SHA-256", b""])
def test_cve_2026_6664_lengths_in_sasl_messages(
    one: Any, mechanism: bytes, length: int
) -> None:
    """The length was added to a pointer before it was compared."""
    with FakeClient(one.port) as client:
        asked(client, "u_scram", 10)
        client.send_bytes(packet(b"p", mechanism + struct.pack("!I", length) + b"n,,"))
        got = client.until_ready()
        assert error(got)["S"] == "FATAL"
    is_served(one.port)


@pytest.mark.regression(9)
@pytest.mark.parametrize(
    "final", [b"", b"\0", b"c=", b"c=biws,r=,p=", b"c=biws,p=eA==", b"\xff" * 200]
)
def test_cve_2026_6664_final_message_of_any_bytes(one: Any, final: bytes) -> None:
    with FakeClient(one.port) as client:
        sasl_begun(client)
        client.send_bytes(packet(b"p", final))
        assert error(client.until_ready())["M"] == "SASL authentication failed"
    is_served(one.port)


# auth_query


@pytest.fixture(scope="module")
def asking(shared_pooler: Any, postgres: Postgres) -> Iterator[Any]:
    """A pooler that asks PostgreSQL for secrets, as a superuser."""
    postgres.rows("create role empty_secret login password null")
    yield shared_pooler(
        {"auth_type": "md5", "auth_user": "postgres", **QUICK}, users={}
    )
    postgres.rows("drop role empty_secret")


@pytest.mark.regression(3)
@pytest.mark.parametrize("user", ["nobody_knows", "empty_secret", ""])
def test_cve_2015_6817_unknown_user_is_never_auth_user(asking: Any, user: str) -> None:
    for guess in ("", "md5", "x"):
        assert refusal(asking.port, "p0", user, guess)


@pytest.mark.regression(3)
def test_cve_2015_6817_auth_query_without_names(pooler: Any) -> None:
    queries = [
        f"select {columns} from (select $1::text) q{rest}"
        for columns in ("null::text, null::text", "null::text, ''", "'', 'x'")
        for rest in ("", " where false")
    ]
    one = pooler(
        {"auth_type": "plain", **QUICK},
        databases={
            f"d{number}": "{pg} dbname=p0 auth_user=postgres auth_query='"
            + sql.replace("'", "''")
            + "'"
            for number, sql in enumerate(queries)
        },
        users={},
    )
    for number, sql in enumerate(queries):
        for user, guess in (("", ""), ("other", ""), ("other", "x")):
            assert refusal(one.port, f"d{number}", user, guess), sql


@pytest.mark.regression(3)
def test_cve_2015_6817_auth_type_any_is_the_forced_user_or_nobody(pooler: Any) -> None:
    one = pooler(
        {"auth_type": "any", "auth_user": "postgres", **QUICK},
        databases={"p0": "{pg}", "forced": "{pg} dbname=p0 user=u_trust"},
    )
    assert refusal(one.port, "p0", "nobody_knows") == "bouncer config error"
    with FakeClient(one.port) as client:
        client.login("forced", "nobody_knows")
        assert rows(client.ask("select current_user")) == [["u_trust"]]


@pytest.mark.regression(7)
def test_cve_2025_2291_expiry_counts_in_any_time_zone(
    asking: Any, postgres: Postgres
) -> None:
    """What looks like tomorrow in one zone is the past in another."""
    now = datetime.datetime.now(datetime.UTC)
    cases = [(now - datetime.timedelta(hours=1), 14, False),
             (now + datetime.timedelta(hours=1), -12, True)]  # fmt: skip
    for number, (until, offset, fine) in enumerate(cases):
        name = f"zoned_{number}"
        zone = datetime.timezone(datetime.timedelta(hours=offset))
        text = until.astimezone(zone).isoformat()
        postgres.rows(f"create role {name} login password 'x' valid until '{text}'")
        try:
            with FakeClient(asking.port) as client:
                # md5 is asked for, SCRAM where the secret is one.
                last = client.login("p0", name, "x")
                assert (last[-1]["type"] == "ReadyForQuery") == fine, error(last)
        finally:
            postgres.rows(f"drop role {name}")


@pytest.mark.regression(8)
def test_cve_2025_12819_search_path_of_a_startup_packet_stays_out_of_auth_query(
    pooler: Any, postgres: Postgres
) -> None:
    """An operator in the attacker's schema decided who has which secret."""
    postgres.rows(
        "create schema evil; grant usage on schema evil to public;"
        "create function evil.never(name, text) returns bool language sql"
        " as 'select true';"
        "create operator evil.= (leftarg=name, rightarg=text, function=evil.never)"
    )
    trap = (
        "select rolname::text, 'mine'::text from pg_authid where rolname = {}::text"
        " and rolname <> 'postgres'"
    )
    try:
        with postgres.connect() as direct:  # the trap works
            direct.execute("set search_path to evil, pg_catalog")
            assert direct.execute(trap.format("'nobody_knows'")).fetchall()
        one = pooler(
            {
                "auth_type": "plain",
                "auth_user": "postgres",
                "auth_query": trap.format("$1"),
                "track_extra_parameters": "IntervalStyle, search_path",
                "pool_mode": "transaction",
                **QUICK,
            },
            users={},
        )
        for params in (
            {"search_path": "evil, pg_catalog"},
            {"options": "-c search_path=evil,\\ pg_catalog"},
        ):
            for _ in range(2):
                assert refusal(one.port, "p0", "nobody_knows", "mine", **params)
            with FakeClient(one.port) as client:
                client.login("p0", "u_plain", "mine", **params)
    finally:
        postgres.rows("drop schema evil cascade")


# TLS


@pytest.fixture(scope="module")
def certified(shared_pooler: Any, lab: Ground) -> Any:
    """A pooler that lets certificates in and nobody else."""
    if not lab.certificates:
        pytest.skip("needs openssl (apt-get install openssl)")
    return shared_pooler(
        {
            "auth_type": "cert",
            "client_tls_sslmode": "verify-full",
            "client_tls_key_file": "{certs}/bouncer.key",
            "client_tls_cert_file": "{certs}/bouncer.crt",
            "client_tls_ca_file": "{certs}/ca.crt",
        }
    )


def client_hello() -> bytes:
    """How TLS begins, with PostgreSQL's ALPN."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["postgresql"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


@pytest.mark.regression(4)
@pytest.mark.parametrize("before", ["SSLRequest", "GSSENCRequest", "direct TLS"])
@pytest.mark.parametrize("behind", ["startup", "query"])
def test_cve_2021_3935_clear_bytes_before_tls_are_not_read_as_tls(
    certified: Any, before: str, behind: str
) -> None:
    """They were taken for the first bytes behind the handshake: with a certificate,
    a man in the middle could put a query of his own in front."""
    first = {
        "SSLRequest": SSL_REQUEST,
        "GSSENCRequest": GSSENC_REQUEST,
        "direct TLS": client_hello(),
    }[before]
    clear = {"startup": startup("p0", "postgres"), "query": packet(b"Q", b"select 1\0")}
    got = exchange(certified.port, first + clear[behind])
    if before == "direct TLS":
        assert got == b"" or got[0] in (0x15, 0x16)  # an alert, behind a hello or not
        assert not certified.log_matches("login attempt")
    else:
        assert got.startswith(b"E")
        assert b"received unencrypted data after" in got


# The console


def every_command() -> list[str]:
    """The console's commands, each with the arguments that it knows."""
    arguments = {
        "SHUTDOWN": ["", "WAIT_FOR_SERVERS", "WAIT_FOR_CLIENTS"],
        "KILL_CLIENT": ["1", "99999999"],
        "SHOW": ["HELP", *TOPICS],
        "SELECT": [],
    }
    found = ["SET pool_mode = session", "SET auth_type TO trust"]
    for word in COMMANDS:
        for argument in arguments.get(word, ["", "p0"]):
            found.append(f"{word} {argument}".strip())
    return found


@pytest.mark.regression(12)
@pytest.mark.parametrize("is_extended", [False, True])
def test_cve_2026_6667_stats_user_may_only_look(pooler: Any, is_extended: bool) -> None:
    """KILL_CLIENT asked for no rights. The commands come from the console's table."""
    one = pooler({"auth_type": "plain", "pool_mode": "transaction"})
    before = one.console("SHOW CONFIG")
    with one.connect(user="u_plain") as client, FakeClient(one.port) as console:
        console.login("pgbouncer", "stats", "statspass")
        number = one.console("SHOW CLIENTS")[0]["id"]
        for command in [*every_command(), f"KILL_CLIENT {number}"]:
            if is_extended:
                console.send(
                    {"type": "Parse", "sql": command},
                    {"type": "Bind"},
                    {"type": "Execute"},
                    {"type": "Sync"},
                )
                got = console.until_ready()
            else:
                got = console.ask(command)
            assert got[-1]["type"] == "ReadyForQuery", command
            is_refused = "M" in error(got)
            looks = command.startswith("SHOW") and command != "SHOW FDS"
            assert is_refused != looks, command
            if is_refused and command != "SHOW":
                assert error(got)["M"] in (
                    "admin access needed",
                    f"invalid command '{command}', use SHOW HELP;",
                ), command
        assert client.execute("select 1").fetchone() == (1,)
    assert one.console("SHOW CONFIG") == before
    assert not [
        r for r in one.console("SHOW DATABASES") if r["paused"] or r["disabled"]
    ]


SECRETS = {
    "u_plain": "plain-SECRET-1",
    "u_md5": "md5" + "ab" * 14 + "5EC7",
    "u_scram": "SCRAM-SHA-256$4096:U0VDUkVUc2FsdA==$"
    + "A" * 43
    + "=:"
    + "B" * 43
    + "=",
    "admin": "adminpass-SECRET",
    "stats": "statspass-SECRET",
}


@pytest.mark.regression(13)
def test_cve_2023_22332_no_secret_is_shown_logged_or_told(
    pooler: Any, postgres: Postgres
) -> None:
    """A SHOW command gave a password to everybody who might look."""
    one = pooler(
        {"auth_type": "plain", "verbose": 3, **QUICK},
        "-vvv",
        databases={
            "p0": "{pg} user=u_scram2 password=scrampass2-wrong-SECRET",
            "good": "{pg} dbname=p0 user=u_scram2 password=scrampass2",
            "asked": "{pg} dbname=p0 auth_user=postgres auth_query='select "
            "rolname::text, rolpassword::text from pg_authid where rolname=$1'",
        },
        users=SECRETS,
    )
    seen = [refusal(one.port, "p0", "u_plain", "guess-SECRET")]
    seen.append(refusal(one.port, "p0", "u_plain", SECRETS["u_plain"]))
    seen.append(refusal(one.port, "asked", "u_scram2", "guess-SECRET"))
    with FakeClient(one.port) as client:
        client.login("good", "u_plain", SECRETS["u_plain"])
        assert rows(client.ask("select current_user")) == [["u_scram2"]]
        with FakeClient(one.port) as console:
            console.login("pgbouncer", "stats", SECRETS["stats"])
            for topic in ("HELP", *TOPICS):
                seen.append(str(console.ask(f"SHOW {topic}")))
    seen.append(one.text())
    stored = postgres.rows(
        "select rolpassword as p from pg_authid where rolpassword <> ''"
    )
    words = ["SECRET", "scrampass2", *SECRETS.values(), *(r["p"] for r in stored)]
    for text in seen:
        for word in words:
            assert word not in text, text[max(0, text.find(word) - 200) :][:400]


@pytest.mark.regression(14)
def test_cve_2025_46801_warm_pool_does_not_vouch_for_a_password(
    one: Any, postgres: Postgres
) -> None:
    """A cached credential was compared with itself: whoever came second was let in."""
    with FakeClient(one.port) as client, FakeClient(one.port) as other:
        client.login("p0", "u_scram", "scrampass")
        assert rows(client.ask("select current_user")) == [["u_scram"]]
        other.login("p0", "u_scram2", "scrampass2")
        assert rows(other.ask("select current_user")) == [["u_scram2"]]
        for user, guess in (
            ("u_scram", "scrampass2"),
            ("u_scram2", "scrampass"),
            ("u_scram", ""),
            ("u_md5", "scrampass"),
        ):
            assert "authentication failed" in refusal(one.port, "p0", user, guess)


AUTH_TYPES = ("plain", "md5", "scram-sha-256", "hba")


@pytest.mark.regression(17, 19)
def test_console_and_refusals_whatever_else_is_on(pooler: Any) -> None:
    """The password of the console is checked with every combination of features, and
    no refusal tells which users and databases there are.
    """
    one = pooler({"auth_type": "plain"}, run=False)
    (one.directory / "hba.conf").write_text("host all all 127.0.0.1/32 md5\n")
    one.run()
    for auth_type, query, forced in itertools.product(AUTH_TYPES, (0, 1), (0, 1)):
        one.databases = {"p0": "{pg} user=u_trust" if forced else "{pg}"}
        one.reload(
            auth_type=auth_type,
            auth_hba_file="{dir}/hba.conf",
            auth_dbname="p0" if query else "",
            auth_user="postgres" if query else "",
            track_extra_parameters="IntervalStyle, search_path",
        )
        for user, guess in (
            ("admin", "statspass"),
            ("admin", ""),
            ("stats", "adminpass"),
            ("postgres", ""),
            ("u_trust", ""),
            ("u_md5", "md5pass"),
            ("nobody", "x"),
        ):
            assert refusal(one.port, "pgbouncer", user, guess)
        if not query:
            for database in ("p0", "nowhere"):
                texts = {
                    refusal(one.port, database, user, "wrong")
                    for user in ("u_plain", "nobody_knows", "u_trust")  # none has ""
                }
                assert len(texts) == 1, texts
                assert "authentication failed" in texts.pop()


@pytest.mark.regression(17)
def test_wrong_passwords_in_a_storm_stall_nobody(one: Any) -> None:
    """A guess costs as much as a login; whoever is in has their turns beside it."""
    over = threading.Event()

    def guess(number: int) -> None:
        while not over.is_set():
            user = ("u_scram", "u_scram2", f"nobody{number}")[number % 3]
            assert (
                refusal(one.port, "p0", user, "wrong") == "SASL authentication failed"
            )
            guesses.append(user)

    guesses: list[str] = []
    with FakeClient(one.port) as client:
        client.login("p0", "u_trust")
        threads = [threading.Thread(target=guess, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        asked = 0
        while len(guesses) < 60 and all(t.is_alive() for t in threads):
            assert rows(client.ask("select 42")) == [["42"]]
            asked += 1
        over.set()
        for thread in threads:
            thread.join(10)
    assert len(guesses) >= 60
    assert asked >= 60


# HBA


LINES = """
host all u_plain 127.0.0.1/32 reject
host all u_md5 127.0.0.1/32 md5
hostssl all u_scram 127.0.0.1/32 trust
local all u_scram trust
host all u_scram 10.0.0.0/8 trust
host all u_scram 127.0.0.1/32 scram-sha-256
host all u_trust 127.0.0.0/8 cert
host all all 127.0.0.1/32 trust
"""


@pytest.mark.regression(20)
def test_hba_first_line_that_fits_decides_and_nothing_falls_through(
    pooler: Any,
) -> None:
    one = pooler(
        {"auth_type": "hba", "auth_hba_file": "{dir}/hba.conf", **QUICK}, run=False
    )
    path = one.directory / "hba.conf"
    path.write_text(LINES)
    one.write_configuration()
    one.run()

    def check() -> None:
        assert refusal(one.port, "p0", "u_plain", "plainpass") == "login rejected"
        for user in ("u_md5", "u_scram", "u_trust"):
            assert "authentication failed" in refusal(one.port, "p0", user, "wrong")
        is_served(one.port, user="postgres")
        with FakeClient(one.port) as client:
            got = client.login("p0", "u_scram", "scrampass")
            assert got[-1]["type"] == "ReadyForQuery"

    check()
    # A line that cannot be read does not make room for those behind it.
    for broken in ("host all u_plain 127.0.0.1/33 reject", "host all u_plain"):
        path.write_text(LINES.replace(LINES.splitlines()[1], broken))
        try:
            one.console("RELOAD", user="postgres")
        except psycopg.Error:
            pass
        assert refusal(one.port, "p0", "u_plain", "plainpass")


@pytest.mark.regression(20)
def test_hba_rule_for_ipv4_fits_a_mapped_address(pooler: Any) -> None:
    one = pooler(
        {
            "listen_addr": "::",
            "auth_type": "hba",
            "auth_hba_file": "{dir}/hba.conf",
            "admin_users": "u_trust",
        },
        run=False,
    )
    path = one.directory / "hba.conf"
    path.write_text("host all u_plain 127.0.0.1/32 reject\nhost all all all trust\n")
    one.write_configuration()
    one.run()
    for host in ("127.0.0.1", "::ffff:127.0.0.1"):
        try:
            client = FakeClient(one.port, host)
        except OSError:
            continue  # :: is IPv6 only
        with client:
            assert error(client.login("p0", "u_plain"))["M"] == "login rejected"
