"""What the log calls a client whose auth_query fails."""

import psycopg
import pytest

from tests.support.ground import PASSWORDS

QUERY = (
    "select usename, passwd from pg_shadow where usename = $1 "
    "and exists (select from answers)"
)


@pytest.fixture
def server(postgres):
    """A direct connection that can make auth_query fail."""
    where = f"host=127.0.0.1 port={postgres.port} dbname=p0 user=postgres"
    with psycopg.connect(where, autocommit=True) as connection:
        connection.execute("create table answers as select 1")
        yield connection
        connection.execute("drop table if exists answers")


def test_failed_auth_query_names_a_user_who_is_known(pooler, server):
    """It said `p0/(nouser)` of somebody who had been let in a minute before."""
    one = pooler(
        {"auth_type": "md5", "auth_user": "postgres", "auth_query": QUERY},
        users={"postgres": ""},
    )
    one.connect("p0", "u_md5", password=PASSWORDS["u_md5"]).close()
    server.execute("drop table answers")
    with pytest.raises(psycopg.OperationalError, match="bouncer config error"):
        one.connect("p0", "u_md5", password=PASSWORDS["u_md5"])
    one.wait_for_log(r"p0/u_md5@\S+ closing because: bouncer config error")
    one.wait_for_log(r"p0/u_md5@\S+ pooler error: bouncer config error")
    # Nobody is named who has never been seen.
    with pytest.raises(psycopg.OperationalError, match="bouncer config error"):
        one.connect("p0", "u_scram", password="x")
    one.wait_for_log(r"p0/\(nouser\)@\S+ closing because: bouncer config error")
