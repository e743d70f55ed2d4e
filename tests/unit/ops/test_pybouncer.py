"""The program `pybouncer`: which words are commands, and what becomes of the rest."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bouncer import __version__
from bouncer.arguments import Parser, commands_of
from bouncer.extras import remedy
from bouncer.pybouncer import COMMANDS, every_command, pybouncer

ROOT = Path(__file__).resolve().parents[3]
MAIN = "from bouncer.pybouncer import pybouncer_main; pybouncer_main()"
NAMES = [command.name for command in COMMANDS]


def every_parser(parser: Parser) -> list[Parser]:
    """A parser, and those of its commands."""
    found = [parser]
    for _, one in commands_of(parser):
        found += every_parser(one)
    return found


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
    assert pybouncer(["pybouncer", "-q"]) == 1
    assert capsys.readouterr().err.startswith(
        "pybouncer: no configuration file specified\n"
    )


def test_run_is_pgbouncer_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert pybouncer(["pybouncer", "run", "-V"]) == 0
    assert capsys.readouterr().out.startswith("PgBouncer 1.26.1\n")


def test_alone_it_shows_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert pybouncer(["pybouncer"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "pybouncer COMMAND" in said.err


@pytest.mark.parametrize("word", ["help", "-h", "--help"])
def test_help_lists_every_command_and_what_pgbouncers_own_does_not(
    capsys: pytest.CaptureFixture[str], word: str
) -> None:
    """`pgbouncer --help` is PgBouncer's to the byte."""
    assert pybouncer(["pybouncer", word]) == 0
    said = capsys.readouterr().out
    for option in ("-R, --reboot", "--check", "--explain"):
        assert option in said
    for name in NAMES:
        assert re.search(rf"^  {name} ", said, re.M)


@pytest.mark.parametrize("name", NAMES)
def test_each_command_has_its_help(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pybouncer(["pybouncer", name, "--help"]) == 0
    first = capsys.readouterr().out
    assert first.startswith(f"usage: pybouncer {name} ")
    assert pybouncer(["pybouncer", "help", name]) == 0
    assert capsys.readouterr().out == first


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("chek x.ini", "check"),
        ("hlep", "help"),
        ("help explian", "explain"),
        ("check --ofline x.ini", "--offline"),
        ("ha statsu", "status"),
        ("ha drain --fource a/b", "--force"),
        ("ha render frm --from x --inventory y --out z", "farm"),
    ],
)
def test_a_misspelt_word_gets_the_nearest_one(
    words: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`pybouncer chek x` said that there was no configuration file."""
    assert pybouncer(["pybouncer", *words.split()]) == 2
    said = capsys.readouterr().err
    assert f"did you mean {meant}?" in said


def test_a_missing_file_is_no_misspelt_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A start would change what this process does with signals, and its log.
    started: list[list[str]] = []
    monkeypatch.setattr(
        "bouncer.pybouncer.pgbouncer", lambda argv: started.append([*argv]) or 1
    )
    assert pybouncer(["pybouncer", "./no-such.ini"]) == 1
    assert started == [["pybouncer", "./no-such.ini"]]
    assert pybouncer(["pybouncer", "nothing-like-a-word.ini"]) == 2
    assert "neither a command nor a file;" in capsys.readouterr().err


def test_codes_of_check_are_those_of_every_command(tmp_path: Path) -> None:
    """As `pgbouncer --check`, 2 would be a warning, and 3 a wrong call."""
    sound = (
        f"[databases]\nx = host=127.0.0.1\n[pgbouncer]\nunix_socket_dir = {tmp_path}\n"
        f"auth_file = {tmp_path}/users\n"
    )
    (tmp_path / "users").write_text('"a" "b"\n')
    (tmp_path / "users").chmod(0o600)
    for text, status in (
        (sound, 0),
        (sound + "pool_modee = session\n", 1),
        (sound + "auth_type = trust\nlisten_addr = *\n", 1),
    ):
        path = tmp_path / "x.ini"
        path.write_text(text)
        assert pybouncer(["pybouncer", "check", "--offline", str(path)]) == status
    assert pybouncer(["pybouncer", "check"]) == 2


def test_every_command_tells_examples_and_exit_codes() -> None:
    for parser in every_parser(every_command()):
        if parser.prog == "pybouncer version":
            continue
        told = parser.format_help()
        assert "exit codes:" in told, parser.prog
        if not list(commands_of(parser)) and parser.prog.count(" ") == 1:
            assert "examples:" in told, parser.prog


def test_every_option_says_what_it_does() -> None:
    """With its unit and default, where it takes a value."""
    for parser in every_parser(every_command()):
        for action in parser._actions:
            place = f"{parser.prog} {action.dest}"
            assert action.help or list(commands_of(parser)), place
            if action.metavar in ("SECONDS", "N"):
                assert "default" in str(action.help), place


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["run", "--version"],
        ["x.ini", "--help"],
        ["ha", "check", "--rules"],
        ["explain", "--json", "pgbouncer", "a", "unix", "x.ini"],
        ["check", "--offline", "x.ini"],
    ],
)
def test_who_reads_our_output_may_stop(words: list[str], tmp_path: Path) -> None:
    """`pgbouncer --explain ... | head` ended in a traceback."""
    (tmp_path / "x.ini").write_text("[pgbouncer]\nbad = 1\n" * 3)
    command = [sys.executable, "-c", MAIN, *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    whole = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, check=False
    )
    read, write = os.pipe()
    os.close(read)
    try:
        cut = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            stdout=write,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(write)
    assert (cut.returncode, cut.stderr) == (whole.returncode, whole.stderr)


def test_ha_names_the_extra_that_it_lacks(tmp_path: Path) -> None:
    """What only HAProxy needs is not installed with the pooler."""
    (tmp_path / "jinja2.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'jinja2'\", name='jinja2')\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "ha", "status"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "pybouncer ha needs jinja2, which is missing: pip install 'pybouncer[ha]'\n"
    )


def test_a_package_names_its_own_way_to_what_is_missing(tmp_path: Path) -> None:
    """Debian's pybouncer told to use pip, which changes nothing for it."""
    packaged = tmp_path / "extras.json"
    assert remedy("ha", packaged) == "pip install 'pybouncer[ha]'"
    packaged.write_text('{"ha": "apt install python3-jinja2"}')
    assert remedy("ha", packaged) == "apt install python3-jinja2"


def test_a_pooler_loads_nothing_of_the_extra() -> None:
    """Also with a health port: only the setting haproxy_sockets needs it."""
    code = (
        "import sys, bouncer.cli; "
        "print([n for n in ('jinja2', 'haproxystats', 'requests') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
    assert importlib.util.find_spec("jinja2") is not None
