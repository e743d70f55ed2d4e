"""Check a client's password. Types of proof.pyx for Python callers."""

from typing import Any

class Secret:
    @staticmethod
    def md5(digits: Any) -> Secret: ...
    @staticmethod
    def scram(stored_key: bytes, server_key: bytes, tail: bytes) -> Secret: ...
