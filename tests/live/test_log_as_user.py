"""Root starts, somebody else serves: whose the files are that it opens."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.live.test_process_life import ALONE, RootIdentity, run
from tests.support.ground import Ground

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def rooted(lab: Ground, pooler: Any) -> Any:
    """A pooler that root starts, and its own directory that only root may write to."""

    def make(**settings: Any) -> tuple[Any, Path]:
        one = pooler(
            {"user": lab.identity.name, **settings}, run=False, may_end=True, **ALONE
        )
        one.identity = RootIdentity()
        roots = Path(one.directory) / "roots"
        roots.mkdir(mode=0o755)
        os.chown(roots, 0, 0)
        return one, roots

    return make


def test_log_file_that_the_user_cannot_open_ends_a_start(
    lab: Ground, rooted: Any
) -> None:
    """It wrote a FATAL line and went on, without a log."""
    one, roots = rooted(logfile="{dir}/roots/log")
    done = run(lab, "-q", "pgbouncer.ini", cwd=one.directory)
    assert done.returncode == 1
    assert f"FATAL Cannot open logfile: '{roots}/log': Permission denied" in done.stderr
    assert not (roots / "log").exists()
    assert not (Path(one.directory) / "pid").exists()


@pytest.mark.parametrize("early", [False, True])
def test_log_file_is_the_users(lab: Ground, rooted: Any, early: bool) -> None:
    """With a line from before the switch root made it: a rotation was its end."""
    # A line about the HBA file comes while it is read.
    more = {"auth_type": "hba", "auth_hba_file": "{dir}/none"} if early else {}
    one, _ = rooted(**more)
    one.run()
    log = Path(one.directory) / "log"
    assert log.stat().st_uid == Path(f"/proc/{one.pid}").stat().st_uid != 0
    assert bool(one.log_matches("could not open hba config file")) == early
    log.rename(log.with_suffix(".1"))
    one.interrupt("SIGHUP")
    one.interrupt("SIGHUP")
    one.wait_for_log("got SIGHUP")
    assert one.is_running()


def test_root_follows_no_link_for_its_log(lab: Ground, rooted: Any) -> None:
    one, roots = rooted(auth_type="hba", auth_hba_file="{dir}/none")
    (Path(one.directory) / "log").symlink_to(roots / "target")
    done = run(lab, "-q", "pgbouncer.ini", cwd=one.directory)
    assert done.returncode == 1 and "Permission denied" in done.stderr
    assert not (roots / "target").exists()


def test_early_end_is_told_in_the_users_log(lab: Ground, rooted: Any) -> None:
    one, _ = rooted(client_tls_sslmode="require")
    done = run(lab, "-q", "pgbouncer.ini", cwd=one.directory)
    assert done.returncode == 1
    log = Path(one.directory) / "log"
    assert "FATAL TLS setup failed" in log.read_text()
    assert log.stat().st_uid != 0


@pytest.mark.parametrize("name", ["pidfile", "unix_socket_dir"])
def test_what_else_the_user_cannot_make_ends_a_start(
    lab: Ground, rooted: Any, name: str
) -> None:
    place = "{dir}/roots" if name == "unix_socket_dir" else "{dir}/roots/pid"
    one, _ = rooted(**{name: place})
    done = run(lab, "pgbouncer.ini", cwd=one.directory)
    assert done.returncode == 1
    assert "FATAL" in done.stderr and "Permission denied" in done.stderr
