"""`pybouncer ha render`: write every file of a layout, host by host.

The tree below --out mirrors the hosts: OUT/HOST/etc/haproxy/haproxy.cfg and so on, so
that one rsync per host puts it in place. Templates hold the wording and the reasons;
what is in them was decided in `ha.layouts`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from bouncer.config.load import BESIDE
from ha.errors import HAError, InventoryError
from ha.ini import Source, item_key
from ha.inventory import Inventory, Paths, load
from ha.layouts import LAYOUTS, Layout
from ha.parts import Host, PoolerFile, idle_limit, room

# Where keepalived asks HAProxy of its own host.
ALIVE_PORT = 6490
CHECK_SCRIPT = "/etc/keepalived/check-haproxy"
HAPROXY_FILE = "/etc/haproxy/haproxy.cfg"
START_STATE = "/etc/haproxy/server-state.start"
# Seconds for which a pod that is to go still accepts: endpoints and kube-proxy lag.
POD_DRAIN = 10
# Connections that are no client's: checks, dashboards, the socket.
SPARE = 200


@dataclass(frozen=True, slots=True)
class Rendered:
    """One file: host, its absolute path there, text and mode."""

    host: str
    path: str
    text: str
    mode: int = 0o644

    def below(self, out: Path) -> Path:
        """Where it is written."""
        return out / self.host / self.path.lstrip("/")


def environment() -> jinja2.Environment:
    """Templates in which an unknown name is an error."""
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # Configuration files are not HTML.
        autoescape=False,
    )
    env.filters["item_key"] = item_key
    return env


def render(layout_name: str, inventory: Inventory, source: Source) -> list[Rendered]:
    """All files of a layout."""
    layout = LAYOUTS[layout_name]
    for needed in layout.needs:
        if not getattr(inventory, needed):
            raise InventoryError(f"the layout {layout.name} needs [[{needed}]]")
    return list(Renderer(layout, inventory, source).files())


class Renderer:
    """Renders the hosts of one layout."""

    def __init__(self, layout: Layout, inventory: Inventory, source: Source) -> None:
        self.layout = layout
        self.inventory = inventory
        self.source = source
        self.env = environment()
        self.common = {
            "layout": layout,
            "inventory": inventory,
            "source_name": os.path.basename(source.path),
            "idle_limit": idle_limit(source),
            "alive_port": ALIVE_PORT,
            "check_script": CHECK_SCRIPT,
            "start_state": START_STATE,
        }

    def text(self, template: str, **values: Any) -> str:
        """One template, filled in."""
        return self.env.get_template(template).render(self.common | values)

    def files(self) -> Iterator[Rendered]:
        """Every file of every host."""
        hosts = self.layout.hosts(self.inventory, self.source)
        if self.layout.name == "kubernetes":
            yield from self.kubernetes(hosts[0])
            return
        for host in hosts:
            if host.listens:
                yield from self.haproxy(host)
            if host.keepalived:
                yield from self.keepalived(host)
            for file in host.poolers:
                yield from self.pooler(host, file)
        if self.layout.name == "rolling":
            text = self.text("rolling-restart.j2")
            yield Rendered("", "rolling-restart", text, 0o755)

    def haproxy(self, host: Host) -> Iterator[Rendered]:
        """haproxy.cfg and what keeps its state over a reload."""
        maxconn = SPARE + sum(
            one.maxconn * len(one.servers)
            for listen in host.listens
            for one in (listen, *listen.fallbacks)
        )
        text = self.text("haproxy.cfg.j2", host=host, maxconn=maxconn)
        yield Rendered(host.name, HAPROXY_FILE, text)
        yield Rendered(
            host.name,
            "/etc/systemd/system/haproxy.service.d/pybouncer.conf",
            self.text("haproxy-dropin.conf.j2", maxconn=maxconn),
        )
        yield Rendered(host.name, START_STATE, state_at_start(host))

    def keepalived(self, host: Host) -> Iterator[Rendered]:
        """keepalived.conf, its check, and the address that is not ours yet."""
        text = self.text("keepalived.conf.j2", host=host)
        yield Rendered(host.name, "/etc/keepalived/keepalived.conf", text)
        yield Rendered(host.name, CHECK_SCRIPT, self.text("check-haproxy.j2"), 0o755)
        yield Rendered(
            host.name, "/etc/sysctl.d/60-haproxy-vip.conf", self.text("vip.sysctl.j2")
        )

    def pooler(self, host: Host, file: PoolerFile) -> Iterator[Rendered]:
        """pgbouncer.ini, our own settings beside it, and its unit."""
        suffix = file.unit.removeprefix("pybouncer")
        path = f"{self.inventory.paths.pooler_etc}/pgbouncer{suffix}.ini"
        # May hold passwords, as the file it came from.
        text = self.text("pgbouncer.ini.j2", file=file)
        yield Rendered(host.name, path, text, 0o600)
        if file.ours:
            text = self.text("beside.ini.j2", file=file)
            yield Rendered(host.name, path + BESIDE, text, 0o600)
        yield Rendered(
            host.name,
            f"/etc/systemd/system/{file.unit}.service",
            self.text("pybouncer.service.j2", file=file, ini_path=path),
        )

    def kubernetes(self, host: Host) -> Iterator[Rendered]:
        """One manifest, and a HAProxy for those who want one."""
        file = host.poolers[0]
        inis = {"pgbouncer.ini": self.text("pgbouncer.ini.j2", file=file)}
        if file.ours:
            beside = self.text("beside.ini.j2", file=file)
            inis["pgbouncer.ini" + BESIDE] = beside
        given = self.inventory.paths.pooler_binary
        text = self.text(
            "kubernetes.yaml.j2",
            file=file,
            inis=inis,
            # In an image it is wherever PATH leads, unless the inventory says more.
            binary="pgbouncer" if given == Paths().pooler_binary else given,
            drain_seconds=POD_DRAIN,
            max_clients=self.source.settings.max_client_conn,
        )
        yield Rendered("", f"{self.inventory.name}.yaml", text, 0o600)
        limit = room(self.source.settings.max_client_conn)
        text = self.text(
            "kubernetes-haproxy.cfg.j2",
            file=file,
            server_maxconn=limit,
            maxconn=SPARE + limit * self.inventory.kubernetes.replicas,
        )
        yield Rendered("", "haproxy.cfg", text)


STATE_COLUMNS = (
    "be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight"
    " srv_iweight srv_time_since_last_change srv_check_status srv_check_result"
    " srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id"
    " srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr"
    " srv_agent_addr srv_agent_port"
)


def state_at_start(host: Host) -> str:
    """A server-state file in which servers with a role are down until checked.

    HAProxy calls every server up until its first check; for that second, writes
    would go to a standby. Found by name: the ids need not be right.
    """
    lines = ["1", f"# {STATE_COLUMNS}"]
    for listen in host.listens:
        for one in (listen, *listen.fallbacks):
            if one.check == "ready":
                continue
            for rank, server in enumerate(one.servers, 1):
                lines.append(
                    f"0 {one.name} {rank} {server.name} - 0 0 100 100 0 1 0 0 6 0 0 "
                    f"0 - {server.port} - 0 {server.check_port} - - 0"
                )
    return "\n".join(lines) + "\n"


def write(files: list[Rendered], out: Path) -> list[tuple[str, Path]]:
    """Write the files; says of each whether it is new, changed or unchanged."""
    outcome = []
    for file in files:
        path = file.below(out)
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text() if path.exists() else None
        if before != file.text:
            new = path.with_name(path.name + ".new")
            with open(
                os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, file.mode), "w"
            ) as to:
                to.write(file.text)
            os.chmod(new, file.mode)
            new.rename(path)
        word = "new" if before is None else "changed" if before != file.text else "same"
        outcome.append((word, path))
    return outcome


def run(options: argparse.Namespace) -> int:
    """`pybouncer ha render LAYOUT --from INI --inventory FILE --out DIR`."""
    inventory = load(options.inventory)
    source = Source.read(options.source)
    files = render(options.layout, inventory, source)
    try:
        outcome = write(files, Path(options.out))
    except OSError as problem:
        raise HAError(f"{problem.filename}: {problem.strerror}") from None
    for word, path in outcome:
        print(f"{word:8}{path}")
    return 0
