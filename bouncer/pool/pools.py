"""A pool as policy sees it: the relay's Pool plus what only Python needs.

The relay links and releases; here stand the welcome that new clients get, the
credentials for the server, and what is remembered of failed attempts.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from bouncer import COMPATIBLE_VERSION
from bouncer.auth.scram import fits
from bouncer.auth.secrets import parse_scram
from bouncer.pool.evidence import Evidence
from bouncer.pool.targets import ROUND_ROBIN, Targets
from bouncer.relay.pool import Pool
from bouncer.relay.talk import Waiter
from bouncer.relay.tracked import (
    filled,
    from_dict,
    index_of,
    named_values,
    unreported_names,
)
from bouncer.turns import in_turns
from bouncer.wire.messages import decode_text, parameter_status

WAIT_WELCOME = 1  # client.pxd, WaitKind
NO_WELCOME = (None, b"", None, None)
MOST_UNREPORTED = 200  # names that a server is asked for
MAX_WELCOMES = 64  # different startup packets that are remembered per pool
CONSOLE_NAME = "pgbouncer"
POOL_MODES = ("session", "transaction", "statement")  # of pool.pxd, Mode
VERSION = parameter_status("pgbouncer.version", COMPATIBLE_VERSION)
# What a session has of parameters that are not reported, and whether it has set them
# itself. No search_path may change what this means; a placeholder has no source.
LEARN_QUERY = (
    "SELECT n, pg_catalog.current_setting(n, true), (SELECT s.source FROM"
    " pg_catalog.pg_settings s WHERE pg_catalog.lower(s.name)"
    " OPERATOR(pg_catalog.=) pg_catalog.lower(n))"
    " FROM pg_catalog.unnest(%s::pg_catalog.text[]) n"
)


def quoted_element(name: bytes) -> bytes:
    """Write *name* as an element of an array's text."""
    escaped = name.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return b'"' + escaped + b'"'


class Credentials(NamedTuple):
    """What logs us in at the server (client sheet 9)."""

    user: str
    secret: str
    scram_keys: tuple[bytes, bytes] | None


