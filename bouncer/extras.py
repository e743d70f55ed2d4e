"""What an installation may lack, and the command that gets it.

With pip these are extras. A package of a distribution has its own way, and ships it
beside this module in `extras.json`: `{"ha": "apt install python3-jinja2"}`.
"""

import json
from pathlib import Path
from typing import Final

# Written by who makes a package; nothing of this tree has one.
PACKAGED: Final = Path(__file__).with_name("extras.json")


def lacks(user: str, missing: str, extra: str) -> str:
    """Say that *user* lacks *missing*, and what installs it."""
    return f"{user} needs {missing}, which is missing: {remedy(extra)}"


def remedy(extra: str, packaged: Path = PACKAGED) -> str:
    """Return the command that installs what the extra *extra* stands for."""
    if packaged.exists():
        command: str = json.loads(packaged.read_text())[extra]
        return command
    return f"pip install 'pybouncer[{extra}]'"
