"""What a client has said to its server that may reset parameters.

Texts come where they are run: in a Query, or at the Execute of a portal. They count
together, from when the server owed nothing up to when it does so again. Cold: nobody is
here who has not said RESET, or its like.
"""

from bouncer.wire.resets import ANY, Change, Text, changes, verdict

LOOKED_AT = 1000  # as in intent.pxd
MOST_TEXTS = 50
MOST_PORTALS = 50


class Said:
    """The texts of one client at one server."""

    def __init__(self) -> None:
        self.texts: list[Text] = []
        self.begun_in_block = False  # where the first of them came
        self.is_cut = False  # something was said that is not looked at
        self.portals: dict[bytes, bytes] = {}  # of those that may count: their texts
        self.local: set[int] = set()  # parameters reset up to the end of a transaction
        self.told: set[int] = set()  # those that PostgreSQL has just told of
        self.committed: set[int] = set()  # those that no ROLLBACK sets again
        self.in_block: set[int] = set()  # ... whose SET of ours it undoes
        self.chosen: set[int] = set()  # ... set to the server's own by the client since
        self.changes: list[Change] | None = None  # what the texts do, once it is asked

    def say(self, text: bytes, is_query: bool, in_block: bool) -> None:
        """*text* is run; its first LOOKED_AT bytes. *in_block*: as things stand."""
        if not self.texts:
            self.begun_in_block = in_block
        self.changes = None
        if len(self.texts) == MOST_TEXTS or len(text) >= LOOKED_AT:
            self.is_cut = True
        if len(self.texts) < MOST_TEXTS:
            self.texts.append(Text(text, is_query))

    def bind(self, portal: bytes, text: bytes | None) -> None:
        """A portal of *text*; None: of one that does nothing here."""
        if text is None:
            self.portals.pop(portal, None)
        elif len(self.portals) < MOST_PORTALS or portal in self.portals:
            self.portals[portal] = text

    def last_word(self, name: bytes) -> Change | None:
        """What was said last about a parameter, its *name* in any letters."""
        if self.changes is None:
            self.changes = changes(self.texts, self.begun_in_block)
            if self.is_cut:
                self.changes.append(Change(ANY, True, False))
        return verdict(self.changes, name.lower())

    def answered(self, is_idle: bool) -> None:
        """The server owes nothing of it any more; *is_idle*: nor is a portal left."""
        self.texts.clear()
        self.changes = None
        self.is_cut = False
        if is_idle:
            self.portals.clear()
            self.local.clear()

    def take_local(self) -> set[int]:
        """What was reset up to the end of a transaction, and has not been set again."""
        found, self.local = self.local, set()
        return found

    def ready(self, is_idle: bool) -> None:
        """A ReadyForQuery: what was told of before it is committed, or is not yet."""
        if is_idle:
            self.committed |= self.told
        self.told.clear()

    def leave_block(self) -> None:
        """The transaction is over in which values were set again."""
        self.in_block.clear()
        self.chosen.clear()

    def take_committed(self) -> set[int]:
        """What was reset for good, and has not been set again."""
        found, self.committed = self.committed, set()
        return found
