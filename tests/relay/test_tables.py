"""The tables of names and of prepared statements, compared with a dict and an LRU."""

from collections import OrderedDict

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.relay import frames as f
from tests.relay.backend import Backend
from tests.relay.harness import DEFAULTS, Relay

NAMES = st.integers(0, 60).map(lambda n: f"n{n}" if n % 2 else f"{n}" * 20)
TEXTS = st.integers(0, 12).map(lambda n: f"select {n}")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("parse"), NAMES, TEXTS),
        st.tuples(st.just("bind"), NAMES),
        st.tuples(st.just("close"), NAMES),
    ),
    max_size=150,
)


class Tables:
    """One client and one server, and what both should have prepared."""

    def __init__(self, limit: int) -> None:
        self.relay = Relay(prepared=limit)
        self.client = self.relay.client()
        self.end = self.relay.server()
        self.backend = Backend(DEFAULTS)
        self.limit = limit
        self.names: dict[str, str] = {}
        self.lru: OrderedDict[str, None] = OrderedDict()

    def ask(self, *messages: bytes) -> tuple[str, str]:
        """Send a unit; the codes that the server got, and those that came back."""
        self.client.send(*messages, f.SYNC)
        asked = self.end.take()
        self.backend.receive(asked)
        out, self.backend.out = self.backend.out, b""
        self.end.send(out)
        return f.codes(asked), self.client.codes()

    def use(self, text: str) -> int:
        """Move *text* to the end of the LRU; how many had to go, -1: it was there."""
        if text in self.lru:
            self.lru.move_to_end(text)
            return -1
        self.lru[text] = None
        gone = 0
        while len(self.lru) > self.limit:
            self.lru.popitem(last=False)
            gone += 1
        return gone

    def parse(self, name: str, text: str) -> None:
        known = text in self.lru
        order = list(self.lru)
        gone = self.use(text)
        if known:  # a Parse of what is there does not count as a use
            self.lru = OrderedDict.fromkeys(order)
            assert self.ask(f.parse(name, text)) == ("S", "1Z")
        else:
            assert self.ask(f.parse(name, text)) == ("P" + "C" * gone + "S", "1Z")
        self.names[name] = text

    def bind(self, name: str) -> None:
        gone = self.use(self.names[name])
        before = "" if gone < 0 else "P" + "C" * gone
        assert self.ask(f.bind(name), f.execute()) == (before + "BES", "2DCZ")

    def check(self) -> None:
        table = {
            name.decode(): statement.key.split(b"\0")[0].decode()
            for name, statement in self.client.client.prepared_names
        }
        assert table == self.names
        assert self.client.client.prepared_count == len(self.names)
        assert self.end.server.prepared_count == len(self.lru)
        assert sorted(self.backend.statements.values()) == sorted(self.lru)
        assert self.end.server.clean


@given(limit=st.integers(1, 5), steps=STEPS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tables_are_a_dict_and_an_lru(limit, steps):
    tables = Tables(limit)
    for what, name, *text in steps:
        if what == "close":
            tables.names.pop(name, None)
            assert tables.ask(f.close(name)) == ("S", "3Z")
        elif what == "parse" and name not in tables.names:
            tables.parse(name, *text)
        elif what == "bind" and name in tables.names:
            tables.bind(name)
        tables.check()
    tables.relay.close()


def test_ten_thousand_names_and_texts(relay):
    """Both tables grow and shrink; memory is bounded by what is in use."""
    r = relay(prepared=200)
    client, server = r.client(), r.server()
    backend = Backend(DEFAULTS)

    def ask(data):
        client.queue(data)
        while data:
            r.turn()
            data = server.take()
            backend.receive(data)
            out, backend.out = backend.out, b""
            server.queue(out)
        return client.codes()

    for start in range(0, 10_000, 100):
        unit = b"".join(
            f.parse(f"n{n}", f"select {n}") for n in range(start, start + 100)
        )
        assert ask(unit + f.SYNC) == "1" * 100 + "Z"
    assert client.client.prepared_count == 10_000
    assert server.server.prepared_count == len(backend.statements) == 200
    assert ask(f.bind("n0") + f.execute() + f.bind("n9999") + f.SYNC) == "2DC2Z"
    for start in range(0, 10_000, 100):
        unit = b"".join(f.close(f"n{n}") for n in range(start, start + 100))
        assert ask(unit + f.SYNC) == "3" * 100 + "Z"
    assert client.client.prepared_count == 0
    assert server.server.clean
