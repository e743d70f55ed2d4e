"""Let many go on who waited for one thing, a few in each turn of the event loop.

A thousand logins may wait for the same keys or for the first server of their pool.
Resumed in one go they would hold up every query for as long as all of them take;
between two turns the loop looks at the sockets.
"""

from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable
from typing import TypeVar

Item = TypeVar("Item")

# A login that goes on costs 50 microseconds or so.
AT_ONCE = 16


def in_turns(
    loop: AbstractEventLoop, items: deque[Item], call: Callable[[Item], object]
) -> None:
    """*call* each of *items*, in order; the first few now, the others soon."""
    for _ in range(min(AT_ONCE, len(items))):
        call(items.popleft())
    if items:
        loop.call_soon(in_turns, loop, items, call)
