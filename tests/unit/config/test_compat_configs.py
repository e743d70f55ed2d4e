"""compat-configs/: every configuration is read as it stands, without a complaint."""

import pytest

from bouncer.check.findings import ERROR, NOTE
from bouncer.check.main import check
from bouncer.check.reading import read_all
from bouncer.config.load import load, make_autodb
from bouncer.config.params import PARAMS
from tests.conftest import missing
from tests.replay.lab import make_certificates
from tests.support.examples import examples

ALL = examples()


@pytest.fixture(params=ALL)
def example(request):
    return ALL[request.param]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """What the examples with TLS need."""
    directory = tmp_path_factory.mktemp("certificates")
    if not make_certificates(directory):
        missing("needs openssl: apt-get install openssl")
    return directory


def test_there_are_enough_of_them():
    assert len(ALL) >= 25


def test_its_first_lines_say_what_it_proves_and_asks(example):
    first, second, *_ = example.lines()
    assert first.startswith("; Proves: ") and len(example.proves) > 20
    assert second.startswith("; Asks: ")
    assert example.question is not None or "nothing" in example.asks


def test_it_loads_without_a_word(example, here, logged):
    config = load(str(example.install(here)))
    assert not logged
    assert load(config.settings.conffile, config).settings == config.settings
    question = example.question
    if question is not None and question.database not in config.databases:
        assert make_autodb(config, question.database) is not None
    assert not logged


def test_its_other_files_are_read_to_their_end(example, here):
    reading = read_all(str(example.install(here)))
    assert not [found for found in reading.findings if not found.file.endswith(".ini")]
    if reading.userlist is not None:
        assert reading.userlist.secrets
    if reading.hba is not None:
        assert reading.hba.lines


def test_check_finds_no_error_in_it(example, here, certificates):
    path = example.install(here, certificates=certificates)
    findings, _ = check(str(path), online=False)
    assert not [found for found in findings if found.level == ERROR]


# What there is to say of them as they are meant to be; all else is a false alarm.
DOUBTED = {
    "all-spellings": {"again", "admin_users", "server_reset_query"},
    "image-tcp-only": {"admin_users"},
    "operator-include-first": {"pool_mode", "default_pool_size"},
    "operator-tls": {"server_tls_ca_file"},
    "plproxy": {"part0", "part1"},
}


def test_check_raises_no_false_alarm(example, here, certificates):
    path = example.install(here, certificates=certificates)
    findings, _ = check(str(path), online=False)
    # How many descriptors there may be is this machine's.
    doubted = {one.setting for one in findings if one.level != NOTE}
    doubted -= {"max_client_conn"}
    assert doubted <= DOUBTED.get(example.name, set())


def test_together_they_set_most_of_what_can_be_set(tmp_path):
    """What none of them sets is left to the recordings."""
    used = set()
    for example in ALL.values():
        directory = tmp_path / example.name
        directory.mkdir()
        used |= load(str(example.install(directory))).sources.keys()
    assert len(used & PARAMS.keys()) > 85
