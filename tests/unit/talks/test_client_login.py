"""The order of a login, and each text that a client may read on its way.

One test per row of the table of errors; what an exchange looks like stands in
test_authenticate.py.
"""

import ssl
from typing import Any

import pytest

from bouncer.errors import Disconnect
from bouncer.relay.talk import Waiter
from bouncer.talks.client_login import CancelAsked, client_login
from tests.unit.talks.driver import (
    GSSENC_REQUEST,
    KEY,
    SSL_REQUEST,
    FakeApp,
    FakeClient,
    Lines,
    Stopped,
    md5_answer,
    password,
    refused,
    run,
    special,
    startup,
)


def app_of(**settings: Any) -> FakeApp:
    """An application where ann may come in without a password."""
    settings.setdefault("auth_type", "trust")
    settings.setdefault("users", {"ann": "secret"})
    return FakeApp(**settings)


def login(client: FakeClient, app: FakeApp, *inputs: Any) -> Any:
    return run(client_login(client, app), client, *inputs)


def reason(client: FakeClient, app: FakeApp, *inputs: Any) -> str:
    """The text of a login that is refused as FATAL 08P01."""
    found = refused(client_login(client, app), client, *inputs)
    assert found.notify and found.sqlstate == "08P01" and not found.silent
    return found.reason


def silent_reason(client: FakeClient, app: FakeApp, *inputs: Any) -> str:
    """The log's reason of a login that is closed without a message."""
    found = refused(client_login(client, app), client, *inputs)
    assert not found.notify
    return found.reason


# Before the startup packet


@pytest.mark.parametrize("code", [ord(c) for c in "QXSPBECDFHdcf"])
def test_message_before_startup_closes_without_a_word(
    client: FakeClient, code: int
) -> None:
    assert silent_reason(client, app_of(), (code, b"select 1\0")) == "bad packet"
    assert client.sent == b""


def test_cve_2015_4054_password_before_startup(client: FakeClient) -> None:
    text = "client password pkt before startup packet"
    assert reason(client, app_of(), password(b"x")) == text


def test_ssl_request_is_refused_when_tls_is_disabled(client: FakeClient) -> None:
    login(client, app_of(), SSL_REQUEST, SSL_REQUEST, GSSENC_REQUEST, startup())
    assert client.sent.startswith(b"NNNR")


def test_ssl_request_on_a_unix_socket_is_refused(client: FakeClient) -> None:
    app = app_of(client_tls_sslmode="require")
    app.client_tls = object()
    client.is_unix = True
    login(client, app, SSL_REQUEST, startup())
    assert client.sent.startswith(b"NR")


def test_ssl_request_begins_tls(client: FakeClient, logged: Lines) -> None:
    app = app_of(client_tls_sslmode="require")
    app.client_tls = object()
    login(client, app, SSL_REQUEST, "tls", startup())
    assert client.sent.startswith(b"SR")
    [wanted] = client.started_tls
    assert wanted.context is app.client_tls and wanted.server_side
    assert logged.take() == [
        "LOG C: p0/ann login attempt: db=p0 user=ann "
        "tls=TLSv1.3/TLS_AES_256_GCM_SHA384 replication=no"
    ]


def test_direct_tls_begins_at_once(client: FakeClient) -> None:
    app = app_of()
    app.client_tls = object()
    client.first_byte_is_tls = True
    login(client, app, "tls", GSSENC_REQUEST, startup())
    assert client.sent.startswith(b"NR")


def test_tls_failure_is_logged_but_not_told(client: FakeClient, logged: Lines) -> None:
    app = app_of()
    app.client_tls = object()
    error = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (x.c:1)")
    error.reason = "WRONG_VERSION_NUMBER"
    found = refused(client_login(client, app), client, SSL_REQUEST, error)
    assert found.silent and not found.notify
    assert logged.take() == [
        "WARNING TLS handshake error: handshake failed: wrong version number"
    ]


def test_ssl_request_inside_tls(client: FakeClient) -> None:
    app = app_of()
    app.client_tls = object()
    inputs = (SSL_REQUEST, "tls", SSL_REQUEST)
    assert silent_reason(client, app, *inputs) == "SSL req inside SSL"


