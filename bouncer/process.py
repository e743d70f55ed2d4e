"""The operating system's process: its user, its pid file, its descriptor limit.

The one hard idea is the order. The configuration is read with the privileges of
the start; then the user is switched, the log file is opened, the pid file and the
Unix socket are looked at, the process goes to the background, and only then an event
loop exists, since no loop survives a fork. `bouncer.cli` calls the functions in that
order.
"""

import ctypes
import grp
import os
import pwd
import resource
import socket
import time
from collections.abc import Iterable
from typing import Final

from bouncer import log
from bouncer.config.settings import Settings
from bouncer.errors import StartError

# linux/prctl.h
PR_SET_DUMPABLE: Final = 4
# Descriptors that are no client and no server: log, listeners, the loop's own.
OWN_DESCRIPTORS: Final = 10
# Pool size of the admin database, as far as the descriptor sum goes.
CONSOLE_POOL_SIZE: Final = 2
# While a takeover waits for the old process's pid file: seconds between two looks,
# and how long the file of a process that is dead may lie about.
PIDFILE_LOOK: Final = 0.1
PIDFILE_PATIENCE: Final = 2.0


# User


def switch_user(name: str | None) -> None:
    """Become *name* (if given), and refuse to be root."""
    if name:
        become(name)
    if os.geteuid() == 0:
        raise StartError("PgBouncer should not run as root")


def become(name: str) -> None:
    """Take the identity of the user *name*, without its supplementary groups."""
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise StartError(f"could not find user '{name}' to switch to") from None
    if user.pw_uid == os.geteuid():
        return
    try:
        if os.geteuid() == 0:
            os.setgroups([user.pw_gid])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
    except OSError as err:
        text = f"failed to assume identity of user '{name}': {err.strerror}"
        raise StartError(text) from None
    if (os.geteuid(), os.getegid()) != (user.pw_uid, user.pw_gid):
        raise StartError(f"failed to assume identity of user '{name}'")
    allow_core()


def allow_core() -> None:
    """Let a crash leave a core after a switch of user, where cores are asked for.

    The kernel forbids it to whoever was root, and with it that others of the same user
    look into the process, which holds keys and passwords: so only with RLIMIT_CORE.
    """
    if resource.getrlimit(resource.RLIMIT_CORE)[0] == 0:
        return
    try:
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    except (OSError, AttributeError):
        # Not Linux: nothing forbids it.
        return


def is_harmless(name: str | None) -> bool:
    """Become *name* if that can be, before an early end; true when we are not root."""
    try:
        switch_user(name)
    except StartError:
        return os.geteuid() != 0
    return True


def know_names() -> None:
    """Load what looks users and groups up: later the libraries may be out of reach."""
    for look_up in (lambda: pwd.getpwuid(os.geteuid()), lambda: grp.getgrgid(0)):
        try:
            look_up()
        except KeyError:
            continue


def name_process(name: str) -> None:
    """Set the name that pkill --exact and killall look for, in the kernel."""
    try:
        with open("/proc/self/comm", "w") as file:
            file.write(name)
    except OSError:
        # Not Linux, or no /proc: the interpreter's name stays.
        return


# Another process in our place


def somebody_answers(address: str) -> bool:
    """Say whether a process accepts connections on the Unix socket *address*."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5)
        try:
            probe.connect(address)
        except (TimeoutError, BlockingIOError):
            # A full queue is somebody who does not accept at the moment.
            return True
        except OSError:
            return False
        return True


def check_pidfile(path: str) -> None:
    """Refuse to start beside the process of the pid file; remove a dead one's."""
    try:
        with open(path, "rb") as file:
            text = file.read(64)
    except FileNotFoundError:
        return
    except IsADirectoryError as err:
        raise StartError(f"could not read pidfile '{path}': {err.strerror}") from None
    except OSError as err:
        raise StartError(f"could not open pidfile '{path}': {err.strerror}") from None
    if is_alive(leading_number(text)):
        raise StartError(f"pidfile '{path}' exists, another instance running?")
    log.info("stale pidfile, removing")
    try:
        os.unlink(path)
    except OSError as err:
        raise StartError(f"could not remove pidfile '{path}': {err.strerror}") from None


def leading_number(text: bytes) -> int:
    """Return the number that *text* starts with, 0 if it does with none."""
    stripped = text.lstrip()
    digits = stripped[: len(stripped) - len(stripped.lstrip(b"0123456789"))]
    return int(digits or b"0")


def is_alive(pid: int) -> bool:
    """Say whether *pid* may be running; a number that makes no sense counts so."""
    if pid <= 0:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def write_pidfile(path: str) -> None:
    """Create the pid file; it must not exist."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o644)
        try:
            os.write(fd, b"%d\n" % os.getpid())
        finally:
            os.close(fd)
    except OSError as err:
        raise StartError(f"could not open pidfile '{path}': {err.strerror}") from None


def remove_pidfile(path: str) -> None:
    """Remove the pid file at the end."""
    try:
        os.unlink(path)
    except OSError:
        return


def refuse_strangers_pidfile(path: str) -> None:
    """Refuse to wait for a pid file to go away that another user has put there."""
    try:
        uid = os.stat(path).st_uid
    except OSError:
        return
    if uid not in (os.geteuid(), 0):
        raise StartError(f"takeover: pidfile '{path}' is uid {uid}'s, not ours")


def await_no_pidfile(path: str) -> None:
    """Wait until the process that we take over from has removed its pid file.

    PgBouncer waits for ever. A file whose process is dead will never go away by
    itself, and all clients stand still meanwhile: remove it.
    """
    log.info("waiting for old pidfile to go away")
    dead_since: float | None = None
    while os.path.exists(path):
        time.sleep(PIDFILE_LOOK)
        try:
            with open(path, "rb") as file:
                pid = leading_number(file.read(64))
        except OSError:
            continue
        if is_alive(pid):
            dead_since = None
        elif dead_since is None:
            dead_since = time.monotonic()
        elif time.monotonic() - dead_since > PIDFILE_PATIENCE:
            log.info("stale pidfile, removing")
            remove_pidfile(path)
            return


# Background


def daemonise(pidfile: str | None) -> None:
    """Go to the background; returns in the grandchild only. Before any loop exists."""
    if not pidfile:
        raise StartError("daemon needs pidfile configured")
    log.flush()
    if os.fork():
        os._exit(0)
    os.setsid()
    # Not being the session's leader, the grandchild can never get a terminal.
    if os.fork():
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    if null > 2:
        os.close(null)


# Descriptors


def log_descriptor_limit(
    settings: Settings, databases: Iterable[tuple[int | None, bool]], users: int
) -> None:
    """Log the limit of descriptors beside what the configuration may need.

    *databases* has pool_size (None: the default) and whether a user is forced for
    each configured database, *users* is the number of known users, `pgbouncer`
    among them.
    """
    need = settings.max_client_conn + OWN_DESCRIPTORS + CONSOLE_POOL_SIZE
    for pool_size, forced in databases:
        size = settings.default_pool_size if pool_size is None else pool_size
        need += size if forced else size * users
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    log.info(
        f"kernel file descriptor limit: {soft} (hard: {hard}); "
        f"max_client_conn: {settings.max_client_conn}, max expected fd use: {need}"
    )
