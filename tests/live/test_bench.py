"""The short form of the bench: its figures can be produced. It proves no speed."""

import shlex
import subprocess
import sys

import pytest

from tests.conftest import IN_CI, ROOT, pooler_command


@pytest.mark.timeout(600)
@pytest.mark.skipif(not IN_CI, reason="takes a minute or two: make bench-short")
def test_every_figure_can_be_measured(request):
    exe = shlex.join(pooler_command(request.config))
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--short", "--pooler", exe],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "could not be measured" not in done.stdout
    assert "| simple | us CPU per transaction |" in done.stdout
