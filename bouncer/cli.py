"""The programs `pgbouncer` and `pybouncer`: from the command line to the exit code.

The one hard idea is the order of the start (`run`): it decides which message
comes first, what may still be read as root, and that nothing which does not
survive a fork is made before the fork.
"""

import asyncio
import gc
import os
import signal
import ssl
import sys
import warnings
from collections.abc import Sequence
from typing import Final, NoReturn

import pycares
import uvloop
from uvloop.loop import libuv_get_version  # type: ignore[attr-defined]

from admin.console import AdminConsole
from bouncer import COMPATIBLE_VERSION, __version__, adopt, log, process
from bouncer.app import Bouncer
from bouncer.arguments import finish, say
from bouncer.check.explain import explain_main
from bouncer.check.main import check_main
from bouncer.config.load import load
from bouncer.config.settings import Configuration
from bouncer.errors import ConfigError, LibraryMissing, StartError
from bouncer.front import Front
from bouncer.listener import Listeners, unix_socket_name, unix_socket_path
from bouncer.options import HELP, Options, UsageError, parse
from bouncer.relay import checked
from bouncer.service import Service, passed_fds

# After the start the collector rarely finds anything: no cycles are made per
# connection or transaction. Looking less often keeps it out of latencies.
GC_THRESHOLDS: Final = (50_000, 20, 50)

# Asked instead of a start; each reads the rest of the command line by itself.
QUESTIONS: Final = {"--check": check_main, "--explain": explain_main}


def main() -> NoReturn:
    """Run as `pgbouncer`."""
    sys.exit(finish(pgbouncer(sys.argv)))


def pgbouncer(argv: Sequence[str]) -> int:
    """Do what the command line *argv* says; return the exit code."""
    argv0 = shown_name(argv[0])
    for flag, answer in QUESTIONS.items():
        if flag in argv[1:]:
            return answer([word for word in argv[1:] if word != flag])
    try:
        options = parse(argv[1:])
    except UsageError as err:
        print(f"{argv0}: {err}", file=sys.stderr)
        print(f'Try "{argv0} --help" for more information.', file=sys.stderr)
        return 1
    if options.show == "help":
        say(HELP.format(argv0=argv0).removesuffix("\n"))
        return 0
    if options.show == "version":
        say("\n".join(version_lines()))
        return 0
    if options.show:
        # Only an abbreviation comes here.
        return QUESTIONS[f"--{options.show}"]([options.config])
    process.name_process("pgbouncer")
    # Until the loop watches them, signals do what they do to any process.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    log.start(options.quiet, options.verbose)
    log.report_crashes()
    try:
        run(options)
    except StartError as err:
        log.fatal(str(err))
        log.flush()
        return 1


def shown_name(argv0: str) -> str:
    """Return the name for usage texts: `python -m bouncer` has none of its own."""
    return "pgbouncer" if argv0.endswith("__main__.py") else argv0


# Versions


def libuv_version() -> str:
    """Return the version of the event loop's library."""
    number = libuv_get_version()
    return f"{number >> 16}.{number >> 8 & 255}.{number & 255}"


def library() -> str:
    """Say who we are, where PgBouncer names its event loop: each build says another."""
    return f"pybouncer {__version__} on libuv {libuv_version()}"


def version_lines() -> list[str]:
    """Return what --version prints; scripts take the first line's last word."""
    return [
        f"PgBouncer {COMPATIBLE_VERSION}",
        library(),
        f"adns: c-ares {pycares.ARES_VERSION}",
        f"tls: {ssl.OPENSSL_VERSION}",
        "systemd: yes",
    ]


def process_up() -> str:
    """Return the log line that says that all is well."""
    return (
        f"process up: PgBouncer {COMPATIBLE_VERSION}, {library()} (epoll), "
        f"adns: c-ares {pycares.ARES_VERSION}, tls: {ssl.OPENSSL_VERSION}"
    )


# The start


