"""The distribution's own files, unchanged, run our program."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import missing
from tests.replay.pooler import program_environment, wait_for
from tests.support.ground import Ground
from tests.support.systemd import Manager, unit_settings

ALONE: dict[str, Any] = {
    "server_port": 1,
    "databases": {"nowhere": "host=127.0.0.1 port=1"},
}

INIT = """
set -eu
mount --bind {launcher} /usr/sbin/pgbouncer
mount --bind {directory} /etc/pgbouncer
export CONF=/etc/pgbouncer/pgbouncer.ini
init() {{ /etc/init.d/pgbouncer "$1" >/dev/null; echo "$1 $?"; }}
init start
for n in 1 2 3 4 5 6 7 8 9 10; do test -s {pid} && break; sleep 0.5; done
old=$(cat {pid})
readlink /proc/$old/exe
cat /proc/$old/comm
init status
init start
init reload
init restart
test "$(cat {pid})" != $old && echo other pid
init status
init stop
test ! -e {pid} && echo no pid file
"""


DEBIAN_UNIT = Path("/lib/systemd/system/pgbouncer.service")
DEBIAN_ROTATION = Path("/etc/logrotate.d/postgresql-common")

# What systemd does before it runs ExecStart: a namespace, the user.
SERVICE = """
mount --bind {launcher} /usr/sbin/pgbouncer
mount --bind {directory} /etc/pgbouncer
exec setpriv --reuid={user} --regid={user} --init-groups {start}
"""


@pytest.fixture(scope="module")
def launcher(lab: Ground) -> Path:
    """docs/packaging/launcher.c, for this interpreter."""
    root = Path(__file__).resolve().parents[2]
    short = f"{sys.version_info.major}.{sys.version_info.minor}"
    config = Path(sys.base_prefix) / "bin" / f"python{short}-config"
    if not config.exists():
        pytest.skip(f"needs {config}: apt-get install python3-dev")
    flags = subprocess.run(
        [config, "--embed", "--cflags", "--ldflags"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    target: Path = lab.directory() / "pgbouncer"
    subprocess.run(
        ["cc", "-O1", f'-DPYTHON="{sys.executable}"',
         root / "docs" / "packaging" / "launcher.c", "-o", target,
         *shlex.split(flags)],
        check=True,
    )  # fmt: skip
    found = subprocess.run([target, "--version"], capture_output=True, text=True)
    if found.returncode:
        pytest.skip("needs the project installed in this environment")
    return target


@pytest.fixture
def installed(pooler: Any, launcher: Path) -> Any:
    """A pooler whose files stand where Debian's package has them."""
    if os.geteuid() != 0 or not Path("/etc/init.d/pgbouncer").exists():
        missing("needs root and Debian's package: apt-get install pgbouncer")
    one = pooler({}, run=False, may_end=True, **ALONE)
    one.ini = {
        "pidfile": "/etc/pgbouncer/pid",
        "logfile": "/etc/pgbouncer/log",
        "auth_file": "/etc/pgbouncer/userlist.txt",
    }
    one.write_configuration()
    return one


def test_debian_unit_runs_ours_unchanged(installed: Any, launcher: Path) -> None:
    """Type=notify, ExecStart, ExecReload and KillSignal as systemd would use them."""
    unit = unit_settings(DEBIAN_UNIT)
    assert unit["Type"] == "notify"
    script = SERVICE.format(
        launcher=launcher,
        directory=installed.directory,
        user=unit["User"],
        start=unit["ExecStart"],
    )
    with Manager() as manager:
        service = subprocess.Popen(
            ["unshare", "--mount", "sh", "-ec", script],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=program_environment() | {"NOTIFY_SOCKET": str(manager.path)},
        )
        try:
            assert manager.next("READY") == "READY=1"
            # It is the process that systemd has started, not a child of that.
            assert (installed.directory / "pid").read_text().strip() == str(service.pid)
            subprocess.run(
                ["sh", "-c", unit["ExecReload"]],
                env={"MAINPID": str(service.pid), "PATH": os.defpath},
                check=True,
            )
            assert manager.next("RELOADING").startswith("RELOADING=1")
            assert manager.next("READY") == "READY=1"
            service.send_signal(signal.Signals[unit["KillSignal"]])
            assert manager.next("STOPPING") == "STOPPING=1"
            assert service.wait(10) == 0
        finally:
            service.kill()
            service.communicate()


def test_debian_logrotate_rule_loses_no_later_line(
    pooler: Any, skip_or_fail: Any
) -> None:
    """postgresql-common's rule truncates the file under the running process."""
    skip_or_fail("logrotate", "apt-get install logrotate")
    if os.geteuid() != 0 or not DEBIAN_ROTATION.exists():
        missing("needs root and its rule: apt-get install postgresql-common")
    one = pooler({"logfile": "{dir}/pgbouncer.log"}, run=False, **ALONE)
    one.start("pgbouncer.ini")
    log = one.directory / "pgbouncer.log"
    assert wait_for(lambda: log.exists() and "process up" in log.read_text(), 10)
    subprocess.run(
        ["unshare", "--mount", "sh", "-ec",
         f"mount --bind {one.directory} /var/log/postgresql\n"
         f"logrotate --force --state {one.directory}/state {DEBIAN_ROTATION}"],
        check=True,
    )  # fmt: skip
    assert "process up" in log.with_suffix(".log.1").read_text()
    assert log.read_text() == ""
    os.kill(one.pid, signal.SIGHUP)
    assert wait_for(lambda: "got SIGHUP, re-reading config" in log.read_text(), 10)
    assert log.read_bytes()[:1] == b"2"  # no hole where the old lines were


def test_debian_init_script_runs_ours_unchanged(
    lab: Ground, pooler: Any, launcher: Path
) -> None:
    """start-stop-daemon --exec looks at /proc/PID/exe; restart is -R -d."""
    if os.geteuid() != 0 or not Path("/etc/init.d/pgbouncer").exists():
        pytest.skip("needs root and Debian's pgbouncer package")
    one = pooler({}, run=False, may_end=True, **ALONE)
    pid = Path("/run/postgresql/pgbouncer.pid")
    if pid.exists():
        pytest.skip("a pgbouncer of this machine is running")
    one.ini = {
        "pidfile": pid,
        "logfile": "/etc/pgbouncer/log",
        "auth_file": "/etc/pgbouncer/userlist.txt",
    }
    one.write_configuration()
    script = INIT.format(launcher=launcher, directory=one.directory, pid=pid)
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        env=program_environment(),
    )
    if "unshare failed" in done.stderr:
        pytest.skip("needs a mount namespace")
    assert done.stdout.splitlines() == [
        "start 0",
        "/usr/sbin/pgbouncer",
        "pgbouncer",
        "status 0",
        "start 0",
        "reload 0",
        "restart 0",
        "other pid",
        "status 0",
        "stop 0",
        "no pid file",
    ], done.stderr
