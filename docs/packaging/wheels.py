"""Build the release: `python docs/packaging/wheels.py DIR [WHAT...]`.

The sdist first, then out of it a wheel for each CPython that WHAT names:

    python3.13, /opt/bin/python3    an interpreter that is here
    forky:x86_64, trixie:aarch64    that of a Debian, which need not be here
    x86_64, aarch64                 every one of that machine; without WHAT, of this one
                                    those that are on the PATH, or that pyenv has

The one hard idea: for a Python that is not here its headers are enough. mmdebstrap
fetches Debian's, and the compiler of `ziglang`, which brings the C library of every
machine in every version, makes the rest, so that nothing of that machine runs here.

Wheels are stripped, and `auditwheel` proves on which systems they run: what it cannot
prove for glibc 2.17 (manylinux2014) is no release.

PYBOUNCER_URL names the repository on the web, such as https://forge.example/pybouncer:
links and images of the README lead there, as PyPI needs it. Without it they become
plain text, since a link that leads nowhere is worse than none.

Needs the extra [dist] in the environment that runs this, and for each interpreter its
headers and a compiler; for a Debian the extra [cross] and mmdebstrap.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
OLDEST: Final = (3, 11)
# As `make build`, and nothing that only a debugger reads.
FLAGS: Final = {"CFLAGS": "-O2 -g0 -fwrapv -DNDEBUG", "LDFLAGS": "-Wl,-s"}
GLIBC: Final = (2, 17)  # manylinux2014
# Which Debian has which CPython, and what it calls machines.
DEBIANS: Final = {"bookworm": (3, 11), "trixie": (3, 13), "forky": (3, 14)}
MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
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


def every_python() -> dict[tuple[int, int], Path]:
    """Return one CPython of each version that we support and that is here."""
    found: dict[tuple[int, int], Path] = {}
    for one in candidates():
        if re.fullmatch(r"python3(\.\d+)?", one.name) and one.exists():
            version = version_of(one)
            if version is not None and version >= OLDEST:
                found.setdefault(version, one)
    return {version: found[version] for version in sorted(found)}


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


def proven(raw: Path, to: Path) -> Path:
    """Move a wheel to where it belongs, with a tag that says where it runs."""
    fit = raw.with_name("fit")
    audit = (sys.executable, "-m", "auditwheel", "repair", "--only-plat")
    run(*audit, "--plat", "auto", "-w", fit, raw)
    (made,) = fit.glob("*.whl")
    found = re.findall(r"manylinux_(\d+)_(\d+)_", made.name)
    if not any((int(major), int(minor)) <= GLIBC for major, minor in found):
        raise Failed(f"{made.name} needs a C library after {GLIBC}")
    if made.stat().st_size > LARGEST:
        raise Failed(f"{made.name} has {made.stat().st_size} bytes")
    return Path(shutil.copy(made, to))


@dataclass(frozen=True)
class Here:
    """An interpreter of this machine."""

    python: Path

    def build(self, sdist: Path, place: Path) -> Path:
        """Build its wheel in *place*, as pip does for anybody."""
        run(self.python, "-m", "venv", place / "venv")
        pip = (place / "venv/bin/python", "-m", "pip", "wheel", "-q", "--no-deps")
        run(*pip, "--wheel-dir", place, sdist, **FLAGS)
        return next(place.glob("*.whl"))


@dataclass(frozen=True)
class Debian:
    """The CPython of a Debian, of which only the headers are here."""

    suite: str
    machine: str

    def headers(self, place: Path) -> Path:
        """Fetch the headers into *place*; the directory that has them all."""
        if shutil.which("mmdebstrap") is None:
            raise Failed("needs mmdebstrap: apt-get install mmdebstrap")
        # Like this machine's apt: a mirror may stand still (snapshots do).
        valid = run("apt-config", "dump", "Acquire::Check-Valid-Until").strip()
        fetch = ("mmdebstrap", "--variant=extract", "--include=libpython3-dev")
        options = [f"--architectures={MACHINES[self.machine]}"]
        options += [f"--aptopt={valid}"] if valid else []
        run(*fetch, *options, self.suite, place / "root.tar")
        # Those of the C library stay behind.
        wanted = ("./usr/include/python3*", "./usr/include/*-linux-gnu/python3*")
        unpack = ("tar", "-C", place, "-xf", place / "root.tar", "--wildcards")
        run(*unpack, *wanted)
        return place / "usr/include"

    def build(self, sdist: Path, place: Path) -> Path:
        """Build its wheel in *place*, with a compiler for that machine."""
        headers = self.headers(place)
        version = DEBIANS[self.suite]
        own = headers / f"python{version[0]}.{version[1]}"
        target = f"{self.machine}-linux-gnu.{GLIBC[0]}.{GLIBC[1]}"
        compiler = f"{sys.executable} -m ziglang cc -target {target}"
        tag = f"{version[0]}{version[1]}"
        source = place / "source"
        source.mkdir()
        run("tar", "-C", source, "--strip-components=1", "-xf", sdist)
        build = (sys.executable, "-m", "build", "--wheel", "--no-isolation")
        variables = {
            # These headers come before those of the Python that runs the build.
            "CC": f"{compiler} -I{own} -I{headers}",
            "LDSHARED": f"{compiler} -shared",
            "SETUPTOOLS_EXT_SUFFIX": f".cpython-{tag}-{self.machine}-linux-gnu.so",
        }
        run(*build, "--outdir", place, source, **FLAGS, **variables)
        # setuptools took it for one of that Python, and of this machine.
        retag = (sys.executable, "-m", "wheel", "tags", "--remove")
        tags = ("--python-tag", f"cp{tag}", "--abi-tag", f"cp{tag}")
        platform = ("--platform-tag", f"linux_{self.machine}")
        run(*retag, *tags, *platform, next(place.glob("*.whl")))
        return next(place.glob("*.whl"))


def build_wheel(target: Here | Debian, sdist: Path, to: Path) -> Path:
    """Build the wheel of one Python, and prove where it runs."""
    with tempfile.TemporaryDirectory() as directory:
        return proven(target.build(sdist, Path(directory)), to)


def targets(words: list[str]) -> Iterator[Here | Debian]:
    """Yield what the words of the command line name."""
    here = os.uname().machine
    for word in words:
        suite, sign, machine = word.partition(":")
        if sign:
            if suite not in DEBIANS or machine not in MACHINES:
                raise Failed(f"{word}: none of {[*DEBIANS]}, or of {[*MACHINES]}")
            yield Debian(suite, machine)
        elif word in MACHINES:
            found = every_python() if word == here else {}
            yield from map(Here, found.values())
            missing = (s for s, version in DEBIANS.items() if version not in found)
            yield from (Debian(suite, word) for suite in missing)
        else:
            yield Here(Path(shutil.which(word) or word))
    if not words:
        yield from map(Here, every_python().values())


def main(words: list[str]) -> int:
    """Build everything; tell the names and sizes."""
    if not words:
        print(__doc__, file=sys.stderr)
        return 2
    to = Path(words[0]).absolute()
    to.mkdir(parents=True, exist_ok=True)
    for old in (*to.glob("pybouncer-*.whl"), *to.glob("pybouncer-*.tar.gz")):
        old.unlink()
    try:
        wanted = list(targets(words[1:]))
        sdist = made = build_sdist(to)
        print(f"{made.stat().st_size:>9}  {made.name}", flush=True)
        for target in wanted:
            made = build_wheel(target, sdist, to)
            print(f"{made.stat().st_size:>9}  {made.name}", flush=True)
        # PyPI shows no README that it cannot render.
        twine = (sys.executable, "-m", "twine", "--no-color", "check", "--strict")
        run(*twine, *to.glob("pybouncer-*"))
    except Failed as problem:
        print(f"not built: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
