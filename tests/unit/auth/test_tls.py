"""TLS settings become contexts; names in certificates become users.

Certificates are made by openssl once per run; a handshake happens in memory.
"""

import shutil
import ssl
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bouncer.auth import openssl, tls
from bouncer.config.settings import Settings
from bouncer.errors import ConfigError


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, a server certificate, one of a user, and one of another CA."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl (apt-get install openssl)")
    where = tmp_path_factory.mktemp("certs")

    def run(*words: str) -> None:
        subprocess.run(("openssl", *words), cwd=where, check=True, capture_output=True)

    def make(name: str, ca: str, *extensions: str) -> None:
        (where / "ext").write_text("\n".join(extensions))
        run("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out",
            "req", "-subj", f"/CN={name}")  # fmt: skip
        run("x509", "-req", "-in", "req", "-CA", f"{ca}.crt", "-CAkey", f"{ca}.key",
            "-CAcreateserial", "-days", "2", "-out", f"{name}.crt", "-extfile",
            "ext")  # fmt: skip

    for ca in ("ca", "rogueca"):
        run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{ca}.key",
            "-out", f"{ca}.crt", "-subj", f"/CN={ca}", "-days", "2")  # fmt: skip
    make("localhost", "ca", "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1")
    make("ann", "ca")
    make("rogue", "rogueca")
    return where


@pytest.fixture
def settings(certs: Path) -> Settings:
    """TLS for clients, switched on."""
    return replace(
        Settings.defaults(),
        client_tls_sslmode="allow",
        client_tls_key_file=str(certs / "localhost.key"),
        client_tls_cert_file=str(certs / "localhost.crt"),
        client_tls_ca_file=str(certs / "ca.crt"),
    )


def context_of(settings: Settings) -> ssl.SSLContext:
    found = tls.client_context(settings)
    assert found is not None
    return found


def problem(settings: Settings, **changes: Any) -> str:
    with pytest.raises(ConfigError) as error:
        tls.client_context(replace(settings, **changes))
    return str(error.value)


def shake(
    server: ssl.SSLContext, client: ssl.SSLContext, name: str | None = "localhost"
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Shake hands in memory; raises what either side raises."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname=name)
    done: set[ssl.SSLObject] = set()
    for _ in range(10):
        for side in (theirs, ours):
            if side in done:
                continue
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                pass
    assert done == {ours, theirs}
    return ours, theirs


def visitor(certs: Path | None = None, name: str = "", **more: Any) -> ssl.SSLContext:
    """A client's context that checks nothing."""
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    found.check_hostname = False
    found.verify_mode = ssl.CERT_NONE
    if certs is not None:
        found.load_cert_chain(certs / f"{name}.crt", certs / f"{name}.key")
    for key, value in more.items():
        setattr(found, key, value)
    return found


# What is refused, and how


def test_disabled_is_no_context() -> None:
    assert tls.client_context(Settings.defaults()) is None


@pytest.mark.parametrize("missing", ["client_tls_key_file", "client_tls_cert_file"])
def test_key_and_certificate_are_needed(settings: Settings, missing: str) -> None:
    assert problem(settings, **{missing: ""}) == (
        "To allow TLS connections from clients, client_tls_key_file and "
        "client_tls_cert_file must be set."
    )


def test_auth_type_cert_has_conditions(settings: Settings) -> None:
    assert problem(settings, auth_type="cert") == (
        "auth_type=cert requires client_tls_sslmode=SSLMODE_VERIFY_FULL"
    )
    assert problem(
        settings,
        auth_type="cert",
        client_tls_sslmode="verify-full",
        client_tls_ca_file="",
    ) == ("auth_type=cert requires client_tls_ca_file")
    assert problem(replace(Settings.defaults()), auth_type="cert") == (
        "auth_type=cert requires client_tls_sslmode=SSLMODE_VERIFY_FULL"
    )


def test_verify_full_needs_a_ca_and_verify_ca_does_not(settings: Settings) -> None:
    changes = {"client_tls_ca_file": ""}
    assert problem(settings, client_tls_sslmode="verify-full", **changes) == (
        "client_tls_sslmode requires client_tls_ca_file"
    )
    context_of(replace(settings, client_tls_sslmode="verify-ca", **changes))


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("client_tls_protocols", "tlsv1.4", "invalid client_tls_protocols: tlsv1.4"),
        ("client_tls_protocols", "legacy", "invalid client_tls_protocols: legacy"),
        ("client_tls_ciphers", "all", "invalid client_tls_ciphers: all"),
        ("client_tls_dheparams", "legacy", "invalid client_tls_dheparams: legacy"),
        ("client_tls_ecdhcurve", "x", "invalid client_tls_ecdhecurve: x"),
        (
            "client_tls13_ciphers",
            "x",
            "TLS setup failed: failed to set the TLSv1.3 cipher suites",
        ),
        ("server_tls_protocols", "x", "invalid server_tls_protocols: x"),
        ("server_tls_ciphers", "x", "invalid server_tls_ciphers: x"),
    ],
)
def test_bad_word(settings: Settings, name: str, value: str, text: str) -> None:
    assert problem(settings, **{name: value}) == text


