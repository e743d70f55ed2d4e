"""What the original made of each recorded configuration, at the level of `load`.

Whole programs are compared by tests/compat; this needs no process, so it says in
milliseconds whether a change of the loader changed what a file means.
"""

import json
import os
import re
import time
from pathlib import Path

import pytest

from bouncer.config.hba import HbaRules
from bouncer.config.ident import IdentMaps
from bouncer.config.load import load
from bouncer.config.settings import config_rows
from bouncer.config.userlist import UserListFile
from bouncer.errors import ConfigError

RECORDINGS = Path(__file__).resolve().parents[2] / "recordings"
CASES = {
    (suite, name): case
    for suite in ("ini", "ini_restart_1_25")
    for name, case in json.loads((RECORDINGS / suite / "expected.json").read_text())[
        "cases"
    ].items()
}
IDS = ["-".join(key) for key in CASES]

# Lines of the recordings that come from reading files.
OURS = re.compile(
    "|".join(
        [
            "ERROR could not load file",
            "ERROR (load_init_file|fill_defaults)",
            "ERROR (syntax error|unrecognized|unknown parameter|invalid section)",
            "ERROR invalid (value|port|pool mode|load_balance_hosts)",
            "ERROR (include nesting|error processing include)",
            "ERROR (cannot use the reserved|database name|cannot create database)",
            "ERROR (ids of peers|host was not provided)",
            "ERROR could not open (auth_file|hba|ident)",
            "ERROR (broken auth file|username too long|password too long)",
            "WARNING (too long db name|losing forced user)",
            "WARNING (hba|ident) line",
            "WARNING could not parse (hba|ident)",
            "WARNING (samerole|samegroup|address does not match)",
        ]
    )
)


class Reader:
    """Reads configurations as the program does at the start and on RELOAD."""

    def __init__(self, source, directory):
        self.source, self.directory = source, directory
        self.config, self.userlist = None, None
        self.secrets, self.known = {}, {"pgbouncer"}
        self.forced = {}

    def fill(self, text):
        for name, value in (
            ("DIR", self.directory),
            ("PORT", 6543),
            ("OSUSER", "root"),
        ):
            text = text.replace(f"@{name}@", str(value))
        return text

    def install(self, source, keep_mtime=False, later=0):
        for path in sorted(source.rglob("*")):
            relative = path.relative_to(source)
            if not path.is_file() or (
                not later and relative.parts[0].startswith("step")
            ):
                continue
            target = self.directory / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            before = target.stat() if target.exists() else None
            text = path.read_bytes().decode("utf-8", "surrogateescape")
            target.write_bytes(self.fill(text).encode("utf-8", "surrogateescape"))
            if keep_mtime and before:
                os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
            elif later:
                os.utime(target, (time.time() + 10 * later,) * 2)

    def load(self):
        """Whether it went well."""
        path = self.config.settings.conffile if self.config else "pgbouncer.ini"
        try:
            self.config = load(path, self.config)
        except ConfigError:
            return False
        finally:
            if self.config is not None:
                self.read_the_rest()
        return True

    def read_the_rest(self):
        settings = self.config.settings
        self.known |= set(self.config.users)
        # There, another forced user than the first of a database never gets a row.
        for database in self.config.databases.values():
            if database.user:
                self.forced.setdefault(database.name, database.user)
            if database.auth_user:
                self.known.add(database.auth_user)
        self.known |= set(self.forced.values())
        if settings.auth_file is not None and settings.auth_type not in ("any", "pam"):
            if self.userlist is None or self.userlist.path != settings.auth_file:
                self.userlist = UserListFile(settings.auth_file)
            found = self.userlist.reread_if_changed()
            self.secrets = self.secrets if found is None else found
            self.known |= set(self.secrets)
        if settings.auth_type == "hba":
            HbaRules.read(
                settings.auth_hba_file, IdentMaps.read(settings.auth_ident_file)
            )


def shown_settings(config):
    return {
        key: value
        for key, value, default, _ in config_rows(config.settings, config.sources)
        if value != default
    }  # fmt: skip


