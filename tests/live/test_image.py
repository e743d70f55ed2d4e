"""What the image makes of its variables, run before a PostgreSQL that wants SCRAM."""

from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.replay.pooler import wait_for
from tests.support.ground import PASSWORDS, Ground, Postgres
from tests.support.scripts import loaded

PATH = Path(__file__).resolve().parents[2] / "docs/packaging/docker/entrypoint.py"


@pytest.mark.parametrize("auth_type", ["", "scram-sha-256"])
def test_image_is_warm_before_a_client_comes_and_reaches_a_server_with_scram(
    pooler: Any, postgres: Postgres, lab: Ground, auth_type: str
) -> None:
    """`wrong password type`: an md5 hash was written; no server waited for anybody."""
    entrypoint = loaded(PATH)
    directory, port = lab.directory(), lab.free_port()
    user, password = "u_scram", PASSWORDS["u_scram"]
    ini = directory / "image.ini"
    variables = {
        "DATABASE_URL": f"postgres://{user}:{password}@127.0.0.1:{postgres.port}/p0",
        "AUTH_TYPE": auth_type,
        "LISTEN_ADDR": "127.0.0.1",
        "LISTEN_PORT": str(port),
        "MIN_POOL_SIZE": "2",
    }
    entrypoint.configure(entrypoint.Environment(variables), str(ini))
    lab.identity.own(directory)
    one = pooler("{dir}", run=False)
    one.ini = ini.read_text() + "logfile = {dir}/log\n"
    one.port = port
    one.write_configuration()
    one.run()

    def waiting() -> list[int]:
        told = postgres.rows(f"select pid from pg_stat_activity where usename='{user}'")
        return [int(row["pid"]) for row in told]

    assert wait_for(lambda: len(waiting()) == 2, 20)
    with psycopg.connect(
        host="127.0.0.1", port=port, dbname="p0", user=user, password=password
    ) as client:
        assert client.info.backend_pid and client.execute("select 1").fetchone() == (1,)
    assert "wrong password type" not in one.text()
