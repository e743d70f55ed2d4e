"""Listening sockets: addresses, Unix sockets, options, what is logged."""

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bouncer import log
from bouncer.config.settings import Settings
from bouncer.errors import StartError
from bouncer.listener import (
    Listener,
    Listeners,
    resolve,
    tune_client,
    tune_server,
    unix_socket_name,
)

TCP = socket.IPPROTO_TCP
SOL = socket.SOL_SOCKET


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect what is logged, as "LEVEL text"."""
    seen: list[str] = []
    for name, word in (("info", "LOG"), ("warning", "WARNING"), ("error", "ERROR")):
        monkeypatch.setattr(
            log, name, lambda text, word=word: seen.append(f"{word} {text}")
        )
    return seen


@pytest.fixture
def opened() -> Iterator[list[Listeners]]:
    """Close at the end whatever a test opened."""
    kept: list[Listeners] = []
    yield kept
    for listeners in kept:
        listeners.close_all()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        assert isinstance(port, int)
        return port


def settings(**values: Any) -> Settings:
    """Return settings that listen nowhere, but for *values*."""
    base = replace(Settings.defaults(), listen_addr="", unix_socket_dir="")
    return replace(base, **({"listen_port": free_port()} | values))


def test_listen_addr_lists_addresses_in_order(
    lines: list[str], opened: list[Listeners]
) -> None:
    conf = settings(listen_addr=" 127.0.0.1 ,, ::1")
    opened.append(Listeners.open(conf))
    port = conf.listen_port
    assert lines == [
        f"LOG listening on 127.0.0.1:{port}",
        f"LOG listening on [::1]:{port}",
    ]
    assert [(one.host, one.port, one.is_unix) for one in opened[0]] == [
        ("127.0.0.1", port, False),
        ("::1", port, False),
    ]


def test_listen_addr_star_means_both_families(
    lines: list[str], opened: list[Listeners]
) -> None:
    conf = settings(listen_addr="*")
    opened.append(Listeners.open(conf))
    port = conf.listen_port
    assert lines == [
        f"LOG listening on 0.0.0.0:{port}",
        f"LOG listening on [::]:{port}",
    ]
    for host in ("127.0.0.1", "::1"):
        socket.create_connection((host, port), timeout=5).close()


def test_listen_addr_taken_is_a_warning_while_another_works(
    lines: list[str], opened: list[Listeners]
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        opened.append(
            Listeners.open(settings(listen_addr="127.0.0.1,::1", listen_port=port))
        )
        with pytest.raises(StartError) as failed:
            Listeners.open(settings(listen_addr="127.0.0.1 ", listen_port=port))
    taken = f"WARNING cannot listen on 127.0.0.1:{port}: bind(): Address already in use"
    assert lines == [taken, f"LOG listening on [::1]:{port}", taken]
    text = "failed to listen on any address in listen_addr list: 127.0.0.1 "
    assert str(failed.value) == text


@pytest.mark.parametrize(
    ("port", "why"),
    [
        (
            6432,
            "getaddrinfo('nosuch.invalid', '6432') = Name or service not known [-2]",
        ),
    ],
)
def test_listen_addr_unknown_name_ends_the_start(port: int, why: str) -> None:
    with pytest.raises(StartError) as failed:
        resolve("nosuch.invalid", port)
    assert str(failed.value) == why


def test_listen_port_out_of_range_is_told_in_getaddrinfos_words() -> None:
    with pytest.raises(StartError) as failed:
        resolve("127.0.0.1", -1)
    text = (
        "getaddrinfo('127.0.0.1', '-1') = Servname not supported for ai_socktype [-8]"
    )
    assert str(failed.value) == text


def test_nowhere_to_listen_on() -> None:
    with pytest.raises(StartError, match=r"^nowhere to listen on$"):
        Listeners.open(settings())


def test_refused_option_takes_the_address_away(lines: list[str]) -> None:
    conf = settings(listen_addr="127.0.0.1", tcp_keepidle=-1)
    with pytest.raises(StartError):
        Listeners.open(conf)
    assert lines[0].startswith("WARNING socket_set_keepalive(")
    assert lines[0].endswith(") failed: Invalid argument")
    where = f"127.0.0.1:{conf.listen_port}"
    assert lines[1:] == [
        f"WARNING cannot listen on {where}: tune_socket(): Invalid argument"
    ]


def accepted(listener: Listener) -> socket.socket:
    """Return the server's end of a connection that has said something."""
    client = socket.create_connection((listener.host, listener.port), timeout=5)
    client.sendall(b"x")
    listener.socket.settimeout(5)
    server, _ = listener.socket.accept()
    client.close()
    return server


