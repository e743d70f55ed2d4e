"""A whole rendered layout, run on this machine: every host an address of 127/8.

What is started are the rendered files themselves, with three substitutions that stand
for having hosts: a directory for each host, its own address for 127.0.0.1, and its own
address for `*`.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from ha.haproxy import HAProxy
from ha.ini import Source
from ha.inventory import Inventory, parse
from ha.render import Rendered, render
from tests.ha.balancer import Balancer, wait_for
from tests.ha.cluster import Rest, Standby
from tests.replay.pooler import Pooler
from tests.support.ground import Ground, Postgres

HOST_DIRECTORY = "/HOSTDIR"

SOURCE = """\
[databases]
app = host=127.0.0.9 port={port} dbname=p0
[pgbouncer]
auth_type = trust
auth_file = {host}/userlist.txt
admin_users = admin
pool_mode = transaction
max_client_conn = 200
unix_socket_dir = {host}
logfile = {host}/pgbouncer.log
pidfile = {host}/pgbouncer.pid
server_login_retry = 1
{more}
"""
# A pooler that hangs keeps what its clients had begun, with its locks.
LET_GO = "alter role app set idle_in_transaction_session_timeout = '2s'"
USERLIST = '"app" ""\n"admin" ""\n"postgres" ""\n'


FLAVOURS: dict[tuple[str, ...], str] = {}


def flavour_of(command: list[str], ground: Ground) -> str:
    """Is the program under test ours? Ours says so in its version."""
    if tuple(command) not in FLAVOURS:
        done = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, cwd=ground.root,
            stdin=subprocess.DEVNULL, **ground.identity.process_options(),
        )  # fmt: skip
        ours = "\npybouncer " in done.stdout
        FLAVOURS[tuple(command)] = "pybouncer" if ours else "pgbouncer"
    return FLAVOURS[tuple(command)]


class Running(Pooler):  # type: ignore[misc]
    """One rendered pooler."""

    def __init__(self, ground: Ground, host: Path, ini: Path) -> None:
        super().__init__(ground.command, host, ground.identity, f"{ini.stem}.log")
        self.ini = ini
        text = ini.read_text()
        # The split layout has two processes on a host.
        self.log_file = Path(re.search(r"^logfile = (.*)$", text, re.M)[1])  # type: ignore[index]
        self.port = int(re.search(r"^listen_port = (\d+)$", text, re.M)[1])  # type: ignore[index]

    def run(self) -> Running:
        """Start it; the log says when it is up."""
        ups = self.ups()
        self.start(str(self.ini))
        wait_for(lambda: self.exit_status() is not None or self.ups() > ups, 20)
        if self.exit_status() is not None:
            raise RuntimeError(f"{self.ini}: {self.text()[-2000:]}{self.last_words()}")
        return self

    def ups(self) -> int:
        """How often its log says that it is up; stderr is shared by a host's two."""
        if not self.log_file.exists():
            return 0
        return sum(line.startswith("LOG process up") for line in self.lines())

    def end(self, name: str = "SIGTERM", seconds: float = 20) -> None:
        """Stop it with a signal and wait."""
        self.signal("SIGCONT")
        self.signal(name)
        if self.wait_for_exit(seconds) is None:
            raise RuntimeError(f"{self.ini} did not end")


@dataclasses.dataclass
class Cluster:
    """A primary, a standby and their REST ports."""

    primary: Postgres
    standby: Standby
    rests: list[Rest]

    def nodes(self) -> list[dict[str, Any]]:
        """Inventory entries. A name, since 127.0.0.1 stands for each host's own."""
        return [
            {
                "name": f"n{rank}", "address": "localhost", "port": server.port,
                "rest_port": rest.port, "socket_dir": str(server.directory),
            }
            for rank, (server, rest) in enumerate(
                zip((self.primary, self.standby), self.rests, strict=True), 1
            )
        ]  # fmt: skip


