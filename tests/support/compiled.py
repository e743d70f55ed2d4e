"""What Cython makes of the sources: the checks against None inside each function.

A method or field of an extension class is reached through a pointer: where that is
None's, the process ends, or worse. With `nonecheck` Cython puts an `if` before each
such access. In a function that is `noexcept` the exception of that `if` is reported
and lost, and one that opts out has none. So both are compiled here as if nobody opted
out, and what would be checked is read off the C.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("bouncer/relay", "bouncer/wire")
OPT_OUT = "@nonecheck(False)"

# `if (unlikely(... == Py_None)) { PyErr_Format(PyExc_AttributeError, "...", "name");`
CHECK = re.compile(
    r"if \(unlikely\((\S.*?) == Py_None\)\) \{\s*"
    r"PyErr_(?:Format|SetString)\(\w+, \"[^\"]*\"(?:, \"(\w+)\")?\)"
)
RAISES = re.compile(r"__PYX_ERR\(")
DEFINITION = re.compile(
    r"^(?:static|PyObject|int)\b[^;{}=]*?(__pyx_f_\w+)\([^;{}]*\) \{\n(.*?)^\}",
    re.M | re.S,
)


class Function(NamedTuple):
    """A `cdef` function: where it stands, of which class, and its name."""

    module: str
    owner: str  # "" for one of the module
    name: str

    def __str__(self) -> str:
        return ".".join(part for part in self if part)

    @property
    def in_c(self) -> str:
        """How the name of its C function ends."""
        parts = [self.module, self.owner] if self.owner else [self.module]
        return "_" + "_".join(f"{len(part)}{part}" for part in parts) + f"_{self.name}"


def sources(*suffixes: str) -> list[Path]:
    """The compiled sources of the relay and the wire, with these suffixes."""
    return sorted(
        path
        for package in PACKAGES
        for path in (PROJECT / package).iterdir()
        if path.suffix in suffixes
    )


def found_by(signature: str, *suffixes: str) -> set[Function]:
    """The `cdef` functions that *signature* finds, with the class they stand in.

    Its groups are the indentation and the name.
    """
    found = set()
    for path in sources(*suffixes):
        text = path.read_text()
        owners = [
            (match.start(), match[1])
            for match in re.finditer(r"^cdef class (\w+).*:$", text, re.M)
        ]
        for match in re.finditer(signature, text, re.M):
            above = [name for start, name in owners if start < match.start()]
            found.add(Function(path.stem, above[-1] if match[1] else "", match[2]))
    return found


def noexcept_functions() -> set[Function]:
    """Every function that cannot raise, from sources and declarations."""
    return found_by(
        r"^( *)cdef (?:inline )?[^=:()#\n]*?(\w+)\([^)]*\) noexcept\b", ".pyx", ".pxd"
    )


def unchecked_functions() -> set[Function]:
    """Every function that opts out of the checks."""
    opted = re.escape(OPT_OUT)
    return found_by(rf"^( *){opted}\n *cdef [^(]*?(\w+)\(", ".pyx")


def cython(files: list[Path], directory: Path) -> str:
    """The C of these files, one behind the other."""
    command = [sys.executable, "-m", "cython", "-3", *map(str, files)]
    subprocess.run(command, cwd=directory, check=True)
    return "\n".join(path.with_suffix(".c").read_text() for path in files)


def strict_c(directory: Path) -> str:
    """The C of all of `sources`, made in *directory* as if nobody opted out."""
    for source in sources(".pyx", ".pxd"):
        target = directory / source.relative_to(PROJECT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source.read_text().replace(OPT_OUT, ""))
        for package in (target.parent, target.parent.parent):
            (package / "__init__.py").touch()
    return cython(
        [directory / path.relative_to(PROJECT) for path in sources(".pyx")], directory
    )


def c_functions(text: str) -> Iterator[tuple[str, str]]:
    """(name, body) of every `cdef` function in C code."""
    for match in DEFINITION.finditer(text):
        yield match[1], match[2]


def checked(body: str) -> Iterator[tuple[str, str]]:
    """(whose, what) of every check in a function: `("pool.idle", "head")`.

    Whose: the local variable, or the chain of attributes that it was read from.
    """
    for match in CHECK.finditer(body):
        yield origin(match[1], body[: match.start()]), match[2] or ""


def origin(expression: str, before: str) -> str:
    """Where the pointer in *expression* comes from, in the words of the source."""
    temporary = re.search(r"__pyx_t_\d+", expression)
    if temporary and (found := re.findall(rf"{temporary[0]} = (.*?);", before)):
        return origin(found[-1], before[: before.rindex(found[-1])])
    names = re.findall(r"(?:__pyx_v_|->|\.)(?!__pyx_base)(\w+)", expression)
    return ".".join(names) or expression
