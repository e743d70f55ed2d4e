"""Derive SCRAM keys from passwords, off the event loop and once.

PBKDF2 is slow on purpose (milliseconds), so it runs in a thread (OpenSSL works
without the interpreter's lock) and its results are kept: who asks while the same
keys are on their way waits for them instead of starting over. A storm of logins
costs one derivation per password, not one per login. What is only claimed, as
anybody may, has a thread of its own: the pooler's logins do not queue behind it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from hashlib import pbkdf2_hmac, sha256
from hmac import digest

from bouncer.auth.saslprep import saslprep
from bouncer.auth.secrets import ScramSecret
from bouncer.turns import in_turns

# RFC 7677 asks for 4096 at least; a million takes about half a second here. A
# hostile server, or a role that stores its own secret, must not keep us busy.
MAX_ITERATIONS = 1_000_000

# One per password and salt in use; the oldest goes first.
_KEPT = 1024

Keys = tuple[bytes, bytes]


def derive(password: bytes, salt: bytes, iterations: int) -> Keys:
    """Compute ClientKey and ServerKey; blocks for milliseconds."""
    salted = pbkdf2_hmac("sha256", saslprep(password), salt, iterations)
    return digest(salted, b"Client Key", "sha256"), digest(
        salted, b"Server Key", "sha256"
    )


def secret_of(keys: Keys, salt: bytes, iterations: int) -> ScramSecret:
    """Turn derived keys into the secret a server would store."""
    return ScramSecret(iterations, salt, sha256(keys[0]).digest(), keys[1])


class KeyDeriver:
    """Runs and remembers derivations."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, bytes, int], Keys] = {}
        #: Those who wait for keys that are on their way.
        self._asking: dict[tuple[bytes, bytes, int], list[asyncio.Future[Keys]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = ThreadPoolExecutor(1, "pbkdf2")
        self._claims = ThreadPoolExecutor(1, "pbkdf2 of claims")

    def known(self, password: bytes, salt: bytes, iterations: int) -> Keys | None:
        """Give the keys if they were derived before."""
        return self._known.get((password, salt, iterations))

    def wanted(
        self, password: bytes, salt: bytes, iterations: int, keep: bool = True
    ) -> Awaitable[Keys]:
        """Derive the keys in the thread; await what this gives.

        *keep* = False for passwords that are only claimed: a wrong one must not
        push a right one out.
        """
        wish = (password, salt, iterations)
        loop = asyncio.get_running_loop()
        asker: asyncio.Future[Keys] = loop.create_future()
        if wish in self._asking:
            self._asking[wish].append(asker)
        else:
            self._asking[wish] = [asker]
            task = loop.create_task(self._run(loop, wish, keep))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return asker

    async def _run(
        self,
        loop: asyncio.AbstractEventLoop,
        wish: tuple[bytes, bytes, int],
        keep: bool,
    ) -> None:
        thread = self._thread if keep else self._claims
        try:
            keys = await loop.run_in_executor(thread, derive, *wish)
        except Exception as problem:
            for asker in self._asking.pop(wish):
                if not asker.done():
                    asker.set_exception(problem)
            return
        if keep:
            if len(self._known) >= _KEPT:
                del self._known[next(iter(self._known))]
            self._known[wish] = keys

        def hand_out(asker: asyncio.Future[Keys]) -> None:
            if not asker.done():
                asker.set_result(keys)

        in_turns(loop, deque(self._asking.pop(wish)), hand_out)


deriver = KeyDeriver()
