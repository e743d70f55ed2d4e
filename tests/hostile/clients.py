"""Hostile clients, before login and after it, by name.

python -m tests.hostile.clients NAME PORT SECONDS
"""

import itertools
import socket
import struct
import sys
from collections.abc import Callable

from tests.hostile.ground import Attack, message, query, run, startup, until_ready

# Name -> the attack, and how many connections it has at a time.
BEFORE: dict[str, tuple[Callable[[Attack], None], int]] = {}
AFTER: dict[str, tuple[Callable[[Attack], None], int]] = {}
SYNC, FLUSH = message(b"S"), message(b"H")
MEGABYTE = 1 << 20


def attack_of(
    count: int, table: dict[str, tuple[Callable[[Attack], None], int]]
) -> Callable[[Callable[[Attack], None]], None]:
    """List an attack in *table*; it has *count* connections at a time."""

    def listed(attack: Callable[[Attack], None]) -> None:
        table[attack.__name__] = (attack, count)

    return listed


def asked(attack: Attack, user: str) -> socket.socket:
    """A connection that has been asked for its password."""
    sock = attack.connect()
    sock.sendall(startup("p0", user))
    if not sock.recv(64):
        raise ConnectionError
    return sock


# Before login


@attack_of(10, BEFORE)
def flood_while_a_password_is_derived(attack: Attack) -> None:
    """A secret of a million rounds: the pooler computes while we send."""
    password = message(b"p", b"guess\0")
    attack.pour(lambda: asked(attack, "u_slow"), b"p" * 65536, password)


@attack_of(1, BEFORE)
def passwords_of_combining_marks(attack: Attack) -> None:
    """Normalising them must not take long."""
    marks = "a" + "̖́" * 15000

    def once() -> None:
        with asked(attack, "u_plain") as sock:
            sock.sendall(message(b"p", marks.encode() + b"\0"))
            sock.recv(1024)

    attack.again(once)


@attack_of(1, BEFORE)
def passwords_without_an_end(attack: Attack) -> None:
    """A password message lacks its zero byte."""

    def once() -> None:
        with asked(attack, "u_plain") as sock:
            sock.sendall(message(b"p", b"x" * 60000))
            sock.recv(1024)

    attack.again(once)


@attack_of(1, BEFORE)
def startup_packets_full_of_options(attack: Attack) -> None:
    """60 kB of -c TimeZone=... in one parameter."""
    options = "-c TimeZone=UTC " * 3700
    packet = startup("p0", "u_plain", "options", options)

    def once() -> None:
        with attack.connect() as sock:
            sock.sendall(packet)
            sock.recv(1024)

    attack.again(once)


@attack_of(1, BEFORE)
def names_of_nobody(attack: Attack) -> None:
    """Databases that nobody has, each made anew from the `*` entry."""
    number = 0

    def once() -> None:
        nonlocal number
        number += 1
        with attack.connect() as sock:
            sock.sendall(startup(f"made_up_{number}", "u_plain"))
            sock.recv(1024)

    attack.again(once)


@attack_of(800, BEFORE)
def half_a_packet_each(attack: Attack) -> None:
    """Many connections that hold all but the last byte of a packet."""
    packet = struct.pack("!II", 60000, 196608) + b"x" * 59990
    attack.hold(attack.connect, packet)


@attack_of(400, BEFORE)
def half_a_password_each(attack: Attack) -> None:
    """Many connections that hold all but the last byte of a password."""
    part = b"p" + struct.pack("!I", 60000) + b"x" * 59990
    attack.hold(lambda: asked(attack, "u_plain"), part)


@attack_of(4, BEFORE)
def requests_for_tls_without_end(attack: Attack) -> None:
    """SSLRequest over and over, its answers left unread."""
    attack.pour(attack.connect, struct.pack("!II", 8, 80877103) * 8000)


# After login


def logged_in(attack: Attack) -> socket.socket:
    """An application's connection."""
    return attack.login("p0", "u_trust")


