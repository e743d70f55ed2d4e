"""What the packaged units promise, and what the package's scripts do to a machine."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import need
from tests.support.systemd import unit_settings

PACKAGING = Path(__file__).resolve().parents[3] / "docs/packaging"
UNITS = [
    PACKAGING / "systemd/pybouncer.service",
    PACKAGING / "systemd/pgbouncer@.service",
]
CLOSED = re.compile("Protect|Restrict.+s$|Lock|NoNew|PrivateD|SystemCall|Capab")


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_unit_is_exposed_below_five(path: Path) -> None:
    """It was 8.3, with NoNewPrivileges= as something to leave out for PAM."""
    need("systemd-analyze", "apt-get install systemd")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", path],
        capture_output=True, text=True,
    )  # fmt: skip
    told = re.search(r"exposure level for .*: ([0-9.]+)", done.stdout)
    assert told and float(told[1]) < 5, done.stdout + done.stderr


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_unit_lets_a_takeover_go_on(path: Path) -> None:
    """A second process says MAINPID=; what it needs of /tmp and IPC stays in reach."""
    unit = unit_settings(path)
    assert (unit["Type"], unit["NotifyAccess"]) == ("notify", "all")
    assert unit.get("PrivateTmp", "no") == "no"
    # PostgreSQL has semaphores, and is the same user.
    assert unit.get("RemoveIPC", "no") == "no"
    assert "PartOf" not in path.read_text()


def test_units_are_equally_closed() -> None:
    found = [
        {
            name: value
            for name, value in unit_settings(path).items()
            if CLOSED.match(name)
        }
        for path in UNITS
    ]
    assert len(found[0]) > 15 and found[0] == found[1]


@pytest.mark.parametrize("name", ["postinst", "prerm", "postrm"])
def test_scripts_of_the_package_are_what_a_plain_shell_reads(name: str) -> None:
    path = PACKAGING / "debian" / name
    assert path.read_text().startswith("#!/bin/sh\n")
    subprocess.run(["sh", "-n", path], check=True)


def test_package_offers_ours_below_the_distributions() -> None:
    """`dpkg -i` switched /usr/sbin/pgbouncer at once: 50 against 10, automatically."""
    text = (PACKAGING / "debian/postinst").read_text().replace("\\\n", "")
    ours = re.search(r'--install "\$program" pgbouncer "\$ours" (\d+)', text)
    theirs = re.search(
        r'--install "\$program" pgbouncer\s+"\$program.distrib" (\d+)', text
    )
    assert ours and theirs and int(ours[1]) < int(theirs[1])
