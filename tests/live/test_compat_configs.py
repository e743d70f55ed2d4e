"""compat-configs/: each configuration starts, answers, reloads, and means the same
as for a real PgBouncer."""

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from bouncer.config.load import load
from tests.replay.lab import Unusable
from tests.replay.pooler import Pooler, wait_for
from tests.support.examples import examples
from tests.support.real import find_real

ALL = examples()
# What a real PgBouncer 1.26.1 cannot load.
OURS_ONLY = {"own-section"}
COMPARED = ("SHOW CONFIG", "SHOW DATABASES", "SHOW USERS", "SHOW PEERS")
END = "-- the end of an answer"
COUNTS = {"current_connections", "current_client_connections"}


class Running(Pooler):
    """A pooler with one of the configurations."""

    def __init__(self, example, lab, postgres, command):
        super().__init__(command, lab.directory(), lab.identity)
        self.example, self.lab = example, lab
        self.port = lab.free_port()
        self.config = example.install(
            self.directory, self.port, postgres.port, lab.certificates
        )
        self.settings = load(str(self.config)).settings
        if self.settings.logfile:
            self.log_file = Path(self.settings.logfile)
        lab.identity.own(self.directory)

    def _says_up(self):
        return "process up: PgBouncer" in self.text()

    def run(self):
        self.start(str(self.config))
        assert self.wait_until_up(), self.text()
        return self

    def complaints(self):
        words = ("WARNING", "ERROR", "FATAL", "Traceback")
        lines = self.text().splitlines() + self.last_words()
        # What PostgreSQL refuses a login for is not what is tested here.
        return [line for line in lines if any(word in line for word in words)]

    def console(self, *commands):
        """Rows of each command, as the pooler's own OS user by the Unix socket."""
        words = [
            word
            for command in commands
            for word in ("-c", command, "-c", f"\\echo {END}")
        ]
        done = subprocess.run(
            [
                self.lab.program("psql"),
                *("--csv", "-X", "-h", self.directory, "-p", str(self.port)),
                *("-U", "pgbouncer", "-d", "pgbouncer", *words),
            ],
            capture_output=True,
            text=True,
            timeout=20,
            **self.identity.process_options(),
        )
        assert done.returncode == 0, done.stderr
        *answers, rest = done.stdout.split(f"{END}\n")
        assert len(answers) == len(commands) and not rest, done.stdout
        return [list(csv.DictReader(io.StringIO(answer))) for answer in answers]

    def ask(self, question, keys):
        """What the server says to a client that logs in as the question says."""
        where = self.directory if question.by == "socket" else "127.0.0.1"
        more = {"sslmode": "prefer"}
        if question.by == "cert":
            more = {"sslmode": "require", **keys}
        with psycopg.connect(
            host=str(where),
            port=self.port,
            dbname=question.database,
            user=question.user,
            password=question.password,
            autocommit=True,
            connect_timeout=10,
            **more,
        ) as connection:
            connection.prepare_threshold = None
            return connection.execute("select 6 * 7, current_database()").fetchone()


@pytest.fixture(params=ALL)
def example(request):
    return ALL[request.param]


@pytest.fixture
def keys(lab, tmp_path):
    """A client certificate; libpq wants the key to be nobody else's."""
    found = {}
    for name, file in (("sslcert", "certuser.crt"), ("sslkey", "certuser.key")):
        if not lab.certificates:
            return {}
        shutil.copyfile(lab.certificates / file, tmp_path / file)
        (tmp_path / file).chmod(0o600)
        found[name] = str(tmp_path / file)
    return found


@pytest.fixture
def running(lab, postgres):
    """Starts poolers; they are stopped after the test."""
    started = []

    def start(example, command):
        if "tls_key_file = /" in "\n".join(example.lines()) and not lab.certificates:
            pytest.skip("needs openssl to make certificates")
        one = Running(example, lab, postgres, command)
        started.append(one)
        return one

    yield start
    for one in started:
        one.stop()
        lab.done_with(one.directory)


def prepare(postgres, example, running):
    """Make what the configuration expects of PostgreSQL."""
    config = load(str(running.config))
    settings, question = config.settings, example.question
    roles = {settings.auth_user, question.user}
    databases = {settings.auth_dbname, question.database}
    for database in config.databases.values():
        roles |= {database.user, database.auth_user}
        databases |= {database.dbname}
    for role in sorted(filter(None, roles)):
        if f"create role {role} " not in example.setup:
            run(postgres, sql.SQL("create role {} login").format(sql.Identifier(role)))
    for name in sorted(filter(None, databases)):
        run(postgres, sql.SQL("create database {}").format(sql.Identifier(name)))
    for command in example.setup.split(";\n"):
        if command.strip():
            run(postgres, command, settings.auth_dbname or question.database)


def run(postgres, command, database="postgres"):
    """Run a command unless its object exists."""
    try:
        with postgres.connect(database) as connection:
            connection.execute(command)
    except (psycopg.errors.DuplicateObject, psycopg.errors.DuplicateDatabase):
        pass


def test_it_starts_answers_and_reloads(example, running, postgres, lab, keys):
    pooler = running(example, lab.command)
    question = example.question
    if question is not None:
        prepare(postgres, example, pooler)
    pooler.run()
    if question is not None:
        answer, database = pooler.ask(question, keys)
        assert answer == 42
        config = load(str(pooler.config))
        known = config.databases.get(question.database)
        assert database == (known.dbname if known else question.database)
    before = pooler.text().count("re-reading config")
    pooler.signal("SIGHUP")
    assert wait_for(lambda: pooler.text().count("re-reading config") > before, 10)
    if question is not None:
        assert pooler.ask(question, keys)[0] == 42
    assert not pooler.complaints()
    pooler.signal("SIGINT")
    assert pooler.wait_for_exit(10) == 0


def comparable(pooler, rows):
    """Rows without what differs between two processes anyway."""
    text = str(pooler.directory)
    return [
        {
            key: value.replace(text, "<dir>").replace(str(pooler.port), "<port>")
            for key, value in row.items()
            if key not in COUNTS
        }
        for row in rows
    ]


def release_of(program, lab):
    """The release of PgBouncer that a program is, or says it is: "1.25"."""
    done = subprocess.run(
        [*program, "--version"],
        capture_output=True,
        text=True,
        cwd=lab.root,
        **lab.identity.process_options(),
    )
    return re.match(r"PgBouncer (\d+\.\d+)", done.stdout)[1]


@pytest.mark.compat
def test_it_means_the_same_to_a_real_pgbouncer(example, running, lab, postgres):
    try:
        peer = find_real(lab.identity)
    except Unusable as problem:
        pytest.skip(str(problem))
    program, ours = peer.path, release_of(lab.command, lab)
    if peer.line.removeprefix("PgBouncer ").rpartition(".")[0] != ours:
        pytest.skip(f"compares with PgBouncer {ours}, not with {peer}")
    if example.name in OURS_ONLY:
        pytest.skip("has settings that no released PgBouncer knows")
    if not example.has_socket:
        pytest.skip("has no Unix socket, so no console without a password")
    real, ours = running(example, [program]), running(example, lab.command)
    real.start(str(real.config))
    if not real.wait_until_up():
        text = real.text()
        assert "unknown parameter" in text or "unrecognized" in text, text
        pytest.skip(f"{peer} does not know all of its settings")
    ours.run()
    answers = zip(
        COMPARED, ours.console(*COMPARED), real.console(*COMPARED), strict=True
    )
    for command, shown, expected in answers:
        assert comparable(ours, shown) == comparable(real, expected), command
