"""`pgbouncer --check` and `--explain`, as typed, against a real server."""

import json
import subprocess

import pytest

from tests.support.ground import PASSWORDS
from tests.support.pooler import userlist


@pytest.fixture
def typed(lab, tmp_path, monkeypatch):
    """Runs the program with arguments in a directory that has a configuration."""

    def run(ini, *arguments):
        for name, text in (("a.ini", ini), ("users", userlist(PASSWORDS))):
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o600)
        return subprocess.run(
            [*lab.command, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
        )

    return run


INI = """\
[databases]
one = host=127.0.0.1 port={port} dbname=p0 user={user} pool_size={size}
[pgbouncer]
listen_addr = 127.0.0.1
unix_socket_dir =
auth_type = scram-sha-256
auth_file = users
"""


@pytest.mark.parametrize("user", ["u_md5", "u_scram", "u_plain"])
def test_check_asks_the_server_for_its_max_connections(typed, postgres, user):
    [row] = postgres.rows("show max_connections")
    most = int(row["max_connections"])
    fine = typed(
        INI.format(port=postgres.port, user=user, size=5), "--check", "a.ini", "--json"
    )
    told = json.loads(fine.stdout)
    assert (fine.returncode, told["findings"]) == (0, [])
    assert [one["max_connections"] for one in told["servers"]] == [most]
    large = typed(
        INI.format(port=postgres.port, user=user, size=most), "--check", "a.ini"
    )
    assert large.returncode == 2
    assert f"a pool of {most} connections, but 127.0.0.1" in large.stdout


def test_check_does_not_wait_for_a_server_that_hangs(typed, postgres):
    postgres.freeze()
    try:
        done = typed(
            INI.format(port=postgres.port, user="u_md5", size=5), "--check", "a.ini"
        )
    finally:
        postgres.thaw()
    assert done.returncode == 0
    assert "could not be asked" in done.stdout


def test_check_and_explain_start_nothing(typed, free_port):
    ini = INI.format(port=free_port(), user="u_md5", size=5)
    assert typed(ini + "bad = 1\n", "--check", "--offline", "a.ini").returncode == 1
    done = typed(ini, "a.ini", "--check", "--offline")
    assert (done.returncode, done.stderr) == (0, "")
    done = typed(ini, "--explain", "one", "u_scram", "10.0.0.1", "a.ini")
    assert done.returncode == 0
    assert "u_md5, forced" in done.stdout
    done = typed(ini, "--explain", "two", "u_scram", "10.0.0.1", "a.ini")
    assert done.returncode == 1
