"""Read a client's startup packet: who it is, where it wants to go, its parameters.

Parameters count in the order of the packet, and the first that is refused ends the
login; only `replication` is looked at before all others, because a replication
client's `options` are kept whole for PostgreSQL instead of being taken apart.
"""

from __future__ import annotations

import re
import socket
from typing import Any

from bouncer import log
from bouncer.config.masking import without_secrets
from bouncer.config.settings import Settings
from bouncer.errors import Disconnect
from bouncer.relay.tracked import tracked_names
from bouncer.wire.identifiers import is_list
from bouncer.wire.messages import (
    REQUEST_STARTUP_3,
    decode_text,
    encode_text,
    negotiate_protocol_version,
    parse_startup,
)
from bouncer.wire.sqlstate import INVALID_PARAMETER_VALUE

LOGICAL = 1
PHYSICAL = 2

# Startup packets that are remembered: how many, and how long they may be (bytes).
MAX_KNOWN = 256
LONGEST_KNOWN = 1024

_BAD_OPTIONS = (
    "unsupported options startup parameter: "
    "only '-c config=val' and '--config=val' are allowed"
)
_NO_TERMINATOR = "invalid startup packet layout: expected terminator as last byte"
_SPACE = 0x20
# Before anybody is known, a packet of 64 kB must not cost milliseconds. Drivers send
# ten parameters, and people write as many options.
MOST_PARAMETERS = 200
MOST_OPTIONS = 200
_BLANKS = re.compile(rb" *")
# Names in a list: commas and white space separate, in any number.
_NAMES = re.compile(r"[^, \t-\r]+")
# A piece of `options` ends with white space; a backslash makes the next byte literal.
# Only blanks are skipped between pieces.
_PIECE = re.compile(rb"(?:[^ \t\n\v\f\r\\]+|\\.?)*", re.DOTALL)
_ESCAPED = re.compile(rb"\\(.?)", re.DOTALL)


class Startup:
    """What a startup packet says; shared by all clients that send the same one."""

    __slots__ = ("database", "negotiation", "options", "params", "replication", "user")

    def __init__(self, user: str, database: str, negotiation: bytes) -> None:
        self.user = user
        self.database = database
        #: NegotiateProtocolVersion, when it is due.
        self.negotiation = negotiation
        #: Tracked parameters; the `options` of a replication client; its kind.
        self.params: dict[str, str] = {}
        self.options: str | None = None
        self.replication = 0


class Rules:
    """Which parameters are kept and which are dropped."""

    __slots__ = ("ignored", "ignores_options", "known", "settings", "tracked")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.tracked = {encode_text(name).lower(): name for name in tracked_names()}
        self.ignored = frozenset(
            name.encode("utf-8", "surrogateescape")
            for name in _NAMES.findall(settings.ignore_startup_parameters)
        )
        self.ignores_options = b"options" in self.ignored
        #: Packets that were fine: an application's clients all send the same.
        self.known: dict[bytes, Startup] = {}


_rules: Rules | None = None


def rules_of(settings: Settings) -> Rules:
    """Give the rules of *settings*, made once for each object."""
    global _rules
    if _rules is None or _rules.settings is not settings:
        _rules = Rules(settings)
    return _rules


def read_startup(client: Any, settings: Settings, body: bytes) -> Startup:
    """Take a StartupMessage apart and note its parameters at *client*.

    *body* begins with the protocol version. Raises `Disconnect`.
    """
    rules = rules_of(settings)
    start = rules.known.get(body)
    if start is None:
        start = _take_apart(client, rules, body)
        if len(body) <= LONGEST_KNOWN and not log.verbosity:
            if len(rules.known) >= MAX_KNOWN:
                rules.known.clear()
            rules.known[body] = start
    client.replication = start.replication
    client.startup_options = start.options
    client.startup_params = start.params
    if settings.application_name_add_host:
        client.startup_params = given = dict(start.params)
        name_and_host = _with_host(client, settings, given.get("application_name"))
        given["application_name"] = name_and_host
    return start


