"""Count the instructions that the pooler needs for one transaction of each kind.

    python -m tests.bench.counts [--record]

Time says little on a machine that others use, too. The number of user instructions
says whether the hot path is as it was: callgrind counts them in the pooler, between a
canned PostgreSQL and CLIENTS clients that ask a fixed number of times, all at once and
then again. What is counted is compared with tests/bench/counts.json; more than
TOLERANCE above it fails. Other compilers make other code: where the file names another
compiler, Cython or Python than ours, nothing is compared, and that is said.
"""

import argparse
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from tests.bench import load, native
from tests.replay.lab import Unusable
from tests.replay.pooler import wait_for
from tests.support.ground import Ground
from tests.support.pooler import RunningPooler

RECORDED = Path(__file__).with_name("counts.json")
CLIENTS, SERVERS = 32, 10
# What may be more than recorded; the other kinds are told only.
TOLERANCE = {"simple": 0.02, "extended": 0.02}
ROUNDS, SLICES = 30, 3  # rounds of all clients in each slice; the least counts
START, MARK = signal.SIGRTMIN + 5, signal.SIGRTMIN + 6  # as in marks.c


def message(code: bytes, body: bytes = b"") -> bytes:
    """One message of the protocol."""
    return code + (len(body) + 4).to_bytes(4, "big") + body


SQL = b"select 1\0"
BIND_TAIL = b"\0\0\0\0\0\0"  # no formats, no values, no result formats
END = message(b"D", b"P\0") + message(b"E", b"\0\0\0\0\0") + message(b"S")
QUERY = message(b"Q", SQL)
EXTENDED = message(b"P", b"\0" + SQL + b"\0\0") + message(b"B", b"\0" + BIND_TAIL) + END
PREPARE = message(b"P", b"S_1\0" + SQL + b"\0\0") + message(b"S")
PREPARED = message(b"B", b"\0S_1\0" + BIND_TAIL[1:]) + END


