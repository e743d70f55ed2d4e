"""Drivers by real programs: three copies of each at a time, direct and through pools.

The programs are in `programs`, whose README.md says what each does. What a copy prints
through us must be what it prints directly, line by line. Where the mode lets them share
the pools have fewer servers than the copies have connections: one for each copy, which
may be asleep, and one more. And one copy is alone with a pool of one server: there is
nothing that could differ by which server comes.
"""

import contextlib
import functools
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.outside.driver_java import JAVA, jars
from tests.outside.driver_suites import GO, of_libpq, python_of_suites
from tests.outside.frame import PASSED, Outcome, Place, judge
from tests.support.ground import Unusable

PROGRAMS = Path(__file__).with_name("programs")
COPIES = 3
LONGEST = 120  # seconds that the copies may take
NODE = Path("node") / "node_modules"  # in the cache, by .ci/run


@dataclass(frozen=True)
class Pool:
    """A pooler to play the programs through."""

    mode: str
    statements: int  # max_prepared_statements
    copies: int = COPIES

    @property
    def name(self) -> str:
        """What its outcomes are called."""
        alone = " alone" if self.copies == 1 else ""
        return f"{self.mode} {self.statements}{alone}"

    @property
    def servers(self) -> int:
        """Between how many servers a connection comes and goes."""
        return 1 if self.mode == "session" or self.copies == 1 else self.copies + 1

    @property
    def ini(self) -> dict[str, object]:
        """Its settings. In a session three copies hold up to five servers each."""
        return {
            "pool_mode": self.mode,
            "max_prepared_statements": self.statements,
            "default_pool_size": 24 if self.mode == "session" else self.servers,
        }

    def environment(self, copy: int) -> dict[str, str]:
        """What a program is told of it: see README.md."""
        return {
            "PGAPPNAME": f"app_{copy}",
            "APP_ID": str(copy),
            "APP_SESSION": str(int(self.mode == "session")),
            "APP_BLOCKS": str(int(self.mode != "statement")),
            "APP_SERVERS": str(self.servers),
        }


POOLS = (
    *(Pool("session", 200), Pool("session", 0)),
    *(Pool("transaction", 200), Pool("transaction", 0)),
    *(Pool("transaction", 200, 1), Pool("transaction", 0, 1)),
    *(Pool("statement", 200), Pool("statement", 0)),
)


@dataclass(frozen=True)
class Driver:
    """A driver, and the ways in which its program uses it."""

    command: tuple[str, ...]
    # Those whose statements have names need a pooler that follows these.
    named: tuple[tuple[str, ...], ...] = ()
    unnamed: tuple[tuple[str, ...], ...] = ()
    build: tuple[str, ...] = ()
    # Whether it can do without blocks of its own, for statement pooling.
    single: bool = False

    def plays(self, way: tuple[str, ...], pool: Pool) -> bool:
        """Whether *way* can be asked of *pool*."""
        follows = pool.mode == "session" or pool.statements > 0
        return (follows or way in self.unnamed) and (
            self.single or pool.mode != "statement"
        )


def jdbc(jar: str, place: str) -> Driver:
    """pgjdbc out of *jar*, in all of its query modes."""
    return Driver(
        (*JAVA, "-cp", f"{jar}:{{built}}/{place}", "App"),
        named=(("extended", "1"), ("extended", "5"), ("extendedCacheEverything", "1"))
        + (("extendedForPrepared", "2"),),
        unnamed=(("simple", "0"), ("extended", "0"), ("extendedForPrepared", "0")),
        build=("javac", "-cp", jar, "-d", f"{{built}}/{place}", "{programs}/App.java"),
        single=True,
    )


def go(name: str, **ways: tuple[tuple[str, ...], ...]) -> Driver:
    """A program in Go."""
    target = f"{{built}}/{name}"
    build = ("go", "build", "-o", target, f"{{programs}}/{name}.go")
    return Driver((target,), build=build, **ways)


DRIVERS = {
    "lib/pq": go("libpq", named=(("no",), ("yes",))),
    "pgx": go("pgx", named=(("prepare",), ("describe",)), unnamed=(("simple",),)),
    "JDBC": jdbc("{jar}", "jdbc"),
    "JDBC newer": jdbc("{newer_jar}", "newer"),
    "psycopg": Driver(
        ("{python}", "{programs}/with_psycopg.py"),
        named=(("0", "text"), ("5", "binary")),
        unnamed=(("none", "text"), ("none", "binary")),
    ),
    "psycopg2": Driver(("{python}", "{programs}/with_psycopg2.py"), unnamed=((),)),
    "ruby-pg": Driver(
        ("ruby", "{programs}/with_ruby.rb"), named=(("named",),), unnamed=(("none",),)
    ),
    "DBD::Pg": Driver(
        ("perl", "{programs}/with_perl.pl"), named=(("1",),), unnamed=(("0",),)
    ),
    "PDO": Driver(
        ("php", "{programs}/with_php.php"),
        named=(("native",),),
        unnamed=(("emulated",), ("unnamed",)),
    ),
    "node-postgres": Driver(
        ("node", "{programs}/with_node.js"), named=(("named",),), unnamed=(("none",),)
    ),
}


