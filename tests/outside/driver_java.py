"""pgjdbc: Debian's and a newer one, and both on the console in all query modes.

The newer one is Debian's next, taken out of its package; nothing is installed.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.outside.frame import PASSED, Outcome, Place, judge
from tests.outside.sources import SUITE_OF_18, Apt, mirrors, once, run
from tests.support.ground import Unusable

JAVA = ("java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
JAR = Path("/usr/share/java/postgresql.jar")
CONSOLE = Path(__file__).parents[1] / "live/zoo/ConsoleJdbc.java"
MODES = ("simple", "extended", "extendedForPrepared", "extendedCacheEverything")
LONGEST = 120  # seconds that one mode on the console may take


def newer_jar(place: Place) -> Path:
    """The jar of Debian's next release."""

    def make(directory: Path) -> None:
        plain = {suite: at for suite, at in mirrors().items() if "-" not in suite}
        archives = {SUITE_OF_18: next(iter(plain.values()))}
        apt = Apt(place.cache / "apt-18", archives)
        with tempfile.TemporaryDirectory() as download:
            apt.get("download", "libpostgresql-jdbc-java", cwd=Path(download))
            [package] = Path(download).glob("*.deb")
            run("dpkg-deb", "--extract", package, directory)

    jar = once(place.cache / "jdbc", make) / "usr/share/java/postgresql.jar"
    return jar.resolve()


def jars(place: Place) -> dict[str, Path]:
    """What commands may name."""
    if not JAR.exists():
        raise Unusable(f"no {JAR}: apt-get install libpostgresql-jdbc-java")
    return {"jar": JAR.resolve(), "newer_jar": newer_jar(place)}


def on_console(place: Place) -> Iterator[Outcome]:
    """JDBC on the console. PostgreSQL has none: what is right stands in the program."""
    for jar in jars(place).values():
        begin = time.monotonic()
        built = place.ground.directory()
        run("javac", "-cp", jar, "-d", built, CONSOLE)
        with place.pooler({"pool_mode": "transaction"}) as pooler:
            where = {
                "PGHOST": "127.0.0.1",
                "PGPORT": str(pooler.port),
                "PGUSER": "admin",
                "PGPASSWORD": str(pooler.users["admin"]),
            }
            told = {}
            for mode in MODES:
                done = subprocess.run(
                    [*JAVA, "-cp", f"{jar}:{built}", "ConsoleJdbc", mode],
                    env={**os.environ, **where},
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    timeout=LONGEST,
                )
                told[mode] = PASSED if done.returncode == 0 else done.stderr[-300:]
        seconds = time.monotonic() - begin
        label = f"console, {jar.stem}"
        yield judge(label, dict.fromkeys(told, PASSED), told, {}, seconds)
