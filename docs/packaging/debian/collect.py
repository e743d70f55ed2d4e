"""Copy what runs into the package's private directory: `collect.py DIR [MORE...]`.

Run by the interpreter of the environment that everything was built and tested in: our
own modules, as compiled for it, and the distributions that Debian has not, or has too
old, with their licences; MORE names others. What only a compiler reads is not copied.
"""

import shutil
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[3]
OURS: Final = ("bouncer", "admin", "ha")
# Debian 12 has uvloop 0.17, pycares 4.2 and no haproxy-stats.
CARRIED: Final = ("uvloop", "pycares", "haproxy-stats")
SUFFIX: Final = str(sysconfig.get_config_var("EXT_SUFFIX"))
# Stays behind: for compilers, type checkers and pip.
SOURCES: Final = (".pyx", ".pxd", ".pyi", ".c", ".h", ".pyc", ".typed")
RECORDS: Final = ("RECORD", "INSTALLER", "REQUESTED", "WHEEL", "direct_url.json")


def is_wanted(path: Path) -> bool:
    """Say whether a file is needed by who runs it on this interpreter."""
    if "__pycache__" in path.parts or path.suffix in SOURCES:
        return False
    foreign = path.suffix == ".so" and ".cpython-" in path.name
    return not foreign or path.name.endswith(SUFFIX)


def copy(source: Path, target: Path) -> None:
    """Copy one file; modules are no programs."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def collect_ours(target: Path) -> None:
    """Copy the packages of this tree; ends the build where one is not compiled."""
    for package in OURS:
        for path in sorted((ROOT / package).rglob("*")):
            if path.is_file() and is_wanted(path):
                copy(path, target / path.relative_to(ROOT))
    for path in (ROOT / "bouncer").rglob("*.pyx"):
        if not path.with_name(path.stem + SUFFIX).exists():
            sys.exit(f"{path} is not compiled for {sys.executable}: make build")


def collect_carried(name: str, target: Path) -> None:
    """Copy a distribution that is installed here, and its licence."""
    for entry in metadata.distribution(name).files or ():
        path = Path(str(entry.locate()))
        inside = Path(str(entry))
        if inside.parts[0] == ".." or not is_wanted(path):
            continue
        if inside.name not in RECORDS:
            copy(path, target / inside)


def main() -> None:
    """Collect everything."""
    target = Path(sys.argv[1])
    collect_ours(target)
    for name in (*CARRIED, *sys.argv[2:]):
        collect_carried(name, target)


if __name__ == "__main__":
    main()
