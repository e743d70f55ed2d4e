"""PostgreSQL's own tools through pools: dumps, restores, maintenance, psql's commands.

Every step is run directly, through a session pool and through a transaction pool, each
on fresh databases; what it prints, its exit status and the files that it makes must be
the same. The steps of a way follow each other, so that a tool finds what another has
left behind in the pool's servers; in the transaction pool they get new servers, for
there a tool's SET outlives it (docs/compatibility.md).
"""

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.outside.frame import PASSED, Outcome, Place, judge
from tests.outside.regress import ANYBODY, first_difference
from tests.support.ground import Postgres
from tests.support.pooler import RunningPooler

HERE = Path(__file__).parent
LONGEST = 120  # seconds that a tool may take
WAYS: Mapping[str, Mapping[str, object]] = {
    "session": {"pool_mode": "session", **ANYBODY},
    "transaction": {
        "pool_mode": "transaction",
        "max_prepared_statements": 200,
        **ANYBODY,
    },
}
# What differs from run to run: psql's guard of a dump, times, names of WAL files.
NOISE = (
    (rb"\\(un)?restrict \w+", rb"\\restrict"),
    (rb"(?m)^.*(latency|tps = |connection time|done in|elapsed|every ).*\n", b""),
    (rb"process with PID \d+", b"process"),
    (rb"\b[0-9A-F]{24}\b", b"SEGMENT"),
    (rb"\b[0-9A-F]+/[0-9A-F]+\b", b"LSN"),
    (rb"(LOCATION: +)(\w+), [\w.]+:\d+", rb"\1\2"),
)
# Way: step: why it differs.
MAY_FAIL: Mapping[str, dict[str, str]] = {"session": {}, "transaction": {}}


def plain(text: bytes) -> bytes:
    """*text* without what differs from run to run."""
    for pattern, instead in NOISE:
        text = re.sub(pattern, instead, text)
    return text


@dataclass
class Way:
    """Where a way's tools connect, and where they leave files."""

    place: Place
    name: str
    port: int
    directory: Path
    pooler: RunningPooler | None = None

    @property
    def database(self) -> str:
        """The database that has been filled."""
        return "tools"

    def where(self, database: str = "") -> list[str]:
        """The options that say where to connect."""
        database = database or self.database
        conninfo = f"host=127.0.0.1 port={self.port} user=postgres dbname={database}"
        return ["-d", conninfo + " sslmode=disable"]

    def run(
        self, tool: str, *words: str | Path, said: str = "", bindir: Path | None = None
    ) -> bytes:
        """Run a tool; how it ended and what it said, without what is by chance."""
        program = bindir / tool if bindir else self.place.ground.program(tool)
        done = subprocess.run(
            [program, *words],
            input=said.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LONGEST,
            cwd=self.directory,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PGTZ": "UTC"},
            **self.place.ground.identity.process_options(),
        )
        text = plain(done.stdout)
        text = text.replace(str(self.port).encode(), b"PORT")
        return b"exit status %d\n%s" % (done.returncode, text)

    def dumped(self, database: str = "") -> bytes:
        """All of a database, as pg_dump tells it."""
        return self.run("pg_dump", "--no-comments", *self.where(database))


Step = Callable[[Way], bytes]
STEPS: dict[str, Step] = {}


def step(function: Step) -> Step:
    """A step, by its function's name; they run in the order of the file."""
    STEPS[function.__name__] = function
    return function


@step
def fill(way: Way) -> bytes:
    made = way.run("createdb", *direct_words(way), way.database)
    return made + way.run("psql", "-XAt", *way.where(), "-f", HERE / "tools.sql")


def direct_words(way: Way) -> list[str]:
    """Where to connect, for a tool that knows no conninfo."""
    return ["-h", "127.0.0.1", "-p", str(way.port), "-U", "postgres"]


@step
def psql_commands(way: Way) -> bytes:
    return way.run("psql", "-Xa", *way.where(), "-f", HERE / "tools.psql")


@step
def psql_18_commands(way: Way) -> bytes:
    words = ["-Xa", *way.where(), "-f", HERE / "tools18.psql"]
    return way.run("psql", *words, bindir=way.place.ground.embedded)


