"""Loads that are put on a pooler, and what is read off while they run.

Every function takes a Target and returns one figure, the smaller the better, so that
a ratio below 1 is always in our favour.
"""

import asyncio
import contextlib
import re
import socket
import statistics
import struct
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from tests.support.pooler import RunningPooler, cpu_seconds
from tests.support.wire import FakeClient, query

CLIENTS, SERVERS, STATEMENTS = 32, 10, 200
# A PostgreSQL across a network: where it is named, how long each way is (ms), how many
# servers it gives us.
FAR, AWAY, FAR_SERVERS = "far", 2.5, 50
DATABASE = "p0"
READY = b"Z\0\0\0\x05I"


@dataclass
class Target:
    """Something that pgbench can be pointed at."""

    name: str
    port: int
    pid: int
    pgbench: str
    pooler: RunningPooler | None = None

    def conninfo(self, user: str = "u_trust", **more: object) -> str:
        """A connection string."""
        words = {"host": "127.0.0.1", "port": self.port, "user": user, **more}
        words.setdefault("dbname", DATABASE)
        words.setdefault("sslmode", "disable")
        return " ".join(f"{name}={value}" for name, value in words.items())


class LoadFailed(Exception):
    """A load did not run as it should; the figure would be meaningless."""


def pgbench(
    target: Target, *options: str, sql: str = "select 1;\n", **where: object
) -> str:
    """Run pgbench on *sql*; what it printed."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(sql)
        script.flush()
        done = subprocess.run(
            [target.pgbench, "-n", "-f", script.name, *options]
            + [target.conninfo(**where)],  # type: ignore[arg-type]
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    told = done.stdout + done.stderr
    if done.returncode or "tps" not in told:
        raise LoadFailed(f"pgbench on {target.name}: {told[-500:]}")
    return told


def number_in(told: str, pattern: str) -> float:
    """The number that *pattern* finds in pgbench's output."""
    found = re.search(pattern, told)
    if found is None:
        raise LoadFailed(f"pgbench did not print {pattern}: {told[-500:]}")
    return float(found[1])


def rate(target: Target, seconds: int, mode: str = "simple") -> float:
    """Transactions per second."""
    load = ("-c", str(CLIENTS), "-j", "2", "-T", str(seconds), "-M", mode)
    return number_in(pgbench(target, *load), r"tps = ([\d.]+)")


def cpu_per_transaction(
    target: Target, seconds: int, *options: str, **where: Any
) -> float:
    """Microseconds of the pooler's processor time per transaction of pgbench."""
    before = cpu_seconds(target.pid)
    told = pgbench(
        target,
        *("-c", str(CLIENTS), "-j", "2", "-T", str(seconds)),
        *options,
        **where,
    )
    used = cpu_seconds(target.pid) - before
    count = number_in(told, r"transactions actually processed: (\d+)")
    return 1e6 * used / count


def many_statements(target: Target, seconds: int) -> float:
    """Time per statement with STATEMENTS different ones, prepared, against one."""

    def cost(texts: list[str]) -> float:
        script = "".join(f"{text};\n" for text in texts)
        return cpu_per_transaction(target, seconds, "-M", "prepared", sql=script)

    same = cost(["select 1"] * STATEMENTS)
    return cost([f"select {number}" for number in range(STATEMENTS)]) / same


def connect_cycle(target: Target, seconds: int, user: str, password: str) -> float:
    """Microseconds of the pooler's time for connect, login, query, disconnect."""
    before = cpu_seconds(target.pid)
    where = {"password": password} if password else {}
    told = pgbench(
        target, *("-C", "-c", "4", "-j", "2", "-T", str(seconds)), user=user, **where
    )
    used = cpu_seconds(target.pid) - before
    return 1e6 * used / number_in(told, r"transactions actually processed: (\d+)")


