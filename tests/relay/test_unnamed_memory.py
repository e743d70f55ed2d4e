"""What clients keep of their Parses without a name is bounded for all of them together.

Each kept up to 64 kB until its next Query: ten thousand clients, or one that prepares
in a pipeline without a Sync, filled memory.
"""

from bouncer.relay.client import unnamed_kept
from bouncer.relay.kept import unnamed_noted
from tests.relay import frames as f
from tests.relay.backend import Backend
from tests.relay.harness import give_backends

BUDGET = 8 << 20
USED = f.bind("") + f.execute() + f.SYNC


def long_text(number: int, size: int = 60_000) -> str:
    return f"select {number} ".ljust(size, "x")


def prepare(client, number: int, size: int = 60_000) -> None:
    got = client.ask(f.parse("", long_text(number, size)), f.SYNC)
    assert f.codes(got) == "1Z"


def test_long_unnamed_parses_of_all_clients_are_bounded(relay):
    r = give_backends(relay())
    clients = [r.client() for _ in range(300)]
    for number, client in enumerate(clients):
        prepare(client, number)
        assert unnamed_kept()[0] <= BUDGET
    held, count = unnamed_kept()
    assert held > BUDGET - 70_000
    # Whose is let go is told that there is none; nobody gets another's.
    assert f.errors(clients[0].ask(USED)) == [
        "unnamed prepared statement does not exist"
    ]
    for number in (300 - count, 299):
        row = clients[number].ask(USED)
        assert f.rows(row)[0].startswith(f"{number} ".encode().rstrip())
    for client in clients:
        client.close()
    assert unnamed_kept() == (0, 0)


def test_who_prepares_again_is_the_last_to_lose_it(relay):
    r = give_backends(relay())
    first, *others = [r.client() for _ in range(160)]
    prepare(first, 1000)
    for number, client in enumerate(others[:100]):
        prepare(client, number)
    prepare(first, 1001)
    for number, client in enumerate(others[100:]):
        prepare(client, number)
    assert f.rows(first.ask(USED))[0].startswith(b"1001")


def test_what_is_not_kept_any_more_is_not_counted(relay):
    r = give_backends(relay())
    client = r.client()
    for forget in (
        lambda: client.ask(f.query("select 1")),
        lambda: client.ask(f.close(""), f.SYNC),
        lambda: client.ask(f.parse("", "syntax error"), f.SYNC),
        lambda: prepare(client, 2, 100),
        lambda: prepare(client, 2, 70_000),
    ):
        prepare(client, 1)
        assert unnamed_kept()[1] == 1
        forget()
        assert unnamed_kept() == (0, 0)


def test_short_unnamed_parses_are_not_let_go(relay):
    r = give_backends(relay())
    short, *others = [r.client() for _ in range(150)]
    prepare(short, 7, 900)
    for number, client in enumerate(others):
        prepare(client, number)
    assert f.rows(short.ask(USED))[0].startswith(b"7 ")


def test_unnamed_parses_in_a_pipeline_without_sync_are_bounded(relay):
    """Each was copied for the case that the next is skipped: 64 kB for five bytes."""
    r = relay()
    client = r.client()
    for number in range(300):
        client.send(f.parse("", long_text(number)))
        r.servers[0].take()
        assert unnamed_noted() <= BUDGET
    assert unnamed_noted() > BUDGET - 70_000
    client.send(f.SYNC)
    r.servers[0].send(f.PARSE_COMPLETE * 300, f.ready())
    client.take()
    assert unnamed_noted() == 0


def test_skipped_unnamed_parse_leaves_the_long_one_of_before(relay):
    r = give_backends(relay())
    client = r.client()
    prepare(client, 5)
    client.ask(f.query("begin"))  # a Query destroys it
    prepare(client, 6)
    failing = f.bind("nosuch") + f.parse("", long_text(7))
    direct = Backend({})
    for data in (f.parse("", long_text(6)) + f.SYNC, failing + f.SYNC, USED):
        direct.out = b""
        direct.receive(data)
    client.ask(f.query("rollback"))
    prepare(client, 6)
    assert f.codes(client.ask(failing, f.SYNC)) == "EZ"
    assert f.rows(client.ask(USED)) == f.rows(direct.out)
    assert unnamed_noted() == 0
