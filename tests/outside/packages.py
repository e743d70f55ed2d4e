"""The Debian package in a clean Debian: installed, run, upgraded, switched, removed.

A step leaves its root to the next one, as an administrator would go on; each says what
must hold, and the rest is still tried when one fails. What the unit leaves a process is
tried without systemd: see `Unit`.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg

from tests.outside.frame import Outcome, Place
from tests.outside.root import SUITE, Root, Unit
from tests.outside.sources import run
from tests.support.ground import Unusable, wait_for
from tests.support.slapd import Slapd

BUILD = Path(__file__).resolve().parents[2] / "docs/packaging/debian/build-deb.sh"
OURS = "/usr/lib/pybouncer/bin/pgbouncer"
THEIRS = "/usr/sbin/pgbouncer.distrib"
PROGRAM = "/usr/sbin/pgbouncer"
UNIT = "/lib/systemd/system/pybouncer.service"
OWN_INI, DEBIAN_INI = "/etc/pybouncer/pgbouncer.ini", "/etc/pgbouncer/pgbouncer.ini"
CHOSEN = "/etc/default/pybouncer"
LATER = "99.0-1"  # the version that upgrades
EXPOSED_AT_MOST = 5.0
AS_POSTGRES = "setpriv --reuid=postgres --regid=postgres --init-groups"

Step = Callable[["Packages"], None]
STEPS: list[Step] = []


def step(function: Step) -> Step:
    """Note a step, in the order of the file."""
    STEPS.append(function)
    return function


class Packages:
    """The root, the package and what its pooler is to talk with."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.port = place.ground.free_port()
        self.server = place.ground.postgresql.port
        self.directory = place.ground.directory()
        if shutil.which("dpkg-buildpackage") is None or shutil.which("dh") is None:
            raise Unusable("needs debhelper: apt-get install debhelper dh-python")
        run(BUILD, sys.executable, self.directory)
        self.package = next(self.directory.glob("*.deb"))
        self.root = Root(place)
        self.at_first: set[str] = set()

    def later(self) -> Path:
        """The same package, of a later version."""
        tree = self.directory / "later"
        run("dpkg-deb", "--raw-extract", self.package, tree)
        control = tree / "DEBIAN/control"
        text = re.sub("(?m)^Version: .*", f"Version: {LATER}", control.read_text())
        control.write_text(text)
        target = self.directory / "later.deb"
        run("dpkg-deb", "--root-owner-group", "--build", tree, target)
        return target

    def configure(self, path: str, **settings: object) -> None:
        """Let a configuration of the root find PostgreSQL, with other settings."""
        lines = [
            "[databases]",
            f"p0 = host=127.0.0.1 port={self.server} user=u_trust",
            "[pgbouncer]",
            f"listen_port = {self.port}",
            # A client whose server is reached by TLS stays behind in a takeover.
            "server_tls_sslmode = disable",
            "listen_addr = 127.0.0.1",
        ]
        # The last line of a setting counts; theirs stays as it is for the rest.
        kept = self.root.read(path).partition("[pgbouncer]")[2]
        kept = re.sub(r"(?m)^(listen_|server_tls_).*\n", "", kept)
        for name, value in settings.items():
            kept = re.sub(rf"(?m)^{name} =.*\n", "", kept) + f"\n{name} = {value}\n"
        self.root.write(path, "\n".join(lines) + "\n" + kept)

    def connect(self, **more: Any) -> psycopg.Connection[Any]:
        """A client, by TCP unless *more* says otherwise."""
        given = {"host": "127.0.0.1", "user": "u_trust", "sslmode": "disable", **more}
        return psycopg.connect(
            port=self.port, dbname="p0", autocommit=True, connect_timeout=20, **given
        )

    def program(self) -> str:
        """What runs as /usr/sbin/pgbouncer."""
        return self.root.target(PROGRAM)

    def start(self, options: str = "") -> None:
        """Run /usr/sbin/pgbouncer as postgres, as an init script would."""
        self.root.run(f"{AS_POSTGRES} {PROGRAM} {options} -d {DEBIAN_INI}")
        assert wait_for(self.listens, 20)

    def listens(self) -> bool:
        """Whether somebody takes connections; -d comes back before that."""
        try:
            socket.create_connection(("127.0.0.1", self.port), 5).close()
        except OSError:
            return False
        return True

    def pid(self) -> int:
        """The one pooler of the root."""
        assert wait_for(lambda: len(self.root.processes("pgbouncer")) == 1, 20)
        return self.root.processes("pgbouncer")[0]


def answer(client: psycopg.Connection[Any]) -> int:
    """Ask something."""
    row = client.execute("select 41 + 1").fetchone()
    return int(row[0]) if row else 0


def executable(pid: int) -> str:
    """The program of a process, as seen from outside the root."""
    return os.readlink(f"/proc/{pid}/exe")


