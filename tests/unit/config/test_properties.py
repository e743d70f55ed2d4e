"""Generated files: never a traceback but the one that is meant, never a hang."""

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from bouncer.check.advice import advise
from bouncer.check.findings import ERROR
from bouncer.check.reading import read_all
from bouncer.check.safety import examine
from bouncer.config.connstr import BadConnstr, pairs
from bouncer.config.hba import HbaRules
from bouncer.config.ident import IdentMaps
from bouncer.config.ini import IniError
from bouncer.config.load import Loader
from bouncer.config.params import PARAMS
from bouncer.config.settings import Settings, config_rows
from bouncer.config.userlist import UserList
from bouncer.errors import ConfigError

WORDS = [
    "[pgbouncer]", "[databases]", "[users]", "[peers]", "[pybouncer]", "[", "]", "=",
    " = ", "\n", "\r\n", " ", "\t", "'", "''", '"', '""', ";", "#", "%include ", "self",
    "missing", "*", "1", "-1", "0x", "1e9", "host=h", "port=", "user=u", "pool_mode",
    "query_wait_timeout", "session", "auth_type", "verbose", "é", "\x00", "\ud800",
    "local", "host", "hostssl", "all", "sameuser", "replication", "@self", "+g", ",",
    "127.0.0.1/8", "::1", "255.0.0.0", "md5", "ldap", "peer", "map=", "m", "trust",
    *PARAMS,
]  # fmt: skip
TEXT = st.one_of(
    st.lists(st.sampled_from(WORDS), max_size=40).map("".join),
    st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join),
    st.text(max_size=200),
)


def encode(text):
    return text.encode("utf-8", "surrogatepass")


@given(st.one_of(TEXT.map(encode), st.binary(max_size=200)), TEXT.map(encode))
def test_any_ini_is_read_or_refused_with_its_lines(main, included):
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        (here / "self").write_bytes(included)
        path = here / "main"
        path.write_bytes(main.replace(b"self", bytes(here / "self")))
        loader = Loader(str(path), None, 0)
        try:
            config = loader.read()
        except IniError as error:
            assert error.lines and all(error.lines)
            return
        assert len(config_rows(config.settings)) >= 98
        again = Loader(str(path), config, 0).read()
        assert again.settings == config.settings
        assert again.databases == config.databases


@given(TEXT.map(encode), TEXT.map(encode))
def test_check_reads_any_ini_to_its_end(main, included):
    """What the loader refuses, a check calls an error, and the reverse."""
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        (here / "self").write_bytes(included)
        path = here / "main"
        path.write_bytes(main.replace(b"self", bytes(here / "self")))
        reading = read_all(str(path))
        refused = any(found.level == ERROR for found in reading.findings)
        try:
            Loader(str(path), None, 0).read()
        except IniError as error:
            assert refused, error.lines
        else:
            assert not refused, reading.findings
        for found in (*reading.findings, *advise(reading), *examine(reading)):
            assert str(found)


@given(st.sampled_from(sorted(PARAMS)), st.text(max_size=30))
def test_any_set_gives_settings_or_a_refusal(key, text):
    settings = Settings.defaults()
    try:
        changed = settings.with_value(key, text)
    except ConfigError:
        return
    shown = changed.show(key)
    if shown is not None:
        # What SHOW CONFIG says can be set again, and says the same then.
        assert changed.with_value(key, shown).show(key) == shown


@given(TEXT)
def test_any_connstr_is_pairs_or_broken(text):
    try:
        found = list(pairs(text))
    except BadConnstr:
        return
    quoted = " ".join(f"{k}='{v.replace(chr(39), chr(39) * 2)}'" for k, v in found)
    assert list(pairs(quoted)) == found


@given(TEXT, TEXT)
def test_any_hba_and_ident_file_is_read(hba, ident):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "self"
        path.write_bytes(encode(hba))
        maps = IdentMaps(ident)
        rules = HbaRules(hba, str(path), maps)
        for address in (None, "127.0.0.1", "::1", "nonsense"):
            for replication in (0, 1, 2):
                line = rules.match("d", "u", address, False, replication)
                assert line is None or line in rules.lines
        assert len(rules.lines) + len(rules.problems) <= 3 * (hba.count("\n") + 1)


@given(TEXT)
def test_any_userlist_is_read_up_to_its_first_mistake(text):
    found = UserList(text)
    assert found.secrets.keys() == found.lines.keys()
    quoted = {name.replace('"', '""'): value for name, value in found.secrets.items()}
    again = "".join(
        f'"{name}" "{value.replace(chr(34), chr(34) * 2)}"\n'
        for name, value in quoted.items()
    )
    assert UserList(again).secrets == found.secrets
