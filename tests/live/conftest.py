"""What the live tests share."""

import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.ground import Ground, Postgres

MODES = ("session", "transaction", "statement")


@pytest.fixture(params=["installed", "embedded"], scope="session")
def server(request: pytest.FixtureRequest) -> Postgres:
    """Each PostgreSQL there is: the installed one and the embedded 18."""
    name = "postgres" if request.param == "installed" else "postgres18"
    found: Postgres = request.getfixturevalue(name)
    if name == "postgres18" and found is request.getfixturevalue("postgres"):
        pytest.skip("no installed PostgreSQL: the embedded one was used already")
    return found


@pytest.fixture(scope="session")
def program(lab: Ground) -> Callable[..., str]:
    """Run one of PostgreSQL's programs: ``program("psql", "-l", where)``."""

    def run(name: str, *arguments: str, **options: Any) -> str:
        done = subprocess.run(
            [lab.program(name), *arguments],
            capture_output=True,
            text=True,
            timeout=55,
            **{"stdin": subprocess.DEVNULL, **options},
        )
        assert done.returncode == 0, f"{name}: {done.stderr}"
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="session")
def bench_tables(program: Callable[..., str]) -> Callable[[Postgres], None]:
    """Make pgbench's tables in database p0 of a server, once."""
    made: set[int] = set()

    def make(server: Postgres) -> None:
        if server.port not in made:
            program("pgbench", "-i", "-q", "-s", "1", server.conninfo("p0"))
            server.rows("grant all on all tables in schema public to public")
            made.add(server.port)

    return make
