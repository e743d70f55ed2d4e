"""Types of ledger.pyx, for mypy: what tests see of it."""

class Ledger:
    count: int
    owed: str
    even: bool
    skipping: bool
    def ask(self, code: int, action: int = ...) -> None: ...
    def hear(self, code: int) -> str: ...
