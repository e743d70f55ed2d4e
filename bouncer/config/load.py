"""Read a configuration: the ini file, what it includes, and what it means.

The one hard idea: PgBouncer applies a file item by item, so that a RELOAD that fails
half way leaves a mixture behind. We build a `Configuration` on the side and hand it
out only if all of it is good. The order of its messages is kept all the same.

What outlasts a reload as in PgBouncer: settings without a default, settings that
only a restart changes, users and the `*` entry that are no longer in the file, and
the forced user of a database.
"""

import os
from typing import Any, Final

from bouncer import log
from bouncer.config.connstr import BadConnstr, pairs
from bouncer.config.entries import read_database, read_peer, read_user
from bouncer.config.ini import IniError, Place, Refused, read_ini
from bouncer.config.masking import HIDDEN, is_secret, without_secrets
from bouncer.config.own import OWN_SECTIONS, OWN_USERS, OwnSettings, read_own
from bouncer.config.params import MAIN, OURS, PARAMS, ROWS
from bouncer.config.settings import (
    AutoDatabase,
    Configuration,
    Database,
    Peer,
    Settings,
    UserOptions,
)
from bouncer.config.values import BadValue
from bouncer.errors import ConfigError

# Beside FILE, where PgBouncer never looks: our sections only.
BESIDE: Final = ".pybouncer"
DATABASES: Final = "databases"
USERS: Final = "users"
PEERS: Final = "peers"
OUR_SECTIONS: Final = (OURS, *OWN_SECTIONS)
SECTIONS: Final = (MAIN, DATABASES, USERS, PEERS, *OUR_SECTIONS)


class Loader:
    """Collects what the files say, and the lines that the log gets.

    It neither logs nor changes anything outside, so it can work in a thread.
    """

    def __init__(self, path: str, previous: Configuration | None, verbose: int) -> None:
        self.path = path
        self.previous = previous
        self.lines: list[tuple[str, str]] = []
        self.current: str | None = None
        self.main_seen = False
        # While the file beside is read.
        self.beside = False
        self.own = OwnSettings()
        self.databases: dict[str, Database] = {}
        self.peers: dict[int, Peer] = {}
        if previous is None:
            self.values = Settings.defaults().values()
            self.values["verbose"] = verbose
            self.values["conffile"] = path
            self.users: dict[str, UserOptions] = {}
            self.autodb: AutoDatabase | None = None
            self.sources: dict[str, str] = {}
        else:
            self.values = previous.settings.values()
            self.users = dict(previous.users)
            self.autodb = previous.autodb
            self.sources = dict(previous.sources)
        self.reset(OURS)

    def read(self) -> Configuration:
        """Read everything; raises `IniError`."""
        read_ini(self.path, self)
        if not self.main_seen:
            line = "load_init_file: main section missing from config file"
            raise IniError([line], Place(self.path, 0, 0))
        self.read_beside()
        return Configuration(
            settings=Settings.of(self.values),
            databases=self.databases,
            autodb=self.autodb,
            users=self.users,
            peers=self.peers,
            sources=self.sources,
            own=self.own,
        )

    def read_beside(self) -> None:
        """Read `FILE.pybouncer`, if there is one: it has the last word."""
        path = f"{self.path}{BESIDE}"
        if os.path.lexists(path):
            self.current, self.beside = None, True
            read_ini(path, self)

    def changeable(self, name: str) -> bool:
        """Whether this load may set *name*."""
        return self.previous is None or PARAMS[name].reload

    def reset(self, section: str) -> None:
        """Set everything in *section* that has a default back to it."""
        for param in ROWS:
            if param.section == section and param.default is not None:
                if self.changeable(param.name):
                    self.values[param.name] = param.initial()
                    self.sources.pop(param.name, None)

    # Called by the reader

    def section(self, name: str, place: Place) -> None:
        """Enter the section *name*."""
        if name not in SECTIONS:
            raise Refused("fill_defaults fail")
        if self.beside and name not in OUR_SECTIONS:
            raise Refused(f"only sections of pybouncer may stand in {place.file}")
        self.current = name
        if name == MAIN:
            self.main_seen = True
            self.reset(MAIN)

    def item(self, key: str, value: str, place: Place) -> None:
        """Take one item of the current section."""
        if self.values["verbose"] > 0:
            self.debug_item(key, value, "")
        try:
            self.take(key, value, place)
        except Refused:
            if self.values["verbose"] > 0:
                self.debug_item(key, value, " ok:0")
            raise
        if self.values["verbose"] > 0:
            self.debug_item(key, value, " ok:1")

    def take(self, key: str, value: str, place: Place) -> None:
        """Do what `key = value` says in the current section."""
        if self.current is None:
            raise Refused(f"load_init_file: value without section: {key}")
        if self.current == DATABASES:
            self.database(key, value, str(place))
        elif self.current == USERS:
            user = read_user(key, value, str(place), self.warn)
            self.users[user.name] = user
        elif self.current == PEERS:
            peer = read_peer(key, value, str(place))
            self.peers[peer.id] = peer
        elif self.current in OWN_SECTIONS:
            own = read_own(key, value, str(place), OWN_SECTIONS[self.current])
            lines = self.own.users if self.current == OWN_USERS else self.own.databases
            lines[own.name] = own
        else:
            self.setting(key, value, str(place))

    def debug(self, text: str) -> None:
        """Note what DEBUG shows."""
        if self.values["verbose"] > 0:
            self.lines.append(("debug", text))

    # Called by the above

    def warn(self, text: str) -> None:
        """Note a WARNING."""
        self.lines.append(("warning", text))

    def debug_item(self, key: str, value: str, outcome: str) -> None:
        """Note an item for DEBUG, without the passwords in it."""
        if self.current == DATABASES:
            value = masked(value)
        elif key == "auth_ldap_options" or is_secret(key):
            value = HIDDEN
        else:
            value = without_secrets(value)
        self.debug(f"parse_ini_file: '{key}' = '{value}'{outcome}")

    def database(self, name: str, text: str, source: str) -> None:
        """Take a line of `[databases]`."""
        if name == "*":
            self.autodb = AutoDatabase(text, source)
            return
        before = self.databases.get(name)
        if before is None and self.previous is not None:
            before = self.previous.databases.get(name)
        self.databases[name] = read_database(name, text, source, before, self.warn)

    def setting(self, key: str, text: str, source: str) -> None:
        """Take a line of `[pgbouncer]` or `[pybouncer]`."""
        param = PARAMS.get(key)
        if param is None or param.section != self.current:
            raise Refused(f"unknown parameter: {self.current}/{key}")
        if not self.changeable(key):
            return
        try:
            value: Any = param.parse(text)
        except BadValue as error:
            raise Refused(str(error)) from error
        self.values[key] = value
        self.sources[key] = source
        if param.reserved and value != param.initial():
            self.warn(f"{key} = {text} has no effect yet")


