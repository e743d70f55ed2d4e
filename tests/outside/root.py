"""A clean Debian to install in: a directory made by mmdebstrap, entered by chroot.

The one hard idea: nothing is mounted that somebody must unmount. Each command gets a
mount namespace of its own, in which it finds /proc, /dev and, where a unit says so,
what systemd makes read-only or hides; the network is the machine's. What it leaves
running is ended by `close`, which looks for processes whose root is ours.
"""

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.outside.frame import Place
from tests.outside.sources import once, run
from tests.support.ground import Unusable, wait_for

SUITE = "bookworm"
# Downloaded with the root, so that installing needs no network any more.
WANTED = """python3 python3-cffi-backend libpython3.11 postgresql-common logrotate
    postgresql-client libldap-2.5-0 pgbouncer python3-jinja2 python3-requests""".split()
APT = ("apt-get", "-qq", "--yes", "--no-install-recommends", "install")
INSIDE = """
mount --bind {root} {root}
mount -t proc proc {root}/proc
mount --rbind /dev {root}/dev
{more}
exec {before} chroot {root} {via} env -i {variables} {words}
"""
# What changes whenever dpkg runs, or by nobody's fault.
RESTLESS = (
    "/dev", "/proc", "/sys", "/tmp", "/root", "/var/lib/dpkg", "/var/lib/apt",
    "/var/cache", "/var/log", "/etc/ld.so.cache", "/var/lib/systemd/deb-systemd-helper",
    "/var/lib/logrotate",
)  # fmt: skip
LONGEST = 300  # seconds that a command may take


def quoted(words: Mapping[str, str]) -> str:
    """Variables for `env`."""
    return " ".join(f"'{name}={value}'" for name, value in words.items())


