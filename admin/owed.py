"""A reply that a console still owes: PAUSE, SUSPEND, WAIT_CLOSE.

The one hard idea: the debt outlives the command but not the console. The
application keeps it until the drain is complete and then says `done`; whether
anybody is still there to hear it is the console's business.
"""

from __future__ import annotations

from collections.abc import Callable


class Owed:
    """One deferred reply, answered at most once."""

    __slots__ = ("_answer", "_give_up", "gone", "tag")

    def __init__(
        self,
        tag: str,
        answer: Callable[[Owed], None],
        give_up: Callable[[Owed], None],
    ) -> None:
        self.tag = tag
        self.gone = False  # answered, or nobody waits any more
        self._answer = answer
        self._give_up = give_up

    def __repr__(self) -> str:
        return f"Owed({self.tag}{', gone' if self.gone else ''})"

    def done(self) -> None:
        """What was waited for has happened: answer."""
        if not self.gone:
            self.gone = True
            self._answer(self)

    def lifted(self) -> None:
        """The pause was lifted before it was complete.

        A console that speaks the simple protocol goes on owing, as in PgBouncer:
        its answer comes with the next completed pause.
        """
        if not self.gone:
            self._give_up(self)
