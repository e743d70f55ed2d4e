"""Conversations, recorded and written, and what chance makes of their bytes."""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from tests.relay import frames as f
from tests.replay import protocol
from tests.support import conversations

RECORDINGS = Path(__file__).resolve().parents[1] / "recordings" / "wire_golden.json"
# What would outlast the client that has sent it, or change what others see.
LASTING = re.compile("sleep|terminate|create|drop|alter|insert|lock|notify", re.I)
LENGTHS = (0, 1, 3, 4, 5, 8, 255, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
STARTS = ("StartupMessage", "SSLRequest", "GSSENCRequest", "CancelRequest")
SECRET = ("PasswordMessage", "SASLInitialResponse", "SASLResponse")


def recorded() -> Iterator[list[bytes]]:
    """What clients sent in the recordings, one list of messages for each client."""
    for scenario in json.loads(RECORDINGS.read_text())["scenarios"]:
        said: dict[str, list[bytes]] = {}
        for step in scenario["steps"]:
            if step["op"] == "query":
                messages = [{"type": "Query", "sql": step["sql"]}]
            else:
                messages = step.get("messages", []) if step["op"] == "send" else []
            for message in messages:
                if LASTING.search(str(message.get("sql", ""))):
                    continue
                try:
                    raw = protocol.encode_frontend(message)
                except (KeyError, TypeError, ValueError, AttributeError):
                    continue  # computed when it is played
                said.setdefault(step.get("conn", ""), []).append(raw)
        yield from said.values()


def startups() -> list[list[bytes]]:
    """Beginnings of connections, with what may follow them."""
    found = []
    for user in ("u_trust", "u_md5", "u_scram", "nobody"):
        params = [["user", user], ["database", "p0"], ["application_name", "fuzz"]]
        first = {"type": "StartupMessage", "protocol": "3.0", "params": params}
        for secret in (b"", b"SCRAM-SHA-256\0\0\0\0\x20n,,n=,r=abcdefghijklmnopqrstuv"):
            found.append([protocol.encode_frontend(first), f.message(b"p", secret)])
    found += [[protocol.encode_frontend({"type": "SSLRequest"}), *found[0]]]
    found += [[protocol.encode_frontend({"type": "GSSENCRequest"}), *found[2]]]
    key = {"type": "CancelRequest", "key_hex": "0011223344556677"}
    return [*found, [protocol.encode_frontend(key)]]


def spoken() -> list[list[bytes]]:
    """Messages of clients that have logged in."""
    found = [one for one in recorded() if one]
    for make in conversations.ALL.values():
        found.append([m for m in make("fuzz").messages if b"insert" not in m])
    return found


class Mutator:
    """Turns messages into bytes that are nearly right."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice

    def mutated(self, messages: list[bytes]) -> bytes:
        """*messages* after a few accidents."""
        left = list(messages)
        for _ in range(self.dice.choice((0, 1, 1, 1, 2, 3, 6))):
            if left:
                self.accident(left)
        return b"".join(left)

    def accident(self, messages: list[bytes]) -> None:
        dice = self.dice
        at = dice.randrange(len(messages))
        raw = bytearray(messages[at])
        place = dice.randrange(len(raw)) if raw else 0
        what = dice.randrange(9)
        if what == 0:
            raw[place : place + 1] = dice.randbytes(1)
        elif what == 1:
            raw[1:5] = dice.choice(LENGTHS).to_bytes(4, "big")
        elif what == 2:
            del raw[place : place + dice.randrange(1, 9)]
        elif what == 3:
            raw[place:place] = dice.randbytes(dice.choice((1, 4, 20, 5000)))
        elif what == 4:
            del raw[place:]
        elif what == 5:
            messages.insert(dice.randrange(len(messages) + 1), bytes(raw))
            return
        elif what == 6:
            other = dice.randrange(len(messages))
            messages[at], messages[other] = messages[other], messages[at]
            return
        elif what == 7:
            raw[place : place + 4] = dice.choice(LENGTHS).to_bytes(4, "big")
        else:
            del messages[at]
            return
        messages[at] = bytes(raw)

    def pieces(self, raw: bytes) -> Iterator[bytes]:
        """*raw* as the network might bring it."""
        size = self.dice.choice((1 << 20, 1 << 20, 1000, 50, 7))
        size = max(size, len(raw) // 100)
        for start in range(0, len(raw), size):
            yield raw[start : start + size]
