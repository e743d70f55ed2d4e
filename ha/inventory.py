"""The inventory: which hosts there are, from which everything else is rendered.

One TOML file. Balancer lines, peers, check ports and PROXY networks all come from it,
so that they cannot disagree: a cancel finds its way because the peer list and the
server lines were made of the same list. A misspelt key is an error, never ignored.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ha.errors import InventoryError

OURS = "pybouncer"
ORIGINAL = "pgbouncer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooler:
    """A pooler process, on a host of its own or beside others."""

    name: str
    address: str
    port: int = 6432
    health_port: int = 6480
    agent_port: int = 6481
    zone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A PostgreSQL host; *rest_port* is Patroni's."""

    name: str
    address: str
    port: int = 5432
    rest_port: int = 8008
    socket_dir: str = "/var/run/postgresql"
    zone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Balancer:
    """A HAProxy. *stats* is how `pybouncer ha` reaches its socket from here."""

    name: str
    address: str
    stats: str = ""
    zone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vip:
    """The address that a pair of balancers shares."""

    address: str
    interface: str
    router_id: int = 51
    advertise: float = 1.0

    @property
    def bare(self) -> str:
        """The address without its prefix length."""
        return self.address.partition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """Where things are on the hosts."""

    haproxy_run: str = "/run/haproxy"
    haproxy_lib: str = "/var/lib/haproxy"
    haproxy_log: str = "/dev/log local0"
    pooler_etc: str = "/etc/pgbouncer"
    pooler_binary: str = "/usr/sbin/pgbouncer"
    pooler_user: str = "postgres"
    pybouncer: str = "/usr/bin/pybouncer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where clients connect, and where the poolers' own HAProxy listens."""

    bind: str = "*"
    write: int = 6432
    read: int = 6433
    local_write: int = 5000
    local_read: int = 5001


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What must fit together across hosts.

    *connections* is what PostgreSQL grants to all poolers together for one database;
    0 leaves the pool sizes of the ini file alone. *outer_pool* is the pool of each
    outer pooler of a cascade.
    """

    connections: int = 0
    outer_pool: int = 4
    drain_timeout: int = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubernetes:
    """Names inside the cluster."""

    namespace: str = "default"
    image: str = "pybouncer:latest"
    replicas: int = 3
    domain: str = "cluster.local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """Everything an inventory file says. *flavour* is the pooler that runs there."""

    name: str
    flavour: str = OURS
    proxy_protocol: bool = True
    agent: bool = True
    lag: str = "16MB"
    health_user: str = ""
    poolers: tuple[Pooler, ...] = ()
    central: tuple[Pooler, ...] = ()
    nodes: tuple[Node, ...] = ()
    balancers: tuple[Balancer, ...] = ()
    vip: Vip | None = None
    paths: Paths = Paths()
    ports: Ports = Ports()
    sizes: Sizes = Sizes()
    kubernetes: Kubernetes = Kubernetes()

    @property
    def ours(self) -> bool:
        """Is it our pooler, which serves health itself?"""
        return self.flavour == OURS


TABLES: dict[str, type[Any]] = {
    "vip": Vip,
    "paths": Paths,
    "ports": Ports,
    "sizes": Sizes,
    "kubernetes": Kubernetes,
}
LISTS: dict[str, type[Any]] = {
    "poolers": Pooler,
    "central": Pooler,
    "nodes": Node,
    "balancers": Balancer,
}
# What a name may be: part of proxies, units, files and host names.
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
ADDRESS = re.compile(r"[A-Za-z0-9_.:-]+|\[[0-9A-Fa-f:.]+\]")
PATH = re.compile(r"[^\s\"'#\\%;]+")

T = TypeVar("T")


def load(path: str | Path) -> Inventory:
    """Read an inventory; raises `InventoryError` with file and key."""
    try:
        raw = tomllib.loads(Path(path).read_text())
    except OSError as problem:
        raise InventoryError(f"{path}: {problem.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise InventoryError(f"{path}: {problem}") from None
    try:
        return parse(raw)
    except InventoryError as problem:
        raise InventoryError(f"{path}: {problem}") from None


def parse(raw: dict[str, Any]) -> Inventory:
    """Make an inventory of what TOML gave; raises `InventoryError`."""
    values = dict(raw)
    for key, kind in TABLES.items():
        if key in values:
            values[key] = build(kind, values[key], f"[{key}]")
    for key, kind in LISTS.items():
        if key in values:
            listed = values[key]
            if not isinstance(listed, list):
                raise InventoryError(f"{key}: write [[{key}]], once for each")
            values[key] = tuple(
                build(kind, one, f"[[{key}]] number {rank}")
                for rank, one in enumerate(listed, 1)
            )
    inventory = build(Inventory, values, "top level")
    check(inventory)
    return inventory


def build(kind: type[T], values: Any, where: str) -> T:
    """One dataclass from one table; names what is missing, unknown, of a wrong type."""
    if not isinstance(values, dict):
        raise InventoryError(f"{where}: not a table")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key, value in values.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InventoryError(f"{where}: unknown key {key!r}{hint}")
        check_type(str(fields[key].type), value, f"{where}: {key}")
    missing = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and name not in values
    ]
    if missing:
        raise InventoryError(f"{where}: {missing[0]} is missing")
    return kind(**values)


def check_type(wanted: str, value: Any, where: str) -> None:
    """A port is a number, a name a text."""
    good: dict[str, Callable[[Any], bool]] = {
        "str": lambda v: isinstance(v, str),
        "bool": lambda v: isinstance(v, bool),
        "int": lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 0,
        "float": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    }
    if wanted in good and not good[wanted](value):
        raise InventoryError(f"{where}: {value!r} is not a {wanted}")


def check(inventory: Inventory) -> None:
    """What must hold across the whole file."""
    if inventory.flavour not in (OURS, ORIGINAL):
        raise InventoryError(f"flavour: write {OURS} or {ORIGINAL}")
    hosts: list[Pooler | Node | Balancer] = [
        *inventory.poolers,
        *inventory.central,
        *inventory.nodes,
        *inventory.balancers,
    ]
    for name in (inventory.name, *(host.name for host in hosts)):
        if not NAME.fullmatch(name):
            raise InventoryError(f"{name!r} cannot be a name")
    for group in (
        (*inventory.poolers, *inventory.central),
        inventory.nodes,
        inventory.balancers,
    ):
        seen: set[str] = set()
        for host in group:
            if host.name in seen:
                raise InventoryError(f"two hosts are called {host.name}")
            seen.add(host.name)
    taken: dict[tuple[str, int], str] = {}
    for pooler in (*inventory.poolers, *inventory.central):
        for what in ("port", "health_port", "agent_port"):
            place = (pooler.address, getattr(pooler, what))
            mine = f"{pooler.name}.{what}"
            if place in taken:
                raise InventoryError(
                    f"{taken[place]} and {mine} are both {place[0]}:{place[1]}"
                )
            taken[place] = mine
    for one in hosts:
        if not ADDRESS.fullmatch(one.address):
            raise InventoryError(f"{one.name}: {one.address!r} is not an address")
    for field in dataclasses.fields(Paths):
        value = getattr(inventory.paths, field.name)
        if field.name != "haproxy_log" and not PATH.fullmatch(value):
            raise InventoryError(f"paths.{field.name}: {value!r} is not a path")
    if inventory.vip is not None:
        check_vip(inventory.vip)


def check_vip(vip: Vip) -> None:
    """An address with a prefix length, a router id that VRRP knows."""
    try:
        ipaddress.ip_interface(vip.address)
    except ValueError:
        raise InventoryError(f"vip.address: {vip.address!r}") from None
    if "/" not in vip.address:
        raise InventoryError("vip.address: give the prefix length, such as /24")
    if not 1 <= vip.router_id <= 255:
        raise InventoryError("vip.router_id: 1 to 255")
