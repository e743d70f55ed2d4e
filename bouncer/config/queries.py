"""Queries of our own that the configuration names: cut into statements, and doubted.

The one hard idea: PostgreSQL runs the statements of one Query in one transaction, where
DISCARD ALL, VACUUM and their like may not be. So each goes in a Query of its own, cut
where psql would cut: at semicolons outside of strings, comments and parentheses.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from bouncer import log
from bouncer.config.load import make_autodb
from bouncer.config.settings import Configuration, Settings

LONGEST: Final = 506  # bytes that PgBouncer's buffer has for such a query
BETWEEN: Final = b"\0"  # stands between two statements where the relay has them
ANY_NAME: Final = "*"
NO_CHECK: Final = "<empty>"  # server_check_query: just see whether anything comes back

# One token: comments and strings are whole, whatever stands in them. The last two are
# what begins and never ends.
_TOKEN = re.compile(
    r"""(?P<blank> \s+ | --[^\n\r]* )
    | (?P<comment> /\* )
    | (?P<string> [eE]'(?:[^'\\]|\\.|'')*+' | '(?:[^']|'')*+' | "(?:[^"]|"")*+" )
    | (?P<dollar> \$(?:[^\W\d]\w*)?\$ )
    | (?P<word> [^\W\d][\w$]* )
    | (?P<open> ['"] )
    | (?P<other> . )""",
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")
# A function's body in SQL has semicolons of its own, and no quotes around them.
_BODY = re.compile(r"\bbegin\s+atomic\b", re.IGNORECASE)

COMMANDS: Final = frozenset(
    "abort alter analyze begin call checkpoint close cluster comment commit copy create"
    " deallocate declare delete discard do drop end execute explain fetch grant import"
    " insert listen load lock merge move notify prepare reassign refresh reindex"
    " release reset revoke rollback savepoint security select set show start table"
    " truncate unlisten update vacuum values with".split()
)
ALONE: Final = frozenset(
    tuple(both.split())
    for both in (
        "discard all", "alter system", "create database", "drop database",
        "create tablespace", "drop tablespace", "create subscription",
        "drop subscription", "reindex database", "reindex system",
    )
)  # fmt: skip
OPENING: Final = ("begin", "start")
CLOSING: Final = ("commit", "end", "rollback", "abort")


class Statement(NamedTuple):
    """One statement: its text, and its words in lower case (the first few)."""

    text: str
    words: tuple[str, ...]


class Unfinished(ValueError):
    """A string, a comment or a parenthesis has no end."""


def statements(text: str) -> list[Statement]:
    """Cut *text*; what has nothing but blanks and comments is none."""
    found: list[Statement] = []
    words: list[str] = []
    start = at = depth = 0
    empty = True
    while at < len(text):
        token = _TOKEN.match(text, at)
        assert token is not None
        kind, at = token.lastgroup, token.end()
        if kind == "other" and token[0] == ";" and depth == 0:
            if not empty:
                found.append(Statement(text[start : at - 1].strip(), tuple(words)))
            start, empty, words = at, True, []
            continue
        if kind == "comment":
            at = comment_end(text, at)
        elif kind != "blank":
            empty = False
        if kind == "dollar":
            at = text.find(token[0], at) + len(token[0])
            if at < token.end() + len(token[0]):
                raise Unfinished("a string")
        elif kind == "word" and len(words) < 2:
            words.append(token[0].lower())
        elif kind == "open":
            raise Unfinished("a string" if token[0] == "'" else "a quoted name")
        elif kind == "other":
            depth = max(depth + (token[0] == "(") - (token[0] == ")"), 0)
    if depth:
        raise Unfinished("a parenthesis")
    if not empty:
        found.append(Statement(text[start:].strip(), tuple(words)))
    return found


def comment_end(text: str, at: int) -> int:
    """Find the end of the comment that has begun before *at*; they nest."""
    depth = 1
    while depth:
        edge = _COMMENT_EDGE.search(text, at)
        if edge is None:
            raise Unfinished("a comment")
        depth += 1 if edge[0] == "/*" else -1
        at = edge.end()
    return at


def split(text: str) -> list[str]:
    """Return what is sent, a Query each; *text* itself where it is one statement."""
    try:
        parts = [one.text for one in statements(text)]
    except Unfinished:
        return [text]  # PostgreSQL shall say what it is
    if len(parts) < 2 or _BODY.search(text):
        return [text]
    return parts


def split_if_needed(text: str) -> list[str]:
    """Return *text* whole, as PgBouncer sends it, unless PostgreSQL would refuse it."""
    try:
        alone = any(runs_alone(one) for one in statements(text))
    except Unfinished:
        return [text]
    return split(text) if alone else [text]


def runs_alone(statement: Statement) -> bool:
    """Must it not run inside a transaction, of several statements for instance?"""
    words = statement.words
    return words[:1] in (("vacuum",), ("cluster",)) or words in ALONE


def packed(text: str) -> bytes:
    """Return the statements of *text* as the relay wants to have them."""
    return BETWEEN.join(log.encode(part) for part in split(text))


def own(settings: Settings) -> tuple[bytes, bytes]:
    """Return server_reset_query and server_check_query in that way."""
    check = settings.server_check_query
    return (
        packed(settings.server_reset_query),
        b"" if check == NO_CHECK else packed(check),
    )


# What cannot work


class Doubt(NamedTuple):
    """Why a query will not do what is hoped for; *database* "" is the settings' own."""

    setting: str
    database: str
    text: str

    def __str__(self) -> str:
        of = f" of database {self.database}" if self.database else ""
        return f"{self.setting}{of}: {self.text}"


def doubts(configuration: Configuration) -> Iterator[Doubt]:
    """What there is to say about every query of a configuration."""
    settings = configuration.settings
    found = [
        ("server_reset_query", "", settings.server_reset_query),
        ("server_check_query", "", settings.server_check_query),
        ("auth_query", "", settings.auth_query),
    ]
    entries = list(configuration.databases.values())
    autodb = configuration.autodb
    if autodb is not None and "_query" in autodb.text:
        anybody = make_autodb(configuration, ANY_NAME)
        entries += [anybody] if anybody is not None else []
    for entry in entries:
        found.append(("connect_query", entry.name, entry.connect_query or ""))
        found.append(("auth_query", entry.name, entry.auth_query or ""))
    for setting, database, text in found:
        why = why_not(setting, text)
        if why:
            yield Doubt(setting, database, why)


def warn(configuration: Configuration) -> None:
    """Log what `doubts` finds."""
    for doubt in doubts(configuration):
        log.warning(str(doubt))


def why_not(setting: str, text: str) -> str:
    """Say why PostgreSQL will refuse *text*, as far as that can be seen; "" if not."""
    if not text or (setting == "server_check_query" and text == NO_CHECK):
        return ""
    if text[0] in "'\"" and text[-1] == text[0]:
        return "the quotes are part of it, PostgreSQL will refuse it"
    if setting != "auth_query" and len(log.encode(text)) > LONGEST:
        return f"longer than {LONGEST} bytes, it is not sent"
    try:
        parts = statements(text)
    except Unfinished as problem:
        return f"{problem} in it has no end, PostgreSQL will refuse it"
    if setting == "auth_query" and len(parts) > 1:
        return "more than one statement, PostgreSQL will refuse it"
    for part in parts:
        if not part.words or part.words[0] not in COMMANDS:
            return "that is no SQL command, PostgreSQL will refuse it"
    return why_not_together(parts) if not _BODY.search(text) else ""


def why_not_together(parts: list[Statement]) -> str:
    """Say why statements that may be right do not go in this order."""
    inside = False
    for part in parts:
        if part.words[0] in OPENING:
            inside = True
        elif part.words[0] in CLOSING:
            inside = False
        elif inside and runs_alone(part):
            return f"{' '.join(part.words).upper()} cannot run inside a transaction"
    return "it leaves a transaction open" if inside else ""
