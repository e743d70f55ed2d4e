"""Keep pyproject.toml's list of compiled modules equal to what is on disk.

Every .pyx file becomes an extension, and so do the talks (bouncer/talks/*.py) and
what else runs once per connection (PER_CONNECTION): Cython compiles them as they are.
Without arguments the list is printed; with ``--write`` it is put between the markers
in pyproject.toml.
"""

import argparse
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Plain Python that a login or a disconnect runs through.
PER_CONNECTION = (
    "bouncer/app.py",
    "bouncer/log.py",
    "bouncer/log_json.py",
    "bouncer/pool/cancels.py",
    "bouncer/pool/keeper.py",
    "bouncer/pool/limits.py",
    "bouncer/pool/pools.py",
    "bouncer/pool/registry.py",
    "bouncer/relay/talk.py",
    "bouncer/rows.py",
    "bouncer/wire/messages.py",
)
BEGIN, END = "# <extensions>\n", "# </extensions>\n"


def sources(root: Path = ROOT) -> list[Path]:
    """The files to compile, relative to *root*, sorted."""
    found = [
        path
        for package in ("bouncer", "admin", "ha")
        for path in (root / package).rglob("*.pyx")
    ]
    talks = (root / "bouncer" / "talks").glob("*.py")
    found += [path for path in talks if path.name != "__init__.py"]
    found += [root / path for path in PER_CONNECTION if (root / path).exists()]
    return sorted(path.relative_to(root) for path in found)


def module_name(source: Path) -> str:
    """The full name of the module that *source* becomes."""
    return ".".join(source.with_suffix("").parts)


def as_toml(files: list[Path]) -> str:
    """The tables for pyproject.toml."""
    return "\n".join(
        f"[[tool.setuptools.ext-modules]]\n"
        f'name = "{module_name(file)}"\n'
        f'sources = ["{file.as_posix()}"]\n'
        for file in files
    )


def listed(root: Path = ROOT) -> dict[str, list[str]]:
    """Module name to source files, as pyproject.toml has them now."""
    with open(root / "pyproject.toml", "rb") as file:
        tables = tomllib.load(file)["tool"]["setuptools"].get("ext-modules", [])
    return {table["name"]: table["sources"] for table in tables}


def write(root: Path = ROOT) -> None:
    """Put the list into pyproject.toml."""
    path = root / "pyproject.toml"
    text = path.read_text()
    head, _, rest = text.partition(BEGIN)
    _, found, tail = rest.partition(END)
    if not found:
        raise SystemExit("pyproject.toml has lost its <extensions> markers")
    path.write_text(head + BEGIN + as_toml(sources(root)) + END + tail)


def main() -> None:
    """Print the list, or write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="change pyproject.toml")
    if parser.parse_args().write:
        write()
    else:
        sys.stdout.write(as_toml(sources()))


if __name__ == "__main__":
    main()
