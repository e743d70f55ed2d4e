"""What a text sets, and what it lets go back to its default, as far as it can be read.

PostgreSQL tells of a parameter that has changed, not of why; and nothing at all where
the default is what the session had. Only the text says which of the two was asked for.
It is cut into words as SQL is, never parsed: a RESET in a string is none, and one that
a function makes is not seen.
"""

import re
from typing import NamedTuple

_WORD = re.compile(
    rb"(?P<blank>[ \t\n\r\f\v]++|--[^\n\r]*+)"
    rb"|(?P<comment>/\*)"
    rb"|(?P<string>[eE]'(?:[^'\\]|\\.|'')*+(?:'|\Z)|'(?:[^']|'')*+(?:'|\Z))"
    rb'|"(?P<quoted>(?:[^"]|"")*+)(?:"|\Z)'
    rb"|(?P<dollar>\$(?:[A-Za-z_\x80-\xff][\w\x80-\xff]*+)?\$)"
    rb"|(?P<bare>[A-Za-z_\x80-\xff][\w$\x80-\xff]*+)"
    rb"|(?P<sign>::|.)",
    re.DOTALL,
)
_COMMENT = re.compile(rb"/\*|\*/")
_YES = frozenset((b"true", b"'t'", b"'true'", b"'on'", b"'yes'", b"'1'", b"'y'"))
_HINT = re.compile(rb"\b(?:reset|discard|default|set_config)", re.IGNORECASE)
_ENDS = (b"commit", b"end", b"rollback", b"abort")
MOST_NAMED = 200  # what one unit of requests may set and reset, to be looked at
# Names of parameters that SQL writes in two words.
_TWO_WORDS = {
    (b"time", b"zone"): b"timezone",
    (b"session", b"authorization"): b"session_authorization",
    (b"session", b"characteristics"): b"default_transaction_read_only",
}


class Change(NamedTuple):
    """What a statement does to one parameter."""

    name: bytes  # in small letters; ALL, or ANY
    is_reset: bool  # it is not set to a value
    is_local: bool  # ... up to the end of the transaction
    is_committed: bool = False  # a ROLLBACK behind it undoes it no more

    def speaks_of(self, name: bytes) -> bool:
        """Is the parameter *name* meant? RESET ALL leaves one of those alone."""
        return self.name in (name, ALL) and (
            self.name != ALL or name != b"session_authorization"
        )


ALL = b""
ANY = b"?"  # nobody knows which, or whether any


class _Mark(NamedTuple):
    """A place that a ROLLBACK goes back to: a savepoint, or b"" behind a transaction.

    BEGIN is none: with it what stands before in the same Query, or before the same
    Sync, becomes part of the block.
    """

    name: bytes


def _behind_comment(text: bytes, at: int) -> int:
    """Where a comment ends that begins at *at*; they may be nested."""
    depth = 0
    for found in _COMMENT.finditer(text, at):
        depth += 1 if found.group() == b"/*" else -1
        if depth == 0:
            return found.end()
    return len(text)


def statements(text: bytes) -> list[list[bytes]]:
    """The words of each statement: in small letters, strings in their quotes."""
    found: list[list[bytes]] = [[]]
    at = depth = 0
    while at < len(text) and (one := _WORD.match(text, at)):
        at = one.end()
        kind, word = one.lastgroup, one.group()
        if kind == "comment":
            at = _behind_comment(text, one.start())
        elif kind == "dollar":
            end = text.find(word, at)
            at = len(text) if end < 0 else end + len(word)
            found[-1].append(b"'" + text[one.end() : end] + b"'")
        elif kind == "quoted":
            found[-1].append(one["quoted"].replace(b'""', b'"').lower())
        elif kind == "sign" and word == b";" and depth == 0:
            found.append([])
        elif kind != "blank":
            depth += (word == b"(") - (word == b")" and depth > 0)
            found[-1].append(word.lower().removeprefix(b"e") if kind == "string"
                             else word.lower())  # fmt: skip
    return [words for words in found if words]


def _named(words: list[bytes]) -> tuple[bytes, list[bytes]]:
    """The parameter at the begin of *words*, and what stands behind it."""
    if len(words) > 1 and (words[0], words[1]) in _TWO_WORDS:
        return _TWO_WORDS[words[0], words[1]], words[2:]
    end = 1
    while words[end : end + 1] == [b"."] and len(words) > end + 1:
        end += 2
    return b"".join(words[:end]), words[end:]


