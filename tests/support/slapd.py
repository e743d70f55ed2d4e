"""A real LDAP server with some people in it: Debian's slapd, on the loopback only."""

import os
import shutil
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.conftest import missing
from tests.replay.pooler import wait_for

ADMIN, ADMIN_PASSWORD = "cn=admin,dc=example", "adminpw"
SCHEMAS = Path("/etc/ldap/schema")

TREE = """
dn: dc=example
objectClass: dcObject
objectClass: organization
o: example
dc: example

dn: ou=people,dc=example
objectClass: organizationalUnit
ou: people
"""
# All of them share one address, which therefore finds nobody.
PERSON = """
dn: uid={name},ou=people,dc=example
objectClass: inetOrgPerson
uid: {name}
cn: {cn}
sn: {sn}
mail: twin@example
userPassword: {password}
"""


def need_slapd() -> None:
    """Skip, or fail in CI, where there is no slapd."""
    for program in ("slapd", "slapadd", "openssl"):
        found(program)
    if not (SCHEMAS / "core.schema").exists():
        missing("needs slapd's schemas in /etc/ldap/schema: apt-get install slapd")


def found(program: str) -> str:
    """Where a program is, also where only root looks."""
    where = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    path = shutil.which(program, path=where)
    if path is None:
        missing(f"needs {program}: apt-get install slapd ldap-utils openssl")
    return str(path)


def free_port() -> int:
    """A port that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def make_certificate(where: Path) -> None:
    """Make `crt` and `key` for localhost in *where*."""
    run(
        where, "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout",
        "key", "-out", "crt", "-subj", "/CN=localhost", "-days", "2", "-addext",
        "subjectAltName=DNS:localhost,IP:127.0.0.1",
    )  # fmt: skip


def run(where: Path, *words: str, stdin: str = "") -> None:
    """Run a program in *where*."""
    subprocess.run(
        (found(words[0]), *words[1:]),
        cwd=where,
        input=stdin.encode(),
        check=True,
        capture_output=True,
    )


class Slapd:
    """A running slapd; *people* are names and passwords. It writes below *where*."""

    def __init__(
        self, where: Path, certificate: Path, key: Path, people: Mapping[str, str]
    ) -> None:
        self.port, self.tls_port = free_port(), free_port()
        (where / "db").mkdir()
        (where / "slapd.conf").write_text(
            f"include {SCHEMAS}/core.schema\n"
            f"include {SCHEMAS}/cosine.schema\n"
            f"include {SCHEMAS}/inetorgperson.schema\n"
            "modulepath /usr/lib/ldap\nmoduleload back_mdb\n"
            f"TLSCertificateFile {certificate}\nTLSCertificateKeyFile {key}\n"
            f"pidfile {where}/pid\n"
            'database mdb\nsuffix "dc=example"\nmaxsize 10485760\n'
            f'rootdn "{ADMIN}"\nrootpw {ADMIN_PASSWORD}\ndirectory {where}/db\n'
            "access to attrs=userPassword by anonymous auth by * none\n"
            "access to * by anonymous auth by * read\n"
        )
        ldif = TREE + "".join(
            PERSON.format(
                name=name,
                cn=name.capitalize(),
                sn=name[0].upper(),
                password=password,
            )
            for name, password in people.items()
        )
        run(where, "slapadd", "-f", "slapd.conf", stdin=ldif)
        uris = f"ldap://127.0.0.1:{self.port} ldaps://127.0.0.1:{self.tls_port}"
        self.process = subprocess.Popen(
            [found("slapd"), "-f", str(where / "slapd.conf"), "-h", uris, "-d", "0"],
            stderr=subprocess.DEVNULL,
        )
        if not wait_for(self.answers, 20):
            raise AssertionError("slapd did not start")

    def answers(self) -> bool:
        """Whether it takes connections."""
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(10)
