"""Measure us beside the real PgBouncer; write docs/performance.md and its chart."""

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench import load, native, report
from tests.bench.figures import DRIFT, Figure, figures
from tests.bench.load import LoadFailed, Target
from tests.replay.lab import Unusable, program_command
from tests.replay.passwords import scram_secret
from tests.support.ground import PASSWORDS, Ground
from tests.support.pooler import RunningPooler
from tests.support.real import find_real

ROOT = Path(__file__).resolve().parents[2]
OURS, PEER = "pybouncer", "peer"
SECTION_OF_OURS = "[pybouncer]\nparallel_logins = 16\n"


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def our_command(given: str | None) -> str:
    """The program that is ours."""
    beside = Path(sys.executable).with_name("pgbouncer")
    return given or os.environ.get("POOLER") or str(beside)


def find_peer() -> str:
    """The PgBouncer to compare with."""
    return find_real().path


def version_of(ground: Ground, command: list[str]) -> str:
    """The first line of --version, as the unprivileged user sees it."""
    done = subprocess.run(
        [*command, "--version"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=ground.root,
        **ground.identity.process_options(),
    )
    if done.returncode:
        raise Unusable(f"{shlex.join(command)} does not run: {done.stderr.strip()}")
    return done.stdout.split("\n")[0]


class Bench:
    """The two poolers before one PostgreSQL, and the loads."""

    def __init__(
        self, ground: Ground, commands: dict[str, list[str]], drift: float
    ) -> None:
        self.ground, self.commands, self.drift = ground, commands, drift
        self.postgres = ground.postgresql
        self.pgbench = ground.program("pgbench")
        secret = scram_secret("keyedpass", os.urandom(16), 4096)
        self.postgres.query(f"create role u_keyed login password '{secret}'")
        self.users = {"u_trust": "", "admin": "", **PASSWORDS, "u_keyed": secret}
        self.far_port = ground.free_port()
        self.running: dict[str, RunningPooler] = {}
        self.targets: dict[str, Target] = {}

    def hba(self, pooler: RunningPooler) -> None:
        """Each user logs in by the method that the name says."""
        lines = [
            "host all u_md5 127.0.0.1/32 md5",
            "host all u_trust 127.0.0.1/32 trust",
        ]
        lines += ["host all admin 127.0.0.1/32 trust"]
        lines += ["host all u_keyed 127.0.0.1/32 scram-sha-256"]
        (pooler.directory / "hba").write_text("\n".join(lines) + "\n")

    def start(self, name: str) -> Target:
        """Start (again) one of the two."""
        if name in self.running:
            self.running[name].stop()
        ini = {
            "pool_mode": "transaction",
            "default_pool_size": load.SERVERS,
            "max_client_conn": 20000,
            "auth_type": "hba",
            "auth_hba_file": "{dir}/hba",
            "client_tls_sslmode": "allow",
            "client_tls_key_file": "{certs}/bouncer.key",
            "client_tls_cert_file": "{certs}/bouncer.crt",
            "server_tls_sslmode": "disable",
            "max_prepared_statements": 300 if self.has_prepared(name) else None,
            "log_connections": 0,
            "log_disconnections": 0,
            "listen_backlog": 1024,
        }
        pooler = RunningPooler(
            self.ground,
            self.postgres.port,
            ini,
            # SCRAM keys in the userlist let the pooler in under the client's name.
            databases={
                load.DATABASE: "{pg} dbname=" + load.DATABASE,
                load.FAR: f"host=127.0.0.1 port={self.far_port} "
                f"dbname={load.DATABASE} user=u_scram2 password=scrampass2 "
                f"pool_size={load.FAR_SERVERS}",
            },
            users=self.users,
            more=SECTION_OF_OURS if name == OURS else "",
            command=self.commands[name],
        )
        self.hba(pooler)
        self.ground.identity.own(pooler.directory)
        pooler.run()
        self.running[name] = pooler
        self.targets[name] = Target(name, pooler.port, pooler.pid, self.pgbench, pooler)
        return self.targets[name]

    def has_prepared(self, name: str) -> bool:
        """Whether it knows prepared statements: PgBouncer does since 1.21."""
        words = version_of(self.ground, self.commands[name]).split()
        major, minor = words[-1].split(".")[:2]
        return (int(major), int(minor)) >= (1, 21)

    def direct(self) -> Target:
        """PostgreSQL itself."""
        port, pid = self.postgres.port, self.postgres.process.pid
        return Target("direct", port, pid, self.pgbench)

    def control(self, seconds: int) -> float:
        """Transactions per second without any pooler."""
        return load.rate(self.direct(), max(1, seconds // 2))

    def measure(self, figure: Figure, name: str) -> float:
        """One measurement."""
        target = self.start(name) if figure.fresh else self.targets[name]
        return figure.measure(target)

    def round(self, figure: Figure, seconds: int) -> bool:
        """One round A B B A; whether it counts."""
        before = self.control(seconds)
        values: dict[str, list[float]] = {OURS: [], PEER: []}
        for name in (OURS, PEER, PEER, OURS):
            if name in self.commands:
                values[name].append(self.measure(figure, name))
        after = self.control(seconds)
        if abs(before - after) > self.drift * max(before, after):
            say(f"  rejected: PostgreSQL alone did {before:.0f}, then {after:.0f} tps")
            figure.rejected += 1
            return False
        figure.add(values[OURS], values[PEER])
        return True

    def run(self, figure: Figure, rounds: int, seconds: int) -> None:
        """All rounds of a figure; as many again may be rejected."""
        begin = time.monotonic()
        try:
            for _ in range(rounds * 2):
                counted = self.round(figure, seconds)
                if counted and len(figure.ours) >= 2 * rounds:
                    break
            if not figure.ours:
                figure.failure = "every round was rejected: the machine is busy"
        except (LoadFailed, OSError, RuntimeError, AssertionError) as problem:
            figure.failure = str(problem).strip().split("\n")[0]
        took = time.monotonic() - begin
        say(f"{report.told(figure)}   [{took:.0f} s]")

    def ceilings(self, seconds: int) -> dict[str, float]:
        """What a pooler can do at most: before a server that costs next to nothing."""
        found: dict[str, float] = {}
        programs = [native.compiled(n, self.ground.root) for n in ("canned", "floor")]
        port, floor_port = self.ground.free_port(), self.ground.free_port()
        with native.running(programs[0], port):
            with native.running(programs[1], floor_port, port) as floor:
                target = Target("floor", floor_port, floor.pid, self.pgbench)
                found["bare proxy in C (no policy)"] = load.rate(target, seconds)
                found["floor us"] = load.cpu_per_transaction(target, seconds)
            for name, command in self.commands.items():
                pooler = RunningPooler(
                    self.ground,
                    port,
                    {"pool_mode": "transaction", "default_pool_size": load.SERVERS},
                    databases={load.DATABASE: "{pg}"},
                    command=command,
                ).run()
                try:
                    target = Target(name, pooler.port, pooler.pid, self.pgbench, pooler)
                    found[name] = load.rate(target, seconds)
                finally:
                    pooler.stop()
        return found

    def stop(self) -> None:
        """Stop both."""
        for pooler in self.running.values():
            pooler.stop()


@contextlib.contextmanager
def benches(given: argparse.Namespace) -> Iterator[Bench]:
    """Everything started; everything stopped again."""
    commands = {OURS: program_command(our_command(given.pooler))}
    try:
        commands[PEER] = program_command(find_peer())
    except Unusable as problem:
        say(f"{problem}; measuring ourselves only")
    with (
        Ground(shlex.join(commands[OURS])) as ground,
        contextlib.ExitStack() as stack,
    ):
        bench = Bench(ground, commands, given.drift)
        away = native.far_away(bench.far_port, bench.postgres.port, load.AWAY)
        try:
            stack.enter_context(away)
            for name, command in commands.items():
                say(f"{name}: {version_of(ground, command)} ({shlex.join(command)})")
                bench.start(name)
            yield bench
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            bench.stop()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "--short", action="store_true", help="see that figures come out"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="per figure (%(default)s)"
    )
    parser.add_argument("--seconds", type=int, default=4, help="per run (%(default)s)")
    parser.add_argument("--only", default="", help="figures with this in their name")
    parser.add_argument("--pooler", help="our program")
    parser.add_argument("--drift", type=float, help="of the control that is allowed")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="directory")
    given = parser.parse_args()
    if given.drift is None:
        # The short form proves only that figures come out.
        given.drift = 1.0 if given.short else DRIFT
    return given


def main() -> int:
    """Measure, print, write."""
    given = arguments()
    rounds, seconds = (1, 1) if given.short else (given.rounds, given.seconds)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        with benches(given) as bench:
            chosen = [f for f in figures(seconds, given.short) if given.only in f.name]
            if not bench.has_prepared(PEER):
                say("prepared statements are left out: the peer is older than 1.21")
                chosen = [f for f in chosen if not f.name.startswith("prepared")]
            for figure in chosen:
                bench.run(figure, rounds, seconds)
            ceilings = {} if given.only else bench.ceilings(seconds)
            versions = {
                name: version_of(bench.ground, command)
                for name, command in bench.commands.items()
            }
            server = f"PostgreSQL {bench.postgres.version}"
    except Unusable as problem:
        say(f"bench: {problem}")
        return 2
    except KeyboardInterrupt:
        return 130
    text = report.markdown(
        chosen, ceilings, versions, server, rounds, seconds, given.drift
    )
    print(text)
    if not given.short and not given.only:
        (given.out / "performance.md").write_text(text)
        (given.out / "performance.svg").write_text(report.chart(chosen))
    failed = [figure.name for figure in chosen if figure.failure]
    if failed:
        say(f"could not be measured: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
