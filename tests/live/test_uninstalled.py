"""What happens to a running pooler when its files go or change: nothing.

`pip uninstall`, `pip install --upgrade` and dpkg take away or replace modules under the
process. Whatever it would only then import is not there, or is another version's.
"""

import http.client
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.ground import Ground

ROOT = Path(__file__).resolve().parents[2]
COLLECT = ROOT / "docs/packaging/debian/collect.py"
# Besides what a package carries: what Debian has of its own.
FOREIGN = ("cffi",)
# Only what stands in the directory, and the interpreter's own library.
PROGRAM = """
import sys
sys.path.insert(0, {directory!r})
def imported(event, details):
    if event == "import":
        with open({log!r}, "a") as file:
            file.write(details[0] + "\\n")
sys.argv[0] = "pgbouncer"
sys.addaudithook(imported)
from bouncer.cli import main
main()
"""
SHOWN = """active_sockets clients config databases dns_hosts dns_zones fds help lists
    mem peer_pools peers pools pybouncer servers sockets state stats stats_averages
    stats_totals totals users version""".split()


@pytest.fixture
def installation(lab: Ground) -> Path:
    """A directory with everything that the pooler imports from outside of Python."""
    directory: Path = lab.directory() / "installed"
    subprocess.run([sys.executable, COLLECT, directory, *FOREIGN], check=True)
    lab.identity.own(directory.parent)
    return directory


@pytest.fixture
def uninstalled(pooler: Any, lab: Ground, installation: Path) -> Iterator[Any]:
    """A running pooler whose files are gone."""
    health, log = lab.free_port(), installation.parent / "imported"
    program = PROGRAM.format(directory=str(installation), log=str(log))
    one = pooler(
        {
            "auth_type": "hba",
            "auth_hba_file": "{dir}/hba",
            "client_tls_sslmode": "allow",
            "client_tls_key_file": "{certs}/bouncer.key",
            "client_tls_cert_file": "{certs}/bouncer.crt",
        },
        command=[sys.executable, "-I", "-S", "-c", program],
        databases={
            "p0": "{pg} dbname=p0 user=u_plain password=plainpass",
            "named": "host=localhost port=1",
            "asked": "{pg} dbname=p0 auth_user=u_trust",
        },
        users={
            "u_md5": "md5pass",
            "u_scram": "scrampass",
            "admin": "adminpass",
            "u_trust": "",
        },
        more=f"[pybouncer]\nhealth_listen = 127.0.0.1:{health}\n",
        run=False,
    )
    (one.directory / "hba").write_text(
        "host all u_md5 127.0.0.1/32 md5\nhost all u_scram 127.0.0.1/32 scram-sha-256\n"
        "host all u_pam 127.0.0.1/32 pam\n"
        "host all u_ldap 127.0.0.1/32 ldap ldapserver=127.0.0.1 ldapport=1\n"
        "host all u_cert 127.0.0.1/32 cert\nhost all all 127.0.0.1/32 trust\n"
        "local all all peer\n"
    )
    lab.identity.own(one.directory)
    one.run()
    one.health, one.imports = health, log
    shutil.rmtree(installation)
    assert "bouncer.pool.pools" in log.read_text().split()  # the hook sees imports
    log.write_text("")
    yield one


def refused(one: Any, **more: Any) -> None:
    with pytest.raises(psycopg.OperationalError):
        one.connect(**more).close()


def use_everything(one: Any) -> None:
    """What a pooler may meet in its life, as far as it lets itself be asked."""
    for user, password in (("u_md5", "md5pass"), ("u_scram", "scrampass")):
        with one.connect(user=user, password=password) as client:
            assert client.execute("select 1").fetchone() == (1,)
    with one.connect(sslmode="require") as client:
        assert client.execute("select 1").fetchone() == (1,)
    refused(one, user="u_md5", password="wrong")
    refused(one, user="u_scram", password="wröng\u2168")
    refused(one, user="u_pam", password="wrong")
    refused(one, user="u_ldap", password="wrong")
    refused(one, user="u_cert", password="wrong")
    refused(one, database="nosuch")
    refused(one, database="named", connect_timeout=2)
    refused(one, database="asked", user="somebody")
    for name in SHOWN:
        one.console(f"SHOW {name}")
    for command in ("RELOAD", "RECONNECT p0", "PAUSE p0", "RESUME p0", "DISABLE p0"):
        one.console(command)
    one.console("ENABLE p0")
    for path in ("/live", "/ready", "/status", "/metrics", "/nosuch"):
        connection = http.client.HTTPConnection("127.0.0.1", one.health, timeout=20)
        connection.request("GET", path)
        connection.getresponse().read()
        connection.close()
    one.reload(query_timeout=5, log_stats=1, syslog=0, stats_period=1)
    os.kill(one.pid, signal.SIGHUP)
    one.wait_for_log("got SIGHUP")
    with one.connect() as client:
        assert client.execute("select 1").fetchone() == (1,)


def test_running_pooler_imports_nothing_that_an_upgrade_could_have_replaced(
    uninstalled: Any,
) -> None:
    """Everything is used with all of its files gone, and it still shuts down."""
    use_everything(uninstalled)
    late = set(uninstalled.imports.read_text().split())
    ours = ("bouncer", "admin", "ha", "uvloop", "pycares", "cffi", "_cffi_backend")
    assert not {name for name in late if name.split(".")[0] in ours}, late
    os.kill(uninstalled.pid, signal.SIGINT)
    assert uninstalled.wait_for_log("server connections dropped, exiting")
