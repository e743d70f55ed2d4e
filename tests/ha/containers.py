"""Hosts that are containers: what no process can do, such as vanish from the network.

No registry may be reachable, so the image is copied from the Debian packages that this
machine has installed, and what they depend on: a second's work. The engine keeps it
under a name that holds a hash of their versions. The project and the packages of the
interpreter that runs the tests are mounted, read-only. A host runs nothing by itself:
tests start and stop programs in it.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import os
import re
import shutil
import site
import subprocess
import sys
import tarfile
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ha.errors import HAProxyError
from ha.haproxy import HAProxy
from ha.ini import Source
from ha.inventory import parse
from ha.render import Rendered, render
from tests.conftest import missing
from tests.ha.balancer import wait_for
from tests.ha.site import HOST_DIRECTORY, LET_GO, SOURCE, USERLIST

# Ryuk is an image of a registry; the fixtures remove what they made.
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")

PROJECT = Path(__file__).resolve().parents[2]
# What the hosts run, and what installs it where it is missing.
PACKAGES = {
    "bash": "bash", "coreutils": "coreutils", "dash": "dash", "haproxy": "haproxy",
    "iproute2": "iproute2", "keepalived": "keepalived",
    "postgresql-15": "postgresql-15", "procps": "procps", "python3": "python3",
}  # fmt: skip
# Dependencies of installing, and the compiler behind PostgreSQL's jit.
LEFT_OUT = re.compile(
    r"(libllvm|perl|debconf|ucf|dpkg|systemd|locales|libc-l10n|openssl"
    r"|postgresql-(client-)?common).*"
)
NOT_COPIED = ("/usr/share/doc/", "/usr/share/man/", "/usr/share/locale/")
# What belongs to no package: users and groups, and which of several awks is awk.
COPIED = ("/etc/passwd", "/etc/group", "/etc/alternatives")
MADE = {
    "tmp": 0o1777, "run": 0o755, "proc": 0o555, "sys": 0o555, "dev": 0o755,
    "root": 0o700, "project": 0o755, "packages": 0o755,
    HOST_DIRECTORY.strip("/"): 0o755,
}  # fmt: skip
PGBIN = "/usr/lib/postgresql/15/bin"
PGPORT = 5432


def engine() -> Any:
    """A Docker client if an engine answers, else None."""
    import docker

    client = None
    with warnings.catch_warnings():
        # Without an engine the client forgets its sockets, and pytest complains.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            client = docker.from_env(timeout=60)
            client.ping()
        except (docker.errors.DockerException, OSError):
            client = None
        gc.collect()
    return client


@functools.cache
def why_plain() -> str:
    """Why several hosts are plain processes; empty when they are containers."""
    try:
        import testcontainers.core.container  # noqa: F401
    except ImportError:
        return "needs testcontainers: pip install testcontainers"
    client = engine()
    if client is None:
        return "no Docker engine answers"
    client.close()
    return ""


def need_containers() -> None:
    """Skip unless hosts can be containers; in CI a failure, but for the engine.

    Without one the same scenarios run on plain processes (test_scenarios.py).
    """
    why = why_plain()
    if why and "DOCKER_HOST" not in os.environ and why.startswith("no Docker"):
        pytest.skip(f"{why}: the scenarios run on plain processes")
    if why:
        missing(why)
    if package := lacking():
        missing(f"needs {package}: apt-get install {package}")
    if sys.version_info[:2] != (3, 11):
        missing("needs Python 3.11: Debian's, which runs in the containers")


@dataclass(frozen=True, slots=True)
class Package:
    """An installed package: its version, and alternatives for each dependency."""

    name: str
    version: str
    needs: tuple[tuple[str, ...], ...]


def installed() -> dict[str, Package]:
    """Every installed package by its name, and by each that it provides."""
    fields = "${db:Status-Abbrev}\t${Package}\t${Version}\t${Provides}\t"
    done = subprocess.run(
        ["dpkg-query", "-W", "-f", fields + "${Pre-Depends}, ${Depends}\n"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, Package] = {}
    provided: dict[str, Package] = {}

    def names(text: str, between: str = ",") -> list[str]:
        # `libc6:any (>= 2.34)` is libc6.
        words = (re.split(r"[ (:]", part.strip())[0] for part in text.split(between))
        return [word for word in words if word]

    for line in done.stdout.splitlines():
        status, name, version, provides, depends = line.split("\t")
        if status.startswith("ii"):
            needs = tuple(tuple(names(one, "|")) for one in depends.split(","))
            found[name] = Package(name, version, needs)
            provided |= dict.fromkeys(names(provides), found[name])
    return provided | found


def packages() -> dict[str, Package]:
    """The packages of the image: those we ask for, and what they need."""
    there, taken = installed(), {}
    todo = list(PACKAGES)
    while todo:
        name = todo.pop()
        package = there.get(name)
        if package is None or LEFT_OUT.fullmatch(name) or package.name in taken:
            continue
        taken[package.name] = package
        for alternatives in package.needs:
            todo += [one for one in alternatives if one in there][:1]
    return taken


def lacking() -> str:
    """A package that the hosts need and this machine has not; empty when none is."""
    if not shutil.which("dpkg-query"):
        return "dpkg"
    there = installed()
    return next((name for name in PACKAGES if name not in there), "")


def image(client: Any, directory: Path) -> str:
    """The image's name; made when the engine does not have it."""
    taken = packages()
    recipe = repr(sorted((one.name, one.version) for one in taken.values()))
    name = f"pybouncer-ha:{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if any(name in one.tags for one in client.images.list()):
        return name
    archive = directory / "image.tar"
    with tarfile.open(archive, "w") as to:
        fill_image(to, list(taken))
    repository, _, tag = name.partition(":")
    client.api.import_image(str(archive), repository=repository, tag=tag)
    archive.unlink()
    return name


