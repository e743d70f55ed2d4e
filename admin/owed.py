"""A reply that a console still owes: PAUSE, SUSPEND, WAIT_CLOSE.

The one hard idea: the debt outlives the command but not the console. The
application keeps it until the drain is complete and then says `done`; or the pause
is lifted by somebody, or whoever waits gives up: then it ends with an error. Whether
anybody is still there to hear it is the console's business.
"""

from __future__ import annotations

from collections.abc import Callable

from bouncer.errors import CommandError


class Owed:
    """One deferred reply, answered at most once: complete, or with an error."""

    __slots__ = ("_answer", "gone", "tag")

    def __init__(
        self, tag: str, answer: Callable[[Owed, CommandError | None], None]
    ) -> None:
        self.tag = tag
        self.gone = False  # answered, or nobody waits any more
        self._answer = answer

    def __repr__(self) -> str:
        return f"Owed({self.tag}{', gone' if self.gone else ''})"

    def done(self) -> None:
        """What was waited for has happened: answer."""
        self._end(None)

    def lifted(self) -> None:
        """The pause was lifted before it was complete."""
        self._end(f"{self.tag} was lifted before it was complete")

    def cancelled(self) -> None:
        """Who waits has had enough (Ctrl-C)."""
        self._end("canceling statement due to user request")

    def _end(self, problem: str | None) -> None:
        if not self.gone:
            self.gone = True
            error = CommandError(problem, "57014") if problem else None
            self._answer(self, error)
