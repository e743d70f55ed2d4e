"""Ask one HAProxy stats socket one thing, within a deadline.

One connection per question: HAProxy serves ten command connections at a time and
lets an eleventh wait in silence, so nothing may be held open. The end of an answer
is the end of the stream; we close our half at once, because the master process
would otherwise keep the connection open after it has answered.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import time
from dataclasses import dataclass

from ha.errors import CutAnswer, HAProxyError, NoAnswer, Refused, Unreachable

# Above tune.bufsize (16384) HAProxy never answers and never closes. Half of it
# leaves room for whatever it puts in front.
MAX_COMMAND = 8192
# `show stat` takes about 250 bytes a row; this is a quarter of a million rows.
MAX_ANSWER = 64 * 1024 * 1024
DEFAULT_DEADLINE = 1.0
# How long to rest before asking again a unix socket whose accept queue is full.
BUSY_PAUSE = 0.01
# While HAProxy reloads (and while its master starts) the socket refuses for a moment.
RELOAD_GAP = 0.5
# Characters that would end a command, start another or begin a payload.
FORBIDDEN = (";", "\\", "\n", "\r", "\0", "<<")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a stats socket is: a path, or a host and a port."""

    text: str
    path: str = ""
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read `/path`, `unix:/path`, `unix@/path`, `host:port`, `[v6]:port`."""
        plain = text.strip()
        if plain.startswith("abns@"):
            return cls(plain, path="\0" + plain.removeprefix("abns@"))
        if plain.startswith(("unix:", "unix@")):
            return cls(plain, path=plain[5:])
        if "/" in plain:
            return cls(plain, path=plain)
        plain = re.sub("^(tcp:|ipv[46]@)", "", plain)
        host, colon, port = plain.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit():
            raise Unreachable(
                text, "not a stats socket: write /path/to/socket or host:port"
            )
        host = host.strip("[]") or "127.0.0.1"
        if not 0 < int(port) < 65536:
            raise Unreachable(text, "the port is out of range")
        return cls(plain, host=host, port=int(port))

    @property
    def label(self) -> str:
        """A name without colons or slashes, for tables and for haproxy-stats."""
        if self.path:
            return os.path.basename(self.path).strip("\0") or "unix"
        return f"{self.host}-{self.port}".replace(":", "_")


def checked(word: str, what: str = "name") -> str:
    """Return *word* if it can stand in a command; an admin socket runs anything."""
    bad = [mark for mark in FORBIDDEN if mark in word]
    if bad or not word or word != word.strip() or " " in word or "\t" in word:
        raise HAProxyError(repr(word), f"cannot be used as a {what} in a command")
    return word


def ask(endpoint: Endpoint, command: str, deadline: float = DEFAULT_DEADLINE) -> str:
    """Send *command* and return the whole answer.

    Raises `Unreachable`, `NoAnswer` or `CutAnswer`; never takes longer than
    *deadline* seconds in all.
    """
    request = command.encode() + b"\n"
    if len(request) > MAX_COMMAND:
        raise HAProxyError(endpoint.text, f"command longer than {MAX_COMMAND} bytes")
    ends = time.monotonic() + deadline
    try:
        with connect(endpoint, ends) as link:
            link.settimeout(remaining(ends))
            link.sendall(request)
            link.shutdown(socket.SHUT_WR)
            return read_to_end(link, ends).decode("utf-8", "replace")
    except TimeoutError:
        raise NoAnswer(
            endpoint.text,
            f"no answer within {deadline:g} s: HAProxy is stuck, starved of CPU, or "
            "all its command connections (stats maxconn) are taken",
        ) from None
    except (BrokenPipeError, ConnectionResetError) as problem:
        raise CutAnswer(
            endpoint.text, f"HAProxy closed the connection: {problem.strerror}"
        ) from None
    except OSError as problem:
        raise Unreachable(endpoint.text, explain(endpoint, problem)) from None


def connect(endpoint: Endpoint, ends: float) -> socket.socket:
    """Open the connection; a full accept queue is waited out until *ends*."""
    if not endpoint.path:
        return socket.create_connection(
            (endpoint.host, endpoint.port), timeout=remaining(ends)
        )
    gap_ends = time.monotonic() + RELOAD_GAP
    while True:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.settimeout(remaining(ends))
            link.connect(endpoint.path)
            return link
        except BlockingIOError:
            # A full queue is refused at once on unix sockets when there is a timeout.
            link.close()
            time.sleep(min(BUSY_PAUSE, remaining(ends)))
        except BaseException as problem:
            link.close()
            refused = isinstance(problem, ConnectionRefusedError)
            if not refused or time.monotonic() > min(gap_ends, ends - BUSY_PAUSE):
                raise
            time.sleep(BUSY_PAUSE)


def read_to_end(link: socket.socket, ends: float) -> bytes:
    """Read until HAProxy closes."""
    pieces: list[bytes] = []
    size = 0
    while True:
        link.settimeout(remaining(ends))
        piece = link.recv(65536)
        if not piece:
            return b"".join(pieces)
        size += len(piece)
        if size > MAX_ANSWER:
            raise OSError(errno.EMSGSIZE, f"answer longer than {MAX_ANSWER} bytes")
        pieces.append(piece)


def remaining(ends: float) -> float:
    """Seconds left; raises TimeoutError when there are none."""
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def explain(endpoint: Endpoint, problem: OSError) -> str:
    """Say what an operator should look at."""
    if problem.errno == errno.ENOENT:
        return "no such socket: is HAProxy running, and is this its `stats socket`?"
    if problem.errno in (errno.EACCES, errno.EPERM):
        return "permission denied: see `mode`, `user` and `group` of `stats socket`"
    if problem.errno == errno.ECONNREFUSED:
        if endpoint.path:
            return "nobody listens: HAProxy has gone and left its socket file behind"
        return "connection refused: HAProxy is not running, or not on this port"
    if problem.errno == errno.ENOTSOCK:
        return "this file is not a socket"
    return problem.strerror or str(problem)


# What HAProxy says when it does not do as told, where no severity prefix tells.
REFUSALS = (
    "Permission denied",
    "No such ",
    "Unknown command",
    "Require ",
    "usage: ",
    "Can't find ",
    "Can't connect ",
    "Invalid ",
    "cannot ",
    "unknown keyword",
    "Already exists ",
    "Only servers in maintenance",
    "Backend must use ",
    "Backend is using ",
    "Absolute weight ",
    "Relative weight ",
    "Weight ",
    "maxconn string ",
    "agent checks are not enabled",
    "health checks are not enabled",
    "'",
    "set server <b>/<s> ",
)


def verdict(where: str, reply: str) -> str:
    """Return the text of a command that was done; raise `Refused` otherwise.

    *reply* may carry the severity prefixes of `set severity-output number`:
    0-3 are errors, 4 a warning, the rest news.
    """
    text = reply.strip()
    if text[:1] == "[" and text[2:4] == "]:":
        severity, text = text[1], text[4:].strip()
        if severity in "0123":
            raise Refused(where, first_line(text))
    if text.startswith(REFUSALS):
        raise Refused(where, first_line(text))
    return text


def first_line(text: str) -> str:
    """The first line; an unknown command is answered with the whole help."""
    return text.split("\n", 1)[0].rstrip(":").strip()
