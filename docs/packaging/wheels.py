"""Build the release: `python docs/packaging/wheels.py DIR [PYTHON...]`.

The sdist first, then out of it, as anybody would, a wheel for each PYTHON (names or
paths; without any, every CPython from 3.11 on that is on the PATH or that pyenv has).
Wheels are stripped, and `auditwheel` proves on which systems they run: what it cannot
prove for glibc 2.17 (manylinux2014) is no release.

PYBOUNCER_URL names the repository on the web, such as https://forge.example/pybouncer:
links and images of the README lead there, as PyPI needs it. Without it they become
plain text, since a link that leads nowhere is worse than none.

Needs the extra [dist] in the environment that runs this, and for each PYTHON its
headers and a compiler.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
OLDEST: Final = (3, 11)
# As `make build`, and nothing that only a debugger reads.
FLAGS: Final = {"CFLAGS": "-O2 -g0 -fwrapv -DNDEBUG", "LDFLAGS": "-Wl,-s"}
POLICY: Final = "manylinux2014"
# Bytes. Debug information made it 11 MB.
LARGEST: Final = 4_000_000


class Failed(Exception):
    """A step has not succeeded; the text says which, and what it printed."""


def run(*command: str | Path, **more: str) -> str:
    """Run a program; return what it printed. Ours find theirs beside them."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, "PATH": path, **more},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        words = " ".join(str(word) for word in command)
        raise Failed(f"{words}\n{done.stdout[-4000:]}")
    return done.stdout


def candidates() -> Iterator[Path]:
    """Yield what may be a CPython: on the PATH, and pyenv's."""
    for directory in os.get_exec_path():
        yield from sorted(Path(directory).glob("python3.[0-9]*"))
    yield from sorted(Path.home().glob(".pyenv/versions/3.*/bin/python3"))


def version_of(python: Path) -> tuple[int, int] | None:
    """Return the version of a CPython that can build extensions, or None."""
    code = (
        "import os, sys, sysconfig, ensurepip; "
        "assert sys.implementation.name == 'cpython'; "
        "assert not sysconfig.get_config_var('Py_GIL_DISABLED'); "
        "assert os.path.exists(sysconfig.get_path('include') + '/Python.h'); "
        "print(*sys.version_info[:2])"
    )
    done = subprocess.run(
        [python, "-c", code],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.fullmatch(r"(\d+) (\d+)\n", done.stdout) if not done.returncode else None
    return (int(found[1]), int(found[2])) if found else None


def every_python() -> list[Path]:
    """Return one CPython of each version that we support and that is here."""
    found: dict[tuple[int, int], Path] = {}
    for one in candidates():
        if re.fullmatch(r"python3(\.\d+)?", one.name) and one.exists():
            version = version_of(one)
            if version is not None and version >= OLDEST:
                found.setdefault(version, one)
    return [found[version] for version in sorted(found)]


LINK: Final = re.compile(r"(!?)\[([^]]*)\]\((?!https?:)([^)]+)\)")


def absolute(text: str, url: str, version: str) -> str:
    """Return a README whose links lead to *url*; "" takes them away."""

    def change(found: re.Match[str]) -> str:
        bang, words, target = found.groups()
        if not url:
            return "" if bang else words
        kind = "raw" if bang else "blob"
        return f"{bang}[{words}]({url}/{kind}/v{version}/{target})"

    return LINK.sub(change, text)


def build_sdist(to: Path) -> Path:
    """Build the source distribution out of what is committed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "source")
        run("git", "clone", "--quiet", "--depth", "1", ROOT.as_uri(), source)
        readme = source / "README.md"
        url = os.environ.get("PYBOUNCER_URL", "").rstrip("/")
        readme.write_text(absolute(readme.read_text(), url, project["version"]))
        run(sys.executable, "-m", "build", "--sdist", "--outdir", to, source)
    (made,) = to.glob("*.tar.gz")
    return made


def build_wheel(python: Path, sdist: Path, to: Path) -> Path:
    """Build the wheel of one Python, and prove where it runs."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        run(python, "-m", "venv", place / "venv")
        pip = (place / "venv/bin/python", "-m", "pip", "wheel", "-q", "--no-deps")
        run(*pip, "--wheel-dir", place, sdist, **FLAGS)
        (raw,) = place.glob("*.whl")
        audit = (sys.executable, "-m", "auditwheel", "repair", "--only-plat")
        run(*audit, "--plat", f"{POLICY}_{machine()}", "-w", place / "fit", raw)
        (made,) = (place / "fit").glob("*.whl")
        if made.stat().st_size > LARGEST:
            raise Failed(f"{made.name} has {made.stat().st_size} bytes")
        return Path(shutil.copy(made, to))


def machine() -> str:
    """Return the name of the processor, as in the tag of a wheel."""
    return os.uname().machine


def main(words: list[str]) -> int:
    """Build everything; tell the names and sizes."""
    if not words:
        print(__doc__, file=sys.stderr)
        return 2
    to = Path(words[0]).absolute()
    pythons = [Path(shutil.which(word) or word) for word in words[1:]]
    to.mkdir(parents=True, exist_ok=True)
    for old in (*to.glob("pybouncer-*.whl"), *to.glob("pybouncer-*.tar.gz")):
        old.unlink()
    try:
        made = [build_sdist(to)]
        print(f"{made[0].stat().st_size:>9}  {made[0].name}", flush=True)
        for python in pythons or every_python():
            made.append(build_wheel(python, made[0], to))
            print(f"{made[-1].stat().st_size:>9}  {made[-1].name}", flush=True)
    except Failed as problem:
        print(f"not built: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
