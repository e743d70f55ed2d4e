"""PostgreSQL's own test suites: their source from Debian, what they are built with.

The one hard idea: this machine's apt knows no sources, and shall not. So apt is run
with a state directory of our own in the cache, whose list of sources we write; it
checks signatures with Debian's keyring. No root needed, and nothing is installed: what
a suite is compiled with is unpacked beside its source. Done once; the cache keeps it.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.outside.frame import Place
from tests.support.embedded import readable_bindir
from tests.support.ground import Unusable, installed_bindir

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
INSTALLED, EMBEDDED = 15, 18  # major versions: Debian 12's, the extra `demo`'s
SUITE_OF_18 = "forky"
# What is taken out of a source archive.
WANTED = ("src/test/regress", "src/test/isolation", "src/test/modules/libpq_pipeline")
WANTED_ALSO = ("contrib/spi",)
LONGEST = 600  # seconds that a command may take


def run(*command: object, cwd: Path | None = None) -> str:
    """What *command* prints; Unusable with its own words when it fails."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=LONGEST,
            cwd=cwd,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unusable(f"{words[0]}: {error}") from None
    if done.returncode:
        raise Unusable(f"{words[0]} failed:\n{(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def mirrors() -> dict[str, str]:
    """Suite and address of the Debian archives that this machine's apt knows."""
    query = (
        *("apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)"),
        *("Origin: Debian", "Component: main"),
    )
    told = run(*query)
    if not told.strip():  # it tells only of lists that it has
        run("apt-get", "-qq", "update")
        told = run(*query)
    found = [line.split() for line in told.splitlines() if len(line.split()) == 2]
    if not found:
        raise Unusable("apt knows of no Debian archive")
    return dict(found)


class Apt:
    """apt with a state of our own, which also knows sources."""

    def __init__(self, state: Path, archives: dict[str, str]) -> None:
        for name in ("lists/partial", "archives/partial"):
            (state / name).mkdir(parents=True, exist_ok=True)
        (state / "status").touch()
        lines = [
            f"{kind} [signed-by={KEYRING}] {address} {suite} main\n"
            for suite, address in archives.items()
            for kind in ("deb", "deb-src")
        ]
        (state / "sources.list").write_text("".join(lines))
        settings = {
            "Dir::State": state,
            "Dir::State::lists": state / "lists",
            "Dir::State::status": state / "status",
            "Dir::Cache": state,
            "Dir::Cache::archives": state / "archives",
            "Dir::Etc::SourceList": state / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        self.options = [
            w for name, at in settings.items() for w in ("-o", f"{name}={at}")
        ]
        self.get("update")

    def get(self, *words: str, cwd: Path | None = None) -> None:
        """Run apt-get."""
        run("apt-get", "-qq", *self.options, *words, cwd=cwd)

    def source(self, package: str, directory: Path) -> Path:
        """Download the newest source of *package* that can be had; its archive."""
        told = run("apt-cache", *self.options, "showsrc", "--only-source", package)
        versions = sorted(
            re.findall(r"(?m)^Version: (\S+)", told),
            key=lambda v: [int(n) for n in re.findall(r"\d+", v)],
        )
        problem = f"no source of {package}"
        # A mirror may lack what its index names.
        for version in reversed(versions):
            try:
                self.get(
                    "source", "--download-only", f"{package}={version}", cwd=directory
                )
            except Unusable as error:
                problem = str(error)
                continue
            return next(directory.glob("*.orig.tar.*[!c]"))
        raise Unusable(problem)


def once(path: Path, make: Callable[[Path], None]) -> Path:
    """*path*, made by *make* in a place of its own, whole or not at all."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as new:
            place = Path(new, "made")
            place.mkdir()
            make(place)
            place.rename(path)
    return path


def unpacked_source(place: Place, major: int) -> Path:
    """The directory with the suites' sources."""

    def make(directory: Path) -> None:
        archives = mirrors()
        if major != INSTALLED:
            plain = {s: at for s, at in archives.items() if "-" not in s}
            archives = {SUITE_OF_18: next(iter(plain.values()))}
        apt = Apt(place.cache / f"apt-{major}", archives)
        with tempfile.TemporaryDirectory() as download:
            archive = apt.source(f"postgresql-{major}", Path(download))
            wanted = [f"*/{name}" for name in (*WANTED, *WANTED_ALSO)]
            run(
                "tar",
                "-xf",
                archive,
                "--strip-components=1",
                "--wildcards",
                *wanted,
                cwd=directory,
            )

    return once(place.cache / f"postgresql-{major}", make)


def unpacked_headers(place: Place) -> Path:
    """What Debian's package for building with the installed PostgreSQL holds."""

    def make(directory: Path) -> None:
        apt = Apt(place.cache / f"apt-{INSTALLED}", mirrors())
        with tempfile.TemporaryDirectory() as download:
            apt.get(
                "download",
                f"postgresql-server-dev-{INSTALLED}",
                "libpq-dev",
                cwd=Path(download),
            )
            for package in Path(download).glob("*.deb"):
                run("dpkg-deb", "--extract", package, directory)

    return once(place.cache / f"postgresql-{INSTALLED}-dev", make)


@dataclass(frozen=True)
class Release:
    """A PostgreSQL with the sources of its suites, where its server can read them."""

    major: int
    bindir: Path  # psql, pg_dump, ...
    suites: Path  # `src/test` as Debian has built it: pg_regress, isolation/...
    source: Path  # src/test/..., contrib/spi
    headers: tuple[Path, ...]
    libraries: tuple[Path, ...]

    def compile(self, source: str, target: Path, *options: str) -> Path:
        """Compile a file of the source."""
        run(
            *("gcc", "-O1", "-w", *(f"-I{path}" for path in self.headers)),
            *(self.source / source, "-o", target),
            *(f"-L{path}" for path in self.libraries),
            *options,
        )
        return target

    def module(self, source: str, directory: Path) -> Path:
        """Compile a file of the source to a library that the server can load."""
        target = directory / f"{Path(source).stem}.so"
        return self.compile(source, target, "-fPIC", "-shared")


def release(place: Place, major: int) -> Release:
    """The release *major*; its source is copied to where the server's user reads it."""
    directory = place.ground.directory()
    source = directory / "source"
    shutil.copytree(unpacked_source(place, major), source)
    place.ground.identity.own(source)
    installed = installed_bindir()
    if installed is None or not installed.match(f"*/{INSTALLED}/bin"):
        raise Unusable(f"needs PostgreSQL {INSTALLED}: apt-get install postgresql")
    # pg_regress of 15 plays the files of 18, too: the embedded one's own crashes.
    suites = installed.parent / "lib/pgxs/src/test"
    if major == INSTALLED:
        dev = unpacked_headers(place) / "usr"
        headers = (
            dev / f"include/postgresql/{major}/server",
            dev / "include/postgresql",
        )
        libraries = (dev / f"lib/postgresql/{major}/lib",)
        return Release(major, installed, suites, source, headers, libraries)
    bindir = readable_bindir(place.ground.identity, directory)
    if bindir is None:
        raise Unusable("needs the embedded PostgreSQL: pip install '.[demo]'")
    include = bindir.parent / "include"
    headers = (include / "postgresql/server", include)
    return Release(major, bindir, suites, source, headers, (bindir.parent / "lib",))


def true_pid(place: Place) -> Path:
    """A library to preload: see true_pid.c."""
    directory = place.ground.directory()
    target = directory / "true_pid.so"
    source = Path(__file__).with_name("true_pid.c")
    run("gcc", "-O1", "-Wall", "-fPIC", "-shared", source, "-o", target, "-ldl")
    place.ground.identity.own(directory)
    return target
