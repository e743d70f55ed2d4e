"""Drivers by real programs: three copies of each at a time, direct and through pools.

The programs are in `programs`, whose README.md says what each does. What a copy prints
through us must be what it prints directly, line by line. Where the mode lets them share
the pools have fewer servers than the copies have connections: one for each copy, which
may be asleep, and one for who wakes it.
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

from tests.outside.driver_reasons import OF_PROGRAMS
from tests.outside.driver_suites import GO, of_libpq, python_of_suites
from tests.outside.frame import PASSED, Outcome, Place, judge
from tests.support.ground import Unusable

PROGRAMS = Path(__file__).with_name("programs")
COPIES = 3
LONGEST = 120  # seconds that the copies may take
JARS = (Path("/usr/share/java/postgresql.jar"),)
WAYS = (("session", 200), ("session", 0), ("transaction", 200), ("transaction", 0))
NODE = Path("node") / "node_modules"  # in the cache, by .ci/run


@dataclass(frozen=True)
class Driver:
    """A driver, and the ways in which its program uses it."""

    command: tuple[str, ...]
    # Those whose statements have names need a pooler that follows these.
    named: tuple[tuple[str, ...], ...] = ()
    unnamed: tuple[tuple[str, ...], ...] = ()
    build: tuple[str, ...] = ()


JAVA = ("java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")


def jdbc(jar: Path, place: str) -> Driver:
    """pgjdbc out of *jar*."""
    return Driver(
        (*JAVA, "-cp", f"{jar}:{{built}}/{place}", "App"),
        named=(("extended", "1"), ("extended", "5"), ("extendedCacheEverything", "1"))
        + (("extendedForPrepared", "2"),),
        unnamed=(("simple", "0"), ("extended", "0"), ("extendedForPrepared", "0")),
        build=("javac", "-cp", str(jar), "-d", f"{{built}}/{place}")
        + ("{programs}/App.java",),
    )


def go(name: str, **ways: tuple[tuple[str, ...], ...]) -> Driver:
    """A program in Go."""
    target = f"{{built}}/{name}"
    build = ("go", "build", "-o", target, f"{{programs}}/{name}.go")
    return Driver((target,), build=build, **ways)


DRIVERS = {
    "lib/pq": go("libpq", named=(("no",), ("yes",))),
    "pgx": go("pgx", named=(("prepare",), ("describe",)), unnamed=(("simple",),)),
    "JDBC": jdbc(JARS[0], "jdbc"),
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

    def told(self, driver: Driver, way: Sequence[str], port: int, mode: str) -> str:
        """What the copies print, one behind the other."""
        copies = []
        for number in range(COPIES):
            more = {
                **of_libpq(port, "p0"),
                "PGAPPNAME": f"app_{number}",
                "APP_ID": str(number),
                "APP_SESSION": "1" if mode == "session" else "0",
            }
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


def play(programs: Programs, name: str, ports: dict[tuple[str, int], int]) -> Outcome:
    """One driver, in each of its ways through each pooler."""
    driver, begin = DRIVERS[name], time.monotonic()
    programs.build(driver)
    direct, ours = {}, {}
    for way in [*driver.named, *driver.unnamed]:
        for mode in ("session", "transaction"):
            port = programs.place.ground.postgresql.port
            told = programs.told(driver, way, port, mode)
            for through, statements in WAYS:
                if through != mode:
                    continue
                if (through, statements) == ("transaction", 0) and way in driver.named:
                    continue
                label = f"{' '.join(way)} {mode} {statements}".strip()
                fine = told.count("exit status 0\n") == COPIES
                direct[label] = PASSED if fine else told[-300:]
                got = programs.told(driver, way, ports[through, statements], mode)
                ours[label] = difference(told, got)
        if programs.place.short:
            break
    reasons = {
        key.removeprefix(f"{name}: "): why
        for key, why in OF_PROGRAMS.items()
        if key.startswith(f"{name}: ")
    }
    seconds = time.monotonic() - begin
    label = f"program, {name}"
    return judge(label, direct, ours, reasons, seconds, not programs.place.short)


def program(place: Place, name: str) -> Iterator[Outcome]:
    """One driver; that it is missing on this machine is a failure."""
    made = Programs(place)
    users = {"postgres": "", "admin": ""}
    with contextlib.ExitStack() as stack:
        poolers = [
            stack.enter_context(place.pooler(ini(*way), users=users)) for way in WAYS
        ]
        ports = {way: pooler.port for way, pooler in zip(WAYS, poolers, strict=True)}
        outcome = play(made, name, ports)
    yield outcome
    if outcome.direct < outcome.total:
        broken = {name: "its program does not work directly"}
        yield Outcome(f"program, {name}", 0, 0, 0, {}, broken)


def parts() -> dict[str, Callable[[Place], Iterator[Outcome]]]:
    """A part for each driver."""
    return {
        "program-" + re.sub(r"\W+", "-", name.lower()): functools.partial(
            program, name=name
        )
        for name in DRIVERS
    }


def ini(mode: str, statements: int) -> dict[str, object]:
    """Settings of a pooler. In a session three copies hold up to five servers each."""
    return {
        "pool_mode": mode,
        "max_prepared_statements": statements,
        "default_pool_size": 24 if mode == "session" else COPIES + 1,
    }
