"""Attack the pooler as hostile clients and servers would; see what others feel.

    python -m tests.hostile [--short] [--only WORD] [--ours PROGRAM] [--no-peer]

For each attack a pooler of its own is started, once ours and once the real
PgBouncer. Somebody else, with a database and a server of his own, repeats a query
before the attack and while it goes on. What is told: how much slower his median gets,
by how much the pooler grows at most, and its processor time.

The bars: his median at most three times the quiet one of the same run, or no worse
than with the real PgBouncer; 100 MB at most before a login, 64 MB at most for each
client that has logged in. With --short nothing depends on time: only memory, and that
the pooler is whole afterwards, decide.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.bench.__main__ import find_peer, our_command, version_of
from tests.hostile.clients import AFTER, BEFORE
from tests.hostile.servers import SERVERS
from tests.replay.lab import Unusable, program_command
from tests.replay.passwords import scram_secret
from tests.support.ground import PASSWORDS, Ground
from tests.support.pooler import RunningPooler

MEGABYTE = 1 << 20
BEFORE_LOGIN, AFTER_LOGIN = 100, 64  # MB: in all; for each client
SLOWER = 3.0  # times the quiet median
NOISE_MS = 1.0  # a median below this bothers nobody, whatever the ratio
QUIET, LOUD, LOUD_SHORT = 1.0, 4.0, 1.5  # seconds
OURS, PEER = "ours", "peer"


@dataclass(frozen=True)
class Outcome:
    """What one attack on one pooler came to."""

    quiet_ms: float
    loud_ms: float
    grown: float  # MB above what the pooler had before, at the most
    cpu: float  # seconds of processor time for one second of attack
    problem: str  # what is wrong with the pooler afterwards; mostly nothing

    @property
    def slower(self) -> float:
        """The other's median, as a multiple of the quiet one."""
        return self.loud_ms / max(self.quiet_ms, 0.01)


def names() -> list[str]:
    """Every attack."""
    return [*BEFORE, *AFTER, *SERVERS]


def allowed(name: str) -> int:
    """How many MB a pooler may grow by."""
    return AFTER_LOGIN * AFTER[name][1] if name in AFTER else BEFORE_LOGIN


def peak(pid: int, begin: bool = False) -> float:
    """The largest resident memory since *begin* was last said, in MB."""
    if begin:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    text = Path(f"/proc/{pid}/status").read_text()
    return float(text.partition("VmHWM:")[2].split()[0]) / 1024


