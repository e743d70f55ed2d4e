"""The image's entry point: environment in, configuration out; ours must load it."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bouncer.config.load import load
from bouncer.config.settings import Configuration
from bouncer.config.userlist import UserList
from tests.support.scripts import loaded

ROOT = Path(__file__).resolve().parents[3]
PATH = ROOT / "docs" / "packaging" / "docker" / "entrypoint.py"


@pytest.fixture(scope="module")
def entrypoint() -> ModuleType:
    return loaded(PATH)


class Image:
    """A container's file system, as far as the configuration goes."""

    def __init__(self, module: ModuleType, directory: Path) -> None:
        self.module = module
        self.path = directory / "pgbouncer.ini"

    def configure(self, **variables: str) -> Configuration:
        self.module.configure(self.module.Environment(variables), str(self.path))
        return load(str(self.path), None)

    @property
    def users(self) -> dict[str, str]:
        return UserList.read(str(self.path.parent / "userlist.txt"))


@pytest.fixture
def image(entrypoint: ModuleType, tmp_path: Path) -> Image:
    return Image(entrypoint, tmp_path)


def test_database_url(image: Image) -> None:
    conf = image.configure(
        DATABASE_URL="postgres://alice:s%40cret@db.example:5433/shop",
        POOL_MODE="transaction",
        MAX_CLIENT_CONN="500",
    )
    shop = conf.databases["shop"]
    assert (shop.host, shop.port, shop.auth_user) == ("db.example", 5433, "alice")
    assert conf.settings.pool_mode == "transaction"
    assert conf.settings.max_client_conn == 500
    assert conf.settings.listen_port == 5432
    assert conf.settings.listen_addr == "0.0.0.0"
    assert conf.settings.unix_socket_dir == ""
    assert image.users == {"alice": "s@cret"}
    assert (image.path.stat().st_mode & 0o777) == 0o600


@pytest.mark.parametrize("auth_type", ["", "md5", "scram-sha-256", "plain"])
def test_password_logs_in_at_any_server(image: Image, auth_type: str) -> None:
    """An md5 hash was written: `wrong password type` at a server that wants SCRAM."""
    conf = image.configure(
        DB_HOST="h", DB_USER="u", DB_PASSWORD="p", AUTH_TYPE=auth_type
    )
    assert image.users == {"u": "p"}
    assert conf.settings.auth_type == (auth_type or "md5")


def test_secret_that_is_no_password_stays_as_it_is(image: Image) -> None:
    image.configure(DB_HOST="h", DB_USER="u", DB_PASSWORD="md5" + "0" * 32)
    assert image.users == {"u": "md5" + "0" * 32}


ONE = {"DB_HOST": "h", "DB_NAME": "shop", "DB_USER": "u", "DB_PASSWORD": "p"}


@pytest.mark.parametrize(
    "variables",
    [ONE, {"DATABASE_URL": "postgres://u:p@h/shop"}],
    ids=["single variables", "URL"],
)
@pytest.mark.parametrize("name", ["MIN_POOL_SIZE", "PGBOUNCER_MIN_POOL_SIZE"])
def test_min_pool_size_keeps_servers_ready_before_a_client_comes(
    image: Image, variables: dict[str, str], name: str
) -> None:
    """`auth_user=` is no forced user, without which nothing is opened in advance."""
    conf = image.configure(**variables, **{name: "3"})
    shop = conf.databases["shop"]
    assert (shop.user, shop.auth_user or "") == ("u", "")
    assert conf.settings.min_pool_size == 3


@pytest.mark.parametrize(
    "more",
    [
        {"DB_NAME": "*"},
        {"AUTH_USER": "asker"},
        {"AUTH_QUERY": "select usename, passwd from pg_shadow where usename=$1"},
        {"AUTH_TYPE": "trust"},
        {"PGBOUNCER_USERLIST": '"v" "w"'},
        {"MIN_POOL_SIZE": "0"},
    ],
    ids=str,
)
def test_user_is_not_forced_where_others_would_get_its_rights(
    image: Image, more: dict[str, str]
) -> None:
    image.configure(**{**ONE, "MIN_POOL_SIZE": "3", **more})
    line = image.path.read_text().splitlines()[1]
    assert "auth_user=u" in line and " user=" not in line


def test_compose_file_gives_the_image_a_configuration(image: Image) -> None:
    """The files beside entrypoint.py and what they say of ports and probes fit it."""
    yaml = pytest.importorskip("yaml", reason="needs PyYAML: pip install pyyaml")
    text = PATH.with_name("compose.yml").read_text()
    services = yaml.safe_load(re.sub(r"\$\{\w+:-(.*?)\}", r"\1", text))["services"]
    pooler = services["pooler"]
    conf = image.configure(**pooler["environment"])
    app = conf.databases["app"]
    server = services["postgres"]["environment"]
    assert (app.host, app.port, app.user) == ("postgres", 5432, "app")
    assert image.users == {"app": server["POSTGRES_PASSWORD"]}
    assert pooler["ports"] == [f"127.0.0.1:6432:{conf.settings.listen_port}"]
    health = conf.settings.health_listen.rpartition(":")[2]
    assert f"127.0.0.1:{health}/live" in pooler["healthcheck"]["test"][-1]
    assert f'targets: ["pooler:{health}"]' in text
    assert (ROOT / pooler["build"]["dockerfile"]).exists()