@step
def psql_one_transaction(way: Way) -> bytes:
    script = "create table once (n int);\ninsert into once values (1);\nselect 1/0;\n"
    told = way.run("psql", "-X1", "-v", "ON_ERROR_STOP=1", *way.where(), said=script)
    return told + way.run("psql", "-XAtc", "table once", *way.where())


@step
def pg_dump_plain(way: Way) -> bytes:
    told = way.run("pg_dump", *way.where(), "-f", way.directory / "plain.sql")
    return told + plain((way.directory / "plain.sql").read_bytes())


@step
def pg_dump_inserts_of_a_schema(way: Way) -> bytes:
    return way.run("pg_dump", *way.where(), "--inserts", "-n", "shop", "-C")


@step
def pg_dump_custom(way: Way) -> bytes:
    told = way.run("pg_dump", *way.where(), "-Fc", "-f", way.directory / "custom")
    return told + way.run("pg_restore", "-f", "-", way.directory / "custom")


@step
def pg_dump_two_jobs(way: Way) -> bytes:
    to = way.directory / "jobs"
    told = way.run("pg_dump", *way.where(), "-Fd", "-j", "2", "-f", to)
    return told + way.run("pg_restore", "-f", "-", to)


@step
def pg_restore_two_jobs(way: Way) -> bytes:
    told = way.run("createdb", *direct_words(way), "restored")
    database = "restored"
    jobs = ("-j", "2", way.directory / "jobs")
    told += way.run("pg_restore", *way.where(database), *jobs)
    return told + way.dumped(database)


@step
def pg_restore_clean(way: Way) -> bytes:
    database = "restored"
    options = ("--clean", "--if-exists", "-1", way.directory / "custom")
    told = way.run("pg_restore", *way.where(database), *options)
    return told + way.dumped(database)


@step
def psql_of_a_dump(way: Way) -> bytes:
    told = way.run("createdb", *direct_words(way), "played")
    dump = ("-Xq", "-f", way.directory / "plain.sql")
    told += way.run("psql", *way.where("played"), *dump)
    return told + way.dumped("played")


@step
def pg_dumpall(way: Way) -> bytes:
    return way.run("pg_dumpall", *way.where("postgres"), "--globals-only")


@step
def vacuumdb(way: Way) -> bytes:
    told = way.run("vacuumdb", *way.where(), "-j", "2", "-z")
    told += way.run("vacuumdb", *direct_words(way), "-t", "shop.log", way.database)
    told += way.run("vacuumdb", *direct_words(way), "-t", "shop.none", way.database)
    return told + way.run("vacuumdb", *way.where(), "--analyze-in-stages")


@step
def reindexdb(way: Way) -> bytes:
    told = way.run("reindexdb", *way.where(), "-j", "2")
    return told + way.run("reindexdb", *way.where(), "--concurrently", "-S", "shop")


@step
def clusterdb(way: Way) -> bytes:
    return way.run("clusterdb", *way.where(), "-v")


@step
def users_and_databases(way: Way) -> bytes:
    words = direct_words(way)
    told = way.run("createuser", *words, "-d", "-l", "-c", "5", "user")
    told += way.run("createuser", *words, "user")
    told += way.run("createdb", *words, "-O", "user", "more")
    told += way.run("psql", "-XAtc", r"\l more*", *way.where("more"))
    # The pool keeps servers; FORCE ends them, and the pool gets over it.
    told += way.run("dropdb", *words, "-f", "more")
    told += way.run("dropdb", *words, "more")
    told += way.run("dropuser", *words, "user")
    return told + way.run("psql", "-XAtc", "select 1", *way.where("more"))


@step
def pg_isready(way: Way) -> bytes:
    return way.run("pg_isready", *direct_words(way), "-d", way.database)


@step
def pg_amcheck(way: Way) -> bytes:
    options = ("--install-missing", "-j", "2", "-d", way.database)
    return way.run("pg_amcheck", *direct_words(way), *options)


@step
def vacuumlo(way: Way) -> bytes:
    return way.run("vacuumlo", "-v", *direct_words(way), way.database)


