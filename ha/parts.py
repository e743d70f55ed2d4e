"""What layouts are put together from: listens, server lines, ini files.

The one hard idea: figures that must agree across files (limits, pools, peers,
timers) are computed here, in one place each. Templates only write them down.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from bouncer.config.own import OWN_DATABASES, OWN_USERS
from bouncer.config.params import OURS
from ha.agent import RESERVED_CLIENTS
from ha.errors import InventoryError
from ha.ini import Item, Source, merged, replaced, values
from ha.inventory import Balancer, Inventory, Node, Pooler

# Sessions may be idle or busy for so long before HAProxy cuts them.
LONG = 8 * 3600
# Behind the name of a database: the same one, where it is read only.
READERS = "_ro"


@dataclass(frozen=True, slots=True)
class Server:
    """A `server` line."""

    name: str
    address: str
    port: int
    check_port: int = 0
    agent_port: int = 0
    backup: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """A `listen`, or a `backend` when *bind* is empty.

    *check* is what makes a server good: `ready`, `primary`, `replica`, `read-only`.
    *of* says who answers it: `pooler` (ours, over HTTP), `inband` (any pooler, by an
    SSLRequest), `patroni`, `combined` (Patroni, then an SSLRequest). *fallbacks* are
    the backends to use, in this order, while this one has no server left. A *held*
    one takes poolers that are paused or full, where a client may wait.
    """

    name: str
    bind: str
    of: str
    check: str
    servers: tuple[Server, ...]
    why: str
    maxconn: int
    database: str = ""
    lag: str = ""
    balance: str = "leastconn"
    proxy: bool = False
    slowstart: str = ""
    fallbacks: tuple[Listen, ...] = ()
    held: bool = False
    allbackups: bool = False
    share: int = 1
    agent_role: str = ""

    @property
    def uri(self) -> str:
        """What is asked over HTTP."""
        fields = {}
        if self.database and self.of == "pooler":
            fields["db"] = self.database
        if self.lag:
            fields["lag"] = self.lag
        if self.held:
            fields["held"] = "yes"
        query = urllib.parse.urlencode(fields, quote_via=urllib.parse.quote)
        return f"/{self.check}" + (f"?{query}" if query else "")

    @property
    def question(self) -> str:
        """What `agent-send` says, fit for double quotes in a haproxy.cfg."""
        words = [self.agent_role] if self.agent_role else []
        if self.database:
            words.append("db=" + urllib.parse.quote(self.database, safe=""))
        if self.agent_role == "ro" and self.lag:
            words.append(f"lag={self.lag}")
        return " ".join([*words, f"share={self.share}"])

    @property
    def soft(self) -> bool:
        """Does the check know a state that keeps sessions?"""
        return self.of == "pooler"


@dataclass(slots=True)
class PoolerFile:
    """A pgbouncer.ini to write: sections of items, and where the process listens.

    *ours* are the sections of our own settings, which PgBouncer would not start on:
    they stand in a file of their own.
    """

    pooler: Pooler
    peer_id: int
    databases: list[Item]
    main: list[Item]
    ours: dict[str, list[Item]]
    users: list[Item]
    peers: list[Item]
    unit: str = "pybouncer"
    title: str = ""
    descriptors: int = 0


@dataclass(slots=True)
class Host:
    """Everything that goes to one host."""

    name: str
    listens: list[Listen] = field(default_factory=list)
    poolers: list[PoolerFile] = field(default_factory=list)
    keepalived: bool = False
    priority: int = 100
    peer_addresses: tuple[str, ...] = ()
    address: str = ""


# Figures


def room(limit: int) -> int:
    """Sessions that HAProxies may send to a pooler with max_client_conn *limit*.

    Strictly below, so that checks, consoles and monitoring still get in and a full
    pooler is never mistaken for a dead one.
    """
    return max(1, limit - min(RESERVED_CLIENTS, max(1, limit // 10)))


def per_balancer(limit: int, inventory: Inventory) -> int:
    """The share of one HAProxy; of a VIP pair only one is at work."""
    active = 1 if inventory.vip or not inventory.balancers else len(inventory.balancers)
    return max(1, room(limit) // active)


def first_database(source: Source) -> str:
    """The database that checks ask about, when there is only one to ask about."""
    names = source.databases
    return names[0] if len(names) == 1 else ""


def role_database(source: Source) -> str:
    """The database whose server's role stands for all."""
    if not source.databases:
        raise InventoryError(
            f"{source.path}: [databases] names none, so that no role can be asked for"
        )
    return source.databases[0]


