"""Texts that clients prepare. Types of texts.pyx for Python callers."""

def known_statements() -> int: ...
def number_from(number: int) -> None: ...
def changes_of(name: str) -> Changes: ...

class Statement:
    key: bytes
    scope: bytes
    number: int
    name: bytes
    types: bytes | None
    rows: int

class Changes:
    def __init__(self) -> None: ...
