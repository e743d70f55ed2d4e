"""What docs/security.md promises is held by tests that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "security.md").read_text()


def functions() -> set[str]:
    """The names of all tests."""
    return {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^\s*(?:async )?def (test_\w+)", path.read_text(), re.M)
    }


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(tests/[\w/.]+)`", TEXT))))
def test_file_that_the_promises_name_exists(path: str) -> None:
    assert (ROOT / path).is_file()


def test_tests_that_the_promises_name_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    assert named and not named - functions()
