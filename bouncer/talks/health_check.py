"""Answer a balancer's in-band check without making a client of it.

`option pgsql-check user NAME` sends a startup packet without a database, waits for the
first message and closes. Where NAME is `health_check_user` that is no login: it takes
no client slot and no server, passes no HBA rule and leaves no line in the log.
"""

from __future__ import annotations

from typing import Any

from bouncer.errors import Disconnect
from bouncer.relay.talk import READ
from bouncer.talks.login_packets import Talk
from bouncer.wire.messages import AUTHENTICATION_OK, FE_TERMINATE, READY_IDLE

# The protocol's version stands before the parameters.
VERSION = 4
# A check has nothing but a name to send; a longer packet is not taken apart for it.
LONGEST_CHECK = 1024


def is_check(body: bytes, user: str) -> bool:
    """Does the startup packet *body* name the user of health checks?"""
    if len(body) > LONGEST_CHECK:
        return False
    words = body[VERSION:].split(b"\0")
    wanted = user.encode("utf-8", "surrogateescape")
    return (b"user", wanted) in zip(words[::2], words[1::2], strict=False)


def answer_check(client: Any) -> Talk:
    """Say that all is well; whatever the checker does then, it is over."""
    client.write(AUTHENTICATION_OK + READY_IDLE)
    # The end of the stream ends this talk by itself, and silently.
    code, _ = yield READ
    if code == FE_TERMINATE:
        raise Disconnect("client close request", notify=False, silent=True)
    raise Disconnect("the user of health checks cannot run queries")
