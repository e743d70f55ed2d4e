"""Our settings for single names: `[pybouncer.databases]` and `[pybouncer.users]`.

A line is `name = setting=value ...`, as in PgBouncer's `[databases]`; `*` stands for
every name, where its own line says nothing. What a user's line says counts before what
the database's says, and both before `[pybouncer]`. Which settings may stand where is
said by `Param.also`.
"""

from dataclasses import dataclass, field
from typing import Final

from bouncer.config.connstr import BadConnstr, pairs
from bouncer.config.ini import Refused
from bouncer.config.params import OURS, PARAMS, ROWS, Param, Value, Where
from bouncer.config.values import BadValue

OWN_DATABASES: Final = "pybouncer.databases"
OWN_USERS: Final = "pybouncer.users"
OWN_SECTIONS: Final = {OWN_DATABASES: Where.DATABASE, OWN_USERS: Where.USER}
EVERY: Final = "*"


@dataclass(frozen=True, slots=True)
class Own:
    """One line: *source* is its `file:line`."""

    name: str
    source: str
    values: dict[str, Value]


@dataclass(frozen=True, slots=True)
class OwnSettings:
    """The lines of both sections, by name."""

    databases: dict[str, Own] = field(default_factory=dict)
    users: dict[str, Own] = field(default_factory=dict)

    def value(self, setting: str, database: str, user: str) -> Value:
        """Return what counts for this database and user; None: what `[pybouncer]` says.

        *user* is whom the pool's servers log in as.
        """
        for lines, name in ((self.users, user), (self.databases, database)):
            for key in (name, EVERY):
                line = lines.get(key)
                if line is not None and setting in line.values:
                    return line.values[setting]
        return None


def settings_of(where: Where) -> dict[str, Param]:
    """Return the settings that may stand in a section."""
    return {
        param.name: param
        for param in ROWS
        if param.section == OURS and param.also & where
    }


def read_own(name: str, text: str, source: str, where: Where) -> Own:
    """Return what the line `name = text` says; raises `Refused`."""
    kind = "database" if where is Where.DATABASE else "user"
    known = settings_of(where)
    values: dict[str, Value] = {}
    try:
        for key, value in pairs(text):
            param = known.get(key)
            if param is None:
                raise Refused(f"unrecognized {kind} parameter: {key}")
            values[key] = read_value(param, value)
    except BadConnstr:
        raise Refused(f"syntax error in {kind} settings") from None
    return Own(name, source, values)


def read_value(param: Param, text: str) -> Value:
    """Return the value that *text* means for *param*; raises `Refused`."""
    try:
        return PARAMS[param.name].parse(text)
    except BadValue as error:
        raise Refused(str(error) or f"invalid {param.name}: {text}") from error
