"""The harness itself: what every other live test stands on."""

from tests.support.checker import Crew
from tests.support.cutting import DOWN, Cut, CuttingProxy
from tests.support.pooler import RunningPooler
from tests.support.wire import FakeClient, FakeServer, error, rows


def test_pooler_fixture_starts_one_and_reads_its_console(pooler):
    one = pooler({"pool_mode": "transaction"})
    with one.connect() as connection:
        assert connection.execute("select 41 + 1").fetchone() == (42,)
    assert one.pool()["pool_mode"] == "transaction"
    assert one.memory() > 1_000_000
    assert one.descriptors() > 5
    assert one.wait_for_log("login attempt: db=p0 user=u_trust")


def test_passwords_of_every_kind_reach_the_server(pooler):
    one = pooler({"auth_type": "scram-sha-256"})
    for user in ("u_md5", "u_scram", "u_plain"):
        with one.connect(user=user) as connection:
            assert connection.execute("select current_user").fetchone() == (user,)


def test_fake_client_and_fake_server_talk_through_the_pooler(pooler, free_port):
    port = free_port()
    server = FakeServer(port)
    try:
        one: RunningPooler = pooler(server_port=port, databases={"fake": "{pg}"})
        with FakeClient(one.port) as client:
            assert client.login("fake", "u_trust")[-1]["status"] == "I"
            assert rows(client.ask("anything")) == [["anything"]]
        with FakeClient(one.port) as client:
            refused = error(client.login("nowhere", "u_trust"))
            assert refused["M"] == "no such database: nowhere"
    finally:
        server.close()


def test_cutting_proxy_cuts_at_the_byte_it_was_told(postgres, free_port):
    cut = Cut(DOWN, at=20)
    with CuttingProxy(free_port(), postgres.port, {1: cut}) as proxy:
        with FakeClient(proxy.port) as client:
            seen = client.login("p0", "u_trust")
        assert seen[-1]["type"] == "<connection closed>"
        assert proxy.passages[0].passed[DOWN] == 20
        with FakeClient(proxy.port) as client:
            assert client.login("p0", "u_trust")[-1]["type"] == "ReadyForQuery"


def test_checker_notices_a_row_that_belongs_to_somebody_else(free_port):
    def script(talk):
        if talk.login():
            while talk.read():
                talk.answer("w9-1")

    server = FakeServer(free_port(), script)
    try:
        crew = Crew(server.port, 1, seed=1)
        crew.workers[0].kinds = [crew.workers[0].ask_simply]
        with crew:
            crew.workers[0].join(10)
        assert "is owed" in crew.wrong[0]
    finally:
        server.close()
