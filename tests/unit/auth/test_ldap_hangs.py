"""An LDAP server that hangs holds its own logins up, and what it holds is little."""

import asyncio
import threading

from bouncer.auth import ldap


def test_password_is_asked_for_while_all_workers_wait_for_a_server_that_hangs() -> None:
    """Who came behind them was not even asked, for up to half a minute each."""
    ldap.library()
    come = threading.Event()
    waiting = [ldap._threads.submit(come.wait, 60) for _ in range(ldap.WORKERS)]

    async def story() -> bool:
        return await asyncio.wait_for(ldap.is_available(), 10)

    try:
        asyncio.run(story())
        assert not any(work.done() for work in waiting)
    finally:
        come.set()
