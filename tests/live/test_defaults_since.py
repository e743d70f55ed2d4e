"""Defaults that have changed since a real PgBouncer are told by `--check --from`.

The table has all versions between; those that are unpacked here are asked.
"""

import pytest

from bouncer.check.since import CHANGES
from bouncer.config.params import PARAMS
from tests.support.real import DEBIAN, Real, ask, find_trixie

# New since then, and off or without effect unless a file sets it.
WITHOUT_EFFECT = ("", "0", "4096", None)


def real_one(name: str, lab) -> Real:
    found = ask(DEBIAN, lab.identity) if name == "debian" else find_trixie(lab.identity)
    if found is None:
        pytest.skip(f"no PgBouncer of {name} here: tests/support/peers")
    return found


@pytest.mark.parametrize("name", ["debian", "trixie"])
def test_no_default_has_changed_without_being_told(pooler, lab, name):
    real = real_one(name, lab)
    old = pooler({}, command=[real.path], server_port=1)
    shown = {row["key"]: row["default"] for row in old.console("SHOW CONFIG")}
    told = {one.name: one for one in CHANGES if one.since > real.version[1:]}
    for param in PARAMS.values():
        if param.section != "pgbouncer" or param.dropped:
            continue
        if param.name not in shown:
            assert param.default in WITHOUT_EFFECT or param.name in told, param.name
        elif (shown[param.name] or "") != (param.default or ""):
            assert told[param.name].before == shown[param.name], param.name
            assert told[param.name].now.startswith(param.default or "empty")
    assert set(shown) <= set(PARAMS)
