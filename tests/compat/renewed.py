"""Recordings of 1.25.2, of what 1.26 dropped and we keep, in the words of 1.26.1.

What 1.26 changed besides (the version, one more parameter at the console's login, a few
texts) would differ in every one of them. So a copy is played in which that is changed,
and nothing else: what is dropped must still be as it was.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from bouncer import COMPATIBLE_VERSION

OLD = "1.25.2"
TEXTS = {
    "already suspended/paused": "already paused",
    "not paused/suspended": "not paused",
    OLD: COMPATIBLE_VERSION,
}
# 1.26 has no such row; ours comes only while it says "yes".
GONE = {"msg": "DataRow", "values": ["suspended", "no"]}
NEW_PARAMETER = {
    "msg": "ParameterStatus",
    "name": "pgbouncer.version",
    "value": COMPATIBLE_VERSION,
}


def renewed(value: Any) -> Any:
    """A part of a recording, as 1.26.1 would have said it."""
    if isinstance(value, str):
        for old, new in TEXTS.items():
            value = value.replace(old, new)
        return value
    if isinstance(value, dict):
        return {key: renewed(item) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    found = []
    for item in value:
        if item == GONE:
            continue
        if isinstance(item, dict) and item.get("name") == "server_version":
            found.append(NEW_PARAMETER)
        found.append(renewed(item))
    return found


def renewed_copy(path: Path, directory: Path) -> Path:
    """A file of recordings, or a directory of them, renewed below *directory*."""
    copy = directory / path.name
    if path.is_dir():
        shutil.copytree(path, copy)
        file, source = copy / "expected.json", path / "expected.json"
    else:
        file, source = copy, path
    file.write_text(json.dumps(renewed(json.loads(source.read_text()))))
    return copy
