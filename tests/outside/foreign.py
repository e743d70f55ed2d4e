"""Wheels of a Python and of a machine that are not here, tried where they belong.

The newest CPython goes into a clean Debian without a compiler. The one hard idea: for
the other machine nothing is installed. Its Debian is unpacked, qemu runs that Python
with the libraries beside it, and pip unpacks what the wheel needs into a directory.
"""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg

from tests.outside.frame import Place
from tests.outside.root import Root
from tests.outside.sources import run
from tests.support.ground import Unusable, wait_for
from tests.support.pooler import RunningPooler

SUITE, VERSION = "forky", "3.14"
MACHINES = ("x86_64", "aarch64")
OTHER, DEBIANS_OTHER = "aarch64", "arm64"
# For docs/packaging/wheels.py.
WORDS = tuple(f"{SUITE}:{machine}" for machine in MACHINES)
QEMU = f"qemu-{OTHER}-static"
# Which signs no pointers: emulating that makes a start last half a minute, not seconds.
PROCESSOR = "cortex-a72"
# What a console script does, for a Python that finds us in a directory.
MAIN = """
import sys
sys.path.insert(0, {site!r})
sys.argv[0] = "pgbouncer"
from bouncer.cli import main
sys.exit(main())
"""
IMPORT = """
import importlib, pathlib, platform, sys
site = pathlib.Path({site!r})
sys.path.insert(0, str(site))
for path in sorted(site.glob("bouncer/**/*.so")):
    name = path.relative_to(site).with_name(path.name.partition(".")[0])
    assert importlib.import_module(".".join(name.parts)).__file__ == str(path)
    print(name, platform.machine())
"""
INI = """
[databases]
p0 = host=127.0.0.1 port={server} user=u_trust
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
auth_type = any
"""


def fitting(machine: str) -> list[str]:
    """Options of pip: what the Python of that machine's Debian may install."""
    words = ["--only-binary=:all:", f"--python-version={VERSION}"]
    words += [f"--abi={abi}" for abi in (f"cp{VERSION.replace('.', '')}", "abi3")]
    words += ["--abi=none", "--implementation=cp"]
    return words + [f"--platform=manylinux_2_{n}_{machine}" for n in range(5, 42)]


class Foreign:
    """The wheels, by machine, and where each is tried."""

    def __init__(self, place: Place, built: Path, python: Path) -> None:
        self.place, self.python = place, python
        tag = f"cp{VERSION.replace('.', '')}"
        self.wheels = {
            machine: next(built.glob(f"*/pybouncer-*-{tag}-*{machine}*.whl"))
            for machine in MACHINES
        }

    def pip(self, *words: object) -> None:
        """Run pip of an environment of this machine."""
        run(self.python, "-m", "pip", "--quiet", *words)

    def answers(self, port: int) -> bool:
        """Whether a query comes through that port; nobody listens there at first."""
        words = f"host=127.0.0.1 port={port} dbname=p0 user=u_trust"
        try:
            with psycopg.connect(words, autocommit=True) as connection:
                return connection.execute("select 41 + 1").fetchone() == (42,)
        except psycopg.OperationalError:
            return False


def newest_python_needs_no_compiler(made: Foreign) -> None:
    """In a fresh environment of a clean Debian: the demo, then a file."""
    root = Root(made.place, SUITE, ["python3-venv"])
    try:
        packages = root.path / "packages"
        wheel = made.wheels["x86_64"]
        what = f"{wheel}[demo]"
        made.pip("download", "-d", packages, *fitting("x86_64"), what)
        root.install("python3-venv")
        root.run("command -v gcc cc clang", fails=True)
        root.run("python3 -m venv /venv")
        pip = "/venv/bin/pip install --no-index --find-links /packages"
        root.run(f"{pip} 'pybouncer[demo]'")
        assert f"Python {VERSION}." in root.run("/venv/bin/python --version")
        told = root.run("PATH=/nowhere /venv/bin/pybouncer demo --seconds 1")
        assert "nothing is left running" in told
        port, server = made.place.ground.free_port(), made.place.ground.postgresql.port
        root.write("/x.ini", INI.format(port=port, server=server))
        command = root.command("/venv/bin/pgbouncer -q -u nobody /x.ini")
        with subprocess.Popen(command, stdin=subprocess.DEVNULL):
            try:
                assert wait_for(lambda: made.answers(port), 30)
            finally:
                root.close()
    finally:
        root.close()


def other_machine_serves(made: Foreign) -> None:
    """Every compiled module is imported there, and a query comes through."""
    if shutil.which(QEMU) is None:
        raise Unusable(f"needs {QEMU}: apt-get install qemu-user-static")
    directory = made.place.ground.directory()
    root, site = directory / "root", directory / "site"
    unpack = ("--variant=extract", f"--architectures={DEBIANS_OTHER}")
    run(
        "mmdebstrap",
        *unpack,
        *Root.options(),
        "--include=base-files,python3",
        SUITE,
        root,
    )
    made.pip("install", "--target", site, *fitting(OTHER), made.wheels[OTHER])
    qemu = [QEMU, "-cpu", PROCESSOR, "-L", str(root)]
    python = [*qemu, str(root / f"usr/bin/python{VERSION}"), "-c"]
    told = run(*python, IMPORT.format(site=str(site))).splitlines()
    assert len(told) == len(list(site.glob("bouncer/**/*.so"))) > 30
    assert all(line.endswith(f" {OTHER}") for line in told)
    program = [*python, MAIN.format(site=str(site))]
    assert run(*program, "--version").startswith("PgBouncer 1.")
    ground = made.place.ground
    pooler = RunningPooler(ground, ground.postgresql.port, command=program)
    try:
        assert made.answers(pooler.run().port)
        assert not pooler.complaints()
    finally:
        pooler.stop()


STEPS: tuple[Callable[[Foreign], None], ...] = (
    newest_python_needs_no_compiler,
    other_machine_serves,
)
