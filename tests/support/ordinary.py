"""Forget what whoever started us has set up: what is tested must not depend on it.

A process inherits signals that are ignored or blocked (`sh -c 'make test &'` ignores
SIGINT, nohup SIGHUP), a umask, closed descriptors, limits, and variables that libpq
and systemd's protocol read; and hands all of it on to what it starts. `make_ordinary`
puts all that back to what a login shell gives. What Python itself has set (SIGPIPE is
ignored; Popen undoes it for children) stays.
"""

import os
import re
import resource
import signal
import threading
import time

UMASK = 0o022
DESCRIPTORS = 65536  # as many as the hard limit allows, but no more
# That a program which we start, or a library in us, would listen to.
STARTERS_VARIABLES = re.compile(
    r"PG(?!BOUNCER_)[A-Z]+|LISTEN_\w+|NOTIFY_SOCKET|WATCHDOG_\w+|JOURNAL_STREAM"
    r"|LANG|LANGUAGE|LC_\w+|TZ|LDAP\w+"
)


def open_standard_streams() -> None:
    """Let 0, 1, 2 be open: else the next file or socket would get such a number."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # The lowest free number is this one.
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(fd, True)


def reset_signals() -> None:
    """No signal is ignored or blocked but those that Python ignores."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in signal.valid_signals():
        if number in (signal.SIGPIPE, getattr(signal, "SIGXFSZ", None)):
            continue
        if signal.getsignal(number) is signal.SIG_IGN:
            usual = signal.SIG_DFL
            if number == signal.SIGINT:
                usual = signal.default_int_handler  # type: ignore[assignment]
            signal.signal(number, usual)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def make_ordinary() -> None:
    """Be, and start others, as if a login shell had started us."""
    open_standard_streams()
    reset_signals()
    os.umask(UMASK)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    for name in list(os.environ):
        if STARTERS_VARIABLES.fullmatch(name):
            del os.environ[name]
    time.tzset()
    os.environ["LC_ALL"] = "C.UTF-8"