def child(*words: object) -> "subprocess.Popen[str]":
    """A module of the tests as a process that tells when it has begun."""
    process = subprocess.Popen(
        [sys.executable, "-m", *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    if not process.stdout.readline():
        raise Unusable(f"{words[0]} {words[1]} did not begin")
    return process


def has_prepared(ground: Ground, command: list[str]) -> bool:
    """Whether it knows prepared statements: PgBouncer does since 1.21."""
    major, minor = version_of(ground, command).split()[-1].split(".")[:2]
    return (int(major), int(minor)) >= (1, 21)


class Trial:
    """One pooler, one attack."""

    def __init__(self, ground: Ground, command: list[str], name: str) -> None:
        self.ground, self.name, self.hostile_port = ground, name, ground.free_port()
        slow = scram_secret("slowpass", b"0123456789abcdef", 1_000_000)
        ini = {
            "pool_mode": "transaction",
            "default_pool_size": 2,
            "max_client_conn": 2000,
            "auth_type": "hba",
            "auth_hba_file": "{dir}/hba",
            "server_login_retry": 1,
            "server_tls_sslmode": "disable",
            "max_prepared_statements": 20 if has_prepared(ground, command) else None,
        }
        databases = {
            "p0": "{pg} dbname=p0",
            "p1": "{pg} dbname=p1",
            "hostile": f"host=127.0.0.1 port={self.hostile_port} "
            "user=u_scram password=scrampass",
            "*": "{pg}",
        }
        self.pooler = RunningPooler(
            ground,
            ground.postgresql.port,
            ini,
            databases=databases,
            users={"u_trust": "", "stats": "", **PASSWORDS, "u_slow": slow},
            command=command,
        )
        methods = {"u_plain": "password", "u_slow": "password", "all": "trust"}
        lines = [f"host all {user} 127.0.0.1/32 {how}" for user, how in methods.items()]
        (self.pooler.directory / "hba").write_text("\n".join(lines) + "\n")
        ground.identity.own(self.pooler.directory)
        self.pooler.run()

    def median(self, process: "subprocess.Popen[str]") -> float:
        """What the other one felt, in milliseconds; he has stopped now."""
        told, _ = process.communicate()
        return float(json.loads(told.splitlines()[-1])["median"])

    def other(self) -> "subprocess.Popen[str]":
        """Somebody who repeats a query until he is told to stop."""
        port = self.pooler.port
        return child("tests.support.storm", "marker", port, "p1", "u_trust")

    def begin(self, seconds: float) -> "subprocess.Popen[str]":
        """Begin the attack."""
        if self.name in SERVERS:
            where: tuple[object, ...] = ("servers", self.name, self.hostile_port)
        else:
            where = ("clients", self.name)
        module, *words = where
        return child(f"tests.hostile.{module}", *words, self.pooler.port, seconds)

    def run(self, seconds: float) -> Outcome:
        """Measure: quiet, then under attack."""
        try:
            quiet = self.other()
            wait(quiet, QUIET)
            quiet_ms = self.median(quiet)
            marker = self.other()
            before, cpu = peak(self.pooler.pid, begin=True), self.pooler.cpu()
            attack = self.begin(seconds)
            attack.communicate()
            grown = peak(self.pooler.pid) - before
            cpu = (self.pooler.cpu() - cpu) / seconds
            return Outcome(quiet_ms, self.median(marker), grown, cpu, self.problem())
        except (OSError, ValueError, IndexError, Unusable) as error:
            ended = "" if self.pooler.is_running() else "; the pooler has ended"
            return Outcome(0.0, 0.0, 0.0, 0.0, f"{error}{ended}")
        finally:
            self.pooler.stop()

    def problem(self) -> str:
        """What is wrong with the pooler; empty when nothing is."""
        if not self.pooler.is_running():
            return f"it ended: {self.pooler.exit_status()}"
        try:
            with self.pooler.connect("p1") as connection:
                connection.execute("select 1")
        except Exception as error:
            return f"serves nobody: {error}"
        return "; ".join(self.pooler.complaints()[:2])


def wait(process: "subprocess.Popen[str]", seconds: float) -> None:
    """Let *process* go on for a while."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return
    raise Unusable("who measures has ended")


def faults(name: str, found: dict[str, Outcome], short: bool) -> list[str]:
    """Which bars our pooler has not reached."""
    ours, peer = found[OURS], found.get(PEER)
    wrong = [ours.problem] if ours.problem else []
    bar = max(allowed(name), peer.grown if peer and name in SERVERS else 0)
    if ours.grown > bar:
        wrong.append(f"grew by {ours.grown:.0f} MB, {bar:.0f} allowed")
    if short or ours.problem or ours.loud_ms < NOISE_MS:
        return wrong
    if ours.slower > SLOWER and not (peer and ours.loud_ms <= peer.loud_ms):
        wrong.append(f"others wait {ours.slower:.1f} times as long")
    return wrong


def row(name: str, who: str, one: Outcome) -> str:
    """A line of the table."""
    return (
        f"{name:40} {who:5} {one.quiet_ms:8.2f} {one.loud_ms:8.2f} {one.slower:7.1f}"
        f" {one.grown:8.1f} {one.cpu:6.2f}  {one.problem}"
    )


def main() -> int:
    """Run the attacks, print the table; 1 when a bar is not reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="a minute or two, for CI")
    parser.add_argument("--only", default="", metavar="WORD", help="attacks named so")
    parser.add_argument("--ours", metavar="PROGRAM", help="instead of ours")
    parser.add_argument("--no-peer", action="store_true", help="ours alone")
    given = parser.parse_args()
    print(f"{'attack':40} {'':5} {'quiet ms':>8} {'loud ms':>8} {'slower':>7}", end="")
    print(f" {'+ MB':>8} {'cpu':>6}", flush=True)
    failed = []
    with Ground(our_command(given.ours)) as ground:
        commands = {OURS: program_command(our_command(given.ours))}
        if not given.short and not given.no_peer:
            commands[PEER] = program_command(find_peer())
            print(f"peer: {version_of(ground, commands[PEER])}", file=sys.stderr)
        for name in names():
            if given.only not in name:
                continue
            found = {}
            for who, command in commands.items():
                seconds = LOUD_SHORT if given.short else LOUD
                found[who] = Trial(ground, command, name).run(seconds)
                print(row(name, who, found[who]), flush=True)
            failed += [f"{name}: {why}" for why in faults(name, found, given.short)]
    print("\n".join([*failed, f"{len(failed)} bars not reached"]), flush=True)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
