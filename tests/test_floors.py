"""Who may import whom: every import line of the project against one table.

A module imports from its own floor or below, by full module name, at the top of the
file. A function-level import is a floor problem in disguise. ``if TYPE_CHECKING:``
imports are for the type checker only; they bind floors all the same, since a type
that stands higher is knowledge of what stands higher.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("bouncer", "admin", "ha")

# The longest prefix decides. Change it only together with docs/architecture.md.
FLOORS = {
    "bouncer": 0,
    "bouncer.wire": 0,
    "bouncer.contracts": 0,
    "bouncer.descriptors": 0,
    "bouncer.details": 0,
    "bouncer.errors": 0,
    "bouncer.snapshot": 0,
    "bouncer.log": 0,
    "bouncer.log_json": 0,
    "bouncer.turns": 0,
    "bouncer.config": 1,
    "bouncer.auth": 1,
    "bouncer.relay": 2,
    "bouncer.talks": 3,
    "bouncer.pool": 3,
    "bouncer.adopt": 4,
    "bouncer.app": 4,
    "bouncer.arguments": 4,
    "bouncer.carry": 4,
    "bouncer.check": 4,
    "bouncer.explain": 4,
    "bouncer.extras": 4,
    "bouncer.listener": 4,
    "bouncer.commands": 4,
    "bouncer.lookup": 4,
    "bouncer.rows": 4,
    "bouncer.options": 4,
    "bouncer.process": 4,
    "bouncer.service": 4,
    "bouncer.probe": 4,
    "bouncer.stats": 4,
    "bouncer.succession": 4,
    "admin": 5,
    "ha": 5,
    "bouncer.cli": 6,
    "bouncer.demo": 6,
    "bouncer.front": 6,
    "bouncer.pybouncer": 6,
    "bouncer.__main__": 6,
}
# Narrower than the floors: what a package may import at all.
ONLY = {
    "admin": ("bouncer", "admin"),
    "ha": ("bouncer", "ha"),
}
# The relay knows wire and asks contracts; of the configuration it sees the types only.
RELAY_SEES = ("bouncer.config.settings", "bouncer.relay")

CYTHON_IMPORT = re.compile(
    r"^(?P<indent>[ \t]*)(?:from\s+(?P<source>[\w.]+)\s+c?import\s+(?P<names>.+)"
    r"|c?import\s+(?P<modules>[\w., \t]+?))\s*(?:#.*)?$",
    re.M,
)


@dataclass(frozen=True)
class Import:
    """One module that *importer* names, where it does so."""

    importer: str
    imported: str
    path: Path
    line: int
    inside_function: bool = False

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.importer} imports {self.imported}"


def module_of(path: Path) -> str:
    parts = list(path.with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def known_modules() -> set[str]:
    files = [f for p in PACKAGES for f in (ROOT / p).rglob("*.py*") if f.is_file()]
    return {
        module_of(f.relative_to(ROOT))
        for f in files
        if f.suffix in (".py", ".pyx", ".pxd")
    }


def python_imports(path: Path, text: str) -> Iterator[Import]:
    importer = module_of(path)
    tree = ast.parse(text)
    inside = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                source = "." * node.level + source
            names = [f"{source}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield Import(importer, name, path, node.lineno, id(node) in inside)


def cython_imports(path: Path, text: str) -> Iterator[Import]:
    importer = module_of(path)
    joined = re.sub(r"\(\s*([^()]*?)\s*\)", lambda m: " ".join(m[1].split()), text)
    for match in CYTHON_IMPORT.finditer(joined):
        line = joined.count("\n", 0, match.start()) + 1
        if match["source"]:
            names = [
                f"{match['source']}.{name.split(' as ')[0].strip()}"
                for name in match["names"].split("#")[0].split(",")
                if name.strip()
            ]
        else:
            names = [n.split(" as ")[0].strip() for n in match["modules"].split(",")]
        for name in names:
            yield Import(importer, name, path, line, bool(match["indent"]))


def all_imports() -> list[Import]:
    found: list[Import] = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*")):
            if path.suffix not in (".py", ".pyx", ".pxd"):
                continue
            text = path.read_text()
            read = python_imports if path.suffix == ".py" else cython_imports
            found += read(path.relative_to(ROOT), text)
    return found


def resolved(one: Import, modules: set[str]) -> str | None:
    """The module of ours that is imported, or None for other people's."""
    name = one.imported
    if name.split(".")[0] not in PACKAGES:
        return None
    if name in modules:
        return name
    parent = name.rpartition(".")[0]
    return parent if parent in modules else name