@step
def lintian_finds_nothing(packages: Packages) -> None:
    if shutil.which("lintian") is None:
        raise Unusable("needs lintian: apt-get install lintian")
    run("lintian", "--allow-root", "--fail-on", "error,warning", packages.package)


@step
def unit_is_hardened(packages: Packages) -> None:
    tree = packages.directory / "unit"
    run("dpkg-deb", "--extract", packages.package, tree)
    told = run("systemd-analyze", "security", "--offline=true", tree / UNIT[1:])
    found = re.search(r"exposure level for .*: ([0-9.]+)", told)
    assert found and float(found[1]) < EXPOSED_AT_MOST, told[-200:]


@step
def alone_it_is_pgbouncer(packages: Packages) -> None:
    """Depends brings what it needs; nothing is started, and conffiles are dpkg's."""
    root = packages.root
    # Debian's packages first, so that purging ours leaves only what was before.
    root.install("postgresql-common", "python3", "python3-cffi-backend",
                 "libpython3.11", "logrotate", "libldap-2.5-0")  # fmt: skip
    packages.at_first = root.files()
    root.install(root.put(packages.package, "/root/pybouncer.deb"))
    assert packages.program() == OURS
    assert "PgBouncer 1.26" in root.run("pgbouncer -V")
    assert "usage: pybouncer" in root.run("pybouncer --help")
    assert not root.processes()
    status = root.run("dpkg-query -f '${Conffiles}' -W pybouncer")
    for path in (OWN_INI, "/etc/pybouncer/userlist.txt", CHOSEN):
        assert path in status
        assert root.has(path)
    assert root.run(f"stat -c '%U %a' {OWN_INI}") == "postgres 640"


@step
def what_the_unit_leaves_is_enough(packages: Packages) -> None:
    """Its own configuration; no capability stays, and no user but postgres."""
    packages.configure(OWN_INI, auth_type="trust")
    packages.root.write(
        "/etc/pybouncer/userlist.txt", '"u_trust" ""\n"u_pam" ""\n"u_ldap" ""\n'
    )
    with Unit(packages.root, UNIT).running(), packages.connect() as client:
        assert answer(client) == 42
        status = Path(f"/proc/{packages.pid()}/status").read_text()
        for name in ("Prm", "Eff", "Bnd", "Amb"):
            assert f"Cap{name}:\t{0:016x}\n" in status
        postgres = packages.root.run("id -u postgres")
        assert re.search(rf"Uid:\t{postgres}\t{postgres}\t{postgres}\t", status)
    assert "process up" in packages.root.read("/var/log/pybouncer/pgbouncer.log")


@step
def pam_asks_pam_unix_under_the_unit(packages: Packages) -> None:
    """pam_unix wants group shadow, as with PgBouncer, and no right that can be got."""
    packages.root.run(
        "usermod -aG shadow postgres; useradd u_pam; echo u_pam:secret | chpasswd"
    )
    packages.root.write(
        "/etc/pam.d/pgbouncer",
        "auth required pam_unix.so\naccount required pam_unix.so\n",
    )
    packages.configure(OWN_INI, auth_type="pam")
    with Unit(packages.root, UNIT).running():
        with packages.connect(user="u_pam", password="secret") as client:
            assert answer(client) == 42
        with contextlib.suppress(psycopg.OperationalError):
            packages.connect(user="u_pam", password="wrong").close()
            raise AssertionError("a wrong password was right")


@step
def ldap_works_under_the_unit(packages: Packages) -> None:
    ground = packages.place.ground
    certificates = Path(str(ground.certificates))
    slapd = Slapd(
        ground.directory(), certificates / "bouncer.crt", certificates / "bouncer.key",
        {"u_ldap": "secret"},
    )  # fmt: skip
    options = (
        f"ldapserver=127.0.0.1 ldapport={slapd.port}"
        ' ldapprefix="uid=" ldapsuffix=",ou=people,dc=example"'
    )
    packages.configure(OWN_INI, auth_type="ldap", auth_ldap_options=options)
    try:
        with Unit(packages.root, UNIT).running():
            with packages.connect(user="u_ldap", password="secret") as client:
                assert answer(client) == 42
    finally:
        slapd.stop()
    packages.configure(OWN_INI, auth_type="trust", auth_ldap_options="")


@step
def socket_in_tmp_is_seen_by_clients(packages: Packages) -> None:
    packages.configure(OWN_INI, unix_socket_dir="/tmp")
    with Unit(packages.root, UNIT).running():
        with packages.connect(host=str(packages.root.path / "tmp")) as client:
            assert answer(client) == 42