def fill_image(to: tarfile.TarFile, names: list[str]) -> None:
    """Write the packages' files as they are here; directories first."""
    done = subprocess.run(
        ["dpkg-query", "-L", *names], capture_output=True, text=True, check=True
    )
    wanted = {line for line in done.stdout.splitlines() if line.startswith("/")}
    for place in ("/bin", "/sbin", "/lib", "/lib64"):
        # Links into /usr; packages still name their files by them.
        to.add(place, recursive=False)
    real = set()
    for path in wanted - {"/.", "/"}:
        if os.path.lexists(path) and not path.startswith(NOT_COPIED):
            parent, base = os.path.split(path)
            real.add(os.path.join(os.path.realpath(parent), base))
    for path in sorted(real - {"/bin", "/sbin", "/lib", "/lib64"}):
        if path.strip("/") not in MADE:
            to.add(path, recursive=False)
    for path in COPIED:
        to.add(path)
    for path, mode in MADE.items():
        directory = tarfile.TarInfo(path)
        directory.type, directory.mode = tarfile.DIRTYPE, mode
        to.addfile(directory)


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
        """Start hosts, all at once."""

        def start(name: str) -> Host:
            return Host(self.image, self.network, self.root / name)

        with ThreadPoolExecutor() as pool:
            self.hosts |= zip(names, pool.map(start, names), strict=True)

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def stop(self) -> None:
        """Remove all."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(Host.stop, self.hosts.values()))
        self.network.remove()

    # PostgreSQL

    def start_postgres(self) -> None:
        """A primary on the host `db`."""
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

    def render(
        self, layout: str, poolers: Sequence[str], balancers: Sequence[str], **more: Any
    ) -> None:
        """Render a layout for the hosts and put every file in its place."""
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
                    for kind, listed in (("poolers", poolers), ("balancers", balancers))
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
            host.output(),
            *host.directory.glob("*.log"),
        )

    def start_haproxy(self, name: str) -> None:
        """Start the HAProxy of a host."""
        self[name].start(f"haproxy -db -f {HOST_DIRECTORY}/etc/haproxy/haproxy.cfg")

    def start_keepalived(self, name: str) -> None:
        """Start keepalived, which runs nothing that another than root could write."""
        self[name].run(
            f"cp -r {HOST_DIRECTORY}/etc/keepalived /etc/ && "
            "chown -R root:root /etc/keepalived"
        )
        self[name].start("keepalived -n -l -D")

    @property
    def address(self) -> str:
        """The address that the balancers share."""
        assert self.inventory.vip is not None
        return self.inventory.vip.bare

    def can_use(self, address: str, port: int) -> bool:
        try:
            self.connect(address, port).close()
        except psycopg.Error:
            return False
        return True

    def connect(self, address: str, port: int = 6432) -> Any:
        """A client. One that waits for the answer of a host that is gone has only
        its keepalives to tell it so.
        """
        link = psycopg.connect(
            host=address, port=port, dbname="app", user="app", autocommit=True,
            connect_timeout=5, sslmode="disable",
            keepalives_idle=2, keepalives_interval=1, keepalives_count=3,
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
