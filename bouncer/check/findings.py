"""What a check finds, and how it is told."""

from dataclasses import asdict, dataclass
from typing import Any, Final

ERROR: Final = "error"
WARNING: Final = "warning"
NOTE: Final = "note"  # nothing is wrong; no exit status comes of it
RANKS: Final = (ERROR, WARNING, NOTE)


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake. *level* `error` means that a start would fail.

    *line* 0 means that no single line is to blame.
    """

    level: str
    text: str
    file: str = ""
    line: int = 0
    setting: str = ""
    suggestion: str = ""

    def __str__(self) -> str:
        place = self.file
        if self.line:
            place += f":{self.line}"
        subject = f"{self.setting}: " if self.setting else ""
        hint = f" ({self.suggestion})" if self.suggestion else ""
        where = f"{place}: " if place else ""
        return f"{where}{self.level}: {subject}{self.text}{hint}"

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` shows."""
        return asdict(self)


def at(source: str) -> tuple[str, int]:
    """Take a `file:line` apart."""
    file, colon, line = source.rpartition(":")
    if colon and line.isdigit():
        return file, int(line)
    return source, 0