def run(options: Options) -> NoReturn:
    """Start, serve, end. Raises `StartError` as long as the start may fail."""
    configuration = read_configuration(options)
    settings = configuration.settings
    user = options.user or settings.user
    try:
        app = make_app(configuration, options)
        app.consoles["pgbouncer"] = AdminConsole(app)
        front = Front(app)
        process.know_names()
        process.switch_user(user)
    except StartError:
        if process.is_harmless(user):
            log.configure(settings, options.quiet, daemon=False)
        raise
    log.configure(settings, options.quiet, daemon=False)
    log.open_file()
    adoption = adopt.begin(app) if options.reboot else None
    if adoption is None:
        refuse_company(configuration)
    if options.daemon:
        process.daemonise(settings.pidfile)
        log.configure(settings, options.quiet, daemon=True)
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    program = Program(app, configuration, loop, adoption, front)
    program.start()
    status = loop.run_until_complete(app.run_until_exit())
    # What a console was about to wait for, in this very turn, ends with the process.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    program.end(status)


def make_app(configuration: Configuration, options: Options) -> Bouncer:
    """Make the pooler, which reads its other files and the TLS keys."""
    try:
        return Bouncer(configuration, options.config, None, options)
    except LibraryMissing as err:
        raise StartError(str(err)) from None
    except ConfigError as err:
        log.error(str(err))
        raise StartError("TLS setup failed") from None


def read_configuration(options: Options) -> Configuration:
    """Load the file and let the log follow it.

    Root's log file is opened by whom root becomes: who owns its directory could put
    a link there, and nobody else could open it again after a rotation.
    """
    try:
        configuration = load(options.config, None, options.verbose)
    except ConfigError:
        raise StartError("cannot load config file") from None
    is_root = os.geteuid() == 0
    log.configure(configuration.settings, options.quiet, daemon=False, hold=is_root)
    return configuration


def refuse_company(configuration: Configuration) -> None:
    """End the start if another process is in our place already."""
    settings = configuration.settings
    path = unix_socket_path(settings)
    if path and not passed_fds() and process.somebody_answers(unix_socket_name(path)):
        raise StartError("unix socket is in use, cannot continue")
    if settings.pidfile:
        process.check_pidfile(settings.pidfile)


