"""Users who cannot log in as they should: entries of auth_file, and limits.

The one hard idea: a secret that is none is a password in plain text, and a limit that
is too low a pool that stays small: neither is a mistake to a start. Below a size that
nobody has chosen for this user, a limit is meant.
"""

from collections.abc import Iterator
from typing import Final

from bouncer.check.advice import about, about_line, is_set
from bouncer.check.findings import WARNING, Finding
from bouncer.check.reading import Reading
from bouncer.check.spelling import NOT_REPLACED, placeholder, secret_doubt
from bouncer.config.settings import Database, Settings, UserOptions

# Ways to log in that look a user up in auth_file.
LISTED: Final = ("md5", "plain", "password", "trust", "scram-sha-256", "cert")
BY_PASSWORD: Final = ("md5", "plain", "password", "scram-sha-256")
# Users of whom the same is told one by one.
ENOUGH: Final = 5


def users(reading: Reading) -> Iterator[Finding]:
    """Every rule about users."""
    if reading.userlist is not None:
        yield from nobody(reading)
        yield from entries(reading)
    yield from limits(reading)


def a_few(names: list[str]) -> str:
    """Return some of *names* for a text."""
    more = len(names) - ENOUGH
    shown = ", ".join(names[:ENOUGH])
    return f"{shown} and {more} more" if more > 0 else shown


# auth_file


def methods(reading: Reading) -> set[str]:
    """Return the ways to log in that are in use."""
    if reading.hba is not None:
        return {line.method for line in reading.hba.lines}
    return {reading.config.settings.auth_type}


def has_lookup(reading: Reading) -> bool:
    """Whether users are also looked up by auth_query."""
    config = reading.config
    star = config.autodb.text if config.autodb else ""
    return bool(
        config.settings.auth_user
        or any(database.auth_user for database in config.databases.values())
        or "auth_user=" in star.replace(" ", "")
    )


def nobody(reading: Reading) -> Iterator[Finding]:
    """A list of users without a user."""
    userlist = reading.userlist
    assert userlist is not None
    if userlist.secrets or userlist.problem or has_lookup(reading):
        return
    if methods(reading) & {*LISTED}:
        text = "there is no user in it: nobody can log in"
        yield about(reading, "auth_file", text, 'an entry is "name" "secret"')


def entries(reading: Reading) -> Iterator[Finding]:
    """Entries that are hardly what they were meant to be."""
    userlist, path = reading.userlist, reading.config.settings.auth_file or ""
    assert userlist is not None
    doubts: dict[str, list[str]] = {}
    for name, secret in userlist.secrets.items():
        if found := placeholder(name):
            doubts.setdefault(f'"{found}" in a name: {NOT_REPLACED}', []).append(name)
        if doubt := secret_doubt(secret):
            doubts.setdefault(doubt, []).append(name)
    for text, names in doubts.items():
        for name in names[:ENOUGH]:
            yield Finding(WARNING, text, path, userlist.lines[name], name)
        if len(names) > ENOUGH:
            rest = a_few(names[ENOUGH:])
            yield Finding(WARNING, text, path, userlist.lines[names[ENOUGH]], rest)
    for name, line in userlist.repeated.items():
        text = "the user is given twice, the last entry counts"
        yield Finding(WARNING, text, path, line, name)
    empty = [name for name, secret in userlist.secrets.items() if not secret]
    used = methods(reading)
    if empty and used <= {*BY_PASSWORD, "reject"}:
        text = f"an empty secret lets nobody in: {a_few(empty)}"
        yield Finding(WARNING, text, path, userlist.lines[empty[0]])


# Limits


def limits(reading: Reading) -> Iterator[Finding]:
    """Limits of users that keep their pools smaller than they should be."""
    config, s = reading.config, reading.config.settings
    if 0 < s.max_user_connections < s.default_pool_size:
        text = f"{s.max_user_connections} keeps each user below default_pool_size = "
        yield about(reading, "max_user_connections", f"{text}{s.default_pool_size}")
    chosen = s.default_pool_size if is_set(reading, "default_pool_size") else 0
    for user in config.users.values():
        forced = [one for one in config.databases.values() if one.user == user.name]
        yield from own_limits(user, forced, s, chosen)
        others = [one for one in config.databases.values() if one.user is None]
        least = max((least_size(one, s) for one in others), default=0)
        held = max(sum(least_size(one, s) for one in forced), least)
        limit = user.max_user_connections or s.max_user_connections
        yield from warm(user.name, limit, held, user.source)
    for name in {one.user for one in config.databases.values() if one.user}:
        if name not in config.users:
            forced = [one for one in config.databases.values() if one.user == name]
            held = sum(least_size(one, s) for one in forced)
            yield from warm(name, s.max_user_connections, held, forced[0].source)


def least_size(database: Database, settings: Settings) -> int:
    """Return how many connections a pool of *database* keeps."""
    own = database.min_pool_size
    return max(settings.min_pool_size if own is None else own, 0)


def own_limits(
    user: UserOptions, forced: list[Database], settings: Settings, chosen: int
) -> Iterator[Finding]:
    """The same of one line of `[users]`.

    *forced* are the databases that it serves, *chosen* is the size of a pool that the
    file gives for all.
    """
    limit, name = user.max_user_connections, user.name
    size = user.pool_size
    if size is None:
        sizes = [chosen if one.pool_size is None else one.pool_size for one in forced]
        size = max(sizes, default=0)
    if limit and size > limit:
        text = f"max_user_connections = {limit} keeps it below its pool's size, {size}"
        yield about_line(user.source, name, text)
    clients = user.max_user_client_connections or settings.max_user_client_connections
    if user.pool_size and 0 < clients < user.pool_size:
        text = f"max_user_client_connections = {clients} never fill its pool of "
        yield about_line(user.source, name, f"{text}{user.pool_size}")


def warm(name: str, limit: int, held: int, source: str) -> Iterator[Finding]:
    """Pools of a user that hold together more than it may have."""
    if 0 < limit < held:
        text = f"max_user_connections = {limit} is below the {held} connections that "
        yield about_line(source, name, f"{text}min_pool_size keeps")
