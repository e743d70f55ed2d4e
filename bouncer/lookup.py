"""Run auth_query: one look-up of a user, on a server of the auth user's pool."""

from __future__ import annotations

from typing import Any

from bouncer import log
from bouncer.errors import Disconnect
from bouncer.pool.keeper import WAIT_AUTH, Keeper
from bouncer.pool.registry import DatabaseState
from bouncer.relay.talk import Waiter
from bouncer.relay.tracked import only_reported
from bouncer.talks.auth_query import auth_query

CONFIG_ERROR = "bouncer config error"


class Lookups:
    """The look-ups that are under way."""

    def __init__(self, app: Any, keeper: Keeper) -> None:
        self.app = app
        self.keeper = keeper
        self.running: dict[Any, Waiter] = {}  # server -> who waits for its answer
        self.askers: dict[Any, Any] = {}  # server -> the client that logs in

    def begin(self, client: Any, database: DatabaseState, user_name: str) -> Waiter:
        """Look *user_name* up for *client*; the waiter gets (name, secret) or None."""
        app = self.app
        where = self.auth_database(client, database)
        if where.disabled:
            shown = database.config.auth_dbname or app.settings.auth_dbname or "(null)"
            raise Disconnect(f'authentication database "{shown}" is disabled')
        auth_user = database.config.auth_user or app.settings.auth_user
        pool = app.registry.pool(where, auth_user)
        query = database.config.auth_query or app.settings.auth_query
        waiter = Waiter()
        client.pool = pool
        if not self.keeper.may_wait(pool, client):
            return waiter
        client.wait_note = lambda server: self.ask(
            server, query, user_name, waiter, client
        )
        pool.queue(client, WAIT_AUTH)
        app.poller.put_off(lambda: self.keeper.wants_server(pool))
        return waiter

    def auth_database(self, client: Any, database: DatabaseState) -> DatabaseState:
        """The database that the query runs on (client sheet 8.1)."""
        app = self.app
        name = database.config.auth_dbname or app.settings.auth_dbname
        if name is None:
            name = database.name
        if name in app.consoles:
            log.error(
                f"{client.prefix} cannot use the reserved "
                f'"{name}" database as an auth_dbname'
            )
            raise Disconnect(CONFIG_ERROR)
        found: DatabaseState | None = app.registry.find_database(name, client)
        if found is None:
            log.error(
                f'{client.prefix} authentication database "{name}" is not configured.'
            )
            raise Disconnect(CONFIG_ERROR)
        return found

    def ask(
        self, server: Any, query: str, user_name: str, waiter: Waiter, client: Any
    ) -> None:
        """A server is there: run the query on it."""
        self.running[server] = waiter
        self.askers[server] = client
        waiter.when_given_up = lambda: self.given_up(server)
        server.begin_talk(auth_query(server, query, user_name))

    def given_up(self, server: Any) -> None:
        """The client that wanted to know is gone."""
        if self.running.pop(server, None) is not None:
            self.askers.pop(server, None)
            server.disconnect(
                "client disconnect while server was not ready", True, False
            )

    def answered(self, server: Any, row: Any) -> None:
        """The query is answered: the server goes back, the login goes on."""
        waiter = self.running.pop(server)
        client = self.askers.pop(server)
        if server.tracked is not None and server.pool.defaults is not None:
            server.tracked = only_reported(server.tracked, server.pool.defaults)
        server.relay_phase()
        server.mark_ready()
        if row is None:
            # As in the original the connection goes with the client it was for.
            client.ends_with = server
        else:
            server.pool.release_server(server)
        waiter.set(row)
        if row is None and not server.closed:
            client.ends_with = None
            server.pool.release_server(server)

    def failed(self, server: Any, problem: Disconnect) -> None:
        waiter = self.running.pop(server)
        self.askers.pop(server)
        server.disconnect(problem.reason, problem.notify, False)
        waiter.fail(Disconnect(CONFIG_ERROR))

    def server_gone(self, server: Any) -> None:
        waiter = self.running.pop(server, None)
        self.askers.pop(server, None)
        if waiter is not None:
            waiter.fail(Disconnect(CONFIG_ERROR))
