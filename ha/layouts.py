"""The layouts of docs/ha.md, each a function from an inventory to hosts.

A layout decides which host gets which HAProxy listens and which ini files; the parts
it is put together from are in `ha.parts`, and templates write them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bouncer.config.params import OURS
from ha.errors import InventoryError
from ha.ini import Item, Source, replaced
from ha.inventory import Balancer, Inventory, Pooler
from ha.parts import (
    READERS,
    Host,
    Listen,
    PoolerFile,
    balancer_hosts,
    balancer_networks,
    client_bind,
    own_sections,
    per_balancer,
    pointed_databases,
    pooler_file,
    pooler_listen,
    pooler_servers,
    postgres_listens,
    role_can_be_asked,
    role_database,
    same_databases,
    with_last_resort,
)

# In a pod's ini file, until the pod knows its number.
PEER_ID = "@PEER_ID@"


@dataclass(frozen=True, slots=True)
class Layout:
    """A layout by name; *needs* are the lists of the inventory that must be filled."""

    name: str
    letter: str
    summary: str
    needs: tuple[str, ...]
    hosts: Callable[[Inventory, Source], list[Host]]


# (a) HAProxy in front of several poolers


def farm(inventory: Inventory, source: Source) -> list[Host]:
    """Several poolers that all lead to the same database."""
    trusted = balancer_networks(inventory)
    hosts = balancer_hosts(
        inventory,
        lambda _: [
            pooler_listen(
                inventory,
                source,
                inventory.poolers,
                inventory.name,
                client_bind(inventory, inventory.ports.write),
                "every pooler leads to the same database",
            )
        ],
    )
    for pooler in inventory.poolers:
        file = pooler_file(
            inventory,
            source,
            pooler,
            inventory.poolers,
            same_databases(source),
            trusted=trusted,
            shared_by=len(inventory.poolers),
        )
        hosts.append(Host(pooler.name, poolers=[file], address=pooler.address))
    return hosts


def vip(inventory: Inventory, source: Source) -> list[Host]:
    """(f) The farm behind a pair of balancers that share an address."""
    if inventory.vip is None:
        raise InventoryError("the layout vip needs [vip]")
    if len(inventory.balancers) != 2:
        raise InventoryError("the layout vip needs two [[balancers]]")
    return farm(inventory, source)


# (b) a pooler in front of HAProxy in front of a Patroni cluster


def patroni(inventory: Inventory, source: Source) -> list[Host]:
    """The pooler keeps clients over a failover; its own HAProxy finds the primary."""
    ports = inventory.ports
    hosts = []
    if inventory.balancers:
        # Poolers that all wait alike may well stand behind balancers.
        hosts = [host for host in farm(inventory, source) if host.listens]
    for pooler in inventory.poolers:
        file = pooler_file(
            inventory,
            source,
            pooler,
            inventory.poolers,
            write_and_read(source, ports.local_write, ports.local_read),
            main=failover_settings(source),
            trusted=balancer_networks(inventory),
            shared_by=len(inventory.poolers),
        )
        hosts.append(
            Host(
                pooler.name,
                listens=postgres_listens(inventory),
                poolers=[file],
                address=pooler.address,
            )
        )
    return hosts


def write_and_read(source: Source, write: int, read: int) -> list[Item]:
    """Each database as it is, and once more as NAME_ro for readers."""
    return [
        *pointed_databases(
            source, "127.0.0.1", write, why="writes: HAProxy knows the primary"
        ),
        *pointed_databases(
            source, "127.0.0.1", read, READERS, "reads: HAProxy knows the standbys"
        ),
    ]


def failover_settings(source: Source) -> list[Item]:
    """What turns a failover into latency."""
    items = []
    if source.settings.server_login_retry > 1:
        items.append(
            Item("server_login_retry", "1", "15 s, the default, doubles an outage")
        )
    if 0 < source.settings.query_wait_timeout < 60:
        items.append(
            Item("query_wait_timeout", "60", "longer than the failover to ride out")
        )
    return items


# (c) a pooler on every database host


def db_hosts(inventory: Inventory, source: Source) -> list[Host]:
    """HAProxy finds the primary's pooler; each pooler uses its own PostgreSQL."""
    poolers = poolers_on_nodes(inventory)
    hosts = balancer_hosts(
        inventory, lambda _: role_listens(inventory, source, poolers)
    )
    for node, pooler in zip(inventory.nodes, poolers, strict=True):
        file = pooler_file(
            inventory,
            source,
            pooler,
            poolers,
            pointed_databases(
                source, node.socket_dir, node.port, why="the PostgreSQL of this host"
            ),
            trusted=balancer_networks(inventory),
            # Only the primary's pooler writes; each may use the whole grant.
            shared_by=1,
        )
        hosts.append(Host(node.name, poolers=[file], address=node.address))
    return hosts