def test_settings_of_ours_have_their_own_file(image: Image) -> None:
    conf = image.configure(
        DB_HOST="h",
        PYBOUNCER_HEALTH_LISTEN="0.0.0.0:6480",
        PGBOUNCER_LOG_FORMAT="json",
    )
    assert conf.settings.health_listen == "0.0.0.0:6480"
    assert conf.settings.log_format == "json"
    # PgBouncer can start on the other one.
    assert "pybouncer" not in image.path.read_text()
    assert image.path.with_name("pgbouncer.ini.pybouncer").exists()


def test_database_urls(image: Image) -> None:
    conf = image.configure(
        DATABASE_URLS="postgres://a:x@h1/one, postgres://b:y@h2:6000/two",
        AUTH_TYPE="scram-sha-256",
    )
    assert {name: one.host for name, one in conf.databases.items()} == {
        "one": "h1",
        "two": "h2",
    }
    assert image.users == {"a": "x", "b": "y"}


def test_edoburu_single_variables(image: Image) -> None:
    conf = image.configure(
        DB_HOST="h",
        DB_USER="u",
        DB_PASSWORD='p"w',
        AUTH_TYPE="plain",
        POOL_SIZE="7",
        CLIENT_ENCODING="UTF8",
        ADMIN_USERS="u,v",
    )
    assert conf.autodb is not None
    text = image.path.read_text()
    assert "* = host=h port=5432 auth_user=u pool_size=7 client_encoding=UTF8" in text
    assert "pool_size = " not in text.split("[pgbouncer]")[1].replace("default_", "")
    assert conf.settings.admin_users == "u,v"
    assert image.users == {"u": 'p"w'}


def test_bitnami_variables(image: Image) -> None:
    conf = image.configure(
        POSTGRESQL_HOST="pg",
        POSTGRESQL_USERNAME="app",
        POSTGRESQL_PASSWORD="it's secret",
        POSTGRESQL_DATABASE="real",
        PGBOUNCER_DATABASE="shown",
        PGBOUNCER_PORT="7000",
        PGBOUNCER_POOL_MODE="session",
        PGBOUNCER_SET_DATABASE_USER="yes",
        PGBOUNCER_SET_DATABASE_PASSWORD="yes",
        PGBOUNCER_CONNECT_QUERY="set a to 'b'",
        PGBOUNCER_SERVER_TLS_SSLMODE="disable",
    )
    shown = conf.databases["shown"]
    assert (shown.host, shown.dbname, shown.user) == ("pg", "real", "app")
    assert shown.password == "it's secret"
    assert shown.connect_query == "set a to 'b'"
    assert conf.settings.listen_port == 7000
    assert conf.settings.auth_type == "scram-sha-256"
    assert conf.settings.server_tls_sslmode == "disable"
    assert image.users == {"app": "it's secret"}


def test_bitnami_dsns_and_userlist(image: Image) -> None:
    conf = image.configure(
        PGBOUNCER_DSN_0="a=host=h1 dbname=x",
        PGBOUNCER_DSN_1="b=host=h2",
        PGBOUNCER_USERLIST='"u" "md5abc"\n"v" "w"',
    )
    assert {name: one.host for name, one in conf.databases.items()} == {
        "a": "h1",
        "b": "h2",
    }
    assert image.users == {"u": "md5abc", "v": "w"}


def test_official_variables(image: Image) -> None:
    conf = image.configure(
        DATABASES_HOST="h",
        DATABASES_PORT="1234",
        DATABASES_USER="u",
        DATABASES_PASSWORD="p",
        DATABASES_DBNAME="d",
        PGBOUNCER_MAX_DB_CONNECTIONS="3",
    )
    assert (conf.databases["d"].host, conf.databases["d"].port) == ("h", 1234)
    assert conf.settings.max_db_connections == 3


def test_secret_may_stand_in_a_file(image: Image, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from a file\n")
    image.configure(
        DB_HOST="h",
        DB_USER="u",
        DB_PASSWORD_FILE=str(tmp_path / "secret"),
        AUTH_TYPE="plain",
    )
    assert image.users == {"u": "from a file"}


def test_plain_names_of_other_programs_are_left_alone(image: Image) -> None:
    conf = image.configure(DB_HOST="h", USER="somebody", SYSLOG="1")
    assert conf.settings.syslog == 0
    assert conf.settings.user in (None, "", "postgres")


def test_configuration_that_is_there_is_left_alone(image: Image) -> None:
    image.path.write_text("[databases]\nx = host=y\n[pgbouncer]\n")
    conf = image.configure(DB_HOST="h")
    assert list(conf.databases) == ["x"]


def test_nothing_set_is_an_error(image: Image) -> None:
    with pytest.raises(SystemExit) as ended:
        image.configure()
    assert "no database" in str(ended.value)


def test_waits_for_postgresql_and_runs_with_extra_flags(
    entrypoint: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(entrypoint, "CONFIG", str(tmp_path / "pgbouncer.ini"))
    monkeypatch.setattr(os, "execvp", lambda name, words: ran.append(list(words)))
    monkeypatch.setattr(sys, "argv", ["entrypoint.py"])
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        monkeypatch.setenv("POSTGRESQL_HOST", "127.0.0.1")
        monkeypatch.setenv("POSTGRESQL_PORT", str(server.getsockname()[1]))
        monkeypatch.setenv("PGBOUNCER_EXTRA_FLAGS", "-v -q")
        entrypoint.main()
        server.settimeout(5)
        server.accept()[0].close()
    assert ran == [["pgbouncer", str(tmp_path / "pgbouncer.ini"), "-v", "-q"]]


def test_other_commands_run_as_they_are(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, str(PATH), "echo", "hello"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert child.stdout == "hello\n"
