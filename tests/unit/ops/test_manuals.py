"""Manual pages and completion: made from the parsers that read the command lines."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bouncer.arguments import Parser, commands_of
from bouncer.config.params import ROWS
from bouncer.options import LONG
from bouncer.pybouncer import every_command
from tests.conftest import missing
from tests.support.scripts import loaded

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """File name: where it was written."""
    for needed in ("argparse_manpage", "markdown_it", "shtab"):
        if importlib.util.find_spec(needed) is None:
            missing(f"needs {needed}: pip install 'pybouncer[manuals]'")
    manuals = loaded(ROOT / "docs/packaging/manuals.py")
    written = manuals.write(tmp_path_factory.mktemp("manuals"))
    return {path.name: path for path in written}


def plain(path: Path) -> str:
    """The text of a page, without what sets it in bold and the like."""
    text = path.read_text().replace("\\-", "-")
    return re.sub(r"\\f[BIRP]|\\,|\\/", "", text)


def every_option(parser: Parser) -> set[str]:
    """The options of a parser and of its commands."""
    return {one for one in parser.every_option() if one != "--help"}


def test_pages_tell_every_option(made: dict[str, Path]) -> None:
    page = plain(made["pybouncer.1"])
    for option in every_option(every_command()):
        assert option in page
    for name, _ in commands_of(every_command()):
        assert f"pybouncer {name}" in page
    own = plain(made["pgbouncer.1"])
    for name in LONG:
        if name != "help":
            assert f"--{name}" in own
    assert "exit codes" in own


def test_page_about_the_files_has_every_setting(made: dict[str, Path]) -> None:
    page = plain(made["pgbouncer.5"])
    for param in ROWS:
        assert f'.SS "{param.name}"' in page
    for section in ("[PGBOUNCER]", "[PYBOUNCER]"):
        assert f'.SH "SECTION {section}"' in page


@pytest.mark.parametrize("name", ["pgbouncer.1", "pgbouncer.5", "pybouncer.1"])
def test_pages_are_set_without_a_warning(name: str, made: dict[str, Path]) -> None:
    """As lintian looks at them."""
    if shutil.which("groff") is None:
        missing("needs groff: apt-get install groff-base")
    done = subprocess.run(
        ["groff", "-t", "-man", "-ww", "-rLL=80n", "-Tutf8", "-K", "utf8", made[name]],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    # Bold is a letter struck twice.
    assert "\nNAME\n" in re.sub(".\x08", "", done.stdout)


def completed(script: Path, *words: str) -> list[str]:
    """What bash offers behind these words of a command line."""
    code = (
        f"source {script}; COMP_WORDS=({' '.join(words)} ''); "
        f"COMP_CWORD={len(words) - 1}; _shtab_{words[0]} 2>/dev/null; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_bash_completes_commands_and_options(made: dict[str, Path]) -> None:
    script = made["pybouncer.bash"]
    assert completed(script, "pybouncer", "ex") == ["explain"]
    assert "drain" in completed(script, "pybouncer", "ha", "dr")
    assert "--offline" in completed(script, "pybouncer", "check", "--of")
    assert "--reboot" in completed(made["pgbouncer.bash"], "pgbouncer", "--re")