class Root:
    """A root directory with nothing but Debian in it, and apt's downloads."""

    def __init__(
        self, place: Place, suite: str = SUITE, wanted: Sequence[str] = WANTED
    ) -> None:
        if os.geteuid() != 0:
            raise Unusable("needs root: chroot, mount")
        for program in ("mmdebstrap", "setpriv", "unshare"):
            if shutil.which(program) is None:
                raise Unusable(f"needs {program}: apt-get install {program}")

        def make(directory: Path) -> None:
            self.make(directory, suite, wanted)

        archive = once(place.cache / f"root-{suite}", make) / "root.tar"
        self.path = place.ground.directory()
        self.path.chmod(0o755)
        run("tar", "-C", self.path, "-xf", archive, "--exclude=./dev/*")

    @staticmethod
    def options() -> list[str]:
        """For mmdebstrap: an old list of packages may do where this apt is content."""
        valid = run("apt-config", "dump", "Acquire::Check-Valid-Until").strip()
        return [f"--aptopt={valid}"] if valid else []

    @classmethod
    def make(cls, directory: Path, suite: str, wanted: Sequence[str]) -> None:
        """Make the archive; takes minutes, of downloading above all."""
        download = f'chroot "$1" {" ".join(APT)} --download-only {" ".join(wanted)}'
        run(
            "mmdebstrap", "--variant=minbase", "--skip=cleanup/apt", *cls.options(),
            f"--customize-hook={download}", suite, directory / "root.tar",
        )  # fmt: skip

    def command(
        self,
        words: str,
        variables: Mapping[str, str] | None = None,
        more: str = "",
        via: str = "",
        before: str = "",
    ) -> list[str]:
        """What runs *words* inside.

        *more* is mounted before; *via* starts them in the root, *before* outside of it.
        """
        known = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "DEBIAN_FRONTEND": "noninteractive",
            "LC_ALL": "C.UTF-8",
        }
        script = INSIDE.format(
            root=self.path,
            more=more,
            via=via,
            before=before,
            variables=quoted(known | dict(variables or {})),
            words=words,
        )
        return ["unshare", "--mount", "sh", "-ec", script]

    def run(self, words: str, fails: bool = False) -> str:
        """What a shell's command prints in the root; it must succeed, or *fails*."""
        done = subprocess.run(
            self.command(f"sh -c {shlex.quote(words)}"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LONGEST,
        )
        told = done.stdout + done.stderr
        assert bool(done.returncode) == fails, f"{words}: {told[-1500:]}"
        return told.strip()

    def install(self, *packages: str) -> str:
        """Install packages, by name or file; what apt printed."""
        return self.run(" ".join([*APT, *packages]))

    def put(self, source: Path, target: str) -> str:
        """Copy a file into the root; its path there."""
        shutil.copyfile(source, self.path / target.lstrip("/"))
        return target

    def write(self, path: str, text: str) -> None:
        """Write a file, which keeps its owner and mode if it is there."""
        (self.path / path.lstrip("/")).write_text(text)

    def read(self, path: str) -> str:
        """The text of a file."""
        return (self.path / path.lstrip("/")).read_text()

    def has(self, path: str) -> bool:
        """Whether something is there, a dangling link included."""
        return os.path.lexists(self.path / path.lstrip("/"))

    def target(self, path: str) -> str:
        """Where links lead, seen from inside."""
        return self.run(f"readlink -f {path}")

    def files(self) -> set[str]:
        """Every path of the root, those left out that are never at rest."""
        found = set()
        for directory, names, files in os.walk(self.path):
            inside = directory.removeprefix(str(self.path))
            names[:] = [n for n in names if f"{inside}/{n}" not in RESTLESS]
            found.update(
                f"{inside}/{n}"
                for n in (*names, *files)
                if f"{inside}/{n}" not in RESTLESS
            )
        return found

    def processes(self, name: str = "") -> list[int]:
        """Processes whose root this is; those called *name*, if given."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                if os.readlink(entry / "root") != str(self.path):
                    continue
                if not name or (entry / "comm").read_text().strip() == name:
                    found.append(int(entry.name))
        return sorted(found)

    def close(self) -> None:
        """End what still runs inside."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not self.processes(), 10)


class Listener:
    """systemd's end of NOTIFY_SOCKET, in the abstract namespace: no root hides it."""

    def __init__(self) -> None:
        self.name = f"pybouncer-packages-{os.getpid()}-{time.monotonic_ns()}"
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(f"\0{self.name}")
        self.sock.settimeout(60)

    def next(self, start: str) -> str:
        """The next message that begins with *start*."""
        while True:
            message = self.sock.recv(4096).decode()
            if message.startswith(start):
                return message


class Unit:
    """A unit's ExecStart, run as systemd would: the user, capabilities, mounts.

    Its filter of system calls is no part of that: a step of the packages compares it
    with what was called.
    """

    def __init__(self, root: Root, path: str) -> None:
        self.root = root
        self.settings: dict[str, list[str]] = {}
        for line in root.read(path).splitlines():
            name, sign, value = line.partition("=")
            if sign and not line.startswith(("#", ";")):
                self.settings.setdefault(name, []).append(value)

    def last(self, name: str) -> str:
        """A setting, of which the last one counts; empty without."""
        return self.settings.get(name, [""])[-1]

    def variables(self) -> dict[str, str]:
        """Environment= and EnvironmentFile=."""
        lines = list(self.settings.get("Environment", []))
        for path in self.settings.get("EnvironmentFile", []):
            if self.root.has(path.removeprefix("-")):
                lines += self.root.read(path.removeprefix("-")).splitlines()
        pairs = [line.partition("=") for line in lines if not line.startswith("#")]
        return {name: value for name, sign, value in pairs if sign}

    def mounts(self) -> str:
        """ProtectSystem=full and ProtectHome=yes."""
        assert (self.last("ProtectSystem"), self.last("ProtectHome")) == ("full", "yes")
        lines = []
        for name in ("usr", "etc", "boot"):
            path = self.root.path / name
            lines += [f"mount --bind {path} {path}", f"mount -o remount,bind,ro {path}"]
        lines += [
            f"mount -t tmpfs tmpfs {self.root.path / n}" for n in ("home", "root")
        ]
        return "\n".join(lines)

    def command(
        self, options: str = "", notify: str = "", before: str = ""
    ) -> list[str]:
        """What ExecStart comes to, with more *options* for the program."""
        variables = self.variables() | ({"NOTIFY_SOCKET": notify} if notify else {})
        words = self.last("ExecStart")
        for name, value in variables.items():
            words = words.replace(f"${{{name}}}", value)
        bound = ",".join(
            ["-all"]
            + [
                "+" + one.removeprefix("CAP_").lower()
                for one in self.last("CapabilityBoundingSet").split()
            ]
        )
        via = f"setpriv --inh-caps=-all --bounding-set={bound}"
        if self.last("NoNewPrivileges") == "yes":
            via += " --no-new-privs"
        user = self.last("User")
        via += f" --reuid={user} --regid={user} --init-groups"
        program, *rest = words.split()
        words = " ".join([program, options, *rest])
        return self.root.command(words, variables, self.mounts(), via, before)

    @contextlib.contextmanager
    def running(self, before: str = "") -> Iterator[Listener]:
        """The service from READY=1 on; ended by KillSignal= at the end.

        Yields what it tells systemd. The process is the one that the last READY=1 is
        of, where an online restart follows.
        """
        listener = Listener()
        process = subprocess.Popen(
            self.command(notify=f"@{listener.name}", before=before),
            stdin=subprocess.DEVNULL,
        )
        try:
            assert listener.next("READY") == "READY=1"
            yield listener
            for pid in self.root.processes("pgbouncer"):
                os.kill(pid, signal.Signals[self.last("KillSignal")])
            assert process.wait(20) == 0
            assert wait_for(lambda: not self.root.processes("pgbouncer"), 20)
        finally:
            self.root.close()
            process.wait()
            listener.sock.close()
