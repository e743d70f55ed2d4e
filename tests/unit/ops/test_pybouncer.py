"""The program `pybouncer`: which words are commands, and what becomes of the rest."""

import pytest

from bouncer import __version__
from bouncer.pybouncer import pybouncer


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert pybouncer(["pybouncer", "version"]) == 0
    said = capsys.readouterr().out
    assert said == f"pybouncer {__version__} (PgBouncer 1.26.1)\n"


def test_without_a_command_it_is_pgbouncer(capsys: pytest.CaptureFixture[str]) -> None:
    assert pybouncer(["pybouncer", "--version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "PgBouncer 1.26.1"
    assert lines[1].startswith(f"pybouncer {__version__} on libuv ")
    assert [line.partition(":")[0] for line in lines[2:]] == ["adns", "tls", "systemd"]
    assert pybouncer(["pybouncer"]) == 1
    assert capsys.readouterr().err.startswith(
        "pybouncer: no configuration file specified\n"
    )


@pytest.mark.parametrize("word", ["help", "-h", "--help"])
def test_help_lists_what_pgbouncers_own_does_not(
    capsys: pytest.CaptureFixture[str], word: str
) -> None:
    """`pgbouncer --help` is PgBouncer's to the byte."""
    assert pybouncer(["pybouncer", word]) == 0
    said = capsys.readouterr().out
    for option in ("-R, --reboot", "--check", "--explain", "pybouncer ha"):
        assert option in said


@pytest.mark.parametrize("command", ["check", "explain"])
def test_check_and_explain_are_commands(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pybouncer(["pybouncer", command]) != 0
    assert f"--{command}" in capsys.readouterr().err


def test_ha_has_its_own_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert pybouncer(["pybouncer", "ha", "--help"]) == 0
    assert "pybouncer ha" in capsys.readouterr().out