def test_server_side_is_checked_first_and_only_when_it_is_on(
    settings: Settings,
) -> None:
    both = {"server_tls_protocols": "x", "client_tls_protocols": "x"}
    assert problem(settings, **both).startswith("invalid server_tls")
    off = {"server_tls_sslmode": "disable"}
    assert problem(settings, **both, **off).startswith("invalid client_tls")
    bad = replace(Settings.defaults(), server_tls_ciphers="x")
    with pytest.raises(ConfigError):
        tls.client_context(bad)


def test_files_that_cannot_be_used(settings: Settings, certs: Path) -> None:
    gone, other = str(certs / "gone"), str(certs / "ext")
    key, ann = str(certs / "ann.key"), str(certs / "ann.crt")
    setup = "TLS setup failed: failed to load"
    assert problem(settings, client_tls_cert_file=gone) == (
        f'{setup} certificate file "{gone}": No such file or directory'
    )
    assert problem(settings, client_tls_cert_file=other) == (
        f'{setup} certificate file "{other}": no start line'
    )
    assert problem(settings, client_tls_key_file=gone) == (
        f'{setup} private key file "{gone}": No such file or directory'
    )
    assert problem(settings, client_tls_key_file=ann) == (
        f'{setup} private key file "{ann}": no start line'
    )
    assert problem(settings, client_tls_key_file=key).startswith(
        f'{setup} private key file "{key}": '
    )
    assert problem(settings, client_tls_ca_file=gone) == (
        f"{setup} CA: No such file or directory"
    )
    assert problem(settings, client_tls_ca_file=other) == (
        f"{setup} CA: no certificate or crl found"
    )


# What is allowed


@pytest.mark.parametrize(
    ("text", "versions"),
    [
        ("secure", {"TLSv1.2", "TLSv1.3"}),
        ("DEFAULT", {"TLSv1.2", "TLSv1.3"}),
        ("tlsv1.3", {"TLSv1.3"}),
        ("tlsv1.2:tlsv1.3", {"TLSv1.2", "TLSv1.3"}),
        ("tlsv1.2, tlsv1.3", {"TLSv1.2", "TLSv1.3"}),
        ("!tlsv1.3", {"TLSv1.2"}),
        ("all,!tlsv1.2", {"TLSv1.3"}),
        ("", {"TLSv1.2", "TLSv1.3"}),
    ],
)
def test_protocols(settings: Settings, text: str, versions: set[str]) -> None:
    server = context_of(replace(settings, client_tls_protocols=text))
    found = set()
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        client = visitor(minimum_version=version, maximum_version=version)
        try:
            found.add(shake(server, client)[0].version())
        except ssl.SSLError:
            pass
    assert found == versions


