"""Many who waited for one thing go on in turns, and others get between them."""

import asyncio
from collections import deque

from bouncer.turns import AT_ONCE, in_turns


def test_items_come_in_order_with_the_loop_between() -> None:
    async def go() -> list[object]:
        loop = asyncio.get_running_loop()
        seen: list[object] = []
        in_turns(loop, deque(range(2 * AT_ONCE + 1)), seen.append)
        while len(seen) < 2 * AT_ONCE + 3:
            seen.append("other")
            await asyncio.sleep(0)
        return seen

    seen = asyncio.run(go())
    assert [x for x in seen if x != "other"] == list(range(2 * AT_ONCE + 1))
    assert seen[AT_ONCE] == "other"
    assert seen.index(AT_ONCE * 2) > seen.index("other", AT_ONCE + 1)


def test_few_items_need_no_turn_of_the_loop() -> None:
    seen: list[int] = []
    in_turns(None, deque(range(AT_ONCE)), seen.append)  # type: ignore[arg-type]
    assert seen == list(range(AT_ONCE))
    in_turns(None, deque[int](), seen.append)  # type: ignore[arg-type]
    assert len(seen) == AT_ONCE
