"""Restart poolers one at a time, without a client noticing.

For each pooler: drain it at every balancer, wait until its sessions have ended (or for
the time allowed), restart it, wait until it says that it is ready, let it back in, and
only then take the next. What can go wrong leaves the others untouched: the driver
stops there and says how to go on. A balancer that is reloaded meanwhile forgets the
drain, so it is given again whenever it is missing.
"""

from __future__ import annotations

import http.client
import shlex
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ha.errors import HAError, HAProxyError
from ha.haproxy import HAProxy
from ha.inventory import Inventory, Pooler
from ha.status import Say, present, take_away

STEP = 0.1
SSL_REQUEST = b"\0\0\0\x08\x04\xd2\x16/"
# A drained server may still read so: it went down, or is held in maintenance.
OUT_OF_USE = ("DRAIN", "MAINT", "DOWN")

Restart = Callable[[Pooler], None]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds."""

    drain: float = 60.0
    ready: float = 60.0
    # What HAProxy needs to see that a pooler is back.
    usable: float = 30.0


@dataclass(slots=True)
class Rolling:
    """A rolling restart of some poolers behind some balancers.

    *backends* are the proxies in which the poolers are servers; a balancer that does
    not have one of them is skipped for it. *cut* ends the sessions that outlive
    the drain; without it the pooler's own way of stopping decides.
    """

    haproxies: Sequence[HAProxy]
    backends: Sequence[str]
    restart: Restart
    ready: Callable[[Pooler], str]
    say: Say
    patience: Patience = Patience()
    cut: bool = False

    def run(self, poolers: Sequence[Pooler]) -> None:
        """Restart them in this order; raises `HAError` at the first that fails."""
        for pooler in poolers:
            try:
                self.one(pooler)
            except HAError as problem:
                raise HAError(
                    f"stopped at {pooler.name}, which stays drained: {problem}; "
                    f"`pybouncer ha ready BACKEND/{pooler.name}` lets it back in"
                ) from None

    def one(self, pooler: Pooler) -> None:
        """One pooler, from drain to use."""
        places = self.places(pooler)
        for haproxy, backend in places:
            row = present(haproxy, backend, pooler.name)
            take_away(haproxy, row, "drain", force=False)
        self.say(f"{pooler.name}: drained at {len(places)} places")
        left = self.await_empty(pooler, places)
        if left and self.cut:
            for haproxy, backend in places:
                haproxy.cut_sessions(backend, pooler.name)
            self.say(f"{pooler.name}: {left} sessions cut")
        elif left:
            self.say(f"{pooler.name}: {left} sessions left, its stop will end them")
        self.restart(pooler)
        self.say(f"{pooler.name}: restarted")
        self.await_ready(pooler)
        for haproxy, backend in places:
            haproxy.set_state(backend, pooler.name, "ready")
            haproxy.hear_agent(backend, pooler.name)
        self.await_usable(pooler, places)
        self.say(f"{pooler.name}: back")

    def places(self, pooler: Pooler) -> list[tuple[HAProxy, str]]:
        """The balancers and backends that know the pooler."""
        found = []
        for haproxy in self.haproxies:
            picture = haproxy.picture()
            for backend in self.backends:
                if picture.server(backend, pooler.name) is not None:
                    found.append((haproxy, backend))
        if not found:
            raise HAError(
                f"no balancer has a server {pooler.name} in {', '.join(self.backends)}"
            )
        return found

    def await_empty(self, pooler: Pooler, places: list[tuple[HAProxy, str]]) -> int:
        """Wait until no session is left; returns how many there are."""
        ends = time.monotonic() + self.patience.drain
        told = -1
        while True:
            left = 0
            for haproxy, backend in places:
                row = present(haproxy, backend, pooler.name)
                if row.status.word not in OUT_OF_USE:
                    # It was reloaded, and has forgotten.
                    haproxy.set_state(backend, pooler.name, "drain")
                left += haproxy.sessions_on(backend, pooler.name)
            if left != told:
                self.say(f"{pooler.name}: {left} sessions")
                told = left
            if not left or time.monotonic() >= ends:
                return left
            time.sleep(STEP)

    def await_ready(self, pooler: Pooler) -> None:
        """Wait until the pooler itself says that it may have clients."""
        ends = time.monotonic() + self.patience.ready
        while (answer := self.ready(pooler)) != "":
            if time.monotonic() >= ends:
                raise HAError(
                    f"not ready {self.patience.ready:g} s after its restart: {answer}"
                )
            time.sleep(STEP)

    def await_usable(self, pooler: Pooler, places: list[tuple[HAProxy, str]]) -> None:
        """Wait until every balancer sends clients again."""
        ends = time.monotonic() + self.patience.usable
        for haproxy, backend in places:
            while True:
                row = present(haproxy, backend, pooler.name)
                if row.usable:
                    break
                if time.monotonic() >= ends:
                    raise HAProxyError(
                        haproxy.endpoint.text,
                        f"{backend}/{pooler.name} is {row.status.text} "
                        f"({row.last_check or row.check_status})",
                    )
                time.sleep(STEP)


# How a pooler is restarted, and how it says that it is ready


def by_command(template: str, say: Say) -> Restart:
    """Run a command in which {name}, {address} and {port} are filled in."""

    def restart(pooler: Pooler) -> None:
        words = [
            word.format(name=pooler.name, address=pooler.address, port=pooler.port)
            for word in shlex.split(template)
        ]
        say(f"{pooler.name}: {shlex.join(words)}")
        try:
            done = subprocess.run(words, stdin=subprocess.DEVNULL)
        except OSError as problem:
            raise HAError(f"{words[0]}: {problem.strerror}") from None
        if done.returncode:
            raise HAError(f"{shlex.join(words)} ended with {done.returncode}")

    return restart


def readiness(inventory: Inventory) -> Callable[[Pooler], str]:
    """What to ask: /ready of ours, an SSLRequest of the original."""
    return over_http if inventory.ours else by_ssl_request


def over_http(pooler: Pooler) -> str:
    """ "" when /ready says 200, else what is wrong."""
    link = http.client.HTTPConnection(
        pooler.address.strip("[]"), pooler.health_port, timeout=1.0
    )
    try:
        link.request("GET", "/ready")
        answer = link.getresponse()
        body = answer.read(200).decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as problem:
        return f"{type(problem).__name__} on port {pooler.health_port}"
    finally:
        link.close()
    return "" if answer.status == 200 else f"{answer.status} {body}"


def by_ssl_request(pooler: Pooler) -> str:
    """ "" when the pooler answers an SSLRequest, else what is wrong."""
    place = (pooler.address.strip("[]"), pooler.port)
    try:
        with socket.create_connection(place, 1.0) as link:
            link.sendall(SSL_REQUEST)
            answer = link.recv(1)
    except OSError as problem:
        return f"{type(problem).__name__} on port {pooler.port}"
    return "" if answer in (b"S", b"N") else f"answered {answer!r}"