@step
def pgbench(way: Way) -> bytes:
    told = way.run("pgbench", "-i", "-q", *direct_words(way), way.database)
    for mode in ("simple", "extended", "prepared"):
        words = ("-n", "-M", mode, "-c", "4", "-j", "2", "-t", "25", "--no-vacuum")
        told += way.run("pgbench", *words, *direct_words(way), way.database)
    script = "\\startpipeline\n" + "select :client_id;\n" * 5 + "\\endpipeline\n"
    (way.directory / "pipeline").write_text(script)
    words = ("-n", "-M", "prepared", "-c", "2", "-t", "20", "-f", "pipeline")
    told += way.run("pgbench", *words, *direct_words(way), way.database)
    sums = "select sum(abalance) = (select sum(delta) from pgbench_history)"
    return told + way.run(
        "psql", "-XAtc", f"{sums} from pgbench_accounts", *way.where()
    )


@step
def pg_receivewal(way: Way) -> bytes:
    words, slot = direct_words(way), ("-S", "slot")
    told = way.run("pg_receivewal", *words, *slot, "--create-slot")
    server = way.place.ground.postgresql
    server.query("select pg_switch_wal()")
    end = server.query("select pg_current_wal_lsn()")[0][0]
    # It stops at what comes behind the end.
    server.query("create table behind as select 1")
    server.query("drop table behind")
    server.query("select pg_switch_wal()")
    to = way.directory / "wal"
    to.mkdir()
    way.place.ground.identity.own(to)
    options = ("-D", to, "-n", "-E", end, "--synchronous")
    told += way.run("pg_receivewal", *words, *slot, *options)
    whole = [path for path in sorted(to.iterdir()) if path.suffix != ".partial"]
    same = [
        path.read_bytes() == (server.directory / "data/pg_wal" / path.name).read_bytes()
        for path in whole
    ]
    told += b"received: %s\n" % (
        b"as the server's" if same and all(same) else b"other bytes"
    )
    return told + way.run("pg_receivewal", *words, *slot, "--drop-slot")


@step
def pg_basebackup(way: Way) -> bytes:
    to = way.directory / "backup"
    told = way.run(
        *("pg_basebackup", *direct_words(way), "-D", to, "-X", "stream"),
        *("--checkpoint=fast", "--no-sync"),
    )
    return told + way.run("pg_verifybackup", "-q", "-n", to)


@step
def pg_recvlogical(way: Way) -> bytes:
    slot = (*way.where(), "-S", "logical")
    told = way.run("pg_recvlogical", *slot, "--create-slot", "-P", "test_decoding")
    server = way.place.ground.postgresql
    server.query("create table decoded as select 1 as n", way.database)
    server.query("drop table decoded", way.database)
    end = server.query("select pg_current_wal_lsn()")[0][0]
    options = ("--start", "-n", "-E", end, "-o", "include-xids=0", "-f", "-")
    told += way.run("pg_recvlogical", *slot, *options)
    return told + way.run("pg_recvlogical", *slot, "--drop-slot")


def play(way: Way) -> dict[str, bytes]:
    """Every step, in order."""
    found = {}
    for name, function in STEPS.items():
        found[name] = function(way)
        # What `fill` does to the database itself is for new servers.
        if way.pooler and (way.name == "transaction" or function is fill):
            way.pooler.console("RECONNECT")
    return found


def make_way(place: Place, name: str, port: int) -> Way:
    """A way with an empty directory."""
    return Way(place, name, port, place.ground.directory())


def forget(server: Postgres, way: Way) -> None:
    """Take away what a way has made."""
    shutil.rmtree(way.directory, ignore_errors=True)
    for database in ("tools", "restored", "played", "more"):
        server.query(f"drop database if exists {database} (force)")


def tools(place: Place) -> Iterator[Outcome]:
    server = place.ground.postgresql
    direct = make_way(place, "direct", server.port)
    told = play(direct)
    forget(server, direct)
    passed = dict.fromkeys(told, PASSED)
    for name, ini in WAYS.items():
        begin = time.monotonic()
        with place.pooler(ini, {"*": "{pg}"}, {"postgres": "", "admin": ""}) as pooler:
            way = make_way(place, name, pooler.port)
            way.pooler = pooler
            ours = play(way)
        forget(server, way)
        found = {
            step: PASSED if text == told[step] else first_difference(told[step], text)
            for step, text in ours.items()
        }
        seconds = time.monotonic() - begin
        yield judge(f"tools, {name}", passed, found, MAY_FAIL[name], seconds)
