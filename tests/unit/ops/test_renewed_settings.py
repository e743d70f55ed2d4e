"""What counts after a RELOAD or a SET: each copy of a setting is made anew.

The relay, the door and the pools have copies, which cost nothing to look at. One that
is forgotten goes on with the old value until the process ends.
"""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bouncer import log
from bouncer.app import Bouncer
from bouncer.config.load import load
from bouncer.config.settings import Settings
from bouncer.errors import ConfigError
from ha import proxy_protocol

SESSION, TRANSACTION = 0, 1

HEAD = """\
[databases]
db = host=127.0.0.1
[users]
bob = pool_mode=session
[pgbouncer]
auth_type = trust
server_check_query = select 7
"""


class Process:
    """A pooler that does not run, and its file."""

    def __init__(self, directory: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.directory, self.loop = directory, loop
        self.path = directory / "pgbouncer.ini"
        self.configured: list[Settings] = []  # what the log was told
        self.told: list[Settings] = []  # what others were told
        self.app: Any = None

    def write(self, *lines: str, head: str = HEAD) -> None:
        self.path.write_text(head + "".join(f"{line}\n" for line in lines))

    def start(self, *lines: str, head: str = HEAD) -> Any:
        """The application of this file; with one pool of each of two users."""
        self.write(*lines, head=head)
        self.app = Bouncer(load(str(self.path)), str(self.path), self.loop)
        self.app.proxy = proxy_protocol
        self.app.trust_proxies()
        self.app.on_settings = self.told.append
        for name in ("ann", "bob"):
            self.pool(name)
        return self.app

    def pool(self, user: str = "ann", database: str = "db") -> Any:
        registry = self.app.registry
        return registry.pool(registry.find_database(database), user)

    def reload(self, *lines: str, head: str = HEAD) -> None:
        self.write(*lines, head=head)
        self.app.reload()


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    loop = asyncio.new_event_loop()
    one = Process(tmp_path, loop)
    for level in ("debug", "info", "warning", "error", "reopen"):
        monkeypatch.setattr(log, level, lambda *text: None)
    monkeypatch.setattr(
        log,
        "configure",
        lambda settings, quiet, daemon: one.configured.append(settings),
    )
    yield one
    one.app.hosts.close()
    # Some copies are the module's: others expect what an empty file says.
    one.start()
    one.app.hosts.close()
    loop.close()


Look = Callable[[Process], Any]

# Setting, its first and its second value, where a copy is, what that is each time.
COPIES: list[tuple[str, str, str, Look, Any, Any]] = [
    ("pool_mode", "session", "transaction", lambda p: p.pool().mode, 0, 1),
    ("max_prepared_statements", "5", "7", lambda p: p.pool().max_prepared, 5, 7),
    ("server_round_robin", "0", "1", lambda p: p.pool().round_robin, False, True),
    ("server_reset_query", "reset all", "discard all",
     lambda p: p.pool().reset_query, b"reset all", b"discard all"),
    ("server_reset_query", "reset all", "", lambda p: p.pool().reset_on_release,
     True, False),
    ("server_check_query", "select 1", "select 2", lambda p: p.pool().check_query,
     b"select 1", b"select 2"),
    ("server_check_query", "select 1", "", lambda p: p.app.checks_servers,
     True, False),
    ("server_check_delay", "30", "0", lambda p: p.pool().check_on_release,
     False, True),
    ("server_lifetime", "5", "7", lambda p: p.pool().lifetime_us,
     5_000_000, 7_000_000),
    ("max_client_conn", "5", "7", lambda p: p.app.door.most_sockets, 5, 7),
    ("max_packet_size", "5000", "7000", lambda p: p.app.poller.max_packet_size,
     5000, 7000),
    ("sbuf_loopcnt", "5", "7", lambda p: p.app.poller.loop_count, 5, 7),
    ("client_idle_timeout", "0", "7", lambda p: p.app.any_client_idle_timeout,
     False, True),
    ("client_idle_timeout", "7", "0", lambda p: p.app.any_client_idle_timeout,
     True, False),
    ("dns_max_ttl", "5", "7", lambda p: p.app.hosts.settings.dns_max_ttl, 5, 7),
    ("default_pool_size", "5", "7", lambda p: p.app.limits.pool_size(p.pool()), 5, 7),
    ("max_db_connections", "5", "7",
     lambda p: p.app.limits.max_db_connections(p.pool().database), 5, 7),
]  # fmt: skip


@pytest.mark.parametrize("how", ["RELOAD", "SET"])
@pytest.mark.parametrize(
    ("name", "first", "second", "look", "before", "after"),
    COPIES,
    ids=[f"{name}-{second}" for name, _, second, *_ in COPIES],
)
def test_setting_that_changes_counts_at_once(
    name: str, first: str, second: str, look: Look, before: Any, after: Any,
    how: str, process: Process,
) -> None:  # fmt: skip
    process.start(f"{name} = {first}")
    assert look(process) == before
    if how == "RELOAD":
        process.reload(f"{name} = {second}")
    else:
        process.app.set(name, second)
    assert look(process) == after
    # Those who look for themselves are told which settings those are.
    now = process.app.settings
    assert process.told == process.configured == [now]
    assert process.app.hosts.settings is process.app.config.settings is now


def test_setting_that_leaves_the_file_has_its_default_again(process: Process) -> None:
    process.start("pool_mode = statement", "max_client_conn = 7")
    process.reload()
    assert process.pool().mode == SESSION
    assert process.app.door.most_sockets == 100


def test_reset_query_runs_in_transaction_pooling_only_if_asked_for(
    process: Process,
) -> None:
    process.start("pool_mode = transaction")
    assert not process.pool().reset_on_release
    # The mode is the pool's, not what all have.
    assert process.pool("bob").reset_on_release
    process.reload("pool_mode = transaction", "server_reset_query_always = 1")
    assert process.pool().reset_on_release
    process.reload("pool_mode = session")
    assert process.pool().reset_on_release


@pytest.mark.parametrize(
    ("head", "mode", "of_bob"),
    [
        (HEAD, SESSION, SESSION),
        (HEAD.replace("0.0.1", "0.0.1 pool_mode=transaction"), TRANSACTION, SESSION),
        (HEAD.replace("pool_mode=session", "pool_mode=transaction"),
         SESSION, TRANSACTION),
    ],
)  # fmt: skip
def test_pool_mode_of_a_database_or_a_user_counts_after_a_reload(
    head: str, mode: int, of_bob: int, process: Process
) -> None:
    process.start()
    pools = [process.pool(), process.pool("bob")]
    process.reload(head=head)
    assert [pool.mode for pool in pools] == [mode, of_bob]


def test_server_lifetime_of_a_database_counts_after_a_reload(process: Process) -> None:
    process.start("server_lifetime = 5")
    pool = process.pool()
    entry = HEAD.replace("127.0.0.1", "127.0.0.1 server_lifetime=9")
    process.reload("server_lifetime = 5", head=entry)
    assert pool.lifetime_us == 9_000_000


def test_client_idle_timeout_of_one_user_is_looked_for(process: Process) -> None:
    process.start()
    assert not process.app.any_client_idle_timeout
    process.reload(head=HEAD.replace("=session", "=session client_idle_timeout=5"))
    assert process.app.any_client_idle_timeout


def test_peers_number_is_in_the_keys_of_the_next_clients(process: Process) -> None:
    process.start("peer_id = 258")
    keys = process.app.make_keys()
    assert {key[1:3] for key in keys} == {b"\2\1"}
    assert len(set(keys)) == len(keys)


def test_proxy_protocol_networks_count_after_a_reload(process: Process) -> None:
    def trusts() -> list[bool]:
        networks = process.app.proxy_networks
        return [place in networks for place in ("192.0.2.1", "192.0.2.2")]

    process.start("[pybouncer]", "proxy_protocol_networks = 192.0.2.1")
    assert trusts() == [True, False]
    process.reload("[pybouncer]", "proxy_protocol_networks = 192.0.2.2")
    assert trusts() == [False, True]
    # A mistake trusts nobody.
    process.reload("[pybouncer]", "proxy_protocol_networks = nonsense")
    assert trusts() == [False, False]


def test_users_of_the_file_count_after_a_reload(process: Process) -> None:
    users = process.directory / "users"
    users.write_text('"ann" "old"\n"bob" "stays"\n')
    process.start(f"auth_file = {users}")
    secrets = process.app.registry.users
    assert secrets["ann"].secret == "old"
    users.write_text('"bob" "stays"\n"carl" "new, longer"\n')
    process.reload(f"auth_file = {users}")
    assert not secrets["ann"].in_auth_file and secrets["ann"].secret == ""
    assert secrets["carl"].secret == "new, longer"
    other = process.directory / "others"
    other.write_text('"ann" "of another file"\n')
    process.reload(f"auth_file = {other}")
    assert secrets["ann"].secret == "of another file"
    assert not secrets["carl"].in_auth_file


def test_database_that_wants_servers_for_its_user_has_a_pool_at_once(
    process: Process,
) -> None:
    process.start()
    new = "new = min_pool_size=1 user=app\nany = min_pool_size=1\nnone = user=app\n"
    process.reload(head=HEAD.replace("[users]\n", f"{new}[users]\n"))
    pools = {
        name: list(database.pools)
        for name, database in process.app.registry.databases.items()
    }
    assert (pools["new"], pools["any"], pools["none"]) == (["app"], [], [])


@pytest.mark.parametrize("mode", ["none", "pause"])
def test_pause_outlives_a_reload(mode: str, process: Process) -> None:
    app = process.start()
    app.global_mode = mode
    process.reload("max_client_conn = 7")
    assert [process.pool(name).blocked for name in ("ann", "bob", "new")] == [
        mode == "pause"
    ] * 3
    app.global_mode = "none"
    process.pool().database.paused = True
    process.reload()
    assert process.pool().blocked
    console = app.registry.databases["pgbouncer"].pools["pgbouncer"]
    assert not console.blocked


def test_file_that_cannot_be_read_changes_nothing(process: Process) -> None:
    app = process.start("max_client_conn = 7")
    before = app.settings
    with pytest.raises(ConfigError):
        process.reload("max_client_conn = 9", "nonsense")
    assert app.settings is before is app.config.settings
    assert app.door.most_sockets == 7
    assert process.told == []
