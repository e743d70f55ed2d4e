"""TLS towards PostgreSQL: who is believed, what is spoken, files that change."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.support.cutting import CuttingProxy
from tests.support.ground import Ground, Postgres

MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


@pytest.fixture(autouse=True)
def certificates(lab: Ground, skip_or_fail: Callable[[str, str], None]) -> None:
    skip_or_fail("openssl", "apt-get install openssl")


@pytest.fixture
def misnamed(postgres: Postgres, free_port: Callable[[], int]) -> Iterator[int]:
    """PostgreSQL at 127.0.0.2 too, which its certificate does not name; the port.

    127.0.0.1 has it on the same port, so that one entry can list both.
    """
    port = free_port()
    with CuttingProxy(port, postgres.port, host="127.0.0.2"):
        with CuttingProxy(port, postgres.port):
            yield port


def spoken(one: Any, database: str = "p0") -> dict[str, Any]:
    """What PostgreSQL says about TLS on its side of the pooler."""
    with one.connect(database) as connection:
        cursor = connection.cursor(row_factory=psycopg.rows.dict_row)
        cursor.execute("select * from pg_stat_ssl where pid = pg_backend_pid()")
        return dict(cursor.fetchone())


@pytest.mark.parametrize("mode", MODES)
def test_server_tls_sslmode_says_whether_the_server_is_believed(
    pooler: Callable[..., Any], misnamed: int, mode: str
) -> None:
    one = pooler(
        {
            "server_tls_sslmode": mode,
            "server_tls_ca_file": "{certs}/ca.crt",
            "query_wait_timeout": 1,
        },
        databases={
            "named": f"host=127.0.0.1 port={misnamed} dbname=p0",
            "misnamed": f"host=127.0.0.2 port={misnamed} dbname=p0",
        },
    )
    assert spoken(one, "named")["ssl"] is (mode != "disable")
    if mode == "verify-full":
        with pytest.raises(psycopg.OperationalError, match="query_wait_timeout"):
            spoken(one, "misnamed")
        one.wait_for_log(
            "TLS handshake error: name `127.0.0.2' not present in server certificate"
        )
    else:
        assert spoken(one, "misnamed")["ssl"] is (mode != "disable")


@pytest.mark.parametrize(
    ("mode", "fine"),
    [("require", True), ("verify-ca", False), ("verify-full", False)],
)
def test_server_tls_ca_file_of_another_authority_counts_where_it_is_looked_at(
    pooler: Callable[..., Any], mode: str, fine: bool
) -> None:
    one = pooler({"server_tls_sslmode": mode, "query_wait_timeout": 1})
    one.reload(server_tls_ca_file="{certs}/rogueca.crt")
    if fine:
        assert spoken(one)["ssl"]
    else:
        with pytest.raises(psycopg.OperationalError, match="query_wait_timeout"):
            spoken(one)
        one.wait_for_log("TLS handshake error: .*certificate verif")


def test_verify_full_checks_each_host_of_a_list_by_its_own_name(
    pooler: Callable[..., Any], misnamed: int
) -> None:
    one = pooler(
        {
            "server_tls_sslmode": "verify-full",
            "server_tls_ca_file": "{certs}/ca.crt",
            "server_login_retry": 0.1,
            "pool_mode": "transaction",
            "default_pool_size": 4,
        },
        databases={
            "p0": f"host=127.0.0.2,127.0.0.1,localhost port={misnamed} dbname=p0"
        },
    )
    clients = [one.connect() for _ in range(4)]
    try:
        for client in clients:  # as many servers as clients
            client.execute("begin")
        assert all(client.execute("select 1").fetchone() for client in clients)
        hosts = {row["addr"] for row in one.console("SHOW SERVERS")}
        assert hosts == {"127.0.0.1"}
        assert all(row["tls"] for row in one.console("SHOW SERVERS"))
    finally:
        for client in clients:
            client.close()


@pytest.mark.parametrize(
    ("settings", "version", "cipher"),
    [
        ({}, "TLSv1.3", None),
        ({"server_tls_protocols": "tlsv1.2"}, "TLSv1.2", None),
        (
            {
                "server_tls_protocols": "tlsv1.2",
                "server_tls_ciphers": "ECDHE-RSA-AES128-GCM-SHA256",
            },
            "TLSv1.2",
            "ECDHE-RSA-AES128-GCM-SHA256",
        ),
        (
            {"server_tls13_ciphers": "TLS_CHACHA20_POLY1305_SHA256"},
            "TLSv1.3",
            "TLS_CHACHA20_POLY1305_SHA256",
        ),
    ],
)
def test_server_tls_protocols_and_ciphers_are_what_is_spoken(
    pooler: Callable[..., Any],
    settings: dict[str, str],
    version: str,
    cipher: str | None,
) -> None:
    found = spoken(pooler({"server_tls_sslmode": "require", **settings}))
    assert found["version"] == version
    assert cipher is None or found["cipher"] == cipher


def test_server_tls_files_count_for_new_connections_without_a_restart(
    pooler: Callable[..., Any], lab: Ground
) -> None:
    """A client certificate and the authority, both replaced while we run."""
    one = pooler(
        {
            "server_tls_sslmode": "verify-full",
            "server_tls_ca_file": "{dir}/ca.crt",
            "server_tls_cert_file": "{dir}/own.crt",
            "server_tls_key_file": "{dir}/own.key",
            "server_login_retry": 0.1,
            "query_wait_timeout": 1,
        },
        databases={"p0": "{pg} dbname=p0 user=certuser"},
        run=False,
    )

    def place(authority: str, person: str) -> None:
        for source, kind in ((authority, "ca.crt"), (person, "own.crt")):
            shutil.copy(f"{lab.certificates}/{source}.crt", one.directory / kind)
        shutil.copy(f"{lab.certificates}/{person}.key", one.directory / "own.key")
        lab.identity.own(one.directory)

    def renewed() -> dict[str, Any]:
        one.console("RECONNECT")
        return spoken(one)

    place("ca", "certuser")
    one.run()
    assert spoken(one)["client_dn"] == "/CN=certuser"
    place("ca", "otheruser")
    with pytest.raises(psycopg.OperationalError, match="certificate authentication"):
        renewed()
    place("ca", "certuser")
    assert renewed()["client_dn"] == "/CN=certuser"
    place("rogueca", "certuser")
    with pytest.raises(psycopg.OperationalError, match="query_wait_timeout"):
        renewed()
    place("ca", "certuser")
    assert renewed()["client_dn"] == "/CN=certuser"
