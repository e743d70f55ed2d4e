"""Listening sockets: where clients come in, and how their sockets are tuned.

The one hard idea: on Linux an accepted socket has the options of the socket that
it was accepted from. All TCP options are set once, on the listening socket, so
that a new client costs no system call for them; who changes a setting must call
`Listeners.retune`.

The relay accepts, on the descriptors that stand here. It learns of them through
`Listeners.attach`, which is also how a suspended or closed listener leaves it.
"""

import errno
import fcntl
import grp
import os
import socket
import stat
import sys
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Final

from bouncer import log
from bouncer.config.settings import Settings
from bouncer.descriptors import are_free, bounds
from bouncer.errors import StartError

# Accepted sockets have the listening socket's options.
INHERITED: Final = sys.platform.startswith("linux")
# After accept() failed for lack of descriptors: seconds until the next try.
ACCEPT_PAUSE: Final = 5.0
# Before a TCP socket is closed for a shutdown: how often, and with which pause in
# seconds, we look for connections that are on their way in.
LAST_LOOKS: Final = 5
LAST_PAUSE: Final = 0.001
# What a keepalive option goes back to when its setting becomes 0 again.
KEEPALIVE_DEFAULTS: Final = {
    "TCP_KEEPIDLE": "/proc/sys/net/ipv4/tcp_keepalive_time",
    "TCP_KEEPINTVL": "/proc/sys/net/ipv4/tcp_keepalive_intvl",
    "TCP_KEEPCNT": "/proc/sys/net/ipv4/tcp_keepalive_probes",
}


class Listener:
    """One listening socket.

    *address* is the text for the log. *host* and *port* are what SHOW FDS says of
    it ("unix" for a Unix socket). *path* is the file to unlink at the end, if any.
    """

    __slots__ = ("address", "host", "inode", "is_unix", "path", "port", "socket")

    def __init__(
        self, sock: socket.socket, address: str, host: str, port: int, path: str = ""
    ) -> None:
        self.socket = sock
        self.is_unix = sock.family == socket.AF_UNIX
        self.address = address
        self.host = host
        self.port = port
        self.path = path
        self.inode = inode_of(path)

    @property
    def fd(self) -> int:
        """The descriptor that the relay accepts on."""
        return self.socket.fileno()

    def close(self, unlink: bool) -> None:
        """Close the socket, and remove its file unless it is another's by now."""
        self.socket.close()
        if unlink and self.inode is not None and inode_of(self.path) == self.inode:
            os.unlink(self.path)

    def __repr__(self) -> str:
        return f"<Listener {self.address}>"


def inode_of(path: str) -> tuple[int, int] | None:
    """Return what tells the file at *path* from all others, None if there is none."""
    try:
        found = os.lstat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


