"""Changed `server_tls_*` settings leave no connection on the old terms."""

import queue
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.live.test_takeover import Successor, successor
from tests.support.ground import Ground
from tests.support.wire import FakeClient, FakeServer, ServerTalk

__all__ = ["successor"]  # a fixture

PLAIN = {"pool_mode": "transaction", "default_pool_size": 2, "server_login_retry": 0.2}


@pytest.fixture(autouse=True)
def certificates(lab: Ground, skip_or_fail: Callable[[str, str], None]) -> None:
    skip_or_fail("openssl", "apt-get install openssl")


def terms(connection: Any) -> tuple[bool, int]:
    """Whether the server of this query has TLS, and its process id."""
    sql = "select ssl, pid from pg_stat_ssl where pid = pg_backend_pid()"
    return connection.execute(sql).fetchone()


@pytest.mark.parametrize("how", ["RELOAD", "SET"])
def test_switching_tls_on_leaves_no_plain_connection(
    pooler: Callable[..., Any], how: str
) -> None:
    """Servers of the time before stayed in use, in clear, for up to an hour."""
    one = pooler({**PLAIN, "server_tls_sslmode": "disable"})
    with one.connect() as idle, one.connect() as busy:
        assert terms(idle)[0] is False
        busy.execute("begin")
        before = terms(busy)
        assert before[0] is False
        if how == "RELOAD":
            one.reload(server_tls_sslmode="require")
        else:
            one.console("SET server_tls_sslmode = 'require'")
        # Who is in the middle of something ends it where it began.
        assert terms(busy) == before
        assert terms(idle)[0] is True
        busy.execute("commit")
        assert terms(busy)[0] is True
        assert all(row["tls"] for row in one.console("SHOW SERVERS"))
    one.wait_for_log(
        "closing because: "
        "(database configuration changed|obsolete connection|close_needed)"
    )


@pytest.mark.parametrize("what", ["another file", "protocols"])
def test_changed_tls_file_or_word_renews_servers(
    pooler: Callable[..., Any], what: str
) -> None:
    """They stayed on the old terms."""
    one = pooler(
        {
            **PLAIN,
            "server_tls_sslmode": "verify-ca",
            "server_tls_ca_file": "{dir}/ca.crt",
        },
        run=False,
    )
    certs = Path(one.filled("{certs}"))
    shutil.copy(certs / "ca.crt", one.directory / "ca.crt")
    one.write_configuration()
    one.run()
    with one.connect() as client:
        before = terms(client)
        one.console("RELOAD")
        assert terms(client) == before  # nothing has changed
        if what == "another file":
            one.reload(server_tls_ca_file="{certs}/ca.crt")
        else:
            one.reload(server_tls_protocols="tlsv1.2")
        after = terms(client)
        assert after[0] and after[1] != before[1]


def test_tls_settings_that_cannot_be_used_cost_no_server(
    pooler: Callable[..., Any],
) -> None:
    """Better what there is than nothing: a file that is not there yet."""
    one = pooler({**PLAIN, "server_tls_sslmode": "require"})
    with one.connect() as client:
        before = terms(client)
        one.reload(server_tls_ca_file="{dir}/nowhere.crt")
        assert terms(client) == before


def test_unix_sockets_are_not_renewed_for_tls(
    pooler: Callable[..., Any], postgres: Any
) -> None:
    socket_directory = postgres.rows("show unix_socket_directories")[0]
    place = next(iter(socket_directory.values())).split(",")[0]
    one = pooler(
        {**PLAIN, "server_tls_sslmode": "disable"},
        databases={"p0": f"host={place} port={postgres.port} dbname=p0"},
    )
    with one.connect() as client:
        before = terms(client)
        one.reload(server_tls_sslmode="require")
        assert terms(client) == before


def test_login_under_way_in_clear_is_given_up(
    pooler: Callable[..., Any], free_port: Callable[[], int]
) -> None:
    """A connection begun before, and ready behind the change, would be plain."""
    firsts: queue.Queue[Any] = queue.Queue()

    def script(talk: ServerTalk) -> None:
        firsts.put((talk.read() or {}).get("type"))
        while talk.read():
            pass

    port = free_port()
    server = FakeServer(port, script)
    try:
        one = pooler({**PLAIN, "server_tls_sslmode": "disable"}, server_port=port)
        with FakeClient(one.port) as client:
            client.start([["database", "p0"], ["user", "u_trust"]])
            assert firsts.get(timeout=10) == "StartupMessage"
            one.console("SET server_tls_sslmode = 'require'")
            assert firsts.get(timeout=10) == "SSLRequest"
    finally:
        server.close()


def test_takeover_with_tls_switched_on_keeps_no_plain_connection(
    pooler: Callable[..., Any], lab: Ground, successor: Callable[..., Successor]
) -> None:
    """The new process used what the old one had opened in clear."""
    first = pooler(
        {**PLAIN, "server_tls_sslmode": "disable", "logfile": "{dir}/old.log"},
        may_end=True,
        run=False,
    )
    first.log_file = first.directory / "old.log"
    first.run()
    with first.connect() as idle, first.connect() as busy:
        busy.execute("begin")
        before = terms(busy)
        assert terms(idle)[0] is False
        ini = first.directory / "pgbouncer.ini"
        text = ini.read_text().replace("sslmode = disable", "sslmode = require")
        ini.write_text(text)
        successor(first, lab.command).take_over()
        assert terms(busy) == before
        assert terms(idle)[0] is True
        busy.execute("commit")
        assert terms(busy)[0] is True
