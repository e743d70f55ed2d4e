"""Build the extensions with AddressSanitizer and UBSan, and run tests on them.

    python -m tests.sanitize [--short]

The instrumented tree is a copy in build/sanitized: the release build stays as it is.
The relay's tests and the replays of the fuzzing corpora load the extensions into their
own interpreter, which runs under both sanitizers. The live tests run in an ordinary
one, and only the pooler that they start is instrumented (a script sets LD_PRELOAD for
it): neither PostgreSQL nor psql shall be.

Whatever a sanitizer reports ends the process, which no test forgives. What ASan says
is kept below build/sanitized as well, so that nothing is lost that a test restarts or
ignores; UBSan writes to stderr. Before all that an extension that is wrong on purpose
shows that errors are found.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TREE = ROOT / "build" / "sanitized"
REPORTS = TREE / "reports"
POOLER = TREE / "pgbouncer"
COPIED = ("bouncer", "admin", "ha", "tests")
LEFT_OUT = shutil.ignore_patterns("*.so", "*.c", "__pycache__", "zoo")
POINTERS = re.compile(r'^name = "bouncer\.(relay|wire)\.', re.M)
FLAGS = (
    "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined "
    "-fno-sanitize-recover=undefined"
)
# What loads the extensions itself, where it exists.
INSIDE = ["tests/relay", "tests/fuzz/test_relay.py", "tests/fuzz/test_corpus*.py"]
# What starts a pooler and treats it badly.
LIVE_SHORT = ["tests/fuzz/test_live.py", "tests/live/test_hostile*.py"]
LIVE = [
    *LIVE_SHORT,
    "tests/live/test_forgotten.py",
    "tests/live/test_logins.py",
    "tests/live/test_adversity.py",
    "tests/live/test_takeover.py",
    "tests/live/test_replication.py",
    "tests/live/test_queueing.py",
    "tests/live/test_streaming.py",
    "tests/live/test_known_logins.py",
]
FAULTS = {
    "read_behind_the_end": "heap-buffer-overflow",
    "use_after_free": "heap-use-after-free",
    "shift_too_far": "runtime error: shift exponent",
}


def run(command: list[object], **options: object) -> int:
    """Run a command to its end; its exit status."""
    words = [str(word) for word in command]
    return subprocess.run(words, **options).returncode  # type: ignore[call-overload]


def copy_tree() -> None:
    """Bring the copy up to date; what has not changed keeps its time and its build."""
    for name in COPIED:
        shutil.copytree(
            ROOT / name, TREE / name, ignore=LEFT_OUT, copy_function=copy_changed,
            dirs_exist_ok=True,
        )  # fmt: skip
    (TREE / "pyproject.toml").write_text(with_pointers())
    for name in ("README.md", "LICENSE"):
        copy_changed(ROOT / name, TREE / name)
    REPORTS.mkdir(exist_ok=True)
    REPORTS.chmod(0o1777)  # the pooler may run as another user
    for report in REPORTS.iterdir():
        report.unlink()


def with_pointers() -> str:
    """pyproject.toml with the extensions that use C only.

    The others are Python that is compiled for its speed; as Python it is the same.
    """
    head, *modules = (ROOT / "pyproject.toml").read_text().split("[[tool.setuptools.")
    last, marker, tail = modules[-1].partition("# </extensions>")
    kept = [one for one in (*modules[:-1], last) if POINTERS.search(one)]
    return "[[tool.setuptools.".join([head, *kept]) + marker + tail


def copy_changed(source: str | Path, target: str | Path) -> None:
    """Copy unless the target is what the source is."""
    old, new = Path(target), Path(source)
    if not old.exists() or old.read_bytes() != new.read_bytes():
        shutil.copy(source, target)


def build() -> None:
    """Compile the copy's extensions with the sanitizers, what has changed."""
    print("compiling with AddressSanitizer and UBSan", flush=True)
    environment = {**os.environ, "CFLAGS": FLAGS, "LDFLAGS": FLAGS}
    setup = "from setuptools import setup; setup()"
    command = [sys.executable, "-W", "ignore", "-c", setup, "--quiet"]
    if run([*command, "build_ext", "--inplace"], cwd=TREE, env=environment):
        sys.exit("the instrumented build failed")
    missing = [
        path for path in TREE.rglob("*.so") if b"__asan_init" not in path.read_bytes()
    ]
    if missing or not list(TREE.rglob("*.so")):
        sys.exit(f"not instrumented: {missing}")