def test_old_protocols_are_off_by_default(settings: Settings) -> None:
    context = context_of(settings)
    assert context.options & ssl.OP_NO_TLSv1 and context.options & ssl.OP_NO_TLSv1_1


def test_ciphers_and_suites_are_those_that_were_chosen(settings: Settings) -> None:
    server = context_of(
        replace(
            settings,
            client_tls_ciphers="ECDHE-RSA-AES128-GCM-SHA256",
            client_tls13_ciphers="TLS_CHACHA20_POLY1305_SHA256",
        )
    )
    assert tls.describe(shake(server, visitor())[0]) == (
        "TLSv1.3/TLS_CHACHA20_POLY1305_SHA256"
    )
    old = visitor(maximum_version=ssl.TLSVersion.TLSv1_2)
    assert tls.describe(shake(server, old)[0]).startswith(
        "TLSv1.2/ECDHE-RSA-AES128-GCM-SHA256/ECDH="
    )


def test_description_names_the_key_exchange_of_old_versions(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = visitor(maximum_version=ssl.TLSVersion.TLSv1_2)
    client.set_ciphers("ECDHE-RSA-AES256-GCM-SHA384")
    server = context_of(replace(settings, client_tls_ecdhcurve="X25519"))
    ours, theirs = shake(server, client)
    text = "TLSv1.2/ECDHE-RSA-AES256-GCM-SHA384/ECDH=X25519"
    assert tls.describe(ours) == tls.describe(theirs) == text
    client.set_ciphers("DHE-RSA-AES256-GCM-SHA384")
    ours, theirs = shake(context_of(settings), client)
    text = "TLSv1.2/DHE-RSA-AES256-GCM-SHA384"
    assert tls.describe(theirs) == f"{text}/DH=2048"
    assert tls.describe(ours) == text  # OpenSSL has forgotten the key by then
    client.set_ciphers("AES256-GCM-SHA384")
    ours, _ = shake(context_of(settings), client)
    assert tls.describe(ours) == "TLSv1.2/AES256-GCM-SHA384"
    monkeypatch.setattr(openssl, "_library", None)
    assert tls.describe(shake(server, visitor())[0]) == "TLSv1.3/TLS_AES_256_GCM_SHA384"


@pytest.mark.parametrize("word", ["default", "secure", "normal", "fast", "DEFAULT"])
def test_words_for_the_librarys_own_ciphers(settings: Settings, word: str) -> None:
    shake(context_of(replace(settings, client_tls_ciphers=word)), visitor())


@pytest.mark.parametrize("curve", ["auto", "none", "prime256v1", "P-384", "X25519"])
def test_curves(settings: Settings, curve: str) -> None:
    shake(context_of(replace(settings, client_tls_ecdhcurve=curve)), visitor())


def test_curve_that_the_client_does_not_have(settings: Settings) -> None:
    server = context_of(replace(settings, client_tls_ecdhcurve="secp521r1"))
    client = visitor()
    client.set_ecdh_curve("prime256v1")
    with pytest.raises(ssl.SSLError):
        shake(server, client)


def test_dheparams_auto_offers_finite_field_dh(settings: Settings) -> None:
    client = visitor(maximum_version=ssl.TLSVersion.TLSv1_2)
    client.set_ciphers("DHE-RSA-AES128-GCM-SHA256")
    shake(context_of(settings), client)
    with pytest.raises(ssl.SSLError):
        shake(context_of(replace(settings, client_tls_dheparams="none")), client)


def test_no_session_is_kept_for_later(settings: Settings) -> None:
    context = context_of(settings)
    assert context.num_tickets == 0 and context.options & ssl.OP_NO_TICKET


# ALPN


def test_alpn_postgresql_is_selected(settings: Settings) -> None:
    client = visitor()
    client.set_alpn_protocols(["h2", "postgresql"])
    _, theirs = shake(context_of(settings), client)
    assert theirs.selected_alpn_protocol() == "postgresql"


def test_no_alpn_is_accepted(settings: Settings) -> None:
    _, theirs = shake(context_of(settings), visitor())
    assert theirs.selected_alpn_protocol() is None


def test_alpn_without_postgresql_is_refused(settings: Settings) -> None:
    client = visitor()
    client.set_alpn_protocols(["h2", "http/1.1"])
    with pytest.raises(ssl.SSLError):
        shake(context_of(settings), client)


def test_alpn_offers_are_cut_as_they_are_sent() -> None:
    assert openssl.offers(b"\x02h2\x0apostgresql") == [b"h2", b"postgresql"]
    assert openssl.offers(b"") == []
    assert openssl.offers(b"\xffabc") == [b"abc"]


def test_without_access_to_openssl_the_rest_works(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openssl, "_library", None)
    client = visitor()
    client.set_alpn_protocols(["postgresql"])
    _, theirs = shake(context_of(settings), client)
    assert theirs.selected_alpn_protocol() == "postgresql"
    context_of(replace(settings, client_tls_ecdhcurve="prime256v1"))
    # and what cannot be done is refused, not ignored
    text = "TLS setup failed: failed to set the TLSv1.3 cipher suites"
    assert problem(settings, client_tls13_ciphers="TLS_AES_128_GCM_SHA256") == text


# Client certificates


@pytest.mark.parametrize("mode", ["allow", "prefer", "require"])
def test_certificate_may_be_missing_but_not_wrong(
    settings: Settings, certs: Path, mode: str
) -> None:
    server = context_of(replace(settings, client_tls_sslmode=mode))
    ours, _ = shake(server, visitor())
    assert not tls.has_certificate(ours) and not tls.names_user(ours, "ann")
    ours, _ = shake(server, visitor(certs, "ann"))
    assert tls.has_certificate(ours)
    assert tls.names_user(ours, "ann") and not tls.names_user(ours, "bob")
    with pytest.raises(ssl.SSLError):
        shake(server, visitor(certs, "rogue"))


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_certificate_is_demanded(settings: Settings, certs: Path, mode: str) -> None:
    server = context_of(replace(settings, client_tls_sslmode=mode))
    shake(server, visitor(certs, "ann"))
    with pytest.raises(ssl.SSLError):
        shake(server, visitor())
    with pytest.raises(ssl.SSLError):
        shake(server, visitor(certs, "rogue"))


def certificate(common: str | None, *alternatives: tuple[str, str]) -> dict[str, Any]:
    subject = ((("organizationName", "x"),),)
    if common is not None:
        subject += ((("commonName", common),),)
    return {"subject": subject, "subjectAltName": alternatives}


@pytest.mark.parametrize(
    ("shown", "user", "fits"),
    [
        (certificate("ann"), "ann", True),
        (certificate("ann"), "ANN", True),
        (certificate("ann"), "anna", False),
        (certificate(None), "ann", False),
        # The common name counts even when there are alternatives.
        (certificate("ann", ("DNS", "bob")), "ann", True),
        (certificate("ann", ("DNS", "bob")), "bob", True),
        (certificate("ann", ("email", "eve")), "eve", False),
        (certificate("*.a.b"), "x.a.b", True),
        (certificate("*.a.b"), "x.y.a.b", False),
        (certificate("*.a.b"), "a.b", False),
        (certificate("*.a.b"), ".a.b", False),
        (certificate("*.b"), "x.b", False),
        (certificate("*"), "x", False),
        (certificate("*."), "x.", False),
        (certificate("x*.a.b"), "xy.a.b", False),
        (certificate("*.a..b"), "x.a..b", False),
        (certificate("*..b"), "x..b", False),
        # A name that looks like an address is compared with addresses.
        (certificate(None, ("IP Address", "127.0.0.1")), "127.0.0.1", True),
        (certificate(None, ("IP Address", "0:0:0:0:0:0:0:1")), "::1", True),
        (certificate(None, ("DNS", "127.0.0.1")), "127.0.0.1", False),
        (certificate("127.0.0.1"), "127.0.0.1", True),
        # A zero byte hides what follows from C programs.
        (certificate("ann\0.evil"), "ann", False),
        (certificate("ann", ("DNS", "x\0y")), "ann", False),
    ],
)
def test_names(shown: dict[str, Any], user: str, fits: bool) -> None:
    assert tls.matches(shown, user) is fits


# Towards servers


def connect(settings: Settings, **changes: Any) -> ssl.SSLContext:
    return tls.connect_context(replace(settings, **changes))


def test_context_for_servers_is_made_once_while_nothing_changes(
    settings: Settings, certs: Path, tmp_path: Path
) -> None:
    ca = tmp_path / "ca.crt"
    shutil.copy(certs / "ca.crt", ca)
    changes = {"server_tls_sslmode": "verify-ca", "server_tls_ca_file": str(ca)}
    once = connect(settings, **changes)
    assert connect(settings, **changes) is once
    ca.write_bytes((certs / "ca.crt").read_bytes() + b"\n")
    again = connect(settings, **changes)
    assert again is not once
    assert connect(settings, **changes, server_tls_ciphers="HIGH") is not again


@pytest.mark.parametrize(
    ("mode", "ca", "name", "fine"),
    [
        ("prefer", "", "elsewhere", True),
        ("require", "", "elsewhere", True),
        ("verify-ca", "ca", "elsewhere", True),
        ("verify-ca", "rogueca", "localhost", False),
        ("verify-full", "ca", "localhost", True),
        ("verify-full", "ca", "127.0.0.1", True),
        ("verify-full", "ca", "::1", True),
        ("verify-full", "ca", "127.0.0.2", False),
        ("verify-full", "ca", "elsewhere", False),
        ("verify-full", "rogueca", "localhost", False),
    ],
)
def test_modes_towards_servers(
    settings: Settings, certs: Path, mode: str, ca: str, name: str, fine: bool
) -> None:
    client = connect(
        settings,
        server_tls_sslmode=mode,
        server_tls_ca_file=str(certs / f"{ca}.crt") if ca else "",
    )
    server = context_of(settings)
    if fine:
        shake(server, client, name)
        return
    with pytest.raises(ssl.SSLCertVerificationError) as error:
        shake(server, client, name)
    assert tls.reason_of(error.value).startswith("certificate verification failed: ")
    told = tls.failure_of(error.value, name)
    if ca == "ca":
        assert told == f"name `{name}' not present in server certificate"
    else:
        assert told.startswith("handshake failed: certificate verification failed: ")


def test_certificate_is_shown_to_servers(settings: Settings, certs: Path) -> None:
    client = connect(
        settings,
        server_tls_sslmode="require",
        server_tls_cert_file=str(certs / "ann.crt"),
        server_tls_key_file=str(certs / "ann.key"),
    )
    ours, _ = shake(context_of(settings), client)
    assert tls.names_user(ours, "ann")


def test_files_for_servers_are_opened_when_they_are_needed(
    settings: Settings, certs: Path
) -> None:
    gone = str(certs / "gone")
    changes = {"server_tls_sslmode": "verify-full", "server_tls_ca_file": gone}
    context_of(replace(settings, **changes))
    with pytest.raises(ConfigError) as error:
        connect(settings, **changes)
    assert str(error.value) == (
        "TLS setup failed: failed to load CA: No such file or directory"
    )


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("db.example", "db.example"),
        ("127.0.0.1", "127.0.0.1"),
        ("/run", None),
        ("", None),
    ],
)
def test_server_name_is_the_host_of_the_entry(host: str, name: str | None) -> None:
    assert tls.server_name(host) == name
