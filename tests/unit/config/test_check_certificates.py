"""`--check` sees certificates before their last day, and what TLS lacks."""

import re
import shutil
import socket
import ssl
import threading
import time

import pytest

from bouncer.check import certificates
from bouncer.check.certificates import DAY, HOUR, term_of, terms_in
from bouncer.check.findings import ERROR, WARNING
from bouncer.check.main import check
from tests.conftest import missing
from tests.replay.lab import make_certificates
from tests.unit.config.test_check import write  # noqa: F401  (a fixture)

CLIENT = (
    "client_tls_sslmode = require\nclient_tls_key_file = bouncer.key\n"
    "client_tls_cert_file = bouncer.crt\n"
)
SERVER = (
    "server_tls_sslmode = verify-full\nserver_tls_ca_file = ca.crt\n"
    "server_tls_key_file = certuser.key\nserver_tls_cert_file = certuser.crt\n"
)
SHORT = re.compile(r"-----BEGIN CERT.*?-----END CERTIFICATE-----", re.DOTALL)
DATABASE = "[databases]\na = host=h\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    directory = tmp_path_factory.mktemp("certificates")
    if not make_certificates(directory):
        missing("needs openssl: apt-get install openssl")
    return directory


@pytest.fixture
def files(here, made):
    """The certificates, in the working directory."""
    for path in made.iterdir():
        if path.suffix in (".crt", ".key"):
            shutil.copy(path, here / path.name)
            (here / path.name).chmod(0o600)
    return here


@pytest.fixture
def days_left(files, monkeypatch):
    """Sets the clock so that the certificates have so many days left."""

    def left(days):
        # They were made one after the other: half an hour is for that.
        ends = [terms_in(str(files / f"{name}.crt"))[0].end for name in ("ca", "pg")]
        moment = min(ends) - days * DAY + HOUR / 2
        monkeypatch.setattr(certificates, "now", lambda: moment)

    return left


def said(path):
    findings, _ = check(path, online=False)
    return {
        one.setting: (one.level, f"{one.text} | {one.suggestion}") for one in findings
    }


def test_dates_are_those_that_openssl_reads(files):
    for name in ("bouncer.crt", "ca.crt", "certuser.crt"):
        shown = ssl._ssl._test_decode_cert(str(files / name))
        [term] = terms_in(str(files / name))
        assert term.begin == ssl.cert_time_to_seconds(shown["notBefore"])
        assert term.end == ssl.cert_time_to_seconds(shown["notAfter"])


@pytest.mark.parametrize(
    ("days", "text"),
    [
        (-12, "expired 12 days ago, on 20"),
        (0, "expired 0 hours ago"),
        (1, "expires in 23 hours, on 20"),
        (2, "expires in 1 day, on 20"),
        (13, "expires in 12 days, on 20"),
        (30, "expires in 29 days, on 20"),
        (3653, "is not valid before 20"),
    ],
)
def test_certificate_near_its_end_is_told_with_the_days(
    write,  # noqa: F811
    days_left,
    days,
    text,
):
    """TLS is set up with an expired certificate, and every client finds out alone."""
    days_left(days)
    found = said(write(CLIENT + SERVER + DATABASE))
    for name in ("client_tls_cert_file", "server_tls_cert_file", "server_tls_ca_file"):
        level, sentence = found[name]
        assert level == WARNING
        assert text in sentence
    assert set(found) == {
        "client_tls_cert_file",
        "server_tls_cert_file",
        "server_tls_ca_file",
    }


def test_good_certificates_are_not_spoken_of(write, days_left):  # noqa: F811
    days_left(40)
    assert said(write(CLIENT + SERVER + DATABASE)) == {}


def test_what_is_not_in_use_may_be_old(write, days_left):  # noqa: F811
    days_left(-1)
    text = SERVER.replace("verify-full", "require")
    assert "does not verify" in said(write(text + DATABASE))["server_tls_ca_file"][1]


def test_old_authority_beside_a_good_one_may_stay(write, files, monkeypatch):  # noqa: F811
    both = (files / "ca.crt").read_text() + (files / "rogueca.crt").read_text()
    (files / "ca.crt").write_text(both)
    good, old = sorted(terms_in("ca.crt"), reverse=True)
    end = min(good.end, old.end)
    terms = [good._replace(end=end), old._replace(end=end - DAY)]
    monkeypatch.setattr(certificates, "terms_in", lambda path: terms if path else [])
    monkeypatch.setattr(certificates, "now", lambda: end - DAY / 2)
    text = "server_tls_sslmode = verify-full\nserver_tls_ca_file = ca.crt\n"
    [(_, sentence)] = said(write(text + DATABASE)).values()
    assert "every authority in it, the last expires in 12 hours" in sentence
    monkeypatch.setattr(certificates, "now", lambda: end - 31 * DAY)
    assert said(write(text + DATABASE)) == {}


