"""docs/odoo.md: its configurations are those that `make odoo` runs Odoo with."""

import re
from pathlib import Path

import pytest

from tests.support.examples import DIRECTORY

DOC = Path(__file__).resolve().parents[3] / "docs" / "odoo.md"


def shown(name):
    """The block of the document that follows a line which ends with the file's name."""
    text = DOC.read_text()
    block = rf"^`\S*/{re.escape(name)}`:\n\n```\n(.*?)^```$"
    found = re.findall(block, text, re.M | re.S)
    assert len(found) == 1, f"{len(found)} blocks show {name}"
    return found[0]


@pytest.mark.parametrize("name", ["pgbouncer.ini", "odoo.conf"])
def test_odoo_doc_shows_what_is_tried(name):
    """It showed a made-up database, while Odoo listens on `postgres`."""
    tried = (DIRECTORY / "odoo" / name).read_text()
    # The first lines of an example are for the tests.
    tried = re.sub(r"^; (Proves|Asks): .*\n", "", tried, flags=re.M)
    assert shown(name) == tried


def test_odoo_example_keeps_the_database_of_its_bus_in_session_mode():
    """Odoo LISTENs on `postgres` and has no setting for another."""
    text = (DIRECTORY / "odoo" / "pgbouncer.ini").read_text()
    databases = text.partition("[databases]")[2].partition("[pgbouncer]")[0]
    assert re.search(r"^postgres = .*\bpool_mode=session\b", databases, re.M)
    assert re.search(r"^pool_mode = transaction$", text, re.M)