HIDDEN_KEYS: Final = ("password", "connect_query")


def masked(text: str) -> str:
    """Return a connection string without the password in it."""
    hidden = without_secrets(text, bare=True)
    if hidden == text:
        return text
    try:
        found = list(pairs(text))
    except BadConnstr:
        return HIDDEN  # broken, but it may hold a secret all the same
    if any(key not in HIDDEN_KEYS and is_secret(key) for key, _ in found):
        return hidden
    return " ".join(
        f"{key}={HIDDEN if key in HIDDEN_KEYS else value}" for key, value in found
    )


def say(lines: list[tuple[str, str]], verbose: int) -> None:
    """Log *lines*; those for DEBUG at the verbosity that the file asks for."""
    before = log.verbosity
    log.verbosity = max(before, verbose)
    write = {"debug": log.debug, "warning": log.warning, "error": log.error}
    try:
        for level, text in lines:
            write[level](text)
    finally:
        log.verbosity = before


def load(
    path: str, previous: Configuration | None = None, argv_verbose: int = 0
) -> Configuration:
    """Read the configuration in the file *path*.

    *previous* is the running configuration, None at the start. Raises `ConfigError`
    after the ERROR lines have been logged; nothing has changed then.
    """
    loader = Loader(path, previous, argv_verbose)
    try:
        return loader.read()
    except IniError as error:
        loader.lines += [("error", text) for text in error.lines]
        raise ConfigError(error.lines[0]) from error
    finally:
        say(loader.lines, loader.values["verbose"])


def make_autodb(
    config: Configuration, name: str, previous: Database | None = None
) -> Database | None:
    """Return the database *name* as the `*` entry makes it.

    None if there is no such entry or it does not fit; the reason has been logged.
    *previous* is what the entry, or its text before a reload, has made of *name*.
    """
    if config.autodb is None:
        return None
    try:
        return read_database(
            name, config.autodb.text, config.autodb.source, previous, log.warning
        )
    except Refused as refused:
        log.error(refused.line)
        return None