class Programs:
    """Builds the programs and runs them."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.built = place.ground.directory()
        self.names = {
            "built": str(self.built),
            "programs": str(PROGRAMS),
            "python": str(python_of_suites(place)),
        }
        self.environment = {**os.environ, **GO, "GOCACHE": str(place.cache / "go")}
        self.environment.setdefault("NODE_PATH", str(place.cache / NODE))

    def words(self, given: Sequence[str]) -> list[str]:
        """A command with the names of this run put in."""
        return [word.format(**self.names) for word in given]

    def build(self, driver: Driver) -> None:
        """Compile a driver's program, if need be."""
        if JAVA[0] in driver.command:
            paths = jars(self.place).items()
            self.names |= {name: str(path) for name, path in paths}
        if not driver.build:
            return
        try:
            done = subprocess.run(
                self.words(driver.build),
                env=self.environment,
                capture_output=True,
                text=True,
            )
        except OSError as error:
            raise Unusable(str(error)) from None
        if done.returncode:
            raise Unusable(done.stderr[-1000:])

    def told(self, driver: Driver, way: Sequence[str], port: int, pool: Pool) -> str:
        """What the copies print, one behind the other."""
        copies = []
        for number in range(pool.copies):
            more = {**of_libpq(port, "p0"), **pool.environment(number)}
            copies.append(
                subprocess.Popen(
                    self.words([*driver.command, *way]),
                    env={**self.environment, **more},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        found = []
        for copy in copies:
            try:
                text, complaint = copy.communicate(timeout=LONGEST)
            except subprocess.TimeoutExpired:
                copy.kill()
                text, complaint = copy.communicate()
                text += "hung\n"
            # Warnings hang on when an error arrives.
            if copy.returncode:
                text += f"{complaint.strip()[-200:]}\n"
            found.append(f"{text}exit status {copy.returncode}\n")
        return "".join(found)


def difference(direct: str, ours: str) -> str:
    """PASSED, or the first line that is another."""
    if direct == ours:
        return PASSED
    here, there = direct.splitlines(), ours.splitlines()
    pairs = zip([*here, ""], [*there, ""], strict=False)
    return next((f"{two!r}, not {one!r}" for one, two in pairs if one != two), "more")


def play(programs: Programs, name: str, ports: dict[Pool, int]) -> Iterator[Outcome]:
    """One driver, in each of its ways through each pooler.

    It is a fault of the program, or of the machine, when it does not work directly.
    """
    driver, begin = DRIVERS[name], time.monotonic()
    programs.build(driver)
    direct, ours = {}, {}
    for way in [*driver.named, *driver.unnamed]:
        known: dict[tuple[str, int], str] = {}  # what is said without a pooler
        for pool in POOLS:
            if not driver.plays(way, pool):
                continue
            kind = (pool.mode, pool.servers)
            if kind not in known:
                port = programs.place.ground.postgresql.port
                known[kind] = programs.told(driver, way, port, pool)
            told = known[kind]
            label = " ".join([*way, pool.name])
            fine = told.count("exit status 0\n") == pool.copies
            direct[label] = PASSED if fine else told[-300:]
            ours[label] = difference(
                told, programs.told(driver, way, ports[pool], pool)
            )
        if programs.place.short:
            break
    seconds = time.monotonic() - begin
    label = f"program, {name}"
    yield judge(label, direct, ours, {}, seconds)
    if broken := {f"{way}, directly": why for way, why in direct.items() if why}:
        yield Outcome(label, 0, 0, 0, {}, broken)


def program(place: Place, name: str) -> Iterator[Outcome]:
    """One driver; that it is missing on this machine is a failure."""
    made = Programs(place)
    users = {"postgres": "", "admin": ""}
    with contextlib.ExitStack() as stack:
        poolers = [
            stack.enter_context(place.pooler(pool.ini, users=users)) for pool in POOLS
        ]
        ports = {pool: one.port for pool, one in zip(POOLS, poolers, strict=True)}
        yield from play(made, name, ports)


def parts() -> dict[str, Callable[[Place], Iterator[Outcome]]]:
    """A part for each driver."""
    return {
        "program-" + re.sub(r"\W+", "-", name.lower()): functools.partial(
            program, name=name
        )
        for name in DRIVERS
    }
