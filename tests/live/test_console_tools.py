"""The console as programs use it: psql, Debian's exporter, check_postgres."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.replay.lab import Unusable
from tests.replay.pooler import wait_for
from tests.support.real import find_real


@pytest.fixture
def console(pooler):
    """A pooler whose console is asked."""
    return pooler({"pool_mode": "transaction"})


# psql


def test_psql_expands_rows(console, program):
    where = console.conninfo("pgbouncer", "admin")
    told = program("psql", "-XAt", where, input="\\x\nSHOW POOLS;\n", stdin=None)
    lines = dict(line.split("|", 1) for line in told.splitlines() if "|" in line)
    assert lines["database"] == "pgbouncer"
    assert lines["pool_mode"] == "statement"
    assert list(lines)[:3] == ["database", "user", "cl_active"]


def test_psql_watches(console, lab):
    where = console.conninfo("pgbouncer", "admin")
    process = subprocess.Popen(
        [lab.program("psql"), "-XAtq", where],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write("SHOW VERSION \\watch 0.1\n")
        process.stdin.flush()
        seen = 0
        while seen < 3:
            line = process.stdout.readline()
            assert line, "psql ended"
            seen += line == "PgBouncer 1.26.1\n"
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_psql_groups_and_joins(console, program):
    where = console.conninfo("pgbouncer", "admin")
    with console.connect() as client:
        client.execute("begin")
        client.execute("select 1")
        told = program(
            "psql",
            "-XAtc",
            "SELECT c.user, c.state, s.state, s.link = c.ptr "
            "FROM clients c JOIN servers s ON s.link = c.ptr",
            where,
        )
        assert told == "u_trust|active|active|1\n"
        client.execute("commit")
    told = program(
        "psql",
        "-XAtc",
        "SELECT database, sum(total_xact_count) FROM stats GROUP BY 1 ORDER BY 1",
        where,
    )
    # Each console counts once, at its first command.
    assert told == "p0|1\npgbouncer|2\n"


def test_stats_users_may_select_but_not_change(console, lab):
    def psql(sql):
        return subprocess.run(
            [lab.program("psql"), "-XAtc", sql, console.conninfo("pgbouncer", "stats")],
            capture_output=True,
            text=True,
            timeout=20,
        )

    assert psql("SELECT count(*) FROM config WHERE key LIKE 'pool%'").stdout != ""
    refused = psql("SET verbose = 1")
    assert refused.returncode == 1
    assert "admin access needed" in refused.stderr


# prometheus-pgbouncer-exporter (Debian)

# Each of its collectors by itself: two of the four fail on every PgBouncer of today,
# because they read columns that were renamed in 1.8 and 1.24 (STATS total_requests,
# DATABASES reserve_pool). A faithful replacement fails with them.
COLLECT = """
import json, sys
from prometheus_pgbouncer_exporter import collectors
from prometheus_pgbouncer_exporter.utils import get_connection
connection = get_connection("admin", sys.argv[1], "127.0.0.1")
found = {}
for name in ("Lists", "Pools", "Stats", "Databases"):
    kind = getattr(collectors, name + "Collector")
    more = {} if name == "Lists" else {"databases": None}
    try:
        found[name] = [
            [sample[0], sample[1], sample[2]]
            for family in kind(connection=connection, **more).collect()
            for sample in family.samples
        ]
    except KeyError as error:
        found[name] = "KeyError " + error.args[0]