class Listeners:
    """All listening sockets of the process."""

    def __init__(self, listeners: Iterable[Listener] = ()) -> None:
        self.listeners: list[Listener] = list(listeners)
        self.suspended = False
        self._watch: Callable[[Listener], None] | None = None
        self._unwatch: Callable[[Listener], None] | None = None
        self._last_call: Callable[[Listener], None] | None = None
        self._out_of_descriptors = False
        self._accepting = False

    def __iter__(self) -> Iterator[Listener]:
        return iter(self.listeners)

    def __len__(self) -> int:
        return len(self.listeners)

    @classmethod
    def open(
        cls, settings: Settings, inherited: Sequence[Listener] = ()
    ) -> "Listeners":
        """Listen as *settings* say, or go on with *inherited* ones (a takeover)."""
        if inherited:
            return cls(inherited)
        listeners = cls()
        try:
            listeners.listeners += listen_tcp(settings)
            if settings.unix_socket_dir:
                listeners.listeners.append(listen_unix(settings))
        except BaseException:
            listeners.close_all()
            raise
        if not listeners.listeners:
            raise StartError("nowhere to listen on")
        return listeners

    @classmethod
    def from_service_manager(
        cls, settings: Settings, fds: Sequence[int]
    ) -> "Listeners":
        """Use the sockets that systemd opened for us."""
        if settings.listen_addr:
            log.warning("sockets passed from service manager, cf_listen_addr ignored")
        if settings.unix_socket_dir and settings.unix_socket_dir != "/tmp":
            log.warning(
                "sockets passed from service manager, cf_unix_socket_dir ignored"
            )
        return cls([adopt(settings, fd) for fd in fds])

    # Called by the app

    def attach(
        self,
        watch: Callable[[Listener], None],
        unwatch: Callable[[Listener], None],
        last_call: Callable[[Listener], None] | None = None,
    ) -> None:
        """Begin to accept: *watch* and *unwatch* add to and take from the relay.

        *last_call* accepts what has connected already, before a socket is closed:
        the kernel would reset it.
        """
        self._watch, self._unwatch, self._last_call = watch, unwatch, last_call
        self._follow()

    def suspend(self) -> None:
        """Stop accepting; new connections wait in the kernel's queues."""
        self.suspended = True
        self._follow()

    def resume(self) -> None:
        """Accept again after `suspend`."""
        self.suspended = False
        self._follow()

    def close_tcp(self) -> None:
        """Close the TCP sockets: from now on connections are refused."""
        tcp = [one for one in self.listeners if not one.is_unix]
        if self._accepting and self._last_call is not None:
            self._call_last(tcp, self._last_call)
        self._close(tcp)

    def _call_last(
        self, listeners: Sequence[Listener], call: Callable[[Listener], None]
    ) -> None:
        """Accept who is on the way in, for the few milliseconds that it takes."""
        for listener in listeners:
            with suppress(OSError):
                # Who has connected but said nothing yet is not hidden any more.
                listener.socket.setsockopt(
                    socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 0
                )
        for _ in range(LAST_LOOKS):
            for listener in listeners:
                call(listener)
            time.sleep(LAST_PAUSE)
        for listener in listeners:
            call(listener)

    def close_all(self) -> None:
        """Close everything and remove the socket file.

        While suspended the file stays: another process may have taken over the
        socket that it belongs to.
        """
        self._close(list(self.listeners))

    def retune(self, settings: Settings) -> None:
        """Apply changed TCP settings to what is accepted from now on."""
        for listener in self.listeners:
            if not listener.is_unix:
                try:
                    retune(listener.socket, settings)
                    defer_accept(listener.socket, settings)
                except OSError:
                    # The line that says so has been logged; the socket still works.
                    continue

    # Called by the relay

    def accept_failed(self, error: OSError, loop: AbstractEventLoop) -> None:
        """Log that accept() failed and let all listeners rest for a while."""
        log.error(f"accept() failed: {error.strerror}")
        if not self._out_of_descriptors:
            self._out_of_descriptors = True
            self._follow()
            loop.call_later(ACCEPT_PAUSE, lambda: self._try_again(loop))

    def _try_again(self, loop: AbstractEventLoop) -> None:
        if not are_free(bounds().last):
            log.error(f"accept() failed: {os.strerror(errno.EMFILE)}")
            loop.call_later(ACCEPT_PAUSE, lambda: self._try_again(loop))
            return
        self._out_of_descriptors = False
        self._follow()

    def _follow(self) -> None:
        """Make the relay accept, or not, as the state says."""
        wanted = not (self.suspended or self._out_of_descriptors)
        if self._watch is None or self._unwatch is None or wanted == self._accepting:
            return
        self._accepting = wanted
        for listener in self.listeners:
            if wanted:
                self._watch(listener)
            else:
                self._unwatch(listener)

    def _close(self, listeners: Sequence[Listener]) -> None:
        for listener in listeners:
            if self._accepting and self._unwatch is not None:
                self._unwatch(listener)
            listener.close(unlink=not self.suspended)
            self.listeners.remove(listener)


# TCP


def listen_tcp(settings: Settings) -> Iterator[Listener]:
    """Yield a listener for each address of listen_addr that can be had."""
    text = settings.listen_addr or ""
    names = [name for part in text.split(",") if (name := part.strip())]
    found = False
    for name in names:
        for family, address in resolve(name, settings.listen_port):
            listener = listen_on(settings, family, address)
            if listener is not None:
                found = True
                yield listener
    if names and not found:
        raise StartError(f"failed to listen on any address in listen_addr list: {text}")