def test_every_certificate_of_a_chain_counts(write, files, days_left):  # noqa: F811
    chain = (files / "bouncer.crt").read_text() + (files / "ca.crt").read_text()
    (files / "bouncer.crt").write_text(chain)
    days_left(5)
    findings, _ = check(write(CLIENT + DATABASE), online=False)
    assert [one.text.partition(" expires")[0] for one in findings] == [
        "its certificate",
        "certificate 2 in it",
    ]


def test_key_of_another_certificate(write, files):  # noqa: F811
    found = said(write(CLIENT.replace("bouncer.key", "pg.key") + DATABASE))
    assert found["client_tls_key_file"][0] == ERROR
    assert "the key belongs to another certificate" in found["client_tls_key_file"][1]
    found = said(write(SERVER.replace("certuser.key", "pg.key") + DATABASE))
    assert found["server_tls_key_file"][0] == WARNING
    assert "the key belongs to another certificate" in found["server_tls_key_file"][1]


@pytest.mark.parametrize(
    ("rest", "setting", "text"),
    [
        (CLIENT.replace("require", "verify-ca"), "client_tls_sslmode", "any public"),
        ("server_tls_key_file = certuser.key\n", "server_tls_key_file", "no effect"),
        ("server_tls_cert_file = pg.crt\n", "server_tls_cert_file", "no effect"),
        ("client_tls_ca_file = ca.crt\n", "client_tls_ca_file", "no effect with"),
        (
            SERVER.replace("verify-full", "disable"),
            "server_tls_ca_file",
            "no effect with",
        ),
        (
            "server_tls_sslmode = verify-ca\nserver_tls_ca_file = none.crt\n",
            "server_tls_ca_file",
            "cannot be reached",
        ),
        (
            "server_tls_protocols = tls1.2\n",
            "server_tls_protocols",
            "did you mean tlsv1.2?",
        ),
    ],
)
def test_what_tls_lacks(write, files, rest, setting, text):  # noqa: F811
    assert text in said(write(rest + DATABASE))[setting][1]


@pytest.mark.parametrize("count", [0, 1, 10, 30, 60, 120, 200])
def test_broken_certificates_are_refused_as_a_whole(made, count):
    """Whatever is cut off or changed is a ValueError, never anything else."""
    der = ssl.PEM_cert_to_DER_cert(SHORT.search((made / "pg.crt").read_text())[0])
    with pytest.raises(ValueError):
        term_of(der[:count])
    for at in range(min(len(der), 300)):
        changed = bytearray(der)
        changed[at] ^= 0xFF
        try:
            term_of(bytes(changed))
        except ValueError:
            pass


def answer_tls(server, context, replies):
    """One connection: a yes to TLS if there is a *context*, else a no."""
    link, _ = server.accept()
    with link:
        link.recv(8)
        link.sendall(b"S" if context else b"N")
        if context is None:
            link.recv(1)
            return
        try:
            with context.wrap_socket(link, server_side=True) as tls:
                tls.recv(1000)
        except OSError as error:
            replies.append(error)


@pytest.mark.parametrize(
    ("certificate", "text"),
    [
        (None, "server refused SSL"),
        ("rogue", "handshake failed"),
        ("certuser", "not present in server certificate"),
        ("pg", "expires in 4 days"),
    ],
)
def test_server_that_tls_does_not_reach(
    write,  # noqa: F811
    files,
    days_left,
    certificate,
    text,
):
    """The answer was one line without a place, and no finding."""
    days_left(5)
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{certificate}.crt", f"{certificate}.key")
    server = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=answer_tls, args=(server, context, []))
    thread.start()
    path = write(
        "server_tls_sslmode = verify-full\nserver_tls_ca_file = ca.crt\n[databases]\n"
        f"a = host=127.0.0.1 port={server.getsockname()[1]} user=alice\n"
    )
    findings, _ = check(path)
    thread.join(20)
    server.close()
    told = [one.text for one in findings if one.setting == "server_tls_sslmode"]
    assert len(told) == 1 and text in told[0]


def test_clock_is_the_system_clock():
    assert abs(certificates.now() - time.time()) < 3600