def library(name: str) -> str:
    """Where the compiler has a library of the sanitizers."""
    told = subprocess.run(
        ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    )
    path = told.stdout.strip()
    if not os.path.isabs(path):
        sys.exit(f"needs {name}: apt-get install gcc")
    return path


def sanitizing() -> dict[str, str]:
    """The environment of a process whose extensions are instrumented."""
    shared = f"log_path={REPORTS}/report:halt_on_error=1:abort_on_error=1"
    return {
        "LD_PRELOAD": f"{library('libasan.so')} {library('libubsan.so')}",
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(TREE),
        # Python leaks by design; a length that nobody can keep is MemoryError; what is
        # freed shall not look like growth.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:"
        f"quarantine_size_mb=4:{shared}",
        "UBSAN_OPTIONS": f"print_stacktrace=1:{shared}",
    }


def write_pooler() -> None:
    """The program that live tests start."""
    lines = [f"export {name}='{value}'" for name, value in sanitizing().items()]
    start = f'exec {sys.executable} -m bouncer "$@"'
    POOLER.write_text("\n".join(["#!/bin/sh", *lines, start, ""]))
    POOLER.chmod(0o755)


def reports() -> list[str]:
    """What the sanitizers have reported."""
    return [path.read_text("utf-8", "replace") for path in sorted(REPORTS.iterdir())]


def prove() -> None:
    """Let each fault of broken.c happen: each must end its process with a report."""
    place = TREE / "proof"
    place.mkdir(exist_ok=True)
    include = sysconfig.get_path("include")
    source = Path(__file__).with_name("broken.c")
    command = ["gcc", "-shared", "-fPIC", *FLAGS.split(), f"-I{include}", source]
    if run([*command, "-o", place / "broken.so"]):
        sys.exit("the proof does not compile")
    environment = {**os.environ, **sanitizing(), "PYTHONPATH": str(place)}
    for function, words in FAULTS.items():
        code = f"import broken; broken.{function}(8)"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment, cwd=place, capture_output=True, text=True,
        )  # fmt: skip
        found = "\n".join([done.stderr, *reports()])
        if done.returncode == 0 or words not in found:
            sys.exit(f"the sanitizers did not see {function}:\n{found}")
        for report in REPORTS.iterdir():
            report.unlink()
    fine = [sys.executable, "-c", "import bouncer.relay.server as s; print(s.__file__)"]
    told = subprocess.run(
        fine,
        env={**os.environ, **sanitizing()},
        cwd=TREE,
        capture_output=True,
        text=True,
    )
    if told.returncode or str(TREE) not in told.stdout or reports():
        sys.exit(f"the instrumented pooler does not start: {told.stderr}{reports()}")
    print("the sanitizers see what is wrong on purpose", flush=True)


def existing(patterns: list[str]) -> list[str]:
    """The test files that there are, relative to the tree."""
    return [
        str(path.relative_to(ROOT))
        for pattern in patterns
        for path in sorted(ROOT.glob(pattern))
    ]


def main() -> None:
    """Build, prove, run; the exit status says whether anything was wrong."""
    short = "--short" in sys.argv[1:]
    begun = time.monotonic()
    TREE.mkdir(parents=True, exist_ok=True)
    copy_tree()
    build()
    write_pooler()
    prove()
    pytest = [sys.executable, "-m", "pytest", "-q", "--timeout=300"]
    pytest += ["-p", "no:cacheprovider", "-m", "not slow"]
    inside = {**os.environ, **sanitizing(), "HYPOTHESIS_MAX_EXAMPLES": "20"}
    failed = run([*pytest, *existing(INSIDE)], cwd=TREE, env=inside)
    if not reports():
        live = existing(LIVE_SHORT if short else LIVE)
        failed |= run([*pytest, f"--pooler={POOLER}", *live], cwd=ROOT)
    for report in reports():
        print(report)
    if failed or reports():
        sys.exit(f"{len(reports())} reports of the sanitizers")
    print(f"nothing found ({time.monotonic() - begun:.0f} s)")


if __name__ == "__main__":
    main()
