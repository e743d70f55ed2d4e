"""The arithmetic of rendered files: what must fit together across hosts.

`test_render.py` shows that HAProxy, keepalived and systemd accept the files. A limit
that is far too low is accepted as well; here the numbers are worked out.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from ha.ini import Item, Source, values
from ha.inventory import Pooler
from ha.layouts import (
    central_room,
    failover_settings,
    own_files,
    reader_of,
    statement_settings,
)
from ha.parts import capped, descriptors, idle_limit, listen_addr, per_balancer, room
from ha.render import Rendered
from tests.ha.test_lint import TIMERS
from tests.ha.test_render import (
    SOURCE,
    inis,
    inventory_for,
    rendered,
)

# Of the process, beside the sessions of clients: checks, dashboards, the socket.
SPARE = 200


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return source_of(tmp_path)


def source_of(directory: Path, more: str = "", without: str = "") -> Source:
    """The ini file of `test_render.py` with other settings."""
    path = directory / "pgbouncer.ini"
    text = SOURCE + more
    if without:
        assert without in text
        text = text.replace(without, "")
    path.write_text(text)
    return Source.read(str(path))


def haproxies(files: list[Rendered]) -> dict[str, str]:
    """Every haproxy.cfg by its host."""
    return {f.host: f.text for f in files if f.path.endswith("haproxy.cfg")}


def global_maxconn(text: str) -> int:
    """The limit of the process."""
    found = re.search(r"^global\n(?:    .*\n)*?    maxconn (\d+)$", text, re.M)
    assert found
    return int(found[1])


def proxies(text: str) -> dict[str, tuple[int, int]]:
    """Of each proxy: sessions to one server, and how many servers there are."""
    return {
        part.split()[0]: (
            int(re.search(r"default-server weight 100 maxconn (\d+)", part)[1]),  # type: ignore[index]
            len(re.findall(r"^    server ", part, re.M)),
        )
        for part in re.split(r"^(?:listen|backend) ", text, flags=re.M)[1:]
    }


# Sessions


@pytest.mark.parametrize(
    ("limit", "sessions"),
    [(0, 1), (1, 1), (2, 1), (9, 8), (10, 9), (20, 18), (99, 90), (100, 90),
     (101, 91), (1000, 990)],
)  # fmt: skip
def test_pooler_keeps_a_tenth_but_at_most_ten_for_checks_and_consoles(
    limit: int, sessions: int
) -> None:
    assert room(limit) == sessions


@pytest.mark.parametrize(
    ("layout", "balancers", "share"),
    [("farm", 2, 495), ("farm", 1, 990), ("farm", 0, 990), ("vip", 2, 990)],
)
def test_balancers_share_a_pooler_but_of_a_pair_only_one_is_at_work(
    layout: str, balancers: int, share: int, tmp_path: Path
) -> None:
    """A pair with a shared address sent half of what the poolers take."""
    whole = inventory_for(layout, tmp_path)
    inventory = dataclasses.replace(whole, balancers=whole.balancers[:balancers])
    assert per_balancer(1000, inventory) == share


def test_share_of_a_balancer_is_never_nothing(tmp_path: Path) -> None:
    assert per_balancer(2, inventory_for("farm", tmp_path)) == 1


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("farm", {"orders": (495, 3), "orders_held": (495, 3)}),
        ("vip", {"orders": (990, 3), "orders_held": (990, 3)}),
        ("regions", None),
        # A pooler of the primary is in two of these.
        ("db-hosts", {
            "rw": (247, 2), "rw_held": (247, 2), "ro": (247, 2),
            "ro_on_primary": (247, 2), "ro_held": (247, 2)
        }),
        ("cascade", {"central": (495, 2), "central_held": (495, 2)}),
        ("split", {"rw": (495, 3), "rw_held": (495, 3),
                   "ro": (495, 3), "ro_held": (495, 3)}),
    ],
)  # fmt: skip
def test_process_takes_what_its_servers_take_and_a_few_more(
    layout: str,
    expected: dict[str, tuple[int, int]] | None,
    tmp_path: Path,
    source: Source,
) -> None:
    """A limit far too low stops accepting before the servers are full."""
    files = rendered(layout, tmp_path, source)
    text = haproxies(files)["lb1"]
    found = proxies(text)
    if expected is not None:
        assert found == expected
    total = SPARE + sum(maxconn * servers for maxconn, servers in found.values())
    assert global_maxconn(text) == total
    drop_in = next(
        f for f in files if f.path.endswith("haproxy.service.d/pybouncer.conf")
    )
    # Two descriptors for each session.
    assert f"\nLimitNOFILE={2 * total + 1024}\n" in drop_in.text


def test_poolers_own_haproxy_takes_what_postgresql_grants(
    tmp_path: Path, source: Source
) -> None:
    text = haproxies(rendered("patroni", tmp_path, source))["p1"]
    # Readers that use the primary leave half of it to writers.
    assert proxies(text) == {
        "pg_rw": (90, 2), "pg_ro": (90, 2), "pg_ro_on_primary": (45, 2)
    }  # fmt: skip
    assert global_maxconn(text) == SPARE + 450
    sizes = dataclasses.replace(inventory_for("patroni", tmp_path).sizes, connections=0)
    text = haproxies(rendered("patroni", tmp_path, source, sizes=sizes))["p1"]
    assert proxies(text)["pg_rw"] == (100, 2)
    assert proxies(text)["pg_ro_on_primary"] == (50, 2)


@pytest.mark.parametrize("replicas", [1, 3, 7])
def test_haproxy_in_a_cluster_takes_what_all_pods_take(
    replicas: int, tmp_path: Path, source: Source
) -> None:
    """With the sessions of one pod only, the others got nobody."""
    names = dataclasses.replace(
        inventory_for("kubernetes", tmp_path).kubernetes, replicas=replicas
    )
    files = rendered("kubernetes", tmp_path, source, kubernetes=names)
    text = haproxies(files)[""]
    assert global_maxconn(text) == SPARE + 990 * replicas
    assert "default-server weight 100 maxconn 990\n" in text
    # While pods are replaced there may be twice as many.
    assert f"server-template pod {2 * replicas} " in text
    # Nobody sends a PROXY header, so nobody may be believed.
    assert "send-proxy" not in text
    assert "proxy_protocol_networks" not in files[0].text


def test_descriptors_are_two_for_each_client_and_room_for_files(
    tmp_path: Path,
) -> None:
    assert descriptors(source_of(tmp_path)) == 3024
    few = source_of(tmp_path, "max_client_conn = 99\n")
    assert descriptors(few) == 1224
    units = [
        file.text
        for file in rendered("farm", tmp_path, source_of(tmp_path))
        if file.path.endswith("pybouncer.service")
    ]
    assert len(units) == 3
    assert all("\nLimitNOFILE=3024\n" in unit for unit in units)


# Timers


@pytest.mark.parametrize("setting", TIMERS)
def test_haproxys_timers_are_twice_the_longest_of_the_pooler(
    setting: str, tmp_path: Path
) -> None:
    for seconds, limit in ((14400, 28800), (14401, 28802), (0, 28800)):
        more = f"{setting} = {seconds}\n"
        told = source_of(tmp_path, more, without="client_idle_timeout = 50000\n")
        assert idle_limit(told) == limit


@pytest.mark.parametrize(
    ("more", "changed"),
    [
        ("", {"server_login_retry": "1"}),
        ("server_login_retry = 1\n", {}),
        ("server_login_retry = 0.5\n", {}),
        ("server_login_retry = 1\nquery_wait_timeout = 59\n",
         {"query_wait_timeout": "60"}),
        ("server_login_retry = 1\nquery_wait_timeout = 60\n", {}),
        # For ever is long enough.
        ("server_login_retry = 1\nquery_wait_timeout = 0\n", {}),
    ],
)  # fmt: skip
def test_failover_is_waited_for_and_what_waits_longer_is_left(
    more: str, changed: dict[str, str], tmp_path: Path
) -> None:
    items = failover_settings(source_of(tmp_path, more))
    assert {item.key: item.value for item in items} == changed


@pytest.mark.parametrize(("number", "changed"), [(0, ["100"]), (1, []), (200, [])])
def test_statements_are_tracked_at_a_hop_that_did_not(
    number: int, changed: list[str], tmp_path: Path
) -> None:
    told = source_of(tmp_path, f"max_prepared_statements = {number}\n")
    assert [item.value for item in statement_settings(told)] == changed


# Connections


@pytest.mark.parametrize(
    ("given", "capped_to"),
    [
        ("pool_size=40", {"pool_size": "30"}),
        ("pool_size=30", {"pool_size": "30"}),
        ("pool_size=29", {"pool_size": "29"}),
        # Without a limit of its own there is none.
        ("pool_size=0", {"pool_size": "30"}),
        ("max_db_connections=31 pool_size=5",
         {"max_db_connections": "30", "pool_size": "5"}),
        ("host=h", {"host": "h"}),
    ],
)  # fmt: skip
def test_sizes_of_a_database_do_not_exceed_the_share(
    given: str, capped_to: dict[str, str]
) -> None:
    assert values(capped(Item("db", given), 30, "why").value) == capped_to


def test_poolers_of_both_roles_share_what_is_granted_once_for_each_role(
    tmp_path: Path, source: Source
) -> None:
    """Writers and readers use different servers: three of each share 90."""
    found = inis(rendered("split", tmp_path, source), tmp_path)
    assert len(found) == 6
    assert {one.settings.default_pool_size for one in found.values()} == {30}
    # Only the primary's pooler writes: each may use the whole grant.
    found = inis(rendered("db-hosts", tmp_path, source), tmp_path / "db")
    assert {one.settings.default_pool_size for one in found.values()} == {90}


def test_outer_poolers_have_small_pools_and_central_ones_share(
    tmp_path: Path, source: Source
) -> None:
    found = inis(rendered("cascade", tmp_path, source), tmp_path)
    sizes = {name: one.settings.default_pool_size for name, one in found.items()}
    assert sizes == {
        "c1.ini": 45, "c2.ini": 45, "p1.ini": 4, "p2.ini": 4, "p3.ini": 4
    }  # fmt: skip
    assert found["p1.ini"].databases["app"].pool_size is None
    # Peers are those of one tier; an outer one has none.
    assert sorted(found["c1.ini"].peers) == [1, 2]
    assert not found["p1.ini"].peers


@pytest.mark.parametrize(
    ("limit", "central", "needed"),
    [
        # 3 outer poolers x 40 x 2 databases, one central pooler lost, a fifth more
        (307, 2, ["308"]),
        (308, 2, []),
        (1, 3, ["164"]),
        (1, 1, ["308"]),
    ],
)
def test_central_poolers_take_all_outer_pools_with_one_of_them_lost(
    limit: int, central: int, needed: list[str], tmp_path: Path
) -> None:
    whole = inventory_for("cascade", tmp_path)
    beside = [Pooler(name=f"c{n}", address=f"192.0.2.{n}") for n in range(central)]
    inventory = dataclasses.replace(
        whole,
        central=tuple(beside),
        sizes=dataclasses.replace(whole.sizes, outer_pool=40),
    )
    told = source_of(tmp_path, f"max_client_conn = {limit}\n")
    assert [item.value for item in central_room(inventory, told)] == needed


# Places


@pytest.mark.parametrize(
    ("given", "address", "opened"),
    [
        ("localhost", "192.0.2.11", True),
        ("127.0.0.1, ::1", "192.0.2.11", True),
        ("localhost, 192.0.2.11", "192.0.2.11", False),
        ("*", "192.0.2.11", False),
        ("", "192.0.2.11", True),
        ("localhost", "127.0.0.5", False),
        ("localhost", "localhost", False),
        ("", "127.0.0.5", True),
    ],
)
def test_pooler_listens_where_balancers_can_come(
    given: str, address: str, opened: bool, tmp_path: Path
) -> None:
    told = source_of(tmp_path, f"listen_addr = {given}\n")
    items = listen_addr(told, Pooler(name="p", address=address))
    assert [item.value for item in items] == (["*"] if opened else [])


def test_second_process_of_a_host_has_ports_and_files_of_its_own(
    source: Source,
) -> None:
    first = Pooler(name="p", address="192.0.2.11")
    second = reader_of(first)
    ports = [
        (one.name, one.port, one.health_port, one.agent_port) for one in (first, second)
    ]
    assert ports == [("p", 6432, 6480, 6481), ("p-ro", 6433, 6482, 6483)]
    assert {item.key: item.value for item in own_files(source)} == {
        "pidfile": "/run/pgbouncer/pgbouncer-ro.pid",
        "logfile": "/var/log/pgbouncer/pgbouncer-ro.log",
    }


def test_pair_has_one_master_and_both_may_send_proxy_headers(
    tmp_path: Path, source: Source
) -> None:
    files = rendered("vip", tmp_path, source)
    ranks = {
        file.host: re.findall(r"^ *priority (\d+)$", file.text, re.M)
        for file in files
        if file.path.endswith("keepalived.conf")
    }
    assert ranks == {"lb1": ["110"], "lb2": ["100"]}
    trusted = inis(files, tmp_path)["p1.ini"].settings.proxy_protocol_networks
    assert trusted == "192.0.2.1, 192.0.2.2, 192.0.2.100"


def test_servers_with_a_role_are_down_at_the_start_and_others_are_not(
    tmp_path: Path, source: Source
) -> None:
    def listed(layout: str, host: str) -> list[list[str]]:
        """Proxy, rank, server, state, port and port of its check."""
        files = rendered(layout, tmp_path, source)
        state = next(
            f.text
            for f in files
            if f.host == host and f.path.endswith("server-state.start")
        )
        head, columns, *lines = state.splitlines()
        names = columns.removeprefix("# ").split()
        assert head == "1" and len(names) == 25
        rows = [dict(zip(names, line.split(), strict=True)) for line in lines]
        kept = ("be_name", "srv_id", "srv_name", "srv_op_state", "srv_port",
                "srv_check_port")  # fmt: skip
        return [[row[key] for key in kept] for row in rows]

    assert listed("farm", "lb1") == []
    assert listed("patroni", "p1") == [
        [name, str(rank), f"n{rank}", "0", "5432", "8008"]
        for name in ("pg_rw", "pg_ro", "pg_ro_on_primary")
        for rank in (1, 2)
    ]