print(json.dumps(found))
"""


@pytest.fixture
def collect(skip_or_fail):
    """Run the exporter's collectors against a port."""
    skip_or_fail(
        "prometheus-pgbouncer-exporter", "apt-get install prometheus-pgbouncer-exporter"
    )

    def run(port):
        done = subprocess.run(
            ["/usr/bin/python3", "-c", COLLECT, str(port)],
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_debian_exporter_scrapes(console, collect):
    with console.connect() as client:
        client.execute("select 1")
        found = collect(console.port)
    lists = {name: value for name, _, value in found["Lists"]}
    assert lists["pgbouncer_databases"] == 3
    assert lists["pgbouncer_used_clients"] == 2
    assert lists["pgbouncer_used_servers"] == 1
    assert len(lists) == 12
    pools = {
        (name, labels["database"]): value for name, labels, value in found["Pools"]
    }
    assert {database for _, database in pools} == {"p0", "pgbouncer"}
    assert pools["pgbouncer_active_clients", "p0"] == 1
    assert pools["pgbouncer_waiting_clients", "p0"] == 0
    assert found["Stats"] == "KeyError total_requests"
    assert found["Databases"] == "KeyError reserve_pool"


def test_debian_exporter_sees_what_it_sees_of_the_real_one(
    console, collect, pooler, lab, free_port
):
    try:
        peer = find_real(lab.identity)
    except Unusable as problem:
        pytest.skip(str(problem))
    if peer.version < (1, 26, 0):
        pytest.skip(f"compares with PgBouncer 1.26, not with {peer}")
    real = pooler({"pool_mode": "transaction"}, command=[peer.path])
    scrapes = []
    for one in (console, real):
        with one.connect() as client:
            client.execute("select 1")
            found = collect(one.port)
        scrapes.append(
            {
                collector: samples
                if isinstance(samples, str)
                else sorted(
                    [name, sorted(labels.items())] for name, labels, _ in samples
                )
                for collector, samples in found.items()
            }
        )
    assert scrapes[0] == scrapes[1]


# check_postgres (Debian)


@pytest.fixture
def check(skip_or_fail, console, lab):
    """Run an action of check_postgres; what it says."""
    skip_or_fail("check_postgres", "apt-get install check-postgres")
    environment = {
        "PATH": f"{Path(lab.program('psql')).parent}:/usr/bin:/bin",
        "PGPASSWORD": console.users["admin"],
        "HOME": str(console.directory),
    }

    def run(action, *options):
        done = subprocess.run(
            [
                shutil.which("check_postgres") or "check_postgres",
                f"--action={action}",
                "--host=127.0.0.1",
                f"--port={console.port}",
                "--dbuser=admin",
                *options,
            ],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
        )
        return done.stdout + done.stderr

    return run


@pytest.mark.parametrize(
    "action",
    [
        "pgb_pool_cl_active",
        "pgb_pool_cl_waiting",
        "pgb_pool_sv_active",
        "pgb_pool_sv_idle",
        "pgb_pool_sv_used",
        "pgb_pool_sv_tested",
        "pgb_pool_sv_login",
        "pgb_pool_maxwait",
    ],
)
def test_check_postgres_reads_the_pools(console, check, action):
    with console.connect() as client:
        client.execute("select 1")
        told = check(action, "--warning=50", "--critical=100")
    assert told.startswith(f"POSTGRES_{action.upper()} OK"), told
    assert re.search(r"\bp0=\d+", told), told


def test_check_postgres_counts_clients(console, check):
    clients = [console.connect() for _ in range(3)]
    wait_for(lambda: console.pool()["cl_active"] == 3, 5)
    told = check("pgbouncer_backends", "--warning=80", "--critical=90")
    for client in clients:
        client.close()
    assert told.startswith("POSTGRES_PGBOUNCER_BACKENDS OK"), told
    assert re.search(r"[34] of 100 connections", told), told


def test_check_postgres_checksum_changes_with_the_configuration(console, check):
    """Names, order and spelling of SHOW CONFIG are hashed; known for each release."""
    first = re.search(r"checksum: (\w+)", check("pgbouncer_checksum", "--critical=0"))
    again = re.search(r"checksum: (\w+)", check("pgbouncer_checksum", "--critical=0"))
    assert first is not None
    assert again is not None
    assert first[1] == again[1]
    console.console("SET query_timeout = '1.5'")
    third = re.search(r"checksum: (\w+)", check("pgbouncer_checksum", "--critical=0"))
    assert third is not None
    assert third[1] != first[1]
