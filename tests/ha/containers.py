"""Hosts that are containers: what no process can do, such as vanish from the network.

The image is made of Debian packages by mmdebstrap, since no registry may be reachable,
and kept by the engine under a name that holds a hash of the recipe. The project and
the packages of the interpreter that runs the tests are mounted, read-only. A host runs
nothing by itself: tests start and stop programs in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import site
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ha.errors import HAProxyError
from ha.haproxy import HAProxy
from ha.ini import Source
from ha.inventory import parse
from ha.render import Rendered, render
from tests.ha.balancer import wait_for
from tests.ha.site import HOST_DIRECTORY, LET_GO, SOURCE, USERLIST

# Ryuk is an image of a registry; the fixtures remove what they made.
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("haproxy", "postgresql-15", "python3", "iproute2", "keepalived", "procps")
SUITE, MIRROR = "bookworm", "http://deb.debian.org/debian"
PGBIN = "/usr/lib/postgresql/15/bin"
PGPORT = 5432


def engine() -> Any:
    """A Docker client if an engine answers, else None."""
    try:
        import docker

        client = docker.from_env(timeout=60)
        client.ping()
    except Exception:
        return None
    return client


def reason_without_containers() -> str:
    """Why containers cannot be used; empty when they can."""
    try:
        import testcontainers.core.container  # noqa: F401
    except ImportError:
        return "needs testcontainers: pip install testcontainers"
    client = engine()
    if client is None:
        return "no Docker engine answers: the scenarios ran on plain processes"
    client.close()
    if sys.version_info[:2] != (3, 11):
        return "the image has Python 3.11, and extensions are built for another"
    return ""


def image(client: Any, directory: Path) -> str:
    """The image's name; made when the engine does not have it."""
    recipe = " ".join([SUITE, *PACKAGES])
    name = f"pybouncer-ha:{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if any(name in one.tags for one in client.images.list()):
        return name
    if not shutil.which("mmdebstrap"):
        pytest.skip("needs mmdebstrap: apt-get install mmdebstrap")
    archive = directory / "image.tar"
    done = subprocess.run(
        ["mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}",
         "--dpkgopt=path-exclude=/usr/share/man/*",
         "--dpkgopt=path-exclude=/usr/share/doc/*", SUITE, archive, MIRROR],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"no image: {done.stderr.strip().splitlines()[-1]}")
    repository, _, tag = name.partition(":")
    client.api.import_image(str(archive), repository=repository, tag=tag)
    archive.unlink()
    return name


