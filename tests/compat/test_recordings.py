"""Every recording of PgBouncer 1.26.1, played against the pooler under test.

The cases are dealt out to a few processes by the replayer before the first test of
this file; each test then reads what came of its own case. The cases that take long
(long.txt) are left out without ``--all-recordings`` or ``--long-recordings``, which
plays them alone.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.compat import known_differences
from tests.compat.known_differences import KNOWN_OUTSIDE
from tests.compat.renewed import renewed_copy
from tests.conftest import ROOT, pooler_command
from tests.replay import Case, cases
from tests.replay.recordings import BESIDE, CORPUS
from tests.support.ground import Ground

HERE = Path(__file__).parent
# What took over 2.5 s when six at a time were played on two processors.
LONG = set((HERE / "long.txt").read_text().splitlines())
# They wait more than they work; but each process makes itself a PostgreSQL.
PROCESSES = 6
WORTH_A_PROCESS = 20  # cases


def key_of(case: Case) -> str:
    """Suite and id; recordings that stand beside the others have a suite of theirs."""
    for mark, files in BESIDE.items():
        path = files.get(case.suite)
        if path is not None and case.source in (path, path.resolve()):
            return f"{case.suite}-{mark} {case.id}"
    return f"{case.suite} {case.id}"


def beside() -> Iterator[tuple[str, str, Path]]:
    """Mark, suite and place of the recordings that stand beside the others."""
    for mark, files in BESIDE.items():
        for suite, path in files.items():
            if path.exists():
                yield mark, suite, path


def recorded() -> list[Case]:
    """All cases, in the order of their files."""
    found = [case for suite in ("ini", "console", "wire") for case in cases(suite)]
    found += [case for _, suite, path in beside() for case in cases(suite, path)]
    if CORPUS.is_dir():
        found += cases("corpus")
    return found


ALL = {key_of(case): case for case in recorded()}
KNOWN = known_differences.KNOWN | (KNOWN_OUTSIDE if CORPUS.is_dir() else {})


def test_keys_are_unique() -> None:
    assert len(ALL) == len(recorded())
    assert not LONG - ALL.keys()


def test_known_differences_are_cases_and_stand_in_the_docs() -> None:
    text = (ROOT / "docs" / "compatibility.md").read_text()
    assert not [key for key in KNOWN if key not in ALL]
    assert not [key for key, known in KNOWN.items() if known.word not in text]


def test_corpus_is_there() -> None:
    """The corpus holds other people's configurations: it is not part of this tree."""
    if not CORPUS.is_dir():
        pytest.skip("no ../shared/reference/ini_corpus beside this checkout")


class Playing:
    """Runs the replayer once for all cases that were asked for."""

    def __init__(
        self, command: list[str], directory: Path, wanted: list[str], lab: Ground
    ) -> None:
        self.command, self.directory = command, directory
        # The one that most cases were recorded with, and 18 for those that want it.
        found = [lab.bindir, lab.embedded]
        self.postgresqls = [f"--pgbin={bindir}" for bindir in found if bindir]
        self.results: dict[str, dict[str, Any]] = {}
        self._play([key for key in wanted if "-" not in key.split()[0]], "")
        for mark, suite, path in beside():
            keys = [key for key in wanted if key.startswith(f"{suite}-{mark} ")]
            copy = renewed_copy(path, directory)
            self._play(keys, f"-{mark}", "--cases", str(copy))

    def _play(self, keys: list[str], mark: str, *options: str) -> None:
        if not keys:
            return
        suites = sorted({key.split()[0].removesuffix(mark) for key in keys})
        only, out = self.directory / "only", self.directory / "out.json"
        differ = self.directory / "differ"
        known = [
            key.replace(f"{mark} ", " ", 1)
            for key in keys
            if key in KNOWN and not KNOWN[key].only
        ]
        only.write_text("".join(key.split(" ", 1)[1] + "\n" for key in keys))
        differ.write_text("".join(key + "\n" for key in known))
        out.unlink(missing_ok=True)
        processes = min(PROCESSES, 1 + len(keys) // WORTH_A_PROCESS)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tests.replay", *suites),
                *("--exe", shlex.join(self.command), "--only", str(only)),
                *("--differ", str(differ), "-j", str(processes)),
                *("--json", str(out), *options, *self.postgresqls),
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if not out.exists():
            pytest.fail(f"the replayer could not play: {done.stderr}", pytrace=False)
        for result in json.loads(out.read_text()):
            self.results[f"{result['suite']}{mark} {result['id']}"] = result


@pytest.fixture(scope="module")
def played(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    lab: Ground,
) -> Iterator[Playing]:
    """What came of the cases that this run selected."""
    wanted = [
        item.callspec.params["key"]  # type: ignore[attr-defined]
        for item in request.session.items
        if item.get_closest_marker("compat")
        and hasattr(item, "callspec")
        and "key" in item.callspec.params
    ]
    # A case that is named alone is played, however long it takes.
    alone = len(wanted) == 1
    chosen = [key for key in wanted if alone or is_chosen(key, request.config)]
    command = pooler_command(request.config)
    yield Playing(command, tmp_path_factory.mktemp("replay"), chosen, lab)


def is_chosen(key: str, config: pytest.Config) -> bool:
    """Whether this run plays a case."""
    if config.getoption("--long-recordings"):
        return key in LONG
    return key not in LONG or bool(config.getoption("--all-recordings"))


def report(result: dict[str, Any]) -> str:
    """The differences of a case, as the replayer prints them."""
    lines = [f"{result['suite']} {result['id']}: {result['title']}"]
    for difference in result["differences"]:
        lines += [
            f"  {difference['where']}",
            *(f"    {x}" for x in difference["lines"]),
        ]
    return "\n".join(lines)


@pytest.mark.compat
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("key", ALL)
def test_behaves_as_recorded(key: str, played: Playing) -> None:
    result = played.results.get(key)
    if result is None:
        pytest.skip("takes long: make compat" if key in LONG else "not long")
    if result["status"] == "skipped":
        pytest.skip(result["reason"])
    if key in KNOWN and KNOWN[key].only:
        if {one["where"] for one in result["differences"]} - {*KNOWN[key].only}:
            pytest.fail(report(result), pytrace=False)
        return
    if key in KNOWN:
        assert result["status"] == "failed", "matches: remove it from KNOWN"
        pytest.skip(f"differs on purpose: {KNOWN[key].reason}")
    if result["status"] != "passed":
        pytest.fail(report(result), pytrace=False)