@step
def online_restart_works_under_the_unit(packages: Packages) -> None:
    """A reload that is -R; the new process becomes the main one and stays awake."""
    unit = Unit(packages.root, UNIT)
    with unit.running() as listener, packages.connect() as client:
        assert answer(client) == 42
        old = packages.pid()
        run(*unit.command("-R -d", notify=f"@{listener.name}"))
        new = int(listener.next("MAINPID").partition("=")[2])
        assert packages.pid() == new != old
        assert answer(client) == 42
        assert listener.next("WATCHDOG") == "WATCHDOG=1"


@step
def filter_of_system_calls_forbids_nothing_needed(packages: Packages) -> None:
    if shutil.which("strace") is None:
        raise Unusable("needs strace: apt-get install strace")
    unit = Unit(packages.root, UNIT)
    packages.configure(OWN_INI, auth_type="pam")
    trace = packages.directory / "trace"
    before = f"strace -f -qq -o {trace}"
    with unit.running(before):
        with packages.connect(user="u_pam", password="secret") as client:
            assert answer(client) == 42
    told = run("systemd-analyze", "syscall-filter")
    calls = re.findall(r"(?m)^\d+ +(\w+)\(", trace.read_text().split(f'("{OURS}"')[1])
    forbidden = set(calls) - allowed(told, unit.last("SystemCallFilter"))
    assert len(set(calls)) > 50 and not forbidden, forbidden
    packages.configure(OWN_INI, auth_type="trust")


def allowed(told: str, name: str) -> set[str]:
    """The calls of a group, of those that `systemd-analyze syscall-filter` tells."""
    groups: dict[str, list[str]] = {}
    for line in told.splitlines():
        if line.startswith("@"):
            groups[line.strip()] = []
        elif line.startswith("    ") and not line.strip().startswith("#"):
            groups[list(groups)[-1]].append(line.strip())
    found: set[str] = set()
    for word in groups[name]:
        found |= allowed(told, word) if word.startswith("@") else {word}
    # Always allowed with a list of what is allowed.
    return found if name == "@default" else found | allowed(told, "@default")


@step
def rotation_keeps_every_line(packages: Packages) -> None:
    root = packages.root
    log = "/var/log/pybouncer/pgbouncer.log"
    with Unit(root, UNIT).running():
        root.run("logrotate --force /etc/logrotate.d/pybouncer")
        packages.connect().close()
        assert wait_for(lambda: "login attempt" in root.read(log), 20)
    told = root.read(f"{log}.1")
    assert "process up" in told and "re-reading config" in told


@step
def debians_pgbouncer_goes_first_when_it_comes(packages: Packages) -> None:
    """A trigger: our package is not asked when theirs is installed."""
    packages.root.install("pgbouncer")
    assert packages.program() == THEIRS
    assert "PgBouncer 1.18" in packages.root.run("pgbouncer -V")
    packages.root.run("dpkg --purge pgbouncer")
    assert packages.program() == OURS


@step
def purge_leaves_nothing(packages: Packages) -> None:
    root = packages.root
    root.run("dpkg --remove pybouncer")
    assert root.has(OWN_INI) and not root.has(PROGRAM)
    root.run("userdel u_pam; rm /etc/pam.d/pgbouncer; dpkg --purge pybouncer")
    left = {
        path
        for path in root.files() - packages.at_first
        if not re.match(r"/etc/(passwd|group|g?shadow|sub[ug]id)-?$", path)
    }
    # What Debian's pgbouncer and its libraries have left is theirs.
    ours = {path for path in left if "pybouncer" in path or "pgbouncer" in path}
    assert not {path for path in ours if not root.run(f"dpkg -S {path} || true")}, ours
    assert root.run("dpkg-divert --list *pgbouncer*") == ""


@step
def installing_changes_no_running_program(packages: Packages) -> None:
    root = packages.root
    root.install("pgbouncer")
    packages.configure(DEBIAN_INI, auth_type="trust")
    root.write("/etc/pgbouncer/userlist.txt", '"u_trust" ""\n')
    packages.start()
    before = packages.pid()
    root.install("/root/pybouncer.deb")
    assert packages.pid() == before
    assert packages.program() == THEIRS
    assert "PgBouncer 1.18" in root.run("pgbouncer -V")


@step
def switching_keeps_every_client(packages: Packages) -> None:
    """docs/migration.md: choose ours, take over; from there on it is ours."""
    with packages.connect() as client:
        assert answer(client) == 42
        packages.root.run(f"update-alternatives --set pgbouncer {OURS}")
        packages.start("-R")
        assert answer(client) == 42
        assert executable(packages.pid()).endswith(OURS)