@pytest.mark.parametrize("offered", [True, False])
def test_cve_2021_3935_clear_data_behind_ssl_request(
    client: FakeClient, offered: bool
) -> None:
    app = app_of()
    app.client_tls = object() if offered else None
    client.behind = 30
    text = "received unencrypted data after SSL request"
    assert reason(client, app, SSL_REQUEST) == text
    assert client.sent == b"" and not client.started_tls


def test_cve_2021_3935_clear_data_behind_gssenc_request(client: FakeClient) -> None:
    client.behind = 1
    text = "received unencrypted data after GSSAPI encryption request"
    assert reason(client, app_of(), GSSENC_REQUEST) == text


def test_cancel_request_is_handed_on(client: FakeClient) -> None:
    found = login(client, app_of(), special(80877102, KEY))
    assert isinstance(found, CancelAsked) and found.key == KEY
    assert client.sent == b""


@pytest.mark.parametrize("key", [b"", b"1234567", b"123456789", b"x" * 32])
def test_cancel_key_of_another_length_is_dropped(
    client: FakeClient, key: bytes
) -> None:
    request = special(80877102, key)
    assert silent_reason(client, app_of(), request) == "bad cancel request"


def test_cancel_request_needs_no_tls(client: FakeClient) -> None:
    app = app_of(client_tls_sslmode="verify-full")
    app.client_tls = object()
    assert login(client, app, special(80877102, KEY)).key == KEY


@pytest.mark.parametrize("code", [0x00040000, 0, 80877105, 0xFFFFFFFF])
def test_unknown_request_code(client: FakeClient, code: int) -> None:
    text = f"bad packet header: '00000008{code:08x}'"
    assert reason(client, app_of(), special(code)) == text


# Startup


def test_protocol_2_is_not_supported(client: FakeClient) -> None:
    packet = special(0x20000, b"\0" * 288)
    assert reason(client, app_of(), packet) == "old V2 protocol not supported"


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_clear_startup_where_tls_is_demanded(client: FakeClient, mode: str) -> None:
    app = app_of(client_tls_sslmode=mode)
    app.client_tls = object()
    assert reason(client, app, startup(foo="bar")) == "SSL required"


@pytest.mark.parametrize("mode", ["allow", "prefer"])
def test_clear_startup_where_tls_is_offered(client: FakeClient, mode: str) -> None:
    app = app_of(client_tls_sslmode=mode)
    app.client_tls = object()
    login(client, app, startup())


def test_max_client_conn_counts_before_everything_else(client: FakeClient) -> None:
    app = app_of(max_client_conn=1)
    app.door.sockets = 2
    text = "no more connections allowed (max_client_conn)"
    # no NegotiateProtocolVersion, no look at the user
    assert reason(client, app, startup("ghost", "nodb", 0x30002)) == text
    assert client.sent == b""


def test_max_client_conn_does_not_shut_the_console(client: FakeClient) -> None:
    app = app_of(max_client_conn=1, users={"admin": ""})
    app.door.sockets = 2
    assert login(client, app, startup("admin", "pgbouncer")) == "console"


def test_negotiation_comes_before_authentication(client: FakeClient) -> None:
    login(client, app_of(), startup(version=0x30002))
    assert [kind for kind, _ in client.take()] == ["v", "R", "S", "K", "Z"]


def test_username_too_long(client: FakeClient, logged: Lines) -> None:
    found = refused(client_login(client, app_of()), client, startup("u" * 128))
    assert found.reason == "username too long"
    assert found.log_after == "login failed: db=p0 user=" + "u" * 128
    assert logged.take() == []
    assert reason(client, app_of(), startup("u" * 127)) != "username too long"
    assert reason(client, app_of(), startup("é" * 64)) == "username too long"


def test_max_db_client_connections_counts_before_authentication() -> None:
    app = app_of(max_db_client_connections=1, auth_type="md5")
    with pytest.raises(Stopped):
        login(FakeClient(), app, startup("ghost"))
    text = "client connections exceeded (max_db_client_connections)"
    assert reason(FakeClient(), app, startup()) == text


def test_max_user_client_connections_counts_known_users_only() -> None:
    app = app_of(max_user_client_connections=1, auth_type="md5")
    for _ in range(2):
        with pytest.raises(Stopped):
            login(FakeClient(), app, startup("ghost"))
    with pytest.raises(Stopped):
        login(FakeClient(), app, startup())
    text = "client connections exceeded (max_user_client_connections)"
    assert reason(FakeClient(), app, startup()) == text


