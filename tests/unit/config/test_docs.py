"""docs/config.md says what the table of settings says."""

import re
from pathlib import Path

import pytest

from bouncer.config.entries import DATABASE_KEYS, PEER_KEYS, USER_KEYS
from bouncer.config.params import OURS, ROWS, Where

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "config.md").read_text()
ENTRY = re.compile(r"### (\S+)\n\nDefault: (.+?) · (.+)\n\n(?=\S)")


def section(title):
    """The text between a heading of the second level and the next one."""
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_each_setting_has_its_heading_default_and_way_to_change():
    documented = {
        name: (default.strip("`"), rest) for name, default, rest in ENTRY.findall(TEXT)
    }
    assert TEXT.count("\n### ") == len(documented)
    assert list(documented) == [param.name for param in ROWS]
    for param in ROWS:
        default, rest = documented[param.name]
        shown = {None: "none", "": "empty"}.get(param.default, param.default)
        assert default == shown, param.name
        words = rest.split(" · ")
        assert ("RELOAD" in words) == param.reload, param.name
        assert ("restart" in words) != param.reload, param.name
        for where, place in ((Where.DATABASE, "databases"), (Where.USER, "users")):
            assert (f"[{place}]" in rest) == bool(param.also & where), param.name
        if param.override:
            assert f"as `{param.override}`" in rest


def test_our_settings_stand_in_our_section():
    names = re.findall(r"^### (\S+)", section("Section `[pybouncer]`"), re.M)
    assert names == [param.name for param in ROWS if param.section == OURS]


@pytest.mark.parametrize(
    ("title", "keys"),
    [("databases", DATABASE_KEYS), ("users", USER_KEYS), ("peers", PEER_KEYS)],
)
def test_each_key_of_the_other_sections_is_in_its_table(title, keys):
    text = section(f"Section `[{title}]`")
    cells = [
        line.split("|")[1:3] for line in text.split("\n") if line.startswith("| `")
    ]
    names = set(re.findall(r"`(\w+)`", " ".join(cell[0] for cell in cells)))
    if "reserve_pool" in keys:
        assert "`reserve_pool` is the same" in text
        names.add("reserve_pool")
    assert names == set(keys)
