"""Random bytes and mutated conversations against a live pooler.

The process must live, its memory stay flat, and the clients beside must get their own
rows (scenario 32 of the regression list). Some seconds in `make test`, with a fixed
seed; `make fuzz` takes FUZZ_SECONDS and another seed each time, which it shows.
"""

import contextlib
import os
import random
import re
import socket
import struct
import time

import pytest

from tests.fuzz.mutation import Mutator, spoken, startups
from tests.support.checker import Crew
from tests.support.wire import FakeClient

SECONDS = float(os.environ.get("FUZZ_SECONDS", "4"))
SEED = int(os.environ.get("FUZZ_SEED", time.time() if SECONDS > 60 else 1))
MEGABYTE = 1_000_000
INI = {
    "pool_mode": "transaction",
    "default_pool_size": 4,
    "max_prepared_statements": 5,
    "client_login_timeout": 5,
    "server_login_retry": "0.1",
    "log_connections": 0,
    "log_disconnections": 0,
    "log_pooler_errors": 0,
    "verbose": 0,
}
HBA = """
host all u_md5 all md5
host all u_scram all scram-sha-256
host all all all trust
"""


def leave(sock: socket.socket, dice: random.Random) -> None:
    """Go in some manner, perhaps after a look at what has come."""
    what = dice.randrange(4)
    with contextlib.suppress(OSError):
        if what == 0:
            sock.settimeout(0.02)
            sock.recv(1 << 16)
        elif what == 1:
            linger = struct.pack("ii", 1, 0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        elif what == 2:
            sock.shutdown(socket.SHUT_WR)
            sock.settimeout(0.02)
            sock.recv(1 << 16)
    sock.close()


def before_login(port: int, mutator: Mutator, corpus: list[list[bytes]]) -> None:
    """Connect and say something that is nearly a login, or nothing like it."""
    dice = mutator.dice
    sock = socket.create_connection(("127.0.0.1", port), timeout=5)
    with contextlib.suppress(OSError):
        if dice.random() < 0.2:
            raw = dice.randbytes(dice.choice((1, 4, 8, 64, 3000, 200_000)))
        else:
            raw = mutator.mutated(dice.choice(corpus))
        for piece in mutator.pieces(raw):
            sock.sendall(piece)
    leave(sock, dice)


def after_login(port: int, mutator: Mutator, corpus: list[list[bytes]]) -> None:
    """Log in, and say what is nearly a conversation, or several."""
    dice = mutator.dice
    client = FakeClient(port, seconds=5)
    try:
        with contextlib.suppress(OSError):
            client.login("p0", "u_trust")
            for _ in range(dice.choice((1, 1, 3))):
                raw = mutator.mutated(dice.choice(corpus))
                if dice.random() < 0.1:
                    raw += dice.randbytes(dice.choice((5, 100, 100_000)))
                for piece in mutator.pieces(raw):
                    client.send_bytes(piece)
    finally:
        leave(client.sock, dice)


def state_of(one, postgres):
    """Who waits for whom: the pooler's view and PostgreSQL's."""
    found = [
        {name: row[name] for name in ("type", "user", "state", "wait", "link", "ptr")}
        for what in ("CLIENTS", "SERVERS")
        for row in one.console(f"SHOW {what}")
    ]
    busy = "select pid, state, wait_event, query from pg_stat_activity"
    return "\n".join(map(str, [*found, *postgres.rows(busy)]))


@pytest.mark.adversity
@pytest.mark.regression(32)
@pytest.mark.timeout(SECONDS * 2 + 60)
@pytest.mark.parametrize("play", [before_login, after_login])
def test_pooler_bears_any_bytes(pooler, postgres, lab, play):
    one = pooler({**INI, "auth_type": "hba", "auth_hba_file": "{dir}/hba"}, run=False)
    (one.directory / "hba").write_text(HBA)
    one.identity.own(one.directory)
    one.run("-q")
    print(f"FUZZ_SEED={SEED}")
    mutator = Mutator(random.Random(SEED))
    corpus = startups() if play is before_login else spoken()
    crew = Crew(one.port, 3, SEED)
    begun = time.monotonic()
    memory = played = 0
    with crew:
        enough = False
        while not enough and not crew.wrong:
            play(one.port, mutator, corpus)
            played += 1
            passed = time.monotonic() - begun
            few = crew.answered <= 20 * SECONDS or played <= 5 * SECONDS
            # A busy machine may need longer for what shall be seen at least.
            enough = passed > (SECONDS if not few else SECONDS + 30)
            assert one.is_running()
            # What is made once for all is there after a third of the time.
            if not memory and passed > SECONDS / 3:
                memory = one.memory()
    assert not crew.wrong, state_of(one, postgres)
    assert not crew.hanging, state_of(one, postgres)
    assert crew.answered > 20 * SECONDS
    assert played > 5 * SECONDS
    one.wait_for_pool(lambda row: row["cl_active"] == row["cl_waiting"] == 0, 20)
    assert one.memory() - memory < 8 * MEGABYTE
    text = one.log_file.read_text("utf-8", "surrogateescape")
    odd = [line for line in text.split("\n") if not re.match(r"\d{4}-|\t|$", line)]
    assert odd == []
    assert "internal error" not in text
    # The fixture complains of a client's line breaks, although they are indented.
    one.log_file.write_text("")
