"""docs/troubleshooting.md has every error text that a client can get, and no other."""

import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.told import every, in_cython, in_python

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "troubleshooting.md"
# Said to nobody: their client is a probe or a lookup of our own, or a server.
OURS = {
    "client disconnect while server was not ready",
    "the user of health checks cannot run queries",
    "unexpected response from probe",
    "unknown pkt from server",
}
# Shaped where a glance at the call does not see it.
SHAPED = {"too many large logins at once"}


def listed() -> Iterator[str]:
    """The texts in the first columns of the tables of what clients see."""
    text = PAGE.read_text()
    part = text[text.index("## What a client sees") : text.index("## What somebody")]
    for line in part.splitlines():
        found = re.match(r"\| `(.*?)` \|", line)
        if found:
            yield found[1]


def test_every_error_text_is_listed() -> None:
    """A text that nobody explains is a support case."""
    sources = every(ROOT)
    assert len(sources) > 100
    known = set(listed()) | OURS
    missing = [f"{text}  ({at})" for text, at in sources.items() if text not in known]
    assert not missing


def test_only_texts_that_exist_are_listed() -> None:
    assert set(listed()) - set(every(ROOT)) - SHAPED == set()
    for text in SHAPED:
        assert any(
            text in path.read_text()
            for path in (ROOT / "bouncer").rglob("*.py*")
            if path.suffix in (".py", ".pyx")
        )


def test_reader_sees_who_is_told(tmp_path: Path) -> None:
    """What only closes is no error text; what stands in a variable is one."""
    (tmp_path / "a.py").write_text(
        "TEXT = 'constant'\n"
        "def f(x):\n"
        "    text = f'made of {x}'\n"
        "    raise Disconnect(text)\n"
        "def g(client, server):\n"
        "    raise Disconnect('quiet', notify=False)\n"
        "    raise Disconnect(TEXT)\n"
        "    client.disconnect('told')\n"
        "    client.disconnect('untold', False)\n"
        "    server.disconnect('closed', True, False)\n"
        "    server.disconnect('both', True, True)\n"
        "    raise CommandError('a' if x else 'b', '54000')\n"
    )
    assert sorted(in_python(tmp_path / "a.py")) == [
        "a", "b", "both", "constant", "made of ...", "told",
    ]  # fmt: skip
    (tmp_path / "b.pyx").write_text(
        'self.end("told", True, "08P01")\n'
        'self.end("untold", False, "08P01")\n'
        'server.end("closed", True, False, "08P01")\n'
        'server.end("also "\n    "told", whole, True, "08P01")\n'
        'self.end(f"made of {x}", True, "08P01")\n'
        'self.end(fields.get(b"M", "default"), True, "22023")\n'
    )
    assert list(in_cython(tmp_path / "b.pyx")) == [
        "told", "also told", "made of ...", "default",
    ]  # fmt: skip