def tail_latency(target: Target, seconds: int, clients: int) -> float:
    """The 99th percentile of latency divided by the median, with many clients."""
    with tempfile.TemporaryDirectory() as directory:
        prefix = f"{directory}/log"
        load = ("-c", str(clients), "-j", "2", "-T", str(seconds), "-l")
        pgbench(target, *load, "--log-prefix", prefix)
        times = [
            int(line.split()[2])
            for path in Path(directory).glob("log*")
            for line in path.read_text().splitlines()
        ]
    # The first ones waited for servers to be opened.
    settled = times[len(times) // 10 :]
    cuts = statistics.quantiles(settled, n=100)
    return cuts[98] / cuts[49]


class IdleClients:
    """Many logged-in clients that do nothing, each a bare socket."""

    def __init__(self, target: Target, count: int) -> None:
        self.target, self.count = target, count
        self.sockets: list[socket.socket] = []

    def __enter__(self) -> "IdleClients":
        packet = startup_packet(DATABASE, "u_trust")
        # In small groups: the listening queue is short.
        while len(self.sockets) < self.count:
            group = []
            for _ in range(min(50, self.count - len(self.sockets))):
                sock = socket.create_connection(("127.0.0.1", self.target.port))
                sock.sendall(packet)
                group.append(sock)
            self.sockets += group
            for sock in group:
                read_ready(sock)
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self.sockets:
            sock.close()


def startup_packet(database: str, user: str) -> bytes:
    """The bytes of a startup packet."""
    body = struct.pack("!I", 3 << 16)
    for text in ("database", database, "user", user):
        body += text.encode() + b"\0"
    return struct.pack("!I", len(body) + 5) + body + b"\0"


def read_ready(sock: socket.socket) -> None:
    """Read until ReadyForQuery."""
    sock.settimeout(20)
    tail = b""
    while not tail.endswith(READY):
        data = sock.recv(65536)
        if not data:
            raise LoadFailed("the pooler closed a client")
        tail = (tail + data)[-64:]


def idle_memory(target: Target, count: int) -> tuple[float, float]:
    """Bytes per idle client; milliseconds of SHOW CLIENTS with all of them."""
    assert target.pooler is not None
    with IdleClients(target, 50):
        before = target.pooler.memory()
    with IdleClients(target, count):
        grown = target.pooler.memory() - before
        with FakeClient(target.port) as console:
            console.login("pgbouncer", "admin")
            begin = time.perf_counter()
            console.send_bytes(query("SHOW CLIENTS"))
            read_ready(console.sock)
            took = time.perf_counter() - begin
    return max(grown, 1) / count, 1000 * took


def cold_start(target: Target, count: int, database: str = DATABASE) -> float:
    """Milliseconds until *count* clients at once have their first answer.

    *target* has just been started: no server is open.
    """
    packet = startup_packet(database, "u_trust")

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
        writer.write(packet)
        await reader.readuntil(READY)
        # Long enough that one server cannot serve all of them meanwhile.
        writer.write(query("select pg_sleep(0.01)"))
        await reader.readuntil(READY)
        writer.close()

    async def all_of_them() -> float:
        begin = time.perf_counter()
        await asyncio.wait_for(asyncio.gather(*(one() for _ in range(count))), 60)
        return time.perf_counter() - begin

    return 1000 * uvloop.run(all_of_them())


def longest_pause(target: Target, seconds: int) -> float:
    """Milliseconds of the slowest answer of the console while pgbench runs."""
    load = ["-c", "200", "-j", "2", "-T", str(seconds)]
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write("select 1;\n")
        script.flush()
        process = subprocess.Popen(
            [target.pgbench, "-n", "-f", script.name, *load, target.conninfo()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        worst = 0.0
        try:
            with FakeClient(target.port) as console:
                console.login("pgbouncer", "admin")
                while process.poll() is None:
                    begin = time.perf_counter()
                    console.send_bytes(query("SHOW VERSION"))
                    read_ready(console.sock)
                    worst = max(worst, time.perf_counter() - begin)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(0.002)
        finally:
            process.kill()
            process.wait()
    return 1000 * worst