def poolers_on_nodes(inventory: Inventory) -> tuple[Pooler, ...]:
    """The pooler of each node: from [[poolers]] by name, else with the usual ports."""
    named = {pooler.name: pooler for pooler in inventory.poolers}
    unknown = set(named) - {node.name for node in inventory.nodes}
    if unknown:
        raise InventoryError(
            f"pooler {min(unknown)} is on no node: in the layout db-hosts a pooler has "
            "the name of its node"
        )
    return tuple(
        named.get(node.name)
        or Pooler(name=node.name, address=node.address, zone=node.zone)
        for node in inventory.nodes
    )


def role_listens(
    inventory: Inventory,
    source: Source,
    poolers: Sequence[Pooler],
    local: Callable[[Pooler], bool] = lambda pooler: True,
) -> list[Listen]:
    """A port for writes and one for reads, by the role of each pooler's server."""
    ports = inventory.ports
    ours = inventory.ours
    if ours:
        role_can_be_asked(inventory, source)
    first = [pooler for pooler in poolers if local(pooler)]
    last = [pooler for pooler in poolers if not local(pooler)]
    servers = [
        *pooler_servers(inventory, first),
        *pooler_servers(inventory, last, backup=True),
    ]
    if not ours:
        rest = {node.name: node.rest_port for node in inventory.nodes}
        servers = [replace(one, check_port=rest.get(one.name, 8008)) for one in servers]
    base = Listen(
        name="rw",
        bind=client_bind(inventory, ports.write),
        of="pooler" if ours else "combined",
        check="primary",
        database=role_database(source) if ours else "",
        servers=tuple(servers),
        why="writes: the pooler that is well and whose PostgreSQL is the primary",
        # A pooler of the primary is in two of these.
        maxconn=max(1, per_balancer(source.settings.max_client_conn, inventory) // 2),
        proxy=ours and inventory.proxy_protocol,
        allbackups=bool(last),
        share=2 * (1 if inventory.vip else max(1, len(inventory.balancers))),
        agent_role="rw",
    )
    on_primary = replace(
        base,
        name="ro_on_primary",
        bind="",
        why="no standby is left: let readers use the primary instead of refusing them",
        agent_role="",
        servers=tuple(replace(one, agent_port=0) for one in servers),
    )
    read = replace(
        base,
        name="ro",
        bind=client_bind(inventory, ports.read),
        check="replica",
        lag=inventory.lag,
        why=f"reads: standbys that are at most {inventory.lag} behind",
        slowstart="15s",
        fallbacks=(on_primary,),
        agent_role="ro",
    )
    return [with_last_resort(base), with_last_resort(read)]


# (d) application hosts -> central poolers -> PostgreSQL


def cascade(inventory: Inventory, source: Source) -> list[Host]:
    """Outer poolers beside the applications, central ones beside the database."""
    central = inventory.central
    trusted = balancer_networks(inventory)
    hosts = balancer_hosts(
        inventory,
        lambda _: [
            pooler_listen(
                inventory,
                source,
                central,
                "central",
                client_bind(inventory, inventory.ports.write),
                "the poolers beside the database",
            )
        ],
    )
    for pooler in central:
        file = pooler_file(
            inventory,
            source,
            pooler,
            central,
            same_databases(source),
            main=[*statement_settings(source), *central_room(inventory, source)],
            trusted=trusted,
            shared_by=len(central),
        )
        hosts.append(Host(pooler.name, poolers=[file], address=pooler.address))
    for pooler in inventory.poolers:
        hosts.append(
            Host(
                pooler.name,
                poolers=[outer_pooler(inventory, source, pooler)],
                address=pooler.address,
            )
        )
    return hosts


def outer_pooler(inventory: Inventory, source: Source, pooler: Pooler) -> PoolerFile:
    """The pooler beside the applications: small pools, all towards the balancers."""
    addresses = (
        [inventory.vip.bare]
        if inventory.vip
        else [balancer.address.strip("[]") for balancer in inventory.balancers]
    )
    main = [
        *statement_settings(source),
        *failover_settings(source),
        Item(
            "default_pool_size",
            str(inventory.sizes.outer_pool),
            "small: what counts is the sum over all outer poolers",
        ),
        Item(
            "application_name_add_host",
            "1",
            "PostgreSQL sees the central pooler's address; this shows the client's",
        ),
    ]
    databases = pointed_databases(
        source,
        ",".join(addresses),
        inventory.ports.write,
        why="any balancer leads to any central pooler",
    )
    file = pooler_file(
        inventory,
        source,
        pooler,
        [pooler],
        [replace(item, value=replaced(item.value, NOT_OUTSIDE)) for item in databases],
        main=main,
        shared_by=0,
    )
    # No balancer asks this one anything.
    names = [item.key for item in databases]
    file.ours = own_sections(inventory, source, names, [])
    return file


# What an outer pooler has its own idea of: pools, and the name of the database, which
# is the central pooler's name for it.
NOT_OUTSIDE: dict[str, str | None] = {
    "dbname": None,
    "pool_size": None,
    "min_pool_size": None,
    "reserve_pool_size": None,
    "max_db_connections": None,
}


def statement_settings(source: Source) -> list[Item]:
    """Prepared statements must be tracked at this hop and at every later one."""
    if source.settings.max_prepared_statements > 0:
        return []
    return [
        Item(
            "max_prepared_statements",
            "100",
            "0 at one hop breaks prepared statements at all of them",
        )
    ]


def central_room(inventory: Inventory, source: Source) -> list[Item]:
    """max_client_conn of a central pooler: all outer pools, with one central lost."""
    pools = len(inventory.poolers) * inventory.sizes.outer_pool
    pools *= max(1, len(source.databases))
    survivors = max(1, len(inventory.central) - 1)
    needed = int(pools / survivors * 1.2) + 20
    if source.settings.max_client_conn >= needed:
        return []
    return [
        Item(
            "max_client_conn",
            str(needed),
            f"{len(inventory.poolers)} outer poolers, one central pooler lost",
        )
    ]


# (e) ports for writing and for reading


def split(inventory: Inventory, source: Source) -> list[Host]:
    """Two pooler processes on each host: one port leads to writes, one to reads."""
    ports = inventory.ports
    writers = inventory.poolers
    readers = tuple(reader_of(pooler) for pooler in writers)
    peers = (*writers, *readers)
    hosts = []
    if inventory.balancers:
        hosts = balancer_hosts(
            inventory,
            lambda _: [
                pooler_listen(
                    inventory, source, group, name, client_bind(inventory, port), why
                )
                for group, name, port, why in (
                    (
                        writers,
                        "rw",
                        ports.write,
                        "writes, through the poolers for them",
                    ),
                    (readers, "ro", ports.read, "reads, through the poolers for them"),
                )
            ],
        )
    for writer, reader in zip(writers, readers, strict=True):
        files = []
        for pooler, port, why in (
            (writer, ports.local_write, "writes: HAProxy knows the primary"),
            (reader, ports.local_read, "reads: HAProxy knows the standbys"),
        ):
            file = pooler_file(
                inventory,
                source,
                pooler,
                peers,
                pointed_databases(source, "127.0.0.1", port, why=why),
                main=[
                    *failover_settings(source),
                    *(own_files(source) if pooler is reader else []),
                ],
                trusted=balancer_networks(inventory),
                shared_by=len(writers),
                unit=f"pybouncer-{'rw' if pooler is writer else 'ro'}",
            )
            files.append(file)
        hosts.append(
            Host(
                writer.name,
                listens=postgres_listens(inventory),
                poolers=files,
                address=writer.address,
            )
        )
    return hosts


def reader_of(pooler: Pooler) -> Pooler:
    """The second process of a host: one port further, checks two further."""
    return replace(
        pooler,
        name=f"{pooler.name}-ro",
        port=pooler.port + 1,
        health_port=pooler.health_port + 2,
        agent_port=pooler.agent_port + 2,
    )


def own_files(source: Source) -> list[Item]:
    """The second process of a host must not share these with the first."""
    items = []
    for key in ("pidfile", "logfile"):
        path = source.of("pgbouncer").get(key, "")
        if path:
            stem, suffix = os.path.splitext(path)
            items.append(Item(key, f"{stem}-ro{suffix}", "not the other process's"))
    return items


# (h) regions


def regions(inventory: Inventory, source: Source) -> list[Host]:
    """Each balancer prefers the poolers of its own zone."""
    zones = {pooler.zone for pooler in inventory.poolers}
    for balancer in inventory.balancers:
        if balancer.zone not in zones:
            raise InventoryError(
                f"balancer {balancer.name}: there is no pooler in zone "
                f"{balancer.zone!r}"
            )
    if inventory.vip:
        raise InventoryError("the layout regions has no [vip]: zones share no network")

    def listens(balancer: Balancer) -> list[Listen]:
        def local(pooler: Pooler) -> bool:
            return pooler.zone == balancer.zone

        if inventory.ours:
            return role_listens(inventory, source, inventory.poolers, local)
        # The original cannot tell the role of what is behind it.
        near = [pooler for pooler in inventory.poolers if local(pooler)]
        far = [pooler for pooler in inventory.poolers if not local(pooler)]
        plain = pooler_listen(
            inventory,
            source,
            near,
            inventory.name,
            client_bind(inventory, inventory.ports.write),
            "poolers of this region, those of others when none is left",
        )
        backups = pooler_servers(inventory, far, backup=True)
        return [replace(plain, servers=(*plain.servers, *backups), allbackups=True)]

    hosts = balancer_hosts(inventory, listens)
    for pooler in inventory.poolers:
        file = pooler_file(
            inventory,
            source,
            pooler,
            inventory.poolers,
            same_databases(source),
            trusted=balancer_networks(inventory),
            shared_by=len(inventory.poolers),
        )
        hosts.append(Host(pooler.name, poolers=[file], address=pooler.address))
    return hosts


# (i) Kubernetes


def kubernetes(inventory: Inventory, source: Source) -> list[Host]:
    """A StatefulSet of poolers, whose pods are each other's peers."""
    names = inventory.kubernetes
    service = f"{inventory.name}-pods.{names.namespace}.svc.{names.domain}"
    pods = tuple(
        Pooler(
            name=f"{inventory.name}-{rank}",
            address=f"{inventory.name}-{rank}.{service}",
        )
        for rank in range(names.replicas)
    )
    file = pooler_file(
        replace(inventory, proxy_protocol=False),
        source,
        pods[0],
        pods,
        same_databases(source),
        main=[
            Item("listen_addr", "*", "the pod's address"),
            Item("logfile", "", "to the container's log"),
            Item("pidfile", "", "process 1"),
            Item("auth_file", f"{inventory.paths.pooler_etc}/secret/userlist.txt"),
        ],
        shared_by=names.replicas,
    )
    for items in (file.main, file.ours.get(OURS, [])):
        for place, item in enumerate(items):
            if item.key == "peer_id":
                items[place] = replace(item, value=PEER_ID)
            elif item.key in ("health_listen", "agent_listen"):
                port = item.value.rpartition(":")[2]
                items[place] = replace(item, value=f"*:{port}")
    return [Host(inventory.name, poolers=[file])]


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("farm", "a", "HAProxy in front of several poolers",
               ("balancers", "poolers"), farm),
        Layout("patroni", "b", "poolers in front of HAProxy in front of Patroni",
               ("poolers", "nodes"), patroni),
        Layout("db-hosts", "c", "a pooler on each database host",
               ("balancers", "nodes"), db_hosts),
        Layout("cascade", "d", "application hosts, central poolers, PostgreSQL",
               ("balancers", "poolers", "central"), cascade),
        Layout("split", "e", "a port for writes, a port for reads",
               ("poolers", "nodes"), split),
        Layout("vip", "f", "a pair of balancers that share an address",
               ("balancers", "poolers"), vip),
        Layout("rolling", "g", "the farm, with a restart of one pooler at a time",
               ("balancers", "poolers"), farm),
        Layout("regions", "h", "poolers of the own region first",
               ("balancers", "poolers"), regions),
        Layout("kubernetes", "i", "a StatefulSet of poolers behind a Service",
               (), kubernetes),
    )
}  # fmt: skip