def floor_of(module: str) -> int | None:
    while module:
        if module in FLOORS:
            return FLOORS[module]
        module = module.rpartition(".")[0]
    return None


IMPORTS = all_imports()
MODULES = known_modules()
OURS = [(one, module) for one in IMPORTS if (module := resolved(one, MODULES))]


def told(wrong: list[str]) -> str:
    return "\n".join(sorted(set(wrong)))


def test_imports_are_seen_at_all() -> None:
    """A reader that finds nothing would let everything pass."""
    assert len(OURS) > 5
    kinds = {one.path.suffix for one, _ in OURS}
    assert kinds >= {".py", ".pyx", ".pxd"}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("from a.b cimport c, d as e", ["a.b.c", "a.b.d"]),
        ("cimport a.b as c", ["a.b"]),
        ("from a.b import (\n    c,\n    d,\n)", ["a.b.c", "a.b.d"]),
        ("import a, b  # why", ["a", "b"]),
    ],
)
def test_cython_import_lines_are_read(text: str, names: list[str]) -> None:
    found = cython_imports(Path("bouncer/relay/pool.pyx"), text)
    assert [one.imported for one in found] == names


def test_every_module_has_a_floor() -> None:
    top = {m for m in MODULES if m.count(".") == 1 and m.startswith("bouncer.")}
    assert not sorted(m for m in top if m not in FLOORS), "name its floor in FLOORS"


def test_nothing_imports_from_a_higher_floor() -> None:
    wrong = []
    for one, module in OURS:
        own, other = floor_of(one.importer), floor_of(module)
        if own is not None and other is not None and other > own:
            wrong.append(f"{one} (floor {own} from {other})")
    assert not wrong, told(wrong)


def test_admin_and_ha_do_not_know_each_other() -> None:
    wrong = [
        str(one)
        for one, module in OURS
        for package, allowed in ONLY.items()
        if one.importer.split(".")[0] == package and module.split(".")[0] not in allowed
    ]
    assert not wrong, told(wrong)


def test_relay_knows_only_the_protocol_and_its_settings() -> None:
    wrong = [
        str(one)
        for one, module in OURS
        if one.importer.startswith("bouncer.relay")
        and floor_of(module) != 0
        and not module.startswith(RELAY_SEES)
    ]
    assert not wrong, told(wrong)


def test_imports_stand_at_the_top_of_the_file() -> None:
    wrong = [str(one) for one, _ in OURS if one.inside_function]
    assert not wrong, told(wrong)


def test_imports_name_the_full_module() -> None:
    wrong = [str(one) for one in IMPORTS if one.imported.startswith(".")]
    assert not wrong, told(wrong)


def test_no_import_cycles() -> None:
    """Between Cython modules `cimport` may go round: typed fields need it.

    Client and Server hold each other, so their .pxd files name each other; this is
    settled by the compiler and orders nothing when the program starts.
    """
    edges: dict[str, set[str]] = {}
    for one, module in OURS:
        if one.path.suffix == ".py" and module != one.importer:
            edges.setdefault(one.importer, set()).add(module)
    done: set[str] = set()

    def visit(module: str, way: list[str]) -> None:
        if module in way:
            pytest.fail("cycle: " + " -> ".join([*way[way.index(module) :], module]))
        if module in done:
            return
        for other in sorted(edges.get(module, ())):
            visit(other, [*way, module])
        done.add(module)

    for module in sorted(edges):
        visit(module, [])