class Site:
    """The hosts of one layout."""

    # The second byte of the addresses: other test runs have other ones.
    networks = itertools.count(random.randrange(2, 200))

    def __init__(
        self,
        ground: Ground,
        layout: str,
        cluster: Cluster,
        poolers: int = 3,
        balancers: int = 1,
        central: int = 0,
        more: str = "",
        **inventory: Any,
    ) -> None:
        self.ground, self.layout, self.cluster = ground, layout, cluster
        self.network = f"127.{next(self.networks) % 250 + 2}.{os.getpid() % 250 + 1}"
        self.root = ground.directory()
        self.addresses: dict[str, str] = {}
        self.rests: list[Rest] = []
        flavour = flavour_of(ground.command, ground)
        port = ground.free_port()
        raw: dict[str, Any] = {
            "name": "site",
            "flavour": flavour,
            "health_user": "app",
            "paths": {
                "haproxy_run": f"{HOST_DIRECTORY}/run",
                "haproxy_lib": f"{HOST_DIRECTORY}/lib",
                "haproxy_log": "stdout format raw local0 info",
                "pooler_etc": f"{HOST_DIRECTORY}/etc",
            },
            "ports": {
                "write": port, "read": port + 1,
                "local_write": port + 2, "local_read": port + 3,
            },
            "balancers": self.hosts("lb", balancers),
            "poolers": [] if layout == "db-hosts" else self.hosts("p", poolers),
            "nodes": cluster.nodes(),
            **({"central": self.hosts("c", central)} if central else {}),
            **inventory,
        }  # fmt: skip
        if layout == "db-hosts":
            # Poolers beside their PostgreSQL, each with an address of its own.
            raw["poolers"] = self.hosts("n", 2)
            for host, node in zip(raw["poolers"], raw["nodes"], strict=True):
                self.rests.append(Rest(node["port"], host["address"]))
                node["rest_port"] = self.rests[-1].port
        if layout == "vip":
            raw["vip"] = {"address": f"{self.network}.250/24", "interface": "eth0"}
        self.inventory: Inventory = parse(raw)
        source = self.root / "source.ini"
        source.write_text(
            SOURCE.format(port=cluster.primary.port, host=HOST_DIRECTORY, more=more)
        )
        self.files = render(layout, self.inventory, Source.read(str(source)))
        self.balancers: dict[str, Balancer] = {}
        self.poolers: dict[str, Running] = {}
        self.write()

    def hosts(self, prefix: str, count: int) -> list[dict[str, Any]]:
        """Entries of the inventory with an address for each."""
        entries = []
        for rank in range(1, count + 1):
            name = f"{prefix}{rank}"
            self.addresses[name] = f"{self.network}.{len(self.addresses) + 1}"
            entries.append({"name": name, "address": self.addresses[name]})
        return entries

    def directory(self, host: str) -> Path:
        """Where a host's files are."""
        return self.root / host

    def write(self) -> None:
        """Write every file for its host."""
        for file in self.files:
            if not file.host:
                continue
            path = file.below(self.root)
            path = Path(str(path).replace(HOST_DIRECTORY, ""))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.localised(file))
        for host in {file.host for file in self.files if file.host}:
            directory = self.directory(host)
            for name in ("run", "lib"):
                (directory / name).mkdir(exist_ok=True)
            start = directory / "etc/haproxy/server-state.start"
            if start.exists():
                # As the systemd drop-in does before each start.
                shutil.copy(start, directory / "lib" / "server-state")
            (directory / "userlist.txt").write_text(USERLIST)
        self.ground.identity.own(self.root)

    def localised(self, file: Rendered) -> str:
        """A file's text with this host's directory and address."""
        address = self.addresses.get(file.host, "127.0.0.1")
        text = file.text.replace(HOST_DIRECTORY, str(self.directory(file.host)))
        text = text.replace("127.0.0.1", address).replace("127.0.0.9", "127.0.0.1")
        text = re.sub(r"^(    bind )\*:", rf"\g<1>{address}:", text, flags=re.M)
        # Loopback would make everybody 127.0.0.1; the poolers trust the balancers.
        # PostgreSQL trusts 127.0.0.1 alone.
        if file.host in {one.name for one in self.inventory.balancers}:
            source = f"    mode tcp\n    source {address}\n"
            text = text.replace("    mode tcp\n", source, 1)
        return re.sub(
            r"^listen_addr = \*$", f"listen_addr = {address}", text, flags=re.M
        )

    # Running

    def start(self) -> Site:
        """Start every pooler, then every HAProxy."""
        for file in self.files:
            if file.path.endswith(".ini"):
                directory = self.directory(file.host)
                ini = directory / "etc" / Path(file.path).name
                name = file.host + ini.stem.removeprefix("pgbouncer")
                self.poolers[name] = Running(self.ground, directory, ini).run()
        for file in self.files:
            if file.path.endswith("haproxy.cfg"):
                self.start_balancer(file.host)
        return self

    def start_balancer(self, host: str) -> Balancer:
        """Start one host's HAProxy."""
        directory = self.directory(host)
        text = (directory / "etc/haproxy/haproxy.cfg").read_text()
        balancer = Balancer(directory / "run", text)
        self.balancers[host] = balancer.start()
        return balancer

    def stop(self) -> None:
        """Stop everything."""
        for balancer in self.balancers.values():
            balancer.stop()
        for pooler in self.poolers.values():
            pooler.signal("SIGCONT")
            pooler.stop()
        for rest in self.rests:
            rest.stop()
        self.ground.done_with(self.root)

    # Looking

    def haproxy(self, host: str = "lb1") -> HAProxy:
        """The stats socket of one balancer."""
        return self.balancers[host].haproxy

    def wait_usable(self, host: str, backend: str, *servers: str) -> None:
        """Wait until exactly these servers get sessions, and every one was checked.

        HAProxy calls a server up at its start, and cuts its sessions if the first check
        says otherwise.
        """

        def usable() -> set[str]:
            rows = self.haproxy(host).picture().of_kind("server")
            mine = [row for row in rows if row.proxy == backend]
            if any(row.check_status == "INI" for row in mine):
                return set()
            return {row.name for row in mine if row.usable}

        # Slow starts and checks of a loaded machine.
        wait_for(lambda: usable() == set(servers), 20)
        assert usable() == set(servers), self.haproxy(host).picture().rows

    def conninfo(self, host: str = "lb1", port: int = 0, **more: Any) -> str:
        """How a client connects to a balancer or a pooler."""
        fields = {
            "host": self.addresses.get(host, host),
            "port": port or self.inventory.ports.write,
            "dbname": "app", "user": "app", "connect_timeout": 5, **more,
        }  # fmt: skip
        return psycopg.conninfo.make_conninfo(**fields)

    def connect(self, host: str = "lb1", port: int = 0, **more: Any) -> Any:
        """A client."""
        link = psycopg.connect(self.conninfo(host, port, **more), autocommit=True)
        link.prepare_threshold = None
        return link

    def console(self, pooler: str, sql: str) -> list[tuple[Any, ...]]:
        """Run a command on a pooler's console, over its unix socket."""
        running = self.poolers[pooler]
        with psycopg.connect(
            host=str(running.directory), port=running.port, dbname="pgbouncer",
            user="admin", autocommit=True,
        ) as link:  # fmt: skip
            link.prepare_threshold = None
            cursor = link.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []


def make_cluster(ground: Ground) -> Iterator[Cluster]:
    """A primary and its standby, with a role for the tests, for a whole session."""
    # Without TLS: what is linked over TLS cannot be handed to a new process.
    primary = Postgres(
        ground.bindir, ground.directory(), ground.free_port(), ground.identity, None
    )
    rests: list[Rest] = []
    standby = None
    try:
        primary.query("create role app login")
        primary.query(LET_GO)
        primary.query("create role admin login")
        directory = ground.directory()
        standby = Standby(ground, primary, directory)
        rests = [Rest(primary.port), Rest(standby.port)]
        yield Cluster(primary, standby, rests)
    finally:
        for rest in rests:
            rest.stop()
        if standby is not None:
            standby.stop()
        primary.stop()


def eventually(condition: Any, seconds: float = 10) -> Any:
    """Wait for a condition that may raise meanwhile."""
    ends = time.monotonic() + seconds
    while True:
        try:
            if value := condition():
                return value
        except Exception:
            if time.monotonic() > ends:
                raise
        if time.monotonic() > ends:
            return condition()
        time.sleep(0.05)
