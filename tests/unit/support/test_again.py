"""What CI runs once more, and what it must not: projects that fail in each way."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import again

ROOT = Path(__file__).resolve().parents[3]

STEADY = "def test_steady():\n    pass\n"
ONCE = """
from pathlib import Path
def test_once(place=Path(__file__).with_name("seen")):
    seen = place.exists()
    place.touch()
    assert seen
"""
ALWAYS = "def test_always():\n    assert False\n"
SKIPS = """
from pathlib import Path
import pytest
def test_then_skips(place=Path(__file__).with_name("seen")):
    if place.exists():
        pytest.skip("not now")
    place.touch()
    assert False
"""
CRASHES_ONCE = """
import os
from pathlib import Path
def test_crashes(place=Path(__file__).with_name("seen")):
    if not place.exists():
        place.touch()
        os._exit(1)
"""
INTERRUPTS = """
def test_interrupts():
    raise KeyboardInterrupt
"""
STOPS = """
def test_fails():
    assert False
def test_never_run():
    pass
"""
TEARDOWN_ONCE = """
from pathlib import Path
import pytest
@pytest.fixture
def thing(place=Path(__file__).with_name("seen")):
    yield
    seen = place.exists()
    place.touch()
    assert seen
def test_leaves_something(thing):
    pass
"""
HANGS = """
import time
def test_hangs():
    time.sleep(60)
"""
HANGS_ONCE = """
import time
from pathlib import Path
def test_hangs_once(place=Path(__file__).with_name("seen")):
    seen = place.exists()
    place.touch()
    time.sleep(0 if seen else 60)
"""


def run(
    directory: Path, *options: str, before: tuple[str, ...] = (), **files: str
) -> subprocess.CompletedProcess[str]:
    """Run a project of *files* as CI does; *before* stands in front of pytest."""
    (directory / "pytest.ini").write_text("[pytest]\n")
    for name, text in files.items():
        (directory / f"test_{name}.py").write_text(text)
    pytest_command = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    # Only the plugins that are used: each project starts several interpreters.
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    environment["PYTEST_ADDOPTS"] = "-p xdist -p pytest_timeout"
    return subprocess.run(
        [sys.executable, "-m", "tests.support.again"]
        + [*(before or pytest_command), *options],
        cwd=directory,
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
    )


BOTH_WAYS = pytest.mark.parametrize("workers", [(), ("-n2", "--dist=loadfile")])


@BOTH_WAYS
def test_a_run_that_passes_is_run_once(
    tmp_path: Path, workers: tuple[str, ...]
) -> None:
    done = run(tmp_path, *workers, steady=STEADY)
    assert done.returncode == 0, done.stdout
    assert "again" not in done.stdout


@BOTH_WAYS
@pytest.mark.parametrize("text", [ONCE, TEARDOWN_ONCE])
def test_a_test_that_passes_alone_is_named_unsteady(
    tmp_path: Path, workers: tuple[str, ...], text: str
) -> None:
    done = run(tmp_path, *workers, steady=STEADY, once=text)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("UNSTEADY: test_once.py::test_") == 1


def test_a_test_that_timed_out_and_passes_alone_is_named(tmp_path: Path) -> None:
    done = run(tmp_path, "-n2", "--timeout=1", steady=STEADY, hangs=HANGS_ONCE)
    assert done.returncode == 0, done.stdout
    assert "UNSTEADY: test_hangs.py::test_hangs_once" in done.stdout


@BOTH_WAYS
def test_a_test_that_fails_again_fails_the_run(
    tmp_path: Path, workers: tuple[str, ...]
) -> None:
    done = run(tmp_path, *workers, once=ONCE, always=ALWAYS)
    assert done.returncode == 1
    assert "FAILED TWICE: test_always.py::test_always" in done.stdout
    assert "UNSTEADY: test_once.py::test_once" in done.stdout


def test_a_test_that_is_skipped_alone_has_not_passed(tmp_path: Path) -> None:
    done = run(tmp_path, steady=STEADY, skips=SKIPS)
    assert done.returncode == 1
    assert "FAILED TWICE: test_skips.py::test_then_skips" in done.stdout


@BOTH_WAYS
def test_a_file_that_cannot_be_collected_fails_the_run(
    tmp_path: Path, workers: tuple[str, ...]
) -> None:
    options = (*workers, "--continue-on-collection-errors")
    done = run(tmp_path, *options, once=ONCE, broken="import nothing_of_that_name\n")
    assert done.returncode != 0
    assert "nothing is run once more" in done.stdout


@pytest.mark.parametrize("way", [(), ("-n2",), ("-n2", "--dist=loadfile")])
def test_a_crashed_process_fails_the_run(tmp_path: Path, way: tuple[str, ...]) -> None:
    """Also where xdist puts another worker in its place and goes on."""
    done = run(tmp_path, *way, steady=STEADY, crashes=CRASHES_ONCE)
    assert done.returncode != 0
    assert "nothing is run once more" in done.stdout


@BOTH_WAYS
def test_a_process_that_a_timeout_ends_fails_the_run(
    tmp_path: Path, workers: tuple[str, ...]
) -> None:
    options = (*workers, "--timeout=1", "--timeout-method=thread")
    done = run(tmp_path, *options, steady=STEADY, hangs=HANGS)
    assert done.returncode != 0
    assert "nothing is run once more" in done.stdout


@BOTH_WAYS
def test_an_interrupted_run_fails(tmp_path: Path, workers: tuple[str, ...]) -> None:
    done = run(tmp_path, *workers, once=ONCE, stop=INTERRUPTS)
    assert done.returncode != 0
    assert "UNSTEADY" not in done.stdout


@BOTH_WAYS
def test_a_run_that_stops_at_the_first_failure_fails(
    tmp_path: Path, workers: tuple[str, ...]
) -> None:
    done = run(tmp_path, *workers, "-x", stops=STOPS)
    assert done.returncode != 0
    assert "nothing is run once more" in done.stdout


def test_no_tests_at_all_fail_the_run(tmp_path: Path) -> None:
    done = run(tmp_path, nothing="")
    assert done.returncode == 5
    assert "pytest ended with status 5" in done.stdout


def test_a_command_that_never_comes_to_pytest_fails_as_it_did(tmp_path: Path) -> None:
    done = run(tmp_path, before=("sh", "-c", "exit 3"))
    assert done.returncode == 3
    assert "0 sessions" in done.stdout


def test_an_internal_error_fails_the_run(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "def pytest_runtest_logfinish():\n    raise ValueError\n"
    )
    done = run(tmp_path, once=ONCE)
    assert done.returncode == 3
    assert "nothing is run once more" in done.stdout


def test_many_failures_are_no_chance(tmp_path: Path) -> None:
    text = "".join(
        f"def test_{number}():\n    assert False\n" for number in range(again.MOST + 1)
    )
    done = run(tmp_path, many=text)
    assert done.returncode == 1
    assert "which is no chance" in done.stdout


def test_parameters_with_spaces_and_brackets_are_found_again(tmp_path: Path) -> None:
    text = (
        "import pytest\nfrom pathlib import Path\n"
        "@pytest.mark.parametrize('text', ['a b[::]c', \"it's\", 'x'])\n"
        "def test_text(text, place=Path(__file__).with_name('seen')):\n"
        "    seen = place.exists()\n"
        "    place.touch()\n"
        "    assert seen\n"
    )
    done = run(tmp_path, texts=text)
    assert done.returncode == 0, done.stdout
    assert "UNSTEADY: test_texts.py::test_text[a b[::]c]" in done.stdout