@attack_of(1, AFTER)
def binds_to_what_the_server_lacks(attack: Attack) -> None:
    """Statements of 500 kB, evicted in turn, and kilobytes that name all of them."""
    count = 60
    names = [b"s%d\0" % number for number in range(count)]
    binds = b"".join(
        message(b"B", b"\0" + name + b"\0\0\0\0\0\0") for name in names * 20
    )

    def renew() -> socket.socket:
        sock = logged_in(attack)
        for number, name in enumerate(names):
            text = b"select %d -- " % number + b"x" * (MEGABYTE // 2) + b"\0\0\0"
            sock.sendall(message(b"P", name + text) + SYNC)
            until_ready(sock)
        return sock

    attack.pour(renew, binds)


@attack_of(1, AFTER)
def names_without_number(attack: Attack) -> None:
    """One statement prepared under ever new names."""
    numbers = itertools.count()

    def once() -> None:
        with logged_in(attack) as sock:
            while attack.goes_on:
                some = itertools.islice(numbers, 1000)
                batch = b"".join(
                    message(b"P", b"n%d\0select 1\0\0\0" % number) for number in some
                )
                sock.sendall(batch + SYNC)
                until_ready(sock)
                attack.sent += len(batch)

    attack.again(once)


@attack_of(2, AFTER)
def a_name_without_end(attack: Attack) -> None:
    """A Close whose name goes on for 2 GB."""
    first = b"C" + struct.pack("!I", 0x7FFF0000) + b"S"
    attack.pour(lambda: logged_in(attack), b"x" * 65536, first)


@attack_of(2, AFTER)
def flushes_behind_an_error(attack: Attack) -> None:
    """19 000 requests are owed behind an error, and then Flush without end."""
    first = message(b"P", b"\0selec 1\0\0\0") + message(b"D", b"P\0") * 19000
    attack.pour(lambda: logged_in(attack), FLUSH * 13000, first, reads=True)


@attack_of(2, AFTER)
def syncs_behind_a_failed_copy(attack: Attack) -> None:
    """19 000 Syncs behind a COPY that fails."""
    copy = message(b"P", b"\0copy nowhere from stdin\0\0\0")
    copy += message(b"B", b"\0\0\0\0\0\0\0\0") + message(b"E", b"\0\0\0\0\0")
    attack.pour(lambda: logged_in(attack), copy + SYNC * 19000, reads=True)


@attack_of(4, AFTER)
def answers_left_unread(attack: Attack) -> None:
    """Large results are asked for and never read."""
    big = query("select repeat('x', 1000000) from generate_series(1, 20)")
    attack.pour(lambda: logged_in(attack), big * 100)


@attack_of(4, AFTER)
def closes_left_unread(attack: Attack) -> None:
    """What the pooler answers by itself is asked for and never read."""
    attack.pour(lambda: logged_in(attack), message(b"C", b"Sx\0") * 7000 + SYNC)


# On the console


def on_console(attack: Attack) -> socket.socket:
    """Somebody who may look at figures."""
    return attack.login("pgbouncer", "stats")


@attack_of(4, AFTER)
def figures_left_unread(attack: Attack) -> None:
    """SHOW over and over, the answers left in the kernel."""
    attack.pour(lambda: on_console(attack), query("SHOW CONFIG") * 3000)


@attack_of(2, AFTER)
def console_flushes(attack: Attack) -> None:
    """Messages that need no answer, without end."""
    attack.pour(lambda: on_console(attack), FLUSH * 13000)


@attack_of(2, AFTER)
def select_that_is_hard_to_compile(attack: Attack) -> None:
    """Each WITH doubles the one before it."""
    names = "a0 as (select 1 x)"
    for number in range(1, 16):
        names += f", a{number} as (select 1 x from a{number - 1} p, a{number - 1} q)"
    attack.pour(lambda: on_console(attack), query(f"with {names} select * from a15"))


@attack_of(4, AFTER)
def select_of_large_values(attack: Attack) -> None:
    """Few values, each of many bytes."""
    sql = "select hex(zeroblob(500000)) from config a, config b"
    attack.pour(lambda: on_console(attack), query(sql) * 50)


@attack_of(2, AFTER)
def portals_left_open(attack: Attack) -> None:
    """Results that are begun and not fetched."""
    work = b""
    for number in range(60):
        name = b"p%d\0" % number
        work += message(b"P", b"\0select * from config a, config b\0\0\0")
        work += message(b"B", name + b"\0\0\0\0\0\0\0")
        work += message(b"E", name + struct.pack("!I", 1))
    attack.pour(lambda: on_console(attack), work + FLUSH, reads=True)


if __name__ == "__main__":
    run({**BEFORE, **AFTER}, *sys.argv[1:])