class Crowd:
    """Clients that have logged in and ask in rounds: all of them, then all again."""

    def __init__(self, port: int, count: int = CLIENTS) -> None:
        packet = load.startup_packet(load.DATABASE, "u_trust")
        self.sockets = []
        for _ in range(count):
            sock = socket.create_connection(("127.0.0.1", port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(packet)
            self.sockets.append(sock)
        for sock in self.sockets:
            load.read_ready(sock)

    def ask(self, request: bytes, rounds: int) -> int:
        """Ask *rounds* times; how many transactions that were."""
        for _ in range(rounds):
            for sock in self.sockets:
                sock.sendall(request)
            for sock in self.sockets:
                load.read_ready(sock)
        return rounds * len(self.sockets)

    def close(self) -> None:
        """Leave."""
        for sock in self.sockets:
            sock.close()


def connect_cycles(port: int, rounds: int, count: int = SERVERS) -> int:
    """Connect, log in, ask once, leave: *count* clients, and all again."""
    for _ in range(rounds):
        crowd = Crowd(port, count)
        crowd.ask(QUERY, 1)
        for sock in crowd.sockets:
            sock.sendall(message(b"X"))
        crowd.close()
    return rounds * count


class Counted:
    """A pooler that callgrind runs, before a canned PostgreSQL."""

    def __init__(self, ground: Ground, program: list[str], server_port: int) -> None:
        valgrind = shutil.which("valgrind")
        if valgrind is None:
            raise Unusable("needs valgrind: apt-get install valgrind")
        library = native.compiled("marks", ground.root, "-shared", "-fPIC")
        ini = {
            "pool_mode": "transaction",
            "default_pool_size": SERVERS,
            "log_connections": 0,
            "log_disconnections": 0,
            "stats_period": 3600,
        }
        self.pooler = RunningPooler(
            ground,
            server_port,
            ini,
            databases={load.DATABASE: "{pg}"},
            command=[
                *("env", f"LD_PRELOAD={library}", "PYTHONHASHSEED=0"),
                *(valgrind, "--tool=callgrind", "--instr-atstart=no"),
                *("--callgrind-out-file=counted", "--log-file=valgrind.log", *program),
            ],
        )
        self.port, self.marks = self.pooler.port, 0
        self.pooler.start("pgbouncer.ini")

    def wait_until_up(self) -> None:
        """Python needs a while on a processor that is emulated."""
        up = wait_for(lambda: "process up" in self.pooler.text(), 120)
        if not up or self.pooler.exit_status() is not None:
            raise Unusable("no pooler under valgrind:\n" + self.pooler.text()[-2000:])
        self.send(START)

    def send(self, number: int) -> None:
        """Send a signal of marks.c."""
        os.kill(self.pooler.pid, number)

    def mark(self) -> int:
        """The instructions since the last mark."""
        self.marks += 1
        path = self.pooler.directory / f"counted.{self.marks}"

        def total() -> int:
            text = path.read_text() if path.exists() else ""
            found = re.search(r"^totals: (\d+)", text, re.M)
            return int(found[1]) if found else 0

        self.send(MARK)
        if not (counted := wait_for(total, 60)):
            raise Unusable("callgrind wrote no count")
        path.unlink()
        return int(counted)

    def cost(self, work: Callable[[], int]) -> float:
        """Instructions for each of what *work* does, once it has been warmed up."""
        work()
        self.mark()
        slices = []
        for _ in range(SLICES):
            done = work()
            slices.append(self.mark() / done)
        # On a busy machine some events come late, and then alone: that only adds.
        return min(slices)

    def stop(self) -> None:
        """Stop it."""
        self.pooler.stop()


def count_all(counted: Counted) -> dict[str, int]:
    """Instructions per transaction, by kind."""
    crowd = Crowd(counted.port)
    found = {
        "simple": counted.cost(lambda: crowd.ask(QUERY, ROUNDS)),
        "extended": counted.cost(lambda: crowd.ask(EXTENDED, ROUNDS)),
    }
    crowd.ask(PREPARE, 1)
    found["prepared"] = counted.cost(lambda: crowd.ask(PREPARED, ROUNDS))
    crowd.close()
    found["connect cycle"] = counted.cost(lambda: connect_cycles(counted.port, 20))
    return {kind: round(count) for kind, count in found.items()}


def built_with() -> dict[str, str]:
    """What makes the code that is counted."""
    words = (sysconfig.get_config_var("CC") or "cc").split()
    told = subprocess.run([words[0], "--version"], capture_output=True, text=True)
    return {
        "compiler": told.stdout.split("\n")[0],
        "cython": version("cython"),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def table(counts: dict[str, int], recorded: dict[str, int]) -> str:
    """Now, recorded, difference; what is too much is marked."""
    lines = [f"{'user instructions':20}{'now':>9}{'recorded':>10}{'difference':>12}"]
    for kind, now in counts.items():
        before = recorded.get(kind)
        line = f"{kind:20}{now:9}"
        if before:
            line += f"{before:10}{100 * (now / before - 1):+11.1f}%"
            line += "  TOO MANY" if kind in too_many(counts, recorded) else ""
        lines.append(line)
    return "\n".join(lines)


def too_many(counts: dict[str, int], recorded: dict[str, int]) -> list[str]:
    """The kinds that cost more than recorded, beyond what is tolerated."""
    return [
        kind
        for kind, tolerance in TOLERANCE.items()
        if kind in recorded and counts[kind] > recorded[kind] * (1 + tolerance)
    ]


def verdict(
    counts: dict[str, int], built: dict[str, str], file: dict[str, dict[str, str | int]]
) -> tuple[str, int]:
    """What is to be said of *counts* beside the file's, and the exit status."""
    others = [
        f"{name} is {built[name]}, recorded was {file['built with'].get(name)}"
        for name in built
        if file["built with"].get(name) != built[name]
    ]
    if others:
        text = "nothing is compared: " + "; ".join(others)
        return f"{table(counts, {})}\n{text}", 0
    recorded = {kind: int(count) for kind, count in file["counts"].items()}
    return table(counts, recorded), 1 if too_many(counts, recorded) else 0


def measured() -> dict[str, int]:
    """Start everything, count, stop everything."""
    program = [sys.executable, "-m", "bouncer"]
    with Ground(" ".join(program)) as ground:
        port = ground.free_port()
        canned = native.compiled("canned", ground.root)
        with native.running(canned, port):
            counted = Counted(ground, program, port)
            try:
                counted.wait_until_up()
                return count_all(counted)
            finally:
                counted.stop()


def main() -> int:
    """Count; compare or record."""
    parser = argparse.ArgumentParser(prog="make bench-count", description=__doc__)
    parser.add_argument("--record", action="store_true", help=f"write {RECORDED.name}")
    given = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    os.environ["PYTHONPATH"] = str(RECORDED.parents[2])
    begin = time.monotonic()
    try:
        counts = measured()
    except Unusable as problem:
        print(f"bench-count: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    built = built_with()
    if given.record:
        text = json.dumps({"built with": built, "counts": counts}, indent=4)
        RECORDED.write_text(text + "\n")
    said, status = verdict(counts, built, json.loads(RECORDED.read_text()))
    print(f"{said}\n({time.monotonic() - begin:.0f} s)")
    return status


if __name__ == "__main__":
    sys.exit(main())