def _take_apart(client: Any, rules: Rules, body: bytes) -> Startup:
    if body.count(b"\0", 4) > 2 * MOST_PARAMETERS + 1:
        raise Disconnect("invalid startup packet layout: too many parameters")
    params, terminated = parse_startup(body[4:])
    replication = 0
    kept_options = None
    if body.find(b"replication") >= 0:
        for name, value in params:
            if name == b"replication":
                replication = replication_kind(value)

    user = database = b""
    given: dict[str, str] = {}
    own: set[str] = set()  # of them those that are not from `options`
    extensions = []
    for name, value in params:
        if name == b"user":
            user = value
        elif name == b"database":
            database = value
        elif name == b"options":
            if replication:
                kept_options = decode_text(value)
            else:
                _take_options(client, rules, value, given, own)
        elif name.startswith(b"_pq_."):
            extensions.append(name)
        elif name != b"replication":
            tracked = rules.tracked.get(name) or rules.tracked.get(name.lower())
            if tracked is not None and name not in rules.ignored:
                given[tracked] = decode_text(value)
                own.add(tracked)
            elif name not in rules.ignored:
                _refuse(client, "unsupported startup parameter", name, value)
    if log.verbosity:
        shown = " ".join(f"{decode_text(n)}={decode_text(v)}" for n, v in params)
        log.debug(f"{client.prefix} got var: {without_secrets(shown)}")
    if not terminated:
        raise Disconnect(_NO_TERMINATOR)
    if not user:
        raise Disconnect("no username supplied")

    negotiation = b""
    if extensions or body[:4] != b"\0\3\0\0":
        negotiation = negotiate_protocol_version(REQUEST_STARTUP_3, extensions)
    start = Startup(decode_text(user), decode_text(database or user), negotiation)
    start.params, start.options = given, kept_options
    start.replication = replication
    return start


def replication_kind(value: bytes) -> int:
    """Say what `replication=` asks for; a word that is none asks for nothing."""
    if value == b"database":
        return LOGICAL
    word = value.lower()
    if word == b"1" or word == b"on":
        return PHYSICAL
    # PostgreSQL takes a boolean's unique beginnings for the word.
    if word and (b"true".startswith(word) or b"yes".startswith(word)):
        return PHYSICAL
    return 0


def _take_options(
    client: Any, rules: Rules, value: bytes, given: dict[str, str], own: set[str]
) -> None:
    """Take the settings out of `options`: -c name=value, --name=value.

    Those in *own* stay: wherever `options` stand, PostgreSQL reads them first.
    """
    at, size = 0, len(value)
    for _ in range(MOST_OPTIONS):
        if at >= size:
            return
        at = _skip_blanks(value, at)
        if value.startswith(b"-c", at):
            at = _skip_blanks(value, at + 2)
        elif value.startswith(b"--", at):
            at += 2
        else:
            raise Disconnect(_BAD_OPTIONS)
        piece, at = _unescape(value, at)
        name, equals, setting = piece.partition(b"=")
        if not equals:
            raise Disconnect(_BAD_OPTIONS)
        tracked = rules.tracked.get(name.lower())
        if tracked is not None and name not in rules.ignored:
            if tracked not in own:
                given[tracked] = decode_text(setting)
        elif not rules.ignores_options and name not in rules.ignored:
            _refuse(client, "unsupported startup parameter in options", name, setting)
        # A blank promises another piece.
        if at == size - 1 and value[at] == _SPACE:
            raise Disconnect(_BAD_OPTIONS)
    if at < size:
        raise Disconnect("unsupported options startup parameter: too many options")


def check_values(start: Startup) -> None:
    """Refuse a search_path that is no list of identifiers, as PostgreSQL would.

    Any other value it refuses itself, at the client's first server. A list we have to
    take apart, for it is written anew into our SETs.
    """
    value = start.params.get("search_path")
    if value is not None and not is_list(encode_text(value)):
        text = f'invalid value for parameter "search_path": "{value}"'
        raise Disconnect(text, sqlstate=INVALID_PARAMETER_VALUE, whole=True)


def _skip_blanks(value: bytes, at: int) -> int:
    found = _BLANKS.match(value, at)
    return at if found is None else found.end()


def _unescape(value: bytes, at: int) -> tuple[bytes, int]:
    """Read up to white space; a backslash makes the next character literal."""
    found = _PIECE.match(value, at)
    if found is None:
        return b"", at
    piece = found.group()
    if b"\\" in piece:
        piece = _ESCAPED.sub(rb"\1", piece)
    return piece, found.end()


def _refuse(client: Any, text: str, name: bytes, value: bytes) -> None:
    shown = f"{text}: {decode_text(name)}"
    given = without_secrets(f"{shown}={decode_text(value)}")
    log.warning(f"{client.prefix} {given}")
    raise Disconnect(shown)


def _with_host(client: Any, settings: Settings, name: str | None) -> str:
    """Add where the client is to its application_name."""
    if client.is_unix:
        host = socket.gethostname()
        address = f"unix({client.peer_pid}@{host}):{settings.listen_port}"
    elif ":" in client.peer_address:
        address = f"[{client.peer_address}]:{client.peer_port}"
    else:
        address = f"{client.peer_address}:{client.peer_port}"
    return f"{name or 'app'} - {address}"