@step
def upgrade_leaves_the_process_alone(packages: Packages) -> None:
    """Its modules are replaced below it; it goes on, and the choice stays."""
    before = packages.pid()
    with packages.connect() as client:
        packages.root.install(packages.root.put(packages.later(), "/root/later.deb"))
        assert answer(client) == 42
    assert LATER in packages.root.run("dpkg-query -f '${Version}' -W pybouncer")
    assert packages.pid() == before and packages.program() == OURS
    os.kill(before, signal.SIGHUP)
    with packages.connect() as client:
        assert answer(client) == 42
        packages.start("-R")
        assert packages.pid() != before
        assert answer(client) == 42


@step
def debians_unit_configuration_runs_under_ours(packages: Packages) -> None:
    """Debian's own pgbouncer.ini, named in /etc/default/pybouncer."""
    os.kill(packages.pid(), signal.SIGINT)
    assert wait_for(lambda: not packages.root.processes("pgbouncer"), 20)
    packages.root.write(CHOSEN, f"PGBOUNCER_INI={DEBIAN_INI}\n")
    with Unit(packages.root, UNIT).running(), packages.connect() as client:
        assert answer(client) == 42
    packages.start()


@step
def switching_back_keeps_every_client(packages: Packages) -> None:
    with packages.connect() as client:
        assert answer(client) == 42
        packages.root.run(f"update-alternatives --set pgbouncer {THEIRS}")
        packages.start("-R")
        assert answer(client) == 42
        assert executable(packages.pid()).endswith(THEIRS)


@step
def what_is_missing_is_named_as_apt_has_it(packages: Packages) -> None:
    told = packages.root.run("pybouncer demo 2>&1 || true")
    assert "it needs PostgreSQL, which is missing: apt install postgresql" in told
    assert packages.root.has("/usr/share/man/man5/pybouncer-pgbouncer.5.gz")


@step
def removing_changes_no_running_program(packages: Packages) -> None:
    before = packages.pid()
    packages.root.run("dpkg --purge pybouncer")
    assert packages.pid() == before
    assert packages.program() == PROGRAM
    assert "PgBouncer 1.18" in packages.root.run("pgbouncer -V")
    assert not packages.root.has("/usr/lib/pybouncer")
    with packages.connect() as client:
        assert answer(client) == 42


# Macros that only a Red Hat defines; its paths, whatever machine this is.
RED_HAT = {
    "_libdir": "/usr/lib64",
    "_unitdir": "/usr/lib/systemd/system",
    "_tmpfilesdir": "/usr/lib/tmpfiles.d",
    "systemd_post": "%{nil}",
    "systemd_preun": "%{nil}",
    "systemd_postun": "%{nil}",
    "tmpfiles_create": "%{nil}",
}
RPM_HAS = """/usr/lib64/pybouncer/bin/pgbouncer /usr/bin/pybouncer
    /usr/lib/systemd/system/pybouncer.service /etc/pybouncer/pgbouncer.ini
    /etc/sysconfig/pybouncer /etc/logrotate.d/pybouncer""".split()


def red_hat(place: Place) -> Iterator[Outcome]:
    """The spec file makes a package with nothing where PgBouncer's files are."""
    begin = time.monotonic()
    if shutil.which("rpmbuild") is None:
        raise Unusable("needs rpmbuild: apt-get install rpm")
    source, top = BUILD.parents[3], place.ground.directory()
    macros = {**RED_HAT, "source": source, "_topdir": top, "venv": sys.prefix}
    defined = [w for name, at in macros.items() for w in ("--define", f"{name} {at}")]
    spec = source / "docs/packaging/rpm/pybouncer.spec"
    run("rpmbuild", "-bb", "--nodeps", "--quiet", *defined, spec)
    package = next(top.glob("RPMS/*/*.rpm"))
    files = set(run("rpm", "-qpl", package).split())
    wrong = {path: "is missing" for path in RPM_HAS if path not in files}
    taken = {"/usr/bin/pgbouncer", "/usr/share/man/man1/pgbouncer.1.gz"} & files
    wrong |= dict.fromkeys(taken, "is PgBouncer's")
    good, seconds = len(RPM_HAS) - len(wrong), time.monotonic() - begin
    yield Outcome("RPM", good, good, len(RPM_HAS), {}, wrong, (), seconds)


def debian(place: Place) -> Iterator[Outcome]:
    """Every step; a failed one leaves the next to what it finds."""
    begin = time.monotonic()
    packages = Packages(place)
    wrong: dict[str, str] = {}
    try:
        for one in STEPS:
            try:
                one(packages)
            except Exception as error:
                place_of = traceback.extract_tb(error.__traceback__)[1].line
                told = f"{place_of}: {type(error).__name__}: {error}"
                wrong[one.__name__] = told[-1500:]
                packages.root.close()
    finally:
        packages.root.close()
    passed, total = len(STEPS) - len(wrong), len(STEPS)
    seconds = time.monotonic() - begin
    yield Outcome(f"package in {SUITE}", passed, passed, total, {}, wrong, (), seconds)
