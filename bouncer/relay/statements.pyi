"""Prepared statements shared by clients. Types of statements.pyx for Python callers."""

from typing import Any

def known_statements() -> Any: ...
def number_from(number: Any) -> Any: ...
def keyed_hash(data: bytes, first: int, second: int) -> int: ...

class Statement:
    key: bytes
    scope: bytes
    number: int
    name: bytes

class Pending: ...

class NameTable:
    count: int
    text: int
    def items(self) -> Any: ...
    def refused(self) -> list[bytes]: ...

class PreparedSet:
    count: int
    text: int
    def names(self) -> Any: ...
