"""Where one pool may connect to, whose turn it is, and which of it has failed.

The one hard idea: a failure belongs to an attempt, and an attempt has a start and a
target of its own. One that began before its target was last reached says nothing, nor
does one at targets that the pool has no more. So a pool stands still only while every
single target has failed within `server_login_retry`; what stands still is passed over
before that.

No sockets and no clock: times are handed in, monotonic microseconds.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

ROUND_ROBIN: Final = "round-robin"
DISABLE: Final = "disable"
# Which targets are passed over while there are better ones; the others have 0.
HANGS: Final = 1
FAILED: Final = 2


class Target(NamedTuple):
    """One place: a host as it is configured, and which address of a name it is.

    *address* is empty for numbers and paths, and of a name whose addresses are unknown.
    """

    host: str
    address: str = ""


Ranks = Mapping[Target, int]
NOTHING: Final[Ranks] = MappingProxyType({})


class Attempt:
    """One try to get a server connection; its target is known once its name is."""

    __slots__ = ("began", "is_extra", "round", "target", "targets")

    def __init__(self, targets: Targets, target: Target, began: int) -> None:
        self.targets = targets
        self.target = target
        self.began = began
        self.round = 0  # of the janitor, when it began
        self.is_extra = False  # one more than there is room for; see plan


class Targets:
    """The targets of one pool.

    With `round-robin` every attempt takes the next host; with `disable` the host stays
    until an attempt at it fails. The addresses of a name are rotated in any case.
    """

    __slots__ = (
        "addresses",
        "failures",
        "hosts",
        "reached",
        "rotates",
        "silences",
        "turn",
        "turns",
    )

    def __init__(self, text: str | None, balance: str = ROUND_ROBIN) -> None:
        self.hosts = hosts_of(text)
        self.rotates = balance != DISABLE
        self.turn = 0  # among the hosts
        self.turns: dict[str, int] = {}  # among the addresses of a name
        self.addresses: dict[str, tuple[str, ...]] = {}  # of a name, when last heard
        # When the attempt began that was the last to fail, or to get through
        self.failures: dict[Target, int] = {}
        self.reached: dict[Target, int] = {}
        # Of an attempt that had not said a word when another got through
        self.silences: dict[Target, int] = {}

    def renewed(self) -> Targets:
        """The same targets and turns, nothing known of failures."""
        fresh = Targets(None)
        fresh.hosts, fresh.rotates = self.hosts, self.rotates
        fresh.turn, fresh.turns = self.turn, self.turns
        fresh.addresses = self.addresses
        return fresh

    # Which there are

    def of_host(self, host: str) -> list[Target]:
        """The targets that *host* stands for."""
        return [Target(host, one) for one in self.addresses.get(host) or ("",)]

    def every(self) -> list[Target]:
        """All targets, each once."""
        return [
            target
            for host in dict.fromkeys(self.hosts)
            for target in self.of_host(host)
        ]

    @property
    def failed(self) -> bool:
        """Whether no target is left that has not failed since it was last reached."""
        return bool(self.failures) and all(one in self.failures for one in self.every())

    def resting(self, now: int, pause: float) -> set[Target]:
        """What is not tried again yet: its last attempt began less than *pause* ago."""
        return {
            target for target, began in self.failures.items() if now - began < pause
        }

    def is_resting(self, now: int, pause: float) -> bool:
        """Say whether there is nothing to try."""
        if not self.failures:
            return False
        return self.resting(now, pause).issuperset(self.every())

    def ranks(self, now: int, pause: float, hanging: Iterable[Target]) -> Ranks:
        """What is better passed over now: what hangs, and more so what has failed."""
        found = dict.fromkeys(hanging, HANGS)
        for target, began in self.silences.items():
            if now - began < pause:
                found[target] = HANGS
        return found | dict.fromkeys(self.resting(now, pause), FAILED)

    # An attempt

    def begin(self, now: int, ranks: Ranks = NOTHING) -> Attempt:
        """Begin an attempt at the host whose turn it is.

        It has that turn among those that have the best target.
        """
        count = len(self.hosts)
        order = [(self.turn + step) % count for step in range(count)]
        at = min(
            order,
            key=lambda one: min(
                ranks.get(target, 0) for target in self.of_host(self.hosts[one])
            ),
        )
        self.turn = at + 1 if self.rotates else at
        return Attempt(self, Target(self.hosts[at]), now)

    def place(
        self,
        attempt: Attempt,
        usual: tuple[str, ...],
        others: tuple[str, ...],
        ranks: Ranks = NOTHING,
    ) -> str:
        """The name of *attempt* has addresses: return the one whose turn it is.

        *others* are of the other kind (IPv4, IPv6): for when no usual one is left.
        """
        host = attempt.target.host
        if set(self.addresses.get(host, ())) != {*usual, *others}:
            self.turns.pop(host, None)
        self.addresses[host] = usual + others
        self.forget_gone(host)
        turn = self.turns.get(host, 0)
        rotated = [usual[(turn + step) % len(usual)] for step in range(len(usual))]
        chosen = min(
            (*rotated, *others), key=lambda one: ranks.get(Target(host, one), 0)
        )
        if chosen in usual:
            self.turns[host] = usual.index(chosen) + 1
        attempt.target = Target(host, chosen)
        return chosen

    def has_no_address(self, attempt: Attempt) -> None:
        """The name of *attempt* does not exist, as far as DNS knows."""
        host = attempt.target.host
        self.addresses.pop(host, None)
        self.forget_gone(host)
        attempt.target = Target(host)

    def forget_gone(self, host: str) -> None:
        """Keep nothing of addresses that *host* has no more."""
        there = self.of_host(host)
        for known in (self.failures, self.reached, self.silences):
            for target in list(known):
                if target.host == host and target not in there:
                    del known[target]

    # What became of it

    def note_failure(self, attempt: Attempt) -> bool:
        """*attempt* got no answer; false when that is older than what is known."""
        target = attempt.target
        if attempt.began < self.reached.get(target, attempt.began):
            return False
        self.failures[target] = max(attempt.began, self.failures.get(target, 0))
        if not self.rotates and self.hosts[self.turn % len(self.hosts)] == target.host:
            self.turn += 1
        return True

    def note_success(self, attempt: Attempt, now: int) -> None:
        """*attempt* got an answer: its target is there."""
        self.failures.pop(attempt.target, None)
        self.silences.pop(attempt.target, None)
        self.reached[attempt.target] = now

    def note_silence(self, attempt: Attempt) -> None:
        """*attempt* was given up, for another got through: no failure, nor good."""
        if attempt.began >= self.reached.get(attempt.target, attempt.began):
            self.silences[attempt.target] = attempt.began

    def forget_failures(self, host: str | None = None) -> None:
        """Something was heard of *host*, or of all of them, that makes them new."""
        for known in (self.failures, self.silences):
            for target in list(known):
                if host is None or target.host == host:
                    del known[target]


def hosts_of(text: str | None) -> tuple[str, ...]:
    """Return the hosts of an entry; "" is the Unix socket directory.

    Pieces are not trimmed: PgBouncer takes a blank for part of the name.
    """
    return tuple(name for name in (text or "").split(",") if name) or ("",)


def is_gone(hosts: Container[str], host: str | None, address: str, name: str) -> bool:
    """Say whether a connection was made to a place that is not among *hosts* any more.

    *host* is what was configured when it was made; a connection that was taken over
    knows its *address* only, and perhaps the *name* that stood for it.
    """
    return not (host in hosts or address in hosts or bool(name and name in hosts))