def test_limits_do_not_count_who_has_said_goodbye() -> None:
    """Who has gone, and is still served, kept the place of whoever comes next."""
    limits = {"max_db_client_connections": 2, "max_user_client_connections": 3}
    app = app_of(**limits, auth_type="md5")
    for _ in range(2):
        with pytest.raises(Stopped):
            login(FakeClient(), app, startup())
    assert reason(FakeClient(), app, startup()).startswith("client connections exc")
    app.registry.databases["p0"].departed += 1
    with pytest.raises(Stopped):
        login(FakeClient(), app, startup())
    app.registry.databases["p0"].departed += 2
    text = "client connections exceeded (max_user_client_connections)"
    assert reason(FakeClient(), app, startup()) == text


def test_admin_users_are_exempt_from_limits_on_the_console() -> None:
    app = app_of(max_user_client_connections=1, users={"admin": "", "stats": ""})
    app.registry.user("admin").client_count = 1
    app.registry.user("stats").client_count = 1
    assert login(FakeClient(), app, startup("admin", "pgbouncer")) == "console"
    text = "client connections exceeded (max_user_client_connections)"
    assert reason(FakeClient(), app, startup("stats", "pgbouncer")) == text


# Users and databases


def test_welcome_is_one_piece(client: FakeClient, logged: Lines) -> None:
    app = app_of()
    assert login(client, app, startup(application_name="x")) is None
    assert client.take() == [
        ("R", b"\0\0\0\0"),
        ("S", b"server_version\x0015.99\0"),
        ("S", b"application_name\0x\0"),
        ("K", KEY),
        ("Z", b"I"),
    ]
    assert client.cancel_key == KEY
    assert client.user == "ann"
    assert client.user_state is app.registry.users["ann"]
    assert client.database is app.registry.databases["p0"]
    assert client.pool is app.registry.databases["p0"].pools["ann"]
    assert logged.take() == [
        "LOG C: p0/ann login attempt: db=p0 user=ann tls=no replication=no"
    ]


def test_login_notify_message_comes_before_the_first_ready(client: FakeClient) -> None:
    login(client, app_of(login_notify_message="hello"), startup())
    kinds = [kind for kind, _ in client.take()]
    assert kinds == ["R", "S", "K", "N", "Z"]


def test_pool_is_that_of_the_forced_user(client: FakeClient) -> None:
    app = app_of(databases={"p0": {"user": "app", "password": "x"}})
    login(client, app, startup())
    assert client.pool is app.registry.databases["p0"].pools["app"]
    assert client.user == "ann"


@pytest.mark.parametrize(
    ("word", "shown"), [("database", "database"), ("yes", "yes"), ("no", "no")]
)
def test_replication_is_logged(
    client: FakeClient, logged: Lines, word: str, shown: str
) -> None:
    login(client, app_of(), startup(replication=word))
    assert logged.take()[-1].endswith(f"replication={shown}")


def test_log_connections_off_is_silent(client: FakeClient, logged: Lines) -> None:
    login(client, app_of(log_connections=0), startup())
    assert logged.take() == []
    reason(FakeClient(), app_of(log_connections=0), startup("ghost", "nodb"))
    assert logged.take() == ["LOG C: (nodb)/(nouser) no such user: ghost"]


def test_unknown_database_is_told_after_authentication_only(
    client: FakeClient, logged: Lines
) -> None:
    app = app_of(auth_type="md5")
    right = md5_answer(b"ann", b"secret")
    assert (
        reason(client, app, startup("ann", "nodb"), right) == "no such database: nodb"
    )
    assert logged.take() == [
        "LOG C: (nodb)/ann login attempt: db=nodb user=ann tls=no replication=no",
        "LOG C: (nodb)/ann login failed: db=nodb user=ann",
    ]
    wrong = md5_answer(b"ann", b"guess")
    text = "password authentication failed"
    assert reason(FakeClient(), app, startup("ann", "nodb"), wrong) == text


@pytest.mark.parametrize("length", [64, 128, 1000, 60000])
def test_cve_2012_4575_long_database_names_are_cut_in_messages(
    client: FakeClient, length: int
) -> None:
    text = reason(client, app_of(), startup("ann", "d" * length))
    assert text == "no such database: " + "d" * 63


