"""What can go wrong between us and a balancer, worded for the operator."""

from __future__ import annotations

from bouncer.errors import BouncerError


class HAError(BouncerError):
    """Root of what the HA front raises on purpose; the text is for a person."""


class HAProxyError(HAError):
    """HAProxy could not be asked, or said no. Names the socket first."""

    def __init__(self, where: str, text: str) -> None:
        super().__init__(f"{where}: {text}")
        self.where = where
        self.text = text


class Unreachable(HAProxyError):
    """There is no socket, we may not use it, or nobody listens behind it."""


class NoAnswer(HAProxyError):
    """The deadline passed. The state of HAProxy is unknown, not "down"."""


class CutAnswer(HAProxyError):
    """The answer ended too early, or is not what HAProxy would send."""


class Refused(HAProxyError):
    """HAProxy understood and refused; the text is its own."""


class InventoryError(HAError):
    """The inventory file, or what was asked of it, makes no sense."""
