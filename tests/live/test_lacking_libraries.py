"""Machines that lack a library, or forbid md5: told at the start and at a RELOAD.

They are made by a `sitecustomize` that hides what is there.
"""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.replay.pooler import program_environment
from tests.support.ground import Ground, Postgres
from tests.support.pooler import RunningPooler

HIDE = """
import ctypes, hashlib

class Hidden(ctypes.CDLL):
    def __init__(self, name, *args, **more):
        if name and any(word in name for word in ("libldap", "libpam")):
            raise OSError(f"{name}: cannot open shared object file")
        super().__init__(name, *args, **more)

ctypes.CDLL = Hidden

def md5(*_args, **_more):
    raise ValueError("[digital envelope routines] unsupported")

hashlib.md5 = md5
"""
LDAP = (
    "libldap.so.2 (package libldap-2.5-0 on Debian 12, libldap2 on Debian 13), "
    "not found here"
)
HBA = "host all admin all trust\nhost all all all ldap ldapserver=x ldapprefix=y\n"


@pytest.fixture
def bare(lab: Ground, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs that are started from now on find neither library, and no md5."""
    directory = lab.directory()
    (directory / "sitecustomize.py").write_text(HIDE)
    lab.identity.own(directory)
    monkeypatch.setenv("PYTHONPATH", f"{directory}:{os.environ['PYTHONPATH']}")
    return directory


def start_fails(lab: Ground, settings: str) -> str:
    """What a start that must fail prints."""
    directory = lab.directory()
    file = directory / "x.ini"
    file.write_text(
        f"[databases]\n[pgbouncer]\nlisten_port = {lab.free_port()}\n"
        f"unix_socket_dir = {directory}\n{settings}"
    )
    done = subprocess.run(
        [*lab.command, str(file)],
        capture_output=True,
        text=True,
        timeout=55,
        env=program_environment(),
    )
    assert done.returncode == 1
    return done.stderr


@pytest.mark.parametrize("method", ["ldap", "pam", "hba"])
def test_start_needs_the_library_that_logins_need(
    lab: Ground, bare: Path, method: str
) -> None:
    """It was found out by the first client."""
    hba = bare / "hba"
    hba.write_text(HBA)
    settings = f"auth_type = {method}\nauth_hba_file = {hba}\n"
    library = "libpam.so.0" if method == "pam" else "libldap.so.2"
    [fatal] = [
        line for line in start_fails(lab, settings).splitlines() if " FATAL " in line
    ]
    assert library in fatal and "on Debian" in fatal


def test_reload_that_needs_a_missing_library_changes_nothing(
    bare: Path, pooler: Callable[..., RunningPooler]
) -> None:
    one = pooler(server_port=1, databases={"p0": "host=127.0.0.1 port=1"})
    hba = one.directory / "hba"
    hba.write_text(HBA)
    with pytest.raises(psycopg.Error, match="RELOAD failed"):
        one.reload(auth_type="hba", auth_hba_file=hba, max_client_conn=7)
    one.wait_for_log(rf"ERROR ldap in line 2 of {hba} needs " + re_escaped(LDAP))
    shown = {row["key"]: row["value"] for row in one.console("SHOW CONFIG")}
    assert shown["auth_type"] == "trust" and shown["max_client_conn"] == "100"
    with pytest.raises(psycopg.Error, match="SET failed"):
        one.console("SET auth_type = 'pam'")
    one.wait_for_log("ERROR auth_type = pam needs libpam.so.0")


def re_escaped(text: str) -> str:
    """*text* for a pattern."""
    return text.replace(".", r"\.").replace("(", r"\(").replace(")", r"\)")


def test_scram_works_where_md5_is_forbidden(
    bare: Path, postgres: Postgres, pooler: Callable[..., RunningPooler]
) -> None:
    """Only users with a SCRAM secret get in; the log says so at the start."""
    [row] = postgres.rows("select rolpassword from pg_authid where rolname = 'u_scram'")
    users = {"u_md5": "md5pass", "u_scram": row["rolpassword"]}
    one = pooler({"auth_type": "md5"}, users=users)
    one.wait_for_log(r"ERROR md5 is forbidden on this machine \(FIPS\): auth_type")
    with one.connect(user="u_scram", password="scrampass") as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError, match="password authentication fail"):
        one.connect(user="u_md5", password="md5pass")
