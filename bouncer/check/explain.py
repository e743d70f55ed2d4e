"""`pgbouncer --explain DB USER ADDRESS FILE`: what such a client would get, and why.

The one hard idea: the answers are those of the program itself. Limits are asked of
`bouncer.pool.limits`, rules of `bouncer.config.hba`; only where a value comes from is
found out here.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

from bouncer.arguments import Parser, say
from bouncer.auth.secrets import MD5, PLAIN, SCRAM, kind_of
from bouncer.check.findings import ERROR
from bouncer.check.main import MISUSED
from bouncer.check.reading import Reading, read_all
from bouncer.config.entries import RESERVED, read_database
from bouncer.config.hba import parse_address
from bouncer.config.ini import Refused
from bouncer.config.settings import Database, UserOptions
from bouncer.pool.limits import Limits, listed
from bouncer.pool.registry import DatabaseState

LET_IN, REFUSED = 0, 1
ABOUT: Final = """\
Say whether a client would be asked to prove who it is, and what it would get: which
lines decide, the server and the pool behind them, every limit with the line it comes
from. Nothing is started, nobody is asked.
"""
EXITS: Final = (
    "0  admitted: it would be asked to prove who it is",
    "1  refused, or the configuration cannot be read",
    "3  wrongly called",
)
EXAMPLES: Final = (
    "{prog} shop alice 192.0.2.7 /etc/pgbouncer/pgbouncer.ini",
    "{prog} pgbouncer pgbouncer unix /etc/pgbouncer/pgbouncer.ini",
)
# Methods that do not look for a secret of ours.
ELSEWHERE: Final = frozenset(("any", "pam", "ldap"))
DEFAULT: Final = "default"
KINDS: Final = {PLAIN: "plain text", MD5: "MD5", SCRAM: "SCRAM"}


class Fact(NamedTuple):
    """One line of the answer."""

    title: str
    value: str
    source: str = ""


class Client(NamedTuple):
    """Whom the question is about; *address* None is a Unix socket."""

    database: str
    user: str
    address: str | None


def explain_parser(prog: str, exits: Sequence[str], **options: Any) -> Parser:
    """Return the reader of a command line that begins with *prog*."""
    examples = [one.format(prog=prog) for one in EXAMPLES]
    parser = Parser(
        prog=prog, description=ABOUT, examples=examples, exits=exits, **options
    )
    return add_explain_options(parser)


def add_explain_options(parser: Parser) -> Parser:
    """Add the words of the question."""
    parser.add_argument("database", metavar="DATABASE", help="asked for by the client")
    parser.add_argument("user", metavar="USER", help="asked for by the client")
    parser.add_argument(
        "address", metavar="ADDRESS", type=address, help="its IP address, or unix"
    )
    parser.add_argument("file", metavar="FILE", help="the configuration: pgbouncer.ini")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document, for programs"
    )
    return parser


def address(text: str) -> str:
    """Return *text*, which is an IP address or `unix`."""
    if text != "unix":
        try:
            parse_address(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text} is no IP address; or say unix"
            ) from None
    return text


def explain_main(arguments: Sequence[str]) -> int:
    """Do what the command line behind `--explain` says; return the exit status."""
    parser = explain_parser("pgbouncer --explain", EXITS, misused=MISUSED)
    try:
        return answer(parser.parse_args(arguments))
    except SystemExit as end:
        return int(end.code or 0)


def answer(options: argparse.Namespace) -> int:
    """Print what a client would get.

    0: it would be asked to prove who it is. 1: it would be refused.
    """
    where = None if options.address == "unix" else options.address
    client = Client(options.database, options.user, where)
    reading = read_all(options.file)
    errors = [found for found in reading.findings if found.level == ERROR]
    if errors:
        for found in errors:
            print(found, file=sys.stderr)
        return REFUSED
    facts, status = Explanation(reading, client).facts()
    if options.json:
        say(json.dumps([fact._asdict() for fact in facts], indent=2))
    else:
        show(facts)
    return status


def show(facts: list[Fact]) -> None:
    """Print for people, in columns."""
    titles = max(len(fact.title) for fact in facts)
    values = min(max(len(fact.value) for fact in facts), 48)
    for fact in facts:
        line = f"{fact.title:{titles}}  {fact.value:{values}}  {fact.source}"
        say(line.rstrip())


def reason(value: str, source: str) -> str:
    """Return a reason with the place that it comes from."""
    return f"{value} ({source})" if source else value


class Explanation:
    """Finds out what a client would get."""

    def __init__(self, reading: Reading, client: Client) -> None:
        self.reading = reading
        self.config = reading.config
        self.settings = reading.config.settings
        self.client = client
        self.found: list[Fact] = []
        self.status = LET_IN
        # The methods that may let it in, with and without TLS.
        self.methods: set[str] = set()
        # Why it is refused; why with or without TLS, which may not matter.
        self.reasons: list[str] = []
        self.shut_out: list[str] = []

    def say(self, title: str, value: object, source: str = "") -> None:
        """Add a line."""
        self.found.append(Fact(title, str(value), source))

    def refuse(self, title: str, value: str, source: str = "") -> None:
        """Add a line that ends the story."""
        self.say(title, value, source)
        self.reasons.append(reason(value, source))
        self.status = REFUSED

    def shut(self, title: str, value: str, source: str) -> None:
        """Add a line that ends the story with or without TLS."""
        self.say(title, value, source)
        self.shut_out.append(reason(value, source))

    def source(self, name: str) -> str:
        """Return where the setting *name* comes from."""
        return self.config.sources.get(name, DEFAULT)

    def facts(self) -> tuple[list[Fact], int]:
        """Return the lines, the verdict first, and the exit status."""
        self.gather()
        return [self.verdict(), *self.found], self.status

    def verdict(self) -> Fact:
        """Say in a line whether it would be let in, and why."""
        if self.status == REFUSED:
            return Fact("REFUSED", "; ".join(self.reasons))
        free = sorted(self.methods & {"trust", "any"})
        if free:
            return Fact("ADMITTED", f"without a proof of who it is ({', '.join(free)})")
        ways = " or ".join(sorted(self.methods))
        return Fact("ADMITTED", f"if it proves who it is ({ways})")

    def gather(self) -> None:
        """Find out everything."""
        where = self.client.address or "the Unix socket"
        self.say("client", f"{self.client.user} from {where}")
        if self.client.database == RESERVED:
            self.say("database", "the console")
            self.access()
            self.console()
            return
        database = self.database()
        self.access()
        if database is not None:
            self.secret(database)
            self.server(database)
            self.pool(database)

    # The database

    def database(self) -> Database | None:
        """Find the line of the database, or what `*` makes of it."""
        name = self.client.database
        found = self.config.databases.get(name)
        if found is not None:
            self.say("database", name, found.source)
            return found
        star = self.config.autodb
        if star is None:
            self.refuse("database", f"no such database: {name}")
            return None
        try:
            made = read_database(name, star.text, star.source, None, lambda text: None)
        except Refused as refused:
            self.refuse("database", f"no such database: {refused.line}", star.source)
            return None
        self.say("database", f"{name}, made from *", star.source)
        return made

    # Getting in

    def access(self) -> None:
        """Say how the client must prove who it is."""
        mode = self.settings.client_tls_sslmode
        if self.client.address is None or mode == "disable":
            self.method(tls=False, title="method")
        else:
            if mode in ("allow", "prefer"):
                self.method(tls=False, title="method without TLS")
            else:
                source = self.source("client_tls_sslmode")
                self.say("without TLS", "SSL required", source)
            self.method(tls=True, title="method with TLS")
        if not self.methods:
            self.reasons += dict.fromkeys(self.shut_out)
            self.status = REFUSED

    def method(self, tls: bool, title: str) -> None:
        """Say which method is asked for."""
        if self.settings.auth_type != "hba":
            self.methods.add(self.settings.auth_type)
            self.say(title, self.settings.auth_type, self.source("auth_type"))
            return
        hba = self.reading.hba
        line = hba and hba.match(
            self.client.database, self.client.user, self.client.address, tls, 0
        )
        if not hba or not line:
            where = self.source("auth_hba_file")
            self.shut(title, "no line of the HBA file is for it", where)
            return
        source = f"{hba.path}:{line.line}"
        if line.method == "reject":
            self.shut(title, "login rejected", source)
            return
        self.methods.add(line.method)
        of_map = f", map {line.map.name}" if line.map is not None else ""
        self.say(title, line.method + of_map, source)

    def secret(self, database: Database) -> None:
        """Say where the user's secret comes from."""
        user, userlist = self.client.user, self.reading.userlist
        if self.methods <= ELSEWHERE:
            return
        if userlist is not None and user in userlist.secrets:
            kind = KINDS[kind_of(userlist.secrets[user])]
            text = f"{kind} secret" if userlist.secrets[user] else "no secret"
            source = f"{self.settings.auth_file}:{userlist.lines[user]}"
            self.say("known from auth_file", text, source)
            return
        own = database.auth_user is not None
        asker = database.auth_user or self.settings.auth_user
        if not asker:
            self.refuse("known from auth_file", "no such user")
            return
        source = database.source if own else self.source("auth_user")
        self.say("looked up by auth_user", asker, source)
        self.either("in database", database, "auth_dbname", database.name)
        self.either("with", database, "auth_query", "")

    def either(self, title: str, database: Database, name: str, other: str) -> None:
        """Say what the database sets, else the setting, else *other*."""
        own = getattr(database, name)
        if own is not None:
            self.say(title, own, database.source)
        else:
            text = getattr(self.settings, name)
            self.say(title, text or other, self.source(name))

    def console(self) -> None:
        """Say what the client may do on the console."""
        for name, right in (("admin_users", "all"), ("stats_users", "SHOW")):
            if listed(self.client.user, getattr(self.settings, name)):
                self.say("commands", right, self.source(name))
                return
        if self.settings.auth_type == "any":
            self.say("commands", "SHOW", self.source("auth_type"))
        elif self.client.address is None and self.client.user == RESERVED:
            self.say("commands", "all, if the OS user is the pooler's own")
        else:
            self.refuse("commands", "not allowed", self.source("admin_users"))

    # Behind the pooler

    def server(self, database: Database) -> None:
        """Say where the queries go, and as whom."""
        host = database.host or f"the Unix socket in {self.settings.unix_socket_dir}"
        self.say("server", f"{host} port {database.port}", database.source)
        if database.host and "," in database.host:
            self.say("hosts", database.load_balance_hosts, database.source)
        self.say("server database", database.dbname, database.source)
        if database.host and not database.host.startswith(("/", "@")):
            mode = self.settings.server_tls_sslmode
            self.say("server TLS", mode, self.source("server_tls_sslmode"))
        if database.user is None:
            self.say("server user", self.client.user, "the client's")
            return
        self.say("server user", f"{database.user}, forced", database.source)
        if database.password is not None:
            self.say("server password", "password=", database.source)
        elif self.reading.userlist and database.user in self.reading.userlist.secrets:
            line = self.reading.userlist.lines[database.user]
            source = f"{self.settings.auth_file}:{line}"
            self.say("server password", "from auth_file", source)
        else:
            self.say("server password", "none")

    def pool(self, database: Database) -> None:
        """Say what the pool is like, and which limits and time-outs count."""
        users = self.config.users
        login = users.get(self.client.user)
        owner = users.get(database.user) if database.user else login
        state = DatabaseState(database)
        limits = Limits(SimpleNamespace(settings=self.settings))
        pool: Any = SimpleNamespace(database=state, user=SimpleNamespace(options=owner))
        client: Any = SimpleNamespace(
            database=state, user_state=SimpleNamespace(options=login)
        )
        self.say("pool", f"{database.name}/{database.user or self.client.user}")
        mode = limits.pool_mode(pool)
        self.value("pool_mode", mode, owner, database)
        size = limits.pool_size(pool)
        self.value("pool_size", size, owner, database, "default_pool_size")
        self.value("min_pool_size", limits.min_pool_size(pool), None, database)
        self.value("reserve_pool_size", limits.reserve_pool_size(pool), owner, database)
        self.value(
            "max_db_connections", limits.max_db_connections(state), None, database
        )
        self.value(
            "max_user_connections", limits.max_user_connections(pool.user), owner, None
        )
        self.value("server_lifetime", limits.server_lifetime(state), None, database)
        self.value("max_client_conn", self.settings.max_client_conn, None, None)
        self.value(
            "max_db_client_connections", limits.max_db_clients(state), None, database
        )
        self.value(
            "max_user_client_connections",
            limits.max_user_clients(client.user_state),
            login,
            None,
        )
        waiting = limits.query_wait_timeout(client)
        self.value("query_wait_timeout", waiting, login, database)
        for name in (
            "query_timeout",
            "idle_transaction_timeout",
            "transaction_timeout",
        ):
            self.value(name, limits.of_pool_user(pool, name), owner, None)
        idle = limits.client_idle_timeout(client.user_state)
        self.value("client_idle_timeout", idle, login, None)
        always = self.settings.server_reset_query_always
        if mode == "session" or always:
            text = self.settings.server_reset_query
            self.say("server_reset_query", text, self.source("server_reset_query"))

    def value(
        self,
        name: str,
        value: object,
        user: UserOptions | None,
        database: Database | None,
        setting: str = "",
    ) -> None:
        """Say a limit; it comes from the first of *user*, *database*, the settings."""
        source = self.source(setting or name)
        for entry in (user, database):
            if entry is not None and getattr(entry, name) is not None:
                source = entry.source
                break
        shown = f"{value:g}" if isinstance(value, float) else value
        self.say(name, shown, source)