class ServerPool(Pool):
    """The clients and servers of one database and server user."""

    def __init__(self, poller: Any, keeper: Any, database: Any, user: Any) -> None:
        super().__init__(poller, keeper, database.name, user.name)
        self.database = database
        self.user = user
        self.welcomes: dict[tuple[Any, ...], tuple[bytes, Any]] = {}
        # The one sent last: startup parameters (that very object), bytes, tracked
        self.last_welcome: tuple[Any, ...] = NO_WELCOME
        # Names that servers do not report, and somebody here has a value of
        self.unreported: set[bytes] = set()
        # Of `own_password`; those of other secrets are their users'.
        self.scram_keys: tuple[bytes, bytes] | None = None
        # Attempts to open a server; monotonic microseconds
        self.hosts: Any = None  # targets.Targets of the entry
        self.host_key: Any = None  # what they were made from
        self.last_error = ""  # reason of the last failure, for later clients
        self.last_sqlstate = ""  # its SQLSTATE; empty when there was no answer
        self.refused_at = 0  # when the attempt began whose login was refused; 0: none
        self.reached = False  # a server has logged in, and the database is still there
        self.evidence = Evidence()  # what the attempts say of the server
        self.last_lifetime_close = 0
        self.held_told = 0  # when the log was told that sessions hold all servers
        self.cancels: list[Any] = []  # clients whose CancelRequest waits, in order
        self.fair_check = 0  # when rivals are looked at again, sharing.must_yield
        self.flagged = False  # some active server is marked for closing
        self.peer: Any = None  # registry.PeerState: only cancels go there
        self.idle_since = poller.now
        # Snapshots of the counters for averages (stats.md 3)
        self.newer: tuple[int, ...] = ()
        self.older: tuple[int, ...] = ()

    # Attempts

    @property
    def targets(self) -> Targets:
        """Where its servers are: made anew when the entry says something else."""
        config = self.peer.config if self.peer else self.database.config
        balance = getattr(config, "load_balance_hosts", ROUND_ROBIN)
        key = (config.host, config.port, balance)
        if self.host_key != key:
            self.host_key = key
            self.hosts = Targets(config.host, balance)
        found: Targets = self.hosts
        return found

    @property
    def failed(self) -> bool:
        """Whether every target has failed since it was last reached."""
        return self.hosts is not None and self.targets.failed

    def forget_failures(self) -> None:
        """Begin anew: what is under way, and what was, says nothing any more."""
        self.hosts = self.targets.renewed()
        self.last_error = self.last_sqlstate = ""
        self.refused_at = 0

    @property
    def credentials(self) -> Credentials:
        """Name and secret for a login at the server."""
        password = self.own_password
        if password is not None:
            keys = self.scram_keys or self.user.scram_keys
            return Credentials(self.user_name, password, keys)
        return Credentials(self.user_name, self.user.secret, self.user.scram_keys)

    @property
    def own_password(self) -> str | None:
        """The `password=` of a forced user: of him alone, not of an auth_user."""
        config = self.database.config
        return (config.password or None) if config.user == self.user_name else None

    def learn_keys(self, keys: tuple[bytes, bytes]) -> None:
        """Keep SCRAM keys if they open the secret that this pool logs in with.

        They stand beside that secret, so that they are found wherever it is.
        """
        if self.own_password is None:
            self.user.learn_keys(keys)
            return
        secret = parse_scram(self.own_password)
        if secret is not None and fits(secret, keys):
            self.scram_keys = keys

    # Welcome (client sheet 6)

    def welcome_waiter(self, client: Any) -> Waiter | None:
        """None when the welcome is known; else what the login has to wait for."""
        if self.welcome is not None:
            return None
        waiter = Waiter()
        client.wait_note = waiter
        self.queue(client, WAIT_WELCOME)
        self.poller.put_off(lambda: self.keeper.wants_server(self))
        return waiter

    def take_welcome(self, parameters: list[tuple[str, str]]) -> None:
        """Keep what the first login told, and let waiting logins go on."""
        if self.welcome is None:
            plain, tracked = [], {}
            for name, value in parameters:
                if index_of(name) is None:
                    plain.append(parameter_status(name, value))
                else:
                    tracked[name] = value
            self.defaults = from_dict(tracked)
            self.welcome = b"".join(plain)
            self.keeper.app.door.forget()
            self.welcomes.clear()
            self.last_welcome = NO_WELCOME
            self.follow(from_dict({}), extra=True)
        self.welcome_waiting()

    def follow(self, params: Any, extra: bool = False) -> None:
        """Somebody has the values *params*: what sets them otherwise is looked for.

        Only of those that no server reports, and of those by *extra* that we were
        told to track: a SET is then followed by a question to the server.
        """
        names = unreported_names(params, self.defaults, extra)
        if not self.unreported.issuperset(names) and len(names) < MOST_UNREPORTED:
            self.unreported.update(names)
            listed = b",".join(sorted(map(quoted_element, self.unreported)))
            literal = b"{" + listed.replace(b"'", b"''") + b"}"
            self.learn_query = LEARN_QUERY.encode() % (b"'" + literal + b"'")

    def welcome_waiting(self) -> None:
        """Let the logins go on that wait for the welcome."""
        waiters: deque[Waiter] = deque()
        for client in self.waiting:
            if client.wait_kind == WAIT_WELCOME:
                waiter, client.wait_note = client.wait_note, None
                self.leave_queue(client)
                waiters.append(waiter)
        in_turns(self.poller.loop, waiters, Waiter.set)

    def forget_welcome(self) -> None:
        """RECONNECT or a changed entry: the next login asks anew."""
        self.welcome = None
        self.keeper.app.door.forget()

    def welcome_for(self, client: Any) -> bytes:
        """The ParameterStatus block for *client*, which gets its tracked values."""
        given = client.startup_params
        # Clients of one application all send the same: made once, kept for them.
        last = self.last_welcome
        told = (self.max_prepared, 0 if client.replication else self.mode)
        if given is not last[0] or given is None or told != last[3]:
            given = given or {}
            key = (told, *given.items())
            found = self.welcomes.get(key)
            if found is None:
                if len(self.welcomes) >= MAX_WELCOMES:
                    self.welcomes.clear()
                found = self.welcomes[key] = self.make_welcome(given, told)
            last = self.last_welcome = (given, *found, told)
        client.tracked = last[2]
        block: bytes = last[1]
        return block

    def make_welcome(
        self, given: dict[str, str], told: tuple[int, int]
    ) -> tuple[bytes, Any]:
        """The block for who gave *given*; *told* is max_prepared and the mode."""
        tracked = filled(from_dict(given), self.defaults)
        self.follow(tracked)
        lines = [self.welcome or b""]
        if self.database_name != CONSOLE_NAME:
            number, mode = str(told[0]), POOL_MODES[told[1]]
            lines = [
                VERSION,
                *lines,
                parameter_status("pgbouncer.max_prepared_statements", number),
                parameter_status("pgbouncer.pool_mode", mode),
            ]
        for name, value in named_values(tracked):
            lines.append(parameter_status(decode_text(name), decode_text(value)))
        return b"".join(lines), tracked

    # Counts

    @property
    def live_count(self) -> int:
        """Server connections that have logged in."""
        return (
            len(self.idle)
            + len(self.used)
            + len(self.tested)
            + len(self.active)
            + len(self.being_canceled)
        )

    def counters(self) -> tuple[int, ...]:
        """The twelve counters in the order of SHOW STATS."""
        return (
            self.assignments,
            self.transactions,
            self.queries,
            self.client_bytes,
            self.server_bytes,
            self.transaction_us,
            self.query_us,
            self.wait_us,
            self.client_parses,
            self.server_parses,
            self.binds,
            self.logins,
        )
