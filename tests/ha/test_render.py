"""Rendered files: complete, consistent, and accepted by what they are made for."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from bouncer.config.load import load as load_ini
from bouncer.config.settings import Configuration
from ha.cfg import Config
from ha.cli import main
from ha.errors import HAError, InventoryError
from ha.ini import Source
from ha.inventory import Inventory, load, parse
from ha.layouts import LAYOUTS
from ha.lint import findings, read
from ha.render import Rendered, render
from tests.conftest import need
from tests.ha.balancer import INSTALL, accepts
from tests.support.systemd import unit_settings

INVENTORY = """\
name = "orders"
health_user = "monitor"

[[balancers]]
name = "lb1"
address = "192.0.2.1"
zone = "a"

[[balancers]]
name = "lb2"
address = "192.0.2.2"
zone = "b"

[[poolers]]
name = "p1"
address = "192.0.2.11"
zone = "a"

[[poolers]]
name = "p2"
address = "192.0.2.12"
zone = "b"

[[poolers]]
name = "p3"
address = "192.0.2.13"
zone = "b"

[[central]]
name = "c1"
address = "192.0.2.31"

[[central]]
name = "c2"
address = "192.0.2.32"

[[nodes]]
name = "n1"
address = "192.0.2.21"

[[nodes]]
name = "n2"
address = "192.0.2.22"

[sizes]
connections = 90

