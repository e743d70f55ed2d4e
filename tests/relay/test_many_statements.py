"""A client may have 10 000 prepared statements; one more is an error, not the end."""

import os
import subprocess
import sys

from bouncer.relay.statements import keyed_hash
from tests.relay import frames as f
from tests.relay.harness import give_backends

MOST = 10_000
REFUSED = "too many prepared statements"


def full_client(relay):
    """A client that has them all; models of PostgreSQL are its servers."""
    r = give_backends(relay())
    client = r.client()
    fill(client, MOST)
    return client


def fill(client, count):
    for start in range(0, count, 100):
        unit = b"".join(f.parse(f"n{n}", "select 1") for n in range(start, start + 100))
        client.queue(unit + f.SYNC)
        assert client.codes() == "1" * 100 + "Z"
    assert client.client.prepared_count == count


def test_one_more_is_refused_and_the_session_goes_on(relay):
    """150 000 chosen names cost 23 CPU seconds, then 72 kB of Close 2 s each."""
    full = full_client(relay)
    answer = full.ask(f.parse("more", "select 1"), f.SYNC)
    assert f.codes(answer) == "EZ"
    assert f.errors(answer) == [REFUSED]
    assert b"SERROR\0" in answer and b"C54000\0" in answer
    assert full.client.prepared_count == MOST
    assert f.rows(full.ask(f.query("select still here"))) == [b"still here"]
    assert f.codes(full.ask(f.bind("n7"), f.execute(), f.SYNC)) == "2DCZ"
    assert (
        f.codes(full.ask(f.close("n7"), f.parse("more", "select 1"), f.SYNC)) == "31Z"
    )


def test_all_up_to_the_next_sync_is_skipped(relay):
    full = full_client(relay)
    answer = full.ask(
        f.parse("more", "select 1"), f.bind("more"), f.execute(), f.close("n1"),
        f.query("select skipped"), f.FLUSH, f.SYNC, f.query("select next"),
    )  # fmt: skip
    assert f.codes(answer) == "EZTDCZ"
    assert f.rows(answer) == [b"next"]
    assert full.client.prepared_count == MOST


def test_it_stands_behind_the_answers_that_are_owed(relay):
    full = full_client(relay)
    answer = full.ask(
        f.parse("", "select first"), f.bind(""), f.execute(),
        f.parse("more", "select 1"), f.bind("more"), f.SYNC,
        f.parse("more", "select 1"), f.SYNC,
    )  # fmt: skip
    assert f.codes(answer) == "12DCEZEZ"
    assert f.errors(answer) == [REFUSED, REFUSED]


def test_it_fails_a_transaction(relay):
    full = full_client(relay)
    assert f.codes(full.ask(f.query("begin"))) == "CZ"
    answer = full.ask(f.parse("more", "select 1"), f.SYNC)
    assert f.errors(answer) == [REFUSED]
    assert answer.endswith(f.ready("E"))
    [refused] = f.errors(full.ask(f.query("select x")))
    assert refused.startswith("current transaction is aborted")
    assert full.ask(f.query("rollback")).endswith(f.ready("I"))


def test_it_undoes_what_its_group_has_set(relay):
    """The transaction of a pipeline without BEGIN fails, too."""
    full = full_client(relay)
    full.ask(
        f.parse("", "set DateStyle changed"), f.bind(""), f.execute(), f.FLUSH,
        f.parse("more", "select 1"), f.SYNC,
    )  # fmt: skip
    assert f.rows(full.ask(f.query("show DateStyle"))) == [b"ISO, MDY"]


def test_server_is_shared_afterwards(relay):
    full = full_client(relay)
    full.ask(f.query("begin"))
    full.ask(f.parse("more", "select 1"), f.SYNC, f.query("rollback"))
    r_server = full.client.pool.idle.first
    assert r_server is not None and r_server.clean


def test_statements_that_were_refused_count_too(relay):
    r = give_backends(relay())
    client = r.client()
    for start in range(0, 20_000, 500):
        unit = b"".join(
            f.parse(f"n{n}", "syntax") + f.SYNC for n in range(start, start + 500)
        )
        client.queue(unit)
        assert client.codes() == "EZ" * 500
    assert client.client.prepared_count <= 60


def test_texts_are_bounded_too(relay):
    """10 000 texts of 1 MB each would be 10 GB."""
    r = give_backends(relay(prepared=5))
    client = r.client()
    refused = 0
    for n in range(40):
        client.queue(f.parse(f"n{n}", f"select {n} " + "x" * 1_000_000) + f.SYNC)
        refused += client.codes() == "EZ"
    assert 5 <= refused <= 12
    assert f.rows(client.ask(f.query("select on"))) == [b"on"]


def test_statement_that_is_too_long_is_not_even_kept(relay):
    r = give_backends(relay())
    client = r.client()
    size = 40_000_000
    client.queue(b"P" + (size + 4).to_bytes(4, "big") + b"long\0")
    piece = b"x" * 1_000_000
    most = 0
    for _ in range(39):
        client.queue(piece)
        while client.unsent:
            r.turn()
        most = max(most, client.client.held_bytes)
    client.queue(b"x" * (size - 39_000_000 - 5) + f.bind("long") + f.SYNC)
    assert most < 100_000
    answer = client.take()
    assert f.codes(answer) == "EZ"
    assert f.errors(answer) == [REFUSED]


def test_names_are_hashed_with_a_secret_key():
    """FNV without a seed: names that collide can be computed. CPython hashes bytes
    with the same function, under a key of zeros when it is told so."""
    texts = [b"x" * size for size in range(1, 40)] + [b"PGBOUNCER_17", b"\xff" * 16]
    done = subprocess.run(
        [sys.executable, "-c", f"print(*[hash(t) & (1 << 64) - 1 for t in {texts!r}])"],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    if sys.hash_info.algorithm == "siphash13":
        expected = [int(word) for word in done.stdout.split()]
        assert [keyed_hash(text, 0, 0) for text in texts] == expected
    assert keyed_hash(b"a", 1, 2) != keyed_hash(b"a", 1, 3) != keyed_hash(b"a", 2, 3)


def test_deallocate_all_forgets_what_was_parsed_before_it_and_no_more(relay):
    """Names and statements that stand behind it in the pipeline stay, and what a
    skipped Close brings back is not what it has forgotten."""
    r = give_backends(relay())
    client = r.client()
    assert client.ask(f.parse("a", "select a"), f.parse("b", "select b"), f.SYNC)
    answer = client.ask(
        f.query("deallocate all"), f.parse("c", "select c"), f.SYNC,
        f.close("c"), f.parse("", "syntax"), f.SYNC,
    )  # fmt: skip
    assert f.codes(answer) == "CZ1Z3EZ" or f.codes(answer) == "CZ1ZEZ"
    assert [name for name, _ in client.client.prepared_names] in ([b"c"], [])
    answer = client.ask(
        f.query("deallocate all"), f.parse("d", "select d"), f.bind("d"), f.execute(),
        f.SYNC, f.query("deallocate all"), f.parse("a", "select again"), f.SYNC,
    )  # fmt: skip
    assert f.codes(answer) == "CZ12DCZCZ1Z"
    assert [name for name, _ in client.client.prepared_names] == [b"a"]