def test_accepted_sockets_have_the_listeners_options(
    lines: list[str], opened: list[Listeners]
) -> None:
    conf = settings(
        listen_addr="127.0.0.1",
        tcp_keepidle=77,
        tcp_keepintvl=7,
        tcp_keepcnt=3,
        tcp_user_timeout=5000,
        tcp_socket_buffer=65536,
    )
    opened.append(Listeners.open(conf))
    (listener,) = opened[0]
    with accepted(listener) as sock:
        tune_client(sock.fileno(), conf)
        assert sock.getsockopt(SOL, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(TCP, socket.TCP_KEEPIDLE) == 77
        assert sock.getsockopt(TCP, socket.TCP_KEEPINTVL) == 7
        assert sock.getsockopt(TCP, socket.TCP_KEEPCNT) == 3
        assert sock.getsockopt(TCP, socket.TCP_USER_TIMEOUT) == 5000
        assert sock.getsockopt(TCP, socket.TCP_NODELAY) == 1
        # The kernel doubles what it is given.
        assert sock.getsockopt(SOL, socket.SO_RCVBUF) == 131072


def test_retune_reaches_what_is_accepted_later(
    lines: list[str], opened: list[Listeners]
) -> None:
    conf = settings(listen_addr="127.0.0.1", tcp_keepidle=77, tcp_user_timeout=5000)
    opened.append(Listeners.open(conf))
    (listener,) = opened[0]
    opened[0].retune(replace(conf, tcp_keepidle=0, tcp_user_timeout=0, tcp_keepcnt=4))
    with open("/proc/sys/net/ipv4/tcp_keepalive_time") as file:
        default = int(file.read())
    with accepted(listener) as sock:
        assert sock.getsockopt(TCP, socket.TCP_KEEPIDLE) == default
        assert sock.getsockopt(TCP, socket.TCP_USER_TIMEOUT) == 0
        assert sock.getsockopt(TCP, socket.TCP_KEEPCNT) == 4
    opened[0].retune(replace(conf, tcp_keepalive=0))
    with accepted(listener) as sock:
        assert sock.getsockopt(SOL, socket.SO_KEEPALIVE) == 0
    assert len(lines) == 1


def test_tcp_defer_accept_is_set_and_follows_its_setting(
    lines: list[str], opened: list[Listeners]
) -> None:
    conf = settings(listen_addr="127.0.0.1")
    opened.append(Listeners.open(conf))
    (listener,) = opened[0]
    assert listener.socket.getsockopt(TCP, socket.TCP_DEFER_ACCEPT) > 0
    opened[0].retune(replace(conf, tcp_defer_accept=0))
    assert listener.socket.getsockopt(TCP, socket.TCP_DEFER_ACCEPT) == 0


@pytest.mark.regression(103)
def test_tune_server_sets_the_options_and_leaves_the_descriptor_open() -> None:
    with socket.socket(socket.AF_INET6) as sock:
        tune_server(sock.fileno(), settings(tcp_keepintvl=9))
        assert sock.getsockopt(TCP, socket.TCP_NODELAY) == 1
        assert sock.getsockopt(TCP, socket.TCP_KEEPINTVL) == 9
        assert sock.getsockopt(SOL, socket.SO_KEEPALIVE) == 1


def test_so_reuseport_lets_two_processes_listen(
    lines: list[str], opened: list[Listeners]
) -> None:
    conf = settings(listen_addr="127.0.0.1", so_reuseport=1)
    opened.append(Listeners.open(conf))
    opened.append(Listeners.open(conf))
    assert lines == [f"LOG listening on 127.0.0.1:{conf.listen_port}"] * 2


def test_listen_port_zero_is_chosen_by_the_kernel(
    lines: list[str], opened: list[Listeners]
) -> None:
    opened.append(Listeners.open(settings(listen_addr="127.0.0.1", listen_port=0)))
    (listener,) = opened[0]
    assert lines == ["LOG listening on 127.0.0.1:0"]
    assert listener.port > 0


# Unix sockets


@pytest.mark.regression(126)
def test_unix_socket_has_its_mode_and_replaces_a_stale_file(
    lines: list[str], opened: list[Listeners], tmp_path: Path
) -> None:
    path = tmp_path / ".s.PGSQL.7000"
    path.write_text("left behind")
    conf = settings(
        unix_socket_dir=str(tmp_path), listen_port=7000, unix_socket_mode=0o750
    )
    opened.append(Listeners.open(conf))
    assert lines == [f"LOG listening on unix:{path}"]
    found = path.stat()
    assert stat.S_ISSOCK(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o750
    (listener,) = opened[0]
    assert (listener.host, listener.port, listener.is_unix) == ("unix", 7000, True)


def test_unix_socket_goes_away_at_the_end(lines: list[str], tmp_path: Path) -> None:
    listeners = Listeners.open(settings(unix_socket_dir=str(tmp_path)))
    listeners.close_all()
    assert list(tmp_path.iterdir()) == []


def test_unix_socket_of_a_successor_is_left_alone(
    lines: list[str], tmp_path: Path
) -> None:
    conf = settings(unix_socket_dir=str(tmp_path))
    listeners = Listeners.open(conf)
    successor = Listeners.open(conf)
    listeners.close_all()
    assert len(list(tmp_path.iterdir())) == 1
    successor.close_all()
    assert list(tmp_path.iterdir()) == []


def test_unix_socket_stays_when_the_process_ends_suspended(
    lines: list[str], tmp_path: Path
) -> None:
    listeners = Listeners.open(settings(unix_socket_dir=str(tmp_path)))
    listeners.suspend()
    listeners.close_all()
    assert len(list(tmp_path.iterdir())) == 1


def test_unix_socket_of_a_postgresql_is_respected(
    lines: list[str], tmp_path: Path
) -> None:
    (tmp_path / ".s.PGSQL.7000.lock").write_text("")
    with pytest.raises(StartError, match=r"^unix port 7000 is in use$"):
        Listeners.open(settings(unix_socket_dir=str(tmp_path), listen_port=7000))


def test_unix_socket_dir_missing_ends_the_start_and_closes_tcp(
    lines: list[str],
) -> None:
    conf = settings(listen_addr="127.0.0.1", unix_socket_dir="/nonexistent")
    with pytest.raises(StartError, match=r"^failed to create unix socket$"):
        Listeners.open(conf)
    path = f"/nonexistent/.s.PGSQL.{conf.listen_port}"
    assert lines[1:] == [
        f"WARNING cannot listen on unix:{path}: bind(): No such file or directory"
    ]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", conf.listen_port), timeout=5)


def test_unix_socket_dir_too_long_is_refused(lines: list[str], tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"^failed to create unix socket$"):
        Listeners.open(settings(unix_socket_dir=str(tmp_path / ("x" * 120))))
    assert lines[0].endswith("bind(): AF_UNIX path too long")


def test_unix_socket_group_unknown_ends_the_start(
    lines: list[str], tmp_path: Path
) -> None:
    conf = settings(unix_socket_dir=str(tmp_path), unix_socket_group="no such")
    with pytest.raises(StartError, match=r"^could not find group 'no such': Success$"):
        Listeners.open(conf)
    assert list(tmp_path.iterdir()) == []


def test_unix_socket_group_may_be_a_number(
    lines: list[str], opened: list[Listeners], tmp_path: Path
) -> None:
    gid = os.getgid()
    conf = settings(unix_socket_dir=str(tmp_path), unix_socket_group=str(gid))
    opened.append(Listeners.open(conf))
    (path,) = tmp_path.iterdir()
    assert path.stat().st_gid == gid


def test_abstract_unix_socket(lines: list[str], opened: list[Listeners]) -> None:
    conf = settings(unix_socket_dir=f"@ops-test-{os.getpid()}")
    opened.append(Listeners.open(conf))
    path = f"{conf.unix_socket_dir}/.s.PGSQL.{conf.listen_port}"
    assert lines == [f"LOG listening on unix:{path}"]
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(unix_socket_name(path))
    with pytest.raises(StartError, match=r"^failed to create unix socket$"):
        Listeners.open(conf)
    assert lines[1].endswith("bind(): Address already in use")


# The relay's side


class Relay:
    """Knows what it was told to accept on."""

    def __init__(self) -> None:
        self.watched: list[str] = []

    def watch(self, listener: Listener) -> None:
        assert listener.fd >= 0
        self.watched.append(listener.host)

    def unwatch(self, listener: Listener) -> None:
        assert listener.fd >= 0
        self.watched.remove(listener.host)


class Timers:
    """An event loop of which only call_later is known."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, Any]] = []

    def call_later(self, delay: float, function: Any) -> None:
        self.calls.append((delay, function))


@pytest.fixture
def relay() -> Relay:
    return Relay()


@pytest.fixture
def both(
    lines: list[str], opened: list[Listeners], relay: Relay, tmp_path: Path
) -> Listeners:
    """A TCP and a Unix listener that the relay accepts on."""
    conf = settings(listen_addr="127.0.0.1", unix_socket_dir=str(tmp_path))
    listeners = Listeners.open(conf)
    opened.append(listeners)
    listeners.attach(relay.watch, relay.unwatch)
    assert relay.watched == ["127.0.0.1", "unix"]
    return listeners


def test_suspend_and_resume_reach_the_relay(both: Listeners, relay: Relay) -> None:
    both.suspend()
    both.suspend()
    assert relay.watched == []
    both.resume()
    both.resume()
    assert relay.watched == ["127.0.0.1", "unix"]


def test_close_tcp_refuses_and_keeps_the_unix_socket(
    both: Listeners, relay: Relay
) -> None:
    port = next(iter(both)).port
    both.close_tcp()
    assert relay.watched == ["unix"] and len(both) == 1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


@pytest.mark.regression(94)
def test_accept_without_descriptors_rests_for_five_seconds(
    both: Listeners, relay: Relay, lines: list[str]
) -> None:
    timers: Any = Timers()
    for _ in range(2):
        both.accept_failed(OSError(24, "Too many open files"), timers)
    assert lines[2:] == ["ERROR accept() failed: Too many open files"] * 2
    assert relay.watched == []
    ((delay, again),) = timers.calls
    assert delay == 5
    again()
    assert relay.watched == ["127.0.0.1", "unix"]


def test_accept_stays_off_when_suspended_meanwhile(
    both: Listeners, relay: Relay
) -> None:
    timers: Any = Timers()
    both.accept_failed(OSError(24, "Too many open files"), timers)
    both.suspend()
    timers.calls[0][1]()
    assert relay.watched == []
    both.resume()
    assert relay.watched == ["127.0.0.1", "unix"]


# Sockets of the service manager


def test_passed_sockets_replace_our_own(
    lines: list[str], opened: list[Listeners], tmp_path: Path
) -> None:
    conf = settings(listen_addr="*", unix_socket_dir="/run/x", tcp_keepidle=55)
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        unix.bind(str(tmp_path / "sock"))
        unix.listen()
        fds = [os.dup(tcp.fileno()), os.dup(unix.fileno())]
        for fd in fds:
            os.set_inheritable(fd, True)
        listeners = Listeners.from_service_manager(conf, fds)
        opened.append(listeners)
        assert tcp.getsockopt(TCP, socket.TCP_KEEPIDLE) == 55
    assert lines == [
        "WARNING sockets passed from service manager, cf_listen_addr ignored",
        "WARNING sockets passed from service manager, cf_unix_socket_dir ignored",
        f"LOG socket passed from service manager (fd {fds[0]})",
        f"LOG socket passed from service manager (fd {fds[1]})",
    ]
    assert [(one.host, one.port) for one in listeners] == [("0.0.0.0", 0), ("unix", 0)]
    assert not any(os.get_inheritable(fd) or os.get_blocking(fd) for fd in fds)
    listeners.close_all()
    assert (tmp_path / "sock").exists()


def test_passed_datagram_socket_ends_the_start(lines: list[str]) -> None:
    conf = settings()
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        fd = sock.fileno()
        text = rf"^failed to set up socket passed from service manager \(fd {fd}\)$"
        with pytest.raises(StartError, match=text):
            Listeners.from_service_manager(conf, [fd])
        sock.getsockname()


CHILD = """
import socket, sys
from dataclasses import replace
from bouncer.config.settings import Settings
from bouncer.listener import Listeners
conf = replace(Settings.defaults(), listen_addr="", unix_socket_dir=sys.argv[1],
               unix_socket_group="root")
import os
os.setgid(65534); os.setuid(65534)
try:
    Listeners.open(conf)
except Exception as err:
    print(err)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_unix_socket_group_refused_by_the_kernel() -> None:
    directory = f"/tmp/ops-test-{os.getpid()}"
    os.mkdir(directory)
    try:
        os.chmod(directory, 0o777)
        child = subprocess.run(
            [sys.executable, "-c", CHILD, directory],
            capture_output=True,
            text=True,
            check=True,
        )
        assert child.stdout == (
            f"chown({directory}/.s.PGSQL.6432, 4294967295, 0) failed: "
            "Operation not permitted\n"
        )
        assert os.listdir(directory) == []
    finally:
        os.rmdir(directory)