class Program:
    """The running process around the app: sockets, pid file, signals, systemd."""

    def __init__(
        self,
        app: Bouncer,
        configuration: Configuration,
        loop: asyncio.AbstractEventLoop,
        adoption: adopt.Adoption | None,
        front: Front,
    ) -> None:
        self.app = app
        self.front = front
        self.adoption = adoption
        self.configuration = configuration
        self.loop = loop
        self.service = Service()
        self.listeners = Listeners()
        self.pidfile = ""

    def start(self) -> None:
        """Do everything up to READY=1."""
        settings = self.configuration.settings
        log.attach(self.loop.call_soon)
        self.loop.set_exception_handler(log_unexpected)
        self.app.service = self.service
        self.app.stepped_aside = self.step_aside
        self.app.attach(self.loop)
        databases = self.configuration.databases.values()
        process.log_descriptor_limit(
            settings,
            [(one.pool_size, one.user is not None) for one in databases],
            len(self.app.registry.users),
        )
        self.listen()
        self.watch_signals()
        try:
            self.app.start(self.listeners)
            if self.adoption is not None:
                self.adoption.read()
                self.adoption = None
            self.front.start(self.loop)
            if settings.pidfile:
                process.write_pidfile(settings.pidfile)
                self.pidfile = settings.pidfile
        except BaseException:
            self.listeners.close_all()
            raise
        log.info(process_up())
        self.service.ready()
        self.keep_watchdog()
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)

    def listen(self) -> None:
        """Get the listening sockets: the old process's, systemd's, or our own."""
        settings = self.configuration.settings
        fds = passed_fds()
        if self.adoption is not None:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, give_up_takeover)
            self.service.main_process()
            self.adoption.finish(settings)
            inherited = self.adoption.listeners
            self.listeners = Listeners.open(settings, inherited)
            if inherited:
                self.listeners.retune(settings)
        elif fds:
            self.listeners = Listeners.from_service_manager(settings, fds)
        else:
            self.listeners = Listeners.open(settings)

    def keep_watchdog(self) -> None:
        """Tell systemd that the loop turns, if it wants to know."""
        period = self.service.watchdog
        if period:
            self.service.alive()
            self.loop.call_later(period, self.keep_watchdog)

    def step_aside(self) -> None:
        """Make room for the process that has taken our sockets over."""
        self.front.close()
        self.listeners.close_all()
        if self.pidfile:
            process.remove_pidfile(self.pidfile)
            self.pidfile = ""

    def end(self, code: int) -> NoReturn:
        """Leave nothing behind, and go.

        Without the interpreter's own farewell: a thread that waits for PAM or LDAP
        must not hold the process.
        """
        checked.report()
        log.detach()
        self.step_aside()
        sys.stdout.flush()
        os._exit(code)

    # Called by signals

    def watch_signals(self) -> None:
        """Let the loop call us for the signals that mean something.

        One that comes before the loop runs would be lost: it waits in the kernel.
        """
        actions = {
            signal.SIGHUP: self.hangup,
            signal.SIGTERM: self.terminate,
            signal.SIGINT: self.interrupt,
            signal.SIGQUIT: self.quit,
            signal.SIGUSR1: self.pause,
            signal.SIGUSR2: self.go_on,
        }
        signal.pthread_sigmask(signal.SIG_BLOCK, actions)
        for number, function in actions.items():
            self.loop.add_signal_handler(number, function)
        self.loop.call_soon(signal.pthread_sigmask, signal.SIG_UNBLOCK, list(actions))

    def hangup(self) -> None:
        """SIGHUP: reload. systemd hears of it, also when it failed."""
        log.info("got SIGHUP, re-reading config")
        self.service.reloading()
        try:
            self.app.reload()
        except ConfigError as err:
            # The lines that say why have been logged.
            log.debug(f"reload failed: {err}")
        self.service.ready()

    def terminate(self) -> None:
        """SIGTERM: wait until the clients have gone; once more: go at once."""
        self.stop(
            "SIGTERM", "waiting for all clients disconnect", mode="wait_for_clients"
        )

    def interrupt(self) -> None:
        """SIGINT: wait until the servers are free; once more: go at once."""
        self.stop(
            "SIGINT",
            "waiting for all servers connections to be released",
            mode="wait_for_servers",
        )

    def stop(self, name: str, text: str, mode: str) -> None:
        """Shut down as *mode* says, or at once if that is under way already."""
        if self.app.shutdown_mode is not None:
            log.info(f"got {name} while shutting down, fast exit")
            self.app.exit()
            return
        log.info(f"got {name}, shutting down, {text}")
        self.service.stopping()
        if self.app.global_mode == "suspend":
            log.fatal("suspend was in progress, going down immediately")
            self.end(1)
        self.app.shutdown(mode)

    def quit(self) -> None:
        """SIGQUIT: go at once."""
        log.info("got SIGQUIT, fast exit")
        self.app.exit()

    def pause(self) -> None:
        """SIGUSR1: PAUSE."""
        if self.app.global_mode != "none":
            log.info("got SIGUSR1, but already paused")
            return
        log.info("got SIGUSR1, pausing all activity")
        self.app.pause()

    def go_on(self) -> None:
        """SIGUSR2: RESUME."""
        mode = self.app.shutdown_mode
        # While clients are waited for, those that a pause holds up must go on.
        if mode is not None and (
            mode != "wait_for_clients" or self.app.global_mode == "none"
        ):
            log.info("got SIGUSR2 while shutting down, ignoring")
        elif self.app.global_mode == "none":
            log.info("got SIGUSR2, but not paused")
        else:
            word = "SUSPEND" if self.app.global_mode == "suspend" else "PAUSE"
            log.info(f"got SIGUSR2, continuing from {word}")
            self.app.resume()


def give_up_takeover(number: int, frame: object) -> NoReturn:
    """SIGTERM or SIGINT while the clients are between two processes."""
    log.fatal("takeover was in progress, going down immediately")
    log.flush()
    os._exit(1)


def log_unexpected(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """Log what nobody caught; the loop goes on."""
    err = context.get("exception")
    what = f"{type(err).__name__}: {err}" if err is not None else ""
    log.error(f"unexpected error: {context.get('message', '')}: {what}")