[vip]
address = "192.0.2.100/24"
interface = "eth0"
"""

SOURCE = """\
; the one that was written by hand
[databases]
app = host=db.example port=5432 password='it''s a secret' pool_size=40
'odd name' = host=db.example dbname=odd
* = host=db.example
[users]
bob = pool_mode=session
[peers]
7 = host=old.example
[pgbouncer]
auth_type = scram-sha-256
auth_file = /etc/pgbouncer/userlist.txt
listen_addr = localhost
pool_mode = transaction
max_client_conn = 1000
peer_id = 7
logfile = /var/log/pgbouncer/pgbouncer.log
pidfile = /run/pgbouncer/pgbouncer.pid
client_idle_timeout = 50000
"""

EVERY = [(name, flavour) for name in LAYOUTS for flavour in ("pybouncer", "pgbouncer")]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    path = tmp_path / "pgbouncer.ini"
    path.write_text(SOURCE)
    return Source.read(str(path))


def inventory_for(layout: str, tmp_path: Path, **changes) -> Inventory:
    path = tmp_path / "inventory.toml"
    path.write_text(INVENTORY)
    whole = load(path)
    if layout != "vip":
        whole = dataclasses.replace(whole, vip=None)
    if layout == "db-hosts":
        whole = dataclasses.replace(whole, poolers=())
    return dataclasses.replace(whole, **changes)


def rendered(layout: str, tmp_path: Path, source: Source, **changes) -> list[Rendered]:
    return render(layout, inventory_for(layout, tmp_path, **changes), source)


def written(file: Rendered, directory: Path) -> Path:
    path = file.below(directory)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(file.text)
    return path


def ini_files(files: list[Rendered], directory: Path) -> dict[str, Path]:
    """Ini files by host and name, written with what stands beside them."""
    paths = [written(file, directory) for file in files if ".ini" in file.path]
    return {
        f"{path.relative_to(directory).parts[0]}"
        f"{path.name.removeprefix('pgbouncer')}": path
        for path in paths
        if path.suffix == ".ini"
    }


def inis(files: list[Rendered], directory: Path) -> dict[str, Configuration]:
    """Every ini file as it counts."""
    return {
        name: load_ini(str(path)) for name, path in ini_files(files, directory).items()
    }


@pytest.mark.parametrize(("layout", "flavour"), EVERY)
def test_haproxy_accepts_every_layout_without_a_warning(
    layout, flavour, tmp_path, source
):
    need("haproxy", INSTALL)
    files = rendered(layout, tmp_path, source, flavour=flavour)
    configs = [file for file in files if file.path.endswith("haproxy.cfg")]
    state = tmp_path / "server-state"
    for file in files:
        if file.path.endswith("server-state.start"):
            state.write_text(file.text)
    assert configs
    for file in configs:
        text = file.text.replace("/var/lib/haproxy/server-state", str(state))
        text = text.replace("/run/haproxy/", f"{tmp_path}/").replace(
            "/dev/log local0", "stdout format raw local0"
        )
        # Servers that are down until checked are news, not complaints.
        complaints = [
            line
            for line in accepts(text, tmp_path).splitlines()
            if "changed from server-state" not in line
        ]
        assert not complaints, file.host


@pytest.mark.parametrize(("layout", "flavour"), EVERY)
def test_our_linter_has_nothing_against_our_templates(
    layout, flavour, tmp_path, source
):
    files = rendered(layout, tmp_path, source, flavour=flavour)
    paths = [
        str(written(file, tmp_path / "out"))
        for file in files
        if file.path.endswith("haproxy.cfg")
    ]
    paths += map(str, ini_files(files, tmp_path / "out").values())
    known = {"waits-add-up"}
    if layout == "kubernetes":
        # A pod has no file system that would outlive it.
        known.add("forgets-drains")
    found = [one for one in findings(read(paths)) if one.rule not in known]
    assert not found, [one.place() for one in found]


@pytest.mark.parametrize(("layout", "flavour"), EVERY)
def test_rendered_ini_files_load_and_keep_the_source(layout, flavour, tmp_path, source):
    files = rendered(layout, tmp_path, source, flavour=flavour)
    assert all(file.mode == 0o600 for file in files if ".ini" in file.path)
    paths = ini_files(files, tmp_path / "out")
    assert paths or layout == "kubernetes"
    for path in paths.values():
        configuration = load_ini(str(path))
        settings = configuration.settings
        assert settings.pool_mode == "transaction"
        assert settings.auth_file == "/etc/pgbouncer/userlist.txt"
        assert configuration.users["bob"].pool_mode == "session"
        assert configuration.databases["app"].password == "it's a secret"
        assert configuration.autodb is not None
        # PgBouncer starts on it, whoever it was rendered for.
        assert "[pybouncer" not in path.read_text()


def test_own_settings_of_the_source_stand_beside_the_rendered_file(tmp_path):
    path = tmp_path / "pgbouncer.ini"
    path.write_text(
        f"{SOURCE}\n[pybouncer]\nlog_format = json\n"
        "[pybouncer.databases]\napp = parallel_logins=3\n* = parallel_logins=2\n"
    )
    path.with_name("pgbouncer.ini.pybouncer").write_text(
        "[pybouncer]\nlog_details = 1\n[pybouncer.users]\nbob = parallel_logins=4\n"
    )
    source = Source.read(str(path))
    for flavour in ("pybouncer", "pgbouncer"):
        files = rendered("patroni", tmp_path, source, flavour=flavour)
        ini = ini_files(files, tmp_path / flavour)["p1.ini"]
        assert "[pybouncer" not in ini.read_text()
        beside = ini.with_name("pgbouncer.ini.pybouncer")
        assert beside.exists() == (flavour == "pybouncer")
    found = load_ini(str(tmp_path / "pybouncer/p1/etc/pgbouncer/pgbouncer.ini"))
    assert found.settings.log_format == "json"
    assert found.settings.log_details == 1
    assert found.settings.health_listen == "192.0.2.11:6480"
    databases = {name: dict(own.values) for name, own in found.own.databases.items()}
    assert databases == {
        "app": {"parallel_logins": 3},
        "app_ro": {"parallel_logins": 3},
        "*": {"parallel_logins": 2},
    }
    assert dict(found.own.users["bob"].values) == {"parallel_logins": 4}


def test_peers_and_server_lines_come_from_the_same_list(tmp_path, source):
    files = rendered("farm", tmp_path, source)
    loaded = inis(files, tmp_path).values()
    peers = [
        {number: (peer.host, peer.port) for number, peer in ini.peers.items()}
        for ini in loaded
    ]
    assert peers[0] == peers[1] == peers[2]
    assert sorted(ini.settings.peer_id for ini in loaded) == [1, 2, 3]
    text = next(file.text for file in files if file.path.endswith("haproxy.cfg"))
    lines = re.findall(r"^ +server \S+ (\S+):(\d+) ", text, re.M)
    assert {(host, int(port)) for host, port in lines} == set(peers[0].values())


def test_connections_are_shared_and_never_exceeded(tmp_path, source):
    files = rendered("farm", tmp_path, source)
    for ini in inis(files, tmp_path).values():
        assert ini.settings.default_pool_size == 30
        assert ini.settings.max_db_connections == 30
        assert ini.databases["app"].pool_size == 30
    unshared = dataclasses.replace(inventory_for("farm", tmp_path).sizes, connections=0)
    files = rendered("farm", tmp_path, source, sizes=unshared)
    for path in ini_files(files, tmp_path / "out").values():
        ini = load_ini(str(path))
        assert ini.databases["app"].pool_size == 40
        assert "default_pool_size" not in path.read_text()


def test_limits_and_timers_fit_together(tmp_path, source):
    for file in rendered("farm", tmp_path, source):
        if not file.path.endswith("haproxy.cfg"):
            continue
        config = Config.parse(file.text, "x")
        section = next(config.of("listen"))
        assert section.timeout("client")[0] == section.timeout("server")[0] == 100000
        # Two balancers, a limit of 1000, ten kept free.
        assert "maxconn 495" in file.text
        assert "share=2" in file.text


def test_debian_listen_addr_is_opened_for_balancers(tmp_path, source):
    files = rendered("farm", tmp_path, source)
    for ini in inis(files, tmp_path).values():
        assert ini.settings.listen_addr == "*"


def test_databases_lead_where_the_layout_says(tmp_path, source):
    def targets(layout: str, name: str) -> dict[str, tuple[str | None, int, str]]:
        files = rendered(layout, tmp_path, source)
        ini = inis(files, tmp_path / layout)[name]
        return {
            key: (one.host, one.port, one.dbname) for key, one in ini.databases.items()
        }

    assert targets("farm", "p1.ini")["odd name"] == ("db.example", 5432, "odd")
    patroni = targets("patroni", "p1.ini")
    assert patroni["app"] == ("127.0.0.1", 5000, "app")
    assert patroni["app_ro"] == ("127.0.0.1", 5001, "app")
    assert patroni["odd name_ro"] == ("127.0.0.1", 5001, "odd")
    assert targets("db-hosts", "n1.ini")["app"] == ("/var/run/postgresql", 5432, "app")
    outer = targets("cascade", "p1.ini")
    assert outer["app"] == ("192.0.2.1,192.0.2.2", 6432, "app")
    # The central pooler knows it by this name.
    assert outer["odd name"] == ("192.0.2.1,192.0.2.2", 6432, "odd name")
    assert targets("cascade", "c1.ini")["odd name"] == ("db.example", 5432, "odd")
    assert targets("split", "p1-rw.ini")["app"] == ("127.0.0.1", 5000, "app")
    assert targets("split", "p1-ro.ini")["app"] == ("127.0.0.1", 5001, "app")


def test_processes_of_one_host_share_no_file(tmp_path, source):
    loaded = inis(rendered("split", tmp_path, source), tmp_path)
    write, read_ = (loaded[name].settings for name in ("p1-rw.ini", "p1-ro.ini"))
    for name in ("pidfile", "logfile", "listen_port", "health_listen", "agent_listen"):
        assert getattr(write, name) != getattr(read_, name), name


def test_cascade_tracks_statements_at_both_hops(tmp_path):
    path = tmp_path / "pgbouncer.ini"
    path.write_text(SOURCE + "max_prepared_statements = 0\n")
    inventory = inventory_for("cascade", tmp_path)
    loaded = inis(render("cascade", inventory, Source.read(str(path))), tmp_path)
    assert [ini.settings.max_prepared_statements for ini in loaded.values()] == [
        100
    ] * 5


def test_regions_prefer_their_own_zone(tmp_path, source):
    files = rendered("regions", tmp_path, source)
    texts = {f.host: f.text for f in files if f.path.endswith("haproxy.cfg")}
    assert re.search(r"server p1 .*check(?!.*backup)", texts["lb1"])
    assert re.search(r"server p2 .*backup$", texts["lb1"], re.M)
    assert re.search(r"server p1 .*backup$", texts["lb2"], re.M)
    assert "option allbackups" in texts["lb1"]


def test_keepalived_accepts_its_file(tmp_path, source):
    need("keepalived", "apt-get install keepalived")
    interfaces = [name for _, name in socket.if_nameindex() if name != "lo"]
    if not interfaces:
        pytest.skip("keepalived wants an interface besides lo")
    for file in rendered("vip", tmp_path, source):
        if not file.path.endswith("keepalived.conf"):
            continue
        script = tmp_path / "check-haproxy"
        script.write_text("#!/bin/sh\n")
        script.chmod(0o755)
        path = tmp_path / "keepalived.conf"
        text = file.text.replace("/etc/keepalived/check-haproxy", str(script))
        path.write_text(text.replace("interface eth0", f"interface {interfaces[0]}"))
        program = shutil.which("keepalived", path="/usr/sbin:/sbin:/usr/bin")
        done = subprocess.run(
            [program, "-t", "-f", path], capture_output=True, text=True
        )
        complaints = [
            line
            for line in (done.stdout + done.stderr).splitlines()
            # A test's directory is nobody's idea of a safe place for scripts.
            if line.strip() and "insecure" not in line.lower()
            and "SECURITY VIOLATION" not in line
        ]  # fmt: skip
        assert not complaints, complaints


def test_systemd_accepts_the_units(tmp_path, source):
    need("systemd-analyze", "apt-get install systemd")
    paths = {}
    for layout in ("farm", "split"):
        # The hosts of a layout have the same units.
        for file in rendered(layout, tmp_path, source):
            if file.path.endswith(".service"):
                path = paths[Path(file.path).name] = tmp_path / Path(file.path).name
                path.write_text(file.text.replace("/usr/sbin/pgbouncer", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *paths.values()],
        capture_output=True, text=True,
    )  # fmt: skip
    mine = [x for x in done.stderr.splitlines() if any(name in x for name in paths)]
    assert len(paths) == 3 and not mine, mine


def units(layout, flavour, tmp_path, source):
    files = rendered(layout, tmp_path, source, flavour=flavour)
    return {
        Path(file.path).name: unit_settings(written(file, tmp_path / "out"))
        for file in files
        if file.path.endswith(".service")
    }


PACKAGED = Path(__file__).resolve().parents[2] / "docs/packaging/systemd"


@pytest.mark.parametrize("flavour", ["pybouncer", "pgbouncer"])
def test_rendered_unit_starts_restarts_by_takeover_and_is_watched(
    flavour, tmp_path, source
):
    """It started /usr/bin/pgbouncer, which Debian has not, and systemd heard only the
    process that a takeover replaces."""
    unit = units("farm", flavour, tmp_path, source)["pybouncer.service"]
    assert unit["ExecStart"].startswith("/usr/sbin/pgbouncer ")
    assert unit["NotifyAccess"] == "all"
    # PgBouncer itself knows no watchdog.
    assert ("WatchdogSec" in unit) == (flavour == "pybouncer")


def test_rendered_unit_is_as_closed_as_the_packaged_one(tmp_path, source):
    unit = units("farm", "pybouncer", tmp_path, source)["pybouncer.service"]
    packaged = unit_settings(PACKAGED / "pybouncer.service")
    closed = re.compile("Protect|Restrict.+s$|Lock|NoNew|PrivateD|SystemCall|Capab")
    names = [name for name in packaged if closed.match(name)]
    assert len(names) > 15
    assert {n: unit.get(n) for n in names} == {n: packaged[n] for n in names}


@pytest.mark.parametrize("layout", ["farm", "split"])
def test_rendered_ini_has_a_pidfile_that_the_unit_makes_room_for(layout, tmp_path):
    """`-R -d`, the restart that is recommended, ended in FATAL without."""
    path = tmp_path / "pgbouncer.ini"
    path.write_text(re.sub("pidfile.*\n", "", SOURCE))
    bare = Source.read(str(path))
    found = units(layout, "pybouncer", tmp_path, bare)
    loaded = inis(rendered(layout, tmp_path, bare), tmp_path)
    told = {ini.settings.pidfile for ini in loaded.values()}
    assert told == {
        f"/run/{unit['RuntimeDirectory']}/pgbouncer.pid" for unit in found.values()
    }


def test_kubernetes_manifest(tmp_path, source):
    yaml = pytest.importorskip("yaml", reason="needs PyYAML: pip install pyyaml")
    manifest = rendered("kubernetes", tmp_path, source)[0]
    parts = {f"{p['kind']}": p for p in yaml.safe_load_all(manifest.text)}
    assert set(parts) == {
        "ConfigMap", "Service", "StatefulSet", "PodDisruptionBudget"
    }  # fmt: skip
    ini = parts["ConfigMap"]["data"]["pgbouncer.ini"]
    assert "peer_id = @PEER_ID@" in ini
    path = tmp_path / "pod.ini"
    path.write_text(ini.replace("@PEER_ID@", "3"))
    beside = parts["ConfigMap"]["data"]["pgbouncer.ini.pybouncer"]
    path.with_name("pod.ini.pybouncer").write_text(beside)
    configuration = load_ini(str(path))
    assert (
        configuration.peers[3].host == "orders-2.orders-pods.default.svc.cluster.local"
    )
    spec = parts["StatefulSet"]["spec"]["template"]["spec"]
    container = spec["containers"][0]
    assert container["livenessProbe"]["httpGet"]["path"] == "/live"
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    stop = container["lifecycle"]["preStop"]["exec"]["command"]
    assert spec["terminationGracePeriodSeconds"] >= int(stop[1]) + 60 + 10
    assert spec["securityContext"]["runAsNonRoot"] is True
    for one in (container, *spec["initContainers"]):
        assert one["securityContext"]["readOnlyRootFilesystem"] is True
        assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"requests", "limits"} == set(one["resources"])
    assert container["command"][0] == "pgbouncer"
    assert configuration.settings.health_listen == "*:6480"
    # The pod's own number, made by the shell of the init container.
    command = spec["initContainers"][0]["command"]
    for name in ("template", "etc"):
        (tmp_path / name).mkdir()
    (tmp_path / "template/pgbouncer.ini").write_text(ini)
    (tmp_path / "template/pgbouncer.ini.pybouncer").write_text(beside)
    script = command[2].replace("/template/", f"{tmp_path}/template/")
    script = script.replace("/etc/pgbouncer/", f"{tmp_path}/etc/")
    subprocess.run(
        ["/bin/sh", "-c", script],
        check=True,
        env={"HOSTNAME": "orders-1", "PATH": os.environ["PATH"]},
    )
    assert "peer_id = 2\n" in (tmp_path / "etc/pgbouncer.ini").read_text()
    assert (tmp_path / "etc/pgbouncer.ini.pybouncer").read_text() == beside


# The command


def test_command_writes_a_tree_and_says_what_changed(tmp_path, capsys):
    (tmp_path / "inventory.toml").write_text(INVENTORY)
    (tmp_path / "pgbouncer.ini").write_text(SOURCE)
    arguments = [
        "render", "vip", "--from", str(tmp_path / "pgbouncer.ini"),
        "--inventory", str(tmp_path / "inventory.toml"), "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    assert main(arguments) == 0
    first = capsys.readouterr().out
    assert first.count("new ") == len(first.splitlines()) == 21
    ini = tmp_path / "out/p1/etc/pgbouncer/pgbouncer.ini"
    assert ini.stat().st_mode & 0o777 == 0o600
    check = tmp_path / "out/lb1/etc/keepalived/check-haproxy"
    assert check.stat().st_mode & 0o111
    ini.write_text("changed by hand")
    assert main(arguments) == 0
    again = capsys.readouterr().out
    assert again.count("same ") == 20 and f"changed {ini}" in again


@pytest.mark.parametrize(
    ("layout", "old", "new", "text"),
    [
        ("farm", "[[balancers]]", "[[balancer]]", "did you mean balancers?"),
        ("farm", 'address = "192.0.2.11"', 'adress = "x"', "did you mean address?"),
        ("farm", 'name = "p2"', 'name = "p1"', "two hosts are called p1"),
        ("farm", 'name = "p2"', 'name = "p 2"', "cannot be a name"),
        ("farm", "192.0.2.12", "192.0.2.11", "are both 192.0.2.11:6432"),
        ("farm", "192.0.2.12", "a;b", "is not an address"),
        ("farm", "connections = 90", 'connections = "90"', "is not a int"),
        ("farm", 'name = "orders"', "", "name is missing"),
        ("farm", "192.0.2.100/24", "192.0.2.100", "prefix length"),
        ("farm", 'name = "orders"', "name = ", "nvalid value"),
        ("farm", 'name = "orders"', 'name = "o"\nflavour = "x"', "write pybouncer or"),
        ("regions", 'zone = "a"', 'zone = "c"', "no pooler in zone"),
        ("regions", "x", "x", "has no [vip]"),
        ("db-hosts", 'health_user = "monitor"\n', "", "is on no node"),
    ],
)
def test_inventory_mistakes_are_named(layout, old, new, text, tmp_path, capsys):
    (tmp_path / "inventory.toml").write_text(INVENTORY.replace(old, new, 1))
    (tmp_path / "pgbouncer.ini").write_text(SOURCE)
    code = main([
        "render", layout, "--from", str(tmp_path / "pgbouncer.ini"),
        "--inventory", str(tmp_path / "inventory.toml"), "--out", str(tmp_path / "out"),
    ])  # fmt: skip
    assert code == 1
    assert text in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_layouts_say_what_they_need(tmp_path, source):
    bare = parse({"name": "x"})
    for name, layout in LAYOUTS.items():
        if layout.needs:
            with pytest.raises(InventoryError, match=layout.needs[0]):
                render(name, bare, source)
    with pytest.raises(InventoryError, match="needs"):
        render("vip", inventory_for("farm", tmp_path), source)


def test_layouts_by_role_need_somebody_to_ask_as(tmp_path, source):
    for layout in ("db-hosts", "regions"):
        with pytest.raises(InventoryError, match="set health_user"):
            rendered(layout, tmp_path, source, health_user="")
        # The original is asked by other means.
        assert rendered(layout, tmp_path, source, health_user="", flavour="pgbouncer")


def test_source_that_does_not_load_renders_nothing(tmp_path, capsys):
    (tmp_path / "bad.ini").write_text("[pgbouncer]\nfoo = 1\n")
    with pytest.raises(HAError, match="unknown parameter"):
        Source.read(str(tmp_path / "bad.ini"))


def test_ini_that_cannot_be_read_is_told_once(tmp_path, capsys):
    """The log's line stood above the same words."""
    (tmp_path / "inventory.toml").write_text(INVENTORY)
    missing, bad = tmp_path / "none.ini", tmp_path / "bad.ini"
    bad.write_text("[pgbouncer]\nlisten_port = 1\nfoo = 1\n")
    for path, told in (
        (missing, f'could not load file "{missing}": No such file or directory'),
        (bad, f"{bad}:3: unknown parameter: pgbouncer/foo"),
    ):
        code = main([
            "render", "farm", "--from", str(path), "--inventory",
            str(tmp_path / "inventory.toml"), "--out", str(tmp_path / "out"),
        ])  # fmt: skip
        assert code == 1
        assert capsys.readouterr() == ("", f"ERROR {told}\n")
