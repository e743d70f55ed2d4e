"""Install this tree into the environment that runs this, without compiling it.

`pip install --editable` compiles every extension anew, in a directory that it throws
away. So the Makefile installs what pyproject.toml requires, compiles in place only
what has changed, and lets this script write the rest: a .pth file that names the tree,
and the console scripts.

    install.py requirements [EXTRA...]     print what to install, one a line
    install.py scripts                     write the .pth file and the scripts
"""

import sys
import sysconfig
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """\
#!{python}
import sys

from {module} import {function}

sys.exit({function}())
"""


def pyproject() -> dict:
    """The whole of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirements(extras: list[str]) -> list[str]:
    """What building and running need, and these extras."""
    told = pyproject()
    project, own = told["project"], f"{told['project']['name']}["
    found = [*told["build-system"]["requires"], *project["dependencies"]]
    for extra in extras:
        for word in project["optional-dependencies"][extra]:
            if word.startswith(own):  # an extra that includes others
                found += requirements(word[len(own) : -1].split(","))
            else:
                found.append(word)
    return list(dict.fromkeys(found))


def write_scripts() -> None:
    """The .pth file and one executable for each entry of [project.scripts]."""
    site = Path(sysconfig.get_path("purelib"))
    (site / "pybouncer.pth").write_text(f"{ROOT}\n")
    for name, target in pyproject()["project"]["scripts"].items():
        module, function = target.split(":")
        path = Path(sys.executable).with_name(name)
        text = SCRIPT.format(python=sys.executable, module=module, function=function)
        path.write_text(text)
        path.chmod(0o755)


if __name__ == "__main__":
    if sys.argv[1:] == ["scripts"]:
        write_scripts()
    elif sys.argv[1:2] == ["requirements"]:
        print("\n".join(requirements(sys.argv[2:])))
    else:
        sys.exit(__doc__)