def _of_set(words: list[bytes]) -> Change | None:
    is_local = words[:1] == [b"local"]
    if is_local or (
        words[:1] == [b"session"]
        and words[1:2] not in ([b"authorization"], [b"characteristics"])
    ):
        words = words[1:]
    if words[:1] == [b"names"]:
        return Change(b"client_encoding", words[1:] in ([], [b"default"]), is_local)
    name, value = _named(words)
    if value[:1] in ([b"to"], [b"="]):
        value = value[1:]
    is_reset = value == [b"default"] or (name == b"timezone" and value == [b"local"])
    return Change(name, is_reset, is_local) if name and value else None


def _of_set_config(words: list[bytes]) -> list[Change]:
    """What calls of set_config() do; one that computes its name may do anything."""
    found = []
    for place, word in enumerate(words):
        if word != b"set_config" or words[place + 1 : place + 2] != [b"("]:
            continue
        name = words[place + 2] if place + 2 < len(words) else b""
        rest = words[place + 3 :]
        if not name.startswith(b"'") or rest[:1] != [b","]:
            found.append(Change(ANY, True, False))
            continue
        where = rest.index(b",", 1) if b"," in rest[1:] else len(rest)
        is_null = rest[1:2] == [b"null"]
        is_local = where + 1 < len(rest) and rest[where + 1] in _YES
        found.append(Change(name.strip(b"'"), is_null, is_local))
    return found


def _changes(words: list[bytes]) -> list[Change]:
    """What one statement does; not of those that begin or end transactions."""
    first, rest = words[0], words[1:]
    if first == b"discard" and rest == [b"all"]:
        return [Change(ALL, True, False),
                Change(b"session_authorization", True, False)]  # fmt: skip
    if first == b"reset" and rest:
        name = _named(rest)[0]
        return [Change(ALL if name == b"all" else name, True, False)]
    if first == b"set":
        one = _of_set(rest)
        return [] if one is None else [one]
    if first == b"do":
        hint = any(_HINT.search(word) for word in rest)
        return [Change(ANY, True, False)] if hint else []
    return _of_set_config(words) if b"set_config" in words else []


def _back_to(done: list[Change | _Mark], name: bytes) -> None:
    """Forget what was done behind the latest mark *name*, or everything."""
    for place in range(len(done) - 1, -1, -1):
        if done[place] == _Mark(name):
            del done[place + 1 :]
            return
    done.clear()


def _end(done: list[Change | _Mark], words: list[bytes]) -> None:
    """A COMMIT or ROLLBACK; in the tables of PostgreSQL's words END and ABORT, too."""
    if words[0] in (b"rollback", b"abort"):
        names = [word for word in words[1:] if word not in
                 (b"work", b"transaction", b"savepoint", b"to")]  # fmt: skip
        _back_to(done, names[0] if b"to" in words and names else b"")
    else:
        _commit(done)


def _commit(done: list[Change | _Mark]) -> None:
    done[:] = [
        one._replace(is_committed=True)
        for one in done
        if isinstance(one, Change) and not one.is_local
    ]
    done.append(_Mark(b""))


class Text(NamedTuple):
    """What is run; a Query outside of a block ends its own transaction."""

    text: bytes
    is_query: bool


def changes(texts: list[Text], in_block: bool = False) -> list[Change]:
    """What is left of what *texts* do, run one behind the other without an error.

    *in_block*: a transaction block is open before them.
    """
    done: list[Change | _Mark] = []
    for text, is_query in texts:
        for words in statements(text):
            if words[0] in (b"begin", b"start"):
                in_block = True
            elif words[0] in _ENDS and not {b"to", b"prepared"} & {*words}:
                in_block = b"chain" in words and b"no" not in words
            if words[0] == b"savepoint" and len(words) > 1:
                done.append(_Mark(words[1]))
            elif words[0] in _ENDS:
                if b"prepared" not in words:
                    _end(done, words)
            else:
                done += _changes(words)
            if len(done) > MOST_NAMED:
                return [Change(ANY, True, False)]
        if is_query and not in_block:
            _commit(done)
    return [one for one in done if isinstance(one, Change)]


def verdict(done: list[Change], name: bytes) -> Change | None:
    """The last word on the parameter *name* (small letters); None where there is none.

    One of ANY says that it may be reset.
    """
    for one in reversed(done):
        if one.speaks_of(name):
            return one
    return next((one for one in done if one.name == ANY), None)