def role_can_be_asked(inventory: Inventory, source: Source) -> None:
    """A layout by roles needs them before the first client: who asks?"""
    settings = source.settings
    asked = values(source.of("databases")[role_database(source)])
    if not (
        inventory.health_user
        or settings.health_user
        or settings.auth_user
        or {"user", "auth_user"} & set(asked)
    ):
        raise InventoryError(
            "this layout goes by the role of each pooler's server, and there is nobody "
            "to ask it as: set health_user to a user of auth_file"
        )
    user = inventory.health_user or settings.health_user
    if "user" not in asked and user and (why := source.cannot_log_in(user)):
        raise InventoryError(
            "this layout goes by the role of each pooler's server, and health_user "
            f"cannot ask for it: {why}"
        )


def idle_limit(source: Source) -> int:
    """Seconds for `timeout client` and `timeout server`: above every timer inside."""
    settings = source.settings
    inner = (
        settings.client_idle_timeout,
        settings.query_timeout,
        settings.query_wait_timeout,
        settings.transaction_timeout,
        settings.idle_transaction_timeout,
    )
    return max(LONG, *(int(2 * seconds) for seconds in inner))


# Poolers


def pooler_file(
    inventory: Inventory,
    source: Source,
    pooler: Pooler,
    peers: Sequence[Pooler],
    databases: list[Item],
    main: Sequence[Item] = (),
    trusted: Sequence[str] = (),
    shared_by: int = 1,
    unit: str = "pybouncer",
) -> PoolerFile:
    """One pooler's ini file: the source, with what is this host's own.

    *shared_by* poolers share what PostgreSQL grants; 0: this one's pools are not
    PostgreSQL's business.
    """
    changes = [Item("listen_port", str(pooler.port)), *listen_addr(source, pooler)]
    changes += main
    if not source.of("pgbouncer").get("pidfile"):
        if not any(item.key == "pidfile" for item in main):
            path = f"/run/{unit}/pgbouncer.pid"
            changes.append(
                Item("pidfile", path, "a restart by takeover (-R -d) needs it")
            )
    peer_items: list[Item] = []
    peer_id = 0
    if len(peers) > 1:
        peer_id = peers.index(pooler) + 1
        changes.append(
            Item("peer_id", str(peer_id), "a cancel that lands elsewhere comes here")
        )
        peer_items = [
            Item(str(rank), f"host={peer.address} port={peer.port}")
            for rank, peer in enumerate(peers, 1)
        ]
    if inventory.sizes.connections and shared_by:
        share = max(1, inventory.sizes.connections // shared_by)
        why = (
            f"{inventory.sizes.connections} connections granted by PostgreSQL, "
            f"shared by {shared_by} poolers"
        )
        changes.append(Item("default_pool_size", str(share), why))
        changes.append(Item("max_db_connections", str(share), "never more, all users"))
        databases = [capped(item, share, why) for item in databases]
    return PoolerFile(
        pooler=pooler,
        peer_id=peer_id,
        databases=databases,
        main=merged_main(source, changes),
        ours=own_sections(
            inventory,
            source,
            [item.key for item in databases],
            health_settings(inventory, pooler, trusted),
        ),
        users=[Item(name, value) for name, value in source.of("users").items()],
        peers=peer_items,
        unit=unit,
        descriptors=descriptors(source),
    )


def listen_addr(source: Source, pooler: Pooler) -> list[Item]:
    """Listen where balancers can come, unless the source already does."""
    given = source.settings.listen_addr
    here = pooler.address in ("localhost", "::1") or pooler.address.startswith("127.")
    names = {name.strip() for name in given.split(",")}
    if given and (here or not names <= {"localhost", "127.0.0.1", "::1"}):
        return []
    return [Item("listen_addr", "*", "balancers come over TCP")]


def capped(item: Item, share: int, why: str) -> Item:
    """A line of [databases] whose own sizes do not exceed the share."""
    given = values(item.value)
    changes: dict[str, str | None] = {
        key: str(share)
        for key in ("pool_size", "max_db_connections")
        if key in given and (number_of(given[key]) or share + 1) > share
    }
    if not changes:
        return item
    return replace(item, value=replaced(item.value, changes), why=item.why or why)


def number_of(text: str) -> int:
    """The number in *text*, 0 when there is none."""
    return int(text) if text.isascii() and text.isdigit() else 0


def merged_main(source: Source, changes: list[Item]) -> list[Item]:
    """[pgbouncer] of the source with the changes; a peer_id of old is none of ours."""
    kept = {k: v for k, v in source.of("pgbouncer").items() if k != "peer_id"}
    return merged(kept, changes)


def own_sections(
    inventory: Inventory,
    source: Source,
    databases: Sequence[str],
    changes: Sequence[Item],
) -> dict[str, list[Item]]:
    """[pybouncer] with *changes*, and our settings of single databases and users.

    What the source says of a database holds for its second name among *databases*, too.
    """
    if not inventory.ours:
        return {}
    lines = dict(source.of(OWN_DATABASES))
    for name, line in source.of(OWN_DATABASES).items():
        if name + READERS in databases:
            lines.setdefault(name + READERS, line)
    sections = {
        OURS: merged(source.of(OURS), changes),
        OWN_DATABASES: [Item(name, line) for name, line in lines.items()],
        OWN_USERS: [Item(name, line) for name, line in source.of(OWN_USERS).items()],
    }
    return {name: items for name, items in sections.items() if items}


def health_settings(
    inventory: Inventory, pooler: Pooler, trusted: Sequence[str]
) -> list[Item]:
    """What balancers need of a pooler: health, and PROXY headers from them alone."""
    changes = [
        Item(
            "health_listen",
            f"{pooler.address}:{pooler.health_port}",
            "asked by HAProxy's checks",
        )
    ]
    if inventory.agent:
        changes.append(
            Item(
                "agent_listen",
                f"{pooler.address}:{pooler.agent_port}",
                "tells HAProxy weight, drain and maxconn",
            )
        )
    if inventory.health_user:
        changes.append(
            Item(
                "health_user",
                inventory.health_user,
                "asks a database before its first client does",
            )
        )
    if inventory.proxy_protocol and trusted:
        changes.append(
            Item(
                "proxy_protocol_networks",
                ", ".join(trusted),
                "only these may say who a client is",
            )
        )
    return changes


def descriptors(source: Source) -> int:
    """LimitNOFILE: two for each client is more than enough, and room for files."""
    return 2 * max(source.settings.max_client_conn, 100) + 1024


def same_databases(source: Source) -> list[Item]:
    """[databases] of the source, unchanged."""
    return [Item(name, value) for name, value in source.of("databases").items()]


def pointed_databases(
    source: Source, host: str | None, port: int, suffix: str = "", why: str = ""
) -> list[Item]:
    """[databases] of the source, all pointed at one place; *host* None is unix."""
    items = []
    for name, value in source.of("databases").items():
        changes: dict[str, str | None] = {"host": host, "port": str(port)}
        if suffix and name == "*":
            continue
        if suffix and "dbname" not in values(value):
            # The alias has another name than the database behind it.
            changes["dbname"] = name
        items.append(Item(name + suffix, replaced(value, changes), why))
        why = ""
    return items


# HAProxy


def pooler_servers(
    inventory: Inventory, poolers: Sequence[Pooler], backup: bool = False
) -> tuple[Server, ...]:
    """Server lines that lead to poolers."""
    ours = inventory.ours
    return tuple(
        Server(
            pooler.name,
            pooler.address,
            pooler.port,
            check_port=pooler.health_port if ours else 0,
            agent_port=pooler.agent_port if ours and inventory.agent else 0,
            backup=backup,
        )
        for pooler in poolers
    )


def node_servers(nodes: Sequence[Node]) -> tuple[Server, ...]:
    """Server lines that lead to PostgreSQL."""
    return tuple(
        Server(node.name, node.address, node.port, check_port=node.rest_port)
        for node in nodes
    )


def pooler_listen(
    inventory: Inventory,
    source: Source,
    poolers: Sequence[Pooler],
    name: str,
    bind: str,
    why: str,
    check: str = "ready",
) -> Listen:
    """A listen in front of poolers that all lead to the same place."""
    balancers = 1 if inventory.vip else max(1, len(inventory.balancers))
    listen = Listen(
        name=name,
        bind=bind,
        of="pooler" if inventory.ours else "inband",
        check=check,
        database=first_database(source),
        servers=pooler_servers(inventory, poolers),
        why=why,
        maxconn=per_balancer(source.settings.max_client_conn, inventory),
        proxy=inventory.ours and inventory.proxy_protocol,
        slowstart="15s",
        share=balancers,
    )
    return with_last_resort(listen)


def with_last_resort(listen: Listen) -> Listen:
    """*listen* with the poolers that hold clients as its last resort.

    A balancer that has nobody else closes the connection; PAUSE of all poolers would
    be errors instead of latency.
    """
    if listen.of != "pooler":
        # An SSLRequest is answered by a pooler that is paused or full, too.
        return listen
    held = replace(
        listen,
        name=f"{listen.name}_held",
        bind="",
        fallbacks=(),
        held=True,
        slowstart="",
        agent_role="",
        servers=tuple(replace(server, agent_port=0) for server in listen.servers),
        why=f"{listen.name} has nobody to send clients to: let them wait at a pooler "
        "that is paused or full, instead of refusing them",
    )
    return replace(listen, fallbacks=(*listen.fallbacks, held))


def postgres_listens(inventory: Inventory) -> list[Listen]:
    """The pooler's own HAProxy: writes to the primary, reads to standbys."""
    servers = node_servers(inventory.nodes)
    ports = inventory.ports
    grant = inventory.sizes.connections or 100
    on_primary = Listen(
        name="pg_ro_on_primary",
        bind="",
        of="patroni",
        check="primary",
        servers=servers,
        why="no standby is left: let readers use the primary instead of refusing them",
        maxconn=max(1, grant // 2),
    )
    return [
        Listen(
            name="pg_rw",
            bind=f"127.0.0.1:{ports.local_write}",
            of="patroni",
            check="primary",
            servers=servers,
            why="writes: the node that Patroni calls primary",
            maxconn=grant,
        ),
        Listen(
            name="pg_ro",
            bind=f"127.0.0.1:{ports.local_read}",
            of="patroni",
            check="replica",
            lag=inventory.lag,
            servers=servers,
            why=f"reads: standbys that are at most {inventory.lag} behind",
            maxconn=grant,
            slowstart="15s",
            fallbacks=(on_primary,),
        ),
    ]


def client_bind(inventory: Inventory, port: int) -> str:
    """Where clients of a balancer connect."""
    address = inventory.vip.bare if inventory.vip else inventory.ports.bind
    return f"{address}:{port}"


def balancer_hosts(
    inventory: Inventory, listens: Callable[[Balancer], list[Listen]]
) -> list[Host]:
    """One host for each balancer; with a VIP they are a pair of equals."""
    hosts = []
    for rank, balancer in enumerate(inventory.balancers):
        others = [one.address for one in inventory.balancers if one is not balancer]
        hosts.append(
            Host(
                balancer.name,
                listens=listens(balancer),
                keepalived=inventory.vip is not None,
                priority=110 - 10 * rank,
                peer_addresses=tuple(others),
                address=balancer.address,
            )
        )
    return hosts


def balancer_networks(inventory: Inventory) -> list[str]:
    """Who may send PROXY headers; the kernel may choose the shared address, too."""
    found = [balancer.address.strip("[]") for balancer in inventory.balancers]
    return [*found, inventory.vip.bare] if inventory.vip else found
