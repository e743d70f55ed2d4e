"""The tools are tests: whether a change may go in is what `pytest` says alone.

Formatting, lint, types, Cython lint, sizes of files and functions, the list of
compiled modules, and that the tree names nobody's machine.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.support import extensions

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("bouncer", "admin", "ha")
LONGEST_FILE, LONGEST_FUNCTION = 600, 60
# Why a file or function may be longer.
ONE_CLASS = "one extension class, which Cython cannot spread over several files"
MAY_BE_LONGER: dict[str, str] = {
    "bouncer/relay/client.pyx": ONE_CLASS,
    "bouncer/relay/pool.pyx": ONE_CLASS,
    "bouncer/relay/server.pyx": ONE_CLASS,
    "bouncer/relay/stream.pyx": ONE_CLASS,
}
# Not ours to format: the replayer and the recordings have their own manner.
FOREIGN = ("tests/replay/", "tests/recordings/")


def tool(module: str, *arguments: str) -> None:
    """Run a tool of this interpreter's environment; its complaint is the failure."""
    program = Path(sys.executable).with_name(module)
    found = str(program) if program.exists() else shutil.which(module)
    if found is None:
        missing(f"needs {module}: pip install '.[test]'")
    # cython-lint starts pycodestyle by name.
    path = os.pathsep.join((str(program.parent), os.environ.get("PATH", "")))
    done = subprocess.run(
        [str(found), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path},
    )
    if done.returncode:
        pytest.fail(f"{done.stdout}{done.stderr}", pytrace=False)


def tracked(*suffixes: str) -> list[Path]:
    """The project's files with these suffixes, relative; what git ignores left out."""
    done = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    names = done.stdout.splitlines()
    if done.returncode:  # an unpacked archive
        names = [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if p.is_file()]
        names = [name for name in names if not name.startswith((".", "build/"))]
    return [
        Path(name)
        for name in names
        if name.endswith(suffixes)
        and not name.startswith(FOREIGN)
        and (ROOT / name).exists()
    ]


def test_ruff_finds_nothing() -> None:
    tool("ruff", "check", "--quiet", "--no-cache", ".")


def test_ruff_would_format_nothing() -> None:
    tool("ruff", "format", "--check", "--quiet", "--no-cache", ".")


@pytest.mark.timeout(300)
def test_mypy_is_content() -> None:
    tool("mypy", "--no-error-summary")


def test_cython_lint_finds_nothing() -> None:
    tool("cython-lint", *(str(p) for p in tracked(".pyx", ".pxd")))


def test_pyproject_lists_what_is_to_be_compiled() -> None:
    """An extension not listed is not built; one without a file breaks builds."""
    on_disk = {extensions.module_name(p): [str(p)] for p in extensions.sources()}
    assert extensions.listed() == on_disk, (
        "run: python -m tests.support.extensions --write"
    )


@pytest.mark.parametrize("path", tracked(".py", ".pyx", ".pxd"), ids=str)
def test_file_is_not_too_long(path: Path) -> None:
    lines = len((ROOT / path).read_text().splitlines())
    assert lines <= LONGEST_FILE or str(path) in MAY_BE_LONGER


def test_functions_are_not_too_long() -> None:
    found = []
    for path in tracked(".py"):
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            name = f"{path}:{node.name}"
            if lines > LONGEST_FUNCTION and name not in MAY_BE_LONGER:
                found.append(f"{name} has {lines} lines")
    assert not found, "\n".join(found)


def test_every_module_says_what_it_is_for() -> None:
    """Cython's files too, which ruff does not read."""
    silent = [
        str(path)
        for path in tracked(".pyx")
        if not re.match(r'(\s*#[^\n]*\n|\s*\n)*"""\w', (ROOT / path).read_text())
    ]
    assert not silent


@pytest.mark.parametrize(
    "path", [p for p in tracked(".pyx") if p.parts[0] in PACKAGES], ids=str
)
def test_cython_module_has_its_contract(path: Path) -> None:
    """Each .pyx has its .pxd, where other modules read what it offers."""
    assert (ROOT / path).with_suffix(".pxd").exists()


def test_compiled_functions_say_how_they_fail() -> None:
    """A cdef function that returns a C value needs `except` or `noexcept`."""
    head = re.compile(
        r"^\s*c(?:p)?def\s+(?:inline\s+)?"
        r"(?:void|bint|int|long|Py_ssize_t|size_t|double|float|char|"
        r"unsigned[ \w]*|u?int\d+_t)\s*\*?\s*"
        r"\w+\([^)]*\)(?P<end>[^:\n]*):?\s*(?:#.*)?$",
        re.M,
    )
    found = []
    for path in tracked(".pyx", ".pxd"):
        text = (ROOT / path).read_text()
        # Functions of C libraries cannot raise unless declared so.
        text = re.sub(r"^cdef extern.*?(?=^\S|\Z)", "", text, flags=re.M | re.S)
        for match in head.finditer(text):
            if "except" not in match["end"]:
                found.append(f"{path}: {match[0].strip()}")
    assert not found, "\n".join(found)


def test_tree_names_nobodys_machine() -> None:
    pattern = re.compile(r"/work/|/root/\.|/home/\w+/|\bpypi\.\w+\.\w+|pip\.conf")
    own = Path(__file__).relative_to(ROOT)
    found = []
    for path in tracked(
        ".py", ".pyx", ".pxd", ".md", ".toml", "Makefile", ".sh", "run"
    ):
        for number, line in enumerate((ROOT / path).read_text().splitlines(), 1):
            if pattern.search(line) and path != own:
                found.append(f"{path}:{number}: {line.strip()}")
    assert not found, "\n".join(found)