def resolve(name: str, port: int) -> list[tuple[int, tuple[str, int]]]:
    """Return the addresses of *name*; `*` means every interface."""
    host = None if name == "*" else name
    try:
        answers = socket.getaddrinfo(
            host, str(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as err:
        shown = "*" if host is None else host
        text = f"getaddrinfo('{shown}', '{port}') = {err.strerror} [{err.errno}]"
        raise StartError(text) from None
    except (UnicodeError, ValueError):
        text = f"getaddrinfo('{name}', '{port}') = Name or service not known [-2]"
        raise StartError(text) from None
    return [(answer[0], answer[4]) for answer in answers]  # type: ignore[misc]


def listen_on(
    settings: Settings, family: int, address: tuple[str, int]
) -> Listener | None:
    """Listen on one TCP address; None, with a warning, if that cannot be."""
    host, port = address[:2]
    text = f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"
    step = "socket"
    sock = None
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
        step = "setsockopt"
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if settings.so_reuseport:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        step = "bind"
        sock.bind(address)
        step = "tune_socket"
        sock.setblocking(False)
        tune(sock, settings)
        step = "listen"
        sock.listen(settings.listen_backlog)
        defer_accept(sock, settings)
    except OSError as err:
        if sock is not None:
            sock.close()
        log.warning(f"cannot listen on {text}: {step}(): {err.strerror}")
        return None
    log.info(f"listening on {text}")
    return Listener(sock, text, host, sock.getsockname()[1])


# Unix sockets


def unix_socket_path(settings: Settings) -> str:
    """Return the path of the listening Unix socket, "" if there is none."""
    if not settings.unix_socket_dir:
        return ""
    return f"{settings.unix_socket_dir}/.s.PGSQL.{settings.listen_port}"


def unix_socket_name(path: str) -> str:
    """Return what bind() and connect() want: a leading @ means an abstract name."""
    return "\0" + path[1:] if path.startswith("@") else path


def listen_unix(settings: Settings) -> Listener:
    """Listen on the Unix socket; not being able to is the end of the start."""
    path = unix_socket_path(settings)
    abstract = path.startswith("@")
    if not abstract and os.path.lexists(path + ".lock"):
        # A PostgreSQL server owns this name.
        raise StartError(f"unix port {settings.listen_port} is in use")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    step = "bind"
    try:
        if not abstract:
            remove_stale(path)
        sock.bind(unix_socket_name(path))
        step = "listen"
        sock.setblocking(False)
        sock.listen(settings.listen_backlog)
    except OSError as err:
        sock.close()
        why = err.strerror or str(err)
        log.warning(f"cannot listen on unix:{path}: {step}(): {why}")
        raise StartError("failed to create unix socket") from None
    owned = "" if abstract else path
    listener = Listener(sock, f"unix:{path}", "unix", settings.listen_port, owned)
    try:
        if not abstract:
            set_access(path, settings)
    except BaseException:
        listener.close(unlink=True)
        raise
    log.info(f"listening on unix:{path}")
    return listener


def remove_stale(path: str) -> None:
    """Remove what a dead process left; bind() will complain if that fails."""
    try:
        os.unlink(path)
    except OSError:
        return


def set_access(path: str, settings: Settings) -> None:
    """Give the socket file its mode and group."""
    mode = settings.unix_socket_mode
    try:
        os.chmod(path, mode)
    except OSError as err:
        text = f"failure to chmod({path}, 0{mode:o}): {err.strerror}"
        raise StartError(text) from None
    if settings.unix_socket_group:
        gid = group_id(settings.unix_socket_group)
        try:
            os.chown(path, -1, gid)
        except OSError as err:
            # The number is uid_t -1, as the C library prints it.
            text = f"chown({path}, 4294967295, {gid}) failed: {err.strerror}"
            raise StartError(text) from None


def group_id(group: str) -> int:
    """Return the number of a group given by name or number."""
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        if group.isascii() and group.isdigit():
            return int(group)
    raise StartError(f"could not find group '{group}': Success")


# Sockets that others opened


def adopt(settings: Settings, fd: int) -> Listener:
    """Make a listener of a socket that the service manager opened."""
    log.info(f"socket passed from service manager (fd {fd})")
    sock = None
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise OSError("not a socket")
        sock = socket.socket(fileno=fd)
        if sock.type != socket.SOCK_STREAM:
            raise OSError("not a stream socket")
        host = {
            socket.AF_UNIX: "unix",
            socket.AF_INET: "0.0.0.0",
            socket.AF_INET6: "::",
        }[socket.AddressFamily(sock.family)]
        make_private(fd)
        if sock.family != socket.AF_UNIX:
            tune(sock, settings)
            defer_accept(sock, settings)
    except (OSError, KeyError, ValueError):
        if sock is not None:
            sock.detach()
        text = f"failed to set up socket passed from service manager (fd {fd})"
        raise StartError(text) from None
    # PgBouncer does not look up where such a socket is bound, and says port 0.
    return Listener(sock, f"fd {fd}", host, 0)


def make_private(fd: int) -> None:
    """Set what a descriptor needs that comes from another process."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFD)
    fcntl.fcntl(fd, fcntl.F_SETFD, flags | fcntl.FD_CLOEXEC)
    os.set_blocking(fd, False)


# Options


def options(settings: Settings) -> Iterator[tuple[str, int, int, int]]:
    """Yield the TCP options that *settings* ask for: what fails, level, name, value."""
    sol, tcp = socket.SOL_SOCKET, socket.IPPROTO_TCP
    if settings.tcp_keepalive:
        what = "socket_set_keepalive"
        yield what, sol, socket.SO_KEEPALIVE, 1
        if settings.tcp_keepidle:
            yield what, tcp, socket.TCP_KEEPIDLE, settings.tcp_keepidle
        if settings.tcp_keepintvl:
            yield what, tcp, socket.TCP_KEEPINTVL, settings.tcp_keepintvl
        if settings.tcp_keepcnt:
            yield what, tcp, socket.TCP_KEEPCNT, settings.tcp_keepcnt
    if settings.tcp_user_timeout:
        what = "setsockopt/TCP_USER_TIMEOUT"
        yield what, tcp, socket.TCP_USER_TIMEOUT, settings.tcp_user_timeout
    if settings.tcp_socket_buffer:
        size = settings.tcp_socket_buffer
        yield "setsockopt/SO_SNDBUF", sol, socket.SO_SNDBUF, size
        yield "setsockopt/SO_RCVBUF", sol, socket.SO_RCVBUF, size
    yield "setsockopt/TCP_NODELAY", tcp, socket.TCP_NODELAY, 1


def tune(sock: socket.socket, settings: Settings) -> None:
    """Set the TCP options; OSError, after a warning, if the kernel refuses one."""
    for what, level, option, value in options(settings):
        set_option(sock, what, level, option, value)


def set_option(
    sock: socket.socket, what: str, level: int, option: int, value: int
) -> None:
    """Set one option; log and raise what the kernel has against it."""
    try:
        sock.setsockopt(level, option, value)
    except OverflowError:
        # A number that no C int holds: say what the kernel would say.
        err = OSError(22, os.strerror(22))
    except OSError as refused:
        err = refused
    else:
        return
    log.warning(f"{what}({sock.fileno()}) failed: {err.strerror}")
    raise err


def retune(sock: socket.socket, settings: Settings) -> None:
    """Set the options of a socket that was tuned before; 0 gives the default back.

    A buffer size once set stays: the kernel has no way back to sizing it itself.
    """
    keep = socket.SOL_SOCKET, socket.SO_KEEPALIVE
    set_option(sock, "socket_set_keepalive", *keep, int(bool(settings.tcp_keepalive)))
    asked = (settings.tcp_keepidle, settings.tcp_keepintvl, settings.tcp_keepcnt)
    for (name, path), value in zip(KEEPALIVE_DEFAULTS.items(), asked, strict=True):
        if not value:
            with open(path) as file:
                option = getattr(socket, name)
                default = int(file.read())
            set_option(sock, name, socket.IPPROTO_TCP, option, default)
    if not settings.tcp_user_timeout:
        what, option = "setsockopt/TCP_USER_TIMEOUT", socket.TCP_USER_TIMEOUT
        set_option(sock, what, socket.IPPROTO_TCP, option, 0)
    tune(sock, settings)


def defer_accept(sock: socket.socket, settings: Settings) -> None:
    """Let the kernel wait for the client's first bytes before we hear of it."""
    value = 1 if settings.tcp_defer_accept else 0
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, value)
    except OSError as err:
        verb = "install" if value else "uninstall"
        log.warning(f"tune_accept: {verb} TCP_DEFER_ACCEPT: {err.strerror}")
        raise


def tune_client(fd: int, settings: Settings) -> None:
    """Tune a TCP client just accepted; on Linux its listener has done it."""
    if not INHERITED:
        tune_server(fd, settings)


def tune_server(fd: int, settings: Settings) -> None:
    """Tune a TCP socket that we connect to PostgreSQL with, before it connects."""
    # Family and type are only labels here; given, they need not be asked for.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=fd)
    try:
        tune(sock, settings)
    finally:
        sock.detach()