def test_disabled_database(client: FakeClient) -> None:
    app = app_of()
    app.registry.databases["p0"].disabled = True
    assert reason(client, app, startup()) == 'database "p0" is disabled'


@pytest.mark.parametrize(
    ("mode", "is_unix", "fine"),
    [
        ("wait_for_servers", False, False),
        ("wait_for_servers", True, False),
        ("wait_for_clients", True, False),
        # Its socket is closed: this one was in the kernel's queue before.
        ("wait_for_clients", False, True),
    ],
)
def test_login_while_shutting_down(mode: str, is_unix: bool, fine: bool) -> None:
    app = app_of(users={"ann": "", "admin": ""})
    app.shutdown_mode = mode
    client = FakeClient()
    client.is_unix = is_unix
    if fine:
        assert login(client, app, startup()) is None
    else:
        assert reason(client, app, startup()) == "pooler is shutting down"
    assert login(FakeClient(), app, startup("admin", "pgbouncer")) == "console"


def test_login_waits_for_the_first_welcome_before_authentication_ok(
    client: FakeClient,
) -> None:
    app = app_of()
    pool = app.registry.pool(app.registry.databases["p0"], "ann")
    pool.waiter = Waiter()
    with pytest.raises(Stopped) as stopped:
        login(client, app, startup())
    assert stopped.value.want is pool.waiter
    assert client.sent == b""


def test_error_of_the_first_server_reaches_the_waiting_login(
    client: FakeClient,
) -> None:
    app = app_of()
    pool = app.registry.pool(app.registry.databases["p0"], "ann")
    pool.waiter = Waiter()
    pool.waiter.fail(Disconnect("no such database", sqlstate="3D000", whole=True))
    found = refused(client_login(client, app), client, startup())
    assert (found.reason, found.sqlstate) == ("no such database", "3D000")


def test_requests_may_come_during_the_password_exchange(client: FakeClient) -> None:
    app = app_of(auth_type="md5")
    app.client_tls = object()
    with pytest.raises(Stopped):
        login(client, app, startup(), GSSENC_REQUEST, SSL_REQUEST, "tls")
    assert client.sent.endswith(b"NS")
    found = login(FakeClient(), app, startup(), special(80877102, KEY))
    assert isinstance(found, CancelAsked)


@pytest.mark.parametrize("code", [ord(c) for c in "QXSP"])
def test_cve_2015_4054_message_during_the_exchange(
    client: FakeClient, code: int
) -> None:
    app = app_of(auth_type="md5")
    assert silent_reason(client, app, startup(), (code, b"")) == "bad packet"


# Unknown users


@pytest.mark.parametrize("user", ["ghost", "mentioned"])
def test_unknown_user_with_trust(client: FakeClient, logged: Lines, user: str) -> None:
    app = app_of()
    app.registry.user("mentioned")  # by [users] or as a forced user
    text = '"trust" authentication failed'
    assert reason(client, app, startup(user)) == text
    shown = "(nouser)" if user == "ghost" else user
    assert logged.take() == [
        f"LOG C: (nodb)/{shown} no such user: {user}",
        f"LOG C: (nodb)/{user} login attempt: db=p0 user={user} tls=no replication=no",
    ]
    assert client.pool is None


@pytest.mark.regression(115)
def test_user_who_left_auth_file_is_unknown(client: FakeClient) -> None:
    """PgBouncer goes on to trust them until it is restarted."""
    app = app_of()
    app.registry.set_auth_file({"bob": "x"})
    assert reason(client, app, startup()) == '"trust" authentication failed'


def test_made_up_names_cost_no_memory() -> None:
    for auth_type in ("trust", "md5", "plain", "scram-sha-256", "pam", "ldap"):
        app = app_of(auth_type=auth_type, auth_ldap_options="ldapserver=x ldapprefix=y")
        before = len(app.registry.users), len(app.registry.learnt)
        for number in range(5):
            try:
                login(FakeClient(), app, startup(f"ghost{number}"))
            except (Disconnect, Stopped):
                pass
        assert (len(app.registry.users), len(app.registry.learnt)) == before
        assert not app.registry.databases["p0"].pools


def test_login_messages_have_a_limit(client: FakeClient) -> None:
    login(client, app_of(), startup())
    assert client.talk_limit == 65535
