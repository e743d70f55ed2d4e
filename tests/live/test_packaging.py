"""The distribution's own files, unchanged, run our program."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.replay.pooler import program_environment
from tests.support.ground import Ground

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