def shown_databases(config):
    """The columns of SHOW DATABASES that say something about the configuration."""
    settings = config.settings

    def either(own, default):
        return str(int(default if own is None else own))

    for name in sorted(config.databases, key=os.fsencode):
        db = config.databases[name]
        several = "," in (db.host or "")
        yield {
            "name": name,
            "host": db.host,
            "port": str(db.port),
            "database": db.dbname,
            "force_user": db.user,
            "pool_size": either(db.pool_size, settings.default_pool_size),
            "min_pool_size": either(db.min_pool_size, settings.min_pool_size),
            "reserve_pool_size": either(
                db.reserve_pool_size, settings.reserve_pool_size
            ),
            "server_lifetime": either(db.server_lifetime, settings.server_lifetime),
            "pool_mode": db.pool_mode,
            "load_balance_hosts": db.load_balance_hosts if several else None,
            "max_connections": either(
                db.max_db_connections, settings.max_db_connections
            ),
            "max_client_connections": either(
                db.max_db_client_connections, settings.max_db_client_connections
            ),
        }


def shown_users(reader):
    """The same of SHOW USERS."""
    settings = reader.config.settings
    for name in sorted(reader.known, key=os.fsencode):
        user = reader.config.users.get(name)
        sizes = {"pool_size": "", "reserve_pool_size": ""}
        for size in sizes:
            if user is not None and getattr(user, size) is not None:
                sizes[size] = f"{getattr(user, size):9}"
        yield {
            "name": name,
            **sizes,
            "pool_mode": user and user.pool_mode,
            "max_user_connections": str(
                (user and user.max_user_connections) or settings.max_user_connections
            ),
            "max_user_client_connections": str(
                (user and user.max_user_client_connections)
                or settings.max_user_client_connections
            ),
        }


def shown_peers(config):
    for number in sorted(config.peers):
        peer = config.peers[number]
        size = peer.pool_size
        yield {
            "peer_id": str(number),
            "host": peer.host,
            "port": str(peer.port),
            "pool_size": str(
                config.settings.default_pool_size if size is None else size
            ),
        }


def compare_rows(recorded, rows, reader):
    rows = list(rows)
    recorded = [
        {key: reader.fill(value) if value else value for key, value in row.items()}
        for row in recorded
    ]
    recorded = [
        row
        for row in recorded
        if (row.get("name"), row.get("port")) != ("pgbouncer", "6543")
    ]
    recorded.sort(key=lambda row: os.fsencode(row.get("name", "")))
    kept = rows[0].keys() if rows else ()
    assert rows == [{key: row[key] for key in kept} for row in recorded]


def compare_show(recorded, reader):
    wanted = {key: reader.fill(value) for key, value in recorded["config"].items()}
    assert shown_settings(reader.config) == wanted
    compare_rows(recorded["databases"], shown_databases(reader.config), reader)
    compare_rows(recorded["users"], shown_users(reader), reader)
    compare_rows(recorded["peers"], shown_peers(reader.config), reader)


def lines_about_files(recorded, reader):
    return [reader.fill(line) for line in recorded if OURS.match(line)]


def tidy(lines):
    """As the log writes them: what follows a newline stands on a line of its own."""
    return "\n".join(line.replace("\n", "\n\t") for line in lines).split("\n")


@pytest.mark.parametrize(("suite", "name"), CASES, ids=IDS)
def test_configuration_is_read_as_recorded(suite, name, here, logged):
    case = CASES[suite, name]
    reader = Reader(RECORDINGS / suite / name, here)
    reader.install(reader.source)
    loaded = reader.load()
    assert tidy(logged) == tidy(lines_about_files(case["log"], reader))
    assert loaded == ("FATAL cannot load config file" not in case["log"])
    if "show" in case:
        compare_show(case["show"], reader)
    for number, step in enumerate(case.get("steps", []), 1):
        if step["op"] == "reload":
            check_reload(reader, number, step, logged)


def check_reload(reader, number, step, logged):
    """A failed reload changes nothing: there we differ from the original."""
    if "files" in step:
        reader.install(
            reader.source / step["files"], step.get("keep_mtime", False), number
        )
    for gone in step.get("remove", []):
        (reader.directory / gone).unlink()
    logged.clear()
    before = reader.config
    loaded = reader.load()
    wanted = lines_about_files(step["log"], reader)
    assert tidy(logged) == tidy(wanted)
    if loaded:
        if "show" in step:
            compare_show(step["show"], reader)
    else:
        assert "WARNING config file loading failed" in step["log"]
        assert reader.config is before