class Host:
    """One container, with a directory of its own mounted where hosts keep theirs."""

    def __init__(self, image_name: str, network: Any, directory: Path) -> None:
        from testcontainers.core.container import DockerContainer

        directory.mkdir(parents=True, exist_ok=True)
        # Programs run there as other users.
        directory.chmod(0o777)
        packages = site.getsitepackages()[0]
        self.directory = directory
        self.container = (
            DockerContainer(image_name)
            .with_command(["sleep", "infinity"])
            .with_network(network)
            .with_volume_mapping(str(PROJECT), "/project", "ro")
            .with_volume_mapping(packages, "/packages", "ro")
            .with_volume_mapping(str(directory), HOST_DIRECTORY, "rw")
            .with_env("PYTHONPATH", "/project:/packages")
            .with_env("PYTHONDONTWRITEBYTECODE", "1")
            .with_kwargs(
                cap_add=["NET_ADMIN", "NET_RAW", "NET_BROADCAST"],
                sysctls={"net.ipv4.ip_nonlocal_bind": "1"},
            )
        )
        self.container.start()
        self.wrapped = self.container.get_wrapped_container()
        self.network = network

    @property
    def address(self) -> str:
        """Its address in the network."""
        self.wrapped.reload()
        networks = self.wrapped.attrs["NetworkSettings"]["Networks"]
        return str(networks[self.network.name]["IPAddress"])

    def run(self, command: str, user: str = "root") -> str:
        """Run a shell command to its end; fails when it does."""
        code, output = self.wrapped.exec_run(["/bin/sh", "-c", command], user=user)
        text = output.decode("utf-8", "replace")
        assert code == 0, f"{command}: {text}"
        return text

    def start(self, command: str, user: str = "root") -> None:
        """Start a program that goes on."""
        self.wrapped.exec_run(
            ["/bin/sh", "-c", f"exec {command} >>{HOST_DIRECTORY}/output 2>&1"],
            user=user, detach=True,
        )  # fmt: skip

    def kill(self, pattern: str, signal: str = "KILL") -> None:
        """Send a signal to the programs of this host that match."""
        # Brackets, or the shell that runs this would match as well.
        self.run(f"pkill -{signal} -f '[{pattern[0]}]{pattern[1:]}'")

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze the host: its kernel answers, its programs do not."""
        self.wrapped.pause()
        try:
            yield
        finally:
            self.wrapped.unpause()

    @contextlib.contextmanager
    def unplugged(self) -> Iterator[None]:
        """Lose every packet, both ways: nothing is refused, nothing is closed."""
        self.run("ip link set dev eth0 down")
        try:
            yield
        finally:
            self.run("ip link set dev eth0 up")

    def output(self) -> str:
        """What its programs printed."""
        path = self.directory / "output"
        return path.read_text(errors="replace") if path.exists() else ""

    def stop(self) -> None:
        """Remove it."""
        with contextlib.suppress(Exception):
            self.container.stop()


class Hosts:
    """A layout whose hosts are containers in one network."""

    def __init__(self, client: Any, directory: Path) -> None:
        from testcontainers.core.network import Network

        self.image = image(client, directory)
        self.root = directory
        self.network = Network()
        self.network.create()
        self.hosts: dict[str, Host] = {}
        self.files: list[Rendered] = []

    def add(self, *names: str) -> None:
        """Start hosts."""
        for name in names:
            self.hosts[name] = Host(self.image, self.network, self.root / name)

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def stop(self) -> None:
        """Remove all."""
        for host in self.hosts.values():
            host.stop()
        self.network.remove()

    # PostgreSQL

    def start_postgres(self) -> None:
        """A primary on the host `db`."""
        self.add("db")
        host = self["db"]
        host.run(
            f"install -d -o postgres {HOST_DIRECTORY}/pg; mkdir -p /run/postgresql"
        )
        host.run(
            f"{PGBIN}/initdb -D {HOST_DIRECTORY}/pg/data -A trust --no-sync", "postgres"
        )
        host.run(
            f"cd {HOST_DIRECTORY}/pg/data && printf \"listen_addresses = '*'\\n"
            "fsync = off\\nunix_socket_directories = '/tmp'\\n\" >> postgresql.conf && "
            "echo 'host all all 0.0.0.0/0 trust' >> pg_hba.conf",
            "postgres",
        )
        host.start(f"{PGBIN}/postgres -D {HOST_DIRECTORY}/pg/data", "postgres")
        assert wait_for(lambda: self.can_connect(), 30), host.output()
        with self.database("postgres") as link:
            link.execute("create database p0")
            link.execute("create role app login")
            link.execute(LET_GO)
            link.execute("create role admin login")

    def can_connect(self) -> bool:
        try:
            self.database("postgres").close()
        except psycopg.Error:
            return False
        return True

    def database(self, name: str = "p0") -> Any:
        """A superuser's connection, not through anything."""
        return psycopg.connect(
            host=self["db"].address, port=PGPORT, dbname=name, user="postgres",
            autocommit=True, connect_timeout=5,
        )  # fmt: skip

    # The layout

    def render(self, layout: str, poolers: int, balancers: int, **more: Any) -> None:
        """Render a layout for the hosts and put every file in its place."""
        names = {
            "poolers": [f"p{n}" for n in range(1, poolers + 1)],
            "balancers": [f"lb{n}" for n in range(1, balancers + 1)],
        }
        self.add(*names["poolers"], *names["balancers"])
        self.inventory = parse(
            {
                "name": "site",
                "health_user": "app",
                "paths": {
                    "haproxy_run": f"{HOST_DIRECTORY}/run",
                    "haproxy_lib": f"{HOST_DIRECTORY}/lib",
                    "haproxy_log": "stdout format raw local0 info",
                    "pooler_etc": f"{HOST_DIRECTORY}/etc",
                },
                **{
                    kind: [{"name": n, "address": self[n].address} for n in listed]
                    for kind, listed in names.items()
                },
                **more,
            }
        )
        source = self.root / "source.ini"
        text = SOURCE.format(port=PGPORT, host=HOST_DIRECTORY, more="")
        source.write_text(text.replace("127.0.0.9", self["db"].address))
        self.files = render(layout, self.inventory, Source.read(str(source)))
        for file in self.files:
            directory = self.root / file.host
            path = directory / file.path.removeprefix(HOST_DIRECTORY).lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file.text)
            path.chmod(0o755 if file.mode & 0o100 else 0o644)
        for name in self.hosts:
            directory = self.root / name
            for sub in ("run", "lib"):
                (directory / sub).mkdir(exist_ok=True)
            start = directory / "etc/haproxy/server-state.start"
            if start.exists():
                shutil.copy(start, directory / "lib/server-state")
            (directory / "userlist.txt").write_text(USERLIST)

    def start_pooler(self, name: str) -> None:
        """Start the pooler of a host and wait until it answers."""
        host = self[name]
        host.run(f"chown -R postgres {HOST_DIRECTORY}; rm -f {HOST_DIRECTORY}/*.pid")
        host.start(f"python3 -m bouncer {HOST_DIRECTORY}/etc/pgbouncer.ini", "postgres")
        wait_for(lambda: self.can_use(host.address, 6432), 20)
        assert self.can_use(host.address, 6432), (
            host.output() + (host.directory / "pgbouncer.log").read_text()
        )

    def start_haproxy(self, name: str) -> None:
        """Start the HAProxy of a host."""
        self[name].start(f"haproxy -db -f {HOST_DIRECTORY}/etc/haproxy/haproxy.cfg")

    def can_use(self, address: str, port: int) -> bool:
        try:
            self.connect(address, port).close()
        except psycopg.Error:
            return False
        return True

    def connect(self, address: str, port: int = 6432) -> Any:
        """A client."""
        link = psycopg.connect(
            host=address, port=port, dbname="app", user="app", autocommit=True,
            connect_timeout=5, sslmode="disable",
        )  # fmt: skip
        link.prepare_threshold = None
        return link

    def usable(self, balancer: str = "lb1", backend: str = "site") -> set[str]:
        """The servers that a balancer sends clients to."""
        try:
            picture = HAProxy(str(self.root / balancer / "run/admin.sock")).picture()
        except HAProxyError:
            return set()
        rows = picture.of_kind("server")
        return {row.name for row in rows if row.proxy == backend and row.usable}

    def wait_usable(self, *names: str, balancer: str = "lb1") -> float:
        """Wait until exactly these get clients; how long that took."""
        started = time.monotonic()
        wait_for(lambda: self.usable(balancer) == set(names), 30)
        assert self.usable(balancer) == set(names), self[balancer].output()[-2000:]
        return time.monotonic() - started
