"""Import a script that stands in no package: a release's builder, an image's start."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def loaded(path: Path) -> ModuleType:
    """The module that the file makes; it is run once more for each caller."""
    spec: Any = importlib.util.spec_from_file_location(path.stem, path)
    module: ModuleType = importlib.util.module_from_spec(spec)
    # As for a program, its neighbours are found.
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module
