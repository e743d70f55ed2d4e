"""Ask one question of DNS, through c-ares, on the event loop and without a thread.

The one hard idea: c-ares keeps answers for as long as their records live, and
nothing turns that off. How long an answer counts is decided by dns_max_ttl (see
`bouncer.pool.hosts`), so each question gets a channel of its own, which knows
nothing yet. It costs a tenth of a millisecond per lookup.

A file named by resolv_conf is read here, not by c-ares: pycares hands over the
name in memory that it has freed already.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import pycares
from pycares import errno

# Between two looks at c-ares's own timeouts: seconds at most.
LONGEST_NAP: Final = 1.0
# Failures of the resolver, not of the name.
RESOLVER_DOWN: Final = frozenset(
    {
        errno.ARES_ESERVFAIL,
        errno.ARES_EREFUSED,
        errno.ARES_ECONNREFUSED,
        errno.ARES_ETIMEOUT,
    }
)

Answer = Callable[[Any, int], None]


@dataclass
class ResolvConf:
    """What a resolv.conf says; nothing set is c-ares's own default."""

    servers: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)


def read_resolv_conf(path: str) -> ResolvConf:
    """Read *path*, which may be missing: then nobody will answer."""
    conf = ResolvConf()
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        lines = []
    for line in lines:
        words = line.split()
        if not words or words[0][0] in "#;":
            continue
        if words[0] == "nameserver" and len(words) > 1:
            conf.servers.append(words[1])
        elif words[0] in ("search", "domain"):
            conf.options["domains"] = words[1:]
        elif words[0] == "options":
            for word in words[1:]:
                read_option(word, conf.options)
    if not conf.servers:
        # As the C library has it: a name server on this machine.
        conf.servers.append("127.0.0.1")
    return conf


def read_option(word: str, options: dict[str, Any]) -> None:
    """Take over one word of an "options" line, if c-ares has a use for it."""
    name, _, value = word.partition(":")
    if name == "rotate":
        options["rotate"] = True
    elif value.isascii() and value.isdigit():
        if name == "timeout":
            options["timeout"] = float(value)
        elif name == "attempts":
            options["tries"] = int(value)
        elif name == "ndots":
            options["ndots"] = int(value)


class Resolver:
    """Asks; knows where, remembers nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop, resolv_conf: str) -> None:
        self._loop = loop
        self._conf = read_resolv_conf(resolv_conf) if resolv_conf else None
        self._open: set[Question] = set()

    def addresses(self, name: str, answer: Answer) -> None:
        """Ask for the addresses of *name*; *answer* gets a list of texts, or a code."""

        def told(result: Any, code: int) -> None:
            if not code:
                texts = [text_of(node.addr[0]) for node in result.nodes]
                # One entry per address, in c-ares's order.
                result = list(dict.fromkeys(texts))
            answer(result, code)

        self._ask(lambda one: one.ask_addresses(name), told)

    def serial(self, zone: str, answer: Answer) -> None:
        """Ask for the serial number of *zone*; *answer* gets it, or None, or a code."""

        def told(result: Any, code: int) -> None:
            if not code:
                numbers = [
                    record.data.serial
                    for record in result.answer
                    if isinstance(record.data, pycares.SOARecordData)
                ]
                result = numbers[0] if numbers else None
            answer(result, code)

        self._ask(lambda one: one.ask_serial(zone), told)

    def close(self) -> None:
        """End all questions; nobody gets an answer any more."""
        for question in list(self._open):
            question.cancel()
        self._open.clear()

    def _ask(self, start: "Callable[[Question], None]", told: Answer) -> None:
        def over(result: Any, code: int) -> None:
            self._open.discard(question)
            told(result, code)

        question = Question(self._loop, self._conf, over)
        self._open.add(question)
        question.start(start)


class Question:
    """One question, from its channel's making to its answer."""

    __slots__ = ("_channel", "_fds", "_loop", "_over", "_timer")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, conf: ResolvConf | None, over: Answer
    ) -> None:
        self._loop = loop
        self._over: Answer | None = over
        self._fds: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None
        options = conf.options if conf is not None else {}
        self._channel: pycares.Channel | None = pycares.Channel(
            sock_state_cb=self._socket_changed, **options
        )
        if conf is not None:
            try:
                self._channel.servers = conf.servers
            except (pycares.AresError, UnicodeError):
                # An address that is none: as if no server were there.
                self._channel.servers = ["127.0.0.1"]

    def start(self, ask: "Callable[[Question], None]") -> None:
        """Ask; the answer comes in a later turn of the loop, whatever happens."""
        try:
            ask(self)
        except pycares.AresError as err:
            self._told(None, err.args[0] if err.args else errno.ARES_EBADQUERY)
        except (UnicodeError, ValueError):
            self._told(None, errno.ARES_EBADNAME)
        else:
            self._nap()

    def ask_addresses(self, name: str) -> None:
        """Put the question for addresses of both kinds."""
        assert self._channel is not None
        self._channel.getaddrinfo(name, None, type=1, callback=self._told)

    def ask_serial(self, zone: str) -> None:
        """Put the question for the start of authority."""
        assert self._channel is not None
        kind = pycares.QUERY_TYPE_SOA
        self._channel.query(zone, kind, callback=self._told)

    def cancel(self) -> None:
        """End the question without an answer."""
        self._over = None
        if self._channel is not None:
            self._channel.cancel()
            self._finish(None, 0)

    def _told(self, result: Any, code: int | None) -> None:
        # Called from inside c-ares, which must not lose its channel meanwhile.
        if self._over is not None:
            self._loop.call_soon(self._finish, result, code or 0)

    def _finish(self, result: Any, code: int) -> None:
        if self._channel is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        for fd in self._fds:
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)
        self._fds.clear()
        # The channel's last callbacks may come from another thread: see below.
        self._channel = None
        over, self._over = self._over, None
        if over is not None:
            over(result, code)

    def _socket_changed(self, fd: int, readable: bool, writable: bool) -> None:
        if self._channel is None and fd not in self._fds:
            # c-ares tidies up after us, in pycares's thread.
            return
        none = pycares.ARES_SOCKET_BAD
        if readable or writable:
            self._fds.add(fd)
        else:
            self._fds.discard(fd)
        if readable:
            self._loop.add_reader(fd, self._process, fd, none)
        else:
            self._loop.remove_reader(fd)
        if writable:
            self._loop.add_writer(fd, self._process, none, fd)
        else:
            self._loop.remove_writer(fd)

    def _process(self, readable: int, writable: int) -> None:
        if self._channel is not None:
            self._channel.process_fd(readable, writable)

    def _nap(self) -> None:
        """Let c-ares look at its timeouts when the next one is due."""
        if self._channel is None or self._over is None:
            return
        due: float = self._channel.timeout(LONGEST_NAP)  # type: ignore[no-untyped-call]
        self._timer = self._loop.call_later(due, self._wake)

    def _wake(self) -> None:
        self._process(pycares.ARES_SOCKET_BAD, pycares.ARES_SOCKET_BAD)
        self._nap()


def text_of(raw: str | bytes) -> str:
    """Return an address of c-ares as text."""
    return raw.decode() if isinstance(raw, bytes) else raw


def reason_of(code: int) -> str:
    """Say what an error of c-ares means; 0 is an answer without an address."""
    text = errno.strerror(code) if code else "no address"
    return text if isinstance(text, str) else text.decode("utf-8", "replace")
