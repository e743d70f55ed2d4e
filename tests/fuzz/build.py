"""The build that libFuzzer can look into: build/fuzz, beside the release build.

Our sources are copied there when they have changed and compiled by clang with the
edges counted and AddressSanitizer's checks in; gcc links, so that both are taken from
what is preloaded (`environment`). Whoever runs with PYTHONPATH there has these.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support import extensions

ROOT = Path(__file__).resolve().parents[2]
TREE = ROOT / "build" / "fuzz"
COPIED = (".py", ".pyx", ".pxd", ".j2")
BESIDE = ("pyproject.toml", "README.md", "LICENSE")
FLAGS = {
    "CC": "clang -fsanitize=address,fuzzer-no-link",
    "LDSHARED": "gcc -shared",
    "CFLAGS": "-O1 -g -fwrapv -DBOUNCER_DEBUG=1",
}
SETUP = "from setuptools import setup; setup()"
PRELOADED = "asan_with_fuzzer.so"
NEEDED = (
    "apt-get install clang, and: pip install '.[fuzz]' (atheris; up to Python 3.13)"
)


def missing() -> str:
    """What this machine lacks; "" when it can fuzz."""
    lacking = [program for program in ("clang", "gcc") if shutil.which(program) is None]
    if importlib.util.find_spec("atheris") is None:
        lacking.append("atheris")
    elif not preloaded().exists():
        lacking.append(f"atheris with {PRELOADED}")
    return ", ".join(lacking)


def preloaded() -> Path:
    """The library with libFuzzer and AddressSanitizer that atheris brings."""
    spec = importlib.util.find_spec("atheris")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parents[1] / PRELOADED


def libraries() -> list[Path]:
    """All that is preloaded. libFuzzer looks for a mutator when it is loaded itself,
    so those of atheris, which call ours, must be there by then.
    """
    hooks = preloaded().with_name("atheris")
    return [
        preloaded(),
        *hooks.glob("custom_mutator.*.so"),
        *hooks.glob("custom_crossover.*.so"),
    ]


def sources() -> list[Path]:
    """All that is compiled, imported or asked for by what is compiled; relative."""
    found = [Path(name) for name in BESIDE]
    for package in ("bouncer", "admin", "ha"):
        every = (ROOT / package).rglob("*")
        found += [
            path.relative_to(ROOT)
            for path in every
            if path.suffix in COPIED or ("templates" in path.parts and path.is_file())
        ]
    return found


def copy() -> bool:
    """Bring the tree up to date; says whether something must be compiled."""
    stale = False
    wanted = sources()
    compiled = set(extensions.sources(ROOT))
    for path in wanted:
        here, there = ROOT / path, TREE / path
        if there.exists() and there.read_bytes() == here.read_bytes():
            continue
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(here, there)
        stale = stale or path in compiled or path.suffix in (".pxd", ".toml")
    for there in [*TREE.rglob("*.py"), *TREE.rglob("*.p[xy][xd]")]:
        path = there.relative_to(TREE)
        if path.parts[0] in ("bouncer", "admin", "ha") and not (ROOT / path).exists():
            there.unlink()
    return stale


def build() -> None:
    """Make the build, or what of it has changed."""
    stamp = TREE / "compiled"
    if copy():
        stamp.unlink(missing_ok=True)
    if stamp.exists():
        return
    print(
        "compiling for the fuzzer; the first time this takes some minutes", flush=True
    )
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            SETUP,
            "--quiet",
            "build_ext",
            "--inplace",
        ],
        cwd=TREE,
        env={**os.environ, **FLAGS},
    )
    if done.returncode:
        raise SystemExit("the fuzzer's build has failed")
    stamp.touch()


def environment(**more: str) -> dict[str, str]:
    """The environment of a process that runs the instrumented build."""
    found = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    return (
        found
        | {
            "PYTHONSAFEPATH": "1",  # not what lies in the current directory
            "PYTHONPATH": os.pathsep.join((str(TREE), str(ROOT))),
            "PYTHONMALLOC": "malloc",  # each object is AddressSanitizer's to watch
            "LD_PRELOAD": " ".join(map(str, libraries())),
            # uvloop and ssl keep what they have made until the end.
            "ASAN_OPTIONS": "detect_leaks=0:handle_abort=1",
        }
        | more
    )


if __name__ == "__main__":
    if lacking := missing():
        raise SystemExit(f"no {lacking}: {NEEDED}")
    build()
